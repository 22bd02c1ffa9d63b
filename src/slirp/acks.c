/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "slirp/acks.h"

#include "base/bits.h"
#include "base/counters.h"

#include <linux/if_ether.h>
#include <netinet/in.h>
#include <string.h>

enum {
    IPV4_FRAME = FRAME_ETH_SIZE + 20 + 20,
    IPV6_FRAME = FRAME_ETH_SIZE + 40 + 20,
    ADDRESSES_AT4 = FRAME_ETH_SIZE + 12, /* addresses and ports lie one behind the other */
    ADDRESSES_AT6 = FRAME_ETH_SIZE + 8,
    ADDRESSES_SIZE4 = 2 * 4 + 4,
    ADDRESSES_SIZE6 = 2 * 16 + 4,
    TCP_ACK_AT = 8,
    TCP_OFFSET_AT = 12,
    TCP_FLAGS_AT = 13,
    TCP_SIZE = 20,
};

/* Does it acknowledge, and nothing else? The sizes leave no room for options or payload. */
static bool is_ack(const uint8_t *f, uint32_t size)
{
    if (size == IPV4_FRAME) {
        if (get_u16(f + 12) != ETH_P_IP || f[FRAME_ETH_SIZE] != 0x45 ||
            f[FRAME_ETH_SIZE + 9] != IPPROTO_TCP || get_u16(f + FRAME_ETH_SIZE + 6) & 0x3fff) /* a fragment */
            return false;
    } else if (size != IPV6_FRAME || get_u16(f + 12) != ETH_P_IPV6 || f[FRAME_ETH_SIZE + 6] != IPPROTO_TCP) {
        return false;
    }
    f += size - TCP_SIZE;
    return f[TCP_OFFSET_AT] >> 4 == TCP_SIZE / 4 && f[TCP_FLAGS_AT] == PACKET_TCP_ACK;
}

static bool same_connection(const uint8_t *a, const uint8_t *b, uint32_t size)
{
    return size == IPV4_FRAME ? memcmp(a + ADDRESSES_AT4, b + ADDRESSES_AT4, ADDRESSES_SIZE4) == 0
                              : memcmp(a + ADDRESSES_AT6, b + ADDRESSES_AT6, ADDRESSES_SIZE6) == 0;
}

static uint32_t ack_number(const uint8_t *f, uint32_t size)
{
    const uint8_t *at = f + size - TCP_SIZE + TCP_ACK_AT;

    return (uint32_t)get_u16(at) << 16 | get_u16(at + 2);
}

static void send_held(struct acks *a) RUNS_ON(role_slirp)
{
    for (uint32_t i = 0; i < a->n; i++)
        large_to_guest(a->to, a->held[i].frame, a->held[i].size);
    a->n = 0;
}

void acks_init(struct acks *a, struct large *to)
{
    memset(a, 0, sizeof(*a));
    a->to = to;
}

void acks_begin(struct acks *a)
{
    a->holding = true;
}

void acks_end(struct acks *a)
{
    a->holding = false;
    send_held(a);
}

void acks_to_guest(struct acks *a, const uint8_t *frame, uint32_t size)
{
    uint32_t i = 0;

    if (!a->holding || !is_ack(frame, size)) {
        send_held(a);
        large_to_guest(a->to, frame, size);
        return;
    }
    while (i < a->n && !(a->held[i].size == size && same_connection(a->held[i].frame, frame, size)))
        i++;
    if (i < a->n) {
        if ((int32_t)(ack_number(frame, size) - ack_number(a->held[i].frame, size)) > 0)
            counter_add(COUNTER_tx_acks_merged, 1);
        else
            large_to_guest(a->to, a->held[i].frame, a->held[i].size);
    } else if (a->n == ACKS_MAX) {
        large_to_guest(a->to, frame, size);
        return;
    } else {
        a->n++;
    }
    a->held[i].size = size;
    memcpy(a->held[i].frame, frame, size);
}
