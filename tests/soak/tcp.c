/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * tcp.c - connections with payload both ways
 *
 * The client sends a head and `up` bytes, the server at the same time `down` bytes. The last byte of the
 * server is sent only when it has all of the client's and found them right, so a client that has everything
 * knows that both directions were. Then one of them ends the connection, in one of the ways of enum ending.
 */
#include <errno.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "load.h"

enum ending {
    CLIENT_FIRST,
    SERVER_FIRST,
    CLIENT_RESETS,
    HALF_CLOSE, /* the client's half ends before the server has answered everything */
    ENDINGS,
};

struct head {
    uint32_t magic, ending, seed, up, down;
};
static const uint32_t magic = 0x736f616b;

enum {
    BIG_ONE_IN = 64, /* connections that move up to BYTES_MAX; the others up to SMALL bytes */
    SMALL = 4096,
    BULK = 1 << 20, /* from this BYTES_MAX on, all connections are big */
    PIECES_PER_TURN = 8,
};

struct conn {
    struct conn *next, *previous; /* of the client's list, by the last time they moved */
    int fd;
    bool connected, shut;
    uint32_t watched;
    struct head head;
    size_t head_done;        /* bytes of it sent or received */
    uint64_t sent, received; /* of the payload */
    uint64_t moved_ns;
};

struct side {
    int epoll_fd;
    bool is_server;
    struct conn list; /* first: the one that has not moved for longest */
};

enum result { GOES_ON, DONE, FAILED };

static uint8_t piece[PIECE];

static const char *error_name(int error)
{
    switch (error) {
    case ECONNREFUSED:
        return "refused";
    case ECONNRESET:
    case EPIPE:
        return "reset";
    case ETIMEDOUT:
        return "timed out";
    case EHOSTUNREACH:
    case ENETUNREACH:
        return "unreachable";
    case EADDRNOTAVAIL:
        return "no local port";
    case EMFILE:
    case ENFILE:
        return "no descriptors";
    default:
        return strerrorname_np(error) ? strerrorname_np(error) : "unknown";
    }
}

static void list_remove(struct conn *conn)
{
    conn->previous->next = conn->next;
    conn->next->previous = conn->previous;
}

static void moved(struct side *side, struct conn *conn)
{
    conn->moved_ns = running_ns();
    if (conn->next) {
        list_remove(conn);
    }
    conn->next = &side->list;
    conn->previous = side->list.previous;
    conn->previous->next = conn;
    side->list.previous = conn;
}

/* ---- payload ---- */

static uint64_t to_send(const struct side *side, const struct conn *conn)
{
    if (!side->is_server) {
        return conn->head.up;
    }
    return conn->received == conn->head.up ? conn->head.down : conn->head.down - 1;
}

static uint64_t to_receive(const struct side *side, const struct conn *conn)
{
    return side->is_server ? conn->head.up : conn->head.down;
}

static uint64_t seed_of(const struct side *side, const struct conn *conn, bool sending)
{
    return conn->head.seed + (side->is_server == sending ? UINT64_C(1) << 32 : 0);
}

static enum result push(struct side *side, struct conn *conn)
{
    uint64_t end = to_send(side, conn);

    if (!side->is_server && conn->head_done < sizeof(conn->head)) {
        ssize_t n = send(conn->fd, (const uint8_t *)&conn->head + conn->head_done,
                         sizeof(conn->head) - conn->head_done, end > 0 ? MSG_MORE : 0);

        if (n < 0) {
            return errno == EAGAIN ? GOES_ON : FAILED;
        }
        conn->head_done += (size_t)n;
    }
    for (int i = 0; i < PIECES_PER_TURN && conn->sent < end; i++) {
        size_t n_wanted = end - conn->sent < PIECE ? end - conn->sent : PIECE;
        ssize_t n;

        pattern_fill(piece, seed_of(side, conn, true), conn->sent, n_wanted);
        n = send(conn->fd, piece, n_wanted, 0);
        if (n < 0) {
            return errno == EAGAIN ? GOES_ON : FAILED;
        }
        conn->sent += (uint64_t)n;
        sums.bytes += (uint64_t)n;
        if ((size_t)n < n_wanted) {
            break;
        }
    }
    if (!side->is_server && conn->sent == end && conn->head.ending == HALF_CLOSE && !conn->shut) {
        conn->shut = true;
        return shutdown(conn->fd, SHUT_WR) < 0 ? FAILED : GOES_ON;
    }
    return GOES_ON;
}

