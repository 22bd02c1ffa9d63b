/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * server.c
 *
 * When may a connection end? Some clients read until end of file without shutting down their own side, so we
 * must end after the reply; others send further requests, one per line. The session says whether another
 * request may follow. If none asked to be kept, the client has GRACE_MS to begin one.
 *
 * An end is: our side is shut down, and what still comes is read and thrown away until the client closes,
 * because closing a socket with unread input would reset it (unix(7)) and may take the reply with it.
 *
 * Places are few, so nobody can keep one by doing nothing: IDLE_MS of silence end a connection. One with
 * keep_alive stays, but when all places are taken the one that has been silent longest has to go.
 */
#include "api/server.h"

#include "api/http.h"
#include "api/session.h"
#include "api/socket_file.h"
#include "base/bits.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/counters.h"
#include "base/log.h"
#include "base/thread.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

enum {
    CLIENTS_MAX = 64, /* of the API; more wait in the backlog */
    SCRAPERS_MAX = 8, /* of the metrics; ditto, and none of them takes a place of the others */
    PLACES = CLIENTS_MAX + SCRAPERS_MAX,
    BACKLOG = 128,
    DRAIN_MAX = 1024 * 1024, /* thrown away after the last reply, at most */
    DRAIN_BYTES = 16 * 1024, /* at a time */
    IDLE_MS = 10000,         /* silence after which a client is sent away */
    GRACE_MS = 250,          /* for the next request to begin */
    SCRAPE_MS = 10000,       /* for a scraper's whole request, for all of the answer, and between two */
    ACCEPT_RETRY_MS = 200,   /* between looks for a place, or a descriptor, for who waits in the backlog */
};

enum client_state {
    CLIENT_FREE,
    CLIENT_READING,  /* -> WRITING, DRAINING, FREE */
    CLIENT_WRITING,  /* a reply does not fit the socket: -> READING, DRAINING, FREE */
    CLIENT_DRAINING, /* replied and shut down, reading what is left: -> FREE */
};

struct client {
    enum client_state state;
    int fd;
    bool is_http;
    union { /* READING, WRITING */
        struct session session;
        struct http http;
    };
    char *out; /* what is left of a reply: @out_at to @out_size */
    size_t out_at, out_size;
    size_t n_drained;
    int64_t since_ns; /* the last byte that went either way */
    int64_t until_ns; /* then its time is over; INT64_MAX: never */
};

/* What a listening socket speaks, and the places of its clients. */
struct listener {
    struct socket_file file;
    bool http;
    unsigned first, n;                   /* places */
    bool accepting OWNED_BY(role_api);   /* the listening socket is watched */
    int64_t retry_ns OWNED_BY(role_api); /* when it is not: when to try again */
};

enum { LISTENER_API, LISTENER_METRICS, LISTENERS };

struct api_server {
    const struct api_context *context;
    int epoll_fd, stop_fd;
    struct listener listeners[LISTENERS];
    pthread_t thread; /* main's, as is @started */
    bool started;
    struct client clients[PLACES] OWNED_BY(role_api);
};

enum { TAG_LISTEN = PLACES, TAG_STOP = TAG_LISTEN + LISTENERS }; /* below: a client's index */

static int watch(struct api_server *s, int op, int fd, uint32_t events, uint32_t tag)
{
    struct epoll_event event = {.events = events, .data.u32 = tag};

    return epoll_ctl(s->epoll_fd, op, fd, &event) < 0 ? -errno : 0;
}

/* ---- a client's conversation ---- */

static int talk_init(struct client *c, const struct api_context *context) RUNS_ON(role_api)
{
    return c->is_http ? http_init(&c->http, context) : session_init(&c->session, context);
}

static void talk_deinit(struct client *c) RUNS_ON(role_api)
{
    if (c->is_http)
        http_deinit(&c->http);
    else
        session_deinit(&c->session);
}

static char *talk_room(struct client *c, size_t *ret_size) RUNS_ON(role_api)
{
    return c->is_http ? http_room(&c->http, ret_size) : session_room(&c->session, ret_size);
}

static void talk_received(struct client *c, size_t size) RUNS_ON(role_api)
{
    if (c->is_http)
        http_received(&c->http, size);
    else
        session_received(&c->session, size);
}

static void talk_end(struct client *c) RUNS_ON(role_api)
{
    if (c->is_http)
        http_ended(&c->http);
    else
        session_ended(&c->session);
}

static bool talk_has_ended(const struct client *c) RUNS_ON(role_api)
{
    return c->is_http ? c->http.ended : c->session.ended;
}

