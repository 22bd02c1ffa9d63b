/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * tap_batched.c - the TAP by read(2) and, while many small frames come, by batches of reads (io_uring)
 *
 * For a thread that has more to wait for, or a kernel without multishot reads. The first BATCH_MIN frames of
 * a burst are read one by one; if there were as many, more are likely, and reads are submitted together,
 * twice as many each time that all of them bring one. The kernel executes them before io_uring_enter(2)
 * returns: with RWF_NOWAIT one that finds nothing completes with EAGAIN. Without, it would wait in the kernel
 * for a frame, on a descriptor that is non-blocking, too (seen on Linux 6.18), and with it those that have
 * come. RWF_NOWAIT needs FMODE_NOWAIT, which tun has since Linux 6.4; where it is refused (EOPNOTSUPP) all is
 * read one by one from then on.
 *
 * Large frames are not worth it: the caller asks for few of them, since their buffers are to be used again
 * while they are in the cache.
 */
#include "base/bits.h"
#include "base/counters.h"
#include "base/thread.h"
#include "io/uring.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>

#ifndef RWF_NOWAIT
#define RWF_NOWAIT 0x00000008
#endif

enum { BATCH_MIN = 4, BATCHED_MIN = 2 * BATCH_MIN, FILE_TAP = 0 };

struct tap_reader {
    int fd; /* borrowed */
    struct io_uring ring;
    bool ring_made;
    struct frame_pool *pool; /* borrowed */
    struct wakeup *wake;     /* borrowed */
    bool starved;            /* the last read() found no free frame */
    uint32_t batch;          /* reads to submit next time; less than BATCHED_MIN: none */
    bool one_by_one;
    int error; /* negative errno that read() still has to report */
};

static struct tap_reader *batched_reader_free(struct tap_reader *r)
{
    if (!r)
        return NULL;
    if (r->ring_made)
        io_uring_queue_exit(&r->ring);
    free(r);
    return NULL;
}

static int batched_reader_new(struct tap_reader **ret, int fd, struct frame_pool *pool, struct wakeup *wake,
                              struct failure *why)
{
    static const uint8_t ops[] = {IORING_OP_READ};
    struct tap_reader *r = calloc(1, sizeof(*r));
    int result;

    if (!r)
        return failure(why, -ENOMEM, NULL, "cannot allocate the TAP reader");
    *r = (struct tap_reader){.fd = fd, .pool = pool, .wake = wake};
    result = uring_make(&r->ring, 2 * URING_SQ_ENTRIES, &fd, 1, ops, ARRAY_SIZE(ops), why);
    r->ring_made = result == 0;
    if (result < 0)
        r = batched_reader_free(r);
    *ret = r;
    return result;
}

static int batched_reader_start(struct tap_reader *r)
{
    return uring_start(&r->ring);
}

/* Submits what has been prepared and waits for @n completions. 0, or a negative errno for good. */
static int submit(struct tap_reader *r, unsigned n)
{
    while (io_uring_cq_ready(&r->ring) < n) {
        int result = io_uring_submit_and_wait(&r->ring, n - io_uring_cq_ready(&r->ring));

        counter_add(COUNTER_rx_syscalls, 1);
        if (result == -EAGAIN || result == -EBUSY)
            sched_yield(); /* short of memory, as everybody else is now */
        else if (result < 0 && result != -EINTR)
            return result;
    }
    return 0;
}

/* One completion. Returns true when it brought a frame. */
static bool reap(struct tap_reader *r, int result, frame_id id, bool *drained)
{
    if (result > 0) {
        counter_add(COUNTER_rx_bytes, frame_set_read(r->pool, id, (uint32_t)result));
        return true;
    }
    frame_put(r->pool, &id, 1);
    if (result == -EOPNOTSUPP)
        r->one_by_one = true;
    else if (result == 0 || tap_outcome(-result) == TAP_GONE)
        r->error = result == 0 || result == -EBADFD || result == -EFAULT ? -ENODEV : result;
    else if (tap_outcome(-result) == TAP_DROPPED)
        counter_add(COUNTER_rx_errors, 1);
    else if (result == -EAGAIN)
        *drained = true;
    return false;
}

static int read_batch(struct tap_reader *r, frame_id *ids, uint32_t max, bool *ret_drained)
{
    frame_id frames[TAP_BATCH_MAX];
    uint32_t n_reads = frame_take(r->pool, frames, min_u32(max, TAP_BATCH_MAX)), n = 0;
    struct io_uring_cqe *cqe;
    unsigned head, n_seen = 0;
    int result;

    *ret_drained = false;
    r->starved = n_reads == 0;
    for (uint32_t i = 0; i < n_reads; i++) {
        struct io_uring_sqe *sqe = uring_sqe(&r->ring, IORING_OP_READ, FILE_TAP, frames[i]);

        sqe->addr = (uintptr_t)frame_start(r->pool, frames[i]);
        sqe->len = FRAME_SIZE_MAX + r->pool->header_size;
        sqe->rw_flags = RWF_NOWAIT;
    }
    result = submit(r, n_reads);
    if (result < 0)
        return result;
    io_uring_for_each_cqe(&r->ring, head, cqe)
    {
        n_seen++;
        ids[n] = (frame_id)cqe->user_data;
        n += reap(r, cqe->res, ids[n], ret_drained);
    }
    io_uring_cq_advance(&r->ring, n_seen);
    counter_add(COUNTER_rx_frames, n);
    /* With a few more than the last time its end is seen at once. */
    r->batch = min_u32(n == n_reads ? 2 * r->batch : n + BATCH_MIN, TAP_BATCH_MAX);
    return (int)n;
}

static int batched_read(struct tap_reader *r, frame_id *ids, uint32_t max, bool *ret_drained)
{
    int n;

    if (r->error < 0)
        return r->error;
    if (!r->one_by_one && r->batch >= BATCHED_MIN && max >= BATCHED_MIN) {
        n = read_batch(r, ids, min_u32(max, r->batch), ret_drained);
        if (n != 0 || *ret_drained || r->starved || r->error < 0)
            return n != 0 ? n : r->error;
    }
    if (!r->one_by_one && max > BATCH_MIN)
        max = BATCH_MIN;
    n = tap_read_each(r->fd, r->pool, ids, max, &r->starved, ret_drained);
    r->batch = n == BATCH_MIN ? BATCHED_MIN : 0;
    return n;
}

static int batched_wait(struct tap_reader *r, int timeout_ms)
{
    return tap_wait_readable(r->fd, r->pool, r->wake, r->starved, timeout_ms);
}

static int batched_poll_fd(struct tap_reader *r)
{
    return r->fd;
}

const struct tap_io tap_io_uring_batched = {
    .name = "io_uring",
    .duties = DUTY_RING,
    .reader_new = batched_reader_new,
    .reader_start = batched_reader_start,
    .read = batched_read,
    .wait = batched_wait,
    .poll_fd = batched_poll_fd,
    .reader_free = batched_reader_free,
    .writer_new = uring_writer_new,
    .writer_start = uring_writer_start,
    .write = uring_write,
    .writer_free = uring_writer_free,
};
