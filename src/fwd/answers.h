/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * answers.h - whom the guest's servers answer
 *
 * A forwarded connection that is not answered inside the guest's namespace has one of two reasons. The
 * guest's own rules may lead the answers astray (a firewall, address translation, a network of its own that
 * has the client's address, too): then libslirp's path is tried, at once for those that come next. Or the
 * server's backlog is full: then libslirp would wait for the same server, and slower. What tells them apart
 * is whether others have been answered of late: the same client by the same port, or anybody.
 *
 * Any thread, without a lock: these are hints, and what two threads write at the same time may be half of
 * each.
 */
#pragma once

#include "io/address.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum {
    ANSWERS_CLIENTS = 128,     /* that are told apart, roughly: who came last has the place */
    ANSWERS_BUSY_MS = 10000,   /* how long an answer counts */
    ANSWERS_ASTRAY_MS = 10000, /* how long silence does */
};

/* Of one forward; all zero: nothing is known. Relaxed: nothing else depends on it. */
struct answers {
    _Atomic int64_t answered_ns;     /* when anybody was, last */
    _Atomic int64_t astray_until_ns; /* nobody is */
    struct {
        _Atomic uint64_t key;
        _Atomic int64_t answered_ns, astray_until_ns;
    } clients[ANSWERS_CLIENTS];
};

/* For the calls below: clients with the address (not port) of @shown, at the address and port of @guest. */
uint64_t answers_key(const union address *shown, const union address *guest);

/* @now_ns: CLOCK_MONOTONIC. A connection has been answered. */
void answers_note(struct answers *a, uint64_t key, int64_t now_ns);
/* One has not been, for as long as it was waited for. */
void answers_note_silence(struct answers *a, uint64_t key, int64_t now_ns);
/* Is one that is not answered worth waiting for? */
bool answers_is_busy(const struct answers *a, uint64_t key, int64_t now_ns);
/* Is a new one not worth trying? */
bool answers_is_astray(const struct answers *a, uint64_t key, int64_t now_ns);
