/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * udp_frame.h - a datagram for the guest as Ethernet frames: one, or fragments if it is larger than the MTU
 *
 * Headers are written in front of the payload where it lies, so nothing is copied. Of fragments each one's
 * headers overwrite the end of the one before, which has gone out by then. RFC 791, 768, 8200 4.5. Any
 * thread that owns the buffer.
 */
#pragma once

#include "io/address.h"

#include <linux/virtio_net.h>
#include <stdint.h>
#include <sys/uio.h>

enum {
    UDP_FRAME_HEADROOM = 80, /* bytes before the payload that udp_frame_send() may overwrite */
    UDP_PAYLOAD_MAX4 = 65535 - 20 - 8,
    UDP_PAYLOAD_MAX6 = 65535 - 8,
};

struct udp_frame {
    const union address *src, *dst; /* of one family; as the guest is to see them */
    struct in_addr gateway;         /* whose MAC address the frame comes from */
    uint8_t guest_mac[6];
    unsigned mtu;
    uint32_t *id; /* identification of fragments, counted up */
    void (*send)(void *arg, const void *frame, uint32_t size);
    void *arg;
};

/* Sends @size bytes at @payload, which are spoilt by it. False: too large for IP. */
bool udp_frame_send(const struct udp_frame *f, uint8_t *payload, uint32_t size);

enum { UDP_FRAME_HEAD_MAX = 14 + 40 + 8 };

/* The head of one frame that holds datagrams of @gso_size bytes, @size bytes in all, the last of which may be
 * shorter; 0: it is one datagram. Checksum and separation are left to the guest's kernel. Returns its size;
 * 0: there is no such frame, it would be too large. */
uint32_t udp_frame_head(const struct udp_frame *f, uint8_t head[UDP_FRAME_HEAD_MAX],
                        struct virtio_net_hdr *ret_header, uint32_t size, uint32_t gso_size);

/* The MAC address libslirp shows for the gateway: 52:55 and its IPv4 address, 52:56:00:00:00:02 for IPv6. */
void udp_frame_gateway_mac(uint8_t ret[6], int family, struct in_addr gateway);
