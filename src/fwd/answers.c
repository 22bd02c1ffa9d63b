/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "fwd/answers.h"

#include "base/clock.h"

#include <string.h>

#define MIX_1 \
    0x9e3779b97f4a7c15u /* odd, with as many ones as zeros; nobody gains by finding two that collide */
#define MIX_2 0xd6e8feb86659fd93u

uint64_t answers_key(const union address *shown, const union address *guest)
{
    uint64_t words[2] = {0}, key;

    if (shown->sa.sa_family == AF_INET)
        words[0] = shown->in.sin_addr.s_addr;
    else
        memcpy(words, &shown->in6.sin6_addr, sizeof(words));
    key = (words[0] ^ words[1] * MIX_1 ^ address_port(guest)) * MIX_2;
    return (key ^ key >> 32) | 1; /* 0: a place that nobody has had */
}

static int64_t load(const _Atomic int64_t *when_ns)
{
    return atomic_load_explicit(when_ns, memory_order_relaxed);
}

static void store(_Atomic int64_t *when_ns, int64_t ns)
{
    atomic_store_explicit(when_ns, ns, memory_order_relaxed);
}

static bool is_recent(const _Atomic int64_t *when_ns, int64_t now_ns, int64_t ms)
{
    int64_t ns = load(when_ns);

    return ns != 0 && now_ns - ns < ms * NS_PER_MS;
}

static unsigned place_of(uint64_t key)
{
    return (unsigned)(key >> 1) % ANSWERS_CLIENTS;
}

static bool has(const struct answers *a, uint64_t key)
{
    return atomic_load_explicit(&a->clients[place_of(key)].key, memory_order_relaxed) == key;
}

static void remember(struct answers *a, uint64_t key, int64_t answered_ns, int64_t astray_until_ns)
{
    unsigned place = place_of(key);

    atomic_store_explicit(&a->clients[place].key, key, memory_order_relaxed);
    store(&a->clients[place].answered_ns, answered_ns);
    store(&a->clients[place].astray_until_ns, astray_until_ns);
}

void answers_note(struct answers *a, uint64_t key, int64_t now_ns)
{
    store(&a->answered_ns, now_ns);
    store(&a->astray_until_ns, 0);
    remember(a, key, now_ns, 0);
}

void answers_note_silence(struct answers *a, uint64_t key, int64_t now_ns)
{
    int64_t until_ns = now_ns + ANSWERS_ASTRAY_MS * NS_PER_MS;

    if (answers_is_busy(a, key,
                        now_ns)) /* others of this client are answered: it was just not this one's turn */
        return;
    /* The answer that it has waited for the sake of is as old as its wait. */
    if (!is_recent(&a->answered_ns, now_ns, INT64_C(2) * ANSWERS_BUSY_MS))
        store(&a->astray_until_ns, until_ns);
    else if (has(a, key) || !is_recent(&a->clients[place_of(key)].answered_ns, now_ns, ANSWERS_BUSY_MS))
        remember(a, key, 0, until_ns); /* else the place has somebody else, who is answered */
}

bool answers_is_busy(const struct answers *a, uint64_t key, int64_t now_ns)
{
    return has(a, key) && is_recent(&a->clients[place_of(key)].answered_ns, now_ns, ANSWERS_BUSY_MS);
}

bool answers_is_astray(const struct answers *a, uint64_t key, int64_t now_ns)
{
    return load(&a->astray_until_ns) > now_ns ||
           (has(a, key) && load(&a->clients[place_of(key)].astray_until_ns) > now_ns);
}
