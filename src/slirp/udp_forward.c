/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * udp_forward.c
 *
 * A client entry joins (guest address and port, shown address and port), which is what the guest's answers
 * carry, with (forward, client's real address and port), which is what datagrams from outside carry: it hangs
 * in two hash tables and in one list ordered by last use.
 *
 * Towards the guest a datagram becomes one frame or fragments (io/udp_frame.h). From the guest come whole
 * datagrams only: io/reassembly.h is in front.
 *
 * The guest's MAC address: learned from ARP and neighbour discovery of the guest address; as long as nothing
 * has been learned, the TAP's own address (SIOCGIFHWADDR works on a tun descriptor), because whatever lies
 * behind the TAP is reached through it.
 */
#include "slirp/udp_forward.h"

#include "base/bits.h"
#include "base/clock.h"
#include "base/counters.h"
#include "io/udp_frame.h"
#include "slirp/events.h"

#include <errno.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    ETH_SIZE = 14,
    UDP_SIZE = 8,
    DATAGRAM_MAX = 65535,
    BUCKETS = 1024,
    RECEIVE_MAX = 64, /* datagrams per call of udp_forwards_readable() */
    SHOWN_PORT_TRIES = 64,
    NEIGHBOURS_MAX = 16,
    EXPIRE_STEP_S = 10,
    SOCKET_BUFFER = 1 << 20,
};

struct client {
    struct client *next_by_guest, *next_by_real; /* hash chains */
    struct client *older, *newer;                /* list by last use */
    struct udp_forward *forward;
    union address real, shown;
    int64_t used_ns, started_ns;
    uint64_t bytes_to_guest, bytes_to_host;
};

struct udp_forward {
    int fd; /* -1: slot free, or removed */
    uint32_t index;
    int family; /* of the socket */
    union address guest;
    _Atomic uint64_t n_clients, bytes_to_guest,
        bytes_to_host; /* written by the slirp role, read by anyone, relaxed */
};

struct neighbour {
    union address addr; /* port 0 */
    uint8_t mac[6];
};

struct udp_forwards {
    struct udp_forwards_config config;
    struct udp_forward **forwards; /* by index; a removed one leaves NULL */
    uint32_t n_forwards;
    _Atomic uint32_t ports[65536 / 32]; /* a bit each; written by the slirp role, relaxed: a hint */
    uint32_t n_clients;
    struct client *by_guest[BUCKETS], *by_real[BUCKETS];
    struct client *oldest, *newest;
    struct neighbour neighbours[NEIGHBOURS_MAX];
    uint32_t next_neighbour;
    uint32_t ip_id;
    uint8_t datagram[UDP_FRAME_HEADROOM + DATAGRAM_MAX];
};

/* ---- tables ---- */

static uint32_t hash_bytes(uint32_t h, const void *data, uint32_t size)
{
    const uint8_t *p = data;

    for (uint32_t i = 0; i < size; i++)
        h = (h ^ p[i]) * 16777619u; /* FNV-1a; a client that finds collisions only slows its own forward */
    return h;
}

static uint32_t hash_address(uint32_t h, const union address *a)
{
    if (a->sa.sa_family == AF_INET6)
        h = hash_bytes(h, &a->in6.sin6_addr, 16);
    else
        h = hash_bytes(h, &a->in.sin_addr, 4);
    uint16_t port = address_port(a);
    return hash_bytes(h, &port, 2);
}

static bool address_equal(const union address *a, const union address *b)
{
    if (a->sa.sa_family != b->sa.sa_family || address_port(a) != address_port(b))
        return false;
    return a->sa.sa_family == AF_INET6 ? memcmp(&a->in6.sin6_addr, &b->in6.sin6_addr, 16) == 0
                                       : a->in.sin_addr.s_addr == b->in.sin_addr.s_addr;
}

static bool address_equal_host(const union address *a, const union address *b)
{
    union address c = *b;

    address_set_port(&c, address_port(a));
    return address_equal(a, &c);
}

static struct client **bucket_by_guest(struct udp_forwards *u, const union address *guest,
                                       const union address *shown)
{
    return &u->by_guest[hash_address(hash_address(2166136261u, guest), shown) % BUCKETS];
}

static struct client **bucket_by_real(struct udp_forwards *u, const struct udp_forward *f,
                                      const union address *real)
{
    return &u->by_real[hash_address(2166136261u ^ f->index, real) % BUCKETS];
}

