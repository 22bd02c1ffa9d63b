/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * engine_loop.c - the slirp thread's loop
 *
 * One turn of the slirp thread's loop:
 *   1. park, if the API asks for a world stop; take connections handed over by forwards; close what the flows
 *      of datagrams have retired
 *   2. if anything happened since the last time, ask libslirp what it waits for (descriptors.h) and for how
 *      long
 *   3. sleep in epoll_wait(2), not at all if there is more to do
 *   4. let libslirp serve what is ready, and its timers
 *   5. take a batch of frames (from the ring, or from the TAP itself in shared mode), filter them, give them
 * to their flow of datagrams or to libslirp; the turn of whoever shares the thread (engine_share())
 *   6. wake the TAP writer if this turn produced frames for it
 *
 * libslirp keeps the time of its last slirp_pollfds_poll() and uses it for everything in between; so the
 * order is sleep - poll - input, never sleep - input, or a UDP socket made after a long sleep would be born
 * expired. slirp_pollfds_fill() answers at most one second even when it has no timer running; that second is
 * ignored, because nothing in libslirp needs it: an idle process sleeps.
 */
#include "slirp/engine_private.h"

#include "base/clock.h"
#include "base/counters.h"
#include "base/thread.h"
#include "io/icmp_error.h"
#include "slirp/events.h"

#include <errno.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/socket.h>

enum {
    EPOLL_EVENTS_MAX = 128,
    SHARED_EVENTS_MAX = 16,       /* frames wait meanwhile: each may be worth a megabyte of a flow */
    SLIRP_TIMEOUT_NONE_MS = 1000, /* what slirp_pollfds_fill() says when no timer runs */
    SLEEP_MS_MAX = 3600 * 1000,
};

static int on_add_poll(int fd, int events, void *opaque)
{
    struct engine *e = opaque;

    role_assert(&role_slirp);
    return descriptors_want(&e->descriptors, fd, events);
}

static int on_get_revents(int index, void *opaque)
{
    struct engine *e = opaque;

    role_assert(&role_slirp);
    return descriptors_take(&e->descriptors, index);
}

static void fill(struct engine *e) RUNS_ON(role_slirp)
{
    uint32_t timeout_ms = UINT32_MAX;

    descriptors_fill_begin(&e->descriptors);
    slirp_pollfds_fill(e->slirp, &timeout_ms, on_add_poll, e);
    e->slirp_timeout_ms = timeout_ms >= SLIRP_TIMEOUT_NONE_MS ? UINT32_MAX : timeout_ms;
    e->dirty = false;
}

static int sleep_ms(struct engine *e) RUNS_ON(role_slirp) RUNS_ON(role_udp_out)
{
    int64_t now_ns = clock_monotonic_ns(), ms,
            until_ns = e->udp_expire_ns < e->guest_ns ? e->udp_expire_ns : e->guest_ns;

    if (e->slirp_timeout_ms != UINT32_MAX && now_ns + e->slirp_timeout_ms * NS_PER_MS < until_ns)
        until_ns = now_ns + e->slirp_timeout_ms * NS_PER_MS;
    for (unsigned i = 0; i < TIMERS_MAX; i++) {
        if (e->timers[i].armed && e->timers[i].expire_ms * NS_PER_MS < until_ns)
            until_ns = e->timers[i].expire_ms * NS_PER_MS;
    }
    if (e->loop_flows && udp_flows_next_ns(e->loop_flows) < until_ns)
        until_ns = udp_flows_next_ns(e->loop_flows);
    if (until_ns == INT64_MAX)
        return -1;
    ms = (until_ns - now_ns + NS_PER_MS - 1) / NS_PER_MS;
    return ms < 0 ? 0 : ms > SLEEP_MS_MAX ? SLEEP_MS_MAX : (int)ms;
}

static void run_timers(struct engine *e) RUNS_ON(role_slirp) RUNS_ON(role_udp_out)
{
    int64_t now_ns = clock_monotonic_ns();

    for (unsigned i = 0; i < TIMERS_MAX; i++) {
        if (e->timers[i].armed && e->timers[i].expire_ms * NS_PER_MS <= now_ns) {
            e->timers[i].armed = false;
            slirp_handle_timer(e->slirp, e->timers[i].id, e->timers[i].cb_opaque);
            e->dirty = true;
        }
    }
    if (now_ns >= e->udp_expire_ns || e->udp_expire_ns == INT64_MAX)
        e->udp_expire_ns = udp_forwards_expire(e->udp, now_ns);
    if (e->loop_flows && now_ns >= udp_flows_next_ns(e->loop_flows))
        udp_flows_expire(e->loop_flows, now_ns);
}

