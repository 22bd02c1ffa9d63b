/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * tap_io.h - ways to move frames between the TAP and a frame pool: io_uring and epoll
 *
 * One small table of functions, three files behind it (tap_uring.c, tap_batched.c, tap_epoll.c), chosen at
 * run time because io_uring is often forbidden (kernel.io_uring_disabled, container seccomp profiles). A
 * reader or writer is made by main before the threads start; from its first _start() on, one thread owns it.
 *
 * The descriptor may also be a SOCK_SEQPACKET or SOCK_DGRAM socket that carries bare Ethernet frames (tapfd
 * and bess modes). Reads and writes keep one frame per call; a read shorter than the frame would cut it
 * (drivers/net/tun.c), so every buffer takes FRAME_SIZE_MAX.
 */
#pragma once

#include "base/failure.h"
#include "io/frame.h"
#include "io/pcapng.h"
#include "io/wakeup.h"

#include <sys/uio.h>

struct tap_reader;
struct tap_writer;

enum { TAP_BATCH_MAX = 64 }; /* frames per call */

struct tap_io {
    const char *name; /* "io_uring" or "epoll": start-up line and statistics */
    uint32_t duties;  /* enum thread_duty: what a thread that reads or writes does beside that */

    /* main, before threads start. @fd is non-blocking and stays the caller's; it must outlive the reader.
     * @wake interrupts wait(). Returns 0; -ENOSYS, -EPERM, ...: this backend cannot be had here. */
    int (*reader_new)(struct tap_reader **ret, int fd, struct frame_pool *pool, struct wakeup *wake,
                      struct failure *why);
    /* The reading thread, once, before anything else (before seccomp seals the process). 0 or a negative
     * errno. */
    int (*reader_start)(struct tap_reader *r);
    /* The reading thread: up to @max (<= TAP_BATCH_MAX) frames into @ids, which belong to the caller then.
     * Does not block. Returns how many; 0: none now; a negative errno: the TAP or the peer is gone (-ENODEV)
     * or broken. *@ret_drained: after these there were no more; what has come since is a new edge for
     * epoll(7). */
    int (*read)(struct tap_reader *r, frame_id *ids, uint32_t max, bool *ret_drained);
    /* The reading thread: sleeps until read() may find something or @wake is notified. When the pool is empty
     * it waits for frames to come home instead, so that the TAP's own queue takes the pressure. @timeout_ms:
     * at most so long; -1: no limit. 0 or a negative errno. */
    int (*wait)(struct tap_reader *r, int timeout_ms);
    /* main, before reader_start(), if the reading thread waits for more than the TAP: a descriptor to add to
     * an epoll set, edge-triggered; after an edge the thread reads until read() returns 0 or has drained it.
     * It stays the reader's. NULL: this one has a thread of its own. */
    int (*poll_fd)(struct tap_reader *r);
    /* After the reading thread ended; NULL is fine; returns NULL. Freeing a ring (a reader_new() that failed
     * may have had one, too) ends one later sleep of the thread that made it, with EINTR and without a
     * signal: io_ring_exit_work() of the kernel sends it a task work (seen on Linux 6.18). */
    struct tap_reader *(*reader_free)(struct tap_reader *r);

    int (*writer_new)(struct tap_writer **ret, int fd, struct frame_pool *pool, struct failure *why);
    int (*writer_start)(struct tap_writer *w);
    /* The writing thread: writes @n (<= TAP_BATCH_MAX) frames in order; the frames stay the caller's. Frames
     * that the TAP refuses for a passing reason are dropped and counted. Returns 0; a negative errno: gone
     * for good. */
    int (*write)(struct tap_writer *w, const frame_id *ids, uint32_t n);
    struct tap_writer *(*writer_free)(struct tap_writer *w);
};

extern const struct tap_io tap_io_uring; /* for threads that do nothing else; Linux 6.7 */
extern const struct tap_io
    tap_io_uring_batched; /* for all; elsewhere than in Linux 6.4 it reads as epoll does */
extern const struct tap_io tap_io_epoll;

/* tap_epoll.c, for readers: as read(), by read(2), one frame per call. *@starved: there was no free frame. */
int tap_read_each(int fd, struct frame_pool *pool, frame_id *ids, uint32_t max, bool *starved,
                  bool *ret_drained);
/* As wait(), by poll(2). @starved: as the last read() found it. */
int tap_wait_readable(int fd, struct frame_pool *pool, struct wakeup *wake, bool starved, int timeout_ms);

/* What a failed read or write of the TAP means. Any thread. */
enum tap_outcome {
    TAP_AGAIN,   /* nothing now */
    TAP_DROPPED, /* this frame was refused (link down, no memory, bad length): counted, go on */
    TAP_GONE,    /* the interface was deleted, or the peer closed its end */
};
enum tap_outcome tap_outcome(int error);

/* The owner of the frames, with a capture only: copies them there. */
struct capture;
void tap_capture(struct capture *c, enum pcapng_direction direction, const struct frame_pool *pool,
                 const frame_id *ids, uint32_t n);

/* Any thread that may write now: one frame straight from @data, with nothing left to the kernel; @header_size
 * as in the pool. 0: written or dropped (counted); -EAGAIN: would block; another negative errno: gone. One
 * system call. */
int tap_write_now(int fd, uint32_t header_size, const void *data, size_t size);
/* The same in pieces; the first begins with the virtio-net header. */
int tap_write_parts(int fd, uint32_t header_size, const struct iovec *parts, int n_parts);

/* Whoever wrote a frame that the TAP does not take now (TAP_DROPPED), with its header: counts it. */
void tap_refused(const void *header, uint32_t header_size, int error);
