/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * main.c - the order of things
 *
 * Everything that can fail for lack of privilege comes before the first thread, the sandbox after the last
 * file has been opened; then each thread gives up what it does not need, main last, and the ready byte comes
 * after that. The nsagent makes itself ready beside all that, and is waited for when nothing else is left.
 */
#include "api/server.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/thread.h"
#include "cli/check.h"
#include "cli/confine.h"
#include "cli/ctl.h"
#include "cli/namespace.h"
#include "cli/options.h"
#include "cli/run.h"
#include "cli/sandbox.h"
#include "cli/target.h"
#include "fwd/agent.h"
#include "fwd/divert.h"
#include "fwd/forward.h"
#include "fwd/worker.h"
#include "io/capture.h"
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
    struct agent *agent;     /* NULL: there is no process for splicing */
    struct workers *workers; /* NULL: nobody needs them */
    struct forwards *forwards;
    struct divert *divert; /* NULL: outbound connections are not to be diverted */
    struct api_server *api;
    struct capture *capture; /* NULL: no --pcap */
    struct api_context api_context;
    struct target_watch target;
    struct run run;
    int signal_fd;
    char no_splice_why[FAILURE_TEXT_SIZE]; /* for people; "": splice is there */
    bool spliced, diverted;                /* agent_finish(): the agent is there, and can divert */
    bool exit_fd_closed; /* --exit-fd named no open descriptor at the start: end once ready */
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

static void hook_send(void *arg, const void *frame, uint32_t size)
{
    struct program *p = arg;

    engine_send_now(p->engine, frame, size);
}

static void hook_inject(void *arg, const void *frame, uint32_t size)
{
    struct program *p = arg;

    engine_inject(p->engine, frame, size);
}

static bool hook_take_tcp(void *arg, const struct packet *packet)
{
    struct program *p = arg;

    role_assert(&role_slirp);
    return divert_take(p->divert, packet);
}

static void hook_closed(void *arg, const struct flow_info *info, bool reset)
{
    struct program *p = arg;

    capture_flow(p->capture, info, reset);
}

static char *hook_slirp_info(void *arg)
{
    struct program *p = arg;
    char *info;

    world_stop(p->engine);
    info = engine_slirp_info(p->engine);
    world_resume(p->engine);
    return info;
}

static int hook_list_workers(void *arg, uint64_t from, struct flow_info *rows, uint32_t max,
                             uint64_t *ret_next)
{
    struct program *p = arg;

    role_assert(&role_api);
    return workers_list_flows(p->workers, from, rows, max, ret_next);
}

static int hook_list_udp(void *arg, uint64_t from, struct flow_info *rows, uint32_t max, uint64_t *ret_next)
{
    struct program *p = arg;
    int n;

    world_stop(p->engine);
    n = engine_list_udp(p->engine, from, rows, max, ret_next);
    world_resume(p->engine);
    return n;
}

static int hook_list_flows(void *arg, uint64_t from, struct flow_info *rows, uint32_t max, uint64_t *ret_next)
{
    struct program *p = arg;
    int n;

    if (!engine_is_shared(p->engine))
        return engine_list_flows(p->engine, from, rows, max, ret_next);
    world_stop(p->engine);
    n = engine_list_flows(p->engine, from, rows, max, ret_next);
    world_resume(p->engine);
    return n;
}

static int hook_list_slirp(void *arg, uint64_t from, struct flow_info *rows, uint32_t max, uint64_t *ret_next)
{
    struct program *p = arg;
    int n;

    world_stop(p->engine);
    n = engine_list_slirp(p->engine, from, rows, max, ret_next);
    world_resume(p->engine);
    return n;
}

/* The first worker on the slirp thread's loop, where CPUs are few. */

static void hook_event(void *arg, uint64_t tag, uint32_t events)
{
    struct program *p = arg;

    role_assert(&role_fwd);
    workers_event(p->workers, tag, events);
}

static int hook_turn(void *arg)
{
    struct program *p = arg;

    role_assert(&role_fwd);
    return workers_turn(p->workers);
}

static bool hook_wanted(void *arg)
{
    struct program *p = arg;

    return workers_wanted(p->workers);
}

static void hook_prepare(void *arg)
{
    struct program *p = arg;

    workers_prepare(p->workers);
}

