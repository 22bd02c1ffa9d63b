/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * reassembly.h - IP fragments from the guest become whole datagrams
 *
 * Nothing behind this sees a fragment: libslirp 4.7 reassembles IPv4 only, and its code can be made to follow
 * pointers out of a packet's payload by overlapping fragments. Rules: RFC 791 3.2 and RFC 8200 4.5; as RFC
 * 5722 asks for, an overlap spoils the whole datagram, for IPv4 as well. Bounds: REASSEMBLY_SLOTS datagrams
 * at a time, the one that began first goes when another one begins; REASSEMBLY_MS for one. Owner: the slirp
 * role.
 */
#pragma once

#include "base/role.h"
#include "io/packet.h"

enum {
    REASSEMBLY_SLOTS = 32, /* of 64 KiB each, allocated when first used */
    REASSEMBLY_MS = 5000,
};

struct reassembly;

/* main: 0 or -ENOMEM. _free() returns NULL; NULL is fine. */
int reassembly_new(struct reassembly **ret);
struct reassembly *reassembly_free(struct reassembly *r);

/* Takes a fragment (@p->is_fragment, as packet_parse() found it; it is copied). Returns NULL, or the whole
 * datagram if this was its last missing piece: an Ethernet frame of *@ret_size bytes without a fragment
 * header, to be parsed again, which stays in @r and is valid until the next call. One thread for each @r. */
const uint8_t *reassembly_take(struct reassembly *r, enum packet_kind kind, const struct packet *p,
                               int64_t now_ns, uint32_t *ret_size);
