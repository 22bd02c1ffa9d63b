/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "io/uring.h"

#include "base/bits.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int uring_make(struct io_uring *ring, unsigned cq_entries, const int *fds, unsigned n_fds, const uint8_t *ops,
               unsigned n_ops, struct failure *why)
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
        r = io_uring_queue_init_params(URING_SQ_ENTRIES, ring, &params);
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

int uring_start(struct io_uring *ring)
{
    return io_uring_register(ring->ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
}

struct io_uring_sqe *uring_sqe(struct io_uring *ring, uint8_t op, int file, uint64_t user_data)
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

bool uring_has_op(struct io_uring *ring, int op)
{
    enum { N_OPS = 128 }; /* the header's own table may end before the opcode: ask with room enough */
    _Alignas(struct io_uring_probe)
        uint8_t buffer[sizeof(struct io_uring_probe) + N_OPS * sizeof(struct io_uring_probe_op)] = {0};
    struct io_uring_probe *probe = (struct io_uring_probe *)buffer;

    if (io_uring_register(ring->ring_fd, IORING_REGISTER_PROBE, probe, N_OPS) < 0)
        return false;
    return op <= probe->last_op && (probe->ops[op].flags & IO_URING_OP_SUPPORTED);
}
