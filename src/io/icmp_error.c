/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "io/icmp_error.h"

#include "io/packet.h"

#include "base/bits.h"

#include <string.h>

enum { ETH_SIZE = 14, IPV4_SIZE = 20, IPV6_SIZE = 40, ICMP_SIZE = 8, QUOTED_L4_SIZE = 8, UDP_SIZE = 8 };

static const uint8_t gateway6[16] = {0xfd, [15] = 2};

static uint32_t unreachable4(uint8_t *out, const uint8_t *ip, uint32_t size, struct in_addr gateway)
{
    uint32_t quoted_size = (ip[0] & 15) * 4 + QUOTED_L4_SIZE;
    uint8_t *answer = out + ETH_SIZE, *icmp = answer + IPV4_SIZE;
    uint16_t sum;

    if (size < quoted_size)
        return 0;
    memset(answer, 0, IPV4_SIZE + ICMP_SIZE);
    answer[0] = 0x45;
    put_u16(answer + 2, IPV4_SIZE + ICMP_SIZE + quoted_size);
    answer[8] = 64;
    answer[9] = IPPROTO_ICMP;
    memcpy(answer + 12, &gateway, 4);
    memcpy(answer + 16, ip + 12, 4);
    sum = checksum_fold(checksum_add(0, answer, IPV4_SIZE));
    memcpy(answer + 10, &sum, 2);
    icmp[0] = 3; /* destination unreachable */
    icmp[1] = 1; /* host */
    memcpy(icmp + ICMP_SIZE, ip, quoted_size);
    sum = checksum_fold(checksum_add(0, icmp, ICMP_SIZE + quoted_size));
    memcpy(icmp + 2, &sum, 2);

    out[6] = 0x52;
    out[7] = 0x55;
    memcpy(out + 8, &gateway, 4);
    return ETH_SIZE + IPV4_SIZE + ICMP_SIZE + quoted_size;
}

static uint32_t unreachable6(uint8_t *out, const uint8_t *ip, uint32_t size)
{
    static const uint8_t gateway6_mac[6] = {0x52, 0x56, 0, 0, 0, 2};
    uint32_t quoted_size = IPV6_SIZE + QUOTED_L4_SIZE, sum;
    uint8_t *answer = out + ETH_SIZE, *icmp = answer + IPV6_SIZE;
    uint8_t pseudo[8] = {[7] = IPPROTO_ICMPV6};
    uint16_t folded;

    if (size < quoted_size)
        return 0;
    memset(answer, 0, IPV6_SIZE + ICMP_SIZE);
    answer[0] = 0x60;
    put_u16(answer + 4, ICMP_SIZE + quoted_size);
    answer[6] = IPPROTO_ICMPV6;
    answer[7] = 64;
    memcpy(answer + 8, gateway6, 16);
    memcpy(answer + 24, ip + 8, 16);
    icmp[0] = 1; /* destination unreachable */
    icmp[1] = 3; /* address */
    memcpy(icmp + ICMP_SIZE, ip, quoted_size);
    put_u16(pseudo + 2, ICMP_SIZE + quoted_size);
    sum = checksum_add(0, answer + 8, 32);
    sum = checksum_add(sum, pseudo, sizeof(pseudo));
    folded = checksum_fold(checksum_add(sum, icmp, ICMP_SIZE + quoted_size));
    memcpy(icmp + 2, &folded, 2);

    memcpy(out + 6, gateway6_mac, 6);
    return ETH_SIZE + IPV6_SIZE + ICMP_SIZE + quoted_size;
}

uint32_t icmp_error_unreachable(uint8_t out[ICMP_ERROR_FRAME_MAX], const uint8_t *cause, uint32_t cause_size,
                                struct in_addr gateway)
{
    const uint8_t *ip = cause + ETH_SIZE;
    uint32_t size;

