/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * udp_table.c - flows by guest address and port, their sockets and their end
 *
 * A place goes FREE -> LIVE (udp_open) -> RETIRED (retire: out of the hash, the list and the epoll set) ->
 * FREE (udp_flows_turn closes the socket, the place comes back through the ring).
 *
 * Sending or receiving touches no list. Each flow hangs in one of three lists that are looked through from
 * their heads every 0.2, 5 and 30 seconds; whoever has been used since is moved to the tail of the list that
 * fits. So a flow may live that much longer than its limit, and a datagram costs a store.
 *
 * When the table is full, the one among the EVICT_LOOKS oldest entries of the lists' heads that has been idle
 * longest makes room; a head that was used meanwhile goes to its tail first.
 */
#include "base/bits.h"
#include "base/clock.h"
#include "base/counters.h"
#include "io/udp_private.h"

#include <errno.h>
#include <netinet/udp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif

enum {
    EVICT_LOOKS = 8,
    EXPIRE_LOOKS = 256, /* per list and call */
    REFUSED_MS = 100,
    MAKE_ROOM = 4, /* flows that go when descriptors run out, or when too many answered ones linger */
    TTL_DEFAULT = 64,
};

static const int64_t look_ns[UDP_LISTS] = {
    [UDP_LIST_FAST] = UDP_LINGER_DNS_MS * NS_PER_MS,
    [UDP_LIST_MEDIUM] = 5 * NS_PER_S,
    [UDP_LIST_SLOW] = 30 * NS_PER_S,
};

/* ---- hash: keyed, so that a guest cannot choose what collides ---- */

static uint64_t mix(uint64_t h, uint64_t v)
{
    h = (h ^ v) * UINT64_C(0x9e3779b97f4a7c15);
    return h ^ h >> 32;
}

static uint32_t *bucket(struct udp_flows *u, const union address *a) RUNS_ON(role_udp_out)
{
    uint64_t h = mix(u->secret[0], address_port(a)), words[2];

    if (a->sa.sa_family == AF_INET6) {
        memcpy(words, &a->in6.sin6_addr, sizeof(words));
        h = mix(mix(h, words[0]), words[1]);
    } else {
        h = mix(h, a->in.sin_addr.s_addr);
    }
    return &u->out.buckets[mix(h, u->secret[1]) % UDP_BUCKETS];
}

uint32_t udp_find(struct udp_flows *u, const union address *guest)
{
    uint32_t i = *bucket(u, guest);

    while (i != UDP_NONE && (address_port(&u->flows[i].guest) != address_port(guest) ||
                             !udp_same_address(&u->flows[i].guest, guest)))
        i = u->flows[i].next_hash;
    return i;
}

/* ---- lists ---- */

static void list_remove(struct udp_flows *u, uint32_t i) RUNS_ON(role_udp_out)
{
    struct udp_flow *f = &u->flows[i];

    *(f->older == UDP_NONE ? &u->out.lists[f->list].oldest : &u->flows[f->older].newer) = f->newer;
    *(f->newer == UDP_NONE ? &u->out.lists[f->list].newest : &u->flows[f->newer].older) = f->older;
    u->out.lists[f->list].n--;
}

static void list_append(struct udp_flows *u, uint32_t i, enum udp_list list, int64_t now_ns)
    RUNS_ON(role_udp_out)
{
    struct udp_flow *f = &u->flows[i];

    f->list = list;
    f->listed_ns = now_ns;
    f->older = u->out.lists[list].newest;
    f->newer = UDP_NONE;
    *(f->older == UDP_NONE ? &u->out.lists[list].oldest : &u->flows[f->older].newer) = i;
    u->out.lists[list].newest = i;
    u->out.lists[list].n++;
}

static int64_t used_ns(const struct udp_flow *f)
{
    int64_t out_ns = atomic_load_explicit(&f->out_ns, memory_order_relaxed);
    int64_t in_ns = atomic_load_explicit(&f->in_ns, memory_order_relaxed);

    return out_ns > in_ns ? out_ns : in_ns;
}

