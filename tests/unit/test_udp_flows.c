/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The guest's datagrams on the direct path: table, sockets on the loopback, frames. Time is the test's. */
#include "base/bits.h"
#include "base/clock.h"
#include "base/counters.h"
#include "io/reassembly.h"
#include "io/udp_private.h"

#include "test.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <unistd.h>

enum { ETH = 14, FRAMES_MAX = 128, WAIT_MS = 3000, GUEST_PORT = 40000 };

static struct {
    uint32_t n;
    uint32_t size[FRAMES_MAX];
    uint8_t *data[FRAMES_MAX];
} got; /* frames for the guest */

static struct udp_flows *flows;
static int epoll_fd;
static int64_t now_ns;
static uint8_t room[UDP_FRAME_HEADROOM + 65536];
static uint8_t *const payload = room + UDP_FRAME_HEADROOM;

static void forget_frames(void)
{
    for (uint32_t i = 0; i < got.n; i++)
        free(got.data[i]);
    got.n = 0;
}

static void keep_frame(void *arg, const void *frame, uint32_t size)
{
    (void)arg;
    assert_true(got.n < FRAMES_MAX);
    /* Of its exact size, so that AddressSanitizer sees reads beyond it. */
    got.data[got.n] = malloc(size ? size : 1);
    assert_non_null(got.data[got.n]);
    if (got.data[got.n] && size > 0)
        memcpy(got.data[got.n], frame, size);
    got.size[got.n++] = size;
}

static union address address(const char *text, uint16_t port)
{
    union address a;

    memset(&a, 0, sizeof(a));
    a.sa.sa_family = strchr(text, ':') ? AF_INET6 : AF_INET;
    assert_int_equal(
        inet_pton(a.sa.sa_family, text,
                  a.sa.sa_family == AF_INET6 ? (void *)&a.in6.sin6_addr : (void *)&a.in.sin_addr),
        1);
    address_set_port(&a, port);
    return a;
}

static void fill_payload(uint32_t size)
{
    for (uint32_t i = 0; i < size; i++)
        payload[i] = (uint8_t)(i * 31 + (i >> 8));
}

/* Frames of a datagram of @size bytes, in got. */
static bool make_frames(const union address *src, const union address *dst, uint32_t size, unsigned mtu,
                        uint32_t *id)
{
    struct udp_frame f = {
        .src = src, .dst = dst, .mtu = mtu, .id = id, .send = keep_frame, .guest_mac = {2, 0, 0, 0, 0, 9}};

    inet_pton(AF_INET, "10.0.2.2", &f.gateway);
    return udp_frame_send(&f, payload, size);
}

static uint16_t udp_sum(const struct packet *p, bool v6)
{
    uint8_t rest[4] = {0, IPPROTO_UDP, (uint8_t)(p->l4_size >> 8), (uint8_t)p->l4_size};
    uint32_t sum = checksum_add(checksum_add(0, p->src, v6 ? 16 : 4), p->dst, v6 ? 16 : 4);

    return checksum_fold(checksum_add(checksum_add(sum, rest, sizeof(rest)), p->l4, p->l4_size));
}

/* ---- frames ---- */

static void check_frame(uint32_t i, const union address *src, const union address *dst, uint32_t size)
{
    bool v6 = src->sa.sa_family == AF_INET6;
    struct packet p;

    assert_int_equal(packet_parse(&p, got.data[i], got.size[i]), v6 ? PACKET_IPV6 : PACKET_IPV4);
    assert_false(p.is_fragment);
    assert_int_equal(p.ip_protocol, IPPROTO_UDP);
    assert_int_equal(p.src_port, address_port(src));
    assert_int_equal(p.dst_port, address_port(dst));
    assert_memory_equal(p.src, v6 ? (const void *)&src->in6.sin6_addr : &src->in.sin_addr, v6 ? 16 : 4);
    assert_memory_equal(p.dst, v6 ? (const void *)&dst->in6.sin6_addr : &dst->in.sin_addr, v6 ? 16 : 4);
    assert_int_equal(p.l4_size, size + 8);
    assert_int_equal(udp_sum(&p, v6), 0);
    assert_false(p.l4[6] == 0 && p.l4[7] == 0);
    if (!v6)
        assert_int_equal(checksum_fold(checksum_add(0, got.data[i] + ETH, 20)), 0);
    fill_payload(size);
    assert_memory_equal(p.l4 + 8, payload, size);
}

