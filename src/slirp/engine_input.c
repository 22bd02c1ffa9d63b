/* SPDX-License-Identifier: GPL-2.0-or-later */
/* engine_input.c - frames from the guest to libslirp or whoever takes them, and what other threads hand over
 */
#include "slirp/engine_private.h"

#include "base/bits.h"
#include "base/clock.h"
#include "base/counters.h"
#include "io/offload.h"
#include "slirp/adopt.h"

#include <errno.h>
#include <net/ethernet.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    READ_BYTES = 64 * 1024, /* shared mode: for a call, and for a turn */
    TURN_BYTES = 256 * 1024,
    SLIRP_SOCKETS_MAX = 8192, /* a connection may fill buffers of 320 KiB in libslirp */
};

/* libslirp looks at what it gets itself, and udp_out.c at datagrams. */
bool engine_checksums_good(const struct packet *p, enum packet_kind kind)
{
    const uint8_t *ip = p->frame + ETH_HLEN;

    if (kind == PACKET_IPV4 && checksum_fold(checksum_add(0, ip, (ip[0] & 15u) * 4)) != 0)
        return false;
    if (p->ip_protocol != IPPROTO_TCP || !p->l4 || p->is_fragment || !(p->tcp_flags & PACKET_TCP_SYN))
        return true;
    return checksum_fold(checksum_add(offload_pseudo_sum(p, kind, p->l4_size), p->l4, p->l4_size)) == 0;
}

/* Parses and filters; what is dropped is counted. */
static bool admit(struct engine *e, struct packet *packet, enum packet_kind *ret_kind, const uint8_t *frame,
                  uint32_t size) RUNS_ON(role_slirp)
{
    *ret_kind = packet_parse(packet, frame, size);
    if ((*ret_kind == PACKET_IPV4 || *ret_kind == PACKET_IPV6) && !engine_checksums_good(packet, *ret_kind)) {
        counter_add(COUNTER_rx_drop_checksum, 1);
        return false;
    }
    switch (filter_frame(&e->filter, *ret_kind, packet)) {
    case FILTER_PASS:
        return true;
    case FILTER_DROP_LOOPBACK:
        counter_add(COUNTER_rx_drop_loopback, 1);
        break;
    case FILTER_DROP_DNS:
        counter_add(COUNTER_rx_drop_dns, 1);
        break;
    case FILTER_DROP_MALFORMED:
        counter_add(COUNTER_rx_drop_malformed, 1);
        break;
    case FILTER_DROP_OTHER:
        counter_add(COUNTER_rx_drop_other, 1);
        break;
    }
    return false;
}

static void flush_flows(struct engine *e) RUNS_ON(role_udp_out)
{
    if (e->loop_flows)
        udp_flows_flush(e->loop_flows, clock_coarse_ns());
}

enum {
    INPUT_TAKEABLE = 1, /* does not come back from who has taken it */
    INPUT_PASSING = 2,  /* its buffer is wanted at once for another one */
};

/* @header: the virtio-net header it came with; NULL: none. */
static void input_frame(struct engine *e, const void *header, const uint8_t *frame, uint32_t size, int flags)
    RUNS_ON(role_slirp) RUNS_ON(role_udp_out)
{
    struct packet packet;
    enum packet_kind kind;

    if (!admit(e, &packet, &kind, frame, size))
        return;
    if (packet.is_fragment) {
        frame = reassembly_take(e->reassembly, kind, &packet, clock_monotonic_ns(), &size);
        if (!frame || !admit(e, &packet, &kind, frame, size))
            return;
        if (packet.is_fragment) { /* again: nobody sends that */
            counter_add_shared(COUNTER_rx_drop_fragment, 1);
            return;
        }
        flags |= INPUT_PASSING;
        header = NULL;
    }
    if (packet.ip_protocol == IPPROTO_TCP && packet.l4 && (packet.tcp_flags & PACKET_TCP_SYN))
        spin_busy(&e->spin);
    if (packet.ip_protocol == IPPROTO_TCP && packet.l4 && (flags & INPUT_TAKEABLE) && e->config.take_tcp &&
        e->config.take_tcp(e->config.take_tcp_arg, &packet))
        return;
    if (packet.ip_protocol == IPPROTO_ICMP && kind == PACKET_IPV4)
        ping_look(&e->ping, &packet);
    /* Whatever waits for this neighbour in libslirp's queue goes out with its next poll: do not sleep before
     * it. */
    if (kind == PACKET_ARP || packet.ip_protocol == IPPROTO_ICMPV6)
        e->again = true;
    if (udp_forwards_active(e->udp) && udp_forwards_take(e->udp, kind, &packet))
        return;
    if (packet.ip_protocol == IPPROTO_UDP && packet.l4 && e->flows && !e->loop_flows &&
        udp_forwards_port(e->udp, packet.src_port))
        counter_add(COUNTER_udp_fallback_forward, 1); /* tap-rx has left it to us for that reason */
    if (header && packet.ip_protocol == IPPROTO_UDP)
        packet.checksum_made = offload_made_checksum(header, &packet);
    if (packet.ip_protocol == IPPROTO_UDP && e->loop_flows &&
        udp_flows_take(e->loop_flows, &packet, 0, clock_coarse_ns())) {
        if (flags & INPUT_PASSING)
            flush_flows(e); /* before frames go back: what was taken from them lies in them */
        return;
    }
    e->dirty = true;
    /* A socket that libslirp opens while it looks at a SYN belongs to that SYN. */
    if (packet.ip_protocol == IPPROTO_TCP &&
        (packet.tcp_flags & (PACKET_TCP_SYN | PACKET_TCP_ACK)) == PACKET_TCP_SYN) {
        if (e->descriptors.n_open >= SLIRP_SOCKETS_MAX) {
            counter_add(COUNTER_rx_drop_connections, 1);
            return;
        }
        e->input_frame = frame;
        e->input_size = size;
    }
    if (packet.ip_protocol == IPPROTO_TCP && packet.l4 && (packet.tcp_flags & PACKET_TCP_SYN))
        frame = large_from_guest(&e->large, &packet, kind);
    slirp_input(e->slirp, frame, size);
    e->input_frame = NULL;
}

