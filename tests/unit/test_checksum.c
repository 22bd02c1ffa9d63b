/* SPDX-License-Identifier: GPL-2.0-or-later */
/* checksum_add(), which the compiler makes vectors of, against the sum as RFC 1071 writes it down. */
#include "test.h"

#include "base/bits.h"
#include "io/packet.h"

#include <arpa/inet.h>
#include <string.h>

enum { ALIGNMENTS = 64, SIZE_EXHAUSTIVE = 600, SIZE_MAX_FRAME = 65535 };

static uint8_t buffer[SIZE_MAX_FRAME + ALIGNMENTS];

/* In network byte order, word by word. */
static uint16_t by_the_book(const uint8_t *p, uint32_t size)
{
    uint64_t sum = 0;

    for (uint32_t i = 0; i + 1 < size; i += 2)
        sum += get_u16(p + i);
    if (size & 1)
        sum += (uint64_t)p[size - 1] << 8;
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)~sum;
}

static void fill_random(uint32_t seed)
{
    for (size_t i = 0; i < sizeof(buffer); i++) {
        seed = seed * 1664525 + 1013904223;
        buffer[i] = (uint8_t)(seed >> 24);
    }
}

static void check(const uint8_t *p, uint32_t size)
{
    uint16_t expected = by_the_book(p, size);

    assert_int_equal(ntohs(checksum_fold(checksum_add(0, p, size))), expected);
}

static void test_every_alignment_and_size(void **state)
{
    (void)state;
    fill_random(1);
    for (uint32_t at = 0; at < ALIGNMENTS; at++) {
        for (uint32_t size = 0; size <= SIZE_EXHAUSTIVE; size++)
            check(buffer + at, size);
    }
}

static void test_large_frames(void **state)
{
    static const uint32_t sizes[] = {1500, 9000, 32768, 65480, 65534, SIZE_MAX_FRAME};

    (void)state;
    for (uint32_t seed = 2; seed < 6; seed++) {
        fill_random(seed);
        for (uint32_t at = 0; at < ALIGNMENTS; at += 7) {
            for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++)
                check(buffer + at, sizes[i]);
        }
    }
}

/* Where carries are lost first, and where a sum of nothing must stay nothing. */
static void test_all_ones_and_all_zeros(void **state)
{
    (void)state;
    memset(buffer, 0xff, sizeof(buffer));
    for (uint32_t size = 1; size <= SIZE_MAX_FRAME; size += 251)
        check(buffer + 1, size);
    memset(buffer, 0, sizeof(buffer));
    for (uint32_t size = 0; size <= SIZE_MAX_FRAME; size += 251)
        check(buffer + 1, size);
}

/* The start counts like a piece of the data before it. */
static void test_a_sum_is_continued_from_any_number(void **state)
{
    static const uint32_t starts[] = {0, 1, 0xffff, 0x10000, 0xfffe0001, UINT32_MAX - 1, UINT32_MAX};
    uint8_t whole[sizeof(uint32_t) + SIZE_EXHAUSTIVE];

    (void)state;
    fill_random(7);
    for (unsigned i = 0; i < ARRAY_SIZE(starts); i++) {
        memcpy(whole, &starts[i], sizeof(starts[i]));
        memcpy(whole + sizeof(starts[i]), buffer, SIZE_EXHAUSTIVE);
        for (uint32_t size = 0; size <= SIZE_EXHAUSTIVE; size++)
            assert_int_equal(ntohs(checksum_fold(checksum_add(starts[i], buffer, size))),
                             by_the_book(whole, sizeof(starts[i]) + size));
    }
    for (uint32_t cut = 0; cut <= SIZE_EXHAUSTIVE; cut += 2)
        assert_int_equal(
            ntohs(checksum_fold(checksum_add(checksum_add(0, buffer, cut), buffer + cut, 1501 - cut))),
            by_the_book(buffer, 1501));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_alignment_and_size),
        cmocka_unit_test(test_large_frames),
        cmocka_unit_test(test_all_ones_and_all_zeros),
        cmocka_unit_test(test_a_sum_is_continued_from_any_number),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
