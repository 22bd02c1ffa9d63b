/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * tap_rx.h - the thread that reads the TAP (guest to host direction)
 *
 * Moves frames from the TAP into a ring in batches and wakes the consumer once per batch, and only when it
 * sleeps. Never blocks on anything but the TAP, never allocates, never calls libslirp. The ring holds as many
 * frames as the pool has, so a push always succeeds; when all frames are out, the thread waits for one to
 * come home and the TAP's own queue takes the pressure (it drops when full, as any link does).
 */
#pragma once

#include "base/role.h"
#include "io/capture.h"
#include "io/tap_io.h"

#include <pthread.h>

struct tap_rx {
    /* Fixed before the thread starts. */
    const struct tap_io *io;
    struct tap_reader *reader;
    struct frame_pool *pool; /* this thread takes, the consumer returns */
    struct spsc *ring;       /* this thread pushes */
    struct capture *capture; /* NULL: none */
    struct wakeup *consumer; /* notified after a push */
    struct wakeup wake;      /* this thread sleeps on it: stop requests, frames that came home */
    void (*on_gone)(void *arg,
                    int error); /* called once from this thread: the TAP is gone, the thread ends */
    void *arg;
    /* What else this thread does; NULL: nothing. take(): of the frames that were just read, keeps some for
     * itself and puts them back to the pool; how many are left in @ids, in order. turn(): before each look at
     * the TAP; for how many ms the thread may sleep then, -1: no limit. */
    uint32_t (*take)(void *take_arg, frame_id *ids, uint32_t n);
    int (*turn)(void *take_arg);
    void *take_arg;
    uint32_t duties_more; /* of these two */

    pthread_t thread;
    bool started; /* main's */
    _Atomic bool stop;
};

/* main. Returns when the thread has its roles and its ring, or failed (0 or a negative errno). */
int tap_rx_start(struct tap_rx *rx);
/* main. Joins the thread; nothing happens when it never started. */
void tap_rx_stop(struct tap_rx *rx);
