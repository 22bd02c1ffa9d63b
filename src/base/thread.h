/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * thread.h - threads that report when they are ready
 *
 * Each data-plane thread does what needs privilege or a system call that seccomp will forbid (its name, its
 * io_uring) before it reports; main seals the process only after all have.
 */
#pragma once

#include "base/bits.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>

struct thread_start {
    const char *name;          /* at most 15 bytes */
    int (*prepare)(void *arg); /* in the new thread; 0 or a negative errno, which ends the thread */
    void (*run)(void *arg);    /* in the new thread, after prepare() succeeded */
    void *arg;
};

/* Starts a thread with every signal blocked and a small stack, and waits for prepare(). 0 or a negative
 * errno; on failure there is no thread. */
int thread_spawn(pthread_t *ret, const struct thread_start *start);

/*
 * What each thread counts of itself, and the CPU time the kernel counts of it. Rows are made by
 * thread_register(): thread_spawn() does it for its threads, main for itself; beyond THREADS_MAX a thread is
 * simply not shown. A row stays when its thread has ended.
 */
enum { THREADS_MAX = 32 };

struct thread_info {
    char name[16];
    uint64_t cpu_ns;   /* user and system */
    uint64_t turns;    /* of its loop */
    uint64_t wake_ups; /* times another thread had to wake it */
};

/* The thread itself, once. */
void thread_register(const char *name);
/* Any thread: rows of the threads that live, in the order in which they were made. Returns how many. */
unsigned threads_info(struct thread_info ret[THREADS_MAX]);

struct thread_counts {
    _Alignas(CACHE_LINE) _Atomic uint64_t turns; /* written by the thread, read by anyone, relaxed */
    _Atomic uint64_t wake_ups;
};
extern _Thread_local struct thread_counts *thread_counts;

static inline void thread_count(_Atomic uint64_t *v)
{
    atomic_store_explicit(v, atomic_load_explicit(v, memory_order_relaxed) + 1, memory_order_relaxed);
}

static inline void thread_count_turn(void)
{
    thread_count(&thread_counts->turns);
}

static inline void thread_count_wake_up(void)
{
    thread_count(&thread_counts->wake_ups);
}