static void test_a_datagram_becomes_one_frame_or_fragments(void **state)
{
    static const uint32_t sizes[] = {0, 1, 7, 1451, 1452, 1453, 1471, 1472, 1473, 2960, 9000, 65507};
    static const unsigned mtus[] = {1500, 1280, 65520};
    uint32_t id = UINT16_MAX - 2; /* wraps on the way */

    (void)state;
    for (int v6 = 0; v6 < 2; v6++) {
        union address src = address(v6 ? "2001:db8::7" : "192.0.2.7", 53);
        union address dst = address(v6 ? "fd00::1234" : "10.0.2.100", GUEST_PORT);

        for (unsigned s = 0; s < ARRAY_SIZE(sizes) * ARRAY_SIZE(mtus); s++) {
            uint32_t size = sizes[s % ARRAY_SIZE(sizes)];
            unsigned mtu = mtus[s / ARRAY_SIZE(sizes)];
            bool whole = size + 8 + (v6 ? 40 : 20) <= mtu;

            fill_payload(size);
            assert_true(make_frames(&src, &dst, size, mtu, &id));
            assert_int_equal(got.n == 1, whole);
            for (uint32_t i = 0; i < got.n; i++) {
                assert_true(got.size[i] <= ETH + mtu);
                assert_memory_equal(got.data[i], "\2\0\0\0\0\11", 6);
                assert_memory_equal(got.data[i] + 6, v6 ? "\x52\x56\0\0\0\2" : "\x52\x55\x0a\0\2\2", 6);
            }
            if (whole)
                check_frame(0, &src, &dst, size);
            forget_frames();
        }
    }
}

/* What the guest's kernel does with them is done here by the reassembly for the other direction. */
static void test_fragments_are_the_datagram_again(void **state)
{
    static const uint32_t sizes[] = {1473, 2960, 2961, 9000, 65507};
    struct reassembly *r;
    uint32_t id = 7;

    (void)state;
    assert_int_equal(reassembly_new(&r), 0);
    role_enter(&role_slirp);
    for (unsigned s = 0; s < 2 * ARRAY_SIZE(sizes); s++) {
        bool v6 = s >= ARRAY_SIZE(sizes);
        uint32_t size = sizes[s % ARRAY_SIZE(sizes)], whole_size = 0;
        union address src = address(v6 ? "2001:db8::7" : "192.0.2.7", 53);
        union address dst = address(v6 ? "fd00::1234" : "10.0.2.100", GUEST_PORT);
        const uint8_t *whole = NULL;

        fill_payload(size);
        assert_true(make_frames(&src, &dst, size, 1500, &id));
        for (uint32_t i = 0; i < got.n; i++) {
            struct packet p;
            enum packet_kind kind = packet_parse(&p, got.data[i], got.size[i]);

            assert_true(p.is_fragment);
            assert_null(whole);
            whole = reassembly_take(r, kind, &p, now_ns, &whole_size);
        }
        assert_non_null(whole);
        forget_frames();
        keep_frame(NULL, whole, whole_size);
        check_frame(0, &src, &dst, size);
        forget_frames();
    }
    role_leave(&role_slirp);
    reassembly_free(r);
}

static void test_what_ip_cannot_carry_is_refused(void **state)
{
    union address src4 = address("192.0.2.7", 53), dst4 = address("10.0.2.100", GUEST_PORT);
    uint32_t id = 0;

    (void)state;
    assert_false(make_frames(&src4, &dst4, UDP_PAYLOAD_MAX4 + 1, 1500, &id));
    assert_int_equal(got.n, 0);
}

/* RFC 768: a sum of zero is sent as all ones, because zero means that there is none. */
static void test_a_sum_of_zero_is_not_sent_as_none(void **state)
{
    union address src = address("192.0.2.7", 53), dst = address("10.0.2.100", GUEST_PORT);
    uint32_t id = 0;
    struct packet p;

    (void)state;
    memset(payload, 0, 2);
    assert_true(make_frames(&src, &dst, 2, 1500, &id));
    (void)packet_parse(&p, got.data[0], got.size[0]);
    memcpy(payload, p.l4 + 6, 2); /* then the whole sum is all ones, and its complement zero */
    forget_frames();
    assert_true(make_frames(&src, &dst, 2, 1500, &id));
    (void)packet_parse(&p, got.data[0], got.size[0]);
    assert_memory_equal(p.l4 + 6, "\xff\xff", 2);
    forget_frames();
}

/* ---- the world around a table of flows ---- */

TSA(no_thread_safety_analysis) static void begin(const struct udp_flows_config *with)
{
    struct udp_flows_config config = *with;

    epoll_fd = config.epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    assert_true(epoll_fd >= 0);
    config.mtu = 1500;
    inet_pton(AF_INET, "10.0.2.0", &config.network);
    inet_pton(AF_INET, "255.255.255.0", &config.netmask);
    inet_pton(AF_INET, "10.0.2.2", &config.gateway);
    inet_pton(AF_INET, "10.0.2.3", &config.dns);
    config.resolv_conf = config.resolv_conf ? config.resolv_conf : "/nonexistent/resolv.conf";
    config.n_flows_max = config.n_flows_max ? config.n_flows_max : 64;
    config.send = keep_frame;
    now_ns = NS_PER_S;
    assert_int_equal(udp_flows_new(&flows, &config, NULL), 0);
    role_enter(&role_udp_out);
    role_enter(&role_udp_in);
}

TSA(no_thread_safety_analysis) static void end(void)
{
    role_leave(&role_udp_in);
    role_leave(&role_udp_out);
    flows = udp_flows_free(flows);
    close(epoll_fd);
    forget_frames();
}

/* Gives a frame of the guest's to the table. */
static bool take_frame_checked(const uint8_t *frame, uint32_t size, bool checksum_made)
{
    struct packet p;
    bool taken;

    role_assert(&role_udp_out);
    assert_int_not_equal(packet_parse(&p, frame, size), PACKET_MALFORMED);
    p.checksum_made = checksum_made;
    taken = udp_flows_take(flows, &p, 0, now_ns);
    udp_flows_flush(flows, now_ns);
    return taken;
}

