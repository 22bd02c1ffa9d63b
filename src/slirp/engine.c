/* SPDX-License-Identifier: GPL-2.0-or-later */
/* engine.c - the data plane's life cycle, and what other threads ask of it */
#include "slirp/engine_private.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/counters.h"
#include "base/log.h"
#include "base/thread.h"
#include "slirp/connections.h"
#include "slirp/events.h"

#include <errno.h>
#include <glib.h>
#include <linux/if_tun.h>
#include <sched.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/resource.h>

enum { SHARED_CPUS_MAX = 2 };

/* ---- the end of the data plane ---- */

void engine_set_gone(void *arg, int error)
{
    struct engine *e = arg;
    static const uint64_t one = 1;
    int none = 0;

    /* Relaxed: the eventfd's write and read order it for main. */
    if (!atomic_compare_exchange_strong_explicit(&e->gone, &none, error, memory_order_relaxed,
                                                 memory_order_relaxed))
        return;
    if (write(e->gone_fd, &one, sizeof(one)) < 0)
        log_error("cannot report that the TAP is gone: %m");
}

/* From tap-rx and tap-tx: the slirp thread must look. */
void engine_set_gone_and_kick(void *arg, int error)
{
    struct engine *e = arg;

    engine_set_gone(e, error);
    wakeup_send(&e->wake);
}

int engine_gone_fd(const struct engine *e)
{
    return e->gone_fd;
}

int engine_gone(const struct engine *e)
{
    return atomic_load_explicit(&e->gone, memory_order_relaxed); /* read after gone_fd became readable */
}

const char *engine_backend_name(const struct engine *e)
{
    return e->io->name;
}

const char *engine_mode_name(const struct engine *e)
{
    return e->shared ? "shared" : "split";
}

const char *engine_choice_text(const struct engine *e)
{
    return e->choice;
}

const char *engine_udp_text(const struct engine *e)
{
    return e->udp_text;
}

