/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * slow_host.h - a host of fuzz_divert's outside that lets one wait, and then accepts, refuses or cannot be
 * reached
 *
 * It is behind a TUN device of the outside's namespace, and its TCP is in here: over lo every connection is
 * decided when connect(2) returns. It takes what it is sent, the pattern of outside.h, and sends nothing.
 */
#pragma once

#include "fuzz.h"

#define SLOW_HOST4 "198.51.100.7" /* guest.c knows it, too */

/* Once, in the outside's namespace. */
void slow_host_init(void);
void slow_host_begin(void);
/* Takes packets. True: there were some. */
bool slow_host_serve(void);
/* Decides about one connection of those there are. */
void slow_host_step(struct input *in);
/* Everything is refused, or reset. */
void slow_host_end(void);
