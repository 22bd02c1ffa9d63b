/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * forward.c
 *
 * Every TCP listener is ours. The thread fwd-0 accepts, in batches, and hands each connection to the path
 * that carries it. Control (the api thread) and accepting (fwd-0) meet in the table of listeners, under one
 * lock that is held for a batch of accept4(2) at most; an event for a listener that has gone meanwhile finds
 * another generation in its slot.
 *
 * When descriptors run out, the listener is not asked again for PAUSE_MS: connections wait in its backlog
 * instead of waking us for nothing.
 *
 * Lock order: forwards.lock is taken alone; the hooks are called without it.
 */
#include "fwd/forward.h"

#include "base/bits.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/counters.h"
#include "base/log.h"
#include "base/thread.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

enum {
    BACKLOG = 4096, /* the kernel cuts it to net.core.somaxconn */
    ACCEPT_BATCH = 64,
    PAUSE_MS = 100,
    EVENTS_MAX = 64,
};

struct listener {
    int fd; /* -1: free slot */
    uint32_t generation;
    bool paused;
    union address guest;
    _Atomic uint64_t *n_connections; /* of the forward it belongs to, which outlives it */
};

struct forward {
    uint64_t id;
    struct forward_spec spec;
    uint32_t *listeners;            /* TCP: a slot per port */
    void **udp_handles;             /* UDP: a handle per port */
    _Atomic uint64_t n_connections; /* written by fwd-0, read by api, relaxed */
};

struct forwards {
    struct forward_hooks hooks; /* fixed before threads start */
    int epoll_fd, stop_fd;
    pthread_t thread;
    bool started; /* main's */

    struct forward **table OWNED_BY(role_api); /* in the order they were added */
    uint32_t n_table OWNED_BY(role_api);
    uint64_t last_id OWNED_BY(role_api);

    pthread_mutex_t lock;
    struct listener *listeners; /* under lock */
    uint32_t n_listeners;       /* under lock: slots */
    uint32_t n_paused;          /* under lock */
};

#define TAG_STOP UINT64_MAX

static uint64_t listener_tag(uint32_t slot, uint32_t generation)
{
    return (uint64_t)generation << 32 | slot;
}

/* ---- listeners ---- */

static int listen_on(const union address *host, const struct forward_spec *spec, struct failure *why)
{
    static const int one = 1;
    int family = host->sa.sa_family, v6_only = spec->v6_only;
    _cleanup_close_ int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    const char *hint = NULL;

    if (fd < 0)
        return failure(why, -errno, "raise RLIMIT_NOFILE", "cannot make a socket for TCP port %u",
                       address_port(host));
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) == 0 &&
        (family != AF_INET6 || setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &v6_only, sizeof(v6_only)) == 0) &&
        bind(fd, &host->sa, address_size(host)) == 0 && listen(fd, BACKLOG) == 0)
        return steal_fd(&fd);
    if (errno == EADDRINUSE)
        hint = "another program or forward has it";
    else if (errno == EACCES)
        hint = "ports below net.ipv4.ip_unprivileged_port_start need CAP_NET_BIND_SERVICE";
    return failure(why, -errno, hint, "cannot listen on TCP port %u of the host", address_port(host));
}

