/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * main.c - the order of things
 *
 * Everything that can fail for lack of privilege comes before the first thread, the sandbox after the last
 * file has been opened, the threads before seccomp (they make what the filter will forbid), and the ready
 * byte last.
 */
#include "api/server.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "cli/namespace.h"
#include "cli/options.h"
#include "cli/sandbox.h"
#include "cli/seccomp.h"
#include "cli/target.h"
#include "fwd/forward.h"
#include "slirp/engine.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/signalfd.h>

enum {
    TARGET_POLL_MS = 1000
}; /* how often to look for others in the namespace once the target process has ended */

struct program {
    struct options options;
    struct engine *engine;
    struct forwards *forwards;
    struct api_server *api;
    struct api_context api_context;
    struct target_watch target;
    int signal_fd;
};

/* ---- hooks between the layers ---- */

static int hook_adopt(void *arg, int conn_fd, const union address *guest)
{
    struct program *p = arg;

    return engine_adopt(p->engine, conn_fd, guest);
}

static int hook_udp_add(void *arg, const union address *host, bool v6_only, const union address *guest,
                        void **ret, struct failure *why)
{
    struct program *p = arg;
    struct udp_forward *handle = NULL;
    int r;

    world_stop(p->engine);
    r = engine_udp_forward_add(p->engine, host, v6_only, guest, &handle, why);
    world_resume(p->engine);
    *ret = handle;
    return r;
}

static void hook_udp_remove(void *arg, void *handle)
{
    struct program *p = arg;

    world_stop(p->engine);
    engine_udp_forward_remove(p->engine, handle);
    world_resume(p->engine);
}

static void hook_udp_stats(void *arg, void *handle, uint64_t *n_clients, uint64_t *to_guest,
                           uint64_t *to_host)
{
    struct udp_forward_stats stats;

    (void)arg;
    engine_udp_forward_stats(handle, &stats);
    *n_clients = stats.n_clients;
    *to_guest = stats.bytes_to_guest;
    *to_host = stats.bytes_to_host;
}

/* ---- start ---- */

/* More connections than the usual soft limit of 1024 allows; the hard limit is the administrator's word. */
static void raise_descriptor_limit(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur >= limit.rlim_max)
        return;
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
        log_warning("cannot raise the soft limit of open descriptors: %m");
}

/* SIGTERM, SIGINT and SIGHUP are read from a descriptor; they end the program as they always did, but
 * orderly. */
static int signals_open(struct failure *why)
{
    sigset_t set;
    int fd;

    signal(SIGPIPE, SIG_IGN);
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    if (sigprocmask(SIG_BLOCK, &set, NULL) < 0 || (fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK)) < 0)
        return failure(why, -errno, NULL, "signalfd");
    return fd;
}

static int engine_open(struct program *p, struct guest_link *link, struct failure *why)
{
    const struct options *o = &p->options;
    struct engine_config config = {
        .tap_fd = link->fd,
        .is_socket = link->is_socket,
        .mtu = o->mtu,
        .network = o->network,
        .netmask = o->netmask,
        .gateway = o->gateway,
        .dns = o->dns,
        .dhcp_start = o->dhcp_start,
        .guest = o->guest,
        .ipv6 = o->ipv6,
        .disable_host_loopback = o->disable_host_loopback,
        .disable_dns = o->disable_dns,
        .has_outbound = o->has_outbound,
        .has_outbound6 = o->has_outbound6,
        .outbound = o->outbound,
        .outbound6 = o->outbound6,
        .backend = o->backend,
        .mode = o->mode,
    };
    struct forward_hooks hooks = {
        .arg = p,
        .adopt = hook_adopt,
        .udp_add = hook_udp_add,
        .udp_remove = hook_udp_remove,
        .udp_stats = hook_udp_stats,
    };
    int r = engine_new(&p->engine, &config, why);

    if (r < 0)
        return r;
    link->fd = -1; /* the engine's now */
    return o->api_socket ? forwards_new(&p->forwards, &hooks, why) : 0;
}

static int api_open(struct program *p, struct failure *why)
{
    if (!p->options.api_socket)
        return 0;
    p->api_context = (struct api_context){
        .forwards = p->forwards,
        .guest = p->options.guest,
        .backend = engine_backend_name(p->engine),
        .mode = engine_mode_name(p->engine),
    };
    return api_server_new(&p->api, p->options.api_socket, &p->api_context, why);
}

static int threads_start(struct program *p, struct failure *why)
{
    int r = engine_start(p->engine, why);

    if (r == 0 && p->forwards)
        r = forwards_start(p->forwards, why);
    if (r == 0 && p->api)
        r = api_server_start(p->api, why);
    return r;
}

/* A descriptor that cannot be written is the client's affair: it will see its end close. */
static void report_ready(int fd)
{
    if (fd < 0)
        return;
    if (write(fd, "1", 1) != 1)
        log_warning("cannot write to --ready-fd=%d: %m", fd);
    close(fd);
}

