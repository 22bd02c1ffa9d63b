/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * icmp_error.h - ICMP errors for the guest: "host unreachable" for a connection, anything for a datagram
 *
 * libslirp forgets an EHOSTUNREACH that arrives after connect(2) returned, so the guest would wait for its
 * own timeout. RFC 792 (type 3 code 1) and RFC 4443 (type 1 code 3). Any thread, pure.
 */
#pragma once

#include "io/address.h"

#include <netinet/in.h>
#include <stdint.h>

enum { ICMP_ERROR_FRAME_MAX = 14 + 40 + 8 + 68 };

/* Builds the frame in @out from the first bytes of the frame that could not be delivered (Ethernet header, IP
 * header without IPv6 extensions, at least 8 bytes of transport header). The sender is @gateway or, for IPv6,
 * fd00::2. Returns its size, 0 when @cause is too short. */
uint32_t icmp_error_unreachable(uint8_t out[ICMP_ERROR_FRAME_MAX], const uint8_t *cause, uint32_t cause_size,
                                struct in_addr gateway);

enum { ICMP_ERROR_QUOTE_MAX = 512, ICMP_ERROR_DATAGRAM_MAX = 14 + 40 + 8 + 40 + 8 + ICMP_ERROR_QUOTE_MAX };

/* An error for a datagram of the guest's (RFC 792, RFC 4443): what it quotes is made from what is known. */
struct icmp_error {
    uint8_t type, code;                    /* of the family's ICMP */
    uint32_t mtu;                          /* for "fragmentation needed" and "packet too big", else 0 */
    const union address *from, *src, *dst; /* who says so; the datagram's addresses. All of one family */
    const uint8_t *payload;                /* how the datagram began, may be NULL with a size of 0 */
    uint32_t payload_size;                 /* what exceeds ICMP_ERROR_QUOTE_MAX is cut off */
    uint8_t guest_mac[6], gateway_mac[6];
};

/* Builds the frame; returns its size. */
uint32_t icmp_error_datagram(uint8_t out[ICMP_ERROR_DATAGRAM_MAX], const struct icmp_error *e);
