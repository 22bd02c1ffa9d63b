/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * agent_process.c - the nsagent itself
 *
 * Set-up, in an order that matters: signals and descriptors first (nothing of the parent's is left but the
 * socket); the user namespace, which gives the capabilities that joining the network namespace needs (EINVAL:
 * in it already); what has to be opened in the network namespace; the report to the parent, which goes on;
 * with its first request, and before that is read, the file system and the capabilities are given up; the
 * parent-death signal after them, because changing credentials clears it (prctl(2)); the filters last.
 *
 * It does not become id 0: CAP_NET_ADMIN over the namespace is what the network's sysctls ask for
 * (net_ctl_permissions()), and with its parent's own id the parent may always signal it. It is not dumpable,
 * and the memory of a forked process stays the property of the user namespace in which its parent was
 * executed, so not even root of the guest may ptrace(2) it; killing it only makes flows slower.
 *
 * Then agent_serve.c takes over. The parent-death signal only sees to it that tidying up does not take longer
 * than LAST_S.
 *
 * The standby. Nobody but the agent itself can make another one later: the parent is in the sandbox by then.
 * So, when all has been given up and before the first request is read, it makes a copy of itself, which is
 * the parent's child (CLONE_PARENT: the parent reaps it, and may end it), and gives the parent one end of a
 * pair whose other end the copy has. The copy waits for a first request, as its original did; the parent
 * sends it when the original has ended. Then the copy makes a copy and so on, and each of them does what it
 * has to do for that before it reads a byte. So there are two filters: the first one, of which every copy is
 * born, has what making a copy needs, the second one, which the one that serves has besides, has not.
 *
 * All of them have the same sockets of netlink, but only the one that serves uses them (the owner of the nft
 * table is such a socket); and one page of memory in common (agent_net.h).
 */
#include "fwd/agent_serve.h"

#include "base/bits.h"
#include "base/landlock.h"
#include "base/syscall_filter.h"

#include <cap-ng.h>
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <link.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef CLONE_PIDFD
#define CLONE_PIDFD 0x1000 /* Linux 5.2 */
#endif
#ifndef P_PIDFD
#define P_PIDFD 3 /* Linux 5.4 */
#endif

enum {
    SOCK_FD = 3, /* where descriptors are moved to; the standby has its socket elsewhere */
    USERNS_FD,
    NETNS_FD,
    FIRST_FREE_FD,
    FD_GUESS_MAX = 65536, /* closed one by one where nothing tells which are open */
    LAST_S = 5,           /* to tidy up when the parent was killed */
    /* Answers of netlink that the former agent has not read are there for its standby, which begins with
     * numbers that cannot have been used. */
    SUCCESSOR_SEQUENCE = 1 << 28,
};
#define NEW_ROOT "/tmp"
#define COPY_FLAGS (CLONE_PARENT | CLONE_PIDFD | SIGCHLD)
#ifdef __s390__
#define CLONE_FLAGS 1 /* which argument of clone(2) they are */
#else
#define CLONE_FLAGS 0
#endif

/* The one of this process. */
static struct agent_serve serve = {.sock = SOCK_FD, .reasons = {-1, -1}, .net = {.sysctl_fd = -1}};

/* The end of the socket is noticed as well; but nothing may make us outlive the parent for long. */
static void parent_died(int number)
{
    (void)number;
    alarm(LAST_S); /* SIGALRM has its default action */
}

/* Like a new process, except that a terminal, or a service manager that signals everybody, does not end us
 * before the parent: it may still have use for the agent while it shuts down. */
