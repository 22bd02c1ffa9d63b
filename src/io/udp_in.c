/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * udp_in.c - what comes back: from host sockets to frames for the guest
 *
 * Datagrams are received in batches, each into a buffer with room for headers in front, and go out from
 * there. Those of one size and one peer that follow each other become one frame that the guest's kernel takes
 * apart (USO), where the TAP takes such frames; else what the kernel has joined (UDP_GRO) is taken apart
 * here. A flow's socket gets UDP_GRO and larger buffers once it has proved busy, with several datagrams at a
 * time: a resolver's sockets ask one question at a time, and are not worth two system calls.
 *
 * ICMP errors come from the error queue (IP_RECVERR, ip(7)), with the address the datagram was sent to, how
 * its payload began, and who complained. The guest gets them with its own idea of these addresses; errors
 * from the host's own loopback come from the gateway, because a guest would drop a packet from 127.0.0.1.
 */
#include "base/bits.h"
#include "base/counters.h"
#include "io/icmp_error.h"
#include "io/udp_private.h"

#include <errno.h>
#include <linux/errqueue.h>
#include <netinet/udp.h>
#include <sys/epoll.h>

#ifndef UDP_GRO
#define UDP_GRO 104
#endif

enum {
    ROUNDS = 4,      /* batches per event: then others have their turn */
    FIRST_BATCH = 4, /* of a flow of which little is known */
    ERRORS_MAX = 16, /* ICMP errors per event */
    BULK_BUFFER = 1 << 20,
    PORT_DNS = 53,
    PAYLOAD_AT = FRAME_HEADROOM + UDP_FRAME_HEADROOM,
    PAYLOAD_ROOM = 65535,
    JOINED_BYTES_MAX = 65000, /* of one frame; its headers must fit in 64 KiB as well */
};
static_assert((int)PAYLOAD_AT >= (int)OFFLOAD_HEADER_SIZE_MAX + (int)UDP_FRAME_HEAD_MAX,
              "no room for a head");
static_assert(PAYLOAD_AT + PAYLOAD_ROOM <= FRAME_STRIDE, "a datagram does not fit its buffer");

bool udp_shown(const struct udp_flows *u, const struct udp_flow *f, const union address *real,
               union address *ret, bool *ret_is_server)
{
    bool v6 = real->sa.sa_family == AF_INET6;
    uint32_t server = atomic_load_explicit(&f->server, memory_order_relaxed);

    *ret_is_server =
        server > 0 && address_port(real) == PORT_DNS && udp_same_address(&u->servers[server - 1], real);
    if (*ret_is_server) {
        *ret = v6 ? u->dns6 : u->dns4;
        return true;
    }
    *ret = *real;
    if (address_is_self(real)) {
        if (u->config.disable_host_loopback)
            return false;
        if (!atomic_load_explicit(&f->literal, memory_order_relaxed)) {
            *ret = v6 ? u->gateway6 : u->gateway4;
            address_set_port(ret, address_port(real));
        }
        return true;
    }
    return !address_is_link_local(real); /* a link the guest is not on */
}

/* ---- ICMP errors ---- */

struct error_message {
    struct sock_extended_err error;
    union address offender;
};

static bool read_error(struct msghdr *m, struct error_message *ret)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
        size_t size = c->cmsg_len - CMSG_LEN(0);

        if (!((c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_RECVERR) ||
              (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_RECVERR)) ||
            size < sizeof(ret->error))
            continue;
        memset(ret, 0, sizeof(*ret));
        memcpy(&ret->error, CMSG_DATA(c), sizeof(ret->error));
        memcpy(&ret->offender, CMSG_DATA(c) + sizeof(ret->error),
               min_u32((uint32_t)(size - sizeof(ret->error)), sizeof(ret->offender)));
        return true;
    }
    return false;
}

