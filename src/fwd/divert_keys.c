/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "fwd/divert_keys.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>

int divert_keys_init(struct divert_keys *k)
{
    ssize_t n = getrandom(k->secret, sizeof(k->secret), 0);

    return n < 0 ? -errno : n != sizeof(k->secret) ? -EIO : 0;
}

static uint64_t mix(uint64_t h, uint64_t v)
{
    h = (h ^ v) * UINT64_C(0x9e3779b97f4a7c15);
    return h ^ h >> 32;
}

uint64_t divert_keys_of(const struct divert_keys *k, const struct packet *p, uint32_t addr_size)
{
    uint64_t h = k->secret[0], v;

    for (uint32_t i = 0; i < 2 * addr_size; i += 4) {
        uint32_t word;

        memcpy(&word, (i < addr_size ? p->src + i : p->dst + i - addr_size), sizeof(word));
        h = mix(h, word);
    }
    v = (uint64_t)p->src_port << 16 | p->dst_port;
    h = mix(mix(h, v), k->secret[1]);
    return h ? h : 1;
}

uint32_t divert_keys_bucket(uint64_t key)
{
    return (uint32_t)(key % DIVERT_BUCKETS) * DIVERT_PER_BUCKET;
}

void divert_keys_set(struct divert_keys *k, uint32_t place, uint64_t key, bool there)
{
    /* Release, pairs with divert_keys_has(). */
    atomic_store_explicit(&k->at[place], there ? key : 0, memory_order_release);
    atomic_fetch_add_explicit(&k->n, there ? 1 : UINT32_MAX, memory_order_relaxed); /* a hint */
}

uint32_t divert_keys_count(const struct divert_keys *k)
{
    return atomic_load_explicit(&k->n, memory_order_relaxed); /* a hint, or one's own number */
}

bool divert_keys_has(const struct divert_keys *k, uint64_t key)
{
    const _Atomic uint64_t *bucket = k->at + divert_keys_bucket(key);

    for (unsigned i = 0; i < DIVERT_PER_BUCKET; i++) {
        /* Acquire: with the key comes what made it: before it the packet was libslirp's, if only to be reset.
         */
        if (atomic_load_explicit(&bucket[i], memory_order_acquire) == key)
            return true;
    }
    return false;
}
