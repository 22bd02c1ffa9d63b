/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * udp_out.c - the guest's datagrams, from frames to host sockets
 *
 * A taken datagram is an entry that points into its frame; entries of one flow form a chain. A flush goes
 * from flow to flow: a chain becomes messages, datagrams of one size to one destination that follow each
 * other become one message with UDP_SEGMENT (the kernel takes them apart again, so nothing changes on the
 * wire), and all messages of a flow go out with one sendmmsg(2).
 *
 * An ICMP error that came back earlier makes the next send fail with its errno, and nothing is sent
 * (IP_RECVERR, ip(7)); so a failure is tried again before it is taken for the datagram's own.
 */
#include "base/bits.h"
#include "base/clock.h"
#include "base/counters.h"
#include "io/icmp_error.h"
#include "io/udp_private.h"

#include <errno.h>
#include <netinet/udp.h>
#include <string.h>

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif

enum {
    ETH_SIZE = 14,
    UDP_SIZE = 8,
    SEGMENTS_MAX = 64,        /* UDP_MAX_SEGMENTS of the oldest kernels that have it */
    JOINED_BYTES_MAX = 65000, /* of one message; its headers must fit in 64 KiB as well */
    TRIES = 3,
    PORT_DHCP = 67,
    PORT_DHCP6 = 547,
    PORT_TFTP = 69,
    PORT_DNS = 53,
};

/* ---- what is taken, and where it goes ---- */

enum target { TARGET_LEAVE, TARGET_PLAIN, TARGET_GATEWAY, TARGET_DNS, TARGET_LITERAL };

static bool is_link_local(const uint8_t addr[16])
{
    return addr[0] == 0xfe && (addr[1] & 0xc0) == 0x80;
}

/* What libslirp has rules for stays with it: its own addresses, its servers, groups and broadcasts. */
static enum target target4(const struct udp_flows_config *c, const struct packet *p)
{
    struct in_addr dst;

    memcpy(&dst, p->dst, 4);
    if (ipv4_is_self(p->src) || p->src[0] >= 224 || p->dst[0] == 0 || p->dst[0] >= 224)
        return TARGET_LEAVE;
    if (p->dst[0] == 127)
        return c->disable_host_loopback ? TARGET_LEAVE : TARGET_LITERAL;
    if (dst.s_addr == c->gateway.s_addr)
        return c->disable_host_loopback || p->dst_port == PORT_DHCP || p->dst_port == PORT_TFTP
                   ? TARGET_LEAVE
                   : TARGET_GATEWAY;
    if (dst.s_addr == c->dns.s_addr)
        return c->disable_dns || p->dst_port != PORT_DNS ? TARGET_LEAVE : TARGET_DNS;
    return (dst.s_addr & c->netmask.s_addr) == c->network.s_addr ? TARGET_LEAVE : TARGET_PLAIN;
}

static enum target target6(const struct udp_flows *u, const struct packet *p)
{
    const struct udp_flows_config *c = &u->config;
    const struct in6_addr *gateway = &u->gateway6.in6.sin6_addr;
    struct in6_addr dst;

    memcpy(&dst, p->dst, 16);
    if (ipv6_is_self(p->src) || p->src[0] == 0xff || is_link_local(p->src) || p->dst[0] == 0xff ||
        is_link_local(p->dst) || IN6_IS_ADDR_V4MAPPED(&dst) || IN6_IS_ADDR_UNSPECIFIED(&dst))
        return TARGET_LEAVE;
    if (IN6_IS_ADDR_LOOPBACK(&dst))
        return c->disable_host_loopback ? TARGET_LEAVE : TARGET_LITERAL;
    if (memcmp(&dst, gateway, 16) == 0)
        return c->disable_host_loopback || p->dst_port == PORT_DHCP6 || p->dst_port == PORT_TFTP
                   ? TARGET_LEAVE
                   : TARGET_GATEWAY;
    if (memcmp(&dst, &u->dns6.in6.sin6_addr, 16) == 0)
        return c->disable_dns || p->dst_port != PORT_DNS ? TARGET_LEAVE : TARGET_DNS;
    return memcmp(&dst, gateway, 8) == 0 ? TARGET_LEAVE : TARGET_PLAIN; /* the rest of fd00::/64 */
}