static struct client *find_by_guest(struct udp_forwards *u, const union address *guest,
                                    const union address *shown)
{
    struct client *c = *bucket_by_guest(u, guest, shown);

    while (c && !(address_equal(&c->forward->guest, guest) && address_equal(&c->shown, shown)))
        c = c->next_by_guest;
    return c;
}

static struct client *find_by_real(struct udp_forwards *u, const struct udp_forward *f,
                                   const union address *real)
{
    struct client *c = *bucket_by_real(u, f, real);

    while (c && !(c->forward == f && address_equal(&c->real, real)))
        c = c->next_by_real;
    return c;
}

static void list_remove(struct udp_forwards *u, struct client *c)
{
    *(c->older ? &c->older->newer : &u->oldest) = c->newer;
    *(c->newer ? &c->newer->older : &u->newest) = c->older;
}

static void list_append(struct udp_forwards *u, struct client *c)
{
    c->older = u->newest;
    c->newer = NULL;
    *(u->newest ? &u->newest->newer : &u->oldest) = c;
    u->newest = c;
}

static void client_use(struct udp_forwards *u, struct client *c)
{
    c->used_ns = clock_monotonic_ns();
    if (u->newest != c) {
        list_remove(u, c);
        list_append(u, c);
    }
}

static void add_relaxed(_Atomic uint64_t *v, uint64_t n)
{
    atomic_store_explicit(v, atomic_load_explicit(v, memory_order_relaxed) + n, memory_order_relaxed);
}

static void client_free(struct udp_forwards *u, struct client *c)
{
    struct client **p;

    for (p = bucket_by_guest(u, &c->forward->guest, &c->shown); *p != c; p = &(*p)->next_by_guest)
        ;
    *p = c->next_by_guest;
    for (p = bucket_by_real(u, c->forward, &c->real); *p != c; p = &(*p)->next_by_real)
        ;
    *p = c->next_by_real;
    list_remove(u, c);
    add_relaxed(&c->forward->n_clients, -1ULL);
    counter_set(COUNTER_udp_forward_clients, --u->n_clients);
    free(c);
}

/* What the guest is to see of @real; the port may change if somebody else is seen there already. */
static bool choose_shown(struct udp_forwards *u, const struct udp_forward *f, const union address *real,
                         union address *ret)
{
    union address shown = *real;
    uint16_t port = address_port(real);

    if (address_is_self(real) || real->sa.sa_family != f->guest.sa.sa_family ||
        address_is_on_link(real, u->config.network, u->config.netmask)) {
        memset(&shown, 0, sizeof(shown));
        shown.sa.sa_family = f->guest.sa.sa_family;
        if (shown.sa.sa_family == AF_INET)
            shown.in.sin_addr = u->config.gateway;
        else
            shown.in6.sin6_addr = u->config.gateway6;
    }
    for (int i = 0; i < SHOWN_PORT_TRIES; i++, port = port == 65535 ? 1024 : port + 1) {
        address_set_port(&shown, port);
        if (!find_by_guest(u, &f->guest, &shown)) {
            *ret = shown;
            return true;
        }
    }
    return false;
}

static struct client *client_new(struct udp_forwards *u, struct udp_forward *f, const union address *real)
{
    struct client *c, **bucket;
    union address shown;

    if (u->n_clients >= UDP_FORWARD_CLIENTS_MAX)
        client_free(u, u->oldest);
    if (!choose_shown(u, f, real, &shown) || !(c = calloc(1, sizeof(*c))))
        return NULL;
    c->forward = f;
    c->real = *real;
    c->shown = shown;
    c->used_ns = c->started_ns = clock_monotonic_ns();
    bucket = bucket_by_guest(u, &f->guest, &shown);
    c->next_by_guest = *bucket;
    *bucket = c;
    bucket = bucket_by_real(u, f, real);
    c->next_by_real = *bucket;
    *bucket = c;
    list_append(u, c);
    add_relaxed(&f->n_clients, 1);
    counter_set(COUNTER_udp_forward_clients, ++u->n_clients);
    return c;
}

/* ---- towards the guest ---- */

static bool guest_mac(struct udp_forwards *u, const union address *guest, uint8_t ret[6])
{
    struct ifreq ifr = {0};

    for (unsigned i = 0; i < NEIGHBOURS_MAX; i++) {
        if (u->neighbours[i].addr.sa.sa_family && address_equal_host(guest, &u->neighbours[i].addr)) {
            memcpy(ret, u->neighbours[i].mac, 6);
            return true;
        }
    }
    if (u->config.tap_fd < 0 || ioctl(u->config.tap_fd, SIOCGIFHWADDR, &ifr) < 0)
        return false;
    memcpy(ret, ifr.ifr_hwaddr.sa_data, 6);
    return true;
}

