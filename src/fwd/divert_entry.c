/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * divert_entry.c - one of the guest's connections: its states, and what leads from one to another
 *
 * An entry belongs to the first worker (role_fwd); nothing here takes a lock. Its states, and what they
 * lead to:
 *
 *   CONNECTING: a host socket is on its way to the destination. BUILDING, OPEN, SLIRP, or gone (refused: RST;
 *      unreachable: ICMP; or it was the oldest of too many, half_open.h).
 *
 *   BUILDING: the agent has been asked for the guest's side, or is to be once it has looked around or
 *      has less to do (in divert.unasked, for UNASKED_MS at most). OPEN; SLIRP, if it could not be had.
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
 * The sections below begin with what ends a connection: each state comes after those that it leads to.
 */
#include "base/bits.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/counters.h"
#include "fwd/agent.h"
#include "fwd/destination.h"
#include "fwd/divert_private.h"
#include "fwd/flow.h"
#include "fwd/half_open.h"
#include "fwd/nft.h"
#include "io/icmp_error.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/socket.h>

enum {
    LINGER_MS = 5000,
    LINGER_MANY = 4096,     /* beyond so many of them ... */
    LINGER_SHORT_MS = 1000, /* ... they linger shorter */
    UNASKED_MS = 2000,      /* less than an agent may be silent for (divert.c) */
    SLIRP_MS = 130000,      /* Linux repeats a SYN for 127 s (tcp_syn_retries 6) */
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

/* @id of an entry for epoll and the agent: its place, and whose it was. */
static_assert(DIVERT_PLACES <= 1 << 16, "a place has 16 bits of an id");

static uint64_t id_of(const struct divert *d, const struct entry *e) RUNS_ON(role_fwd)
{
    struct entry *const *place = place_of((struct divert *)d, e->key);

    return (uint64_t)(e->generation & 0xffffff) << 16 | (uint64_t)(place - d->entries);
}

struct entry *entry_by_id(struct divert *d, uint64_t id)
{
    struct entry *e = d->entries[(id & 0xffff) % DIVERT_PLACES];

    return e && (e->generation & 0xffffff) == (id >> 16 & 0xffffff) ? e : NULL;
}

/* The host's socket is no longer connecting, or never took time to. */
static void connecting_over(struct divert *d, struct entry *e) RUNS_ON(role_fwd)
{
    if (e->state != STATE_CONNECTING || link_is_alone(&e->waiting))
        return;
    link_take_out(&e->waiting);
    d->n_connecting--;
    counter_add_shared(COUNTER_divert_half_open, UINT64_MAX);
}

/* The guest's side is there, or will not be. The caller sets the next state. */
static void building_over(struct divert *d, struct entry *e) RUNS_ON(role_fwd)
{
    if (e->state != STATE_BUILDING)
        return;
    link_take_out(&e->waiting); /* nothing happens if it is in no list */
    d->n_building--;
}

void entry_free(struct divert *d, struct entry *e)
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
    e->user.owner = &divert_flow_owner;
    e->divert = d;
    e->generation = ++d->generation;
    e->key = s->key;
    e->host_fd = -1;
    link_init(&e->waiting);
    e->syn = *s;
    address_of(&e->source, p, p->src, p->src_port);
    address_of(&e->destination, p, p->dst, p->dst_port);
    *place = e;
    return e;
}

/* ---- frames for the guest ---- */

static void parse_syn(const struct entry *e, struct packet *ret)
{
    (void)packet_parse(ret, e->syn.frame, e->syn.size); /* it was good when it came */
}

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

void entry_send_syn_ack(const struct entry *e)
{
    struct packet p;

    parse_syn(e, &p);
    send_syn_ack(e->divert, e, &p);
}

/* ---- LINGER and SLIRP ---- */

static void wait_in(struct divert *d, struct entry *e, enum entry_state state, int64_t ms) RUNS_ON(role_fwd)
{
    int64_t now_ns = clock_monotonic_ns();

    e->state = state;
    e->until_ns = now_ns + ms * NS_PER_MS;
    if (d->n_waiting++ == 0)
        d->sweep_ns = now_ns + DIVERT_SWEEP_MS * NS_PER_MS;
}

