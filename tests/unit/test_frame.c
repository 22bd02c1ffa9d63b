/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "io/frame.h"

#include "test.h"

#include <pthread.h>
#include <stdbool.h>
#include <string.h>

enum { N = 16 };

static void test_every_frame_has_one_owner(void **state)
{
    struct frame_pool p;
    frame_id ids[2 * N];
    bool seen[N] = {false};

    (void)state;
    assert_int_equal(frame_pool_init(&p, N), 0);
    assert_int_equal(frame_take(&p, ids, 2 * N), N);
    for (int i = 0; i < N; i++) {
        assert_true(ids[i] < N);
        assert_false(seen[ids[i]]);
        seen[ids[i]] = true;
    }
    assert_int_equal(frame_take(&p, ids + N, 1), 0);
    frame_put(&p, ids, 3);
    frame_return(&p, ids + 3, N - 3);
    assert_int_equal(frame_take(&p, ids, 2 * N), N);
    frame_pool_deinit(&p);
}

static void test_the_largest_frame_fits_without_touching_its_neighbour(void **state)
{
    struct frame_pool p;
    frame_id ids[2];

    (void)state;
    assert_int_equal(frame_pool_init(&p, 2), 0);
    assert_int_equal(frame_take(&p, ids, 2), 2);
    memset(frame_data(&p, 0), 0xaa, FRAME_SIZE_MAX);
    memset(frame_data(&p, 1), 0x55, FRAME_SIZE_MAX);
    assert_int_equal(frame_data(&p, 0)[FRAME_SIZE_MAX - 1], 0xaa);
    assert_int_equal(frame_data(&p, 0)[0], 0xaa);
    frame_pool_deinit(&p);
}

struct traffic {
    struct frame_pool pool;
    struct spsc ring;
};

enum { ROUNDS = 100000 };

static void *give_back(void *arg)
{
    struct traffic *t = arg;
    frame_id ids[4];

    for (uint32_t n_done = 0; n_done < ROUNDS;) {
        uint32_t n = spsc_pop(&t->ring, ids, 4);

        for (uint32_t i = 0; i < n; i++) {
            if (t->pool.size[ids[i]] != ids[i] + 7)
                return (void *)1;
        }
        frame_return(&t->pool, ids, n);
        n_done += n;
    }
    return NULL;
}

static void test_frames_come_home_from_another_thread(void **state)
{
    struct traffic t;
    pthread_t thread;
    frame_id ids[4];
    void *wrong = NULL;

    (void)state;
    assert_int_equal(frame_pool_init(&t.pool, N), 0);
    assert_int_equal(spsc_init(&t.ring, N, UINT32_MAX - 3), 0);
    assert_int_equal(pthread_create(&thread, NULL, give_back, &t), 0);
    for (uint32_t n_sent = 0; n_sent < ROUNDS;) {
        uint32_t n = frame_take(&t.pool, ids, ROUNDS - n_sent < 4 ? ROUNDS - n_sent : 4);

        for (uint32_t i = 0; i < n; i++)
            t.pool.size[ids[i]] = ids[i] + 7;
        assert_int_equal(spsc_push(&t.ring, ids, n), n);
        n_sent += n;
    }
    pthread_join(thread, &wrong);
    assert_null(wrong);
    assert_int_equal(frame_take(&t.pool, (frame_id[N]){0}, N), N); /* none lost */
    spsc_deinit(&t.ring);
    frame_pool_deinit(&t.pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_frame_has_one_owner),
        cmocka_unit_test(test_the_largest_frame_fits_without_touching_its_neighbour),
        cmocka_unit_test(test_frames_come_home_from_another_thread),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
