/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * micro_splice.c - the splice worker: bytes per call, throughput, hand-off
 *
 * Usage: micro-splice SECONDS
 *
 *   sender ---- host_fd  [ flow ]  guest_fd ---- receiver
 *
 * All sockets are on the loopback. A worker's loop runs in a thread of its own, as in the program, with the
 * flows of src/fwd/flow.c; sender and receiver have a thread each. The linker puts __wrap_splice() before the
 * system call
 * (--wrap=splice), so calls are counted without a change to what is measured. The hand-off is the time that
 * one byte there and back takes longer through a flow than without one.
 *
 * Says one figure a line, as JSON: {"name": ..., "value": ..., "unit": ...}.
 */
#include "base/clock.h"
#include "fwd/flow.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
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
#include <sys/socket.h>
#include <unistd.h>

enum {
    STREAMS_MAX = 16,
    FLOWS = 64,
    PIPES = 16, /* as src/fwd/worker.c keeps */
    EVENTS = 64,
    PIECE = 128 << 10,
    WAIT_MS = 100,    /* how long anybody sleeps before looking whether it is over */
    WARM_MS = 10000,  /* for the first byte of a flow */
    LATE_MS = 5000,   /* how much longer it takes at most while nothing has arrived */
    ROUNDS_MIN = 100, /* of one byte there and back, however long they take */
    ROUNDS_MAX = 1 << 20,
};

#define TAG_BASE (UINT64_C(7) << 32)

/* Written by the worker only while a measurement runs; read when its thread is joined. */
static uint64_t n_calls, n_empty, n_bytes;

ssize_t __real_splice(int, off64_t *, int, off64_t *, size_t, unsigned);
ssize_t __wrap_splice(int from, off64_t *from_at, int to, off64_t *to_at, size_t size, unsigned flags);

ssize_t __wrap_splice(int from, off64_t *from_at, int to, off64_t *to_at, size_t size, unsigned flags)
{
    ssize_t n = __real_splice(from, from_at, to, to_at, size, flags);

    n_calls++;
    n_empty += n <= 0;
    n_bytes += n > 0 ? (uint64_t)n : 0;
    return n;
}

__attribute__((noreturn)) static void die(const char *what)
{
    perror(what);
    exit(1);
}

/* ---- sockets ---- */

static void set_blocking(int fd, bool on)
{
    int flags = fcntl(fd, F_GETFL);

    if (flags < 0 || fcntl(fd, F_SETFL, on ? flags & ~O_NONBLOCK : flags | O_NONBLOCK) < 0) {
        die("fcntl");
    }
}

/* Two ends of a connection over the loopback, not blocking. */
static void tcp_pair(int *ret_a, int *ret_b)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof(address);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    *ret_a = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (listener < 0 || *ret_a < 0 || bind(listener, (struct sockaddr *)&address, sizeof(address)) < 0 ||
        listen(listener, 1) < 0 || getsockname(listener, (struct sockaddr *)&address, &length) < 0 ||
        connect(*ret_a, (struct sockaddr *)&address, sizeof(address)) < 0) {
        die("a connection over the loopback");
    }
    *ret_b = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    if (*ret_b < 0 || flow_socket_prepare(*ret_a) < 0 || flow_socket_prepare(*ret_b) < 0) {
        die("accept");
    }
    close(listener);
    set_blocking(*ret_a, false);
    set_blocking(*ret_b, false);
}

/* ---- the worker ---- */

struct worker {
    struct flows *flows;
    int epoll_fd;
    atomic_bool over; /* relaxed: a flag, with nothing behind it */
    pthread_t thread;
    int n_flows;
    int host_fds[STREAMS_MAX], guest_fds[STREAMS_MAX]; /* to be started */
};

static void on_end(void *arg, void *user, enum flow_end end, int connect_error, int host_fd)
{
    (void)arg, (void)user, (void)end, (void)connect_error, (void)host_fd;
}

static void on_bytes(void *arg, void *user, uint64_t to_guest, uint64_t to_host)
{
    (void)arg, (void)user, (void)to_guest, (void)to_host;
}

static void *worker_run(void *arg)
{
    struct worker *w = arg;
    int wait = WAIT_MS;

    role_enter(&role_fwd);
    for (int i = 0; i < w->n_flows; i++) {
        if (flow_start(w->flows, w->host_fds[i], w->guest_fds[i], FLOW_CONNECTED, NULL) != 0) {
            die("flow_start");
        }
    }
    while (!atomic_load_explicit(&w->over, memory_order_relaxed)) {
        struct epoll_event events[EVENTS];
        int n = epoll_wait(w->epoll_fd, events, EVENTS, wait);

        for (int i = 0; i < n; i++) {
            flows_event(w->flows, events[i].data.u64, events[i].events);
        }
        wait = flows_turn(w->flows);
        wait = wait < 0 || wait > WAIT_MS ? WAIT_MS : wait;
    }
    role_leave(&role_fwd);
    return NULL;
}

