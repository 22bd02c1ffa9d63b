/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "base/bits.h"
#include "base/counters.h"
#include "io/offload.h"
#include "slirp/large.h"
#include "test.h"

#include <arpa/inet.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { ETH = 14, TCP_AT4 = ETH + 20, TCP_AT6 = ETH + 40, HDR = OFFLOAD_HEADER_SIZE };

static uint8_t buffer[FRAME_SIZE_MAX + 64];
static const char *const source[2] = {"10.0.2.100", "fd00::100"}, *const target[2] = {"198.51.100.7",
                                                                                      "2001:db8::7"};

/* Byte by byte, as RFC 1071 says it. */
static uint16_t reference(const uint8_t *data, uint32_t size)
{
    uint64_t sum = 0;

    for (uint32_t i = 0; i < size; i++)
        sum += i % 2 ? data[i] : (uint32_t)data[i] << 8;
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)~sum;
}

static void fill(uint8_t *data, uint32_t size, uint32_t seed)
{
    for (uint32_t i = 0; i < size; i++) {
        seed = seed * 1664525 + 1013904223;
        data[i] = (uint8_t)(seed >> 24);
    }
}

static void test_sums_are_right_at_every_alignment_and_length(void **state)
{
    (void)state;
    fill(buffer, sizeof(buffer), 1);
    for (uint32_t at = 0; at < 33; at++) {
        for (uint32_t size = 0; size < 600; size++) {
            uint16_t sum = checksum_fold(checksum_add(0, buffer + at, size));

            assert_int_equal(ntohs(sum), reference(buffer + at, size));
        }
    }
    memset(buffer, 0xff, sizeof(buffer)); /* the most carries there are */
    for (uint32_t size = FRAME_SIZE_MAX - 70; size <= FRAME_SIZE_MAX; size++)
        assert_int_equal(ntohs(checksum_fold(checksum_add(0, buffer + 1, size))),
                         reference(buffer + 1, size));
}

/* A TCP frame of the guest's, checksum right; returns its size. */
static uint32_t make_tcp(uint8_t *f, bool v6, uint32_t payload_size, uint8_t flags, uint16_t mss)
{
    uint32_t at = v6 ? TCP_AT6 : TCP_AT4, options = mss ? 8 : 0, l4_size = 20 + options + payload_size;
    struct packet p;
    uint16_t sum;

    memset(f, 0, at + 20 + options);
    put_u16(f + 12, v6 ? 0x86dd : 0x0800);
    if (v6) {
        f[ETH] = 0x60;
        put_u16(f + ETH + 4, (uint16_t)l4_size);
        f[ETH + 6] = IPPROTO_TCP;
        inet_pton(AF_INET6, source[1], f + ETH + 8);
        inet_pton(AF_INET6, target[1], f + ETH + 24);
    } else {
        f[ETH] = 0x45;
        put_u16(f + ETH + 2, (uint16_t)(20 + l4_size));
        f[ETH + 8] = 64;
        f[ETH + 9] = IPPROTO_TCP;
        inet_pton(AF_INET, source[0], f + ETH + 12);
        inet_pton(AF_INET, target[0], f + ETH + 16);
        sum = checksum_fold(checksum_add(0, f + ETH, 20));
        memcpy(f + ETH + 10, &sum, 2);
    }
    put_u16(f + at, 1234);
    put_u16(f + at + 2, 80);
    f[at + 7] = 9; /* sequence number */
    f[at + 12] = (uint8_t)((20 + options) / 4 << 4);
    f[at + 13] = flags;
    if (mss) { /* at an odd place */
        f[at + 20] = 1;
        f[at + 21] = 2;
        f[at + 22] = 4;
        put_u16(f + at + 23, mss);
    }
    fill(f + at + 20 + options, payload_size, payload_size);
    assert_int_equal(packet_parse(&p, f, at + l4_size), v6 ? PACKET_IPV6 : PACKET_IPV4);
    sum = checksum_fold(
        checksum_add(offload_pseudo_sum(&p, v6 ? PACKET_IPV6 : PACKET_IPV4, l4_size), f + at, l4_size));
    memcpy(f + at + 16, &sum, 2);
    return at + l4_size;
}