static bool is_answered(const struct udp_flow *f)
{
    return f->dns_only && atomic_load_explicit(&f->n_answers, memory_order_relaxed) >=
                              atomic_load_explicit(&f->n_questions, memory_order_relaxed);
}

/* How long the flow may be idle, as things are. */
static int64_t limit_ns(const struct udp_flow *f)
{
    if (f->dns_only)
        return is_answered(f) ? UDP_LINGER_DNS_MS * NS_PER_MS : UDP_IDLE_DNS_S * NS_PER_S;
    if (atomic_load_explicit(&f->port53_last, memory_order_relaxed) && f->port53_only &&
        atomic_load_explicit(&f->in_ns, memory_order_relaxed) >=
            atomic_load_explicit(&f->out_ns, memory_order_relaxed))
        return UDP_IDLE_ANSWERED_S * NS_PER_S;
    return UDP_IDLE_S * NS_PER_S;
}

static enum udp_list later_list(const struct udp_flow *f)
{
    return f->port53_only ? UDP_LIST_MEDIUM : UDP_LIST_SLOW;
}

/* ---- the end of a flow ---- */

static void retire(struct udp_flows *u, uint32_t i) RUNS_ON(role_udp_out)
{
    struct udp_flow *f = &u->flows[i];
    uint32_t *at = bucket(u, &f->guest);

    while (*at != i)
        at = &u->flows[*at].next_hash;
    *at = f->next_hash;
    list_remove(u, i);
    u->out.n_live--;
    counter_set(COUNTER_udp_flows, u->out.n_live);
    /* The socket lives until role_udp_in closes it; nothing is asked of it any more. */
    (void)epoll_ctl(u->config.epoll_fd, EPOLL_CTL_DEL, f->fd, NULL);
    atomic_store_explicit(&f->state, UDP_RETIRED, memory_order_release);
    (void)spsc_push(&u->retired, &i, 1); /* always fits: the ring takes all places */
    if (u->config.retired)
        u->config.retired(u->config.arg);
}

void udp_flows_turn(struct udp_flows *u)
{
    frame_id ids[UDP_BATCH_MAX];
    uint32_t n;

    while ((n = spsc_pop(&u->retired, ids, UDP_BATCH_MAX)) > 0) {
        for (uint32_t i = 0; i < n; i++) {
            struct udp_flow *f = &u->flows[ids[i]];

            close(f->fd);
            f->fd = -1;
            atomic_store_explicit(&f->state, UDP_FREE, memory_order_release);
        }
        (void)spsc_push(&u->freed, ids, n);
    }
}

/* One look at the head of a list: gone if its time is over, else at the tail of the next list. */
static void look(struct udp_flows *u, uint32_t i, int64_t now_ns) RUNS_ON(role_udp_out)
{
    struct udp_flow *f = &u->flows[i];

    if (used_ns(f) + limit_ns(f) <= now_ns && f->first == UDP_NONE) {
        retire(u, i);
        counter_add(COUNTER_udp_expired, 1);
        return;
    }
    list_remove(u, i);
    list_append(u, i, later_list(f), now_ns);
}

void udp_flows_expire(struct udp_flows *u, int64_t now_ns)
{
    for (int list = 0; list < UDP_LISTS; list++) {
        for (int n = 0; n < EXPIRE_LOOKS; n++) {
            uint32_t i = u->out.lists[list].oldest;

            if (i == UDP_NONE || u->flows[i].listed_ns + look_ns[list] > now_ns)
                break;
            look(u, i, now_ns);
        }
    }
}

int64_t udp_flows_next_ns(const struct udp_flows *u)
{
    int64_t next_ns = INT64_MAX;

    for (int list = 0; list < UDP_LISTS; list++) {
        uint32_t i = u->out.lists[list].oldest;

        if (i != UDP_NONE && u->flows[i].listed_ns + look_ns[list] < next_ns)
            next_ns = u->flows[i].listed_ns + look_ns[list];
    }
    return next_ns;
}

/* ---- room for another one ---- */

