/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * server.c
 *
 * When is a request whole? When its bytes are one complete JSON value, whether or not the client shuts down
 * its side: some never do. When may the connection end? Clients differ: some read until end of file without
 * shutting down (so we must close after the reply), some send further requests, one per line. The rule: after
 * a reply the connection is kept for GRACE_MS if the request ended with a newline and the client has not shut
 * down its side; another byte within that time keeps it. A request with "keep_alive": true keeps the
 * connection until the client closes it, and its replies end with a newline. Otherwise our side is shut down
 * after the reply and what still comes is read and thrown away, because closing a socket with unread input
 * would reset it and may take the reply with it (unix(7)).
 */
#include "api/server.h"

#include "api/json_scan.h"
#include "base/bits.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/counters.h"
#include "base/log.h"
#include "base/thread.h"

#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

enum {
    CLIENTS_MAX = 64, /* more wait in the backlog */
    BACKLOG = 128,
    REQUEST_MAX = 64 * 1024,
    DRAIN_MAX = 1024 * 1024, /* thrown away after a reply, at most */
    IDLE_MS = 10000,         /* silence after which a client is sent away */
    KEEP_IDLE_MS = 3600 * 1000,
    GRACE_MS = 250,
    LOG_REQUEST_MAX = 512,
};

enum client_state {
    CLIENT_FREE,
    CLIENT_READING,  /* -> WRITING (a reply that does not fit the socket), DRAINING, FREE */
    CLIENT_WRITING,  /* -> READING, DRAINING, FREE; @out has the rest */
    CLIENT_DRAINING, /* -> FREE; replied and shut down, reading what is left */
};

struct client {
    enum client_state state;
    int fd;
    bool keep_alive, peer_ended, last_line; /* last_line: the request just answered ended with a newline */
    bool answered;                          /* at least one request */
    int64_t until_ns;                       /* gone if nothing happens before */
    size_t n_in, n_drained;
    char *in; /* REQUEST_MAX + 1 bytes */
    char *out;
    size_t out_size, out_at;
};

struct api_server {
    const struct api_context *context;
    int listen_fd, epoll_fd, stop_fd, dir_fd;
    char name[108]; /* of the socket file in dir_fd */
    dev_t dev;
    ino_t ino;
    pthread_t thread;
    bool started, listening;
    struct client clients[CLIENTS_MAX] OWNED_BY(role_api);
};

enum { TAG_LISTEN = CLIENTS_MAX, TAG_STOP };

static int watch(struct api_server *s, int op, int fd, uint32_t events, uint32_t tag)
{
    struct epoll_event event = {.events = events, .data.u32 = tag};

    return epoll_ctl(s->epoll_fd, op, fd, &event) < 0 ? -errno : 0;
}

static void client_close(struct api_server *s, struct client *c) RUNS_ON(role_api)
{
    close(c->fd);
    free(c->in);
    free(c->out);
    *c = (struct client){.state = CLIENT_FREE};
    if (!s->listening) /* there is room again */
        s->listening = watch(s, EPOLL_CTL_MOD, s->listen_fd, EPOLLIN, TAG_LISTEN) == 0;
}

static void client_timeout(struct client *c, int64_t ms)
{
    c->until_ns = clock_monotonic_ns() + ms * NS_PER_MS;
}

static void accept_clients(struct api_server *s) RUNS_ON(role_api)
{
    for (;;) {
        struct client *c = NULL;
        int fd;

        for (unsigned i = 0; i < CLIENTS_MAX && !c; i++) {
            if (s->clients[i].state == CLIENT_FREE)
                c = &s->clients[i];
        }
        if (!c) { /* the backlog holds them until somebody leaves */
            s->listening = watch(s, EPOLL_CTL_MOD, s->listen_fd, 0, TAG_LISTEN) < 0;
            return;
        }
        fd = accept4(s->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd < 0) {
            static struct log_limit limit;

            if (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED)
                return;
            log_limited(&limit, LOG_LEVEL_WARNING, "API: cannot accept a client: %m");
            /* Out of descriptors: not asked again before a client has left, or the timer's next turn. */
            s->listening = watch(s, EPOLL_CTL_MOD, s->listen_fd, 0, TAG_LISTEN) < 0;
            return;
        }
        *c = (struct client){.state = CLIENT_READING, .fd = fd, .in = malloc(REQUEST_MAX + 1)};
        if (!c->in || watch(s, EPOLL_CTL_ADD, fd, EPOLLIN, (uint32_t)(c - s->clients)) < 0) {
            client_close(s, c);
            continue;
        }
        client_timeout(c, IDLE_MS);
        counter_add(COUNTER_api_connections, 1);
    }
}

