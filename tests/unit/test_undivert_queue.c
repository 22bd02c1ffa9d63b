/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "base/bits.h"
#include "fwd/undivert_queue.h"
#include "test.h"

#include <stdlib.h>
#include <string.h>

static struct nft_tuple tuple(int family, uint16_t port)
{
    struct nft_tuple t = {0};

    t.source.sa.sa_family = t.destination.sa.sa_family = (sa_family_t)family;
    if (family == AF_INET6)
        t.source.in6.sin6_addr.s6_addr[15] = 1;
    else
        t.source.in.sin_addr.s_addr = 1;
    address_set_port(&t.source, port);
    address_set_port(&t.destination, 80);
    return t;
}

static uint32_t add(struct undivert_queue *q, uint16_t first, uint32_t count)
{
    uint32_t done = 0;

    for (uint32_t i = 0; i < count; i++) {
        struct nft_tuple t = tuple(AF_INET, (uint16_t)(first + i));

        done += undivert_queue_add(q, &t, 1);
    }
    return done;
}

/* The next ones are @first and so on, as many as @count, and no more within @max. */
static void expect_next(const struct undivert_queue *q, uint16_t first, uint32_t count, uint32_t max)
{
    struct nft_tuple t[8];

    assert_true(max <= ARRAY_SIZE(t));
    assert_int_equal(undivert_queue_next(q, t, max), count);
    for (uint32_t i = 0; i < count; i++)
        assert_int_equal(address_port(&t[i].source), first + i);
}

static void test_order_and_repetition(void **state)
{
    struct undivert_queue q = {.n = 0};

    (void)state;
    expect_next(&q, 0, 0, 8);
    assert_int_equal(add(&q, 1, 5), 5);
    expect_next(&q, 1, 3, 3);
    expect_next(&q, 1, 3, 3); /* to look is not to ask */
    undivert_queue_asked(&q, 3);
    expect_next(&q, 4, 2, 8);
    assert_false(undivert_queue_done(&q, 4)); /* nobody asked for the fourth */
    assert_true(undivert_queue_done(&q, 2));
    expect_next(&q, 4, 2, 8);
    undivert_queue_again(&q); /* the third may not have been heard */
    expect_next(&q, 3, 3, 8);
    undivert_queue_asked(&q, 3);
    assert_true(undivert_queue_done(&q, 3));
    assert_false(undivert_queue_done(&q, 1));
    assert_int_equal(q.n, 0);
}

static void test_it_has_a_bound_and_goes_round(void **state)
{
    struct undivert_queue q = {.n = 0};
    uint16_t next = 1;

    (void)state;
    for (int round = 0; round < 5; round++) {
        uint16_t first = next;

        assert_int_equal(add(&q, next, UNDIVERT_QUEUE_MAX + 9), UNDIVERT_QUEUE_MAX);
        next = (uint16_t)(next + UNDIVERT_QUEUE_MAX);
        for (uint32_t left = UNDIVERT_QUEUE_MAX; left > 0;) {
            uint32_t n = min_u32(left, 7);

            expect_next(&q, first, n, 7);
            undivert_queue_asked(&q, n);
            if (left % 2)
                assert_true(undivert_queue_done(&q, q.n_asked));
            first = (uint16_t)(first + n);
            left -= n;
        }
        assert_true(undivert_queue_done(&q, q.n_asked));
        assert_int_equal(add(&q, next, round), round); /* so that each round begins elsewhere */
        undivert_queue_asked(&q, (uint32_t)round);
        assert_true(undivert_queue_done(&q, (uint32_t)round));
        next = (uint16_t)(next + round);
    }
}

static void test_what_is_diverted_anew_is_kept(void **state)
{
    struct undivert_queue q = {.n = 0};
    struct nft_tuple v4 = tuple(AF_INET, 3), v6 = tuple(AF_INET6, 3), other = tuple(AF_INET, 3);

    (void)state;
    address_set_port(&other.destination, 81);
    assert_int_equal(add(&q, 1, 2), 2);
    undivert_queue_asked(&q, 2);
    assert_int_equal(undivert_queue_add(&q, &v4, 1), 1);
    assert_int_equal(undivert_queue_add(&q, &v6, 1), 1);
    assert_int_equal(undivert_queue_add(&q, &v4, 1), 1);
    assert_int_equal(undivert_queue_add(&q, &other, 1), 1);
    undivert_queue_forget(&q, &v4);
    assert_int_equal(q.n, 4);
    undivert_queue_forget(&q, &v4); /* none is left */
    assert_int_equal(q.n, 4);
    undivert_queue_forget(&q, &v6);
    expect_next(&q, 3, 1, 8);
    undivert_queue_forget(&q, &other);
    expect_next(&q, 0, 0, 8);
    v4 = tuple(AF_INET, 1);
    undivert_queue_forget(&q, &v4); /* it has been asked for, before what follows */
    assert_int_equal(q.n, 2);
    assert_true(undivert_queue_has(&q, &v4));
    assert_false(undivert_queue_has(&q, &v6));
    assert_true(undivert_queue_done(&q, 1));
    assert_false(undivert_queue_has(&q, &v4));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order_and_repetition),
        cmocka_unit_test(test_it_has_a_bound_and_goes_round),
        cmocka_unit_test(test_what_is_diverted_anew_is_kept),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
