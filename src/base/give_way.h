/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * give_way.h - after much work, others have the CPU before there is a look for more
 *
 * A thread that carries bytes for programs on the same CPUs can starve them: woken for each datagram, it
 * takes the CPU from the one that is to read them, whose buffer then overflows (receive livelock). So after a
 * turn that has moved much it yields once: whoever can run on this CPU, the receiver most of all, runs first,
 * and what comes meanwhile is one batch afterwards. sched_yield(2) costs a system call when nobody else wants
 * the CPU, which is nothing beside such a turn. Small turns, requests and answers, never yield.
 *
 * If somebody else computes on that CPU, a yield lasts as long as the scheduler's slice, milliseconds, and
 * would cost more than it saves. So after a yield of GIVE_WAY_LONG_NS there is none for a while, which
 * doubles each time, until one is short again.
 *
 * One thread owns a give_way. docs/DECISIONS.md has the figures.
 */
#pragma once

#include "base/clock.h"

#include <sched.h>
#include <stdint.h>

enum {
    GIVE_WAY_LONG_NS = 600000, /* a slice is 700 us at least (EEVDF), a receiver's whole queue about 400 */
    GIVE_WAY_PAUSE_NS_MIN = 10000000,
    GIVE_WAY_PAUSE_NS_MAX = 640000000,
};

struct give_way {
    int64_t resume_ns; /* not before */
    int64_t pause_ns;  /* the last one; 0: none of late */
};

/* At @now_ns a yield has ended that began at @begin_ns. */
static inline void give_way_note(struct give_way *g, int64_t begin_ns, int64_t now_ns)
{
    if (now_ns - begin_ns < GIVE_WAY_LONG_NS) {
        /* Beside somebody who computes most yields are short: it is used up, too. */
        if (now_ns - g->resume_ns > GIVE_WAY_PAUSE_NS_MAX)
            g->pause_ns = 0;
        return;
    }
    g->pause_ns = g->pause_ns == 0                          ? GIVE_WAY_PAUSE_NS_MIN
                  : g->pause_ns * 2 > GIVE_WAY_PAUSE_NS_MAX ? GIVE_WAY_PAUSE_NS_MAX
                                                            : g->pause_ns * 2;
    g->resume_ns = now_ns + g->pause_ns;
}

static inline void give_way(struct give_way *g)
{
    int64_t begin_ns = clock_monotonic_ns();

    if (begin_ns < g->resume_ns)
        return;
    sched_yield();
    give_way_note(g, begin_ns, clock_monotonic_ns());
}
