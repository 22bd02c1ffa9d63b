/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * drain.h - diverted connections that have ended, but not for the guest yet
 *
 * The last bytes of a connection, and its FIN, may be in the send buffer of the guest's side when both
 * directions have ended: the guest reads slowly. Closed now, the socket would go on by itself, but the nft
 * element that leads the guest's acknowledgements to it would not outlive it for long. So the descriptor is
 * kept until the guest has acknowledged everything but the FIN, which it does not need room for. There is no
 * event for that, so the list is looked at every DRAIN_LOOK_MS. A guest that
 * takes nothing for DRAIN_SILENT_MS has lost the rest, as with a kernel's own orphaned sockets
 * (tcp_probe_timer()).
 *
 * Owner of a list: one worker.
 */
#pragma once

#include "fwd/link.h"

#include <stdbool.h>
#include <stdint.h>

enum { DRAIN_LOOK_MS = 100, DRAIN_SILENT_MS = 240000 };

struct drain { /* embedded in what it is about */
    struct link link;
    int fd;   /* the guest's side; not owned */
    int left; /* bytes that were not acknowledged at the last look */
    int64_t progress_ns;
};

struct drains {
    struct link all;
    int64_t look_ns; /* while there are any: the next look */
    void *arg;
    /* It is over: the guest has everything, or (@lost) will not have it. Calls drain_remove(). */
    void (*on_over)(void *arg, struct drain *d, bool lost);
};

void drains_init(struct drains *ds);
/* Is there anything that the guest has not acknowledged, besides the FIN? Then @d is in the list. */
bool drain_add(struct drains *ds, struct drain *d, int fd);
/* Nothing happens if it is in no list (link_init()). */
void drain_remove(struct drain *d);
/* Once a turn. */
void drains_turn(struct drains *ds);
/* Until when (CLOCK_MONOTONIC) no turn is needed; INT64_MAX: nothing is waited for. */
int64_t drains_until_ns(const struct drains *ds);