/* An outbound connection was decided: libslirp reports a refusal itself, but forgets that a host cannot be
 * reached. */
static void report_unreachable(struct engine *e, int fd, struct descriptor *entry) RUNS_ON(role_slirp)
{
    uint8_t frame[ICMP_ERROR_FRAME_MAX];
    socklen_t size = sizeof(int);
    uint32_t frame_size;
    int error = 0;

    entry->connecting = false;
    /* This takes the error away from the socket; libslirp then finds it unconnected (EPIPE), a failure like
     * another. */
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) < 0 ||
        (error != EHOSTUNREACH && error != ENETUNREACH))
        return;
    frame_size = icmp_error_unreachable(frame, entry->copy, entry->copy_size, e->config.gateway);
    if (frame_size > 0) {
        tap_tx_send(&e->tx, frame, frame_size);
        counter_add(COUNTER_slirp_unreachable, 1);
    }
}

static void slirp_event(struct engine *e, int fd, uint32_t events) RUNS_ON(role_slirp)
{
    struct descriptor *entry = descriptors_get(&e->descriptors, fd);

    if (entry && entry->connecting) {
        if (events & EPOLLERR)
            report_unreachable(e, fd, entry);
        entry->connecting = false;
    }
    descriptors_fired(&e->descriptors, fd, events);
}

/* Work that no event of the epoll set tells of. */
static bool has_work(struct engine *e) RUNS_ON(role_slirp)
{
    /* Relaxed: before sleeping they come after the fence in wakeup_prepare(). */
    return (!e->shared && !spsc_empty(&e->rx_ring)) || world_wanted(&e->world) ||
           (e->guest.turn && e->guest.wanted(e->guest.arg)) ||
           atomic_load_explicit(&e->adopt_pending, memory_order_relaxed) ||
           atomic_load_explicit(&e->stop, memory_order_relaxed);
}

/* Looks again and again for a short time. Events, or 0: there is work, or nothing has come. */
static int spin(struct engine *e, struct epoll_event *events, int max) RUNS_ON(role_slirp)
{
    int64_t end_ns = clock_monotonic_ns() + e->spin.window_ns;

    do {
        int n = epoll_wait(e->descriptors.epoll_fd, events, max, 0);

        if (n != 0 || has_work(e))
            return n;
        sched_yield();
    } while (clock_monotonic_ns() < end_ns);
    spin_failed(&e->spin);
    return 0;
}

/* As epoll_wait(2), which it is in the end. */
static int sleep_for_events(struct engine *e, struct epoll_event *events, int max) RUNS_ON(role_slirp)
    RUNS_ON(role_udp_out)
{
    int timeout_ms = sleep_ms(e), n;
    int64_t begin_ns = clock_monotonic_ns();
    bool busy = begin_ns < e->spin.until_ns;

    if (busy && e->spin.window_ns > 0 && timeout_ms != 0 && (n = spin(e, events, max)) != 0)
        return n;
    wakeup_prepare(&e->wake);
    if (e->guest.turn)
        e->guest.prepare(e->guest.arg);
    if (has_work(e))
        timeout_ms = 0;
    if (busy)
        begin_ns = clock_monotonic_ns();
    n = epoll_wait(e->descriptors.epoll_fd, events, max, timeout_ms);
    wakeup_cancel(&e->wake);
    if (e->guest.turn)
        e->guest.cancel(e->guest.arg);
    if (busy && timeout_ms != 0)
        spin_slept(&e->spin, clock_monotonic_ns() - begin_ns);
    return n;
}

/* Sleeps until something is to be done (not at all with @busy) and remembers what. Returns false when the
 * loop cannot go on. */
