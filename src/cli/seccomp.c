/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * seccomp.c
 *
 * The table: what each duty calls, what the C library, the allocator, glib and libslirp call for it. A path
 * cannot be looked at by a filter, so the file system is Landlock's affair (confine.c); here it matters that
 * only `slirp`, and `tap-rx` if it sends datagrams, may open a file at all, for reading, because they follow
 * /etc/resolv.conf, and main, if it looks into /proc. What goes through an io_uring is invisible to a filter:
 * the rings are restricted to their few operations on registered descriptors (tap_uring.c), and there will be
 * no others.
 *
 * Nobody starts a program, looks into a process, changes a namespace, mounts, or maps anything executable.
 * Threads are made while the first filter is in force and no longer: that needs clone(2) as the C library
 * calls it. It tries clone3(2) first, whose flags a filter cannot see, and takes ENOSYS for an answer.
 */
#include "cli/seccomp.h"

#include "base/bits.h"
#include "base/log.h"
#include "base/syscall_filter.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/sockios.h>
#include <malloc.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

enum {                   /* beyond enum thread_duty */
       START = DUTY_END, /* the whole process, until its threads have filters of their own */
       WATCH = DUTY_END << 1,
};

#define TAP (DUTY_TAP_RX | DUTY_TAP_TX)
#define NET (DUTY_SLIRP | DUTY_FWD | DUTY_API)
#define ALL UINT32_MAX

#ifdef __s390__
#define CLONE_FLAGS 1
#else
#define CLONE_FLAGS 0
#endif
#define NEW_THREAD (CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD)
#define NEW_SPACE                                                                                 \
    (CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | \
     CLONE_NEWNET)

#define SOCKET_TYPE(family, type) ARG_IS(0, family), ARG_BITS(1, ~(SOCK_CLOEXEC | SOCK_NONBLOCK), type)
#define SOCKET_KIND(family, type, protocol) SOCKET_TYPE(family, type), ARG_IS(2, protocol)
#define O_OTHERS ~(O_CLOEXEC | O_NONBLOCK | O_NOCTTY | O_NOFOLLOW | O_DIRECTORY | O_LARGEFILE | 0100000)
#define NO_PROCESS (-1) /* replaced by seccomp_begin() */

enum { SELF_ABORT, SELF_SYS, SELF_ANY, CHILD0, CHILD1, FIRST_FIXED };

static struct syscall_rule rules[] = {
    /* The first five are completed at run time. abort(3), the end of a violation, main's death by the signal
     * that ended it. */
    [SELF_ABORT] = ALLOW("tgkill", ALL, ARG_IS(0, NO_PROCESS), ARG_IS(2, SIGABRT)),
    [SELF_SYS] = ALLOW("tgkill", ALL, ARG_IS(0, NO_PROCESS), ARG_IS(2, SIGSYS)),
    [SELF_ANY] = ALLOW("tgkill", DUTY_MAIN, ARG_IS(0, NO_PROCESS)),
    [CHILD0] = ALLOW("kill", DUTY_MAIN, ARG_IS(0, NO_PROCESS)),
    [CHILD1] = ALLOW("kill", DUTY_MAIN, ARG_IS(0, NO_PROCESS)),
    [FIRST_FIXED] = ALLOW("read", ALL),

    /* Everybody: descriptors that are there, memory, time, locks, the log. */
    ALLOW("write", ALL),
    ALLOW("writev", ALL),
    ALLOW("close", ALL),
    ALLOW("lseek", ALL),
    ALLOW("_llseek", ALL),
    ALLOW("fstat", ALL),
    ALLOW("fstat64", ALL),
    ALLOW("poll", ALL),
    ALLOW("ppoll", ALL),
    ALLOW("ppoll_time64", ALL),
    ALLOW_MEMORY(ALL),
    ALLOW("clock_gettime", ALL),
    ALLOW("clock_gettime64", ALL),
    ALLOW("clock_nanosleep", ALL),
    ALLOW("clock_nanosleep_time64", ALL),
    ALLOW("nanosleep", ALL),
    ALLOW("gettimeofday", ALL),
    ALLOW("time", ALL),
    ALLOW("getrandom", ALL),
    ALLOW("sched_yield", ALL),
    ALLOW("sched_getaffinity", ALL),
    ALLOW("getcpu", ALL),
    ALLOW("getpid", ALL),
    ALLOW("gettid", ALL),
    ALLOW("rt_sigprocmask", ALL),
    ALLOW("rt_sigaction", ALL, ARG_IS(0, SIGABRT)), /* abort(3) of newer C libraries */
    ALLOW("rt_sigreturn", ALL),
    ALLOW("sigreturn", ALL),
    ALLOW("restart_syscall", ALL),
    ALLOW("exit", ALL),
    ALLOW("exit_group", ALL),
    /* fstat(3) of newer C libraries; the path is "" then, but that is in memory. */
    ALLOW("newfstatat", ALL),
    ALLOW("fstatat64", ALL),
    ALLOW("statx", ALL),

