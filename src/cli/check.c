/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * check.c
 *
 * Nothing is concluded from versions or configuration files: a child process makes the namespaces as --run
 * does, makes and configures a TAP there, and does what nsagent would do, with the same functions; sysctls
 * are read to name what to change. The child writes what it finds into shared memory and ends, and with it
 * everything it has made.
 *
 *   ok    is there
 *   less  is not there; the program runs all the same, with the loss that is named
 *   FAIL  is not there, and the program cannot run
 */
#include "cli/check.h"

#include "base/bits.h"
#include "base/cleanup.h"
#include "cli/interface.h"
#include "cli/namespace.h"
#include "cli/options.h"
#include "cli/text.h"
#include "cli/userns.h"
#include "fwd/agent_net.h"
#include "fwd/nft.h"

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <linux/tcp.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>

enum {
    CHILD_SECONDS_MAX = 20, /* modules may have to be loaded */
    NOFILE_ENOUGH = 65536,
    PIPE_PAGES_ENOUGH = 16384, /* the kernel's default: 64 MiB */
    TCP_RMEM_ENOUGH = 4 << 20, /* bytes: the kernel's default is 6 MiB */
};

enum state { STATE_OK, STATE_LESS, STATE_FAIL };

/* What the child finds. A failure of code 0: it is there. */
struct probes {
    bool done; /* the child came to its end */
    struct failure userns, netns, device, tap, repair, nft;
    int rules; /* enum agent_reason, or a negative errno */
};

/* ---- the child ---- */

static void probe_repair(struct failure *why)
{
    _cleanup_close_ int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int on = TCP_REPAIR_ON;

    if (fd < 0 || setsockopt(fd, IPPROTO_TCP, TCP_REPAIR, &on, sizeof(on)) < 0)
        failure(why, -errno, NULL, "setsockopt(TCP_REPAIR)");
}

static int probe_rules(void)
{
    static struct agent_net net = {.sysctl_fd = -1};
    static const struct agent_config config = {
        .mark = 0x534c0000, .mark_mask = 0xffff0000, .table = 0x534c, .rule_priority = 0x534c};
    int r = agent_net_init(&net, &config, NULL);

    return r < 0 ? r : (int)agent_net_prepare(&net, 0);
}

static void probe_nft(struct failure *why)
{
    struct nft *nft = NULL;
    int r = nft_new(&nft, 0x534c0000, 0xffff0000);

    if (r < 0)
        failure(why, r, NULL, "nf_tables in a network namespace");
    nft_free(nft);
}

/* In a network namespace of our own, and with capabilities over it. */
static void probe_network(struct probes *p)
{
    struct options o = {.mtu = 1500, .tap_name = "tap0"};
    _cleanup_close_ int fd = -1;

    if (options_set_cidr(&o, "10.0.2.0/24") < 0)
        return;
    fd = tap_open(o.tap_name, false, &p->tap);
    if (fd >= 0)
        (void)interface_configure(&o, &p->tap); /* the sentence is what counts */
    probe_repair(&p->repair);
    p->rules = probe_rules();
    probe_nft(&p->nft);
}

/* False: the other side has ended. */
static bool get_byte(int sock)
{
    char byte;
    ssize_t n;

    do {
        n = recv(sock, &byte, sizeof(byte), 0);
    } while (n < 0 && errno == EINTR);
    return n == sizeof(byte);
}

/* @sock: to the parent, which writes the maps when it gets a byte and answers with one. */
_Noreturn static void child_main(int sock, struct probes *p)
{
    int fd;

    alarm(CHILD_SECONDS_MAX);
    fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
    if (fd < 0)
        failure(&p->device, -errno, NULL, "open(\"/dev/net/tun\")");
    closep(&fd);
    if (unshare(CLONE_NEWUSER) < 0)
        failure(&p->userns, -errno, userns_hint(errno), "cannot make a user namespace");
    else if (send(sock, "u", 1, MSG_NOSIGNAL) != 1 || !get_byte(sock))
        _exit(EXIT_FAILURE);
    /* As root the second needs no user namespace. */
    if (p->userns.code == 0 || geteuid() == 0) {
        if (unshare(CLONE_NEWNET) < 0)
            failure(&p->netns, -errno, userns_hint(errno), "cannot make a network namespace");
        else
            probe_network(p);
    }
    p->done = true;
    _exit(EXIT_SUCCESS);
}

