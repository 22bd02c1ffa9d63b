/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * forward.c
 *
 * Every TCP listener is ours and lodges on the first worker's loop. A connection is accepted in a batch of
 * others and takes one of two paths:
 *
 *   splice   a socket from the agent's stock is bound to the address that the guest shall see (the client's
 * own, the gateway's for clients on the host's loopback; another port if that one is taken) and connects to
 * the guest's server inside the guest's namespace; a worker joins the two. Refused: the client is reset.
 *   slirp    the hook hands the connection to libslirp, which connects to the guest over the TAP.
 *
 * The first needs an agent, a guest address that is the guest's own (routed or translated ones would need
 * conntrack's help) and a client address that can be shown; and a guest that answers within CONNECT_MS,
 * because a namespace whose own rules lead the connection astray is not seen otherwise (or later, if it has
 * too much to do: answers.h). Until the agent has looked around, and while its stock is empty, connections
 * wait, WAIT_MS at most. In every other case the connection takes the second path; nothing has been read from
 * it, so nothing is lost. list_hostfwd shows the path of a forward's last connection and the reason,
 * statistics count.
 *
 * Control (the api thread) and accepting (fwd-0) meet in the table of listeners, under one lock that is held
 * for a batch of accept4(2) at most; an event for a listener that has gone meanwhile finds another generation
 * in its slot. What a forward counts outlives it (struct tally): its connections may.
 *
 * When descriptors run out, the listener is not asked again for PAUSE_MS: connections wait in its backlog
 * instead of waking us for nothing.
 *
 * Lock order: forwards.lock is taken alone; the hooks are called without it.
 */
#include "fwd/forward.h"

#include "base/bits.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/counters.h"
#include "base/log.h"
#include "fwd/agent_protocol.h"
#include "fwd/answers.h"

#include <assert.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/socket.h>

enum {
    BACKLOG = 4096, /* the kernel cuts it to net.core.somaxconn */
    ACCEPT_BATCH = 64,
    PAUSE_MS = 100,
    CONNECT_MS = 1000, /* for the guest's server to accept, over its lo */
    SLOT_BITS = 24,
    ROOM_MAX = 4096,       /* as many as a full backlog brings at once */
    WAIT_MS = 2000,        /* how long a connection waits for the agent to look around and make sockets */
    ROOM_LOOK_MS = 200,    /* how often it looks, besides when some come */
    SLIRP_BUSY_MS = 5,     /* until the slirp thread may have taken some of those that it was given */
    CARRIED_PER_TURN = 64, /* of those that have waited */
};

/* Why a forward's last connection did not take splice's path. */
enum reason {
    REASON_NONE,
    REASON_ASKED_FOR,
    REASON_NO_SPLICE,
    REASON_CLIENT_ADDRESS,
    REASON_NO_SOCKET,
    REASON_CONNECT,
    REASON_QUEUE,   /* the workers have too much to do */
    REASON_REFUSED, /* no reason to take another path: the client is told */
    REASON_GONE,    /* ditto: it has reset the connection */
    REASON_AGENT,   /* this plus an enum agent_reason */
};

/* What a forward counts. Written by fwd workers, read by api, relaxed: nothing else depends on it. */
struct tally {
    _Atomic uint32_t n_refs; /* the forward, each of its connections */
    _Atomic uint32_t reason; /* enum reason */
    _Atomic uint64_t n_connections, bytes_to_guest, bytes_to_host;
    struct answers answers;
};

struct connection {
    struct flow_user user;
    struct forwards *forwards;
    struct tally *tally;
    union address guest, shown; /* shown: of the client, to the guest */
};

struct listener {
    int fd; /* -1: free slot */
    uint32_t generation;
    bool paused, slirp; /* slirp: that path was asked for */
    union address guest;
    struct tally *tally; /* the forward's reference keeps it */
};

struct waiting { /* a connection that waits for the agent: is_worth_waiting() */
    int fd;
    struct listener listener;
    int64_t until_ns;
};

/* Of one family: the agent has another word for each. */
struct waiting_room {
    struct waiting places[ROOM_MAX]; /* a ring */
    uint32_t first, n;
};

