/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * worker.h - the threads "fwd-0", "fwd-1", ... that move bytes between sockets
 *
 * A worker owns an epoll set and the flows in it (flow.h); a flow stays with its worker for life. The first
 * worker has lodgers besides: whoever accepts connections or builds them (forward.h) runs on its loop, and it
 * is the one that talks with the nsagent. Any thread may give the workers a pair of sockets.
 */
#pragma once

#include "base/failure.h"
#include "base/role.h"
#include "fwd/agent.h"
#include "fwd/flow.h"
#include "io/flow_info.h"

#include <stdbool.h>
#include <stdint.h>

struct workers;

struct flow_user;

/* Who is told about a flow, on its worker's thread; the first member of whatever "user" points to. */
struct flow_owner {
    void (*on_end)(struct flow_user *user, enum flow_end end, int connect_error, int host_fd);
    void (*on_bytes)(struct flow_user *user, uint64_t to_guest, uint64_t to_host);
    /* The guest's server has answered, or has not in time (flow.h); may be NULL. */
    void (*on_connected)(struct flow_user *user);
    bool (*on_late)(struct flow_user *user, int64_t waited_ns);
    /* The guest has not answered (flow.h); NULL for owners that start no FLOW_CONNECTED flows. */
    void (*on_silent)(struct flow_user *user);
    const char *tier; /* as struct flow_info has it */
    /* The two ends of the flow: what does not change while it lives. */
    void (*describe)(const struct flow_user *user, struct flow_info *info);
};
struct flow_user {
    const struct flow_owner *owner;
};

/* Who lodges on the first worker's loop. */
struct lodger {
    void *arg;
    /* An event of a descriptor added by workers_watch(); @value as given there. */
    void (*on_event)(void *arg, uint64_t value, uint32_t events);
    /* Once per turn of the loop, after its events: work that was put off or handed over. Returns for how many
     * ms the worker may sleep; -1: no limit. */
    int (*on_turn)(void *arg);
};

/* main, before threads start. @agent stays the caller's and must outlive the workers; NULL: there is none.
 * @epoll_fd: -1, or the epoll set of a loop of the caller's that runs the first worker, which then gets no
 * thread; it stays the caller's and must outlive the workers, too. */
int workers_new(struct workers **ret, struct agent *agent, int epoll_fd, struct failure *why);
int workers_start(struct workers *w, struct failure *why);
void workers_stop(struct workers *w);
struct workers *
workers_free(struct workers *w); /* resets the flows that are left; NULL is fine; returns NULL */

/* With a shared epoll set, on the thread that owns it and holds role_fwd. An event of it whose tag is not 0
 * from bit 56 on goes to workers_event(). A turn comes after events and when one is wanted, never sleeps, and
 * returns for how many ms it need not be called; -1: no limit. Before the thread sleeps: workers_prepare(),
 * then workers_wanted() once more; workers_cancel() when it is awake (io/wakeup.h). */
void workers_event(struct workers *w, uint64_t tag, uint32_t events) RUNS_ON(role_fwd);
int workers_turn(struct workers *w) RUNS_ON(role_fwd);
bool workers_wanted(const struct workers *w);
void workers_prepare(struct workers *w);
void workers_cancel(struct workers *w);

/* main, before the start: at most two. Returns the lodger's number for the calls below. */
unsigned workers_lodge(struct workers *w, const struct lodger *lodger);

/* Any thread: the first worker's epoll set; closing @fd takes it out. @value: 48 bits that come with its
 * events. 0 or a negative errno. */
int workers_watch(struct workers *w, unsigned lodger, int fd, uint32_t events, uint64_t value);
int workers_rewatch(struct workers *w, unsigned lodger, int fd, uint32_t events, uint64_t value);
void workers_unwatch(struct workers *w, int fd);

/* Any thread: makes on_turn() be called soon. Costs a system call only when the worker sleeps. */
void workers_notify(struct workers *w);

/* The first worker: the agent, or NULL. */
struct agent *workers_agent(struct workers *w) RUNS_ON(role_fwd);

/* Any thread: a flow for the least busy worker (flow_start() says the rest). On success both descriptors are
 * the worker's and @user's owner hears of its end, unless the workers are stopped before. -ENOSPC: too many
 * wait already: all stays the caller's. */
int workers_give(struct workers *w, int host_fd, int guest_fd, uint32_t connect_ms, struct flow_user *user);

/* flow_list of the workers' flows. Each worker answers in its next turn, for at most LOOK_PLACES_MAX places
 * of its table; nobody is stopped. -ETIMEDOUT: a worker has not answered within LOOK_MS. */
int workers_list_flows(struct workers *w, uint64_t from, struct flow_info *rows, uint32_t max,
                       uint64_t *ret_next) RUNS_ON(role_api);

/* main, before the start: who hears of each flow that has ended, on its worker's thread. */
void workers_on_closed(struct workers *w, void (*hook)(void *arg, const struct flow_info *info, bool reset),
                       void *arg);