/* The datagram's payload lies at u->datagram + UDP_FRAME_HEADROOM. */
static void to_guest(struct udp_forwards *u, struct udp_forward *f, const union address *real, uint32_t size)
{
    struct client *c = find_by_real(u, f, real);
    struct udp_frame frame = {.dst = &f->guest,
                              .gateway = u->config.gateway,
                              .mtu = u->config.mtu,
                              .id = &u->ip_id,
                              .send = u->config.send,
                              .arg = u->config.arg};

    if (!c)
        c = client_new(u, f, real);
    if (!c || !guest_mac(u, &f->guest, frame.guest_mac)) {
        counter_add(COUNTER_udp_forward_drop, 1);
        return;
    }
    client_use(u, c);
    frame.src = &c->shown;
    if (!udp_frame_send(&frame, u->datagram + UDP_FRAME_HEADROOM, size)) {
        counter_add(COUNTER_udp_forward_drop, 1);
        return;
    }
    add_relaxed(&f->bytes_to_guest, size);
    c->bytes_to_guest += size;
    counter_add(COUNTER_udp_forward_in, 1);
}

void udp_forwards_readable(struct udp_forwards *u, uint32_t index)
{
    struct udp_forward *f = index < u->n_forwards ? u->forwards[index] : NULL;

    if (!f)
        return;
    for (int i = 0; i < RECEIVE_MAX; i++) {
        union address from;
        socklen_t from_size = sizeof(from);
        ssize_t size;

        memset(&from, 0, sizeof(from));
        size = recvfrom(f->fd, u->datagram + UDP_FRAME_HEADROOM, DATAGRAM_MAX, MSG_DONTWAIT, &from.sa,
                        &from_size);
        if (size < 0) {
            if (errno == EAGAIN)
                return;
            continue; /* an ICMP error that came back for an earlier answer, or EINTR: it has been taken, go
                         on */
        }
        address_unmap(&from);
        to_guest(u, f, &from, size);
    }
}

/* ---- from the guest ---- */

static void learn(struct udp_forwards *u, int family, const uint8_t *addr, const uint8_t mac[6])
{
    struct neighbour n = {.addr.sa.sa_family = family};
    struct neighbour *slot = NULL;
    bool wanted = false;

    if (family == AF_INET6)
        memcpy(&n.addr.in6.sin6_addr, addr, 16);
    else
        memcpy(&n.addr.in.sin_addr, addr, 4);
    memcpy(n.mac, mac, 6);
    for (uint32_t i = 0; i < u->n_forwards && !wanted; i++)
        wanted = u->forwards[i] && address_equal_host(&u->forwards[i]->guest, &n.addr);
    if (!wanted || (mac[0] & 1))
        return;
    for (unsigned i = 0; i < NEIGHBOURS_MAX && !slot; i++) {
        if (u->neighbours[i].addr.sa.sa_family && address_equal_host(&n.addr, &u->neighbours[i].addr))
            slot = &u->neighbours[i];
    }
    if (!slot)
        slot = &u->neighbours[u->next_neighbour++ % NEIGHBOURS_MAX];
    *slot = n;
}

/* Sends the guest's answer to the client behind (@guest, @shown). False: there is none. */
static bool to_client(struct udp_forwards *u, const union address *guest, const union address *shown,
                      const uint8_t *payload, uint32_t size)
{
    struct client *c = find_by_guest(u, guest, shown);
    union address to;
    socklen_t to_size;

    if (!c)
        return false;
    client_use(u, c);
    to = c->real;
    to_size = address_size(&to);
    if (to.sa.sa_family == AF_INET && c->forward->family == AF_INET6) { /* dual stack: IPv4-mapped */
        struct sockaddr_in6 in6 = {.sin6_family = AF_INET6, .sin6_port = to.in.sin_port};

        in6.sin6_addr.s6_addr[10] = in6.sin6_addr.s6_addr[11] = 0xff;
        memcpy(in6.sin6_addr.s6_addr + 12, &to.in.sin_addr, 4);
        to.in6 = in6;
        to_size = sizeof(in6);
    }
    if (sendto(c->forward->fd, payload, size, MSG_DONTWAIT | MSG_NOSIGNAL, &to.sa, to_size) < 0) {
        counter_add(COUNTER_udp_forward_drop, 1);
        return true;
    }
    add_relaxed(&c->forward->bytes_to_host, size);
    c->bytes_to_host += size;
    counter_add(COUNTER_udp_forward_out, 1);
    return true;
}