struct forward {
    uint64_t id;
    struct forward_spec spec;
    uint32_t *listeners; /* TCP: a slot per port */
    void **udp_handles;  /* UDP: a handle per port */
    struct tally *tally;
};

struct forwards {
    struct forwards_config config; /* fixed before threads start */
    unsigned lodger;               /* ditto */

    struct forward **table OWNED_BY(role_api); /* in the order they were added */
    uint32_t n_table OWNED_BY(role_api);
    uint64_t last_id OWNED_BY(role_api);

    struct waiting_room rooms[AGENT_FAMILIES] OWNED_BY(role_fwd); /* by family_index() */
    int64_t resume_ns OWNED_BY(role_fwd); /* when paused listeners are asked again; 0: none are */

    pthread_mutex_t lock;
    struct listener *listeners; /* under lock */
    uint32_t n_listeners;       /* under lock: slots */
};

static uint64_t listener_value(uint32_t slot, uint32_t generation)
{
    return (uint64_t)(generation & ((1u << SLOT_BITS) - 1)) << SLOT_BITS | slot;
}

static struct tally *tally_new(void)
{
    struct tally *t = calloc(1, sizeof(*t));

    if (t)
        atomic_store_explicit(&t->n_refs, 1, memory_order_relaxed); /* nobody else has it yet */
    return t;
}

static struct tally *tally_ref(struct tally *t)
{
    atomic_fetch_add_explicit(&t->n_refs, 1, memory_order_relaxed); /* the caller holds a reference */
    return t;
}

static void tally_unref(struct tally *t)
{
    /* Release: our writes come before whoever frees it; acquire: the one who frees sees all of them. */
    if (t && atomic_fetch_sub_explicit(&t->n_refs, 1, memory_order_acq_rel) == 1)
        free(t);
}

/* ---- listeners ---- */

static int listen_on(const union address *host, const struct forward_spec *spec, struct failure *why)
{
    static const int one = 1;
    int family = host->sa.sa_family, v6_only = spec->v6_only;
    _cleanup_close_ int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    const char *hint = NULL;

    if (fd < 0)
        return failure(why, -errno, "raise RLIMIT_NOFILE", "cannot make a socket for TCP port %u",
                       address_port(host));
    /* Connections inherit what flow_socket_prepare() sets. */
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) == 0 && flow_socket_prepare(fd) == 0 &&
        (family != AF_INET6 || setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &v6_only, sizeof(v6_only)) == 0) &&
        bind(fd, &host->sa, address_size(host)) == 0 && listen(fd, BACKLOG) == 0)
        return steal_fd(&fd);
    if (errno == EADDRINUSE)
        hint = "another program or forward has it";
    else if (errno == EACCES)
        hint = "ports below net.ipv4.ip_unprivileged_port_start need CAP_NET_BIND_SERVICE";
    return failure(why, -errno, hint, "cannot listen on TCP port %u of the host", address_port(host));
}

/* Takes @fd over. Returns the slot or a negative errno. */
static int64_t listener_add(struct forwards *f, int fd, const union address *guest, struct forward *fw)
{
    struct listener *l;
    int64_t r = 0;
    uint32_t slot;

    pthread_mutex_lock(&f->lock);
    for (slot = 0; slot < f->n_listeners && f->listeners[slot].fd >= 0; slot++)
        ;
    if (slot >> SLOT_BITS) {
        r = -ENOSPC;
        goto out;
    }
    if (slot == f->n_listeners) {
        uint32_t n = f->n_listeners ? 2 * f->n_listeners : 16;

        l = realloc(f->listeners, n * sizeof(*l));
        if (!l) {
            r = -ENOMEM;
            goto out;
        }
        f->listeners = l;
        for (; f->n_listeners < n; f->n_listeners++)
            l[f->n_listeners] = (struct listener){.fd = -1};
    }
    l = &f->listeners[slot];
    r = workers_watch(f->config.workers, f->lodger, fd, EPOLLIN, listener_value(slot, ++l->generation));
    if (r < 0)
        goto out;
    l->fd = fd;
    l->paused = false;
    l->slirp = fw->spec.path == FORWARD_SLIRP;
    l->guest = *guest;
    l->tally = fw->tally;
    r = slot;
out:
    pthread_mutex_unlock(&f->lock);
    if (r < 0)
        close(fd);
    return r;
}

