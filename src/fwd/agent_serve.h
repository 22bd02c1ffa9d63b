/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * agent_serve.h - what the nsagent does for the rest of its life, once it is in the namespaces
 *
 * The agent's only thread. agent_process.c sets it up, and seals it before it reads its first request; the
 * messages are in agent_protocol.h. The parent is believed no more than the protocol says: a request that
 * breaks its rules ends the conversation.
 */
#pragma once

#include "fwd/agent_net.h"
#include "fwd/sock_diag.h"

struct agent_serve {
    int sock; /* the parent is at its other end */
    struct agent_net net;
    struct nft *nft; /* NULL: no outbound connection is diverted */
    struct sock_diag diag;
    int reasons[AGENT_FAMILIES]; /* last sent; -1: none yet */
    bool listed;                 /* the first list has been sent */
    bool look;                   /* something may have changed */
    int64_t look_ns;             /* not before */
};

/* The first message, and the last one of an agent that cannot be sealed. @divert_state: 0 or a negative
 * errno. 0 or a negative errno. */
int agent_serve_started(const struct agent_serve *a, const struct failure *why, int divert_state);
/* Who takes its place: the parent gets copies of both descriptors. 0 or a negative errno. */
int agent_serve_standby(const struct agent_serve *a, pid_t pid, int sock, int pidfd);
/* Answers one request, if there is one. 0, or a negative errno: the conversation has ended. */
int agent_serve_request(struct agent_serve *a);
/* Looks at everything and says what has changed. 0, or a negative errno: the conversation has ended. */
int agent_serve_look(struct agent_serve *a);
/* Until the parent is gone; then takes away what has been installed. */
void agent_serve_run(struct agent_serve *a);
