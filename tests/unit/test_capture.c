/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "io/capture.h"

#include "base/counters.h"
#include "base/log.h"
#include "test.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

enum { RING = 1 << 16, FILE_MAX = 8 << 20 };

/* ---- a reader of its own ---- */

struct file {
    uint8_t *bytes;
    size_t size, at;
};

struct block {
    uint32_t type;
    const uint8_t *body; /* behind type and size */
    uint32_t size;       /* of the body */
};

static uint32_t u32_at(const uint8_t *p)
{
    uint32_t v;

    memcpy(&v, p, sizeof(v));
    return v;
}

static struct file read_file(int fd)
{
    struct file f = {.bytes = malloc(FILE_MAX)};
    ssize_t n = pread(fd, f.bytes, FILE_MAX, 0);

    assert_true(n >= 0 && n < FILE_MAX);
    f.size = (size_t)n;
    return f;
}

/* False: the end. A block that is not whole fails the test. */
static bool next_block(struct file *f, struct block *ret)
{
    uint32_t size;

    *ret = (struct block){.body = f->bytes}; /* for those who do not look whether there is one */
    if (f->at == f->size)
        return false;
    assert_true(f->size - f->at >= 12);
    size = u32_at(f->bytes + f->at + 4);
    assert_int_equal(size % 4, 0);
    assert_in_range(size, 12, f->size - f->at);
    assert_int_equal(u32_at(f->bytes + f->at + size - 4), size);
    *ret = (struct block){u32_at(f->bytes + f->at), f->bytes + f->at + 8, size - 12};
    f->at += size;
    return true;
}

/* The option @code of those from @at on in a block's body; NULL: there is none. */
static const uint8_t *option(const struct block *b, size_t at, uint16_t code, uint16_t *ret_size)
{
    *ret_size = 0;
    while (at < b->size) {
        uint16_t found = (uint16_t)(u32_at(b->body + at) & 0xffff);

        *ret_size = (uint16_t)(u32_at(b->body + at) >> 16);
        assert_true(at + 4 + *ret_size <= b->size);
        if (found == code)
            return b->body + at + 4;
        if (found == 0)
            return NULL;
        at += 4 + (*ret_size + 3u) / 4 * 4;
    }
    fail_msg("the options do not end");
    return NULL;
}

static int open_file(void)
{
    int fd = memfd_create("capture", MFD_CLOEXEC);

    assert_true(fd >= 0);
    return fd;
}

/* The capture's descriptor is a second one of the same file. */
static struct capture *begin(int fd, uint32_t ring_size)
{
    struct capture *c = NULL;
    struct failure why = FAILURE_NULL;

    assert_int_equal(capture_new_fd(&c, dup(fd), ring_size, "tap0", &why), 0);
    return c;
}

static void skip_head(struct file *f)
{
    struct block b;
    uint16_t size;

    assert_true(next_block(f, &b));
    assert_int_equal(b.type, 0x0a0d0d0a);
    assert_int_equal(u32_at(b.body), 0x1a2b3c4d);
    assert_non_null(option(&b, 16, 3, &size));
    assert_true(next_block(f, &b));
    assert_int_equal(b.type, 1);
    assert_int_equal(u32_at(b.body) & 0xffff, 1);
    assert_memory_equal(option(&b, 8, 2, &size), "tap0", 4);
    assert_int_equal(*option(&b, 8, 9, &size), 9);
    assert_true(next_block(f, &b));
    assert_int_equal(b.type, 1);
    assert_int_equal(u32_at(b.body) & 0xffff, 252);
}

/* ---- tests ---- */

static void fill(uint8_t *frame, uint32_t size, uint32_t number)
{
    for (uint32_t i = 0; i < size; i++)
        frame[i] = (uint8_t)(number * 31 + i);
    if (size >= 4)
        memcpy(frame, &number, 4);
}

