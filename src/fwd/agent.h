/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * agent.h - "nsagent": a small process in the guest's user and network namespaces
 *
 * It is forked by main before any thread exists and while main still may enter the namespaces. It makes
 * sockets there (transparent, marked), installs the policy routing by rtnetlink, and says which addresses are
 * the guest's own. It never sees payload, opens no file, connects nowhere: it only hands out sockets. It has
 * a seccomp allow-list, no capability but CAP_NET_ADMIN in the guest's user namespace, and dies with its
 * parent. When it is killed its standby takes its place (agent_restart()): a process that it has made while
 * it still could, and that waits.
 *
 * main and the agent speak fixed-size messages over a SOCK_SEQPACKET pair (agent_protocol.h).
 */
#pragma once

#include "base/failure.h"
#include "base/role.h"
#include "io/address.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct agent;

struct agent_config {
    int userns_fd;            /* -1: the caller is in the right user namespace already, or is root */
    int netns_fd;             /* the guest's; both stay the caller's and are not needed after agent_start() */
    uint32_t mark, mark_mask; /* of packets that stay inside the guest: e.g. 0x51110000/0xffff0000 */
    uint32_t table;           /* of the routing table the agent makes */
    uint32_t rule_priority;   /* first of the AGENT_RULES priorities it uses */
    struct in_addr gateway;   /* shown to the guest for clients on the host's loopback */
    struct in6_addr gateway6;
    bool stock;  /* sockets are at hand from the start; otherwise from the first use on */
    bool divert; /* outbound connections, too: needs nf_tables */
    bool sealed; /* it confines itself before its report, not with its first request: whoever insists on it
                  * wants to know at once, and waits */
    /* In the new process, before all else; NULL: nothing. A negative errno ends it. */
    int (*first)(void *arg);
    void *first_arg;
};

enum { AGENT_RULES = 3 }; /* per family */

enum agent_reason { /* why a family cannot be spliced; agent_reason_text() */
                    AGENT_READY,
                    AGENT_NO_AGENT,  /* it is gone, or could not be started */
                    AGENT_NOT_YET,   /* no answer yet */
                    AGENT_LO_DOWN,   /* the guest's lo is down: the agent looks again when asked */
                    AGENT_NO_RULES,  /* policy routing is not permitted or not in this kernel (or IPv6 is off)
                                      */
                    AGENT_NO_SYSCTL, /* net.ipv4.tcp_fwmark_accept cannot be set */
                    AGENT_NO_TRANSPARENT, /* IP_TRANSPARENT or SO_MARK is not permitted */
                    AGENT_NOT_LOCAL,      /* the family is ready, the address is not one of the guest's own */
};

/* main, before threads and sandbox: forks. What the process needs until its report (2 ms or so) runs beside
 * what the caller does meanwhile. 0, or a negative errno with its sentence; the caller goes on without. */
int agent_start(struct agent **ret, const struct agent_config *config, struct failure *why);
/* main, before the worker runs: waits until the process is in the namespaces and has what it needs of them
 * (AGENT_START_MS at most). 0, or a negative errno with its sentence: the process is gone then, as if it had
 * ended later; the struct may be kept. */
int agent_wait(struct agent *a, struct failure *why);
/* main, once the guest's interfaces are as they will be and nothing is left that wants the processor: lets
 * the process confine itself and look around, which it does not do before the first request. */
void agent_go(struct agent *a);
/* main, after threads ended: ends and reaps the processes. NULL is fine; returns NULL. */
struct agent *agent_free(struct agent *a);
/* Its process id; 0: none. Before the worker runs that of the process that was forked, which may be signalled
 * by it for as long as the struct lives; later, for the client, what the standby's maker said. */
pid_t agent_pid(const struct agent *a);

/* One fwd worker ("the client") owns what follows. */

/* To be watched for EPOLLIN (level-triggered); agent_read() when it is readable. */
int agent_fd(const struct agent *a);
/* Reads what the agent has sent: sockets for the stock, addresses, states. 0; -EPIPE: the agent is gone (from
 * then on every call below answers AGENT_NO_AGENT and agent_fd() must no longer be watched). Never blocks. */
int agent_read(struct agent *a) RUNS_ON(role_fwd);
/* The agent is gone and agent_fd() is not watched any more. 0: its standby takes over, agent_fd() is another
 * one and has to be watched, all is AGENT_NOT_YET as after the start, what was asked for will not be
 * answered. -EPIPE: that was the last one, *@ret_why says why: there is no standby, or the agent has broken a
 * rule of the conversation or of its filter, or AGENT_DEATHS_MAX have ended within AGENT_DEATHS_S. */
enum { AGENT_DEATHS_MAX = 16, AGENT_DEATHS_S = 60 };
int agent_restart(struct agent *a, const char **ret_why) RUNS_ON(role_fwd);
/* Its agent_fd() cannot be watched: it is gone for good. */
void agent_abandon(struct agent *a) RUNS_ON(role_fwd);
/* How often agent_restart() has succeeded: whoever waits for an answer sees by it that none will come. */
uint32_t agent_generation(const struct agent *a) RUNS_ON(role_fwd);
/* Is there somebody to take its place? */
bool agent_has_standby(const struct agent *a) RUNS_ON(role_fwd);