static void signals_reset(void)
{
    static const int ignored[] = {SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGPIPE};
    sigset_t none;

    for (int i = 1; i < NSIG; i++)
        signal(i, SIG_DFL); /* EINVAL for those that have no other */
    for (unsigned i = 0; i < ARRAY_SIZE(ignored); i++)
        signal(ignored[i], SIG_IGN);
    signal(SIGUSR1, parent_died);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

/* Linux before 5.9, or a seccomp profile as old. */
static void close_one_by_one(void)
{
    DIR *dir = opendir("/proc/self/fd");
    struct dirent *entry;

    if (!dir) {
        for (int fd = FIRST_FREE_FD; fd < FD_GUESS_MAX; fd++)
            close(fd);
        return;
    }
    while ((entry = readdir(dir))) {
        int fd = isdigit((unsigned char)entry->d_name[0]) ? (int)strtol(entry->d_name, NULL, 10) : -1;

        if (fd >= FIRST_FREE_FD && fd != dirfd(dir))
            close(fd);
    }
    closedir(dir);
}

/* Afterwards these are open and nothing else: SOCK_FD, USERNS_FD (if any), NETNS_FD, and /dev/null at 0 to 2
 * (whatever a library should have to say must not go into a socket). */
static int descriptors_keep(int sock, const struct agent_config *config, struct failure *why)
{
    int fds[] = {[SOCK_FD] = sock, [USERNS_FD] = config->userns_fd, [NETNS_FD] = config->netns_fd}, null_fd;

    /* Out of the way first, so that no move closes one that is still to be moved. */
    for (int i = SOCK_FD; i < FIRST_FREE_FD; i++) {
        if (fds[i] >= 0 && (fds[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, FIRST_FREE_FD)) < 0)
            return failure(why, -errno, "descriptors may be running out", "the agent's descriptors");
    }
    for (int i = SOCK_FD; i < FIRST_FREE_FD; i++) {
        if (fds[i] < 0)
            close(i);
        else if (dup3(fds[i], i, O_CLOEXEC) < 0)
            return failure(why, -errno, NULL, "the agent's descriptors");
    }
    null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    for (int i = 0; i < SOCK_FD - SYSCALL_FILTER_SANITIZED; i++) {
        if (null_fd < 0 || dup2(null_fd, i) < 0)
            close(i);
    }
    if (syscall(SYS_close_range, FIRST_FREE_FD, ~0U, 0) < 0)
        close_one_by_one();
    return 0;
}

static int namespaces_join(const struct agent_config *config, struct failure *why)
{
    int user_error = 0;

    if (config->userns_fd >= 0) {
        if (setns(USERNS_FD, CLONE_NEWUSER) < 0 && errno != EINVAL) /* EINVAL: in it already */
            user_error = errno;                                     /* the next step decides */
        close(USERNS_FD);
    }
    if (setns(NETNS_FD, CLONE_NEWNET) < 0)
        return failure(why, -errno,
                       user_error        ? "its user namespace could not be joined"
                       : errno == EPERM  ? "it belongs to a user namespace other than the one joined"
                       : errno == EINVAL ? "this file is no network namespace"
                                         : NULL,
                       "the agent cannot join the guest's network namespace");
    close(NETNS_FD);
    return 0;
}

/* What the report to the parent has no place for any more. Also in the handler of SIGSYS. */
static void complain(enum agent_complaint complaint, int number)
{
    const struct agent_message m = {
        .type = MESSAGE_COMPLAINT, .count = (uint16_t)complaint, .result = number};

    (void)send(serve.sock, &m, sizeof(m), MSG_NOSIGNAL | MSG_DONTWAIT); /* no place: it stays unsaid */
}

static void on_violation(int number, const char *name)
{
    (void)name;
    complain(AGENT_MADE_CALL, number);
}

/* An empty root that cannot be written, in a mount namespace of its own. 0 or a negative errno: no capability
 * for it, or no directory to mount on. */
static int empty_root(void)
{
    if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_SLAVE | MS_REC, NULL) < 0 ||
        mount("tmpfs", NEW_ROOT, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "size=4k,nr_inodes=2,mode=0555") <
            0 ||
        chdir(NEW_ROOT) < 0)
        return -errno;
    /* The old root ends up on top of the new one, and goes. */
    if (syscall(SYS_pivot_root, ".", ".") < 0 || umount2(".", MNT_DETACH) < 0 || chdir("/") < 0 ||
        mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0)
        return -errno;
    return 0;
}