/* RFC 768, RFC 8200 8.1: without a checksum only over IPv4. */
static bool checksum_good(const struct packet *p, bool v6, uint32_t udp_size)
{
    uint32_t sum;

    if (p->checksum_made)
        return true;
    if (p->l4[6] == 0 && p->l4[7] == 0)
        return !v6;
    sum = offload_pseudo_sum(p, v6 ? PACKET_IPV6 : PACKET_IPV4, udp_size);
    return checksum_fold(checksum_add(sum, p->l4, udp_size)) == 0;
}

static void set_address(union address *ret, int family, const uint8_t *addr, uint16_t port)
{
    memset(ret, 0, sizeof(*ret));
    ret->sa.sa_family = (sa_family_t)family;
    if (family == AF_INET6)
        memcpy(&ret->in6.sin6_addr, addr, 16);
    else
        memcpy(&ret->in.sin_addr, addr, 4);
    address_set_port(ret, port);
}

/* The place of a nameserver; UDP_SERVERS_MAX: there is none left. */
static uint32_t server_index(struct udp_flows *u, const union address *server) RUNS_ON(role_udp_out)
{
    uint32_t i;

    for (i = 0; i < u->out.n_servers; i++) {
        if (udp_same_address(&u->servers[i], server))
            return i;
    }
    if (i < UDP_SERVERS_MAX) {
        u->servers[i] = *server;
        u->out.n_servers++;
    }
    return i;
}

/* Where to send what the guest sends to @shown. False: there is no nameserver. */
static bool resolve(struct udp_flows *u, enum target target, const union address *shown, int64_t now_ns,
                    union address *ret) RUNS_ON(role_udp_out)
{
    const union address *server;

    *ret = *shown;
    switch (target) {
    case TARGET_DNS:
        server = resolv_get(&u->out.resolv, shown->sa.sa_family, now_ns);
        if (!server || server_index(u, server) == UDP_SERVERS_MAX)
            return false;
        *ret = *server;
        break;
    case TARGET_GATEWAY:
        if (shown->sa.sa_family == AF_INET6)
            ret->in6.sin6_addr = in6addr_loopback;
        else
            ret->in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        break;
    default:
        break;
    }
    return true;
}

/* What the other half has to know about the flow to show who answers. */
static void note_target(struct udp_flows *u, struct udp_flow *f, enum target target, const union address *to,
                        uint32_t n) RUNS_ON(role_udp_out)
{
    /* Relaxed throughout: the kernel's send and receive lie between this and the answer. */
    switch (target) {
    case TARGET_DNS:
        atomic_store_explicit(&f->server, 1 + server_index(u, to), memory_order_relaxed);
        atomic_store_explicit(&f->n_questions,
                              atomic_load_explicit(&f->n_questions, memory_order_relaxed) + n,
                              memory_order_relaxed);
        counter_add(COUNTER_udp_dns, n);
        break;
    case TARGET_GATEWAY:
    case TARGET_LITERAL:
        atomic_store_explicit(&f->literal, target == TARGET_LITERAL, memory_order_relaxed);
        break;
    default:
        /* It asks its nameserver by that one's own name: so shall the answer be. */
        if (address_port(to) == PORT_DNS && atomic_load_explicit(&f->server, memory_order_relaxed) > 0)
            atomic_store_explicit(&f->server, 0, memory_order_relaxed);
    }
}

static void note_mac(struct udp_flow *f, const uint8_t mac[6])
{
    uint64_t value = 0;

    for (int i = 0; i < 6; i++)
        value = value << 8 | mac[i];
    if (atomic_load_explicit(&f->mac, memory_order_relaxed) != value)
        atomic_store_explicit(&f->mac, value, memory_order_relaxed);
}

static void enqueue(struct udp_flows *u, uint32_t index, const struct udp_entry *entry) RUNS_ON(role_udp_out)
{
    struct udp_flow *f = &u->flows[index];
    uint32_t n = u->out.n_entries++;

    u->out.entries[n] = *entry;
    u->out.entries[n].next = UDP_NONE;
    if (f->first == UDP_NONE) {
        f->first = n;
        f->next_touched = u->out.touched;
        u->out.touched = index;
    } else {
        u->out.entries[f->last].next = n;
    }
    f->last = n;
}

