/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * capture.c
 *
 * The ring has many producers and one consumer. A record is a head and the data, in multiples of RECORD_UNIT
 * bytes, so that a head never crosses the ring's end (data may). A producer reserves by moving `tail` (one
 * compare-and-swap), copies, and commits by storing the record's size in its head. The consumer looks at the
 * head at `head`: 0 means that nothing is there, or that its producer is not ready yet; records leave in the
 * order in which they were reserved. Before space is given back it is zeroed, so that whatever will be a head
 * there says 0 until it is committed, however hostile the bytes were that lay there before.
 *
 * Positions are 64 bits and never wrap. Time stamps are taken when the record is made: two threads may be out
 * of order by the time of a copy, which readers of pcapng put up with.
 */
#include "io/capture.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/counters.h"
#include "base/log.h"
#include "base/thread.h"
#include "io/wakeup.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/utsname.h>

#ifndef PROJECT_VERSION
#define PROJECT_VERSION "2.0.0"
#endif

enum {
    RECORD_UNIT = 32,
    OUT_SIZE = 512 * 1024, /* of the buffer in front of the file */
    STOP_MS = 1000,        /* at the end, for a pipe that nobody reads */
    POLL_MS = 100,
    INTERFACE_TAP = 0,
    INTERFACE_REMARKS = 1,
};

enum kind { KIND_FRAME, KIND_FLOW };

struct record {
    _Atomic uint32_t committed; /* the record's size in the ring; 0: not yet */
    uint32_t size;              /* of the data */
    int64_t time_ns;            /* CLOCK_REALTIME */
    uint8_t kind, direction;
    uint8_t unused[14];
};
static_assert(sizeof(struct record) == RECORD_UNIT, "a head does not fit a unit");

struct flow_end { /* the data of KIND_FLOW */
    struct flow_info info;
    bool reset;
};

struct capture {
    uint8_t *ring;
    uint32_t ring_size; /* fixed: a power of two */
    char path[256];     /* for people */
    struct wakeup wake; /* the writer sleeps on it */
    pthread_t thread;
    bool started; /* main's */
    _Atomic bool stop;
    _Atomic bool ended; /* nothing is taken any more: the file could not be written */

    _Alignas(CACHE_LINE) _Atomic uint64_t tail; /* moved by producers */
    _Atomic uint64_t n_dropped;                 /* by producers; taken by the writer */
    _Alignas(CACHE_LINE) _Atomic uint64_t head; /* moved by the writer */

    /* The writer's. */
    int fd;
    bool is_file;
    uint64_t file_size; /* whole blocks only */
    uint64_t n_frames, n_lost;
    size_t n_out;
    uint8_t out[OUT_SIZE];
    uint8_t frame[FRAME_SIZE_MAX];
};

static int64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * NS_PER_S + now.tv_nsec;
}

/* ---- producers ---- */

static struct record *record_at(const struct capture *c, uint64_t position)
{
    return (struct record *)(void *)(c->ring + (position & (c->ring_size - 1)));
}

static void ring_write(struct capture *c, uint64_t position, const void *data, uint32_t size)
{
    uint32_t at = (uint32_t)(position & (c->ring_size - 1)), first = min_u32(size, c->ring_size - at);

    memcpy(c->ring + at, data, first);
    memcpy(c->ring, (const uint8_t *)data + first, size - first);
}

/* Room for @record_size bytes; false: there is none. */
static bool reserve(struct capture *c, uint32_t record_size, uint64_t *ret)
{
    /* Relaxed: the order of positions is all that tail is about; records publish themselves. */
    uint64_t tail = atomic_load_explicit(&c->tail, memory_order_relaxed);

    do {
        /* A2, pairs with R2 in take(): the writer has read and zeroed what it gave back. */
        uint64_t head = atomic_load_explicit(&c->head, memory_order_acquire);

        if (tail + record_size - head > c->ring_size)
            return false;
    } while (!atomic_compare_exchange_weak_explicit(&c->tail, &tail, tail + record_size, memory_order_relaxed,
                                                    memory_order_relaxed));
    *ret = tail;
    return true;
}