/* False: there was no child to find anything. */
static bool probe(struct probes *p)
{
    int pair[2], status;
    pid_t child;

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
        fprintf(stderr, "socketpair: %m\n");
        return false;
    }
    fflush(NULL); /* or the child would print it again */
    child = fork();
    if (child < 0)
        fprintf(stderr, "fork: %m\n");
    if (child == 0) {
        close(pair[0]);
        child_main(pair[1], p);
    }
    close(pair[1]);
    if (child > 0 && get_byte(pair[0])) {
        if (geteuid() != 0 || userns_write_maps(child, USERNS_ALL, NULL) < 0)
            (void)userns_write_maps(child, USERNS_ROOT, &p->userns); /* the sentence is what counts */
        (void)send(pair[0], "m", 1, MSG_NOSIGNAL);                   /* it has ended: seen below */
    }
    close(pair[0]);
    if (child < 0)
        return false;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR)
        ;
    if (!p->done)
        fprintf(stderr, "the process that tries things out ended early (status %#x)\n", (unsigned)status);
    return p->done;
}

/* ---- what is said ---- */

__attribute__((format(printf, 5, 6))) static enum state
say(enum state state, const char *name, const char *cost, const char *fix, const char *what_format, ...)
{
    static const char *const words[] = {[STATE_OK] = "ok", [STATE_LESS] = "less", [STATE_FAIL] = "FAIL"};
    va_list ap;

    printf("%-5s %-18s ", words[state], name);
    va_start(ap, what_format);
    vprintf(what_format, ap);
    va_end(ap);
    printf("\n");
    if (state != STATE_OK && cost)
        printf("%-24s costs: %s\n", "", cost);
    if (state != STATE_OK && fix && *fix)
        printf("%-24s fix:   %s\n", "", fix);
    return state;
}

static const char *device_fix(int code)
{
    return code == -EACCES ? "as root: chmod 0666 /dev/net/tun"
           : code == -EPERM
               ? "let the container use the device, e.g. --device /dev/net/tun (cgroup device list)"
               : "as root: modprobe tun; in a container: --device /dev/net/tun";
}

static enum state say_tap(const struct probes *p)
{
    char text[FAILURE_TEXT_SIZE];

    if (p->device.code < 0)
        return say(STATE_FAIL, "TAP device", "there is no way to the guest at all",
                   device_fix(p->device.code), "%s", failure_text(&p->device, text, sizeof(text)));
    if (p->tap.code < 0)
        return say(STATE_FAIL, "TAP device", "there is no way to the guest at all", NULL, "%s",
                   failure_text(&p->tap, text, sizeof(text)));
    if (p->userns.code < 0 && geteuid() != 0)
        return say(STATE_OK, "TAP device", NULL, NULL,
                   "/dev/net/tun can be opened (more could not be tried without a user namespace)");
    return say(STATE_OK, "TAP device", NULL, NULL, "an interface can be made and configured");
}

static enum state say_namespaces(const struct probes *p)
{
    const struct failure *f = p->userns.code < 0 ? &p->userns : &p->netns;
    struct failure bare = *f;
    char text[FAILURE_TEXT_SIZE];
    bool root = geteuid() == 0;

    if (f->code == 0)
        return say(STATE_OK, "user namespaces", NULL, NULL, "user and network namespaces can be made");
    bare.hint[0] = '\0';
    return say(root && p->netns.code == 0 ? STATE_LESS : STATE_FAIL, "user namespaces",
               root ? "--run; containers of ordinary users" : "--run, and there is nothing to be served",
               f->hint, "%s", failure_text(&bare, text, sizeof(text)));
}

