/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * wakeup.h - eventcount: a consumer sleeps, producers make a system call only when it does
 *
 * The rule, written once. The producer publishes (ring index, flag), passes a full fence, and reads
 * `sleeping`. The consumer writes `sleeping`, passes a full fence, and looks for work once more. At least one
 * of them sees the other's write: what the two fences forbid is the interleaving
 *
 *     consumer: looks, finds nothing     producer: publishes
 *     consumer: sets sleeping            producer: reads sleeping == 0 (stale), sends nothing
 *     consumer: sleeps for ever
 *
 * The sleeper waits on @fd (an eventfd) together with whatever else it waits for. Any number of producers.
 */
#pragma once

#include "base/bits.h"

#include <stdatomic.h>

struct wakeup {
    int fd; /* fixed after wakeup_init() */
    _Alignas(CACHE_LINE) _Atomic uint32_t sleeping;
};

#define WAKEUP_NULL \
    {               \
        .fd = -1    \
    }

/* Before threads start. Returns 0 or a negative errno. */
int wakeup_init(struct wakeup *w);
/* After they ended; may be called twice. */
void wakeup_deinit(struct wakeup *w);

/* The consumer: after this it must look for work once more before it sleeps (wakeup_cancel() if it finds
 * some). */
static inline void wakeup_prepare(struct wakeup *w)
{
    /* Relaxed store, then the fence F1 (pairs with F2): the order is the fence's business. */
    atomic_store_explicit(&w->sleeping, 1, memory_order_relaxed);
    atomic_thread_fence(memory_order_seq_cst);
}

/* The consumer: awake again, for whatever reason. */
static inline void wakeup_cancel(struct wakeup *w)
{
    /* Relaxed: a producer that still sees 1 wakes us once for nothing, no harm. */
    atomic_store_explicit(&w->sleeping, 0, memory_order_relaxed);
}

/* The consumer, when @fd is readable: empties it. */
void wakeup_drain(struct wakeup *w);

/* The system call behind wakeup_notify(); also for those who must be heard in any case (stop requests). */
void wakeup_send(struct wakeup *w);

/* A producer, after publishing. Returns true when it had to wake the consumer (one system call). */
static inline bool wakeup_notify(struct wakeup *w)
{
    atomic_thread_fence(memory_order_seq_cst); /* F2, pairs with F1 */
    /* Relaxed: ordered by the fence. The exchange makes one of several producers send. */
    if (atomic_load_explicit(&w->sleeping, memory_order_relaxed) == 0 ||
        atomic_exchange_explicit(&w->sleeping, 0, memory_order_relaxed) == 0)
        return false;
    wakeup_send(w);
    return true;
}