/* The longest idle one near the heads of the lists; UDP_NONE: none that has been idle for @idle_ns. */
static uint32_t victim(struct udp_flows *u, int64_t idle_ns, int64_t now_ns) RUNS_ON(role_udp_out)
{
    uint32_t best = UDP_NONE;

    for (int list = 0; list < UDP_LISTS; list++) {
        for (int n = 0; n < EVICT_LOOKS; n++) {
            uint32_t i = u->out.lists[list].oldest;

            if (i == UDP_NONE || used_ns(&u->flows[i]) <= u->flows[i].listed_ns)
                break;
            list_remove(u, i);
            list_append(u, i, list, now_ns);
        }
        for (uint32_t i = u->out.lists[list].oldest, n = 0; i != UDP_NONE && n < EVICT_LOOKS;
             i = u->flows[i].newer, n++) {
            if (u->flows[i].first != UDP_NONE)
                continue; /* has something to send */
            if (is_answered(&u->flows[i]))
                return i;
            if (best == UDP_NONE || used_ns(&u->flows[i]) < used_ns(&u->flows[best]))
                best = i;
        }
    }
    return best != UDP_NONE && used_ns(&u->flows[best]) + idle_ns <= now_ns ? best : UDP_NONE;
}

static bool evict(struct udp_flows *u, int64_t idle_ns, int64_t now_ns) RUNS_ON(role_udp_out)
{
    uint32_t i = victim(u, idle_ns, now_ns);

    if (i == UDP_NONE)
        return false;
    counter_add(COUNTER_udp_evicted, 1);
    retire(u, i);
    return true;
}

/* Answered flows linger for those who ask again from the same port; many at once are many ports. */
static void end_answered(struct udp_flows *u) RUNS_ON(role_udp_out)
{
    uint32_t i = u->out.lists[UDP_LIST_FAST].oldest;

    for (int n = 0; n < MAKE_ROOM && i != UDP_NONE; n++) {
        uint32_t newer = u->flows[i].newer;

        if (is_answered(&u->flows[i]) && u->flows[i].first == UDP_NONE) {
            retire(u, i);
            counter_add(COUNTER_udp_expired, 1);
        }
        i = newer;
    }
}

static uint32_t take_place(struct udp_flows *u) RUNS_ON(role_udp_out)
{
    if (u->out.n_free == 0)
        u->out.n_free = spsc_pop(&u->freed, u->out.free, UDP_SLOTS);
    return u->out.n_free > 0 ? u->out.free[--u->out.n_free] : UDP_NONE;
}

/* ---- sockets ---- */

static int make_socket(const struct udp_flows *u, int family)
{
    static const int on = 1;
    int fd = socket(family, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), r = 0;

    if (fd < 0)
        return -errno;
    if (family == AF_INET6) {
        /* Else IPv4 peers could answer on the same port, and 127.0.0.1 would be ::ffff:127.0.0.1. */
        r = setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on));
        if (r == 0)
            r = setsockopt(fd, IPPROTO_IPV6, IPV6_RECVERR, &on, sizeof(on));
        if (r == 0 && u->config.has_outbound6)
            r = bind(fd, (const struct sockaddr *)&u->config.outbound6, sizeof(u->config.outbound6));
    } else {
        r = setsockopt(fd, IPPROTO_IP, IP_RECVERR, &on, sizeof(on));
        if (r == 0 && u->config.has_outbound)
            r = bind(fd, (const struct sockaddr *)&u->config.outbound, sizeof(u->config.outbound));
    }
    if (r < 0) {
        r = -errno;
        close(fd);
        return r;
    }
    return fd;
}

/* A place, and the right to another descriptor. */
static uint32_t make_room(struct udp_flows *u, bool dns, int64_t now_ns) RUNS_ON(role_udp_out)
{
    if (dns && u->out.lists[UDP_LIST_FAST].n >= UDP_LINGER_DNS_MAX)
        end_answered(u);
    if (u->out.n_live >= u->config.n_flows_max && !evict(u, 0, now_ns))
        return UDP_NONE; /* all of them have something to send at this moment */
    return take_place(u);
}