static bool take_frame(const uint8_t *frame, uint32_t size)
{
    return take_frame_checked(frame, size, false);
}

static bool give(const union address *src, const union address *dst, uint32_t size)
{
    uint32_t id = 1;
    bool taken;

    fill_payload(size);
    assert_int_equal(got.n, 0);
    assert_true(make_frames(src, dst, size, 65535, &id));
    taken = take_frame(got.data[0], got.size[0]);
    free(got.data[0]);
    for (uint32_t i = 1; i < got.n; i++) { /* an ICMP error that came at once */
        got.data[i - 1] = got.data[i];
        got.size[i - 1] = got.size[i];
    }
    got.n--;
    return taken;
}

/* Lets the other half look at what has come, until there are @n frames. */
static void receive(uint32_t n)
{
    role_assert(&role_udp_in);
    while (got.n < n) {
        struct epoll_event event;

        assert_int_equal(epoll_wait(epoll_fd, &event, 1, WAIT_MS), 1);
        udp_flows_ready(flows, (uint32_t)event.data.u64, event.events, now_ns);
    }
}

/* A socket of the host on its loopback; its port is told. */
static int open_server(bool v6, union address *ret)
{
    int fd = socket(v6 ? AF_INET6 : AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct timeval limit = {.tv_sec = WAIT_MS / 1000};
    socklen_t size = sizeof(*ret);

    *ret = address(v6 ? "::1" : "127.0.0.1", 0);
    assert_true(fd >= 0);
    assert_int_equal(bind(fd, &ret->sa, address_size(ret)), 0);
    assert_int_equal(getsockname(fd, &ret->sa, &size), 0);
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)), 0);
    return fd;
}

static bool hears_nothing(int fd)
{
    return recv(fd, &(char){0}, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN;
}

static bool hears(int fd) /* SO_RCVTIMEO is its patience */
{
    return recv(fd, &(char){0}, 1, 0) >= 0;
}

static uint32_t n_descriptors(void)
{
    DIR *dir = opendir("/proc/self/fd");
    uint32_t n = 0;

    assert_non_null(dir);
    while (readdir(dir))
        n++;
    closedir(dir);
    return n;
}

static uint32_t n_live(void)
{
    return (uint32_t)counter_read(COUNTER_udp_flows);
}

static bool lives(uint16_t port)
{
    union address guest = address("10.0.2.100", port);

    role_assert(&role_udp_out);
    return udp_find(flows, &guest) != UDP_NONE;
}

static const struct udp_flows_config plain;

/* ---- what is taken ---- */

static void test_what_libslirp_has_rules_for_is_left_to_it(void **state)
{
    static const struct {
        const char *dst;
        uint16_t port;
        bool open, closed; /* taken without and with --disable-host-loopback, --disable-dns */
    } rows[] = {
        {"127.0.0.1", 9, true, false},
        {"127.200.0.1", 9, true, false},
        {"10.0.2.2", 9, true, false},
        {"10.0.2.2", 67, false, false}, /* DHCP */
        {"10.0.2.2", 69, false, false}, /* TFTP */
        {"10.0.2.3", 9, false, false},
        {"10.0.2.77", 9, false, false},
        {"10.0.2.255", 9, false, false},
        {"0.0.0.0", 9, false, false},
        {"0.1.2.3", 9, false, false},
        {"224.0.0.1", 9, false, false},
        {"239.1.2.3", 9, false, false},
        {"255.255.255.255", 9, false, false},
        {"::1", 9, true, false},
        {"fd00::2", 9, true, false},
        {"fd00::2", 547, false, false},
        {"fd00::2", 69, false, false},
        {"fd00::3", 9, false, false},
        {"fd00::77", 9, false, false},
        {"::", 9, false, false},
        {"::ffff:127.0.0.1", 9, false, false},
        {"::ffff:192.0.2.1", 9, false, false},
        {"fe80::1", 9, false, false},
        {"febf::1", 9, false, false},
        {"ff02::1", 9, false, false},
        {"ff0e::1", 9, false, false},
    };

    (void)state;
    for (int closed = 0; closed < 2; closed++) {
        begin(&(struct udp_flows_config){.disable_host_loopback = closed, .disable_dns = closed});
        for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
            union address dst = address(rows[i].dst, rows[i].port);
            union address src =
                address(dst.sa.sa_family == AF_INET6 ? "fd00::1234" : "10.0.2.100", GUEST_PORT);
            bool taken = give(&src, &dst, 5);

            forget_frames();
            if (taken != (closed ? rows[i].closed : rows[i].open))
                fail_msg("%s port %u, closed %d: taken %d", rows[i].dst, rows[i].port, closed, taken);
        }
        end();
    }
}

