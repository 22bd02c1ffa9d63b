/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * nft.h - the nf_tables objects that lead diverted flows to their sockets
 *
 * One table "slirp4netns_<netlink port>" of the family "inet", owned by the netlink socket
 * (NFT_TABLE_F_OWNER, Linux 5.12): it goes when the socket is closed, however that happens, and a flush of
 * the ruleset by somebody else leaves it alone. Two sets of four-tuples (saddr, sport, daddr, dport), one per
 * family, and chains:
 *
 * - output, type route hook output priority mangle: members of the set get the mark;
 * - prerouting, only after nft_nested(true), type filter hook prerouting priority mangle: packets of the
 * original direction of a conntrack entry whose reply tuple, reversed, is a member get the mark. That is the
 * flow as seen on the TAP: containers behind a bridge and masquerade (DESIGN 3.2).
 *
 * A SYN is never marked: one that comes again because its SYN-ACK was lost, or that starts a new connection
 * with old ports, must be seen on the TAP.
 *
 * The network namespace of the netlink socket, which is the current one for nft_new() (a socket of another
 * one comes by nft_join()); CAP_NET_ADMIN over it; libmnl and libnftnl; one socket, kept open; one batch per
 * call. One thread at a time: the nsagent, and the worker that has a copy of its socket.
 */
#pragma once

#include "io/address.h"

#include <stdbool.h>
#include <stdint.h>

struct nft;

struct nft_tuple {                     /* as in the guest's SYN */
    union address source, destination; /* same family */
};

/* @mark: lies within @mark_mask; bits outside the mask are left as they are. 0 or a negative errno
 * (-EOPNOTSUPP, -ENOENT, -EPERM, ...: nf_tables cannot be had here). NULL is fine for _free. */
int nft_new(struct nft **ret, uint32_t mark, uint32_t mark_mask);
struct nft *nft_free(struct nft *n);
/* The table that somebody else has made: @fd is a copy of its nft_fd() and becomes this one's; same mark and
 * mask as there. Whoever is not permitted hears -EPERM with the first change. The two must not use it at the
 * same time: answers would reach the wrong one. _free() leaves the table to the other one's copy. */
int nft_join(struct nft **ret, int fd, uint32_t mark, uint32_t mark_mask);
/* In a process made by clone(2): its copy is the only one in use from now on. @skip: added to the number of
 * the next message, more than those that the former user may have sent. */
void nft_succeed(struct nft *n, uint32_t skip);
/* The netlink socket that owns the table: whoever has a copy of it keeps the table alive. */
int nft_fd(const struct nft *n);

/* One transaction each, acknowledged by the kernel when they return. -EEXIST / -ENOENT are success (to remove
 * tuples of which some are not there takes a transaction for each). At most NFT_BATCH_MAX tuples. -ENFILE:
 * the set is full (NFT_TUPLES_MAX per family), nothing was added. */
enum { NFT_BATCH_MAX = 64, NFT_TUPLES_MAX = 65536 };
int nft_add(struct nft *n, const struct nft_tuple *tuples, uint32_t count);
int nft_remove(struct nft *n, const struct nft_tuple *tuples, uint32_t count);

/* Adds or removes the prerouting chain (it switches connection tracking on for the whole namespace). */
int nft_nested(struct nft *n, bool on);
