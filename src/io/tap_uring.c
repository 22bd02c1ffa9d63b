/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * tap_uring.c - the TAP by io_uring(7): many frames per system call
 *
 * Reader, where the kernel has IORING_OP_READ_MULTISHOT (Linux 6.7): one read stays armed; every free frame
 * of the pool lies in a provided-buffer ring, and a completion names the buffer (= frame id) it filled. One
 * io_uring_enter() both waits and fetches whatever has arrived. Elsewhere: a poll request says that something
 * is there, then a batch of plain reads is submitted at once, doubling while all of them bring frames.
 * Writer: a batch of writes per io_uring_enter(); the kernel executes them in order before it returns,
 * because a TAP write never blocks (tun has FMODE_NOWAIT since 6.4, and the descriptor is non-blocking).
 *
 * Rings are made disabled by main, restricted to their few opcodes on registered descriptors only, and
 * enabled by the thread that uses them: with IORING_SETUP_SINGLE_ISSUER that thread becomes the only one that
 * may. seccomp does not see what is submitted through a ring, so the restriction is what makes a ring safe to
 * keep under --enable-seccomp. liburing 2.3 has no call for some of this: io_uring_register() and the
 * kernel's numbers are used directly.
 *
 * States of the multishot reader: unarmed -> armed (arm()) -> unarmed, when a completion comes without
 * IORING_CQE_F_MORE: out of buffers (-ENOBUFS), overflow, or an error. read() re-arms when it has frames to
 * offer.
 */
#include "io/tap_io.h"

#include "base/cleanup.h"
#include "base/counters.h"
#include "base/thread.h"

#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>

enum { OP_READ_MULTISHOT = 49 };          /* IORING_OP_READ_MULTISHOT, Linux 6.7: newer than the headers */
enum { FILE_TAP, FILE_WAKE, FILE_COUNT }; /* indices of the registered descriptors */
enum {
    TAG_READ,
    TAG_WAKE,
    TAG_POLL,
    TAG_BATCH
}; /* low bits of user_data; TAG_BATCH: the frame id above them */
#define TAG_MASK 7u
#define TAG_SHIFT 3
enum { SQ_ENTRIES = 128, BATCH_MIN = 4 };

struct tap_reader {
    struct io_uring ring;
    bool ring_made, multishot, armed, wake_armed, starved;
    struct frame_pool *pool; /* borrowed */
    struct wakeup *wake;     /* borrowed */

    struct io_uring_buf_ring *buffers; /* multishot: as many entries as the pool has frames */
    size_t buffers_size;

    uint32_t batch; /* batched: reads to submit next time */
    int event_fd;   /* see uring_poll_fd(); -1: not wanted */
    int error;      /* negative errno that read() still has to report */
};

struct tap_writer {
    struct io_uring ring;
    bool ring_made;
    struct frame_pool *pool; /* borrowed */
};

static int ring_make(struct io_uring *ring, unsigned cq_entries, const int *fds, unsigned n_fds,
                     const uint8_t *ops, unsigned n_ops, struct failure *why)
{
    /* From the best to what Linux 5.10 has; the kernel answers EINVAL to flags it does not know. */
    static const unsigned flags[] = {
        IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG, /* 6.1 */
        IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG,                               /* 5.19 */
        0,
    };
    static const char hint[] = "use --io-backend=epoll, or see kernel.io_uring_disabled in sysctl(8)";
    struct io_uring_restriction allow[8] = {0};
    unsigned n = 0;
    int r = -EINVAL;

    for (unsigned i = 0; i < ARRAY_SIZE(flags) && r == -EINVAL; i++) {
        struct io_uring_params params = {.flags = IORING_SETUP_R_DISABLED | IORING_SETUP_CQSIZE | flags[i],
                                         .cq_entries = cq_entries};
        r = io_uring_queue_init_params(SQ_ENTRIES, ring, &params);
    }
    if (r < 0)
        return failure(why, r, hint, "cannot set up an io_uring");

    r = io_uring_register_files(ring, fds, n_fds);
    if (r < 0) {
        io_uring_queue_exit(ring);
        return failure(why, r, hint, "cannot register descriptors with io_uring");
    }
    for (; n < n_ops; n++) {
        allow[n].opcode = IORING_RESTRICTION_SQE_OP;
        allow[n].sqe_op = ops[n];
    }
    allow[n].opcode = IORING_RESTRICTION_SQE_FLAGS_ALLOWED;
    allow[n++].sqe_flags = IOSQE_FIXED_FILE | IOSQE_BUFFER_SELECT;
    allow[n].opcode = IORING_RESTRICTION_SQE_FLAGS_REQUIRED;
    allow[n++].sqe_flags = IOSQE_FIXED_FILE;
    r = io_uring_register(ring->ring_fd, IORING_REGISTER_RESTRICTIONS, allow, n);
    if (r < 0) {
        io_uring_queue_exit(ring);
        return failure(why, r, hint, "cannot restrict an io_uring to its few operations");
    }
    return 0;
}