/* The filter in front of the table drops it already; this is the second lock of that door. */
static void test_a_disabled_dns_address_is_never_taken(void **state)
{
    static const char text[] = "nameserver 127.0.0.1\nnameserver ::1\n";
    char path[] = "/tmp/test_udp_flows.XXXXXX";
    int file = mkstemp(path);

    (void)state;
    assert_true(file >= 0);
    assert_int_equal(write(file, text, sizeof(text) - 1), sizeof(text) - 1);
    close(file);
    for (int disabled = 0; disabled < 2; disabled++) {
        begin(&(struct udp_flows_config){.resolv_conf = path, .disable_dns = disabled});
        for (int v6 = 0; v6 < 2; v6++) {
            union address src = address(v6 ? "fd00::1234" : "10.0.2.100", GUEST_PORT);
            union address dst = address(v6 ? "fd00::3" : "10.0.2.3", 53);

            assert_int_equal(give(&src, &dst, 20), !disabled);
        }
        end();
    }
    unlink(path);
}

static void test_sources_that_nobody_has_are_left_to_libslirp(void **state)
{
    static const char *const sources[] = {"127.0.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255",
                                          "::1",       "::",      "ff02::1",   "fe80::1"};

    (void)state;
    begin(&plain);
    for (unsigned i = 0; i < ARRAY_SIZE(sources); i++) {
        union address src = address(sources[i], GUEST_PORT);
        union address dst = address(src.sa.sa_family == AF_INET6 ? "fd00::2" : "10.0.2.2", 9);

        assert_false(give(&src, &dst, 5));
    }
    end();
}

static void test_a_wrong_checksum_is_dropped(void **state)
{
    (void)state;
    begin(&plain);
    for (int v6 = 0; v6 < 2; v6++) {
        union address server, src = address(v6 ? "fd00::1234" : "10.0.2.100", GUEST_PORT), dst;
        int fd = open_server(v6, &server);
        uint64_t n_before = counter_read(COUNTER_udp_drop_checksum);
        uint32_t id = 1, at = ETH + (v6 ? 40 : 20) + 6;

        dst = address(v6 ? "fd00::2" : "10.0.2.2", address_port(&server));
        fill_payload(100);
        assert_true(make_frames(&src, &dst, 100, 1500, &id));
        got.data[0][at] ^= 1;
        assert_true(take_frame(got.data[0], got.size[0])); /* nobody else shall have it either */
        assert_int_equal(counter_read(COUNTER_udp_drop_checksum), n_before + 1);
        assert_true(hears_nothing(fd));
        /* Where it was made here, nobody looks. */
        assert_true(take_frame_checked(got.data[0], got.size[0], true));
        assert_int_equal(counter_read(COUNTER_udp_drop_checksum), n_before + 1);
        assert_true(hears(fd));
        memset(got.data[0] + at, 0, 2); /* none: fine with IPv4 only */
        assert_true(take_frame(got.data[0], got.size[0]));
        assert_int_equal(counter_read(COUNTER_udp_drop_checksum), n_before + (v6 ? 2 : 1));
        assert_true(v6 ? hears_nothing(fd) : hears(fd));
        forget_frames();
        close(fd);
    }
    end();
}

/* ---- there and back ---- */

static void test_question_and_answer(void **state)
{
    static const uint32_t sizes[] = {0, 1, 1200, 9000, 65487}; /* of one frame by either family */

    (void)state;
    begin(&plain);
    for (unsigned i = 0; i < 2 * ARRAY_SIZE(sizes); i++) {
        bool v6 = i >= ARRAY_SIZE(sizes);
        uint32_t size = sizes[i % ARRAY_SIZE(sizes)];
        union address server, peer, guest = address(v6 ? "fd00::1234" : "10.0.2.100", GUEST_PORT), gateway;
        int fd = open_server(v6, &server);
        static uint8_t heard[65536];
        socklen_t peer_size = sizeof(peer);

        gateway = address(v6 ? "fd00::2" : "10.0.2.2", address_port(&server));
        assert_true(give(&guest, &gateway, size));
        assert_int_equal(recvfrom(fd, heard, sizeof(heard), 0, &peer.sa, &peer_size), size);
        fill_payload(size);
        assert_memory_equal(heard, payload, size);
        if (size < 1300) { /* a larger one comes in fragments: above */
            assert_int_equal(sendto(fd, heard, size, 0, &peer.sa, peer_size), size);
            receive(1);
            check_frame(0, &gateway, &guest, size);
        }
        forget_frames();
        close(fd);
    }
    assert_int_equal(n_live(), 2);
    end();
}

static void test_an_answer_is_received_with_one_look(void **state)
{
    union address server, peer, guest = address("10.0.2.100", GUEST_PORT), gateway;
    int fd = open_server(false, &server);
    socklen_t peer_size = sizeof(peer);
    uint64_t n_calls;

    (void)state;
    begin(&plain);
    gateway = address("10.0.2.2", address_port(&server));
    /* Everything answered but one question: when there is more than the answer, it comes next. */
    for (int i = 0; i < 3; i++) {
        assert_true(give(&guest, &gateway, 5));
        assert_int_equal(recvfrom(fd, (uint8_t[16]){0}, 16, 0, &peer.sa, &peer_size), 5);
        for (int answer = 0; answer < (i == 2 ? 6 : 1); answer++)
            assert_int_equal(sendto(fd, payload, 5, 0, &peer.sa, peer_size), 5);
        n_calls = counter_read(COUNTER_udp_in_calls);
        receive(1);
        assert_int_equal(got.n, 1);
        assert_int_equal(counter_read(COUNTER_udp_in_calls), n_calls + 1);
        if (i == 2) {
            receive(6);
            assert_int_equal(got.n, 6);
        }
        check_frame(0, &gateway, &guest, 5);
        forget_frames();
    }
    end();
    close(fd);
}