static void reflect(struct udp_flows *u, const struct udp_flow *f, const struct error_message *e,
                    const union address *to, const uint8_t *payload, uint32_t size) RUNS_ON(role_udp_in)
{
    bool v6 = f->guest.sa.sa_family == AF_INET6, is_server, is_mtu;
    uint8_t frame[ICMP_ERROR_DATAGRAM_MAX];
    union address shown, from = v6 ? u->gateway6 : u->gateway4;
    struct icmp_error icmp = {.type = e->error.ee_type,
                              .code = e->error.ee_code,
                              .from = &from,
                              .src = &f->guest,
                              .dst = &shown,
                              .payload = payload,
                              .payload_size = size};

    if (e->error.ee_origin != (v6 ? SO_EE_ORIGIN_ICMP6 : SO_EE_ORIGIN_ICMP) ||
        to->sa.sa_family != f->guest.sa.sa_family || !udp_shown(u, f, to, &shown, &is_server))
        return;
    is_mtu = v6 ? e->error.ee_type == 2 : e->error.ee_type == 3 && e->error.ee_code == 4;
    icmp.mtu = is_mtu ? e->error.ee_info : 0;
    /* A host that complains of itself is who the guest takes it for; a router has its own address. */
    if (e->offender.sa.sa_family == to->sa.sa_family && udp_same_address(&e->offender, to))
        from = shown;
    else if (e->offender.sa.sa_family == to->sa.sa_family && !address_is_self(&e->offender) &&
             !(v6 && IN6_IS_ADDR_LINKLOCAL(&e->offender.in6.sin6_addr)))
        from = e->offender;
    udp_mac(f, icmp.guest_mac);
    udp_frame_gateway_mac(icmp.gateway_mac, f->guest.sa.sa_family, u->config.gateway);
    u->config.send(u->config.arg, frame, icmp_error_datagram(frame, &icmp));
    counter_add_shared(COUNTER_udp_icmp, 1); /* both halves report */
}

static void take_errors(struct udp_flows *u, const struct udp_flow *f) RUNS_ON(role_udp_in)
{
    for (int i = 0; i < ERRORS_MAX; i++) {
        uint8_t payload[ICMP_ERROR_QUOTE_MAX];
        union {
            struct cmsghdr align;
            uint8_t bytes[256];
        } control;
        union address to;
        struct iovec part = {.iov_base = payload, .iov_len = sizeof(payload)};
        struct msghdr m = {.msg_name = &to,
                           .msg_namelen = sizeof(to),
                           .msg_iov = &part,
                           .msg_iovlen = 1,
                           .msg_control = control.bytes,
                           .msg_controllen = sizeof(control.bytes)};
        struct error_message error;
        ssize_t n;

        memset(&to, 0, sizeof(to));
        n = recvmsg(f->fd, &m, MSG_ERRQUEUE | MSG_DONTWAIT);
        if (n < 0)
            return; /* EAGAIN: no more; anything else would come again with the next event */
        if (read_error(&m, &error))
            reflect(u, f, &error, &to, payload, (uint32_t)n);
    }
}

/* ---- datagrams ---- */

static uint32_t joined_size(struct msghdr *m)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
        int size;

        if (c->cmsg_level == IPPROTO_UDP && c->cmsg_type == UDP_GRO) {
            memcpy(&size, CMSG_DATA(c), sizeof(size));
            return size > 0 ? (uint32_t)size : 0;
        }
    }
    return 0;
}

/* May message @next go into one frame with those from @first on, @bytes so far? */
static bool joins(const struct udp_in *in, uint32_t first, uint32_t next, uint32_t bytes)
{
    uint32_t size = in->messages[first].msg_len, next_size = in->messages[next].msg_len;

    return next_size > 0 && next_size <= size && in->messages[next - 1].msg_len == size &&
           bytes + next_size <= JOINED_BYTES_MAX && in->steps[first] == 0 && in->steps[next] == 0 &&
           address_port(&in->from[first]) == address_port(&in->from[next]) &&
           udp_same_address(&in->from[first], &in->from[next]);
}

