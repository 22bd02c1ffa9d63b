/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * frames.h - frames that get past the parser: pieces of seeds, and what mends lengths and checksums
 *
 * A mutation nearly always breaks a length or a checksum, and then only the refusal is tested. frame_mend()
 * makes both right again, from the outside to the inside; what else the bytes say stays as it is.
 */
#pragma once

#include "fuzz.h"

#include "io/packet.h"

#include <assert.h>
#include <netinet/in.h>

#define ETHER "\x52\x55\x0a\x00\x02\x02\x02\x00\x00\x00\x00\x01"
#define ADDRESSES4 "\x0a\x00\x02\x64\xc0\x00\x02\x01"
#define ADDRESS6 "\xfd\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x64"

static_assert(sizeof(ETHER ADDRESS6) - 1 == 12 + 16, "as long as they are on the wire");

enum { ETH_SIZE = 14, ETH_TYPE_AT = 12, IP4_SIZE = 20, IP6_SIZE = 40 };

/* Checksum of an upper-layer packet with its pseudo-header: 0 if it is right. */
static inline uint16_t transport_sum(const uint8_t *src, const uint8_t *dst, uint32_t addr_size,
                                     uint8_t protocol, const uint8_t *l4, uint32_t l4_size)
{
    uint8_t pseudo[8] = {(uint8_t)(l4_size >> 24), (uint8_t)(l4_size >> 16), [7] = protocol};
    uint32_t sum = 0;

    put_u16(pseudo + 2, (uint16_t)l4_size);
    sum = checksum_add(checksum_add(sum, src, addr_size), dst, addr_size);
    return checksum_fold(checksum_add(checksum_add(sum, pseudo, sizeof(pseudo)), l4, l4_size));
}

/* Where the checksum of @protocol is in its header; 0: none that is known. */
static inline uint32_t transport_sum_at(uint8_t protocol)
{
    return protocol == IPPROTO_TCP                                  ? 16
           : protocol == IPPROTO_UDP                                ? 6
           : protocol == IPPROTO_ICMP || protocol == IPPROTO_ICMPV6 ? 2
                                                                    : 0;
}

static inline void transport_mend(uint8_t *ip, bool v6, uint8_t protocol, uint8_t *l4, uint32_t l4_size)
{
    uint32_t at = transport_sum_at(protocol), addr_size = v6 ? 16 : 4;
    const uint8_t *src = ip + (v6 ? 8 : 12);
    uint16_t sum;

    if (protocol == IPPROTO_TCP && l4_size >= 20 && ((l4[12] >> 4) < 5 || (l4[12] >> 4) * 4u > l4_size))
        l4[12] = (uint8_t)(min_u32(l4_size / 4, 15) << 4);
    if (protocol == IPPROTO_UDP && l4_size >= 8)
        put_u16(l4 + 4, (uint16_t)l4_size);
    if (at == 0 || l4_size < at + 2)
        return;
    put_u16(l4 + at, 0);
    sum = protocol == IPPROTO_ICMP ? checksum_fold(checksum_add(0, l4, l4_size))
                                   : transport_sum(src, src + addr_size, addr_size, protocol, l4, l4_size);
    if (sum == 0 && protocol == IPPROTO_UDP)
        sum = 0xffff;
    memcpy(l4 + at, &sum, sizeof(sum));
}

/* Ethernet with IPv4 or IPv6; IPv6 without extension headers gets the transport's checksum as well. */
static inline void frame_mend(uint8_t *frame, size_t size)
{
    uint32_t type, ip_size, header;
    uint16_t sum;
    uint8_t *ip = frame + ETH_SIZE;

    if (size < ETH_SIZE + IP4_SIZE || size > ETH_SIZE + 65535)
        return;
    type = get_u16(frame + ETH_TYPE_AT);
    ip_size = (uint32_t)size - ETH_SIZE;
    if (type == 0x0800) {
        header = (ip[0] & 15) * 4u;
        if (header < IP4_SIZE || header > ip_size)
            header = IP4_SIZE;
        ip[0] = (uint8_t)(0x40 | header / 4);
        put_u16(ip + 2, (uint16_t)ip_size);
        put_u16(ip + 10, 0);
        sum = checksum_fold(checksum_add(0, ip, header));
        memcpy(ip + 10, &sum, sizeof(sum));
        if ((get_u16(ip + 6) & 0x3fff) == 0)
            transport_mend(ip, false, ip[9], ip + header, ip_size - header);
    } else if (type == 0x86dd && ip_size >= IP6_SIZE) {
        ip[0] = (uint8_t)(0x60 | (ip[0] & 15));
        put_u16(ip + 4, (uint16_t)(ip_size - IP6_SIZE));
        transport_mend(ip, true, ip[6], ip + IP6_SIZE, ip_size - IP6_SIZE);
    }
}
