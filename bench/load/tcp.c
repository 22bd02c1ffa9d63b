/* SPDX-License-Identifier: GPL-2.0-or-later */
/* tcp.c - clients over TCP, and the ping-pong over UDP; see load.h */
#include <errno.h>
#include <inttypes.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "load.h"

enum {
    PROBE_TIMEOUT_MS = 1000, /* for one answer over TCP */
    PROBE_PAUSE_MS = 10,     /* between two tries */
};

/* ---- bulk ---- */

struct flow {
    uint64_t sent, received;
    uint8_t
        last[1 + sizeof(struct report)]; /* the last bytes received: at the end BLOCK_END and the report */
    bool said_end, done;
};

struct bulk {
    struct pollfd polls[MAX_STREAMS];
    struct flow flows[MAX_STREAMS];
    int n_streams;
    uint64_t begin, end;
    uint64_t counted; /* received within the window, by this side */
};

/* Keeps the last bytes of what has come. */
static void keep_last(struct flow *flow, const uint8_t *bytes, size_t n)
{
    if (n >= sizeof(flow->last)) {
        memcpy(flow->last, bytes + n - sizeof(flow->last), sizeof(flow->last));
    } else {
        memmove(flow->last, flow->last + n, sizeof(flow->last) - n);
        memcpy(flow->last + sizeof(flow->last) - n, bytes, n);
    }
}

/* Reads from a stream what is there. */
static void bulk_read(struct bulk *bulk, int i)
{
    struct flow *flow = &bulk->flows[i];
    ssize_t n = recv(bulk->polls[i].fd, buffer, sizeof(buffer), MSG_DONTWAIT);
    uint64_t now = now_ns();

    if (n < 0 && errno == EAGAIN) {
        return;
    }
    if (n <= 0) {
        errno = n < 0 ? errno : 0;
        die("stream %d ended %s", i, now < bulk->end ? "before the window" : "without a report");
    }
    keep_last(flow, buffer, (size_t)n);
    flow->received += (uint64_t)n;
    if (now >= bulk->begin && now < bulk->end) {
        bulk->counted += (uint64_t)n;
    }
    flow->done = flow->received >= sizeof(flow->last) &&
                 (flow->received - sizeof(flow->last)) % WRITE_BYTES == 0 && flow->last[0] == BLOCK_END;
}

/* Sends the next part of a block. */
static void bulk_write(struct bulk *bulk, int i)
{
    ssize_t n = block_send(bulk->polls[i].fd, bulk->flows[i].sent);

    if (n < 0 && errno != EAGAIN) {
        die("stream %d broke off", i);
    }
    bulk->flows[i].sent += n > 0 ? (uint64_t)n : 0;
}

/* Moves data on all streams until the window is over. */
static void bulk_window(struct bulk *bulk)
{
    while (now_ns() < bulk->end) {
        if (poll(bulk->polls, (nfds_t)bulk->n_streams, ms_until(bulk->end, 1000)) < 0 && errno != EINTR) {
            die("poll");
        }
        for (int i = 0; i < bulk->n_streams; i++) {
            if ((bulk->polls[i].revents & ~POLLOUT) != 0) {
                bulk_read(bulk, i);
            }
            if ((bulk->polls[i].revents & POLLOUT) != 0) {
                bulk_write(bulk, i);
            }
        }
    }
}

/* Sends the rest of the last block, and that it was the last one. */
static void bulk_end(struct bulk *bulk, int i)
{
    static const uint8_t end = BLOCK_END;
    struct flow *flow = &bulk->flows[i];

    if (flow->sent % WRITE_BYTES != 0) {
        bulk_write(bulk, i);
    }
    if (flow->sent % WRITE_BYTES == 0 && send(bulk->polls[i].fd, &end, 1, MSG_DONTWAIT) == 1) {
        flow->said_end = true;
        bulk->polls[i].events = POLLIN;
    }
}

/* Lets what is under way arrive. Returns how many streams are stuck so long after the window. */
static int bulk_drain(struct bulk *bulk, double drain_s)
{
    uint64_t due = bulk->end + length_ns(drain_s);
    int open = bulk->n_streams;

    for (int i = 0; i < bulk->n_streams; i++) {
        bulk->polls[i].events = POLLIN | POLLOUT;
    }
    while (open > 0 && now_ns() < due) {
        if (poll(bulk->polls, (nfds_t)bulk->n_streams, ms_until(due, 1000)) < 0 && errno != EINTR) {
            die("poll");
        }
        for (int i = 0; i < bulk->n_streams; i++) {
            struct flow *flow = &bulk->flows[i];

            if (flow->done) {
                continue;
            }
            if ((bulk->polls[i].revents & ~POLLOUT) != 0) {
                bulk_read(bulk, i);
            }
            if ((bulk->polls[i].revents & POLLOUT) != 0 && !flow->said_end) {
                bulk_end(bulk, i);
            }
            if (flow->done) {
                open--;
                bulk->polls[i].events = 0;
                bulk->polls[i].fd = -1 - bulk->polls[i].fd; /* poll() passes over it */
            }
        }
    }
    return open;
}