static void test_frames_come_out_as_they_went_in(void **state)
{
    static const uint32_t sizes[] = {0, 1, 3, 4, 14, 60, 1514, 4095, 33, 32, 31, 20000, FRAME_SIZE_MAX, 5};
    static uint8_t frame[FRAME_SIZE_MAX];
    int fd = open_file();
    struct capture *c = begin(fd, 1 << 18);
    struct file f;
    struct block b;
    uint64_t before_ns = 0;

    (void)state;
    for (unsigned round = 0; round < 20; round++) { /* the ring wraps */
        for (uint32_t i = 0; i < ARRAY_SIZE(sizes); i++) {
            fill(frame, sizes[i], i);
            capture_frame(c, i % 2 ? PCAPNG_INBOUND : PCAPNG_OUTBOUND, frame, sizes[i]);
        }
        capture_write(c);
    }
    capture_stop(c);
    f = read_file(fd);
    skip_head(&f);
    for (unsigned round = 0; round < 20; round++) {
        for (uint32_t i = 0; i < ARRAY_SIZE(sizes); i++) {
            uint64_t time_ns;
            uint16_t size;

            assert_true(next_block(&f, &b));
            assert_int_equal(b.type, 6);
            assert_int_equal(u32_at(b.body), 0);
            time_ns = (uint64_t)u32_at(b.body + 4) << 32 | u32_at(b.body + 8);
            assert_true(time_ns >= before_ns && time_ns > UINT64_C(1700000000000000000));
            before_ns = time_ns;
            assert_int_equal(u32_at(b.body + 12), sizes[i]);
            assert_int_equal(u32_at(b.body + 16), sizes[i]);
            fill(frame, sizes[i], i);
            assert_memory_equal(b.body + 20, frame, sizes[i]);
            assert_int_equal(u32_at(option(&b, 20 + (sizes[i] + 3) / 4 * 4, 2, &size)), i % 2 ? 1 : 2);
            assert_null(option(&b, 20 + (sizes[i] + 3) / 4 * 4, 4, &size));
        }
    }
    assert_true(next_block(&f, &b));
    assert_int_equal(b.type, 5);
    assert_false(next_block(&f, &b));
    capture_free(c);
    free(f.bytes);
    close(fd);
}

static void test_what_finds_no_room_is_counted_and_noted(void **state)
{
    uint64_t before = counter_read(COUNTER_capture_drop_ring_full);
    uint8_t frame[1000] = {0};
    int fd = open_file();
    struct capture *c = begin(fd, RING);
    struct file f;
    struct block b;
    unsigned n = 0, n_lost;
    uint16_t size;
    uint64_t lost;

    (void)state;
    for (unsigned i = 0; i < 100; i++)
        capture_frame(c, PCAPNG_INBOUND, frame, sizeof(frame));
    n_lost = (unsigned)(counter_read(COUNTER_capture_drop_ring_full) - before);
    assert_in_range(n_lost, 1, 99);
    capture_write(c);
    capture_frame(c, PCAPNG_INBOUND, frame, FRAME_SIZE_MAX + 1);
    capture_stop(c);
    f = read_file(fd);
    skip_head(&f);
    for (; next_block(&f, &b) && b.type == 6; n++) {
        if (n == 0) {
            assert_memory_equal(option(&b, 1020, 4, &size), &(uint64_t){n_lost}, 8);
        }
    }
    assert_int_equal(n, 100 - n_lost);
    assert_int_equal(b.type, 5);
    memcpy(&lost, option(&b, 12, 5, &size), 8);
    assert_int_equal(lost, n_lost + 1);
    capture_free(c);
    free(f.bytes);
    close(fd);
}

static void test_old_bytes_are_never_taken_for_a_record(void **state)
{
    uint8_t frame[64 * 1024 - 64];
    int fd = open_file();
    struct capture *c = begin(fd, RING);
    struct file f;
    struct block b;
    unsigned n = 0;

    (void)state;
    memset(frame, 0x40, sizeof(frame)); /* reads as a size everywhere */
    for (unsigned i = 0; i < 50; i++) {
        capture_frame(c, PCAPNG_INBOUND, frame, i % 2 ? 1 + i : (uint32_t)sizeof(frame));
        capture_write(c);
        capture_write(c);
    }
    capture_stop(c);
    f = read_file(fd);
    skip_head(&f);
    while (next_block(&f, &b) && b.type == 6)
        n++;
    assert_int_equal(n, 50);
    capture_free(c);
    free(f.bytes);
    close(fd);
}

/* ---- several producers ---- */

enum { PRODUCERS = 4, EACH = 4000 };

static struct capture *shared;

static void *produce(void *arg)
{
    uint32_t producer = (uint32_t)(uintptr_t)arg;
    uint8_t frame[300];

    for (uint32_t i = 0; i < EACH; i++) {
        uint32_t size = 8 + (i * 7 + producer) % 290;

        fill(frame, size, i);
        frame[4] = (uint8_t)producer;
        capture_frame(shared, PCAPNG_INBOUND, frame, size);
    }
    return NULL;
}

