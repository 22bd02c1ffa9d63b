/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * micro_tap.c - the ways to read and write a TAP: frames per second, system calls per frame
 *
 * Usage: micro-tap SECONDS
 *
 * In a network namespace of its own, with CAP_NET_ADMIN and CAP_NET_RAW. The program's own backends
 * (io/tap_io.h) read what a packet socket sends into the interface as fast as it can, from another thread,
 * and write frames of a protocol that nobody in the namespace speaks. Further rows do a batch of plain
 * io_uring operations, with and without registered descriptors and buffers, to show what each is worth.
 *
 * Says one figure a line, as JSON: {"name": ..., "value": ..., "unit": ...}. Without io_uring its rows are
 * missing, with a line on standard error.
 */
#include "base/bits.h"
#include "base/clock.h"
#include "base/counters.h"
#include "io/tap_io.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    MTU = 65520,
    FRAMES = 256, /* as the program's rx pool */
    SEND_BATCH = 16,
    WAIT_MS = 100,
    FIRST_MS = 5000, /* for one frame */
    RING_ENTRIES = 128,
    PROTOCOL = 0x88b5, /* IEEE 802: for experiments, nobody answers */
};

static const uint32_t sizes[] = {64, 1500, 65520};
static int64_t duration_ns;
static int tap_fd, packet_fd;

__attribute__((noreturn)) static void die(const char *what)
{
    perror(what);
    exit(1);
}

__attribute__((noreturn)) static void die_of(const char *what, int error, const struct failure *why)
{
    char text[FAILURE_TEXT_SIZE];

    fprintf(stderr, "%s: %s (%s)\n", what, strerror(-error), failure_text(why, text, sizeof(text)));
    exit(1);
}

static void say(const char *way, const char *how, uint32_t size, uint64_t n_frames, uint64_t n_calls,
                int64_t ns)
{
    if (n_frames == 0) {
        fprintf(stderr, "%s, %s, %u B: not one frame\n", way, how, size);
        exit(1);
    }
    printf("{\"name\": \"%s, %s, %u B: speed\", \"value\": %.0f, \"unit\": \"frames/s\"}\n", way, how, size,
           (double)n_frames * (double)NS_PER_S / (double)ns);
    printf("{\"name\": \"%s, %s, %u B: calls\", \"value\": %.4f, \"unit\": \"calls/frame\"}\n", way, how,
           size, (double)n_calls / (double)n_frames);
}

/* On a busy machine the other thread may not have had the processor once in a short duration. */
static bool goes_on(int64_t ns, uint64_t n_frames)
{
    return ns < duration_ns || (n_frames == 0 && ns < FIRST_MS * NS_PER_MS);
}

/* ---- the interface, and who sends into it ---- */

static void open_tap(void)
{
    struct ifreq ifr = {.ifr_name = "tap0", .ifr_flags = IFF_TAP | IFF_NO_PI};
    struct sockaddr_ll to = {.sll_family = AF_PACKET, .sll_protocol = htons(PROTOCOL)};
    int one = 1;

    tap_fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
    packet_fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
    if (tap_fd < 0 || packet_fd < 0 || ioctl(tap_fd, TUNSETIFF, &ifr) < 0)
        die("a TAP and a packet socket");
    ifr.ifr_mtu = MTU;
    if (ioctl(packet_fd, SIOCSIFMTU, &ifr) < 0)
        die("ioctl(SIOCSIFMTU)");
    ifr.ifr_flags = IFF_UP | IFF_NOARP;
    if (ioctl(packet_fd, SIOCSIFFLAGS, &ifr) < 0 || ioctl(packet_fd, SIOCGIFINDEX, &ifr) < 0)
        die("tap0 up");
    to.sll_ifindex = ifr.ifr_ifindex;
    if (bind(packet_fd, (struct sockaddr *)&to, sizeof(to)) < 0 ||
        setsockopt(packet_fd, SOL_PACKET, PACKET_QDISC_BYPASS, &one, sizeof(one)) < 0)
        die("a packet socket on tap0");
}

static void make_frame(uint8_t *frame, uint32_t size)
{
    memset(frame, 0, size);
    memset(frame, 0xff, 6);
    frame[6] = 2;
    put_u16(frame + 12, PROTOCOL);
}

struct sender {
    uint32_t size;
    atomic_bool over; /* relaxed: a flag, with nothing behind it */
    pthread_t thread;
};

static void *sender_run(void *arg)
{
    struct sender *s = arg;
    uint8_t *frame = malloc(FRAME_SIZE_MAX);
    struct iovec part = {.iov_base = frame, .iov_len = s->size};
    struct mmsghdr messages[SEND_BATCH] = {0};

    if (!frame)
        die("malloc");
    make_frame(frame, s->size);
    for (int i = 0; i < SEND_BATCH; i++)
        messages[i].msg_hdr = (struct msghdr){.msg_iov = &part, .msg_iovlen = 1};
    while (!atomic_load_explicit(&s->over, memory_order_relaxed)) {
        if (sendmmsg(packet_fd, messages, SEND_BATCH, 0) < 0 &&
            errno != ENOBUFS) /* the TAP's queue is full */
            die("sendmmsg");
    }
    free(frame);
    return NULL;
}