/* DONE is the end of the stream. */
static enum result pull(struct side *side, struct conn *conn)
{
    for (int i = 0; i < PIECES_PER_TURN; i++) {
        ssize_t n;

        if (side->is_server && conn->head_done < sizeof(conn->head)) {
            n = recv(conn->fd, (uint8_t *)&conn->head + conn->head_done, sizeof(conn->head) - conn->head_done,
                     0);
            if (n <= 0) {
                return n == 0 ? DONE : errno == EAGAIN ? GOES_ON : FAILED;
            }
            conn->head_done += (size_t)n;
            if (conn->head_done == sizeof(conn->head) &&
                (conn->head.magic != magic || conn->head.ending >= ENDINGS || conn->head.down == 0)) {
                sums.corrupt++;
                errno = EBADMSG;
                return FAILED;
            }
            continue;
        }
        n = recv(conn->fd, piece, sizeof(piece), 0);
        if (n <= 0) {
            return n == 0 ? DONE : errno == EAGAIN ? GOES_ON : FAILED;
        }
        if ((uint64_t)n > to_receive(side, conn) - conn->received ||
            !pattern_is(piece, seed_of(side, conn, false), conn->received, (size_t)n)) {
            sums.corrupt++;
            errno = EBADMSG;
            return FAILED;
        }
        conn->received += (uint64_t)n;
        if (side->is_server) {
            sums.bytes += (uint64_t)n;
        }
        if ((size_t)n < sizeof(piece)) {
            return GOES_ON; /* what comes after this wakes us again */
        }
    }
    return GOES_ON;
}

/* ---- one connection ---- */

static void reset_at_close(int fd)
{
    const struct linger linger = {.l_onoff = 1};

    (void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger));
}

static enum result server_turn(struct side *side, struct conn *conn, uint32_t events)
{
    bool complete, at_end = false;
    enum result r;

    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
        r = pull(side, conn);
        if (r == FAILED) { /* a client that has everything may reset */
            return errno == ECONNRESET && conn->head.ending == CLIENT_RESETS &&
                           conn->head_done == sizeof(conn->head) && conn->sent == conn->head.down
                       ? DONE
                       : FAILED;
        }
        at_end = r == DONE;
    }
    if (conn->head_done < sizeof(conn->head)) {
        errno = ENODATA;
        /* Without a byte: nsagent was killed when the program had connected to us, but could not make the
         * guest's side any more; the guest gets another connection, through libslirp. Were it lost, the
         * client would tell. */
        return !at_end ? GOES_ON : conn->head_done == 0 ? DONE : FAILED;
    }
    if (push(side, conn) == FAILED) {
        return FAILED;
    }
    complete = conn->sent == conn->head.down && conn->received == conn->head.up;
    if (at_end && conn->received < conn->head.up) {
        errno = ENODATA;
        return FAILED;
    }
    /* At the client's end of a half-closed connection there may still be something to send. */
    if (at_end && !complete && conn->head.ending != HALF_CLOSE) {
        errno = ENODATA;
        return FAILED;
    }
    if (at_end) {
        conn->shut = true;
    }
    if (complete && (conn->shut || conn->head.ending == SERVER_FIRST)) {
        return DONE;
    }
    return GOES_ON;
}

static enum result client_turn(struct side *side, struct conn *conn, uint32_t events)
{
    bool complete;

    if (!conn->connected) {
        int error = 0;
        socklen_t len = sizeof(error);

        if (getsockopt(conn->fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0 || error != 0) {
            errno = error;
            return FAILED;
        }
        if (!(events & EPOLLOUT)) {
            return GOES_ON;
        }
        conn->connected = true;
    }
    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
        enum result r = pull(side, conn);

        if (r == FAILED) {
            return FAILED;
        }
        complete = conn->received == conn->head.down && conn->sent == conn->head.up;
        if (r == DONE) {
            errno = ENODATA;
            return complete ? DONE : FAILED;
        }
    }
    if (push(side, conn) == FAILED) {
        return FAILED;
    }
    complete = conn->received == conn->head.down && conn->sent == conn->head.up;
    if (complete && conn->head.ending == CLIENT_RESETS) {
        reset_at_close(conn->fd);
    }
    return complete && (conn->head.ending == CLIENT_FIRST || conn->head.ending == CLIENT_RESETS) ? DONE
                                                                                                 : GOES_ON;
}

static void conn_end(struct conn *conn, enum result result, const char *why)
{
    if (result == DONE) {
        sums.good++;
    } else {
        failed(why);
        reset_at_close(conn->fd); /* the other side must not take this for an orderly end */
    }
    sums.open--;
    list_remove(conn);
    close(conn->fd);
    free(conn);
}

static void conn_event(struct side *side, struct conn *conn, uint32_t events)
{
    enum result r = side->is_server ? server_turn(side, conn, events) : client_turn(side, conn, events);
    uint32_t wanted;

    if (r != GOES_ON) {
        conn_end(conn, r, r == FAILED ? error_name(errno) : NULL);
        return;
    }
    moved(side, conn);
    wanted = (conn->shut && side->is_server ? 0 : EPOLLIN) |
             (!conn->connected || conn->sent < to_send(side, conn) ? EPOLLOUT : 0);
    if (wanted != conn->watched) {
        conn->watched = wanted;
        watch(side->epoll_fd, EPOLL_CTL_MOD, conn->fd, wanted, conn);
    }
}

