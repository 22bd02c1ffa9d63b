/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * packet.h - where the headers of an Ethernet frame are, and whether they fit in it
 *
 * Any thread; nothing is copied, the result points into the frame and lives as long. The frame comes from a
 * hostile guest: nothing in it is believed before its bounds are checked. Formats: RFC 791, 8200, 826, 768,
 * 9293.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

enum packet_kind {
    PACKET_MALFORMED, /* headers contradict each other or the frame's size: drop */
    PACKET_ARP,
    PACKET_IPV4,
    PACKET_IPV6,
    PACKET_OTHER, /* another ethertype: not ours */
};

struct packet {
    const uint8_t *frame;
    uint32_t size;      /* of the frame, bytes */
    const uint8_t *src; /* IP addresses: 4 or 16 bytes */
    const uint8_t *dst;
    const uint8_t *l4;   /* transport header; NULL in fragments after the first, and without a next header */
    uint32_t l4_size;    /* header and payload, as the IP header says; padding is not counted */
    uint8_t ip_protocol; /* of l4 */
    bool is_fragment;
    uint16_t src_port, dst_port; /* TCP and UDP with l4; host byte order */
    uint8_t tcp_flags;           /* TCP with l4 */
    bool checksum_made; /* of the transport: by ourselves (offload.h), so it is right. For others to set */
};

enum { PACKET_TCP_FIN = 1, PACKET_TCP_SYN = 2, PACKET_TCP_RST = 4, PACKET_TCP_ACK = 16 };

enum packet_kind packet_parse(struct packet *ret, const uint8_t *frame, uint32_t size);

/* Internet checksum (RFC 1071) of @size bytes, continued from @sum (0 to begin), not yet folded. The
 * folded one is in network byte order already: it is copied to its place. */
uint32_t checksum_add(uint32_t sum, const void *data, uint32_t size);
uint16_t checksum_fold(uint32_t sum);

/* Length and checksum of an IPv4 header (RFC 791 3.1): @header_size bytes at @ip, of a packet of @total_size.
 */
void packet_finish_ipv4(uint8_t *ip, uint32_t header_size, uint32_t total_size);