static void test_producers_do_not_mix_and_keep_their_order(void **state)
{
    pthread_t threads[PRODUCERS];
    uint32_t next[PRODUCERS] = {0}, n = 0;
    uint64_t before = counter_read(COUNTER_capture_drop_ring_full);
    struct failure why = FAILURE_NULL;
    int fd = open_file();
    struct file f;
    struct block b;

    (void)state;
    shared = begin(fd, RING);
    assert_int_equal(capture_start(shared, &why), 0);
    for (uintptr_t i = 0; i < PRODUCERS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, produce, (void *)i), 0);
    for (unsigned i = 0; i < PRODUCERS; i++)
        pthread_join(threads[i], NULL);
    capture_stop(shared);
    f = read_file(fd);
    skip_head(&f);
    for (; next_block(&f, &b) && b.type == 6; n++) {
        uint32_t size = u32_at(b.body + 12), number = u32_at(b.body + 20);
        uint8_t expected[300], producer = b.body[24];

        assert_in_range(producer, 0, PRODUCERS - 1);
        assert_true(number >= next[producer] && number < EACH);
        next[producer] = number + 1;
        assert_int_equal(size, 8 + (number * 7 + producer) % 290);
        fill(expected, size, number);
        expected[4] = producer;
        assert_memory_equal(b.body + 20, expected, size);
    }
    assert_int_equal(n + counter_read(COUNTER_capture_drop_ring_full) - before, PRODUCERS * EACH);
    capture_free(shared);
    free(f.bytes);
    close(fd);
}

/* ---- remarks ---- */

static void test_a_spliced_connection_leaves_a_summary(void **state)
{
    struct flow_info info = {.tier = "splice-outbound",
                             .proto = IPPROTO_TCP,
                             .to_guest = 1048576,
                             .to_host = 120,
                             .age_ns = INT64_C(5321000000)};
    static const char text[] =
        "splice-outbound closed: 10.0.2.100:43210 -> 203.0.113.9:443, 1048576 bytes to the "
        "guest, 120 bytes to the host, 5.321 s";
    static const char text6[] =
        "splice-forward reset: [2001:db8::9]:5 -> [fd00::100]:80, 1048576 bytes to the "
        "guest, 120 bytes to the host, 5.321 s";
    int fd = open_file();
    struct capture *c = begin(fd, RING);
    struct file f;
    struct block b;
    uint16_t size;
    const uint8_t *comment;
    size_t options;

    (void)state;
    info.guest.in = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(43210)};
    info.remote.in = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(443)};
    inet_pton(AF_INET, "10.0.2.100", &info.guest.in.sin_addr);
    inet_pton(AF_INET, "203.0.113.9", &info.remote.in.sin_addr);
    capture_flow(c, &info, false);
    info.tier = "splice-forward";
    info.inbound = true;
    info.guest.in6 = (struct sockaddr_in6){.sin6_family = AF_INET6, .sin6_port = htons(80)};
    info.remote.in6 = (struct sockaddr_in6){.sin6_family = AF_INET6, .sin6_port = htons(5)};
    inet_pton(AF_INET6, "fd00::100", &info.guest.in6.sin6_addr);
    inet_pton(AF_INET6, "2001:db8::9", &info.remote.in6.sin6_addr);
    capture_flow(c, &info, true);
    capture_stop(c);
    f = read_file(fd);
    skip_head(&f);
    for (unsigned i = 0; i < 2; i++) {
        assert_true(next_block(&f, &b));
        assert_int_equal(b.type, 6);
        assert_int_equal(u32_at(b.body), 1);
        options = 20 + (u32_at(b.body + 12) + 3) / 4 * 4;
        comment = option(&b, options, 1, &size);
        assert_int_equal(size, strlen(i ? text6 : text));
        assert_memory_equal(comment, i ? text6 : text, size);
    }
    capture_free(c);
    free(f.bytes);
    close(fd);
}

/* ---- files that cannot be written ---- */

/* What is logged meanwhile. */
static int saved_stderr, log_pipe[2];

static void log_begin(void)
{
    saved_stderr = dup(STDERR_FILENO);
    assert_int_equal(pipe2(log_pipe, O_NONBLOCK), 0);
    assert_true(dup2(log_pipe[1], STDERR_FILENO) >= 0);
}

static unsigned log_end(void)
{
    char text[8192];
    ssize_t n = read(log_pipe[0], text, sizeof(text));
    unsigned lines = 0;

    assert_true(dup2(saved_stderr, STDERR_FILENO) >= 0);
    close(saved_stderr);
    close(log_pipe[0]);
    close(log_pipe[1]);
    for (ssize_t i = 0; i < n; i++)
        lines += text[i] == '\n';
    return lines;
}

