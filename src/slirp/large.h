/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * large.h - segments of up to 32 KiB from libslirp, whatever the guest's MTU is
 *
 * libslirp makes segments as large as its if_mtu, 32 KiB and the guest's MSS permit. Where the TAP takes
 * segmentation (io/offload.h), libslirp is told of LARGE_IF_MTU and an MSS of LARGE_MSS, and what it sends is
 * made right here: SYNs to the guest announce the real MSS, larger TCP frames carry the guest's own MSS as
 * gso_size, other packets that are larger than the MTU go in fragments (RFC 791 2.3, RFC 8200 4.5).
 *
 * The MSS is remembered by the guest's address, the smallest that was seen from there: containers behind a
 * bridge may have smaller MTUs than the TAP, each its own. Addresses that share a place share the smaller
 * value, which is always good enough. A TAP that refuses such a frame (counter tx_gso_refused) gets segments
 * from then on.
 *
 * The slirp role, after large_init().
 */
#pragma once

#include "base/role.h"
#include "io/packet.h"
#include "io/tap_tx.h"

enum {
    LARGE_IF_MTU = 65521, /* libslirp's largest; more from the guest by IPv6 it refuses */
    /* libslirp knows no window scale: 65535 bytes may be on their way to the guest. Two segments of this size
     * are that, but for one byte, and a buffer, 128 KiB rounded up to whole segments, is five of them. With
     * 32768 the second one was a byte shorter, and each buffer ended in two bytes by themselves: a frame, an
     * acknowledgement, a wait. It is exact for IPv4. That the larger buffer is not copied is
     * cli/malloc_conf.c's. */
    LARGE_IF_MRU = 32767 + 40,
    LARGE_MSS = 32767,
    /* Larger segments are cut, too: a window of 64 KiB has room for several then. Four of these are just not
     * more than half of it, which is what Linux sends at a time (tcp_bound_to_half_wnd()). */
    LARGE_SEGMENT_MSS = 8191,
    LARGE_MTU_MIN = 576, /* below it, and below LARGE_MSS_MIN, libslirp makes the segments */
    LARGE_MSS_MIN = 216,
    LARGE_PLACES = 1024,      /* a power of two */
    LARGE_CHECKSUM_MIN = 1024 /* bytes of payload from which on the checksum is left to the kernel */
};

struct large {
    /* Fixed after init. */
    bool on;
    uint32_t mtu;
    struct tap_tx *tx;

    bool refused; /* said so */
    uint32_t ip_id;
    uint16_t mss[LARGE_PLACES]; /* 0: not seen yet */
    uint8_t frame[FRAME_SIZE_MAX];
};

/* main, before threads start. @on: the TAP takes offloads. */
void large_init(struct large *l, struct tap_tx *tx, uint32_t mtu, bool on);

/* A SYN of the guest's on its way to libslirp: remembers its MSS. Returns the frame to give to libslirp
 * instead, as long, valid until the next call of anything here; or its own. */
const uint8_t *large_from_guest(struct large *l, const struct packet *p, enum packet_kind kind)
    RUNS_ON(role_slirp);

/* A frame of libslirp's, to the guest. */
void large_to_guest(struct large *l, const uint8_t *frame, uint32_t size) RUNS_ON(role_slirp);