    /* The TAP. */
    ALLOW("io_uring_enter", DUTY_RING),
    ALLOW("readv", TAP),

    /* Waiting for many. */
    ALLOW("epoll_wait", NET),
    ALLOW("epoll_pwait", NET),
    ALLOW("epoll_pwait2", NET),
    ALLOW("epoll_ctl", NET),
    ALLOW("epoll_ctl", DUTY_MAIN),

    /* Sockets: IP, and one that is never bound, to ask for interfaces. */
    ALLOW("socket", NET, SOCKET_TYPE(AF_INET, SOCK_STREAM)),
    ALLOW("socket", NET, SOCKET_TYPE(AF_INET6, SOCK_STREAM)),
    ALLOW("socket", NET, SOCKET_TYPE(AF_INET, SOCK_DGRAM)),
    ALLOW("socket", NET, SOCKET_TYPE(AF_INET6, SOCK_DGRAM)),
    ALLOW("socket", DUTY_SLIRP, SOCKET_KIND(AF_INET, SOCK_RAW, IPPROTO_ICMP)),
    ALLOW("socket", DUTY_SLIRP, SOCKET_KIND(AF_INET6, SOCK_RAW, IPPROTO_ICMPV6)),
    ALLOW("socket", DUTY_SLIRP | DUTY_API, SOCKET_KIND(AF_UNIX, SOCK_DGRAM, 0)), /* if_nametoindex(3) */
    ALLOW("bind", NET),
    ALLOW("listen", NET),
    ALLOW("accept", NET),
    ALLOW("accept4", NET),
    ALLOW("connect", NET),
    ALLOW("shutdown", NET | DUTY_MAIN),
    ALLOW("getsockname", NET | DUTY_MAIN),
    ALLOW("getpeername", NET | DUTY_MAIN),
    ALLOW("getsockopt", NET),
    ALLOW("setsockopt", NET, ARG_IS(1, SOL_SOCKET)),
    ALLOW("setsockopt", NET, ARG_IS(1, IPPROTO_IP)),
    ALLOW("setsockopt", NET, ARG_IS(1, IPPROTO_IPV6)),
    ALLOW("setsockopt", NET, ARG_IS(1, IPPROTO_TCP)),
    ALLOW("setsockopt", NET, ARG_IS(1, IPPROTO_UDP)),
    ALLOW("send", NET | DUTY_MAIN),
    ALLOW("recv", NET | DUTY_MAIN),
    ALLOW("sendto", NET | DUTY_MAIN),
    ALLOW("recvfrom", NET | DUTY_MAIN),
    ALLOW("sendmsg", NET | DUTY_MAIN),
    ALLOW("recvmsg", NET | DUTY_MAIN),
    ALLOW("sendmmsg", NET),
    ALLOW("recvmmsg", NET),
    ALLOW("recvmmsg_time64", NET),
    ALLOW("ioctl", NET, ARG_IS(1, FIONREAD)),
    ALLOW("ioctl", NET, ARG_IS(1, FIONBIO)),
    ALLOW("ioctl", NET, ARG_IS(1, SIOCATMARK)),
    ALLOW("ioctl", NET, ARG_IS(1, SIOCOUTQ)),
    ALLOW("ioctl", DUTY_SLIRP | DUTY_API, ARG_IS(1, SIOCGIFINDEX)),
    ALLOW("ioctl", DUTY_SLIRP | DUTY_API, ARG_IS(1, SIOCGIFNAME)),
    ALLOW("ioctl", DUTY_SLIRP | DUTY_API, ARG_IS(1, SIOCGIFHWADDR)), /* the TAP's */
    ALLOW("fcntl", NET, ARG_IS(1, F_GETFL)),
    ALLOW("fcntl64", NET, ARG_IS(1, F_GETFL)),
    ALLOW("fcntl", NET, ARG_IS(1, F_SETFL)),
    ALLOW("fcntl64", NET, ARG_IS(1, F_SETFL)),
    ALLOW("fcntl", NET, ARG_IS(1, F_GETFD)),
    ALLOW("fcntl64", NET, ARG_IS(1, F_GETFD)),
    ALLOW("fcntl", NET, ARG_IS(1, F_SETFD)),
    ALLOW("fcntl64", NET, ARG_IS(1, F_SETFD)),

