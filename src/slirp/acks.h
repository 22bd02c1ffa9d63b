/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * acks.h - one acknowledgement for what came together
 *
 * libslirp acknowledges every segment of the guest's by a frame of its own. Each of them is a system call, in
 * which the guest's kernel receives it, wakes its sender and sends what the window permits. While a turn's
 * frames are given to libslirp, acknowledgements that say nothing else (RFC 9293 3.10.7.4) are held; a later
 * one of the same connection takes the place of an earlier one that acknowledges less. Duplicates, which mean
 * a loss (RFC 5681 3.2), and everything else go out at once and in their order.
 *
 * The slirp role, after acks_init().
 */
#pragma once

#include "base/role.h"
#include "slirp/large.h"

#include <stdbool.h>
#include <stdint.h>

enum {
    ACKS_MAX = 8,                              /* held; further ones are sent */
    ACKS_FRAME_MAX = FRAME_ETH_SIZE + 40 + 20, /* IPv6, no options */
};

struct acks {
    struct large *to; /* borrowed */
    bool holding;
    uint32_t n;
    struct {
        uint32_t size;
        uint8_t frame[ACKS_FRAME_MAX];
    } held[ACKS_MAX];
};

/* main, before threads start. */
void acks_init(struct acks *a, struct large *to);

/* Frames of the guest's are about to be given to libslirp. */
void acks_begin(struct acks *a) RUNS_ON(role_slirp);
/* They have been: sends what is held. */
void acks_end(struct acks *a) RUNS_ON(role_slirp);

/* A frame of libslirp's, to the guest by large_to_guest(), now or in acks_end(). It is copied. */
void acks_to_guest(struct acks *a, const uint8_t *frame, uint32_t size) RUNS_ON(role_slirp);
