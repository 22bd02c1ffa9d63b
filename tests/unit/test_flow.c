/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "fwd/flow.h"

#include "base/bits.h"
#include "base/clock.h"
#include "test.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

/*
 *   client ---- host_fd  [ flow ]  guest_fd ---- server
 *
 * The ends are the test's, with blocking calls that give up after WAIT_S; the middle is a worker's, in a
 * thread of its own unless a test plays the worker itself.
 */
enum {
    FLOWS = 512,
    WAIT_S = 20,
    PIPE_SIZE = 256 << 10,
    BULK = 16 << 20,
    PIECE_MAX = 200 << 10,
    SOCKET_BUFFER = 64 << 10,
};

static const uint64_t tag_base = UINT64_C(7) << 32;

/* ---- sockets ---- */

static void patient(int fd)
{
    static const struct timeval wait = {.tv_sec = WAIT_S};

    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait)), 0);
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof(wait)), 0);
}

static void not_blocking(int fd, bool on)
{
    int flags = fcntl(fd, F_GETFL);

    assert_int_equal(fcntl(fd, F_SETFL, on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK), 0);
}

static void buffers(int fd, int size)
{
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size)), 0);
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size)), 0);
}

static int listen_at_loopback(int backlog, struct sockaddr_in *ret)
{
    socklen_t length = sizeof(*ret);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    assert_true(fd >= 0);
    *ret = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    assert_int_equal(bind(fd, (struct sockaddr *)ret, sizeof(*ret)), 0);
    assert_int_equal(listen(fd, backlog), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)ret, &length), 0);
    return fd;
}

/* @buffer_size: 0: the kernel's choice. */
static void tcp_pair(int *ret_end, int *ret_flow_fd, int buffer_size)
{
    struct sockaddr_in address;
    int listener = listen_at_loopback(1, &address);

    *ret_end = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(*ret_end >= 0);
    if (buffer_size > 0) {
        buffers(*ret_end, buffer_size);
        buffers(listener, buffer_size);
    }
    assert_int_equal(connect(*ret_end, (struct sockaddr *)&address, sizeof(address)), 0);
    *ret_flow_fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    assert_true(*ret_flow_fd >= 0);
    close(listener);
    patient(*ret_end);
}

static void reset(int fd)
{
    static const struct linger at_once = {.l_onoff = 1, .l_linger = 0};

    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once)), 0);
    close(fd);
}

/* @fd has heard of the other end's reset(). */
static void wait_reset(int fd)
{
    struct pollfd p = {.fd = fd}; /* POLLERR and POLLHUP */

    assert_int_equal(poll(&p, 1, WAIT_S * 1000), 1);
}

static void send_text(int fd, const char *text)
{
    assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), strlen(text));
}

static void expect_text(int fd, const char *text)
{
    char buffer[256];

    assert_true(strlen(text) < sizeof(buffer));
    assert_int_equal(recv(fd, buffer, strlen(text), MSG_WAITALL), strlen(text));
    assert_memory_equal(buffer, text, strlen(text));
}

static void expect_end(int fd)
{
    char byte;

    assert_int_equal(recv(fd, &byte, 1, 0), 0);
}

/* Bytes may come first. */
static void expect_reset(int fd)
{
    static char buffer[64 << 10];
    ssize_t n;

    while ((n = recv(fd, buffer, sizeof(buffer), 0)) > 0)
        ;
    assert_int_equal(n, -1);
    assert_int_equal(errno, ECONNRESET);
}

static bool is_readable(int fd, int wait_ms)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};

    return poll(&p, 1, wait_ms) == 1;
}

static uint32_t n_descriptors(void)
{
    DIR *dir = opendir("/proc/self/fd");
    uint32_t n = 0;

    assert_non_null(dir);
    while (readdir(dir))
        n++;
    closedir(dir);
    return n;
}

static struct rlimit limit_now(void)
{
    struct rlimit limit;

    assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    return limit;
}

/* ---- streams of known bytes, in odd pieces ---- */

struct stream {
    pthread_t thread;
    int fd;
    uint32_t seed;
    uint64_t total, done;
    bool ends; /* sender: shuts down; receiver: expects that */
    bool failed;
};

static uint8_t byte_at(uint32_t seed, uint64_t position)
{
    return (uint8_t)((position * 31 + (position >> 13)) ^ seed);
}

static uint32_t next_piece(uint32_t *random)
{
    *random = *random * 1664525 + 1013904223;
    return *random & 3 ? 1 + (*random >> 8) % PIECE_MAX : 1 + (*random >> 8) % 100;
}

static void *stream_send(void *arg)
{
    struct stream *s = arg;
    uint8_t *piece = malloc(PIECE_MAX);
    uint32_t random = s->seed;

    while (piece && s->done < s->total) {
        uint64_t size = next_piece(&random);
        ssize_t n;

        if (size > s->total - s->done)
            size = s->total - s->done;
        for (uint64_t i = 0; i < size; i++)
            piece[i] = byte_at(s->seed, s->done + i);
        n = send(s->fd, piece, size, MSG_NOSIGNAL);
        if (n <= 0)
            break;
        s->done += (uint64_t)n;
    }
    s->failed = s->done < s->total || (s->ends && shutdown(s->fd, SHUT_WR) < 0);
    free(piece);
    return NULL;
}

static void *stream_receive(void *arg)
{
    struct stream *s = arg;
    uint8_t *piece = malloc(PIECE_MAX);
    uint32_t random = ~s->seed;

    while (piece && s->done < s->total && !s->failed) {
        uint64_t size = next_piece(&random);
        ssize_t n = recv(s->fd, piece, size < s->total - s->done ? size : s->total - s->done, 0);

        if (n <= 0)
            break;
        for (ssize_t i = 0; i < n; i++)
            s->failed |= piece[i] != byte_at(s->seed, s->done + (uint64_t)i);
        s->done += (uint64_t)n;
    }
    s->failed |= s->done < s->total || (s->ends && recv(s->fd, piece, 1, 0) != 0);
    free(piece);
    return NULL;
}