/* Is the TCP checksum of this frame right, and the one of its IPv4 header? */
static void assert_sums(const uint8_t *f, uint32_t size)
{
    struct packet p;
    enum packet_kind kind = packet_parse(&p, f, size);
    uint16_t sum;

    assert_true(kind == PACKET_IPV4 || kind == PACKET_IPV6);
    assert_ptr_equal(p.l4 + p.l4_size, f + size);
    sum = checksum_fold(checksum_add(offload_pseudo_sum(&p, kind, p.l4_size), p.l4, p.l4_size));
    assert_int_equal(sum, 0);
    if (kind == PACKET_IPV4)
        assert_int_equal(checksum_fold(checksum_add(0, f + ETH, 20)), 0);
}

static void test_what_the_kernel_is_to_finish_can_be_finished(void **state)
{
    (void)state;
    for (int v6 = 0; v6 < 2; v6++) {
        for (uint32_t payload = 0; payload < 65000; payload += payload < 70 ? 1 : 6007) {
            uint32_t size = make_tcp(buffer, v6, payload, PACKET_TCP_ACK, 0), at = v6 ? TCP_AT6 : TCP_AT4;
            struct virtio_net_hdr h;
            struct packet p;
            uint16_t right;
            enum packet_kind kind = packet_parse(&p, buffer, size);

            memcpy(&right, buffer + at + 16, 2);
            offload_leave(&h, buffer, at + 20, &p, kind, payload > 1460 ? 1460 : 0);
            assert_int_equal(offload_is_gso(&h), payload > 1460);
            assert_true(offload_finish(&h, buffer, size));
            assert_memory_equal(buffer + at + 16, &right, 2);
            assert_sums(buffer, size);
        }
    }
}

static void test_a_header_that_lies_is_refused(void **state)
{
    uint32_t size = make_tcp(buffer, false, 4000, PACKET_TCP_ACK, 0);
    struct virtio_net_hdr good = {.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
                                  .gso_type = VIRTIO_NET_HDR_GSO_TCPV4,
                                  .hdr_len = 54,
                                  .gso_size = 1460,
                                  .csum_start = TCP_AT4,
                                  .csum_offset = 16},
                          h;
    static uint8_t before[8192];

    (void)state;
    memcpy(before, buffer, size);
#define REFUSED(field, value)                           \
    do {                                                \
        h = good;                                       \
        h.field = value;                                \
        assert_false(offload_finish(&h, buffer, size)); \
        assert_memory_equal(buffer, before, size);      \
    } while (0)
    REFUSED(flags, 0);
    REFUSED(gso_type, VIRTIO_NET_HDR_GSO_TCPV6);
    REFUSED(gso_type, VIRTIO_NET_HDR_GSO_UDP);
    REFUSED(gso_type, 5);
    REFUSED(gso_type, 0x7f);
    REFUSED(gso_size, 0);
    REFUSED(hdr_len, (uint16_t)(size + 1));
    REFUSED(csum_start, TCP_AT4 + 1);
    REFUSED(csum_start, 0xffff);
    REFUSED(csum_offset, 6);
    REFUSED(csum_offset, 0xffff);
    good.gso_type = VIRTIO_NET_HDR_GSO_NONE; /* now without segmentation */
    REFUSED(csum_start, 0);
    REFUSED(csum_start, ETH - 1);
    REFUSED(csum_start, (uint16_t)(size - 17));
    REFUSED(csum_start, 0xffff);
    REFUSED(csum_offset, 0xffff);
    h = good;
    h.csum_start = (uint16_t)(size - 18); /* the last place there is */
    assert_true(offload_finish(&h, buffer, size));
}

static void test_udp_never_ends_with_no_checksum(void **state)
{
    struct virtio_net_hdr h = {.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM, .csum_start = TCP_AT4, .csum_offset = 6};

    (void)state;
    memset(buffer, 0, 64);
    buffer[TCP_AT4] = buffer[TCP_AT4 + 1] = 0xff; /* the sum is 0xffff, its complement zero */
    assert_true(offload_finish(&h, buffer, 64));
    assert_int_equal(get_u16(buffer + TCP_AT4 + 6), 0xffff);
}