static void address_from_packet(union address *ret, int family, const uint8_t *addr, uint16_t port)
{
    memset(ret, 0, sizeof(*ret));
    ret->sa.sa_family = family;
    if (family == AF_INET6)
        memcpy(&ret->in6.sin6_addr, addr, 16);
    else
        memcpy(&ret->in.sin_addr, addr, 4);
    address_set_port(ret, port);
}

static bool datagram_from_guest(struct udp_forwards *u, int family, const uint8_t *src, const uint8_t *dst,
                                const uint8_t *udp, uint32_t size)
{
    union address guest, shown;
    uint32_t udp_size;

    if (size < UDP_SIZE)
        return false;
    udp_size = get_u16(udp + 4);
    if (udp_size < UDP_SIZE || udp_size > size)
        return false;
    address_from_packet(&guest, family, src, get_u16(udp));
    address_from_packet(&shown, family, dst, get_u16(udp + 2));
    return to_client(u, &guest, &shown, udp + UDP_SIZE, udp_size - UDP_SIZE);
}

static bool take_ipv4(struct udp_forwards *u, const struct packet *p)
{
    return p->ip_protocol == IPPROTO_UDP && p->l4 &&
           datagram_from_guest(u, AF_INET, p->src, p->dst, p->l4, p->l4_size);
}

static bool take_ipv6(struct udp_forwards *u, const struct packet *p)
{
    if (p->ip_protocol == IPPROTO_ICMPV6 && p->l4 && p->l4_size > 0 && (p->l4[0] == 135 || p->l4[0] == 136))
        learn(u, AF_INET6, p->l4[0] == 136 && p->l4_size >= 24 ? p->l4 + 8 : p->src, p->frame + 6);
    return p->ip_protocol == IPPROTO_UDP && p->l4 &&
           datagram_from_guest(u, AF_INET6, p->src, p->dst, p->l4, p->l4_size);
}

bool udp_forwards_active(const struct udp_forwards *u)
{
    return u->n_forwards > 0;
}

bool udp_forwards_take(struct udp_forwards *u, enum packet_kind kind, const struct packet *p)
{
    switch (kind) {
    case PACKET_ARP: /* RFC 826: sender hardware address at 8, sender protocol address at 14 */
        learn(u, AF_INET, p->frame + ETH_SIZE + 14, p->frame + ETH_SIZE + 8);
        return false; /* libslirp answers */
    case PACKET_IPV4:
        return take_ipv4(u, p);
    case PACKET_IPV6:
        return take_ipv6(u, p);
    default:
        return false;
    }
}

/* ---- forwards ---- */

bool udp_forwards_port(const struct udp_forwards *u, uint16_t guest_port)
{
    return atomic_load_explicit(&u->ports[guest_port / 32], memory_order_relaxed) >> guest_port % 32 & 1;
}

static void note_port(struct udp_forwards *u, uint16_t port)
{
    bool used = false;

    for (uint32_t i = 0; i < u->n_forwards && !used; i++)
        used = u->forwards[i] && address_port(&u->forwards[i]->guest) == port;
    if (used)
        atomic_fetch_or_explicit(&u->ports[port / 32], 1u << port % 32, memory_order_relaxed);
    else
        atomic_fetch_and_explicit(&u->ports[port / 32], ~(1u << port % 32), memory_order_relaxed);
}

