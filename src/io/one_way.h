/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * one_way.h - datagrams that nobody answers
 *
 * A stream of datagrams knows no flow control: whoever carries it faster than its receiver reads only fills
 * the receiver's buffer, and takes the CPU that the receiver would read with. Questions and answers, or an
 * echo flood, bound themselves. So only after turns with many datagrams, of late nearly all in one direction,
 * the thread that carries them gives way (base/give_way.h). With both it cost echoes and DNS an eighth.
 *
 * One thread owns a one_way.
 */
#pragma once

#include "base/counters.h"
#include "base/give_way.h"

#include <stdbool.h>
#include <stdint.h>

enum {
    ONE_WAY_MANY = 16, /* datagrams of the thread in a turn */
    ONE_WAY_RATIO = 4, /* of one direction to the other */
};

enum one_way_carries { ONE_WAY_OUT = 1, ONE_WAY_IN = 2, ONE_WAY_BOTH = ONE_WAY_OUT | ONE_WAY_IN };

struct one_way {
    uint64_t out, in;           /* up to the last turn */
    uint64_t late_out, late_in; /* sums in which a turn counts 7/8 of the one after it */
    struct give_way give_way;
};

/* @out, @in: how many there have been in all; @carries: what the thread has carried of these. True: give way.
 */
static inline bool one_way_note(struct one_way *o, uint64_t out, uint64_t in, enum one_way_carries carries)
{
    uint64_t n_out = out - o->out, n_in = in - o->in;
    uint64_t n_mine = (carries & ONE_WAY_OUT ? n_out : 0) + (carries & ONE_WAY_IN ? n_in : 0);

    o->out = out;
    o->in = in;
    if (n_out + n_in == 0)
        return false;
    o->late_out = o->late_out * 7 / 8 + n_out;
    o->late_in = o->late_in * 7 / 8 + n_in;
    return n_mine >= ONE_WAY_MANY &&
           (o->late_out / ONE_WAY_RATIO >= o->late_in || o->late_in / ONE_WAY_RATIO >= o->late_out);
}

/* After a turn of a thread that carries datagrams of the guest's flows, when all that others wait for is
 * done. */
static inline void one_way_turn(struct one_way *o, enum one_way_carries carries)
{
    if (one_way_note(o, counter_read(COUNTER_udp_out), counter_read(COUNTER_udp_in), carries))
        give_way(&o->give_way);
}