static void listener_remove(struct forwards *f, uint32_t slot)
{
    pthread_mutex_lock(&f->lock);
    close(f->listeners[slot].fd); /* leaves the epoll set with it */
    f->listeners[slot].fd = -1;
    f->listeners[slot].tally = NULL;
    pthread_mutex_unlock(&f->lock);
}

/* ---- a connection ---- */

static void set_reason(struct tally *t, uint32_t reason)
{
    atomic_store_explicit(&t->reason, reason, memory_order_relaxed);
}

static void on_flow_bytes(struct flow_user *user, uint64_t to_guest, uint64_t to_host)
{
    struct connection *c = (struct connection *)user;

    atomic_fetch_add_explicit(&c->tally->bytes_to_guest, to_guest, memory_order_relaxed);
    atomic_fetch_add_explicit(&c->tally->bytes_to_host, to_host, memory_order_relaxed);
}

static void refuse(int fd)
{
    counter_add_shared(COUNTER_fwd_refused, 1);
    close(fd);
}

/* The path through libslirp, which takes @fd or nobody does. */
static void carry_by_slirp(struct forwards *f, int fd, const union address *guest)
{
    if (f->config.hooks.adopt(f->config.hooks.arg, fd, guest) < 0)
        refuse(fd);
}

static void reset(int fd)
{
    static const struct linger now = {.l_onoff = 1, .l_linger = 0};

    (void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now)); /* failing makes it an orderly end */
    close(fd);
}

static_assert(COUNTER_splice_fallback_not_local - COUNTER_splice_fallback_no_agent ==
                  AGENT_NOT_LOCAL - AGENT_NO_AGENT,
              "the agent's reasons and their counters are in one order");

static void count_fallback(uint32_t reason)
{
    enum counter_id id = COUNTER_splice_fallback_queue_full;

    if (reason == REASON_ASKED_FOR || reason == REASON_NO_SPLICE) /* nobody wanted anything else */
        return;
    if (reason > REASON_AGENT)
        id = COUNTER_splice_fallback_no_agent + (reason - REASON_AGENT - AGENT_NO_AGENT);
    else if (reason == REASON_CLIENT_ADDRESS)
        id = COUNTER_splice_fallback_client_address;
    else if (reason == REASON_NO_SOCKET)
        id = COUNTER_splice_fallback_no_socket;
    else if (reason == REASON_CONNECT)
        id = COUNTER_splice_fallback_no_answer;
    counter_add_shared(COUNTER_splice_fallback, 1);
    counter_add_shared(id, 1);
}

/* The flow could not be started: that says nothing about the guest. */
static bool is_own_fault(int error)
{
    return error == EMFILE || error == ENFILE || error == ENOMEM || error == ENOBUFS || error == ENOSPC;
}

static void on_flow_end(struct flow_user *user, enum flow_end end, int connect_error, int host_fd)
{
    struct connection *c = (struct connection *)user;

    if (end == FLOW_REFUSED && connect_error == ECONNREFUSED) {
        counter_add_shared(COUNTER_splice_refused, 1);
        reset(host_fd);
    } else if (end == FLOW_REFUSED && is_own_fault(connect_error)) {
        count_fallback(REASON_QUEUE);
        set_reason(c->tally, REASON_QUEUE);
        carry_by_slirp(c->forwards, host_fd, &c->guest);
    } else if (end == FLOW_REFUSED) {
        count_fallback(REASON_CONNECT);
        set_reason(c->tally, REASON_CONNECT);
        answers_note_silence(&c->tally->answers, answers_key(&c->shown, &c->guest), clock_monotonic_ns());
        carry_by_slirp(c->forwards, host_fd, &c->guest);
    }
    tally_unref(c->tally);
    free(c);
}

static void on_flow_connected(struct flow_user *user)
{
    const struct connection *c = (const struct connection *)user;

    answers_note(&c->tally->answers, answers_key(&c->shown, &c->guest), clock_monotonic_ns());
}

static bool on_flow_late(struct flow_user *user, int64_t waited_ns)
{
    const struct connection *c = (const struct connection *)user;

    return waited_ns < ANSWERS_BUSY_MS * NS_PER_MS &&
           answers_is_busy(&c->tally->answers, answers_key(&c->shown, &c->guest), clock_monotonic_ns());
}

