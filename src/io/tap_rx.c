/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "io/tap_rx.h"

#include "base/counters.h"
#include "base/thread.h"
#include "io/offload.h"

static int rx_prepare(void *arg)
{
    struct tap_rx *rx = arg;

    return rx->io->reader_start(rx->reader);
}

static void rx_run(void *arg)
{
    struct tap_rx *rx = arg;
    frame_id ids[TAP_BATCH_MAX];
    bool drained = false;
    int n = 0;

    role_enter(&role_tap_rx);
    /* Relaxed: the wake-up that follows a stop request orders it; a turn more does no harm. */
    while (!atomic_load_explicit(&rx->stop, memory_order_relaxed)) {
        uint32_t n_pushed;
        int timeout_ms = rx->turn ? rx->turn(rx->take_arg) : -1;

        thread_count_turn();
        n = drained ? 0 : rx->io->read(rx->reader, ids, TAP_BATCH_MAX, &drained);
        if (n == 0) {
            drained = false;
            n = rx->io->wait(rx->reader, timeout_ms);
        }
        if (n < 0)
            break;
        n = n > 0 ? (int)offload_receive(rx->pool, ids, (uint32_t)n) : 0;
        if (n == 0)
            continue;
        if (__builtin_expect(rx->capture != NULL, 0))
            tap_capture(rx->capture, PCAPNG_OUTBOUND, rx->pool, ids, (uint32_t)n);
        if (rx->take)
            n = (int)rx->take(rx->take_arg, ids, (uint32_t)n);
        counter_add(COUNTER_rx_batches, 1);
        if (n == 0)
            continue;
        n_pushed = spsc_push(rx->ring, ids, n);
        assert(n_pushed == (uint32_t)n); /* the ring holds all frames there are */
        (void)n_pushed;
        if (wakeup_notify(rx->consumer))
            counter_add(COUNTER_wake_slirp, 1);
    }
    if (n < 0)
        rx->on_gone(rx->arg, n);
    role_leave(&role_tap_rx);
}

int tap_rx_start(struct tap_rx *rx)
{
    struct thread_start start = {.name = "tap-rx",
                                 .duties = DUTY_TAP_RX | rx->io->duties | rx->duties_more,
                                 .prepare = rx_prepare,
                                 .run = rx_run,
                                 .arg = rx};
    int r = thread_spawn(&rx->thread, &start);

    rx->started = r == 0;
    return r;
}

void tap_rx_stop(struct tap_rx *rx)
{
    if (!rx->started)
        return;
    atomic_store_explicit(&rx->stop, true,
                          memory_order_relaxed); /* ordered by the eventfd's write and read */
    wakeup_send(&rx->wake);
    pthread_join(rx->thread, NULL);
    rx->started = false;
}
