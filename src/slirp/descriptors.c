/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "slirp/descriptors.h"

#include "base/bits.h"
#include "base/counters.h"
#include "slirp/events.h"

#include <errno.h>
#include <slirp/libslirp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

enum { TABLE_MIN = 64 };

int descriptors_init(struct descriptors *d)
{
    *d = (struct descriptors){.epoll_fd = epoll_create1(EPOLL_CLOEXEC)};
    return d->epoll_fd < 0 ? -errno : 0;
}

void descriptors_deinit(struct descriptors *d)
{
    if (d->epoll_fd >= 0)
        close(d->epoll_fd);
    free(d->table);
    *d = (struct descriptors){.epoll_fd = -1};
}

static bool reserve(struct descriptors *d, int fd)
{
    uint32_t n = d->n_table ? d->n_table : TABLE_MIN;
    struct descriptor *table;

    if (fd < 0)
        return false;
    if ((uint32_t)fd < d->n_table)
        return true;
    while (n <= (uint32_t)fd)
        n *= 2;
    table = realloc(d->table, n * sizeof(*table));
    if (!table)
        return false;
    memset(table + d->n_table, 0, (n - d->n_table) * sizeof(*table));
    d->table = table;
    d->n_table = n;
    return true;
}

struct descriptor *descriptors_get(struct descriptors *d, int fd)
{
    return fd >= 0 && (uint32_t)fd < d->n_table ? &d->table[fd] : NULL;
}

/* libslirp announces the end of listeners whose beginning it has not announced: so each entry knows. */
static void count_open(struct descriptors *d, struct descriptor *entry)
{
    if (entry->open)
        return;
    entry->open = true;
    counter_set(COUNTER_slirp_sockets, ++d->n_open);
}

struct descriptor *descriptors_open(struct descriptors *d, int fd)
{
    bool was_open;

    if (!reserve(d, fd))
        return NULL;
    was_open = d->table[fd].open; /* its end was not announced */
    d->table[fd] = (struct descriptor){.open = was_open};
    count_open(d, &d->table[fd]);
    return &d->table[fd];
}

void descriptors_close(struct descriptors *d, int fd)
{
    struct descriptor *entry = descriptors_get(d, fd);
    bool was_open;

    if (!entry)
        return;
    was_open = entry->open;
    /* close(2) takes the descriptor out of the set by itself: libslirp never duplicates one. */
    *entry = (struct descriptor){.interest = 0};
    if (was_open)
        counter_set(COUNTER_slirp_sockets, --d->n_open);
}

void descriptors_fill_begin(struct descriptors *d)
{
    d->fill++;
    counter_add(COUNTER_slirp_fills, 1);
}

static void set_interest(struct descriptors *d, int fd, struct descriptor *entry, uint32_t interest)
{
    struct epoll_event event = {.events = interest, .data.u64 = events_tag(EVENT_SLIRP, (uint32_t)fd)};
    int op = interest == 0 ? EPOLL_CTL_DEL : entry->interest == 0 ? EPOLL_CTL_ADD : EPOLL_CTL_MOD;

    counter_add(COUNTER_slirp_epoll_ctl, 1);
    if (epoll_ctl(d->epoll_fd, op, fd, &event) < 0) {
        /* The number was closed and used again without libslirp's saying so: the other operation is the right
         * one. */
        if (op == EPOLL_CTL_ADD && errno == EEXIST)
            op = EPOLL_CTL_MOD;
        else if (op == EPOLL_CTL_MOD && errno == ENOENT)
            op = EPOLL_CTL_ADD;
        else if (op == EPOLL_CTL_DEL)
            op = 0;
        else
            return; /* no memory: the next fill tries again, because interest stays as it was */
        if (op != 0 && epoll_ctl(d->epoll_fd, op, fd, &event) < 0)
            return;
    }
    entry->interest = interest;
}

int descriptors_want(struct descriptors *d, int fd, int slirp_events)
{
    struct descriptor *entry;
    uint32_t wanted = 0;

    if (!reserve(d, fd))
        return -1; /* libslirp's "not watched"; it asks again at the next fill */
    entry = &d->table[fd];
    count_open(d, entry);
    if (slirp_events & SLIRP_POLL_IN)
        wanted |= EPOLLIN;
    if (slirp_events & SLIRP_POLL_OUT)
        wanted |= EPOLLOUT;
    if (slirp_events & SLIRP_POLL_PRI)
        wanted |= EPOLLPRI;
    /* POLL_HUP and POLL_ERR need no asking, epoll(7) always reports them. */
    entry->wanted = wanted;
    entry->fill = d->fill;
    if (wanted & ~entry->interest)
        set_interest(d, fd, entry, wanted);
    return fd;
}

void descriptors_fired(struct descriptors *d, int fd, uint32_t events)
{
    struct descriptor *entry = descriptors_get(d, fd);
    uint32_t wanted;

    if (!entry)
        return;
    wanted = entry->fill == d->fill ? entry->wanted : 0;
    if (wanted == 0 || (events & (EPOLLIN | EPOLLOUT | EPOLLPRI) & ~wanted))
        set_interest(d, fd, entry, wanted);
    if (wanted == 0)
        return;
    entry->ready = events & (wanted | EPOLLERR | EPOLLHUP);
}

int descriptors_take(struct descriptors *d, int fd)
{
    struct descriptor *entry = descriptors_get(d, fd);
    int events = 0;

    if (!entry || entry->ready == 0)
        return 0;
    if (entry->ready & EPOLLIN)
        events |= SLIRP_POLL_IN;
    if (entry->ready & EPOLLOUT)
        events |= SLIRP_POLL_OUT;
    if (entry->ready & EPOLLPRI)
        events |= SLIRP_POLL_PRI;
    if (entry->ready & EPOLLERR)
        events |= SLIRP_POLL_ERR;
    if (entry->ready & EPOLLHUP)
        events |= SLIRP_POLL_HUP;
    entry->ready = 0;
    return events;
}
