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

#include "api/session.h"
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
    CLIENTS_MAX = 64, /* more wait in the backlog */
    BACKLOG = 128,
    DRAIN_MAX = 1024 * 1024, /* thrown away after the last reply, at most */
    IDLE_MS = 10000,         /* silence after which a client is sent away */
    GRACE_MS = 250,          /* for the next request to begin */
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
    struct session session; /* READING, WRITING; DRAINING reads into its buffer */
    char *out;              /* what is left of a reply: @out_at to @out_size */
    size_t out_at, out_size;
    size_t n_drained;
    int64_t since_ns; /* the last byte that went either way */
    int64_t until_ns; /* then its time is over; INT64_MAX: never */
};

struct identity {
    dev_t dev;
    ino_t ino;
};

struct api_server {
    const struct api_context *context;
    int listen_fd, epoll_fd, stop_fd;
    int dir_fd;                 /* where the socket file is; -1: out of reach */
    char name[NAME_MAX + 1];    /* of the socket file */
    struct identity file, root; /* of that file; of / at that time */
    pthread_t thread;           /* main's, as is @started */
    bool started;
    bool accepting OWNED_BY(role_api);   /* the listening socket is watched */
    int64_t retry_ns OWNED_BY(role_api); /* when it is not: when to try again */
    struct client clients[CLIENTS_MAX] OWNED_BY(role_api);
};

enum { TAG_LISTEN = CLIENTS_MAX, TAG_STOP }; /* below: a client's index */

static int watch(struct api_server *s, int op, int fd, uint32_t events, uint32_t tag)
{
    struct epoll_event event = {.events = events, .data.u32 = tag};

    return epoll_ctl(s->epoll_fd, op, fd, &event) < 0 ? -errno : 0;
}

/* ---- a client ---- */

static void client_close(struct client *c) RUNS_ON(role_api)
{
    close(c->fd); /* leaves the epoll set with it */
    session_deinit(&c->session);
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
            client_heard(c, IDLE_MS);
        } else if (errno == EAGAIN) {
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
    if (c->session.ended || shutdown(c->fd, SHUT_WR) < 0) {
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
        switch (session_next(&c->session, &c->out, &c->out_size)) {
        case SESSION_REPLY:
            break;
        case SESSION_WAIT:
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
    char *room = session_room(&c->session, &size);
    ssize_t n = recv(c->fd, room, size, MSG_DONTWAIT);

    if (n < 0) {
        if (errno != EAGAIN && errno != EINTR)
            client_close(c);
        return;
    }
    if (n == 0)
        session_ended(&c->session);
    session_received(&c->session, (size_t)n);
    client_serve(s, c);
}

static void client_drain(struct client *c) RUNS_ON(role_api)
{
    ssize_t n = recv(c->fd, c->session.in, REQUEST_MAX, MSG_DONTWAIT);

    if (n > 0)
        c->n_drained += (size_t)n;
    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR) || c->n_drained > DRAIN_MAX)
        client_close(c);
}