static int ring_start(struct io_uring *ring)
{
    return io_uring_register(ring->ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
}

/* A submission entry with the registered descriptor @file; never NULL, because no batch is larger than the
 * ring. */
static struct io_uring_sqe *sqe_get(struct io_uring *ring, uint8_t op, int file, uint64_t user_data)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(ring);

    if (!sqe) /* a programming error, whatever NDEBUG says */
        abort();
    memset(sqe, 0, sizeof(*sqe));
    sqe->opcode = op;
    sqe->fd = file;
    sqe->flags = IOSQE_FIXED_FILE;
    sqe->user_data = user_data;
    return sqe;
}

static bool op_supported(struct io_uring *ring, int op)
{
    enum { N_OPS = 128 }; /* the header's own table may end before the opcode: ask with room enough */
    _Alignas(struct io_uring_probe)
        uint8_t buffer[sizeof(struct io_uring_probe) + N_OPS * sizeof(struct io_uring_probe_op)] = {0};
    struct io_uring_probe *probe = (struct io_uring_probe *)buffer;

    if (io_uring_register(ring->ring_fd, IORING_REGISTER_PROBE, probe, N_OPS) < 0)
        return false;
    return op <= probe->last_op && (probe->ops[op].flags & IO_URING_OP_SUPPORTED);
}

/* Makes the provided-buffer ring. Failing is an outcome, not an error: the batched reader needs none. */
static bool buffers_make(struct tap_reader *r)
{
    struct io_uring_buf_reg reg = {.ring_entries = r->pool->n_frames, .bgid = 0};
    void *map;

    r->buffers_size = r->pool->n_frames * sizeof(struct io_uring_buf);
    map = mmap(NULL, r->buffers_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED)
        return false;
    r->buffers = map;
    reg.ring_addr = (uintptr_t)map;
    if (io_uring_register_buf_ring(&r->ring, &reg, 0) < 0) {
        munmap(map, r->buffers_size);
        r->buffers = NULL;
        return false;
    }
    io_uring_buf_ring_init(r->buffers);
    return true;
}

static struct tap_reader *uring_reader_free(struct tap_reader *r)
{
    if (!r)
        return NULL;
    if (r->ring_made)
        io_uring_queue_exit(&r->ring); /* before the buffers: the kernel may still fill them until then */
    if (r->buffers)
        munmap(r->buffers, r->buffers_size);
    closep(&r->event_fd);
    free(r);
    return NULL;
}

