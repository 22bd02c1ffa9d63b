/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "io/icmp_error.h"
#include "io/packet.h"
#include "slirp/filter.h"

#include "base/bits.h"
#include "test.h"

#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>

enum { ETH = 14 };

static uint8_t frame[2048];

/* An IPv4 frame to @dst with @l4_size bytes of transport header; returns its size. */
static uint32_t make_ipv4(uint8_t protocol, const char *dst, uint32_t l4_size)
{
    memset(frame, 0, sizeof(frame));
    put_u16(frame + 12, 0x0800);
    frame[ETH] = 0x45;
    put_u16(frame + ETH + 2, 20 + l4_size);
    frame[ETH + 8] = 64;
    frame[ETH + 9] = protocol;
    inet_pton(AF_INET, "10.0.2.100", frame + ETH + 12);
    inet_pton(AF_INET, dst, frame + ETH + 16);
    if (protocol == IPPROTO_TCP && l4_size >= 20) {
        put_u16(frame + ETH + 20, 1234);
        put_u16(frame + ETH + 22, 80);
        frame[ETH + 20 + 12] = 0x50;
        frame[ETH + 20 + 13] = PACKET_TCP_SYN;
    }
    if (protocol == IPPROTO_UDP && l4_size >= 8) {
        put_u16(frame + ETH + 20, 5353);
        put_u16(frame + ETH + 22, 53);
        put_u16(frame + ETH + 24, l4_size);
    }
    return ETH + 20 + l4_size;
}

static uint32_t make_ipv6(uint8_t next, const char *dst, uint32_t payload_size)
{
    memset(frame, 0, sizeof(frame));
    put_u16(frame + 12, 0x86dd);
    frame[ETH] = 0x60;
    put_u16(frame + ETH + 4, payload_size);
    frame[ETH + 6] = next;
    inet_pton(AF_INET6, "fd00::100", frame + ETH + 8);
    inet_pton(AF_INET6, dst, frame + ETH + 24);
    return ETH + 40 + payload_size;
}

static void test_tcp_and_udp_ports_are_found(void **state)
{
    struct packet p;

    (void)state;
    assert_int_equal(packet_parse(&p, frame, make_ipv4(IPPROTO_TCP, "192.0.2.1", 20)), PACKET_IPV4);
    assert_int_equal(p.src_port, 1234);
    assert_int_equal(p.dst_port, 80);
    assert_int_equal(p.tcp_flags, PACKET_TCP_SYN);
    assert_int_equal(packet_parse(&p, frame, make_ipv4(IPPROTO_UDP, "192.0.2.1", 30)), PACKET_IPV4);
    assert_int_equal(p.dst_port, 53);
    assert_int_equal(p.l4_size, 30);
}

static void test_padding_behind_the_packet_is_not_part_of_it(void **state)
{
    struct packet p;

    (void)state;
    assert_int_equal(packet_parse(&p, frame, make_ipv4(IPPROTO_UDP, "192.0.2.1", 8) + 18), PACKET_IPV4);
    assert_int_equal(p.l4_size, 8);
}

static void test_every_truncation_is_malformed(void **state)
{
    struct packet p;
    uint32_t size = make_ipv4(IPPROTO_TCP, "192.0.2.1", 20);

    (void)state;
    for (uint32_t n = 0; n < size; n++)
        assert_int_equal(packet_parse(&p, frame, n), PACKET_MALFORMED);
    size = make_ipv6(IPPROTO_UDP, "2001:db8::1", 8);
    put_u16(frame + ETH + 40 + 4, 8);
    assert_int_equal(packet_parse(&p, frame, size), PACKET_IPV6);
    for (uint32_t n = 0; n < size; n++)
        assert_int_equal(packet_parse(&p, frame, n), PACKET_MALFORMED);
}

