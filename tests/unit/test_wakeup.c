/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "io/wakeup.h"

#include "base/clock.h"
#include "test.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <unistd.h>

enum { ROUNDS = 200000, BUDGET_S = 5, LOST_MS = 10000 };

static bool is_readable(const struct wakeup *w)
{
    struct pollfd pfd = {.fd = w->fd, .events = POLLIN};

    return poll(&pfd, 1, 0) == 1;
}

static void test_only_a_sleeper_costs_a_system_call(void **state)
{
    struct wakeup w = WAKEUP_NULL;

    (void)state;
    assert_int_equal(wakeup_init(&w), 0);
    assert_int_equal(fcntl(w.fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
    assert_int_equal(fcntl(w.fd, F_GETFL) & O_NONBLOCK, O_NONBLOCK);
    assert_false(wakeup_notify(&w));
    assert_false(is_readable(&w));
    wakeup_prepare(&w);
    assert_true(wakeup_notify(&w));
    assert_true(is_readable(&w));
    assert_false(wakeup_notify(&w)); /* one of several producers is enough */
    wakeup_drain(&w);
    assert_false(is_readable(&w));
    wakeup_drain(&w); /* must not block */
    wakeup_prepare(&w);
    wakeup_cancel(&w);
    assert_false(wakeup_notify(&w)); /* changed its mind */
    wakeup_deinit(&w);
    assert_int_equal(w.fd, -1);
    wakeup_deinit(&w);
}

static void test_a_stop_request_is_heard_by_whoever_does_not_sleep(void **state)
{
    struct wakeup w = WAKEUP_NULL;

    (void)state;
    assert_int_equal(wakeup_init(&w), 0);
    wakeup_send(&w);
    wakeup_send(&w);
    assert_true(is_readable(&w));
    wakeup_drain(&w); /* both at once */
    assert_false(is_readable(&w));
    wakeup_deinit(&w);
}

static void test_sending_to_a_full_counter_does_not_block(void **state)
{
    static const uint64_t nearly_full = UINT64_MAX - 1;
    struct wakeup w = WAKEUP_NULL;

    (void)state;
    assert_int_equal(wakeup_init(&w), 0);
    assert_int_equal(write(w.fd, &nearly_full, sizeof(nearly_full)), sizeof(nearly_full));
    alarm(10);
    wakeup_send(&w);
    alarm(0);
    assert_true(is_readable(&w));
    wakeup_drain(&w);
    assert_false(is_readable(&w));
    wakeup_deinit(&w);
}

/* ---- the decisive moment, again and again ---- */

/* One producer and one consumer meet at each slot, once: the store buffers of two cores decide what they see.
 * Nobody sleeps, so there is time for many meetings; without either fence some of them go wrong. */
enum { SLOTS = 256 };

struct slot {
    struct wakeup wake; /* without a descriptor: what is sent goes nowhere */
    _Alignas(CACHE_LINE) _Atomic uint32_t work;
    _Alignas(CACHE_LINE) bool found; /* the consumer saw the work */
    _Alignas(CACHE_LINE) bool sent;  /* the producer saw the sleeper */
};

struct meeting {
    struct slot slots[SLOTS];
    _Alignas(CACHE_LINE) _Atomic uint32_t at_consumer; /* the meeting that it has come to */
    _Alignas(CACHE_LINE) _Atomic uint32_t at_producer;
    _Alignas(CACHE_LINE) _Atomic bool stop;
};

static void come(_Atomic uint32_t *mine, _Atomic uint32_t *theirs, uint32_t n)
{
    atomic_store_explicit(mine, n, memory_order_release);
    for (uint32_t spins = 1; atomic_load_explicit(theirs, memory_order_acquire) < n; spins++) {
        if (spins % 4096 == 0)
            sched_yield(); /* for a machine with one core */
    }
}

/* Both look at all of it first: then what they read is near, and what they write takes its time. */
static void look_around(struct meeting *m)
{
    for (int i = 0; i < SLOTS; i++) {
        (void)atomic_load_explicit(&m->slots[i].wake.sleeping, memory_order_relaxed);
        (void)atomic_load_explicit(&m->slots[i].work, memory_order_relaxed);
    }
}

static void linger(uint32_t n)
{
    for (_Atomic uint32_t i = 0; atomic_load_explicit(&i, memory_order_relaxed) < n;)
        atomic_fetch_add_explicit(&i, 1, memory_order_relaxed);
}

static void *meet_as_producer(void *arg)
{
    struct meeting *m = arg;

    for (uint32_t n = 1;; n += SLOTS + 1) {
        come(&m->at_producer, &m->at_consumer, n);
        if (atomic_load(&m->stop))
            return NULL;
        look_around(m);
        for (uint32_t i = 0; i < SLOTS; i++) {
            struct slot *s = &m->slots[i];

            come(&m->at_producer, &m->at_consumer, n + 1 + i);
            linger(i / 8 % 4);
            atomic_store_explicit(&s->work, 1, memory_order_relaxed);
            s->sent = wakeup_notify(&s->wake);
        }
    }
}

static void test_one_of_both_sees_the_other(void **state)
{
    int64_t until_ns = clock_monotonic_ns() + BUDGET_S * NS_PER_S;
    uint32_t n = 1, n_rounds = 0, n_lost = 0, n_found = 0, n_sent = 0;
    static struct meeting m;
    pthread_t thread;

    (void)state;
    for (int i = 0; i < SLOTS; i++)
        m.slots[i].wake.fd = -1;
    assert_int_equal(pthread_create(&thread, NULL, meet_as_producer, &m), 0);
    for (; n_rounds < ROUNDS && clock_monotonic_ns() < until_ns; n += SLOTS + 1) {
        for (int i = 0; i < SLOTS; i++) {
            atomic_store_explicit(&m.slots[i].wake.sleeping, 0, memory_order_relaxed);
            atomic_store_explicit(&m.slots[i].work, 0, memory_order_relaxed);
        }
        come(&m.at_consumer, &m.at_producer, n);
        look_around(&m);
        for (uint32_t i = 0; i < SLOTS; i++) {
            struct slot *s = &m.slots[i];

            come(&m.at_consumer, &m.at_producer, n + 1 + i);
            linger(i % 8);
            wakeup_prepare(&s->wake);
            s->found = atomic_load_explicit(&s->work, memory_order_relaxed);
        }
        /* The last slot's producer may be at it still: it counts with the next one, or not at all. */
        for (uint32_t i = 0; i + 1 < SLOTS; i++, n_rounds++) {
            n_found += m.slots[i].found;
            n_sent += m.slots[i].sent;
            n_lost += !m.slots[i].found && !m.slots[i].sent;
        }
    }
    atomic_store(&m.stop, true);
    come(&m.at_consumer, &m.at_producer, n);
    pthread_join(thread, NULL);
    print_message("%u meetings: %u saw the work, %u were woken, %u neither\n", n_rounds, n_found, n_sent,
                  n_lost);
    assert_int_equal(n_lost, 0);
    assert_true(n_rounds > 0);
}

/* ---- one waits for the other, for ever in turns ---- */

struct side {
    struct wakeup wake;
    _Alignas(CACHE_LINE) _Atomic uint32_t ball; /* what the other side published last */
    uint32_t payload;                           /* published with it */
    uint32_t n_sleeps, n_sent, n_spoilt;
};

struct game {
    struct side side[2];
    _Atomic bool lost;
    uint32_t n_rounds, n_done; /* the first side's */
    int64_t until_ns;
};

/* Waits until @ball is no longer @old; false: nobody woke us. Looks @n_spins times before it decides to
 * sleep: that shifts who is where when. */
static bool await_ball(struct game *g, struct side *me, uint32_t old, uint32_t n_spins)
{
    for (uint32_t i = 0; i < n_spins; i++) {
        if (atomic_load_explicit(&me->ball, memory_order_acquire) != old)
            return true;
    }
    while (atomic_load_explicit(&me->ball, memory_order_acquire) == old) {
        wakeup_prepare(&me->wake);
        if (atomic_load_explicit(&me->ball, memory_order_acquire) == old) {
            struct pollfd pfd = {.fd = me->wake.fd, .events = POLLIN};

            me->n_sleeps++;
            if (poll(&pfd, 1, LOST_MS) != 1) {
                atomic_store(&g->lost, true);
                return false;
            }
            wakeup_drain(&me->wake);
        }
        wakeup_cancel(&me->wake);
    }
    return true;
}

static void throw_ball(struct side *me, struct side *other, uint32_t ball)
{
    other->payload = ball * 2654435761u;
    /* Release, for the payload only: the order towards `sleeping` is wakeup_notify()'s business. */
    atomic_store_explicit(&other->ball, ball, memory_order_release);
    me->n_sent += wakeup_notify(&other->wake);
}

static const uint32_t game_over = UINT32_MAX;

static void *pong(void *arg)
{
    struct game *g = arg;
    struct side *me = &g->side[1];
    uint32_t ball = 0;

    while (await_ball(g, me, ball, ball * 3 & 63)) {
        ball = atomic_load_explicit(&me->ball, memory_order_relaxed);
        me->n_spoilt += me->payload != ball * 2654435761u;
        throw_ball(me, &g->side[0], ball);
        if (ball == game_over)
            break;
    }
    return NULL;
}

static void ping(struct game *g)
{
    struct side *me = &g->side[0];
    bool last = false;

    for (uint32_t i = 1; !last && !atomic_load(&g->lost); i++) {
        uint32_t old = atomic_load_explicit(&me->ball, memory_order_relaxed);

        last = i > g->n_rounds || clock_monotonic_ns() > g->until_ns;
        throw_ball(me, &g->side[1], last ? game_over : i);
        if (!await_ball(g, me, old, i & 63))
            break;
        me->n_spoilt += me->payload != (last ? game_over : i) * 2654435761u;
        if (!last)
            g->n_done = i;
    }
}

static void test_no_wake_up_is_lost(void **state)
{
    static struct game g;
    pthread_t thread;

    (void)state;
    g.n_rounds = ROUNDS;
    g.until_ns = clock_monotonic_ns() + BUDGET_S * NS_PER_S;
    for (int i = 0; i < 2; i++)
        assert_int_equal(wakeup_init(&g.side[i].wake), 0);
    assert_int_equal(pthread_create(&thread, NULL, pong, &g), 0);
    ping(&g);
    pthread_join(thread, NULL);
    print_message("%u rounds, %u + %u sleeps, %u + %u system calls to wake\n", g.n_done, g.side[0].n_sleeps,
                  g.side[1].n_sleeps, g.side[0].n_sent, g.side[1].n_sent);
    assert_false(atomic_load(&g.lost));
    assert_int_equal(g.side[0].n_spoilt + g.side[1].n_spoilt, 0);
    assert_true(g.n_done == ROUNDS || clock_monotonic_ns() >= g.until_ns);
    assert_true(g.n_done > 0);
    for (int i = 0; i < 2; i++)
        wakeup_deinit(&g.side[i].wake);
}

/* ---- several producers, one consumer ---- */

enum { PRODUCERS = 3, ITEMS = ROUNDS / PRODUCERS };

struct crowd {
    struct wakeup wake;
    _Alignas(CACHE_LINE) _Atomic uint32_t n_published;
    int64_t until_ns;
};

static void *crowd_produce(void *arg)
{
    struct crowd *c = arg;

    for (uint32_t i = 0; i < ITEMS && clock_monotonic_ns() < c->until_ns; i++) {
        atomic_fetch_add_explicit(&c->n_published, 1, memory_order_relaxed);
        wakeup_notify(&c->wake);
        for (_Atomic uint32_t spin = 0; spin < (i & 127); spin++) /* let the consumer fall asleep */
            ;
    }
    return NULL;
}

static void test_any_of_several_producers_wakes(void **state)
{
    static struct crowd c;
    struct producer {
        pthread_t thread;
        bool joined;
    } producers[PRODUCERS];
    uint32_t n_seen = 0, n_sleeps = 0, n_alive = PRODUCERS;
    bool lost = false;

    (void)state;
    c.until_ns = clock_monotonic_ns() + BUDGET_S * NS_PER_S;
    assert_int_equal(wakeup_init(&c.wake), 0);
    for (int i = 0; i < PRODUCERS; i++) {
        producers[i].joined = false;
        assert_int_equal(pthread_create(&producers[i].thread, NULL, crowd_produce, &c), 0);
    }
    while (!lost && (n_alive > 0 || atomic_load(&c.n_published) != n_seen)) {
        uint32_t n = atomic_load_explicit(&c.n_published, memory_order_relaxed);

        if (n != n_seen) {
            n_seen = n;
            continue;
        }
        wakeup_prepare(&c.wake);
        if (atomic_load_explicit(&c.n_published, memory_order_relaxed) == n_seen) {
            struct pollfd pfd = {.fd = c.wake.fd, .events = POLLIN};

            n_sleeps++;
            if (poll(&pfd, 1, 200) != 1) {
                /* Either all have gone, or there is something that nobody told us of. */
                lost = atomic_load_explicit(&c.n_published, memory_order_relaxed) != n_seen &&
                       poll(&pfd, 1, LOST_MS) != 1; /* whoever has published it may not have come further */
                for (int i = 0; i < PRODUCERS; i++) {
                    if (!producers[i].joined && pthread_tryjoin_np(producers[i].thread, NULL) == 0) {
                        producers[i].joined = true;
                        n_alive--;
                    }
                }
            }
            wakeup_drain(&c.wake);
        }
        wakeup_cancel(&c.wake);
    }
    for (int i = 0; i < PRODUCERS; i++) {
        if (!producers[i].joined)
            pthread_join(producers[i].thread, NULL);
    }
    print_message("%u items, %u sleeps\n", n_seen, n_sleeps);
    assert_false(lost);
    assert_int_equal(n_seen, atomic_load(&c.n_published));
    wakeup_deinit(&c.wake);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_only_a_sleeper_costs_a_system_call),
        cmocka_unit_test(test_a_stop_request_is_heard_by_whoever_does_not_sleep),
        cmocka_unit_test(test_sending_to_a_full_counter_does_not_block),
        cmocka_unit_test(test_one_of_both_sees_the_other),
        cmocka_unit_test(test_no_wake_up_is_lost),
        cmocka_unit_test(test_any_of_several_producers_wakes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