/* Only what offload_finish() itself has completed, for the datagram that is looked at, counts as right. */
static void test_a_checksum_made_here_is_known(void **state)
{
    (void)state;
    for (int v6 = 0; v6 < 2; v6++) {
        uint32_t at = v6 ? TCP_AT6 : TCP_AT4, size = make_tcp(buffer, v6, 80, PACKET_TCP_ACK, 0);
        const struct virtio_net_hdr good = {
            .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM, .csum_start = (uint16_t)at, .csum_offset = 6};
        struct virtio_net_hdr h = good;
        struct packet p;
        uint16_t begun;

        buffer[v6 ? ETH + 6 : ETH + 9] = IPPROTO_UDP;
        put_u16(buffer + at + 4, (uint16_t)(size - at));
        assert_int_equal(packet_parse(&p, buffer, size), v6 ? PACKET_IPV6 : PACKET_IPV4);
        assert_false(p.checksum_made);
        begun = (uint16_t)~checksum_fold(offload_pseudo_sum(&p, v6 ? PACKET_IPV6 : PACKET_IPV4, size - at));
        memcpy(buffer + at + 6, &begun, sizeof(begun));
        assert_true(offload_finish(&h, buffer, size));
        assert_int_equal(
            checksum_fold(checksum_add(offload_pseudo_sum(&p, v6 ? PACKET_IPV6 : PACKET_IPV4, size - at),
                                       p.l4, size - at)),
            0);
        assert_true(offload_made_checksum(&h, &p));
        h.flags = 0; /* it came complete */
        assert_false(offload_made_checksum(&h, &p));
        h.flags = VIRTIO_NET_HDR_F_DATA_VALID; /* as another one says */
        assert_false(offload_made_checksum(&h, &p));
        h = good;
        h.csum_start += 20; /* of an inner packet */
        assert_false(offload_made_checksum(&h, &p));
        h = good;
        h.csum_offset = 16;
        assert_false(offload_made_checksum(&h, &p));
        h = good;
        h.gso_type = VIRTIO_NET_HDR_GSO_UDP_L4;
        assert_false(offload_made_checksum(&h, &p));
        p.is_fragment = true;
        assert_false(offload_made_checksum(&good, &p));
        p.is_fragment = false;
        p.ip_protocol = IPPROTO_TCP;
        assert_false(offload_made_checksum(&good, &p));
        p.ip_protocol = IPPROTO_UDP;
        put_u16(buffer + at + 4, (uint16_t)(size - at - 1)); /* the sum has a byte more in it */
        assert_false(offload_made_checksum(&good, &p));
    }
}

static void test_frames_that_are_dropped_go_back(void **state)
{
    struct frame_pool pool;
    frame_id ids[4];
    uint64_t before = counter_read(COUNTER_rx_drop_offload);

    (void)state;
    assert_int_equal(frame_pool_init(&pool, 4), 0);
    pool.header_size = HDR;
    assert_int_equal(frame_take(&pool, ids, 4), 4);
    for (int i = 0; i < 4; i++) {
        memset(frame_start(&pool, ids[i]), i == 1 ? 0xff : 0, HDR);
        frame_set_read(&pool, ids[i],
                       i == 2 ? HDR : HDR + make_tcp(frame_data(&pool, ids[i]), false, 100, 16, 0));
    }
    frame_id first = ids[0], last = ids[3];
    assert_int_equal(offload_receive(&pool, ids, 4), 2);
    assert_int_equal(ids[0], first);
    assert_int_equal(ids[1], last);
    assert_int_equal(counter_read(COUNTER_rx_drop_offload) - before, 2);
    assert_int_equal(pool.n_free, 2);
    frame_pool_deinit(&pool);
}

static void test_the_mss_of_a_syn(void **state)
{
    (void)state;
    for (int v6 = 0; v6 < 2; v6++) {
        uint32_t at = v6 ? TCP_AT6 : TCP_AT4, size = make_tcp(buffer, v6, 5, PACKET_TCP_SYN, 1460);

        for (uint32_t mss = 1; mss < 65536; mss += 257) {
            offload_set_mss(buffer + at, size - at, (uint16_t)mss);
            assert_int_equal(offload_mss(buffer + at, size - at), mss);
            assert_sums(buffer, size);
        }
        size = make_tcp(buffer, v6, 0, PACKET_TCP_SYN, 0);
        assert_int_equal(offload_mss(buffer + at, size - at), 0);
        offload_set_mss(buffer + at, size - at, 99);
        assert_sums(buffer, size);
        /* Options that run out of the header, or stand still. */
        size = make_tcp(buffer, v6, 0, PACKET_TCP_SYN, 1460);
        buffer[at + 20] = 3;
        buffer[at + 21] = 0;
        assert_int_equal(offload_mss(buffer + at, size - at), 0);
        buffer[at + 21] = 6;
        buffer[at + 26] = 2;
        buffer[at + 27] = 4;
        assert_int_equal(offload_mss(buffer + at, size - at), 0);
        for (uint32_t n = 0; n < 20; n++)
            assert_int_equal(offload_mss(buffer + at, n), 0);
    }
}

