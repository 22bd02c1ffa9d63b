/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * tap_epoll.c - the TAP by read(2), write(2) and poll(2)
 *
 * Works wherever a TAP works. One system call per frame, and one more when the queue has run dry. What
 * tap_batched.c does in the same way is here, too.
 */
#include "io/tap_io.h"

#include "base/cleanup.h"
#include "base/counters.h"
#include "io/capture.h"
#include "io/offload.h"

#include <errno.h>
#include <poll.h>
#include <sys/uio.h>
#include <unistd.h>

struct tap_reader {
    int fd; /* borrowed */
    struct frame_pool *pool;
    struct wakeup *wake;
    bool starved; /* the last read() found no free frame */
};

struct tap_writer {
    int fd; /* borrowed */
    struct frame_pool *pool;
};

enum { SOCKET_WAIT_MS_MAX = 10 }; /* how long the writing thread waits for a peer that does not read */

enum tap_outcome tap_outcome(int error)
{
    switch (error) {
    case EAGAIN:
    case EINTR:
        return TAP_AGAIN;
    case EIO:     /* the link is down */
    case ENOBUFS: /* out of socket buffers */
    case ENOMEM:
    case EINVAL: /* a frame the kernel does not like */
    case EMSGSIZE:
    case ENETDOWN:
        return TAP_DROPPED;
    default: /* EBADFD: TAP deleted; EPIPE, ECONNRESET, ENOTCONN: peer gone; EBADF, EFAULT: broken */
        return TAP_GONE;
    }
}

void tap_capture(struct capture *c, enum pcapng_direction direction, const struct frame_pool *pool,
                 const frame_id *ids, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        capture_put_frame(c, direction, frame_data(pool, ids[i]), pool->size[ids[i]]);
}

void tap_refused(const void *header, uint32_t header_size, int error)
{
    counter_add_shared(COUNTER_tx_drop_link, 1);
    if (error == EINVAL && header_size > 0 && offload_is_gso(header))
        counter_add_shared(COUNTER_tx_gso_refused, 1);
}

int tap_write_parts(int fd, uint32_t header_size, const struct iovec *parts, int n_parts)
{
    ssize_t n = n_parts == 1 ? write(fd, parts->iov_base, parts->iov_len) : writev(fd, parts, n_parts);

    counter_add_shared(COUNTER_tx_syscalls, 1);
    if (n >= 0) {
        counter_add_shared(COUNTER_tx_frames, 1);
        counter_add_shared(COUNTER_tx_bytes, (size_t)n - header_size);
        return 0;
    }
    switch (tap_outcome(errno)) {
    case TAP_AGAIN:
        return -EAGAIN;
    case TAP_DROPPED:
        tap_refused(parts->iov_base, header_size, errno);
        return 0;
    default:
        return -errno;
    }
}

int tap_write_now(int fd, uint32_t header_size, const void *data, size_t size)
{
    static const uint8_t nothing[OFFLOAD_HEADER_SIZE_MAX];
    struct iovec parts[2] = {{.iov_base = (void *)nothing, .iov_len = header_size},
                             {.iov_base = (void *)data, .iov_len = size}};

    return header_size > 0 ? tap_write_parts(fd, header_size, parts, 2)
                           : tap_write_parts(fd, 0, parts + 1, 1);
}

static int epoll_reader_new(struct tap_reader **ret, int fd, struct frame_pool *pool, struct wakeup *wake,
                            struct failure *why)
{
    struct tap_reader *r = calloc(1, sizeof(*r));

    if (!r)
        return failure(why, -ENOMEM, NULL, "cannot allocate the TAP reader");
    *r = (struct tap_reader){.fd = fd, .pool = pool, .wake = wake};
    *ret = r;
    return 0;
}

static int epoll_reader_start(struct tap_reader *r)
{
    (void)r;
    return 0;
}

