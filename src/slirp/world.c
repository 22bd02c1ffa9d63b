/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "slirp/world.h"

#include "base/clock.h"
#include "base/counters.h"

void world_init(struct world *w, bool counted)
{
    *w =
        (struct world){.counted = counted, .ended = true}; /* until the thread runs there is nobody to stop */
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->changed, NULL);
}

void world_deinit(struct world *w)
{
    pthread_cond_destroy(&w->changed);
    pthread_mutex_destroy(&w->lock);
}

void world_hold(struct world *w, void (*kick)(void *arg), void *arg)
{
    pthread_mutex_lock(&w->lock);
    atomic_store_explicit(&w->requested, true, memory_order_relaxed); /* see world_wanted() */
    kick(arg);
    while (!w->parked && !w->ended)
        pthread_cond_wait(&w->changed, &w->lock);
    w->stopped_ns = clock_monotonic_ns();
}

static void count(uint64_t pause_ns)
{
    counter_add(COUNTER_world_stops, 1);
    counter_add(COUNTER_world_stop_ns_total, pause_ns);
    if (pause_ns > 1 * NS_PER_MS)
        counter_add(COUNTER_world_stops_over_1ms, 1);
    if (pause_ns > 5 * NS_PER_MS)
        counter_add(COUNTER_world_stops_over_5ms, 1);
    if (pause_ns > counter_read(COUNTER_world_stop_ns_max))
        counter_set(COUNTER_world_stop_ns_max, pause_ns);
}

void world_release(struct world *w)
{
    if (w->counted)
        count(clock_monotonic_ns() - w->stopped_ns);
    atomic_store_explicit(&w->requested, false, memory_order_relaxed);
    pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->lock);
}

void world_park(struct world *w)
{
    pthread_mutex_lock(&w->lock);
    w->parked = true;
    pthread_cond_broadcast(&w->changed);
    while (atomic_load_explicit(&w->requested, memory_order_relaxed))
        pthread_cond_wait(&w->changed, &w->lock);
    w->parked = false;
    pthread_mutex_unlock(&w->lock);
}

void world_end(struct world *w)
{
    pthread_mutex_lock(&w->lock);
    w->ended = true;
    pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->lock);
}
