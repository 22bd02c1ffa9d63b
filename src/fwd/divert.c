/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * divert.c
 *
 * An entry belongs to the first worker (role_fwd). Its states, and what they lead to:
 *
 *   CONNECTING: a host socket is on its way to the destination. BUILDING, OPEN, SLIRP, or gone (refused: RST;
 * or it was the oldest of too many, half_open.h).
 *
 *   BUILDING: the agent has been asked for the guest's side. OPEN; SLIRP, if it could not be had.
 *
 *   OPEN: SYN-ACK sent, the workers move the bytes. LINGER, when the flow has ended.
 *
 *   LINGER: the last packets of the guest may still be on their way to the socket that says goodbye. After
 *      LINGER_MS the set's element is taken away, and the entry is gone; a new SYN ends it at once.
 *
 *   SLIRP: libslirp has the connection. Kept for SLIRP_MS, so that a repeated SYN goes there too; then gone.
 *
 * Where this process is permitted to, it builds the guest's side itself from a socket of the stock
 * (agent_divert_now()), which saves two wake-ups; otherwise the agent does.
 *
 * When the agent has ended and its standby has taken over, what is BUILDING is asked for once more: its SYN
 * is not given to libslirp, because the element may be there already and would lead the rest of its packets
 * astray.
 *
 * While a connection is CONNECTING or BUILDING the guest's repeated SYNs are swallowed: the answer is on its
 * way.
 *
 * What the slirp thread has to know is one bit per packet: does it belong to a connection whose packets
 * should not have come over the TAP? keys answers that (divert_keys.h). A packet that is found there (not a
 * SYN) is dropped and counted: it came before the set's element or because the guest's rules have changed.
 * TCP repeats it; the agent is asked to look after its rules and, the first time, to divert what containers
 * behind a bridge send.
 *
 * SYNs go from the slirp thread to the worker through a queue under a lock, flows' ends from other workers
 * likewise.
 */
#include "fwd/divert.h"

#include "base/bits.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/counters.h"
#include "base/log.h"
#include "fwd/agent.h"
#include "fwd/destination.h"
#include "fwd/divert_keys.h"
#include "fwd/half_open.h"
#include "fwd/handshake.h"
#include "fwd/link.h"
#include "fwd/nft.h"
#include "fwd/repair.h"
#include "io/icmp_error.h"

#include <assert.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>

enum {
    QUEUE_MAX = 1024,
    LINGER_MS = 5000,
    LINGER_MANY = 4096,     /* beyond so many of them ... */
    LINGER_SHORT_MS = 1000, /* ... they linger shorter */
    SLIRP_MS = 130000,      /* Linux repeats a SYN for 127 s (tcp_syn_retries 6) */
    SWEEP_MS = 1000,
    AGENT_BUSY_MS = 5,      /* until it may hear more */
    AGENT_SILENT_MS = 3000, /* for which it does not answer: it takes some 100 us for each */
    AGENT_DOUBT_MS = 200,   /* then; we may all have been stopped and continued, and its answer is there */
    SYNS_PER_TURN = 64,     /* the worker has other duties, and a guest can always send more */
};

enum state { STATE_FREE, STATE_CONNECTING, STATE_BUILDING, STATE_OPEN, STATE_LINGER, STATE_SLIRP };

struct syn { /* what the worker gets of a SYN */
    uint64_t key;
    uint32_t size;
    uint8_t frame[HANDSHAKE_SYN_MAX];
};

struct entry {
    struct flow_user user; /* first: what the flow's owner is given */
    struct divert *divert;
    enum state state;
    uint32_t generation; /* tells a late answer of the agent from the slot's next user */
    uint64_t key;
    union address source, destination; /* as in the SYN */
    int host_fd;                       /* CONNECTING, BUILDING */
    struct link connecting;            /* CONNECTING, once that takes time: in divert.connecting */
    int64_t since_ns;                  /* ditto */
    int64_t until_ns;                  /* LINGER, SLIRP */
    uint32_t agent;                    /* BUILDING: agent_generation() of who has been asked */
    bool own_element;                  /* BUILDING: it was made here, the agent does not take it away */
    uint32_t isn;                      /* BUILDING, OPEN: ours */
    struct repair_spec spec;           /* BUILDING, OPEN */
    struct syn syn;                    /* CONNECTING, BUILDING, OPEN */
    struct entry *next_ended;          /* under lock */
};