/* ---- large: the other end of a socket pair is the TAP ---- */

static struct large large;
static struct tap_tx tx;
static int tap;

static void large_up(uint32_t mtu) TSA(no_thread_safety_analysis)
{
    int pair[2], size = 1 << 20;

    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, pair), 0);
    assert_int_equal(setsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size)), 0);
    memset(&tx, 0, sizeof(tx));
    tx.fd = pair[0];
    tx.header_size = HDR;
    tap = pair[1];
    large_init(&large, &tx, mtu, true);
}

static void large_down(void)
{
    close(tx.fd);
    close(tap);
}

/* One frame from the "TAP", its header in @h. 0: there is none. */
static uint32_t tap_read(struct virtio_net_hdr *h, uint8_t *frame)
{
    static uint8_t all[HDR + FRAME_SIZE_MAX];
    ssize_t n = read(tap, all, sizeof(all));

    if (n < 0)
        return 0;
    assert_true(n > HDR);
    memcpy(h, all, HDR);
    memcpy(frame, all + HDR, (size_t)n - HDR);
    return (uint32_t)n - HDR;
}

/* A frame of libslirp's comes from the peer. */
static void turn_round(uint8_t *f, bool v6)
{
    uint8_t swap[16];
    uint32_t at = v6 ? ETH + 8 : ETH + 12, n = v6 ? 16 : 4;

    memcpy(swap, f + at, n);
    memcpy(f + at, f + at + n, n);
    memcpy(f + at + n, swap, n);
}

static void offer(bool v6, uint16_t mss, uint16_t expected) TSA(no_thread_safety_analysis)
{
    static uint8_t syn[256];
    uint32_t size = make_tcp(syn, v6, 0, PACKET_TCP_SYN, mss), at = v6 ? TCP_AT6 : TCP_AT4;
    struct packet p;
    enum packet_kind kind = packet_parse(&p, syn, size);
    const uint8_t *given = large_from_guest(&large, &p, kind);

    assert_int_equal(offload_mss(given + at, size - at), expected);
    assert_int_equal(offload_mss(syn + at, size - at), mss); /* untouched */
    assert_sums(given, size);
}

static void test_large_segments_carry_the_guests_mss(void **state) TSA(no_thread_safety_analysis)
{
    static uint8_t got[FRAME_SIZE_MAX];
    struct virtio_net_hdr h = {0};

    (void)state;
    for (int v6 = 0; v6 < 2; v6++) {
        uint16_t most = v6 ? 1440 : 1460;
        uint32_t size;

        large_up(1500);
        size = make_tcp(buffer, v6, 30000, PACKET_TCP_ACK, 0);
        turn_round(buffer, v6);
        large_to_guest(&large, buffer, size); /* no SYN was seen: what the MTU permits */
        assert_int_equal(tap_read(&h, got), size);
        assert_int_equal(h.gso_size, most);
        offer(v6, 9000, LARGE_MSS); /* more than the interface takes */
        large_to_guest(&large, buffer, size);
        assert_int_equal(tap_read(&h, got), size);
        assert_int_equal(h.gso_size, most);
        offer(v6, 1300, LARGE_MSS);
        offer(v6, 1400, LARGE_MSS); /* the smaller one stays */
        large_to_guest(&large, buffer, size);
        assert_int_equal(tap_read(&h, got), size);
        assert_int_equal(h.gso_size, 1300);
        assert_int_equal(h.gso_type, v6 ? VIRTIO_NET_HDR_GSO_TCPV6 : VIRTIO_NET_HDR_GSO_TCPV4);
        assert_int_equal(h.hdr_len, v6 ? 74 : 54);
        assert_true(offload_finish(&h, got, size));
        assert_memory_equal(got, buffer, size); /* its checksum was right before */
        offer(v6, 100, 100);                    /* too small for us: libslirp's */
        size = make_tcp(buffer, v6, 1300, PACKET_TCP_ACK, 0);
        turn_round(buffer, v6);
        large_to_guest(&large, buffer, size);
        assert_int_equal(tap_read(&h, got), size);
        assert_int_equal(h.gso_type, VIRTIO_NET_HDR_GSO_NONE);
        size = make_tcp(buffer, v6, 0, PACKET_TCP_SYN | PACKET_TCP_ACK, 32768);
        large_to_guest(&large, buffer, size);
        assert_int_equal(tap_read(&h, got), size);
        assert_int_equal(offload_mss(got + (v6 ? TCP_AT6 : TCP_AT4), 28), most);
        assert_sums(got, size);
        assert_int_equal(tap_read(&h, got), 0);
        large_down();
    }
}