static void hook_cancel(void *arg)
{
    struct program *p = arg;

    workers_cancel(p->workers);
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
static int signals_open(bool run, struct failure *why)
{
    sigset_t set;
    int fd;

    signal(SIGPIPE, SIG_IGN);
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    if (run)
        run_signals(&set);
    if (sigprocmask(SIG_BLOCK, &set, NULL) < 0 || (fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK)) < 0)
        return failure(why, -errno, NULL, "signalfd");
    return fd;
}

static bool wants_forwards(const struct options *o)
{
    return o->api_socket || o->n_publish > 0;
}

static bool has_namespace(const struct options *o)
{
    return o->target == TARGET_PID || o->target == TARGET_PATH;
}

/* What can be said before anything is made. */
static int check_divert(const struct options *o, struct failure *why)
{
    if (o->divert != DIVERT_ON)
        return 0;
    if (!has_namespace(o))
        return failure(why, -ENOTSUP, "give a PID or the path of a namespace",
                       "--divert=on without a namespace to enter");
    return o->no_splice
               ? failure(why, -EINVAL, "leave one of them out", "--divert=on together with --no-splice")
               : 0;
}

/* The agent is what splicing needs; without it everything goes through libslirp, and the reason is said. A
 * failure is one only with --divert=on. */
static int agent_begin(struct program *p, struct guest_opening *opening, struct failure *ret_why)
{
    const struct options *o = &p->options;
    struct failure why = FAILURE_NULL;
    struct agent_config config = {
        .mark = 0x534c0000, /* "SL" */
        .mark_mask = 0xffff0000,
        .table = 0x534c,
        .rule_priority = 0x534c,
        .gateway = o->gateway,
        .userns_fd = opening->user_fd,
        .netns_fd = opening->net_fd,
        .first = guest_opening_work,
        .first_arg = opening,
    };
    bool divert = o->divert != DIVERT_OFF && !o->no_splice;
    int r;

    if (o->no_splice)
        snprintf(p->no_splice_why, sizeof(p->no_splice_why), "--no-splice");
    else if (!has_namespace(o))
        snprintf(p->no_splice_why, sizeof(p->no_splice_why), "there is no namespace to enter");
    if (!guest_opening_is_possible(opening) || o->no_splice || (!wants_forwards(o) && !divert))
        return 0;
    config.divert = divert;
    config.sealed = o->divert == DIVERT_ON;
    config.stock = wants_forwards(o);
    inet_pton(AF_INET6, "fd00::2", &config.gateway6);
    fflush(NULL); /* or the child would print it again */
    r = agent_start(&p->agent, &config, &why);
    if (r == 0)
        guest_opening_begun(opening);
    if (r < 0 && o->divert == DIVERT_ON) {
        *ret_why = why;
        return r;
    }
    if (r < 0)
        failure_text(&why, p->no_splice_why, sizeof(p->no_splice_why));
    return 0;
}

/* Why libslirp carries the guest's own TCP connections, when it does. */
static const char *no_divert_reason(const struct program *p)
{
    return p->no_splice_why[0]               ? p->no_splice_why
           : p->options.divert == DIVERT_OFF ? "--divert=off"
                                             : "no nf_tables in the guest's namespace";
}

/* The agent's report, which comes late: everything is ready for what it may say. Without it everything goes
 * through libslirp, and the reason is said. */
static int agent_finish(struct program *p, struct failure *ret_why)
{
    struct failure why = FAILURE_NULL;
    int r;

    if (!p->agent)
        return 0;
    r = agent_wait(p->agent, &why);
    p->spliced = r == 0;
    p->diverted = r == 0 && p->divert && agent_divert_state(p->agent) == 0;
    if (r == 0 && p->options.divert == DIVERT_ON && (r = agent_divert_state(p->agent)) < 0)
        failure(&why, r, "load the module nf_tables, or use --divert=auto",
                "--divert=on: nf_tables cannot be had in the guest's namespace");
    if (r < 0 && p->options.divert == DIVERT_ON) {
        *ret_why = why;
        return r;
    }
    if (r < 0)
        failure_text(&why, p->no_splice_why, sizeof(p->no_splice_why));
    if (p->diverted)
        engine_set_take_tcp(p->engine, hook_take_tcp, p);
    p->api_context.outbound = p->diverted ? "splice" : no_divert_reason(p);
    return 0;
}