/* One frame for @n messages, @size bytes in all, in datagrams of @step bytes. False: it cannot be. */
static bool send_joined(struct udp_flows *u, const struct udp_frame *f, uint32_t first, uint32_t n,
                        uint32_t size, uint32_t step) RUNS_ON(role_udp_in)
{
    struct udp_in *in = &u->in;
    struct {
        uint8_t room[OFFLOAD_HEADER_SIZE_MAX], head[UDP_FRAME_HEAD_MAX];
    } apart;
    struct iovec parts[1 + UDP_IN_BATCH];
    struct virtio_net_hdr header;
    uint32_t gso_size = step < size ? step : 0, head_size;

    /* A kernel that refuses such frames is not asked again (counted). */
    if (!u->config.send_parts || (gso_size > 0 && counter_read(COUNTER_tx_gso_refused) > 0) ||
        (gso_size > 0 && (size + step - 1) / step > UDP_IN_BATCH))
        return false;
    head_size = udp_frame_head(f, apart.head, &header, size, gso_size);
    if (head_size == 0)
        return false;
    if (n == 1) { /* in one piece */
        uint8_t *payload = in->parts[first].iov_base;

        memcpy(payload - head_size, apart.head, head_size);
        parts[0] = (struct iovec){.iov_base = payload - head_size, .iov_len = head_size + size};
    } else {
        parts[0] = (struct iovec){.iov_base = apart.head, .iov_len = head_size};
        for (uint32_t i = 0; i < n; i++)
            parts[1 + i] = (struct iovec){.iov_base = in->parts[first + i].iov_base,
                                          .iov_len = in->messages[first + i].msg_len};
    }
    u->config.send_parts(u->config.arg, &header, parts, n == 1 ? 1 : 1 + n);
    if (gso_size > 0)
        counter_add(COUNTER_udp_in_joined, 1);
    return true;
}

/* A frame, or fragments, for each datagram. */
static void send_each(const struct udp_frame *f, uint8_t *payload, uint32_t size, uint32_t step)
{
    uint32_t at = 0;

    do {
        if (!udp_frame_send(f, payload + at, min_u32(step, size - at)))
            counter_add(COUNTER_udp_drop_source, 1);
        at += step;
    } while (at < size);
}

/* @n messages from @first on, of one peer: several only if they may be joined. */
static void deliver(struct udp_flows *u, struct udp_flow *f, uint32_t first, uint32_t n, uint32_t size)
    RUNS_ON(role_udp_in)
{
    struct udp_in *in = &u->in;
    const union address *from = &in->from[first];
    uint32_t step = in->steps[first] > 0 ? in->steps[first] : max_u32(in->messages[first].msg_len, 1);
    uint32_t n_datagrams = max_u32((size + step - 1) / step, 1);
    union address shown;
    struct udp_frame frame = {.src = &shown,
                              .dst = &f->guest,
                              .gateway = u->config.gateway,
                              .mtu = u->config.mtu,
                              .id = &in->ip_id,
                              .send = u->config.send,
                              .arg = u->config.arg};
    bool is_server;

    if (!udp_shown(u, f, from, &shown, &is_server)) {
        counter_add(COUNTER_udp_drop_source, n_datagrams);
        return;
    }
    udp_mac(f, frame.guest_mac);
    if (!send_joined(u, &frame, first, n, size, step)) {
        for (uint32_t i = first; i < first + n; i++)
            send_each(&frame, in->parts[i].iov_base, in->messages[i].msg_len, step);
    }
    udp_add(&f->n_in, n_datagrams);
    udp_add(&f->in_bytes, size);
    counter_add(COUNTER_udp_in, n_datagrams);
    counter_add(COUNTER_udp_in_bytes, size);
    if (is_server)
        atomic_store_explicit(&f->n_answers,
                              atomic_load_explicit(&f->n_answers, memory_order_relaxed) + n_datagrams,
                              memory_order_relaxed);
    atomic_store_explicit(&f->port53_last, address_port(from) == PORT_DNS, memory_order_relaxed);
}

static void deliver_all(struct udp_flows *u, struct udp_flow *f, uint32_t n) RUNS_ON(role_udp_in)
{
    struct udp_in *in = &u->in;

    for (uint32_t i = 0; i < n; i++)
        in->steps[i] = joined_size(&in->messages[i].msg_hdr);
    for (uint32_t first = 0, next; first < n; first = next) {
        uint32_t bytes = in->messages[first].msg_len;

        for (next = first + 1; next < n && joins(in, first, next, bytes); next++)
            bytes += in->messages[next].msg_len;
        deliver(u, f, first, next - first, bytes);
    }
}