/* Behind the filter, which lets nothing be opened: for the day when something in it is wrong. */
static void files_close(void)
{
    int fd = -1, r = empty_root();

    if (landlock_version() > 0 && landlock_new(&fd) == 0) {
        if (landlock_enter(fd) == 0)
            r = 0;
        close(fd);
    }
    if (r < 0)
        complain(AGENT_SEES_FILES, r);
}

/* 0 or a negative errno. The parent may have ended before: then this is the end. */
static int follow_parent(pid_t parent_pid)
{
    pid_t parent_now;

    if (prctl(PR_SET_PDEATHSIG, SIGUSR1) < 0)
        return -errno;
    /* 0: it is in another PID namespace, and only its end of the socket will tell. */
    parent_now = getppid();
    if (parent_now != parent_pid && parent_now != 0)
        _exit(EXIT_FAILURE);
    return 0;
}

static int privileges_drop(pid_t parent_pid, struct failure *why)
{
    int r;

    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        return failure(why, -errno, NULL, "the agent's no_new_privs");
    files_close();
    capng_clear(CAPNG_SELECT_ALL);
    if (capng_update(CAPNG_ADD, CAPNG_EFFECTIVE | CAPNG_PERMITTED, CAP_NET_ADMIN) < 0)
        return failure(why, -ENOSYS, NULL, "libcap-ng and this kernel");
    /* Without CAP_SETPCAP the bounding set stays as it is, which matters only to execve(2), and that is
     * forbidden. */
    (void)capng_apply(CAPNG_SELECT_BOUNDS);
    capng_clear(CAPNG_SELECT_ALL);
    if (capng_update(CAPNG_ADD, CAPNG_EFFECTIVE | CAPNG_PERMITTED, CAP_NET_ADMIN) < 0 ||
        capng_apply(CAPNG_SELECT_CAPS) < 0)
        return failure(why, -EPERM,
                       "the user namespace that owns the network namespace was not joined: give a PID, or "
                       "--userns-path",
                       "the agent does not have CAP_NET_ADMIN");
    if (prctl(PR_SET_DUMPABLE, 0) < 0)
        return failure(why, -errno, NULL, "the agent's prctl");
    r = follow_parent(parent_pid);
    return r < 0 ? failure(why, r, NULL, "the agent's prctl") : 0;
}

/* What agent_serve_run() does: talk, wait, tell the time, make stream sockets of the two families (in repair
 * mode bind(2) and connect(2) send nothing), set one sysctl through its open descriptor. What the C library
 * and the allocator may do meanwhile. No file, no other process, no namespace. */
enum { AGENT = 1, COPY = 2 /* making a standby, being made one, taking over */ };

#define STREAM (SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC)