static void test_a_full_disk_ends_the_capture_with_one_line_and_a_readable_file(void **state)
{
    const struct rlimit small = {5000, RLIM_INFINITY}, all = {RLIM_INFINITY, RLIM_INFINITY};
    char name[] = "/tmp/test_captureXXXXXX";
    uint8_t frame[700] = {0};
    int fd = mkstemp(name);
    struct capture *c = begin(fd, 1 << 20);
    struct file f;
    struct block b;
    unsigned n = 0;

    (void)state;
    assert_true(fd >= 0);
    unlink(name);
    log_begin();
    signal(SIGXFSZ, SIG_IGN); /* write(2) fails instead, as on a full disk */
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    for (unsigned i = 0; i < 100; i++)
        capture_frame(c, PCAPNG_INBOUND, frame, sizeof(frame));
    capture_write(c);
    for (unsigned i = 0; i < 10000; i++) /* nobody minds */
        capture_frame(c, PCAPNG_INBOUND, frame, sizeof(frame));
    capture_write(c);
    capture_stop(c);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &all), 0);
    assert_int_equal(log_end(), 1);
    f = read_file(fd);
    assert_in_range(f.size, 4000, 5000);
    skip_head(&f);
    while (next_block(&f, &b))
        n++;
    assert_in_range(n, 4, 7);
    capture_free(c);
    free(f.bytes);
    close(fd);
}

static void test_a_reader_that_goes_away_ends_it_too(void **state)
{
    uint8_t frame[700] = {0};
    struct failure why = FAILURE_NULL;
    struct capture *c = NULL;
    int pipe_fds[2];

    (void)state;
    signal(SIGPIPE, SIG_IGN);
    assert_int_equal(pipe2(pipe_fds, O_NONBLOCK), 0);
    assert_int_equal(capture_new_fd(&c, pipe_fds[1], RING, "tap0", &why), 0);
    log_begin();
    close(pipe_fds[0]);
    for (unsigned i = 0; i < 3; i++) {
        capture_frame(c, PCAPNG_INBOUND, frame, sizeof(frame));
        capture_write(c);
    }
    capture_stop(c);
    assert_int_equal(log_end(), 1);
    capture_free(c);
}

static void test_a_reader_that_does_not_read_holds_up_neither_producers_nor_the_end(void **state)
{
    static uint8_t frame[FRAME_SIZE_MAX];
    struct failure why = FAILURE_NULL;
    struct capture *c = NULL;
    int pipe_fds[2];

    (void)state;
    assert_int_equal(pipe2(pipe_fds, O_NONBLOCK), 0);
    assert_int_equal(capture_new_fd(&c, pipe_fds[1], 1 << 20, "tap0", &why), 0);
    assert_int_equal(capture_start(c, &why), 0);
    log_begin();
    for (unsigned i = 0; i < 500; i++)
        capture_frame(c, PCAPNG_INBOUND, frame, sizeof(frame));
    capture_stop(c); /* within CMocka's patience */
    assert_int_equal(log_end(), 1);
    capture_free(c);
    close(pipe_fds[0]);
}

static void test_files_that_cannot_be_had_are_refused_at_the_start(void **state)
{
    struct failure why = FAILURE_NULL;
    struct capture *c = NULL;

    (void)state;
    assert_int_equal(capture_new(&c, "/dev/full", "tap0", &why), -ENOSPC);
    assert_string_equal(why.what, "cannot write to /dev/full");
    assert_int_equal(capture_new(&c, "/nonexistent/file", "tap0", &why), -ENOENT);
    assert_string_equal(why.what, "cannot open /nonexistent/file for the capture");
    assert_int_equal(capture_new(&c, "/", "tap0", &why), -EISDIR);
    assert_null(c);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_frames_come_out_as_they_went_in),
        cmocka_unit_test(test_what_finds_no_room_is_counted_and_noted),
        cmocka_unit_test(test_old_bytes_are_never_taken_for_a_record),
        cmocka_unit_test(test_producers_do_not_mix_and_keep_their_order),
        cmocka_unit_test(test_a_spliced_connection_leaves_a_summary),
        cmocka_unit_test(test_a_full_disk_ends_the_capture_with_one_line_and_a_readable_file),
        cmocka_unit_test(test_a_reader_that_goes_away_ends_it_too),
        cmocka_unit_test(test_a_reader_that_does_not_read_holds_up_neither_producers_nor_the_end),
        cmocka_unit_test(test_files_that_cannot_be_had_are_refused_at_the_start),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
