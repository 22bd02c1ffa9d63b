/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "fwd/undivert_queue.h"

#include "base/bits.h"

#include <assert.h>
#include <string.h>

static struct nft_tuple *nth(const struct undivert_queue *q, uint32_t i)
{
    return (struct nft_tuple *)&q->tuples[(q->first + i) % UNDIVERT_QUEUE_MAX];
}

uint32_t undivert_queue_add(struct undivert_queue *q, const struct nft_tuple *tuples, uint32_t count)
{
    count = min_u32(count, UNDIVERT_QUEUE_MAX - q->n);
    for (uint32_t i = 0; i < count; i++)
        *nth(q, q->n++) = tuples[i];
    return count;
}

uint32_t undivert_queue_next(const struct undivert_queue *q, struct nft_tuple *ret, uint32_t max)
{
    uint32_t count = min_u32(max, q->n - q->n_asked);

    for (uint32_t i = 0; i < count; i++)
        ret[i] = *nth(q, q->n_asked + i);
    return count;
}

void undivert_queue_asked(struct undivert_queue *q, uint32_t count)
{
    assert(count <= q->n - q->n_asked);
    q->n_asked += count;
}

bool undivert_queue_done(struct undivert_queue *q, uint32_t count)
{
    if (count > q->n_asked)
        return false;
    q->first = (q->first + count) % UNDIVERT_QUEUE_MAX;
    q->n -= count;
    q->n_asked -= count;
    return true;
}

void undivert_queue_again(struct undivert_queue *q)
{
    q->n_asked = 0;
}

static bool equal(const union address *a, const union address *b)
{
    if (a->sa.sa_family != b->sa.sa_family)
        return false;
    return a->sa.sa_family == AF_INET6
               ? a->in6.sin6_port == b->in6.sin6_port &&
                     memcmp(&a->in6.sin6_addr, &b->in6.sin6_addr, sizeof(a->in6.sin6_addr)) == 0
               : a->in.sin_port == b->in.sin_port && a->in.sin_addr.s_addr == b->in.sin_addr.s_addr;
}

static bool is_tuple(const struct nft_tuple *a, const struct nft_tuple *b)
{
    return equal(&a->source, &b->source) && equal(&a->destination, &b->destination);
}

bool undivert_queue_has(const struct undivert_queue *q, const struct nft_tuple *tuple)
{
    for (uint32_t i = 0; i < q->n; i++) {
        if (is_tuple(nth(q, i), tuple))
            return true;
    }
    return false;
}

void undivert_queue_forget(struct undivert_queue *q, const struct nft_tuple *tuple)
{
    uint32_t kept = q->n_asked;

    for (uint32_t i = q->n_asked; i < q->n; i++) {
        const struct nft_tuple *t = nth(q, i);

        if (!is_tuple(t, tuple))
            *nth(q, kept++) = *t;
    }
    q->n = kept;
}