static const struct syscall_rule rules[] = {
    ALLOW("poll", AGENT),
    ALLOW("ppoll", AGENT),
    ALLOW("ppoll_time64", AGENT),
    ALLOW("recvfrom", AGENT),
    ALLOW("recvmsg", AGENT),
    ALLOW("sendmsg", AGENT),
    ALLOW("sendto", AGENT),
    ALLOW("close", AGENT),
    ALLOW("setsockopt", AGENT),
    ALLOW("pread64", AGENT),
    ALLOW("pwrite64", AGENT),
    ALLOW("clock_gettime", AGENT),
    ALLOW("exit", AGENT),
    ALLOW("exit_group", AGENT),
    ALLOW("alarm", AGENT),
    ALLOW("setitimer", AGENT),
    ALLOW("rt_sigreturn", AGENT),
    ALLOW("sigreturn", AGENT),
    ALLOW("restart_syscall", AGENT),
    ALLOW("clock_gettime64", AGENT),
    ALLOW_MEMORY(AGENT),
    ALLOW("getcpu", AGENT),
    ALLOW("sched_yield", AGENT),
    ALLOW("bind", AGENT),
    ALLOW("connect", AGENT),
    ALLOW("send", AGENT),
    ALLOW("recv", AGENT),
    ALLOW("getsockopt", AGENT),
    ALLOW("socket", AGENT, ARG_IS(0, AF_INET), ARG_IS(1, STREAM), ARG_IS(2, 0)),
    ALLOW("socket", AGENT, ARG_IS(0, AF_INET6), ARG_IS(1, STREAM), ARG_IS(2, 0)),
    ALLOW("socketpair", COPY, ARG_IS(0, AF_UNIX), ARG_IS(1, SOCK_SEQPACKET | SOCK_CLOEXEC), ARG_IS(2, 0)),
    ALLOW("clone", COPY, ARG_IS(CLONE_FLAGS, COPY_FLAGS)),
    ALLOW("prctl", COPY, ARG_IS(0, PR_SET_PDEATHSIG), ARG_IS(1, SIGUSR1)),
    ALLOW("getppid", COPY),
    ALLOW("seccomp", COPY),
};

/* The first one, then the one without COPY. */
static int filter_enter(uint32_t duties, struct failure *why)
{
    int r = 0;

    if (SYSCALL_FILTER_SANITIZED) /* it wants to say on stderr what it has found, which takes files */
        return 0;
    if (duties & COPY)
        r = syscall_filter_watch(on_violation);
    return r < 0
               ? failure(why, r, NULL, "the agent's handler of SIGSYS")
               : syscall_filter_load(rules, ARRAY_SIZE(rules), duties, FILTER_THIS_THREAD, "the agent", why);
}

/* ---- the standby ---- */

/* Until there is a request, which is not read yet. False: there will be none. */
static bool wait_for_request(void)
{
    struct pollfd p = {.fd = serve.sock, .events = POLLIN};
    char byte;

    while (poll(&p, 1, -1) < 0) {
        if (errno != EINTR)
            return false;
    }
    return recv(serve.sock, &byte, 1, MSG_PEEK | MSG_DONTWAIT) > 0;
}

/* The parent would know the copy by its pidfd only. */
static bool can_copy(void)
{
    siginfo_t info;

    return waitid(P_PIDFD, INT_MAX, &info, WEXITED | WNOHANG) < 0 && errno == EBADF;
}

/* In the copy: what its original has and does is none of its business. */
static void be_standby(const int pair[2], pid_t parent_pid)
{
    close(serve.sock);
    close(pair[0]);
    serve.sock = pair[1];
    serve.net.sequence += SUCCESSOR_SEQUENCE;
    serve.diag.sequence += SUCCESSOR_SEQUENCE;
    if (serve.nft)
        nft_succeed(serve.nft, SUCCESSOR_SEQUENCE);
    if (follow_parent(parent_pid) < 0)
        _exit(EXIT_FAILURE);
}

/* Makes a standby. True: this process is the one. Without one the agent does its work as well. */
static bool copy_make(pid_t parent_pid)
{
    int pair[2], pidfd = -1, r = 0;
    long pid, flags = COPY_FLAGS;

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
        complain(AGENT_STANDS_ALONE, -errno);
        return false;
    }
    /* As fork(2) does it: no stack of its own, and the third argument is the same for all architectures. */
    pid = CLONE_FLAGS == 0 ? syscall(SYS_clone, flags, 0L, &pidfd, 0L, 0L)
                           : syscall(SYS_clone, 0L, flags, &pidfd, 0L, 0L);
    if (pid == 0) {
        be_standby(pair, parent_pid);
        return true;
    }
    if (pid < 0)
        complain(AGENT_STANDS_ALONE, -errno);
    else
        r = agent_serve_standby(&serve, (pid_t)pid, pair[0], pidfd);
    if (r < 0) /* too many descriptors on their way: nobody knows it, so it ends */
        complain(AGENT_STANDS_ALONE, r);
    close(pair[0]);
    close(pair[1]);
    if (pidfd >= 0)
        close(pidfd);
    return false;
}