static void test_a_batch_leaves_in_order_with_few_calls(void **state)
{
    union address server, guest = address("10.0.2.100", GUEST_PORT), gateway;
    int fd = open_server(false, &server);
    uint64_t n_calls = counter_read(COUNTER_udp_out_calls);
    uint8_t heard[2048];

    (void)state;
    gateway = address("10.0.2.2", address_port(&server));
    begin(&plain);
    role_assert(&role_udp_out);
    for (uint32_t i = 0; i < 20; i++) {
        uint32_t id = i;

        fill_payload(1000);
        payload[0] = (uint8_t)i;
        assert_true(make_frames(&guest, &gateway, i < 19 ? 1000 : 10, 1500, &id));
    }
    for (uint32_t i = 0; i < 20; i++) {
        struct packet p;

        (void)packet_parse(&p, got.data[i], got.size[i]);
        assert_true(udp_flows_take(flows, &p, 0, now_ns));
    }
    udp_flows_flush(flows, now_ns);
    for (uint32_t i = 0; i < 20; i++) {
        assert_int_equal(recv(fd, heard, sizeof(heard), 0), i < 19 ? 1000 : 10);
        assert_int_equal(heard[0], i);
    }
    assert_true(counter_read(COUNTER_udp_out_calls) - n_calls <= 2);
    end();
    close(fd);
}

static void test_a_closed_port_is_reported(void **state)
{
    (void)state;
    begin(&plain);
    for (int v6 = 0; v6 < 2; v6++) {
        union address server, guest = address(v6 ? "fd00::1234" : "10.0.2.100", GUEST_PORT), gateway;
        uint32_t icmp = ETH + (v6 ? 40 : 20);

        close(open_server(v6, &server));
        gateway = address(v6 ? "fd00::2" : "10.0.2.2", address_port(&server));
        assert_true(give(&guest, &gateway, 5));
        receive(1);
        assert_int_equal(got.n, 1);
        assert_int_equal(got.data[0][icmp], v6 ? 1 : 3);
        assert_int_equal(got.data[0][icmp + 1], v6 ? 4 : 3); /* port unreachable */
        /* From the gateway, about the datagram as the guest had sent it. */
        assert_memory_equal(got.data[0] + ETH + (v6 ? 8 : 12),
                            v6 ? (const void *)&gateway.in6.sin6_addr : &gateway.in.sin_addr, v6 ? 16 : 4);
        assert_memory_equal(got.data[0] + icmp + 8 + (v6 ? 24 : 16),
                            v6 ? (const void *)&gateway.in6.sin6_addr : &gateway.in.sin_addr, v6 ? 16 : 4);
        assert_int_equal(get_u16(got.data[0] + icmp + 8 + (v6 ? 40 : 20) + 2), address_port(&server));
        forget_frames();
    }
    end();
}

/* ---- several datagrams in one frame ---- */

static struct {
    uint32_t n;
    struct virtio_net_hdr header[FRAMES_MAX];
} joined;

static void keep_parts(void *arg, const struct virtio_net_hdr *header, struct iovec *parts, uint32_t n_parts)
{
    static uint8_t whole[FRAME_SIZE_MAX];
    uint32_t size = 0;

    memset((uint8_t *)parts[0].iov_base - OFFLOAD_HEADER_SIZE_MAX, 0xaa, OFFLOAD_HEADER_SIZE_MAX);
    for (uint32_t i = 0; i < n_parts; i++) {
        assert_true(size + parts[i].iov_len <= sizeof(whole));
        memcpy(whole + size, parts[i].iov_base, parts[i].iov_len);
        size += (uint32_t)parts[i].iov_len;
    }
    joined.n++;
    joined.header[got.n] = *header;
    keep_frame(arg, whole, size);
}

/* Frame @at is what a kernel takes for @n datagrams of @step bytes, the last of @last, with @first in the
 * first byte of the first one and so on. */
static void check_joined(uint32_t at, uint32_t n, uint32_t step, uint32_t last, uint8_t first)
{
    const struct virtio_net_hdr *h = &joined.header[at];
    static uint8_t one[FRAME_SIZE_MAX];
    struct packet p, q;
    enum packet_kind kind = packet_parse(&p, got.data[at], got.size[at]);
    uint16_t begun;

    assert_true(kind == PACKET_IPV4 || kind == PACKET_IPV6);
    assert_int_equal(p.l4_size, 8 + (n - 1) * step + last);
    assert_int_equal(h->flags, VIRTIO_NET_HDR_F_NEEDS_CSUM);
    assert_int_equal(h->gso_type, n > 1 ? VIRTIO_NET_HDR_GSO_UDP_L4 : VIRTIO_NET_HDR_GSO_NONE);
    assert_int_equal(h->gso_size, n > 1 ? step : 0);
    assert_int_equal(h->hdr_len, p.l4 + 8 - p.frame);
    assert_int_equal(h->csum_start, p.l4 - p.frame);
    assert_int_equal(h->csum_offset, 6);
    begun = (uint16_t)~checksum_fold(offload_pseudo_sum(&p, kind, p.l4_size));
    assert_memory_equal(p.l4 + 6, &begun, 2);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t size = i + 1 < n ? step : last;

        assert_int_equal(packet_parse(&q, one, offload_take_apart(one, &p, kind, step, i)), kind);
        assert_int_equal(q.l4_size, 8 + size);
        assert_int_equal(udp_sum(&q, kind == PACKET_IPV6), 0);
        if (kind == PACKET_IPV4)
            assert_int_equal(checksum_fold(checksum_add(0, one + ETH, 20)), 0);
        fill_payload(size);
        payload[0] = (uint8_t)(first + i);
        assert_memory_equal(q.l4 + 8, payload, size);
    }
    assert_int_equal(offload_take_apart(one, &p, kind, step, n), 0);
}

