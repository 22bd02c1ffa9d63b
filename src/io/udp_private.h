/* SPDX-License-Identifier: GPL-2.0-or-later */
/* udp_private.h - what the halves of udp_flows.h share; nobody else includes it */
#pragma once

#include "io/frame.h"
#include "io/resolv.h"
#include "io/udp_flows.h"
#include "io/udp_frame.h"

#include <sys/socket.h>
#include <sys/uio.h>

enum {
    UDP_SLOTS_SPARE = 256, /* places of retired flows that are still to be closed */
    UDP_SLOTS = UDP_FLOWS_MAX + UDP_SLOTS_SPARE,
    UDP_RING = 8192, /* a power of two, >= UDP_SLOTS */
    UDP_BUCKETS = 8192,
    UDP_NONE = UINT32_MAX,
    UDP_IN_BATCH = 64, /* datagrams per recvmmsg(2), and joined in one frame: UDP_MAX_SEGMENTS of Linux 5 */
    UDP_SERVERS_MAX = 256,   /* that resolv.conf ever named: more are libslirp's */
    UDP_BULK_DATAGRAMS = 64, /* from then on a flow's socket gets larger buffers and UDP_GRO */
};
static_assert(UDP_RING >= UDP_SLOTS, "a ring takes all places");

/* Which list a flow hangs in says when it is looked at again, not when it ends (udp_limit_ns()). */
enum udp_list { UDP_LIST_FAST, UDP_LIST_MEDIUM, UDP_LIST_SLOW, UDP_LISTS };

enum udp_state { UDP_FREE, UDP_LIVE, UDP_RETIRED };

struct udp_flow {
    /* Fixed while the flow lives. */
    int fd;
    union address guest;
    int64_t started_ns;

    /* Written by role_udp_out, read by role_udp_in, relaxed: one wrong guess at a change is harmless. */
    _Atomic uint64_t mac;         /* the guest's, in the low 48 bits */
    _Atomic uint32_t server;      /* 1 + index of the nameserver it asked through the DNS address; 0: none */
    _Atomic bool literal;         /* it named 127.0.0.0/8 or ::1 itself */
    _Atomic uint32_t n_questions; /* to the DNS address */
    _Atomic int64_t out_ns;       /* last used; 0: never */
    _Atomic uint64_t out_bytes, n_out;
    _Atomic int state; /* written by the half that owns the place; acquire and release */

    /* Written by role_udp_in, read by role_udp_out, relaxed. */
    _Atomic uint32_t n_answers; /* from the nameserver */
    _Atomic bool port53_last;   /* the last answer came from a port 53 */
    _Atomic int64_t in_ns;
    _Atomic uint64_t in_bytes, n_in;

    /* role_udp_out's. */
    uint8_t list;
    bool dns_only;    /* asked nobody but the DNS address */
    bool port53_only; /* asked nobody but port 53 */
    bool no_gso;
    uint8_t ttl;
    uint32_t next_hash, older, newer;
    int64_t listed_ns;
    uint32_t first, last, next_touched; /* what waits to be sent */
    union address shown;                /* whom it sent to last, in the guest's words */

    /* role_udp_in's. */
    bool bulk;
};

struct udp_entry { /* a datagram that waits to be sent */
    const uint8_t *payload;
    uint32_t size, gso_size;
    uint8_t ttl;
    union address to;    /* on the host */
    union address shown; /* the guest's word for it */
    uint32_t next;
};

struct udp_out {
    struct udp_entry entries[UDP_BATCH_MAX];
    uint32_t n_entries, touched; /* first of the flows with entries */
    struct mmsghdr messages[UDP_BATCH_MAX];
    struct iovec parts[UDP_BATCH_MAX];
    uint32_t first_entry[UDP_BATCH_MAX + 1]; /* index into order[] of each message */
    uint32_t order[UDP_BATCH_MAX];
    union {
        struct cmsghdr align;
        uint8_t bytes[CMSG_SPACE(sizeof(uint16_t))];
    } controls[UDP_BATCH_MAX];
    uint32_t free[UDP_SLOTS], n_free;
    uint32_t n_live;
    uint32_t buckets[UDP_BUCKETS];
    struct {
        uint32_t oldest, newest, n;
    } lists[UDP_LISTS];
    struct resolv resolv;
    uint32_t n_servers;
    int64_t refused_ns; /* no descriptor was to be had: not tried again for a moment */
};

struct udp_in {
    uint8_t *region; /* UDP_IN_BATCH buffers of FRAME_STRIDE */
    struct mmsghdr messages[UDP_IN_BATCH];
    struct iovec parts[UDP_IN_BATCH];
    union address from[UDP_IN_BATCH];
    uint32_t steps[UDP_IN_BATCH]; /* size of the datagrams that the kernel has joined, else 0 */
    union {
        struct cmsghdr align;
        uint8_t bytes[CMSG_SPACE(sizeof(int))];
    } controls[UDP_IN_BATCH];
    uint32_t ip_id;
};

struct udp_flows {
    struct udp_flows_config config;               /* fixed before threads start */
    union address gateway4, gateway6, dns4, dns6; /* ditto; port 0, port 53 */
    uint64_t secret[2];                           /* ditto */
    bool gso, gro;                                /* ditto: what the kernel has */
    /* Written once each, by role_udp_out, before their index is given to a flow. */
    union address servers[UDP_SERVERS_MAX];
    struct spsc retired, freed; /* to role_udp_in; back to role_udp_out */
    struct udp_out out OWNED_BY(role_udp_out);
    struct udp_in in OWNED_BY(role_udp_in);
    struct udp_flow flows[UDP_SLOTS];
};

/* ---- udp_table.c: role_udp_out ---- */

/* The flow of @guest, or UDP_NONE. */
uint32_t udp_find(struct udp_flows *u, const union address *guest) RUNS_ON(role_udp_out);
/* Makes one. UDP_NONE: it cannot be had (counted). */
uint32_t udp_open(struct udp_flows *u, const union address *guest, bool dns, bool port53, int64_t now_ns)
    RUNS_ON(role_udp_out);
/* It asked somebody else: is it still one for the fast list? */
void udp_widen(struct udp_flow *f, bool dns, bool port53) RUNS_ON(role_udp_out);

/* ---- udp_in.c ---- */

/* Before threads start: where recvmmsg(2) is to put what comes. */
void udp_in_prepare(struct udp_in *in);

/* How the guest is to see the peer @real of flow @f. False: not at all. Any half. */
bool udp_shown(const struct udp_flows *u, const struct udp_flow *f, const union address *real,
               union address *ret, bool *ret_is_server);

static inline bool udp_same_address(const union address *a, const union address *b)
{
    if (a->sa.sa_family != b->sa.sa_family)
        return false;
    return a->sa.sa_family == AF_INET6 ? memcmp(&a->in6.sin6_addr, &b->in6.sin6_addr, 16) == 0
                                       : a->in.sin_addr.s_addr == b->in.sin_addr.s_addr;
}

static inline void udp_add(_Atomic uint64_t *v, uint64_t n) /* its one writer */
{
    atomic_store_explicit(v, atomic_load_explicit(v, memory_order_relaxed) + n, memory_order_relaxed);
}

static inline void udp_mac(const struct udp_flow *f, uint8_t ret[6])
{
    uint64_t mac = atomic_load_explicit(&f->mac, memory_order_relaxed);

    for (int i = 5; i >= 0; i--, mac >>= 8)
        ret[i] = (uint8_t)mac;
}
