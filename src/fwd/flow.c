/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * flow.c
 *
 * The two directions of a flow are independent machines that share their sockets. Each moves bytes from its
 * source into a pipe and from there into its target (flow_move.c). Its states, and what leads on from them:
 *
 *   EMPTY: no pipe. The source had nothing; its next EPOLLIN, EPOLLRDHUP, EPOLLPRI or EPOLLHUP leads on.
 *
 *   QUEUED: no pipe, in flows.queue. The source may have more, but the turn's share is used up;
 *      flows_turn() leads on.
 *
 *   STARVED: no pipe, in flows.starved. None could be had; flows_turn() leads on, once there is one or after
 *      FLOW_PIPE_RETRY_MS.
 *
 *   FULL: a pipe with `held` > 0 bytes. The target takes no more; its next EPOLLOUT leads on.
 *
 *   SHUT: no pipe, for good: the source has ended, its last byte is with the target, and the target knows.
 *
 * direction_advance() runs a direction until one of these is reached; settle() enters it and is the only
 * place that does, save for the end of a flow. When both directions are SHUT the flow is over, if it is not a
 * diverted one whose guest has not acknowledged all of it (drain.h).
 *
 * What the kernel promises (of splice(2) and short reads: flow_move.c):
 *
 *  - Edge-triggered events (epoll(7)): each socket is added once, for everything; EPOLLIN comes again after
 *    the socket was emptied, EPOLLOUT after a write was cut short. So directions run until EAGAIN.
 *
 *  - tcp_reset() sets sk_err, so EPOLLERR comes, whatever the flow waits for. It implies EPOLLRDHUP and
 *    EPOLLHUP: EPOLLRDHUP is a FIN only without EPOLLERR. EPOLLHUP alone means that both ends are shut: no
 *    error, there may be bytes to read. Bytes received before a reset can still be read, then the error is
 *    reported, once; after that, reading looks like an orderly end. So SO_ERROR is asked first, and an error
 *    ends the flow.
 *
 *  - Where a reset does not matter: the source's FIN was seen, so all of its bytes are here, and the other
 *    direction is SHUT. This is how a peer that has closed long ago answers our FIN. What is left is
 *    delivered.
 *
 * Reset: when a side fails, what was received from it and can be passed on at once is; then the other side is
 * closed with SO_LINGER 0. A pipe with bytes in it is closed.
 *
 * Life of a slot: flow_end() takes the flow from every list and both sockets from the epoll set (explicitly:
 * the agent may still hold a copy of the guest's, which would keep it there), then closes them. What may
 * still name the slot are events of the batch being worked on. So the slot is DEAD, which ignores events,
 * until flows_turn(), which comes after them.
 *
 * Not done: SO_RCVLOWAT against a wake-up for each segment. A threshold holds back the last bytes of a burst,
 * so each one would need a timer; and a worker under load finds several segments per wake-up anyway.
 */
#include "fwd/flow_private.h"

#include "base/bits.h"
#include "base/clock.h"

#include <assert.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    CHUNK_FLOWS = 64,    /* the slab grows by these */
    QUEUE_TURN_MAX = 16, /* directions: the worker may have other duties */
    LATE_PER_TURN = 64,  /* flows that are ended because their guest has not answered, and then ... */
    LATE_PAUSE_MS = 5,   /* ... none for a while */
    KEEPALIVE_IDLE_S = 600,
    INDEX_SHIFT = 1, /* of the event data */
};

static const uint32_t SOCKET_EVENTS = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLPRI | EPOLLET;
static const uint32_t SOURCE_EVENTS = EPOLLIN | EPOLLRDHUP | EPOLLPRI | EPOLLHUP | EPOLLERR;
static const uint32_t TARGET_EVENTS = EPOLLOUT | EPOLLHUP | EPOLLERR;

/* ---- the table ---- */

static struct flow *flow_at(struct flows *f, uint32_t index)
{
    return index < f->n_slots ? &f->chunks[index / CHUNK_FLOWS][index % CHUNK_FLOWS] : NULL;
}