    /* The guest's own datagrams, where threads are split. */
    ALLOW("epoll_wait", DUTY_UDP_IN),
    ALLOW("epoll_pwait", DUTY_UDP_IN),
    ALLOW("epoll_pwait2", DUTY_UDP_IN),
    ALLOW("recvfrom", DUTY_UDP_IN),
    ALLOW("recvmsg", DUTY_UDP_IN),
    ALLOW("recvmmsg", DUTY_UDP_IN),
    ALLOW("recvmmsg_time64", DUTY_UDP_IN),
    ALLOW("setsockopt", DUTY_UDP_IN, ARG_IS(1, SOL_SOCKET)),
    ALLOW("setsockopt", DUTY_UDP_IN, ARG_IS(1, IPPROTO_UDP)),
    ALLOW("socket", DUTY_UDP_OUT, SOCKET_TYPE(AF_INET, SOCK_DGRAM)),
    ALLOW("socket", DUTY_UDP_OUT, SOCKET_TYPE(AF_INET6, SOCK_DGRAM)),
    ALLOW("socket", DUTY_UDP_OUT, SOCKET_KIND(AF_UNIX, SOCK_DGRAM, 0)), /* if_nametoindex(3) */
    ALLOW("ioctl", DUTY_UDP_OUT, ARG_IS(1, SIOCGIFINDEX)),
    ALLOW("bind", DUTY_UDP_OUT),
    ALLOW("setsockopt", DUTY_UDP_OUT, ARG_IS(1, IPPROTO_IP)),
    ALLOW("setsockopt", DUTY_UDP_OUT, ARG_IS(1, IPPROTO_IPV6)),
    ALLOW("epoll_ctl", DUTY_UDP_OUT),
    ALLOW("sendto", DUTY_UDP_OUT),
    ALLOW("sendmmsg", DUTY_UDP_OUT),
    ALLOW("open", DUTY_UDP_OUT, ARG_BITS(1, O_OTHERS, O_RDONLY)),
    ALLOW("openat", DUTY_UDP_OUT, ARG_BITS(2, O_OTHERS, O_RDONLY)),
    ALLOW("stat", DUTY_UDP_OUT),
    ALLOW("stat64", DUTY_UDP_OUT),

    /* Splicing. */
    ALLOW("splice", DUTY_FWD),
    ALLOW("pipe2", DUTY_FWD),
    ALLOW("fcntl", DUTY_FWD, ARG_IS(1, F_SETPIPE_SZ)),
    ALLOW("fcntl64", DUTY_FWD, ARG_IS(1, F_SETPIPE_SZ)),
    ALLOW("fcntl", DUTY_FWD, ARG_IS(1, F_GETPIPE_SZ)),
    ALLOW("fcntl64", DUTY_FWD, ARG_IS(1, F_GETPIPE_SZ)),

    /* /etc/resolv.conf as it changes; /proc, to see whether the guest's namespace is still in use. */
    ALLOW("open", DUTY_SLIRP | WATCH, ARG_BITS(1, O_OTHERS, O_RDONLY)),
    ALLOW("openat", DUTY_SLIRP | WATCH, ARG_BITS(2, O_OTHERS, O_RDONLY)),
    ALLOW("stat", DUTY_SLIRP | WATCH),
    ALLOW("stat64", DUTY_SLIRP | WATCH),
    ALLOW("getdents64", WATCH),
    ALLOW("fcntl", WATCH, ARG_IS(1, F_GETFL)),
    ALLOW("fcntl64", WATCH, ARG_IS(1, F_GETFL)),
    ALLOW("fcntl", WATCH, ARG_IS(1, F_SETFD)),
    ALLOW("fcntl64", WATCH, ARG_IS(1, F_SETFD)),

    /* The capture's file. */
    ALLOW("ftruncate", DUTY_PCAP | DUTY_MAIN),
    ALLOW("ftruncate64", DUTY_PCAP | DUTY_MAIN),