static void describe(const struct flow_user *user, struct flow_info *info)
{
    const struct connection *c = (const struct connection *)user;

    info->guest = c->guest;
    info->remote = c->shown;
    info->inbound = true;
}

static const struct flow_owner flow_owner = {
    .on_end = on_flow_end,
    .on_bytes = on_flow_bytes,
    .on_connected = on_flow_connected,
    .on_late = on_flow_late,
    .tier = "splice-forward",
    .describe = describe,
};

/* What the guest shall see as the client of @fd. REASON_NONE, or why there is nothing. */
static uint32_t shown_address(struct forwards *f, int fd, int family, union address *ret)
{
    union address client = {.sa.sa_family = AF_UNSPEC};
    socklen_t size = sizeof(client);
    uint16_t port;

    if (getpeername(fd, &client.sa, &size) < 0)
        return REASON_GONE;
    address_unmap(&client);
    /* A loopback source must never reach the guest (CVE-2021-20199); one of its own link is somebody else
     * there. */
    if (address_is_self(&client) || (client.sa.sa_family == family &&
                                     address_is_on_link(&client, f->config.network, f->config.netmask))) {
        port = address_port(&client);
        memset(ret, 0, sizeof(*ret));
        ret->sa.sa_family = (sa_family_t)family;
        if (family == AF_INET)
            ret->in.sin_addr = f->config.gateway;
        else
            ret->in6.sin6_addr = f->config.gateway6;
        address_set_port(ret, port);
        return REASON_NONE;
    }
    *ret = client;
    return client.sa.sa_family == family ? REASON_NONE : REASON_CLIENT_ADDRESS;
}

/* A socket that is @shown connects to @guest. */
static uint32_t connect_as(struct agent *agent, const union address *shown, const union address *guest,
                           int *ret) RUNS_ON(role_fwd)
{
    _cleanup_close_ int fd = agent_take_socket(agent, guest->sa.sa_family);

    if (fd < 0)
        return REASON_NO_SOCKET;
    if (bind(fd, &shown->sa, address_size(shown)) < 0)
        return REASON_CLIENT_ADDRESS;
    if (connect(fd, &guest->sa, address_size(guest)) < 0 && errno != EINPROGRESS) {
        if (errno == ECONNREFUSED) /* over lo the answer comes before connect(2) returns */
            return REASON_REFUSED;
        /* Somebody has this address and port in front of the server already, maybe in TIME_WAIT. */
        return errno == EADDRNOTAVAIL || errno == EADDRINUSE ? REASON_CLIENT_ADDRESS : REASON_CONNECT;
    }
    *ret = steal_fd(&fd);
    return REASON_NONE;
}

/* Why a connection cannot take splice's path, as far as is known without a socket; @ret is what the guest
 * shall see.
 */
static uint32_t why_not(struct forwards *f, int fd, const struct listener *l, union address *ret)
    RUNS_ON(role_fwd)
{
    struct agent *agent = workers_agent(f->config.workers);
    enum agent_reason reason;
    uint32_t r;

    if (l->slirp)
        return REASON_ASKED_FOR;
    if (!f->config.splice || !agent)
        return REASON_NO_SPLICE;
    r = shown_address(f, fd, l->guest.sa.sa_family, ret);
    if (r != REASON_NONE)
        return r;
    if (answers_is_astray(&l->tally->answers, answers_key(ret, &l->guest), clock_monotonic_ns()))
        return REASON_CONNECT;
    reason = agent_can_reach(agent, &l->guest);
    return reason == AGENT_READY ? REASON_NONE : REASON_AGENT + reason;
}

/* A socket in the guest's namespace on its way to the guest's server. REASON_NONE, or why there is none. */
static uint32_t connect_guest(struct forwards *f, int fd, const struct listener *l, int *ret,
                              union address *ret_shown) RUNS_ON(role_fwd)
{
    struct agent *agent = workers_agent(f->config.workers);
    uint32_t r = why_not(f, fd, l, ret_shown);