static void sender_start(struct sender *s, uint32_t size)
{
    *s = (struct sender){.size = size};
    if (pthread_create(&s->thread, NULL, sender_run, s) != 0)
        die("pthread_create");
}

static void sender_stop(struct sender *s)
{
    static uint8_t rest[FRAME_SIZE_MAX];

    atomic_store_explicit(&s->over, true, memory_order_relaxed);
    pthread_join(s->thread, NULL);
    while (read(tap_fd, rest, sizeof(rest)) > 0) { /* for the next measurement the queue is empty */
    }
}

/* ---- the program's backends ---- */

static const char *name_of(const struct tap_io *io)
{
    return io == &tap_io_uring           ? "io_uring, multishot"
           : io == &tap_io_uring_batched ? "io_uring, batched"
                                         : io->name;
}

/* False: this backend cannot be had here. */
static bool measure_read(const struct tap_io *io, uint32_t size)
{
    struct frame_pool pool;
    struct wakeup wake = WAKEUP_NULL;
    struct tap_reader *reader;
    struct failure why = FAILURE_NULL;
    frame_id ids[TAP_BATCH_MAX];
    struct sender sender;
    uint64_t n_frames, n_calls;
    int64_t start_ns, now_ns;
    bool drained = false;
    int r;

    if (frame_pool_init(&pool, FRAMES) < 0 || wakeup_init(&wake) < 0)
        die("buffers");
    r = io->reader_new(&reader, tap_fd, &pool, &wake, &why);
    if (r >= 0) {
        sender_start(&sender, size);
        if ((r = io->reader_start(reader)) < 0)
            die_of(name_of(io), r, &why);
        n_frames = counter_read(COUNTER_rx_frames);
        n_calls = counter_read(COUNTER_rx_syscalls);
        start_ns = clock_monotonic_ns();
        do {
            r = drained ? 0 : io->read(reader, ids, TAP_BATCH_MAX, &drained);
            if (r > 0) {
                frame_put(&pool, ids, (uint32_t)r);
            } else if (r == 0) {
                drained = false;
                r = io->wait(reader, -1);
            }
            if (r < 0)
                die_of(name_of(io), r, &why);
            now_ns = clock_monotonic_ns();
        } while (goes_on(now_ns - start_ns, counter_read(COUNTER_rx_frames) - n_frames));
        n_frames = counter_read(COUNTER_rx_frames) - n_frames;
        n_calls = counter_read(COUNTER_rx_syscalls) - n_calls;
        io->reader_free(reader);
        sender_stop(&sender);
        say("read", name_of(io), size, n_frames, n_calls, now_ns - start_ns);
        r = 0;
    }
    frame_pool_deinit(&pool);
    wakeup_deinit(&wake);
    return r == 0;
}

static bool measure_write(const struct tap_io *io, uint32_t size, uint32_t batch)
{
    struct frame_pool pool;
    struct tap_writer *writer;
    struct failure why = FAILURE_NULL;
    frame_id ids[TAP_BATCH_MAX];
    uint64_t n_frames, n_calls;
    int64_t start_ns, now_ns;
    char how[64];
    int r;

    if (frame_pool_init(&pool, TAP_BATCH_MAX) < 0 || frame_take(&pool, ids, batch) != batch)
        die("buffers");
    for (uint32_t i = 0; i < batch; i++) {
        make_frame(frame_data(&pool, ids[i]), size);
        pool.size[ids[i]] = size;
    }
    r = io->writer_new(&writer, tap_fd, &pool, &why);
    if (r >= 0) {
        if ((r = io->writer_start(writer)) < 0)
            die_of(name_of(io), r, &why);
        n_frames = counter_read(COUNTER_tx_frames);
        n_calls = counter_read(COUNTER_tx_syscalls);
        start_ns = clock_monotonic_ns();
        do {
            r = io->write(writer, ids, batch);
            if (r < 0)
                die_of(name_of(io), r, &why);
            now_ns = clock_monotonic_ns();
        } while (now_ns - start_ns < duration_ns);
        io->writer_free(writer);
        snprintf(how, sizeof(how), "%s, %u at a time", io->name, batch);
        say("write", how, size, counter_read(COUNTER_tx_frames) - n_frames,
            counter_read(COUNTER_tx_syscalls) - n_calls, now_ns - start_ns);
    }
    frame_pool_deinit(&pool);
    return r >= 0;
}

/* ---- what registering is worth ---- */

