/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "fwd/divert_keys.h"

#include "test.h"

#include <string.h>

static struct divert_keys keys;

static uint64_t key_of(const uint8_t *addresses, uint32_t addr_size, uint16_t src_port, uint16_t dst_port)
{
    struct packet p = {
        .src = addresses, .dst = addresses + addr_size, .src_port = src_port, .dst_port = dst_port};

    return divert_keys_of(&keys, &p, addr_size);
}

static void test_every_byte_of_a_four_tuple_counts(void **state)
{
    uint8_t addresses[32];
    uint64_t first;

    (void)state;
    for (uint32_t addr_size = 4; addr_size <= 16; addr_size += 12) {
        memset(addresses, 1, sizeof(addresses));
        first = key_of(addresses, addr_size, 1000, 80);
        assert_true(first == key_of(addresses, addr_size, 1000, 80));
        assert_false(first == 0);
        for (uint32_t i = 0; i < 2 * addr_size; i++) {
            addresses[i] ^= 0x10;
            assert_false(first == key_of(addresses, addr_size, 1000, 80));
            addresses[i] ^= 0x10;
        }
        assert_false(first == key_of(addresses, addr_size, 1001, 80));
        assert_false(first == key_of(addresses, addr_size, 1000, 81));
        assert_false(first == key_of(addresses, addr_size, 80, 1000));
    }
}

static void test_a_secret_makes_other_keys(void **state)
{
    uint8_t addresses[8] = {0};
    uint64_t first = key_of(addresses, 4, 1, 2);

    (void)state;
    assert_int_equal(divert_keys_init(&keys), 0);
    assert_false(first == key_of(addresses, 4, 1, 2));
}

static void test_all_places_of_a_bucket(void **state)
{
    uint64_t first = 7;
    uint32_t bucket = divert_keys_bucket(first);

    (void)state;
    assert_false(divert_keys_has(&keys, first));
    role_enter(&role_fwd);
    for (uint32_t i = 0; i < DIVERT_PER_BUCKET; i++) {
        uint64_t key = first + (uint64_t)i * DIVERT_BUCKETS;

        assert_int_equal(divert_keys_bucket(key), bucket);
        divert_keys_set(&keys, bucket + i, key, true);
        assert_int_equal(divert_keys_count(&keys), i + 1);
    }
    for (uint32_t i = 0; i < DIVERT_PER_BUCKET; i++) {
        uint64_t key = first + (uint64_t)i * DIVERT_BUCKETS;

        assert_true(divert_keys_has(&keys, key));
        divert_keys_set(&keys, bucket + i, key, false);
        assert_false(divert_keys_has(&keys, key));
    }
    role_leave(&role_fwd);
    assert_int_equal(divert_keys_count(&keys), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_byte_of_a_four_tuple_counts),
        cmocka_unit_test(test_a_secret_makes_other_keys),
        cmocka_unit_test(test_all_places_of_a_bucket),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
