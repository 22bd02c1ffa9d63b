/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * divert_private.h - what the halves of divert.h share; nobody else includes it
 *
 * divert.c       life cycle; what comes: the guest's packets, the ends of flows, the agent's answers, the
 *                first worker's turns and events
 * divert_entry.c what it does to one connection: the states of an entry, and the table of them
 */
#pragma once

#include "base/counters.h"
#include "base/role.h"
#include "fwd/agent_protocol.h"
#include "fwd/divert.h"
#include "fwd/divert_keys.h"
#include "fwd/handshake.h"
#include "fwd/link.h"
#include "fwd/repair.h"
#include "io/address.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

enum {
    DIVERT_QUEUE_MAX = 1024,
    DIVERT_SWEEP_MS = 1000, /* how often it is looked who has been in LINGER or SLIRP for long enough */
};

/* See divert_entry.c. */
enum entry_state {
    STATE_FREE, /* there is no entry */
    STATE_CONNECTING,
    STATE_BUILDING,
    STATE_OPEN,
    STATE_LINGER,
    STATE_SLIRP,
};

struct syn { /* what the worker gets of a SYN */
    uint64_t key;
    uint32_t size;
    uint8_t frame[HANDSHAKE_SYN_MAX];
};

struct entry {
    struct flow_user user; /* first: what the flow's owner is given */
    struct divert *divert;
    enum entry_state state;
    uint32_t generation; /* tells a late answer of the agent from the slot's next user */
    uint64_t key;
    union address source, destination; /* as in the SYN */
    int host_fd;                       /* CONNECTING, BUILDING */
    struct link
        waiting; /* CONNECTING, once that takes time: in divert.connecting; BUILDING: in divert.unasked */
    int64_t since_ns;         /* CONNECTING: since when it takes time */
    int64_t until_ns;         /* LINGER, SLIRP */
    uint32_t agent;           /* BUILDING, asked: agent_generation() of who has been */
    bool own_element;         /* BUILDING: it was made here, the agent does not take it away */
    bool withdrawn;           /* LINGER: the guest never had an answer */
    struct repair_spec spec;  /* BUILDING, OPEN */
    struct syn syn;           /* CONNECTING, BUILDING, OPEN */
    struct entry *next_ended; /* under lock */
};

struct divert {
    struct divert_config config; /* fixed before threads start */
    unsigned lodger;             /* ditto */

    struct divert_keys keys; /* written by role_fwd, read by role_slirp */
    _Atomic bool leaked;     /* a packet of an open connection came over the TAP: set by role_slirp */

    struct entry *entries[DIVERT_PLACES] OWNED_BY(role_fwd);
    uint32_t n_waiting OWNED_BY(role_fwd);     /* entries in LINGER or SLIRP */
    uint32_t n_building OWNED_BY(role_fwd);    /* entries in BUILDING */
    uint32_t n_flows OWNED_BY(role_fwd);       /* entries in OPEN */
    struct link connecting OWNED_BY(role_fwd); /* entries, by age */
    /* Entries in BUILDING that the agent has not heard of, by family_index() and age. */
    struct link unasked[AGENT_FAMILIES] OWNED_BY(role_fwd);
    int64_t
        held_ns[AGENT_FAMILIES] OWNED_BY(role_fwd); /* when it was seen last that it has not looked around */
    uint32_t n_connecting OWNED_BY(role_fwd);
    uint32_t connecting_max, building_max; /* fixed: half_open.h */
    uint32_t generation OWNED_BY(role_fwd);
    uint32_t agent OWNED_BY(role_fwd); /* agent_generation() of the one that all have been asked */
    int64_t sweep_ns OWNED_BY(role_fwd);
    int64_t doubt_ns OWNED_BY(role_fwd); /* since when the agent is silent for too long; 0: it is not */
    bool no_nested OWNED_BY(role_fwd);   /* those of containers cannot be diverted, for good */

    pthread_mutex_t lock;               /* innermost */
    struct syn queue[DIVERT_QUEUE_MAX]; /* under lock: a ring */
    uint32_t first, n;                  /* under lock */
    struct entry *ended;                /* under lock: OPEN entries whose flow has ended */
};

/* ---- divert.c ---- */

/* What a flow tells about an OPEN entry: called on the thread of the worker that has it. Fixed. */
extern const struct flow_owner divert_flow_owner;

/* ---- divert_entry.c ---- */

/* Any thread: a connection takes libslirp's path. @reason: COUNTER_divert_fallback_... */
void divert_count_fallback(enum counter_id reason);

/* A SYN that divert_take() has taken: the first one of a connection, a repetition, or one that begins anew.
 * @s stays the caller's; what is kept of it is a copy. */
void entry_handle_syn(struct divert *d, const struct syn *s) RUNS_ON(role_fwd);

/* Whom epoll or the agent means by @id, which was chosen when it was asked. NULL: that one is gone. It stays
 * the divert's, and may have come to another state since. */
struct entry *entry_by_id(struct divert *d, uint64_t id) RUNS_ON(role_fwd);

/* What happens to an entry in the state that is named first. It may be gone (freed) afterwards, unless it
 * says otherwise. */

/* CONNECTING: its socket, no longer watched, is connected or never will be. */
void entry_decided(struct divert *d, struct entry *e) RUNS_ON(role_fwd);
/* BUILDING: the agent's answer (agent_on_diverted()). If @result is 0 this takes @fd. Not freed. */
void entry_answered(struct divert *d, struct entry *e, int result, int fd) RUNS_ON(role_fwd);
/* The first one in divert.unasked[@index], which must not be empty: asks the agent for it, or has libslirp do
 * it when it cannot be had or has waited for too long. False: the agent is too busy (@can_hear is false if
 * that is known), or has not looked around, or has ended; call again when it has said something, or after a
 * while. Not freed. */
bool entry_ask_first(struct divert *d, int index, bool can_hear, int64_t now_ns) RUNS_ON(role_fwd);
/* BUILDING: if the agent that was asked has ended the present one is asked. False: it has not heard it; call
 * again later. Not freed. */
bool entry_ask_again(struct divert *d, struct entry *e) RUNS_ON(role_fwd);
/* BUILDING, and it will not be built. Its element may be there: what libslirp has must not be led elsewhere.
 * Where nobody can take it away now the guest is to try with another port. @reason: as above. Not freed. */
void entry_withdraw(struct divert *d, struct entry *e, enum counter_id reason) RUNS_ON(role_fwd);
/* OPEN, and its flow has ended. Not freed: it lingers. */
void entry_ended(struct divert *d, struct entry *e) RUNS_ON(role_fwd);
/* LINGER: takes away the elements of @n entries (AGENT_UNDIVERT_MAX at most) in one transaction, and frees
 * the entries. False: the agent is too busy for all of them, or gone for good; the last ones stay. */
bool entry_end_lingering(struct divert *d, struct entry **entries, uint32_t n) RUNS_ON(role_fwd);
/* CONNECTING, LINGER or SLIRP: frees it, with its place and its socket. Its element, if any, is the caller's
 * care. */
void entry_free(struct divert *d, struct entry *e) RUNS_ON(role_fwd);

/* The worker that has the flow, on its thread, or role_fwd. OPEN: what this reads is fixed then. */
void entry_send_syn_ack(const struct entry *e);
