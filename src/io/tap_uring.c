/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * tap_uring.c - the TAP by io_uring(7), for a thread that does nothing else: many frames per system call
 *
 * Reader: one IORING_OP_READ_MULTISHOT (Linux 6.7) stays armed; every free frame of the pool lies in a
 * provided-buffer ring, and a completion names the buffer (= frame id) it filled. One io_uring_enter() both
 * waits and fetches whatever has arrived. Elsewhere: tap_batched.c.
 * Writer: a batch of writes per io_uring_enter(); the kernel executes them in order before it returns,
 * because a TAP write never blocks (tun has FMODE_NOWAIT since 6.4, and the descriptor is non-blocking).
 *
 * States of the reader: unarmed -> armed (arm()) -> unarmed, when a completion comes without
 * IORING_CQE_F_MORE: out of buffers (-ENOBUFS), overflow, or an error. read() re-arms when it has frames to
 * offer.
 */
#include "io/uring.h"

#include "base/cleanup.h"
#include "base/counters.h"
#include "base/thread.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>

enum { OP_READ_MULTISHOT = 49 };          /* IORING_OP_READ_MULTISHOT, Linux 6.7: newer than the headers */
enum { FILE_TAP, FILE_WAKE, FILE_COUNT }; /* indices of the registered descriptors */
enum { TAG_READ, TAG_WAKE };              /* user_data */

struct tap_reader {
    struct io_uring ring;
    bool ring_made, armed, wake_armed, starved;
    struct frame_pool *pool; /* borrowed */
    struct wakeup *wake;     /* borrowed */

    struct io_uring_buf_ring *buffers; /* as many entries as the pool has frames */
    size_t buffers_size;
    int error; /* negative errno that read() still has to report */
};

struct tap_writer {
    struct io_uring ring;
    bool ring_made;
    struct frame_pool *pool; /* borrowed */
};

/* Makes the provided-buffer ring. */
static int buffers_make(struct tap_reader *r)
{
    struct io_uring_buf_reg reg = {.ring_entries = r->pool->n_frames, .bgid = 0};
    void *map;
    int result;

    r->buffers_size = r->pool->n_frames * sizeof(struct io_uring_buf);
    map = mmap(NULL, r->buffers_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED)
        return -errno;
    reg.ring_addr = (uintptr_t)map;
    result = io_uring_register_buf_ring(&r->ring, &reg, 0);
    if (result < 0) {
        munmap(map, r->buffers_size);
        return result;
    }
    r->buffers = map;
    io_uring_buf_ring_init(r->buffers);
    return 0;
}

static struct tap_reader *uring_reader_free(struct tap_reader *r)
{
    if (!r)
        return NULL;
    if (r->ring_made)
        io_uring_queue_exit(&r->ring); /* before the buffers: the kernel may still fill them until then */
    if (r->buffers)
        munmap(r->buffers, r->buffers_size);
    free(r);
    return NULL;
}

static int uring_reader_new(struct tap_reader **ret, int fd, struct frame_pool *pool, struct wakeup *wake,
                            struct failure *why)
{
    static const uint8_t ops[] = {IORING_OP_POLL_ADD, OP_READ_MULTISHOT};
    int fds[FILE_COUNT] = {[FILE_TAP] = fd, [FILE_WAKE] = wake->fd}, result;
    struct tap_reader *r = calloc(1, sizeof(*r));

    if (!r)
        return failure(why, -ENOMEM, NULL, "cannot allocate the TAP reader");
    *r = (struct tap_reader){.pool = pool, .wake = wake};
    /* An older kernel refuses to allow an opcode that it does not know. */
    result = uring_make(&r->ring, 4 * pool->n_frames, fds, FILE_COUNT, ops, ARRAY_SIZE(ops), why);
    r->ring_made = result == 0;
    if (result == 0 && !uring_has_op(&r->ring, OP_READ_MULTISHOT))
        result = failure(why, -EOPNOTSUPP, "Linux 6.7 has them", "no multishot reads");
    if (result == 0 && (result = buffers_make(r)) < 0)
        failure(why, result, NULL, "cannot provide buffers to io_uring");
    if (result < 0)
        r = uring_reader_free(r);
    *ret = r;
    return result;
}

static int submit(struct tap_reader *r, unsigned n_wait)
{
    int n;

    do {
        n = io_uring_submit_and_wait(&r->ring, n_wait);
        counter_add(COUNTER_rx_syscalls, 1);
    } while (n == -EINTR);
    /* EBUSY: the completion queue has overflowed; what is in it is read next. EAGAIN: short of memory, try
     * later. */
    return n < 0 && n != -EBUSY && n != -EAGAIN ? n : 0;
}