static void stream_start(struct stream *s, void *(*run)(void *))
{
    assert_int_equal(pthread_create(&s->thread, NULL, run, s), 0);
}

static void stream_join(struct stream *s)
{
    assert_int_equal(pthread_join(s->thread, NULL), 0);
    assert_int_equal(s->done, s->total);
    assert_false(s->failed);
}

/* ---- a worker ---- */

struct record { /* of a flow; under worker.lock */
    struct worker *worker;
    int host_fd, guest_fd;
    uint32_t connect_ms;
    bool asked, answered, over;
    int result; /* of flow_start() */
    enum flow_end end;
    int error, returned_fd;
    uint64_t to_guest, to_host, n_reports;
    uint32_t n_late;
    int64_t waited_ns; /* the last time that it was late */
};

struct worker {
    struct flows *flows;
    int epoll_fd, wake_fd;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct record records[FLOWS];
    uint32_t n_records;
    uint32_t late_max; /* how often a flow may be late and is waited for once more */
    bool stop;
    uint32_t n_turns;
    /* outside the lock */
    bool running;
    uint32_t n_descriptors_before;
};

static void on_end(void *arg, void *user, enum flow_end end, int connect_error, int host_fd)
{
    struct worker *w = arg;
    struct record *r = user;

    pthread_mutex_lock(&w->lock);
    assert_false(r->over);
    r->over = true;
    r->end = end;
    r->error = connect_error;
    r->returned_fd = host_fd;
    pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->lock);
}

static void on_bytes(void *arg, void *user, uint64_t to_guest, uint64_t to_host)
{
    struct worker *w = arg;
    struct record *r = user;

    pthread_mutex_lock(&w->lock);
    assert_false(r->over);
    assert_true(to_guest > 0 || to_host > 0);
    r->to_guest += to_guest;
    r->to_host += to_host;
    r->n_reports++;
    pthread_mutex_unlock(&w->lock);
}

static bool on_late(void *arg, void *user, int64_t waited_ns)
{
    struct worker *w = arg;
    struct record *r = user;
    bool more;

    pthread_mutex_lock(&w->lock);
    assert_false(r->over);
    assert_true(waited_ns > r->waited_ns);
    r->waited_ns = waited_ns;
    more = r->n_late++ < w->late_max;
    pthread_mutex_unlock(&w->lock);
    return more;
}

static void start_asked(struct worker *w) RUNS_ON(role_fwd)
{
    uint64_t n;

    (void)!read(w->wake_fd, &n, sizeof(n));
    pthread_mutex_lock(&w->lock);
    for (uint32_t i = 0; i < w->n_records; i++) {
        struct record *r = &w->records[i];

        if (!r->asked || r->answered)
            continue;
        if (flow_socket_prepare(r->host_fd) < 0 || flow_socket_prepare(r->guest_fd) < 0)
            abort();
        r->result = flow_start(w->flows, r->host_fd, r->guest_fd, r->connect_ms, r);
        r->answered = true;
        pthread_cond_broadcast(&w->changed);
    }
    pthread_mutex_unlock(&w->lock);
}

static void *worker_run(void *arg)
{
    struct worker *w = arg;
    int timeout = -1;
    bool stop = false;

    role_enter(&role_fwd);
    while (!stop) {
        struct epoll_event events[64];
        int n = epoll_wait(w->epoll_fd, events, ARRAY_SIZE(events), timeout);

        for (int i = 0; i < n; i++) {
            if (events[i].data.u64 & tag_base)
                flows_event(w->flows, events[i].data.u64, events[i].events);
            else
                start_asked(w);
        }
        timeout = flows_turn(w->flows);
        pthread_mutex_lock(&w->lock);
        stop = w->stop;
        w->n_turns++;
        pthread_mutex_unlock(&w->lock);
    }
    role_leave(&role_fwd);
    return NULL;
}

static int worker_new(void **state)
{
    struct worker *w = calloc(1, sizeof(*w));
    struct flows_config config = {
        .tag_base = tag_base,
        .flows_max = FLOWS,
        .pipe_size = PIPE_SIZE,
        .pipes_max = 16,
        .arg = w,
        .on_end = on_end,
        .on_bytes = on_bytes,
        .on_late = on_late,
    };
    struct epoll_event event = {.events = EPOLLIN};

    assert_non_null(w);
    w->n_descriptors_before = n_descriptors();
    w->epoll_fd = config.epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    w->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    assert_int_equal(epoll_ctl(w->epoll_fd, EPOLL_CTL_ADD, w->wake_fd, &event), 0);
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->changed, NULL);
    assert_int_equal(flows_new(&w->flows, &config), 0);
    *state = w;
    return 0;
}

static int worker_new_running(void **state)
{
    struct worker *w;

    worker_new(state);
    w = *state;
    assert_int_equal(pthread_create(&w->thread, NULL, worker_run, w), 0);
    w->running = true;
    return 0;
}

static void worker_wake(struct worker *w)
{
    static const uint64_t one = 1;

    assert_int_equal(write(w->wake_fd, &one, sizeof(one)), sizeof(one));
}

/* The worker has seen everything that was there before. */
static void worker_turns(struct worker *w)
{
    for (int i = 0; i < 2; i++) { /* the first one may have begun already */
        uint32_t before, now;

        pthread_mutex_lock(&w->lock);
        before = now = w->n_turns;
        pthread_mutex_unlock(&w->lock);
        worker_wake(w);
        for (int ms = 0; now == before; ms++) {
            assert_true(ms < WAIT_S * 1000);
            poll(NULL, 0, 1);
            pthread_mutex_lock(&w->lock);
            now = w->n_turns;
            pthread_mutex_unlock(&w->lock);
        }
    }
}

/* Sends until nothing has been taken for a while in which @w (NULL: the test) had its turn: everything on the
 * way is full. Returns how much went. */
