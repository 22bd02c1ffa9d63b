/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * uring_nowait.c - a batch of reads takes what is in a TAP, and does not wait for more
 *
 * Relied on: of a batch of reads with RWF_NOWAIT, submitted together, as many complete with a whole frame as
 * there are, in order, and the others with EAGAIN, all before io_uring_enter(2) returns; what comes after
 * that EAGAIN is a new edge for epoll(7). Without RWF_NOWAIT the others would wait in the kernel, although
 * the descriptor is non-blocking: not relied on either way; the output says how it is. Kernels whose TAP
 * cannot (before 6.4) answer EOPNOTSUPP.
 */
#include "kernel.h"

#include <liburing.h>
#include <sys/epoll.h>

#ifndef RWF_NOWAIT
#define RWF_NOWAIT 0x00000008
#endif

enum { N_READS = 8, N_FRAMES = 3, BUFFER_SIZE = 2048, N_ROUNDS = 100, PORT = 7777 };
enum { HEADERS = 10 /* virtio_net_hdr */ + 14 + 20 + 8 };

static struct io_uring ring;
static uint8_t buffers[N_READS][BUFFER_SIZE];

static void submit_reads(int tap, int flags)
{
    for (uint64_t i = 0; i < N_READS; i++) {
        struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);

        check(sqe, "no room in the ring");
        io_uring_prep_read(sqe, tap, buffers[i], BUFFER_SIZE, 0);
        sqe->rw_flags = flags;
        sqe->user_data = i;
    }
}

static void send_datagrams(int fd, int n)
{
    static const uint8_t bytes[100];

    for (int i = 0; i < n; i++)
        must(send(fd, bytes, (size_t)(10 + i), 0));
}

/* How many reads have completed, having looked at each: the first @n with frames, the others with EAGAIN. */
static unsigned reap(int n)
{
    struct io_uring_cqe *cqe;
    unsigned head, seen = 0;

    io_uring_for_each_cqe(&ring, head, cqe)
    {
        int i = (int)cqe->user_data, wanted = i < n ? HEADERS + 10 + i : -EAGAIN;

        if (cqe->res == -EOPNOTSUPP)
            skip("this TAP knows no RWF_NOWAIT (Linux 6.4)");
        check(cqe->res == wanted, "read %d of %d, with %d frames there: %d instead of %d", i, N_READS, n,
              cqe->res, wanted);
        seen++;
    }
    io_uring_cq_advance(&ring, seen);
    return seen;
}

int main(void)
{
    union address server = address_of(AF_INET, "10.0.2.2", PORT);
    struct epoll_event event = {.events = EPOLLIN | EPOLLET};
    struct io_uring_params params = {.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN};
    int tap, fd, epoll_fd, result;

    namespace_enter();
    result = io_uring_queue_init_params(2 * N_READS, &ring, &params);
    if (result < 0)
        skip("no io_uring with DEFER_TASKRUN: %s", strerror(-result));
    /* It would say hello; ENOENT: it is not there anyway. */
    (void)file_write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
    tap = tap_make("tap0");
    address_add("tap0", AF_INET, "10.0.2.100", 24);
    fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    must(fd);
    must(connect(fd, &server.any, sizeof(server.v4)));
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    must(epoll_fd);
    must(epoll_ctl(epoll_fd, EPOLL_CTL_ADD, tap, &event));

    for (int round = 0; round < N_ROUNDS; round++) {
        int n = round % (N_FRAMES + 1);

        send_datagrams(fd, n);
        check(epoll_wait(epoll_fd, &event, 1, n > 0 ? WAIT_MS : 0) == (n > 0),
              "no edge for %d frames, or one for none", n);
        submit_reads(tap, RWF_NOWAIT);
        result = io_uring_submit_and_wait(&ring, N_READS);
        check(result == N_READS, "a batch: %d", result);
        result = (int)reap(n);
        check(result == N_READS, "only %d of %d reads have completed", result, N_READS);
    }

    send_datagrams(fd, N_FRAMES);
    submit_reads(tap, 0);
    check(io_uring_submit_and_wait(&ring, N_FRAMES) == N_READS, "a batch that may wait");
    result = (int)io_uring_cq_ready(&ring);
    io_uring_queue_exit(&ring);
    shows("a batch of reads with RWF_NOWAIT takes what there is and completes (without, %d of %d reads had, "
          "with %d frames there)",
          result, N_READS, N_FRAMES);
}
