/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * fuzz_udp.c - datagrams of a hostile guest on the direct path, and whatever may come back for them
 *
 * Input: a byte of options, then steps: a frame (with its virtio-net header), answers, an ICMP error, time.
 * The sockets are played by this file: nothing leaves it, and whatever is to be sent is looked at. It must go
 * where the options let it, be made of bytes of its frame, and not be more than the frame was. What the guest
 * is sent must be well-formed, for a guest that has sent something, and not show the host's loopback when
 * that is prohibited. Every socket is closed at the end.
 */
#include "frames.h"

#include "io/address.h"
#include "io/icmp_error.h"
#include "io/offload.h"
#include "io/resolv.h"
#include "io/udp_flows.h"

#include <errno.h>
#include <linux/errqueue.h>
#include <netinet/udp.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#define VIRTIO_NONE "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

enum {
    STEPS_MAX = 200,
    STEP_FRAME_AT = 3, /* of a step: what, size */
    HEADER_SIZE = OFFLOAD_HEADER_SIZE,
    FD_FIRST = 1000,
    FDS = 8192,
    MTU = 1500,
};

/* The last byte is the answer to sendmsg(2). */
#define FRAME_FROM(port)                                                                                  \
    "\x00\x00\x38" VIRTIO_NONE ETHER                                                                      \
    "\x08\x00\x45\x00\x00\x20\x00\x00\x00\x00\x40\x11\x00\x00" ADDRESSES4 port "\x00\x35\x00\x0c\x00\x00" \
    "data\x00"

static const struct seed seeds[] = {
    /* To another host, and its answer. */
    SEED("\x00"
         "\x00\x00\x38" VIRTIO_NONE ETHER "\x08\x00"
         "\x45\x00\x00\x20\x00\x00\x00\x00\x40\x11\x00\x00" ADDRESSES4 "\x04\xd2\x00\x35\x00\x0c\x00\x00"
         "data"
         "\x01\x00\x05\xc0\x00\x02\x01\x35"),
    /* To the gateway, by IPv6, and an ICMP error. */
    SEED("\x02"
         "\x00\x00\x4c" VIRTIO_NONE ETHER "\x86\xdd"
         "\x60\x00\x00\x00\x00\x0c\x11\x40" ADDRESS6
         "\xfd\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02"
         "\x04\xd2\x00\x35\x00\x0c\x00\x00"
         "data"
         "\x02\x00\x05\x00\x00\x00\x00\x00"),
    /* To the DNS address, and time. */
    SEED("\x04"
         "\x00\x00\x38" VIRTIO_NONE ETHER "\x08\x00"
         "\x45\x00\x00\x20\x00\x00\x00\x00\x40\x11\x00\x00\x0a\x00\x02\x64\x0a\x00\x02\x03\x04\xd2\x00\x35"
         "\x00\x0c\x00\x00"
         "data"
         "\x03\xff\xff"),
    /* More addresses of the guest's than the table has places for. */
    SEED("\x04" FRAME_FROM("\x04\xd2") FRAME_FROM("\x04\xd3") FRAME_FROM("\x04\xd4") "\x03\x00\x01"),
    /* No socket to be had. */
    SEED("\x10" FRAME_FROM("\x04\xd2") FRAME_FROM("\x04\xd3") "\x03\x00\x01"),
    /* Joined: header bytes are flags, type, hdr_len, gso_size, csum_start, csum_offset, little endian. */
    SEED("\x08"
         "\x00\x00\x40\x01\x05\x2a\x00\x04\x00\x22\x00\x06\x00" ETHER "\x08\x00"
         "\x45\x00\x00\x28\x00\x00\x00\x00\x40\x11\x00\x00" ADDRESSES4 "\x04\xd2\x00\x35\x00\x14\x00\x00"
         "datadatadata"),
};

static struct udp_flows_config config;
static struct {
    struct input *in; /* what the stubs go on with */
    bool open[FDS];
    uint32_t n_open;
    int n_fds_max;          /* descriptors there are */
    const uint8_t *payload; /* of the frame that is looked at */
    uint32_t size, n_sent, n_bytes;
} world;

/* ---- the system ---- */

