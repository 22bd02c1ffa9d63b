/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * spin.h - how long to look for work before sleeping
 *
 * Waking a thread that sleeps on another CPU costs some 20 us in a virtual machine, on both sides; the
 * packets of a new connection follow each other faster than that. So for SPIN_BUSY_NS after something that
 * others will follow (spin_busy()) a loop that has slept only shortly looks a little longer the next time,
 * and one that has looked for nothing looks shorter, down to not at all: as the kernel does for virtual CPUs
 * (Documentation/virt/kvm/halt-polling.rst). Between looks the thread yields, so that it takes no time from
 * another one that could run on its CPU.
 *
 * Not always: a thread that spins keeps its CPU from the two that it talks with. Requests and answers on a
 * connection that exists took 10 % longer that way, since all three share one CPU otherwise.
 *
 * One thread owns a spin. bench/README.md has the figures.
 */
#pragma once

#include "base/clock.h"

#include <stdbool.h>
#include <stdint.h>

enum { SPIN_NS_MIN = 10000, SPIN_NS_MAX = 50000, SPIN_BUSY_NS = 300000 };

struct spin {
    int64_t window_ns; /* 0: sleep at once */
    int64_t until_ns;  /* end of SPIN_BUSY_NS */
};

static inline void spin_busy(struct spin *s)
{
    s->until_ns = clock_monotonic_ns() + SPIN_BUSY_NS;
}

/* Looking has found nothing for the whole window. */
static inline void spin_failed(struct spin *s)
{
    s->window_ns = s->window_ns / 2 < SPIN_NS_MIN ? 0 : s->window_ns / 2;
}

/* The thread has slept for @ns. */
static inline void spin_slept(struct spin *s, int64_t ns)
{
    if (ns >= SPIN_NS_MAX)
        return;
    s->window_ns = s->window_ns < SPIN_NS_MIN ? SPIN_NS_MIN : s->window_ns * 2;
    if (s->window_ns > SPIN_NS_MAX)
        s->window_ns = SPIN_NS_MAX;
}