    if (r != REASON_NONE)
        return r;
    r = connect_as(agent, ret_shown, &l->guest, ret);
    if (r == REASON_CLIENT_ADDRESS) { /* the port is taken, or privileged: another one */
        address_set_port(ret_shown, 0);
        r = connect_as(agent, ret_shown, &l->guest, ret);
    }
    return r;
}

/* It passes: the path that a connection begins with is the one it keeps. */
static bool is_worth_waiting(struct forwards *f, const struct listener *l, uint32_t reason) RUNS_ON(role_fwd)
{
    return (reason == REASON_NO_SOCKET || reason == REASON_AGENT + AGENT_NOT_YET) &&
           agent_is_awaited(workers_agent(f->config.workers), l->guest.sa.sa_family);
}

/* REASON_NONE: it is on its way, and @fd is the worker's. REASON_REFUSED, REASON_GONE: that is its end. Else
 * why it is to take libslirp's path. */
static uint32_t carry_by_splice(struct forwards *f, int fd, const struct listener *l) RUNS_ON(role_fwd)
{
    struct connection *c;
    int guest_fd = -1;
    union address shown = {.sa.sa_family = AF_UNSPEC};
    uint32_t reason = connect_guest(f, fd, l, &guest_fd, &shown);

    if (reason != REASON_NONE)
        return reason;
    c = malloc(sizeof(*c));
    if (c)
        *c = (struct connection){
            .user.owner = &flow_owner,
            .forwards = f,
            .tally = tally_ref(l->tally),
            .guest = l->guest,
            .shown = shown,
        };
    set_reason(l->tally, REASON_NONE); /* before the worker may know better */
    if (c && workers_give(f->config.workers, fd, guest_fd, CONNECT_MS, &c->user) == 0)
        return REASON_NONE;
    close(guest_fd);
    if (c)
        tally_unref(c->tally);
    free(c);
    return REASON_QUEUE;
}

enum carried {
    CARRIED,        /* somebody has it now, or it is closed */
    AWAITS_AGENT,   /* it is the caller's, who tries again when the agent has said or sent something */
    AWAITS_LIBSLIRP /* ditto, when the slirp thread has taken some of those that it was given */
};

/* @may_wait: for the agent. */
static enum carried carry(struct forwards *f, int fd, const struct listener *l, bool may_wait)
    RUNS_ON(role_fwd)
{
    uint32_t reason = carry_by_splice(f, fd, l);
    int r;

    switch (reason) {
    case REASON_NONE:
        counter_add_shared(COUNTER_splice_flows, 1);
        break;
    case REASON_REFUSED:
        counter_add_shared(COUNTER_splice_refused, 1);
        set_reason(l->tally, reason);
        reset(fd);
        break;
    case REASON_GONE:
        close(fd);
        break;
    default:
        if (may_wait && is_worth_waiting(f, l, reason))
            return AWAITS_AGENT;
        r = f->config.hooks.adopt(f->config.hooks.arg, fd, &l->guest);
        if (r == -EAGAIN)
            return AWAITS_LIBSLIRP;
        count_fallback(reason);
        set_reason(l->tally, reason);
        if (r < 0)
            refuse(fd);
    }
    return CARRIED;
}

static struct waiting_room *room_of(struct forwards *f, const struct listener *l) RUNS_ON(role_fwd)
{
    return &f->rooms[family_index(l->guest.sa.sa_family)];
}

/* False: no room. */
static bool let_wait(struct waiting_room *room, int fd, const struct listener *l)
{
    int64_t until_ns = clock_monotonic_ns() + WAIT_MS * NS_PER_MS;

    if (room->n == ROOM_MAX)
        return false;
    tally_ref(l->tally);
    room->places[(room->first + room->n++) % ROOM_MAX] =
        (struct waiting){.fd = fd, .listener = *l, .until_ns = until_ns};
    return true;
}

/* One that has just been accepted; not before those that wait for the same. */
static void carry_new(struct forwards *f, int fd, const struct listener *l) RUNS_ON(role_fwd)
{
    struct waiting_room *room = room_of(f, l);
    union address shown = {.sa.sa_family = AF_UNSPEC};
    uint32_t reason = room->n > 0 ? why_not(f, fd, l, &shown) : REASON_NONE;

    if (room->n > 0 && (reason == REASON_NONE || is_worth_waiting(f, l, reason)) && let_wait(room, fd, l))
        return;
    if (carry(f, fd, l, room->n < ROOM_MAX) != CARRIED && !let_wait(room, fd, l))
        refuse(fd);
}

