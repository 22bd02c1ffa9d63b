/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * repair.h - a TCP socket that is connected without a handshake (TCP_REPAIR, tcp(7) does not document it;
 * Linux net/ipv4/tcp.c do_tcp_setsockopt(), since 3.5; TCP_REPAIR_WINDOW since 4.8, silent end of repair
 * since 4.19)
 *
 * The guest has sent a SYN from (peer) to (local); somebody else has made sure that the real destination can
 * be reached. This makes, in the current network namespace or of a socket of another one, the socket that the
 * guest's TCP will talk to once it has got the SYN-ACK: its own address is the destination that the guest
 * asked for. Needs CAP_NET_ADMIN in the user namespace that owns the network namespace. The nsagent calls it;
 * and the worker that has such sockets of the nsagent's, where this process is permitted to
 * (agent_divert_now()).
 *
 * The SYN-ACK that the guest gets must say what the socket believes: sequence @isn, acknowledgement @peer_isn
 * + 1, window REPAIR_WINDOW, scale @wscale if the SYN had one, SACK if @sack, no timestamps. Nothing may be
 * written to the socket before the SYN-ACK is on its way: a guest in SYN_SENT drops data, and it comes again
 * only after a second.
 */
#pragma once

#include "io/address.h"

#include <stdbool.h>
#include <stdint.h>

enum {
    REPAIR_WINDOW = 65535, /* of the SYN-ACK, bytes, never scaled there */
    REPAIR_WSCALE_MAX = 14 /* RFC 7323 2.3 */
};

struct repair_spec {
    union address local, peer; /* the destination the guest asked for; the guest's own address; same family */
    uint32_t peer_isn;         /* of the guest's SYN */
    uint32_t isn;              /* of our SYN-ACK */
    uint32_t window;           /* of the SYN, bytes (never scaled in a SYN) */
    uint16_t mss;              /* of the SYN; what we may send, 536 or 1220 if the SYN named none */
    bool has_wscale;           /* the SYN offered window scaling: then SYN-ACK must offer @wscale, too */
    uint8_t peer_wscale, wscale; /* as said in the two; more than REPAIR_WSCALE_MAX means that */
    bool sack;
    /* SO_MARK; 0: none. What a diverted flow's socket sends goes to an address of the guest's own and so to
     * lo by itself. It must be 0 for containers behind masquerade: their packets leave for the bridge only
     * unmarked. */
    uint32_t mark;
};

/* On success *@ret is an established, non-blocking, close-on-exec socket, prepared for a flow (flow.h). A
 * negative errno: none was made (-EADDRINUSE: the four-tuple is taken, e.g. in TIME_WAIT; -EPERM;
 * -ENOPROTOOPT: a kernel without it). Fifteen system calls. */
int repair_connect(const struct repair_spec *spec, int *ret);

/* The same with a socket that is there: @fd is of the right family, in the guest's network namespace, closed
 * (TCP_CLOSE) and non-blocking, with IP_TRANSPARENT set and any mark. It stays the caller's,
 * who closes it after a failure. */
int repair_connect_socket(int fd, const struct repair_spec *spec);

/* The window scale the kernel would offer for its receive buffer: for @wscale above and for the SYN-ACK. Of
 * the network namespace of the caller; looks once, the first call must be able to read /proc/sys (otherwise a
 * guess). The agent's socket takes the scale that its client has announced (@wscale). */
uint8_t repair_wscale(void);