static uint64_t send_until_full(struct worker *w, int fd, uint32_t seed, uint64_t total)
{
    static uint8_t piece[16 << 10];
    struct pollfd p = {.fd = fd, .events = POLLOUT};
    uint64_t done = 0;

    not_blocking(fd, true);
    while (done < total) {
        uint64_t size = total - done < sizeof(piece) ? total - done : sizeof(piece);
        ssize_t n;

        if (poll(&p, 1, 200) != 1) {
            if (w)
                worker_turns(w);
            if (poll(&p, 1, 200) != 1)
                break;
        }
        for (uint64_t i = 0; i < size; i++)
            piece[i] = byte_at(seed, done + i);
        n = send(fd, piece, size, MSG_NOSIGNAL);
        assert_true(n > 0 || errno == EAGAIN);
        done += n > 0 ? (uint64_t)n : 0;
    }
    not_blocking(fd, false);
    return done;
}

static void worker_stop(struct worker *w)
{
    if (!w->running)
        return;
    pthread_mutex_lock(&w->lock);
    w->stop = true;
    pthread_mutex_unlock(&w->lock);
    worker_wake(w);
    pthread_join(w->thread, NULL);
    w->running = false;
}

/* Nothing is left open. */
static int worker_free(void **state)
{
    struct worker *w = *state;
    uint32_t n_before = w->n_descriptors_before;

    worker_stop(w);
    w->flows = flows_free(w->flows);
    close(w->epoll_fd);
    close(w->wake_fd);
    pthread_mutex_destroy(&w->lock);
    pthread_cond_destroy(&w->changed);
    free(w);
    assert_int_equal(n_descriptors(), n_before);
    return 0;
}

static void wait_for(struct worker *w, const bool *condition)
{
    struct timespec until;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += WAIT_S;
    pthread_mutex_lock(&w->lock);
    while (!*condition)
        assert_int_equal(pthread_cond_timedwait(&w->changed, &w->lock, &until), 0);
    pthread_mutex_unlock(&w->lock);
}

static struct record *record_new(struct worker *w, int host_fd, int guest_fd, uint32_t connect_ms)
{
    struct record *r;

    pthread_mutex_lock(&w->lock);
    assert_true(w->n_records < FLOWS);
    r = &w->records[w->n_records++];
    *r = (struct record){
        .worker = w, .host_fd = host_fd, .guest_fd = guest_fd, .connect_ms = connect_ms, .returned_fd = -1};
    r->asked = w->running;
    pthread_mutex_unlock(&w->lock);
    return r;
}

static struct record *start(struct worker *w, int host_fd, int guest_fd, uint32_t connect_ms)
{
    struct record *r = record_new(w, host_fd, guest_fd, connect_ms);

    worker_wake(w);
    wait_for(w, &r->answered);
    assert_int_equal(r->result, 0);
    return r;
}

static bool is_over(struct record *r)
{
    bool over;

    pthread_mutex_lock(&r->worker->lock);
    over = r->over;
    pthread_mutex_unlock(&r->worker->lock);
    return over;
}

static void expect_over(struct record *r, enum flow_end end)
{
    wait_for(r->worker, &r->over);
    assert_int_equal(r->end, end);
}

struct flow_under_test {
    int client, server;
    struct record *record;
};

static struct flow_under_test join(struct worker *w, int buffer_size)
{
    struct flow_under_test t;
    int host_fd, guest_fd;

    tcp_pair(&t.client, &host_fd, buffer_size);
    tcp_pair(&t.server, &guest_fd, buffer_size);
    t.record = start(w, host_fd, guest_fd, 0);
    return t;
}

static void expect_echo(const struct flow_under_test *t)
{
    send_text(t->client, "a question");
    expect_text(t->server, "a question");
    send_text(t->server, "an answer");
    expect_text(t->client, "an answer");
}

static void close_in_order(struct flow_under_test *t)
{
    assert_int_equal(shutdown(t->client, SHUT_WR), 0);
    expect_end(t->server);
    close(t->server);
    expect_end(t->client);
    close(t->client);
    expect_over(t->record, FLOW_CLOSED);
}

/* ---- bytes ---- */

static void both_ways(struct worker *w, int buffer_size, uint64_t up, uint64_t down)
{
    struct flow_under_test t = join(w, buffer_size);
    struct stream s[] = {
        {.fd = t.client, .seed = 1, .total = up, .ends = true},
        {.fd = t.server, .seed = 1, .total = up, .ends = true},
        {.fd = t.server, .seed = 2, .total = down, .ends = true},
        {.fd = t.client, .seed = 2, .total = down, .ends = true},
    };

    for (uint32_t i = 0; i < ARRAY_SIZE(s); i++)
        stream_start(&s[i], i & 1 ? stream_receive : stream_send);
    for (uint32_t i = 0; i < ARRAY_SIZE(s); i++)
        stream_join(&s[i]);
    expect_over(t.record, FLOW_CLOSED);
    assert_int_equal(t.record->to_guest, up);
    assert_int_equal(t.record->to_host, down);
    close(t.client);
    close(t.server);
}

static void test_bytes_arrive_unchanged_both_ways_at_once(void **state)
{
    both_ways(*state, 0, BULK + 12345, BULK - 7);
    both_ways(*state, SOCKET_BUFFER, BULK / 4 + 1, BULK / 4 + 2);
    both_ways(*state, 4096, BULK / 64 + 3, BULK / 64 + 5);
    both_ways(*state, 0, 1, 0);
    both_ways(*state, 0, 0, 0);
}