static uint32_t n_datagrams(const struct udp_entry *entry)
{
    return entry->gso_size > 0 ? (entry->size + entry->gso_size - 1) / entry->gso_size : 1;
}

bool udp_flows_take(struct udp_flows *u, const struct packet *p, uint32_t gso_size, int64_t now_ns)
{
    bool v6 = p->frame[12] == 0x86;
    int family = v6 ? AF_INET6 : AF_INET;
    uint8_t ttl;
    struct udp_entry entry;
    enum target target;
    union address guest;
    struct udp_flow *f;
    uint32_t i;

    if (p->ip_protocol != IPPROTO_UDP || !p->l4 || p->is_fragment || p->src_port == 0 || p->dst_port == 0)
        return false;
    target = v6 ? target6(u, p) : target4(&u->config, p);
    ttl = p->frame[ETH_SIZE + (v6 ? 7 : 8)];
    if (target == TARGET_LEAVE || ttl <= 1) /* libslirp says "time exceeded" as the first router */
        return false;

    entry = (struct udp_entry){.payload = p->l4 + UDP_SIZE,
                               .size = (uint32_t)(p->l4[4] << 8 | p->l4[5]) - UDP_SIZE,
                               .gso_size = gso_size,
                               .ttl = ttl - 1};
    if (gso_size == 0 && !checksum_good(p, v6, entry.size + UDP_SIZE)) {
        counter_add(COUNTER_udp_drop_checksum, 1);
        return true;
    }
    if (gso_size > 0) { /* the length field of a super-frame is the kernel's affair */
        entry.size = p->l4_size - UDP_SIZE;
        if (entry.size <= gso_size)
            entry.gso_size = 0;
    }
    set_address(&entry.shown, family, p->dst, p->dst_port);
    set_address(&guest, family, p->src, p->src_port);
    if (!resolve(u, target, &entry.shown, now_ns, &entry.to)) {
        counter_add(COUNTER_udp_fallback_no_nameserver, 1);
        return false;
    }
    if (u->out.n_entries == UDP_BATCH_MAX)
        udp_flows_flush(u, now_ns);
    i = udp_find(u, &guest);
    if (i == UDP_NONE)
        i = udp_open(u, &guest, target == TARGET_DNS, p->dst_port == PORT_DNS, now_ns);
    if (i == UDP_NONE)
        return false;
    f = &u->flows[i];
    udp_widen(f, target == TARGET_DNS, p->dst_port == PORT_DNS);
    note_mac(f, p->frame + 6);
    note_target(u, f, target, &entry.to, n_datagrams(&entry));
    enqueue(u, i, &entry);
    return true;
}

/* ---- sending ---- */

static void report(struct udp_flows *u, const struct udp_flow *f, const struct udp_entry *entry, int error)
    RUNS_ON(role_udp_out)
{
    bool v6 = f->guest.sa.sa_family == AF_INET6;
    uint8_t frame[ICMP_ERROR_DATAGRAM_MAX];
    struct icmp_error icmp = {
        /* Destination unreachable: the network, or the host (RFC 792; RFC 4443: no route, or the address). */
        .type = v6 ? 1 : 3,
        .code = error == EHOSTUNREACH ? (v6 ? 3 : 1) : 0,
        .from = v6 ? &u->gateway6 : &u->gateway4,
        .src = &f->guest,
        .dst = &entry->shown,
        .payload = entry->payload,
        .payload_size = entry->size,
    };

    udp_mac(f, icmp.guest_mac);
    udp_frame_gateway_mac(icmp.gateway_mac, f->guest.sa.sa_family, u->config.gateway);
    u->config.send(u->config.arg, frame, icmp_error_datagram(frame, &icmp));
    counter_add_shared(COUNTER_udp_icmp, 1); /* both halves report */
}

static bool is_passing(int error)
{
    return error == EAGAIN || error == ENOBUFS || error == ENOMEM;
}

