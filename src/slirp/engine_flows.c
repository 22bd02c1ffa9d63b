/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * engine_flows.c - who carries the guest's own datagrams past libslirp (io/udp_flows.h)
 *
 * Shared mode: the slirp thread's loop has both roles, and the sockets are in its epoll set (loop_flows).
 *
 * Split mode: the threads of the directions themselves. tap-rx takes datagrams out of what it has just read,
 * before anybody else sees them, sends them and puts their frames back; fragments are put together first, by
 * a reassembly of its own, because a flow has one socket whatever the size of its datagrams is. What it does
 * not take goes through the ring as before. tap-tx sleeps on the flows' epoll set, where its wake-up is as
 * well, and writes what has come to the TAP between the batches of its ring. A datagram from a port that a
 * forward leads to may be an answer to the forward's client, whom only the slirp thread knows; it is left to
 * that one, and to libslirp if it is none.
 */
#include "slirp/engine_private.h"

#include "base/clock.h"
#include "base/counters.h"
#include "base/thread.h"
#include "slirp/events.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>

enum { FLOW_EVENTS_MAX = 64 };

/* Each half of the flows, whatever thread it runs in, writes to the TAP itself. */
static void flow_send(void *arg, const void *frame, uint32_t size)
{
    engine_send_now(arg, frame, size);
}

static void flow_send_parts(void *arg, const struct virtio_net_hdr *header, struct iovec *parts,
                            uint32_t n_parts)
{
    struct engine *e = arg;
    uint32_t size = e->config.header_size;
    uint8_t *start = (uint8_t *)parts[0].iov_base - size;

    memset(start, 0, size);
    memcpy(start, header, sizeof(*header));
    parts[0].iov_base = start;
    parts[0].iov_len += size;
    engine_written(e, tap_write_parts(e->config.tap_fd, size, parts, (int)n_parts));
}

/* ---- split mode: tap-rx ---- */

static void flow_retired(void *arg)
{
    struct engine *e = arg;

    (void)wakeup_notify(&e->tx.wake);
}

/* Of an IPv6 datagram in fragments only the first one may tell that it is one (RFC 8200 4.5), and all of them
 * must come to the same thread. */
static bool may_be_datagram(enum packet_kind kind, const struct packet *p)
{
    if (kind != PACKET_IPV6 || !p->is_fragment)
        return (kind == PACKET_IPV4 || kind == PACKET_IPV6) && p->ip_protocol == IPPROTO_UDP;
    switch (p->ip_protocol) {
    case IPPROTO_UDP:
    case IPPROTO_HOPOPTS:
    case IPPROTO_ROUTING:
    case IPPROTO_FRAGMENT:
    case IPPROTO_DSTOPTS:
        return true;
    default:
        return false;
    }
}

/* A datagram in a frame of the pool: true if it need not be kept any longer than until the next flush. */
static bool take_frame(struct engine *e, frame_id id, int64_t now_ns) RUNS_ON(role_udp_out)
    TSA(no_thread_safety_analysis) /* what it reads of the slirp role's is fixed, or made for it */
{
    const uint8_t *frame = frame_data(&e->rx_pool, id);
    uint32_t size = e->rx_pool.size[id], datagram_size = 0;
    struct packet p;
    enum packet_kind kind = packet_parse(&p, frame, size);

    if (!may_be_datagram(kind, &p) || !engine_checksums_good(&p, kind) ||
        filter_frame(&e->filter, kind, &p) != FILTER_PASS) /* the slirp thread drops and counts it */
        return false;
    if (p.is_fragment) {
        frame = reassembly_take(e->rx_reassembly, kind, &p, now_ns, &size);
        if (!frame)
            return true;
        /* It takes the place of its last fragment, in case that somebody else has to see it. */
        memcpy(frame_data(&e->rx_pool, id), frame, size);
        memset(frame_start(&e->rx_pool, id), 0, e->rx_pool.header_size);
        e->rx_pool.size[id] = size;
        frame = frame_data(&e->rx_pool, id);
        kind = packet_parse(&p, frame, size);
        if (p.is_fragment) { /* again: nobody sends that */
            counter_add_shared(COUNTER_rx_drop_fragment, 1);
            return true;
        }
        if ((kind != PACKET_IPV4 && kind != PACKET_IPV6) || filter_frame(&e->filter, kind, &p) != FILTER_PASS)
            return false;
    } else if (e->rx_pool.header_size > 0) {
        p.checksum_made = offload_made_checksum(frame_start(&e->rx_pool, id), &p);
        if (e->config.joined_datagrams)
            datagram_size = offload_datagram_size(frame_start(&e->rx_pool, id));
    }
    if (p.l4 && udp_forwards_port(e->udp, p.src_port))
        return false;
    return udp_flows_take(e->flows, &p, datagram_size, now_ns);
}

static uint32_t rx_take(void *arg, frame_id *ids, uint32_t n)
{
    struct engine *e = arg;
    frame_id taken[TAP_BATCH_MAX];
    uint32_t n_taken = 0, n_left = 0;
    int64_t now_ns = clock_coarse_ns();

    role_enter(&role_udp_out);
    for (uint32_t i = 0; i < n; i++) {
        if (take_frame(e, ids[i], now_ns))
            taken[n_taken++] = ids[i];
        else
            ids[n_left++] = ids[i];
    }
    if (n_taken > 0) {
        udp_flows_flush(e->flows, now_ns);
        frame_put(&e->rx_pool, taken, n_taken);
    }
    role_leave(&role_udp_out);
    return n_left;
}

