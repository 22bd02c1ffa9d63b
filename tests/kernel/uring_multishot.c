/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * uring_multishot.c - one armed read takes every frame out of a TAP
 *
 * IORING_OP_READ_MULTISHOT (Linux 6.7) with a provided-buffer ring: each completion is one whole frame in one
 * buffer. The ring is SINGLE_ISSUER and DEFER_TASKRUN, so completions appear when its thread asks for them.
 * Relied on: no frame is lost or cut, also when buffers run out (-ENOBUFS, the read ends, frames wait in the
 * TAP's queue).
 */
#include "kernel.h"

#include <liburing.h>
#include <sys/mman.h>

enum { OP_READ_MULTISHOT = 49 }; /* newer than the headers */
enum { N_BUFFERS = 16, BUFFER_SIZE = 2048, BURST = 24, N_BURSTS = 40, PORT = 7777 };
enum { HEADERS = 10 /* virtio_net_hdr */ + 14 + 20 + 8 };

struct reader {
    struct io_uring ring;
    struct io_uring_buf_ring *buffers;
    uint8_t (*space)[BUFFER_SIZE];
    int tap;
    bool armed;
    uint32_t n_frames, n_armed; /* frames with our datagrams so far: also the number the next one must have */
};

static size_t datagram_size(uint32_t number)
{
    return sizeof(number) + number * 37 % 1400;
}

static void datagram_send(int fd, uint32_t number)
{
    char datagram[1500] = "";

    memcpy(datagram, &number, sizeof(number));
    must(send(fd, datagram, datagram_size(number), 0));
}

static void buffer_give(struct reader *r, uint16_t id)
{
    io_uring_buf_ring_add(r->buffers, r->space[id], BUFFER_SIZE, id, io_uring_buf_ring_mask(N_BUFFERS), 0);
    io_uring_buf_ring_advance(r->buffers, 1);
}

static void *pages(size_t size)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_ANONYMOUS | MAP_PRIVATE, -1, 0);

    check(p != MAP_FAILED, "mmap: %s", strerror(errno));
    return p;
}

static void reader_make(struct reader *r, int tap)
{
    int result = io_uring_queue_init(64, &r->ring, IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN);
    struct io_uring_buf_reg registration = {.ring_entries = N_BUFFERS};
    struct io_uring_probe *probe;

    if (result == -EINVAL)
        skip("no SINGLE_ISSUER with DEFER_TASKRUN (Linux 6.1)");
    if (result < 0)
        skip("io_uring is not allowed here: %s", strerror(-result));
    probe = io_uring_get_probe_ring(&r->ring);
    if (!probe || !io_uring_opcode_supported(probe, OP_READ_MULTISHOT))
        skip("no IORING_OP_READ_MULTISHOT (Linux 6.7)");
    io_uring_free_probe(probe);

    r->tap = tap;
    r->space = pages((size_t)N_BUFFERS * BUFFER_SIZE);
    r->buffers = pages(N_BUFFERS * sizeof(struct io_uring_buf));
    registration.ring_addr = (uint64_t)(uintptr_t)r->buffers;
    result = io_uring_register_buf_ring(&r->ring, &registration, 0);
    check(result == 0, "cannot register a buffer ring: %s", strerror(-result));
    io_uring_buf_ring_init(r->buffers);
    for (unsigned i = 0; i < N_BUFFERS; i++)
        buffer_give(r, (uint16_t)i);
}

static void arm(struct reader *r)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&r->ring);

    check(sqe, "the submission queue is full");
    io_uring_prep_rw(OP_READ_MULTISHOT, sqe, r->tap, NULL, 0, 0);
    sqe->flags |= IOSQE_BUFFER_SELECT;
    check(io_uring_submit(&r->ring) == 1, "cannot submit the read");
    r->armed = true;
    r->n_armed++;
}

static void completion(struct reader *r, const struct io_uring_cqe *cqe)
{
    uint16_t id = (uint16_t)(cqe->flags >> IORING_CQE_BUFFER_SHIFT);
    uint32_t number;

    if (!(cqe->flags & IORING_CQE_F_MORE))
        r->armed = false;
    if (cqe->res == -ENOBUFS)
        return;
    check(cqe->res > 0, "the multishot read gives %s", strerror(-cqe->res));
    check(cqe->flags & IORING_CQE_F_BUFFER && id < N_BUFFERS, "a frame without a buffer");
    /* What else comes out of the TAP, IPv6 saying hello, is not ours to count. */
    if (cqe->res > HEADERS && r->space[id][10 + 14 + 9] == IPPROTO_UDP && r->space[id][22] == 0x08 &&
        (r->space[id][46] << 8 | r->space[id][47]) == PORT) {
        memcpy(&number, r->space[id] + HEADERS, sizeof(number));
        check(number == r->n_frames, "frame %u is missing: %u came", r->n_frames, number);
        check((size_t)cqe->res == HEADERS + datagram_size(number), "frame %u has %d bytes", number, cqe->res);
        r->n_frames++;
    }
    buffer_give(r, id);
}

/* Handles what has completed, without a wait. */
static void reap(struct reader *r)
{
    struct io_uring_cqe *cqe;

    io_uring_get_events(&r->ring); /* DEFER_TASKRUN: nothing completes before the thread asks */
    while (io_uring_peek_cqe(&r->ring, &cqe) == 0) {
        completion(r, cqe);
        io_uring_cqe_seen(&r->ring, cqe);
    }
    if (!r->armed)
        arm(r);
}

int main(void)
{
    static struct reader r;
    union address server = address_of(AF_INET, "10.0.2.2", PORT);
    struct __kernel_timespec second = {.tv_sec = 1};
    int fd;
    uint32_t number = 0;

    namespace_enter();
    reader_make(&r, tap_make("tap0"));
    address_add("tap0", AF_INET, "10.0.2.100", 24);
    fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    must(fd);
    must(connect(fd, &server.any, sizeof(server.v4)));

    arm(&r);
    for (int burst = 0; burst < N_BURSTS; burst++) { /* each more than there are buffers */
        int64_t deadline = now_ms() + WAIT_MS;

        for (int i = 0; i < BURST; i++)
            datagram_send(fd, number++);
        while (r.n_frames < number) {
            struct io_uring_cqe *cqe;

            check(now_ms() < deadline, "%u of %u frames at the deadline", r.n_frames, number);
            io_uring_wait_cqe_timeout(&r.ring, &cqe, &second);
            reap(&r);
        }
    }
    check(r.n_armed > 1, "%d buffers took bursts of %d frames: the buffer ring is not honoured", N_BUFFERS,
          BURST);

    io_uring_queue_exit(&r.ring);
    shows("READ_MULTISHOT with DEFER_TASKRUN: %u frames, all whole and in order, %u times armed", r.n_frames,
          r.n_armed);
}
