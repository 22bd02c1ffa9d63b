/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * thread.h - threads that report when they are ready
 *
 * Each data-plane thread does what needs privilege or a system call that seccomp will forbid (its name, its
 * io_uring), is then confined to its duties, and reports.
 */
#pragma once

#include "base/bits.h"

#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdint.h>

/* What a thread is there for; bits. Who confines it goes by them. */
enum thread_duty {
    DUTY_MAIN = 1 << 0,
    DUTY_TAP_RX = 1 << 1,
    DUTY_TAP_TX = 1 << 2,
    DUTY_RING = 1 << 3, /* reads or writes the TAP by io_uring */
    DUTY_SLIRP = 1 << 4,
    DUTY_FWD = 1 << 5,
    DUTY_API = 1 << 6,
    DUTY_PCAP = 1 << 7,
    DUTY_UDP_OUT = 1 << 8, /* sends the guest's own datagrams, and makes their sockets */
    DUTY_UDP_IN = 1 << 9,  /* receives for them */
    DUTY_END = 1 << 10,    /* the first that is free */
};

struct thread_start {
    const char *name;          /* at most 15 bytes */
    uint32_t duties;           /* enum thread_duty */
    int (*prepare)(void *arg); /* in the new thread; 0 or a negative errno, which ends the thread */
    void (*run)(void *arg);    /* in the new thread, after prepare() succeeded */
    void *arg;
    sem_t *gate; /* NULL, or posted by somebody else: run() waits for it */
};

/* Starts a thread with a small stack and every signal blocked but SIGSYS, which must find its handler
 * (syscall_filter.h), and waits for prepare(). 0 or a negative errno; on failure there is no thread. */
int thread_spawn(pthread_t *ret, const struct thread_start *start);

/* main, before threads: @confine is called in each new thread, after prepare(), and gives up what the
 * thread's duties do not need; a negative errno ends the thread. */
void thread_set_confine(int (*confine)(const struct thread_start *start));

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
/* The name it was registered with; "?" without. Signal handlers too. */
const char *thread_name(void);
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