static void test_urgent_bytes_travel_inline(void **state)
{
    struct flow_under_test t = join(*state, 0);

    expect_echo(&t);
    send_text(t.client, "before");
    assert_int_equal(send(t.client, "!", 1, MSG_OOB), 1);
    send_text(t.client, "after");
    expect_text(t.server, "before!after");
    assert_int_equal(send(t.server, "?", 1, MSG_OOB), 1);
    expect_text(t.client, "?");
    expect_echo(&t);
    /* Mark and end may be seen at once. */
    assert_int_equal(send(t.client, "!", 1, MSG_OOB), 1);
    send_text(t.client, "the last words");
    assert_int_equal(shutdown(t.client, SHUT_WR), 0);
    expect_text(t.server, "!the last words");
    close_in_order(&t);
}

/* ---- ends ---- */

static void reply_after_end(struct worker *w, bool from_client)
{
    struct flow_under_test t = join(w, SOCKET_BUFFER);
    int asks = from_client ? t.client : t.server, answers = from_client ? t.server : t.client;
    struct stream up = {.fd = asks, .seed = 3, .total = 1000003, .ends = true};
    struct stream up_end = {.fd = answers, .seed = 3, .total = 1000003, .ends = true};
    struct stream down = {.fd = answers, .seed = 4, .total = 700001, .ends = true};
    struct stream down_end = {.fd = asks, .seed = 4, .total = 700001, .ends = true};

    stream_start(&up, stream_send);
    stream_start(&up_end, stream_receive);
    stream_join(&up);
    stream_join(&up_end);
    assert_false(is_readable(asks, 20));
    assert_false(is_over(t.record));
    stream_start(&down, stream_send);
    stream_start(&down_end, stream_receive);
    stream_join(&down);
    stream_join(&down_end);
    expect_over(t.record, FLOW_CLOSED);
    close(t.client);
    close(t.server);
}

static void test_a_half_close_leaves_the_other_direction_open(void **state)
{
    reply_after_end(*state, true);
    reply_after_end(*state, false);
}

static void test_a_reset_while_idle_is_passed_on_at_once(void **state)
{
    for (int i = 0; i < 4; i++) {
        struct flow_under_test t = join(*state, 0);
        int resets = i & 1 ? t.client : t.server, hears = i & 1 ? t.server : t.client;

        if (i & 2)
            expect_echo(&t);
        reset(resets);
        expect_reset(hears);
        expect_over(t.record, FLOW_RESET);
        close(hears);
    }
}

static void test_a_reset_after_a_half_close_is_passed_on(void **state)
{
    for (int i = 0; i < 4; i++) {
        struct flow_under_test t = join(*state, 0);
        int shuts = i & 1 ? t.client : t.server, other = i & 1 ? t.server : t.client;
        int resets = i & 2 ? shuts : other, hears = i & 2 ? other : shuts;

        assert_int_equal(shutdown(shuts, SHUT_WR), 0);
        expect_end(other);
        reset(resets);
        if (hears == shuts) {
            expect_reset(hears);
        } else { /* has read the end already: it learns by writing */
            struct pollfd p = {.fd = hears, .events = 0};

            assert_int_equal(poll(&p, 1, WAIT_S * 1000), 1);
            assert_true(p.revents & POLLERR);
        }
        expect_over(t.record, FLOW_RESET);
        close(hears);
    }
}

static void test_a_reset_with_bytes_in_the_pipe_is_passed_on(void **state)
{
    struct flow_under_test clean;

    for (int i = 0; i < 4; i++) {
        struct flow_under_test t = join(*state, SOCKET_BUFFER);
        int sends = i & 1 ? t.client : t.server, silent = i & 1 ? t.server : t.client;
        uint64_t sent = send_until_full(*state, sends, 5, BULK);
        int resets = i & 2 ? sends : silent, hears = i & 2 ? silent : sends;

        assert_true(sent < BULK);
        reset(resets);
        expect_reset(hears);
        expect_over(t.record, FLOW_RESET);
        close(hears);
    }
    /* None of these bytes turns up elsewhere. */
    clean = join(*state, 0);
    expect_echo(&clean);
    close_in_order(&clean);
}

static void test_writing_to_somebody_who_has_closed_is_a_reset(void **state)
{
    for (int i = 0; i < 2; i++) {
        struct flow_under_test t = join(*state, 0);
        int closes = i & 1 ? t.client : t.server, writes = i & 1 ? t.server : t.client;
        struct pollfd p = {.fd = writes, .events = 0};

        expect_echo(&t);
        send_text(closes, "goodbye");
        close(closes);
        expect_text(writes, "goodbye");
        expect_end(writes);
        send_text(writes, "are you there?");
        assert_int_equal(poll(&p, 1, WAIT_S * 1000), 1);
        assert_true(p.revents & POLLERR);
        expect_over(t.record, FLOW_RESET);
        close(writes);
    }
}

/* A peer that closed after sending is no more by the time our FIN arrives, and its kernel answers with a
 * reset. What it had sent is on its way still. */
static void test_what_was_sent_before_an_orderly_close_is_delivered(void **state)
{
    enum { LEFT = 380000, GONE_MS = 1500 };
    struct flow_under_test t;
    int host_fd, guest_fd, seconds = 1;
    struct stream s = {.seed = 6, .total = LEFT, .ends = true}, r = s;

    tcp_pair(&t.client, &host_fd, 4096);
    tcp_pair(&t.server, &guest_fd, 0);
    t.record = start(*state, host_fd, guest_fd, 0);
    assert_int_equal(setsockopt(t.server, IPPROTO_TCP, TCP_LINGER2, &seconds, sizeof(seconds)), 0);
    s.fd = t.server;
    r.fd = t.client;
    stream_start(&s, stream_send);
    stream_join(&s);
    close(t.server);
    poll(NULL, 0, GONE_MS);
    assert_int_equal(shutdown(t.client, SHUT_WR), 0);
    poll(NULL, 0, 100);
    stream_start(&r, stream_receive);
    stream_join(&r);
    expect_over(t.record, FLOW_CLOSED);
    close(t.client);
}