static int table_grow(struct flows *f)
{
    uint32_t n = min_u32(CHUNK_FLOWS, f->config.flows_max - f->n_slots);
    struct flow *chunk;

    if (n == 0)
        return -ENOSPC;
    chunk = calloc(n, sizeof(*chunk));
    if (!chunk)
        return -ENOMEM;
    f->chunks[f->n_slots / CHUNK_FLOWS] = chunk;
    for (uint32_t i = 0; i < n; i++) {
        chunk[i].index = f->n_slots + i;
        link_insert_before(&f->free, &chunk[i].link);
    }
    f->n_slots += n;
    return 0;
}

/* The slot is not reserved by this: it stays first in flows.free until it is taken out. */
static int table_peek(struct flows *f, struct flow **ret)
{
    int r = link_is_alone(&f->free) ? table_grow(f) : 0;

    if (r == 0)
        *ret = container_of(f->free.next, struct flow, link);
    return r;
}

/* ---- the end of a flow ---- */

static void report_bytes(struct flows *f, struct flow *flow)
{
    uint64_t to_guest = flow->unreported[HOST], to_host = flow->unreported[GUEST];

    link_take_out(&flow->changed);
    flow->unreported[HOST] = flow->unreported[GUEST] = 0;
    flow->reported[HOST] += to_guest;
    flow->reported[GUEST] += to_host;
    if (to_guest > 0 || to_host > 0)
        f->config.on_bytes(f->config.arg, flow->user, to_guest, to_host);
}