/* Those that wait, in the order they came. Returns for how many ms nobody need ask again; -1: nobody waits.
 */
static int carry_waiting(struct forwards *f, struct waiting_room *room) RUNS_ON(role_fwd)
{
    int64_t now_ns;

    if (room->n == 0)
        return -1;
    now_ns = clock_monotonic_ns();
    for (int i = 0; i < CARRIED_PER_TURN && room->n > 0; i++) {
        struct waiting *first = &room->places[room->first];

        enum carried c = carry(f, first->fd, &first->listener, now_ns < first->until_ns);

        if (c != CARRIED)
            return c == AWAITS_LIBSLIRP ? SLIRP_BUSY_MS : ROOM_LOOK_MS;
        tally_unref(first->listener.tally);
        room->first = (room->first + 1) % ROOM_MAX;
        room->n--;
    }
    return room->n > 0 ? 0 : -1;
}

/* ---- fwd-0 ---- */

static void pause_accepting(struct forwards *f, struct listener *l, uint64_t value) RUNS_ON(role_fwd)
{
    if (workers_rewatch(f->config.workers, f->lodger, l->fd, 0, value) < 0)
        return;
    l->paused = true;
    if (f->resume_ns == 0)
        f->resume_ns = clock_monotonic_ns() + PAUSE_MS * NS_PER_MS;
}