static int start(struct program *p, struct failure *why)
{
    struct guest_link link = GUEST_LINK_NULL;
    const struct options *o = &p->options;
    int r = guest_link_open(&link, o, why);

    if (r < 0) {
        char text[512];

        if (o->target == TARGET_PID ||
            o->target == TARGET_PATH) { /* the step that clients know as a child process */
            fprintf(stderr, "%s\n", failure_text(why, text, sizeof(text)));
            failure(why, 1, NULL, "child failed(1)");
        }
        return r;
    }
    if (o->target == TARGET_PID)
        target_watch_init(&p->target, o->pid);
    options_print_banner(o);
    if (o->sandbox && (r = sandbox_join(o, why)) < 0)
        return r;
    r = engine_open(p, &link, why);
    if (r < 0) {
        closep(&link.fd);
        return r;
    }
    printf("* %-17s %s, %s threads\n", "Data plane:", engine_backend_name(p->engine),
           engine_mode_name(p->engine));
    if ((r = api_open(p, why)) < 0 || (o->sandbox && (r = sandbox_enter(why)) < 0) ||
        (r = threads_start(p, why)) < 0 || (o->seccomp && (r = seccomp_enter(why)) < 0))
        return r;
    fflush(stdout);
    report_ready(o->ready_fd);
    return 0;
}

/* ---- run ---- */

static const char *gone_text(int error)
{
    return error == -ENODEV ? "the TAP interface was deleted, or the other end of its descriptor closed"
                            : strerror(-error);
}

/* Returns the exit status, or 128 + a signal's number to die from. */
static int supervise(struct program *p)
{
    enum { SIGNAL, EXIT, GONE, TARGET };
    struct pollfd fds[] = {
        [SIGNAL] = {.fd = p->signal_fd, .events = POLLIN},
        /* Only the end of the other side counts (POLLHUP), or that there is no such descriptor (POLLNVAL). */
        [EXIT] = {.fd = p->options.exit_fd, .events = 0},
        [GONE] = {.fd = engine_gone_fd(p->engine), .events = POLLIN},
        [TARGET] = {.fd = p->target.pid_fd, .events = POLLIN},
    };
    bool target_ended = false;

    for (;;) {
        struct signalfd_siginfo info;

        if (poll(fds, sizeof(fds) / sizeof(fds[0]), target_ended ? TARGET_POLL_MS : -1) < 0 &&
            errno != EINTR) {
            log_error("poll: %m");
            return EXIT_FAILURE;
        }
        if (fds[SIGNAL].revents && read(p->signal_fd, &info, sizeof(info)) == sizeof(info))
            return 128 + (int)info.ssi_signo;
        if (fds[EXIT].revents) {
            log_info("exitfd event");
            return EXIT_SUCCESS;
        }
        if (fds[GONE].revents) {
            log_error("the data plane has ended: %s", gone_text(engine_gone(p->engine)));
            return EXIT_FAILURE;
        }
        if (fds[TARGET].revents || target_ended) {
            fds[TARGET].fd = -1;
            target_ended = true;
            if (!target_watch_in_use(&p->target)) {
                log_info("process %d has ended and nobody is left in its network namespace", p->options.pid);
                return EXIT_SUCCESS;
            }
        }
    }
}

static void stop(struct program *p)
{
    if (p->api)
        api_server_stop(p->api);
    if (p->forwards)
        forwards_stop(p->forwards);
    if (p->engine)
        engine_stop(p->engine);
    p->api = api_server_free(p->api);
    p->forwards = forwards_free(p->forwards);
    p->engine = engine_free(p->engine);
    target_watch_deinit(&p->target);
    closep(&p->signal_fd);
}

/* Ends as if the signal had not been caught: whoever waits sees what it expects. */
static void die_from(int number)
{
    sigset_t set;

    fflush(NULL);
    signal(number, SIG_DFL);
    sigemptyset(&set);
    sigaddset(&set, number);
    raise(number);
    sigprocmask(SIG_UNBLOCK, &set, NULL);
}

int main(int argc, char **argv)
{
    struct program p = {.target = TARGET_WATCH_NULL, .signal_fd = -1};
    struct failure why = FAILURE_NULL;
    char text[512];
    int status = options_parse(&p.options, argc, argv);

    if (status >= 0)
        return status;
    role_enter(&role_main);
    raise_descriptor_limit();
    p.signal_fd = signals_open(&why);
    if (p.signal_fd < 0 || start(&p, &why) < 0) {
        fprintf(stderr, "%s\n", failure_text(&why, text, sizeof(text)));
        status = EXIT_FAILURE;
    } else {
        status = supervise(&p);
        log_info("do_slirp is exiting");
    }
    stop(&p);
    role_leave(&role_main);
    if (status > 128)
        die_from(status - 128);
    return status;
}
