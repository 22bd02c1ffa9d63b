/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "slirp/large.h"

#include "base/bits.h"
#include "base/counters.h"
#include "base/log.h"

#include <netinet/in.h>
#include <string.h>

enum {
    IPV6_SIZE = 40,
    FRAGMENT_SIZE = 8,
    TCP_SIZE_MIN = 20,
    HEAD_SIZE_MAX = FRAME_ETH_SIZE + 60 + 60, /* longer ones (IPv6 extensions) libslirp does not make */
    TCP_MSS_DEFAULT = 536,                    /* of who announces none, RFC 9293 3.7.1 */
    TCP_FLAGS_LAST = PACKET_TCP_FIN | 8,      /* FIN and PSH belong to the last segment */
    MORE_FRAGMENTS = 0x2000,
    OFFSET_MASK = 0x1fff,
};

void large_init(struct large *l, struct tap_tx *tx, uint32_t mtu, bool on)
{
    memset(l, 0, sizeof(*l));
    l->on = on && mtu >= LARGE_MTU_MIN;
    l->mtu = mtu;
    l->tx = tx;
}

/* The largest MSS that the interface has room for, and that is good for it. */
static uint16_t mss_max(const struct large *l, enum packet_kind kind)
{
    uint32_t mss = l->mtu - TCP_SIZE_MIN - (kind == PACKET_IPV4 ? 20 : IPV6_SIZE);

    return (uint16_t)min_u32(mss, LARGE_SEGMENT_MSS);
}

static uint16_t *place_of(struct large *l, enum packet_kind kind, const uint8_t *address)
{
    uint32_t hash = 0;

    for (unsigned i = 0; i < (kind == PACKET_IPV4 ? 4u : 16u); i += 4) {
        uint32_t word;

        memcpy(&word, address + i, sizeof(word));
        hash = (hash ^ word) * 0x9e3779b1u;
    }
    return &l->mss[hash >> 16 & (LARGE_PLACES - 1)];
}

const uint8_t *large_from_guest(struct large *l, const struct packet *p, enum packet_kind kind)
{
    uint16_t offered, mss, *place;

    if (!l->on || p->size > sizeof(l->frame))
        return p->frame;
    offered = offload_mss(p->l4, p->l4_size);
    mss = offered ? offered : TCP_MSS_DEFAULT;
    if (mss > mss_max(l, kind))
        mss = mss_max(l, kind);
    if (mss < LARGE_MSS_MIN) /* libslirp does as it is told */
        return p->frame;
    place = place_of(l, kind, p->src);
    if (*place == 0 || mss < *place)
        *place = mss;
    if (!offered)
        return p->frame;
    memcpy(l->frame, p->frame, p->size);
    offload_set_mss(l->frame + (p->l4 - p->frame), p->l4_size, LARGE_MSS);
    return l->frame;
}

/* libslirp's SYN tells of its MTU; the guest must know its own. */
static void send_syn(struct large *l, const struct packet *p, enum packet_kind kind) RUNS_ON(role_slirp)
{
    if (offload_mss(p->l4, p->l4_size) <= mss_max(l, kind)) {
        tap_tx_send(l->tx, p->frame, p->size);
        return;
    }
    memcpy(l->frame, p->frame, p->size);
    offload_set_mss(l->frame + (p->l4 - p->frame), p->l4_size, mss_max(l, kind));
    tap_tx_send(l->tx, l->frame, p->size);
}

/* What the kernel would have done with a frame of many segments. */
static void send_segments(struct large *l, const struct packet *p, enum packet_kind kind, uint32_t head_size,
                          uint32_t payload_size, uint16_t mss) RUNS_ON(role_slirp)
{
    uint32_t l4_at = (uint32_t)(p->l4 - p->frame), tcp_size = head_size - l4_at, n = 0, seq;
    uint8_t *ip = l->frame + FRAME_ETH_SIZE, *tcp = l->frame + l4_at;

    seq = (uint32_t)get_u16(p->l4 + 4) << 16 | get_u16(p->l4 + 6);
    for (uint32_t at = 0; at < payload_size; at += mss, n++) {
        uint32_t part = min_u32(mss, payload_size - at);
        uint16_t sum;

        memcpy(l->frame, p->frame, head_size);
        memcpy(l->frame + head_size, p->frame + head_size + at, part);
        put_u16(tcp + 4, (uint16_t)((seq + at) >> 16));
        put_u16(tcp + 6, (uint16_t)(seq + at));
        if (at + part < payload_size)
            tcp[13] &= (uint8_t)~TCP_FLAGS_LAST;
        if (kind == PACKET_IPV4) {
            put_u16(ip + 4, (uint16_t)(get_u16(ip + 4) + n));
            packet_finish_ipv4(ip, l4_at - FRAME_ETH_SIZE, head_size - FRAME_ETH_SIZE + part);
        } else {
            put_u16(ip + 4, (uint16_t)(head_size - FRAME_ETH_SIZE - IPV6_SIZE + part));
        }
        memset(tcp + 16, 0, 2);
        sum = checksum_fold(checksum_add(offload_pseudo_sum(p, kind, tcp_size + part), tcp, tcp_size + part));
        memcpy(tcp + 16, &sum, sizeof(sum));
        tap_tx_send(l->tx, l->frame, head_size + part);
    }
}

