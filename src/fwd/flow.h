/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * flow.h - a TCP connection joined to another one by splice(2)
 *
 * Two sockets, "host" (towards the outside) and "guest" (in the guest's network namespace); bytes move
 * between them through a pipe per direction, which a flow holds only while bytes are in it. End of file
 * becomes a half close (shutdown(SHUT_WR)) once the bytes before it are through; a reset becomes a reset
 * (SO_LINGER 0). Owner: one fwd worker, for life; a set of flows belongs to one worker and one epoll
 * descriptor.
 *
 * The worker has SIGPIPE blocked or ignored: splice(2) has no MSG_NOSIGNAL. Once a flow runs, its sockets
 * have TCP_NODELAY and SO_OOBINLINE set.
 */
#pragma once

#include "base/role.h"

#include <stdbool.h>
#include <stdint.h>

struct flows; /* one worker's */
struct flow;

enum {
    FLOW_TURN_BYTES = 1 << 20, /* what a flow may move in a turn, half of it in each direction */
    FLOW_PIPE_RETRY_MS = 50,   /* how long a direction waits for a pipe when none comes back */
};

enum flow_end {               /* told to on_end */
                FLOW_CLOSED,  /* both directions ended in order */
                FLOW_RESET,   /* one side reset, or failed: the other has been reset */
                FLOW_REFUSED, /* the guest side could not be connected: @connect_error says why; host_fd is
                                 untouched */
};

struct flow_look { /* a flow as it is now */
    void *user;
    const char *state;          /* "connecting", "open", "closing" (one direction has ended); static */
    uint64_t to_guest, to_host; /* bytes that went through */
    int64_t started_ns;         /* CLOCK_MONOTONIC */
};

struct flows_config {
    int epoll_fd;       /* the worker's; flows adds its sockets with data.u64 = tag(...) */
    uint64_t tag_base;  /* event data: tag_base | index << 1 | side; the worker routes events with these upper
                         * bits here; the lower 32 bits are 0 */
    uint32_t flows_max; /* bound of the table, at most FLOWS_MAX */
    uint32_t pipe_size; /* F_SETPIPE_SZ, bytes; what cannot be had is not an error */
    uint32_t pipes_max; /* bound of the pool of idle pipes that are kept */
    /* Of flows that were started as FLOW_CONNECTED, those whose guest has not answered (half_open.h): */
    uint32_t half_open_max, half_open_look_ms;
    void *arg;
    /* The flow is over and its descriptors are closed, except FLOW_REFUSED: then host_fd is the callee's
     * again and no longer in the epoll set. @connect_error is an errno, else 0; @host_fd is -1 for the
     * others. */
    void (*on_end)(void *arg, void *user, enum flow_end end, int connect_error, int host_fd);
    /* Bytes that went through since the last call: to the guest, to the host. Called once per batch (from
     * flows_turn() and before on_end), not per byte. */
    void (*on_bytes)(void *arg, void *user, uint64_t to_guest, uint64_t to_host);
    /* The guest side is connected: told once, maybe from inside flow_start(); not of FLOW_CONNECTED. May be
     * NULL.
     */
    void (*on_connected)(void *arg, void *user);
    /* The guest side has not been connected for @connect_ms, @waited_ns in all. True: it has as much time
     * once more; false: FLOW_REFUSED. May be NULL: false. */
    bool (*on_late)(void *arg, void *user, int64_t waited_ns);
    /* The guest's side of a FLOW_CONNECTED flow has received nothing yet: the SYN-ACK may be lost. */
    void (*on_silent)(void *arg, void *user);
    /* Before on_end, with everything that went through. May be NULL. */
    void (*on_closing)(void *arg, const struct flow_look *look, enum flow_end end);
};

enum { FLOWS_MAX = 1 << 30 };

/* main or the worker, before the first event and before the sandbox. 0 or a negative errno. _free: resets
 * every flow that is left and closes everything, without on_end; NULL is fine; returns NULL. */
int flows_new(struct flows **ret, const struct flows_config *config);
struct flows *flows_free(struct flows *f);

/* Any thread: the options that a flow's sockets need: no delay, urgent data inline, keepalive. Connections
 * inherit them from a listener. 0 or a negative errno. */
int flow_socket_prepare(int fd);
/* Starts a flow of two sockets that have been prepared. @guest_fd may still be connecting (EINPROGRESS):
 * FLOW_REFUSED if that fails, or if it has not succeeded within @connect_ms (0: the kernel's own patience;
 * ETIMEDOUT) and on_late() has no more. Both descriptors are non-blocking and belong to the flow when 0 is
 * returned; -EMFILE, -ENOSPC: no descriptors, table full, and other errors: both stay the caller's. on_end is
 * never called from inside.
 */
#define FLOW_CONNECTED UINT32_MAX /* as @connect_ms: by repair.h, without a handshake */
int flow_start(struct flows *f, int host_fd, int guest_fd, uint32_t connect_ms, void *user) RUNS_ON(role_fwd);

/* An event whose data carries tag_base. May call on_end, and on_bytes before it; these may call flow_start().
 */
void flows_event(struct flows *f, uint64_t data, uint32_t events) RUNS_ON(role_fwd);
/* Work that was put off for fairness (a flow moves at most FLOW_TURN_BYTES per turn) and timeouts. Call once
 * per turn of the worker's loop, after all events of the batch; returns for how many ms epoll_wait may sleep:
 * 0: there is more work, -1: no limit. A flow that was started after the call is not in that number. */
int flows_turn(struct flows *f) RUNS_ON(role_fwd);

uint32_t flows_count(const struct flows *f) RUNS_ON(role_fwd);

/* Shows the flows in the table's places from @from on to @visit, until that returns false (that flow is not
 * shown again) or @n_places_max places have been looked at. Returns the place to go on with, UINT32_MAX: that
 * was all. */
uint32_t flows_look(struct flows *f, uint32_t from, uint32_t n_places_max,
                    bool (*visit)(void *arg, const struct flow_look *look), void *arg) RUNS_ON(role_fwd);