/* Compares what was sent with what has arrived, for both directions of every stream that is at its end.
 * Returns what the server counted of these within the window. */
static uint64_t bulk_compare(const struct bulk *bulk)
{
    uint64_t counted = 0;

    errno = 0;
    for (int i = 0; i < bulk->n_streams; i++) {
        const struct flow *flow = &bulk->flows[i];
        struct report report;

        if (!flow->done) {
            continue;
        }
        memcpy(&report, flow->last + 1, sizeof(report));
        if (report.received != flow->sent || report.sent != flow->received - sizeof(flow->last)) {
            die("stream %d: the client sent %" PRIu64 " bytes and the server got %" PRIu64
                ", the server sent %" PRIu64 " and the client got %" PRIu64,
                i, flow->sent, report.received, report.sent, flow->received - sizeof(flow->last));
        }
        counted += report.counted;
    }
    return counted;
}

/* What the server has counted of the streams that are stuck, by a connection of its own. */
static uint64_t ask_for_counts(const struct sockaddr_in *sin, const struct bulk *bulk)
{
    struct head head = {.op = OP_COUNTED, .begin = bulk->begin, .end = bulk->end};
    struct report report;
    int fd = tcp_connect(sin);

    if (fd < 0) {
        die("connect for the counts of streams that are stuck");
    }
    errno = 0;
    if (send(fd, &head, sizeof(head), 0) != (ssize_t)sizeof(head) ||
        recv(fd, &report, sizeof(report), MSG_WAITALL) != (ssize_t)sizeof(report)) {
        die("no counts of the streams that are stuck");
    }
    close(fd);
    return report.counted;
}

void tcp_bulk(const char *mode, const struct sockaddr_in *sin, int n_streams, double seconds, double drain_s,
              enum op op)
{
    static struct bulk bulk;
    struct head head = {.op = (uint8_t)op};
    uint64_t out, sent = 0, received = 0, start;
    double window;
    int stuck;

    bulk.n_streams = n_streams;
    for (int i = 0; i < n_streams; i++) {
        bulk.polls[i].fd = tcp_connect(sin);
        if (bulk.polls[i].fd < 0) {
            die("connect of stream %d", i);
        }
        bulk.polls[i].events = (short)((op != OP_SINK ? POLLIN : 0) | (op != OP_SOURCE ? POLLOUT : 0));
    }
    start = now_ns();
    head.begin = bulk.begin = start + length_ns(seconds) / 10;
    head.end = bulk.end = start + length_ns(seconds);
    for (int i = 0; i < n_streams; i++) {
        if (send(bulk.polls[i].fd, &head, sizeof(head), 0) != (ssize_t)sizeof(head)) {
            die("send of the head of stream %d", i);
        }
    }
    bulk_window(&bulk);
    stuck = bulk_drain(&bulk, drain_s);
    out = bulk_compare(&bulk) + (stuck > 0 ? ask_for_counts(sin, &bulk) : 0);
    for (int i = 0; i < n_streams; i++) {
        sent += bulk.flows[i].sent;
        received += bulk.flows[i].received - (bulk.flows[i].done ? sizeof(bulk.flows[i].last) : 0);
    }
    window = (double)(bulk.end - bulk.begin) / (double)NS_PER_S;
    printf("{\"mode\": \"%s\", \"streams\": %d, \"seconds\": %.3f, \"window_s\": %.6f, \"bytes\": %" PRIu64
           ", \"bits_per_s\": %.0f, \"out_bits_per_s\": %.0f, \"in_bits_per_s\": %.0f, \"sent\": %" PRIu64
           ", \"received\": %" PRIu64 ", \"stuck\": %d}\n",
           mode, n_streams, seconds, window, out + bulk.counted, (double)(out + bulk.counted) * 8 / window,
           (double)out * 8 / window, (double)bulk.counted * 8 / window, sent, received, stuck);
}

/* ---- ping-pong ---- */

enum round { ROUND_DONE, ROUND_LOST, ROUND_STOP };

/* One byte there and back over a connected TCP socket. */
static enum round tcp_round(int fd)
{
    uint8_t byte = OP_ECHO;

    errno = 0;
    if (send(fd, &byte, 1, 0) != 1) {
        die("send");
    }
    errno = 0;
    if (recv(fd, &byte, 1, 0) != 1) {
        die("recv");
    }
    return ROUND_DONE;
}

