/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * fuzz_packet.c - a frame from a hostile guest: parser, filter, ICMP errors
 *
 * AddressSanitizer finds what is read outside of the frame; what packet.h promises is checked here, against
 * the frame's own bytes. Most mutations are mended (frames.h); the others are what the parser has to refuse.
 */
#include "io/icmp_error.h"
#include "io/packet.h"
#include "slirp/filter.h"

#include "frames.h"

static const struct seed seeds[] = {
    SEED(ETHER "\x08\x00" /* TCP SYN */
               "\x45\x00\x00\x28\x00\x00\x40\x00\x40\x06\x00\x00" ADDRESSES4
               "\x04\xd2\x00\x50\x00\x00\x00\x01\x00\x00\x00\x00\x50\x02\xff\xff\x00\x00\x00\x00"),
    SEED(ETHER "\x08\x00" /* UDP behind IP options, with padding */
               "\x46\x00\x00\x24\x00\x00\x00\x00\x40\x11\x00\x00" ADDRESSES4 "\x01\x01\x01\x00"
               "\x14\xe9\x00\x35\x00\x0c\x00\x00"
               "data\0\0\0\0\0\0"),
    SEED(ETHER "\x08\x00" /* a later fragment */
               "\x45\x00\x00\x1c\x00\x01\x20\x05\x40\x11\x00\x00" ADDRESSES4 "fragment"),
    SEED(ETHER "\x86\xdd" /* hop-by-hop options, a fragment header, UDP */
               "\x60\x00\x00\x00\x00\x18\x00\x40" ADDRESS6 ADDRESS6 "\x2c\x00\x01\x04\x00\x00\x00\x00"
               "\x11\x00\x00\x01\x00\x00\x00\x07"
               "\x14\xe9\x00\x35\x00\x08\x00\x00"),
    SEED(ETHER "\x86\xdd" /* an echo request */
               "\x60\x00\x00\x00\x00\x08\x3a\x40" ADDRESS6 ADDRESS6 "\x80\x00\x00\x00\x00\x01\x00\x01"),
    SEED(ETHER "\x86\xdd" /* the first fragment of ICMPv6, without a byte of it */
               "\x60\x00\x00\x00\x00\x08\x2c\x40" ADDRESS6 ADDRESS6 "\x3a\x00\x00\x01\x00\x00\x00\x07"),
    SEED(ETHER "\x08\x06"
               "\x00\x01\x08\x00\x06\x04\x00\x01\x02\x00\x00\x00\x00\x01\x0a\x00\x02\x64"
               "\x00\x00\x00\x00\x00\x00\x0a\x00\x02\x02"),
};

static bool inside(const struct packet *p, const uint8_t *at, uint32_t size)
{
    return at >= p->frame && at <= p->frame + p->size && size <= (size_t)(p->frame + p->size - at);
}

static void check_transport(const struct packet *p)
{
    bool tcp = p->ip_protocol == IPPROTO_TCP, udp = p->ip_protocol == IPPROTO_UDP;

    if (!p->l4) {
        CHECK(p->l4_size == 0 && p->src_port == 0 && p->dst_port == 0 && p->tcp_flags == 0);
        return;
    }
    CHECK(inside(p, p->l4, p->l4_size));
    CHECK(p->l4 > p->dst);
    if (!p->is_fragment) {
        if (tcp)
            CHECK(p->l4_size >= 20 && (p->l4[12] >> 4) >= 5 && (p->l4[12] >> 4) * 4u <= p->l4_size);
        if (udp)
            CHECK(p->l4_size >= 8 && get_u16(p->l4 + 4) >= 8 && get_u16(p->l4 + 4) <= p->l4_size);
        if (p->ip_protocol == IPPROTO_ICMP || p->ip_protocol == IPPROTO_ICMPV6)
            CHECK(p->l4_size >= 4);
    }
    if (p->src_port || p->dst_port) {
        CHECK((tcp || udp) && p->l4_size >= 4);
        CHECK(p->src_port == get_u16(p->l4) && p->dst_port == get_u16(p->l4 + 2));
    } else if ((tcp && p->l4_size >= 20) || (udp && p->l4_size >= 8)) {
        CHECK(get_u16(p->l4) == 0 && get_u16(p->l4 + 2) == 0);
    }
    CHECK(p->tcp_flags == 0 || (tcp && p->tcp_flags == p->l4[13]));
}