static enum state say_uring(void)
{
    struct io_uring ring;
    int r = io_uring_queue_init(4, &ring, 0);
    long long disabled = text_file_number("/proc/sys/kernel/io_uring_disabled", 0);

    if (r == 0) {
        io_uring_queue_exit(&ring);
        return say(STATE_OK, "io_uring", NULL, NULL, "rings can be made");
    }
    return say(STATE_LESS, "io_uring", "frames are read and written one by one (epoll): more CPU time",
               disabled > 0 ? "as root: sysctl kernel.io_uring_disabled=0"
                            : "a kernel with io_uring, or a container's seccomp profile that permits it",
               disabled > 0 ? "%s (kernel.io_uring_disabled=%lld)" : "%s", strerror(-r), disabled);
}

static enum state say_rules(const struct probes *p)
{
    static const char cost[] = "connections of port forwards and of the guest go through libslirp, slower";

    if (p->rules < 0)
        return say(STATE_LESS, "policy routing", cost, "permit AF_NETLINK sockets (seccomp profile)",
                   "netlink: %s", strerror(-p->rules));
    if (p->rules == AGENT_NO_RULES)
        return say(STATE_LESS, "policy routing", cost,
                   "a kernel with CONFIG_IP_MULTIPLE_TABLES and CONFIG_IPV6_MULTIPLE_TABLES", "%s",
                   agent_reason_text(AGENT_NO_RULES));
    if (p->rules == AGENT_NO_SYSCTL)
        return say(STATE_LESS, "policy routing", cost,
                   "make /proc/sys/net writable in the container where the program runs", "%s",
                   agent_reason_text(AGENT_NO_SYSCTL));
    return say(STATE_OK, "policy routing", NULL, NULL, "rules and routes can be made in a namespace");
}

static enum state say_transparent(const struct probes *p)
{
    if (p->rules == AGENT_READY)
        return say(STATE_OK, "IP_TRANSPARENT", NULL, NULL, "sockets may have any address in a namespace");
    return say(STATE_LESS, "IP_TRANSPARENT",
               "port forwards go through libslirp: slower, the client's address stays visible",
               "Linux 3.5 or later; a security module may forbid it", "%s",
               p->rules == AGENT_NO_TRANSPARENT ? agent_reason_text(AGENT_NO_TRANSPARENT)
                                                : "could not be tried without policy routing");
}

static enum state say_probe(const struct failure *f, const char *name, const char *cost, const char *fix,
                            const char *good)
{
    char text[FAILURE_TEXT_SIZE];

    if (f->code == 0)
        return say(STATE_OK, name, NULL, NULL, "%s", good);
    return say(STATE_LESS, name, cost, fix, "%s", failure_text(f, text, sizeof(text)));
}

static enum state say_ping(void)
{
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, IPPROTO_ICMP), error = errno;

    if (fd < 0)
        fd = socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_ICMP); /* root's, without --enable-sandbox */
    if (fd >= 0) {
        close(fd);
        return say(STATE_OK, "ping", NULL, NULL, "ICMP sockets can be made");
    }
    return say(STATE_LESS, "ping", "the guest's ping is answered by gateway and DNS address only",
               "as root: sysctl net.ipv4.ping_group_range=\"0 2147483647\"",
               "%s (net.ipv4.ping_group_range=%lld %lld)", strerror(error),
               text_file_number("/proc/sys/net/ipv4/ping_group_range", 0),
               text_file_number("/proc/sys/net/ipv4/ping_group_range", 1));
}

static enum state say_descriptors(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return say(STATE_LESS, "open descriptors", NULL, NULL, "getrlimit: %m");
    return say(limit.rlim_max >= NOFILE_ENOUGH ? STATE_OK : STATE_LESS, "open descriptors",
               "a connection takes two to six; beyond the limit connections wait or fail",
               "raise the hard limit: LimitNOFILE= of the service, /etc/security/limits.conf", "%llu at most",
               (unsigned long long)limit.rlim_max);
}

static enum state say_pipes(void)
{
    long long pages = text_file_number("/proc/sys/fs/pipe-user-pages-soft", 0);
    bool enough = pages <= 0 || pages >= PIPE_PAGES_ENOUGH || geteuid() == 0;