static void linger(struct divert *d, struct entry *e) RUNS_ON(role_fwd)
{
    wait_in(d, e, STATE_LINGER, d->n_waiting < LINGER_MANY ? LINGER_MS : LINGER_SHORT_MS);
}

static struct nft_tuple tuple_of(const struct entry *e)
{
    return (struct nft_tuple){.source = e->source, .destination = e->destination};
}

/* False: the agent is too busy to hear it, or gone for good. */
static bool undivert(struct divert *d, const struct entry *e) RUNS_ON(role_fwd)
{
    struct nft_tuple tuple = tuple_of(e);

    return agent_undivert(workers_agent(d->config.workers), &tuple, 1) == 1;
}

bool entry_end_lingering(struct divert *d, struct entry **entries, uint32_t n)
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

void divert_count_fallback(enum counter_id reason)
{
    counter_add_shared(COUNTER_divert_fallback, 1);
    counter_add_shared(reason, 1);
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
    divert_count_fallback(reason);
    building_over(d, e);
    connecting_over(d, e);
    closep(&e->host_fd);
    inject(d, e, &e->syn);
    wait_in(d, e, STATE_SLIRP, SLIRP_MS);
}

/* ---- OPEN ---- */

/* Both sockets are there; @fd is the guest's side. */
static void opened(struct divert *d, struct entry *e, int fd) RUNS_ON(role_fwd)
{
    int host_fd = steal_fd(&e->host_fd);

    e->state = STATE_OPEN;
    d->n_flows++;
    publish(d, e, true);
    entry_send_syn_ack(e); /* before the first byte: a guest that waits for it would drop data */
    counter_add_shared(COUNTER_divert_flows, 1);
    (void)flow_socket_prepare(
        host_fd); /* failing costs latency only; not before the SYN-ACK, for its speed */
    if (workers_give(d->config.workers, host_fd, fd, FLOW_CONNECTED, &e->user) < 0) {
        close(host_fd); /* the worker's queue is full: the guest sees the connection end */
        close(fd);
        entry_ended(d, e);
    }
}

void entry_ended(struct divert *d, struct entry *e)
{
    d->n_flows--;
    linger(d, e);
}

/* ---- BUILDING ---- */

/* Why a guest's side could not be built. */
static enum counter_id build_reason(int r)
{
    return r == -EPIPE    ? COUNTER_divert_fallback_no_agent
           : r == -EAGAIN ? COUNTER_divert_fallback_agent_busy
           : r == -ENFILE ? COUNTER_divert_fallback_table_full
                          : COUNTER_divert_fallback_agent_failed;
}

/* Can packets of its addresses be led to lo? AGENT_READY, AGENT_NOT_YET, or why not. */
static enum agent_reason reach(struct divert *d, const struct entry *e) RUNS_ON(role_fwd)
{
    const struct agent *agent = workers_agent(d->config.workers);
    enum agent_reason reason = agent_family_state(agent, e->source.sa.sa_family);

    if (reason == AGENT_NO_SYSCTL) /* that is for the connections that servers of the guest accept */
        reason = AGENT_READY;
    return reason == AGENT_READY && d->no_nested && !agent_is_local(agent, &e->source) ? AGENT_NO_RULES
                                                                                       : reason;
}

static_assert(COUNTER_divert_fallback_no_transparent - COUNTER_divert_fallback_no_agent ==
                  AGENT_NO_TRANSPARENT - AGENT_NO_AGENT,
              "the agent's reasons and their counters are in one order");

static enum counter_id unreachable_reason(enum agent_reason reason)
{
    return COUNTER_divert_fallback_no_agent + (reason - AGENT_NO_AGENT);
}