static bool wait_events(struct engine *e, bool busy, bool *ret_slirp_ready) RUNS_ON(role_slirp)
    RUNS_ON(role_udp_out) RUNS_ON(role_udp_in)
{
    struct epoll_event events[EPOLL_EVENTS_MAX];
    int max = e->guest.turn ? SHARED_EVENTS_MAX : EPOLL_EVENTS_MAX;
    int n = busy ? epoll_wait(e->descriptors.epoll_fd, events, max, 0) : sleep_for_events(e, events, max);

    *ret_slirp_ready = false;
    if (n < 0 && errno != EINTR) {
        engine_set_gone(e, -errno);
        return false;
    }
    for (int i = 0; i < n; i++) {
        const uint64_t tag = events[i].data.u64;

        if (tag >> EVENTS_GUEST_SHIFT) {
            e->guest.event(e->guest.arg, tag, events[i].events);
            e->guest_ready = true;
            continue;
        }
        switch (events_kind(tag)) {
        case EVENT_SLIRP:
            slirp_event(e, (int)events_value(tag), events[i].events);
            *ret_slirp_ready = true;
            break;
        case EVENT_WAKE:
            wakeup_drain(&e->wake);
            break;
        case EVENT_TAP:
            e->tap_ready = true;
            break;
        case EVENT_UDP:
            udp_forwards_readable(e->udp, events_value(tag));
            break;
        case EVENT_FLOW:
            udp_flows_ready(e->loop_flows, events_value(tag), events[i].events, clock_coarse_ns());
            break;
        }
    }
    return true;
}

/* Returns true when it wants another turn at once. */
static bool guest_turn(struct engine *e) RUNS_ON(role_slirp)
{
    int ms;

    if (!e->guest.turn || (!e->guest_ready && !e->guest.wanted(e->guest.arg) &&
                           (e->guest_ns == INT64_MAX || clock_monotonic_ns() < e->guest_ns)))
        return false;
    ms = e->guest.turn(e->guest.arg);
    e->guest_ready = false;
    e->guest_ns = ms < 0 ? INT64_MAX : clock_monotonic_ns() + ms * NS_PER_MS;
    return ms == 0;
}

static void loop(struct engine *e) RUNS_ON(role_slirp) RUNS_ON(role_udp_out) RUNS_ON(role_udp_in)
{
    bool more = true, slirp_ready; /* the first turn looks at the TAP, which arms an io_uring reader */

    e->dirty = true;
    /* Relaxed: the eventfd that comes with a stop orders it. */
    while (!atomic_load_explicit(&e->stop, memory_order_relaxed) && engine_gone(e) == 0) {
        counter_add(COUNTER_slirp_loops, 1);
        thread_count_turn();
        if (world_wanted(&e->world)) {
            role_leave(&role_slirp);
            role_leave(&role_udp_out);
            role_leave(&role_udp_in);
            world_park(&e->world);
            role_enter(&role_udp_in);
            role_enter(&role_udp_out);
            role_enter(&role_slirp);
            e->dirty = true;
        }
        engine_take_handed_over(e);
        if (e->loop_flows)
            udp_flows_turn(e->loop_flows);
        if (e->dirty)
            fill(e);
        if (!wait_events(e, more, &slirp_ready))
            break;
        if (slirp_ready)
            counter_add(COUNTER_slirp_polls, 1);
        /* With the error flag set libslirp runs its timers and its output queue and looks at no socket. */
        slirp_pollfds_poll(e->slirp, !slirp_ready, on_get_revents, e);
        if (slirp_ready || e->slirp_timeout_ms != UINT32_MAX)
            e->dirty = true;
        run_timers(e);
        e->again = false;
        more = engine_input_batch(e);
        more = guest_turn(e) || more || e->again;
        tap_tx_flush(&e->tx);
        /* Also with more to do: a sender in the guest never lets the TAP become empty. */
        if (e->loop_flows)
            one_way_turn(&e->loop_one_way, ONE_WAY_BOTH);
    }
}

void engine_run_split(void *arg)
{
    struct engine *e = arg;

    role_enter(&role_slirp);
    role_enter(&role_udp_out);
    role_enter(&role_udp_in);
    loop(e);
    role_leave(&role_udp_in);
    role_leave(&role_udp_out);
    role_leave(&role_slirp);
    world_end(&e->world);
}

void engine_run_shared(void *arg)
{
    struct engine *e = arg;

    role_enter(&role_tap_rx);
    role_enter(&role_slirp);
    role_enter(&role_tap_tx);
    role_enter(&role_fwd); /* engine_share() */
    role_enter(&role_udp_out);
    role_enter(&role_udp_in);
    loop(e);
    role_leave(&role_udp_in);
    role_leave(&role_udp_out);
    role_leave(&role_fwd);
    role_leave(&role_tap_tx);
    role_leave(&role_slirp);
    role_leave(&role_tap_rx);
    world_end(&e->world);
}