/* A frame with several datagrams: to its flow as it is, or one by one to whom else it belongs. */
static void input_joined(struct engine *e, const uint8_t *frame, uint32_t size, uint32_t datagram_size)
    RUNS_ON(role_slirp) RUNS_ON(role_udp_out)
{
    struct packet packet;
    enum packet_kind kind;

    if (!admit(e, &packet, &kind, frame, size))
        return;
    if (e->loop_flows && !udp_forwards_port(e->udp, packet.src_port) &&
        udp_flows_take(e->loop_flows, &packet, datagram_size, clock_coarse_ns()))
        return;
    for (uint32_t i = 0; (size = offload_take_apart(e->apart, &packet, kind, datagram_size, i)) > 0; i++)
        input_frame(e, NULL, e->apart, size, INPUT_TAKEABLE | INPUT_PASSING);
}

/* A frame of the rx pool. */
static void input_from_pool(struct engine *e, frame_id id) RUNS_ON(role_slirp) RUNS_ON(role_udp_out)
{
    const uint8_t *frame = frame_data(&e->rx_pool, id);
    uint32_t size = e->rx_pool.size[id], datagram_size = 0;

    const void *header = e->rx_pool.header_size > 0 ? frame_start(&e->rx_pool, id) : NULL;

    if (e->config.joined_datagrams)
        datagram_size = offload_datagram_size(header);
    if (__builtin_expect(datagram_size > 0, 0))
        input_joined(e, frame, size, datagram_size);
    else
        input_frame(e, header, frame, size, INPUT_TAKEABLE);
}

/* The same from the TAP itself. Large frames are read one or two at a time and their buffers used again at
 * once, while they are still in the cache (bench/README.md). */
static bool input_from_tap(struct engine *e) RUNS_ON(role_slirp) RUNS_ON(role_udp_out)
{
    frame_id ids[TAP_BATCH_MAX];
    uint64_t bytes_turn = 0;

    for (uint32_t n_turn = 0; n_turn < TAP_BATCH_MAX && bytes_turn < TURN_BYTES && e->tap_ready;) {
        uint32_t max = max_u32(min_u32(READ_BYTES / e->frame_size_usual, TAP_BATCH_MAX), 1), bytes = 0;
        bool drained = false;
        int n = e->io->read(e->reader, ids, max, &drained), n_read = n;

        if (n < 0)
            engine_set_gone(e, n);
        e->tap_ready = n > 0 && !drained;
        n = n > 0 ? (int)offload_receive(&e->rx_pool, ids, (uint32_t)n) : 0;
        if (__builtin_expect(e->config.capture != NULL, 0) && n > 0)
            tap_capture(e->config.capture, PCAPNG_OUTBOUND, &e->rx_pool, ids, (uint32_t)n);
        for (int i = 0; i < n; i++) {
            bytes += e->rx_pool.size[ids[i]];
            input_from_pool(e, ids[i]);
        }
        if (n > 0) {
            flush_flows(e); /* before frames go back: what was taken from them lies in them */
            frame_put(&e->rx_pool, ids, n);
            counter_add(COUNTER_rx_batches, 1);
            e->frame_size_usual = max_u32((3 * e->frame_size_usual + bytes / (uint32_t)n) / 4, 1);
        }
        n_turn += n_read > 0 ? (uint32_t)n_read : 0;
        bytes_turn += bytes;
    }
    return e->tap_ready;
}

/* The same in split mode. */
static bool input_from_ring(struct engine *e) RUNS_ON(role_slirp) RUNS_ON(role_udp_out)
{
    frame_id ids[TAP_BATCH_MAX];
    int n;

    n = spsc_pop(&e->rx_ring, ids, TAP_BATCH_MAX);
    if (n <= 0)
        return false;
    for (int i = 0; i < n; i++)
        input_from_pool(e, ids[i]);
    flush_flows(e);
    frame_return(&e->rx_pool, ids, n);
    wakeup_notify(&e->rx.wake); /* costs a fence; a system call only when the reader waits for frames */
    return !spsc_empty(&e->rx_ring);
}