struct divert {
    struct divert_config config; /* fixed before threads start */
    unsigned lodger;             /* ditto */

    struct divert_keys keys; /* written by role_fwd, read by role_slirp */
    _Atomic bool leaked;     /* a packet of an open connection came over the TAP: set by role_slirp */

    struct entry *entries[DIVERT_PLACES] OWNED_BY(role_fwd);
    uint32_t n_waiting OWNED_BY(role_fwd);     /* entries in LINGER or SLIRP */
    uint32_t n_building OWNED_BY(role_fwd);    /* entries in BUILDING */
    uint32_t n_flows OWNED_BY(role_fwd);       /* entries in OPEN */
    struct link connecting OWNED_BY(role_fwd); /* entries, by age */
    uint32_t n_connecting OWNED_BY(role_fwd);
    uint32_t connecting_max; /* fixed */
    uint32_t generation OWNED_BY(role_fwd);
    uint32_t agent OWNED_BY(role_fwd); /* agent_generation() of the one that all have been asked */
    int64_t sweep_ns OWNED_BY(role_fwd);
    int64_t doubt_ns OWNED_BY(role_fwd); /* since when the agent is silent for too long; 0: it is not */
    bool nested OWNED_BY(role_fwd);      /* the agent has been told of containers */
    bool no_nested OWNED_BY(role_fwd);   /* their connections cannot be diverted here */

    pthread_mutex_t lock;        /* innermost */
    struct syn queue[QUEUE_MAX]; /* under lock: a ring */
    uint32_t first, n;           /* under lock */
    struct entry *ended;         /* under lock: OPEN entries whose flow has ended */
};

/* ---- the table ---- */

static struct entry **place_of(struct divert *d, uint64_t key) RUNS_ON(role_fwd)
{
    struct entry **bucket = d->entries + divert_keys_bucket(key);

    for (unsigned i = 0; i < DIVERT_PER_BUCKET; i++) {
        if (bucket[i] && bucket[i]->key == key)
            return &bucket[i];
    }
    return NULL;
}

static void publish(struct divert *d, const struct entry *e, bool open) RUNS_ON(role_fwd)
{
    struct entry **place = place_of(d, e->key);

    divert_keys_set(&d->keys, (uint32_t)(place - d->entries), e->key, open);
    counter_set(COUNTER_divert_open, divert_keys_count(&d->keys));
}

/* ---- what becomes libslirp's ---- */

static_assert(COUNTER_divert_fallback_no_transparent - COUNTER_divert_fallback_no_agent ==
                  AGENT_NO_TRANSPARENT - AGENT_NO_AGENT,
              "the agent's reasons and their counters are in one order");

/* @reason: COUNTER_divert_fallback_... */
static void count_fallback(enum counter_id reason)
{
    counter_add_shared(COUNTER_divert_fallback, 1);
    counter_add_shared(reason, 1);
}

/* Why the host's socket could not be had or connected. */
static enum counter_id connect_reason(int error)
{
    return error == EMFILE || error == ENFILE || error == ENOBUFS || error == ENOMEM
               ? COUNTER_divert_fallback_descriptors
               : COUNTER_divert_fallback_connect;
}

/* ---- the slirp thread ---- */

/* A packet that is not for the worker: if the set has its connection it must not reach libslirp, which would
 * answer it while the guest's further packets went elsewhere. That is also true of a SYN when the last
 * connection with these addresses lingers; the guest repeats it. */
static bool take_leaked(struct divert *d, uint64_t key) RUNS_ON(role_slirp)
{
    if (!divert_keys_has(&d->keys, key))
        return false;
    counter_add(COUNTER_divert_leaked, 1);
    /* Relaxed: the notice orders it. */
    if (!atomic_exchange_explicit(&d->leaked, true, memory_order_relaxed))
        workers_notify(d->config.workers);
    return true;
}