static void accept_batch(struct forwards *f, uint64_t value) RUNS_ON(role_fwd)
{
    uint32_t slot = (uint32_t)value & ((1u << SLOT_BITS) - 1);
    static struct log_limit limit;
    struct listener listener = {.fd = -1};
    int fds[ACCEPT_BATCH], n = 0, error = 0;

    pthread_mutex_lock(&f->lock);
    if (slot < f->n_listeners && f->listeners[slot].fd >= 0 &&
        listener_value(slot, f->listeners[slot].generation) == value) {
        struct listener *l = &f->listeners[slot];

        while (n < ACCEPT_BATCH) {
            int fd = accept4(l->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

            if (fd >= 0) {
                fds[n++] = fd;
            } else if (errno != ECONNABORTED && errno != EINTR) {
                error = errno;
                break;
            }
        }
        atomic_fetch_add_explicit(&l->tally->n_connections, (uint64_t)n, memory_order_relaxed);
        if (error != 0 && error != EAGAIN)
            pause_accepting(f, l, value);
        listener = *l;
        tally_ref(listener.tally); /* the forward may be removed once the lock is gone */
    }
    pthread_mutex_unlock(&f->lock);

    if (error != 0 && error != EAGAIN) {
        errno = error;
        counter_add_shared(COUNTER_fwd_accept_paused, 1);
        log_limited(&limit, LOG_LEVEL_WARNING, "forward: cannot accept connections for the moment: %m");
    }
    for (int i = 0; i < n; i++)
        carry_new(f, fds[i], &listener);
    tally_unref(listener.tally);
    counter_add_shared(COUNTER_fwd_accepted, (uint64_t)n);
}

static void resume_paused(struct forwards *f) RUNS_ON(role_fwd)
{
    f->resume_ns = 0;
    pthread_mutex_lock(&f->lock);
    for (uint32_t slot = 0; slot < f->n_listeners; slot++) {
        struct listener *l = &f->listeners[slot];

        if (l->fd < 0 || !l->paused)
            continue;
        if (workers_rewatch(f->config.workers, f->lodger, l->fd, EPOLLIN,
                            listener_value(slot, l->generation)) == 0)
            l->paused = false;
        else
            f->resume_ns = clock_monotonic_ns() + PAUSE_MS * NS_PER_MS;
    }
    pthread_mutex_unlock(&f->lock);
}

static void on_event(void *arg, uint64_t value, uint32_t events)
{
    role_assert(&role_fwd);
    (void)events;
    accept_batch(arg, value);
}

/* The shorter one of two times to sleep; -1: without a limit. */
static int sooner_ms(int a, int b)
{
    return a < 0 || (b >= 0 && b < a) ? b : a;
}

static int on_turn(void *arg)
{
    struct forwards *f = arg;
    int sleep_ms = -1;
    int64_t left_ns;

    role_assert(&role_fwd);
    for (int i = 0; i < AGENT_FAMILIES; i++)
        sleep_ms = sooner_ms(sleep_ms, carry_waiting(f, &f->rooms[i]));
    if (f->resume_ns == 0)
        return sleep_ms;
    left_ns = f->resume_ns - clock_monotonic_ns();
    if (left_ns > 0)
        return sooner_ms(sleep_ms, (int)(left_ns / NS_PER_MS) + 1);
    resume_paused(f);
    return f->resume_ns != 0 ? sooner_ms(sleep_ms, PAUSE_MS) : sleep_ms;
}

/* ---- the table ---- */

static void port_add_to(union address *ret, const union address *base, uint32_t i)
{
    *ret = *base;
    address_set_port(ret, (uint16_t)(address_port(base) + i));
}

/* Undoes the first @n_done ports. */
static void forward_close(struct forwards *f, struct forward *fw, uint32_t n_done)
{
    for (uint32_t i = 0; i < n_done; i++) {
        if (fw->spec.proto == IPPROTO_TCP)
            listener_remove(f, fw->listeners[i]);
        else
            f->config.hooks.udp_remove(f->config.hooks.arg, fw->udp_handles[i]);
    }
    free(fw->listeners);
    free(fw->udp_handles);
    tally_unref(fw->tally);
    free(fw);
}

static int open_port(struct forwards *f, struct forward *fw, uint32_t i, struct failure *why)
{
    union address host, guest;
    int64_t slot;
    int fd;

    port_add_to(&host, &fw->spec.host, i);
    port_add_to(&guest, &fw->spec.guest, i);
    if (fw->spec.proto == IPPROTO_UDP)
        return f->config.hooks.udp_add(f->config.hooks.arg, &host, fw->spec.v6_only, &guest,
                                       &fw->udp_handles[i], why);
    fd = listen_on(&host, &fw->spec, why);
    if (fd < 0)
        return fd;
    slot = listener_add(f, fd, &guest, fw);
    if (slot < 0)
        return failure(why, (int)slot, NULL, "cannot watch TCP port %u", address_port(&host));
    fw->listeners[i] = (uint32_t)slot;
    return 0;
}

int forwards_add(struct forwards *f, const struct forward_spec *spec, uint64_t *ret_id, struct failure *why)
{
    struct forward *fw, **table;
    uint32_t i;
    int r;

    if (f->n_table >= FORWARDS_MAX)
        return failure(why, -ENOSPC, "remove some", "there are %d forwards already", FORWARDS_MAX);
    fw = calloc(1, sizeof(*fw));
    if (!fw)
        return failure(why, -ENOMEM, NULL, "cannot allocate a forward");
    fw->spec = *spec;
    fw->listeners = calloc(spec->n_ports, sizeof(*fw->listeners));
    fw->udp_handles = calloc(spec->n_ports, sizeof(*fw->udp_handles));
    fw->tally = tally_new();
    table = realloc(f->table, (f->n_table + 1) * sizeof(struct forward *));
    if (table)
        f->table = table;
    if (!fw->listeners || !fw->udp_handles || !fw->tally || !table) {
        forward_close(f, fw, 0);
        return failure(why, -ENOMEM, NULL, "cannot allocate a forward");
    }
    for (i = 0; i < spec->n_ports; i++) {
        r = open_port(f, fw, i, why);
        if (r < 0) {
            forward_close(f, fw, i);
            return r;
        }
    }
    fw->id = ++f->last_id;
    f->table[f->n_table++] = fw;
    *ret_id = fw->id;
    return 0;
}

int forwards_remove(struct forwards *f, uint64_t id, struct failure *why)
{
    for (uint32_t i = 0; i < f->n_table; i++) {
        if (f->table[i]->id != id)
            continue;
        forward_close(f, f->table[i], f->table[i]->spec.n_ports);
        memmove(f->table + i, f->table + i + 1, (f->n_table - i - 1) * sizeof(struct forward *));
        f->n_table--;
        return 0;
    }
    return failure(why, -ENOENT, "list_hostfwd shows the ids", "no forward has id %llu",
                   (unsigned long long)id);
}

static const char *reason_text(uint32_t reason)
{
    switch (reason) {
    case REASON_NONE:
    case REASON_REFUSED:
    case REASON_GONE: /* never said */
        return "";
    case REASON_ASKED_FOR:
        return "asked for";
    case REASON_NO_SPLICE:
        return "splice is switched off, or there is no namespace to enter";
    case REASON_CLIENT_ADDRESS:
        return "the last client's address cannot be shown inside the guest";
    case REASON_NO_SOCKET:
        return "no socket of the guest's namespace was at hand";
    case REASON_CONNECT:
        return "the guest did not answer inside its namespace";
    case REASON_QUEUE:
        return "too many connections at the same moment";
    default:
        return agent_reason_text((enum agent_reason)(reason - REASON_AGENT));
    }
}

/* Before the first connection: what is known without one. */
static uint32_t expected_reason(const struct forwards *f, const struct forward *fw)
{
    if (fw->spec.path == FORWARD_SLIRP)
        return REASON_ASKED_FOR;
    if (!f->config.splice)
        return REASON_NO_SPLICE;
    return atomic_load_explicit(&fw->tally->reason, memory_order_relaxed);
}

void forwards_each(struct forwards *f, void (*visit)(const struct forward_info *info, void *arg), void *arg)
{
    for (uint32_t i = 0; i < f->n_table; i++) {
        struct forward *fw = f->table[i];
        struct forward_info info = {.id = fw->id, .spec = fw->spec};

        if (fw->spec.proto == IPPROTO_TCP) {
            uint32_t reason = expected_reason(f, fw);

            info.path = reason == REASON_NONE || reason == REASON_REFUSED ? "splice" : "slirp";
            info.reason = reason_text(reason);
            info.n_connections = atomic_load_explicit(&fw->tally->n_connections, memory_order_relaxed);
            info.bytes_to_guest = atomic_load_explicit(&fw->tally->bytes_to_guest, memory_order_relaxed);
            info.bytes_to_host = atomic_load_explicit(&fw->tally->bytes_to_host, memory_order_relaxed);
        } else {
            info.path = "direct";
            info.reason = "";
            for (uint32_t port = 0; port < fw->spec.n_ports; port++) {
                uint64_t n, to_guest, to_host;

                f->config.hooks.udp_stats(f->config.hooks.arg, fw->udp_handles[port], &n, &to_guest,
                                          &to_host);
                info.n_connections += n;
                info.bytes_to_guest += to_guest;
                info.bytes_to_host += to_host;
            }
        }
        visit(&info, arg);
    }
}

int forwards_new(struct forwards **ret, const struct forwards_config *config, struct failure *why)
{
    struct forwards *f = calloc(1, sizeof(*f));

    if (!f)
        return failure(why, -ENOMEM, NULL, "cannot allocate the table of forwards");
    f->config = *config;
    pthread_mutex_init(&f->lock, NULL);
    f->lodger =
        workers_lodge(config->workers, &(struct lodger){.arg = f, .on_event = on_event, .on_turn = on_turn});
    *ret = f;
    return 0;
}

static void room_clear(struct waiting_room *room)
{
    for (; room->n > 0; room->n--) {
        close(room->places[room->first].fd);
        tally_unref(room->places[room->first].listener.tally);
        room->first = (room->first + 1) % ROOM_MAX;
    }
}

struct forwards *forwards_free(struct forwards *f) TSA(no_thread_safety_analysis) /* after threads ended */
{
    if (!f)
        return NULL;
    for (uint32_t i = 0; i < f->n_table; i++) /* the engine closes the sockets of UDP forwards itself */
        forward_close(f, f->table[i], f->table[i]->spec.proto == IPPROTO_TCP ? f->table[i]->spec.n_ports : 0);
    for (int i = 0; i < AGENT_FAMILIES; i++)
        room_clear(&f->rooms[i]);
    free(f->table);
    free(f->listeners);
    pthread_mutex_destroy(&f->lock);
    free(f);
    return NULL;
}