    if (cause_size < ETH_SIZE + IPV4_SIZE)
        return 0;
    memcpy(out, cause + 6, 6); /* back to where it came from */
    memcpy(out + 12, cause + 12, 2);
    switch (ip[0] >> 4) {
    case 4:
        size = unreachable4(out, ip, cause_size - ETH_SIZE, gateway);
        break;
    case 6:
        size = unreachable6(out, ip, cause_size - ETH_SIZE);
        break;
    default:
        size = 0;
    }
    return size;
}

static void put_header4(uint8_t *ip, uint8_t protocol, uint32_t size, const union address *src,
                        const union address *dst)
{
    uint16_t sum;

    memset(ip, 0, IPV4_SIZE);
    ip[0] = 0x45;
    put_u16(ip + 2, (uint16_t)(IPV4_SIZE + size));
    ip[8] = 64;
    ip[9] = protocol;
    memcpy(ip + 12, &src->in.sin_addr, 4);
    memcpy(ip + 16, &dst->in.sin_addr, 4);
    sum = checksum_fold(checksum_add(0, ip, IPV4_SIZE));
    memcpy(ip + 10, &sum, 2);
}

static void put_header6(uint8_t *ip, uint8_t protocol, uint32_t size, const union address *src,
                        const union address *dst)
{
    memset(ip, 0, IPV6_SIZE);
    ip[0] = 0x60;
    put_u16(ip + 4, (uint16_t)size);
    ip[6] = protocol;
    ip[7] = 64;
    memcpy(ip + 8, &src->in6.sin6_addr, 16);
    memcpy(ip + 24, &dst->in6.sin6_addr, 16);
}

uint32_t icmp_error_datagram(uint8_t out[ICMP_ERROR_DATAGRAM_MAX], const struct icmp_error *e)
{
    bool v6 = e->src->sa.sa_family == AF_INET6;
    uint32_t ip_size = v6 ? IPV6_SIZE : IPV4_SIZE,
             payload_size = min_u32(e->payload_size, ICMP_ERROR_QUOTE_MAX);
    uint32_t quoted_size = ip_size + UDP_SIZE + payload_size, sum = 0;
    uint8_t *ip = out + ETH_SIZE, *icmp = ip + ip_size, *quoted = icmp + ICMP_SIZE, *udp = quoted + ip_size;
    uint16_t folded;

    memcpy(out, e->guest_mac, 6);
    memcpy(out + 6, e->gateway_mac, 6);
    put_u16(out + 12, v6 ? 0x86dd : 0x0800);
    memset(icmp, 0, ICMP_SIZE);
    icmp[0] = e->type;
    icmp[1] = e->code;
    put_u16(icmp + 4, (uint16_t)(v6 ? e->mtu >> 16 : 0));
    put_u16(icmp + 6, (uint16_t)e->mtu);
    put_u16(udp, address_port(e->src));
    put_u16(udp + 2, address_port(e->dst));
    put_u16(udp + 4, (uint16_t)(UDP_SIZE + payload_size));
    put_u16(udp + 6, 0);
    if (payload_size > 0)
        memcpy(udp + UDP_SIZE, e->payload, payload_size);
    if (v6) {
        uint8_t pseudo[8] = {[7] = IPPROTO_ICMPV6};

        put_header6(quoted, IPPROTO_UDP, UDP_SIZE + payload_size, e->src, e->dst);
        put_header6(ip, IPPROTO_ICMPV6, ICMP_SIZE + quoted_size, e->from, e->src);
        put_u16(pseudo + 2, (uint16_t)(ICMP_SIZE + quoted_size));
        sum = checksum_add(checksum_add(0, ip + 8, 32), pseudo, sizeof(pseudo));
    } else {
        put_header4(quoted, IPPROTO_UDP, UDP_SIZE + payload_size, e->src, e->dst);
        put_header4(ip, IPPROTO_ICMP, ICMP_SIZE + quoted_size, e->from, e->src);
    }
    folded = checksum_fold(checksum_add(sum, icmp, ICMP_SIZE + quoted_size));
    memcpy(icmp + 2, &folded, 2);
    return ETH_SIZE + ip_size + ICMP_SIZE + quoted_size;
}
