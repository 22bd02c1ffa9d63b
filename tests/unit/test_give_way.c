/* SPDX-License-Identifier: GPL-2.0-or-later */
/* When a thread gives way, and when it has learned not to. Time and traffic are the test's. */
#include "io/one_way.h"
#include "test.h"

/* A yield of @ns that begins at *now_ns. */
static void yield_of(struct give_way *g, int64_t *now_ns, int64_t ns)
{
    give_way_note(g, *now_ns, *now_ns + ns);
    *now_ns += ns;
}

static void test_a_short_yield_is_followed_by_the_next(void **state)
{
    struct give_way g = {0};
    int64_t now_ns = 1;

    (void)state;
    yield_of(&g, &now_ns, GIVE_WAY_LONG_NS - 1);
    assert_true(g.resume_ns <= now_ns);
}

static void test_long_yields_are_farther_and_farther_apart(void **state)
{
    struct give_way g = {0};
    int64_t now_ns = 1, pause_ns = GIVE_WAY_PAUSE_NS_MIN;

    (void)state;
    for (int i = 0; i < 10; i++) {
        yield_of(&g, &now_ns, GIVE_WAY_LONG_NS);
        assert_int_equal(g.resume_ns - now_ns, pause_ns);
        now_ns = g.resume_ns;
        pause_ns = pause_ns * 2 < GIVE_WAY_PAUSE_NS_MAX ? pause_ns * 2 : GIVE_WAY_PAUSE_NS_MAX;
    }
    assert_int_equal(pause_ns, GIVE_WAY_PAUSE_NS_MAX);

    /* Short ones between them change nothing; after a long time of these the other one has ended. */
    yield_of(&g, &now_ns, 1000);
    assert_true(g.resume_ns <= now_ns);
    yield_of(&g, &now_ns, GIVE_WAY_LONG_NS);
    assert_int_equal(g.resume_ns - now_ns, GIVE_WAY_PAUSE_NS_MAX);
    now_ns = g.resume_ns + GIVE_WAY_PAUSE_NS_MAX;
    yield_of(&g, &now_ns, 1000);
    yield_of(&g, &now_ns, GIVE_WAY_LONG_NS);
    assert_int_equal(g.resume_ns - now_ns, GIVE_WAY_PAUSE_NS_MIN);
}

static void test_nobody_is_asked_during_a_pause(void **state)
{
    struct give_way g = {.resume_ns = INT64_MAX, .pause_ns = 7};

    (void)state;
    give_way(&g);
    assert_int_equal(g.pause_ns, 7); /* a yield, long or short, would have changed it */
    g.resume_ns = 0;
    give_way(&g);
    assert_int_not_equal(g.pause_ns, 7);
}

static void test_streams_give_way(void **state)
{
    struct one_way out = {0}, in = {0};

    (void)state;
    for (uint64_t i = 1; i <= 100; i++) {
        assert_true(one_way_note(&out, i * ONE_WAY_MANY, i, ONE_WAY_BOTH));
        assert_true(one_way_note(&in, 0, i * ONE_WAY_MANY, ONE_WAY_IN));
    }
}

static void test_what_is_answered_does_not(void **state)
{
    struct one_way o = {0};
    uint64_t n_out = 0, n_in = 0;

    (void)state;
    (void)one_way_note(&o, n_out += 54, n_in, ONE_WAY_BOTH); /* no answer yet: nobody can know */
    (void)one_way_note(&o, n_out, n_in += 54, ONE_WAY_BOTH);
    for (int i = 0; i < 100; i++) {
        assert_false(
            one_way_note(&o, n_out += 27, n_in, ONE_WAY_BOTH)); /* a turn has one half or the other */
        assert_false(one_way_note(&o, n_out, n_in += 27, ONE_WAY_BOTH));
    }
}

static void test_a_few_do_not(void **state)
{
    struct one_way o = {0};

    (void)state;
    for (uint64_t i = 1; i <= 100; i++)
        assert_false(one_way_note(&o, i * (ONE_WAY_MANY - 1), 0, ONE_WAY_BOTH));
}

static void test_turns_without_datagrams_change_nothing(void **state)
{
    struct one_way o = {0};

    (void)state;
    assert_true(one_way_note(&o, 640, 0, ONE_WAY_BOTH));
    for (int i = 0; i < 100; i++)
        assert_false(one_way_note(&o, 640, 0, ONE_WAY_BOTH));
    assert_int_equal(o.late_out, 640);
    assert_false(one_way_note(&o, 640, 640, ONE_WAY_BOTH)); /* an answer after all */
}

/* With split threads each has one direction, and looks when it is woken for whatever reason. */
static void test_what_others_carry_does_not_count(void **state)
{
    struct one_way o = {0};

    (void)state;
    for (uint64_t i = 1; i <= 100; i++)
        assert_false(one_way_note(&o, i * 20, 0, ONE_WAY_IN));
    assert_true(one_way_note(&o, UINT64_C(2020), 0, ONE_WAY_OUT));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_short_yield_is_followed_by_the_next),
        cmocka_unit_test(test_long_yields_are_farther_and_farther_apart),
        cmocka_unit_test(test_nobody_is_asked_during_a_pause),
        cmocka_unit_test(test_streams_give_way),
        cmocka_unit_test(test_what_is_answered_does_not),
        cmocka_unit_test(test_a_few_do_not),
        cmocka_unit_test(test_turns_without_datagrams_change_nothing),
        cmocka_unit_test(test_what_others_carry_does_not_count),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