/* A failure that cannot be what an earlier datagram met. */
static void drop(struct udp_flows *u, const struct udp_flow *f, const struct udp_entry *entry, int error)
    RUNS_ON(role_udp_out)
{
    if (is_passing(error)) {
        counter_add(COUNTER_udp_drop_full, n_datagrams(entry));
        return;
    }
    counter_add(COUNTER_udp_drop_refused, n_datagrams(entry));
    if (error != ECONNREFUSED && error != EMSGSIZE)
        report(u, f, entry, error);
}

static void sent(struct udp_flow *f, uint64_t n, uint64_t bytes)
{
    udp_add(&f->n_out, n);
    udp_add(&f->out_bytes, bytes);
    counter_add(COUNTER_udp_out, n);
    counter_add(COUNTER_udp_out_bytes, bytes);
}

/* One entry by itself; what was joined by the guest's kernel is taken apart here. */
static void send_alone(struct udp_flows *u, struct udp_flow *f, const struct udp_entry *entry)
    RUNS_ON(role_udp_out)
{
    uint32_t step = entry->gso_size > 0 ? entry->gso_size : max_u32(entry->size, 1), at = 0;

    do {
        const struct udp_entry one = {.payload = entry->payload + at,
                                      .size = min_u32(step, entry->size - at),
                                      .to = entry->to,
                                      .shown = entry->shown};
        ssize_t n = -1;

        for (int i = 0; n < 0 && i < TRIES; i++) {
            counter_add(COUNTER_udp_out_calls, 1);
            n = sendto(f->fd, one.payload, one.size, MSG_DONTWAIT | MSG_NOSIGNAL, &entry->to.sa,
                       address_size(&entry->to));
            if (n < 0 && is_passing(errno))
                break;
        }
        if (n < 0)
            drop(u, f, &one, errno);
        else
            sent(f, 1, one.size);
        at += step;
    } while (at < entry->size);
}

static bool may_segment(const struct udp_flows *u, const struct udp_flow *f)
{
    return u->gso && !f->no_gso;
}

static bool joins(const struct udp_flows *u, const struct udp_flow *f, const struct udp_entry *first,
                  const struct udp_entry *last, const struct udp_entry *next)
{
    return may_segment(u, f) && first->gso_size == 0 && next->gso_size == 0 && first->size > 0 &&
           next->size > 0 && last->size == first->size && next->size <= first->size &&
           first->ttl == next->ttl && address_port(&first->to) == address_port(&next->to) &&
           udp_same_address(&first->to, &next->to);
}

static void put_segment_size(struct udp_out *o, struct msghdr *m, uint32_t index, uint32_t size)
{
    struct cmsghdr *c;
    uint16_t value = (uint16_t)size;

    m->msg_control = o->controls[index].bytes;
    m->msg_controllen = sizeof(o->controls[index].bytes);
    c = CMSG_FIRSTHDR(m);
    c->cmsg_level = IPPROTO_UDP;
    c->cmsg_type = UDP_SEGMENT;
    c->cmsg_len = CMSG_LEN(sizeof(value));
    memcpy(CMSG_DATA(c), &value, sizeof(value));
}

/* Messages of the entries from *@at on that have one TTL, as far as they may go out as they are; *@at is
 * where the next ones begin. Returns how many messages. */
static uint32_t build(struct udp_flows *u, struct udp_flow *f, uint32_t *at) RUNS_ON(role_udp_out)
{
    struct udp_out *o = &u->out;
    uint32_t n_messages = 0, n_parts = 0, i = *at;
    uint8_t ttl = o->entries[i].ttl;

    while (i != UDP_NONE && o->entries[i].ttl == ttl && (o->entries[i].gso_size == 0 || may_segment(u, f))) {
        struct udp_entry *first = &o->entries[i], *last;
        struct msghdr *m = &o->messages[n_messages].msg_hdr;
        uint32_t bytes = 0, n = 0;

        *m = (struct msghdr){
            .msg_name = &first->to, .msg_namelen = address_size(&first->to), .msg_iov = &o->parts[n_parts]};
        o->first_entry[n_messages] = n_parts;
        do {
            last = &o->entries[i];
            o->order[n_parts] = i;
            /* sendmsg(2) only reads it. */
            o->parts[n_parts++] =
                (struct iovec){.iov_base = (void *)(uintptr_t)last->payload, .iov_len = last->size};
            bytes += last->size;
            n++;
            i = last->next;
        } while (i != UDP_NONE && n < SEGMENTS_MAX && bytes + o->entries[i].size <= JOINED_BYTES_MAX &&
                 joins(u, f, first, last, &o->entries[i]));
        m->msg_iovlen = n;
        if (n > 1 || first->gso_size > 0)
            put_segment_size(o, m, n_messages, first->gso_size > 0 ? first->gso_size : first->size);
        n_messages++;
    }
    o->first_entry[n_messages] = n_parts;
    *at = i;
    return n_messages;
}

