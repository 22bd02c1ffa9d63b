/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "io/udp_frame.h"

#include "base/bits.h"
#include "io/offload.h"
#include "io/packet.h"

#include <assert.h>
#include <string.h>

enum { ETH_SIZE = 14, IPV4_SIZE = 20, IPV6_SIZE = 40, FRAGMENT_SIZE = 8, UDP_SIZE = 8 };
static_assert(UDP_FRAME_HEADROOM >= ETH_SIZE + IPV6_SIZE + FRAGMENT_SIZE + UDP_SIZE, "headers do not fit");

void udp_frame_gateway_mac(uint8_t ret[6], int family, struct in_addr gateway)
{
    memcpy(ret, (const uint8_t[6]){0x52, family == AF_INET6 ? 0x56 : 0x55, 0, 0, 0, 2}, 6);
    if (family == AF_INET)
        memcpy(ret + 2, &gateway, 4);
}

/* Ports and length; returns the sum of the pseudo-header. */
static uint32_t begin_udp(uint8_t *udp, uint32_t udp_size, const struct udp_frame *f)
{
    bool v6 = f->src->sa.sa_family == AF_INET6;
    uint8_t pseudo[4] = {0, IPPROTO_UDP, 0, 0};
    uint32_t sum;

    put_u16(udp, address_port(f->src));
    put_u16(udp + 2, address_port(f->dst));
    put_u16(udp + 4, (uint16_t)udp_size);
    put_u16(udp + 6, 0);
    put_u16(pseudo + 2, (uint16_t)udp_size);
    sum = v6 ? checksum_add(checksum_add(0, &f->src->in6.sin6_addr, 16), &f->dst->in6.sin6_addr, 16)
             : checksum_add(checksum_add(0, &f->src->in.sin_addr, 4), &f->dst->in.sin_addr, 4);
    return checksum_add(sum, pseudo, sizeof(pseudo));
}

static void put_udp(uint8_t *udp, uint32_t udp_size, const struct udp_frame *f)
{
    uint32_t sum = begin_udp(udp, udp_size, f);
    uint16_t folded = checksum_fold(checksum_add(sum, udp, udp_size));

    if (folded == 0)
        folded = 0xffff; /* RFC 768: zero would mean "no checksum" */
    memcpy(udp + 6, &folded, 2);
}

static void put_ipv4(uint8_t *ip, const struct udp_frame *f, uint32_t part, uint32_t at, bool more)
{
    uint16_t sum;

    memset(ip, 0, IPV4_SIZE);
    ip[0] = 0x45;
    put_u16(ip + 2, (uint16_t)(IPV4_SIZE + part));
    put_u16(ip + 4, (uint16_t)*f->id);
    put_u16(ip + 6, (uint16_t)((more ? 0x2000 : 0) | at / 8));
    ip[8] = 64;
    ip[9] = IPPROTO_UDP;
    memcpy(ip + 12, &f->src->in.sin_addr, 4);
    memcpy(ip + 16, &f->dst->in.sin_addr, 4);
    sum = checksum_fold(checksum_add(0, ip, IPV4_SIZE));
    memcpy(ip + 10, &sum, 2);
}

/* @fragment: 8 bytes more, the fragment header. */
static void put_ipv6(uint8_t *ip, const struct udp_frame *f, uint32_t part, uint32_t at, bool more,
                     bool fragment)
{
    memset(ip, 0, IPV6_SIZE);
    ip[0] = 0x60;
    put_u16(ip + 4, (uint16_t)(part + (fragment ? FRAGMENT_SIZE : 0)));
    ip[6] = fragment ? IPPROTO_FRAGMENT : IPPROTO_UDP;
    ip[7] = 64;
    memcpy(ip + 8, &f->src->in6.sin6_addr, 16);
    memcpy(ip + 24, &f->dst->in6.sin6_addr, 16);
    if (!fragment)
        return;
    memset(ip + IPV6_SIZE, 0, FRAGMENT_SIZE);
    ip[IPV6_SIZE] = IPPROTO_UDP;
    put_u16(ip + IPV6_SIZE + 2, (uint16_t)((at & 0xfff8) | more));
    put_u16(ip + IPV6_SIZE + 4, (uint16_t)(*f->id >> 16));
    put_u16(ip + IPV6_SIZE + 6, (uint16_t)*f->id);
}

static void put_eth(uint8_t *eth, const struct udp_frame *f)
{
    bool v6 = f->src->sa.sa_family == AF_INET6;

    memcpy(eth, f->guest_mac, 6);
    udp_frame_gateway_mac(eth + 6, v6 ? AF_INET6 : AF_INET, f->gateway);
    put_u16(eth + 12, v6 ? 0x86dd : 0x0800);
}

uint32_t udp_frame_head(const struct udp_frame *f, uint8_t head[UDP_FRAME_HEAD_MAX],
                        struct virtio_net_hdr *ret_header, uint32_t size, uint32_t gso_size)
{
    bool v6 = f->src->sa.sa_family == AF_INET6;
    uint32_t ip_size = v6 ? IPV6_SIZE : IPV4_SIZE, at = ETH_SIZE + ip_size;
    uint16_t begun;

    if (ip_size + UDP_SIZE + size > UINT16_MAX || ip_size + UDP_SIZE + (gso_size ? gso_size : size) > f->mtu)
        return 0;
    ++*f->id;
    put_eth(head, f);
    if (v6)
        put_ipv6(head + ETH_SIZE, f, UDP_SIZE + size, 0, false, false);
    else
        put_ipv4(head + ETH_SIZE, f, UDP_SIZE + size, 0, false);
    begun = (uint16_t)~checksum_fold(begin_udp(head + at, UDP_SIZE + size, f));
    memcpy(head + at + 6, &begun, sizeof(begun));
    *ret_header = (struct virtio_net_hdr){
        .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
        .gso_type = gso_size ? VIRTIO_NET_HDR_GSO_UDP_L4 : VIRTIO_NET_HDR_GSO_NONE,
        .hdr_len = (uint16_t)(at + UDP_SIZE),
        .gso_size = (uint16_t)gso_size,
        .csum_start = (uint16_t)at,
        .csum_offset = 6,
    };
    return at + UDP_SIZE;
}

bool udp_frame_send(const struct udp_frame *f, uint8_t *payload, uint32_t size)
{
    bool v6 = f->src->sa.sa_family == AF_INET6, fragmented;
    uint32_t udp_size = UDP_SIZE + size, ip_size = v6 ? IPV6_SIZE : IPV4_SIZE, part_max = udp_size;
    uint8_t *udp = payload - UDP_SIZE;

    if (size > (v6 ? UDP_PAYLOAD_MAX6 : UDP_PAYLOAD_MAX4))
        return false;
    ++*f->id;
    put_udp(udp, udp_size, f);
    fragmented = ip_size + udp_size > f->mtu;
    if (fragmented && v6)
        ip_size += FRAGMENT_SIZE;
    if (fragmented)
        part_max = (f->mtu - ip_size) & ~7u;
    for (uint32_t at = 0; at < udp_size; at += part_max) {
        uint32_t part = min_u32(part_max, udp_size - at);
        uint8_t *ip = udp + at - ip_size, *eth = ip - ETH_SIZE;
        bool more = at + part < udp_size;

        if (v6)
            put_ipv6(ip, f, part, at, more, fragmented);
        else
            put_ipv4(ip, f, part, at, more);
        put_eth(eth, f);
        f->send(f->arg, eth, ETH_SIZE + ip_size + part);
    }
    return true;
}
