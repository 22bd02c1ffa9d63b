/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * destination.h - where a guest's own connection goes: whether it is to be diverted, and the host's socket
 * for it
 *
 * What is never diverted: destinations on the guest's own network other than the gateway (libslirp's DNS and
 * other inventions), loopback and unspecified ones, and the gateway under --disable-host-loopback: all that
 * has rules of its own stays with libslirp, where the rules are. Any thread.
 */
#pragma once

#include "fwd/divert.h"
#include "io/address.h"
#include "io/packet.h"

#include <stdbool.h>
#include <stdint.h>

/* @p: a SYN of the guest's, with addresses of @addr_size bytes. */
bool destination_is_divertible(const struct divert_config *c, const struct packet *p, uint32_t addr_size);

enum destination_state { DESTINATION_CONNECTING, DESTINATION_CONNECTED, DESTINATION_FAILED };

/* The host's socket for the destination that the guest means. A descriptor, the caller's, or a negative
 * errno. Over lo the answer is there when connect(2) returns; @ret_state is left as it is if there is none
 * yet. */
int destination_connect(const struct divert_config *c, const union address *destination,
                        enum destination_state *ret_state);