static int reader_new(struct tap_reader **ret, int fd, struct frame_pool *pool, struct wakeup *wake,
                      bool try_multishot, struct failure *why)
{
    static const uint8_t ops[] = {IORING_OP_READ, IORING_OP_POLL_ADD, OP_READ_MULTISHOT};
    int fds[FILE_COUNT] = {[FILE_TAP] = fd, [FILE_WAKE] = wake->fd}, result;
    struct tap_reader *r = calloc(1, sizeof(*r));

    if (!r)
        return failure(why, -ENOMEM, NULL, "cannot allocate the TAP reader");
    *r = (struct tap_reader){.pool = pool, .wake = wake, .batch = BATCH_MIN, .event_fd = -1};
    /* An older kernel refuses to allow an opcode that it does not know. */
    result = ring_make(&r->ring, 4 * pool->n_frames, fds, FILE_COUNT, ops, ARRAY_SIZE(ops), why);
    if (result == -EINVAL)
        result = ring_make(&r->ring, 4 * pool->n_frames, fds, FILE_COUNT, ops, ARRAY_SIZE(ops) - 1, why);
    if (result < 0) {
        free(r);
        return result;
    }
    r->ring_made = true;
    r->multishot = try_multishot && op_supported(&r->ring, OP_READ_MULTISHOT) && buffers_make(r);
    *ret = r;
    return 0;
}

static int uring_reader_new(struct tap_reader **ret, int fd, struct frame_pool *pool, struct wakeup *wake,
                            struct failure *why)
{
    return reader_new(ret, fd, pool, wake, true, why);
}

static int batched_reader_new(struct tap_reader **ret, int fd, struct frame_pool *pool, struct wakeup *wake,
                              struct failure *why)
{
    return reader_new(ret, fd, pool, wake, false, why);
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

/* Offers every free frame to the kernel and keeps the multishot read armed. */
static int multishot_maintain(struct tap_reader *r)
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
        struct io_uring_sqe *sqe = sqe_get(&r->ring, OP_READ_MULTISHOT, FILE_TAP, TAG_READ);

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
    bool more = cqe->flags & IORING_CQE_F_MORE, got = false;
    frame_id id;

