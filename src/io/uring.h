/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * uring.h - rings of io_uring(7) that can do little, for tap_uring.c and tap_batched.c
 *
 * Rings are made disabled by main, restricted to their few opcodes on registered descriptors only, and
 * enabled by the thread that uses them: with IORING_SETUP_SINGLE_ISSUER that thread becomes the only one that
 * may. seccomp does not see what is submitted through a ring, so the restriction is what makes a ring safe to
 * keep under --enable-seccomp. liburing 2.3 has no call for some of this: io_uring_register() and the
 * kernel's numbers are used directly.
 */
#pragma once

#include "base/failure.h"
#include "io/tap_io.h"

#include <liburing.h>
#include <stdbool.h>
#include <stdint.h>

enum { URING_SQ_ENTRIES = 128 };

/* main. A ring for the operations @ops on the descriptors @fds, which it knows by their places. 0, or a
 * negative errno with its sentence, when nothing is left of it; -EINVAL also for an opcode that the kernel
 * does not know. */
int uring_make(struct io_uring *ring, unsigned cq_entries, const int *fds, unsigned n_fds, const uint8_t *ops,
               unsigned n_ops, struct failure *why);
/* The thread that will use it, before anything else. 0 or a negative errno. */
int uring_start(struct io_uring *ring);
/* That thread: a submission entry with the registered descriptor @file; never NULL, because no batch is
 * larger than the ring. */
struct io_uring_sqe *uring_sqe(struct io_uring *ring, uint8_t op, int file, uint64_t user_data);
/* main: does the kernel know @op? */
bool uring_has_op(struct io_uring *ring, int op);

/* tap_uring.c: the writer of tap_io.h, which both tables have. */
int uring_writer_new(struct tap_writer **ret, int fd, struct frame_pool *pool, struct failure *why);
int uring_writer_start(struct tap_writer *w);
int uring_write(struct tap_writer *w, const frame_id *ids, uint32_t n);
struct tap_writer *uring_writer_free(struct tap_writer *w);
