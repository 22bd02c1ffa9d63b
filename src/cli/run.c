/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * run.c
 *
 *   slirp4netns                      child
 *   fork -------------------------->  parent-death signal, unshare(user)
 *   writes the maps         <------- UNSHARED
 *   MAPPED ------------------------>  unshare(network, mount), resolv.conf
 *   opens the TAP by its pid,  <----- MADE
 *   starts agent and threads as       ...
 *   with any other PID                ...
 *   GO ---------------------------->  waits for the IPv6 address, execve(COMMAND)
 *   waits for the end       <------- SIGCHLD
 *
 * The child is forked first of all, so that COMMAND has the signal mask, the limits and the descriptors the
 * program was started with, and because seccomp forbids execve(2) to the program later. It is the target like
 * any other process; nothing behind this file knows a difference. When the program dies before GO, the child
 * reads the end of the socket; after that, the kernel kills it (PR_SET_PDEATHSIG). What COMMAND has started
 * in the background lives on without a network then, as it does when COMMAND ends: there is no PID namespace,
 * because /proc could not be made to fit in a container, and process numbers, debuggers and kill(1) would not
 * mean the same inside and outside.
 *
 * Terminal. COMMAND stays in our process group, so the user's shell sees one job: it is in the foreground as
 * we are, Ctrl-C and Ctrl-Z reach it from the terminal itself, and stop and continue us with it. Therefore a
 * signal that the terminal sent (SI_KERNEL) is not passed on, unless COMMAND has left our group. A signal
 * that somebody sent to us is meant for COMMAND. An interactive shell makes itself a group and takes the
 * terminal; when it suspends itself, we stop, too, or the outer shell would not notice, and send it SIGCONT
 * when we are continued. SIGTTOU is blocked: our log must not stop us while we are in the background.
 *
 * resolv.conf. /etc/resolv.conf may be a link to anywhere, or to nowhere. A mount(2) whose target is named by
 * a descriptor of the link itself (O_PATH | O_NOFOLLOW) covers the link, and path lookup finds the mount
 * before it would follow the link. The file to be mounted lives in a tmpfs that covers /etc for a moment:
 * the one directory that exists if there is anything to be covered.
 *
 * Ids. An ordinary user can map one id without help. Ranges from newuidmap(1) are not used: a file that
 * COMMAND makes with an id of such a range cannot be removed by the user outside. root maps all ids that
 * exist as themselves, so that dropping privileges (apt, sudo) works inside.
 */
#include "cli/run.h"

#include "base/bits.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "cli/text.h"
#include "cli/userns.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#define RESOLV_CONF "/etc/resolv.conf"

enum {
    RESOLV_CONF_SIZE_MAX = 16384,
    IPV6_MS_MAX = 3000, /* for the router advertisement to give the interface its address */
    END_MS_MAX = 3000,  /* between SIGTERM and SIGKILL */
    POLL_MS = 5,
    STATUS_CANNOT_EXECUTE = 126, /* as shells have it */
    STATUS_NOT_FOUND = 127,
};

enum step { STEP_UNSHARED, STEP_MAPPED, STEP_MADE, STEP_GO };

struct message { /* both ends are one program */
    enum step step;
    struct failure failure;
};

static int send_step(int sock, enum step step, const struct failure *why)
{
    struct message message = {.step = step};
    ssize_t n;

    if (why)
        message.failure = *why;
    do {
        n = send(sock, &message, sizeof(message), MSG_NOSIGNAL);
    } while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : 0;
}

/* 0; the failure of the other side; -EPIPE: it has ended. */
static int receive_step(int sock, enum step step, struct failure *why)
{
    struct message message;
    ssize_t n;

    do {
        n = recv(sock, &message, sizeof(message), 0);
    } while (n < 0 && errno == EINTR);
    if (n < 0)
        return failure(why, -errno, NULL, "the process for COMMAND");
    if (n != sizeof(message) || (message.failure.code == 0 && message.step != step))
        return failure(why, -EPIPE, NULL, "the process for COMMAND has ended early");
    if (message.failure.code != 0 && why)
        *why = message.failure;
    return message.failure.code;
}

static void sleep_ms(long ms)
{
    struct timespec t = {.tv_nsec = ms * (long)NS_PER_MS};

    nanosleep(&t, NULL); /* woken early: the caller looks again sooner */
}

/* ---- the child ---- */