static void put_record(struct capture *c, enum kind kind, uint8_t direction, const void *data, uint32_t size)
{
    uint32_t record_size = (sizeof(struct record) + size + RECORD_UNIT - 1) / RECORD_UNIT * RECORD_UNIT;
    struct record *record;
    uint64_t position;

    if (atomic_load_explicit(&c->ended, memory_order_relaxed)) /* a hint */
        return;
    if (size > FRAME_SIZE_MAX || !reserve(c, record_size, &position)) {
        atomic_fetch_add_explicit(&c->n_dropped, 1, memory_order_relaxed); /* only counts */
        counter_add_shared(COUNTER_capture_drop_ring_full, 1);
        return;
    }
    record = record_at(c, position);
    record->size = size;
    record->time_ns = now_ns();
    record->kind = (uint8_t)kind;
    record->direction = direction;
    ring_write(c, position + sizeof(*record), data, size);
    /* R1, pairs with A1 in take(): the record is complete. */
    atomic_store_explicit(&record->committed, record_size, memory_order_release);
    wakeup_notify(&c->wake);
}

void capture_put_frame(struct capture *c, enum pcapng_direction direction, const void *frame, uint32_t size)
{
    put_record(c, KIND_FRAME, (uint8_t)direction, frame, size);
}

void capture_flow(struct capture *c, const struct flow_info *info, bool reset)
{
    struct flow_end end;

    memset(&end, 0, sizeof(end));
    end.info = *info;
    end.reset = reset;
    put_record(c, KIND_FLOW, info->inbound ? PCAPNG_INBOUND : PCAPNG_OUTBOUND, &end, sizeof(end));
}

/* ---- the writer: the ring ---- */

static void ring_read(struct capture *c, uint64_t position, void *data, uint32_t size)
{
    uint32_t at = (uint32_t)(position & (c->ring_size - 1)), first = min_u32(size, c->ring_size - at);

    memcpy(data, c->ring + at, first);
    memcpy((uint8_t *)data + first, c->ring, size - first);
}

static void ring_zero(struct capture *c, uint64_t position, uint32_t size)
{
    uint32_t at = (uint32_t)(position & (c->ring_size - 1)), first = min_u32(size, c->ring_size - at);

    memset(c->ring + at, 0, first);
    memset(c->ring, 0, size - first);
}

static bool is_ready(struct capture *c)
{
    uint64_t head = atomic_load_explicit(&c->head, memory_order_relaxed); /* only we write it */

    return atomic_load_explicit(&record_at(c, head)->committed, memory_order_acquire) != 0; /* A1 */
}

/* The next record in @ret, its data in c->frame. False: there is none. */
static bool take(struct capture *c, struct record *ret)
{
    uint64_t head = atomic_load_explicit(&c->head, memory_order_relaxed); /* only we write it */
    const struct record *record = record_at(c, head);
    /* A1, pairs with R1 in put_record(). */
    uint32_t record_size = atomic_load_explicit(&record->committed, memory_order_acquire);

    if (record_size == 0)
        return false;
    ret->size = record->size;
    ret->time_ns = record->time_ns;
    ret->kind = record->kind;
    ret->direction = record->direction;
    ring_read(c, head + sizeof(*record), c->frame, ret->size);
    ring_zero(c, head, record_size);
    /* R2, pairs with A2 in reserve(). */
    atomic_store_explicit(&c->head, head + record_size, memory_order_release);
    return true;
}

/* ---- the writer: remarks ---- */

enum { /* of a Wireshark upper PDU; epan/exported_pdu.h names them */
       TAG_END = 0,
       TAG_DISSECTOR = 12,
       TAG_IPV4_SRC = 20,
       TAG_IPV4_DST = 21,
       TAG_IPV6_SRC = 22,
       TAG_IPV6_DST = 23,
       TAG_PORT_TYPE = 24,
       TAG_SRC_PORT = 25,
       TAG_DST_PORT = 26,
       TAG_PROTOCOL_COLUMN = 33,
       TAG_INFO_COLUMN = 36,
       PORT_TYPE_TCP = 2,
};