static void test_freeing_resets_what_is_left(void **state)
{
    struct worker *w = *state;
    struct flow_under_test idle = join(w, 0), full = join(w, SOCKET_BUFFER);

    assert_true(send_until_full(w, full.client, 7, BULK) < BULK);
    worker_stop(w);
    w->flows = flows_free(w->flows);
    expect_reset(idle.client);
    expect_reset(idle.server);
    expect_reset(full.client);
    expect_reset(full.server);
    close(idle.client);
    close(idle.server);
    close(full.client);
    close(full.server);
    assert_null(flows_free(NULL));
}

/* ---- a reader that waits ---- */

static void test_a_slow_reader_bounds_what_is_held_and_gets_all(void **state)
{
    for (int i = 0; i < 2; i++) {
        struct flow_under_test t = join(*state, SOCKET_BUFFER);
        struct worker *w = *state;
        struct stream s = {.fd = i ? t.client : t.server, .seed = 8, .total = BULK, .ends = true}, r = s;
        uint32_t n_turns;

        r.fd = i ? t.server : t.client;
        s.done = send_until_full(w, s.fd, s.seed, s.total);
        /* Four sockets' buffers, of which the kernel makes twice what was asked, and one pipe. */
        assert_true(s.done < 4 * 2 * SOCKET_BUFFER + 2 * PIPE_SIZE);
        pthread_mutex_lock(&w->lock);
        n_turns = w->n_turns;
        pthread_mutex_unlock(&w->lock);
        poll(NULL, 0, 100);
        pthread_mutex_lock(&w->lock);
        assert_true(w->n_turns - n_turns < 10); /* it sleeps */
        pthread_mutex_unlock(&w->lock);
        stream_start(&s, stream_send);
        stream_start(&r, stream_receive);
        stream_join(&s);
        stream_join(&r);
        close_in_order(&t);
    }
}

/* ---- connecting ---- */

static int connect_start(const struct sockaddr_in *address)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (const struct sockaddr *)address, sizeof(*address)), -1);
    assert_int_equal(errno, EINPROGRESS);
    return fd;
}

/* It is the caller's again: nobody else watches it, and all that the client sent is in it. */
static void expect_returned(struct worker *w, const struct record *r, int host_fd, int client)
{
    struct epoll_event event = {.events = 0};

    assert_int_equal(r->returned_fd, host_fd);
    assert_int_equal(epoll_ctl(w->epoll_fd, EPOLL_CTL_DEL, host_fd, &event), -1);
    assert_int_equal(errno, ENOENT);
    not_blocking(host_fd, false);
    patient(host_fd);
    expect_text(host_fd, "said too early");
    send_text(host_fd, "welcome");
    expect_text(client, "welcome");
    close(host_fd);
    close(client);
}

static void test_a_refused_connection_gives_the_host_socket_back(void **state)
{
    struct sockaddr_in address;
    int client, host_fd, guest_fd;
    struct record *r;

    close(listen_at_loopback(1, &address));
    tcp_pair(&client, &host_fd, 0);
    send_text(client, "said too early");
    guest_fd = connect_start(&address);
    r = start(*state, host_fd, guest_fd, WAIT_S * 1000);
    expect_over(r, FLOW_REFUSED);
    assert_int_equal(r->error, ECONNREFUSED);
    expect_returned(*state, r, host_fd, client);
}

/* A listener whose queue is full drops what it is asked. */
static int listener_full(struct sockaddr_in *ret, int *ret_filler)
{
    int fd = listen_at_loopback(0, ret);

    *ret_filler = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(*ret_filler, (struct sockaddr *)ret, sizeof(*ret)), 0);
    assert_true(is_readable(fd, WAIT_S * 1000));
    return fd;
}

static void test_a_connection_that_takes_too_long_gives_the_host_socket_back(void **state)
{
    static const uint32_t patience_ms[] = {WAIT_S * 1000, 200, 100};
    struct record *records[ARRAY_SIZE(patience_ms)];
    int clients[ARRAY_SIZE(patience_ms)];
    struct sockaddr_in address;
    int filler, listener = listener_full(&address, &filler);
    int64_t start_ns = clock_monotonic_ns();

    for (uint32_t i = 0; i < ARRAY_SIZE(patience_ms); i++) {
        int host_fd, guest_fd = connect_start(&address);

        tcp_pair(&clients[i], &host_fd, 0);
        send_text(clients[i], "said too early");
        records[i] = start(*state, host_fd, guest_fd, patience_ms[i]);
    }
    for (uint32_t i = ARRAY_SIZE(patience_ms) - 1; i > 0; i--) {
        expect_over(records[i], FLOW_REFUSED);
        assert_int_equal(records[i]->error, ETIMEDOUT);
        assert_true(clock_monotonic_ns() - start_ns >= patience_ms[i] * NS_PER_MS);
        expect_returned(*state, records[i], records[i]->host_fd, clients[i]);
    }
    assert_false(is_over(records[0])); /* started first, and has the most patience */
    reset(clients[0]);
    expect_over(records[0], FLOW_RESET);
    close(filler);
    close(listener);
}

static void test_a_late_connection_has_as_much_time_as_its_owner_gives(void **state)
{
    enum { MORE = 2 };
    const int64_t ms = 50;
    struct worker *w = *state;
    struct sockaddr_in address;
    int client, host_fd, filler, listener = listener_full(&address, &filler);
    int guest_fd = connect_start(&address);
    struct record *r;

    pthread_mutex_lock(&w->lock);
    w->late_max = MORE;
    pthread_mutex_unlock(&w->lock);
    tcp_pair(&client, &host_fd, 0);
    send_text(client, "said too early");
    r = start(w, host_fd, guest_fd, (uint32_t)ms);
    expect_over(r, FLOW_REFUSED);
    assert_int_equal(r->error, ETIMEDOUT);
    assert_int_equal(r->n_late, MORE + 1);
    assert_true(r->waited_ns >= (MORE + 1) * ms * NS_PER_MS);
    expect_returned(w, r, host_fd, client);
    close(filler);
    close(listener);
}