int udp_forward_add(struct udp_forwards *u, const union address *host, bool v6_only,
                    const union address *guest, struct udp_forward **ret, struct failure *why)
{
    static const int buffer = SOCKET_BUFFER;
    int v6only = v6_only, family = host->sa.sa_family, r;
    struct epoll_event event = {.events = EPOLLIN};
    struct udp_forward *f = calloc(1, sizeof(*f)), **table = NULL;
    uint32_t index = 0;

    while (index < u->n_forwards && u->forwards[index])
        index++;
    if (index == u->n_forwards)
        table = realloc(u->forwards, (u->n_forwards + 1) * sizeof(struct udp_forward *));
    if (table)
        u->forwards = table;
    if (!f || (index == u->n_forwards && !table)) {
        free(f);
        return failure(why, -ENOMEM, NULL, "cannot allocate a UDP forward");
    }
    f->index = index;
    f->guest = *guest;
    f->family = family;
    f->fd = socket(family, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (f->fd < 0)
        goto fail;
    /* Larger buffers are a wish: the kernel grants what net.core.rmem_max and wmem_max allow. */
    (void)setsockopt(f->fd, SOL_SOCKET, SO_RCVBUF, &buffer, sizeof(buffer));
    (void)setsockopt(f->fd, SOL_SOCKET, SO_SNDBUF, &buffer, sizeof(buffer));
    if (family == AF_INET6 && setsockopt(f->fd, IPPROTO_IPV6, IPV6_V6ONLY, &v6only, sizeof(v6only)) < 0)
        goto fail;
    event.data.u64 = events_tag(EVENT_UDP, index);
    if (bind(f->fd, &host->sa, address_size(host)) < 0 ||
        epoll_ctl(u->config.epoll_fd, EPOLL_CTL_ADD, f->fd, &event) < 0)
        goto fail;
    if (index == u->n_forwards)
        u->n_forwards++;
    u->forwards[index] = f;
    note_port(u, address_port(guest));
    *ret = f;
    return 0;
fail:
    r = failure(why, -errno, errno == EADDRINUSE ? "another program or forward has it" : NULL,
                "cannot open UDP port %u on the host", address_port(host));
    if (f->fd >= 0)
        close(f->fd);
    free(f);
    return r;
}

void udp_forward_remove(struct udp_forwards *u, struct udp_forward *f)
{
    struct client *c, *newer;

    for (c = u->oldest; c; c = newer) {
        newer = c->newer;
        if (c->forward == f)
            client_free(u, c);
    }
    close(f->fd);
    u->forwards[f->index] = NULL;
    while (u->n_forwards > 0 && !u->forwards[u->n_forwards - 1])
        u->n_forwards--;
    note_port(u, address_port(&f->guest));
    free(f);
}

void udp_forward_read_stats(const struct udp_forward *f, uint64_t *n_clients, uint64_t *to_guest,
                            uint64_t *to_host)
{
    *n_clients = atomic_load_explicit(&f->n_clients, memory_order_relaxed);
    *to_guest = atomic_load_explicit(&f->bytes_to_guest, memory_order_relaxed);
    *to_host = atomic_load_explicit(&f->bytes_to_host, memory_order_relaxed);
}

int udp_forwards_list(struct udp_forwards *u, uint64_t from, struct flow_info *rows, uint32_t max,
                      uint64_t *ret_next)
{
    int64_t now_ns = clock_monotonic_ns();
    uint64_t position = 0;
    uint32_t n = 0;

    *ret_next = 0;
    for (const struct client *c = u->oldest; c; c = c->newer, position++) {
        if (position < from)
            continue;
        if (n == max) {
            *ret_next = position;
            break;
        }
        rows[n++] = (struct flow_info){
            .tier = "udp-forward",
            .inbound = true,
            .state = "open",
            .proto = IPPROTO_UDP,
            .guest = c->forward->guest,
            .remote = c->shown,
            .to_guest = c->bytes_to_guest,
            .to_host = c->bytes_to_host,
            .age_ns = now_ns - c->started_ns,
        };
    }
    return (int)n;
}

int64_t udp_forwards_expire(struct udp_forwards *u, int64_t now_ns)
{
    while (u->oldest && u->oldest->used_ns + UDP_FORWARD_IDLE_S * NS_PER_S <= now_ns)
        client_free(u, u->oldest);
    return u->oldest ? u->oldest->used_ns + (UDP_FORWARD_IDLE_S + EXPIRE_STEP_S) * NS_PER_S : INT64_MAX;
}

int udp_forwards_new(struct udp_forwards **ret, const struct udp_forwards_config *config)
{
    struct udp_forwards *u = calloc(1, sizeof(*u));

    if (!u)
        return -ENOMEM;
    u->config = *config;
    *ret = u;
    return 0;
}

struct udp_forwards *udp_forwards_free(struct udp_forwards *u)
{
    if (!u)
        return NULL;
    while (u->oldest)
        client_free(u, u->oldest);
    for (uint32_t i = 0; i < u->n_forwards; i++) {
        if (u->forwards[i]) {
            close(u->forwards[i]->fd);
            free(u->forwards[i]);
        }
    }
    free(u->forwards);
    free(u);
    return NULL;
}