static int divert_open(struct program *p, struct failure *why)
{
    const struct options *o = &p->options;
    struct divert_config config = {
        .workers = p->workers,
        .network = o->network,
        .netmask = o->netmask,
        .gateway = o->gateway,
        .disable_host_loopback = o->disable_host_loopback,
        .has_outbound = o->has_outbound,
        .has_outbound6 = o->has_outbound6,
        .outbound = o->outbound,
        .outbound6 = o->outbound6,
        .arg = p,
        .send = hook_send,
        .inject = hook_inject,
    };

    if (!p->agent || o->divert == DIVERT_OFF)
        return 0;
    inet_pton(AF_INET6, "fd00::2", &config.gateway6);
    return divert_new(&p->divert, &config, why);
}

/* The same table as the API's, before there is anybody else to write to it. */
static int publish(struct program *p, struct failure *why)
{
    int r = 0;

    role_enter(&role_api);
    for (unsigned i = 0; r == 0 && i < p->options.n_publish; i++) {
        uint64_t id;

        r = forwards_add(p->forwards, &p->options.publish[i], &id, why);
    }
    role_leave(&role_api);
    return r;
}

static int workers_open(struct program *p, struct failure *why)
{
    const bool shared = engine_is_shared(p->engine);
    const struct engine_guest guest = {
        .arg = p,
        .event = hook_event,
        .turn = hook_turn,
        .wanted = hook_wanted,
        .prepare = hook_prepare,
        .cancel = hook_cancel,
    };
    int r = workers_new(&p->workers, p->agent, shared ? engine_epoll_fd(p->engine) : -1, why);

    if (r == 0 && shared)
        engine_share(p->engine, &guest);
    return r;
}

static int forwards_open(struct program *p, struct failure *why)
{
    struct forwards_config config = {
        .splice = p->agent != NULL,
        .gateway = p->options.gateway,
        .network = p->options.network,
        .netmask = p->options.netmask,
        .hooks =
            {
                .arg = p,
                .adopt = hook_adopt,
                .udp_add = hook_udp_add,
                .udp_remove = hook_udp_remove,
                .udp_stats = hook_udp_stats,
            },
    };
    int r;

    if (!wants_forwards(&p->options) && !p->agent)
        return 0;
    inet_pton(AF_INET6, "fd00::2", &config.gateway6);
    r = workers_open(p, why);
    if (r == 0 && p->capture)
        workers_on_closed(p->workers, hook_closed, p);
    if (r == 0)
        r = divert_open(p, why);
    if (r < 0 || !wants_forwards(&p->options))
        return r;
    config.workers = p->workers;
    r = forwards_new(&p->forwards, &config, why);
    return r < 0 ? r : publish(p, why);
}

static int engine_open(struct program *p, struct guest_link *link, struct failure *why)
{
    const struct options *o = &p->options;
    struct engine_config config = {
        .tap_fd = link->fd,
        .is_socket = link->is_socket,
        .offload = o->offload && link->header_size > 0,
        .header_size = link->header_size,
        .joined_datagrams = link->joined_datagrams,
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
        .udp = o->udp,
        .has_outbound = o->has_outbound,
        .has_outbound6 = o->has_outbound6,
        .outbound = o->outbound,
        .outbound6 = o->outbound6,
        .backend = o->backend,
        .mode = o->mode,
        .capture = p->capture,
    };
    int r = engine_new(&p->engine, &config, why);

    if (r < 0)
        return r;
    link->fd = -1; /* the engine's now */
    return forwards_open(p, why);
}

static int api_open(struct program *p, struct failure *why)
{
    if (!p->options.api_socket && !p->options.metrics)
        return 0;
    p->api_context = (struct api_context){
        .forwards = p->forwards,
        .guest = p->options.guest,
        .backend = engine_backend_name(p->engine),
        .mode = engine_mode_name(p->engine),
        .outbound = no_divert_reason(p), /* agent_finish() may know better */
        .flow_sources = {{hook_list_workers, p},
                         {hook_list_udp, p},
                         {hook_list_flows, p},
                         {hook_list_slirp, p}},
        .n_flow_sources = 4,
        .slirp_info = hook_slirp_info,
        .arg = p,
    };
    return api_server_new(&p->api, p->options.api_socket, p->options.metrics, &p->api_context, why);
}

