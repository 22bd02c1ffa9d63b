/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * half_open.h - diverted connections that one end has not answered yet
 *
 * Either the destination: a host socket that is connecting (divert_entry.c). Or the guest: its side is made
 * without a handshake (repair.h), so the kernel takes it for established before the guest has acknowledged
 * anything; the lists here are of these. Both kinds have a bound of their own, so that SYNs alone cannot use
 * up what connections need: beyond it the oldest goes, unless it is younger than HALF_OPEN_GRACE_MS; half as
 * many again, and it goes in any case. A port of the guest that was given up before its destination had
 * answered begins again with its next SYN.
 *
 * Owner of a list: one worker.
 */
#pragma once

#include "base/clock.h"
#include "fwd/link.h"

#include <stdbool.h>
#include <stdint.h>

enum {
    HALF_OPEN_MAX = 4096,     /* of each kind; some KiB of the kernel's for each one */
    HALF_OPEN_GRACE_MS = 100, /* a guest answers in microseconds, a host nearby in milliseconds */
    HALF_OPEN_LOOKS = 63,     /* as often as the guest's answer is looked for */
};

/* main, before threads start: the bounds for this process's RLIMIT_NOFILE. Connecting ones may have a quarter
 * of the descriptors; those without an answer of the guest, two descriptors each, another one. At least 1. */
uint32_t half_open_connecting_max(void);
uint32_t half_open_silent_max(void);
/* Ditto, of those that wait for nsagent, a sixteenth: with as many of them no connection is begun. */
uint32_t half_open_building_max(void);

/* @n of them, of which @max may be, the oldest of them @age_ns old: must that one go? */
static inline bool half_open_is_too_much(uint32_t n, uint32_t max, int64_t age_ns)
{
    return n > max && (age_ns >= HALF_OPEN_GRACE_MS * NS_PER_MS || n - max > max / 2);
}

struct half_open { /* embedded in what it is about */
    struct link link;
    int64_t since_ns;
    uint32_t n_looks;
    int fd; /* the guest's side; not owned */
};

struct half_opens {
    struct link all; /* by age */
    uint32_t n, max, look_ms;
    int64_t look_ns; /* while there are any: the next look */
    void *arg;
    /* Give it up: too many, or no answer after HALF_OPEN_LOOKS looks. Calls half_open_remove(). */
    void (*on_over)(void *arg, struct half_open *o);
    /* Nothing has come after 1, 3, 7, 15 or 31 looks: the SYN-ACK may be lost. */
    void (*on_silent)(void *arg, struct half_open *o);
};

void half_opens_init(struct half_opens *h, uint32_t max, uint32_t look_ms);
/* @since_ns does not go back from one to the next. */
void half_open_add(struct half_opens *h, struct half_open *o, int fd, int64_t since_ns);
/* It ends. Nothing happens if it is in no list (link_init()). */
void half_open_remove(struct half_opens *h, struct half_open *o);
/* Once a turn: who has answered leaves the list, who is too much or too late goes. */
void half_opens_turn(struct half_opens *h);
/* Until when (CLOCK_MONOTONIC) no turn is needed; INT64_MAX: nobody is waited for. */
int64_t half_opens_until_ns(const struct half_opens *h);