static uint8_t *put_tag(uint8_t *at, uint16_t tag, const void *value, uint16_t size)
{
    uint16_t padded = (uint16_t)((size + 3u) & ~3u);

    put_u16(at, tag);
    put_u16(at + 2, padded);
    memset(at + 4, 0, padded);
    memcpy(at + 4, value, size);
    return at + 4 + padded;
}

static uint8_t *put_tag_number(uint8_t *at, uint16_t tag, uint32_t number)
{
    uint32_t be = htonl(number);

    return put_tag(at, tag, &be, sizeof(be));
}

static uint8_t *put_tag_address(uint8_t *at, bool is_source, const union address *a)
{
    if (a->sa.sa_family == AF_INET6)
        at = put_tag(at, is_source ? TAG_IPV6_SRC : TAG_IPV6_DST, &a->in6.sin6_addr, 16);
    else
        at = put_tag(at, is_source ? TAG_IPV4_SRC : TAG_IPV4_DST, &a->in.sin_addr, 4);
    return put_tag_number(at, is_source ? TAG_SRC_PORT : TAG_DST_PORT, address_port(a));
}

static const char *end_text(const union address *a, char *buffer, size_t size)
{
    char text[INET6_ADDRSTRLEN] = "";

    if (a->sa.sa_family == AF_INET6)
        snprintf(buffer, size, "[%s]:%u", inet_ntop(AF_INET6, &a->in6.sin6_addr, text, sizeof(text)),
                 address_port(a));
    else
        snprintf(buffer, size, "%s:%u", inet_ntop(AF_INET, &a->in.sin_addr, text, sizeof(text)),
                 address_port(a));
    return buffer;
}

static size_t encode_flow(struct capture *c, const struct record *record, uint8_t *out)
{
    char text[PCAPNG_TEXT_MAX], src_text[64], dst_text[64];
    const union address *src, *dst;
    uint8_t pdu[1024], *at = pdu;
    struct flow_end end;

    memcpy(&end, c->frame, sizeof(end));
    src = end.info.inbound ? &end.info.remote : &end.info.guest;
    dst = end.info.inbound ? &end.info.guest : &end.info.remote;
    snprintf(text, sizeof(text),
             "%s %s: %s -> %s, %llu bytes to the guest, %llu bytes to the host, %lld.%03lld s", end.info.tier,
             end.reset ? "reset" : "closed", end_text(src, src_text, sizeof(src_text)),
             end_text(dst, dst_text, sizeof(dst_text)), (unsigned long long)end.info.to_guest,
             (unsigned long long)end.info.to_host, (long long)(end.info.age_ns / NS_PER_S),
             (long long)(end.info.age_ns % NS_PER_S / NS_PER_MS));
    at = put_tag(at, TAG_DISSECTOR, "data-text-lines", 15);
    at = put_tag_number(at, TAG_PORT_TYPE, PORT_TYPE_TCP);
    at = put_tag_address(at, true, src);
    at = put_tag_address(at, false, dst);
    at = put_tag(at, TAG_PROTOCOL_COLUMN, "splice", 6);
    at = put_tag(at, TAG_INFO_COLUMN, text, (uint16_t)strlen(text));
    at = put_tag(at, TAG_END, "", 0);
    memcpy(at, text, strlen(text));
    at += strlen(text);
    return pcapng_packet(out, &(struct pcapng_packet){
                                  .interface = INTERFACE_REMARKS,
                                  .time_ns = record->time_ns,
                                  .data = pdu,
                                  .size = (uint32_t)(at - pdu),
                                  .direction = record->direction,
                                  .comment = text,
                              });
}

static size_t encode_frame(struct capture *c, const struct record *record, uint8_t *out)
{
    uint64_t n_dropped = atomic_exchange_explicit(&c->n_dropped, 0, memory_order_relaxed); /* only counts */

    c->n_lost += n_dropped;
    c->n_frames++;
    counter_add(COUNTER_capture_frames, 1);
    return pcapng_packet(out, &(struct pcapng_packet){
                                  .interface = INTERFACE_TAP,
                                  .time_ns = record->time_ns,
                                  .data = c->frame,
                                  .size = record->size,
                                  .direction = record->direction,
                                  .n_dropped = n_dropped,
                              });
}

