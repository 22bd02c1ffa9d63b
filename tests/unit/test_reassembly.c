/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "base/bits.h"
#include "base/clock.h"
#include "io/reassembly.h"

#include "test.h"

#include <stdlib.h>
#include <string.h>

enum { ETH = 14, PAYLOAD = 4001 };

static uint8_t frame[70000], payload[70000];
static int64_t now_ns = NS_PER_MS;

static void fill_payload(void)
{
    for (unsigned i = 0; i < sizeof(payload); i++)
        payload[i] = (uint8_t)(i * 31 + (i >> 8));
}

static uint32_t make4(uint16_t id, uint32_t offset, uint32_t size, bool more)
{
    uint8_t *ip = frame + ETH;
    uint16_t sum;

    memset(frame, 0, ETH + 20);
    put_u16(frame + 12, 0x0800);
    ip[0] = 0x45;
    put_u16(ip + 2, (uint16_t)(20 + size));
    put_u16(ip + 4, id);
    put_u16(ip + 6, (uint16_t)((more ? 0x2000 : 0) | offset / 8));
    ip[8] = 64;
    ip[9] = 253; /* RFC 3692: for experiments; the parser looks into no header */
    memcpy(ip + 12, "\x0a\0\2\x64\x0a\0\2\2", 8);
    sum = checksum_fold(checksum_add(0, ip, 20));
    memcpy(ip + 10, &sum, 2);
    memcpy(ip + 20, payload + offset, size);
    return ETH + 20 + size;
}

static uint32_t make6(uint32_t id, uint32_t offset, uint32_t size, bool more)
{
    uint8_t *ip = frame + ETH, *fragment = ip + 40;

    memset(frame, 0, ETH + 48);
    put_u16(frame + 12, 0x86dd);
    ip[0] = 0x60;
    put_u16(ip + 4, (uint16_t)(8 + size));
    ip[6] = 44;
    ip[7] = 64;
    ip[8] = ip[24] = 0xfd;
    ip[39] = 2;
    fragment[0] = 253;
    put_u16(fragment + 2, (uint16_t)(offset | more));
    put_u16(fragment + 6, (uint16_t)id);
    memcpy(fragment + 8, payload + offset, size);
    return ETH + 48 + size;
}

static const uint8_t *give(struct reassembly *r, uint32_t size, uint32_t *ret_size)
{
    /* A heap copy of the exact size, so that AddressSanitizer sees reads beyond it. */
    uint8_t *copy = malloc(size);
    const uint8_t *whole;
    struct packet p;
    enum packet_kind kind;

    assert_non_null(copy);
    memcpy(copy, frame, size);
    kind = packet_parse(&p, copy, size);
    assert_int_not_equal(kind, PACKET_MALFORMED);
    assert_true(p.is_fragment);
    role_assert(&role_slirp);
    whole = reassembly_take(r, kind, &p, now_ns, ret_size);
    free(copy);
    return whole;
}

static void check_whole(const uint8_t *whole, const uint32_t *size, uint32_t headers, uint32_t n)
{
    struct packet p;

    assert_non_null(whole);
    assert_int_equal(*size, headers + n);
    assert_int_not_equal(packet_parse(&p, whole, *size), PACKET_MALFORMED);
    assert_false(p.is_fragment);
    assert_int_equal(p.ip_protocol, 253);
    assert_int_equal(p.l4_size, n);
    assert_memory_equal(p.l4, payload, n);
}

static void test_pieces_in_any_order_become_the_datagram(void **state)
{
    static const unsigned orders[][3] = {{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}};
    struct reassembly *r;
    uint32_t size;

    (void)state;
    assert_int_equal(reassembly_new(&r), 0);
    for (unsigned v6 = 0; v6 < 2; v6++) {
        for (unsigned o = 0; o < ARRAY_SIZE(orders); o++) {
            for (unsigned i = 0; i < 3; i++) {
                uint32_t at = orders[o][i] * 1480, n = min_u32(1480, PAYLOAD - at);
                bool more = at + n < PAYLOAD;
                const uint8_t *whole =
                    give(r, v6 ? make6(o, at, n, more) : make4((uint16_t)o, at, n, more), &size);

                if (i < 2)
                    assert_null(whole);
                else
                    check_whole(whole, &size, ETH + (v6 ? 40 : 20), PAYLOAD);
                if (i == 2 && !v6)
                    assert_int_equal(checksum_fold(checksum_add(0, whole + ETH, 20)), 0);
            }
        }
    }
    reassembly_free(r);
}

