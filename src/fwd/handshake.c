/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "fwd/handshake.h"

#include "base/bits.h"

#include <netinet/in.h>
#include <string.h>

enum {
    ETH_SIZE = 14,
    IPV6_SIZE = 40,
    SYN_ACK_MSS = 65495, /* what lo can take: the TAP's MTU does not matter here */
    MSS_MIN = 64,        /* a smaller one is no limit but a mistake, or worse */
};

static void put_u32(uint8_t *p, uint32_t v)
{
    put_u16(p, (uint16_t)(v >> 16));
    put_u16(p + 2, (uint16_t)v);
}

static uint32_t get_u32(const uint8_t *p)
{
    return (uint32_t)get_u16(p) << 16 | get_u16(p + 2);
}

static bool is_ipv6(const struct packet *p)
{
    return p->frame[12] == 0x86;
}

/* The checksum of @tcp_size bytes at @tcp, 0 so far, between the two addresses of @p. */
static void finish_tcp(uint8_t *tcp, uint32_t tcp_size, const struct packet *p)
{
    uint32_t addr_size = is_ipv6(p) ? 16 : 4, sum;
    uint8_t pseudo[4] = {0, IPPROTO_TCP, (uint8_t)(tcp_size >> 8), (uint8_t)tcp_size};
    uint16_t folded;

    sum = checksum_add(0, p->dst, addr_size); /* RFC 9293 3.1, RFC 8200 8.1 */
    sum = checksum_add(sum, p->src, addr_size);
    sum = checksum_add(sum, pseudo, sizeof(pseudo));
    folded = checksum_fold(checksum_add(sum, tcp, tcp_size));
    memcpy(tcp + 16, &folded, 2);
}

/* ---- the guest's SYN ---- */

uint32_t handshake_copy_syn(uint8_t out[HANDSHAKE_SYN_MAX], const struct packet *syn)
{
    uint32_t at = (uint32_t)(syn->l4 - syn->frame), tcp_size = (uint32_t)(syn->l4[12] >> 4) * 4,
             size = at + tcp_size;
    uint8_t *ip = out + ETH_SIZE;

    if (size > HANDSHAKE_SYN_MAX)
        return 0;
    memcpy(out, syn->frame, size);
    if (syn->l4_size == tcp_size)
        return size;
    if (is_ipv6(syn))
        put_u16(ip + 4, (uint16_t)(size - ETH_SIZE - IPV6_SIZE));
    else
        packet_finish_ipv4(ip, at - ETH_SIZE, size - ETH_SIZE);
    memset(out + at + 16, 0, 2);
    finish_tcp(out + at, tcp_size, syn);
    return size;
}

uint32_t handshake_sequence(const struct packet *syn)
{
    return get_u32(syn->l4 + 4);
}

static void read_options(struct repair_spec *spec, const struct packet *syn)
{
    uint32_t end = (uint32_t)(syn->l4[12] >> 4) * 4, at = 20;

    while (at < end && at < syn->l4_size) {
        const uint8_t *o = syn->l4 + at;

        if (o[0] == 0)
            return;
        if (o[0] == 1) {
            at++;
            continue;
        }
        if (at + 1 >= end || o[1] < 2 || at + o[1] > end)
            return;
        if (o[0] == 2 && o[1] == 4 && get_u16(o + 2) >= MSS_MIN)
            spec->mss = get_u16(o + 2);
        else if (o[0] == 3 && o[1] == 3) {
            spec->has_wscale = true;
            spec->peer_wscale = o[2] > REPAIR_WSCALE_MAX ? REPAIR_WSCALE_MAX : o[2];
        } else if (o[0] == 4 && o[1] == 2)
            spec->sack = true;
        at += o[1];
    }
}

void handshake_read_syn(struct repair_spec *spec, const struct packet *syn)
{
    spec->peer_isn = get_u32(syn->l4 + 4);
    spec->window = get_u16(syn->l4 + 14);
    spec->mss = is_ipv6(syn) ? 1220 : 536;
    spec->has_wscale = spec->sack = false;
    spec->peer_wscale = 0;
    read_options(spec, syn);
}

/* ---- answers ---- */

/* Ethernet and IP headers of an answer to @p; returns where TCP begins. */
static uint32_t answer_headers(uint8_t *out, const struct packet *p, uint32_t tcp_size)
{
    uint8_t *ip = out + ETH_SIZE;
    uint16_t sum;

    memcpy(out, p->frame + 6, 6);
    memcpy(out + 6, p->frame, 6);
    memcpy(out + 12, p->frame + 12, 2);
    if (is_ipv6(p)) {
        memset(ip, 0, 40);
        ip[0] = 0x60;
        put_u16(ip + 4, (uint16_t)tcp_size);
        ip[6] = IPPROTO_TCP;
        ip[7] = 64;
        memcpy(ip + 8, p->dst, 16);
        memcpy(ip + 24, p->src, 16);
        return ETH_SIZE + 40;
    }
    memset(ip, 0, 20);
    ip[0] = 0x45;
    put_u16(ip + 2, (uint16_t)(20 + tcp_size));
    ip[6] = 0x40; /* DF: an identification of 0 is right then (RFC 6864) */
    ip[8] = 64;
    ip[9] = IPPROTO_TCP;
    memcpy(ip + 12, p->dst, 4);
    memcpy(ip + 16, p->src, 4);
    sum = checksum_fold(checksum_add(0, ip, 20));
    memcpy(ip + 10, &sum, 2);
    return ETH_SIZE + 20;
}

static uint32_t answer(uint8_t *frame, const struct packet *p, uint8_t flags, uint32_t seq, uint32_t ack,
                       uint16_t window, const uint8_t *options, uint32_t options_size)
{
    uint32_t tcp_size = 20 + options_size, at = answer_headers(frame, p, tcp_size);
    uint8_t *tcp = frame + at;

    memset(tcp, 0, 20);
    put_u16(tcp, p->dst_port);
    put_u16(tcp + 2, p->src_port);
    put_u32(tcp + 4, seq);
    put_u32(tcp + 8, ack);
    tcp[12] = (uint8_t)(tcp_size / 4 << 4);
    tcp[13] = flags;
    put_u16(tcp + 14, window);
    if (options_size > 0)
        memcpy(tcp + 20, options, options_size);
    finish_tcp(tcp, tcp_size, p);
    return at + tcp_size;
}

uint32_t handshake_reset(uint8_t *frame, const struct packet *syn)
{
    return answer(frame, syn, PACKET_TCP_RST | PACKET_TCP_ACK, 0, get_u32(syn->l4 + 4) + 1, 0, NULL, 0);
}

uint32_t handshake_syn_ack(uint8_t *frame, const struct packet *syn, const struct repair_spec *spec)
{
    uint8_t options[12] = {2, 4, SYN_ACK_MSS >> 8, SYN_ACK_MSS & 0xff}; /* RFC 9293 3.7.1 */
    uint32_t size = 4;

    if (spec->sack) { /* RFC 2018, two NOPs before it */
        options[size] = options[size + 1] = 1;
        options[size + 2] = 4;
        options[size + 3] = 2;
        size += 4;
    }
    if (spec->has_wscale) { /* RFC 7323 2.2, a NOP before it */
        options[size] = 1;
        options[size + 1] = 3;
        options[size + 2] = 3;
        options[size + 3] = spec->wscale;
        size += 4;
    }
    return answer(frame, syn, PACKET_TCP_SYN | PACKET_TCP_ACK, spec->isn, spec->peer_isn + 1, REPAIR_WINDOW,
                  options, size);
}