static bool talk_is_idle(const struct client *c) RUNS_ON(role_api)
{
    return c->is_http ? http_is_idle(&c->http) : session_is_idle(&c->session);
}

/* Something has come, and is not answered. */
static bool talk_is_unfinished(const struct client *c) RUNS_ON(role_api)
{
    return (c->is_http ? c->http.n_in : c->session.n_in) > 0 && !talk_is_idle(c);
}

static enum session_step talk_next(struct client *c) RUNS_ON(role_api)
{
    return c->is_http ? http_next(&c->http, &c->out, &c->out_size)
                      : session_next(&c->session, &c->out, &c->out_size);
}

/* ---- a client ---- */

static void client_close(struct client *c) RUNS_ON(role_api)
{
    close(c->fd); /* leaves the epoll set with it */
    talk_deinit(c);
    free(c->out);
    c->out = NULL;
    c->state = CLIENT_FREE;
}

static void client_heard(struct client *c, int64_t ms) RUNS_ON(role_api)
{
    c->since_ns = clock_monotonic_ns();
    c->until_ns = ms < 0 ? INT64_MAX : c->since_ns + ms * NS_PER_MS;
}

/* The one place that changes what a living client waits for. */
static void client_enter(struct api_server *s, struct client *c, enum client_state state) RUNS_ON(role_api)
{
    bool writes = c->state == CLIENT_WRITING, will_write = state == CLIENT_WRITING;

    c->state = state;
    if (writes != will_write &&
        watch(s, EPOLL_CTL_MOD, c->fd, will_write ? EPOLLOUT : EPOLLIN, (uint32_t)(c - s->clients)) < 0)
        client_close(c);
}

/* Sends what is left of the reply. False: not all of it could be sent now, or the client is gone. */
static bool client_flush(struct api_server *s, struct client *c) RUNS_ON(role_api)
{
    while (c->out_at < c->out_size) {
        ssize_t n = send(c->fd, c->out + c->out_at, c->out_size - c->out_at, MSG_NOSIGNAL | MSG_DONTWAIT);

        if (n >= 0) {
            c->out_at += (size_t)n;
            if (!c->is_http) /* a scraper has SCRAPE_MS for all of it */
                client_heard(c, IDLE_MS);
        } else if (errno == EAGAIN) {
            if (!c->is_http && c->state != CLIENT_WRITING) /* what it had time for before is another matter */
                client_heard(c, IDLE_MS);
            client_enter(s, c, CLIENT_WRITING);
            return false;
        } else if (errno != EINTR) {
            client_close(c);
            return false;
        }
    }
    free(c->out);
    c->out = NULL;
    c->out_at = c->out_size = 0;
    client_enter(s, c, CLIENT_READING);
    return c->state == CLIENT_READING;
}

/* No reply will follow. */
static void client_finish(struct api_server *s, struct client *c) RUNS_ON(role_api)
{
    if (talk_has_ended(c) || shutdown(c->fd, SHUT_WR) < 0) {
        client_close(c);
        return;
    }
    c->n_drained = 0;
    client_heard(c, IDLE_MS);
    client_enter(s, c, CLIENT_DRAINING);
}

/* Answers what has come, in order, as long as the client takes the replies. Bounded by the session's buffer.
 */
static void client_serve(struct api_server *s, struct client *c) RUNS_ON(role_api)
{
    while (client_flush(s, c)) {
        switch (talk_next(c)) {
        case SESSION_REPLY:
            if (c->is_http)
                client_heard(c, SCRAPE_MS);
            break;
        case SESSION_WAIT:
            if (c->is_http) /* since the request began, or the answer before it */
                return;
            if (!session_is_idle(&c->session))
                client_heard(c, IDLE_MS);
            else
                client_heard(c, c->session.keep_alive ? -1 : GRACE_MS);
            return;
        case SESSION_OVER:
            client_finish(s, c);
            return;
        }
    }
}

static void client_read(struct api_server *s, struct client *c) RUNS_ON(role_api)
{
    size_t size;
    bool was_idle = talk_is_idle(c);
    char *room = talk_room(c, &size);
    ssize_t n = recv(c->fd, room, size, MSG_DONTWAIT);

    if (n < 0) {
        if (errno != EAGAIN && errno != EINTR)
            client_close(c);
        return;
    }
    if (n == 0)
        talk_end(c);
    talk_received(c, (size_t)n);
    if (c->is_http && was_idle)
        client_heard(c, SCRAPE_MS);
    client_serve(s, c);
}