static void close_socket(struct flows *f, int fd, bool reset)
{
    static const struct linger at_once = {.l_onoff = 1, .l_linger = 0};

    if (fd < 0)
        return;
    (void)epoll_ctl(f->config.epoll_fd, EPOLL_CTL_DEL, fd, NULL);
    if (reset)
        (void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
    close(fd);
}

/* Nobody can reach the flow afterwards. Its descriptors are still open. */
static void flow_bury(struct flows *f, struct flow *flow)
{
    for (int i = 0; i < 2; i++) {
        struct direction *d = &flow->direction[i];

        link_take_out(&d->link);
        if (d->pipe.read_fd >= 0)
            pipes_drop(&f->pipes, &d->pipe);
        d->state = DIRECTION_SHUT;
    }
    half_open_remove(&f->half_opens, &flow->half_open);
    drain_remove(&flow->drain);
    link_take_out(&flow->link);
    link_insert_before(&f->dead, &flow->link);
    flow->state = FLOW_STATE_DEAD;
    f->n_flows--;
}

static void look_at(const struct flow *flow, struct flow_look *ret)
{
    bool closing = flow->direction[0].state == DIRECTION_SHUT || flow->direction[1].state == DIRECTION_SHUT;

    *ret = (struct flow_look){
        .user = flow->user,
        .state = flow->state == FLOW_STATE_CONNECTING ? "connecting"
                 : closing                            ? "closing"
                                                      : "open",
        .to_guest = flow->reported[HOST] + flow->unreported[HOST],
        .to_host = flow->reported[GUEST] + flow->unreported[GUEST],
        .started_ns = flow->started_ns,
    };
}

static void flow_end(struct flows *f, struct flow *flow, enum flow_end end, int connect_error)
{
    bool refused = end == FLOW_REFUSED;

    report_bytes(f, flow);
    if (f->config.on_closing) {
        struct flow_look look;

        look_at(flow, &look);
        f->config.on_closing(f->config.arg, &look, end);
    }
    flow_bury(f, flow);
    close_socket(f, flow->fd[GUEST], end == FLOW_RESET);
    if (refused)
        (void)epoll_ctl(f->config.epoll_fd, EPOLL_CTL_DEL, flow->fd[HOST], NULL);
    else
        close_socket(f, flow->fd[HOST], end == FLOW_RESET);
    f->config.on_end(f->config.arg, flow->user, end, connect_error, refused ? flow->fd[HOST] : -1);
}

/* Both directions have ended in order. */
static void flow_finish(struct flows *f, struct flow *flow)
{
    if (!flow->diverted || !drain_add(&f->drains, &flow->drain, flow->fd[GUEST])) {
        flow_end(f, flow, FLOW_CLOSED, 0);
        return;
    }
    half_open_remove(&f->half_opens, &flow->half_open);
    close_socket(f, flow->fd[HOST], false);
    flow->fd[HOST] = -1;
    flow->state = FLOW_STATE_DRAINING;
}

static void on_drain_over(void *arg, struct drain *d, bool lost)
{
    flow_end(arg, container_of(d, struct flow, drain), lost ? FLOW_RESET : FLOW_CLOSED, 0);
}

/* ---- the table's life ---- */

static bool is_alive(const struct flow *flow)
{
    return flow->state == FLOW_STATE_CONNECTING || flow->state == FLOW_STATE_OPEN ||
           flow->state == FLOW_STATE_DRAINING;
}

static void on_half_open_over(void *arg, struct half_open *o)
{
    flow_end(arg, container_of(o, struct flow, half_open), FLOW_RESET, 0);
}

static void on_half_open_silent(void *arg, struct half_open *o)
{
    struct flows *f = arg;

    f->config.on_silent(f->config.arg, container_of(o, struct flow, half_open)->user);
}

int flows_new(struct flows **ret, const struct flows_config *config)
{
    uint32_t n_chunks = (min_u32(config->flows_max, FLOWS_MAX) + CHUNK_FLOWS - 1) / CHUNK_FLOWS;
    struct flows *f = calloc(1, offsetof(struct flows, chunks[n_chunks]));
    int r;

    assert((uint32_t)config->tag_base == 0);
    if (!f)
        return -ENOMEM;
    f->config = *config;
    f->config.flows_max = min_u32(config->flows_max, FLOWS_MAX);
    f->n_chunks_max = n_chunks;
    link_init(&f->queue);
    link_init(&f->starved);
    link_init(&f->connecting);
    half_opens_init(&f->half_opens, config->half_open_max, config->half_open_look_ms);
    f->half_opens.arg = f;
    f->half_opens.on_over = on_half_open_over;
    f->half_opens.on_silent = on_half_open_silent;
    drains_init(&f->drains);
    f->drains.arg = f;
    f->drains.on_over = on_drain_over;
    link_init(&f->free);
    link_init(&f->dead);
    link_init(&f->changed);
    r = pipes_init(&f->pipes, config->pipe_size, config->pipes_max);
    if (r < 0) {
        free(f);
        return r;
    }
    *ret = f;
    return 0;
}

struct flows *flows_free(struct flows *f)
{
    if (!f)
        return NULL;
    for (uint32_t i = 0; i < f->n_slots; i++) {
        struct flow *flow = flow_at(f, i);

        if (!is_alive(flow))
            continue;
        flow_bury(f, flow);
        close_socket(f, flow->fd[GUEST], true);
        close_socket(f, flow->fd[HOST], true);
    }
    for (uint32_t i = 0; i < f->n_chunks_max; i++)
        free(f->chunks[i]);
    pipes_deinit(&f->pipes);
    free(f);
    return NULL;
}

/* ---- running a direction ---- */

/* @failed is dead: the other side gets what can be passed on at once, then a reset. */
static void flow_fail(struct flows *f, struct flow *flow, enum side failed) RUNS_ON(role_fwd)
{
    struct direction *d = &flow->direction[failed];

    if (d->state != DIRECTION_SHUT) {
        d->moved = 0; /* one share, whatever it had */
        (void)direction_advance(f, d);
    }
    flow_end(f, flow, FLOW_RESET, 0);
}

static void settle(struct flows *f, struct direction *d, enum direction_state state)
{
    assert((state == DIRECTION_FULL) == (d->pipe.read_fd >= 0));
    assert((state == DIRECTION_FULL) == (d->held > 0));
    link_take_out(&d->link);
    d->state = state;
    if (state == DIRECTION_QUEUED) {
        link_insert_before(&f->queue, &d->link);
    } else if (state == DIRECTION_STARVED) {
        if (link_is_alone(&f->starved))
            f->starved_retry_ns = clock_monotonic_ns() + FLOW_PIPE_RETRY_MS * NS_PER_MS;
        link_insert_before(&f->starved, &d->link);
    }
}

/* The flow may be over afterwards. */
static void run(struct flows *f, struct direction *d) RUNS_ON(role_fwd)
{
    struct flow *flow = flow_of(d);

    switch (direction_advance(f, d)) {
    case PROGRESS_EMPTY:
        settle(f, d, DIRECTION_EMPTY);
        break;
    case PROGRESS_SHARE:
        settle(f, d, DIRECTION_QUEUED);
        break;
    case PROGRESS_NO_PIPE:
        settle(f, d, DIRECTION_STARVED);
        break;
    case PROGRESS_FULL:
        settle(f, d, DIRECTION_FULL);
        break;
    case PROGRESS_END:
        settle(f, d, DIRECTION_SHUT);
        if (shutdown(target_fd(d), SHUT_WR) < 0)
            flow_fail(f, flow, !d->source); /* ENOTCONN: it was reset meanwhile */
        else if (flow->direction[!d->source].state == DIRECTION_SHUT)
            flow_finish(f, flow);
        break;
    case PROGRESS_SOURCE_FAILED:
        flow_fail(f, flow, d->source);
        break;
    case PROGRESS_TARGET_FAILED:
        flow_fail(f, flow, !d->source);
        break;
    }
}

/* ---- starting ---- */

static bool is_connected(int fd)
{
    struct sockaddr_storage peer;
    socklen_t length = sizeof(peer);

    return getpeername(fd, (struct sockaddr *)&peer, &length) == 0;
}

static int socket_error(int fd)
{
    int error = 0;
    socklen_t length = sizeof(error);

    return getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length) < 0 ? errno : error;
}

