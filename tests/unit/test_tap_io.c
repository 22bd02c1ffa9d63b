/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Readers of frames, each way, on a socket that keeps frames apart as a TAP does. */
#include "base/bits.h"
#include "base/clock.h"
#include "io/tap_io.h"
#include "test.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { N_FRAMES = 128, BURST_MAX = 200, STREAM = 30000, DEADLINE_S = 20, TURN_MAX = 16, ALARM_S = 100 };

static const struct {
    const char *name;
    const struct tap_io *io;
} ways[] = {{"epoll", &tap_io_epoll}, {"batched", &tap_io_uring_batched}, {"multishot", &tap_io_uring}};

static struct {
    const struct tap_io *io;
    struct tap_reader *reader;
    struct frame_pool pool;
    struct wakeup wake;
    int fd, far_fd; /* what is read; where frames come from */
    uint32_t n_read, n_sent;
    _Atomic uint32_t progress; /* n_read, for the sender */
} t;

/* False: it cannot be had here, said so. */
static bool up(unsigned way)
{
    struct failure why = FAILURE_NULL;
    char text[FAILURE_TEXT_SIZE];
    int pair[2], r;

    t.io = ways[way].io;
    t.wake = (struct wakeup)WAKEUP_NULL;
    t.n_read = t.n_sent = 0;
    atomic_store_explicit(&t.progress, 0, memory_order_relaxed); /* before there is a sender */
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair), 0);
    t.fd = pair[0];
    t.far_fd = pair[1];
    assert_int_equal(frame_pool_init(&t.pool, N_FRAMES), 0);
    assert_int_equal(wakeup_init(&t.wake), 0);
    r = t.io->reader_new(&t.reader, t.fd, &t.pool, &t.wake, &why);
    if (r == 0)
        r = t.io->reader_start(t.reader);
    if (r < 0)
        print_message("SKIP: %s: %s\n", ways[way].name, failure_text(&why, text, sizeof(text)));
    return r == 0;
}

static void down(void)
{
    t.reader = t.reader ? t.io->reader_free(t.reader) : NULL;
    frame_pool_deinit(&t.pool);
    wakeup_deinit(&t.wake);
    close(t.fd);
    if (t.far_fd >= 0)
        close(t.far_fd);
}

static uint32_t size_of(uint32_t number)
{
    return 60 + number * 37 % 1000;
}

/* One numbered frame. False: there is no room for it yet. */
static bool send_frame(void)
{
    uint8_t frame[2048];
    uint32_t size = size_of(t.n_sent);

    memset(frame, (int)t.n_sent, sizeof(frame));
    memcpy(frame, &t.n_sent, sizeof(t.n_sent));
    if (send(t.far_fd, frame, size, MSG_DONTWAIT | MSG_NOSIGNAL) != (ssize_t)size) {
        assert_true(errno == EAGAIN || errno == ENOBUFS);
        return false;
    }
    t.n_sent++;
    return true;
}

/* They are the next ones, whole. */
static void take_frames(const frame_id *ids, int n)
{
    for (int i = 0; i < n; i++, t.n_read++) {
        const uint8_t *frame = frame_data(&t.pool, ids[i]);
        uint32_t number;

        memcpy(&number, frame, sizeof(number));
        assert_int_equal(number, t.n_read);
        assert_int_equal(t.pool.size[ids[i]], size_of(number));
        assert_int_equal(frame[t.pool.size[ids[i]] - 1], (uint8_t)number);
    }
    frame_put(&t.pool, ids, (uint32_t)n);
}

/* As tap_rx.c does it. */
static void read_all(void)
{
    int64_t end_ns = clock_monotonic_ns() + DEADLINE_S * NS_PER_S;
    frame_id ids[TAP_BATCH_MAX];
    bool drained = false;

    while (t.n_read < t.n_sent) {
        int n = drained ? 0 : t.io->read(t.reader, ids, TAP_BATCH_MAX, &drained);

        assert_true(n >= 0);
        take_frames(ids, n);
        if (n == 0) {
            drained = false;
            assert_int_equal(t.io->wait(t.reader, 100), 0);
        }
        assert_true(clock_monotonic_ns() < end_ns);
    }
}

/* The number of frames that a batch reads is a guess; none may wait for others. */
static void bursts(unsigned way)
{
    if (up(way)) {
        for (uint32_t burst = 1; burst <= BURST_MAX; burst = burst < 10 ? burst + 1 : burst * 5 / 3) {
            for (int again = 0; again < 3; again++) {
                for (uint32_t i = 0; i < burst && send_frame(); i++)
                    ;
                read_all();
                (void)send_frame(); /* by itself, after many */
                read_all();
            }
        }
    }
    down();
}

/* Bursts, and now and then a pause until all of it has been read: whoever waits for an edge that has been,
 * waits for ever then. */
