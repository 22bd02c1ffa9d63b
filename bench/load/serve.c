/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * serve.c - the server: echo, sink and source over TCP and UDP
 *
 * One epoll loop. A connection with a window (SINK, SOURCE, BOTH) goes through: head, data, and after the
 * window and the client's end of file the report; LINGER_S after the window it is closed, finished or not.
 * Datagrams are handled in batches, so that the server is not what limits a program that handles them so as
 * well.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "load.h"

enum {
    LINGER_S = DRAIN_MAX_S + 5, /* the client gives up before the server does, and then asks for the counts */
    N_STREAMS = 16,             /* streams of datagrams that are remembered; a new one replaces the oldest */
};

struct conn {
    int fd;
    bool events_out; /* what epoll is asked for */
    bool done;       /* the client has sent all it wanted */
    size_t have;     /* bytes of head that are there */
    union {
        struct head head;
        uint8_t bytes[sizeof(struct head)];
    };
    struct report report;
    size_t ended; /* bytes of BLOCK_END and the report that are sent */
};

struct stream {
    uint64_t id;
    struct udp_report report;
};

struct server {
    int epoll_fd, listen_fd, udp_fd;
    struct conn *windowed[MAX_STREAMS]; /* looked at when their window ends */
    struct stream streams[N_STREAMS];
    unsigned next_stream;
    struct { /* the one source of datagrams; idle when its end is in the past */
        struct sockaddr_in to;
        struct stream *stream;
        uint64_t end;
        uint32_t size;
    } source;
    struct { /* one batch of datagrams; echoes go out of where they came in */
        struct mmsghdr headers[BATCH];
        struct iovec parts[BATCH];
        struct sockaddr_in from[BATCH];
        uint8_t bytes[BATCH][DATAGRAM_MAX];
    } batch;
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
        int one = 1;
        int fd = accept4(server->listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

        if (fd < 0) {
            return;
        }
        conn = calloc(1, sizeof(*conn));
        if (conn == NULL) {
            die("calloc");
        }
        conn->fd = fd;
        (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
        watch(server, EPOLL_CTL_ADD, fd, EPOLLIN, conn);
    }
}

/* ---- connections with a window ---- */

/* Blocks are to be sent, or the rest of the last one. */
static bool sends(const struct conn *conn)
{
    return (conn->head.op == OP_SOURCE || conn->head.op == OP_BOTH) &&
           (now_ns() < conn->head.end || conn->report.sent % WRITE_BYTES != 0);
}

/* Asks for what the connection can do now. */
static void conn_watch(const struct server *server, struct conn *conn)
{
    conn->events_out = sends(conn) || (conn->done && now_ns() >= conn->head.end);
    watch(server, EPOLL_CTL_MOD, conn->fd, EPOLLIN | (conn->events_out ? EPOLLOUT : 0), conn);
}

/* The head is complete; false when it makes no sense or there are too many streams. */
static bool conn_begin(struct server *server, struct conn *conn)
{
    if (conn->head.op == OP_COUNTED) {
        struct report sum = {0};

        for (int i = 0; i < MAX_STREAMS; i++) {
            const struct conn *other = server->windowed[i];

            if (other != NULL && other->head.begin == conn->head.begin && other->head.end == conn->head.end) {
                sum.sent += other->report.sent;
                sum.received += other->report.received;
                sum.counted += other->report.counted;
            }
        }
        return send(conn->fd, &sum, sizeof(sum), 0) == (ssize_t)sizeof(sum);
    }
    if (conn->head.op == OP_REPORT) {
        struct udp_report none = {0}, *report = &none;

        for (int i = 0; i < N_STREAMS; i++) {
            if (server->streams[i].id == conn->head.begin) {
                report = &server->streams[i].report;
            }
        }
        return send(conn->fd, report, sizeof(*report), 0) == (ssize_t)sizeof(*report);
    }
    if (conn->head.begin >= conn->head.end || conn->head.end > now_ns() + MAX_SECONDS * NS_PER_S) {
        return false;
    }
    for (int i = 0; i < MAX_STREAMS; i++) {
        if (server->windowed[i] == NULL) {
            server->windowed[i] = conn;
            conn_watch(server, conn);
            return true;
        }
    }
    return false;
}

/* Reads what has come; false when the connection is at its end. */
static bool conn_read(struct conn *conn)
{
    ssize_t n = recv(conn->fd, buffer, sizeof(buffer), 0);
    uint64_t now = now_ns();

    if (n <= 0) {
        return n < 0 && errno == EAGAIN;
    }
    conn->report.received += (uint64_t)n;
    /* The byte after the last block. */
    if ((conn->report.received - 1) % WRITE_BYTES == 0 && buffer[n - 1] == BLOCK_END) {
        conn->done = true;
        conn->report.received--;
        n--;
    }
    if (now >= conn->head.begin && now < conn->head.end) {
        conn->report.counted += (uint64_t)n;
    }
    return true;
}

/* Sends what is to be sent; false when the connection is at its end. */
static bool conn_write(struct conn *conn)
{
    ssize_t n;

    if (sends(conn)) {
        n = block_send(conn->fd, conn->report.sent);
        conn->report.sent += n > 0 ? (uint64_t)n : 0;
        return n >= 0 || errno == EAGAIN;
    }
    if (conn->done && now_ns() >= conn->head.end) {
        uint8_t end[1 + sizeof(conn->report)] = {BLOCK_END};

        memcpy(end + 1, &conn->report, sizeof(conn->report));
        n = send(conn->fd, end + conn->ended, sizeof(end) - conn->ended, 0);
        conn->ended += n > 0 ? (size_t)n : 0;
        return conn->ended < sizeof(end) && (n >= 0 || errno == EAGAIN);
    }
    return true;
}

/* Reads and writes what can be; false when the connection is at its end. */
static bool conn_data(struct server *server, struct conn *conn, uint32_t events)
{
    bool over = now_ns() >= conn->head.end;

    if ((events & ~(uint32_t)EPOLLOUT) != 0 && !conn_read(conn)) {
        return false;
    }
    if ((events & EPOLLOUT) != 0 && !conn_write(conn)) {
        return false;
    }
    if (over) { /* what is waited for may have changed */
        conn_watch(server, conn);
    }
    return true;
}

/* Something can be done on a connection; false when it is at its end. */
static bool conn_event(struct server *server, struct conn *conn, uint32_t events)
{
    ssize_t n;

    if (conn->have == 0) {
        n = recv(conn->fd, conn->bytes, 1, 0);
        if (n <= 0) {
            return n < 0 && errno == EAGAIN;
        }
        conn->have = 1;
        if (conn->head.op == OP_ECHO) {
            return send(conn->fd, conn->bytes, 1, 0) == 1;
        }
    }
    if (conn->head.op == OP_ECHO) {
        n = recv(conn->fd, buffer, sizeof(buffer), 0);
        if (n <= 0) {
            return n < 0 && errno == EAGAIN;
        }
        return send(conn->fd, buffer, (size_t)n, 0) == n; /* for ping-pong: what does not fit ends it */
    }
    if (conn->have < sizeof(conn->head)) {
        n = recv(conn->fd, conn->bytes + conn->have, sizeof(conn->head) - conn->have, 0);
        if (n <= 0) {
            return n < 0 && errno == EAGAIN;
        }
        conn->have += (size_t)n;
        return conn->have < sizeof(conn->head) || conn_begin(server, conn);
    }
    if (conn->head.op == OP_REPORT || conn->head.op == OP_COUNTED) {
        return false; /* answered, and the client has gone */
    }
    return conn_data(server, conn, events);
}

/* Turns to what is due, and says when to look again. */
static uint64_t server_windows(struct server *server, uint64_t latest)
{
    uint64_t now = now_ns(), next = latest;

    for (int i = 0; i < MAX_STREAMS; i++) {
        struct conn *conn = server->windowed[i];
        uint64_t due;

        if (conn == NULL) {
            continue;
        }
        due = conn->head.end;
        if (now >= due) {
            conn_watch(server, conn);
            due += LINGER_S * NS_PER_S;
        }
        if (now >= due) {
            conn_close(server, conn);
        } else if (due < next) {
            next = due;
        }
    }
    return next;
}

/* ---- datagrams ---- */

static struct stream *stream_of(struct server *server, uint64_t id)
{
    for (int i = 0; i < N_STREAMS; i++) {
        if (server->streams[i].id == id) {
            return &server->streams[i];
        }
    }
    struct stream *stream = &server->streams[server->next_stream++ % N_STREAMS];
    *stream = (struct stream){.id = id};
    return stream;
}

/* Counts or starts what the datagram asks for; false when it is to be sent back. */
static bool datagram_taken(struct server *server, const uint8_t *bytes, size_t n,
                           const struct sockaddr_in *from)
{
    struct datagram head;
    struct stream *stream;

    if (n < sizeof(head)) {
        return false;
    }
    memcpy(&head, bytes, sizeof(head));
    if (memcmp(head.magic, DATAGRAM_MAGIC, sizeof(head.magic)) != 0 || head.op == OP_ECHO) {
        return false;
    }
    stream = stream_of(server, head.id);
    if (head.op == OP_SINK) {
        uint64_t now = now_ns();

        stream->report.received++;
        if (now >= head.begin && now < head.end) {
            stream->report.counted++;
            stream->report.counted_bytes += n;
        }
    } else if (head.op == OP_SOURCE && server->source.stream != stream && head.size >= DATAGRAM_MIN &&
               head.size <= DATAGRAM_MAX && head.end <= now_ns() + MAX_SECONDS * NS_PER_S) {
        server->source.stream = stream;
        server->source.end = head.end;
        server->source.size = head.size;
        server->source.to = *from;
    }
    return true;
}

static void batch_prepare(struct server *server)
{
    for (int i = 0; i < BATCH; i++) {
        server->batch.parts[i] = (struct iovec){.iov_base = server->batch.bytes[i], .iov_len = DATAGRAM_MAX};
        server->batch.headers[i].msg_hdr = (struct msghdr){.msg_name = &server->batch.from[i],
                                                           .msg_namelen = sizeof(server->batch.from[i]),
                                                           .msg_iov = &server->batch.parts[i],
                                                           .msg_iovlen = 1};
    }
}

static void server_udp(struct server *server)
{
    int n, n_echo = 0;

    batch_prepare(server);
    n = recvmmsg(server->udp_fd, server->batch.headers, BATCH, MSG_DONTWAIT, NULL);
    for (int i = 0; i < n; i++) {
        struct msghdr *header = &server->batch.headers[i].msg_hdr;
        size_t size = server->batch.headers[i].msg_len;

        if (!datagram_taken(server, server->batch.bytes[i], size, &server->batch.from[i])) {
            header->msg_iov->iov_len = size;
            server->batch.headers[n_echo++] = server->batch.headers[i];
        }
    }
    for (int done = 0; done < n_echo;) {
        int sent = sendmmsg(server->udp_fd, server->batch.headers + done, (unsigned)(n_echo - done), 0);

        done += sent > 0 ? sent : 1; /* the one that cannot be sent is lost */
    }
}

/* A batch from the source of datagrams; false when there is nothing to be sent. */
static bool server_source(struct server *server)
{
    int sent;

    if (server->source.stream == NULL || now_ns() >= server->source.end) {
        server->source.stream = NULL;
        return false;
    }
    batch_prepare(server);
    for (int i = 0; i < BATCH; i++) {
        server->batch.parts[i].iov_len = server->source.size;
        server->batch.from[i] = server->source.to;
    }
    sent = sendmmsg(server->udp_fd, server->batch.headers, BATCH, MSG_DONTWAIT);
    server->source.stream->report.sent += sent > 0 ? (uint64_t)sent : 0;
    return true;
}

void serve(struct sockaddr_in sin, double seconds)
{
    struct server *server = calloc(1, sizeof(*server));
    uint64_t end = now_ns() + length_ns(seconds), next = end;
    socklen_t sin_len = sizeof(sin);

    if (server == NULL) {
        die("calloc");
    }
    raise_descriptor_limit();
    server->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (server->epoll_fd < 0) {
        die("epoll_create1");
    }
    server->listen_fd = bind_server(&sin, SOCK_STREAM);
    if (getsockname(server->listen_fd, (struct sockaddr *)&sin, &sin_len) < 0) { /* when the port was 0 */
        die("getsockname");
    }
    server->udp_fd = bind_server(&sin, SOCK_DGRAM);
    watch(server, EPOLL_CTL_ADD, server->listen_fd, EPOLLIN, &server->listen_fd);
    watch(server, EPOLL_CTL_ADD, server->udp_fd, EPOLLIN, &server->udp_fd);
    printf("{\"mode\": \"serve\", \"port\": %u}\n", (unsigned)ntohs(sin.sin_port));
    fflush(stdout);

    while (now_ns() < end) {
        struct epoll_event events[BATCH];
        int n = epoll_wait(server->epoll_fd, events, BATCH, server_source(server) ? 0 : ms_until(next, 1000));

        if (n < 0 && errno != EINTR) {
            die("epoll_wait");
        }
        for (int i = 0; i < n; i++) {
            void *what = events[i].data.ptr;

            if (what == &server->listen_fd) {
                server_accept(server);
            } else if (what == &server->udp_fd) {
                server_udp(server);
            } else if (!conn_event(server, what, events[i].events)) {
                conn_close(server, what);
            }
        }
        next = server_windows(server, end);
    }
    free(server);
}