    switch (cqe->user_data & TAG_MASK) {
    case TAG_READ:
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
    case TAG_BATCH:
        id = cqe->user_data >> TAG_SHIFT;
        got = cqe->res > 0;
        if (got) {
            frame_set_read(r->pool, id, (uint32_t)cqe->res);
            *ret = id;
            return true;
        }
        frame_put(r->pool, &id, 1);
        if (cqe->res == 0 || tap_outcome(-cqe->res) == TAP_GONE)
            r->error = result_error(cqe->res);
        else if (tap_outcome(-cqe->res) == TAP_DROPPED)
            counter_add(COUNTER_rx_errors, 1);
        return false;
    case TAG_POLL:
        r->armed = false;
        return false;
    default: /* TAG_WAKE */
        r->wake_armed = more;
        wakeup_drain(r->wake);
        return false;
    }
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
 * enough when wait() follows, which runs all of it, not for a thread that waits for the eventfd's next edge.
 */
static bool work_pending(const struct tap_reader *r)
{
    return r->event_fd >= 0 ||
           (IO_URING_READ_ONCE(*r->ring.sq.kflags) & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW));
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

static int uring_read(struct tap_reader *r, frame_id *ids, uint32_t max)
{
    int n = fetch(r, ids, max), result;

    if (r->multishot) {
        bool was_armed = r->armed;

        if (n < 0 || (n == 0 && r->error < 0))
            return n < 0 ? n : r->error;
        result = multishot_maintain(r);
        if (n > 0 || result < 0)
            return n > 0 ? n : result;
        /* A read that finds frames, or the end, when it is armed completes at once. */
        if (!was_armed)
            n = fetch(r, ids, max);
        return n != 0 ? n : r->error;
    }

    /* Batched: while the poll request is out there is nothing to read. */
    while (n == 0 && r->error == 0 && !r->armed) {
        frame_id frames[TAP_BATCH_MAX];
        uint32_t n_reads = frame_take(r->pool, frames, min_u32(r->batch, min_u32(max, TAP_BATCH_MAX)));

        r->starved = n_reads == 0;
        if (n_reads == 0)
            return 0;
        for (uint32_t i = 0; i < n_reads; i++) {
            struct io_uring_sqe *sqe =
                sqe_get(&r->ring, IORING_OP_READ, FILE_TAP, ((uint64_t)frames[i] << TAG_SHIFT) | TAG_BATCH);

            sqe->addr = (uintptr_t)frame_start(r->pool, frames[i]);
            sqe->len = FRAME_SIZE_MAX + r->pool->header_size;
        }
        result = submit(r, n_reads);
        if (result < 0)
            return result;
        n = (int)reap_all(r, ids, max);
        if ((uint32_t)n == n_reads) {
            r->batch = min_u32(2 * r->batch, TAP_BATCH_MAX);
        } else if (r->error == 0) {
            r->batch = max_u32((uint32_t)n, BATCH_MIN);
            sqe_get(&r->ring, IORING_OP_POLL_ADD, FILE_TAP, TAG_POLL)->poll32_events = POLLIN;
            r->armed = true;
            result = submit(r, 0); /* at once: threads that wait on poll_fd() never call wait() */
            if (result < 0)
                return result;
        }
    }
    return n != 0 ? n : r->error;
}

static int uring_wait(struct tap_reader *r, int timeout_ms)
{
    frame_id id;
    int result;

    if (!r->wake_armed) {
        struct io_uring_sqe *sqe = sqe_get(&r->ring, IORING_OP_POLL_ADD, FILE_WAKE, TAG_WAKE);

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

/* The ring's own descriptor would do on paper, but with IORING_SETUP_DEFER_TASKRUN it never becomes readable
 * for a thread that sleeps in epoll_wait(2) (seen on Linux 6.18); a registered eventfd is signalled when
 * deferred work arrives. */
static int uring_poll_fd(struct tap_reader *r)
{
    int result;

    if (r->event_fd >= 0)
        return r->event_fd;
    r->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (r->event_fd < 0)
        return -errno;
    result = io_uring_register_eventfd(&r->ring, r->event_fd);
    if (result < 0) {
        closep(&r->event_fd);
        return result;
    }
    return r->event_fd;
}

static int uring_reader_start(struct tap_reader *r)
{
    return ring_start(&r->ring);
}

static struct tap_writer *uring_writer_free(struct tap_writer *w)
{
    if (!w)
        return NULL;
    if (w->ring_made)
        io_uring_queue_exit(&w->ring);
    free(w);
    return NULL;
}

static int uring_writer_new(struct tap_writer **ret, int fd, struct frame_pool *pool, struct failure *why)
{
    static const uint8_t ops[] = {IORING_OP_WRITE};
    struct tap_writer *w = calloc(1, sizeof(*w));
    int r;

    if (!w)
        return failure(why, -ENOMEM, NULL, "cannot allocate the TAP writer");
    w->pool = pool;
    r = ring_make(&w->ring, 2 * SQ_ENTRIES, &fd, 1, ops, ARRAY_SIZE(ops), why);
    if (r < 0) {
        free(w);
        return r;
    }
    w->ring_made = true;
    *ret = w;
    return 0;
}

static int uring_writer_start(struct tap_writer *w)
{
    return ring_start(&w->ring);
}

static int uring_write(struct tap_writer *w, const frame_id *ids, uint32_t n)
{
    struct io_uring_cqe *cqe;
    unsigned head, n_done = 0, n_written = 0;
    uint64_t bytes = 0;
    int error = 0;

    for (uint32_t i = 0; i < n; i++) {
        struct io_uring_sqe *sqe = sqe_get(&w->ring, IORING_OP_WRITE, FILE_TAP, i);

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

#define URING_TABLE(name_, reader_new_)                                                                     \
    {                                                                                                       \
        .name = name_, .duties = DUTY_RING, .reader_new = reader_new_, .reader_start = uring_reader_start,  \
        .read = uring_read, .wait = uring_wait, .poll_fd = uring_poll_fd, .reader_free = uring_reader_free, \
        .writer_new = uring_writer_new, .writer_start = uring_writer_start, .write = uring_write,           \
        .writer_free = uring_writer_free,                                                                   \
    }

const struct tap_io tap_io_uring = URING_TABLE("io_uring", uring_reader_new);
const struct tap_io tap_io_uring_batched = URING_TABLE("io_uring-batched", batched_reader_new);