    return say(enough ? STATE_OK : STATE_LESS, "pipes",
               "with many busy connections pipes are small, and moving bytes takes more CPU time",
               "as root: sysctl fs.pipe-user-pages-soft=16384",
               pages < 0   ? "/proc/sys/fs/pipe-user-pages-soft cannot be read"
               : pages > 0 ? "%lld pages for all of a user's pipes"
                           : "no limit (fs.pipe-user-pages-soft=%lld)",
               pages);
}

static enum state say_tcp_rmem(void)
{
    long long bytes = text_file_number("/proc/sys/net/ipv4/tcp_rmem", 2);

    if (bytes < 0)
        return say(STATE_OK, "TCP windows", NULL, NULL, "net.ipv4.tcp_rmem is not shown here");
    return say(bytes >= TCP_RMEM_ENOUGH ? STATE_OK : STATE_LESS, "TCP windows",
               "downloads from far away are slower than the line",
               "as root: sysctl net.ipv4.tcp_rmem=\"4096 131072 6291456\"",
               "%lld bytes at most (net.ipv4.tcp_rmem)", bytes);
}

static enum state say_low_ports(void)
{
    long long first = text_file_number("/proc/sys/net/ipv4/ip_unprivileged_port_start", 0);

    if (geteuid() == 0 || first < 0)
        return say(STATE_OK, "low ports", NULL, NULL, "can be forwarded");
    return say(
        first <= 80 ? STATE_OK : STATE_LESS, "low ports", "these ports of the host cannot be forwarded",
        "as root: sysctl net.ipv4.ip_unprivileged_port_start=80", "ports below %lld are root's", first);
}

static enum state say_resolver(void)
{
    FILE *file = fopen("/etc/resolv.conf", "re");
    char line[256], word[16], address[64];
    bool found = false;

    while (file && !found && fgets(line, sizeof(line), file))
        found = sscanf(line, "%15s %63s", word, address) == 2 && strcmp(word, "nameserver") == 0;
    if (file)
        fclose(file);
    if (found)
        return say(STATE_OK, "name server", NULL, NULL, "%s", address);
    return say(STATE_LESS, "name server", "the guest cannot resolve names by the DNS address",
               "name one in /etc/resolv.conf", "/etc/resolv.conf %s", file ? "names none" : "cannot be read");
}

int check_environment(void)
{
    struct probes *p = mmap(NULL, sizeof(*p), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    enum state tap, namespaces;
    bool network, can_run;

    if (p == MAP_FAILED) {
        fprintf(stderr, "mmap: %m\n");
        return EXIT_FAILURE;
    }
    if (!probe(p)) {
        munmap(p, sizeof(*p));
        return EXIT_FAILURE;
    }
    network = p->netns.code == 0 && (p->userns.code == 0 || geteuid() == 0);
    tap = say_tap(p);
    namespaces = say_namespaces(p);
    (void)say_uring(); /* from here on nothing is needed */
    if (network) {
        (void)say_probe(&p->nft, "nf_tables", "the guest's own TCP connections go through libslirp, slower",
                        "as root: modprobe nf_tables; Linux 5.12 or later",
                        "tables can be made in a namespace");
        (void)say_rules(p);
        (void)say_probe(&p->repair, "TCP_REPAIR",
                        "the guest's own TCP connections go through libslirp, slower",
                        "a kernel with TCP_REPAIR; a container's seccomp profile may forbid it",
                        "connections can be handed over");
        (void)say_transparent(p);
    }
    (void)say_ping();
    (void)say_descriptors();
    (void)say_pipes();
    (void)say_tcp_rmem();
    (void)say_low_ports();
    (void)say_resolver();
    can_run = tap != STATE_FAIL && namespaces != STATE_FAIL;
    printf("\n%s\n", can_run ? "slirp4netns can run here" : "slirp4netns cannot run here: see FAIL above");
    munmap(p, sizeof(*p));
    return can_run ? EXIT_SUCCESS : EXIT_FAILURE;
}