static void log_request(const char *text, size_t size)
{
    char line[LOG_REQUEST_MAX + 1];
    size_t n = size < LOG_REQUEST_MAX ? size : LOG_REQUEST_MAX;

    for (size_t i = 0; i < n; i++)
        line[i] = text[i] >= ' ' && text[i] < 127 ? text[i] : text[i] == '\n' && i == n - 1 ? ' ' : '?';
    line[n] = '\0';
    log_info("api_handler: got request: %s%s", line, n < size ? "..." : "");
}

/* Sends what is left of the reply. False: the client is gone (and freed). */
static bool client_write(struct api_server *s, struct client *c) RUNS_ON(role_api)
{
    while (c->out_at < c->out_size) {
        ssize_t n = send(c->fd, c->out + c->out_at, c->out_size - c->out_at, MSG_NOSIGNAL | MSG_DONTWAIT);

        if (n >= 0) {
            c->out_at += (size_t)n;
        } else if (errno == EAGAIN) {
            if (c->state != CLIENT_WRITING)
                watch(s, EPOLL_CTL_MOD, c->fd, EPOLLOUT, (uint32_t)(c - s->clients));
            c->state = CLIENT_WRITING;
            return true;
        } else if (errno != EINTR) {
            client_close(s, c);
            return false;
        }
    }
    free(c->out);
    c->out = NULL;
    c->out_size = c->out_at = 0;
    if (c->state == CLIENT_WRITING) {
        c->state = CLIENT_READING;
        watch(s, EPOLL_CTL_MOD, c->fd, EPOLLIN, (uint32_t)(c - s->clients));
    }
    return true;
}

static bool client_reply(struct api_server *s, struct client *c, char *reply) RUNS_ON(role_api)
{
    size_t size = strlen(reply);

    c->out = malloc(size + 2);
    if (!c->out) {
        g_free(reply);
        client_close(s, c);
        return false;
    }
    memcpy(c->out, reply, size);
    g_free(reply);
    if (c->keep_alive)
        c->out[size++] = '\n';
    c->out_size = size;
    c->answered = true;
    return client_write(s, c);
}

/* The conversation is over: nothing more comes from us. False: freed. */
static bool client_finish(struct api_server *s, struct client *c) RUNS_ON(role_api)
{
    if (c->peer_ended) {
        client_close(s, c);
        return false;
    }
    shutdown(c->fd, SHUT_WR);
    c->state = CLIENT_DRAINING;
    c->n_drained = c->n_in;
    client_timeout(c, IDLE_MS);
    return c->n_drained < DRAIN_MAX;
}

static bool wants_keep_alive(const char *text, size_t size)
{
    /* Asked before the request is understood; a mention inside a string does no harm. */
    const char *key = memmem(text, size, "\"keep_alive\"", 12);

    if (!key)
        return false;
    for (key += 12; key < text + size && (*key == ':' || *key == ' '); key++)
        ;
    return (size_t)(text + size - key) >= 4 && memcmp(key, "true", 4) == 0;
}

