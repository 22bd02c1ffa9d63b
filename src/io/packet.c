/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "io/packet.h"

#include "base/bits.h"

#include <netinet/in.h>
#include <stddef.h>
#include <string.h>

enum {
    ETH_SIZE = 14,
    ARP_SIZE = 28,
    IPV4_SIZE_MIN = 20,
    IPV6_SIZE = 40,
    TCP_SIZE_MIN = 20,
    UDP_SIZE = 8,
    ICMP_SIZE_MIN = 4,
    EXTENSIONS_MAX = 8, /* IPv6 extension headers; a longer chain is an attack, not traffic */
};

/* The transport header lies at p->l4: checks it and takes the ports. */
static bool parse_transport(struct packet *p)
{
    switch (p->ip_protocol) {
    case IPPROTO_TCP: {
        uint32_t header_size;

        if (p->l4_size < TCP_SIZE_MIN)
            return p->is_fragment;
        header_size = (p->l4[12] >> 4) * 4;
        if (header_size < TCP_SIZE_MIN || (header_size > p->l4_size && !p->is_fragment))
            return false;
        p->tcp_flags = p->l4[13];
        break;
    }
    case IPPROTO_UDP:
        if (p->l4_size < UDP_SIZE)
            return p->is_fragment;
        if (get_u16(p->l4 + 4) < UDP_SIZE || (get_u16(p->l4 + 4) > p->l4_size && !p->is_fragment))
            return false;
        break;
    case IPPROTO_ICMP:
    case IPPROTO_ICMPV6:
        return p->l4_size >= ICMP_SIZE_MIN || p->is_fragment;
    default:
        return true;
    }
    p->src_port = get_u16(p->l4);
    p->dst_port = get_u16(p->l4 + 2);
    return true;
}

static enum packet_kind parse_ipv4(struct packet *p, const uint8_t *ip, uint32_t size)
{
    uint32_t header_size, total_size, fragment;

    if (size < IPV4_SIZE_MIN || ip[0] >> 4 != 4)
        return PACKET_MALFORMED;
    header_size = (ip[0] & 15) * 4;
    total_size = get_u16(ip + 2);
    if (header_size < IPV4_SIZE_MIN || total_size < header_size || total_size > size)
        return PACKET_MALFORMED;
    p->src = ip + 12;
    p->dst = ip + 16;
    p->ip_protocol = ip[9];
    fragment = get_u16(ip + 6);
    p->is_fragment = fragment & 0x3fff; /* more fragments, or an offset */
    if (fragment & 0x1fff)
        return PACKET_IPV4;
    p->l4 = ip + header_size;
    p->l4_size = total_size - header_size;
    return parse_transport(p) ? PACKET_IPV4 : PACKET_MALFORMED;
}

static enum packet_kind parse_ipv6(struct packet *p, const uint8_t *ip, uint32_t size)
{
    const uint8_t *at = ip + IPV6_SIZE;
    uint32_t left, next;

    if (size < IPV6_SIZE || ip[0] >> 4 != 6)
        return PACKET_MALFORMED;
    left = get_u16(ip + 4);
    if (left > size - IPV6_SIZE)
        return PACKET_MALFORMED;
    p->src = ip + 8;
    p->dst = ip + 24;
    next = ip[6];
    for (int i = 0; i < EXTENSIONS_MAX; i++) {
        uint32_t extension_size;

        switch (next) {
        case IPPROTO_HOPOPTS:
        case IPPROTO_ROUTING:
        case IPPROTO_DSTOPTS:
            if (left < 8)
                return PACKET_MALFORMED;
            extension_size = (at[1] + 1) * 8;
            break;
        case IPPROTO_FRAGMENT:
            if (left < 8)
                return PACKET_MALFORMED;
            extension_size = 8;
            /* RFC 8200 4.5: offset 0 and no more: an atomic fragment. What follows is known when all of a
             * datagram is there; until then each of its fragments is told by the same number. */
            if (get_u16(at + 2) & 0xfff9) {
                p->is_fragment = true;
                p->ip_protocol = at[0];
                return PACKET_IPV6;
            }
            break;
        case IPPROTO_NONE:
            p->ip_protocol = IPPROTO_NONE;
            return PACKET_IPV6;
        default:
            p->ip_protocol = next;
            p->l4 = at;
            p->l4_size = left;
            return parse_transport(p) ? PACKET_IPV6 : PACKET_MALFORMED;
        }
        if (extension_size > left)
            return PACKET_MALFORMED;
        next = at[0];
        at += extension_size;
        left -= extension_size;
    }
    return PACKET_MALFORMED;
}

enum packet_kind packet_parse(struct packet *ret, const uint8_t *frame, uint32_t size)
{
    struct packet p = {.frame = frame, .size = size};
    enum packet_kind kind;

    if (size < ETH_SIZE)
        return PACKET_MALFORMED;
    switch (get_u16(frame + 12)) {
    case 0x0800:
        kind = parse_ipv4(&p, frame + ETH_SIZE, size - ETH_SIZE);
        break;
    case 0x86dd:
        kind = parse_ipv6(&p, frame + ETH_SIZE, size - ETH_SIZE);
        break;
    case 0x0806:
        kind = size >= ETH_SIZE + ARP_SIZE ? PACKET_ARP : PACKET_MALFORMED;
        break;
    default:
        kind = PACKET_OTHER;
    }
    *ret = p;
    return kind;
}

uint32_t checksum_add(uint32_t sum, const void *data, uint32_t size)
{
    const uint8_t *p = data;
    uint64_t wide = sum;

    for (; size >= 4; p += 4, size -= 4) {
        uint32_t word;

        memcpy(&word, p, 4);
        wide += word;
    }
    if (size >= 2) {
        uint16_t half;

        memcpy(&half, p, 2);
        wide += half;
        p += 2;
        size -= 2;
    }
    if (size) {
        uint16_t half = 0;

        memcpy(&half, p, 1); /* the odd byte is the first of a word padded with zero */
        wide += half;
    }
    while (wide >> 32)
        wide = (wide & 0xffffffff) + (wide >> 32);
    return (uint32_t)wide;
}

uint16_t checksum_fold(uint32_t sum)
{
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)~sum;
}

void packet_finish_ipv4(uint8_t *ip, uint32_t header_size, uint32_t total_size)
{
    uint16_t sum;

    put_u16(ip + 2, (uint16_t)total_size);
    memset(ip + 10, 0, 2);
    sum = checksum_fold(checksum_add(0, ip, header_size));
    memcpy(ip + 10, &sum, sizeof(sum));
}
