/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * divert_keys.h - which connections of the guest's are diverted: one bit per packet, without a lock
 *
 * A table of 64-bit hashes of four-tuples, a line of eight per bucket, written by the worker (role_fwd) and
 * read by the slirp thread. A hash is keyed, so that nobody can choose one; two connections with one hash are
 * as likely as a broken checksum.
 */
#pragma once

#include "base/bits.h"
#include "base/role.h"
#include "io/packet.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#ifndef DIVERT_BUCKETS
#define DIVERT_BUCKETS 8192 /* a fuzzer has few of them */
#endif

enum {
    DIVERT_PER_BUCKET = 8, /* a cache line */
    DIVERT_PLACES = DIVERT_BUCKETS * DIVERT_PER_BUCKET,
};

struct divert_keys {                                         /* zero: empty, but for the secret */
    uint64_t secret[2];                                      /* fixed before threads start */
    _Alignas(CACHE_LINE) _Atomic uint64_t at[DIVERT_PLACES]; /* 0: free */
    _Atomic uint32_t n;
};

/* main, before threads start: chooses the secret. 0 or a negative errno. */
int divert_keys_init(struct divert_keys *k);

/* Any thread: the key of a packet with these addresses of @addr_size bytes and ports; never 0. */
uint64_t divert_keys_of(const struct divert_keys *k, const struct packet *p, uint32_t addr_size);
/* Any thread: the first of the DIVERT_PER_BUCKET places where @key may be. */
uint32_t divert_keys_bucket(uint64_t key);

/* role_fwd: @key is at @place, which is in its bucket, from now on; or (@there is false) no longer. */
void divert_keys_set(struct divert_keys *k, uint32_t place, uint64_t key, bool there) RUNS_ON(role_fwd);
/* role_fwd: how many there are; another thread: a hint. */
uint32_t divert_keys_count(const struct divert_keys *k);
/* Any thread. */
bool divert_keys_has(const struct divert_keys *k, uint64_t key);
