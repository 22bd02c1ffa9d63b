/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * pipe_size.c - a 1 MiB pipe without privilege, and splice(2) between TCP sockets that never blocks
 *
 * fcntl(2), pipe(7): an unprivileged process may grow a pipe up to /proc/sys/fs/pipe-max-size. splice(2) with
 * SPLICE_F_NONBLOCK governs the pipe's end only; the sockets are O_NONBLOCK as well. Relied on: EAGAIN for an
 * empty socket, EAGAIN for a full target, 0 at the end of the stream, and every byte in between in its order.
 * The size counts slots of one page, and a slot filled by splice(2) refers to up to 32 KiB of a socket's
 * data: the pipe may hold several times its size, as the last line shows.
 */
#include "kernel.h"

enum { PIPE_SIZE = 1 << 20, TOTAL = 16 << 20, CHUNK = 64 << 10, SOCKET_BUFFER = 200 << 10 };

static const unsigned flags = SPLICE_F_NONBLOCK | SPLICE_F_MOVE;

struct pair {
    int near, far;
};

static struct pair tcp_pair(void)
{
    union address a = address_of(AF_INET, "127.0.0.1", 0);
    socklen_t length = sizeof(a);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct pair p;

    must(listener);
    must(bind(listener, &a.any, sizeof(a.v4)));
    must(listen(listener, 1));
    must(getsockname(listener, &a.any, &length));
    p.near = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    must(p.near);
    must(connect(p.near, &a.any, sizeof(a.v4)));
    p.far = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    must(p.far);
    must(fcntl(p.near, F_SETFL, O_NONBLOCK));
    must(option_set(p.near, SOL_SOCKET, SO_SNDBUF, SOCKET_BUFFER)); /* so that everything can be full */
    must(option_set(p.far, SOL_SOCKET, SO_RCVBUF, SOCKET_BUFFER));
    close(listener);
    return p;
}

static uint8_t byte_at(size_t position)
{
    return (uint8_t)(position * 31 + (position >> 13));
}

static void sizes(int pipe_fd)
{
    long max = file_number("/proc/sys/fs/pipe-max-size");

    if (max < PIPE_SIZE)
        skip("fs.pipe-max-size is %ld, less than 1 MiB", max);
    if (fcntl(pipe_fd, F_SETPIPE_SZ, PIPE_SIZE) < 0 && errno == EPERM)
        skip("1 MiB is beyond what fs.pipe-user-pages-soft leaves this user");
    check(fcntl(pipe_fd, F_GETPIPE_SZ) == PIPE_SIZE, "F_SETPIPE_SZ of 1 MiB gave %d",
          fcntl(pipe_fd, F_GETPIPE_SZ));
    if (max < 1 << 30)
        check(fcntl(pipe_fd, F_SETPIPE_SZ, (int)max + 1) < 0 && errno == EPERM,
              "more than fs.pipe-max-size was granted: these are not the rights of an ordinary user");
}

int main(void)
{
    static uint8_t out[CHUNK], in[CHUNK];
    size_t sent = 0, received = 0, in_pipe = 0, full_pipe = 0;
    struct pair from, to;
    int64_t deadline;
    bool ended = false;
    ssize_t n;
    int p[2];

    namespace_enter();
    must(pipe2(p, O_CLOEXEC | O_NONBLOCK));
    sizes(p[0]);
    from = tcp_pair();
    to = tcp_pair();

    check(splice(from.far, NULL, p[1], NULL, PIPE_SIZE, flags) < 0 && errno == EAGAIN,
          "no EAGAIN: empty socket");
    check(splice(p[0], NULL, to.near, NULL, PIPE_SIZE, flags) < 0 && errno == EAGAIN,
          "no EAGAIN: empty pipe");

    /* First nobody reads at the far end, until every buffer on the way is full and each splice says EAGAIN.
     * Then the reader starts. */
    deadline = now_ms() + 2L * WAIT_MS;
    for (bool reading = false; received < TOTAL;) {
        bool moved = false;

        check(now_ms() < deadline, "%zu sent, %zu in the pipe, %zu received at the deadline", sent, in_pipe,
              received);
        if (sent < TOTAL) {
            size_t size = TOTAL - sent < CHUNK ? TOTAL - sent : CHUNK;

            for (size_t i = 0; i < size; i++)
                out[i] = byte_at(sent + i);
            n = send(from.near, out, size, 0);
            check(n > 0 || errno == EAGAIN, "send: %s", strerror(errno));
            sent += n > 0 ? (size_t)n : 0;
            moved |= n > 0;
            if (sent == TOTAL)
                must(shutdown(from.near, SHUT_WR));
        }
        n = splice(from.far, NULL, p[1], NULL, PIPE_SIZE, flags);
        check(n >= 0 || errno == EAGAIN, "splice from a socket: %s", strerror(errno));
        check(n != 0 || sent == TOTAL, "splice from a socket: end of stream before there was one");
        ended |= n == 0;
        in_pipe += n > 0 ? (size_t)n : 0;
        moved |= n > 0;
        n = in_pipe > 0 ? splice(p[0], NULL, to.near, NULL, in_pipe, flags) : 0;
        check(n >= 0 || errno == EAGAIN, "splice to a socket: %s", strerror(errno));
        in_pipe -= n > 0 ? (size_t)n : 0;
        moved |= n > 0;
        if (in_pipe > full_pipe)
            full_pipe = in_pipe;
        n = reading ? recv(to.far, in, sizeof(in), 0) : 0;
        check(n >= 0 || errno == EAGAIN, "recv: %s", strerror(errno));
        for (ssize_t i = 0; i < n; i++)
            check(in[i] == byte_at(received + (size_t)i), "byte %zu is wrong", received + (size_t)i);
        received += n > 0 ? (size_t)n : 0;
        if (moved || n > 0)
            continue;
        if (!reading)
            check(sent < TOTAL && in_pipe > PIPE_SIZE / 4, "nothing moves, but %zu bytes are in the pipe",
                  in_pipe);
        reading = true;
        poll(NULL, 0, 1); /* nothing anywhere: let the loopback's softirq run */
    }
    while (!ended && ready(from.far, POLLIN | POLLRDHUP))
        ended = splice(from.far, NULL, p[1], NULL, PIPE_SIZE, flags) == 0;
    check(ended, "splice(2) does not report the end of the stream");
    shows("a 1 MiB pipe without privilege; %d MiB spliced socket-pipe-socket, EAGAIN when empty or full, 0 "
          "at the end "
          "(most in the pipe: %zu KiB)",
          TOTAL >> 20, full_pipe >> 10);
}
