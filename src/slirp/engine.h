/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * engine.h - the data plane: TAP reader, the one libslirp thread, TAP writer
 *
 * main makes an engine while it still has its privileges, starts it (threads report when they need none any
 * more), and stops it. What the slirp thread does is in engine_loop.c; the frames' way is in
 * docs/ARCHITECTURE.md.
 *
 * Modes: with ENGINE_SPLIT tap-rx, slirp and tap-tx are three threads joined by rings; with ENGINE_SHARED one
 * thread has the three roles and the same code runs without rings. On one or two CPUs the hand-over of a
 * frame to another core costs more than it brings (bench/README.md), so ENGINE_AUTO takes ENGINE_SHARED
 * there.
 */
#pragma once

#include "base/failure.h"
#include "base/role.h"
#include "io/address.h"
#include "io/flow_info.h"
#include "io/packet.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct capture;
struct engine;
struct udp_forward_spec;

enum engine_backend { ENGINE_BACKEND_AUTO, ENGINE_BACKEND_URING, ENGINE_BACKEND_EPOLL };
enum engine_mode { ENGINE_AUTO, ENGINE_SPLIT, ENGINE_SHARED };
/* The guest's datagrams: past libslirp (io/udp_flows.h) where that can be had; past it or not at all; never.
 */
enum engine_udp { ENGINE_UDP_AUTO, ENGINE_UDP_DIRECT, ENGINE_UDP_SLIRP };

struct engine_config {
    int tap_fd;            /* non-blocking; becomes the engine's when engine_new() succeeds */
    bool is_socket;        /* bare Ethernet frames on a socket instead of a TAP */
    bool offload;          /* large frames may be written (io/offload.h) */
    uint32_t header_size;  /* of the virtio-net header before each frame; 0: none */
    bool joined_datagrams; /* a frame may hold several (io/offload.h) */
    unsigned mtu;
    struct in_addr network, netmask, gateway, dns, dhcp_start, guest;
    bool ipv6; /* fd00::/64, gateway fd00::2, DNS fd00::3 */
    bool disable_host_loopback, disable_dns;
    enum engine_udp udp;
    bool has_outbound, has_outbound6;
    struct sockaddr_in outbound;
    struct sockaddr_in6 outbound6;
    enum engine_backend backend;
    enum engine_mode mode;
    struct capture *capture; /* NULL: none; stays the caller's and must outlive the engine's threads */
    /* The slirp role, for every TCP packet that passed the filter: true: somebody else has taken it. May be
     * NULL. */
    bool (*take_tcp)(void *arg, const struct packet *p);
    void *take_tcp_arg;
};

/* main, before threads start. 0 or a negative errno with its sentence. */
int engine_new(struct engine **ret, const struct engine_config *config, struct failure *why);
/* main, after engine_stop() or without engine_start(); NULL is fine; returns NULL. Closes the TAP. */
struct engine *engine_free(struct engine *e);

/* main. Returns when every thread has taken what it needs; 0 or a negative errno with its sentence (no thread
 * then). The slirp thread does nothing before engine_go(): until then main may still change what is fixed
 * "before threads start" (engine_share(), engine_set_take_tcp(), what shares its loop). */
int engine_start(struct engine *e, struct failure *why);
/* main, after engine_start(), before anybody else may stop the world. */
void engine_go(struct engine *e);
/* main. Joins the threads, also those that were never let go. */
void engine_stop(struct engine *e);

/* main. Readable once the data plane has ended by itself; engine_gone() then tells why (negative errno,
 * -ENODEV: the TAP was deleted or the peer closed its end). */
int engine_gone_fd(const struct engine *e);
int engine_gone(const struct engine *e);

/* Any thread: what was chosen at start; static strings. */
const char *engine_backend_name(const struct engine *e);
const char *engine_mode_name(const struct engine *e);
/* Why, for people; lives as long as the engine. */
const char *engine_choice_text(const struct engine *e);
/* "direct", or "libslirp" and why. */
const char *engine_udp_text(const struct engine *e);