bool divert_take(struct divert *d, const struct packet *p)
{
    uint32_t addr_size = p->frame[12] == 0x86 ? 16 : 4;
    bool is_syn = (p->tcp_flags & (PACKET_TCP_SYN | PACKET_TCP_ACK | PACKET_TCP_RST)) == PACKET_TCP_SYN;
    struct syn syn;
    uint64_t key;
    bool taken;

    if (!is_syn && divert_keys_count(&d->keys) == 0) /* a hint; see divert_keys_has() */
        return false;
    key = divert_keys_of(&d->keys, p, addr_size);
    if (is_syn && !destination_is_divertible(&d->config, p, addr_size))
        return false;
    syn.key = key;
    if (!is_syn || (syn.size = handshake_copy_syn(syn.frame, p)) == 0)
        return take_leaked(d, key);
    pthread_mutex_lock(&d->lock);
    taken = d->n < QUEUE_MAX;
    if (taken)
        d->queue[(d->first + d->n++) % QUEUE_MAX] = syn;
    pthread_mutex_unlock(&d->lock);
    if (taken)
        workers_notify(d->config.workers);
    else if (!(taken = take_leaked(d, key)))
        count_fallback(COUNTER_divert_fallback_queue_full);
    return taken;
}

/* ---- frames for the guest ---- */

static void send_reset(const struct divert *d, const struct packet *syn)
{
    uint8_t frame[HANDSHAKE_FRAME_MAX];

    d->config.send(d->config.arg, frame, handshake_reset(frame, syn));
}

static void send_syn_ack(const struct divert *d, const struct entry *e, const struct packet *syn)
{
    uint8_t frame[HANDSHAKE_FRAME_MAX];

    d->config.send(d->config.arg, frame, handshake_syn_ack(frame, syn, &e->spec));
}

/* ---- entries ---- */

static void address_of(union address *ret, const struct packet *p, const uint8_t *addr, uint16_t port)
{
    memset(ret, 0, sizeof(*ret));
    if (p->frame[12] == 0x86) {
        ret->sa.sa_family = AF_INET6;
        memcpy(&ret->in6.sin6_addr, addr, 16);
    } else {
        ret->sa.sa_family = AF_INET;
        memcpy(&ret->in.sin_addr, addr, 4);
    }
    address_set_port(ret, port);
}

static void parse_syn(const struct entry *e, struct packet *ret)
{
    (void)packet_parse(ret, e->syn.frame, e->syn.size); /* it was good when it came */
}

/* @id of an entry for epoll and the agent: its place, and whose it was. */
static uint64_t id_of(const struct divert *d, const struct entry *e) RUNS_ON(role_fwd)
{
    struct entry *const *place = place_of((struct divert *)d, e->key);

    return (uint64_t)(e->generation & 0xffffff) << 16 | (uint64_t)(place - d->entries);
}

static struct entry *entry_by_id(struct divert *d, uint64_t id) RUNS_ON(role_fwd)
{
    struct entry *e = d->entries[(id & 0xffff) % DIVERT_PLACES];

    return e && (e->generation & 0xffffff) == (id >> 16 & 0xffffff) ? e : NULL;
}

/* The host's socket is no longer connecting, or never took time to. */
static void connecting_over(struct divert *d, struct entry *e) RUNS_ON(role_fwd)
{
    if (link_is_alone(&e->connecting))
        return;
    link_take_out(&e->connecting);
    d->n_connecting--;
    counter_add_shared(COUNTER_divert_half_open, UINT64_MAX);
}

static void entry_free(struct divert *d, struct entry *e) RUNS_ON(role_fwd)
{
    struct entry **place = place_of(d, e->key);

    connecting_over(d, e);
    if (e->state == STATE_OPEN || e->state == STATE_LINGER)
        publish(d, e, false);
    if (e->state == STATE_LINGER || e->state == STATE_SLIRP)
        d->n_waiting--;
    closep(&e->host_fd);
    *place = NULL;
    free(e);
}

static void wait_in(struct divert *d, struct entry *e, enum state state, int64_t ms) RUNS_ON(role_fwd)
{
    int64_t now_ns = clock_monotonic_ns();

    e->state = state;
    e->until_ns = now_ns + ms * NS_PER_MS;
    if (d->n_waiting++ == 0)
        d->sweep_ns = now_ns + SWEEP_MS * NS_PER_MS;
}

static struct nft_tuple tuple_of(const struct entry *e)
{
    return (struct nft_tuple){.source = e->source, .destination = e->destination};
}

/* libslirp gets the SYN. Not while packets with its addresses may be led elsewhere: the guest repeats it, or
 * takes another port where that will not end soon. */
static void inject(struct divert *d, const struct entry *e, const struct syn *s) RUNS_ON(role_fwd)
{
    const struct agent *agent = workers_agent(d->config.workers);
    struct nft_tuple tuple = tuple_of(e);
    struct packet p;

    if (!agent_undivert_is_pending(agent, &tuple)) {
        d->config.inject(d->config.arg, s->frame, s->size);
    } else if (agent_is_gone(agent)) {
        (void)packet_parse(&p, s->frame, s->size);
        send_reset(d, &p);
    }
}