static void check(enum packet_kind kind, const struct packet *p)
{
    const uint8_t *ip = p->frame + ETH_SIZE;
    uint32_t type = get_u16(p->frame + 12), end;

    switch (kind) {
    case PACKET_ARP:
        CHECK(type == 0x0806 && p->size >= ETH_SIZE + 28);
        break;
    case PACKET_OTHER:
        CHECK(type != 0x0800 && type != 0x0806 && type != 0x86dd);
        break;
    case PACKET_IPV4:
        CHECK(type == 0x0800 && p->size >= ETH_SIZE + 20 && ip[0] >> 4 == 4);
        CHECK(p->src == ip + 12 && p->dst == ip + 16 && p->ip_protocol == ip[9]);
        CHECK(p->is_fragment == ((get_u16(ip + 6) & 0x3fff) != 0));
        CHECK((p->l4 == NULL) == ((get_u16(ip + 6) & 0x1fff) != 0));
        end = get_u16(ip + 2);
        CHECK(end <= p->size - ETH_SIZE);
        CHECK(!p->l4 || (p->l4 == ip + (ip[0] & 15) * 4 && p->l4 + p->l4_size == ip + end));
        check_transport(p);
        break;
    case PACKET_IPV6:
        CHECK(type == 0x86dd && p->size >= ETH_SIZE + 40 && ip[0] >> 4 == 6);
        CHECK(p->src == ip + 8 && p->dst == ip + 24);
        end = 40 + get_u16(ip + 4);
        CHECK(end <= p->size - ETH_SIZE);
        CHECK(!p->l4 || (p->l4 >= ip + 40 && p->l4 + p->l4_size == ip + end));
        CHECK(p->l4 || p->is_fragment || p->ip_protocol == IPPROTO_NONE);
        check_transport(p);
        break;
    case PACKET_MALFORMED:
        break;
    }
}

static void filter_and_answer(enum packet_kind kind, const struct packet *p)
{
    struct in_addr gateway = {.s_addr = htonl(0x0a000202)};
    uint8_t error[ICMP_ERROR_FRAME_MAX];
    struct packet answer;
    uint32_t n;

    for (int i = 0; i < 8; i++) {
        struct filter f = {.disable_host_loopback = i & 1,
                           .disable_dns = i & 2,
                           .ipv6 = i & 4,
                           .dns.s_addr = htonl(0x0a000203)};
        enum filter_verdict v = filter_frame(&f, kind, p);

        CHECK((v == FILTER_DROP_MALFORMED) == (kind == PACKET_MALFORMED));
        CHECK(v != FILTER_PASS || kind != PACKET_OTHER);
        CHECK(v != FILTER_PASS || kind != PACKET_IPV6 || f.ipv6);
        CHECK(v != FILTER_DROP_LOOPBACK || f.disable_host_loopback);
        CHECK(v != FILTER_DROP_DNS || f.disable_dns);
        if (v == FILTER_PASS && f.disable_host_loopback && kind == PACKET_IPV4)
            CHECK(p->dst[0] != 127 && p->dst[0] != 0);
    }
    if (kind != PACKET_IPV4 && kind != PACKET_IPV6)
        return;
    /* As the engine does: the first bytes of a packet that has passed. */
    n = icmp_error_unreachable(error, p->frame, p->size, gateway);
    CHECK(n <= sizeof(error));
    if (n > 0) {
        CHECK(packet_parse(&answer, error, n) == kind);
        CHECK(memcmp(answer.dst, p->src, kind == PACKET_IPV4 ? 4 : 16) == 0);
        if (kind == PACKET_IPV4)
            CHECK(checksum_fold(checksum_add(0, answer.l4, answer.l4_size)) == 0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    enum packet_kind kind;
    struct packet p;

    memset(&p, 0xa5, sizeof(p)); /* what a rejected frame leaves behind must not be used */
    kind = packet_parse(&p, data, (uint32_t)size);
    if (size >= ETH_SIZE && kind != PACKET_MALFORMED) {
        CHECK(p.frame == data && p.size == size);
        check(kind, &p);
    }
    filter_and_answer(kind, &p);
    if (size > 1) /* in two steps as in one, when the first is even */
        CHECK(checksum_fold(checksum_add(checksum_add(0, data, 2), data + 2, (uint32_t)size - 2)) ==
              checksum_fold(checksum_add(0, data, (uint32_t)size)));
    return 0;
}

static void mend(uint8_t *data, size_t size, unsigned seed)
{
    if (seed % 4 != 0)
        frame_mend(data, size);
}

FUZZ_MUTATOR(seeds, mend)