static void client_drain(struct client *c) RUNS_ON(role_api)
{
    char nowhere[DRAIN_BYTES];
    ssize_t n = recv(c->fd, nowhere, sizeof(nowhere), MSG_DONTWAIT);

    if (n > 0)
        c->n_drained += (size_t)n;
    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR) || c->n_drained > DRAIN_MAX)
        client_close(c);
}

/* Its time is over. Who left a request unfinished is told so. */
static void client_expire(struct api_server *s, struct client *c) RUNS_ON(role_api)
{
    if (c->state == CLIENT_READING && talk_is_unfinished(c)) {
        talk_end(c);
        client_serve(s, c);
        if (c->state == CLIENT_DRAINING || c->state == CLIENT_FREE)
            return;
    }
    if (c->state == CLIENT_READING && talk_is_idle(c))
        client_finish(s, c);
    else
        client_close(c);
}

static void client_event(struct api_server *s, struct client *c) RUNS_ON(role_api)
{
    switch (c->state) {
    case CLIENT_FREE: /* closed while this event was on its way */
        break;
    case CLIENT_READING:
        client_read(s, c);
        break;
    case CLIENT_WRITING:
        client_serve(s, c);
        break;
    case CLIENT_DRAINING:
        client_drain(c);
        break;
    }
}

/* ---- all clients ---- */

/* A free place; when there is none, that of the client whom it hurts least to lose. */
static struct client *find_place(struct api_server *s, const struct listener *l) RUNS_ON(role_api)
{
    int64_t now_ns = clock_monotonic_ns(), oldest_ns = INT64_MAX;
    struct client *oldest = NULL;

    for (unsigned i = l->first; i < l->first + l->n; i++) {
        struct client *c = &s->clients[i];
        bool idle =
            c->state == CLIENT_READING && talk_is_idle(c) && now_ns - c->since_ns >= IDLE_MS * NS_PER_MS;
        bool answered = c->state == CLIENT_DRAINING && now_ns - c->since_ns >= GRACE_MS * NS_PER_MS;

        if (c->state == CLIENT_FREE)
            return c;
        if ((idle || answered) && c->since_ns < oldest_ns) {
            oldest = c;
            oldest_ns = c->since_ns;
        }
    }
    if (oldest)
        client_close(oldest);
    return oldest;
}

static void accepting(struct api_server *s, struct listener *l, bool on) RUNS_ON(role_api)
{
    if (watch(s, EPOLL_CTL_MOD, l->file.listen_fd, on ? EPOLLIN : 0,
              TAG_LISTEN + (uint32_t)(l - s->listeners)) == 0)
        l->accepting = on;
    l->retry_ns = clock_monotonic_ns() + ACCEPT_RETRY_MS * NS_PER_MS;
}

static void accept_clients(struct api_server *s, struct listener *l) RUNS_ON(role_api)
{
    static struct log_limit limit;

    for (unsigned i = 0; i < l->n; i++) {
        struct client *c = find_place(s, l);
        int fd;

        if (!c) { /* the backlog holds them until somebody leaves */
            accepting(s, l, false);
            return;
        }
        fd = accept4(l->file.listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd < 0) {
            if (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED)
                return;
            log_limited(&limit, LOG_LEVEL_WARNING,
                        "API: cannot accept a client: %m; trying again (RLIMIT_NOFILE may be too low)");
            accepting(s, l, false);
            return;
        }
        *c = (struct client){.state = CLIENT_READING, .fd = fd, .is_http = l->http};
        if (talk_init(c, s->context) < 0 ||
            watch(s, EPOLL_CTL_ADD, fd, EPOLLIN, (uint32_t)(c - s->clients)) < 0) {
            log_limited(&limit, LOG_LEVEL_WARNING, "API: no memory for another client");
            client_close(c);
            continue;
        }
        client_heard(c, l->http ? SCRAPE_MS : IDLE_MS);
        counter_add(l->http ? COUNTER_metrics_connections : COUNTER_api_connections, 1);
    }
}