/* libslirp does it, because of @reason. */
static void give_to_slirp(struct divert *d, struct entry *e, enum counter_id reason) RUNS_ON(role_fwd)
{
    count_fallback(reason);
    if (e->state == STATE_BUILDING)
        d->n_building--;
    connecting_over(d, e);
    closep(&e->host_fd);
    inject(d, e, &e->syn);
    wait_in(d, e, STATE_SLIRP, SLIRP_MS);
}

/* False: the agent is too busy to hear it, or gone for good. */
static bool undivert(struct divert *d, const struct entry *e) RUNS_ON(role_fwd)
{
    struct nft_tuple tuple = tuple_of(e);

    return agent_undivert(workers_agent(d->config.workers), &tuple, 1) == 1;
}

/* ---- connecting ---- */

/* Its answer takes time. Too many: the oldest one goes without a word; the guest's SYN comes again. */
static void connecting_begin(struct divert *d, struct entry *e) RUNS_ON(role_fwd)
{
    e->since_ns = clock_monotonic_ns();
    link_insert_before(&d->connecting, &e->connecting);
    d->n_connecting++;
    counter_add_shared(COUNTER_divert_half_open, 1);
    for (;;) {
        struct entry *oldest = container_of(d->connecting.next, struct entry, connecting);

        if (!half_open_is_too_much(d->n_connecting, d->connecting_max, e->since_ns - oldest->since_ns))
            return;
        counter_add_shared(COUNTER_divert_half_open_evicted, 1);
        entry_free(d, oldest);
    }
}

/* The destination cannot be reached, now or after a while. */
static void connect_failed(struct divert *d, struct entry *e, int error) RUNS_ON(role_fwd)
{
    uint8_t frame[ICMP_ERROR_FRAME_MAX];
    struct packet p;
    uint32_t size;

    parse_syn(e, &p);
    switch (error) {
    case ECONNREFUSED:
        counter_add_shared(COUNTER_divert_refused, 1);
        send_reset(d, &p);
        entry_free(d, e);
        return;
    case EHOSTUNREACH:
    case ENETUNREACH:
        counter_add_shared(COUNTER_divert_unreachable, 1);
        size = icmp_error_unreachable(frame, e->syn.frame, e->syn.size, d->config.gateway);
        if (size > 0)
            d->config.send(d->config.arg, frame, size);
        entry_free(d, e);
        return;
    case ETIMEDOUT: /* the guest has given up before */
        entry_free(d, e);
        return;
    default: /* descriptors, policy: what libslirp makes of it is what the guest is used to */
        give_to_slirp(d, e, connect_reason(error));
    }
}

static void linger(struct divert *d, struct entry *e) RUNS_ON(role_fwd)
{
    wait_in(d, e, STATE_LINGER, d->n_waiting < LINGER_MANY ? LINGER_MS : LINGER_SHORT_MS);
}

/* BUILDING, and it will not be built. Its element may be there: what libslirp has must not be led elsewhere.
 * Where nobody can take it away now the guest is to try with another port. */
static void withdraw(struct divert *d, struct entry *e, enum counter_id reason) RUNS_ON(role_fwd)
{
    struct packet p;

    if (undivert(d, e)) {
        give_to_slirp(d, e, reason);
        return;
    }
    count_fallback(reason);
    d->n_building--;
    closep(&e->host_fd);
    parse_syn(e, &p);
    if (agent_is_gone(workers_agent(d->config.workers)))
        send_reset(d, &p); /* else, when it has heard, a repeated SYN begins anew */
    e->spec.peer_isn = handshake_sequence(&p);
    publish(d, e, true);
    linger(d, e);
}

/* Both sockets are there; @fd is the guest's side. */
static void opened(struct divert *d, struct entry *e, int fd) RUNS_ON(role_fwd)
{
    int host_fd = steal_fd(&e->host_fd);
    struct packet p;

    e->state = STATE_OPEN;
    d->n_flows++;
    publish(d, e, true);
    parse_syn(e, &p);
    send_syn_ack(d, e, &p); /* before the first byte: a guest that waits for it would drop data */
    counter_add_shared(COUNTER_divert_flows, 1);
    (void)flow_socket_prepare(
        host_fd); /* failing costs latency only; not before the SYN-ACK, for its speed */
    if (workers_give(d->config.workers, host_fd, fd, FLOW_CONNECTED, &e->user) < 0) {
        close(host_fd); /* the worker's queue is full: the guest sees the connection end */
        close(fd);
        d->n_flows--;
        linger(d, e);
    }
}

