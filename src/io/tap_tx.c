/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "io/tap_tx.h"

#include "base/cleanup.h"
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
    if (!spsc_empty(tx->ring) || atomic_load_explicit(&tx->stop, memory_order_relaxed)) {
        /* there is something to do */
    } else if (tx->beside) {
        tx->beside(tx->arg, true);
    } else {
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
        if (tx->beside && !spsc_empty(tx->ring)) /* else the sleep looks */
            tx->beside(tx->arg, false);
    }
    role_leave(&role_tap_tx);
}

int tap_tx_start(struct tap_tx *tx)
{
    struct thread_start start = {.name = "tap-tx",
                                 .duties = DUTY_TAP_TX | tx->io->duties | tx->duties_more,
                                 .prepare = tx_prepare,
                                 .run = tx_run,
                                 .arg = tx};
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

static void written_inline(struct tap_tx *tx, int r)
{
    if (r == -EAGAIN) { /* a socket whose peer does not read: the guest's TCP will send again */
        counter_add_shared(COUNTER_tx_drop_link, 1);
    } else if (r < 0 && !tx->inline_gone) {
        tx->inline_gone = true;
        tx->on_gone(tx->arg, r);
    }
}

/* May the producer write the next frame itself? */
static bool may_inline(struct tap_tx *tx)
{
    if (!tx->writer)
        return true;
    /* A3, pairs with R3 in tx_run(). */
    if (tx->n_inline_in_turn >= TAP_TX_INLINE_MAX ||
        atomic_load_explicit(&tx->n_written, memory_order_acquire) != tx->n_pushed)
        return false;
    tx->n_inline_in_turn++;
    counter_add(COUNTER_tx_inline, 1);
    return true;
}

/* A place for a frame of @size bytes in the pool, or false: dropped and counted. */
static bool take(struct tap_tx *tx, uint32_t size, frame_id *ret)
{
    if (size > FRAME_SIZE_MAX || frame_take(tx->pool, ret, 1) == 0) {
        counter_add(COUNTER_tx_drop_ring_full, 1);
        return false;
    }
    tx->pool->size[*ret] = size;
    return true;
}

static void push(struct tap_tx *tx, frame_id id) RUNS_ON(role_slirp)
{
    (void)spsc_push(tx->ring, &id, 1); /* always fits: the ring holds all frames there are */
    tx->n_pushed++;
    if (++tx->n_unannounced == TAP_BATCH_MAX / 2)
        tap_tx_flush(tx);
}

void tap_tx_send(struct tap_tx *tx, const void *frame, uint32_t size)
{
    frame_id id;

    if (may_inline(tx)) {
        capture_frame(tx->capture, PCAPNG_INBOUND, frame, size);
        written_inline(tx, tap_write_now(tx->fd, tx->header_size, frame, size));
    } else if (take(tx, size, &id)) {
        memset(frame_start(tx->pool, id), 0, tx->header_size);
        memcpy(frame_data(tx->pool, id), frame, size);
        push(tx, id);
    }
}

void tap_tx_send_offload(struct tap_tx *tx, const struct virtio_net_hdr *header, const void *head,
                         uint32_t head_size, const void *frame, uint32_t size)
{
    const uint8_t *rest = (const uint8_t *)frame + head_size;
    uint8_t padded[OFFLOAD_HEADER_SIZE_MAX] = {0};
    frame_id id;

    assert(tx->header_size >= sizeof(*header) && tx->header_size <= sizeof(padded) && head_size <= size);
    memcpy(padded, header, sizeof(*header));
    if (may_inline(tx)) {
        struct iovec parts[] = {{.iov_base = padded, .iov_len = tx->header_size},
                                {.iov_base = (void *)head, .iov_len = head_size},
                                {.iov_base = (void *)rest, .iov_len = size - head_size}};

        capture_frame(tx->capture, PCAPNG_INBOUND, frame, size);
        written_inline(tx, tap_write_parts(tx->fd, tx->header_size, parts, ARRAY_SIZE(parts)));
    } else if (take(tx, size, &id)) {
        memcpy(frame_start(tx->pool, id), padded, tx->header_size);
        memcpy(frame_data(tx->pool, id), head, head_size);
        memcpy(frame_data(tx->pool, id) + head_size, rest, size - head_size);
        push(tx, id);
    }
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