static void send_tcp(struct large *l, const struct packet *p, enum packet_kind kind) RUNS_ON(role_slirp)
{
    uint32_t tcp_size = (p->l4[12] >> 4) * 4u, head_size = (uint32_t)(p->l4 - p->frame) + tcp_size;
    uint32_t payload_size = p->l4_size - tcp_size;
    struct virtio_net_hdr header;
    uint8_t head[HEAD_SIZE_MAX];
    uint16_t mss;

    if (p->tcp_flags & PACKET_TCP_SYN) {
        send_syn(l, p, kind);
        return;
    }
    mss = *place_of(l, kind, p->dst);
    if (mss == 0)
        mss = mss_max(l, kind);
    if ((payload_size <= mss && payload_size < LARGE_CHECKSUM_MIN) || head_size > sizeof(head)) {
        tap_tx_send(l->tx, p->frame, p->size);
        return;
    }
    if (payload_size > mss) {
        if (counter_read(COUNTER_tx_gso_refused) > 0) {
            if (!l->refused)
                log_warning("the TAP refuses large frames (EINVAL): segments are made here from now on; "
                            "--offload=off avoids it");
            l->refused = true;
            send_segments(l, p, kind, head_size, payload_size, mss);
            return;
        }
        counter_add(COUNTER_tx_gso, 1);
    }
    memcpy(head, p->frame, head_size);
    offload_leave(&header, head, head_size, p, kind, payload_size > mss ? mss : 0);
    tap_tx_send_offload(l->tx, &header, head, head_size, p->frame, p->size);
}

static void send_fragments4(struct large *l, const uint8_t *frame, uint32_t size) RUNS_ON(role_slirp)
{
    const uint8_t *from = frame + FRAME_ETH_SIZE;
    uint32_t header_size = (from[0] & 15) * 4u, data_size = size - FRAME_ETH_SIZE - header_size;
    uint32_t part_max = (l->mtu - header_size) & ~7u, fragment = get_u16(from + 6);
    uint8_t *ip = l->frame + FRAME_ETH_SIZE;

    for (uint32_t at = 0; at < data_size; at += part_max) {
        uint32_t part = min_u32(part_max, data_size - at);
        uint32_t more = at + part < data_size ? MORE_FRAGMENTS : fragment & MORE_FRAGMENTS;

        memcpy(l->frame, frame, FRAME_ETH_SIZE + header_size);
        memcpy(ip + header_size, from + header_size + at, part);
        put_u16(ip + 6, (uint16_t)(more | (((fragment & OFFSET_MASK) + at / 8) & OFFSET_MASK)));
        packet_finish_ipv4(ip, header_size, header_size + part);
        tap_tx_send(l->tx, l->frame, FRAME_ETH_SIZE + header_size + part);
    }
}

static void send_fragments6(struct large *l, const uint8_t *frame, uint32_t size) RUNS_ON(role_slirp)
{
    const uint8_t *from = frame + FRAME_ETH_SIZE;
    uint32_t data_size = size - FRAME_ETH_SIZE - IPV6_SIZE, id = ++l->ip_id;
    uint32_t part_max = (l->mtu - IPV6_SIZE - FRAGMENT_SIZE) & ~7u;
    uint8_t *ip = l->frame + FRAME_ETH_SIZE, *fragment = ip + IPV6_SIZE;

    for (uint32_t at = 0; at < data_size; at += part_max) {
        uint32_t part = min_u32(part_max, data_size - at);

        memcpy(l->frame, frame, FRAME_ETH_SIZE + IPV6_SIZE);
        put_u16(ip + 4, (uint16_t)(FRAGMENT_SIZE + part));
        ip[6] = IPPROTO_FRAGMENT;
        fragment[0] = from[6];
        fragment[1] = 0;
        put_u16(fragment + 2, (uint16_t)(at | (at + part < data_size)));
        put_u16(fragment + 4, (uint16_t)(id >> 16));
        put_u16(fragment + 6, (uint16_t)id);
        memcpy(fragment + FRAGMENT_SIZE, from + IPV6_SIZE + at, part);
        tap_tx_send(l->tx, l->frame, FRAME_ETH_SIZE + IPV6_SIZE + FRAGMENT_SIZE + part);
    }
}

void large_to_guest(struct large *l, const uint8_t *frame, uint32_t size)
{
    struct packet p;
    enum packet_kind kind;

    if (!l->on) {
        tap_tx_send(l->tx, frame, size);
        return;
    }
    kind = packet_parse(&p, frame, size);
    if ((kind == PACKET_IPV4 || kind == PACKET_IPV6) && p.ip_protocol == IPPROTO_TCP && p.l4 &&
        !p.is_fragment && p.l4 + p.l4_size == frame + size)
        send_tcp(l, &p, kind);
    else if (kind == PACKET_IPV4 && size > l->mtu + FRAME_ETH_SIZE)
        send_fragments4(l, frame, size);
    else if (kind == PACKET_IPV6 && size > l->mtu + FRAME_ETH_SIZE)
        send_fragments6(l, frame, size);
    else
        tap_tx_send(l->tx, frame, size);
}