int fuzz_socket(int family, int type, int protocol);
int fuzz_close(int fd);
int fuzz_bind(int fd, const struct sockaddr *addr, socklen_t size);
int fuzz_setsockopt(int fd, int level, int name, const void *value, socklen_t size);
int fuzz_getsockopt(int fd, int level, int name, void *value, socklen_t *size);
int fuzz_epoll_ctl(int epfd, int op, int fd, struct epoll_event *event);
ssize_t fuzz_sendto(int fd, const void *data, size_t size, int flags, const struct sockaddr *to,
                    socklen_t to_size);
int fuzz_sendmmsg(int fd, struct mmsghdr *m, unsigned n, int flags);
int fuzz_recvmmsg(int fd, struct mmsghdr *m, unsigned n, int flags, struct timespec *timeout);
ssize_t fuzz_recvfrom(int fd, void *data, size_t size, int flags, struct sockaddr *from,
                      socklen_t *from_size);
ssize_t fuzz_recvmsg(int fd, struct msghdr *m, int flags);
const union address *fuzz_resolv_get(struct resolv *r, int family, int64_t now_ns);

int fuzz_socket(int family, int type, int protocol)
{
    (void)type;
    (void)protocol;
    CHECK(family == AF_INET || family == AF_INET6);
    for (int i = 0; i < world.n_fds_max; i++) {
        if (!world.open[i]) {
            world.open[i] = true;
            world.n_open++;
            return FD_FIRST + i;
        }
    }
    errno = EMFILE;
    return -1;
}

static void check_open(int fd)
{
    CHECK(fd >= FD_FIRST && fd < FD_FIRST + FDS && world.open[fd - FD_FIRST]);
}

int fuzz_close(int fd)
{
    check_open(fd);
    world.open[fd - FD_FIRST] = false;
    world.n_open--;
    return 0;
}

int fuzz_bind(int fd, const struct sockaddr *addr, socklen_t size)
{
    (void)addr;
    (void)size;
    check_open(fd);
    return 0;
}

int fuzz_setsockopt(int fd, int level, int name, const void *value, socklen_t size)
{
    (void)level;
    (void)name;
    (void)value;
    (void)size;
    check_open(fd);
    return 0;
}

int fuzz_getsockopt(int fd, int level, int name, void *value, socklen_t *size)
{
    (void)level;
    (void)name;
    (void)value;
    (void)size;
    check_open(fd);
    return 0; /* the kernel has UDP_SEGMENT and UDP_GRO */
}

int fuzz_epoll_ctl(int epfd, int op, int fd, struct epoll_event *event)
{
    (void)epfd;
    (void)op;
    (void)event;
    check_open(fd);
    return 0;
}

static void check_destination(const struct sockaddr *to)
{
    union address a;

    memcpy(&a, to, to->sa_family == AF_INET6 ? sizeof(a.in6) : sizeof(a.in));
    CHECK(address_port(&a) != 0);
    CHECK(!config.disable_host_loopback || !address_is_self(&a));
    if (a.sa.sa_family == AF_INET) {
        const uint8_t *b = (const uint8_t *)&a.in.sin_addr;

        CHECK(b[0] != 0 && b[0] < 224);
        CHECK((a.in.sin_addr.s_addr & config.netmask.s_addr) != config.network.s_addr);
    } else {
        const struct in6_addr *b = &a.in6.sin6_addr;

        CHECK(!IN6_IS_ADDR_MULTICAST(b) && !IN6_IS_ADDR_LINKLOCAL(b) && !IN6_IS_ADDR_V4MAPPED(b) &&
              !IN6_IS_ADDR_UNSPECIFIED(b));
        CHECK(memcmp(b, "\xfd\0\0\0\0\0\0\0", 8) != 0);
    }
}

static void check_bytes(const void *data, size_t size)
{
    const uint8_t *p = data;

    CHECK(p >= world.payload && p + size <= world.payload + world.size);
    world.n_bytes += (uint32_t)size;
    CHECK(world.n_bytes <= world.size);
}

ssize_t fuzz_sendto(int fd, const void *data, size_t size, int flags, const struct sockaddr *to,
                    socklen_t to_size)
{
    uint8_t answer = input_u8(world.in);

    (void)flags;
    (void)to_size;
    check_open(fd);
    if (answer % 8 == 7) {
        errno = answer & 8 ? ECONNREFUSED : answer & 16 ? ENETUNREACH : answer & 32 ? EMSGSIZE : EAGAIN;
        return -1;
    }
    check_destination(to);
    check_bytes(data, size);
    world.n_sent++;
    return (ssize_t)size;
}

