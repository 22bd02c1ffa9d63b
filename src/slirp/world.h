/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * world.h - stopping one thread at a safe point so that another may do its work for a moment
 *
 * running --request--> stopping --the stopped one parks--> parked --resume--> running
 *
 * It looks at a flag once per turn of its loop; while nobody asks that is all it costs. The api
 * thread is the only stopper (role_api has one thread) and holds the lock from stop to resume. When the
 * other one ends (for good), stops succeed at once: its role is free.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct world {
    bool counted;         /* world_stops and the like tell of it; fixed */
    pthread_mutex_t lock; /* taken by one thread at a time, nothing is locked inside */
    pthread_cond_t changed;
    bool parked, ended;     /* under lock */
    _Atomic bool requested; /* written under lock, read by the stopped one without */
    int64_t stopped_ns;     /* the stopper's: when the current stop began to hold */
};

void world_init(struct world *w, bool counted);
void world_deinit(struct world *w);

/* The stopper: @kick makes the other one look soon. Returns when it is parked. */
void world_hold(struct world *w, void (*kick)(void *arg), void *arg);
void world_release(struct world *w);

/* The stopped one, once per turn. */
void world_park(struct world *w);
static inline bool world_wanted(struct world *w)
{
    /* Relaxed: only a hint to take the lock, which orders everything. */
    return atomic_load_explicit(&w->requested, memory_order_relaxed);
}
/* The stopped one, when it ends; main, when the thread was never started. */
void world_end(struct world *w);