/* Why a guest's side could not be built. */
static enum counter_id build_reason(int r)
{
    return r == -EPIPE    ? COUNTER_divert_fallback_no_agent
           : r == -EAGAIN ? COUNTER_divert_fallback_agent_busy
           : r == -ENFILE ? COUNTER_divert_fallback_table_full
                          : COUNTER_divert_fallback_agent_failed;
}

static void build(struct divert *d, struct entry *e) RUNS_ON(role_fwd)
{
    struct agent *agent = workers_agent(d->config.workers);
    struct packet p;
    int r, fd = -1;

    parse_syn(e, &p);
    e->spec = (struct repair_spec){
        .local = e->destination,
        .peer = e->source,
        .wscale = repair_wscale(),
    };
    handshake_read_syn(&e->spec, &p);
    if (getrandom(&e->isn, sizeof(e->isn), GRND_NONBLOCK) != sizeof(e->isn))
        e->isn = (uint32_t)clock_monotonic_ns();
    e->spec.isn = e->isn;
    r = agent_divert_now(agent, &e->spec, &fd);
    if (r == 0) {
        opened(d, e, fd);
        return;
    }
    e->state = STATE_BUILDING;
    e->agent = agent_generation(agent);
    d->n_building++;
    if (r != -EAGAIN || (r = agent_divert(agent, id_of(d, e), &e->spec)) < 0)
        give_to_slirp(d, e, build_reason(r));
    else
        e->own_element = r == 1;
}

/* Connected, or not. */
static void decided(struct divert *d, struct entry *e) RUNS_ON(role_fwd)
{
    socklen_t size = sizeof(int);
    int error = 0;

    if (getsockopt(e->host_fd, SOL_SOCKET, SO_ERROR, &error, &size) < 0)
        error = errno;
    connecting_over(d, e);
    if (error != 0)
        connect_failed(d, e, error);
    else
        build(d, e);
}

static void on_diverted(void *arg, uint64_t id, int result, int fd)
{
    struct divert *d = arg;
    struct entry *e;

    role_assert(&role_fwd);
    e = entry_by_id(d, id);
    if (!e || e->state != STATE_BUILDING) { /* no entry waits for this answer */
        closep(&fd);
        return;
    }
    if (result < 0 && !e->own_element) {
        give_to_slirp(d, e, COUNTER_divert_fallback_agent_failed);
        return;
    }
    if (result != 0) {
        withdraw(d, e, COUNTER_divert_fallback_agent_failed);
        return;
    }
    d->n_building--;
    opened(d, e, fd);
}

/* Its answers will not come. */
static void agent_gone(struct divert *d) RUNS_ON(role_fwd)
{
    for (uint32_t i = 0; i < DIVERT_PLACES && d->n_building > 0; i++) {
        struct entry *e = d->entries[i];

        if (e && e->state == STATE_BUILDING)
            withdraw(d, e, COUNTER_divert_fallback_no_agent);
    }
}

/* The next one has taken over. False: it has not heard all of it yet. */
static bool ask_again(struct divert *d, struct agent *agent) RUNS_ON(role_fwd)
{
    uint32_t generation = agent_generation(agent);

    for (uint32_t i = 0; i < DIVERT_PLACES && d->n_building > 0; i++) {
        struct entry *e = d->entries[i];
        int r;

        if (!e || e->state != STATE_BUILDING || e->agent == generation)
            continue;
        r = agent_divert(agent, id_of(d, e), &e->spec);
        if (r == -EAGAIN || r == -EPIPE) /* -EPIPE: it has ended, too, which will be seen */
            return false;
        e->agent = generation;
        if (r < 0) /* the former one may have added the element */
            withdraw(d, e, build_reason(r));
        else
            e->own_element = e->own_element || r == 1;
    }
    d->agent = generation;
    d->nested = false; /* the former one may not have heard of it */
    return true;
}