static void test_segments_are_made_here_when_the_tap_refuses(void **state) TSA(no_thread_safety_analysis)
{
    static uint8_t got[FRAME_SIZE_MAX];
    struct virtio_net_hdr h;

    (void)state;
    counter_add_shared(COUNTER_tx_gso_refused, 1);
    for (int v6 = 0; v6 < 2; v6++) {
        uint32_t size, at = v6 ? TCP_AT6 : TCP_AT4, sum = 0, n = 0, n_read, mss = v6 ? 1440 : 1460;

        large_up(1500);
        size = make_tcp(buffer, v6, 30000, PACKET_TCP_ACK | PACKET_TCP_FIN, 0);
        turn_round(buffer, v6);
        large_to_guest(&large, buffer, size);
        while ((n_read = tap_read(&h, got)) > 0) {
            uint32_t part = n_read - at - 20;

            assert_false(offload_is_gso(&h));
            assert_true(part <= mss);
            assert_sums(got, n_read);
            assert_int_equal((uint32_t)get_u16(got + at + 4) << 16 | get_u16(got + at + 6), 9 + sum);
            assert_memory_equal(got + at + 20, buffer + at + 20 + sum, part);
            sum += part;
            n++;
            assert_int_equal(got[at + 13] & PACKET_TCP_FIN, sum == 30000 ? PACKET_TCP_FIN : 0);
        }
        assert_int_equal(sum, 30000);
        assert_int_equal(n, (30000 + mss - 1) / mss);
        large_down();
    }
    counter_set(COUNTER_tx_gso_refused, 0);
}

static void test_datagrams_go_in_fragments(void **state) TSA(no_thread_safety_analysis)
{
    static uint8_t got[FRAME_SIZE_MAX];
    struct virtio_net_hdr h;

    (void)state;
    for (int v6 = 0; v6 < 2; v6++) {
        uint32_t head = v6 ? ETH + 40 : ETH + 20, extra = v6 ? 8 : 0, sum = 0, n_read;
        uint32_t size = make_tcp(buffer, v6, 9000 - 20, PACKET_TCP_ACK, 0);
        bool last = false;

        buffer[v6 ? ETH + 6 : ETH + 9] = IPPROTO_UDP;
        put_u16(buffer + head + 4, 9000); /* UDP's length */
        large_up(1500);
        large_to_guest(&large, buffer, size);
        while ((n_read = tap_read(&h, got)) > 0) {
            struct packet p;
            uint32_t part = n_read - head - extra, offset = get_u16(got + (v6 ? ETH + 42 : ETH + 6));

            assert_false(last);
            assert_true(n_read <= ETH + 1500);
            assert_int_equal(packet_parse(&p, got, n_read), v6 ? PACKET_IPV6 : PACKET_IPV4);
            assert_true(p.is_fragment);
            assert_int_equal(v6 ? offset & 0xfff8 : (offset & 0x1fff) * 8, sum);
            last = !(offset & (v6 ? 1 : 0x2000));
            assert_memory_equal(got + head + extra, buffer + head + sum, part);
            if (!v6)
                assert_int_equal(checksum_fold(checksum_add(0, got + ETH, 20)), 0);
            sum += part;
        }
        assert_true(last);
        assert_int_equal(sum, 9000);
        large_down();
    }
}

