/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "io/tap_tx.h"

#include "base/counters.h"
#include "base/thread.h"

#include <errno.h>
#include <poll.h>
#include <string.h>

static int tx_prepare(void *arg)
{
    struct tap_tx *tx = arg;

    return tx->io->writer_start(tx->writer);
}

static void tx_sleep(struct tap_tx *tx)
{
    struct pollfd pfd = {.fd = tx->wake.fd, .events = POLLIN};

    wakeup_prepare(&tx->wake);
    if (spsc_empty(tx->ring) && !atomic_load_explicit(&tx->stop, memory_order_relaxed)) {
        (void)poll(&pfd, 1, -1); /* EINTR: look again, that is all */
        if (pfd.revents)
            wakeup_drain(&tx->wake);
    }
    wakeup_cancel(&tx->wake);
}

static void tx_run(void *arg)
{
    struct tap_tx *tx = arg;
    frame_id ids[TAP_BATCH_MAX];

    role_enter(&role_tap_tx);
    /* Relaxed: see tap_rx. What is still in the ring at the end goes nowhere: the TAP is about to be closed.
     */
    while (!atomic_load_explicit(&tx->stop, memory_order_relaxed)) {
        uint32_t n = spsc_pop(tx->ring, ids, TAP_BATCH_MAX);
        int r;

        thread_count_turn();
        if (n == 0) {
            tx_sleep(tx);
            continue;
        }
        counter_add(COUNTER_tx_batches, 1);
        if (__builtin_expect(tx->capture != NULL, 0))
            tap_capture(tx->capture, PCAPNG_INBOUND, tx->pool, ids, n);
        r = tx->io->write(tx->writer, ids, n);
        frame_return(tx->pool, ids, n);
        /* R3, pairs with A3 in tap_tx_send(): the frames are in the kernel before the producer may write
         * inline. */
        atomic_store_explicit(&tx->n_written, atomic_load_explicit(&tx->n_written, memory_order_relaxed) + n,
                              memory_order_release);
        if (r < 0) {
            tx->on_gone(tx->arg, r);
            break;
        }
    }
    role_leave(&role_tap_tx);
}

int tap_tx_start(struct tap_tx *tx)
{
    struct thread_start start = {.name = "tap-tx", .prepare = tx_prepare, .run = tx_run, .arg = tx};
    int r = thread_spawn(&tx->thread, &start);

    tx->started = r == 0;
    return r;
}

void tap_tx_stop(struct tap_tx *tx)
{
    if (!tx->started)
        return;
    atomic_store_explicit(&tx->stop, true,
                          memory_order_relaxed); /* ordered by the eventfd's write and read */
    wakeup_send(&tx->wake);
    pthread_join(tx->thread, NULL);
    tx->started = false;
}

static void send_inline(struct tap_tx *tx, const void *frame, uint32_t size)
{
    int r;

    capture_frame(tx->capture, PCAPNG_INBOUND, frame, size);
    r = tap_write_now(tx->fd, frame, size);
    if (r == -EAGAIN) { /* a socket whose peer does not read: the guest's TCP will send again */
        counter_add_shared(COUNTER_tx_drop_link, 1);
    } else if (r < 0 && !tx->inline_gone) {
        tx->inline_gone = true;
        tx->on_gone(tx->arg, r);
    }
}

void tap_tx_send(struct tap_tx *tx, const void *frame, uint32_t size)
{
    frame_id id;

    if (!tx->writer) {
        send_inline(tx, frame, size);
        return;
    }
    /* A3, pairs with R3 in tx_run(). */
    if (tx->n_inline_in_turn < TAP_TX_INLINE_MAX &&
        atomic_load_explicit(&tx->n_written, memory_order_acquire) == tx->n_pushed) {
        tx->n_inline_in_turn++;
        counter_add(COUNTER_tx_inline, 1);
        send_inline(tx, frame, size);
        return;
    }
    if (size > FRAME_SIZE_MAX || frame_take(tx->pool, &id, 1) == 0) {
        counter_add(COUNTER_tx_drop_ring_full, 1);
        return;
    }
    memcpy(frame_data(tx->pool, id), frame, size);
    tx->pool->size[id] = size;
    (void)spsc_push(tx->ring, &id, 1); /* always fits: the ring holds all frames there are */
    tx->n_pushed++;
    if (++tx->n_unannounced == TAP_BATCH_MAX / 2)
        tap_tx_flush(tx);
}

void tap_tx_flush(struct tap_tx *tx)
{
    tx->n_inline_in_turn = 0;
    if (tx->n_unannounced == 0)
        return;
    tx->n_unannounced = 0;
    if (wakeup_notify(&tx->wake))
        counter_add(COUNTER_wake_tx, 1);
}
