/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "fwd/answers.h"

#include "base/clock.h"
#include "test.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>

static const int64_t start_ns = 1000 * NS_PER_S, busy_ns = ANSWERS_BUSY_MS * NS_PER_MS,
                     astray_ns = ANSWERS_ASTRAY_MS * NS_PER_MS;

static uint64_t key(const char *client, uint16_t client_port, uint16_t guest_port)
{
    union address shown, guest;

    memset(&shown, 0, sizeof(shown));
    memset(&guest, 0, sizeof(guest));
    shown.sa.sa_family = guest.sa.sa_family = strchr(client, ':') ? AF_INET6 : AF_INET;
    if (shown.sa.sa_family == AF_INET)
        assert_int_equal(inet_pton(AF_INET, client, &shown.in.sin_addr), 1);
    else
        assert_int_equal(inet_pton(AF_INET6, client, &shown.in6.sin6_addr), 1);
    address_set_port(&shown, client_port);
    address_set_port(&guest, guest_port);
    return answers_key(&shown, &guest);
}

static void test_a_key_is_of_an_address_and_a_port_of_the_guest(void **state)
{
    (void)state;
    assert_true(key("192.0.2.1", 1, 80) == key("192.0.2.1", 2, 80));
    assert_true(key("2001:db8::1", 1, 80) == key("2001:db8::1", 2, 80));
    assert_true(key("192.0.2.1", 1, 80) != key("192.0.2.1", 1, 81));
    assert_true(key("192.0.2.1", 1, 80) != key("192.0.2.2", 1, 80));
    assert_true(key("2001:db8::1", 1, 80) != key("2001:db8:1::1", 1, 80));
    assert_true(key("2001:db8::1", 1, 80) != key("2001:db8::2", 1, 80));
    assert_true(key("0.0.0.0", 0, 0) != 0);
}

static void test_nothing_is_known_at_first(void **state)
{
    static struct answers a;

    (void)state;
    for (int64_t now_ns = 0; now_ns < 3 * start_ns; now_ns += start_ns) {
        assert_false(answers_is_busy(&a, key("192.0.2.1", 1, 80), now_ns));
        assert_false(answers_is_astray(&a, key("192.0.2.1", 1, 80), now_ns));
        assert_false(answers_is_astray(&a, 0, now_ns));
    }
}

static void test_silence_is_everybodys_until_somebody_is_answered(void **state)
{
    struct answers a = {0};
    uint64_t one = key("192.0.2.1", 1, 80), other = key("192.0.2.2", 1, 80);

    (void)state;
    answers_note_silence(&a, one, start_ns);
    assert_true(answers_is_astray(&a, one, start_ns + astray_ns - 1));
    assert_true(answers_is_astray(&a, other, start_ns + astray_ns - 1));
    assert_false(answers_is_astray(&a, one, start_ns + astray_ns));
    assert_false(answers_is_astray(&a, other, start_ns + astray_ns));
    assert_false(answers_is_busy(&a, one, start_ns));
    answers_note_silence(&a, one, start_ns);
    answers_note(&a, other, start_ns + 1);
    assert_false(answers_is_astray(&a, one, start_ns + 1));
    assert_false(answers_is_astray(&a, other, start_ns + 1));
}

/* Its connections that are not answered are waited for, and lead nobody away. */
static void test_a_client_that_was_answered_is_waited_for(void **state)
{
    struct answers a = {0};
    uint64_t one = key("192.0.2.1", 1, 80), other = key("192.0.2.2", 1, 80);

    (void)state;
    answers_note(&a, one, start_ns);
    assert_true(answers_is_busy(&a, one, start_ns + busy_ns - 1));
    assert_false(answers_is_busy(&a, one, start_ns + busy_ns));
    assert_false(answers_is_busy(&a, other, start_ns));
    answers_note_silence(&a, one, start_ns + busy_ns - 1);
    assert_false(answers_is_astray(&a, one, start_ns + busy_ns));
    assert_false(answers_is_astray(&a, other, start_ns + busy_ns));
}