/* For how many ms the worker may sleep. */
static int follow_agent(struct divert *d) RUNS_ON(role_fwd)
{
    struct agent *agent = workers_agent(d->config.workers);
    int64_t silent_ns;
    bool heard = true;

    if (d->n_flows == 0)
        agent_divert_end(agent);
    if (agent_is_gone(agent))
        agent_gone(d);
    else if (agent_generation(agent) != d->agent)
        heard = ask_again(d, agent);
    silent_ns = agent_silent_ns(agent);
    if (silent_ns < AGENT_SILENT_MS * NS_PER_MS) {
        d->doubt_ns = 0;
    } else if (d->doubt_ns == 0) {
        d->doubt_ns = clock_monotonic_ns();
        return AGENT_DOUBT_MS;
    } else if (clock_monotonic_ns() - d->doubt_ns < AGENT_DOUBT_MS * NS_PER_MS) {
        return AGENT_DOUBT_MS;
    } else {
        log_warning("the agent in the guest's namespace has not answered for %d ms: it is ended",
                    AGENT_SILENT_MS);
        agent_give_up(agent);
        d->doubt_ns = 0;
    }
    if (!heard)
        return AGENT_BUSY_MS;
    silent_ns = agent_silent_ns(agent);
    return silent_ns < 0 ? -1 : (int)(AGENT_SILENT_MS - silent_ns / NS_PER_MS);
}

/* ---- flows ---- */

static void on_flow_end(struct flow_user *user, enum flow_end end, int connect_error, int host_fd)
{
    struct entry *e = (struct entry *)user;
    struct divert *d = e->divert;

    (void)connect_error;
    if (end == FLOW_REFUSED) /* it could not be started; the guest's side is closed */
        close(host_fd);
    pthread_mutex_lock(&d->lock);
    e->next_ended = d->ended;
    d->ended = e;
    pthread_mutex_unlock(&d->lock);
    workers_notify(d->config.workers);
}

static void on_flow_bytes(struct flow_user *user, uint64_t to_guest, uint64_t to_host)
{
    (void)user;
    counter_add_shared(COUNTER_divert_bytes, to_guest + to_host);
}

/* On its worker's thread: what this reads is fixed while the entry is OPEN. */
static void on_flow_silent(struct flow_user *user)
{
    struct entry *e = (struct entry *)user;
    struct packet p;

    parse_syn(e, &p);
    send_syn_ack(e->divert, e, &p);
}

/* Fixed while the entry is OPEN, and given to the worker with it. */
static void describe(const struct flow_user *user, struct flow_info *info)
{
    const struct entry *e = (const struct entry *)user;

    info->guest = e->source;
    info->remote = e->destination;
}

static const struct flow_owner flow_owner = {
    .on_end = on_flow_end,
    .on_bytes = on_flow_bytes,
    .on_silent = on_flow_silent,
    .tier = "splice-outbound",
    .describe = describe,
};

/* ---- the worker ---- */

static struct entry *entry_new(struct divert *d, const struct syn *s, const struct packet *p)
    RUNS_ON(role_fwd)
{
    struct entry **bucket = d->entries + divert_keys_bucket(s->key), **place = NULL, *e;

    for (unsigned i = 0; i < DIVERT_PER_BUCKET && !place; i++)
        place = bucket[i] ? NULL : &bucket[i];
    /* The memory of a connection that libslirp has is worth least. */
    for (unsigned i = 0; i < DIVERT_PER_BUCKET && !place; i++) {
        if (bucket[i]->state == STATE_SLIRP) {
            place = &bucket[i];
            entry_free(d, bucket[i]);
        }
    }
    e = place ? calloc(1, sizeof(*e)) : NULL;
    if (!e)
        return NULL;
    e->user.owner = &flow_owner;
    e->divert = d;
    e->generation = ++d->generation;
    e->key = s->key;
    e->host_fd = -1;
    link_init(&e->connecting);
    e->syn = *s;
    address_of(&e->source, p, p->src, p->src_port);
    address_of(&e->destination, p, p->dst, p->dst_port);
    *place = e;
    return e;
}