static int watch(struct flows *f, struct flow *flow, enum side side, int fd)
{
    struct epoll_event event = {
        .events = SOCKET_EVENTS,
        .data.u64 = f->config.tag_base | (uint64_t)flow->index << INDEX_SHIFT | side,
    };

    return epoll_ctl(f->config.epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
}

int flow_socket_prepare(int fd)
{
    static const int one = 1, idle_s = KEEPALIVE_IDLE_S;

    /* The peer's kernel has gathered what it wanted to. */
    if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)) < 0 ||
        setsockopt(fd, SOL_SOCKET, SO_OOBINLINE, &one, sizeof(one)) < 0 ||
        /* A peer that is gone without a word must not keep two descriptors for ever. */
        setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one)) < 0 ||
        setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof(idle_s)) < 0)
        return -errno;
    return 0;
}

static void flow_open(struct flow *flow)
{
    link_take_out(&flow->link);
    flow->state = FLOW_STATE_OPEN;
}

static void flow_connected(struct flows *f, struct flow *flow)
{
    if (f->config.on_connected)
        f->config.on_connected(f->config.arg, flow->user);
    flow_open(flow);
}

/* For flow->connect_ms, from @now_ns on. */
static void await_connection(struct flows *f, struct flow *flow, int64_t now_ns)
{
    struct link *where = &f->connecting;

    flow->state = FLOW_STATE_CONNECTING;
    if (flow->connect_ms == 0)
        return;
    flow->deadline_ns = now_ns + flow->connect_ms * NS_PER_MS;
    /* Almost always the last: the same patience for all. */
    while (where->previous != &f->connecting &&
           container_of(where->previous, struct flow, link)->deadline_ns > flow->deadline_ns)
        where = where->previous;
    link_insert_before(where, &flow->link);
}

static void direction_init(struct direction *d, enum side source)
{
    *d = (struct direction){.source = source, .state = DIRECTION_EMPTY, .pipe = PIPE_NULL};
    link_init(&d->link);
}

int flow_start(struct flows *f, int host_fd, int guest_fd, uint32_t connect_ms, void *user)
{
    struct flow *flow;
    int r = table_peek(f, &flow);

    if (r != 0)
        return r;
    /* Without a single pipe nothing would ever move. */
    if (f->pipes.n_open == 0)
        r = pipes_reserve(&f->pipes);
    if (r < 0)
        return r;
    r = watch(f, flow, HOST, host_fd);
    if (r < 0)
        return r;
    r = watch(f, flow, GUEST, guest_fd);
    if (r < 0) {
        (void)epoll_ctl(f->config.epoll_fd, EPOLL_CTL_DEL, host_fd, NULL);
        return r;
    }

    link_take_out(&flow->link);
    for (int i = 0; i < 2; i++) {
        direction_init(&flow->direction[i], i);
        flow->unreported[i] = flow->reported[i] = 0;
    }
    link_init(&flow->changed);
    link_init(&flow->half_open.link);
    link_init(&flow->drain.link);
    flow->diverted = connect_ms == FLOW_CONNECTED;
    flow->connect_ms = connect_ms;
    flow->fd[HOST] = host_fd;
    flow->fd[GUEST] = guest_fd;
    flow->user = user;
    flow->started_ns = clock_monotonic_ns();
    f->n_flows++;
    /* Adding a socket that is ready is an event: nothing is tried here. */
    if (flow->diverted)
        half_open_add(&f->half_opens, &flow->half_open, guest_fd, flow->started_ns);
    if (flow->diverted)
        flow_open(flow);
    else if (is_connected(guest_fd))
        flow_connected(f, flow);
    else
        await_connection(f, flow, flow->started_ns);
    return 0;
}