/* Place @i is not needed; without descriptors others go, and nothing is tried for a moment. */
static void no_socket(struct udp_flows *u, uint32_t i, int error, int64_t now_ns) RUNS_ON(role_udp_out)
{
    bool exhausted = error == -EMFILE || error == -ENFILE || error == -ENOMEM || error == -ENOBUFS;

    u->out.free[u->out.n_free++] = i;
    for (int n = 0; exhausted && n < MAKE_ROOM; n++)
        (void)evict(u, UDP_EVICT_IDLE_S * NS_PER_S, now_ns);
    if (exhausted)
        u->out.refused_ns = now_ns;
    counter_add(exhausted ? COUNTER_udp_fallback_descriptors : COUNTER_udp_fallback_bind, 1);
}

uint32_t udp_open(struct udp_flows *u, const union address *guest, bool dns, bool port53, int64_t now_ns)
{
    struct epoll_event event = {.events = EPOLLIN};
    uint32_t i, *at;
    struct udp_flow *f;
    int fd;

    if (now_ns < u->out.refused_ns + REFUSED_MS * NS_PER_MS) {
        counter_add(COUNTER_udp_fallback_descriptors, 1);
        return UDP_NONE;
    }
    i = make_room(u, dns, now_ns);
    if (i == UDP_NONE) {
        counter_add(COUNTER_udp_fallback_table_full, 1);
        return UDP_NONE;
    }
    fd = make_socket(u, guest->sa.sa_family);
    if (fd < 0) {
        no_socket(u, i, fd, now_ns);
        return UDP_NONE;
    }
    f = &u->flows[i];
    *f = (struct udp_flow){.fd = fd,
                           .guest = *guest,
                           .started_ns = now_ns,
                           .dns_only = dns,
                           .port53_only = dns || port53,
                           .ttl = TTL_DEFAULT,
                           .first = UDP_NONE,
                           .last = UDP_NONE};
    atomic_store_explicit(&f->out_ns, now_ns, memory_order_relaxed);
    /* Pairs with the acquire of udp_flows_ready(), which may come as soon as the socket is in the set. */
    atomic_store_explicit(&f->state, UDP_LIVE, memory_order_release);
    event.data.u64 = u->config.tag | i;
    if (epoll_ctl(u->config.epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0) {
        atomic_store_explicit(&f->state, UDP_FREE, memory_order_relaxed);
        close(fd);
        no_socket(u, i, -ENOMEM, now_ns); /* or too many watches: nothing that passes at once */
        return UDP_NONE;
    }
    at = bucket(u, guest);
    f->next_hash = *at;
    *at = i;
    list_append(u, i, dns ? UDP_LIST_FAST : later_list(f), now_ns);
    counter_set(COUNTER_udp_flows, ++u->out.n_live);
    counter_add(COUNTER_udp_opened, 1);
    return i;
}

void udp_widen(struct udp_flow *f, bool dns, bool port53)
{
    f->dns_only = f->dns_only && dns;
    f->port53_only = f->port53_only && (dns || port53);
}

/* ---- life cycle: main ---- */

/* A system call filter of whoever started us may not know the calls for batches (guix-daemon has such a
 * one). */
static int probe(struct udp_flows *u, struct failure *why)
{
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), value, r;
    socklen_t size = sizeof(value);

    if (fd < 0)
        return failure(why, -errno, "use --udp=slirp", "cannot make a UDP socket");
    r = sendmmsg(fd, NULL, 0, 0) < 0 || recvmmsg(fd, NULL, 0, 0, NULL) < 0 ? -errno : 0;
    u->gso = getsockopt(fd, IPPROTO_UDP, UDP_SEGMENT, &value, &size) == 0; /* Linux 4.18 */
    size = sizeof(value);
    u->gro = getsockopt(fd, IPPROTO_UDP, UDP_GRO, &value, &size) == 0; /* Linux 5.0 */
    close(fd);
    return r < 0 ? failure(why, r, "use --udp=slirp", "cannot send and receive datagrams in batches") : 0;
}

