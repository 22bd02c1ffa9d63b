/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * seccomp.h - --enable-seccomp: only the system calls that are needed, per thread
 *
 * First one filter for the whole process, which has what any thread needs and what starting them needs; then
 * each thread takes what it does not need itself (thread_set_confine()), main last. Whoever makes another
 * call ends the process with a line that names it.
 */
#pragma once

#include "base/failure.h"
#include "base/thread.h"

#include <stdbool.h>
#include <sys/types.h>

struct seccomp_config {
    bool watch;        /* main looks into /proc later */
    pid_t children[2]; /* whom main may signal; 0: nobody */
};

/* main, before threads, after the last privileged step. Prints the line about it. 0 or a negative errno. */
int seccomp_begin(const struct seccomp_config *config, struct failure *why);

/* Each thread for itself, after seccomp_begin(). @duties are enum thread_duty. 0 or a negative errno. */
int seccomp_thread(uint32_t duties, const char *name, struct failure *why);
