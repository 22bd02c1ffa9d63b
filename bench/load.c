/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A small load generator for bench/compare: one server that does everything, and clients that measure one
 * thing and print one JSON object. Client and server run on one machine (in different network namespaces) and
 * share CLOCK_MONOTONIC: a bulk client sends its measuring window as absolute times, so that all streams are
 * counted at the receiver over the very same window.
 *
 * A TCP connection starts with one byte that says what the server does:
 *   'S' window  sink: reads, counts what comes within the window, and answers the count when the window is
 * over 'G' window  source: sends until the window is over 'E'         echo: that byte and every later one is
 * sent back A window is two 64-bit times in ns, in host order. UDP datagrams to the same port are echoed.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_S UINT64_C(1000000000)
#define NS_PER_MS UINT64_C(1000000)

enum {
    MAX_STREAMS = 64,
    BATCH = 64,               /* events, accepts or datagrams handled in one go */
    HEAD_BYTES = 1 + 2 * 8,   /* operation and window */
    WRITE_BYTES = 128 * 1024, /* one bulk write */
    READ_BYTES = 256 * 1024,  /* one bulk read */
    CONNECT_TIMEOUT_S = 5,    /* also for one answer of a ping-pong over TCP */
    UDP_TIMEOUT_MS = 200,     /* a datagram not answered by then is lost */
    REPORT_TIMEOUT_S = 5,     /* how long a sink's answer may take after the window */
    LINGER_S = 5,             /* how long the server drains a sink after the window */
    SERVE_S = 3600,           /* lifetime of a server unless told */
    MAX_SECONDS = 24 * 3600,
    MAX_SAMPLES = 16 * 1024 * 1024,
};

static uint8_t buffer[READ_BYTES];

__attribute__((noreturn, format(printf, 1, 2))) static void die(const char *format, ...)
{
    va_list ap;
    int saved = errno;

    fputs("load: ", stderr);
    va_start(ap, format);
    vfprintf(stderr, format, ap);
    va_end(ap);
    if (saved != 0) {
        fprintf(stderr, ": %s", strerror(saved));
    }
    fputc('\n', stderr);
    exit(1);
}

static uint64_t now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

/* Milliseconds until `when`, rounded up, at most `limit`. */
static int ms_until(uint64_t when, int limit)
{
    uint64_t now = now_ns(), ms;

    if (when <= now) {
        return 0;
    }
    ms = (when - now + NS_PER_MS - 1) / NS_PER_MS;
    return ms < (uint64_t)limit ? (int)ms : limit;
}

static double parse_number(const char *text, const char *what, double low, double high)
{
    char *end;
    double value;

    errno = 0;
    value = strtod(text, &end);
    if (end == text || *end != '\0' || errno != 0 || !(value >= low && value <= high)) {
        errno = 0;
        die("%s: '%s' is not a number from %g to %g", what, text, low, high);
    }
    return value;
}

static struct sockaddr_in parse_address(const char *addr, const char *port)
{
    struct sockaddr_in sin = {.sin_family = AF_INET};

    sin.sin_port = htons((uint16_t)parse_number(port, "PORT", 0, 65535));
    if (inet_pton(AF_INET, addr, &sin.sin_addr) != 1) {
        errno = 0;
        die("ADDR: '%s' is not an IPv4 address", addr);
    }
    return sin;
}

static void set_timeout(int fd, int option, uint64_t ns)
{
    struct timeval tv = {.tv_sec = (time_t)(ns / NS_PER_S), .tv_usec = (suseconds_t)(ns % NS_PER_S / 1000)};

    if (setsockopt(fd, SOL_SOCKET, option, &tv, sizeof(tv)) < 0) {
        die("setsockopt(timeout)");
    }
}

static void set_nodelay(int fd)
{
    int one = 1;

    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
}

/* ---- the server ---- */

struct conn {
    int fd;
    size_t have; /* bytes of head that are there */
    uint8_t head[HEAD_BYTES];
    uint64_t begin, end, counted;
    bool reported;
};

struct server {
    int epoll_fd, listen_fd, udp_fd;
    struct conn *windowed[MAX_STREAMS]; /* sinks and sources: looked at when their window ends */
};

