/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * drive.h - the engine's loop between a guest and an outside that take turns: for fuzz_engine and fuzz_divert
 *
 * The engine runs as it ships, in shared mode, with libslirp and with direct UDP, on a socket in the place of
 * the TAP. Four functions are replaced: thread_spawn() runs the engine's loop in this thread; epoll_wait() is
 * where everybody else acts: when the loop wants to sleep, the guest (guest.c), the outside (outside.c) and
 * what the target adds do their next step, one of the input's; clock_gettime() is a clock that only moves
 * when the loop sleeps; and pthread_join(), since there is no thread. So an input has always the same effect,
 * and an hour takes no time.
 *
 * Checked: that the loop comes to rest; and that no descriptor is left when all connections have been reset
 * and their timers have run out.
 *
 * Input: two bytes of options, what the target wants, then steps.
 */
#pragma once

#include "fuzz.h"
#include "guest.h"

#include "slirp/engine.h"

#define CONNECT(slot, dst) "\x00\x00" slot dst "\x07"
#define SEGMENT(slot, flags, size, off) "\x00\x01" slot flags size off
#define WINDOW(slot, size, silent) "\x00\x02" slot size silent
#define UDP(flags, dst, port, size) "\x00\x03" flags dst port size
#define DNS(flags)                     \
    "\x00\x04" flags "\x0d\x01xxx\x07" \
    "example\x00\x00\x01"
#define ECHO(flags, dst) "\x00\x05" flags dst "\x00\x38"
#define DHCP(type) "\x00\x06" type "\x04\x37\x02\x01\x03"
#define ANSWER(size) "\x00\x0a" size
#define DAMAGE(what) "\x00\x0b" what
#define TIME(units, scale) "\x01" units scale
#define SEND(conn, size) "\x02" conn size
#define CLOSE(conn, how) "\x03" conn how
#define ADOPT(how) "\x04" how
#define FORWARD(how) "\x05" how
#define DATAGRAM(how, size) "\x06" how size
#define LIST "\x07"
#define OWN "\x08" /* the target's */

/* What a target adds; any but step may be NULL. */
struct drive_part {
    /* @in: options of its own. The engine does not run yet. */
    void (*begin)(struct engine *e, const struct engine_config *config, struct input *in);
    bool (*serve)(void);            /* true: something has happened */
    void (*step)(struct input *in); /* one of the input's */
    void (*end)(void);              /* there are no more steps: everybody goes home */
    void (*leave)(void);            /* all timers have run out */
    int (*n_fds)(void);             /* at rest: how many descriptors more than in the beginning */
    void (*stopped)(void);          /* the engine's loop has ended; it is still there */
    bool (*established)(const struct guest_connection *c); /* guest.h */
    void (*reset)(const struct guest_connection *c);
};

/* Once, before there are threads: the outside as well. */
void drive_init(void);
/* One input. */
int drive(const uint8_t *data, size_t size, const struct drive_part *part);
/* True: the guest, the outside or the target is at work, not what is tested. */
bool drive_is_acting(void);