static void test_what_the_host_said_while_connecting_is_delivered(void **state)
{
    struct sockaddr_in address;
    int filler, accepted, listener = listener_full(&address, &filler);
    int host_fd, guest_fd = connect_start(&address);
    struct flow_under_test t;

    tcp_pair(&t.client, &host_fd, 0);
    t.record = start(*state, host_fd, guest_fd, WAIT_S * 1000);
    send_text(t.client, "said too early");
    assert_int_equal(shutdown(t.client, SHUT_WR), 0);
    poll(NULL, 0, 50);
    assert_false(is_over(t.record));
    accepted = accept4(listener, NULL, NULL, SOCK_CLOEXEC); /* there is room for the SYN's repetition */
    assert_true(accepted >= 0);
    t.server = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    assert_true(t.server >= 0);
    patient(t.server);
    expect_text(t.server, "said too early");
    send_text(t.server, "an answer");
    expect_text(t.client, "an answer");
    close_in_order(&t);
    close(accepted);
    close(filler);
    close(listener);
}

static void test_a_reset_of_the_host_while_connecting_ends_the_flow(void **state)
{
    struct sockaddr_in address;
    int filler, listener = listener_full(&address, &filler);
    int client, host_fd, guest_fd = connect_start(&address);
    struct record *r;

    tcp_pair(&client, &host_fd, 0);
    r = start(*state, host_fd, guest_fd, WAIT_S * 1000);
    reset(client);
    expect_over(r, FLOW_RESET);
    close(filler);
    close(listener);
}

/* ---- many ---- */

static void test_many_flows_at_once(void **state)
{
    enum { N_MAX = 500, ROUNDS = 10 };
    static struct flow_under_test t[N_MAX];
    struct worker *w = *state;
    uint32_t n = (uint32_t)(limit_now().rlim_cur - 128) / 4; /* all four sockets are in this process */
    char text[32];

    n = min_u32(n, N_MAX);
    print_message("%u flows\n", n);
    for (uint32_t i = 0; i < n; i++)
        t[i] = join(w, 0);
    for (uint32_t round = 0; round < ROUNDS; round++) {
        for (uint32_t i = 0; i < n; i++) {
            snprintf(text, sizeof(text), "question %u of %u", round, i);
            send_text(t[i].client, text);
        }
        for (uint32_t i = 0; i < n; i++) {
            snprintf(text, sizeof(text), "question %u of %u", round, i);
            expect_text(t[i].server, text);
            snprintf(text, sizeof(text), "answer %u to %u", round, i);
            send_text(t[i].server, text);
        }
        for (uint32_t i = 0; i < n; i++) {
            snprintf(text, sizeof(text), "answer %u to %u", round, i);
            expect_text(t[i].client, text);
        }
    }
    for (uint32_t i = 0; i < n; i++) {
        if (i % 3 == 0) {
            reset(t[i].client);
            expect_reset(t[i].server);
            expect_over(t[i].record, FLOW_RESET);
            close(t[i].server);
        } else {
            close_in_order(&t[i]);
        }
    }
    worker_stop(w);
    role_enter(&role_fwd);
    assert_int_equal(flows_count(w->flows), 0);
    role_leave(&role_fwd);
}

static void test_a_full_table_says_so(void **state)
{
    struct worker *w = *state;
    struct flows_config config = {.epoll_fd = w->epoll_fd,
                                  .tag_base = tag_base,
                                  .flows_max = 1,
                                  .pipe_size = UINT32_MAX,
                                  .pipes_max = 1,
                                  .arg = w,
                                  .on_end = on_end,
                                  .on_bytes = on_bytes};
    struct flows *f = NULL;
    int end[4], fd[4];

    for (int i = 0; i < 4; i++)
        tcp_pair(&end[i], &fd[i], 0);
    assert_int_equal(flows_new(&f, &config), 0);
    role_enter(&role_fwd);
    assert_int_equal(flow_start(f, fd[0], fd[1], 0, record_new(w, fd[0], fd[1], 0)), 0);
    assert_int_equal(flow_start(f, fd[2], fd[3], 0, NULL), -ENOSPC);
    assert_int_equal(flows_count(f), 1);
    role_leave(&role_fwd);
    f = flows_free(f);
    close(fd[2]);
    close(fd[3]);
    for (int i = 0; i < 4; i++)
        close(end[i]);
}

/* ---- no pipes ---- */

/* No further descriptor for this process. */
static void descriptors_are_out(void)
{
    struct rlimit limit = limit_now();
    int lowest = open("/dev/null", O_RDONLY | O_CLOEXEC);

    assert_true(lowest >= 0);
    close(lowest);
    limit.rlim_cur = (rlim_t)lowest;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
}

static void test_one_pipe_is_enough_for_many_flows(void **state)
{
    enum { N = 20 };
    struct rlimit limit = limit_now();
    struct flow_under_test t[N];
    uint64_t sent;

    for (int i = 0; i < N; i++)
        t[i] = join(*state, SOCKET_BUFFER);
    descriptors_are_out();
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < N; i++)
            send_text(t[i].client, "a question");
        for (int i = 0; i < N; i++)
            expect_text(t[i].server, "a question");
    }
    /* One reader sits on the pipe: the others wait, ... */
    sent = send_until_full(*state, t[0].client, 9, BULK);
    assert_true(sent < BULK);
    for (int i = 1; i < N; i++)
        send_text(t[i].client, "a question");
    assert_false(is_readable(t[1].server, 150));
    /* ... until it reads. */
    for (uint64_t done = 0; done < sent;) {
        static char buffer[64 << 10];
        ssize_t n = recv(t[0].server, buffer, sizeof(buffer), 0);

        assert_true(n > 0);
        done += (uint64_t)n;
    }
    for (int i = 1; i < N; i++)
        expect_text(t[i].server, "a question");
    /* Or until there are descriptors again, without anybody saying so. */
    assert_true(send_until_full(*state, t[0].client, 9, BULK) < BULK);
    for (int i = 1; i < N; i++)
        send_text(t[i].client, "a question");
    assert_false(is_readable(t[1].server, 150));
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
    for (int i = 1; i < N; i++) {
        expect_text(t[i].server, "a question");
        expect_echo(&t[i]);
        close_in_order(&t[i]);
    }
    reset(t[0].client);
    expect_reset(t[0].server);
    close(t[0].server);
    expect_over(t[0].record, FLOW_RESET);
}