static uint32_t udp_find_only(void)
{
    uint32_t i = 0;

    while (atomic_load_explicit(&flows->flows[i].state, memory_order_relaxed) != UDP_LIVE)
        i++;
    return i;
}

static void test_answers_of_one_size_become_one_frame(void **state)
{
    (void)state;
    for (int v6 = 0; v6 < 2; v6++) {
        union address server, peer, guest = address(v6 ? "fd00::1234" : "10.0.2.100", GUEST_PORT), gateway;
        int fd = open_server(v6, &server);
        socklen_t peer_size = sizeof(peer);
        /* 5 of one size, a shorter one that ends them, 2 of another, an empty one, one that needs fragments
         */
        static const uint32_t sizes[] = {1000, 1000, 1000, 1000, 1000, 500, 700, 700, 0, 5000};

        joined.n = 0;
        gateway = address(v6 ? "fd00::2" : "10.0.2.2", address_port(&server));
        begin(&(struct udp_flows_config){.send_parts = keep_parts});
        role_assert(&role_udp_in);
        for (int i = 0; i < 2; i++) { /* two: after one question only one answer is looked for at first */
            assert_true(give(&guest, &gateway, 5));
            assert_int_equal(recvfrom(fd, room, 10, 0, &peer.sa, &peer_size), 5);
        }
        for (uint32_t i = 0; i < ARRAY_SIZE(sizes); i++) {
            fill_payload(sizes[i]);
            payload[0] = (uint8_t)i;
            assert_int_equal(sendto(fd, payload, sizes[i], 0, &peer.sa, peer_size), sizes[i]);
        }
        flows->flows[udp_find_only()].bulk = true; /* else the first look is at four */
        receive(3 + 4);
        assert_int_equal(joined.n, 3);
        check_joined(0, 6, 1000, 500, 0);
        check_joined(1, 2, 700, 700, 6);
        assert_int_equal(got.size[2], ETH + (v6 ? 48 : 28)); /* the empty one */
        assert_true(got.size[3] <= ETH + 1500);
        end();
        close(fd);
    }
}

static void test_joined_datagrams_of_the_guest_arrive_one_by_one(void **state)
{
    union address server, guest = address("10.0.2.100", GUEST_PORT), gateway;
    int fd = open_server(false, &server);
    uint8_t heard[2048];
    uint64_t n_calls, n_off;
    uint32_t id = 1;
    struct packet p;

    (void)state;
    gateway = address("10.0.2.2", address_port(&server));
    begin(&plain);
    role_assert(&role_udp_out);
    fill_payload(2500);
    assert_true(make_frames(&guest, &gateway, 2500, 65535, &id));
    (void)packet_parse(&p, got.data[0], got.size[0]);
    got.data[0][ETH + 20 + 6] ^= 1; /* its checksum is only begun */
    assert_true(udp_flows_take(flows, &p, 1000, now_ns));
    udp_flows_flush(flows, now_ns);
    for (uint32_t at = 0; at < 2500; at += 1000) {
        assert_int_equal(recv(fd, heard, sizeof(heard), 0), min_u32(1000, 2500 - at));
        assert_memory_equal(heard, payload + at, min_u32(1000, 2500 - at));
    }
    /* Where the kernel cannot take them apart any more, that is not tried again for each frame. */
    flows->flows[0].no_gso = true;
    n_calls = counter_read(COUNTER_udp_out_calls);
    n_off = counter_read(COUNTER_udp_gso_off);
    assert_true(udp_flows_take(flows, &p, 1000, now_ns));
    assert_true(udp_flows_take(flows, &p, 1000, now_ns));
    udp_flows_flush(flows, now_ns);
    for (uint32_t at = 0; at < 5000; at += at % 2500 == 2000 ? 500 : 1000) {
        assert_int_equal(recv(fd, heard, sizeof(heard), 0), at % 2500 == 2000 ? 500 : 1000);
        assert_memory_equal(heard, payload + at % 2500, at % 2500 == 2000 ? 500 : 1000);
    }
    assert_int_equal(counter_read(COUNTER_udp_out_calls) - n_calls, 6);
    assert_int_equal(counter_read(COUNTER_udp_gso_off), n_off);
    end();
    close(fd);
}

/* ---- the end of flows ---- */