/* The virtio-net header of joined datagrams must fit the frame, too, and hold no more than a program may
 * join. */
static void test_joined_datagrams_are_checked(void **state)
{
    enum { PAYLOAD = 5000, AT = ETH + 20, SIZE = AT + 8 + PAYLOAD };
    static const struct {
        struct virtio_net_hdr header;
        bool good;
    } rows[] = {
#define ROW(type, flag, start, offset, size) \
    {.flags = (flag),                        \
     .gso_type = (type),                     \
     .hdr_len = AT + 8,                      \
     .gso_size = (size),                     \
     .csum_start = (start),                  \
     .csum_offset = (offset)}
        {ROW(VIRTIO_NET_HDR_GSO_UDP_L4, VIRTIO_NET_HDR_F_NEEDS_CSUM, AT, 6, 1000), true},
        {ROW(VIRTIO_NET_HDR_GSO_UDP_L4, VIRTIO_NET_HDR_F_NEEDS_CSUM, AT, 6, 40), true},  /* 125 */
        {ROW(VIRTIO_NET_HDR_GSO_UDP_L4, VIRTIO_NET_HDR_F_NEEDS_CSUM, AT, 6, 39), false}, /* 129 */
        {ROW(VIRTIO_NET_HDR_GSO_UDP_L4, VIRTIO_NET_HDR_F_NEEDS_CSUM, AT, 6, 1), false},
        {ROW(VIRTIO_NET_HDR_GSO_UDP_L4, VIRTIO_NET_HDR_F_NEEDS_CSUM, AT, 6, 0), false},
        {ROW(VIRTIO_NET_HDR_GSO_UDP_L4, 0, AT, 6, 1000), false},
        {ROW(VIRTIO_NET_HDR_GSO_UDP_L4, VIRTIO_NET_HDR_F_NEEDS_CSUM, AT + 8, 6, 1000), false},
        {ROW(VIRTIO_NET_HDR_GSO_UDP_L4, VIRTIO_NET_HDR_F_NEEDS_CSUM, AT, 16, 1000), false},
        {ROW(VIRTIO_NET_HDR_GSO_UDP_L4 | VIRTIO_NET_HDR_GSO_ECN, VIRTIO_NET_HDR_F_NEEDS_CSUM, AT, 6, 1000),
         false},
        {ROW(VIRTIO_NET_HDR_GSO_TCPV4, VIRTIO_NET_HDR_F_NEEDS_CSUM, AT, 16, 1000), false},
        {ROW(VIRTIO_NET_HDR_GSO_UDP, VIRTIO_NET_HDR_F_NEEDS_CSUM, AT, 6, 1000), false},
#undef ROW
    };
    uint8_t *f = buffer;

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
        memset(f, 0, SIZE);
        put_u16(f + 12, 0x0800);
        f[ETH] = 0x45;
        put_u16(f + ETH + 2, 20 + 8 + PAYLOAD);
        f[ETH + 8] = 64;
        f[ETH + 9] = IPPROTO_UDP;
        inet_pton(AF_INET, source[0], f + ETH + 12);
        inet_pton(AF_INET, target[0], f + ETH + 16);
        put_u16(f + AT, 5353);
        put_u16(f + AT + 2, 53);
        put_u16(f + AT + 4, 8 + PAYLOAD);
        if (offload_finish(&rows[i].header, f, SIZE) != rows[i].good)
            fail_msg("row %u", i);
        if (rows[i].good)
            assert_int_equal(offload_datagram_size(&rows[i].header), rows[i].header.gso_size);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_joined_datagrams_are_checked),
        cmocka_unit_test(test_sums_are_right_at_every_alignment_and_length),
        cmocka_unit_test(test_what_the_kernel_is_to_finish_can_be_finished),
        cmocka_unit_test(test_a_header_that_lies_is_refused),
        cmocka_unit_test(test_udp_never_ends_with_no_checksum),
        cmocka_unit_test(test_a_checksum_made_here_is_known),
        cmocka_unit_test(test_frames_that_are_dropped_go_back),
        cmocka_unit_test(test_the_mss_of_a_syn),
        cmocka_unit_test(test_large_segments_carry_the_guests_mss),
        cmocka_unit_test(test_segments_are_made_here_when_the_tap_refuses),
        cmocka_unit_test(test_datagrams_go_in_fragments),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
