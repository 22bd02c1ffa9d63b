/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * filter.h - what of the guest's traffic libslirp never gets to see
 *
 * libslirp 4.7 lets frames addressed to 127.0.0.0/8, 0.0.0.0, ::1 and :: through to the host's loopback even
 * when that is disabled, sends packets for a disabled DNS address out literally, makes IPv4 of those with an
 * IPv4-mapped address, for which none of its own rules are then, and parses more kinds of frames than this
 * network has. All of that stops here. The slirp role.
 */
#pragma once

#include "io/packet.h"

#include <netinet/in.h>

struct filter { /* fixed before threads start */
    bool disable_host_loopback, disable_dns, ipv6;
    struct in_addr dns;
};

enum filter_verdict {
    FILTER_PASS,
    FILTER_DROP_MALFORMED,
    FILTER_DROP_LOOPBACK,
    FILTER_DROP_DNS,
    FILTER_DROP_OTHER, /* neither ARP nor IP, IPv6 while it is off, ARP in another's name, an IPv4-mapped
                          address, or something libslirp cannot answer */
};

/* @kind and @p: packet_parse()'s result. */
enum filter_verdict filter_frame(const struct filter *f, enum packet_kind kind, const struct packet *p);
