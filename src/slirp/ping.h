/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ping.h - say once that the guest's ping cannot leave the host
 *
 * The slirp thread. libslirp answers echo requests to its own addresses itself; for others it makes an ICMP
 * socket, for which the caller's group must be in net.ipv4.ping_group_range (icmp(7)), or else a raw one, or
 * else sends the payload to UDP port 7, which nobody answers. The guest sees silence; the log tells why.
 */
#pragma once

#include "io/packet.h"

#include <netinet/in.h>
#include <stdbool.h>

struct ping {
    struct in_addr network, netmask; /* addresses in there are libslirp's */
    bool looked;
};

/* For each IPv4 packet with ICMP in it. The first echo request to the outside makes it try a socket, once and
 * for all. */
void ping_look(struct ping *p, const struct packet *packet);
