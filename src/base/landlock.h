/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * landlock.h - landlock(7): a thread gives up the file system for good
 *
 * Every access to files is handled that the running kernel knows, network and signals are not: what is not
 * allowed by a rule fails with EACCES. Descriptors that are open stay usable. Linux 5.13; where the kernel
 * has it not, or not switched on, landlock_version() is 0 and nothing else here is to be called.
 *
 * A thread restricts itself and those that it makes later. It cannot look into other processes any more
 * (ptrace_may_access(): what /proc/PID/ns shows, too).
 */
#pragma once

#include "base/failure.h"

#include <stdint.h>

enum landlock_access { /* linux/landlock.h has the numbers */
                       LANDLOCK_READ_FILE = 1 << 2,
                       LANDLOCK_REMOVE_FILE = 1 << 5,
};

/* The version of the kernel's interface; 0: there is none. Any thread. */
int landlock_version(void);

/* A set of rules that allows nothing. 0 or a negative errno. */
int landlock_new(int *ret_fd);
/* Allows @access below the directory @dir_fd. 0 or a negative errno. */
int landlock_allow(int ruleset_fd, int dir_fd, uint64_t access);
/* The calling thread, once no_new_privs is set. 0 or a negative errno. */
int landlock_enter(int ruleset_fd);
