/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * inside.h - what fuzz_divert has inside the guest's namespaces: nsagent, the nft set, and the guest's TCP
 *
 * A network namespace where every address is local stands for the guest's. The process nsagent is not there:
 * fork(2) is replaced, and this file has the other end of its socket. It makes real sockets in that namespace
 * and gives them real states (repair.h), as it should, or not, as the input says. The nft set is a list; a
 * connection of the guest's that is in it when its SYN-ACK arrives goes on in that namespace: the guest's TCP
 * is then a repaired socket as well, made from its own SYN and from what the SYN-ACK says. Only if the two
 * ends agree do bytes move. They are the pattern of outside.h, in both directions.
 */
#pragma once

#include "guest.h"

#include "base/failure.h"

struct agent;

/* Once, after outside_init(). */
void inside_init(void);
/* For one input. @direct: the program may change the set itself. */
void inside_begin(bool direct);
/* Answers the program, reads what came for the guest. True: something has happened. */
bool inside_serve(void);
/* One step of the input. */
void inside_step(struct input *in);
/* guest_config's. */
bool inside_established(const struct guest_connection *c);
void inside_reset(const struct guest_connection *c);
/* Connections of the guest's are reset; the agent does all that it has put off. */
void inside_end(void);
/* All timers have run out: nothing may be in the set. The agent ends, so that its sockets go. */
void inside_leave(void);
/* How many descriptors have been closed for good. */
int inside_n_closed(void);
/* After agent_free(). */
void inside_free(void);