static void test_a_waiting_flow_may_end(void **state)
{
    struct rlimit limit = limit_now();
    struct flow_under_test full = join(*state, SOCKET_BUFFER), waits = join(*state, 0);

    descriptors_are_out();
    assert_true(send_until_full(*state, full.client, 9, BULK) < BULK);
    send_text(waits.client, "a question");
    assert_false(is_readable(waits.server, 100));
    reset(waits.server);
    expect_over(waits.record, FLOW_RESET);
    expect_reset(waits.client);
    close(waits.client);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
    reset(full.server);
    expect_reset(full.client);
    expect_over(full.record, FLOW_RESET);
    close(full.client);
}

static void test_without_any_pipe_no_flow_starts(void **state)
{
    struct worker *w = *state;
    struct rlimit limit = limit_now();
    int end[2], fd[2];

    for (int i = 0; i < 2; i++)
        tcp_pair(&end[i], &fd[i], 0);
    descriptors_are_out();
    role_enter(&role_fwd);
    assert_int_equal(flow_start(w->flows, fd[0], fd[1], 0, NULL), -EMFILE);
    assert_int_equal(flows_count(w->flows), 0);
    role_leave(&role_fwd);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
    for (int i = 0; i < 2; i++) {
        close(end[i]);
        close(fd[i]);
    }
}

/* ---- turns; here the test is the worker ---- */

static void test_a_bulk_flow_does_not_starve_another(void **state)
{
    struct flow_under_test bulk = join(*state, 0), small = join(*state, 0);
    struct stream s = {.fd = bulk.client, .seed = 10, .total = UINT64_C(8) * BULK, .ends = true}, r = s;
    int64_t longest_ns = 0, total_ns = 0;
    uint32_t n = 0, n_late = 0;

    r.fd = bulk.server;
    stream_start(&s, stream_send);
    stream_start(&r, stream_receive);
    for (int64_t start_ns = clock_monotonic_ns(); n < 200 && !is_over(bulk.record); n++) {
        int64_t now_ns = clock_monotonic_ns();

        expect_echo(&small);
        now_ns = clock_monotonic_ns() - now_ns;
        longest_ns = now_ns > longest_ns ? now_ns : longest_ns;
        n_late += now_ns > NS_PER_S / 10;
        total_ns = clock_monotonic_ns() - start_ns;
    }
    print_message("%u echoes beside the bulk flow: %.0f us each, longest %.0f us\n", n,
                  (double)total_ns / 1e3 / n, (double)longest_ns / 1e3);
    assert_true(n >= 10 && n_late <= n / 10); /* a busy machine makes one late, starving all of them */
    stream_join(&s);
    stream_join(&r);
    close_in_order(&small);
    assert_int_equal(shutdown(bulk.server, SHUT_WR), 0);
    expect_end(bulk.client);
    expect_over(bulk.record, FLOW_CLOSED);
    close(bulk.client);
    close(bulk.server);
}

/* One batch of events, as a worker's loop has it; -1: there was none. */
static int turn(struct worker *w, int timeout) RUNS_ON(role_fwd)
{
    struct epoll_event events[64];
    int n = epoll_wait(w->epoll_fd, events, ARRAY_SIZE(events), timeout);

    for (int i = 0; i < n; i++)
        flows_event(w->flows, events[i].data.u64, events[i].events);
    return flows_turn(w->flows);
}

static void test_a_turn_moves_no_more_than_its_share(void **state)
{
    struct worker *w = *state;
    int client, server, host_fd, guest_fd, timeout;
    uint64_t before, waiting;
    struct record *r;

    tcp_pair(&client, &host_fd, 0);
    tcp_pair(&server, &guest_fd, 0);
    waiting = send_until_full(NULL, client, 11, BULK);
    r = record_new(w, host_fd, guest_fd, 0);
    role_enter(&role_fwd);
    assert_int_equal(flow_start(w->flows, host_fd, guest_fd, 0, r), 0);
    for (before = 0; r->to_guest < waiting;) {
        static char buffer[1 << 20];

        timeout = turn(w, 1000);
        assert_true(r->to_guest - before <= FLOW_TURN_BYTES);
        if (r->to_guest - before == FLOW_TURN_BYTES && r->to_guest < waiting)
            assert_int_equal(timeout, 0);
        before = r->to_guest;
        while (recv(server, buffer, sizeof(buffer), MSG_DONTWAIT) > 0)
            ;
    }
    assert_true(r->n_reports > 1);
    role_leave(&role_fwd);
    close(client);
    close(server);
}

/* The slot's next user is not bothered by what the batch still has for the one before: here it would take the
 * other's reset for one of its own while it connects. */