/* One batch of reads or writes; returns how many brought or took a frame. */
static uint32_t operate(struct io_uring *ring, struct iovec *parts, bool reads, bool file, bool fixed)
{
    struct io_uring_cqe *cqe;
    unsigned head, n_seen = 0, n_good = 0;

    for (unsigned i = 0; i < TAP_BATCH_MAX; i++) {
        struct io_uring_sqe *sqe = io_uring_get_sqe(ring);
        int op = reads ? (fixed ? IORING_OP_READ_FIXED : IORING_OP_READ)
                       : (fixed ? IORING_OP_WRITE_FIXED : IORING_OP_WRITE);

        if (!sqe) {
            fputs("io_uring: a batch does not fit the ring\n", stderr);
            exit(1);
        }
        io_uring_prep_rw(op, sqe, file ? 0 : tap_fd, parts[i].iov_base, (unsigned)parts[i].iov_len, 0);
        sqe->flags = file ? IOSQE_FIXED_FILE : 0;
        sqe->buf_index = fixed ? (uint16_t)i : 0;
    }
    if (io_uring_submit_and_wait(ring, TAP_BATCH_MAX) < 0)
        die("io_uring_submit_and_wait");
    io_uring_for_each_cqe(ring, head, cqe)
    {
        n_seen++;
        n_good += cqe->res > 0;
        if (cqe->res < 0 && cqe->res != -EAGAIN) {
            errno = -cqe->res;
            die("an operation of io_uring");
        }
    }
    io_uring_cq_advance(ring, n_seen);
    return n_good;
}

static bool measure_plain(bool reads, bool file, bool fixed, uint32_t size)
{
    struct iovec parts[TAP_BATCH_MAX];
    struct frame_pool pool;
    struct io_uring ring;
    struct sender sender;
    frame_id ids[TAP_BATCH_MAX];
    uint64_t n_frames = 0, n_calls = 0;
    int64_t start_ns, now_ns;
    char how[96];

    if (io_uring_queue_init(RING_ENTRIES, &ring, IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN) <
            0 &&
        io_uring_queue_init(RING_ENTRIES, &ring, 0) < 0)
        return false;
    if (frame_pool_init(&pool, TAP_BATCH_MAX) < 0 || frame_take(&pool, ids, TAP_BATCH_MAX) != TAP_BATCH_MAX)
        die("buffers");
    for (uint32_t i = 0; i < TAP_BATCH_MAX; i++) {
        parts[i].iov_base = frame_data(&pool, ids[i]);
        parts[i].iov_len = reads ? FRAME_SIZE_MAX : size;
        make_frame(parts[i].iov_base, size);
    }
    if (io_uring_register_files(&ring, &tap_fd, 1) < 0 ||
        (fixed && io_uring_register_buffers(&ring, parts, TAP_BATCH_MAX) < 0)) {
        fprintf(stderr, "registered buffers: %s (RLIMIT_MEMLOCK?): left out\n", strerror(errno));
    } else {
        if (reads)
            sender_start(&sender, size);
        start_ns = clock_monotonic_ns();
        do {
            uint32_t n = operate(&ring, parts, reads, file, fixed);

            n_frames += n;
            n_calls++;
            if (n == 0) {
                struct pollfd pfd = {.fd = tap_fd, .events = POLLIN};

                (void)poll(&pfd, 1, WAIT_MS);
                n_calls++;
            }
            now_ns = clock_monotonic_ns();
        } while (goes_on(now_ns - start_ns, n_frames));
        if (reads)
            sender_stop(&sender);
        snprintf(how, sizeof(how), "64 plain operations, %s descriptor, %s buffers",
                 file ? "registered" : "plain", fixed ? "registered" : "plain");
        say(reads ? "read" : "write", how, size, n_frames, n_calls, now_ns - start_ns);
    }
    io_uring_queue_exit(&ring);
    frame_pool_deinit(&pool);
    return true;
}

int main(int argc, char **argv)
{
    static const struct tap_io *const backends[] = {&tap_io_uring, &tap_io_uring_batched, &tap_io_epoll};
    char *end = NULL;
    double seconds = argc == 2 ? strtod(argv[1], &end) : 0;

    if (argc != 2 || end == argv[1] || *end != '\0' || !(seconds >= 0.01 && seconds <= 60)) {
        fputs("Usage: micro-tap SECONDS\n", stderr);
        return 2;
    }
    duration_ns = (int64_t)(seconds * (double)NS_PER_S);
    open_tap();
    for (unsigned s = 0; s < ARRAY_SIZE(sizes); s++) {
        for (unsigned b = 0; b < ARRAY_SIZE(backends); b++) {
            bool can = measure_read(backends[b], sizes[s]);

            for (uint32_t batch = 1; can && backends[b] != &tap_io_uring_batched && batch <= TAP_BATCH_MAX;
                 batch *= 8)
                can = measure_write(backends[b], sizes[s], batch);
            if (!can)
                fprintf(stderr, "%s cannot be had here: left out\n", name_of(backends[b]));
        }
        for (unsigned i = 0; i < 8; i++) {
            if (!measure_plain(i & 4, i & 2, i & 1, sizes[s])) {
                fputs("io_uring cannot be had here: left out\n", stderr);
                break;
            }
        }
    }
    return 0;
}