/* Joins n pairs of sockets by flows; the outer ends are returned. */
static void worker_start(struct worker *w, uint32_t pipe_size, int n, int *ret_senders, int *ret_receivers)
{
    *w = (struct worker){.epoll_fd = epoll_create1(EPOLL_CLOEXEC), .n_flows = n};
    struct flows_config config = {.epoll_fd = w->epoll_fd,
                                  .tag_base = TAG_BASE,
                                  .flows_max = FLOWS,
                                  .pipe_size = pipe_size,
                                  .pipes_max = PIPES,
                                  .on_end = on_end,
                                  .on_bytes = on_bytes};

    if (w->epoll_fd < 0 || flows_new(&w->flows, &config) < 0) {
        die("a set of flows");
    }
    for (int i = 0; i < n; i++) {
        tcp_pair(&ret_senders[i], &w->host_fds[i]);
        tcp_pair(&w->guest_fds[i], &ret_receivers[i]);
    }
    n_calls = n_empty = n_bytes = 0;
    if (pthread_create(&w->thread, NULL, worker_run, w) != 0) {
        die("pthread_create");
    }
}

static void worker_stop(struct worker *w)
{
    atomic_store_explicit(&w->over, true, memory_order_relaxed);
    pthread_join(w->thread, NULL);
    flows_free(w->flows);
    close(w->epoll_fd);
}

/* One byte through a connection, so that the flow runs before anything is measured. */
static void warm_up(int from, int to)
{
    struct pollfd in = {.fd = to, .events = POLLIN};
    char byte = 'x';

    if (send(from, &byte, 1, MSG_NOSIGNAL) != 1 || poll(&in, 1, WARM_MS) != 1 || recv(to, &byte, 1, 0) != 1) {
        die("the first byte");
    }
}

/* ---- bulk ---- */

struct end {
    struct pollfd polls[STREAMS_MAX];
    int n;
    int64_t until;
    uint64_t bytes; /* received */
    bool sends;
    atomic_bool *arrived; /* relaxed: a flag, with nothing behind it; the receiver sets it */
};

/* Its time is over, and something has arrived: a thread may not have been let run in all that time. */
static bool end_is_over(const struct end *e, int64_t latest)
{
    int64_t now = clock_monotonic_ns();

    return now >= e->until && (now >= latest || atomic_load_explicit(e->arrived, memory_order_relaxed));
}

static void end_received(struct end *e, uint64_t n)
{
    if (e->bytes == 0) {
        int64_t now = clock_monotonic_ns();

        e->until = now > e->until ? now : e->until; /* the figure is of the time that it took */
        atomic_store_explicit(e->arrived, true, memory_order_relaxed);
    }
    e->bytes += n;
}

static void *end_run(void *arg)
{
    static const char piece[PIECE];
    struct end *e = arg;
    const int64_t latest = e->until + LATE_MS * NS_PER_MS;
    char *buffer = malloc(PIECE);

    if (buffer == NULL) {
        die("malloc");
    }
    while (!end_is_over(e, latest)) {
        (void)poll(e->polls, (nfds_t)e->n, WAIT_MS);
        for (int i = 0; i < e->n; i++) {
            ssize_t n;

            if (e->polls[i].revents == 0) {
                continue;
            }
            n = e->sends ? send(e->polls[i].fd, piece, PIECE, MSG_DONTWAIT | MSG_NOSIGNAL)
                         : recv(e->polls[i].fd, buffer, PIECE, MSG_DONTWAIT);
            if (n > 0 && !e->sends) {
                end_received(e, (uint64_t)n);
            } else if (n == 0 || (n < 0 && errno != EAGAIN)) {
                die("a connection broke off");
            }
        }
    }
    free(buffer);
    return NULL;
}

static void say(const char *what, uint32_t pipe_size, int n, double value, const char *unit)
{
    printf("{\"name\": \"splice, pipe %u KiB, %d stream%s: %s\", \"value\": %.3f, \"unit\": \"%s\"}\n",
           pipe_size >> 10, n, n == 1 ? "" : "s", what, value, unit);
}