static struct conn *conn_new(struct side *side, int fd, uint32_t events)
{
    struct conn *conn = calloc(1, sizeof(*conn));
    int one = 1;

    if (!conn) {
        die("calloc");
    }
    conn->fd = fd;
    conn->watched = events;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    watch(side->epoll_fd, EPOLL_CTL_ADD, fd, events, conn);
    moved(side, conn);
    sums.started++;
    sums.open++;
    return conn;
}

/* ---- server ---- */

static int listen_at(const struct target *target)
{
    int fd = socket(target->sa.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), one = 1;

    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) < 0 ||
        (target->sa.sa_family == AF_INET6 &&
         setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one)) < 0) ||
        bind(fd, &target->sa, target->len) < 0 || listen(fd, 4096) < 0) {
        die("cannot listen");
    }
    return fd;
}

static void accept_all(struct side *side, int listener)
{
    for (int i = 0; i < EVENTS; i++) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

        if (fd < 0) {
            if (errno == EAGAIN || errno == ECONNABORTED) {
                return;
            }
            die("accept4");
        }
        conn_new(side, fd, EPOLLIN)->connected = true;
    }
}

void serve(const struct target *targets, unsigned n_targets)
{
    struct side side = {.epoll_fd = epoll_create1(EPOLL_CLOEXEC), .is_server = true};
    int listeners[TARGETS_MAX], datagrams[TARGETS_MAX];

    side.list.next = side.list.previous = &side.list;
    for (unsigned i = 0; i < n_targets; i++) {
        listeners[i] = listen_at(&targets[i]);
        datagrams[i] = udp_server(&targets[i]);
        watch(side.epoll_fd, EPOLL_CTL_ADD, listeners[i], EPOLLIN, &listeners[i]);
        watch(side.epoll_fd, EPOLL_CTL_ADD, datagrams[i], EPOLLIN, &datagrams[i]);
    }
    say(false); /* ready */
    while (!loop_ended()) {
        struct epoll_event events[EVENTS];
        int n = loop_wait(side.epoll_fd, events, false);

        for (int i = 0; i < n; i++) {
            int *fd = events[i].data.ptr;

            if (fd >= listeners && fd < listeners + n_targets) {
                accept_all(&side, *fd);
            } else if (fd >= datagrams && fd < datagrams + n_targets) {
                udp_serve(*fd);
            } else {
                conn_event(&side, events[i].data.ptr, events[i].events);
            }
        }
    }
}

/* ---- client ---- */

static void begin(struct side *side, const struct target *target, uint32_t bytes_max)
{
    uint64_t number = random_next();
    uint32_t small = bytes_max < SMALL ? bytes_max : SMALL;
    uint32_t most = bytes_max < BULK && number % BIG_ONE_IN != 0 ? small : bytes_max;
    int fd = socket(target->sa.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct conn *conn;

    if (fd < 0 || (connect(fd, &target->sa, target->len) < 0 && errno != EINPROGRESS)) {
        sums.started++;
        failed(error_name(errno));
        if (fd >= 0) {
            close(fd);
        }
        return;
    }
    conn = conn_new(side, fd, EPOLLOUT);
    conn->head = (struct head){.magic = magic,
                               .ending = (uint32_t)(number >> 8) % ENDINGS,
                               .seed = (uint32_t)random_next(),
                               .up = (uint32_t)(random_next() % (most + UINT64_C(1))),
                               .down = (uint32_t)(random_next() % most) + 1};
}

void tcp_client(double rate, unsigned at_once, uint32_t bytes_max, const struct target *targets,
                unsigned n_targets)
{
    struct side side = {.epoll_fd = epoll_create1(EPOLL_CLOEXEC)};
    struct pace pace = {.rate = rate};
    unsigned turn = 0;

    side.list.next = side.list.previous = &side.list;
    while (!loop_ended() || sums.open > 0) {
        struct epoll_event events[EVENTS];
        int n = loop_wait(side.epoll_fd, events, !loop_ended());

        for (int i = 0; i < n; i++) {
            conn_event(&side, events[i].data.ptr, events[i].events);
        }
        while (side.list.next != &side.list && side.list.next->moved_ns + STALL_S * NS_PER_S < running_ns()) {
            conn_end(side.list.next, FAILED, "stands still");
        }
        if (loop_ended()) {
            continue;
        }
        for (unsigned due = pace_take(&pace); due > 0 && sums.open < at_once; due--) {
            begin(&side, &targets[turn++ % n_targets], bytes_max);
        }
    }
}