static void test_contradictory_headers_are_malformed(void **state)
{
    struct packet p;
    uint32_t size;

    (void)state;
    size = make_ipv4(IPPROTO_TCP, "192.0.2.1", 20);
    frame[ETH] = 0x44; /* header shorter than a header */
    assert_int_equal(packet_parse(&p, frame, size), PACKET_MALFORMED);
    size = make_ipv4(IPPROTO_TCP, "192.0.2.1", 20);
    frame[ETH] = 0x65;
    assert_int_equal(packet_parse(&p, frame, size), PACKET_MALFORMED);
    size = make_ipv4(IPPROTO_TCP, "192.0.2.1", 20);
    frame[ETH + 20 + 12] = 0xf0; /* 60 bytes of TCP header in 20 */
    assert_int_equal(packet_parse(&p, frame, size), PACKET_MALFORMED);
    frame[ETH + 20 + 12] = 0x10;
    assert_int_equal(packet_parse(&p, frame, size), PACKET_MALFORMED);
    size = make_ipv4(IPPROTO_UDP, "192.0.2.1", 8);
    put_u16(frame + ETH + 24, 9); /* UDP longer than IP */
    assert_int_equal(packet_parse(&p, frame, size), PACKET_MALFORMED);
    put_u16(frame + ETH + 24, 7);
    assert_int_equal(packet_parse(&p, frame, size), PACKET_MALFORMED);
}

static void test_later_fragments_have_no_ports(void **state)
{
    struct packet p;
    uint32_t size = make_ipv4(IPPROTO_UDP, "192.0.2.1", 16);

    (void)state;
    put_u16(frame + ETH + 6, 0x2000 | 5);
    assert_int_equal(packet_parse(&p, frame, size), PACKET_IPV4);
    assert_true(p.is_fragment);
    assert_null(p.l4);
}

/* An IPv6 frame with @n fragment headers of these fields (RFC 8200 4.5), then @next and its 16 bytes. */
static uint32_t make_ipv6_fragment(const uint16_t *fields, size_t n, uint8_t next)
{
    uint32_t size = make_ipv6(IPPROTO_FRAGMENT, "2001:db8::1", (uint32_t)(8 * n + 16));
    uint8_t *l4 = frame + ETH + 40 + 8 * n;

    for (size_t i = 0; i < n; i++) {
        frame[ETH + 40 + 8 * i] = i + 1 < n ? IPPROTO_FRAGMENT : next;
        put_u16(frame + ETH + 40 + 8 * i + 2, fields[i]);
    }
    if (next == IPPROTO_DSTOPTS) {
        l4[0] = IPPROTO_UDP;
        l4 += 8;
    }
    put_u16(l4, 5353);
    put_u16(l4 + 2, 53);
    put_u16(l4 + 4, next == IPPROTO_DSTOPTS ? 8 : 16);
    return size;
}

static void test_ipv6_fragments_of_one_datagram_are_told_by_one_number(void **state)
{
    static const uint16_t first[] = {1}, middle[] = {8 << 3 | 1}, last[] = {16 << 3};
    static const uint16_t *const fields[] = {first, middle, last};
    static const uint8_t protocols[] = {IPPROTO_UDP, IPPROTO_DSTOPTS, IPPROTO_FRAGMENT};

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(fields) * ARRAY_SIZE(protocols); i++) {
        uint8_t protocol = protocols[i % ARRAY_SIZE(protocols)];
        struct packet p;

        assert_int_equal(
            packet_parse(&p, frame, make_ipv6_fragment(fields[i / ARRAY_SIZE(protocols)], 1, protocol)),
            PACKET_IPV6);
        assert_true(p.is_fragment);
        assert_int_equal(p.ip_protocol, protocol);
        assert_null(p.l4);
        assert_int_equal(p.dst_port, 0);
    }
}

static void test_an_ipv6_fragment_header_of_a_whole_datagram_makes_no_fragment(void **state)
{
    static const uint16_t whole[] = {0, 0};
    struct packet p;

    (void)state;
    for (unsigned n = 1; n <= 2; n++) {
        assert_int_equal(packet_parse(&p, frame, make_ipv6_fragment(whole, n, IPPROTO_UDP)), PACKET_IPV6);
        assert_false(p.is_fragment);
        assert_int_equal(p.ip_protocol, IPPROTO_UDP);
        assert_int_equal(p.dst_port, 53);
    }
}

static void test_no_second_ipv6_fragment_header_takes_back_the_first(void **state)
{
    static const uint16_t first_then_whole[] = {1, 0}, whole_then_first[] = {0, 1};
    static const uint16_t *const fields[] = {first_then_whole, whole_then_first};
    struct packet p;

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(fields); i++) {
        assert_int_equal(packet_parse(&p, frame, make_ipv6_fragment(fields[i], 2, IPPROTO_UDP)), PACKET_IPV6);
        assert_true(p.is_fragment);
        assert_null(p.l4);
    }
}