static void measure_bulk(uint32_t pipe_size, int n, double seconds)
{
    atomic_bool arrived = false;
    struct end ends[2] = {{.n = n, .sends = true, .arrived = &arrived}, {.n = n, .arrived = &arrived}};
    int senders[STREAMS_MAX], receivers[STREAMS_MAX];
    int64_t begin = 0;
    pthread_t threads[2];
    struct worker w;

    worker_start(&w, pipe_size, n, senders, receivers);
    for (int i = 0; i < n; i++) {
        warm_up(senders[i], receivers[i]);
        ends[0].polls[i] = (struct pollfd){.fd = senders[i], .events = POLLOUT};
        ends[1].polls[i] = (struct pollfd){.fd = receivers[i], .events = POLLIN};
    }
    for (int i = 0; i < 2; i++) {
        begin = clock_monotonic_ns();
        ends[i].until = begin + (int64_t)(seconds * (double)NS_PER_S);
        if (pthread_create(&threads[i], NULL, end_run, &ends[i]) != 0) {
            die("pthread_create");
        }
    }
    for (int i = 0; i < 2; i++) {
        pthread_join(threads[i], NULL);
    }
    worker_stop(&w);
    for (int i = 0; i < n; i++) {
        close(senders[i]);
        close(receivers[i]);
    }
    if (n_calls == n_empty || ends[1].bytes == 0) {
        errno = 0;
        die("nothing was moved");
    }
    say("throughput", pipe_size, n, (double)ends[1].bytes * 8 / (double)(ends[1].until - begin), "Gbit/s");
    say("bytes per call", pipe_size, n, (double)n_bytes / (double)(n_calls - n_empty), "B");
    say("calls in vain", pipe_size, n, (double)n_empty * 100 / (double)n_calls, "%");
}

/* ---- hand-off ---- */

static int compare_ns(const void *a, const void *b)
{
    const int64_t *x = a, *y = b;

    return (*x > *y) - (*x < *y);
}

static void *echo_run(void *arg)
{
    int fd = *(int *)arg;
    char byte;

    while (recv(fd, &byte, 1, 0) == 1 && send(fd, &byte, 1, MSG_NOSIGNAL) == 1) {
    }
    return NULL;
}

/* Median of one byte from `client` to `server` and back, in µs. */
static double round_trip_us(int client, int server, double seconds)
{
    int64_t *ns = malloc(ROUNDS_MAX * sizeof(*ns)),
            until = clock_monotonic_ns() + (int64_t)(seconds * (double)NS_PER_S);
    size_t n = 0;
    pthread_t thread;
    double median;
    size_t middle;
    char byte = 'x';

    set_blocking(client, true);
    set_blocking(server, true);
    if (ns == NULL || pthread_create(&thread, NULL, echo_run, &server) != 0) {
        die("a thread that answers");
    }
    while (n < ROUNDS_MAX && (n < ROUNDS_MIN || clock_monotonic_ns() < until)) {
        int64_t start = clock_monotonic_ns();

        if (send(client, &byte, 1, MSG_NOSIGNAL) != 1 || recv(client, &byte, 1, 0) != 1) {
            die("one byte there and back");
        }
        ns[n++] = clock_monotonic_ns() - start;
    }
    shutdown(client, SHUT_RDWR);
    pthread_join(thread, NULL);
    qsort(ns, n, sizeof(*ns), compare_ns);
    middle = n / 2;
    median = (double)ns[middle] / 1000;
    free(ns);
    return median;
}

static void measure_hand_off(double seconds)
{
    int client, server;
    double direct, joined;
    struct worker w;

    tcp_pair(&client, &server);
    direct = round_trip_us(client, server, seconds);
    close(client);
    close(server);
    worker_start(&w, 512 << 10, 1, &client, &server);
    joined = round_trip_us(client, server, seconds);
    worker_stop(&w);
    close(client);
    close(server);
    printf("{\"name\": \"one byte there and back, direct\", \"value\": %.3f, \"unit\": \"us\"}\n", direct);
    printf("{\"name\": \"one byte there and back, through a flow\", \"value\": %.3f, \"unit\": \"us\"}\n",
           joined);
    printf("{\"name\": \"hand-off of a flow, one way\", \"value\": %.3f, \"unit\": \"us\"}\n",
           (joined - direct) / 2);
}

int main(int argc, char **argv)
{
    static const uint32_t pipe_sizes[] = {64 << 10, 256 << 10, 512 << 10, 1 << 20};
    char *end = NULL;
    double seconds = argc == 2 ? strtod(argv[1], &end) : 0;

    if (argc != 2 || end == argv[1] || *end != '\0' || !(seconds >= 0.01 && seconds <= 60)) {
        fputs("Usage: micro-splice SECONDS\n", stderr);
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    for (size_t i = 0; i < sizeof(pipe_sizes) / sizeof(pipe_sizes[0]); i++) {
        measure_bulk(pipe_sizes[i], 1, seconds);
        measure_bulk(pipe_sizes[i], STREAMS_MAX, seconds);
    }
    measure_hand_off(seconds);
    return 0;
}
