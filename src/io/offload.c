/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * offload.c
 *
 * A checksum that is only begun holds the pseudo-header's sum; the kernel of a guest may begin one anywhere
 * in the frame (an inner header of a tunnel, whose outer checksum is right whatever the inner one becomes),
 * so all that is asked is that start and field lie behind the Ethernet header and in the frame: the guest
 * could have written these bytes itself. Segmentation is for plain TCP and UDP only, because nothing else was
 * offered.
 */
#include "io/offload.h"

#include "base/bits.h"
#include "base/counters.h"

#include <netinet/in.h>
#include <string.h>

enum {
    TCP_CHECKSUM_AT = 16,
    UDP_CHECKSUM_AT = 6,
    UDP_SIZE = 8,
    IPV6_SIZE = 40,
    TCP_SIZE_MIN = 20,
    OPTION_END = 0,
    OPTION_NOP = 1,
    OPTION_MSS = 2,
    OPTION_MSS_SIZE = 4,
};

static struct virtio_net_hdr load(const void *header)
{
    struct virtio_net_hdr h;

    memcpy(&h, header, sizeof(h));
    return h;
}

bool offload_is_gso(const void *header)
{
    return load(header).gso_type != VIRTIO_NET_HDR_GSO_NONE;
}

uint32_t offload_datagram_size(const void *header)
{
    struct virtio_net_hdr h = load(header);

    return h.gso_type == VIRTIO_NET_HDR_GSO_UDP_L4 ? h.gso_size : 0;
}

/* A frame must not become more datagrams than the guest's kernel would let a program join. */
static bool joined_valid(const struct virtio_net_hdr *h, const struct packet *p)
{
    uint32_t size = p->l4_size - UDP_SIZE; /* the parser has seen that there is a header */

    return p->ip_protocol == IPPROTO_UDP && h->csum_offset == UDP_CHECKSUM_AT && size > 0 &&
           (size + h->gso_size - 1) / h->gso_size <= OFFLOAD_DATAGRAMS_MAX;
}

static bool gso_valid(const struct virtio_net_hdr *h, const uint8_t *frame, uint32_t size)
{
    uint8_t type = h->gso_type & ~VIRTIO_NET_HDR_GSO_ECN;
    struct packet p;
    enum packet_kind kind = packet_parse(&p, frame, size);

    if ((kind != PACKET_IPV4 && kind != PACKET_IPV6) || !p.l4 || p.is_fragment || h->gso_size == 0 ||
        h->hdr_len > size || !(h->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) || h->csum_start != p.l4 - frame)
        return false;
    if (h->gso_type == VIRTIO_NET_HDR_GSO_UDP_L4)
        return joined_valid(h, &p);
    return type == (kind == PACKET_IPV4 ? VIRTIO_NET_HDR_GSO_TCPV4 : VIRTIO_NET_HDR_GSO_TCPV6) &&
           p.ip_protocol == IPPROTO_TCP && h->csum_offset == TCP_CHECKSUM_AT;
}

uint32_t offload_take_apart(uint8_t out[FRAME_SIZE_MAX], const struct packet *p, enum packet_kind kind,
                            uint32_t datagram_size, uint32_t index)
{
    uint32_t l4_at = (uint32_t)(p->l4 - p->frame), at = UDP_SIZE + index * datagram_size, size;
    uint8_t *ip = out + FRAME_ETH_SIZE, *udp = out + l4_at;
    struct packet one = *p;
    uint16_t sum;

    if (at >= p->l4_size)
        return 0;
    size = UDP_SIZE + min_u32(datagram_size, p->l4_size - at);
    memcpy(out, p->frame, l4_at + UDP_SIZE);
    memcpy(udp + UDP_SIZE, p->l4 + at, size - UDP_SIZE);
    put_u16(udp + 4, (uint16_t)size);
    memset(udp + UDP_CHECKSUM_AT, 0, 2);
    one.src = out + (p->src - p->frame);
    one.dst = out + (p->dst - p->frame);
    sum = checksum_fold(checksum_add(offload_pseudo_sum(&one, kind, size), udp, size));
    if (sum == 0)
        sum = 0xffff; /* RFC 768: zero would mean "no checksum" */
    memcpy(udp + UDP_CHECKSUM_AT, &sum, sizeof(sum));
    if (kind == PACKET_IPV4) {
        packet_finish_ipv4(ip, l4_at - FRAME_ETH_SIZE, l4_at - FRAME_ETH_SIZE + size);
    } else {
        put_u16(ip + 4, (uint16_t)(l4_at - FRAME_ETH_SIZE - IPV6_SIZE + size));
    }
    return l4_at + size;
}

bool offload_finish(const void *header, uint8_t *frame, uint32_t size)
{
    struct virtio_net_hdr h = load(header);
    uint32_t start = h.csum_start, field = start + h.csum_offset;
    uint16_t sum;

    if (h.gso_type != VIRTIO_NET_HDR_GSO_NONE && !gso_valid(&h, frame, size))
        return false;
    if (!(h.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) || h.gso_type == VIRTIO_NET_HDR_GSO_UDP_L4)
        return true;
    if (start < FRAME_ETH_SIZE || field + 2 > size)
        return false;
    sum = checksum_fold(checksum_add(0, frame + start, size - start));
    if (sum == 0)
        sum = 0xffff; /* RFC 768: zero would mean "no checksum"; for others it is the same number */
    memcpy(frame + field, &sum, sizeof(sum));
    return true;
}