static void test_ipv6_extension_headers_are_walked_but_not_for_ever(void **state)
{
    struct packet p;
    uint32_t size = make_ipv6(IPPROTO_HOPOPTS, "2001:db8::1", 8 + 8);

    (void)state;
    frame[ETH + 40] = IPPROTO_UDP;
    put_u16(frame + ETH + 48 + 2, 53);
    put_u16(frame + ETH + 48 + 4, 8);
    assert_int_equal(packet_parse(&p, frame, size), PACKET_IPV6);
    assert_int_equal(p.dst_port, 53);

    frame[ETH + 40 + 1] = 200; /* longer than the packet */
    assert_int_equal(packet_parse(&p, frame, size), PACKET_MALFORMED);

    size = make_ipv6(IPPROTO_DSTOPTS, "2001:db8::1", 8 * 20);
    for (int i = 0; i < 20; i++)
        frame[ETH + 40 + 8 * i] = IPPROTO_DSTOPTS;
    assert_int_equal(packet_parse(&p, frame, size), PACKET_MALFORMED);
}

/* The parser reads nothing outside of the frame, whatever is in it: run under AddressSanitizer in CI. */
static void test_random_frames_stay_inside_their_buffer(void **state)
{
    unsigned seed = 1;

    (void)state;
    for (int i = 0; i < 200000; i++) {
        uint32_t size = (uint32_t)rand_r(&seed) % 100;
        uint8_t *copy = malloc(size ? size : 1);
        struct packet p;

        for (uint32_t j = 0; j < size; j++)
            copy[j] = (uint8_t)(rand_r(&seed) >> 8);
        if (size > 14 && (i & 3)) { /* mostly something that looks like IP */
            put_u16(copy + 12, i & 1 ? 0x0800 : 0x86dd);
            copy[14] = i & 1 ? 0x45 : 0x60;
        }
        switch (packet_parse(&p, copy, size)) {
        case PACKET_IPV4:
        case PACKET_IPV6:
            assert_true(p.src >= copy && p.dst + 4 <= copy + size);
            if (p.l4)
                assert_true(p.l4 + p.l4_size <= copy + size);
            break;
        default:
            break;
        }
        free(copy);
    }
}

static enum filter_verdict verdict(const struct filter *f, uint32_t size)
{
    struct packet p;

    return filter_frame(f, packet_parse(&p, frame, size), &p);
}

static void test_no_name_of_this_host_passes_when_loopback_is_disabled(void **state)
{
    static const char *const v4[] = {"127.0.0.1", "127.9.9.9", "0.0.0.0", "0.1.2.3"};
    static const char *const v6[] = {"::1", "::"}, *const mapped[] = {"::ffff:127.0.0.1", "::ffff:0.0.0.0"};
    struct filter on = {.disable_host_loopback = true, .ipv6 = true}, off = {.ipv6 = true};

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(v4); i++) {
        assert_int_equal(verdict(&on, make_ipv4(IPPROTO_TCP, v4[i], 20)), FILTER_DROP_LOOPBACK);
        assert_int_equal(verdict(&off, make_ipv4(IPPROTO_TCP, v4[i], 20)), FILTER_PASS);
    }
    for (unsigned i = 0; i < ARRAY_SIZE(v6); i++) {
        assert_int_equal(verdict(&on, make_ipv6(IPPROTO_NONE, v6[i], 0)), FILTER_DROP_LOOPBACK);
        assert_int_equal(verdict(&off, make_ipv6(IPPROTO_NONE, v6[i], 0)), FILTER_PASS);
    }
    for (unsigned i = 0; i < ARRAY_SIZE(mapped); i++)
        assert_int_equal(verdict(&on, make_ipv6(IPPROTO_NONE, mapped[i], 0)), FILTER_DROP_LOOPBACK);
    assert_int_equal(verdict(&on, make_ipv4(IPPROTO_TCP, "10.0.2.2", 20)),
                     FILTER_PASS); /* libslirp refuses it */
    assert_int_equal(verdict(&on, make_ipv6(IPPROTO_NONE, "2001:db8::1", 0)), FILTER_PASS);
}

