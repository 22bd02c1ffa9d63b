/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * capture.h - --pcap: what goes over the TAP, to a pcapng file
 *
 * Threads of the data plane copy frames into a ring and go on; the thread "pcap" takes them out and writes. A
 * full ring drops (counted, and noted in the file); a file that cannot be written ends the capture with one
 * line in the log. Nobody ever waits for the disk.
 *
 * Direction is the guest's interface's: what the guest sends is outbound. Interface 0 of the file is the TAP;
 * interface 1 carries remarks: spliced connections do not go over the TAP, so each leaves a summary when it
 * ends (capture_flow()).
 *
 * Owner: main, which makes, starts, stops and frees it. A struct capture pointer that is NULL means: no
 * capture.
 */
#pragma once

#include "base/failure.h"
#include "io/flow_info.h"
#include "io/pcapng.h"

#include <stdbool.h>
#include <stdint.h>

struct capture;

enum { CAPTURE_RING_SIZE = 32 << 20 }; /* bytes, of memory that is used only when it fills */

/* main, before the sandbox: makes the file (mode 0600; what it held is gone) and writes its head. @path may
 * be a FIFO that somebody reads. @interface: the TAP's name. 0 or a negative errno with its sentence. */
int capture_new(struct capture **ret, const char *path, const char *interface, struct failure *why);
int capture_start(struct capture *c, struct failure *why);
/* main, when nobody puts anything in any more: writes what is there, for CAPTURE_STOP_MS at most if the file
 * is a pipe whose reader is slow. */
void capture_stop(struct capture *c);
struct capture *capture_free(struct capture *c); /* NULL is fine; returns NULL */

/* Any thread; use the two below. */
void capture_put_frame(struct capture *c, enum pcapng_direction direction, const void *frame, uint32_t size);

/* Any thread: an Ethernet frame that crosses the TAP. It is copied. */
static inline void capture_frame(struct capture *c, enum pcapng_direction direction, const void *frame,
                                 uint32_t size)
{
    if (__builtin_expect(c != NULL, 0))
        capture_put_frame(c, direction, frame, size);
}

/* Any thread, with a capture only: a spliced connection has ended. */
void capture_flow(struct capture *c, const struct flow_info *info, bool reset);

/* For tests: a capture without a thread, into a descriptor that becomes its own. @ring_size: a power of two.
 * capture_write() does what the thread does until the ring is empty. */
int capture_new_fd(struct capture **ret, int fd, uint32_t ring_size, const char *interface,
                   struct failure *why);
void capture_write(struct capture *c);
