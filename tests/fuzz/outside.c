/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "outside.h"

#include "namespace.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { CLIENTS = 4, DATAGRAM_MAX = 65507, SERVERS = 4, READS_PER_TURN = 4, LISTEN_PORT = 8080 };

static const struct {
    const char *name;
    bool loopback;
} servers[SERVERS] = {{"127.0.0.1", true}, {"::1", true}, {OTHER_HOST4, false}, {OTHER_HOST6, false}};

struct conn {
    int fd; /* -1: free */
    uint32_t received, sent;
    bool deaf, ended;
};

static int listeners[SERVERS], udp[SERVERS], resolvers[SERVERS], clients[CLIENTS], front = -1, front6 = -1;
static struct conn conns[OUTSIDE_CONNS_MAX];
static bool quiet_loopback, believe_nothing;
static uint8_t buffer[65536];

static void address_of(union address *ret, const char *name, uint16_t port)
{
    memset(ret, 0, sizeof(*ret));
    if (inet_pton(AF_INET, name, &ret->in.sin_addr) == 1) {
        ret->sa.sa_family = AF_INET;
    } else {
        CHECK(inet_pton(AF_INET6, name, &ret->in6.sin6_addr) == 1);
        ret->sa.sa_family = AF_INET6;
    }
    address_set_port(ret, port);
}

static int open_socket(int type, const char *name, uint16_t port)
{
    static const int one = 1;
    union address a;
    int fd;

    address_of(&a, name, port);
    fd = socket(a.sa.sa_family, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    CHECK(fd >= 0);
    CHECK(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) == 0);
    if (a.sa.sa_family == AF_INET6)
        CHECK(setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one)) == 0);
    CHECK(bind(fd, &a.sa, address_size(&a)) == 0);
    if (type == SOCK_STREAM)
        CHECK(listen(fd, 64) == 0);
    return fd;
}

void outside_init(void)
{
    namespace_enter("nameserver 127.0.0.1\nnameserver ::1\n");
    namespace_address(OTHER_HOST4);
    namespace_address(OTHER_HOST6);
    for (int i = 0; i < SERVERS; i++) {
        listeners[i] = open_socket(SOCK_STREAM, servers[i].name, OUTSIDE_PORT);
        udp[i] = open_socket(SOCK_DGRAM, servers[i].name, OUTSIDE_PORT);
        resolvers[i] = open_socket(SOCK_DGRAM, servers[i].name, 53);
    }
    front = open_socket(SOCK_STREAM, "127.0.0.1", LISTEN_PORT);
    front6 = open_socket(SOCK_STREAM, "::1", LISTEN_PORT);
    for (int i = 0; i < CLIENTS; i++)
        clients[i] = open_socket(SOCK_DGRAM, servers[i].name, 0);
}

void outside_begin(bool no_loopback)
{
    quiet_loopback = no_loopback;
    believe_nothing = false;
    for (int i = 0; i < OUTSIDE_CONNS_MAX; i++)
        conns[i] = (struct conn){.fd = -1};
}

void outside_believe_nothing(void)
{
    believe_nothing = true;
}

bool outside_believes(void)
{
    return !believe_nothing;
}

static void conn_close(struct conn *c, bool reset)
{
    static const struct linger now = {.l_onoff = 1};

    if (c->fd < 0)
        return;
    if (reset)
        (void)setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
    close(c->fd);
    c->fd = -1;
}

static struct conn *conn_new(int fd)
{
    for (int i = 0; i < OUTSIDE_CONNS_MAX; i++) {
        if (conns[i].fd < 0) {
            conns[i] = (struct conn){.fd = fd};
            return &conns[i];
        }
    }
    close(fd);
    return NULL;
}

void outside_end(void)
{
    for (int i = 0; i < OUTSIDE_CONNS_MAX; i++)
        conn_close(&conns[i], true); /* no TIME_WAIT is left */
    (void)outside_serve();           /* what was not accepted yet */
    for (int i = 0; i < OUTSIDE_CONNS_MAX; i++)
        conn_close(&conns[i], true);
    for (int i = 0; i < CLIENTS; i++) {
        while (recv(clients[i], buffer, sizeof(buffer), 0) >= 0)
            ;
    }
}

enum pattern_end pattern_read(int fd, uint32_t *received, bool check)
{
    for (int i = 0; i < READS_PER_TURN; i++) {
        ssize_t n = recv(fd, buffer, sizeof(buffer), 0);

        if (n < 0)
            return errno == EAGAIN ? PATTERN_GOES_ON : PATTERN_RESET;
        if (n == 0)
            return PATTERN_ENDED;
        for (ssize_t at = 0; at < n && check; at++)
            CHECK(buffer[at] == pattern(*received + (uint32_t)at));
        *received += (uint32_t)n;
    }
    return PATTERN_GOES_ON;
}

