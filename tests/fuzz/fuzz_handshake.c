/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * fuzz_handshake.c - the options of a hostile guest's SYN, and the frames that answer it
 *
 * The mutator mends lengths and the data offset most of the time: without that nearly every input would end
 * in packet_parse(). The answers are parsed again and their checksums verified.
 */
#include "fwd/handshake.h"

#include "frames.h"

#include <netinet/in.h>

#define IP4 "\x08\x00\x45\x00\x00\x3c\x00\x00\x40\x00\x40\x06\x00\x00\x0a\x00\x02\x64\xc0\x00\x02\x01"
#define IP6 "\x86\xdd\x60\x00\x00\x00\x00\x28\x06\x40" ADDRESS6 ADDRESS6
#define TCP "\x04\xd2\x00\x50\x00\x00\x00\x01\x00\x00\x00\x00\xa0\x02\xff\xff\x00\x00\x00\x00"
#define OPTIONS "\x02\x04\x05\xb4\x04\x02\x08\x0a\x00\x00\x00\x01\x00\x00\x00\x00\x01\x03\x03\x07"

static const struct seed seeds[] = {
    SEED(ETHER IP4 TCP OPTIONS),
    SEED(ETHER IP6 TCP OPTIONS),
    SEED(ETHER IP4 TCP "\x03\x03\xff\x01\x02\x04\x00\x01\x02\x03\x00\x03\x01\x01\x01\x04\x03\x00\x03\x00"),
};

static void check_answer(const uint8_t *frame, uint32_t size, enum packet_kind kind, const struct packet *syn,
                         uint8_t flags)
{
    uint32_t addr_size = kind == PACKET_IPV6 ? 16 : 4;
    struct packet p;

    CHECK(size <= HANDSHAKE_FRAME_MAX);
    CHECK(packet_parse(&p, frame, size) == kind);
    CHECK(!p.is_fragment && p.ip_protocol == IPPROTO_TCP && p.tcp_flags == flags);
    CHECK(memcmp(p.src, syn->dst, addr_size) == 0 && memcmp(p.dst, syn->src, addr_size) == 0);
    CHECK(p.src_port == syn->dst_port && p.dst_port == syn->src_port);
    CHECK(memcmp(frame, syn->frame + 6, 6) == 0 && memcmp(frame + 6, syn->frame, 6) == 0);
    if (kind == PACKET_IPV4)
        CHECK(checksum_fold(checksum_add(0, frame + ETH_SIZE, 20)) == 0);
    CHECK(transport_sum(p.src, p.dst, addr_size, IPPROTO_TCP, p.l4, p.l4_size) == 0);
    CHECK((uint32_t)get_u16(p.l4 + 8) << 16 == ((handshake_sequence(syn) + 1) & 0xffff0000));
    CHECK(get_u16(p.l4 + 10) == ((handshake_sequence(syn) + 1) & 0xffff));
}

/* The same SYN without data. */
static void check_copy(const struct packet *syn, enum packet_kind kind)
{
    uint32_t addr_size = kind == PACKET_IPV6 ? 16 : 4, header = (syn->l4[12] >> 4) * 4u, n;
    uint8_t *copy = malloc(HANDSHAKE_SYN_MAX); /* its end is guarded */
    bool good = transport_sum(syn->src, syn->dst, addr_size, IPPROTO_TCP, syn->l4, syn->l4_size) == 0;
    struct packet p;

    CHECK(copy);
    n = handshake_copy_syn(copy, syn);
    CHECK(n <= HANDSHAKE_SYN_MAX && (n > 0 || syn->l4 - syn->frame + header > HANDSHAKE_SYN_MAX));
    if (n > 0) {
        CHECK(packet_parse(&p, copy, n) == kind && !p.is_fragment && p.ip_protocol == IPPROTO_TCP && p.l4);
        CHECK(p.l4_size == header && p.l4 + header == copy + n);
        CHECK(memcmp(p.src, syn->src, addr_size) == 0 && memcmp(p.dst, syn->dst, addr_size) == 0);
        CHECK(memcmp(p.l4, syn->l4, 16) == 0 && memcmp(p.l4 + 18, syn->l4 + 18, header - 18) == 0);
        if (good || syn->l4_size > header)
            CHECK(transport_sum(p.src, p.dst, addr_size, IPPROTO_TCP, p.l4, p.l4_size) == 0);
    }
    free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct repair_spec spec, again;
    uint8_t *frame;
    struct packet syn;
    enum packet_kind kind = packet_parse(&syn, data, (uint32_t)size);
    uint32_t n;

    if ((kind != PACKET_IPV4 && kind != PACKET_IPV6) || syn.is_fragment || syn.ip_protocol != IPPROTO_TCP ||
        !syn.l4)
        return 0;
    check_copy(&syn, kind);
    memset(&spec, 0, sizeof(spec));
    spec.isn = 0x12345678;
    spec.wscale = 7;
    handshake_read_syn(&spec, &syn);
    CHECK(spec.mss >= 64 && spec.peer_wscale <= REPAIR_WSCALE_MAX && spec.window <= 65535);
    CHECK(spec.has_wscale || spec.peer_wscale == 0);
    CHECK(spec.peer_isn == handshake_sequence(&syn));
    CHECK(spec.isn == 0x12345678 && spec.wscale == 7);
    memset(&again, 0xff, sizeof(again)); /* nothing of an earlier use is left */
    handshake_read_syn(&again, &syn);
    CHECK(again.mss == spec.mss && again.has_wscale == spec.has_wscale && again.sack == spec.sack);

    frame = malloc(HANDSHAKE_FRAME_MAX); /* its end is guarded */
    CHECK(frame);
    n = handshake_syn_ack(frame, &syn, &spec);
    check_answer(frame, n, kind, &syn, PACKET_TCP_SYN | PACKET_TCP_ACK);
    n = handshake_reset(frame, &syn);
    check_answer(frame, n, kind, &syn, PACKET_TCP_RST | PACKET_TCP_ACK);
    free(frame);
    return 0;
}

/* Nearly always a SYN of one piece: everything else ends at once. */
static void mend(uint8_t *data, size_t size, unsigned seed)
{
    uint8_t *ip = data + ETH_SIZE;

    if (seed % 8 == 0 || size < ETH_SIZE + IP6_SIZE + 20)
        return;
    if (get_u16(data + ETH_TYPE_AT) == 0x86dd) {
        ip[6] = IPPROTO_TCP;
    } else {
        ip[0] = 0x45;
        ip[9] = IPPROTO_TCP;
        put_u16(ip + 6, 0x4000);
    }
    ip[get_u16(data + ETH_TYPE_AT) == 0x86dd ? IP6_SIZE + 12 : IP4_SIZE + 12] =
        0; /* as long as there is room */
    frame_mend(data, size);
}

FUZZ_MUTATOR(seeds, mend)
