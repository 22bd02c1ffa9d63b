/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * target.h - notice that nobody is left in the guest's network namespace
 *
 * The TAP itself keeps the namespace alive, so the kernel never says that it is gone. With a PID as target we
 * watch that process; once it has ended and no other process is in its network namespace, there is nobody
 * left to serve. main only.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct target_watch {
    int pid_fd;  /* readable when the target has ended; -1: not watched, or it has ended before */
    int proc_fd; /* /proc, kept for the time after the sandbox's pivot_root; -1: not watched */
    bool ended;  /* before the watch began */
    dev_t net_dev;
    ino_t net_ino;
};

#define TARGET_WATCH_NULL           \
    {                               \
        .pid_fd = -1, .proc_fd = -1 \
    }

/* Begins to watch process @pid, whose network namespace is @net_fd (the caller's); without pidfds or without
 * permission there is just no watch. The process may have ended, and its id may be another's by now. */
void target_watch_init(struct target_watch *w, pid_t pid, int net_fd);
bool target_watch_is_on(const struct target_watch *w);
void target_watch_deinit(struct target_watch *w);

/* Is any process in the target's network namespace that is no nsagent? What cannot be read counts as no
 * unless it belongs to somebody whose namespaces we could read if they were the target's: same owner, or any
 * when we are privileged. */
bool target_watch_in_use(const struct target_watch *w);
