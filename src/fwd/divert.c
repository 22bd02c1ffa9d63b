/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * divert.c - what the slirp thread, the flows and the agent bring, and the first worker's turns
 *
 * What becomes of a connection, its states and how one leads to another: divert_entry.c.
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

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/counters.h"
#include "base/log.h"
#include "fwd/agent.h"
#include "fwd/destination.h"
#include "fwd/divert_private.h"
#include "fwd/half_open.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum {
    AGENT_BUSY_MS = 5,      /* until it may hear more */
    AGENT_SILENT_MS = 3000, /* for which it does not answer: it takes some 100 us for each */
    AGENT_DOUBT_MS = 200,   /* then; we may all have been stopped and continued, and its answer is there */
    SYNS_PER_TURN = 64,     /* the worker has other duties, and a guest can always send more */
    ASKS_PER_TURN = 64,     /* ditto */
};

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
    taken = d->n < DIVERT_QUEUE_MAX;
    if (taken)
        d->queue[(d->first + d->n++) % DIVERT_QUEUE_MAX] = syn;
    pthread_mutex_unlock(&d->lock);
    if (taken)
        workers_notify(d->config.workers);
    else if (!(taken = take_leaked(d, key)))
        divert_count_fallback(COUNTER_divert_fallback_queue_full);
    return taken;
}

/* ---- all workers: flows ---- */

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
    entry_send_syn_ack((const struct entry *)user);
}

/* Fixed while the entry is OPEN, and given to the worker with it. */
static void describe(const struct flow_user *user, struct flow_info *info)
{
    const struct entry *e = (const struct entry *)user;

    info->guest = e->source;
    info->remote = e->destination;
}

const struct flow_owner divert_flow_owner = {
    .on_end = on_flow_end,
    .on_bytes = on_flow_bytes,
    .on_silent = on_flow_silent,
    .tier = "splice-outbound",
    .describe = describe,
};

/* ---- the first worker: the agent ---- */

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
    entry_answered(d, e, result, fd);
}

/* Its answers will not come. */
static void agent_gone(struct divert *d) RUNS_ON(role_fwd)
{
    for (uint32_t i = 0; i < DIVERT_PLACES && d->n_building > 0; i++) {
        struct entry *e = d->entries[i];

        if (e && e->state == STATE_BUILDING)
            entry_withdraw(d, e, COUNTER_divert_fallback_no_agent);
    }
}

/* The next one has taken over. False: it has not heard all of it yet. */
static bool ask_again(struct divert *d, struct agent *agent) RUNS_ON(role_fwd)
{
    for (uint32_t i = 0; i < DIVERT_PLACES && d->n_building > 0; i++) {
        struct entry *e = d->entries[i];

        if (e && e->state == STATE_BUILDING && !entry_ask_again(d, e))
            return false;
    }
    d->agent = agent_generation(agent);
    return true;
}

/* @can_hear: the agent, as far as is known. False: some wait still. */
static bool ask_waiting(struct divert *d, bool can_hear) RUNS_ON(role_fwd)
{
    bool all = true;

    for (int index = 0; index < AGENT_FAMILIES; index++) {
        const struct link *unasked = &d->unasked[index];
        int64_t now_ns = link_is_alone(unasked) ? 0 : clock_monotonic_ns();

        for (int i = 0; i < ASKS_PER_TURN && !link_is_alone(unasked); i++) {
            if (!entry_ask_first(d, index, can_hear, now_ns))
                break;
        }
        all = all && link_is_alone(unasked);
    }
    return all;
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
    heard = ask_waiting(d, heard) && heard;
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

/* Something that an open connection's packets should not have done: containers may be behind a bridge. */
static void tell_of_nested(struct divert *d, struct agent *agent) RUNS_ON(role_fwd)
{
    static struct log_limit limit;
    int r = d->no_nested ? 0 : agent_divert_nested(agent);

    if (r == 0 || r == -EAGAIN) /* the next such packet asks again */
        return;
    d->no_nested = true;
    log_limited(&limit, LOG_LEVEL_INFO, "connections of containers behind a bridge go through libslirp: %s",
                strerror(-r));
}

/* ---- the first worker: turns and events ---- */

/* False: there is none. */
static bool take_syn(struct divert *d) RUNS_ON(role_fwd)
{
    struct syn s;
    bool got;

    pthread_mutex_lock(&d->lock);
    got = d->n > 0;
    if (got) {
        s = d->queue[d->first];
        d->first = (d->first + 1) % DIVERT_QUEUE_MAX;
        d->n--;
    }
    pthread_mutex_unlock(&d->lock);
    if (got)
        entry_handle_syn(d, &s);
    return got;
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
        entry_ended(d, e);
    }
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
            heard = entry_end_lingering(d, over, n);
            n = 0;
        }
    }
    heard = heard && entry_end_lingering(d, over, n);
    d->sweep_ns = now_ns + (heard || gone ? DIVERT_SWEEP_MS : AGENT_BUSY_MS) * NS_PER_MS;
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
    entry_decided(d, e);
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
    for (int i = 0; i < AGENT_FAMILIES; i++)
        link_init(&d->unasked[i]);
    d->connecting_max = half_open_connecting_max();
    d->building_max = half_open_building_max();
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
