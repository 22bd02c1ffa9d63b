/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * fuzz_offload.c - a virtio-net header that lies about its frame, and checksums that are begun and finished
 *
 * Input: a struct virtio_net_hdr, then the frame. The frame and the header lie where their ends are guarded.
 */
#include "io/offload.h"

#include "frames.h"

#define HEADER "\x01\x00\x00\x00\x00\x00\x22\x00\x10\x00"     /* a checksum to finish, IPv4 TCP */
#define HEADER_GSO "\x01\x01\x36\x00\x64\x00\x22\x00\x10\x00" /* and segments of 100 bytes */
#define HEADER6 "\x01\x04\x4a\x00\x64\x00\x36\x00\x10\x00"    /* the same, IPv6 */
#define IP4 "\x08\x00\x45\x00\x00\x3c\x00\x00\x40\x00\x40\x06\x00\x00" ADDRESSES4
#define IP6 "\x86\xdd\x60\x00\x00\x00\x00\x28\x06\x40" ADDRESS6 ADDRESS6
#define TCP "\x04\xd2\x00\x50\x00\x00\x00\x01\x00\x00\x00\x00\xa0\x02\xff\xff\x00\x00\x00\x00"
#define OPTIONS "\x02\x04\x05\xb4\x04\x02\x08\x0a\x00\x00\x00\x01\x00\x00\x00\x00\x01\x03\x03\x07"

static const struct seed seeds[] = {
    SEED(HEADER ETHER IP4 TCP OPTIONS),
    SEED(HEADER_GSO ETHER IP4 TCP OPTIONS "0123456789012345678901234567890123456789"),
    SEED(HEADER6 ETHER IP6 TCP OPTIONS "0123456789"),
    /* an odd place for the MSS; a checksum field at the end of the frame; UDP */
    SEED(HEADER ETHER IP4 TCP
         "\x01\x02\x04\x05\xb4\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x00"),
    SEED("\x01\x00\x00\x00\x00\x00\x22\x00\x26\x00" ETHER IP4 TCP OPTIONS),
    SEED("\x01\x00\x00\x00\x00\x00\x22\x00\x06\x00" ETHER
         "\x08\x00\x45\x00\x00\x20\x00\x00\x40\x00\x40\x11\x00\x00" ADDRESSES4
         "\x14\xe9\x00\x35\x00\x0c\x00\x00"
         "data"),
};

static uint8_t *guarded(const void *data, size_t size)
{
    uint8_t *copy = malloc(size);

    CHECK(copy);
    memcpy(copy, data, size);
    return copy;
}

static bool is_of(const struct packet *p, enum packet_kind kind, uint8_t protocol)
{
    return (kind == PACKET_IPV4 || kind == PACKET_IPV6) && p->ip_protocol == protocol && p->l4 &&
           !p->is_fragment;
}

static bool is_tcp(const struct packet *p, enum packet_kind kind)
{
    return is_of(p, kind, IPPROTO_TCP);
}

static uint16_t tcp_sum(const struct packet *p, enum packet_kind kind)
{
    return transport_sum(p->src, p->dst, kind == PACKET_IPV6 ? 16 : 4, IPPROTO_TCP, p->l4, p->l4_size);
}

/* Whatever the header says: only the checksum's field may change. */
static void check_finish(const uint8_t *header, const uint8_t *data, uint32_t size)
{
    struct virtio_net_hdr h;
    uint8_t *frame = guarded(data, size);
    struct packet p;
    bool good = offload_finish(header, frame, size);

    memcpy(&h, header, sizeof(h));
    CHECK(offload_is_gso(header) == (h.gso_type != VIRTIO_NET_HDR_GSO_NONE));
    for (uint32_t i = 0; i < size; i++) {
        uint32_t field = (uint32_t)h.csum_start + h.csum_offset;

        CHECK(frame[i] == data[i] ||
              (good && h.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM && i - field < 2 && i >= ETH_SIZE));
    }
    if (good && offload_is_gso(header)) {
        CHECK(is_of(&p, packet_parse(&p, frame, size),
                    h.gso_type == VIRTIO_NET_HDR_GSO_UDP_L4 ? IPPROTO_UDP : IPPROTO_TCP));
        CHECK(h.gso_size > 0 && h.hdr_len <= size);
    }
    free(frame);
}

/* What is left to the kernel is what the kernel leaves to us. */
static void check_round_trip(const uint8_t *data, uint32_t size, uint16_t mss)
{
    uint8_t *frame = guarded(data, size);
    struct virtio_net_hdr h;
    struct packet p;
    enum packet_kind kind = packet_parse(&p, frame, size);
    uint32_t head_size;

    if (is_tcp(&p, kind)) {
        head_size = (uint32_t)(p.l4 - frame) + (p.l4[12] >> 4) * 4u;
        memset(&h, 0xa5, sizeof(h));
        offload_leave(&h, frame, head_size, &p, kind, mss);
        CHECK((h.gso_type != VIRTIO_NET_HDR_GSO_NONE) == (mss > 0) && h.gso_size == mss);
        if (p.l4 + p.l4_size == frame + size) { /* no padding: it would be summed */
            CHECK(offload_finish(&h, frame, size));
            CHECK(tcp_sum(&p, kind) == 0);
        }
    }
    free(frame);
}

static void check_mss(const uint8_t *data, uint32_t size, uint16_t mss)
{
    uint8_t *frame = guarded(data, size);
    struct packet p;
    enum packet_kind kind;
    bool right;

    kind = packet_parse(&p, frame, size);
    if (is_tcp(&p, kind)) {
        uint8_t *tcp = frame + (p.l4 - frame);
        uint16_t before = offload_mss(tcp, p.l4_size);

        right = tcp_sum(&p, kind) == 0;
        offload_set_mss(tcp, p.l4_size, mss);
        CHECK(before == 0 || offload_mss(tcp, p.l4_size) == mss);
        CHECK(!right || tcp_sum(&p, kind) == 0);
    }
    free(frame);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *header;
    uint16_t mss;

    if (size <= OFFLOAD_HEADER_SIZE)
        return 0;
    header = guarded(data, OFFLOAD_HEADER_SIZE);
    mss = get_u16(data + 4);
    data += OFFLOAD_HEADER_SIZE;
    size -= OFFLOAD_HEADER_SIZE;
    check_finish(header, data, (uint32_t)size);
    check_round_trip(data, (uint32_t)size, mss);
    check_mss(data, (uint32_t)size, mss);
    free(header);
    return 0;
}

static void mend(uint8_t *data, size_t size, unsigned seed)
{
    if (seed % 4 != 0 && size > OFFLOAD_HEADER_SIZE)
        frame_mend(data + OFFLOAD_HEADER_SIZE, size - OFFLOAD_HEADER_SIZE);
}

FUZZ_MUTATOR(seeds, mend)