static void expire_at(int64_t ns)
{
    role_assert(&role_udp_out);
    role_assert(&role_udp_in);
    now_ns = ns;
    udp_flows_expire(flows, now_ns);
    udp_flows_turn(flows);
}

static void test_a_silent_flow_ends(void **state)
{
    union address server, guest = address("10.0.2.100", GUEST_PORT), gateway;
    int fd = open_server(false, &server);
    uint32_t n_before;
    int64_t start_ns;

    (void)state;
    gateway = address("10.0.2.2", address_port(&server));
    begin(&plain);
    role_assert(&role_udp_out);
    n_before = n_descriptors();
    assert_int_equal(udp_flows_next_ns(flows), INT64_MAX);
    start_ns = now_ns;
    assert_true(give(&guest, &gateway, 5));
    assert_int_equal(n_descriptors(), n_before + 1);
    /* It is looked at when that is announced, and lives as long as it is used. */
    for (int i = 0; i < 30; i++) {
        assert_true(udp_flows_next_ns(flows) <= now_ns + 30 * NS_PER_S);
        expire_at(udp_flows_next_ns(flows));
        assert_int_equal(n_live(), 1);
        if (i < 20)
            assert_true(give(&guest, &gateway, 5));
        if (now_ns - start_ns > INT64_C(20) * 30 * NS_PER_S + (UDP_IDLE_S - 60) * NS_PER_S)
            break;
    }
    for (int i = 0; i < 4 && n_live() > 0; i++)
        expire_at(udp_flows_next_ns(flows));
    assert_int_equal(n_live(), 0);
    assert_int_equal(udp_flows_next_ns(flows), INT64_MAX);
    assert_int_equal(n_descriptors(), n_before);
    end();
    close(fd);
}

/* A question to the DNS address whose answer came needs no socket any longer. */
static void test_an_answered_question_ends_at_once(void **state)
{
    char path[] = "/tmp/test_udp_flows.XXXXXX";
    union address guest = address("10.0.2.100", GUEST_PORT), dns = address("10.0.2.3", 53);
    int file = mkstemp(path);

    (void)state;
    assert_true(file >= 0);
    assert_int_equal(write(file, "nameserver 127.0.0.1\n", 21), 21);
    close(file);
    begin(&(struct udp_flows_config){.resolv_conf = path});
    role_assert(&role_udp_out);
    assert_true(give(&guest, &dns, 5)); /* whether anybody listens there does not matter */
    forget_frames();
    expire_at(now_ns + NS_PER_S);
    assert_int_equal(n_live(), 1); /* not answered */
    {
        uint32_t i = udp_find(flows, &guest);

        atomic_store_explicit(&flows->flows[i].n_answers, 1, memory_order_relaxed);
    }
    /* Looked at every five seconds by now; a fresh one would be after 0.2. */
    expire_at(udp_flows_next_ns(flows));
    assert_int_equal(n_live(), 0);
    assert_true(give(&guest, &dns, 5));
    forget_frames();
    atomic_store_explicit(&flows->flows[udp_find(flows, &guest)].n_answers, 1, memory_order_relaxed);
    assert_true(udp_flows_next_ns(flows) <= now_ns + UDP_LINGER_DNS_MS * NS_PER_MS);
    expire_at(udp_flows_next_ns(flows));
    assert_int_equal(n_live(), 0);
    end();
    unlink(path);
}

static void test_without_a_nameserver_libslirp_is_asked(void **state)
{
    union address guest = address("10.0.2.100", GUEST_PORT), dns = address("10.0.2.3", 53);
    uint64_t n_before = counter_read(COUNTER_udp_fallback_no_nameserver);

    (void)state;
    begin(&plain);
    assert_false(give(&guest, &dns, 5));
    assert_int_equal(counter_read(COUNTER_udp_fallback_no_nameserver), n_before + 1);
    end();
}

static void test_the_longest_silent_makes_room(void **state)
{
    union address server, gateway;
    int fd = open_server(false, &server);
    uint32_t n_before;

    (void)state;
    gateway = address("10.0.2.2", address_port(&server));
    begin(&(struct udp_flows_config){.n_flows_max = 4});
    role_assert(&role_udp_in);
    n_before = n_descriptors();
    for (uint16_t i = 0; i < 4; i++) {
        union address guest = address("10.0.2.100", GUEST_PORT + i);

        assert_true(give(&guest, &gateway, 5));
        now_ns += NS_PER_S;
    }
    {
        union address oldest = address("10.0.2.100", GUEST_PORT),
                      fifth = address("10.0.2.100", GUEST_PORT + 4);

        assert_true(give(&oldest, &gateway, 5)); /* used again: now the second one is the oldest */
        now_ns += NS_PER_S;
        assert_true(give(&fifth, &gateway, 5));
    }
    assert_true(lives(GUEST_PORT));
    assert_false(lives(GUEST_PORT + 1));
    for (uint16_t i = 2; i < 5; i++)
        assert_true(lives(GUEST_PORT + i));
    udp_flows_turn(flows);
    assert_int_equal(n_descriptors(), n_before + 4);
    end();
    close(fd);
}