static void conn_read(struct conn *c)
{
    enum pattern_end end = pattern_read(c->fd, &c->received, !believe_nothing);

    if (end == PATTERN_RESET)
        conn_close(c, true);
    c->ended = end == PATTERN_ENDED;
}

/* Sends everything back to where it came from. */
static void echo(int fd, bool forbidden)
{
    for (int i = 0; i < READS_PER_TURN; i++) {
        union address from;
        socklen_t size = sizeof(from);
        ssize_t n = recvfrom(fd, buffer, sizeof(buffer), 0, &from.sa, &size);

        if (n < 0 && errno == EAGAIN)
            return;
        CHECK(n < 0 || !forbidden);
        if (n >= 0)
            (void)sendto(fd, buffer, (size_t)n, 0, &from.sa, size);
    }
}

static void serve_servers(const struct pollfd *ready)
{
    for (int i = 0; i < SERVERS; i++) {
        const bool forbidden = quiet_loopback && servers[i].loopback;
        int fd;

        if (ready[i].revents) {
            while ((fd = accept4(listeners[i], NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
                CHECK(!forbidden);
                (void)conn_new(fd);
            }
        }
        if (ready[SERVERS + i].revents)
            echo(udp[i], forbidden);
        if (ready[2 * SERVERS + i].revents)
            echo(resolvers[i], false);
    }
}

bool outside_serve(void)
{
    struct pollfd ready[3 * SERVERS + OUTSIDE_CONNS_MAX];

    for (int i = 0; i < SERVERS; i++) {
        ready[i] = (struct pollfd){.fd = listeners[i], .events = POLLIN};
        ready[SERVERS + i] = (struct pollfd){.fd = udp[i], .events = POLLIN};
        ready[2 * SERVERS + i] = (struct pollfd){.fd = resolvers[i], .events = POLLIN};
    }
    for (int i = 0; i < OUTSIDE_CONNS_MAX; i++) {
        const struct conn *c = &conns[i];

        ready[3 * SERVERS + i] = (struct pollfd){.fd = c->deaf || c->ended ? -1 : c->fd, .events = POLLIN};
    }
    if (poll(ready, ARRAY_SIZE(ready), 0) <= 0)
        return false;
    for (int i = 0; i < OUTSIDE_CONNS_MAX; i++) {
        if (ready[3 * SERVERS + i].revents)
            conn_read(&conns[i]);
    }
    serve_servers(ready);
    return true;
}

static struct conn *nth(unsigned index)
{
    struct conn *c = &conns[index % OUTSIDE_CONNS_MAX];

    for (int i = 0; i < OUTSIDE_CONNS_MAX && c->fd < 0; i++)
        c = &conns[++index % OUTSIDE_CONNS_MAX];
    return c->fd < 0 ? NULL : c;
}

void outside_send(unsigned index, uint32_t size)
{
    struct conn *c = nth(index);
    ssize_t n;

    if (!c)
        return;
    size = min_u32(size, sizeof(buffer));
    for (uint32_t i = 0; i < size; i++)
        buffer[i] = pattern(c->sent + i);
    n = send(c->fd, buffer, size, MSG_NOSIGNAL);
    if (n > 0)
        c->sent += (uint32_t)n;
}

void outside_shutdown(unsigned index)
{
    struct conn *c = nth(index);

    if (c)
        (void)shutdown(c->fd, SHUT_WR);
}

void outside_close(unsigned index, bool reset)
{
    struct conn *c = nth(index);

    if (c)
        conn_close(c, reset);
}

void outside_toggle_reading(unsigned index)
{
    struct conn *c = nth(index);

    if (c)
        c->deaf = !c->deaf;
}

int outside_connect(bool v6, bool from_loopback)
{
    union address from, to;
    int fd, conn_fd;

    address_of(&from, from_loopback ? (v6 ? "::1" : "127.0.0.1") : (v6 ? OTHER_HOST6 : OTHER_HOST4), 0);
    address_of(&to, v6 ? "::1" : "127.0.0.1", LISTEN_PORT);
    fd = socket(from.sa.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    CHECK(fd >= 0 && bind(fd, &from.sa, address_size(&from)) == 0);
    CHECK(connect(fd, &to.sa, address_size(&to)) == 0 || errno == EINPROGRESS);
    conn_fd = accept4(v6 ? front6 : front, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (!conn_new(fd) && conn_fd >= 0) {
        close(conn_fd);
        return -1;
    }
    return conn_fd;
}

void outside_datagram(bool v6, unsigned client, uint16_t port, uint32_t size)
{
    unsigned index = client % 2 * 2 + v6; /* as in servers[] */
    union address to;

    address_of(&to, v6 ? "::1" : "127.0.0.1", port);
    memset(buffer, 'u', sizeof(buffer));
    (void)sendto(clients[index], buffer, min_u32(size, DATAGRAM_MAX), 0, &to.sa, address_size(&to));
}
