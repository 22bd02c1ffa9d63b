/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * agent_child.h - an nsagent, or the standby of one, as its parent holds it
 *
 * By a pidfd, because the process id of a standby is only what its maker says. Linux 5.4; without pidfds
 * there are no standbys, and the first agent is held by its process id, which is ours because we have forked
 * it. Any thread; a struct belongs to one at a time.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct agent_child {
    pid_t pid; /* 0: there is none */
    int pidfd; /* -1: held by its process id */
    int fd;    /* the conversation */
};

#define AGENT_CHILD_NULL      \
    {                         \
        .pidfd = -1, .fd = -1 \
    }

/* Of the process that we have forked, which is not reaped yet: makes its pidfd, if this kernel has them. */
void agent_child_hold(struct agent_child *c);
/* Is this the pidfd of a child of ours that nobody has reaped? Nobody else is ever signalled. */
bool agent_child_is_ours(int pidfd);

/* SIGKILL, if it is there. */
void agent_child_kill(const struct agent_child *c);
/* True: it is no more (there was none, it has been reaped, somebody else has); false: it has not ended. */
bool agent_child_reap(const struct agent_child *c);
/* The same, waiting until @until_ns (CLOCK_MONOTONIC) at most. */
bool agent_child_wait(const struct agent_child *c, int64_t until_ns);
/* Ends the conversation, in all copies of the descriptor. The process sees it; so does a send of its that
 * waits.
 */
void agent_child_hang_up(struct agent_child *c);
/* Gives the descriptors back and forgets the process. */
void agent_child_close(struct agent_child *c);