bool offload_made_checksum(const void *header, const struct packet *p)
{
    struct virtio_net_hdr h = load(header);

    /* Begun at its own header, not at one inside; and nothing behind it was summed up as well. */
    return (h.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) && h.gso_type == VIRTIO_NET_HDR_GSO_NONE && p->l4 &&
           !p->is_fragment && p->ip_protocol == IPPROTO_UDP && h.csum_offset == UDP_CHECKSUM_AT &&
           h.csum_start == p->l4 - p->frame && p->l4 + get_u16(p->l4 + 4) == p->frame + p->size;
}

uint32_t offload_receive(struct frame_pool *pool, frame_id *ids, uint32_t n)
{
    uint32_t n_good = 0, n_gso = 0;

    if (pool->header_size == 0)
        return n;
    for (uint32_t i = 0; i < n; i++) {
        frame_id id = ids[i];
        const uint8_t *header = frame_start(pool, id);

        if (pool->size[id] > 0 && offload_finish(header, frame_data(pool, id), pool->size[id])) {
            n_gso += offload_is_gso(header);
            ids[n_good++] = id;
        } else {
            frame_put(pool, &id, 1);
        }
    }
    if (n_good < n)
        counter_add(COUNTER_rx_drop_offload, n - n_good);
    if (n_gso > 0)
        counter_add(COUNTER_rx_gso, n_gso);
    return n_good;
}

uint32_t offload_pseudo_sum(const struct packet *p, enum packet_kind kind, uint32_t l4_size)
{
    uint32_t address_size = kind == PACKET_IPV4 ? 4 : 16;
    uint8_t rest[8] = {0};

    put_u16(rest, (uint16_t)(l4_size >> 16));
    put_u16(rest + 2, (uint16_t)l4_size);
    rest[7] = p->ip_protocol;
    return checksum_add(checksum_add(checksum_add(0, p->src, address_size), p->dst, address_size), rest,
                        sizeof(rest));
}

void offload_leave(struct virtio_net_hdr *ret, uint8_t *head, uint32_t head_size, const struct packet *p,
                   enum packet_kind kind, uint16_t mss)
{
    uint32_t l4_at = (uint32_t)(p->l4 - p->frame);
    uint16_t begun = (uint16_t)~checksum_fold(offload_pseudo_sum(p, kind, p->l4_size));

    *ret = (struct virtio_net_hdr){
        .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
        .gso_type = mss == 0              ? VIRTIO_NET_HDR_GSO_NONE
                    : kind == PACKET_IPV4 ? VIRTIO_NET_HDR_GSO_TCPV4
                                          : VIRTIO_NET_HDR_GSO_TCPV6,
        .hdr_len = (uint16_t)head_size,
        .gso_size = mss,
        .csum_start = (uint16_t)l4_at,
        .csum_offset = TCP_CHECKSUM_AT,
    };
    memcpy(head + l4_at + TCP_CHECKSUM_AT, &begun, sizeof(begun));
}

/* Where the value of the MSS option is, from the TCP header's start; 0: nowhere. */
static uint32_t find_mss(const uint8_t *tcp, uint32_t size)
{
    uint32_t end, at = TCP_SIZE_MIN;

    if (size < TCP_SIZE_MIN)
        return 0;
    end = min_u32((tcp[12] >> 4) * 4u, size);
    while (at + 1 < end && tcp[at] != OPTION_END) {
        if (tcp[at] == OPTION_NOP) {
            at++;
            continue;
        }
        if (tcp[at] == OPTION_MSS && tcp[at + 1] == OPTION_MSS_SIZE && at + OPTION_MSS_SIZE <= end)
            return at + 2;
        if (tcp[at + 1] < 2)
            return 0;
        at += tcp[at + 1];
    }
    return 0;
}

uint16_t offload_mss(const uint8_t *tcp, uint32_t size)
{
    uint32_t at = find_mss(tcp, size);

    return at ? get_u16(tcp + at) : 0;
}

void offload_set_mss(uint8_t *tcp, uint32_t size, uint16_t mss)
{
    uint32_t at = find_mss(tcp, size), sum;
    uint16_t before, now, checksum;

    if (!at)
        return;
    before = get_u16(tcp + at);
    now = mss;
    put_u16(tcp + at, mss);
    if (at & 1) { /* it lies across two words of the sum */
        before = (uint16_t)(before << 8 | before >> 8);
        now = (uint16_t)(now << 8 | now >> 8);
    }
    checksum = get_u16(tcp + TCP_CHECKSUM_AT);
    sum = (uint16_t)~checksum + (uint32_t)(uint16_t)~before + now;
    put_u16(tcp + TCP_CHECKSUM_AT, checksum_fold(sum));
}