int fuzz_sendmmsg(int fd, struct mmsghdr *m, unsigned n, int flags)
{
    uint8_t answer = n > 0 ? input_u8(world.in) : 0; /* 0: does it exist? */

    (void)flags;
    check_open(fd);
    if (answer % 4 == 3) {
        errno = answer & 8 ? ECONNREFUSED : answer & 16 ? EINVAL : answer & 32 ? EMSGSIZE : EAGAIN;
        return -1;
    }
    if (n > 1 && answer & 4)
        n = 1;
    for (unsigned i = 0; i < n; i++) {
        check_destination(m[i].msg_hdr.msg_name);
        for (size_t j = 0; j < m[i].msg_hdr.msg_iovlen; j++)
            check_bytes(m[i].msg_hdr.msg_iov[j].iov_base, m[i].msg_hdr.msg_iov[j].iov_len);
        world.n_sent++;
    }
    return (int)n;
}

static socklen_t any_address(struct sockaddr *ret)
{
    union address a;

    memset(&a, 0, sizeof(a));
    a.sa.sa_family = input_u8(world.in) & 1 ? AF_INET6 : AF_INET;
    if (a.sa.sa_family == AF_INET6)
        input_bytes(world.in, &a.in6.sin6_addr, min_u32(16, (uint32_t)world.in->size));
    else
        input_bytes(world.in, &a.in.sin_addr, min_u32(4, (uint32_t)world.in->size));
    address_set_port(&a, input_u16(world.in));
    memcpy(ret, &a, address_size(&a));
    return address_size(&a);
}

int fuzz_recvmmsg(int fd, struct mmsghdr *m, unsigned n, int flags, struct timespec *timeout)
{
    unsigned n_here;

    (void)flags;
    (void)timeout;
    check_open(fd);
    if (n == 0) /* does it exist? */
        return 0;
    n_here = min_u32(input_u8(world.in) % 9, n);
    if (n_here == 0) {
        errno = input_u8(world.in) & 1 ? ECONNREFUSED : EAGAIN;
        return -1;
    }
    for (unsigned i = 0; i < n_here; i++) {
        struct msghdr *h = &m[i].msg_hdr;
        uint8_t how = input_u8(world.in);

        m[i].msg_len = min_u32(how & 1 ? input_u16(world.in) : 100, (uint32_t)h->msg_iov[0].iov_len);
        memset(h->msg_iov[0].iov_base, how, m[i].msg_len);
        if (how & 2 || i == 0)
            h->msg_namelen = any_address(h->msg_name);
        else
            memcpy(h->msg_name, m[i - 1].msg_hdr.msg_name, h->msg_namelen = m[i - 1].msg_hdr.msg_namelen);
        if (how & 4) { /* joined by the kernel */
            struct cmsghdr *c = CMSG_FIRSTHDR(h);
            int size = 1 + input_u8(world.in);

            c->cmsg_level = IPPROTO_UDP;
            c->cmsg_type = 104; /* UDP_GRO */
            c->cmsg_len = CMSG_LEN(sizeof(size));
            memcpy(CMSG_DATA(c), &size, sizeof(size));
        } else {
            h->msg_controllen = 0;
        }
    }
    return (int)n_here;
}

ssize_t fuzz_recvfrom(int fd, void *data, size_t size, int flags, struct sockaddr *from, socklen_t *from_size)
{
    uint8_t how = input_u8(world.in);
    uint32_t n;

    (void)flags;
    check_open(fd);
    if (how == 0) {
        errno = input_u8(world.in) & 1 ? ECONNREFUSED : EAGAIN;
        return -1;
    }
    n = min_u32(how & 1 ? input_u16(world.in) : 100, (uint32_t)size);
    memset(data, how, n);
    *from_size = any_address(from);
    return n;
}

