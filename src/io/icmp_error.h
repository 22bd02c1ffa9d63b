/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * icmp_error.h - "host unreachable" for a connection attempt of the guest
 *
 * libslirp forgets an EHOSTUNREACH that arrives after connect(2) returned, so the guest would wait for its
 * own timeout. RFC 792 (type 3 code 1) and RFC 4443 (type 1 code 3). Any thread, pure.
 */
#pragma once

#include <netinet/in.h>
#include <stdint.h>

enum { ICMP_ERROR_FRAME_MAX = 14 + 40 + 8 + 68 };

/* Builds the frame in @out from the first bytes of the frame that could not be delivered (Ethernet header, IP
 * header without IPv6 extensions, at least 8 bytes of transport header). The sender is @gateway or, for IPv6,
 * fd00::2. Returns its size, 0 when @cause is too short. */
uint32_t icmp_error_unreachable(uint8_t out[ICMP_ERROR_FRAME_MAX], const uint8_t *cause, uint32_t cause_size,
                                struct in_addr gateway);
