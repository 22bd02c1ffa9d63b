/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "base/bits.h"
#include "base/counters.h"
#include "slirp/acks.h"
#include "test.h"

#include <arpa/inet.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { ETH = 14, WHOLE_TURN = 20 };

static struct acks acks;
static struct large large;
static struct tap_tx tx;
static int tap;

static int up(void **state) TSA(no_thread_safety_analysis)
{
    int pair[2];

    (void)state;
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, pair), 0);
    memset(&tx, 0, sizeof(tx));
    tx.fd = pair[0];
    tap = pair[1];
    large_init(&large, &tx, 1500, false);
    acks_init(&acks, &large);
    return 0;
}

static int down(void **state)
{
    (void)state;
    close(tx.fd);
    close(tap);
    return 0;
}

/* A segment to the guest without payload; checksums do not matter here. Returns its size. */
static uint32_t segment(uint8_t *f, bool v6, uint16_t port, uint32_t ack, uint8_t flags)
{
    uint32_t at = v6 ? ETH + 40 : ETH + 20;

    memset(f, 0, at + 20);
    put_u16(f + 12, v6 ? 0x86dd : 0x0800);
    if (v6) {
        f[ETH] = 0x60;
        put_u16(f + ETH + 4, 20);
        f[ETH + 6] = IPPROTO_TCP;
        inet_pton(AF_INET6, "2001:db8::7", f + ETH + 8);
        inet_pton(AF_INET6, "fd00::100", f + ETH + 24);
    } else {
        f[ETH] = 0x45;
        put_u16(f + ETH + 2, 40);
        f[ETH + 9] = IPPROTO_TCP;
        inet_pton(AF_INET, "198.51.100.7", f + ETH + 12);
        inet_pton(AF_INET, "10.0.2.100", f + ETH + 16);
    }
    put_u16(f + at, 80);
    put_u16(f + at + 2, port);
    put_u16(f + at + 8, (uint16_t)(ack >> 16));
    put_u16(f + at + 10, (uint16_t)ack);
    f[at + 12] = 5 << 4;
    f[at + 13] = flags;
    return at + 20;
}

static void give(bool v6, uint16_t port, uint32_t ack, uint8_t flags) TSA(no_thread_safety_analysis)
{
    uint8_t f[ACKS_FRAME_MAX];
    uint32_t size = segment(f, v6, port, ack, flags);

    acks_to_guest(&acks, f, size);
}

/* The next frame that the guest gets is this one. */
static void assert_next(bool v6, uint16_t port, uint32_t ack, uint8_t flags)
{
    uint8_t expected[ACKS_FRAME_MAX], got[256];
    uint32_t size = segment(expected, v6, port, ack, flags);

    assert_int_equal(read(tap, got, sizeof(got)), size);
    assert_memory_equal(got, expected, size);
}

static void assert_nothing(void)
{
    uint8_t got[256];

    assert_int_equal(read(tap, got, sizeof(got)), -1);
}

static void test_outside_a_turn_nothing_is_held(void **state)
{
    (void)state;
    for (uint32_t i = 1; i < 4; i++) {
        give(false, 1000, i, PACKET_TCP_ACK);
        assert_next(false, 1000, i, PACKET_TCP_ACK);
    }
    assert_nothing();
}

static void test_the_last_of_a_turn_stands_for_all(void **state) TSA(no_thread_safety_analysis)
{
    uint64_t before = counter_read(COUNTER_tx_acks_merged);

    (void)state;
    for (int v6 = 0; v6 < 2; v6++) {
        acks_begin(&acks);
        for (uint32_t i = 0; i < WHOLE_TURN; i++) {
            give(v6, 1000, 0xfffffff8u + i, PACKET_TCP_ACK); /* the numbers begin anew meanwhile */
            give(v6, 1001, 7 * i, PACKET_TCP_ACK);
        }
        assert_nothing();
        acks_end(&acks);
        assert_next(v6, 1000, 0xfffffff8u + WHOLE_TURN - 1, PACKET_TCP_ACK);
        assert_next(v6, 1001, 7 * (WHOLE_TURN - 1), PACKET_TCP_ACK);
        assert_nothing();
    }
    assert_int_equal(counter_read(COUNTER_tx_acks_merged) - before, 2 * 2 * (WHOLE_TURN - 1));
}

static void test_duplicates_all_arrive(void **state) TSA(no_thread_safety_analysis)
{
    (void)state;
    acks_begin(&acks);
    for (int i = 0; i < 4; i++)
        give(false, 1000, 5, PACKET_TCP_ACK);
    give(false, 1000, 4, PACKET_TCP_ACK); /* an older one: not ours to judge */
    acks_end(&acks);
    for (int i = 0; i < 4; i++)
        assert_next(false, 1000, 5, PACKET_TCP_ACK);
    assert_next(false, 1000, 4, PACKET_TCP_ACK);
    assert_nothing();
}

static void test_nothing_overtakes(void **state) TSA(no_thread_safety_analysis)
{
    static const uint8_t others[] = {PACKET_TCP_ACK | PACKET_TCP_FIN, PACKET_TCP_ACK | PACKET_TCP_RST,
                                     PACKET_TCP_ACK | PACKET_TCP_SYN, PACKET_TCP_ACK | 8, 0};

    (void)state;
    for (unsigned i = 0; i < sizeof(others); i++) {
        acks_begin(&acks);
        give(true, 1000, 1, PACKET_TCP_ACK);
        give(true, 1000, 2, others[i]);
        assert_next(true, 1000, 1, PACKET_TCP_ACK);
        assert_next(true, 1000, 2, others[i]);
        give(true, 1000, 3, PACKET_TCP_ACK);
        acks_end(&acks);
        assert_next(true, 1000, 3, PACKET_TCP_ACK);
        assert_nothing();
    }
}

static void test_what_has_no_place_is_sent(void **state) TSA(no_thread_safety_analysis)
{
    (void)state;
    acks_begin(&acks);
    for (int port = 0; port < ACKS_MAX + 1; port++)
        give(false, (uint16_t)port, 1, PACKET_TCP_ACK);
    assert_next(false, ACKS_MAX, 1, PACKET_TCP_ACK);
    assert_nothing();
    acks_end(&acks);
    for (int port = 0; port < ACKS_MAX; port++)
        assert_next(false, (uint16_t)port, 1, PACKET_TCP_ACK);
    assert_nothing();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_outside_a_turn_nothing_is_held, up, down),
        cmocka_unit_test_setup_teardown(test_the_last_of_a_turn_stands_for_all, up, down),
        cmocka_unit_test_setup_teardown(test_duplicates_all_arrive, up, down),
        cmocka_unit_test_setup_teardown(test_nothing_overtakes, up, down),
        cmocka_unit_test_setup_teardown(test_what_has_no_place_is_sent, up, down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