/* One datagram there and back; its byte tells its answer from late ones. */
static enum round udp_round(int fd, uint8_t number, uint64_t start)
{
    if (send(fd, &number, 1, 0) != 1) {
        return ROUND_LOST;
    }
    while (now_ns() < start + UDP_TIMEOUT_MS * NS_PER_MS) {
        uint8_t answer;

        if (recv(fd, &answer, 1, 0) != 1) {
            return ROUND_LOST;
        }
        if (answer == number) {
            return ROUND_DONE;
        }
    }
    return ROUND_LOST;
}

/* A whole connection for one byte. */
static enum round crr_round(const struct sockaddr_in *sin)
{
    int fd = tcp_connect(sin);

    if (fd < 0) {
        if (errno == EADDRNOTAVAIL) {
            return ROUND_STOP; /* all local ports are in TIME_WAIT: the figure is of the time until here */
        }
        die("connect");
    }
    tcp_round(fd);
    close(fd);
    return ROUND_DONE;
}

/* Tries until one byte has gone there and back. */
void probe(const char *mode, const struct sockaddr_in *sin, double seconds, bool udp)
{
    uint64_t end = now_ns() + length_ns(seconds), n_tries = 0;

    for (;;) {
        int fd = udp ? udp_connect(sin, 0) : tcp_connect(sin);
        uint8_t sent = OP_ECHO, got = 0;
        bool answered;

        n_tries++;
        if (fd >= 0) {
            set_timeout(fd, SO_RCVTIMEO, (udp ? UDP_TIMEOUT_MS : PROBE_TIMEOUT_MS) * NS_PER_MS);
        }
        answered = fd >= 0 && send(fd, &sent, 1, 0) == 1 && recv(fd, &got, 1, 0) == 1 && got == sent;
        if (answered) {
            printf("{\"mode\": \"%s\", \"tries\": %" PRIu64 "}\n", mode, n_tries);
            close(fd);
            return;
        }
        if (now_ns() >= end) {
            die("nothing gets through in %g s and %" PRIu64 " tries", seconds, n_tries);
        }
        if (fd >= 0) {
            close(fd);
        }
        usleep(PROBE_PAUSE_MS * 1000);
    }
}

/* The result of a client that has counted answers. */
static void print_rate(const char *mode, double seconds, uint64_t count, uint64_t lost, uint64_t elapsed,
                       struct samples *samples)
{
    if (samples->n == 0) {
        errno = 0;
        die("%s: no answer was measured (%" PRIu64 " lost)", mode, lost);
    }
    printf("{\"mode\": \"%s\", \"seconds\": %.3f, \"count\": %" PRIu64 ", \"lost\": %" PRIu64
           ", \"per_second\": %.1f",
           mode, seconds, count, lost, (double)count * (double)NS_PER_S / (double)elapsed);
    samples_print(samples);
    printf("}\n");
}

void ping_pong(const char *mode, const struct sockaddr_in *sin, double seconds, enum ping kind)
{
    struct samples samples = {0};
    uint64_t count = 0, lost = 0, t;
    int fd = -1;

    if (kind == PING_TCP) {
        fd = tcp_connect(sin);
        if (fd < 0) {
            die("connect");
        }
    } else if (kind == PING_UDP) {
        fd = udp_connect(sin, 0);
        set_timeout(fd, SO_RCVTIMEO, UDP_TIMEOUT_MS * NS_PER_MS);
    }
    t = now_ns();
    struct window window = window_from(t, seconds);
    uint64_t number = 0;
    while (t < window_end(&window, count)) {
        enum round round = kind == PING_TCP   ? tcp_round(fd)
                           : kind == PING_UDP ? udp_round(fd, (uint8_t)number++, t)
                                              : crr_round(sin);
        uint64_t before = t;

        t = now_ns();
        if (round == ROUND_STOP) {
            break;
        }
        if (before < window.begin) {
            continue;
        }
        if (round == ROUND_LOST) {
            lost++;
        } else {
            count++;
            samples_add(&samples, t - before);
        }
    }
    print_rate(mode, seconds, count, lost, t > window.begin ? t - window.begin : 1, &samples);
}

/* ---- many connections at the same time ---- */

struct attempt {
    int fd;
    bool connected;
    uint64_t start;
};