static bool is_setting(const char *line)
{
    static const char *const words[] = {"search", "domain", "options", "sortlist"};

    for (unsigned i = 0; i < ARRAY_SIZE(words); i++) {
        size_t size = strlen(words[i]);

        if (strncmp(line, words[i], size) == 0 && (line[size] == ' ' || line[size] == '\t'))
            return true;
    }
    return false;
}

/* Our name servers with the host's search list and options. */
static size_t compose_resolv_conf(char text[RESOLV_CONF_SIZE_MAX], const struct options *o)
{
    char dns[INET_ADDRSTRLEN], line[1024];
    FILE *host = fopen(RESOLV_CONF, "re");
    size_t n;

    n = (size_t)snprintf(text, RESOLV_CONF_SIZE_MAX, "# made by slirp4netns --run\nnameserver %s\n%s",
                         inet_ntop(AF_INET, &o->dns, dns, sizeof(dns)),
                         o->ipv6 ? "nameserver fd00::3\n" : "");
    while (host && fgets(line, sizeof(line), host)) {
        size_t size = strlen(line);

        if (is_setting(line) && line[size - 1] == '\n' && n + size < RESOLV_CONF_SIZE_MAX) {
            memcpy(text + n, line, size + 1);
            n += size;
        }
    }
    if (host)
        fclose(host);
    return n;
}

static int write_resolv_conf(const char *text, size_t size)
{
    _cleanup_close_ int fd = open(RESOLV_CONF, O_CREAT | O_WRONLY | O_CLOEXEC, 0644);

    if (fd < 0 || fchmod(fd, 0644) < 0) /* whatever the umask is */
        return -errno;
    if (write(fd, text, size) != (ssize_t)size)
        return -EIO;
    return 0;
}

