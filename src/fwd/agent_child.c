/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "fwd/agent_child.h"

#include "base/cleanup.h"
#include "base/clock.h"

#include <errno.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef P_PIDFD
#define P_PIDFD 3 /* Linux 5.4 */
#endif

enum { STEP_NS = 2000000 };

void agent_child_hold(struct agent_child *c)
{
    c->pidfd = (int)syscall(SYS_pidfd_open, c->pid, 0);  /* close-on-exec by itself */
    if (c->pidfd >= 0 && !agent_child_is_ours(c->pidfd)) /* Linux 5.3 cannot wait for one */
        closep(&c->pidfd);
}

bool agent_child_is_ours(int pidfd)
{
    siginfo_t info;

    return waitid(P_PIDFD, (id_t)pidfd, &info, WEXITED | WNOHANG | WNOWAIT) == 0;
}

void agent_child_kill(const struct agent_child *c)
{
    /* Failing means that it has been reaped. */
    if (c->pidfd >= 0)
        (void)syscall(SYS_pidfd_send_signal, c->pidfd, SIGKILL, NULL, 0);
    else if (c->pid > 0)
        (void)kill(c->pid, SIGKILL);
}

bool agent_child_reap(const struct agent_child *c)
{
    siginfo_t info = {.si_pid = 0};
    int r;

    if (c->pid <= 0)
        return true;
    do {
        r = waitid(c->pidfd >= 0 ? P_PIDFD : P_PID, (id_t)(c->pidfd >= 0 ? c->pidfd : c->pid), &info,
                   WEXITED | WNOHANG);
    } while (r < 0 && errno == EINTR);
    return r < 0 || info.si_pid != 0; /* ECHILD: somebody was faster */
}

bool agent_child_wait(const struct agent_child *c, int64_t until_ns)
{
    static const struct timespec step = {.tv_nsec = STEP_NS};

    while (!agent_child_reap(c)) {
        if (clock_monotonic_ns() >= until_ns)
            return false;
        nanosleep(&step, NULL);
    }
    return true;
}

void agent_child_hang_up(struct agent_child *c)
{
    if (c->fd >= 0)
        shutdown(c->fd, SHUT_RDWR);
    closep(&c->fd);
}

void agent_child_close(struct agent_child *c)
{
    closep(&c->fd);
    closep(&c->pidfd);
    c->pid = 0;
}