static int watch(struct engine *e, int fd, uint32_t events, uint64_t tag)
    TSA(no_thread_safety_analysis) /* before threads start */
{
    struct epoll_event event = {.events = events, .data.u64 = tag};

    return epoll_ctl(e->descriptors.epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
}

bool engine_is_shared(const struct engine *e)
{
    return e->shared;
}

int engine_epoll_fd(const struct engine *e) TSA(no_thread_safety_analysis) /* fixed */
{
    return e->descriptors.epoll_fd;
}

void engine_share(struct engine *e, const struct engine_guest *guest)
    TSA(no_thread_safety_analysis) /* before threads start */
{
    e->guest = *guest;
    e->guest_ns = 0; /* a first turn, as in a thread of its own */
}

static int engine_prepare(void *arg)
{
    struct engine *e = arg;
    int r;

    if (!e->shared)
        return 0;
    r = e->io->reader_start(e->reader);
    return r < 0 ? r : watch(e, e->tap_poll_fd, EPOLLIN | EPOLLET, events_tag(EVENT_TAP, 0));
}

/* ---- life cycle: main ---- */

static int cpus_allowed(void)
{
    cpu_set_t set;

    return sched_getaffinity(0, sizeof(set), &set) < 0 ? 1 : CPU_COUNT(&set);
}

static int make_tap_io(struct engine *e, const struct tap_io *io, struct failure *why)
    TSA(no_thread_safety_analysis) /* before threads start */
{
    int r = io->reader_new(&e->reader, e->config.tap_fd, &e->rx_pool, &e->rx.wake, why);

    if (r < 0)
        return r;
    if (e->shared) {
        e->tap_poll_fd = io->poll_fd(e->reader);
    } else {
        r = io->writer_new(&e->writer, e->config.tap_fd, &e->tx_pool, why);
    }
    if (r < 0) {
        e->reader = io->reader_free(e->reader);
        return r;
    }
    e->io = io;
    return 0;
}

/* A thread of its own waits in the ring, if the kernel can do that. */
static int make_uring(struct engine *e, struct failure *why)
{
    if (!e->shared && make_tap_io(e, &tap_io_uring, why) == 0)
        return 0;
    return make_tap_io(e, &tap_io_uring_batched, why);
}

static int choose_tap_io(struct engine *e, struct failure *why)
{
    struct failure uring_why = FAILURE_NULL;
    char text[FAILURE_TEXT_SIZE];

    snprintf(e->backend_why, sizeof(e->backend_why), "--io-backend");
    if (e->config.backend == ENGINE_BACKEND_EPOLL)
        return make_tap_io(e, &tap_io_epoll, why);
    if (e->config.backend == ENGINE_BACKEND_URING)
        return make_uring(e, why);
    if (make_uring(e, &uring_why) == 0) {
        snprintf(e->backend_why, sizeof(e->backend_why), "io_uring is available");
        return 0;
    }
    snprintf(e->backend_why, sizeof(e->backend_why), "no io_uring: %s",
             failure_text(&uring_why, text, sizeof(text)));
    return make_tap_io(e, &tap_io_epoll, why);
}

static int make_slirp(struct engine *e, struct failure *why)
    TSA(no_thread_safety_analysis) /* before threads start */
{
    const struct engine_config *c = &e->config;
    unsigned mtu = e->large.on ? LARGE_IF_MTU : c->mtu, mru = e->large.on ? LARGE_IF_MRU : c->mtu;
    SlirpConfig config = {
        .version = 4,
        .in_enabled = true,
        .vnetwork = c->network,
        .vnetmask = c->netmask,
        .vhost = c->gateway,
        .vdhcp_start = c->dhcp_start,
        .vnameserver = c->dns,
        .in6_enabled = c->ipv6,
        .vprefix_len = 64,
        .if_mtu = mtu,
        .if_mru = mru,
        .disable_host_loopback = c->disable_host_loopback,
        .disable_dns = c->disable_dns,
    };

    inet_pton(AF_INET6, "fd00::", &config.vprefix_addr6);
    inet_pton(AF_INET6, "fd00::2", &config.vhost6);
    inet_pton(AF_INET6, "fd00::3", &config.vnameserver6);
    if (c->has_outbound) {
        e->outbound = c->outbound;
        config.outbound_addr = &e->outbound;
    }
    if (c->has_outbound6) {
        e->outbound6 = c->outbound6;
        config.outbound_addr6 = &e->outbound6;
    }
    if (!g_getenv("SLIRP_DEBUG") && !g_getenv("G_MESSAGES_DEBUG"))
        g_log_set_default_handler(engine_on_glib_message, NULL);
    role_enter(&role_slirp); /* for the callbacks: main stands in for the thread that does not run yet */
    e->slirp = slirp_new(&config, &engine_callbacks, e);
    role_leave(&role_slirp);
    if (!e->slirp)
        return failure(why, -EINVAL, "check --mtu", "libslirp refuses its configuration");
    return 0;
}

static void udp_send(void *arg, const void *frame, uint32_t size)
{
    struct engine *e = arg;

    role_assert(&role_slirp);
    tap_tx_send(&e->tx, frame, size);
}

static void engine_init_empty(struct engine *e) TSA(no_thread_safety_analysis) /* before threads start */
{
    e->gone_fd = e->wake.fd = e->rx.wake.fd = e->tx.wake.fd = e->descriptors.epoll_fd = e->flow_epoll_fd = -1;
    world_init(&e->world, true);
    world_init(&e->rx_world, false); /* the counters are the slirp thread's */
    pthread_mutex_init(&e->adopt_lock, NULL);
    sem_init(&e->gate, 0, 0);
}

static int engine_init(struct engine *e, struct failure *why)
    TSA(no_thread_safety_analysis) /* before threads start */
{
    struct udp_forwards_config udp = {
        .tap_fd = e->config.is_socket ? -1 : e->config.tap_fd,
        .mtu = e->config.mtu,
        .gateway = e->config.gateway,
        .network = e->config.network,
        .netmask = e->config.netmask,
        .send = udp_send,
        .arg = e,
    };
    int r, n_cpus;

    e->shared = e->config.mode == ENGINE_SHARED ||
                (e->config.mode == ENGINE_AUTO && cpus_allowed() <= SHARED_CPUS_MAX);
    e->gone_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (e->gone_fd < 0)
        return failure(why, -errno, "raise RLIMIT_NOFILE", "cannot make an eventfd");
    if ((r = wakeup_init(&e->wake)) < 0 || (r = wakeup_init(&e->rx.wake)) < 0 ||
        (r = wakeup_init(&e->tx.wake)) < 0)
        return failure(why, r, "raise RLIMIT_NOFILE", "cannot make an eventfd");
    if ((r = descriptors_init(&e->descriptors)) < 0)
        return failure(why, r, "raise RLIMIT_NOFILE", "cannot make an epoll descriptor");
    if ((r = frame_pool_init(&e->rx_pool, RX_FRAMES)) < 0)
        return failure(why, r, NULL, "cannot reserve frame buffers");
    e->rx_pool.header_size = e->config.header_size;
    if (!e->shared) {
        if ((r = frame_pool_init(&e->tx_pool, TX_FRAMES)) < 0)
            return failure(why, r, NULL, "cannot reserve frame buffers");
        e->tx_pool.header_size = e->config.header_size;
        if (spsc_init(&e->rx_ring, RX_FRAMES, 0) < 0 || spsc_init(&e->tx_ring, TX_FRAMES, 0) < 0)
            return failure(why, -ENOMEM, NULL, "cannot allocate the rings");
    }
    r = choose_tap_io(e, why);
    if (r < 0)
        return r;
    n_cpus = cpus_allowed();
    if (e->config.mode == ENGINE_AUTO)
        snprintf(e->choice, sizeof(e->choice), "%d CPU%s, %s", n_cpus, n_cpus == 1 ? "" : "s",
                 e->backend_why);
    else
        snprintf(e->choice, sizeof(e->choice), "--threads, %s", e->backend_why);
    if ((r = watch(e, e->wake.fd, EPOLLIN, events_tag(EVENT_WAKE, 0))) < 0)
        return failure(why, r, NULL, "cannot watch an eventfd");
    e->tap_ready = true;
    e->frame_size_usual = e->config.mtu;
    e->rx.io = e->io;
    e->rx.reader = e->reader;
    e->rx.pool = &e->rx_pool;
    e->rx.ring = &e->rx_ring;
    e->rx.consumer = &e->wake;
    e->rx.on_gone = engine_rx_gone;
    e->rx.arg = e;
    e->rx.capture = e->tx.capture = e->config.capture;
    e->tx.io = e->io;
    e->tx.writer = e->writer;
    e->tx.fd = e->config.tap_fd;
    e->tx.header_size = e->config.header_size;
    large_init(&e->large, &e->tx, e->config.mtu, e->config.offload);
    acks_init(&e->acks, &e->large);
    e->tx.pool = &e->tx_pool;
    e->tx.ring = &e->tx_ring;
    e->tx.on_gone = engine_set_gone_and_kick;
    e->tx.arg = e;
    e->ping = (struct ping){.network = e->config.network, .netmask = e->config.netmask};
    e->filter = (struct filter){.disable_host_loopback = e->config.disable_host_loopback,
                                .disable_dns = e->config.disable_dns,
                                .ipv6 = e->config.ipv6,
                                .dns = e->config.dns};
    e->udp_expire_ns = INT64_MAX;
    e->guest_ns = INT64_MAX;
    udp.epoll_fd = e->descriptors.epoll_fd;
    inet_pton(AF_INET6, "fd00::2", &udp.gateway6);
    if (e->config.joined_datagrams && !(e->apart = malloc(FRAME_SIZE_MAX)))
        return failure(why, -ENOMEM, NULL, "cannot allocate a frame buffer");
    if ((r = reassembly_new(&e->reassembly)) < 0)
        return failure(why, r, NULL, "cannot allocate the reassembly of fragments");
    if ((r = udp_forwards_new(&e->udp, &udp)) < 0)
        return failure(why, r, NULL, "cannot allocate the UDP forwards");
    r = engine_make_flows(e, why);
    return r < 0 ? r : make_slirp(e, why);
}

int engine_new(struct engine **ret, const struct engine_config *config, struct failure *why)
{
    struct engine *e = calloc(1, sizeof(*e));
    int r;

    if (!e)
        return failure(why, -ENOMEM, NULL, "cannot allocate the engine");
    e->config = *config;
    engine_init_empty(e);
    r = engine_init(e, why);
    if (r < 0) {
        e->config.tap_fd = -1; /* stays the caller's */
        engine_free(e);
        return r;
    }
    *ret = e;
    return 0;
}

struct engine *engine_free(struct engine *e) TSA(no_thread_safety_analysis) /* after threads ended */
{
    if (!e)
        return NULL;
    for (uint32_t i = 0; i < e->n_adopt; i++)
        close(e->adopt_queue[i].conn_fd);
    role_enter(&role_slirp);
    if (e->slirp)
        slirp_cleanup(e->slirp);
    role_leave(&role_slirp);
    udp_forwards_free(e->udp);
    udp_flows_free(e->flows);
    closep(&e->flow_epoll_fd);
    reassembly_free(e->reassembly);
    reassembly_free(e->rx_reassembly);
    free(e->apart);
    if (e->io) {
        e->io->reader_free(e->reader);
        e->io->writer_free(e->writer);
    }
    descriptors_deinit(&e->descriptors);
    frame_pool_deinit(&e->rx_pool);
    frame_pool_deinit(&e->tx_pool);
    spsc_deinit(&e->rx_ring);
    spsc_deinit(&e->tx_ring);
    wakeup_deinit(&e->wake);
    wakeup_deinit(&e->rx.wake);
    wakeup_deinit(&e->tx.wake);
    closep(&e->gone_fd);
    /* A persistent TAP keeps it, and whoever comes next may not know; a TAP that is gone does not mind. */
    if (e->config.header_size > 0 && e->config.tap_fd >= 0)
        (void)ioctl(e->config.tap_fd, TUNSETOFFLOAD, 0);
    closep(&e->config.tap_fd);
    world_deinit(&e->world);
    world_deinit(&e->rx_world);
    pthread_mutex_destroy(&e->adopt_lock);
    sem_destroy(&e->gate);
    free(e);
    return NULL;
}

int engine_start(struct engine *e, struct failure *why)
    TSA(no_thread_safety_analysis) /* the threads start here */
{
    struct thread_start start = {
        .name = "slirp",
        .duties = DUTY_SLIRP,
        .prepare = engine_prepare,
        .run = e->shared ? engine_run_shared : engine_run_split,
        .arg = e,
        .gate = &e->gate,
    };
    int r;

    if (e->shared)
        start.duties |= DUTY_TAP_RX | DUTY_TAP_TX | DUTY_FWD | e->io->duties;

    e->world.ended = false;
    r = thread_spawn(&e->thread, &start);
    if (r < 0) {
        world_end(&e->world);
        return failure(why, r, "use --io-backend=epoll, or raise RLIMIT_NPROC",
                       "cannot start the slirp thread");
    }
    e->started = true;
    if (e->shared)
        return 0;
    e->rx_world.ended = false;
    if ((r = tap_tx_start(&e->tx)) < 0 || (r = tap_rx_start(&e->rx)) < 0) {
        engine_stop(e);
        return failure(why, r, "use --io-backend=epoll, or raise RLIMIT_NPROC",
                       "cannot start the TAP threads");
    }
    return 0;
}

void engine_go(struct engine *e)
{
    if (!e->opened)
        sem_post(&e->gate);
    e->opened = true;
}

void engine_stop(struct engine *e) TSA(no_thread_safety_analysis) /* the threads end here */
{
    tap_rx_stop(&e->rx);
    world_end(&e->rx_world);
    if (e->started) {
        atomic_store_explicit(&e->stop, true, memory_order_relaxed); /* ordered by the eventfd */
        wakeup_send(&e->wake);
        engine_go(e);
        pthread_join(e->thread, NULL);
        e->started = false;
    }
    tap_tx_stop(&e->tx);
}

/* ---- the api thread ---- */

static void kick(void *arg)
{
    struct engine *e = arg;

    wakeup_send(&e->wake);
}

TSA(no_thread_safety_analysis) void world_stop(struct engine *e)
{
    world_hold(&e->world, kick, e);
    role_enter(&role_slirp);
}

TSA(no_thread_safety_analysis) void world_resume(struct engine *e)
{
    role_leave(&role_slirp);
    world_release(&e->world);
}

int engine_udp_forward_add(struct engine *e, const union address *host, bool v6_only,
                           const union address *guest, struct udp_forward **ret, struct failure *why)
{
    return udp_forward_add(e->udp, host, v6_only, guest, ret, why);
}

void engine_udp_forward_remove(struct engine *e, struct udp_forward *f)
{
    udp_forward_remove(e->udp, f);
}

void engine_udp_forward_stats(const struct udp_forward *f, struct udp_forward_stats *ret)
{
    udp_forward_read_stats(f, &ret->n_clients, &ret->bytes_to_guest, &ret->bytes_to_host);
}

char *engine_slirp_info(struct engine *e)
{
    char *info = slirp_connection_info(e->slirp), *copy;

    copy = strdup(info);
    g_free(info);
    return copy;
}

int engine_list_slirp(struct engine *e, uint64_t from, struct flow_info *rows, uint32_t max,
                      uint64_t *ret_next)
{
    char *info = slirp_connection_info(e->slirp);
    uint32_t n = connections_read(info, from, rows, max, ret_next);

    g_free(info);
    return (int)n;
}

int engine_list_udp(struct engine *e, uint64_t from, struct flow_info *rows, uint32_t max, uint64_t *ret_next)
{
    return udp_forwards_list(e->udp, from, rows, max, ret_next);
}