static int mount_resolv_conf(const struct options *o, struct failure *why)
{
    _cleanup_close_ int target = -1;
    char text[RESOLV_CONF_SIZE_MAX], path[32];
    size_t size;
    int r;

    if (o->disable_dns)
        return 0;
    target = open(RESOLV_CONF, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    if (target < 0 && errno == ENOENT) {
        log_warning("there is no " RESOLV_CONF " to be replaced: inside, names will not be resolved");
        return 0;
    }
    if (target < 0)
        return failure(why, -errno, NULL, "cannot open " RESOLV_CONF);
    size = compose_resolv_conf(text, o);
    if (mount("tmpfs", "/etc", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "size=64k,mode=0755") < 0)
        return failure(why, -errno, userns_hint(errno), "cannot mount a tmpfs in the new namespace");
    snprintf(path, sizeof(path), "/proc/self/fd/%d", target);
    if ((r = write_resolv_conf(text, size)) < 0)
        failure(why, r, NULL, "cannot write a new " RESOLV_CONF);
    else if (mount(RESOLV_CONF, path, NULL, MS_BIND, NULL) < 0)
        r = failure(why, -errno, "is /proc mounted?", "cannot mount a new " RESOLV_CONF);
    if (umount2("/etc", MNT_DETACH) < 0 && r == 0)
        r = failure(why, -errno, NULL, "cannot uncover /etc");
    return r;
}

/* Duplicate address detection takes a second and finds nobody on a TAP. Without IPv6 there is no such file.
 */
static void hurry_ipv6(void)
{
    _cleanup_close_ int fd = open("/proc/sys/net/ipv6/conf/default/accept_dad", O_WRONLY | O_CLOEXEC);

    if (fd < 0 || write(fd, "0", 1) != 1)
        errno = 0; /* then it takes a second */
}

/* ipv6(7), /proc/net/if_inet6, all in hexadecimal: address, index, prefix length, scope (0: global), flags
 * (0x40: tentative), and the name. */
static bool is_ipv6_address_of(const char *line, const char *interface)
{
    const char *at = strchr(line, ' ');
    long long index, prefix, scope, flags;

    if (!at || !text_number(&at, 16, &index) || !text_number(&at, 16, &prefix) ||
        !text_number(&at, 16, &scope) || !text_number(&at, 16, &flags))
        return false;
    at += strspn(at, " ");
    return scope == 0 && (flags & 0x40) == 0 && strcmp(at, interface) == 0;
}

static bool has_ipv6_address(const char *interface)
{
    char table[4096], *save = NULL;

    if (text_read("/proc/self/net/if_inet6", table, sizeof(table)) < 0)
        return true; /* there will be none */
    for (char *line = strtok_r(table, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        if (is_ipv6_address_of(line, interface))
            return true;
    }
    return false;
}

static void wait_for_ipv6(const struct options *o)
{
    int64_t until_ns = clock_monotonic_ns() + IPV6_MS_MAX * NS_PER_MS;

    while (!has_ipv6_address(o->tap_name)) {
        if (clock_monotonic_ns() > until_ns) {
            log_warning("the interface has no IPv6 address yet (net.ipv6.conf.*.disable_ipv6 may be 1)");
            return;
        }
        sleep_ms(POLL_MS);
    }
}

static int make_rest(const struct options *o, struct failure *why)
{
    if (unshare(CLONE_NEWNET | CLONE_NEWNS) < 0)
        return failure(why, -errno, userns_hint(errno), "cannot make a network and a mount namespace");
    if (mount(NULL, "/", NULL, MS_SLAVE | MS_REC, NULL) < 0)
        return failure(why, -errno, userns_hint(errno), "cannot detach from the host's mounts");
    if (o->ipv6)
        hurry_ipv6();
    return mount_resolv_conf(o, why);
}

static bool exists_in_path(const char *name)
{
    const char *path = getenv("PATH");

    while (path && *path) {
        size_t size = strcspn(path, ":");
        char file[PATH_MAX];
        int n = snprintf(file, sizeof(file), "%.*s/%s", (int)size, path, name);

        if (n > 0 && n < (int)sizeof(file) && access(file, F_OK) == 0)
            return true;
        path += size + (path[size] == ':');
    }
    return false;
}

_Noreturn static void execute(const struct options *o)
{
    const char *shell = getenv("SHELL");
    char *alone[] = {(char *)(shell && *shell ? shell : "/bin/sh"), NULL};
    char **command = o->command ? o->command : alone;
    int status;

    execvp(command[0], command);
    /* A directory of PATH that we may not enter is no reason to call COMMAND forbidden. */
    if (errno == EACCES && !strchr(command[0], '/') && !exists_in_path(command[0]))
        errno = ENOENT;
    status = errno == ENOENT ? STATUS_NOT_FOUND : STATUS_CANNOT_EXECUTE;
    log_plain(LOG_LEVEL_ERROR, "cannot execute %s: %m%s", command[0],
              errno == ENOENT && !strchr(command[0], '/') ? " (it is not in PATH)" : "");
    _exit(status);
}

static int die_with_parent(pid_t parent_pid)
{
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
        return -errno;
    if (getppid() != parent_pid) /* it has ended before that */
        _exit(EXIT_FAILURE);
    return 0;
}

_Noreturn static void child_main(int sock, const struct options *o, pid_t parent_pid)
{
    struct failure why = FAILURE_NULL;
    int r = die_with_parent(parent_pid);

    if (r < 0)
        failure(&why, r, NULL, "prctl(PR_SET_PDEATHSIG)");
    else if (unshare(CLONE_NEWUSER) < 0)
        r = failure(&why, -errno, userns_hint(errno), "cannot make a user namespace");
    if (send_step(sock, STEP_UNSHARED, &why) < 0 || r < 0 || receive_step(sock, STEP_MAPPED, NULL) < 0)
        _exit(EXIT_FAILURE);
    r = make_rest(o, &why);
    if (send_step(sock, STEP_MADE, &why) < 0 || r < 0 || receive_step(sock, STEP_GO, NULL) < 0)
        _exit(EXIT_FAILURE);
    if (o->ipv6)
        wait_for_ipv6(o);
    /* They were meant for us. Not open: nothing to be done. */
    if (o->ready_fd >= 0)
        close(o->ready_fd);
    if (o->exit_fd >= 0)
        close(o->exit_fd);
    execute(o);
}

/* ---- the program ---- */

/* With privileges everybody; where that is not permitted (a container without CAP_SETUID), as anybody else.
 */
static int map_ids(pid_t child, const struct options *o, struct failure *why)
{
    if (geteuid() == 0 && userns_write_maps(child, USERNS_ALL, NULL) == 0)
        return 0;
    return userns_write_maps(child, o->map_current_user ? USERNS_CURRENT : USERNS_ROOT, why);
}

int run_begin(struct run *ret, const struct options *o, struct failure *why)
{
    struct run run = RUN_NULL;
    pid_t parent_pid = getpid();
    int pair[2], r;

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return failure(why, -errno, NULL, "socketpair");
    run.sock = pair[0];
    fflush(NULL); /* or the child would print it again */
    run.pid = fork();
    if (run.pid == 0) {
        close(pair[0]);
        child_main(pair[1], o, parent_pid);
    }
    r = -errno;
    close(pair[1]);
    if (run.pid < 0) {
        closep(&run.sock);
        return failure(why, r, NULL, "fork");
    }
    run.tty_fd = open("/dev/tty", O_RDONLY | O_NOCTTY | O_CLOEXEC);
    if ((r = receive_step(run.sock, STEP_UNSHARED, why)) < 0 || (r = map_ids(run.pid, o, why)) < 0 ||
        (r = send_step(run.sock, STEP_MAPPED, NULL)) < 0 ||
        (r = receive_step(run.sock, STEP_MADE, why)) < 0) {
        run_finish(&run);
        return r;
    }
    *ret = run;
    return 0;
}

void run_signals(sigset_t *set)
{
    static const int numbers[] = {SIGCHLD, SIGCONT, SIGQUIT, SIGUSR1, SIGUSR2, SIGWINCH, SIGALRM, SIGTTOU};

    for (unsigned i = 0; i < ARRAY_SIZE(numbers); i++)
        sigaddset(set, numbers[i]);
}

int run_go(struct run *run, struct failure *why)
{
    int r = send_step(run->sock, STEP_GO, NULL);

    closep(&run->sock);
    if (r < 0)
        return failure(why, r, NULL, "the process for COMMAND has ended early");
    run->started = true;
    return 0;
}

static bool in_our_group(const struct run *run)
{
    return getpgid(run->pid) == getpgrp();
}

void run_signal(struct run *run, const struct signalfd_siginfo *info)
{
    switch (info->ssi_signo) {
    case SIGCHLD:
    case SIGTTOU:
    case SIGCONT: /* run_ended() is where we stop, and go on */
        return;
    default:
        if (info->ssi_code == SI_KERNEL && in_our_group(run)) /* it has got its own */
            return;
        if (kill(run->pid, (int)info->ssi_signo) < 0)
            log_warning("cannot pass signal %u on: %m", info->ssi_signo);
    }
}

/* COMMAND has stopped by @number. If that was not the terminal's doing, which stops us as well, and we are
 * somebody's job, stop, so that it is noticed. */
static void stop_too(const struct run *run, int number)
{
    pid_t foreground = run->tty_fd < 0 ? -1 : tcgetpgrp(run->tty_fd);

    if (in_our_group(run) && number != SIGSTOP && number != SIGTTOU)
        return;
    if (foreground < 0 || (foreground != getpgrp() && foreground != getpgid(run->pid)))
        return;
    if (raise(SIGSTOP) == 0 && kill(run->pid, SIGCONT) < 0)
        log_warning("cannot continue process %d: %m", run->pid);
}

bool run_ended(struct run *run, int *ret_status)
{
    siginfo_t info = {0};

    while (waitid(P_PID, (id_t)run->pid, &info, WEXITED | WSTOPPED | WNOHANG) == 0 && info.si_pid != 0) {
        if (info.si_code == CLD_STOPPED) {
            stop_too(run, info.si_status);
            info.si_pid = 0;
            continue;
        }
        *ret_status = info.si_code == CLD_EXITED ? info.si_status : 128 + info.si_status;
        run->pid = 0;
        return true;
    }
    return false;
}

/* Has the child ended, and been reaped, before @until_ns? */
static bool reap_until(struct run *run, int64_t until_ns)
{
    pid_t pid;

    while ((pid = waitpid(run->pid, NULL, WNOHANG)) == 0 || (pid < 0 && errno == EINTR)) {
        if (clock_monotonic_ns() > until_ns)
            return false;
        sleep_ms(POLL_MS);
    }
    return true;
}

void run_finish(struct run *run)
{
    closep(&run->sock);
    closep(&run->tty_fd);
    if (run->pid == 0)
        return;
    /* A child that still waits ends by itself, without the socket; a stopped COMMAND must go on to end. */
    if (run->started) {
        (void)kill(run->pid, SIGTERM); /* gone already: then the wait is short */
        (void)kill(run->pid, SIGCONT);
    }
    if (!reap_until(run, clock_monotonic_ns() + END_MS_MAX * NS_PER_MS)) {
        /* We own its user namespace, so we may, whoever it is in there and whatever we have given up; a
         * security module may think otherwise. */
        if (kill(run->pid, SIGKILL) < 0)
            log_warning("process %d cannot be ended, and goes on without a network: %m", run->pid);
        else
            while (waitpid(run->pid, NULL, 0) < 0 && errno == EINTR)
                ;
    }
    run->pid = 0;
}