/* Does what is due and returns for how long there is nothing, in ms for epoll_wait(2). */
static int expire(struct api_server *s) RUNS_ON(role_api)
{
    int64_t now_ns = clock_monotonic_ns(), next_ns = INT64_MAX;

    for (unsigned i = 0; i < PLACES; i++) {
        struct client *c = &s->clients[i];

        if (c->state != CLIENT_FREE && c->until_ns <= now_ns)
            client_expire(s, c);
        if (c->state != CLIENT_FREE && c->until_ns < next_ns)
            next_ns = c->until_ns;
    }
    for (unsigned i = 0; i < LISTENERS; i++) {
        struct listener *l = &s->listeners[i];

        if (l->file.listen_fd < 0)
            continue;
        if (!l->accepting && l->retry_ns <= now_ns)
            accepting(s, l, true);
        if (!l->accepting && l->retry_ns < next_ns)
            next_ns = l->retry_ns;
    }
    if (next_ns == INT64_MAX)
        return -1;
    return next_ns <= now_ns ? 0 : (int)((next_ns - now_ns + NS_PER_MS - 1) / NS_PER_MS);
}

static void serve(void *arg)
{
    struct api_server *s = arg;
    struct epoll_event events[PLACES];
    bool stop = false;

    role_enter(&role_api);
    for (unsigned i = 0; i < LISTENERS; i++)
        s->listeners[i].accepting = true;
    while (!stop) {
        int n = epoll_wait(s->epoll_fd, events, ARRAY_SIZE(events), expire(s));

        thread_count_turn();
        if (n < 0 && errno != EINTR) {
            log_error("API: epoll_wait: %m; the API socket answers no more");
            break;
        }
        for (int i = 0; i < n; i++) {
            uint32_t tag = events[i].data.u32;

            if (tag == TAG_STOP)
                stop = true;
            else if (tag >= TAG_LISTEN)
                accept_clients(s, &s->listeners[tag - TAG_LISTEN]);
            else
                client_event(s, &s->clients[tag]);
        }
    }
    for (unsigned i = 0; i < PLACES; i++) {
        if (s->clients[i].state != CLIENT_FREE)
            client_close(&s->clients[i]);
    }
    role_leave(&role_api);
}

/* ---- life cycle ---- */

static int listener_open(struct api_server *s, unsigned index, const char *path, struct failure *why)
{
    static const char *const names[LISTENERS] = {"API socket", "metrics socket"};
    struct listener *l = &s->listeners[index];
    int r;

    if (!path)
        return 0;
    r = socket_file_listen(&l->file, path, names[index], BACKLOG, why);
    if (r < 0)
        return r;
    r = watch(s, EPOLL_CTL_ADD, l->file.listen_fd, EPOLLIN, TAG_LISTEN + index);
    return r < 0 ? failure(why, r, NULL, "cannot watch the %s", names[index]) : 0;
}

int api_server_new(struct api_server **ret, const char *path, const char *metrics_path,
                   const struct api_context *context, struct failure *why)
{
    struct api_server *s = calloc(1, sizeof(*s));
    int r;

    if (!s)
        return failure(why, -ENOMEM, NULL, "cannot allocate the API server");
    command_init();
    s->context = context;
    s->stop_fd = -1;
    s->listeners[LISTENER_API] = (struct listener){.file = SOCKET_FILE_NULL, .n = CLIENTS_MAX};
    s->listeners[LISTENER_METRICS] =
        (struct listener){.file = SOCKET_FILE_NULL, .http = true, .first = CLIENTS_MAX, .n = SCRAPERS_MAX};
    s->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (s->epoll_fd >= 0)
        s->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (s->stop_fd < 0)
        r = failure(why, -errno, "raise RLIMIT_NOFILE", "cannot make the API's descriptors");
    else if ((r = watch(s, EPOLL_CTL_ADD, s->stop_fd, EPOLLIN, TAG_STOP)) < 0)
        failure(why, r, NULL, "cannot watch an eventfd");
    if (r == 0)
        r = listener_open(s, LISTENER_API, path, why);
    if (r == 0)
        r = listener_open(s, LISTENER_METRICS, metrics_path, why);
    if (r < 0) {
        api_server_free(s);
        return r;
    }
    *ret = s;
    return 0;
}

int api_server_start(struct api_server *s, struct failure *why)
{
    struct thread_start start = {.name = "api", .duties = DUTY_API, .run = serve, .arg = s};
    int r;

    for (unsigned i = 0; i < LISTENERS; i++)
        socket_file_seal(&s->listeners[i].file);
    r = thread_spawn(&s->thread, &start);
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
        log_error("API: cannot stop the thread: %m");
    pthread_join(s->thread, NULL);
    s->started = false;
}

struct api_server *api_server_free(struct api_server *s)
{
    if (!s)
        return NULL;
    for (unsigned i = 0; i < LISTENERS; i++)
        socket_file_close(&s->listeners[i].file);
    closep(&s->epoll_fd);
    closep(&s->stop_fd);
    free(s);
    return NULL;
}
