/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * flow_private.h - what the parts of flow.h share; nobody else includes it
 *
 * flow.c      the life of a flow: its table, events, turns
 * flow_move.c moving bytes from a source to a target
 *
 * All of it belongs to one fwd worker (role_fwd).
 */
#pragma once

#include "base/role.h"
#include "fwd/drain.h"
#include "fwd/flow.h"
#include "fwd/half_open.h"
#include "fwd/link.h"
#include "fwd/pipes.h"

#include <stdbool.h>
#include <stdint.h>

enum side { HOST, GUEST };

enum direction_state {
    DIRECTION_EMPTY,
    DIRECTION_QUEUED,
    DIRECTION_STARVED,
    DIRECTION_FULL,
    DIRECTION_SHUT,
};

struct direction {
    struct link link; /* QUEUED: flows.queue; STARVED: flows.starved */
    struct pipe pipe; /* FULL, and inside direction_advance() */
    uint32_t held;    /* bytes in the pipe */
    uint32_t moved;   /* bytes read in turn number `turn` */
    uint32_t turn;
    uint8_t source;   /* enum side: which element of flow.direction this is */
    uint8_t state;    /* enum direction_state */
    bool bulk;        /* by splice; otherwise a copy is cheaper */
    bool source_fin;  /* all that the source will ever send is here */
    bool source_mark; /* there may be urgent data */
};

enum flow_state {
    FLOW_STATE_FREE, /* in flows.free */
    /* fd[GUEST] is; directions are EMPTY; in flows.connecting if there is a deadline */
    FLOW_STATE_CONNECTING,
    FLOW_STATE_OPEN,
    /* over but for what the guest has not acknowledged; fd[HOST] is -1; in flows.drains */
    FLOW_STATE_DRAINING,
    FLOW_STATE_DEAD, /* in flows.dead until the next flows_turn() */
};

struct flow {
    struct direction direction[2]; /* by source */
    int fd[2];                     /* by side */
    uint32_t index;
    uint8_t state;              /* enum flow_state */
    struct link link;           /* FREE, CONNECTING, DEAD: see there */
    bool diverted;              /* started as FLOW_CONNECTED */
    struct drain drain;         /* DRAINING */
    struct half_open half_open; /* in flows.half_opens: the guest may not have answered yet */
    struct link changed;        /* in flows.changed: bytes have moved that on_bytes has not heard of */
    uint64_t unreported[2];     /* by source */
    uint64_t reported[2];       /* ditto: all before */
    int64_t started_ns;
    int64_t deadline_ns; /* CONNECTING, and the next one: */
    uint32_t connect_ms;
    void *user;
};

struct flows {
    struct flows_config config; /* fixed */
    struct pipes pipes;
    struct link queue, starved; /* of struct direction */
    struct link connecting;     /* of struct flow, by deadline */
    struct half_opens half_opens;
    struct drains drains;
    struct link free, dead, changed;
    int64_t starved_retry_ns; /* while somebody is starved */
    int64_t late_ns;          /* nobody is ended for being late before */
    uint32_t turn;            /* number of the present one */
    uint32_t n_flows, n_slots, n_chunks_max;
    struct flow *chunks[];
};

static inline struct flow *flow_of(struct direction *d)
{
    return container_of(d - d->source, struct flow, direction[0]);
}

static inline int source_fd(struct direction *d)
{
    return flow_of(d)->fd[d->source];
}

static inline int target_fd(struct direction *d)
{
    return flow_of(d)->fd[!d->source];
}

/* ---- flow_move.c: role_fwd ---- */

enum progress {
    PROGRESS_EMPTY,   /* the source has nothing; no pipe */
    PROGRESS_SHARE,   /* the turn's share is used up; no pipe */
    PROGRESS_NO_PIPE, /* none to be had */
    PROGRESS_FULL,    /* the target takes nothing; `held` bytes are in the pipe */
    PROGRESS_END,     /* of the source; no pipe */
    PROGRESS_SOURCE_FAILED,
    PROGRESS_TARGET_FAILED, /* the pipe may have bytes in it */
};

/* Moves bytes from the source of @d to its target until one of the above holds; never blocks. Once half of
 * FLOW_TURN_BYTES has been read in a turn (f->turn), in however many calls, no more is read. What the target
 * took is counted for on_bytes. @d has a pipe at the start if and only if bytes are held in it. Does not
 * touch d->state, nor a list of directions, and ends nothing: that is up to the caller. */
enum progress direction_advance(struct flows *f, struct direction *d) RUNS_ON(role_fwd);