/* ---- the writer: the file ---- */

/* False: the pipe's reader has not read for too long at the end. */
static bool await_writable(struct capture *c, int64_t *until_ns)
{
    struct pollfd pfd = {.fd = c->fd, .events = POLLOUT};

    (void)poll(&pfd, 1, POLL_MS);                              /* whatever it says, the next write tells */
    if (!atomic_load_explicit(&c->stop, memory_order_relaxed)) /* looked at again soon */
        return true;
    if (*until_ns == 0)
        *until_ns = clock_monotonic_ns() + STOP_MS * NS_PER_MS;
    return clock_monotonic_ns() < *until_ns;
}

/* Writes c->out. 0 or a negative errno; @ret_written says how much has gone even then. */
static int write_out(struct capture *c, size_t *ret_written)
{
    int64_t until_ns = 0;
    size_t n = 0;

    while (n < c->n_out) {
        ssize_t w = write(c->fd, c->out + n, c->n_out - n);

        *ret_written = n;
        if (w > 0)
            n += (size_t)w;
        else if (w == 0 || (errno == EAGAIN && !await_writable(c, &until_ns)))
            return -ETIMEDOUT;
        else if (errno != EAGAIN && errno != EINTR)
            return -errno;
    }
    *ret_written = n;
    return 0;
}

/* The one line about it. The file keeps its whole blocks, so that it can be read. */
static void give_up(struct capture *c, int error, size_t n_written)
{
    atomic_store_explicit(&c->ended, true, memory_order_relaxed); /* producers will see it */
    c->file_size += pcapng_whole_blocks(c->out, n_written);
    c->n_out = 0;
    if (c->is_file && ftruncate(c->fd, (off_t)c->file_size) < 0)
        c->is_file = false; /* its last packet is cut short, then: readers say so and show the rest */
    errno = -error;
    log_warning("the capture to %s has ended: %m", c->path);
}

static void flush(struct capture *c)
{
    size_t n_written = 0;
    int r;

    if (c->n_out == 0 || atomic_load_explicit(&c->ended, memory_order_relaxed)) { /* our own */
        c->n_out = 0;
        return;
    }
    r = write_out(c, &n_written);
    if (r < 0) {
        give_up(c, r, n_written);
        return;
    }
    c->file_size += c->n_out;
    c->n_out = 0;
}

void capture_write(struct capture *c)
{
    struct record record;

    while (take(c, &record)) {
        if (c->n_out + PCAPNG_BLOCK_MAX > OUT_SIZE)
            flush(c);
        c->n_out += record.kind == KIND_FLOW ? encode_flow(c, &record, c->out + c->n_out)
                                             : encode_frame(c, &record, c->out + c->n_out);
    }
    flush(c);
}

static void writer_run(void *arg)
{
    struct capture *c = arg;
    struct pollfd pfd = {.fd = c->wake.fd, .events = POLLIN};

    /* Relaxed: the wake-up that comes with a stop orders it. */
    while (!atomic_load_explicit(&c->stop, memory_order_relaxed)) {
        thread_count_turn();
        capture_write(c);
        wakeup_prepare(&c->wake);
        if (!is_ready(c) && !atomic_load_explicit(&c->stop, memory_order_relaxed)) {
            (void)poll(&pfd, 1, -1); /* EINTR: look again, that is all */
            if (pfd.revents)
                wakeup_drain(&c->wake);
        }
        wakeup_cancel(&c->wake);
    }
}

/* ---- life cycle ---- */