ssize_t fuzz_recvmsg(int fd, struct msghdr *m, int flags)
{
    struct cmsghdr *c = CMSG_FIRSTHDR(m);
    struct sock_extended_err error = {.ee_errno = ECONNREFUSED};
    uint8_t how = input_u8(world.in);
    size_t n;

    (void)flags;
    check_open(fd);
    if (how == 0) {
        errno = EAGAIN;
        return -1;
    }
    error.ee_origin = how & 1 ? SO_EE_ORIGIN_ICMP : SO_EE_ORIGIN_ICMP6;
    error.ee_type = input_u8(world.in);
    error.ee_code = input_u8(world.in);
    error.ee_info = input_u16(world.in);
    c->cmsg_level = how & 1 ? IPPROTO_IP : IPPROTO_IPV6;
    c->cmsg_type = how & 1 ? IP_RECVERR : IPV6_RECVERR;
    memcpy(CMSG_DATA(c), &error, sizeof(error));
    c->cmsg_len = CMSG_LEN(sizeof(error) + any_address((struct sockaddr *)(CMSG_DATA(c) + sizeof(error))));
    m->msg_controllen = c->cmsg_len;
    m->msg_namelen = any_address(m->msg_name);
    n = min_u32(input_u8(world.in), (uint32_t)m->msg_iov[0].iov_len);
    memset(m->msg_iov[0].iov_base, how, n);
    return (ssize_t)n;
}

const union address *fuzz_resolv_get(struct resolv *r, int family, int64_t now_ns)
{
    static union address v4, v6;

    (void)r;
    (void)now_ns;
    v4.in = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(53)};
    inet_pton(AF_INET, "192.0.2.53", &v4.in.sin_addr);
    v6.in6 = (struct sockaddr_in6){.sin6_family = AF_INET6, .sin6_port = htons(53)};
    inet_pton(AF_INET6, "2001:db8::53", &v6.in6.sin6_addr);
    return family == AF_INET6 ? &v6 : &v4;
}

/* ---- towards the guest ---- */

static void check_source(const struct packet *p, enum packet_kind kind)
{
    CHECK(kind == PACKET_IPV4 || kind == PACKET_IPV6);
    if (config.disable_host_loopback)
        CHECK(!(kind == PACKET_IPV4 ? ipv4_is_self(p->src) : ipv6_is_self(p->src)));
}

static void on_frame(void *arg, const void *frame, uint32_t size)
{
    struct packet p;
    enum packet_kind kind = packet_parse(&p, frame, size);

    (void)arg;
    CHECK(size <= ETH_SIZE + MTU);
    check_source(&p, kind);
    CHECK(p.ip_protocol == IPPROTO_UDP || p.ip_protocol == IPPROTO_ICMP || p.ip_protocol == IPPROTO_ICMPV6);
}

static void on_parts(void *arg, const struct virtio_net_hdr *header, struct iovec *parts, uint32_t n_parts)
{
    static uint8_t whole[FRAME_SIZE_MAX];
    struct packet p;
    enum packet_kind kind;
    uint32_t size = 0;

    (void)arg;
    memset((uint8_t *)parts[0].iov_base - OFFLOAD_HEADER_SIZE_MAX, 0, OFFLOAD_HEADER_SIZE_MAX);
    for (uint32_t i = 0; i < n_parts; i++) {
        CHECK(parts[i].iov_len <= sizeof(whole) - size);
        memcpy(whole + size, parts[i].iov_base, parts[i].iov_len);
        size += (uint32_t)parts[i].iov_len;
    }
    kind = packet_parse(&p, whole, size);
    check_source(&p, kind);
    CHECK(p.l4 && p.l4_size >= 8 && p.ip_protocol == IPPROTO_UDP);
    CHECK(header->csum_start == p.l4 - whole && header->csum_offset == 6 &&
          header->hdr_len == p.l4 - whole + 8);
    CHECK(header->gso_type == VIRTIO_NET_HDR_GSO_NONE
              ? size <= ETH_SIZE + MTU
              : header->gso_size > 0 && offload_finish(header, whole, size));
}

/* ---- steps ---- */

