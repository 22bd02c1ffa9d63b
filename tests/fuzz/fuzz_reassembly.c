/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * fuzz_reassembly.c - fragments in any order, overlapping, repeated, without an end, late
 *
 * Input: steps of STEP_SIZE bytes, each a fragment of one of a few datagrams; so every input is well-formed,
 * and what is searched is the order of events. Each byte of a datagram follows from its place: whatever comes
 * out must be made of that, from its beginning to its end, and only when every byte has been sent. What is
 * left of the input goes in as a frame of its own.
 */
#include "io/reassembly.h"

#include "fuzz.h"

#include <netinet/in.h>

enum { ETH_SIZE = 14, STEP_SIZE = 5, STEPS_MAX = 400, IDS = 64, FRAME_MAX = ETH_SIZE + 40 + 8 + 65535 };

static const struct seed seeds[] = {
    SEED("\x01\x00\x00\x10\x00\x00\x00\x02\x10\x00"),                     /* two in order */
    SEED("\x00\x00\x02\x10\x00\x01\x00\x00\x10\x00"),                     /* in the other */
    SEED("\x03\x00\x00\x10\x00\x02\x00\x02\x10\x00"),                     /* IPv6 */
    SEED("\x01\x01\x00\x18\x00\x01\x01\x02\x10\x00\x00\x01\x05\x08\x00"), /* an overlap */
    SEED(
        "\x05\x00\x00\xff\x00\x05\x00\xff\xff\x00\x04\x00\x10\x10\x7f\x01\x00\x00\x08\x00"), /* large, late */
};

static uint8_t byte_at(unsigned id, uint32_t at)
{
    return (uint8_t)(at * 31 + (at >> 8) * 7 + id);
}

/* Which bytes of each datagram have ever been sent, and whether one with an end. */
static uint8_t sent[2][IDS][65536 / 8 / 8];
static bool has_end[2][IDS];

static uint32_t build(uint8_t *frame, bool v6, unsigned id, uint32_t offset, uint32_t size, bool more)
{
    uint8_t *ip = frame + ETH_SIZE, *data;

    memset(frame, 0x02, 12);
    put_u16(frame + 12, v6 ? 0x86dd : 0x0800);
    if (v6) {
        memset(ip, 0, 48);
        ip[0] = 0x60;
        put_u16(ip + 4, (uint16_t)(8 + size));
        ip[6] = IPPROTO_FRAGMENT;
        ip[8] = ip[24] = 0xfd;
        ip[23] = 1;
        ip[39] = 2;
        ip[40] = IPPROTO_UDP;
        put_u16(ip + 42, (uint16_t)(offset | more));
        put_u16(ip + 46, (uint16_t)id);
        data = ip + 48;
    } else {
        memset(ip, 0, 20);
        ip[0] = 0x45;
        put_u16(ip + 2, (uint16_t)(20 + size));
        put_u16(ip + 4, (uint16_t)id);
        put_u16(ip + 6, (uint16_t)(offset / 8 | (more ? 0x2000 : 0)));
        ip[9] = IPPROTO_UDP;
        ip[12] = ip[16] = 10;
        ip[19] = 2;
        data = ip + 20;
    }
    for (uint32_t i = 0; i < size; i++)
        data[i] = byte_at(id, offset + i);
    return (uint32_t)(data - frame) + size;
}

static void check_whole(const uint8_t *frame, uint32_t size, bool v6, unsigned id)
{
    uint32_t header = v6 ? 40 : 20, n;
    const uint8_t *data = frame + ETH_SIZE + header;

    CHECK(size >= ETH_SIZE + header && size <= ETH_SIZE + header + 65535);
    n = size - ETH_SIZE - header;
    CHECK(get_u16(frame + 12) == (v6 ? 0x86dd : 0x0800));
    if (v6)
        CHECK(get_u16(frame + ETH_SIZE + 4) == n && frame[ETH_SIZE + 6] == IPPROTO_UDP);
    else
        CHECK(get_u16(frame + ETH_SIZE + 2) == n + 20 && (get_u16(frame + ETH_SIZE + 6) & 0x3fff) == 0 &&
              checksum_fold(checksum_add(0, frame + ETH_SIZE, 20)) == 0);
    CHECK(has_end[v6][id]);
    for (uint32_t i = 0; i < n; i++) {
        CHECK(data[i] == byte_at(id, i));
        CHECK(sent[v6][id][i / 64] & 1 << i / 8 % 8);
    }
}

/* Returns the kind; *@ret is what came out, NULL for nothing. */
static void put(struct reassembly *r, const uint8_t *frame, uint32_t size, int64_t now_ns,
                const uint8_t **ret, uint32_t *ret_size) RUNS_ON(role_slirp)
{
    uint8_t *copy = malloc(size); /* its end is guarded */
    enum packet_kind kind;
    struct packet p;

    CHECK(copy);
    memcpy(copy, frame, size);
    kind = packet_parse(&p, copy, size);
    *ret = (kind == PACKET_IPV4 || kind == PACKET_IPV6) && p.is_fragment
               ? reassembly_take(r, kind, &p, now_ns, ret_size)
               : NULL;
    free(copy); /* what comes out does not point into it */
}

TSA(no_thread_safety_analysis) int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t frame[FRAME_MAX];
    struct reassembly *r;
    int64_t now_ns = 0;
    const uint8_t *whole;
    uint32_t n;

    role_enter(&role_slirp);
    memset(sent, 0, sizeof(sent));
    memset(has_end, 0, sizeof(has_end));
    CHECK(reassembly_new(&r) == 0);
    for (unsigned step = 0; step < STEPS_MAX && size >= STEP_SIZE;
         step++, data += STEP_SIZE, size -= STEP_SIZE) {
        bool more = data[0] & 1, v6 = data[0] & 2;
        unsigned id = data[1] % IDS;
        uint32_t offset = data[2] * (data[0] & 4 ? 256u : 8u), length = data[3] * (data[0] & 4 ? 256u : 8u);

        if (!more)
            length += data[0] >> 5; /* only the last one may have an odd size */
        length = min_u32(length, 65535 - 20 - 8);
        if (length == 0)
            continue;
        now_ns += (int64_t)data[4] * 50 * 1000 * 1000;
        n = build(frame, v6, id, offset, length, more);
        for (uint32_t i = offset; i < offset + length && i < 65536; i++)
            sent[v6][id][i / 64] |= (uint8_t)(1 << i / 8 % 8);
        has_end[v6][id] |= !more;
        put(r, frame, n, now_ns, &whole, &n);
        if (whole)
            check_whole(whole, n, v6, id);
    }
    if (size > 0)
        put(r, data, (uint32_t)size, now_ns, &whole, &n);
    reassembly_free(r);
    role_leave(&role_slirp);
    return 0;
}

FUZZ_MUTATOR(seeds, mend_nothing)