static void test_an_event_of_a_dead_flow_does_no_harm(void **state)
{
    struct worker *w = *state;
    struct record *first, *second;
    struct sockaddr_in address;
    int end[3], fd[3], filler, listener = listener_full(&address, &filler), n;
    struct epoll_event events[8];

    for (int i = 0; i < 3; i++)
        tcp_pair(&end[i], &fd[i], 0);
    first = record_new(w, fd[0], fd[1], 0);
    second = record_new(w, fd[2], connect_start(&address), 0);
    role_enter(&role_fwd);
    assert_int_equal(flow_start(w->flows, fd[0], fd[1], 0, first), 0);
    assert_int_equal(turn(w, 0), -1);
    reset(end[0]);
    reset(end[1]);
    wait_reset(fd[0]);
    wait_reset(fd[1]);
    n = epoll_wait(w->epoll_fd, events, ARRAY_SIZE(events), 1000);
    assert_int_equal(n, 2);
    flows_event(w->flows, events[0].data.u64, events[0].events);
    assert_true(first->over);
    assert_int_equal(flows_count(w->flows), 0);
    assert_int_equal(flow_start(w->flows, fd[2], second->guest_fd, 0, second), 0);
    for (int i = 0; i < n; i++)
        flows_event(w->flows, events[i].data.u64, events[i].events);
    flows_event(w->flows, tag_base | UINT32_MAX, EPOLLIN); /* nor one of no flow at all */
    assert_int_equal(flows_turn(w->flows), -1);
    assert_false(second->over);
    assert_int_equal(flows_count(w->flows), 1);
    reset(end[2]);
    wait_reset(fd[2]);
    assert_int_equal(turn(w, 1000), -1);
    assert_true(second->over);
    assert_int_equal(second->end, FLOW_RESET);
    role_leave(&role_fwd);
    close(filler);
    close(listener);
}

static void test_what_came_before_a_reset_is_passed_on(void **state)
{
    struct worker *w = *state;
    struct record *r;
    int end[2], fd[2];

    for (int i = 0; i < 2; i++)
        tcp_pair(&end[i], &fd[i], 0);
    r = record_new(w, fd[0], fd[1], 0);
    role_enter(&role_fwd);
    assert_int_equal(flow_start(w->flows, fd[0], fd[1], 0, r), 0);
    send_text(end[1], "the last words");
    reset(end[1]);
    wait_reset(fd[1]);
    assert_int_equal(turn(w, 1000), -1);
    role_leave(&role_fwd);
    assert_true(r->over);
    assert_int_equal(r->end, FLOW_RESET);
    assert_int_equal(r->to_host, strlen("the last words"));
    expect_text(end[0], "the last words");
    expect_reset(end[0]);
    close(end[0]);
}

static void test_a_pipe_that_comes_back_goes_to_who_waits(void **state)
{
    struct worker *w = *state;
    struct rlimit limit = limit_now();
    struct record *r[2];
    int client[2], server[2], host_fd, guest_fd, timeout;
    uint64_t sent, before;
    int64_t end_ns;

    role_enter(&role_fwd);
    for (int i = 0; i < 2; i++) {
        tcp_pair(&client[i], &host_fd, SOCKET_BUFFER);
        tcp_pair(&server[i], &guest_fd, SOCKET_BUFFER);
        r[i] = record_new(w, host_fd, guest_fd, 0);
        assert_int_equal(flow_start(w->flows, host_fd, guest_fd, 0, r[i]), 0);
    }
    descriptors_are_out();
    for (sent = 0, before = 1; sent != before;) {
        before = sent;
        sent += send_until_full(NULL, client[0], 12, BULK);
        for (int i = 0; i < 8; i++)
            (void)turn(w, 0);
    }
    send_text(client[1], "a question");
    end_ns = clock_monotonic_ns() + WAIT_S * NS_PER_S;
    while ((timeout = turn(w, 1000)) == 0) /* it is just the time to try again */
        assert_true(clock_monotonic_ns() < end_ns);
    assert_in_range(timeout, 1, FLOW_PIPE_RETRY_MS);
    assert_int_equal(r[1]->to_guest, 0);
    for (uint64_t done = 0; done < sent;) {
        static char buffer[64 << 10];
        ssize_t n = recv(server[0], buffer, sizeof(buffer), MSG_DONTWAIT);

        done += n > 0 ? (uint64_t)n : 0;
        timeout = turn(w, 0);
    }
    assert_int_equal(timeout, -1); /* nobody waits */
    expect_text(server[1], "a question");
    role_leave(&role_fwd);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
    for (int i = 0; i < 2; i++) {
        close(client[i]);
        close(server[i]);
    }
}

int main(void)
{
#define alone(name) cmocka_unit_test_setup_teardown(name, worker_new, worker_free)
#define with_worker(name) cmocka_unit_test_setup_teardown(name, worker_new_running, worker_free)
    const struct CMUnitTest tests[] = {
        with_worker(test_bytes_arrive_unchanged_both_ways_at_once),
        with_worker(test_urgent_bytes_travel_inline),
        with_worker(test_a_half_close_leaves_the_other_direction_open),
        with_worker(test_a_reset_while_idle_is_passed_on_at_once),
        with_worker(test_a_reset_after_a_half_close_is_passed_on),
        with_worker(test_a_reset_with_bytes_in_the_pipe_is_passed_on),
        with_worker(test_writing_to_somebody_who_has_closed_is_a_reset),
        with_worker(test_what_was_sent_before_an_orderly_close_is_delivered),
        with_worker(test_freeing_resets_what_is_left),
        with_worker(test_a_slow_reader_bounds_what_is_held_and_gets_all),
        with_worker(test_a_refused_connection_gives_the_host_socket_back),
        with_worker(test_a_connection_that_takes_too_long_gives_the_host_socket_back),
        with_worker(test_a_late_connection_has_as_much_time_as_its_owner_gives),
        with_worker(test_what_the_host_said_while_connecting_is_delivered),
        with_worker(test_a_reset_of_the_host_while_connecting_ends_the_flow),
        with_worker(test_many_flows_at_once),
        alone(test_a_full_table_says_so),
        with_worker(test_one_pipe_is_enough_for_many_flows),
        with_worker(test_a_waiting_flow_may_end),
        alone(test_without_any_pipe_no_flow_starts),
        with_worker(test_a_bulk_flow_does_not_starve_another),
        alone(test_a_turn_moves_no_more_than_its_share),
        alone(test_an_event_of_a_dead_flow_does_no_harm),
        alone(test_what_came_before_a_reset_is_passed_on),
        alone(test_a_pipe_that_comes_back_goes_to_who_waits),
    };
    struct rlimit limit = limit_now();

    limit.rlim_cur = limit.rlim_max;
    (void)setrlimit(RLIMIT_NOFILE, &limit);
    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