/* Is @guest (address only) an address of the guest's own namespace, and can its family be spliced?
 * AGENT_READY, or why not. AGENT_LO_DOWN makes the agent look again, at most once a second. */
enum agent_reason agent_can_reach(struct agent *a, const union address *guest) RUNS_ON(role_fwd);
bool agent_is_local(const struct agent *a, const union address *guest) RUNS_ON(role_fwd);

/* A fresh TCP socket of the guest's network namespace from the stock: non-blocking, close-on-exec,
 * IP_TRANSPARENT, SO_MARK set; the caller binds and connects it and owns it. -EAGAIN: the stock is empty
 * (more has been asked for). -EPIPE: the agent is gone. */
int agent_take_socket(struct agent *a, int family) RUNS_ON(role_fwd);

/* Outbound connections (divert.h). */

struct repair_spec;
struct nft_tuple;

/* main, before the worker starts: who hears what has become of agent_divert(). @result is 0, and @fd the
 * callee's; or a negative errno, there is none, and nothing is left of what the agent has made; or
 * AGENT_NOT_RECEIVED: it has made both, but the socket is lost (descriptors): the caller takes the element
 * away. Called from agent_read(). */
enum { AGENT_NOT_RECEIVED = 1 };
void agent_on_diverted(struct agent *a, void (*hook)(void *arg, uint64_t id, int result, int fd), void *arg);
/* Any thread, fixed after the start: can connections be diverted at all? 0, or why not (a negative errno). */
int agent_divert_state(const struct agent *a);
/* Makes the socket of repair.h and the element of nft.h for it, without the agent if this process is itself
 * permitted to (it is root, or owns the guest's user namespace, and has not entered the sandbox). 0: *@ret_fd
 * is the caller's. -EAGAIN: not in this way, or not now. Another negative errno: it failed, nothing is left.
 */
int agent_divert_now(struct agent *a, const struct repair_spec *spec, int *ret_fd) RUNS_ON(role_fwd);
/* The same by the agent. 0 or 1: the hook will be called with @id, unless the agent ends before (then it may
 * be asked again, or its standby). 1: the element has been made here, and stays after a hook with an error:
 * the caller takes it away then. -EAGAIN: it is too busy. -EPIPE: it is gone. Another negative errno: it
 * failed, nothing is left. */
int agent_divert(struct agent *a, uint64_t id, const struct repair_spec *spec) RUNS_ON(role_fwd);
/* Takes elements away, AGENT_UNDIVERT_MAX at most. Returns for how many it sees to that, whatever agent comes
 * or goes: the first ones; fewer: the agent is too busy, try the others later; or it is gone for good and
 * nobody else may, then they stay until agent_divert_end(). */
enum { AGENT_UNDIVERT_MAX = 64 };
uint32_t agent_undivert(struct agent *a, const struct nft_tuple *tuples, uint32_t count) RUNS_ON(role_fwd);
/* It is still to be taken away: what has these addresses may yet be led to lo. */
bool agent_undivert_is_pending(const struct agent *a, const struct nft_tuple *tuple) RUNS_ON(role_fwd);
/* No connection is diverted. When the agent is gone and nobody else may take elements away, the whole table
 * goes: an element that is left over would catch a later connection with the same addresses. */
void agent_divert_end(struct agent *a) RUNS_ON(role_fwd);
/* Containers behind a bridge, too (nft_nested()). 0: it will be seen to, once for each agent; that it cannot
 * be may show the next time. -EAGAIN: the agent is too busy, or gone; ask again. Another negative errno: not
 * in this namespace. */
int agent_divert_nested(struct agent *a) RUNS_ON(role_fwd);
/* For how long (ns) nothing has come from it although something is to come, or it can hear no more; -1:
 * nothing is to come. */
int64_t agent_silent_ns(const struct agent *a) RUNS_ON(role_fwd);
/* The last message did not fit its socket, and nothing has come since: it is of no use to ask it. */
bool agent_is_deaf(const struct agent *a) RUNS_ON(role_fwd);
/* That was too long: ends it, which shows in agent_read(). */
void agent_give_up(struct agent *a) RUNS_ON(role_fwd);
/* Asks it to look at lo and its rules again, at most once a second. */
void agent_look(struct agent *a) RUNS_ON(role_fwd);
bool agent_is_gone(const struct agent *a) RUNS_ON(role_fwd);
/* Can packets of @family be led to lo? AGENT_READY, or why not. */
enum agent_reason agent_family_state(const struct agent *a, int family) RUNS_ON(role_fwd);

/* The answer was AGENT_NOT_YET, or the stock is empty: is it worth waiting for more? For AGENT_AWAITED_MS
 * after this has been asked first, for each agent, or since the stock was seen to be empty: one that is
 * stopped delays nobody for ever. */
enum { AGENT_AWAITED_MS = 2000 }; /* less than it may be silent for (divert.c) */
bool agent_is_awaited(struct agent *a, int family) RUNS_ON(role_fwd);

const char *agent_reason_text(enum agent_reason r); /* static string, any thread */
