/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * outside.h - what fuzz_engine's guest may talk to: servers and clients in a network namespace of its own
 *
 * Loopback and two addresses of "another host" on lo, nothing else; no packet leaves the namespace.
 * Everything happens when outside_serve() is called. A byte of a TCP stream follows from its place in it
 * (pattern()), so that whoever gets a wrong one knows.
 */
#pragma once

#include "fuzz.h"

#include "io/address.h"

#define OTHER_HOST4 "203.0.113.9"
#define OTHER_HOST6 "2001:db8:1::9"
enum { OUTSIDE_PORT = 7000, OUTSIDE_CONNS_MAX = 16 };

static inline uint8_t pattern(uint32_t at)
{
    return (uint8_t)(at * 31 + (at >> 8) * 7 + (at >> 16));
}

/* What there is to read of a stream whose bytes are to be the pattern's from *@received on, which it adds to;
 * with
 * @check, others end the process. A bounded number of reads. */
enum pattern_end { PATTERN_GOES_ON, PATTERN_ENDED, PATTERN_RESET };
enum pattern_end pattern_read(int fd, uint32_t *received, bool check);

/* Once, before there are threads. Ends the process with a sentence when there can be no namespace. */
void outside_init(void);

/* For one input. @no_loopback: nothing may reach the loopback's servers but questions to port 53. */
void outside_begin(bool no_loopback);
/* Accepts, reads, answers. Returns true when anything happened. */
bool outside_serve(void);
/* From now on the guest's bytes may be others than the pattern (it has sent urgent data, or mended damage).
 */
void outside_believe_nothing(void);
bool outside_believes(void);
/* Closes connections; the servers stay. */
void outside_end(void);

/* Connection @index of those there are: sends bytes of the pattern; ends its stream; closes, by a reset or
 * not; reads no more, or again. */
void outside_send(unsigned index, uint32_t size);
void outside_shutdown(unsigned index);
void outside_close(unsigned index, bool reset);
void outside_toggle_reading(unsigned index);

/* A client of a forward: an accepted connection for engine_adopt(), or -1. The other end is served. */
int outside_connect(bool v6, bool from_loopback);
/* A client's datagram to @port of the host, from one of a few clients. */
void outside_datagram(bool v6, unsigned client, uint16_t port, uint32_t size);