static void start(struct divert *d, const struct syn *s, const struct packet *p) RUNS_ON(role_fwd)
{
    struct agent *agent = workers_agent(d->config.workers);
    struct entry *e = entry_new(d, s, p);
    enum agent_reason reason = AGENT_NO_AGENT;
    enum destination_state state = DESTINATION_CONNECTING;
    int r;

    if (e && !agent_is_gone(agent))
        reason = agent_family_state(agent, e->source.sa.sa_family);
    if (e && d->no_nested && (reason == AGENT_READY || reason == AGENT_NO_SYSCTL) &&
        !agent_is_local(agent, &e->source))
        reason = AGENT_NO_RULES;
    /* The sysctl is for the connections that servers of the guest accept. */
    if (!e || (reason != AGENT_READY && reason != AGENT_NO_SYSCTL)) {
        if (e) {
            agent_look(agent);
            give_to_slirp(d, e, COUNTER_divert_fallback_no_agent + (reason - AGENT_NO_AGENT));
            return;
        }
        count_fallback(COUNTER_divert_fallback_table_full);
        d->config.inject(d->config.arg, s->frame, s->size);
        return;
    }
    e->state = STATE_CONNECTING;
    e->host_fd = destination_connect(&d->config, &e->destination, &state);
    if (e->host_fd < 0) {
        r = -e->host_fd;
        e->host_fd = -1;
        connect_failed(d, e, r);
        return;
    }
    if (state == DESTINATION_CONNECTED) {
        build(d, e);
        return;
    }
    if (state == DESTINATION_FAILED) {
        decided(d, e);
        return;
    }
    r = workers_watch(d->config.workers, d->lodger, e->host_fd, EPOLLOUT, id_of(d, e));
    if (r < 0)
        give_to_slirp(d, e, connect_reason(-r));
    else
        connecting_begin(d, e);
}

static void handle_syn(struct divert *d, const struct syn *s) RUNS_ON(role_fwd)
{
    struct entry **place = place_of(d, s->key), *e = place ? *place : NULL;
    struct packet p;

    (void)packet_parse(&p, s->frame, s->size);
    switch (e ? e->state : STATE_FREE) {
    case STATE_CONNECTING: /* the guest may have given up and begun again with the same port: the last SYN
                              counts */
        e->syn = *s;
        return;
    case STATE_BUILDING:
        return;
    case STATE_OPEN:
        if (handshake_sequence(&p) == e->spec.peer_isn) /* our SYN-ACK was lost */
            send_syn_ack(d, e, &p);
        return;
    case STATE_SLIRP:
        inject(d, e, s);
        return;
    case STATE_LINGER: /* the guest uses the port again, unless it is a repetition that was long on its way */
        if (handshake_sequence(&p) == e->spec.peer_isn)
            return;
        if (!undivert(d, e)) {
            if (agent_is_gone(workers_agent(d->config.workers)))
                send_reset(d, &p); /* another port, then */
            return;                /* else the guest repeats its SYN */
        }
        entry_free(d, e);
        break;
    case STATE_FREE:
        break;
    }
    start(d, s, &p);
}

/* The elements of @n entries in one transaction, then the entries. False: the agent is too busy for all of
 * them, or gone for good.
 */
static bool end_lingering(struct divert *d, struct entry **entries, uint32_t n) RUNS_ON(role_fwd)
{
    struct nft_tuple tuples[AGENT_UNDIVERT_MAX];
    uint32_t done;

    if (n == 0) /* an empty transaction costs as much as another */
        return true;
    for (uint32_t i = 0; i < n; i++)
        tuples[i] = tuple_of(entries[i]);
    done = min_u32(agent_undivert(workers_agent(d->config.workers), tuples, n), n);
    for (uint32_t i = 0; i < done; i++)
        entry_free(d, entries[i]);
    return done == n;
}

static void sweep(struct divert *d, int64_t now_ns) RUNS_ON(role_fwd)
{
    struct entry *over[AGENT_UNDIVERT_MAX];
    const bool gone = agent_is_gone(workers_agent(d->config.workers)); /* then elements may have to stay */
    bool heard = true;
    uint32_t n = 0;

    for (uint32_t i = 0; i < DIVERT_PLACES && d->n_waiting > n && (heard || gone); i++) {
        struct entry *e = d->entries[i];

        if (!e || (e->state != STATE_LINGER && e->state != STATE_SLIRP) || e->until_ns > now_ns)
            continue;
        if (e->state == STATE_SLIRP)
            entry_free(d, e);
        else if (heard)
            over[n++] = e;
        if (n == AGENT_UNDIVERT_MAX) {
            heard = end_lingering(d, over, n);
            n = 0;
        }
    }
    heard = heard && end_lingering(d, over, n);
    d->sweep_ns = now_ns + (heard || gone ? SWEEP_MS : AGENT_BUSY_MS) * NS_PER_MS;
}

