/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * tap_tx.h - the thread that writes the TAP (host to guest direction), and the shortcut past it
 *
 * A write to a TAP runs the guest's receive path in the writer, so bulk gains from a thread of its own; but
 * handing one frame to another core costs more than writing it. So the producer writes a frame itself when
 * the writer is idle and its ring empty, up to INLINE_MAX frames per turn of its loop; what a turn produces
 * beyond that goes through the ring, with one wake-up per turn. Frames are never reordered: inline only when
 * everything pushed before has been written. Without a thread (shared mode) every frame is written inline.
 */
#pragma once

#include "base/role.h"
#include "io/capture.h"
#include "io/offload.h"
#include "io/tap_io.h"

#include <pthread.h>

struct tap_tx {
    /* Fixed before the thread starts. */
    const struct tap_io *io;
    struct tap_writer *writer; /* NULL: no thread, everything inline */
    int fd;
    uint32_t header_size;    /* as in the pool */
    struct frame_pool *pool; /* the producer takes, the thread returns */
    struct spsc *ring;       /* the producer pushes */
    struct capture *capture; /* NULL: none */
    struct wakeup wake;      /* the thread sleeps on it */
    void (*on_gone)(void *arg,
                    int error); /* from the producer or the thread, at least once: the TAP is gone */
    void *arg;
    /* What else this thread does, if not NULL: with @sleep, sleeps until @wake or an event of its own comes;
     * then deals with events, a bounded number. */
    void (*beside)(void *arg, bool sleep);
    uint32_t duties_more; /* of this */

    /* The producer's. */
    uint32_t n_pushed;         /* frames ever pushed, modulo 2^32 */
    uint32_t n_unannounced;    /* pushed since the last wake-up */
    uint32_t n_inline_in_turn; /* written inline since the last flush */
    bool inline_gone;

    pthread_t thread;
    bool started; /* main's */
    _Atomic bool stop;
    _Alignas(CACHE_LINE) _Atomic uint32_t n_written; /* the thread's: frames ever written, modulo 2^32 */
};

enum { TAP_TX_INLINE_MAX = 4 };

/* main; as tap_rx. */
int tap_tx_start(struct tap_tx *tx);
void tap_tx_stop(struct tap_tx *tx);

/* The producer: one frame, copied or written before it returns. Frames that find no room are dropped and
 * counted. */
void tap_tx_send(struct tap_tx *tx, const void *frame, uint32_t size) RUNS_ON(role_slirp);
/* The same with something left to the kernel: @header (offload.h); the @head_size bytes at @head stand for
 * the first ones of @frame. Only where there are headers. */
void tap_tx_send_offload(struct tap_tx *tx, const struct virtio_net_hdr *header, const void *head,
                         uint32_t head_size, const void *frame, uint32_t size) RUNS_ON(role_slirp);
/* The producer, at the end of each turn: wakes the thread if there is anything new for it. */
void tap_tx_flush(struct tap_tx *tx) RUNS_ON(role_slirp);