static void test_an_overlap_spoils_the_datagram(void **state)
{
    struct reassembly *r;
    uint32_t size;

    (void)state;
    assert_int_equal(reassembly_new(&r), 0);
    assert_null(give(r, make4(7, 0, 1480, true), &size));
    assert_null(give(r, make4(7, 1472, 8, true), &size));
    assert_null(give(r, make4(7, 1480, 100, false), &size)); /* would have completed it */
    reassembly_free(r);
}

static void test_contradictory_ends_spoil_the_datagram(void **state)
{
    struct reassembly *r;
    uint32_t size;

    (void)state;
    assert_int_equal(reassembly_new(&r), 0);
    assert_null(give(r, make4(7, 800, 80, false), &size));
    assert_null(give(r, make4(7, 1600, 80, false), &size)); /* a second end */
    assert_null(give(r, make4(8, 800, 80, false), &size));
    assert_null(give(r, make4(8, 1600, 80, true), &size)); /* something behind the end */
    assert_null(give(r, make4(9, 1600, 80, true), &size));
    assert_null(give(r, make4(9, 80, 80, true), &size));
    assert_null(give(r, make4(9, 160, 80, false), &size)); /* the end in front; 240 bytes have come */
    assert_null(give(r, make4(10, 0, 81, true), &size));   /* not a multiple of 8 */
    reassembly_free(r);
}

static void test_nothing_larger_than_a_datagram_is_made(void **state)
{
    struct reassembly *r;
    uint32_t size;

    (void)state;
    assert_int_equal(reassembly_new(&r), 0);
    for (uint32_t at = 0; at < 65528; at += 8) {
        bool last = at + 8 >= 65528;

        assert_null(give(r, make4(7, at, 8, true), &size));
        if (last)
            assert_null(give(r, make4(7, 65528, 7, false), &size)); /* 65535 bytes and a header */
    }
    reassembly_free(r);
}

static void test_the_largest_datagram_is_made(void **state)
{
    struct reassembly *r;
    uint32_t size;

    (void)state;
    assert_int_equal(reassembly_new(&r), 0);
    assert_null(give(r, make4(7, 0, 65504, true), &size));
    check_whole(give(r, make4(7, 65504, 65515 - 65504, false), &size), &size, ETH + 20, 65515);
    reassembly_free(r);
}

static void test_time_and_number_are_bounded(void **state)
{
    struct reassembly *r;
    uint32_t size;

    (void)state;
    assert_int_equal(reassembly_new(&r), 0);
    assert_null(give(r, make4(0, 0, 800, true), &size));
    now_ns += (REASSEMBLY_MS + 1) * NS_PER_MS;
    assert_null(give(r, make4(0, 800, 80, false), &size)); /* too late */
    for (unsigned i = 1; i <= REASSEMBLY_SLOTS + 1; i++) {
        now_ns += 1;
        assert_null(give(r, make4((uint16_t)i, 0, 800, true), &size));
    }
    assert_null(give(r, make4(1, 800, 80, false), &size)); /* the first had to go */
    check_whole(give(r, make4(REASSEMBLY_SLOTS + 1, 800, 80, false), &size), &size, ETH + 20, 880);
    reassembly_free(r);
}

static void test_random_fragments_never_hurt(void **state)
{
    struct reassembly *r;
    uint32_t size;

    (void)state;
    srandom(1);
    assert_int_equal(reassembly_new(&r), 0);
    for (unsigned i = 0; i < 50000; i++) {
        uint32_t at = (uint32_t)random() % 100 * 8, n = (uint32_t)random() % 300;
        bool more = random() % 4;
        const uint8_t *whole;

        if (at == 0 && !more)
            continue; /* no fragment */
        whole = give(r, random() % 2 ? make4(random() % 3, at, n, more) : make6(random() % 3, at, n, more),
                     &size);
        if (whole) {
            struct packet p;

            assert_int_not_equal(packet_parse(&p, whole, size), PACKET_MALFORMED);
            assert_memory_equal(p.l4, payload, p.l4_size);
        }
        now_ns += NS_PER_MS;
    }
    reassembly_free(r);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pieces_in_any_order_become_the_datagram),
        cmocka_unit_test(test_an_overlap_spoils_the_datagram),
        cmocka_unit_test(test_contradictory_ends_spoil_the_datagram),
        cmocka_unit_test(test_nothing_larger_than_a_datagram_is_made),
        cmocka_unit_test(test_the_largest_datagram_is_made),
        cmocka_unit_test(test_time_and_number_are_bounded),
        cmocka_unit_test(test_random_fragments_never_hurt),
    };

    int failed;

    fill_payload();
    role_enter(&role_slirp);
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    role_leave(&role_slirp);
    return failed;
}