static void take_ended(struct divert *d) RUNS_ON(role_fwd)
{
    struct entry *ended;

    pthread_mutex_lock(&d->lock);
    ended = d->ended;
    d->ended = NULL;
    pthread_mutex_unlock(&d->lock);
    while (ended) {
        struct entry *e = ended;

        ended = e->next_ended;
        d->n_flows--;
        linger(d, e);
    }
}

/* Something that an open connection's packets should not have done: containers may be behind a bridge. */
static void tell_of_nested(struct divert *d, struct agent *agent) RUNS_ON(role_fwd)
{
    static struct log_limit limit;
    int r = d->nested || d->no_nested ? 0 : agent_divert_nested(agent);

    d->nested = d->nested || r == 0;
    if (r == 0 || r == -EAGAIN) /* the next such packet asks again */
        return;
    d->no_nested = true;
    log_limited(&limit, LOG_LEVEL_INFO, "connections of containers behind a bridge go through libslirp: %s",
                strerror(-r));
}

/* False: there is none. */
static bool take_syn(struct divert *d) RUNS_ON(role_fwd)
{
    struct syn s;
    bool got;

    pthread_mutex_lock(&d->lock);
    got = d->n > 0;
    if (got) {
        s = d->queue[d->first];
        d->first = (d->first + 1) % QUEUE_MAX;
        d->n--;
    }
    pthread_mutex_unlock(&d->lock);
    if (got)
        handle_syn(d, &s);
    return got;
}

static int on_turn(void *arg)
{
    struct divert *d = arg;
    int64_t now_ns = 0;
    int busy_ms, sleep_ms;
    bool more = true;

    role_assert(&role_fwd);
    for (int i = 0; i < SYNS_PER_TURN && more; i++)
        more = take_syn(d);
    take_ended(d);
    busy_ms = follow_agent(d);
    if (atomic_exchange_explicit(&d->leaked, false, memory_order_relaxed)) { /* see divert_take() */
        struct agent *agent = workers_agent(d->config.workers);

        agent_look(agent);
        tell_of_nested(d, agent);
    }
    if (d->n_waiting > 0) {
        now_ns = clock_monotonic_ns();
        if (now_ns >= d->sweep_ns)
            sweep(d, now_ns);
    }
    if (more)
        return 0;
    sleep_ms = d->n_waiting == 0 ? -1 : (int)((d->sweep_ns - now_ns) / NS_PER_MS) + 1;
    return busy_ms < 0 || (sleep_ms >= 0 && sleep_ms < busy_ms) ? sleep_ms : busy_ms;
}

static void on_event(void *arg, uint64_t value, uint32_t events)
{
    struct divert *d = arg;
    struct entry *e;

    role_assert(&role_fwd);
    (void)events;
    e = entry_by_id(d, value);
    if (!e || e->state != STATE_CONNECTING)
        return;
    /* The flow has an epoll entry of its own, on another worker's set maybe. */
    workers_unwatch(d->config.workers, e->host_fd);
    decided(d, e);
}

/* ---- life cycle ---- */

int divert_new(struct divert **ret, const struct divert_config *config, struct failure *why)
    TSA(no_thread_safety_analysis) /* before threads start */
{
    /* Fresh pages from the kernel are zero and cost nothing until they are used: most of them never are. */
    struct divert *d =
        mmap(NULL, sizeof(*d), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    int r;

    if (d == MAP_FAILED)
        return failure(why, -ENOMEM, NULL, "cannot allocate the table of diverted connections");
    d->config = *config;
    r = divert_keys_init(&d->keys);
    if (r < 0) {
        munmap(d, sizeof(*d));
        return failure(why, r, NULL, "getrandom");
    }
    pthread_mutex_init(&d->lock, NULL);
    link_init(&d->connecting);
    d->connecting_max = half_open_connecting_max();
    (void)repair_wscale(); /* remembered before the sandbox hides /proc */
    d->lodger =
        workers_lodge(config->workers, &(struct lodger){.arg = d, .on_event = on_event, .on_turn = on_turn});
    agent_on_diverted(workers_agent(config->workers), on_diverted, d);
    *ret = d;
    return 0;
}

struct divert *divert_free(struct divert *d) TSA(no_thread_safety_analysis) /* after threads ended */
{
    if (!d)
        return NULL;
    for (uint32_t i = 0; i < DIVERT_PLACES; i++) {
        if (d->entries[i])
            closep(&d->entries[i]->host_fd);
        free(d->entries[i]);
    }
    pthread_mutex_destroy(&d->lock);
    munmap(d, sizeof(*d));
    return NULL;
}