/* Answers every whole request in the buffer, in order. False: freed. */
static bool client_serve(struct api_server *s, struct client *c) RUNS_ON(role_api)
{
    while (c->state == CLIENT_READING) {
        size_t begin, end;
        enum json_scan_result r = json_scan(c->in, c->n_in, c->peer_ended, &begin, &end);

        if (c->answered && begin == c->n_in) { /* between requests: nothing but white space */
            c->n_in = 0;
            break;
        }
        if (r == JSON_SCAN_INCOMPLETE) {
            if (c->n_in < REQUEST_MAX)
                break;
            return client_reply(s, c, command_too_large()) && client_finish(s, c);
        }
        log_request(c->in, r == JSON_SCAN_COMPLETE ? end : c->n_in);
        if (r == JSON_SCAN_BAD) { /* what follows cannot be told apart from it */
            return client_reply(s, c, command_answer(s->context, c->in, c->n_in)) && client_finish(s, c);
        }
        c->keep_alive = c->keep_alive || wants_keep_alive(c->in + begin, end - begin);
        if (!client_reply(s, c, command_answer(s->context, c->in + begin, end - begin)))
            return false;
        while (end < c->n_in && strchr(" \t\r", c->in[end]))
            end++;
        c->last_line = end < c->n_in && c->in[end] == '\n';
        memmove(c->in, c->in + end, c->n_in - end);
        c->n_in -= end;
        if (!c->last_line && !c->keep_alive)
            return client_finish(s, c); /* trailing garbage, or nothing: one request, as ever */
    }
    if (c->state != CLIENT_READING)
        return true; /* a reply waits for its reader; the rest of the buffer after it */
    if (c->peer_ended) {
        client_close(s, c);
        return false;
    }
    client_timeout(c, c->keep_alive ? KEEP_IDLE_MS : c->answered && c->n_in == 0 ? GRACE_MS : IDLE_MS);
    return true;
}

static void client_read(struct api_server *s, struct client *c) RUNS_ON(role_api)
{
    ssize_t n;

    if (c->state == CLIENT_DRAINING) {
        n = recv(c->fd, c->in, REQUEST_MAX, MSG_DONTWAIT);
        if (n > 0)
            c->n_drained += (size_t)n;
        if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR) || c->n_drained > DRAIN_MAX)
            client_close(s, c);
        return;
    }
    n = recv(c->fd, c->in + c->n_in, REQUEST_MAX - c->n_in, MSG_DONTWAIT);
    if (n < 0) {
        if (errno != EAGAIN && errno != EINTR)
            client_close(s, c);
        return;
    }
    if (n == 0) {
        c->peer_ended = true;
        if (c->n_in == 0 && c->answered) {
            client_close(s, c);
            return;
        }
    }
    c->n_in += (size_t)n;
    client_serve(s, c);
}

/* Sends away who has been silent too long; returns when to look again, -1: nobody is there. */
static int expire(struct api_server *s) RUNS_ON(role_api)
{
    int64_t now_ns = clock_monotonic_ns(), next_ns = s->listening ? INT64_MAX : now_ns + NS_PER_S;

    for (unsigned i = 0; i < CLIENTS_MAX; i++) {
        struct client *c = &s->clients[i];

        if (c->state == CLIENT_FREE)
            continue;
        if (c->until_ns <= now_ns) {
            if (c->state == CLIENT_READING && c->answered)
                client_finish(s, c);
            else
                client_close(s, c);
        }
        if (c->state != CLIENT_FREE && c->until_ns < next_ns)
            next_ns = c->until_ns;
    }
    return next_ns == INT64_MAX ? -1 : (int)((next_ns - now_ns + NS_PER_MS - 1) / NS_PER_MS);
}

static void serve(void *arg)
{
    struct api_server *s = arg;
    struct epoll_event events[CLIENTS_MAX];
    bool stop = false;

    role_enter(&role_api);
    while (!stop) {
        int n = epoll_wait(s->epoll_fd, events, ARRAY_SIZE(events), expire(s));

        if (n == 0 && !s->listening)
            s->listening = watch(s, EPOLL_CTL_MOD, s->listen_fd, EPOLLIN, TAG_LISTEN) == 0;
        for (int i = 0; i < n; i++) {
            uint32_t tag = events[i].data.u32;
            struct client *c;

            if (tag == TAG_STOP) {
                stop = true;
            } else if (tag == TAG_LISTEN) {
                accept_clients(s);
            } else {
                c = &s->clients[tag];
                if (c->state == CLIENT_WRITING) {
                    if (client_write(s, c) && c->state == CLIENT_READING)
                        client_serve(s, c);
                } else if (c->state != CLIENT_FREE) {
                    client_read(s, c);
                }
            }
        }
    }
    for (unsigned i = 0; i < CLIENTS_MAX; i++) {
        if (s->clients[i].state != CLIENT_FREE)
            client_close(s, &s->clients[i]);
    }
    role_leave(&role_api);
}

