/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "slirp/world.h"

#include "base/clock.h"
#include "base/counters.h"
#include "test.h"

#include <errno.h>
#include <sched.h>
#include <unistd.h>

enum { ROUNDS = 1000, DEADLINE_S = 60 };

/* A thread as the slirp thread is one: turns its loop, parks when asked, ends when told. */
struct slirp {
    struct world world;
    pthread_t thread;
    uint64_t n_work; /* the slirp thread's, or the holder's: TSan objects when both think so */
    uint64_t n_parks;
    _Atomic bool quit;
    _Atomic uint32_t n_kicks;
    bool held; /* the holder's: the slirp thread must never see it set */
    uint64_t n_violations;
};

static void *slirp_main(void *arg)
{
    struct slirp *s = arg;

    while (!atomic_load_explicit(&s->quit, memory_order_relaxed)) {
        s->n_work++;
        s->n_violations += s->held;
        if (world_wanted(&s->world)) {
            world_park(&s->world);
            s->n_parks++;
        }
        if (s->n_work % 64 == 0)
            sched_yield();
    }
    world_end(&s->world);
    return NULL;
}

static void kick(void *arg)
{
    struct slirp *s = arg;

    atomic_fetch_add_explicit(&s->n_kicks, 1, memory_order_relaxed);
}

static void slirp_start(struct slirp *s)
{
    *s = (struct slirp){.held = false};
    world_init(&s->world, true);
    s->world.ended = false; /* as the engine does before it starts the thread */
    assert_int_equal(pthread_create(&s->thread, NULL, slirp_main, s), 0);
}

/* A thread that does not come back is a failure, not a test that hangs. */
static void join_in_time(pthread_t thread)
{
    struct timespec deadline;

    clock_gettime(CLOCK_REALTIME, &deadline);
    deadline.tv_sec += DEADLINE_S;
    if (pthread_timedjoin_np(thread, NULL, &deadline) != 0) {
        print_error("a thread is stuck\n");
        _exit(1);
    }
}

struct holder {
    struct slirp *slirp;
    pthread_t thread;
    uint32_t n_rounds;
    uint64_t n_moved; /* the slirp thread worked while it was held */
};

/* Does the slirp thread's work while it holds it. */
static void *holder_main(void *arg)
{
    struct holder *h = arg;
    struct slirp *s = h->slirp;

    for (uint32_t i = 0; i < h->n_rounds; i++) {
        uint64_t before;

        world_hold(&s->world, kick, s);
        s->held = true;
        before = s->n_work;
        if (i % 8 == 0)
            sched_yield();
        h->n_moved += s->n_work != before;
        s->n_work++;
        s->held = false;
        world_release(&s->world);
    }
    return NULL;
}

static void holder_start(struct holder *h, struct slirp *s, uint32_t n_rounds)
{
    *h = (struct holder){.slirp = s, .n_rounds = n_rounds};
    assert_int_equal(pthread_create(&h->thread, NULL, holder_main, h), 0);
}

static void test_the_slirp_thread_stands_still_while_it_is_held(void **state)
{
    uint64_t stops = counter_read(COUNTER_world_stops);
    struct holder h;
    struct slirp s;

    (void)state;
    slirp_start(&s);
    holder_start(&h, &s, ROUNDS);
    join_in_time(h.thread);
    atomic_store(&s.quit, true);
    join_in_time(s.thread);
    assert_int_equal(h.n_moved, 0);
    assert_int_equal(s.n_violations, 0);
    assert_int_equal(atomic_load(&s.n_kicks), ROUNDS);
    assert_true(s.n_parks > 0 && s.n_parks <= ROUNDS); /* one park may serve two stops on end */
    assert_int_equal(counter_read(COUNTER_world_stops) - stops, ROUNDS);
    assert_false(world_wanted(&s.world));
    assert_false(s.world.parked);
    world_deinit(&s.world);
}

/* One at a time, as world.h has it: who that is may change. */
static void test_the_holder_may_be_another_thread(void **state)
{
    struct holder h[2];
    struct slirp s;

    (void)state;
    slirp_start(&s);
    for (int i = 0; i < 2; i++) {
        holder_start(&h[i], &s, ROUNDS / 2);
        join_in_time(h[i].thread);
    }
    atomic_store(&s.quit, true);
    join_in_time(s.thread);
    assert_int_equal(h[0].n_moved + h[1].n_moved + s.n_violations, 0);
    assert_int_equal(atomic_load(&s.n_kicks), ROUNDS);
    world_deinit(&s.world);
}

