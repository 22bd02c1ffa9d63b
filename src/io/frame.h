/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * frame.h - pool of Ethernet frame buffers, named by index
 *
 * A frame has exactly one owner at a time. One thread takes frames from the pool (frame_take) and gives back
 * what it did not use (frame_put); when a frame has crossed a ring, the thread at the other end gives it back
 * through frame_return(), a ring of its own, so that no lock or shared list is needed. Buffers are large (a
 * TAP read shorter than the frame would cut it silently, drivers/net/tun.c) but cost memory only where they
 * have been written: the region is reserved, not touched.
 */
#pragma once

#include "io/spsc.h"

#include <stdint.h>
#include <sys/types.h>

enum {
    FRAME_SIZE_MAX = 65535 + 14 + 4, /* largest IP packet + Ethernet + one VLAN tag */
    FRAME_HEADROOM = 32,             /* before the frame: virtio-net header, alignment of the IP header */
    FRAME_STRIDE = 17 * 4096,
    FRAME_ETH_SIZE = 14,
};
static_assert(FRAME_HEADROOM + FRAME_SIZE_MAX <= FRAME_STRIDE, "a frame does not fit its buffer");

struct frame_pool {
    uint8_t *region; /* fixed after init */
    uint32_t n_frames;
    uint32_t header_size; /* of the virtio-net header before each frame; 0: none. Fixed after init */
    uint32_t *size;       /* bytes in each frame; belongs to the frame's owner */
    frame_id *free;       /* stack; the taking thread's */
    uint32_t n_free;      /* the taking thread's */
    struct spsc back;     /* frames on their way home: pushed by the other thread, popped by the taking one */
};

/* Before threads start. @n_frames: a power of two. Returns 0 or a negative errno. */
int frame_pool_init(struct frame_pool *p, uint32_t n_frames);
/* After they ended; may be called on a zeroed pool. */
void frame_pool_deinit(struct frame_pool *p);

/* Any thread that owns @id. The Ethernet header starts here. */
static inline uint8_t *frame_data(const struct frame_pool *p, frame_id id)
{
    return p->region + (size_t)id * FRAME_STRIDE + FRAME_HEADROOM;
}

/* What is read and written: the frame, with its virtio-net header in front where there is one. */
static inline uint8_t *frame_start(const struct frame_pool *p, frame_id id)
{
    return frame_data(p, id) - p->header_size;
}

/* Whoever has read @n bytes to frame_start(): the frame's size, without its header. */
static inline uint32_t frame_set_read(struct frame_pool *p, frame_id id, uint32_t n)
{
    return p->size[id] = n > p->header_size ? n - p->header_size : 0;
}

/* The taking thread: up to @max frames; returns how many, 0 when all are out. */
uint32_t frame_take(struct frame_pool *p, frame_id *out, uint32_t max);
/* The taking thread: gives frames back directly. */
void frame_put(struct frame_pool *p, const frame_id *ids, uint32_t n);
/* The other thread: sends frames home. Never fails: the ring holds all frames there are. */
void frame_return(struct frame_pool *p, const frame_id *ids, uint32_t n);