static int listen_at(struct api_server *s, const char *path, struct failure *why)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    const char *slash = strrchr(path, '/');
    _cleanup_free_ char *dir = slash ? strndup(path, (size_t)(slash - path) + 1) : strdup(".");
    struct stat st;

    if (strlen(path) >= sizeof(addr.sun_path))
        return failure(why, -ENAMETOOLONG, "use a path of less than 108 bytes", "API socket %s", path);
    memcpy(addr.sun_path, path, strlen(path));
    snprintf(s->name, sizeof(s->name), "%s", slash ? slash + 1 : path);
    if (unlink(path) < 0 && errno != ENOENT && errno != EISDIR && errno != EPERM)
        return failure(why, -errno, NULL, "cannot remove the old API socket %s", path);
    s->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (s->listen_fd < 0)
        return failure(why, -errno, NULL, "cannot make the API socket");
    if (bind(s->listen_fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
        return failure(why, -errno, "choose a path in a directory that exists and can be written",
                       "cannot bind the API socket to %s", path);
    s->dir_fd = dir ? open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC) : -1;
    if (s->dir_fd >= 0 && fstatat(s->dir_fd, s->name, &st, AT_SYMLINK_NOFOLLOW) == 0) {
        s->dev = st.st_dev;
        s->ino = st.st_ino;
    }
    if (listen(s->listen_fd, BACKLOG) < 0)
        return failure(why, -errno, NULL, "cannot listen on the API socket");
    return 0;
}

int api_server_new(struct api_server **ret, const char *path, const struct api_context *context,
                   struct failure *why)
{
    struct api_server *s = calloc(1, sizeof(*s));
    int r;

    if (!s)
        return failure(why, -ENOMEM, NULL, "cannot allocate the API server");
    s->context = context;
    s->listen_fd = s->dir_fd = -1;
    s->listening = true;
    s->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    s->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    r = s->epoll_fd < 0 || s->stop_fd < 0 ? failure(why, -errno, NULL, "cannot make the API's descriptors")
                                          : listen_at(s, path, why);
    if (r == 0 && ((r = watch(s, EPOLL_CTL_ADD, s->listen_fd, EPOLLIN, TAG_LISTEN)) < 0 ||
                   (r = watch(s, EPOLL_CTL_ADD, s->stop_fd, EPOLLIN, TAG_STOP)) < 0))
        failure(why, r, NULL, "cannot watch the API socket");
    if (r < 0) {
        api_server_free(s);
        return r;
    }
    *ret = s;
    return 0;
}

int api_server_start(struct api_server *s, struct failure *why)
{
    struct thread_start start = {.name = "api", .run = serve, .arg = s};
    int r = thread_spawn(&s->thread, &start);

    if (r < 0)
        return failure(why, r, NULL, "cannot start the API thread");
    s->started = true;
    return 0;
}

void api_server_stop(struct api_server *s)
{
    static const uint64_t one = 1;

    if (!s->started)
        return;
    if (write(s->stop_fd, &one, sizeof(one)) < 0)
        log_error("cannot stop the API thread: %m");
    pthread_join(s->thread, NULL);
    s->started = false;
}

struct api_server *api_server_free(struct api_server *s)
{
    struct stat st;

    if (!s)
        return NULL;
    /* Through the directory's descriptor: after the sandbox's pivot_root the path leads nowhere. */
    if (s->dir_fd >= 0 && s->ino && fstatat(s->dir_fd, s->name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
        st.st_dev == s->dev && st.st_ino == s->ino)
        unlinkat(s->dir_fd, s->name, 0);
    closep(&s->listen_fd);
    closep(&s->epoll_fd);
    closep(&s->stop_fd);
    closep(&s->dir_fd);
    free(s);
    return NULL;
}