/* While files may still be opened and modules loaded. Not having it is no failure. */
static int divert_open(struct agent_serve *a, const struct agent_config *config)
{
    if (!config->divert)
        return -ENODEV;
    (void)repair_wscale(); /* reads a sysctl, and remembers it */
    (void)sock_diag_init(
        &a->diag); /* without it, a port that is used again goes through libslirp for a minute */
    return nft_new(&a->nft, config->mark, config->mark_mask);
}

/* Most code has done its work for good: making filters, opening, naming. What is needed again comes back by
 * itself, from memory that all processes have in common. It is most of what would be resident. */
static int code_give_back(struct dl_phdr_info *object, size_t size, void *arg)
{
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);

    (void)size;
    (void)arg;
    for (unsigned i = 0; i < object->dlpi_phnum; i++) {
        const ElfW(Phdr) *segment = &object->dlpi_phdr[i];
        uintptr_t begin = (object->dlpi_addr + segment->p_vaddr) & ~(page - 1);
        uintptr_t end = object->dlpi_addr + segment->p_vaddr + segment->p_memsz;

        if (segment->p_type == PT_LOAD && !(segment->p_flags & PF_W))
            (void)madvise((void *)begin, end - begin, MADV_DONTNEED); /* then it stays */
    }
    return 0;
}

static int confine(pid_t parent_pid, struct failure *why)
{
    int r = privileges_drop(parent_pid, why);

    return r < 0 ? r : filter_enter(AGENT | COPY, why);
}

/* A second report: it takes the first one back. */
_Noreturn static void give_up(const struct failure *why)
{
    (void)agent_serve_started(&serve, why, 0);
    _exit(EXIT_FAILURE);
}

_Noreturn void agent_process(int sock, const struct agent_config *config, pid_t parent_pid)
{
    static const struct rlimit no_core = {.rlim_cur = 0, .rlim_max = 0};
    struct failure why = FAILURE_NULL;
    const bool copies = can_copy();
    int divert_state = -ENODEV;
    int r = descriptors_keep(sock, config, &why);

    if (r < 0)
        _exit(EXIT_FAILURE); /* there may be no socket to say it through; the parent sees the end */
    signals_reset();
    /* None of these four is worth failing for: a name, memory in core files, a terminal's job control, a
     * directory that cannot be unmounted. */
    (void)prctl(PR_SET_NAME, "nsagent");
    (void)setrlimit(RLIMIT_CORE, &no_core);
    (void)setsid();
    if (chdir("/") < 0)
        errno = 0;
    if ((r = prctl(PR_SET_DUMPABLE, 0)) < 0) /* before the guest can see us */
        failure(&why, -errno, NULL, "the agent's prctl");
    if (r == 0 && (r = namespaces_join(config, &why)) == 0)
        r = agent_net_init(&serve.net, config, &why);
    if (r == 0)
        divert_state = divert_open(&serve, config);
    if (r == 0 && config->sealed)
        r = confine(parent_pid, &why);
    if (agent_serve_started(&serve, &why, divert_state) < 0 || r < 0)
        _exit(EXIT_FAILURE);
    /* The parent need not wait for what follows, nor share the processor with it: not before its first
     * request, which is not read before that. */
    if (!wait_for_request())
        _exit(EXIT_SUCCESS);
    if (!config->sealed && confine(parent_pid, &why) < 0)
        give_up(&why);
    if (!copies)
        complain(AGENT_STANDS_ALONE, -ENOSYS);
    while (copies && copy_make(parent_pid)) {
        if (!wait_for_request())
            _exit(EXIT_SUCCESS);
    }
    if (filter_enter(AGENT, &why) < 0)
        give_up(&why);
    (void)dl_iterate_phdr(code_give_back, NULL);
    agent_serve_run(&serve);
    _exit(EXIT_SUCCESS);
}