int tap_read_each(int fd, struct frame_pool *pool, frame_id *ids, uint32_t max, bool *starved,
                  bool *ret_drained)
{
    uint32_t n_taken, n = 0, n_calls = 0;
    uint64_t bytes = 0;
    int error = 0;

    *ret_drained = false;
    n_taken = frame_take(pool, ids, max);
    *starved = n_taken == 0;
    while (n < n_taken) {
        ssize_t size = read(fd, frame_start(pool, ids[n]), FRAME_SIZE_MAX + pool->header_size);

        n_calls++;
        if (size > 0) {
            bytes += frame_set_read(pool, ids[n++], (uint32_t)size);
            continue;
        }
        if (size < 0 && errno == EINTR)
            continue;
        if (size == 0)
            error = -ENODEV; /* end of file: the peer of a socket closed it; a TAP never says this */
        else if (tap_outcome(errno) == TAP_GONE)
            error = errno == EBADFD || errno == EFAULT ? -ENODEV : -errno;
        else if (tap_outcome(errno) == TAP_AGAIN)
            *ret_drained = true;
        else
            counter_add(COUNTER_rx_errors, 1);
        if (error == 0 && !*ret_drained && n_calls < 2 * n_taken) /* behind it there may be others */
            continue;
        break;
    }
    frame_put(pool, ids + n, n_taken - n);
    counter_add(COUNTER_rx_syscalls, n_calls);
    counter_add(COUNTER_rx_frames, n);
    counter_add(COUNTER_rx_bytes, bytes);
    return n > 0 ? (int)n : error;
}

int tap_wait_readable(int fd, struct frame_pool *pool, struct wakeup *wake, bool starved, int timeout_ms)
{
    struct pollfd fds[2] = {{.fd = wake->fd, .events = POLLIN}, {.fd = starved ? -1 : fd, .events = POLLIN}};
    frame_id id;

    wakeup_prepare(wake);
    if (starved && frame_take(pool, &id, 1) > 0) { /* one came home between the two looks */
        frame_put(pool, &id, 1);
        wakeup_cancel(wake);
        return 0;
    }
    counter_add(COUNTER_rx_syscalls, 1);
    if (poll(fds, 2, timeout_ms) < 0 && errno != EINTR) {
        wakeup_cancel(wake);
        return -errno;
    }
    wakeup_cancel(wake);
    if (fds[0].revents)
        wakeup_drain(wake);
    return 0;
}

static int epoll_read(struct tap_reader *r, frame_id *ids, uint32_t max, bool *ret_drained)
{
    return tap_read_each(r->fd, r->pool, ids, max, &r->starved, ret_drained);
}

static int epoll_wait_readable(struct tap_reader *r, int timeout_ms)
{
    return tap_wait_readable(r->fd, r->pool, r->wake, r->starved, timeout_ms);
}

static int epoll_poll_fd(struct tap_reader *r)
{
    return r->fd;
}

static struct tap_reader *epoll_reader_free(struct tap_reader *r)
{
    free(r);
    return NULL;
}

static int epoll_writer_new(struct tap_writer **ret, int fd, struct frame_pool *pool, struct failure *why)
{
    struct tap_writer *w = calloc(1, sizeof(*w));

    if (!w)
        return failure(why, -ENOMEM, NULL, "cannot allocate the TAP writer");
    *w = (struct tap_writer){.fd = fd, .pool = pool};
    *ret = w;
    return 0;
}

static int epoll_writer_start(struct tap_writer *w)
{
    (void)w;
    return 0;
}

static int epoll_write(struct tap_writer *w, const frame_id *ids, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        struct iovec frame = {.iov_base = frame_start(w->pool, ids[i]),
                              .iov_len = w->pool->header_size + w->pool->size[ids[i]]};
        int r = tap_write_parts(w->fd, w->pool->header_size, &frame, 1);

        if (r == -EAGAIN) { /* only sockets: a TAP's send buffer has no limit by default */
            struct pollfd pfd = {.fd = w->fd, .events = POLLOUT};

            (void)poll(&pfd, 1, SOCKET_WAIT_MS_MAX); /* whatever it says, the next write tells */
            r = tap_write_parts(w->fd, w->pool->header_size, &frame, 1);
            if (r == -EAGAIN) {
                counter_add_shared(COUNTER_tx_drop_link, 1);
                r = 0;
            }
        }
        if (r < 0)
            return r;
    }
    return 0;
}

static struct tap_writer *epoll_writer_free(struct tap_writer *w)
{
    free(w);
    return NULL;
}

const struct tap_io tap_io_epoll = {
    .name = "epoll",
    .reader_new = epoll_reader_new,
    .reader_start = epoll_reader_start,
    .read = epoll_read,
    .wait = epoll_wait_readable,
    .poll_fd = epoll_poll_fd,
    .reader_free = epoll_reader_free,
    .writer_new = epoll_writer_new,
    .writer_start = epoll_writer_start,
    .write = epoll_write,
    .writer_free = epoll_writer_free,
};
