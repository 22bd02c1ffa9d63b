/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * thread.h - threads that report when they are ready
 *
 * Each data-plane thread does what needs privilege or a system call that seccomp will forbid (its name, its
 * io_uring) before it reports; main seals the process only after all have.
 */
#pragma once

#include <pthread.h>

struct thread_start {
    const char *name;          /* at most 15 bytes */
    int (*prepare)(void *arg); /* in the new thread; 0 or a negative errno, which ends the thread */
    void (*run)(void *arg);    /* in the new thread, after prepare() succeeded */
    void *arg;
};

/* Starts a thread with every signal blocked and a small stack, and waits for prepare(). 0 or a negative
 * errno; on failure there is no thread. */
int thread_spawn(pthread_t *ret, const struct thread_start *start);