/* ---- events ---- */

static void event_connecting(struct flows *f, struct flow *flow, enum side side, uint32_t events)
    RUNS_ON(role_fwd)
{
    int error;

    if (side == HOST) {
        /* Its bytes, and its FIN, wait until there is somebody to have them. */
        if (events & EPOLLHUP || (events & EPOLLERR && socket_error(flow->fd[HOST]) != 0))
            flow_end(f, flow, FLOW_RESET, 0);
        return;
    }
    if (!(events & TARGET_EVENTS))
        return;
    error = socket_error(flow->fd[GUEST]);
    if (error == ECONNRESET || error == EPIPE) { /* was connected, and is gone already */
        flow_end(f, flow, FLOW_RESET, 0);
        return;
    }
    if (error == 0 && !is_connected(flow->fd[GUEST])) {
        if (!(events & (EPOLLERR | EPOLLHUP)))
            return; /* not yet */
        error = ENOTCONN;
    }
    if (error != 0) {
        flow_end(f, flow, FLOW_REFUSED, error);
        return;
    }
    flow_connected(f, flow);
    run(f, &flow->direction[HOST]);
    if (flow->state == FLOW_STATE_OPEN && events & SOURCE_EVENTS)
        run(f, &flow->direction[GUEST]);
}

static void event_open(struct flows *f, struct flow *flow, enum side side, uint32_t events) RUNS_ON(role_fwd)
{
    struct direction *from = &flow->direction[side], *to = &flow->direction[!side];

    if (events & EPOLLERR && socket_error(flow->fd[side]) != 0 &&
        !(from->source_fin && to->state == DIRECTION_SHUT)) {
        flow_fail(f, flow, side);
        return;
    }
    if (to->state == DIRECTION_FULL && events & TARGET_EVENTS)
        run(f, to);
    if (flow->state == FLOW_STATE_OPEN && from->state == DIRECTION_EMPTY && events & SOURCE_EVENTS)
        run(f, from);
}

void flows_event(struct flows *f, uint64_t data, uint32_t events)
{
    struct flow *flow = flow_at(f, (uint32_t)data >> INDEX_SHIFT);
    enum side side = data & 1 ? GUEST : HOST;

    if (!flow || !is_alive(flow))
        return; /* ended earlier in this batch */
    if (flow->state == FLOW_STATE_DRAINING) {
        if (side == GUEST && events & EPOLLERR && socket_error(flow->fd[GUEST]) != 0)
            flow_end(f, flow, FLOW_RESET, 0);
        return;
    }
    if (events & EPOLLRDHUP && !(events & EPOLLERR))
        flow->direction[side].source_fin = true;
    if (events & EPOLLPRI)
        flow->direction[side].source_mark = true;
    if (flow->state == FLOW_STATE_CONNECTING)
        event_connecting(f, flow, side, events);
    else
        event_open(f, flow, side, events);
}

/* ---- turns ---- */

static void free_dead(struct flows *f)
{
    while (!link_is_alone(&f->dead)) {
        struct link *l = f->dead.next;

        link_take_out(l);
        container_of(l, struct flow, link)->state = FLOW_STATE_FREE;
        link_insert_before(f->free.next, l); /* the one used last is in the cache */
    }
}

static void run_queue(struct flows *f) RUNS_ON(role_fwd)
{
    struct link batch;

    link_init(&batch);
    link_append_all(&batch, &f->queue);
    /* A flow's end takes its directions out of here, too. */
    for (int i = 0; i < QUEUE_TURN_MAX && !link_is_alone(&batch); i++)
        run(f, container_of(batch.next, struct direction, link));
    if (link_is_alone(&batch))
        return;
    link_append_all(&batch, &f->queue); /* those that are left were first, and stay it */
    link_append_all(&f->queue, &batch);
}

