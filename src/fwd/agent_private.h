/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * agent_private.h - what the parts of agent.h share; nobody else includes it
 *
 * agent.c      the life of an agent, what is said to it, what it is asked about
 * agent_read.c what it says
 *
 * All of it belongs to the client (role_fwd), but for what main does before the worker runs.
 */
#pragma once

#include "base/fd_passing.h"
#include "base/role.h"
#include "fwd/agent.h"
#include "fwd/agent_child.h"
#include "fwd/agent_protocol.h"
#include "fwd/undivert_queue.h"

#include <stdbool.h>
#include <stdint.h>

struct nft;

struct stock {
    int fds[AGENT_STOCK_MAX];
    uint32_t n, asked;
    int64_t hold_ns; /* no request before */
    int64_t dry_ns;  /* since when somebody was sent away without one, and none has come; 0: nobody was */
    bool used;       /* it is kept filled */
    enum agent_reason reason;
};

struct agent {
    int go_fd;                /* main's: a copy of the first conversation; -1 after agent_go() */
    struct agent_child child; /* fixed when the worker runs, then the client's */
    struct agent_child standby OWNED_BY(role_fwd);  /* who takes its place */
    struct agent_child previous OWNED_BY(role_fwd); /* whose place it took, until that is reaped */
    uint32_t generation OWNED_BY(role_fwd);
    int64_t deaths_ns[AGENT_DEATHS_MAX] OWNED_BY(role_fwd); /* the last ones: a ring; 0: none yet */
    uint32_t n_deaths OWNED_BY(role_fwd);

    struct nft *nft OWNED_BY(role_fwd); /* through a copy of the socket that owns the table; or NULL */
    int divert_state;                   /* fixed: 0 or a negative errno */
    uint32_t mark, mark_mask;           /* fixed */
    void (*on_diverted)(void *arg, uint64_t id, int result, int fd); /* fixed before threads start */
    void *on_diverted_arg;                                           /* ditto */

    bool gone OWNED_BY(role_fwd);
    bool broken OWNED_BY(role_fwd); /* a rule was: it has no successor */
    bool over OWNED_BY(role_fwd);   /* it is gone, and there will be no other */
    bool direct OWNED_BY(role_fwd); /* we change the nft table ourselves; false once that was not permitted */
    struct undivert_queue undiverts OWNED_BY(role_fwd);
    uint32_t n_diverts OWNED_BY(role_fwd); /* requests that it has not answered */
    bool looks OWNED_BY(role_fwd);         /* it has taken over, and has not said what it sees */
    bool nested OWNED_BY(role_fwd);        /* containers are seen to: by us, or it has been asked */
    int nested_error OWNED_BY(role_fwd);   /* a negative errno: they cannot be diverted here */
    bool deaf OWNED_BY(role_fwd);          /* the last message did not fit, and nothing has come since */
    int64_t heard_ns OWNED_BY(role_fwd);   /* while it owes an answer: the last message, or since when */
    int64_t look_ns OWNED_BY(role_fwd);    /* no MESSAGE_LOOK before */
    int64_t awaited_ns OWNED_BY(role_fwd); /* since when somebody waits for its first look; 0: nobody has */
    struct stock stocks[AGENT_FAMILIES] OWNED_BY(role_fwd);
    uint32_t stock_max; /* fixed: per family */
    struct agent_address local[AGENT_ADDRESSES_MAX] OWNED_BY(role_fwd);
    struct agent_address next[AGENT_ADDRESSES_MAX] OWNED_BY(role_fwd);
    uint32_t n_local OWNED_BY(role_fwd), n_next OWNED_BY(role_fwd);
};

/* One message, and what came with it: the caller's, until fd_passing_close(). */
struct delivery {
    struct agent_message message;
    struct fd_passing with;
};

/* 0; -EAGAIN: nothing is there; other negative errno: the agent is gone or talks nonsense, and nothing is to
 * be closed. Never blocks. */
int agent_receive(int fd, struct delivery *d);
/* @m says that something failed: its negative errno, and its sentence in @why. */
int agent_reported_failure(struct agent_message *m, struct failure *why);
/* Says what the agent complains of. 0, or -EPROTO: it may not say that. */
int agent_take_complaint(struct agent *a, const struct agent_message *m) RUNS_ON(role_fwd);

/* No more of this one; @broken: nor of a successor. Returns -EPIPE. What is in the stock is closed: it is of
 * the guest's namespace, which must not live on because of us. */
int agent_set_gone(struct agent *a, bool broken) RUNS_ON(role_fwd);
/* Asks for sockets if there are too few (@index: family_index()). */
void agent_refill(struct agent *a, int index) RUNS_ON(role_fwd);
/* Asks for as many elements to be taken away as it can hear now; the rest when it has answered something. */
void agent_send_undiverts(struct agent *a) RUNS_ON(role_fwd);
