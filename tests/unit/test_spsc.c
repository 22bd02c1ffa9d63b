/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "io/spsc.h"
#include "io/wakeup.h"

#include "test.h"

#include <poll.h>
#include <pthread.h>

/* Indices begin shortly before they wrap, so that every test crosses 2^32. */
static const uint32_t starts[] = {0, UINT32_MAX - 2, UINT32_MAX};

static void test_takes_what_fits_and_no_more(void **state)
{
    (void)state;
    for (unsigned s = 0; s < ARRAY_SIZE(starts); s++) {
        struct spsc r = {0};
        frame_id in[6] = {10, 11, 12, 13, 14, 15}, out[6];

        assert_int_equal(spsc_init(&r, 4, starts[s]), 0);
        assert_true(spsc_empty(&r));
        assert_int_equal(spsc_push(&r, in, 6), 4);
        assert_int_equal(spsc_push(&r, in, 1), 0);
        assert_false(spsc_empty(&r));
        assert_int_equal(spsc_pop(&r, out, 3), 3);
        assert_memory_equal(out, in, 3 * sizeof(*in));
        assert_int_equal(spsc_push(&r, in + 4, 2), 2);
        assert_int_equal(spsc_pop(&r, out, 6), 3);
        assert_int_equal(out[0], 13);
        assert_int_equal(out[1], 14);
        assert_int_equal(out[2], 15);
        assert_int_equal(spsc_pop(&r, out, 6), 0);
        spsc_deinit(&r);
    }
}

enum { STRESS_COUNT = 300000, STRESS_SLOTS = 8 };

struct stress {
    struct spsc ring;
    struct wakeup wake;
    uint32_t payload[STRESS_SLOTS * 4]; /* what an id stands for: must be visible with the id */
};

static void *stress_produce(void *arg)
{
    struct stress *s = arg;

    for (uint32_t i = 0; i < STRESS_COUNT;) {
        frame_id id = i % ARRAY_SIZE(s->payload);

        s->payload[id] = i * 2654435761u;
        if (spsc_push(&s->ring, &id, 1) == 1) {
            i++;
            wakeup_notify(&s->wake);
        }
    }
    return NULL;
}

/* The consumer really sleeps; a lost wake-up would leave it in poll() until the deadline, which fails the
 * test. */
static void test_nothing_is_lost_between_two_threads(void **state)
{
    struct stress s = {.wake = WAKEUP_NULL};
    pthread_t producer;
    uint32_t n_seen = 0, n_sleeps = 0;

    (void)state;
    assert_int_equal(spsc_init(&s.ring, STRESS_SLOTS, UINT32_MAX - 100), 0);
    assert_int_equal(wakeup_init(&s.wake), 0);
    assert_int_equal(pthread_create(&producer, NULL, stress_produce, &s), 0);
    while (n_seen < STRESS_COUNT) {
        frame_id ids[5];
        uint32_t n = spsc_pop(&s.ring, ids, ARRAY_SIZE(ids));

        for (uint32_t i = 0; i < n; i++, n_seen++) {
            if (ids[i] != n_seen % ARRAY_SIZE(s.payload) || s.payload[ids[i]] != n_seen * 2654435761u)
                fail_msg("item %u arrived as id %u with the wrong content", n_seen, ids[i]);
        }
        if (n > 0)
            continue;
        wakeup_prepare(&s.wake);
        if (spsc_empty(&s.ring)) {
            struct pollfd pfd = {.fd = s.wake.fd, .events = POLLIN};

            n_sleeps++;
            assert_int_equal(poll(&pfd, 1, 10000), 1);
            wakeup_drain(&s.wake);
        }
        wakeup_cancel(&s.wake);
    }
    pthread_join(producer, NULL);
    print_message("%u items, %u sleeps\n", n_seen, n_sleeps);
    wakeup_deinit(&s.wake);
    spsc_deinit(&s.ring);
}

static void test_a_waking_consumer_costs_no_system_call(void **state)
{
    struct wakeup w = WAKEUP_NULL;

    (void)state;
    assert_int_equal(wakeup_init(&w), 0);
    assert_false(wakeup_notify(&w)); /* nobody sleeps */
    wakeup_prepare(&w);
    assert_true(wakeup_notify(&w));
    assert_false(wakeup_notify(&w)); /* one of several producers is enough */
    wakeup_cancel(&w);
    wakeup_deinit(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_takes_what_fits_and_no_more),
        cmocka_unit_test(test_nothing_is_lost_between_two_threads),
        cmocka_unit_test(test_a_waking_consumer_costs_no_system_call),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