/* What was chosen, and why, in the order in which it matters. */
static void report_choices(const struct program *p)
{
    const struct options *o = &p->options;

    log_startup(LOG_LEVEL_INFO, "* %-16s %s, %s threads (%s)", "Data plane:", engine_backend_name(p->engine),
                engine_mode_name(p->engine), engine_choice_text(p->engine));
    if (p->diverted)
        log_startup(LOG_LEVEL_INFO, "* %-16s splice", "Outbound TCP:");
    else
        log_startup(LOG_LEVEL_INFO, "* %-16s libslirp (%s)", "Outbound TCP:", no_divert_reason(p));
    log_startup(LOG_LEVEL_INFO, "* %-16s %s", "Outbound UDP:", engine_udp_text(p->engine));
    if (wants_forwards(o))
        log_startup(LOG_LEVEL_INFO, "* %-16s TCP %s%s%s%s, UDP direct",
                    "Forwards:", p->spliced ? "splice" : "libslirp", p->spliced ? "" : " (",
                    p->spliced ? "" : p->no_splice_why, p->spliced ? "" : ")");
    log_startup(LOG_LEVEL_INFO, "* %-16s %s%s%s%s",
                "Confinement:", confine_has_landlock() ? "Landlock" : "no Landlock",
                o->sandbox ? ", sandbox" : "", o->seccomp ? ", seccomp" : "",
                o->sandbox && o->seccomp ? ""
                : o->sandbox             ? " (more: --enable-seccomp)"
                : o->seccomp             ? " (more: --enable-sandbox)"
                                         : " (more: --enable-sandbox, --enable-seccomp)");
}

/* The agent is at work meanwhile: what there is to start is started before its report is waited for. */
static int threads_start(struct program *p, struct failure *why)
{
    int r = p->capture ? capture_start(p->capture, why) : 0;

    if (r == 0)
        r = engine_start(p->engine, why);
    if (r == 0)
        r = agent_finish(p, why);
    if (r < 0)
        return r;
    report_choices(p);
    if (p->workers)
        r = workers_start(p->workers, why);
    if (r == 0)
        engine_go(p->engine);
    return r == 0 && p->api ? api_server_start(p->api, why) : r;
}

/* The threads, and what they and main give up. */
static int threads_confined_start(struct program *p, struct failure *why)
{
    struct confine_config config = {
        .sandbox = p->options.sandbox,
        .seccomp = p->options.seccomp,
        .watch = target_watch_is_on(&p->target),
        .children = {p->agent ? agent_pid(p->agent) : 0, p->options.run ? p->run.pid : 0},
    };
    int r;

    if (!p->options.sandbox) { /* which puts them out of reach */
        config.files[0] = p->options.api_socket;
        config.files[1] = p->options.metrics;
    }
    r = confine_begin(&config, why);

    if (r == 0)
        r = threads_start(p, why);
    if (r == 0 && p->spliced)
        agent_go(p->agent);
    return r == 0 ? confine_main(why) : r;
}

