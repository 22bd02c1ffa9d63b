/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * offload.h - what the guest's kernel leaves to us, and we to it: checksums and segmentation
 *
 * A TAP with IFF_VNET_HDR has a struct virtio_net_hdr in front of every frame, in native byte order
 * (linux/virtio_net.h; virtio 1.2, 5.1.6). From the guest: the checksum of a frame may be only begun
 * (VIRTIO_NET_HDR_F_NEEDS_CSUM), and a TCP frame may be many segments (VIRTIO_NET_HDR_GSO_TCPV4, _TCPV6: one
 * IP packet of up to 64 KiB, larger than the MTU). The header is the guest's word, thus hostile: what does
 * not fit its frame is dropped. To the guest: the same the other way round; see slirp/large.h.
 *
 * Any thread that owns the frame.
 */
#pragma once

#include "io/frame.h"
#include "io/packet.h"

#include <linux/virtio_net.h>

#ifndef VIRTIO_NET_HDR_GSO_UDP_L4 /* Linux 6.2; virtio 1.2, 5.1.6 */
#define VIRTIO_NET_HDR_GSO_UDP_L4 5
#endif

enum {
    OFFLOAD_HEADER_SIZE = sizeof(struct virtio_net_hdr), /* what we ask for */
    OFFLOAD_HEADER_SIZE_MAX = 24,                        /* what a TAP that was handed to us may have */
    OFFLOAD_DATAGRAMS_MAX = 128, /* joined in a frame: UDP_MAX_SEGMENTS (include/linux/udp.h) */
};
static_assert((int)OFFLOAD_HEADER_SIZE_MAX <= (int)FRAME_HEADROOM,
              "the header does not fit before the frame");

/* @header: at least OFFLOAD_HEADER_SIZE bytes, at any address. */
bool offload_is_gso(const void *header);

/* The size of the datagrams that are joined in a frame that passed offload_finish(), the last of which may be
 * shorter; 0: it is not of this kind. */
uint32_t offload_datagram_size(const void *header);
/* The datagram number @index of such a frame, a frame by itself, to @out. Returns its size; 0: there is none.
 */
uint32_t offload_take_apart(uint8_t out[FRAME_SIZE_MAX], const struct packet *p, enum packet_kind kind,
                            uint32_t datagram_size, uint32_t index);

/* Checks the header against its frame and completes the checksum (not of joined datagrams, which each get
 * their own). False: drop it. */
bool offload_finish(const void *header, uint8_t *frame, uint32_t size);

/* Is the checksum of the datagram @p, which came in a frame that passed offload_finish(), one that this has
 * completed? Then it need not be checked. */
bool offload_made_checksum(const void *header, const struct packet *p);

/* The pool's taking thread: offload_finish() for frames just read. What is to be dropped is counted and goes
 * back to the pool. Returns how many are left, in order. */
uint32_t offload_receive(struct frame_pool *pool, frame_id *ids, uint32_t n);

/* The other way: TCP of @p, a whole frame whose @head_size bytes of headers have been copied to @head: leaves
 * the checksum to the kernel, with @mss > 0 also the cutting into segments of @mss bytes of payload. */
void offload_leave(struct virtio_net_hdr *ret, uint8_t *head, uint32_t head_size, const struct packet *p,
                   enum packet_kind kind, uint16_t mss);

/* Sum of the pseudo-header (RFC 9293 3.1, RFC 8200 8.1) for an upper-layer packet of @l4_size bytes; for
 * checksum_add(). */
uint32_t offload_pseudo_sum(const struct packet *p, enum packet_kind kind, uint32_t l4_size);

/* The MSS option of a SYN (RFC 9293 3.2); @size: of its TCP header and what follows. 0: none. */
uint16_t offload_mss(const uint8_t *tcp, uint32_t size);
/* Sets it, and corrects the checksum (RFC 1624). Nothing happens where there is none. */
void offload_set_mss(uint8_t *tcp, uint32_t size, uint16_t mss);