/* The same, but not for ever. Kernels that cannot (before 5.11) sleep until there is something else. */
static int submit_for(struct tap_reader *r, int timeout_ms)
{
    struct __kernel_timespec limit = {.tv_sec = timeout_ms / 1000, .tv_nsec = timeout_ms % 1000 * 1000000LL};
    struct io_uring_cqe *cqe;
    int n;

    if (timeout_ms < 0 || !(r->ring.features & IORING_FEAT_EXT_ARG))
        return submit(r, 1);
    counter_add(COUNTER_rx_syscalls, 1);
    n = io_uring_submit_and_wait_timeout(&r->ring, &cqe, 1, &limit, NULL);
    return n < 0 && n != -ETIME && n != -EINTR && n != -EBUSY && n != -EAGAIN ? n : 0;
}

/* Offers every free frame to the kernel and keeps the read armed. */
static int offer_frames(struct tap_reader *r)
{
    frame_id ids[TAP_BATCH_MAX];
    uint32_t n, n_offered = 0;

    while ((n = frame_take(r->pool, ids, ARRAY_SIZE(ids))) > 0) {
        for (uint32_t i = 0; i < n; i++)
            io_uring_buf_ring_add(r->buffers, frame_start(r->pool, ids[i]),
                                  FRAME_SIZE_MAX + r->pool->header_size, ids[i],
                                  io_uring_buf_ring_mask(r->pool->n_frames), i);
        io_uring_buf_ring_advance(r->buffers, n);
        n_offered += n;
    }
    if (n_offered > 0)
        r->starved = false;
    if (!r->armed && !r->starved) {
        struct io_uring_sqe *sqe = uring_sqe(&r->ring, OP_READ_MULTISHOT, FILE_TAP, TAG_READ);

        sqe->flags |= IOSQE_BUFFER_SELECT;
        sqe->buf_group = 0;
        r->armed = true;
        return submit(r, 0);
    }
    return 0;
}

static int result_error(int result)
{
    if (result == 0)
        return -ENODEV; /* end of file: the peer of a socket closed it */
    return result == -EBADFD || result == -EFAULT ? -ENODEV : result;
}

/* One completion. Returns true when it brought a frame. */
static bool reap(struct tap_reader *r, const struct io_uring_cqe *cqe, frame_id *ret)
{
    bool more = cqe->flags & IORING_CQE_F_MORE;
    frame_id id;

    if (cqe->user_data == TAG_WAKE) {
        r->wake_armed = more;
        wakeup_drain(r->wake);
        return false;
    }
    r->armed = more;
    if (cqe->flags & IORING_CQE_F_BUFFER) {
        id = cqe->flags >> IORING_CQE_BUFFER_SHIFT;
        if (cqe->res > 0) {
            frame_set_read(r->pool, id, (uint32_t)cqe->res);
            *ret = id;
            return true;
        }
        frame_put(r->pool, &id, 1);
    }
    if (cqe->res == -ENOBUFS)
        r->starved = true;
    else if (cqe->res == 0 || tap_outcome(-cqe->res) == TAP_GONE)
        r->error = result_error(cqe->res);
    else if (tap_outcome(-cqe->res) == TAP_DROPPED)
        counter_add(COUNTER_rx_errors, 1);
    return false;
}

static uint32_t reap_all(struct tap_reader *r, frame_id *ids, uint32_t max)
{
    struct io_uring_cqe *cqe;
    unsigned head, n_seen = 0;
    uint32_t n = 0;
    uint64_t bytes = 0;

    io_uring_for_each_cqe(&r->ring, head, cqe)
    {
        if (n == max)
            break;
        n_seen++;
        if (reap(r, cqe, &ids[n])) {
            bytes += r->pool->size[ids[n]];
            n++;
        }
    }
    io_uring_cq_advance(&r->ring, n_seen);
    counter_add(COUNTER_rx_frames, n);
    counter_add(COUNTER_rx_bytes, bytes);
    return n;
}

/* Has the kernel work for this thread that would yield completions? IORING_SETUP_TASKRUN_FLAG says so, but it
 * is cleared before work that is over the kernel's limit for one call is put aside (seen on Linux 6.18): good
 * enough because wait() follows, which runs all of it.
 */
static bool work_pending(const struct tap_reader *r)
{
    return IO_URING_READ_ONCE(*r->ring.sq.kflags) & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW);
}

/* What has completed, fetched from the kernel if need be. How many frames, or a negative errno. */
static int fetch(struct tap_reader *r, frame_id *ids, uint32_t max)
{
    uint32_t n = reap_all(r, ids, max);
    int result;

    if (n == 0 && r->error == 0 && work_pending(r)) {
        counter_add(COUNTER_rx_syscalls, 1);
        result = io_uring_get_events(&r->ring);
        if (result < 0 && result != -EINTR && result != -EAGAIN && result != -EBUSY)
            return result;
        n = reap_all(r, ids, max);
    }
    return (int)n;
}

