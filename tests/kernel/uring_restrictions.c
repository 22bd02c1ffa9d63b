/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * uring_restrictions.c - what a sealed ring refuses
 *
 * seccomp does not see what is submitted through a ring, so each ring is created disabled, given an allow
 * list (IORING_REGISTER_RESTRICTIONS, Linux 5.10) and then enabled by the thread that will use it: with
 * SINGLE_ISSUER that thread becomes the issuer. liburing 2.3's shared library exports only the bare
 * io_uring_register(). Relied on: EACCES for an opcode, a flag or a registration outside the list; the list
 * cannot be changed afterwards.
 */
#include "kernel.h"

#include <liburing.h>

static int submit(struct io_uring *ring, uint8_t opcode, uint8_t sqe_flags)
{
    struct __kernel_timespec timeout = {.tv_sec = WAIT_MS / 1000};
    struct io_uring_sqe *sqe = io_uring_get_sqe(ring);
    struct io_uring_cqe *cqe;
    int r;

    check(sqe, "the submission queue is full");
    io_uring_prep_nop(sqe);
    if (opcode == IORING_OP_OPENAT)
        io_uring_prep_openat(sqe, AT_FDCWD, "/", O_RDONLY | O_CLOEXEC, 0);
    sqe->flags |= sqe_flags;
    r = io_uring_submit(ring);
    if (r < 0)
        return r;
    r = io_uring_wait_cqe_timeout(ring, &cqe, &timeout);
    check(r == 0, "no completion for opcode %d: %s", opcode, strerror(-r));
    r = cqe->res;
    io_uring_cqe_seen(ring, cqe);
    return r;
}

int main(void)
{
    struct io_uring_restriction allowed[] = {
        {.opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = IORING_OP_NOP},
        {.opcode = IORING_RESTRICTION_SQE_FLAGS_ALLOWED, .sqe_flags = IOSQE_FIXED_FILE},
    };
    unsigned flags = IORING_SETUP_R_DISABLED | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN;
    const unsigned n_allowed = sizeof(allowed) / sizeof(allowed[0]);
    struct io_uring ring;
    int r, fds[1] = {STDIN_FILENO};

    namespace_enter();
    r = io_uring_queue_init(8, &ring, flags);
    if (r == -EINVAL)
        skip("no SINGLE_ISSUER with DEFER_TASKRUN (Linux 6.1)");
    if (r < 0)
        skip("io_uring is not allowed here: %s", strerror(-r));

    r = submit(&ring, IORING_OP_NOP, 0);
    check(r == -EBADFD, "a disabled ring takes submissions (%d)", r);
    r = io_uring_register((unsigned)ring.ring_fd, IORING_REGISTER_RESTRICTIONS, allowed, n_allowed);
    check(r == 0, "IORING_REGISTER_RESTRICTIONS: %s", strerror(-r));
    r = io_uring_register((unsigned)ring.ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
    check(r == 0, "IORING_REGISTER_ENABLE_RINGS: %s", strerror(-r));

    r = submit(&ring, IORING_OP_NOP, 0); /* the one refused above is still queued: this submits both */
    check(r == 0, "the allowed opcode gives %s", strerror(-r));
    io_uring_cq_advance(&ring, io_uring_cq_ready(&ring));

    r = submit(&ring, IORING_OP_OPENAT, 0);
    check(r == -EACCES, "openat through a restricted ring gives %d, not EACCES", r);
    r = submit(&ring, IORING_OP_NOP, IOSQE_ASYNC);
    check(r == -EACCES, "a flag outside the list gives %d, not EACCES", r);
    r = io_uring_register((unsigned)ring.ring_fd, IORING_REGISTER_FILES, fds, 1);
    check(r == -EACCES, "a registration outside the list gives %d, not EACCES", r);
    allowed[0].sqe_op = IORING_OP_OPENAT;
    r = io_uring_register((unsigned)ring.ring_fd, IORING_REGISTER_RESTRICTIONS, allowed, n_allowed);
    check(r < 0, "an enabled ring takes a second list");
    r = submit(&ring, IORING_OP_NOP, 0);
    check(r == 0, "after the refusals the allowed opcode gives %s", strerror(-r));
    io_uring_queue_exit(&ring);
    shows(
        "a restricted ring runs its listed opcode; EACCES for openat, for an unlisted flag and registration");
}
