/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * udp_forward.h - UDP port forwards on the TAP, past libslirp
 *
 * libslirp's own UDP forwards remember one peer per socket and lose replies (loopback clients under
 * --disable-host-loopback, loopback clients after a remote one, two forwards of one guest port). Here each
 * client of a forward is an entry of a table: the guest sees the client's own address and port (the gateway's
 * address for clients on the host's loopback), and its answer to that address and port finds the entry and
 * leaves through the forward's socket. If the address and port to show are taken by another client of the
 * same guest port, the next free port is shown.
 *
 * Entries expire UDP_FORWARD_IDLE_S after the last datagram in either direction; when the table is full the
 * entry that has been idle longest goes. Everything here belongs to the slirp role, except the statistics.
 */
#pragma once

#include "base/failure.h"
#include "base/role.h"
#include "io/address.h"
#include "io/flow_info.h"
#include "io/packet.h"

#include <stdint.h>

enum {
    UDP_FORWARD_IDLE_S = 240,
    UDP_FORWARD_CLIENTS_MAX = 4096, /* of all forwards together */
};

struct udp_forward;
struct udp_forwards;

struct udp_forwards_config {
    int tap_fd;   /* to ask the TAP's MAC address; -1: a socket, addresses are learned only */
    int epoll_fd; /* the slirp thread's; sockets are added with EVENT_UDP tags */
    unsigned mtu;
    struct in_addr gateway, network, netmask;
    struct in6_addr gateway6;
    /* Sends a frame to the guest; the buffer stays the caller's. */
    void (*send)(void *arg, const void *frame, uint32_t size);
    void *arg;
};

int udp_forwards_new(struct udp_forwards **ret, const struct udp_forwards_config *config);
struct udp_forwards *udp_forwards_free(struct udp_forwards *u);

/* Binds @host and forwards to @guest. -EADDRINUSE, -EACCES, ...: the sentence names the port. */
int udp_forward_add(struct udp_forwards *u, const union address *host, bool v6_only,
                    const union address *guest, struct udp_forward **ret, struct failure *why)
    RUNS_ON(role_slirp);
void udp_forward_remove(struct udp_forwards *u, struct udp_forward *f) RUNS_ON(role_slirp);
void udp_forward_read_stats(const struct udp_forward *f, uint64_t *n_clients, uint64_t *to_guest,
                            uint64_t *to_host);

/* flow_list of the clients, the one that has been silent longest first. */
int udp_forwards_list(struct udp_forwards *u, uint64_t from, struct flow_info *rows, uint32_t max,
                      uint64_t *ret_next) RUNS_ON(role_slirp);

/* A forward's socket (the value of the EVENT_UDP tag) is readable: moves a bounded number of datagrams. */
void udp_forwards_readable(struct udp_forwards *u, uint32_t index) RUNS_ON(role_slirp);

/* A frame from the guest. Returns true when it was an answer to a client (or part of one) and is dealt with.
 */
bool udp_forwards_take(struct udp_forwards *u, enum packet_kind kind, const struct packet *p)
    RUNS_ON(role_slirp);
/* Does udp_forwards_take() need to look at all? */
bool udp_forwards_active(const struct udp_forwards *u) RUNS_ON(role_slirp);

/* Any thread: is there a forward to this port of the guest? True before its first client is seen. */
bool udp_forwards_port(const struct udp_forwards *u, uint16_t guest_port);

/* Forgets idle clients; call at the time it returned last (CLOCK_MONOTONIC ns; INT64_MAX: nothing to forget).
 */
int64_t udp_forwards_expire(struct udp_forwards *u, int64_t now_ns) RUNS_ON(role_slirp);