static void give_frame(struct udp_flows *u, const uint8_t *data, uint32_t size, int64_t now_ns)
    RUNS_ON(role_udp_out)
{
    uint8_t *copy, *frame; /* its end is guarded */
    struct packet p;
    enum packet_kind kind;
    uint32_t datagram_size;

    if (size <= HEADER_SIZE)
        return;
    copy = malloc(size);
    CHECK(copy);
    memcpy(copy, data, size);
    frame = copy + HEADER_SIZE;
    size -= HEADER_SIZE;
    /* In this order, as the reader does: what is completed may be a length. */
    kind = offload_finish(copy, frame, size) ? packet_parse(&p, frame, size) : PACKET_MALFORMED;
    if (kind == PACKET_IPV4 || kind == PACKET_IPV6) {
        datagram_size = offload_datagram_size(copy);
        world.payload = frame;
        world.size = size;
        world.n_sent = world.n_bytes = 0;
        (void)udp_flows_take(u, &p, datagram_size, now_ns);
        udp_flows_flush(u, now_ns);
        CHECK(world.n_sent <= OFFLOAD_DATAGRAMS_MAX);
        if (datagram_size > 0) {
            static uint8_t one[FRAME_SIZE_MAX];
            uint32_t n, n_all = 0;

            while ((n = offload_take_apart(one, &p, kind, datagram_size, n_all)) > 0) {
                struct packet q;

                CHECK(packet_parse(&q, one, n) == kind && q.l4_size <= 8 + datagram_size);
                n_all++;
            }
            CHECK(n_all <= OFFLOAD_DATAGRAMS_MAX);
        }
    }
    free(copy);
}

static void list_flows(struct udp_flows *u, int64_t now_ns) RUNS_ON(role_udp_out) RUNS_ON(role_udp_in)
{
    struct flow_info rows[3];
    uint64_t from = 0, next;
    uint32_t n_all = 0;

    do {
        int n = udp_flows_list(u, from, rows, ARRAY_SIZE(rows), now_ns, &next);

        CHECK(n >= 0 && n <= (int)ARRAY_SIZE(rows) && (next == 0 || next > from));
        n_all += (uint32_t)n;
        from = next;
    } while (from);
    CHECK(n_all <= config.n_flows_max);
}

TSA(no_thread_safety_analysis) int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, size};
    struct udp_flows *u;
    int64_t now_ns = 1000000000;
    uint8_t options = input_u8(&in);

    config = (struct udp_flows_config){
        .epoll_fd = 3,
        .mtu = MTU,
        .disable_host_loopback = options & 1,
        .disable_dns = options & 2,
        .n_flows_max = options & 4 ? 2 : 64,
        .resolv_conf = "",
        .send = on_frame,
        .send_parts = options & 8 ? on_parts : NULL,
    };
    inet_pton(AF_INET, "10.0.2.0", &config.network);
    inet_pton(AF_INET, "255.255.255.0", &config.netmask);
    inet_pton(AF_INET, "10.0.2.2", &config.gateway);
    inet_pton(AF_INET, "10.0.2.3", &config.dns);
    world.in = &in;
    world.n_fds_max = options & 16 ? 1 : FDS;
    CHECK(udp_flows_new(&u, &config, NULL) == 0);
    role_enter(&role_udp_out);
    role_enter(&role_udp_in);
    for (unsigned step = 0; step < STEPS_MAX && in.size > 0; step++) {
        uint8_t what = input_u8(&in);
        uint32_t n = input_u16(&in);

        switch (what % 4) {
        case 0: {
            const uint8_t *frame = in.data;

            n = min_u32(n, (uint32_t)in.size);
            in.data += n;
            in.size -= n;
            give_frame(u, frame, n, now_ns);
            break;
        }
        case 1:
            udp_flows_ready(u, n % 4352, EPOLLIN, now_ns);
            break;
        case 2:
            udp_flows_ready(u, n % 4352, EPOLLIN | EPOLLERR, now_ns);
            break;
        default:
            now_ns += n * INT64_C(10000000);
            udp_flows_expire(u, now_ns);
            udp_flows_turn(u);
            list_flows(u, now_ns);
            CHECK(world.n_open <= config.n_flows_max);
        }
    }
    role_leave(&role_udp_in);
    role_leave(&role_udp_out);
    udp_flows_free(u);
    CHECK(world.n_open == 0);
    return 0;
}

/* The frames of the first steps get past the parser. */
static void mend_first(uint8_t *data, size_t size, unsigned seed)
{
    size_t at = 1, n;

    while (seed % 4 != 0 && size > at + STEP_FRAME_AT && data[at] % 4 == 0) {
        n = get_u16(data + at + 1);
        at += STEP_FRAME_AT;
        if (n > size - at)
            n = size - at;
        if (n > HEADER_SIZE)
            frame_mend(data + at + HEADER_SIZE, n - HEADER_SIZE);
        at += n + 1; /* and the answer to sendmsg(2) */
    }
}

FUZZ_MUTATOR(seeds, mend_first)