static void count_sent(struct udp_flows *u, struct udp_flow *f, uint32_t message) RUNS_ON(role_udp_out)
{
    const struct udp_out *o = &u->out;
    uint64_t n = 0, bytes = 0;

    for (uint32_t i = o->first_entry[message]; i < o->first_entry[message + 1]; i++) {
        const struct udp_entry *e = &o->entries[o->order[i]];

        n += n_datagrams(e);
        bytes += e->size;
    }
    sent(f, n, bytes);
}

static void send_messages(struct udp_flows *u, struct udp_flow *f, uint32_t n_messages) RUNS_ON(role_udp_out)
{
    struct udp_out *o = &u->out;
    int tries = 0;

    for (uint32_t at = 0; at < n_messages;) {
        int n = sendmmsg(f->fd, o->messages + at, n_messages - at, MSG_DONTWAIT | MSG_NOSIGNAL);

        counter_add(COUNTER_udp_out_calls, 1);
        for (int i = 0; i < n; i++)
            count_sent(u, f, at++);
        if (n > 0) {
            tries = 0;
            continue;
        }
        if (!is_passing(errno) && ++tries < TRIES)
            continue;
        tries = 0;
        if (o->messages[at].msg_hdr.msg_controllen > 0 &&
            (errno == EINVAL || errno == EMSGSIZE || errno == EIO)) {
            /* Segments larger than the path's MTU, or a device that cannot (EIO): udp(7). */
            f->no_gso = true;
            counter_add(COUNTER_udp_gso_off, 1);
            for (uint32_t i = o->first_entry[at]; i < o->first_entry[at + 1]; i++)
                send_alone(u, f, &o->entries[o->order[i]]);
        } else {
            int error = errno;

            for (uint32_t i = o->first_entry[at]; i < o->first_entry[at + 1]; i++)
                drop(u, f, &o->entries[o->order[i]], error);
        }
        at++;
    }
}

static void set_ttl(struct udp_flow *f, int ttl)
{
    bool v6 = f->guest.sa.sa_family == AF_INET6;

    if (f->ttl == ttl)
        return;
    f->ttl = (uint8_t)ttl;
    /* It cannot fail with a value from 1 to 255; and a datagram with another TTL is better than none. */
    (void)setsockopt(f->fd, v6 ? IPPROTO_IPV6 : IPPROTO_IP, v6 ? IPV6_UNICAST_HOPS : IP_TTL, &ttl,
                     sizeof(ttl));
}

void udp_flows_flush(struct udp_flows *u, int64_t now_ns)
{
    struct udp_out *o = &u->out;

    while (o->touched != UDP_NONE) {
        struct udp_flow *f = &u->flows[o->touched];
        uint32_t at = f->first;

        o->touched = f->next_touched;
        while (at != UDP_NONE) {
            const struct udp_entry *entry = &o->entries[at];

            set_ttl(f, entry->ttl);
            /* The usual case of question and answer; or what the kernel cannot take apart. */
            if (entry->gso_size > 0 ? !may_segment(u, f) : entry->next == UDP_NONE) {
                send_alone(u, f, entry);
                at = entry->next;
            } else {
                send_messages(u, f, build(u, f, &at));
            }
        }
        f->shown = o->entries[f->last].shown;
        f->first = f->last = UDP_NONE;
        atomic_store_explicit(&f->out_ns, now_ns, memory_order_relaxed);
    }
    o->n_entries = 0;
}