static void test_a_spray_of_ports_is_bounded_and_leaves_nothing(void **state)
{
    union address server, gateway;
    int fd = open_server(false, &server);
    uint32_t n_before;

    (void)state;
    gateway = address("10.0.2.2", address_port(&server));
    begin(&(struct udp_flows_config){.n_flows_max = 16});
    role_assert(&role_udp_in);
    n_before = n_descriptors();
    for (uint32_t port = 1024; port < 11024; port++) {
        union address guest = address("10.0.2.100", (uint16_t)port);

        assert_true(give(&guest, &gateway, 1));
        now_ns += NS_PER_MS;
        if (port % 64 == 0) { /* the other half comes round now and then */
            udp_flows_turn(flows);
            assert_true(n_descriptors() <= n_before + 16);
        }
    }
    assert_int_equal(n_live(), 16);
    expire_at(now_ns + UDP_IDLE_S * NS_PER_S);
    assert_int_equal(n_live(), 0);
    assert_int_equal(n_descriptors(), n_before);
    end();
    close(fd);
}

static void test_without_descriptors_libslirp_is_asked(void **state)
{
    union address guest = address("10.0.2.100", GUEST_PORT), gateway = address("10.0.2.2", 9);
    uint64_t n_fallback = counter_read(COUNTER_udp_fallback_descriptors);
    struct rlimit before, none;

    (void)state;
    begin(&plain);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    none = (struct rlimit){.rlim_cur = 3, .rlim_max = before.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
    assert_false(give(&guest, &gateway, 5));
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
    assert_int_equal(counter_read(COUNTER_udp_fallback_descriptors), n_fallback + 1);
    assert_false(give(&guest, &gateway, 5)); /* not asked of the kernel with every datagram */
    now_ns += NS_PER_S;
    assert_true(give(&guest, &gateway, 5));
    end();
}

static void test_an_event_of_a_flow_that_is_gone_does_nothing(void **state)
{
    union address server, guest = address("10.0.2.100", GUEST_PORT), gateway;
    int fd = open_server(false, &server);
    uint32_t index;

    (void)state;
    gateway = address("10.0.2.2", address_port(&server));
    begin(&plain);
    role_assert(&role_udp_out);
    role_assert(&role_udp_in);
    assert_true(give(&guest, &gateway, 5));
    index = udp_find(flows, &guest);
    expire_at(now_ns + 300 * NS_PER_S);
    assert_int_equal(n_live(), 0);
    udp_flows_ready(flows, index, EPOLLIN | EPOLLERR, now_ns);
    udp_flows_ready(flows, UDP_SLOTS, EPOLLIN, now_ns);
    udp_flows_ready(flows, UINT32_MAX, EPOLLIN, now_ns);
    assert_int_equal(got.n, 0);
    end();
    close(fd);
}

static void test_flows_are_listed_page_by_page(void **state)
{
    union address gateway = address("10.0.2.2", 9);
    struct flow_info rows[3];
    uint64_t from = 0, next;
    uint32_t n = 0;

    (void)state;
    begin(&plain);
    role_assert(&role_udp_out);
    for (uint16_t i = 0; i < 8; i++) {
        union address guest = address("10.0.2.100", GUEST_PORT + i);

        assert_true(give(&guest, &gateway, 5));
        forget_frames();
    }
    do {
        n += (uint32_t)udp_flows_list(flows, from, rows, ARRAY_SIZE(rows), now_ns, &next);
        assert_true(udp_same_address(&rows[0].remote, &gateway));
        assert_int_equal(address_port(&rows[0].remote), 9);
        from = next;
    } while (next > 0);
    assert_int_equal(n, 8);
    end();
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_datagram_becomes_one_frame_or_fragments),
        cmocka_unit_test(test_fragments_are_the_datagram_again),
        cmocka_unit_test(test_what_ip_cannot_carry_is_refused),
        cmocka_unit_test(test_a_sum_of_zero_is_not_sent_as_none),
        cmocka_unit_test(test_what_libslirp_has_rules_for_is_left_to_it),
        cmocka_unit_test(test_a_disabled_dns_address_is_never_taken),
        cmocka_unit_test(test_sources_that_nobody_has_are_left_to_libslirp),
        cmocka_unit_test(test_a_wrong_checksum_is_dropped),
        cmocka_unit_test(test_question_and_answer),
        cmocka_unit_test(test_an_answer_is_received_with_one_look),
        cmocka_unit_test(test_a_batch_leaves_in_order_with_few_calls),
        cmocka_unit_test(test_a_closed_port_is_reported),
        cmocka_unit_test(test_answers_of_one_size_become_one_frame),
        cmocka_unit_test(test_joined_datagrams_of_the_guest_arrive_one_by_one),
        cmocka_unit_test(test_a_silent_flow_ends),
        cmocka_unit_test(test_an_answered_question_ends_at_once),
        cmocka_unit_test(test_without_a_nameserver_libslirp_is_asked),
        cmocka_unit_test(test_the_longest_silent_makes_room),
        cmocka_unit_test(test_a_spray_of_ports_is_bounded_and_leaves_nothing),
        cmocka_unit_test(test_without_descriptors_libslirp_is_asked),
        cmocka_unit_test(test_an_event_of_a_flow_that_is_gone_does_nothing),
        cmocka_unit_test(test_flows_are_listed_page_by_page),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