static int write_head(struct capture *c, const char *interface, struct failure *why)
{
    struct utsname name;
    char os[160] = "";
    size_t n_written;
    int r;

    if (uname(&name) == 0)
        snprintf(os, sizeof(os), "%.64s %.64s", name.sysname, name.release);
    c->n_out = pcapng_section(c->out, os, "slirp4netns " PROJECT_VERSION);
    c->n_out += pcapng_interface(c->out + c->n_out, PCAPNG_LINK_ETHERNET, interface,
                                 "all frames between the guest and slirp4netns");
    c->n_out += pcapng_interface(c->out + c->n_out, PCAPNG_LINK_UPPER_PDU, "splice",
                                 "summaries of connections that do not go over the interface");
    r = write_out(c, &n_written);
    if (r < 0)
        return failure(why, r, NULL, "cannot write to %s", c->path);
    c->file_size = c->n_out;
    c->n_out = 0;
    return 0;
}

static int capture_init(struct capture *c, int fd, uint32_t ring_size, const char *interface,
                        struct failure *why)
{
    struct stat st;
    void *ring;
    int r;

    c->fd = fd;
    c->wake = (struct wakeup)WAKEUP_NULL;
    r = wakeup_init(&c->wake);
    if (r < 0)
        return failure(why, r, "raise RLIMIT_NOFILE", "cannot make an eventfd");
    ring = mmap(NULL, ring_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (ring == MAP_FAILED)
        return failure(why, -errno, NULL, "cannot reserve memory for the capture");
    c->ring = ring;
    c->ring_size = ring_size;
    c->is_file = fstat(fd, &st) == 0 && S_ISREG(st.st_mode);
    return write_head(c, interface, why);
}

static int capture_make(struct capture **ret, int fd, uint32_t ring_size, const char *path,
                        const char *interface, struct failure *why)
{
    struct capture *c = aligned_alloc(CACHE_LINE, (sizeof(*c) + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE);
    int r;

    if (!c) {
        close(fd);
        return failure(why, -ENOMEM, NULL, "cannot allocate the capture");
    }
    memset(c, 0, sizeof(*c));
    snprintf(c->path, sizeof(c->path), "%s", path);
    r = capture_init(c, fd, ring_size, interface, why);
    if (r < 0) {
        capture_free(c);
        return r;
    }
    *ret = c;
    return 0;
}

int capture_new_fd(struct capture **ret, int fd, uint32_t ring_size, const char *interface,
                   struct failure *why)
{
    return capture_make(ret, fd, ring_size, "a descriptor", interface, why);
}

int capture_new(struct capture **ret, const char *path, const char *interface, struct failure *why)
{
    /* Non-blocking: neither opening nor writing a pipe waits for its reader. */
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0600);

    if (fd < 0)
        return failure(why, -errno,
                       errno == ENXIO    ? "start the program that reads this pipe first"
                       : errno == EACCES ? "choose a file in a directory that you may write to"
                                         : NULL,
                       "cannot open %s for the capture", path);
    return capture_make(ret, fd, CAPTURE_RING_SIZE, path, interface, why);
}

int capture_start(struct capture *c, struct failure *why)
{
    struct thread_start start = {.name = "pcap", .duties = DUTY_PCAP, .run = writer_run, .arg = c};
    int r = thread_spawn(&c->thread, &start);

    if (r < 0)
        return failure(why, r, "raise RLIMIT_NPROC", "cannot start the thread that writes the capture");
    c->started = true;
    return 0;
}

void capture_stop(struct capture *c)
{
    atomic_store_explicit(&c->stop, true, memory_order_relaxed); /* ordered by the eventfd */
    if (c->started) {
        wakeup_send(&c->wake);
        pthread_join(c->thread, NULL);
        c->started = false;
    }
    capture_write(c);
    if (atomic_load_explicit(&c->ended, memory_order_relaxed)) /* the thread's, which is gone */
        return;
    c->n_lost += atomic_load_explicit(&c->n_dropped, memory_order_relaxed); /* ditto */
    c->n_out = pcapng_statistics(c->out, INTERFACE_TAP, now_ns(), c->n_frames + c->n_lost, c->n_lost);
    flush(c);
}

struct capture *capture_free(struct capture *c)
{
    if (!c)
        return NULL;
    if (c->ring)
        munmap(c->ring, c->ring_size);
    wakeup_deinit(&c->wake);
    closep(&c->fd);
    free(c);
    return NULL;
}