/* Takes @fd over. Returns the slot or a negative errno. */
static int64_t listener_add(struct forwards *f, int fd, const union address *guest,
                            _Atomic uint64_t *n_connections)
{
    struct epoll_event event = {.events = EPOLLIN};
    struct listener *l;
    int64_t r = 0;
    uint32_t slot;

    pthread_mutex_lock(&f->lock);
    for (slot = 0; slot < f->n_listeners && f->listeners[slot].fd >= 0; slot++)
        ;
    if (slot == f->n_listeners) {
        uint32_t n = f->n_listeners ? 2 * f->n_listeners : 16;

        l = realloc(f->listeners, n * sizeof(*l));
        if (!l) {
            r = -ENOMEM;
            goto out;
        }
        f->listeners = l;
        for (; f->n_listeners < n; f->n_listeners++)
            l[f->n_listeners] = (struct listener){.fd = -1};
    }
    l = &f->listeners[slot];
    event.data.u64 = listener_tag(slot, ++l->generation);
    if (epoll_ctl(f->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0) {
        r = -errno;
        goto out;
    }
    l->fd = fd;
    l->paused = false;
    l->guest = *guest;
    l->n_connections = n_connections;
    r = slot;
out:
    pthread_mutex_unlock(&f->lock);
    if (r < 0)
        close(fd);
    return r;
}

static void listener_remove(struct forwards *f, uint32_t slot)
{
    pthread_mutex_lock(&f->lock);
    if (f->listeners[slot].paused)
        f->n_paused--;
    close(f->listeners[slot].fd); /* leaves the epoll set with it */
    f->listeners[slot].fd = -1;
    f->listeners[slot].n_connections = NULL;
    pthread_mutex_unlock(&f->lock);
}

/* ---- fwd-0 ---- */

static void accept_batch(struct forwards *f, uint64_t tag) RUNS_ON(role_fwd)
{
    uint32_t slot = (uint32_t)tag, generation = (uint32_t)(tag >> 32);
    static struct log_limit limit;
    int fds[ACCEPT_BATCH], n = 0, error = 0;
    union address guest;

    pthread_mutex_lock(&f->lock);
    if (slot < f->n_listeners && f->listeners[slot].fd >= 0 && f->listeners[slot].generation == generation) {
        struct listener *l = &f->listeners[slot];

        guest = l->guest;
        while (n < ACCEPT_BATCH) {
            int fd = accept4(l->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

            if (fd >= 0) {
                fds[n++] = fd;
            } else if (errno != ECONNABORTED && errno != EINTR) {
                error = errno;
                break;
            }
        }
        atomic_fetch_add_explicit(l->n_connections, (uint64_t)n, memory_order_relaxed);
        if (error != 0 && error != EAGAIN) {
            struct epoll_event event = {.events = 0, .data.u64 = tag};

            if (epoll_ctl(f->epoll_fd, EPOLL_CTL_MOD, l->fd, &event) == 0 && !l->paused) {
                l->paused = true;
                f->n_paused++;
            }
        }
    }
    pthread_mutex_unlock(&f->lock);

    if (error != 0 && error != EAGAIN) {
        errno = error;
        counter_add_shared(COUNTER_fwd_accept_paused, 1);
        log_limited(&limit, LOG_LEVEL_WARNING, "forward: cannot accept connections for the moment: %m");
    }
    for (int i = 0; i < n; i++) {
        static const int one = 1;

        /* A request waits for nobody; failing costs latency only. */
        (void)setsockopt(fds[i], IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
        if (f->hooks.adopt(f->hooks.arg, fds[i], &guest) < 0) {
            counter_add_shared(COUNTER_fwd_refused, 1);
            close(fds[i]);
        }
    }
    counter_add_shared(COUNTER_fwd_accepted, (uint64_t)n);
}

static void resume_paused(struct forwards *f) RUNS_ON(role_fwd)
{
    pthread_mutex_lock(&f->lock);
    for (uint32_t slot = 0; f->n_paused > 0 && slot < f->n_listeners; slot++) {
        struct listener *l = &f->listeners[slot];
        struct epoll_event event = {.events = EPOLLIN, .data.u64 = listener_tag(slot, l->generation)};

        if (l->fd >= 0 && l->paused && epoll_ctl(f->epoll_fd, EPOLL_CTL_MOD, l->fd, &event) == 0) {
            l->paused = false;
            f->n_paused--;
        }
    }
    pthread_mutex_unlock(&f->lock);
}

static bool any_paused(struct forwards *f)
{
    bool any;

    pthread_mutex_lock(&f->lock);
    any = f->n_paused > 0;
    pthread_mutex_unlock(&f->lock);
    return any;
}

static void run(void *arg)
{
    struct forwards *f = arg;
    struct epoll_event events[EVENTS_MAX];
    int64_t resume_ns = 0;
    bool stop = false;

    role_enter(&role_fwd);
    while (!stop) {
        bool paused = any_paused(f);
        int n;

        if (paused && resume_ns == 0)
            resume_ns = clock_monotonic_ns() + PAUSE_MS * NS_PER_MS;
        n = epoll_wait(f->epoll_fd, events, EVENTS_MAX, paused ? PAUSE_MS : -1);
        for (int i = 0; i < n; i++) {
            if (events[i].data.u64 == TAG_STOP)
                stop = true;
            else
                accept_batch(f, events[i].data.u64);
        }
        if (resume_ns != 0 && clock_monotonic_ns() >= resume_ns) {
            resume_paused(f);
            resume_ns = 0;
        }
    }
    role_leave(&role_fwd);
}

int forwards_start(struct forwards *f, struct failure *why)
{
    struct thread_start start = {.name = "fwd-0", .run = run, .arg = f};
    int r = thread_spawn(&f->thread, &start);

    if (r < 0)
        return failure(why, r, "raise RLIMIT_NPROC", "cannot start the forwarding thread");
    f->started = true;
    return 0;
}

void forwards_stop(struct forwards *f)
{
    static const uint64_t one = 1;

    if (!f->started)
        return;
    if (write(f->stop_fd, &one, sizeof(one)) < 0)
        log_error("cannot stop the forwarding thread: %m");
    pthread_join(f->thread, NULL);
    f->started = false;
}

/* ---- the table ---- */

static void port_add_to(union address *ret, const union address *base, uint32_t i)
{
    *ret = *base;
    address_set_port(ret, (uint16_t)(address_port(base) + i));
}

/* Undoes the first @n_done ports. */
static void forward_close(struct forwards *f, struct forward *fw, uint32_t n_done)
{
    for (uint32_t i = 0; i < n_done; i++) {
        if (fw->spec.proto == IPPROTO_TCP)
            listener_remove(f, fw->listeners[i]);
        else
            f->hooks.udp_remove(f->hooks.arg, fw->udp_handles[i]);
    }
    free(fw->listeners);
    free(fw->udp_handles);
    free(fw);
}

static int open_port(struct forwards *f, struct forward *fw, uint32_t i, struct failure *why)
{
    union address host, guest;
    int64_t slot;
    int fd;

    port_add_to(&host, &fw->spec.host, i);
    port_add_to(&guest, &fw->spec.guest, i);
    if (fw->spec.proto == IPPROTO_UDP)
        return f->hooks.udp_add(f->hooks.arg, &host, fw->spec.v6_only, &guest, &fw->udp_handles[i], why);
    fd = listen_on(&host, &fw->spec, why);
    if (fd < 0)
        return fd;
    slot = listener_add(f, fd, &guest, &fw->n_connections);
    if (slot < 0)
        return failure(why, (int)slot, NULL, "cannot watch TCP port %u", address_port(&host));
    fw->listeners[i] = (uint32_t)slot;
    return 0;
}

int forwards_add(struct forwards *f, const struct forward_spec *spec, uint64_t *ret_id, struct failure *why)
{
    struct forward *fw, **table;
    uint32_t i;
    int r;

    if (f->n_table >= FORWARDS_MAX)
        return failure(why, -ENOSPC, "remove some", "there are %d forwards already", FORWARDS_MAX);
    fw = calloc(1, sizeof(*fw));
    if (!fw)
        return failure(why, -ENOMEM, NULL, "cannot allocate a forward");
    fw->spec = *spec;
    fw->listeners = calloc(spec->n_ports, sizeof(*fw->listeners));
    fw->udp_handles = calloc(spec->n_ports, sizeof(*fw->udp_handles));
    table = realloc(f->table, (f->n_table + 1) * sizeof(struct forward *));
    if (table)
        f->table = table;
    if (!fw->listeners || !fw->udp_handles || !table) {
        forward_close(f, fw, 0);
        return failure(why, -ENOMEM, NULL, "cannot allocate a forward");
    }
    for (i = 0; i < spec->n_ports; i++) {
        r = open_port(f, fw, i, why);
        if (r < 0) {
            forward_close(f, fw, i);
            return r;
        }
    }
    fw->id = ++f->last_id;
    f->table[f->n_table++] = fw;
    *ret_id = fw->id;
    return 0;
}

int forwards_remove(struct forwards *f, uint64_t id, struct failure *why)
{
    for (uint32_t i = 0; i < f->n_table; i++) {
        if (f->table[i]->id != id)
            continue;
        forward_close(f, f->table[i], f->table[i]->spec.n_ports);
        memmove(f->table + i, f->table + i + 1, (f->n_table - i - 1) * sizeof(struct forward *));
        f->n_table--;
        return 0;
    }
    return failure(why, -ENOENT, "list_hostfwd shows the ids", "no forward has id %llu",
                   (unsigned long long)id);
}

void forwards_each(struct forwards *f, void (*visit)(const struct forward_info *info, void *arg), void *arg)
{
    for (uint32_t i = 0; i < f->n_table; i++) {
        struct forward *fw = f->table[i];
        struct forward_info info = {.id = fw->id, .spec = fw->spec};

        if (fw->spec.proto == IPPROTO_TCP) {
            info.path = "slirp";
            info.reason =
                fw->spec.path == FORWARD_SLIRP ? "asked for" : "TCP forwards are carried by libslirp";
            info.n_connections = atomic_load_explicit(&fw->n_connections, memory_order_relaxed);
        } else {
            info.path = "direct";
            info.reason = "";
            for (uint32_t port = 0; port < fw->spec.n_ports; port++) {
                uint64_t n, to_guest, to_host;

                f->hooks.udp_stats(f->hooks.arg, fw->udp_handles[port], &n, &to_guest, &to_host);
                info.n_connections += n;
                info.bytes_to_guest += to_guest;
                info.bytes_to_host += to_host;
            }
        }
        visit(&info, arg);
    }
}

int forwards_new(struct forwards **ret, const struct forward_hooks *hooks, struct failure *why)
{
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = TAG_STOP};
    struct forwards *f = calloc(1, sizeof(*f));

    if (!f)
        return failure(why, -ENOMEM, NULL, "cannot allocate the table of forwards");
    f->hooks = *hooks;
    pthread_mutex_init(&f->lock, NULL);
    f->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    f->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (f->epoll_fd < 0 || f->stop_fd < 0 || epoll_ctl(f->epoll_fd, EPOLL_CTL_ADD, f->stop_fd, &event) < 0) {
        int r = failure(why, -errno, "raise RLIMIT_NOFILE", "cannot make the descriptors of the forwards");

        forwards_free(f);
        return r;
    }
    *ret = f;
    return 0;
}

struct forwards *forwards_free(struct forwards *f) TSA(no_thread_safety_analysis) /* after threads ended */
{
    if (!f)
        return NULL;
    for (uint32_t i = 0; i < f->n_table; i++) {
        if (f->table[i]->spec.proto == IPPROTO_TCP) {
            forward_close(f, f->table[i], f->table[i]->spec.n_ports);
        } else { /* the engine closes its sockets itself */
            free(f->table[i]->listeners);
            free(f->table[i]->udp_handles);
            free(f->table[i]);
        }
    }
    free(f->table);
    free(f->listeners);
    closep(&f->epoll_fd);
    closep(&f->stop_fd);
    pthread_mutex_destroy(&f->lock);
    free(f);
    return NULL;
}
