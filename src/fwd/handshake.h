/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * handshake.h - what a diverted connection's SYN says, and the frames that answer it
 *
 * Any thread; nothing is kept. A SYN comes from a hostile guest: its TCP header and options have passed
 * packet_parse(), which promises that they lie within the frame, and nothing more.
 */
#pragma once

#include "fwd/repair.h"
#include "io/packet.h"

enum { HANDSHAKE_FRAME_MAX = 14 + 40 + 20 + 12 }; /* Ethernet, IPv6, TCP and the options of a SYN-ACK */

/* Copies @syn to @out without the data that it may carry (RFC 7413; whoever does not acknowledge it gets it
 * again after the handshake), lengths and checksums put right. Returns its size; 0: its headers do not fit.
 */
enum { HANDSHAKE_SYN_MAX = 160 }; /* Ethernet, IPv6 and the longest TCP header are less */
uint32_t handshake_copy_syn(uint8_t out[HANDSHAKE_SYN_MAX], const struct packet *syn);

/* The sequence number of @syn. */
uint32_t handshake_sequence(const struct packet *syn);

/* Sets what @syn tells about its sender: peer_isn, window, mss, has_wscale, peer_wscale, sack. Malformed
 * options are passed over, as RFC 9293 3.1 allows. */
void handshake_read_syn(struct repair_spec *spec, const struct packet *syn);

/* Write a frame of at most HANDSHAKE_FRAME_MAX bytes and return its size: SYN-ACK as the socket of @spec
 * would have sent it (repair.h), or the reset of a closed port. */
uint32_t handshake_syn_ack(uint8_t *frame, const struct packet *syn, const struct repair_spec *spec);
uint32_t handshake_reset(uint8_t *frame, const struct packet *syn);