static int uring_read(struct tap_reader *r, frame_id *ids, uint32_t max, bool *ret_drained)
{
    int n = fetch(r, ids, max), result;
    bool was_armed = r->armed;

    *ret_drained = false; /* one never knows */
    if (n < 0 || (n == 0 && r->error < 0))
        return n < 0 ? n : r->error;
    result = offer_frames(r);
    if (n > 0 || result < 0)
        return n > 0 ? n : result;
    /* A read that finds frames, or the end, when it is armed completes at once. */
    if (!was_armed)
        n = fetch(r, ids, max);
    return n != 0 ? n : r->error;
}

static int uring_wait(struct tap_reader *r, int timeout_ms)
{
    frame_id id;
    int result;

    if (!r->wake_armed) {
        struct io_uring_sqe *sqe = uring_sqe(&r->ring, IORING_OP_POLL_ADD, FILE_WAKE, TAG_WAKE);

        sqe->poll32_events = POLLIN;
        sqe->len = IORING_POLL_ADD_MULTI;
        r->wake_armed = true;
    }
    wakeup_prepare(r->wake);
    if (r->starved && frame_take(r->pool, &id, 1) > 0) { /* one came home between the two looks */
        frame_put(r->pool, &id, 1);
        wakeup_cancel(r->wake);
        return submit(r, 0);
    }
    result = submit_for(r, timeout_ms);
    wakeup_cancel(r->wake);
    return result;
}

static int uring_reader_start(struct tap_reader *r)
{
    return uring_start(&r->ring);
}

struct tap_writer *uring_writer_free(struct tap_writer *w)
{
    if (!w)
        return NULL;
    if (w->ring_made)
        io_uring_queue_exit(&w->ring);
    free(w);
    return NULL;
}

int uring_writer_new(struct tap_writer **ret, int fd, struct frame_pool *pool, struct failure *why)
{
    static const uint8_t ops[] = {IORING_OP_WRITE};
    struct tap_writer *w = calloc(1, sizeof(*w));
    int r;

    if (!w)
        return failure(why, -ENOMEM, NULL, "cannot allocate the TAP writer");
    w->pool = pool;
    r = uring_make(&w->ring, 2 * URING_SQ_ENTRIES, &fd, 1, ops, ARRAY_SIZE(ops), why);
    if (r < 0) {
        free(w);
        return r;
    }
    w->ring_made = true;
    *ret = w;
    return 0;
}

int uring_writer_start(struct tap_writer *w)
{
    return uring_start(&w->ring);
}

int uring_write(struct tap_writer *w, const frame_id *ids, uint32_t n)
{
    struct io_uring_cqe *cqe;
    unsigned head, n_done = 0, n_written = 0;
    uint64_t bytes = 0;
    int error = 0;

    for (uint32_t i = 0; i < n; i++) {
        struct io_uring_sqe *sqe = uring_sqe(&w->ring, IORING_OP_WRITE, FILE_TAP, i);

        sqe->addr = (uintptr_t)frame_start(w->pool, ids[i]);
        sqe->len = w->pool->header_size + w->pool->size[ids[i]];
    }
    while (n_done < n) {
        unsigned n_seen = 0;
        int r = io_uring_submit_and_wait(&w->ring, n - n_done);

        counter_add_shared(COUNTER_tx_syscalls, 1);
        if (r < 0 && r != -EINTR && r != -EAGAIN && r != -EBUSY)
            return r;
        io_uring_for_each_cqe(&w->ring, head, cqe)
        {
            n_seen++;
            if (cqe->res >= 0) {
                n_written++;
                bytes += (uint32_t)cqe->res - w->pool->header_size;
            } else if (tap_outcome(-cqe->res) == TAP_GONE) {
                error = cqe->res;
            } else {
                tap_refused(frame_start(w->pool, ids[cqe->user_data]), w->pool->header_size, -cqe->res);
            }
        }
        io_uring_cq_advance(&w->ring, n_seen);
        n_done += n_seen;
    }
    counter_add_shared(COUNTER_tx_frames, n_written);
    counter_add_shared(COUNTER_tx_bytes, bytes);
    return error;
}

const struct tap_io tap_io_uring = {
    .name = "io_uring",
    .duties = DUTY_RING,
    .reader_new = uring_reader_new,
    .reader_start = uring_reader_start,
    .read = uring_read,
    .wait = uring_wait,
    .reader_free = uring_reader_free,
    .writer_new = uring_writer_new,
    .writer_start = uring_writer_start,
    .write = uring_write,
    .writer_free = uring_writer_free,
};
