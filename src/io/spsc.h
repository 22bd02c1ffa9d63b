/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * spsc.h - ring of frame ids between one producer thread and one consumer thread, without locks
 *
 * Owner: whoever initialised it; one thread pushes, one other thread pops, for the ring's whole life. What an
 * id stands for changes owner with it: after a push the producer must not touch the frame any more. A full
 * ring takes only part of a batch: the producer keeps the rest (and drops it, counted).
 *
 * Indices run free through 2^32 and are masked on use, so "full" and "empty" are never confused and
 * differences are exact. Head and tail live on separate cache lines, each with the other end's last seen
 * value beside it, so that a batch usually costs no traffic between cores except the published index.
 */
#pragma once

#include "base/bits.h"

#include <assert.h>
#include <stdatomic.h>
#include <stdlib.h>

typedef uint32_t frame_id;

struct spsc {
    frame_id *slot; /* fixed after spsc_init() */
    uint32_t mask;
    _Alignas(CACHE_LINE) _Atomic uint32_t tail; /* written by the producer */
    uint32_t head_seen;                         /* the producer's copy of head */
    _Alignas(CACHE_LINE) _Atomic uint32_t head; /* written by the consumer */
    uint32_t tail_seen;                         /* the consumer's copy of tail */
};
static_assert(offsetof(struct spsc, head) - offsetof(struct spsc, tail) >= CACHE_LINE,
              "the two ends share a line");

/* Before the two threads start. @n_slots: a power of two. @first_index: where the indices begin (tests start
 * near the wrap-around). Returns 0 or -1 (errno: ENOMEM). */
static inline int spsc_init(struct spsc *r, uint32_t n_slots, uint32_t first_index)
{
    assert(is_pow2(n_slots));
    r->slot = calloc(n_slots, sizeof(*r->slot));
    if (!r->slot)
        return -1;
    r->mask = n_slots - 1;
    atomic_init(&r->tail, first_index);
    atomic_init(&r->head, first_index);
    r->head_seen = r->tail_seen = first_index;
    return 0;
}

/* After both threads ended. */
static inline void spsc_deinit(struct spsc *r)
{
    free(r->slot);
    r->slot = NULL;
}

/* The one producer. Takes the first of @n ids that fit and returns how many; they belong to the consumer now.
 */
static inline uint32_t spsc_push(struct spsc *r, const frame_id *in, uint32_t n)
{
    /* Relaxed: only this thread writes tail. */
    uint32_t tail = atomic_load_explicit(&r->tail, memory_order_relaxed);

    if (r->mask + 1 - (tail - r->head_seen) < n) {
        /* A2, pairs with R2 in spsc_pop(): the consumer has read the slots it gave back before we fill them
         * again. */
        r->head_seen = atomic_load_explicit(&r->head, memory_order_acquire);
        n = min_u32(n, r->mask + 1 - (tail - r->head_seen));
    }
    for (uint32_t i = 0; i < n; i++)
        r->slot[(tail + i) & r->mask] = in[i];
    /* R1, pairs with A1 in spsc_pop(): ids (and the frames they name) are in place before the index that
     * shows them. */
    atomic_store_explicit(&r->tail, tail + n, memory_order_release);
    return n;
}

/* The one consumer. Moves up to @max ids to @out and returns how many; they belong to the caller now. */
static inline uint32_t spsc_pop(struct spsc *r, frame_id *out, uint32_t max)
{
    /* Relaxed: only this thread writes head. */
    uint32_t head = atomic_load_explicit(&r->head, memory_order_relaxed), n;

    if (r->tail_seen - head < max) {
        /* A1, pairs with R1 in spsc_push(). */
        r->tail_seen = atomic_load_explicit(&r->tail, memory_order_acquire);
    }
    n = min_u32(max, r->tail_seen - head);
    for (uint32_t i = 0; i < n; i++)
        out[i] = r->slot[(head + i) & r->mask];
    /* R2, pairs with A2 in spsc_push(): the slots have been read before they are given back. */
    atomic_store_explicit(&r->head, head + n, memory_order_release);
    return n;
}

/* The consumer, or the producer for its own purposes: is there anything to pop? A hint unless asked by the
 * consumer. */
static inline bool spsc_empty(struct spsc *r)
{
    /* A1 again: an id seen here may be popped. Head is ours (consumer) or merely old (producer). */
    return atomic_load_explicit(&r->tail, memory_order_acquire) ==
           atomic_load_explicit(&r->head, memory_order_relaxed);
}