void udp_in_prepare(struct udp_in *in)
{
    for (uint32_t i = 0; i < UDP_IN_BATCH; i++) {
        in->parts[i] = (struct iovec){.iov_base = in->region + (size_t)i * FRAME_STRIDE + PAYLOAD_AT,
                                      .iov_len = PAYLOAD_ROOM};
        in->messages[i].msg_hdr = (struct msghdr){.msg_name = &in->from[i],
                                                  .msg_namelen = sizeof(in->from[i]),
                                                  .msg_iov = &in->parts[i],
                                                  .msg_iovlen = 1,
                                                  .msg_control = in->controls[i].bytes,
                                                  .msg_controllen = sizeof(in->controls[i].bytes)};
    }
}

/* What recvmmsg(2) has written to the first @n messages is what it reads the next time. */
static void prepare_again(struct udp_in *in, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        in->messages[i].msg_hdr.msg_namelen = sizeof(in->from[i]);
        in->messages[i].msg_hdr.msg_controllen = sizeof(in->controls[i].bytes);
    }
}

/* How many datagrams to ask for. To look for one that has not come costs as much as half of one that has, so
 * a flow to which one answer is owed is asked for one; if there are more, its event comes again. */
static uint32_t expected(const struct udp_flow *f)
{
    /* Relaxed: a guess. A flow that has lost something is never owed one. */
    if (atomic_load_explicit(&f->n_out, memory_order_relaxed) ==
        atomic_load_explicit(&f->n_in, memory_order_relaxed) + 1)
        return 1;
    return f->bulk ? UDP_IN_BATCH : FIRST_BATCH;
}

/* As recvmmsg(2). For one datagram that the kernel cannot have joined from several recvfrom(2) costs a third
 * less. */
static int receive(struct udp_in *in, const struct udp_flow *f, uint32_t n_max)
{
    socklen_t size = sizeof(in->from[0]);
    ssize_t n;

    counter_add(COUNTER_udp_in_calls, 1);
    if (n_max > 1 || f->bulk)
        return recvmmsg(f->fd, in->messages, n_max, MSG_DONTWAIT, NULL);
    n = recvfrom(f->fd, in->parts[0].iov_base, PAYLOAD_ROOM, MSG_DONTWAIT, &in->from[0].sa, &size);
    if (n < 0)
        return -1;
    in->messages[0].msg_len = (uint32_t)n;
    in->messages[0].msg_hdr.msg_controllen = 0;
    return 1;
}

static void make_bulk(const struct udp_flows *u, struct udp_flow *f)
{
    static const int buffer = BULK_BUFFER, on = 1;

    f->bulk = true;
    /* Wishes: the kernel grants what net.core.rmem_max and wmem_max allow, and joins what it can. */
    (void)setsockopt(f->fd, SOL_SOCKET, SO_RCVBUF, &buffer, sizeof(buffer));
    (void)setsockopt(f->fd, SOL_SOCKET, SO_SNDBUF, &buffer, sizeof(buffer));
    if (u->gro)
        (void)setsockopt(f->fd, IPPROTO_UDP, UDP_GRO, &on, sizeof(on));
}

void udp_flows_ready(struct udp_flows *u, uint32_t index, uint32_t events, int64_t now_ns)
{
    struct udp_flow *f = index < UDP_SLOTS ? &u->flows[index] : NULL;
    bool several = false;

    /* Acquire, pairs with udp_open(). Retired: its end is on the way. */
    if (!f || atomic_load_explicit(&f->state, memory_order_acquire) != UDP_LIVE)
        return;
    if (events & EPOLLERR)
        take_errors(u, f);
    for (int round = 0; round < ROUNDS; round++) {
        uint32_t n_max = round > 0 ? UDP_IN_BATCH : expected(f);
        int n = receive(&u->in, f, n_max);

        if (n < 0) {
            if (errno == EAGAIN)
                break;
            continue; /* an error that waits in the queue as well (EPOLLERR comes again), or EINTR */
        }
        deliver_all(u, f, (uint32_t)n);
        prepare_again(&u->in, (uint32_t)n);
        atomic_store_explicit(&f->in_ns, now_ns, memory_order_relaxed);
        several |= n > 1;
        if (n_max == 1 || (uint32_t)n < n_max)
            break;
    }
    if (several && !f->bulk && atomic_load_explicit(&f->n_in, memory_order_relaxed) >= UDP_BULK_DATAGRAMS)
        make_bulk(u, f);
}