/* A client whose address is also one of the guest's networks, or another port of the forward. */
static void test_one_that_is_not_answered_beside_others_is_led_away_alone(void **state)
{
    struct answers a = {0};
    uint64_t one = key("192.0.2.1", 1, 80), other = key("192.0.2.2", 1, 80);

    (void)state;
    answers_note(&a, one, start_ns);
    answers_note_silence(&a, other, start_ns + 1);
    assert_true(answers_is_astray(&a, other, start_ns + astray_ns));
    assert_false(answers_is_astray(&a, other, start_ns + 1 + astray_ns));
    assert_false(answers_is_astray(&a, one, start_ns + 1));
    assert_true(answers_is_busy(&a, one, start_ns + 1));
    answers_note(&a, other, start_ns + 2); /* one that was under way */
    assert_false(answers_is_astray(&a, other, start_ns + 2));
}

/* That it was answered is known for as long as one waits for the sake of that. */
static void test_whoever_has_waited_in_vain_does_not_lead_all_away(void **state)
{
    struct answers a = {0};
    uint64_t one = key("192.0.2.1", 1, 80), other = key("192.0.2.2", 1, 80);

    (void)state;
    answers_note(&a, one, start_ns);
    answers_note_silence(&a, one, start_ns + busy_ns + NS_PER_S);
    assert_true(answers_is_astray(&a, one, start_ns + busy_ns + 2 * NS_PER_S));
    assert_false(answers_is_astray(&a, other, start_ns + busy_ns + 2 * NS_PER_S));
    answers_note_silence(&a, other, start_ns + 2 * busy_ns);
    assert_true(answers_is_astray(&a, key("192.0.2.3", 1, 80), start_ns + 2 * busy_ns + 1));
}

/* Whoever is led away does not take the place of one that is answered. */
static void test_silence_takes_nobodys_place(void **state)
{
    struct answers a = {0};
    uint64_t one = key("192.0.2.1", 1, 80);

    (void)state;
    answers_note(&a, one, start_ns);
    for (uint32_t i = 0; i < 10 * ANSWERS_CLIENTS; i++) {
        char client[32];

        snprintf(client, sizeof(client), "198.18.%u.%u", i / 250, i % 250);
        answers_note_silence(&a, key(client, 1, 80), start_ns);
    }
    assert_true(answers_is_busy(&a, one, start_ns + 1));
}

/* Many clients share places: what is forgotten is as if it had never been. */
static void test_who_comes_last_has_the_place(void **state)
{
    struct answers a = {0};
    uint64_t last = 0;
    int n_busy = 0;

    (void)state;
    for (uint32_t i = 0; i < 100; i++) {
        char client[32];

        snprintf(client, sizeof(client), "198.51.100.%u", i);
        last = key(client, 1, 80);
        answers_note(&a, last, start_ns);
    }
    for (uint32_t i = 0; i < 100; i++) {
        char client[32];

        snprintf(client, sizeof(client), "198.51.100.%u", i);
        n_busy += answers_is_busy(&a, key(client, 1, 80), start_ns + 1);
    }
    assert_in_range(n_busy, ANSWERS_CLIENTS / 2, ANSWERS_CLIENTS);
    assert_true(answers_is_busy(&a, last, start_ns + 1));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_key_is_of_an_address_and_a_port_of_the_guest),
        cmocka_unit_test(test_nothing_is_known_at_first),
        cmocka_unit_test(test_silence_is_everybodys_until_somebody_is_answered),
        cmocka_unit_test(test_a_client_that_was_answered_is_waited_for),
        cmocka_unit_test(test_one_that_is_not_answered_beside_others_is_led_away_alone),
        cmocka_unit_test(test_whoever_has_waited_in_vain_does_not_lead_all_away),
        cmocka_unit_test(test_silence_takes_nobodys_place),
        cmocka_unit_test(test_who_comes_last_has_the_place),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
