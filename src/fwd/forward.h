/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * forward.h - the table of port forwards
 *
 * Owner: the api thread (main before the threads start). A forward is a request by a person or a program that
 * connections or datagrams to host_addr:host_port reach guest_addr:guest_port. The table decides how it is
 * carried and keeps what list_hostfwd shows. Ids start at 1, grow, and are never used again.
 */
#pragma once

#include "base/failure.h"
#include "base/role.h"
#include "fwd/worker.h"
#include "io/address.h" /* host_addr or guest_addr with its port */

#include <stdbool.h>
#include <stdint.h>

struct forwards;

enum forward_path {
    FORWARD_AUTO,  /* the fastest that works */
    FORWARD_SLIRP, /* asked for: through the TAP and libslirp */
};

struct forward_spec {
    int proto;             /* IPPROTO_TCP or IPPROTO_UDP */
    bool v4_only, v6_only; /* an IPv6 wildcard takes IPv4 too unless v6_only; "tcp4"/"tcp6" set these */
    union address host;    /* family AF_INET or AF_INET6; port: first of the range */
    union address guest;   /* 0.0.0.0 has been replaced by the default guest address by the caller */
    uint16_t n_ports;      /* 1, or the length of a range; guest ports run in parallel */
    enum forward_path path;
};

struct forward_info {
    uint64_t id;
    struct forward_spec spec;
    const char *path;   /* "splice", "slirp" or "direct": static string */
    const char *reason; /* why not splice; "" otherwise: static string */
    uint64_t n_connections, bytes_to_guest, bytes_to_host;
};

/* What the layers beside this one do for it; given by main. */
struct forward_hooks {
    void *arg;
    /* Any thread: takes an accepted connection and carries it to @guest through libslirp. On success the
     * descriptor is the hook's; a negative errno: it stays ours. -EAGAIN: not so many at once. */
    int (*adopt)(void *arg, int conn_fd, const union address *guest);
    /* role_api: one UDP port. */
    int (*udp_add)(void *arg, const union address *host, bool v6_only, const union address *guest,
                   void **ret_handle, struct failure *why);
    void (*udp_remove)(void *arg, void *handle);
    void (*udp_stats)(void *arg, void *handle, uint64_t *n_clients, uint64_t *to_guest, uint64_t *to_host);
};

struct forwards_config {
    struct workers *workers; /* must outlive the table */
    bool splice;             /* false: --no-splice, or there is no namespace to enter */
    struct in_addr
        gateway; /* what the guest sees of clients on the host's loopback, or with an address of its link */
    struct in_addr network, netmask; /* of that link */
    struct in6_addr gateway6;
    struct forward_hooks hooks;
};

/* main, before threads start: lodges on the first worker. 0 or a negative errno. _free: after the workers
 * have stopped; closes whatever is still open; NULL is fine; returns NULL. */
int forwards_new(struct forwards **ret, const struct forwards_config *config, struct failure *why);
struct forwards *forwards_free(struct forwards *f);

/* Adds one forward (all ports of its range or none); returns 0 and its id, or a negative errno with the
 * sentence, which names the port: -EADDRINUSE (bound by somebody else, or the same forward exists), -EACCES,
 * -EADDRNOTAVAIL, -EMFILE, -ENOSPC (FORWARDS_MAX reached), ... */
enum { FORWARDS_MAX = 65536 };
int forwards_add(struct forwards *f, const struct forward_spec *spec, uint64_t *ret_id, struct failure *why)
    RUNS_ON(role_api);

/* Removes one forward; established connections live on. -ENOENT: no such id. */
int forwards_remove(struct forwards *f, uint64_t id, struct failure *why) RUNS_ON(role_api);

/* Calls @visit for every forward in the order they were added; @info is valid during the call only. */
void forwards_each(struct forwards *f, void (*visit)(const struct forward_info *info, void *arg), void *arg)
    RUNS_ON(role_api);