/* In the order of waiting, as long as there are pipes. */
static void run_starved(struct flows *f) RUNS_ON(role_fwd)
{
    struct link batch;
    int64_t now_ns;

    if (link_is_alone(&f->starved))
        return;
    now_ns = clock_monotonic_ns();
    link_init(&batch);
    if (f->pipes.n_idle > 0 || now_ns >= f->starved_retry_ns)
        link_append_all(&batch, &f->starved);
    while (!link_is_alone(&batch) && pipes_reserve(&f->pipes) == 0)
        run(f, container_of(batch.next, struct direction, link));
    if (link_is_alone(&batch))
        return;
    link_append_all(&batch, &f->starved); /* those that are left were first, and stay it */
    link_append_all(&f->starved, &batch);
    f->starved_retry_ns = now_ns + FLOW_PIPE_RETRY_MS * NS_PER_MS;
}

static bool is_waited_for(struct flows *f, const struct flow *flow, int64_t now_ns)
{
    return f->config.on_late && f->config.on_late(f->config.arg, flow->user, now_ns - flow->started_ns);
}

static void end_late_connections(struct flows *f)
{
    int64_t now_ns;

    if (link_is_alone(&f->connecting))
        return;
    now_ns = clock_monotonic_ns();
    for (int n_ended = 0; !link_is_alone(&f->connecting) && now_ns >= f->late_ns;) {
        struct flow *flow = container_of(f->connecting.next, struct flow, link);

        if (flow->deadline_ns > now_ns)
            break;
        if (n_ended == LATE_PER_TURN) { /* who takes them has a queue with an end */
            f->late_ns = now_ns + LATE_PAUSE_MS * NS_PER_MS;
            break;
        }
        /* It is connected: its event is there, and has not been fetched. */
        if (is_connected(flow->fd[GUEST]) || is_waited_for(f, flow, now_ns)) {
            link_take_out(&flow->link);
            await_connection(f, flow, now_ns);
        } else {
            flow_end(f, flow, FLOW_REFUSED, ETIMEDOUT);
            n_ended++;
        }
    }
}

static int sleep_ms(struct flows *f)
{
    int64_t until_ns = half_opens_until_ns(&f->half_opens), drain_ns = drains_until_ns(&f->drains);
    int64_t late_ns, left_ns;

    if (drain_ns < until_ns)
        until_ns = drain_ns;
    if (!link_is_alone(&f->queue))
        return 0;
    if (!link_is_alone(&f->starved) && f->starved_retry_ns < until_ns)
        until_ns = f->starved_retry_ns;
    if (!link_is_alone(&f->connecting)) {
        struct flow *flow = container_of(f->connecting.next, struct flow, link);

        late_ns = max_i64(flow->deadline_ns, f->late_ns);
        if (late_ns < until_ns)
            until_ns = late_ns;
    }
    if (until_ns == INT64_MAX)
        return -1;
    if (!link_is_alone(&f->starved) && f->pipes.n_idle > 0)
        return 0;
    left_ns = until_ns - clock_monotonic_ns();
    if (left_ns <= 0)
        return 0;
    left_ns = (left_ns + NS_PER_MS - 1) / NS_PER_MS; /* up: not to wake just before */
    return left_ns < INT32_MAX ? (int)left_ns : INT32_MAX;
}

int flows_turn(struct flows *f)
{
    f->turn++;
    free_dead(f);
    run_queue(f);
    run_starved(f);
    end_late_connections(f);
    half_opens_turn(&f->half_opens);
    drains_turn(&f->drains);
    while (!link_is_alone(&f->changed))
        report_bytes(f, container_of(f->changed.next, struct flow, changed));
    return sleep_ms(f);
}

uint32_t flows_count(const struct flows *f)
{
    return f->n_flows;
}

uint32_t flows_look(struct flows *f, uint32_t from, uint32_t n_places_max,
                    bool (*visit)(void *arg, const struct flow_look *look), void *arg)
{
    for (uint32_t n = 0; from < f->n_slots && n < n_places_max; from++, n++) {
        const struct flow *flow = flow_at(f, from);
        struct flow_look look;

        if (!is_alive(flow))
            continue;
        look_at(flow, &look);
        if (!visit(arg, &look))
            return from + 1 < f->n_slots ? from + 1 : UINT32_MAX;
    }
    return from < f->n_slots ? from : UINT32_MAX;
}