/* False: the agent is too busy to hear it, or has ended. It goes to libslirp if it cannot be had. */
static bool ask(struct divert *d, struct entry *e) RUNS_ON(role_fwd)
{
    struct agent *agent = workers_agent(d->config.workers);
    int r = agent_divert(agent, id_of(d, e), &e->spec);

    if (r == -EAGAIN || r == -EPIPE) /* -EPIPE: it has ended, which will be seen */
        return false;
    link_take_out(&e->waiting);
    e->agent = agent_generation(agent);
    if (r < 0)
        give_to_slirp(d, e, build_reason(r));
    else
        e->own_element = r == 1;
    return true;
}

bool entry_ask_first(struct divert *d, int index, bool can_hear, int64_t now_ns)
{
    struct agent *agent = workers_agent(d->config.workers);
    struct entry *e = container_of(d->unasked[index].next, struct entry, waiting);
    enum agent_reason reason = reach(d, e);
    int64_t waited_ns = now_ns - max_i64(e->since_ns, d->held_ns[index]);

    if (reason == AGENT_READY && waited_ns < UNASKED_MS * NS_PER_MS)
        return can_hear && !agent_is_deaf(agent) && ask(d, e);
    if (reason == AGENT_NOT_YET && agent_is_awaited(agent, e->source.sa.sa_family)) {
        d->held_ns[index] = now_ns;
        return false;
    }
    give_to_slirp(d, e,
                  reason == AGENT_READY ? COUNTER_divert_fallback_agent_busy : unreachable_reason(reason));
    return true;
}

static void build(struct divert *d, struct entry *e) RUNS_ON(role_fwd)
{
    struct agent *agent = workers_agent(d->config.workers);
    struct link *unasked = &d->unasked[family_index(e->source.sa.sa_family)];
    struct packet p;
    int r, fd = -1;

    parse_syn(e, &p);
    e->spec = (struct repair_spec){
        .local = e->destination,
        .peer = e->source,
        .wscale = repair_wscale(),
    };
    handshake_read_syn(&e->spec, &p);
    if (getrandom(&e->spec.isn, sizeof(e->spec.isn), GRND_NONBLOCK) != sizeof(e->spec.isn))
        e->spec.isn = (uint32_t)clock_monotonic_ns();
    r = agent_divert_now(agent, &e->spec, &fd);
    if (r == 0) {
        opened(d, e, fd);
        return;
    }
    e->state = STATE_BUILDING;
    d->n_building++;
    if (r != -EAGAIN)
        give_to_slirp(d, e, build_reason(r));
    else if (!link_is_alone(unasked) || reach(d, e) != AGENT_READY || !ask(d, e)) { /* in their order */
        e->since_ns = clock_monotonic_ns();
        link_insert_before(unasked, &e->waiting);
    }
}

void entry_answered(struct divert *d, struct entry *e, int result, int fd)
{
    if (result < 0 && !e->own_element) {
        give_to_slirp(d, e, COUNTER_divert_fallback_agent_failed);
        return;
    }
    if (result != 0) {
        entry_withdraw(d, e, COUNTER_divert_fallback_agent_failed);
        return;
    }
    building_over(d, e);
    opened(d, e, fd);
}

bool entry_ask_again(struct divert *d, struct entry *e)
{
    struct agent *agent = workers_agent(d->config.workers);
    uint32_t generation = agent_generation(agent);
    int r;

    if (e->agent == generation || !link_is_alone(&e->waiting))
        return true;
    r = agent_divert(agent, id_of(d, e), &e->spec);
    if (r == -EAGAIN || r == -EPIPE) /* -EPIPE: it has ended, too, which will be seen */
        return false;
    e->agent = generation;
    if (r < 0) /* the former one may have added the element */
        entry_withdraw(d, e, build_reason(r));
    else
        e->own_element = e->own_element || r == 1;
    return true;
}