static int rx_turn(void *arg)
{
    struct engine *e = arg;
    int64_t next_ns, now_ns;

    if (world_wanted(&e->rx_world))
        world_park(&e->rx_world);
    role_enter(&role_udp_out);
    one_way_turn(&e->rx_one_way, ONE_WAY_OUT);
    next_ns = udp_flows_next_ns(e->flows);
    now_ns = next_ns == INT64_MAX ? 0 : clock_monotonic_ns();
    if (now_ns >= next_ns) {
        udp_flows_expire(e->flows, now_ns);
        next_ns = udp_flows_next_ns(e->flows);
    }
    role_leave(&role_udp_out);
    if (next_ns == INT64_MAX)
        return -1;
    return next_ns <= now_ns ? 0 : (int)((next_ns - now_ns) / NS_PER_MS + 1); /* half a minute at most */
}

void engine_rx_gone(void *arg, int error)
{
    struct engine *e = arg;

    world_end(&e->rx_world);
    engine_set_gone_and_kick(e, error);
}

/* ---- split mode: tap-tx ---- */

static void tx_beside(void *arg, bool sleep)
{
    struct engine *e = arg;
    struct epoll_event events[FLOW_EVENTS_MAX];
    int64_t now_ns;
    int n;

    role_enter(&role_udp_in);
    udp_flows_turn(e->flows); /* before a sleep this is the second look that wakeup.h asks for */
    n = epoll_wait(e->flow_epoll_fd, events, FLOW_EVENTS_MAX, sleep ? -1 : 0);
    now_ns = clock_coarse_ns();
    for (int i = 0; i < n; i++) { /* n < 0: EINTR; look again, that is all */
        if (events_kind(events[i].data.u64) == EVENT_WAKE)
            wakeup_drain(&e->tx.wake);
        else
            udp_flows_ready(e->flows, events_value(events[i].data.u64), events[i].events, now_ns);
    }
    if (n > 0)
        one_way_turn(&e->tx_one_way, ONE_WAY_IN);
    role_leave(&role_udp_in);
}

/* ---- for the API ---- */

static void kick_rx(void *arg)
{
    struct engine *e = arg;

    wakeup_send(&e->rx.wake);
}

TSA(no_thread_safety_analysis) /* the roles are borrowed from whom stands still */
int engine_list_flows(struct engine *e, uint64_t from, struct flow_info *rows, uint32_t max,
                      uint64_t *ret_next)
{
    int n;

    *ret_next = 0;
    if (!e->flows)
        return 0;
    if (!e->shared)
        world_hold(&e->rx_world, kick_rx, e);
    n = udp_flows_list(e->flows, from, rows, max, clock_monotonic_ns(), ret_next);
    if (!e->shared)
        world_release(&e->rx_world);
    return n;
}

/* ---- both modes ---- */

/* The guest's datagrams past libslirp; a quarter of the descriptors there are at most. */
int engine_make_flows(struct engine *e, struct failure *why)
    TSA(no_thread_safety_analysis) /* before threads start */
{
    const struct engine_config *c = &e->config;
    struct udp_flows_config config = {
        .epoll_fd = e->descriptors.epoll_fd,
        .tag = events_tag(EVENT_FLOW, 0),
        .mtu = c->mtu,
        .network = c->network,
        .netmask = c->netmask,
        .gateway = c->gateway,
        .dns = c->dns,
        .disable_host_loopback = c->disable_host_loopback,
        .disable_dns = c->disable_dns,
        .has_outbound = c->has_outbound,
        .has_outbound6 = c->has_outbound6,
        .outbound = c->outbound,
        .outbound6 = c->outbound6,
        .resolv_conf = "/etc/resolv.conf",
        .n_flows_max = UDP_FLOWS_MAX,
        .send = flow_send,
        .send_parts = c->joined_datagrams ? flow_send_parts : NULL,
        .arg = e,
    };
    struct failure flows_why = FAILURE_NULL;
    struct epoll_event wake = {.events = EPOLLIN, .data.u64 = events_tag(EVENT_WAKE, 0)};
    char text[FAILURE_TEXT_SIZE];
    struct rlimit limit;
    int r;

    snprintf(e->udp_text, sizeof(e->udp_text), "libslirp (--udp=slirp)");
    if (c->udp == ENGINE_UDP_SLIRP)
        return 0;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur / 4 < UDP_FLOWS_MAX)
        config.n_flows_max = (uint32_t)(limit.rlim_cur / 4);
    if (!e->shared) {
        config.epoll_fd = e->flow_epoll_fd = epoll_create1(EPOLL_CLOEXEC);
        config.retired = flow_retired;
        if (e->flow_epoll_fd < 0 || epoll_ctl(e->flow_epoll_fd, EPOLL_CTL_ADD, e->tx.wake.fd, &wake) < 0)
            return failure(why, -errno, "raise RLIMIT_NOFILE", "cannot make an epoll descriptor");
        if ((r = reassembly_new(&e->rx_reassembly)) < 0)
            return failure(why, r, NULL, "cannot allocate the reassembly of fragments");
    }
    r = udp_flows_new(&e->flows, &config, c->udp == ENGINE_UDP_DIRECT ? why : &flows_why);
    if (r == 0)
        snprintf(e->udp_text, sizeof(e->udp_text), "direct");
    else if (c->udp == ENGINE_UDP_AUTO)
        snprintf(e->udp_text, sizeof(e->udp_text), "libslirp (%s)",
                 failure_text(&flows_why, text, sizeof(text)));
    if (r == 0 && e->shared) {
        e->loop_flows = e->flows;
    } else if (r == 0) {
        e->rx.take = rx_take;
        e->rx.turn = rx_turn;
        e->rx.take_arg = e;
        e->rx.duties_more = DUTY_UDP_OUT;
        e->tx.beside = tx_beside;
        e->tx.duties_more = DUTY_UDP_IN;
    }
    return c->udp == ENGINE_UDP_DIRECT ? r : 0;
}