/* Starts one connection; false when all local ports are in TIME_WAIT. */
static bool attempt_start(struct attempt *attempt, int epoll_fd, const struct sockaddr_in *sin)
{
    struct epoll_event event = {.events = EPOLLOUT, .data = {.ptr = attempt}};
    struct linger none = {.l_onoff = 0};

    *attempt = (struct attempt){.fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0),
                                .start = now_ns()};
    if (attempt->fd < 0) {
        die("socket");
    }
    (void)setsockopt(attempt->fd, SOL_SOCKET, SO_LINGER, &none, sizeof(none));
    if (connect(attempt->fd, (const struct sockaddr *)sin, sizeof(*sin)) < 0 && errno != EINPROGRESS) {
        if (errno == EADDRNOTAVAIL) {
            close(attempt->fd);
            attempt->fd = -1;
            return false;
        }
        die("connect");
    }
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, attempt->fd, &event) < 0) {
        die("epoll_ctl");
    }
    return true;
}

/* Goes on with a connection; true when its byte has come back. */
static bool attempt_event(struct attempt *attempt, int epoll_fd)
{
    struct epoll_event event = {.events = EPOLLIN, .data = {.ptr = attempt}};
    uint8_t byte = OP_ECHO;

    if (attempt->connected) {
        errno = 0;
        if (recv(attempt->fd, &byte, 1, 0) == 1) {
            return true;
        }
        if (errno == EAGAIN) {
            return false;
        }
        die("a connection ended before its answer");
    }
    int error = 0;
    socklen_t error_len = sizeof(error);
    if (getsockopt(attempt->fd, SOL_SOCKET, SO_ERROR, &error, &error_len) < 0 || error != 0) {
        errno = error;
        die("connect");
    }
    attempt->connected = true;
    if (send(attempt->fd, &byte, 1, 0) != 1 || epoll_ctl(epoll_fd, EPOLL_CTL_MOD, attempt->fd, &event) < 0) {
        die("send of the first byte");
    }
    return false;
}

void connect_many(const char *mode, const struct sockaddr_in *sin, int parallel, double seconds)
{
    struct samples samples = {0};
    struct attempt *attempts = calloc((size_t)parallel, sizeof(*attempts));
    int epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    uint64_t start = now_ns(), count = 0, now = start, last = start;
    struct window window = window_from(start, seconds);
    bool ports = true;

    if (attempts == NULL || epoll_fd < 0) {
        die("no room for %d connections", parallel);
    }
    raise_descriptor_limit();
    for (int i = 0; i < parallel && ports; i++) {
        ports = attempt_start(&attempts[i], epoll_fd, sin);
    }
    while (now < window_end(&window, count) && ports) {
        struct epoll_event events[BATCH];
        int n = epoll_wait(epoll_fd, events, BATCH, ms_until(window_end(&window, count), 1000));

        if (n < 0 && errno != EINTR) {
            die("epoll_wait");
        }
        for (int i = 0; i < n && ports; i++) {
            struct attempt *attempt = events[i].data.ptr;

            if (!attempt_event(attempt, epoll_fd)) {
                continue;
            }
            last = now_ns();
            if (window_has(&window, last, count)) {
                count++;
                samples_add(&samples, last - attempt->start);
            }
            close(attempt->fd);
            ports = attempt_start(attempt, epoll_fd, sin);
        }
        now = now_ns();
        if (now > last + CONNECT_TIMEOUT_S * NS_PER_S) {
            errno = 0;
            die("no connection was answered for %d s", CONNECT_TIMEOUT_S);
        }
    }
    now = ports ? window.end : now; /* without ports the figure is of the time until here */
    print_rate(mode, seconds, count, 0, now > window.begin ? now - window.begin : 1, &samples);
    free(attempts);
}

/* ---- connections that do nothing ---- */

/* Opens them, says so, keeps them until its standard input is closed, and counts those that are still there.
 */
void idle(const char *mode, const struct sockaddr_in *sin, int count, double seconds)
{
    uint64_t end = now_ns() + length_ns(seconds);
    int *fds = calloc((size_t)count + 1, sizeof(*fds));
    struct pollfd in = {.fd = STDIN_FILENO, .events = POLLIN};
    int alive = 0;

    if (fds == NULL) {
        die("calloc");
    }
    raise_descriptor_limit();
    for (int i = 0; i < count; i++) {
        fds[i] = tcp_connect(sin);
        if (fds[i] < 0) {
            die("connect of connection %d", i + 1);
        }
        tcp_round(fds[i]);
        if (now_ns() >= end) {
            errno = 0;
            die("only %d of %d connections were made in %g s", i + 1, count, seconds);
        }
    }
    printf("{\"mode\": \"%s\", \"open\": %d}\n", mode, count);
    fflush(stdout);
    while (now_ns() < end && poll(&in, 1, ms_until(end, 1000)) <= 0) {
    }
    for (int i = 0; i < count; i++) {
        uint8_t byte;

        alive += recv(fds[i], &byte, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN;
    }
    printf("{\"mode\": \"%s\", \"alive\": %d}\n", mode, alive);
    free(fds);
}