static void test_a_thread_that_has_ended_holds_nobody_up(void **state)
{
    struct holder h;
    struct slirp s;

    (void)state;
    slirp_start(&s);
    atomic_store(&s.quit, true);
    join_in_time(s.thread);
    holder_start(&h, &s, ROUNDS);
    join_in_time(h.thread);
    assert_int_equal(s.n_parks, 0);
    assert_int_equal(h.n_moved, 0);
    world_deinit(&s.world);
}

static void test_a_thread_that_never_started_holds_nobody_up(void **state)
{
    struct holder h;
    struct slirp s = {.held = false};

    (void)state;
    world_init(&s.world, true);
    holder_start(&h, &s, 10);
    join_in_time(h.thread);
    assert_int_equal(atomic_load(&s.n_kicks), 10);
    world_deinit(&s.world);
}

/* The end may come before the request, while the holder waits, or after the release. */
static void test_a_thread_may_end_at_any_moment(void **state)
{
    (void)state;
    for (int round = 0; round < ROUNDS / 5; round++) {
        struct holder h;
        struct slirp s;

        slirp_start(&s);
        holder_start(&h, &s, 20);
        for (int i = 0; i < round % 16; i++)
            sched_yield();
        atomic_store(&s.quit, true);
        join_in_time(h.thread);
        join_in_time(s.thread);
        assert_int_equal(h.n_moved + s.n_violations, 0);
        assert_true(s.world.ended);
        world_deinit(&s.world);
    }
}

static void *end_later(void *arg)
{
    struct slirp *s = arg;

    while (!world_wanted(&s->world)) /* the holder waits by now, or will with the lock in its hand */
        sched_yield();
    world_end(&s->world);
    return NULL;
}

static void test_the_end_wakes_a_holder_that_waits(void **state)
{
    (void)state;
    for (int round = 0; round < ROUNDS / 5; round++) {
        struct slirp s = {.held = false};
        struct holder h;

        world_init(&s.world, true);
        s.world.ended = false;
        holder_start(&h, &s, 1);
        assert_int_equal(pthread_create(&s.thread, NULL, end_later, &s), 0);
        join_in_time(h.thread);
        join_in_time(s.thread);
        world_deinit(&s.world);
    }
}

/* pthread_cond_wait(3) may return for no reason. */
static void test_a_false_alarm_is_no_stop(void **state)
{
    struct slirp s = {.held = false};
    struct holder h;

    (void)state;
    world_init(&s.world, true);
    s.world.ended = false;
    holder_start(&h, &s, 1);
    while (!world_wanted(&s.world))
        sched_yield();
    for (int i = 0; i < 100; i++) {
        pthread_mutex_lock(&s.world.lock);
        pthread_cond_broadcast(&s.world.changed);
        pthread_mutex_unlock(&s.world.lock);
        usleep(50);
        assert_true(world_wanted(&s.world)); /* no: it was held and released */
    }
    world_end(&s.world);
    join_in_time(h.thread);
    world_deinit(&s.world);
}

static void test_parking_unasked_returns_at_once(void **state)
{
    struct world w;

    (void)state;
    world_init(&w, true);
    assert_false(world_wanted(&w));
    alarm(DEADLINE_S);
    world_park(&w);
    alarm(0);
    assert_false(w.parked);
    world_deinit(&w);
}

static void test_the_time_of_a_stop_is_counted(void **state)
{
    uint64_t total = counter_read(COUNTER_world_stop_ns_total);
    uint64_t over = counter_read(COUNTER_world_stops_over_5ms);
    struct timespec pause = {.tv_nsec = 20 * NS_PER_MS};
    struct slirp s = {.held = false};

    (void)state;
    world_init(&s.world, true);
    world_hold(&s.world, kick, &s);
    nanosleep(&pause, NULL);
    world_release(&s.world);
    assert_true(counter_read(COUNTER_world_stop_ns_total) - total >= 20 * NS_PER_MS);
    assert_true(counter_read(COUNTER_world_stop_ns_max) >= 20 * NS_PER_MS);
    assert_true(counter_read(COUNTER_world_stops_over_5ms) > over &&
                counter_read(COUNTER_world_stops_over_1ms) > over);
    world_deinit(&s.world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_slirp_thread_stands_still_while_it_is_held),
        cmocka_unit_test(test_the_holder_may_be_another_thread),
        cmocka_unit_test(test_a_thread_that_has_ended_holds_nobody_up),
        cmocka_unit_test(test_a_thread_that_never_started_holds_nobody_up),
        cmocka_unit_test(test_a_thread_may_end_at_any_moment),
        cmocka_unit_test(test_the_end_wakes_a_holder_that_waits),
        cmocka_unit_test(test_a_false_alarm_is_no_stop),
        cmocka_unit_test(test_parking_unasked_returns_at_once),
        cmocka_unit_test(test_the_time_of_a_stop_is_counted),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