/* Nor does one stand for an IPv4 address, for which other rules are. */
static void test_ipv4_mapped_addresses_are_no_addresses_of_packets(void **state)
{
    static const char *const mapped[] = {"::ffff:127.0.0.1", "::ffff:0.0.0.0", "::ffff:10.0.2.3",
                                         "::ffff:192.0.2.1", "::ffff:224.0.0.1"};
    static const char *const others[] = {"::fffe:192.0.2.1", "::ffff:0:192.0.2.1", "64:ff9b::192.0.2.1",
                                         "::192.0.2.1"};
    static const uint8_t protocols[] = {IPPROTO_NONE, IPPROTO_UDP, IPPROTO_ICMPV6};
    struct filter f = {.ipv6 = true};

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(mapped) * ARRAY_SIZE(protocols); i++) {
        const char *addr = mapped[i / ARRAY_SIZE(protocols)];
        uint32_t size = make_ipv6(protocols[i % ARRAY_SIZE(protocols)], addr, 8);

        put_u16(frame + ETH + 40 + 4, 8);
        assert_int_equal(verdict(&f, size), FILTER_DROP_OTHER);
        memcpy(frame + ETH + 8, frame + ETH + 24, 16); /* from there */
        inet_pton(AF_INET6, "2001:db8::1", frame + ETH + 24);
        assert_int_equal(verdict(&f, size), FILTER_DROP_OTHER);
    }
    for (unsigned i = 0; i < ARRAY_SIZE(others); i++)
        assert_int_equal(verdict(&f, make_ipv6(IPPROTO_NONE, others[i], 0)), FILTER_PASS);
}

static void test_a_disabled_dns_address_is_silent_but_for_echo(void **state)
{
    struct filter f = {.disable_dns = true, .ipv6 = true};

    (void)state;
    inet_pton(AF_INET, "10.0.2.3", &f.dns);
    assert_int_equal(verdict(&f, make_ipv4(IPPROTO_UDP, "10.0.2.3", 8)), FILTER_DROP_DNS);
    assert_int_equal(verdict(&f, make_ipv4(IPPROTO_TCP, "10.0.2.3", 20)), FILTER_DROP_DNS);
    assert_int_equal(verdict(&f, make_ipv4(IPPROTO_ICMP, "10.0.2.3", 8)), FILTER_PASS);
    assert_int_equal(verdict(&f, make_ipv4(IPPROTO_UDP, "10.0.2.2", 8)), FILTER_PASS);
    assert_int_equal(verdict(&f, make_ipv6(IPPROTO_NONE, "fd00::3", 0)), FILTER_DROP_DNS);
}

static void test_a_connection_to_many_is_no_connection(void **state)
{
    static const char *const v4[] = {"255.255.255.255", "224.0.0.1", "239.1.2.3", "240.0.0.1"};
    struct filter f = {.ipv6 = true};
    uint32_t size;

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(v4); i++) {
        assert_int_equal(verdict(&f, make_ipv4(IPPROTO_TCP, v4[i], 20)), FILTER_DROP_OTHER);
        assert_int_equal(verdict(&f, make_ipv4(IPPROTO_UDP, v4[i], 8)), FILTER_PASS); /* DHCP, for one */
    }
    size = make_ipv6(IPPROTO_TCP, "ff02::1", 20);
    frame[size - 20 + 12] = 0x50;
    assert_int_equal(verdict(&f, size), FILTER_DROP_OTHER);
    frame[ETH + 24] = 0xfe;
    frame[ETH + 25] = 0x80;
    assert_int_equal(verdict(&f, size), FILTER_PASS);
}

static void test_arp_in_another_name_is_dropped(void **state)
{
    static const uint8_t claim[] = {0, 1, 8, 0, 6, 4, 0, 2, 2, 1, 2, 3, 4, 5, 10, 0, 2, 100};
    struct filter f = {.ipv6 = true};

    (void)state;
    memset(frame, 0, 64);
    memcpy(frame + 6, claim + 8, 6);
    put_u16(frame + 12, 0x0806);
    memcpy(frame + ETH, claim, sizeof(claim));
    assert_int_equal(verdict(&f, ETH + 28), FILTER_PASS);
    assert_int_equal(verdict(&f, ETH + 27), FILTER_DROP_MALFORMED);
    frame[ETH + 13] ^= 1;
    assert_int_equal(verdict(&f, ETH + 28), FILTER_DROP_OTHER);
}

static void test_unknown_ethertypes_and_unwanted_ipv6_are_dropped(void **state)
{
    struct filter f = {.ipv6 = false};

    (void)state;
    assert_int_equal(verdict(&f, make_ipv6(IPPROTO_NONE, "2001:db8::1", 0)), FILTER_DROP_OTHER);
    memset(frame, 0, 64);
    put_u16(frame + 12, 0x88f8); /* NC-SI, which libslirp would parse */
    assert_int_equal(verdict(&f, 64), FILTER_DROP_OTHER);
}

