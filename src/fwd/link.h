/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * link.h - circular lists of things that carry a link; one that is in none points at itself
 *
 * Whoever owns the list calls; a link that was never initialised may not be passed.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#define container_of(p, type, member) ((type *)((char *)(p)-offsetof(type, member)))

struct link {
    struct link *next, *previous;
};

static inline void link_init(struct link *l)
{
    l->next = l->previous = l;
}

static inline bool link_is_alone(const struct link *l)
{
    return l->next == l;
}

static inline void link_take_out(struct link *l)
{
    l->next->previous = l->previous;
    l->previous->next = l->next;
    link_init(l);
}

static inline void link_insert_before(struct link *where, struct link *l)
{
    l->next = where;
    l->previous = where->previous;
    where->previous->next = l;
    where->previous = l;
}

/* Everything in @from, in its order, to the end of @to. */
static inline void link_append_all(struct link *to, struct link *from)
{
    if (link_is_alone(from))
        return;
    from->next->previous = to->previous;
    to->previous->next = from->next;
    from->previous->next = to;
    to->previous = from->previous;
    link_init(from);
}
