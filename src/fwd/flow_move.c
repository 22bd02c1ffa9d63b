/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * flow_move.c
 *
 * Moves the bytes of one direction. What becomes of the direction, and of its flow, is decided in flow.c, by
 * the progress that is returned.
 *
 * A pipe is only filled when it is empty. This costs nothing, since one call takes all that the socket has
 * (up to the pipe's size); it bounds what a flow can hold; it makes EAGAIN unambiguous: the source is empty,
 * never the pipe full (a pipe is full by slots, which may hold a few bytes each); and the end of the source
 * cannot overtake bytes before it.
 *
 * Short messages are copied instead (advance_by_copy()); the states of a direction are the same, with a pipe
 * only for what the target did not take.
 *
 * What the kernel promises (more of it: flow.c):
 *
 *  - Events are edge-triggered, so a direction runs until EAGAIN. One exception saves a call for each small
 *    message: a read of fewer bytes than the pipe has slots was not limited by the pipe, so it took
 *    everything, and what comes later is an event of its own (this includes a FIN, unless it has been seen
 *    already).
 *
 *  - splice(2) does not pass the mark of urgent data: it reports EAGAIN, or after a FIN even the end, with
 *    bytes still unread. recv(2) with SO_OOBINLINE does pass, so read_past_mark() takes over there, and
 *    confirms each end. Urgent bytes travel inline (RFC 6093).
 */
#include "fwd/flow_private.h"

#include "base/bits.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    DIRECTION_TURN_BYTES = FLOW_TURN_BYTES / 2,
    COPY_BYTES = 4096, /* a page: a pipe's slot takes it, so writing it to an empty pipe cannot fail */
};

static const unsigned SPLICE_FLAGS = SPLICE_F_MOVE | SPLICE_F_NONBLOCK;

/* Takes over where splice(2) does not get on, at an urgent mark. Bytes in the pipe; 0: the source has ended;
 * a negative errno. */
static ssize_t read_past_mark(struct direction *d)
{
    uint8_t copy[COPY_BYTES];
    ssize_t n = recv(source_fd(d), copy, sizeof(copy), MSG_DONTWAIT);

    if (n < 0)
        return -errno;
    if (n > 0 && write(d->pipe.write_fd, copy, (size_t)n) != n)
        return -EIO; /* the pipe was empty */
    return n;
}

/* As read_past_mark(); *@ret_all: there was no more than that. */
static ssize_t fill_pipe(struct flows *f, struct direction *d, bool *ret_all)
{
    uint32_t size = min_u32(d->pipe.size, DIRECTION_TURN_BYTES - d->moved);
    ssize_t n;

    do
        n = splice(source_fd(d), NULL, d->pipe.write_fd, NULL, size, SPLICE_FLAGS);
    while (n < 0 && errno == EINTR);
    *ret_all = n > 0 && n < (ssize_t)(d->pipe.size / f->pipes.page_size) && n < (ssize_t)size &&
               !d->source_fin && !d->source_mark;
    if (n > 0) {
        d->bulk = n >= COPY_BYTES;
        return n;
    }
    if (n < 0 && (errno != EAGAIN || !d->source_mark))
        return -errno;
    n = read_past_mark(d);
    if (n == -EAGAIN)
        d->source_mark = false;
    return n;
}

static void count_bytes(struct flows *f, struct direction *d, uint32_t n)
{
    struct flow *flow = flow_of(d);

    flow->unreported[d->source] += n;
    if (link_is_alone(&flow->changed))
        link_insert_before(&f->changed, &flow->changed);
}

/* PROGRESS_EMPTY: the pipe is empty now. */
static enum progress empty_pipe(struct flows *f, struct direction *d)
{
    while (d->held > 0) {
        ssize_t n = splice(d->pipe.read_fd, NULL, target_fd(d), NULL, d->held, SPLICE_FLAGS);

        if (n > 0) {
            d->held -= (uint32_t)n;
            count_bytes(f, d, (uint32_t)n);
        } else if (n < 0 && errno == EAGAIN) {
            return PROGRESS_FULL;
        } else if (n == 0 || errno != EINTR) {
            return PROGRESS_TARGET_FAILED;
        }
    }
    return PROGRESS_EMPTY;
}

static enum progress advance_with_pipe(struct flows *f, struct direction *d)
{
    bool all = false;

    for (;;) {
        enum progress p = empty_pipe(f, d);
        ssize_t n;

        if (p != PROGRESS_EMPTY || all)
            return p;
        if (d->moved >= DIRECTION_TURN_BYTES)
            return PROGRESS_SHARE;
        n = fill_pipe(f, d, &all);
        if (n == 0)
            return PROGRESS_END;
        if (n < 0)
            return n == -EAGAIN ? PROGRESS_EMPTY : PROGRESS_SOURCE_FAILED;
        d->held = (uint32_t)n;
        d->moved += (uint32_t)n;
    }
}

/* A short message costs less by a copy than by two calls of splice(2) and the pages that they hand around. As
 * long as each read finds less than COPY_BYTES, that is the way; what the target does not take goes into a
 * pipe. */
static enum progress advance_by_copy(struct flows *f, struct direction *d)
{
    uint8_t copy[COPY_BYTES];

    while (d->moved < DIRECTION_TURN_BYTES) {
        ssize_t n = recv(source_fd(d), copy, sizeof(copy), MSG_DONTWAIT), sent;

        if (n == 0)
            return PROGRESS_END;
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            if (errno != EAGAIN)
                return PROGRESS_SOURCE_FAILED;
            d->source_mark = false;
            return PROGRESS_EMPTY;
        }
        d->moved += (uint32_t)n;
        sent = send(target_fd(d), copy, (size_t)n, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent < 0 && errno != EAGAIN && errno != EINTR)
            return PROGRESS_TARGET_FAILED;
        if (sent > 0)
            count_bytes(f, d, (uint32_t)sent);
        if (sent < n) {
            size_t rest = (size_t)(n - (sent > 0 ? sent : 0));

            /* There is one: the caller has seen to that. It is empty, so it takes a page. */
            if (pipes_take(&f->pipes, &d->pipe) < 0 ||
                write(d->pipe.write_fd, copy + n - rest, rest) != (ssize_t)rest)
                return PROGRESS_TARGET_FAILED;
            d->held = (uint32_t)rest;
            return PROGRESS_FULL;
        }
        d->bulk = n == sizeof(copy);
        if (d->bulk)
            return PROGRESS_SHARE; /* not really: the caller goes on by splice */
        if (!d->source_fin && !d->source_mark)
            return PROGRESS_EMPTY; /* that was all there was */
    }
    return PROGRESS_SHARE;
}

enum progress direction_advance(struct flows *f, struct direction *d)
{
    enum progress p;

    if (d->turn != f->turn) {
        d->turn = f->turn;
        d->moved = 0;
    }
    if (d->pipe.read_fd < 0) {
        if (d->moved >= DIRECTION_TURN_BYTES)
            return PROGRESS_SHARE;
        if (!d->bulk) {
            if (pipes_reserve(&f->pipes) < 0)
                return PROGRESS_NO_PIPE;
            p = advance_by_copy(f, d);
            if (!d->bulk)
                return p;
        }
        if (pipes_take(&f->pipes, &d->pipe) < 0)
            return PROGRESS_NO_PIPE;
    }
    p = advance_with_pipe(f, d);
    if (d->held == 0)
        pipes_give(&f->pipes, &d->pipe);
    return p;
}