    /* An nsagent that has ended, and its standby (agent_child.h). pidfds are those that are there. */
    ALLOW("waitid", DUTY_FWD),
    ALLOW("pidfd_send_signal", DUTY_FWD | DUTY_MAIN, ARG_IS(1, SIGKILL)),

    /* The end: children, the API's file, dying by a signal as if it had not been caught; job control. */
    ALLOW("wait4", DUTY_MAIN),
    ALLOW("waitid", DUTY_MAIN),
    ALLOW("unlinkat", DUTY_MAIN),
    ALLOW("rt_sigaction", DUTY_MAIN),
    ALLOW("getpgid", DUTY_MAIN),
    ALLOW("getpgrp", DUTY_MAIN),
    ALLOW("geteuid", DUTY_MAIN),
    ALLOW("geteuid32", DUTY_MAIN),
    ALLOW("ioctl", DUTY_MAIN, ARG_IS(1, TIOCGPGRP)),
    ALLOW("ioctl", DUTY_MAIN, ARG_IS(1, TUNSETOFFLOAD)),

    /* Starting threads. */
    ALLOW("clone", START, ARG_BITS(CLONE_FLAGS, NEW_THREAD | NEW_SPACE, NEW_THREAD)),
    ANSWER("clone3", START, ENOSYS),
    ALLOW("set_robust_list", START),
    ALLOW("rseq", START),
    ALLOW("prctl", START, ARG_IS(0, PR_SET_NAME)),
    ALLOW("io_uring_register", START), /* of a ring that is there: to enable it, within its restrictions */
    ALLOW("capget", START),
    ALLOW("capset", START),
    ALLOW("landlock_restrict_self", START),
    ALLOW("seccomp", START),
    ALLOW("epoll_create1", START),
    ALLOW("eventfd2", START),
    ALLOW("sched_setscheduler", START),
};

/* In the handler of SIGSYS. */
static void on_violation(int number, const char *name)
{
    char digits[12], *digit = digits + sizeof(digits);
    const char *const parts[] = {"seccomp: the thread ",
                                 thread_name(),
                                 " made the system call ",
                                 name,
                                 " (",
                                 NULL,
                                 "), which it never needs: the program ends here"};
    char message[256];
    size_t n = 0;

    *--digit = '\0';
    do {
        *--digit = (char)('0' + number % 10);
        number /= 10;
    } while (number > 0 && digit > digits);
    for (unsigned i = 0; i < ARRAY_SIZE(parts); i++) {
        for (const char *c = parts[i] ? parts[i] : digit; *c && n < sizeof(message) - 1; c++)
            message[n++] = *c;
    }
    message[n] = '\0';
    log_from_signal(LOG_LEVEL_ERROR, message);
}

static uint32_t watch_duty;

int seccomp_begin(const struct seccomp_config *config, struct failure *why)
{
    const struct scmp_arg_cmp self = ARG_IS(0, getpid());
    int r = syscall_filter_watch(on_violation);

    if (r < 0)
        return failure(why, r, NULL, "seccomp: cannot watch for SIGSYS");
#ifdef M_ARENA_MAX
    /* Before a further arena of the C library's allocator shrinks, /proc/sys/vm/overcommit_memory is read;
     * the first one is the only one that never does. Where jemalloc is linked, nobody asks this allocator. */
    (void)mallopt(M_ARENA_MAX, 1);
#endif
    for (unsigned i = SELF_ABORT; i <= SELF_ANY; i++)
        rules[i].args[0] = self;
    for (unsigned i = 0; i < ARRAY_SIZE(config->children); i++) {
        rules[CHILD0 + i].args[0] = (struct scmp_arg_cmp)ARG_IS(0, config->children[i]);
        if (config->children[i] <= 0)
            rules[CHILD0 + i].duties = 0;
    }
    watch_duty = config->watch ? WATCH : 0;
    log_startup(LOG_LEVEL_INFO,
                "seccomp: The following syscalls are blocked: all but those that each thread needs.");
    return syscall_filter_load(rules, ARRAY_SIZE(rules), (DUTY_END - 1) | START | watch_duty,
                               FILTER_ALL_THREADS, "the program", why);
}

int seccomp_thread(uint32_t duties, const char *name, struct failure *why)
{
    if (duties & DUTY_MAIN)
        duties |= watch_duty;
    return syscall_filter_load(rules, ARRAY_SIZE(rules), duties, FILTER_THIS_THREAD, name, why);
}