static void test_checksum_of_a_finished_header_is_zero(void **state)
{
    /* The worked example of RFC 1071, section 3. */
    static const uint8_t example[] = {0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7};
    uint16_t sum = checksum_fold(checksum_add(0, example, sizeof(example)));
    uint8_t odd[9];

    (void)state;
    assert_int_equal(ntohs(sum), (uint16_t)~0xddf2);
    memcpy(odd, example, 8);
    odd[8] = 0x12;
    assert_int_equal(ntohs(checksum_fold(checksum_add(0, odd, 9))), (uint16_t) ~(0xddf2 + 0x1200));
    /* In two steps as in one. */
    assert_int_equal(checksum_fold(checksum_add(checksum_add(0, example, 4), example + 4, 4)), sum);
}

static void test_unreachable_quotes_the_cause_and_goes_back(void **state)
{
    uint8_t out[ICMP_ERROR_FRAME_MAX];
    uint32_t size = make_ipv4(IPPROTO_TCP, "198.51.100.7", 20), n;
    struct in_addr gateway;
    struct packet p;

    (void)state;
    inet_pton(AF_INET, "10.0.2.2", &gateway);
    memcpy(frame + 6, "\x02\x03\x04\x05\x06\x07", 6);
    n = icmp_error_unreachable(out, frame, size, gateway);
    assert_int_equal(n, ETH + 20 + 8 + 20 + 8);
    assert_int_equal(packet_parse(&p, out, n), PACKET_IPV4);
    assert_int_equal(p.ip_protocol, IPPROTO_ICMP);
    assert_memory_equal(out, frame + 6, 6);
    assert_memory_equal(p.src, &gateway, 4);
    assert_memory_equal(p.dst, frame + ETH + 12, 4);
    assert_int_equal(p.l4[0], 3);
    assert_int_equal(p.l4[1], 1);
    assert_memory_equal(p.l4 + 8, frame + ETH, 28);
    assert_int_equal(checksum_fold(checksum_add(0, p.l4, p.l4_size)), 0);
    assert_int_equal(checksum_fold(checksum_add(0, out + ETH, 20)), 0);
    assert_int_equal(icmp_error_unreachable(out, frame, ETH + 20 + 7, gateway), 0);

    size = make_ipv6(IPPROTO_TCP, "2001:db8::9", 20);
    frame[ETH + 40 + 12] = 0x50;
    n = icmp_error_unreachable(out, frame, size, gateway);
    assert_int_equal(packet_parse(&p, out, n), PACKET_IPV6);
    assert_int_equal(p.l4[0], 1);
    assert_int_equal(p.l4[1], 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tcp_and_udp_ports_are_found),
        cmocka_unit_test(test_padding_behind_the_packet_is_not_part_of_it),
        cmocka_unit_test(test_every_truncation_is_malformed),
        cmocka_unit_test(test_contradictory_headers_are_malformed),
        cmocka_unit_test(test_later_fragments_have_no_ports),
        cmocka_unit_test(test_ipv6_fragments_of_one_datagram_are_told_by_one_number),
        cmocka_unit_test(test_an_ipv6_fragment_header_of_a_whole_datagram_makes_no_fragment),
        cmocka_unit_test(test_no_second_ipv6_fragment_header_takes_back_the_first),
        cmocka_unit_test(test_ipv6_extension_headers_are_walked_but_not_for_ever),
        cmocka_unit_test(test_random_frames_stay_inside_their_buffer),
        cmocka_unit_test(test_no_name_of_this_host_passes_when_loopback_is_disabled),
        cmocka_unit_test(test_ipv4_mapped_addresses_are_no_addresses_of_packets),
        cmocka_unit_test(test_a_disabled_dns_address_is_silent_but_for_echo),
        cmocka_unit_test(test_a_connection_to_many_is_no_connection),
        cmocka_unit_test(test_arp_in_another_name_is_dropped),
        cmocka_unit_test(test_unknown_ethertypes_and_unwanted_ipv6_are_dropped),
        cmocka_unit_test(test_checksum_of_a_finished_header_is_zero),
        cmocka_unit_test(test_unreachable_quotes_the_cause_and_goes_back),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