void entry_withdraw(struct divert *d, struct entry *e, enum counter_id reason)
{
    struct packet p;

    if (!link_is_alone(&e->waiting) ||
        undivert(d, e)) { /* nobody has been asked for an element; or it goes */
        give_to_slirp(d, e, reason);
        return;
    }
    divert_count_fallback(reason);
    building_over(d, e);
    closep(&e->host_fd);
    parse_syn(e, &p);
    if (agent_is_gone(workers_agent(d->config.workers)))
        send_reset(d, &p); /* else, when it has heard, a repeated SYN begins anew */
    e->withdrawn = true;
    publish(d, e, true);
    linger(d, e);
}

/* ---- CONNECTING ---- */

/* Why the host's socket could not be had or connected. */
static enum counter_id connect_reason(int error)
{
    return error == EMFILE || error == ENFILE || error == ENOBUFS || error == ENOMEM
               ? COUNTER_divert_fallback_descriptors
               : COUNTER_divert_fallback_connect;
}

/* Its answer takes time. Too many: the oldest one goes without a word; the guest's SYN comes again. */
static void connecting_begin(struct divert *d, struct entry *e) RUNS_ON(role_fwd)
{
    e->since_ns = clock_monotonic_ns();
    link_insert_before(&d->connecting, &e->waiting);
    d->n_connecting++;
    counter_add_shared(COUNTER_divert_half_open, 1);
    for (;;) {
        struct entry *oldest = container_of(d->connecting.next, struct entry, waiting);

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

void entry_decided(struct divert *d, struct entry *e)
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

/* ---- a SYN ---- */

/* The first one of a connection. */
static void start(struct divert *d, const struct syn *s, const struct packet *p) RUNS_ON(role_fwd)
{
    struct entry *e = entry_new(d, s, p);
    enum destination_state state = DESTINATION_CONNECTING;
    struct agent *agent = workers_agent(d->config.workers);
    enum agent_reason reason;
    uint32_t n_building;
    int r;

    if (!e) {
        divert_count_fallback(COUNTER_divert_fallback_table_full);
        d->config.inject(d->config.arg, s->frame, s->size);
        return;
    }
    reason = reach(d, e);
    /* Not yet: the host's side takes its time, too. */
    if (reason != AGENT_READY &&
        (reason != AGENT_NOT_YET || !agent_is_awaited(agent, e->source.sa.sa_family))) {
        agent_look(agent);
        give_to_slirp(d, e, unreachable_reason(reason));
        return;
    }
    e->state = STATE_CONNECTING;
    n_building = d->n_building + (reason == AGENT_NOT_YET ? d->n_connecting : 0); /* they will be, soon */
    if (n_building >= d->building_max) { /* as at a full backlog: the guest's SYN comes again */
        counter_add_shared(COUNTER_divert_half_open_evicted, 1);
        entry_free(d, e);
        return;
    }
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
        entry_decided(d, e);
        return;
    }
    r = workers_watch(d->config.workers, d->lodger, e->host_fd, EPOLLOUT, id_of(d, e));
    if (r < 0)
        give_to_slirp(d, e, connect_reason(-r));
    else
        connecting_begin(d, e);
}

void entry_handle_syn(struct divert *d, const struct syn *s)
{
    struct entry **place = place_of(d, s->key), *e = place ? *place : NULL;
    struct packet p;

    (void)packet_parse(&p, s->frame, s->size);
    switch (e ? e->state : STATE_FREE) {
    case STATE_CONNECTING: /* the guest may have given up and begun again with the same port: the last SYN
                              counts */
        e->syn = *s;
        return;
    case STATE_BUILDING: /* ditto, while nobody has been asked */
        if (!link_is_alone(&e->waiting)) {
            e->syn = *s;
            handshake_read_syn(&e->spec, &p);
        }
        return;
    case STATE_OPEN:
        if (handshake_sequence(&p) == e->spec.peer_isn) /* our SYN-ACK was lost */
            send_syn_ack(d, e, &p);
        return;
    case STATE_SLIRP:
        inject(d, e, s);
        return;
    case STATE_LINGER: /* the guest uses the port again, unless it is a repetition that was long on its way */
        if (handshake_sequence(&p) == e->spec.peer_isn && !e->withdrawn)
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