bool engine_input_batch(struct engine *e)
{
    bool more;

    acks_begin(&e->acks);
    more = e->shared ? input_from_tap(e) : input_from_ring(e);
    acks_end(&e->acks);
    return more;
}

/* ---- connections handed over by forwards ---- */

int engine_adopt(struct engine *e, int conn_fd, const union address *guest)
{
    struct adoption a = {.conn_fd = conn_fd, .guest = *guest};
    socklen_t size = sizeof(a.shown);
    int r = 0;

    if (getpeername(conn_fd, &a.shown.sa, &size) < 0)
        return -errno;
    address_unmap(&a.shown);
    if (address_is_self(&a.shown) || a.shown.sa.sa_family != guest->sa.sa_family ||
        address_is_on_link(&a.shown, e->config.network, e->config.netmask)) {
        uint16_t port = address_port(&a.shown);

        memset(&a.shown, 0, sizeof(a.shown));
        a.shown.sa.sa_family = guest->sa.sa_family;
        if (guest->sa.sa_family == AF_INET)
            a.shown.in.sin_addr = e->config.gateway;
        else
            inet_pton(AF_INET6, "fd00::2", &a.shown.in6.sin6_addr);
        address_set_port(&a.shown, port);
    }

    pthread_mutex_lock(&e->adopt_lock);
    if (engine_gone(e) < 0) {
        r = -EMFILE;
    } else if (e->n_adopt == ADOPT_QUEUE_MAX) {
        r = -EAGAIN;
    } else {
        e->adopt_queue[e->n_adopt++] = a;
        atomic_store_explicit(&e->adopt_pending, true, memory_order_relaxed); /* the lock orders the queue */
    }
    pthread_mutex_unlock(&e->adopt_lock);
    if (r == 0)
        wakeup_notify(&e->wake);
    return r;
}

void engine_written(struct engine *e, int r)
{
    if (r == -EAGAIN)
        counter_add_shared(COUNTER_tx_drop_link, 1);
    else if (r < 0)
        engine_set_gone_and_kick(e, r);
}

void engine_send_now(struct engine *e, const void *frame, uint32_t size)
{
    capture_frame(e->config.capture, PCAPNG_INBOUND, frame, size);
    engine_written(e, tap_write_now(e->config.tap_fd, e->config.header_size, frame, size));
}

void engine_set_take_tcp(struct engine *e, bool (*take_tcp)(void *arg, const struct packet *p), void *arg)
{
    e->config.take_tcp = take_tcp;
    e->config.take_tcp_arg = arg;
}

void engine_inject(struct engine *e, const void *frame, uint32_t size)
{
    pthread_mutex_lock(&e->adopt_lock);
    if (e->n_inject < INJECT_QUEUE_MAX && size <= ENGINE_INJECT_SIZE_MAX) {
        struct injection *i = &e->inject_queue[(e->first_inject + e->n_inject++) % INJECT_QUEUE_MAX];

        i->size = size;
        memcpy(i->frame, frame, size);
        atomic_store_explicit(&e->adopt_pending, true, memory_order_relaxed); /* the lock orders the queue */
    }
    pthread_mutex_unlock(&e->adopt_lock);
    wakeup_notify(&e->wake);
}

static void input_injected(struct engine *e) RUNS_ON(role_slirp) RUNS_ON(role_udp_out)
{
    for (;;) {
        struct injection i;

        pthread_mutex_lock(&e->adopt_lock);
        if (e->n_inject == 0) {
            pthread_mutex_unlock(&e->adopt_lock);
            return;
        }
        i = e->inject_queue[e->first_inject];
        e->first_inject = (e->first_inject + 1) % INJECT_QUEUE_MAX;
        e->n_inject--;
        pthread_mutex_unlock(&e->adopt_lock);
        input_frame(e, NULL, i.frame, i.size, INPUT_PASSING);
    }
}

void engine_take_handed_over(struct engine *e)
{
    struct adoption a;
    bool got;

    /* Relaxed: a hint; if it is missed now, the wake-up that followed it brings us back. */
    if (!atomic_load_explicit(&e->adopt_pending, memory_order_relaxed))
        return;
    do {
        pthread_mutex_lock(&e->adopt_lock);
        got = e->n_adopt > 0;
        if (got)
            a = e->adopt_queue[--e->n_adopt];
        else
            atomic_store_explicit(&e->adopt_pending, false, memory_order_relaxed);
        pthread_mutex_unlock(&e->adopt_lock);
        if (got && adopt_connection(e->slirp, a.conn_fd, &a.shown, &a.guest) < 0)
            close(a.conn_fd);
        e->dirty = true;
    } while (got);
    input_injected(e);
}