TSA(no_thread_safety_analysis) /* before threads start */
int udp_flows_new(struct udp_flows **ret, const struct udp_flows_config *config, struct failure *why)
{
    struct udp_flows *u = calloc(1, sizeof(*u));
    int r;

    if (!u)
        return failure(why, -ENOMEM, "use --udp=slirp", "cannot allocate the table of UDP flows");
    u->config = *config;
    u->config.n_flows_max = max_u32(min_u32(config->n_flows_max, UDP_FLOWS_MAX), 1);
    u->gateway4.in = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr = config->gateway};
    u->dns4.in = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr = config->dns, .sin_port = htons(53)};
    u->gateway6.in6.sin6_family = u->dns6.in6.sin6_family = AF_INET6;
    inet_pton(AF_INET6, "fd00::2", &u->gateway6.in6.sin6_addr);
    inet_pton(AF_INET6, "fd00::3", &u->dns6.in6.sin6_addr);
    u->dns6.in6.sin6_port = htons(53);
    u->out.resolv.path = config->resolv_conf;
    u->out.touched = UDP_NONE;
    u->out.refused_ns = INT64_MIN / 2;
    memset(u->out.buckets, 0xff, sizeof(u->out.buckets));
    for (int list = 0; list < UDP_LISTS; list++)
        u->out.lists[list].oldest = u->out.lists[list].newest = UDP_NONE;
    for (uint32_t i = 0; i < UDP_SLOTS; i++)
        u->out.free[i] = UDP_SLOTS - 1 - i;
    u->out.n_free = UDP_SLOTS;
    r = probe(u, why);
    if (r < 0) {
        free(u);
        return r;
    }
    u->in.region = mmap(NULL, (size_t)UDP_IN_BATCH * FRAME_STRIDE, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (u->in.region == MAP_FAILED)
        u->in.region = NULL;
    if (!u->in.region || getrandom(u->secret, sizeof(u->secret), 0) != sizeof(u->secret) ||
        spsc_init(&u->retired, UDP_RING, 0) < 0 || spsc_init(&u->freed, UDP_RING, 0) < 0) {
        udp_flows_free(u);
        return failure(why, -ENOMEM, "use --udp=slirp", "cannot allocate the buffers for UDP flows");
    }
    (void)madvise(u->in.region, (size_t)UDP_IN_BATCH * FRAME_STRIDE, MADV_NOHUGEPAGE); /* a wish */
    udp_in_prepare(&u->in);
    *ret = u;
    return 0;
}

TSA(no_thread_safety_analysis) /* after threads ended */
struct udp_flows *udp_flows_free(struct udp_flows *u)
{
    if (!u)
        return NULL;
    for (uint32_t i = 0; i < UDP_SLOTS; i++) {
        if (atomic_load_explicit(&u->flows[i].state, memory_order_relaxed) != UDP_FREE)
            close(u->flows[i].fd);
    }
    if (u->in.region)
        munmap(u->in.region, (size_t)UDP_IN_BATCH * FRAME_STRIDE);
    spsc_deinit(&u->retired);
    spsc_deinit(&u->freed);
    free(u);
    return NULL;
}

/* ---- for the API ---- */

int udp_flows_list(struct udp_flows *u, uint64_t from, struct flow_info *rows, uint32_t max, int64_t now_ns,
                   uint64_t *ret_next)
{
    uint32_t n = 0;

    *ret_next = 0;
    for (uint64_t i = from; i < UDP_SLOTS; i++) {
        const struct udp_flow *f = &u->flows[i];
        struct flow_info *row = &rows[n];

        if (atomic_load_explicit(&f->state, memory_order_acquire) != UDP_LIVE)
            continue;
        if (n == max) {
            *ret_next = i;
            break;
        }
        *row = (struct flow_info){.tier = "udp",
                                  .proto = IPPROTO_UDP,
                                  .guest = f->guest,
                                  .remote = f->shown,
                                  .to_guest = atomic_load_explicit(&f->in_bytes, memory_order_relaxed),
                                  .to_host = atomic_load_explicit(&f->out_bytes, memory_order_relaxed),
                                  .age_ns = now_ns - f->started_ns};
        snprintf(row->state, sizeof(row->state), "%s",
                 f->dns_only ? is_answered(f) ? "answered" : "asking"
                 : atomic_load_explicit(&f->n_in, memory_order_relaxed) > 0 ? "both ways"
                                                                            : "one way");
        n++;
    }
    return (int)n;
}