static void watch(const struct server *server, int how, int fd, uint32_t events, void *what)
{
    struct epoll_event event = {.events = events, .data = {.ptr = what}};

    if (epoll_ctl(server->epoll_fd, how, fd, &event) < 0) {
        die("epoll_ctl");
    }
}

static void conn_close(struct server *server, struct conn *conn)
{
    for (int i = 0; i < MAX_STREAMS; i++) {
        if (server->windowed[i] == conn) {
            server->windowed[i] = NULL;
        }
    }
    close(conn->fd);
    free(conn);
}

static void server_accept(struct server *server)
{
    for (int i = 0; i < BATCH; i++) {
        struct conn *conn;
        int fd = accept4(server->listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

        if (fd < 0) {
            return;
        }
        conn = calloc(1, sizeof(*conn));
        if (conn == NULL) {
            die("calloc");
        }
        conn->fd = fd;
        set_nodelay(fd);
        watch(server, EPOLL_CTL_ADD, fd, EPOLLIN, conn);
    }
}

static void server_udp(const struct server *server)
{
    for (int i = 0; i < BATCH; i++) {
        struct sockaddr_in from;
        socklen_t from_len = sizeof(from);
        ssize_t n = recvfrom(server->udp_fd, buffer, sizeof(buffer), 0, (struct sockaddr *)&from, &from_len);

        if (n < 0) {
            return;
        }
        (void)sendto(server->udp_fd, buffer, (size_t)n, 0, (struct sockaddr *)&from, from_len);
    }
}

/* Takes the window from a complete head; false when it makes no sense or there are too many streams. */
static bool conn_window(struct server *server, struct conn *conn)
{
    uint64_t now = now_ns();

    memcpy(&conn->begin, conn->head + 1, sizeof(conn->begin));
    memcpy(&conn->end, conn->head + 9, sizeof(conn->end));
    if (conn->begin >= conn->end || conn->end > now + MAX_SECONDS * NS_PER_S) {
        return false;
    }
    for (int i = 0; i < MAX_STREAMS; i++) {
        if (server->windowed[i] == NULL) {
            server->windowed[i] = conn;
            if (conn->head[0] == 'G') {
                watch(server, EPOLL_CTL_MOD, conn->fd, EPOLLOUT, conn);
            }
            return true;
        }
    }
    return false;
}

/* Something can be done on a connection; false when it is at its end. */
static bool conn_event(struct server *server, struct conn *conn)
{
    ssize_t n;

    if (conn->have == 0) {
        n = recv(conn->fd, conn->head, 1, 0);
        if (n <= 0) {
            return n < 0 && errno == EAGAIN;
        }
        conn->have = 1;
        if (conn->head[0] == 'E') {
            return send(conn->fd, conn->head, 1, 0) == 1;
        }
        if (conn->head[0] != 'S' && conn->head[0] != 'G') {
            return false;
        }
    }
    if (conn->head[0] == 'E') {
        n = recv(conn->fd, buffer, sizeof(buffer), 0);
        if (n <= 0) {
            return n < 0 && errno == EAGAIN;
        }
        return send(conn->fd, buffer, (size_t)n, 0) == n; /* for ping-pong: what does not fit ends it */
    }
    if (conn->have < HEAD_BYTES) {
        n = recv(conn->fd, conn->head + conn->have, HEAD_BYTES - conn->have, 0);
        if (n <= 0) {
            return n < 0 && errno == EAGAIN;
        }
        conn->have += (size_t)n;
        return conn->have < HEAD_BYTES || conn_window(server, conn);
    }
    if (conn->head[0] == 'G') {
        n = send(conn->fd, buffer, WRITE_BYTES, 0);
        return n >= 0 || errno == EAGAIN;
    }
    n = recv(conn->fd, buffer, sizeof(buffer), 0);
    if (n <= 0) {
        return n < 0 && errno == EAGAIN;
    }
    uint64_t now = now_ns();
    if (now >= conn->begin && now < conn->end) {
        conn->counted += (uint64_t)n;
    }
    return true;
}

/* Ends what is due, and says when to look again. */
static uint64_t server_windows(struct server *server, uint64_t latest)
{
    uint64_t now = now_ns(), next = latest;

    for (int i = 0; i < MAX_STREAMS; i++) {
        struct conn *conn = server->windowed[i];
        uint64_t due;

        if (conn == NULL) {
            continue;
        }
        if (now >= conn->end && conn->head[0] == 'S' && !conn->reported) {
            conn->reported = true;
            if (send(conn->fd, &conn->counted, sizeof(conn->counted), 0) != (ssize_t)sizeof(conn->counted)) {
                conn_close(server, conn);
                continue;
            }
        }
        due = conn->reported ? conn->end + LINGER_S * NS_PER_S : conn->end;
        if (now >= due) {
            conn_close(server, conn);
        } else if (due < next) {
            next = due;
        }
    }
    return next;
}

static int open_server_socket(const struct sockaddr_in *sin, int type)
{
    int one = 1;
    int fd = socket(AF_INET, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    if (fd < 0) {
        die("socket");
    }
    if (type == SOCK_STREAM) {
        (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    }
    if (bind(fd, (const struct sockaddr *)sin, sizeof(*sin)) < 0) {
        die("bind");
    }
    if (type == SOCK_STREAM && listen(fd, 1024) < 0) {
        die("listen");
    }
    return fd;
}

static void serve(struct sockaddr_in sin, double seconds)
{
    struct server server = {.epoll_fd = epoll_create1(EPOLL_CLOEXEC)};
    uint64_t end = now_ns() + (uint64_t)(seconds * (double)NS_PER_S), next = end;
    socklen_t sin_len = sizeof(sin);

    if (server.epoll_fd < 0) {
        die("epoll_create1");
    }
    server.listen_fd = open_server_socket(&sin, SOCK_STREAM);
    if (getsockname(server.listen_fd, (struct sockaddr *)&sin, &sin_len) < 0) { /* when the port was 0 */
        die("getsockname");
    }
    server.udp_fd = open_server_socket(&sin, SOCK_DGRAM);
    watch(&server, EPOLL_CTL_ADD, server.listen_fd, EPOLLIN, &server.listen_fd);
    watch(&server, EPOLL_CTL_ADD, server.udp_fd, EPOLLIN, &server.udp_fd);
    printf("{\"mode\": \"serve\", \"port\": %u}\n", (unsigned)ntohs(sin.sin_port));
    fflush(stdout);

    while (now_ns() < end) {
        struct epoll_event events[BATCH];
        int n = epoll_wait(server.epoll_fd, events, BATCH, ms_until(next, 1000));

        if (n < 0 && errno != EINTR) {
            die("epoll_wait");
        }
        for (int i = 0; i < n; i++) {
            void *what = events[i].data.ptr;

            if (what == &server.listen_fd) {
                server_accept(&server);
            } else if (what == &server.udp_fd) {
                server_udp(&server);
            } else if (!conn_event(&server, what)) {
                conn_close(&server, what);
            }
        }
        next = server_windows(&server, end);
    }
}

/* ---- the clients ---- */

static int tcp_connect(const struct sockaddr_in *sin)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0) {
        die("socket");
    }
    set_timeout(fd, SO_SNDTIMEO, CONNECT_TIMEOUT_S * NS_PER_S);
    set_timeout(fd, SO_RCVTIMEO, CONNECT_TIMEOUT_S * NS_PER_S);
    set_nodelay(fd);
    if (connect(fd, (const struct sockaddr *)sin, sizeof(*sin)) < 0) {
        int saved = errno;

        close(fd);
        errno = saved;
        return -1;
    }
    return fd;
}

/* Moves data on all streams until the window is over; returns what was received within it. */
static uint64_t bulk(struct pollfd *streams, int n_streams, bool out, uint64_t begin, uint64_t end)
{
    uint64_t counted = 0;

    while (now_ns() < end) {
        if (poll(streams, (nfds_t)n_streams, ms_until(end, 1000)) < 0 && errno != EINTR) {
            die("poll");
        }
        for (int i = 0; i < n_streams; i++) {
            ssize_t n;

            if (streams[i].revents == 0) {
                continue;
            }
            n = out ? send(streams[i].fd, buffer, WRITE_BYTES, MSG_DONTWAIT)
                    : recv(streams[i].fd, buffer, sizeof(buffer), MSG_DONTWAIT);
            uint64_t now = now_ns();
            if (n < 0 && errno == EAGAIN) {
                continue;
            }
            if (n <= 0 && now < end) {
                errno = n < 0 ? errno : 0;
                die("stream %d ended before the window", i);
            }
            if (n > 0 && now >= begin && now < end) {
                counted += (uint64_t)n;
            }
        }
    }
    return counted;
}

/* What the sinks counted. */
static uint64_t collect_reports(const struct pollfd *streams, int n_streams)
{
    uint64_t sum = 0;

    for (int i = 0; i < n_streams; i++) {
        uint64_t counted;

        set_timeout(streams[i].fd, SO_RCVTIMEO, REPORT_TIMEOUT_S * NS_PER_S);
        errno = 0;
        if (recv(streams[i].fd, &counted, sizeof(counted), MSG_WAITALL) != (ssize_t)sizeof(counted)) {
            die("stream %d: no count from the receiver", i);
        }
        sum += counted;
    }
    return sum;
}

static void tcp_bulk(const char *mode, const struct sockaddr_in *sin, int n_streams, double seconds, bool out)
{
    struct pollfd streams[MAX_STREAMS];
    uint8_t head[HEAD_BYTES] = {out ? 'S' : 'G'};
    uint64_t start, begin, end, counted, length = (uint64_t)(seconds * (double)NS_PER_S);
    double window;

    for (int i = 0; i < n_streams; i++) {
        streams[i] = (struct pollfd){.fd = tcp_connect(sin), .events = out ? POLLOUT : POLLIN};
        if (streams[i].fd < 0) {
            die("connect of stream %d", i);
        }
    }
    start = now_ns();
    begin = start + length / 10;
    end = start + length;
    memcpy(head + 1, &begin, sizeof(begin));
    memcpy(head + 9, &end, sizeof(end));
    for (int i = 0; i < n_streams; i++) {
        if (send(streams[i].fd, head, sizeof(head), 0) != (ssize_t)sizeof(head)) {
            die("send of the head of stream %d", i);
        }
    }
    counted = bulk(streams, n_streams, out, begin, end);
    if (out) {
        counted = collect_reports(streams, n_streams);
    }
    window = (double)(end - begin) / (double)NS_PER_S;
    printf("{\"mode\": \"%s\", \"streams\": %d, \"seconds\": %.3f, \"window_s\": %.6f, \"bytes\": %" PRIu64
           ", \"bits_per_s\": %.0f}\n",
           mode, n_streams, seconds, window, counted, (double)counted * 8 / window);
}

struct samples {
    uint64_t *ns;
    size_t n, room;
};

static void samples_add(struct samples *samples, uint64_t ns)
{
    if (samples->n == MAX_SAMPLES) {
        return; /* far beyond what a percentile needs */
    }
    if (samples->n == samples->room) {
        samples->room = samples->room == 0 ? 1 << 16 : samples->room * 2;
        samples->ns = realloc(samples->ns, samples->room * sizeof(*samples->ns));
        if (samples->ns == NULL) {
            die("realloc");
        }
    }
    samples->ns[samples->n++] = ns;
}

static int compare_ns(const void *a, const void *b)
{
    const uint64_t *x = a, *y = b;

    return (*x > *y) - (*x < *y);
}

static void samples_print(struct samples *samples, const char *mode, double seconds, uint64_t count,
                          uint64_t lost, uint64_t elapsed)
{
    uint64_t p50, p99;

    if (samples->n == 0) {
        errno = 0;
        die("%s: no answer was measured (%" PRIu64 " lost)", mode, lost);
    }
    qsort(samples->ns, samples->n, sizeof(*samples->ns), compare_ns);
    p50 = samples->ns[(samples->n - 1) / 2];
    p99 = samples->ns[(samples->n - 1) * 99 / 100];
    printf("{\"mode\": \"%s\", \"seconds\": %.3f, \"count\": %" PRIu64 ", \"lost\": %" PRIu64
           ", \"per_second\": %.1f, \"p50_us\": %.3f, \"p99_us\": %.3f}\n",
           mode, seconds, count, lost, (double)count * (double)NS_PER_S / (double)elapsed,
           (double)p50 / 1000.0, (double)p99 / 1000.0);
    free(samples->ns);
}

enum round { ROUND_DONE, ROUND_LOST, ROUND_STOP };

/* One byte there and back over a connected TCP socket. */
static enum round tcp_round(int fd)
{
    uint8_t byte = 'E';

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

enum ping { PING_TCP, PING_UDP, PING_CONNECT };

static void ping_pong(const char *mode, const struct sockaddr_in *sin, double seconds, enum ping kind)
{
    struct samples samples = {0};
    uint64_t length = (uint64_t)(seconds * (double)NS_PER_S), count = 0, lost = 0, t;
    int fd = -1;

    if (kind == PING_TCP) {
        fd = tcp_connect(sin);
    } else if (kind == PING_UDP) {
        fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        if (fd >= 0) {
            set_timeout(fd, SO_RCVTIMEO, UDP_TIMEOUT_MS * NS_PER_MS);
            if (connect(fd, (const struct sockaddr *)sin, sizeof(*sin)) < 0) {
                die("connect");
            }
        }
    }
    if (fd < 0 && kind != PING_CONNECT) {
        die("connect");
    }
    t = now_ns();
    uint64_t begin = t + length / 10, end = t + length, number = 0;
    while (t < end) {
        enum round round = kind == PING_TCP   ? tcp_round(fd)
                           : kind == PING_UDP ? udp_round(fd, (uint8_t)number++, t)
                                              : crr_round(sin);
        uint64_t before = t;

        t = now_ns();
        if (round == ROUND_STOP) {
            break;
        }
        if (before < begin) {
            continue;
        }
        if (round == ROUND_LOST) {
            lost++;
        } else {
            count++;
            samples_add(&samples, t - before);
        }
    }
    samples_print(&samples, mode, seconds, count, lost, t > begin ? t - begin : 1);
}

__attribute__((noreturn)) static void usage(void)
{
    fputs("Usage: load serve ADDR PORT [SECONDS]\n"
          "       load tcp-out|tcp-in ADDR PORT STREAMS SECONDS\n"
          "       load tcp-rr|udp-rr|tcp-crr ADDR PORT SECONDS\n",
          stderr);
    exit(2);
}

int main(int argc, char **argv)
{
    const char *mode = argc > 1 ? argv[1] : "";
    struct sockaddr_in sin;

    signal(SIGPIPE, SIG_IGN);
    for (size_t i = 0; i < sizeof(buffer); i++) {
        buffer[i] = (uint8_t)(i * 31 + (i >> 8));
    }
    if (argc < 4) {
        usage();
    }
    sin = parse_address(argv[2], argv[3]);
    if (strcmp(mode, "serve") == 0 && argc <= 5) {
        serve(sin, argc == 5 ? parse_number(argv[4], "SECONDS", 0.01, MAX_SECONDS) : SERVE_S);
    } else if ((strcmp(mode, "tcp-out") == 0 || strcmp(mode, "tcp-in") == 0) && argc == 6) {
        int n_streams = (int)parse_number(argv[4], "STREAMS", 1, MAX_STREAMS);

        tcp_bulk(mode, &sin, n_streams, parse_number(argv[5], "SECONDS", 0.01, MAX_SECONDS),
                 strcmp(mode, "tcp-out") == 0);
    } else if (argc == 5 && strcmp(mode, "tcp-rr") == 0) {
        ping_pong(mode, &sin, parse_number(argv[4], "SECONDS", 0.01, MAX_SECONDS), PING_TCP);
    } else if (argc == 5 && strcmp(mode, "udp-rr") == 0) {
        ping_pong(mode, &sin, parse_number(argv[4], "SECONDS", 0.01, MAX_SECONDS), PING_UDP);
    } else if (argc == 5 && strcmp(mode, "tcp-crr") == 0) {
        ping_pong(mode, &sin, parse_number(argv[4], "SECONDS", 0.01, MAX_SECONDS), PING_CONNECT);
    } else {
        usage();
    }
    return 0;
}