/* Before anything is opened: a number that is closed now would soon name a descriptor of our own. */
static void check_descriptors(struct program *p)
{
    struct options *o = &p->options;

    if (o->ready_fd >= 0 && fcntl(o->ready_fd, F_GETFD) < 0) {
        log_warning("--ready-fd=%d is not an open descriptor: nobody will be told", o->ready_fd);
        o->ready_fd = -1;
    }
    if (o->exit_fd >= 0 && fcntl(o->exit_fd, F_GETFD) < 0) {
        p->exit_fd_closed = true;
        o->exit_fd = -1;
    }
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

/* 1: the end was asked for before there was anybody to serve; supervise() sees it at once. */
static int start(struct program *p, struct failure *why)
{
    _cleanup_(guest_opening_end) struct guest_opening opening = GUEST_OPENING_NULL;
    struct guest_link link = GUEST_LINK_NULL;
    const struct options *o = &p->options;
    int r = check_divert(o, why);

    if (r < 0)
        return r;
    if (p->exit_fd_closed && o->target == TARGET_BESS) /* a peer may never come */
        return 1;
    /* One process for both: nothing goes on without its TAP; what it does as the agent runs beside us. */
    guest_opening_init(&opening, o);
    opening.signal_fd = p->signal_fd;
    if ((r = agent_begin(p, &opening, why)) < 0)
        return r;
    if (!p->agent)
        guest_opening_fork(&opening);
    r = guest_link_open(&link, &opening, o, why);
    if (r > 0)
        return r;
    if (r < 0) {
        char text[512];

        if (!o->run && has_namespace(o)) { /* the step that clients know as a child process */
            log_plain(LOG_LEVEL_ERROR, "%s", failure_text(why, text, sizeof(text)));
            failure(why, 1, NULL, "child failed(1)");
        }
        return r;
    }
    if ((r = privileges_close(why)) < 0) {
        closep(&link.fd);
        return r;
    }
    /* The watch needs /proc for as long as it runs, which would be a way out of the sandbox. */
    if (o->target == TARGET_PID && !o->sandbox && !o->run)
        target_watch_init(&p->target, o->pid, opening.net_fd);
    options_print_banner(o);
    if (o->pcap) {
        r = capture_new(&p->capture, o->pcap,
                        o->target == TARGET_TAPFD || o->target == TARGET_BESS ? "tap" : o->tap_name, why);
        if (r < 0) {
            closep(&link.fd);
            return r;
        }
    }
    if (o->sandbox && (r = sandbox_join(o, why)) < 0) {
        closep(&link.fd);
        return r;
    }
    r = engine_open(p, &link, why);
    if (r < 0) {
        closep(&link.fd);
        return r;
    }
    if ((r = api_open(p, why)) < 0 || (r = o->sandbox ? sandbox_enter(why) : privileges_drop(why)) < 0 ||
        (r = threads_confined_start(p, why)) < 0)
        return r;
    fflush(stdout);
    report_ready(o->ready_fd);
    return o->run ? run_go(&p->run, why) : 0;
}

/* ---- run ---- */

static const char *gone_text(int error)
{
    return error == -ENODEV ? "the TAP interface was deleted, or the other end of its descriptor closed"
                            : strerror(-error);
}

/* Returns the exit status, or 128 + a signal's number to die from (with --run: the status to end with). */
static int supervise(struct program *p)
{
    enum { SIGNAL, EXIT, GONE, TARGET };
    struct pollfd fds[] = {
        [SIGNAL] = {.fd = p->signal_fd, .events = POLLIN},
        /* Only the end of the other side counts (POLLHUP). */
        [EXIT] = {.fd = p->options.exit_fd, .events = 0},
        [GONE] = {.fd = p->engine ? engine_gone_fd(p->engine) : -1, .events = POLLIN},
        [TARGET] = {.fd = p->target.pid_fd, .events = POLLIN},
    };
    bool target_ended = p->target.ended;

    if (p->exit_fd_closed) {
        log_info("exitfd event");
        return EXIT_SUCCESS;
    }
    for (;;) {
        struct signalfd_siginfo info;
        int status;

        if (p->options.run && run_ended(&p->run, &status))
            return status;
        if (poll(fds, sizeof(fds) / sizeof(fds[0]), target_ended ? TARGET_POLL_MS : -1) < 0 &&
            errno != EINTR) {
            log_error("poll: %m");
            return EXIT_FAILURE;
        }
        if (fds[SIGNAL].revents && read(p->signal_fd, &info, sizeof(info)) == sizeof(info)) {
            if (!p->options.run)
                return 128 + (int)info.ssi_signo;
            run_signal(&p->run, &info);
        }
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
    run_finish(&p->run); /* COMMAND may want to say good-bye over the network */
    if (p->api)
        api_server_stop(p->api);
    if (p->workers)
        workers_stop(p->workers);
    if (p->engine)
        engine_stop(p->engine);
    if (p->capture)
        capture_stop(p->capture);
    p->capture = capture_free(p->capture);
    p->api = api_server_free(p->api);
    p->forwards = forwards_free(p->forwards);
    p->workers = workers_free(p->workers);
    p->divert = divert_free(p->divert);
    p->agent = agent_free(p->agent);
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
    static struct program p = {.target = TARGET_WATCH_NULL, .run = RUN_NULL, .signal_fd = -1};
    struct failure why = FAILURE_NULL;
    char text[512];
    int status = options_parse(&p.options, argc, argv);

    if (status >= 0)
        return status;
    if (p.options.check)
        return check_environment();
    if (p.options.ctl)
        return ctl_run(&(struct ctl){.socket_path = p.options.ctl,
                                     .words = p.options.command,
                                     .json = p.options.json,
                                     .watch = p.options.watch});
    role_enter(&role_main);
    thread_register("main");
    check_descriptors(&p);
    if (p.options.run && run_begin(&p.run, &p.options, &why) == 0)
        p.options.pid = p.run.pid;
    raise_descriptor_limit();
    p.signal_fd = signals_open(p.options.run, &why);
    if (why.code < 0 || start(&p, &why) < 0) {
        log_plain(LOG_LEVEL_ERROR, "%s", failure_text(&why, text, sizeof(text)));
        status = EXIT_FAILURE;
    } else {
        status = supervise(&p);
        log_info("do_slirp is exiting");
    }
    stop(&p);
    role_leave(&role_main);
    if (status > 128 && !p.options.run)
        die_from(status - 128);
    return status;
}