/* The api thread: parks the slirp thread at a safe point and borrows its role until world_resume(). Bounded
 * by one turn of the slirp thread's loop; counted in world_stops and world_stop_ns_*. */
void world_stop(struct engine *e) TSA(acquire_capability(role_slirp));
void world_resume(struct engine *e) TSA(release_capability(role_slirp));

/* Any thread: hands an accepted TCP connection to libslirp, which connects it to @guest with the client's own
 * address (the gateway's for clients on loopback). On success the descriptor is the engine's. -EAGAIN: too
 * many wait for that already; -EMFILE: the data plane has ended; another negative errno: the client is gone;
 * the descriptor stays the caller's. */
int engine_adopt(struct engine *e, int conn_fd, const union address *guest);

/* Any thread: writes a frame to the guest, or drops it, as a link does. */
void engine_send_now(struct engine *e, const void *frame, uint32_t size);
/* Any thread: gives a frame of the guest's to libslirp, past take_tcp. It is copied; ENGINE_INJECT_SIZE_MAX
 * bytes at most; dropped when too many wait. */
enum { ENGINE_INJECT_SIZE_MAX = 160 };
void engine_inject(struct engine *e, const void *frame, uint32_t size);
/* Another event loop on the slirp thread: where CPUs are few, the thread "fwd-0" is spared this way. Its
 * descriptors are in the engine's epoll set, with tags that are not 0 from bit 56 on. */
struct engine_guest {
    void *arg;
    void (*event)(void *arg, uint64_t tag, uint32_t events);
    /* After its events, and when it is wanted. Never sleeps. Returns for how many ms the thread may; 0: not
     * at all; -1: no limit. */
    int (*turn)(void *arg);
    /* Is there something for turn() to do, though no event says so? Costs a look. */
    bool (*wanted)(void *arg);
    /* The thread is about to sleep, and is awake again: io/wakeup.h. prepare() comes before the last
     * wanted(). */
    void (*prepare)(void *arg);
    void (*cancel)(void *arg);
};
/* main, before engine_start(), in shared mode only. */
void engine_share(struct engine *e, const struct engine_guest *guest);
int engine_epoll_fd(const struct engine *e);
bool engine_is_shared(const struct engine *e);

/* main, before engine_start(). */
void engine_set_take_tcp(struct engine *e, bool (*take_tcp)(void *arg, const struct packet *p), void *arg);

/* UDP forwards (udp_forward.h), during a world stop. @host is bound here; the sentence names the port. */
struct udp_forward;
struct udp_forward_stats {
    uint64_t n_clients, bytes_to_guest, bytes_to_host;
};
int engine_udp_forward_add(struct engine *e, const union address *host, bool v6_only,
                           const union address *guest, struct udp_forward **ret, struct failure *why)
    RUNS_ON(role_slirp);
void engine_udp_forward_remove(struct engine *e, struct udp_forward *f) RUNS_ON(role_slirp);
/* Any thread, while the forward exists. */
void engine_udp_forward_stats(const struct udp_forward *f, struct udp_forward_stats *ret);

/* libslirp's own table of connections, for people; the caller frees it with free(). NULL: no memory. */
char *engine_slirp_info(struct engine *e) RUNS_ON(role_slirp);

/* The api thread: flow_list (io/flow_info.h) of the guest's own datagrams. In shared mode during a world
 * stop, in split mode without one: there tap-rx stands still. */
int engine_list_flows(struct engine *e, uint64_t from, struct flow_info *rows, uint32_t max,
                      uint64_t *ret_next);
/* flow_list (io/flow_info.h) of what libslirp carries, and of clients of UDP forwards. */
int engine_list_slirp(struct engine *e, uint64_t from, struct flow_info *rows, uint32_t max,
                      uint64_t *ret_next) RUNS_ON(role_slirp);
int engine_list_udp(struct engine *e, uint64_t from, struct flow_info *rows, uint32_t max, uint64_t *ret_next)
    RUNS_ON(role_slirp);