static void *send_stream(void *arg)
{
    unsigned seed = 7;

    (void)arg;
    while (t.n_sent < STREAM) {
        int64_t end_ns = clock_monotonic_ns() + DEADLINE_S * NS_PER_S;

        const bool pause = rand_r(&seed) % 4 == 0;

        for (uint32_t end = min_u32(t.n_sent + 1 + (uint32_t)rand_r(&seed) % BURST_MAX, STREAM);
             t.n_sent < end;) {
            if (!send_frame())
                usleep(100);
        }
        /* Relaxed: a number. */
        while (pause && atomic_load_explicit(&t.progress, memory_order_relaxed) < t.n_sent &&
               clock_monotonic_ns() < end_ns)
            usleep(50);
    }
    return NULL;
}

/* As engine_input.c does it, by edges; a turn may end with more to read, and what comes then is an edge, too.
 */
static void edges(unsigned way)
{
    int64_t end_ns = clock_monotonic_ns() + DEADLINE_S * NS_PER_S;
    struct epoll_event event = {.events = EPOLLIN | EPOLLET};
    int epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    bool is_ready = true;
    pthread_t sender;

    assert_true(epoll_fd >= 0);
    if (!ways[way].io->poll_fd) {
        close(epoll_fd);
        return;
    }
    if (up(way)) {
        assert_int_equal(epoll_ctl(epoll_fd, EPOLL_CTL_ADD, t.io->poll_fd(t.reader), &event), 0);
        assert_int_equal(pthread_create(&sender, NULL, send_stream, NULL), 0);
        while (t.n_read < STREAM) {
            int n = epoll_wait(epoll_fd, &event, 1, is_ready ? 0 : 1000);

            /* EINTR: a ring of the test before has been freed; see reader_free(). */
            assert_true(n >= 0 || errno == EINTR);
            is_ready = is_ready || n > 0;
            for (int taken = 0; is_ready && taken < TURN_MAX;) {
                frame_id ids[TAP_BATCH_MAX];
                bool drained = false;

                n = t.io->read(t.reader, ids, way % 2 ? TAP_BATCH_MAX : 1 + t.n_read % 8, &drained);
                assert_true(n >= 0);
                is_ready = n > 0 && !drained;
                take_frames(ids, n);
                if (n > 0)
                    end_ns = clock_monotonic_ns() + DEADLINE_S * NS_PER_S;
                taken += n;
                atomic_store_explicit(&t.progress, t.n_read, memory_order_relaxed); /* see there */
            }
            assert_true(clock_monotonic_ns() < end_ns);
        }
        pthread_join(sender, NULL);
    }
    down();
    close(epoll_fd);
}

static void without_frames(unsigned way)
{
    frame_id kept[N_FRAMES], ids[TAP_BATCH_MAX];
    bool drained;
    int n;

    if (up(way)) {
        uint32_t n_kept = frame_take(&t.pool, kept, N_FRAMES);

        assert_int_equal(n_kept, N_FRAMES);
        for (int i = 0; i < 20; i++)
            assert_true(send_frame());
        for (int i = 0; i < 5; i++) {
            n = t.io->read(t.reader, ids, TAP_BATCH_MAX, &drained);
            assert_int_equal(n, 0);
        }
        frame_put(&t.pool, kept, n_kept);
        read_all();
    }
    down();
}

static void the_end(unsigned way)
{
    int64_t end_ns = clock_monotonic_ns() + DEADLINE_S * NS_PER_S;
    frame_id ids[TAP_BATCH_MAX];
    bool drained = false;
    int n = 0;

    if (up(way)) {
        for (int i = 0; i < 10; i++)
            assert_true(send_frame());
        close(t.far_fd);
        t.far_fd = -1;
        while (n >= 0) {
            n = drained ? 0 : t.io->read(t.reader, ids, TAP_BATCH_MAX, &drained);
            if (n > 0) {
                take_frames(ids, n);
            } else if (n == 0) {
                drained = false;
                assert_int_equal(t.io->wait(t.reader, 100), 0);
            }
            assert_true(clock_monotonic_ns() < end_ns);
        }
        assert_int_equal(n, -ENODEV);
        assert_int_equal(t.n_read, t.n_sent);
    }
    down();
}

static void each(void (*test)(unsigned way))
{
    for (unsigned way = 0; way < ARRAY_SIZE(ways); way++)
        test(way);
}

static void test_no_frame_waits_for_others(void **state)
{
    (void)state;
    each(bursts);
}

static void test_no_frame_is_missed_by_edges(void **state)
{
    (void)state;
    each(edges);
}

static void test_frames_wait_for_room(void **state)
{
    (void)state;
    each(without_frames);
}

static void test_the_end_comes_after_the_last_frame(void **state)
{
    (void)state;
    each(the_end);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_no_frame_waits_for_others),
        cmocka_unit_test(test_no_frame_is_missed_by_edges),
        cmocka_unit_test(test_frames_wait_for_room),
        cmocka_unit_test(test_the_end_comes_after_the_last_frame),
    };

    alarm(ALARM_S);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