/* Its time is over. Who left a request unfinished is told so. */
static void client_expire(struct api_server *s, struct client *c) RUNS_ON(role_api)
{
    if (c->state == CLIENT_READING && c->session.n_in > 0 && !session_is_idle(&c->session)) {
        session_ended(&c->session);
        client_serve(s, c);
        if (c->state == CLIENT_DRAINING || c->state == CLIENT_FREE)
            return;
    }
    if (c->state == CLIENT_READING && session_is_idle(&c->session))
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
static struct client *find_place(struct api_server *s) RUNS_ON(role_api)
{
    int64_t now_ns = clock_monotonic_ns(), oldest_ns = INT64_MAX;
    struct client *oldest = NULL;

    for (unsigned i = 0; i < CLIENTS_MAX; i++) {
        struct client *c = &s->clients[i];
        bool idle = c->state == CLIENT_READING && session_is_idle(&c->session) &&
                    now_ns - c->since_ns >= IDLE_MS * NS_PER_MS;
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

static void accepting(struct api_server *s, bool on) RUNS_ON(role_api)
{
    if (watch(s, EPOLL_CTL_MOD, s->listen_fd, on ? EPOLLIN : 0, TAG_LISTEN) == 0)
        s->accepting = on;
    s->retry_ns = clock_monotonic_ns() + ACCEPT_RETRY_MS * NS_PER_MS;
}

static void accept_clients(struct api_server *s) RUNS_ON(role_api)
{
    static struct log_limit limit;

    for (unsigned i = 0; i < CLIENTS_MAX; i++) {
        struct client *c = find_place(s);
        int fd;

        if (!c) { /* the backlog holds them until somebody leaves */
            accepting(s, false);
            return;
        }
        fd = accept4(s->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd < 0) {
            if (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED)
                return;
            log_limited(&limit, LOG_LEVEL_WARNING,
                        "API: cannot accept a client: %m; trying again (RLIMIT_NOFILE may be too low)");
            accepting(s, false);
            return;
        }
        *c = (struct client){.state = CLIENT_READING, .fd = fd};
        if (session_init(&c->session, s->context) < 0 ||
            watch(s, EPOLL_CTL_ADD, fd, EPOLLIN, (uint32_t)(c - s->clients)) < 0) {
            log_limited(&limit, LOG_LEVEL_WARNING, "API: no memory for another client");
            client_close(c);
            continue;
        }
        client_heard(c, IDLE_MS);
        counter_add(COUNTER_api_connections, 1);
    }
}

/* Does what is due and returns for how long there is nothing, in ms for epoll_wait(2). */
static int expire(struct api_server *s) RUNS_ON(role_api)
{
    int64_t now_ns = clock_monotonic_ns(), next_ns = INT64_MAX;

    for (unsigned i = 0; i < CLIENTS_MAX; i++) {
        struct client *c = &s->clients[i];

        if (c->state != CLIENT_FREE && c->until_ns <= now_ns)
            client_expire(s, c);
        if (c->state != CLIENT_FREE && c->until_ns < next_ns)
            next_ns = c->until_ns;
    }
    if (!s->accepting && s->retry_ns <= now_ns)
        accepting(s, true);
    if (!s->accepting && s->retry_ns < next_ns)
        next_ns = s->retry_ns;
    if (next_ns == INT64_MAX)
        return -1;
    return next_ns <= now_ns ? 0 : (int)((next_ns - now_ns + NS_PER_MS - 1) / NS_PER_MS);
}

static void serve(void *arg)
{
    struct api_server *s = arg;
    struct epoll_event events[CLIENTS_MAX];
    bool stop = false;

    role_enter(&role_api);
    s->accepting = true;
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
            else if (tag == TAG_LISTEN)
                accept_clients(s);
            else
                client_event(s, &s->clients[tag]);
        }
    }
    for (unsigned i = 0; i < CLIENTS_MAX; i++) {
        if (s->clients[i].state != CLIENT_FREE)
            client_close(&s->clients[i]);
    }
    role_leave(&role_api);
}

/* ---- life cycle ---- */

/* Returns false when @path, seen from @dir_fd, cannot be looked at. */
static bool identify(int dir_fd, const char *path, struct identity *ret)
{
    struct stat st;

    if (fstatat(dir_fd, path, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return false;
    *ret = (struct identity){.dev = st.st_dev, .ino = st.st_ino};
    return true;
}

static bool is_now(const struct identity *then, int dir_fd, const char *path)
{
    struct identity now;

    return identify(dir_fd, path, &now) && now.dev == then->dev && now.ino == then->ino;
}

/* So that the file can be removed at the end, whatever the working directory is then. */
static void remember_file(struct api_server *s, const char *path)
{
    const char *slash = strrchr(path, '/');
    _cleanup_free_ char *dir = slash ? strndup(path, (size_t)(slash - path) + 1) : strdup(".");

    snprintf(s->name, sizeof(s->name), "%s", slash ? slash + 1 : path);
    s->dir_fd = dir ? open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC) : -1;
    if (!identify(s->dir_fd, s->name, &s->file) || !identify(AT_FDCWD, "/", &s->root))
        closep(&s->dir_fd);
}

static int listen_at(struct api_server *s, const char *path, struct failure *why)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    static const char hint[] = "choose a path in a directory that exists and can be written";

    if (strlen(path) >= sizeof(addr.sun_path))
        return failure(why, -ENAMETOOLONG, "use a path of less than 108 bytes", "API socket %s", path);
    memcpy(addr.sun_path, path, strlen(path));
    if (unlink(path) < 0 && errno != ENOENT && errno != EISDIR && errno != EPERM)
        return failure(why, -errno, hint, "cannot remove what is at the API socket's path %s", path);
    s->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (s->listen_fd < 0)
        return failure(why, -errno, NULL, "cannot make the API socket");
    if (bind(s->listen_fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
        return failure(why, -errno, hint, "cannot bind the API socket to %s: bind", path);
    remember_file(s, path);
    if (listen(s->listen_fd, BACKLOG) < 0)
        return failure(why, -errno, NULL, "cannot listen on the API socket %s", path);
    return 0;
}

int api_server_new(struct api_server **ret, const char *path, const struct api_context *context,
                   struct failure *why)
{
    struct api_server *s = calloc(1, sizeof(*s));
    int r;

    if (!s)
        return failure(why, -ENOMEM, NULL, "cannot allocate the API server");
    command_init();
    s->context = context;
    s->listen_fd = s->dir_fd = s->stop_fd = -1;
    s->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (s->epoll_fd >= 0)
        s->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    r = s->stop_fd < 0 ? failure(why, -errno, "raise RLIMIT_NOFILE", "cannot make the API's descriptors")
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
    int r;

    /* Inside the sandbox a descriptor of a directory outside would be a way out (openat(2) with ".."): the
     * file stays, as it always has. */
    if (s->dir_fd >= 0 && !is_now(&s->root, AT_FDCWD, "/"))
        closep(&s->dir_fd);
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
    if (s->dir_fd >= 0 && is_now(&s->file, s->dir_fd, s->name) && unlinkat(s->dir_fd, s->name, 0) < 0)
        log_warning("API: cannot remove the socket %s: %m", s->name);
    closep(&s->listen_fd);
    closep(&s->epoll_fd);
    closep(&s->stop_fd);
    closep(&s->dir_fd);
    free(s);
    return NULL;
}
