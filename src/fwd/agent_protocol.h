/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * agent_protocol.h - what the program and its nsagent say to each other
 *
 * Both are one program, so the struct itself is the message: one size, one packet of a SOCK_SEQPACKET socket
 * each. Unused fields are 0. A message of another size, of an unknown type or out of bounds ends the
 * conversation: the agent exits, the parent treats it as gone and lets no other take its place. Neither side
 * trusts the other more than that: the agent lives where the guest's root might get at it.
 *
 *   parent                       agent
 *          <- STARTED            it is in the namespaces and has what it needs of them, or why not (the last
 *                                word then). It is not sealed yet, unless agent_config.sealed says so: that
 *                                follows the first request, before the request is read; where it fails, a
 *                                second STARTED with the error is the last word
 *          <- STANDBY pid        once, before it reads its first request: who takes its place when it ends
 *          <- ADDRESSES ...      the whole list in order, the last message has @final; whenever it changed
 *          <- STATE family       whenever it changed; the first list comes before the first state
 *   WANT_SOCKETS family n ->
 *          <- SOCKETS family     until the sum of @settled is n; @count of them with the message (SCM_RIGHTS)
 *   LOOK ->                      (answered by what has changed, if anything)
 *   DIVERT id spec ->            make the socket and (unless it is there) the set's element of an outbound
 *                                connection
 *          <- DIVERTED id result with the socket, or a negative errno
 *   UNDIVERT tuples ->           take the elements away
 *          <- UNDIVERTED         @count of them are gone, in the order of the requests
 *          <- COMPLAINT          something for the log, also before STARTED
 *   NESTED ->                    divert what containers behind a bridge send, too (answered by a COMPLAINT
 * where that cannot be)
 *
 * STANDBY comes with two descriptors: the parent's end of the standby's own pair, and its pidfd. A standby is
 * spoken to as an agent that has sent STARTED: the first request is what it waits for.
 *
 * STARTED without an error comes with the netlink socket that owns the nft table, if there is one: with the
 * parent's copy the table outlives an agent that is killed. A parent that is permitted to changes the table
 * itself, through that copy, and then never asks for it (DIVERT without an element, UNDIVERT, NESTED): only
 * one of the two may use the socket, which has one queue of answers.
 */
#pragma once

#include "fwd/agent.h"
#include "fwd/nft.h"
#include "fwd/repair.h"

#include <assert.h>

enum {
    AGENT_STOCK_MAX = 64,     /* sockets per family that the parent keeps, and that one request may ask for */
    SOCKETS_PER_MESSAGE = 16, /* SCM_MAX_FD is 253 */
    AGENT_ADDRESSES_MAX = 256, /* a guest with more has some that are not spliced */
    ADDRESSES_PER_MESSAGE = 16,
    TUPLES_PER_MESSAGE = 6,
    AGENT_START_MS = 5000,
};

enum message_type {
    MESSAGE_WANT_SOCKETS = 1,
    MESSAGE_LOOK,
    MESSAGE_STARTED,
    MESSAGE_STATE,
    MESSAGE_ADDRESSES,
    MESSAGE_SOCKETS,
    MESSAGE_DIVERT,
    MESSAGE_DIVERTED,
    MESSAGE_UNDIVERT,
    MESSAGE_NESTED,
    MESSAGE_COMPLAINT,
    MESSAGE_STANDBY,
    MESSAGE_UNDIVERTED,
};

enum agent_complaint {                      /* of COMPLAINT, in @count */
                       AGENT_MADE_CALL = 1, /* @result: a system call that its filter forbids; it has ended */
                       AGENT_SEES_FILES, /* @result: a negative errno; it goes on with nothing but the filter
                                            before the files */
                       AGENT_STANDS_ALONE,  /* @result: a negative errno; there is no standby */
                       AGENT_LEAVES_NESTED, /* @result: a negative errno, of NESTED */
};

/* Compared with memcmp(): the rest of an IPv4 address is 0. */
struct agent_address {
    uint16_t family;
    uint8_t bytes[16]; /* network byte order */
};
static_assert(sizeof(struct agent_address) == 18, "no padding, or memcmp() would read it");

struct agent_message {
    uint16_t type;   /* enum message_type */
    uint16_t family; /* WANT_SOCKETS, STATE, SOCKETS: AF_INET or AF_INET6 */
    uint16_t
        count; /* WANT_SOCKETS, SOCKETS, ADDRESSES, UNDIVERT(ED): how many; DIVERT: 1: the element is there */
    uint16_t settled; /* SOCKETS: how many of those asked for are answered by this message; >= count */
    uint16_t first;   /* ADDRESSES: place of the first in the list */
    uint16_t final;   /* ADDRESSES: 1: the list is complete */
    int32_t result; /* STARTED: 0 or a negative errno; a second one is a failure after the first; STATE: enum
                       agent_reason; STANDBY: its process id, for people */
    union {
        struct agent_address addresses[ADDRESSES_PER_MESSAGE];
        struct {
            char what[sizeof(((struct failure *)0)->what)];
            char hint[sizeof(((struct failure *)0)->hint)];
        } sentence; /* STARTED with an error */
        struct {
            uint64_t id; /* DIVERT, DIVERTED */
            struct repair_spec spec;
        } divert;
        struct nft_tuple tuples[TUPLES_PER_MESSAGE]; /* UNDIVERT */
    };
};
static_assert(sizeof(struct agent_message) == 16 + 384, "messages have one size and no padding");
static_assert(AGENT_ADDRESSES_MAX <= UINT16_MAX && AGENT_STOCK_MAX <= UINT16_MAX, "counts fit");

enum { AGENT_FAMILIES = 2 };

/* AF_INET, AF_INET6: 0, 1; anything else: -1. */
static inline int family_index(int family)
{
    return family == AF_INET ? 0 : family == AF_INET6 ? 1 : -1;
}

static inline uint16_t family_of(int index)
{
    return index == 0 ? AF_INET : AF_INET6;
}

/* agent_process.c: what the forked child does. @sock is its end of the pair, @parent_pid who forked it. */
_Noreturn void agent_process(int sock, const struct agent_config *config, pid_t parent_pid);
