/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory. A socket in repair mode takes bind(2) and connect(2) as statements of fact: connect(2) sends
 * nothing and makes it ESTABLISHED. What a handshake would have taught it must be told, each thing in the one
 * state in which the kernel listens:
 *
 * - closed: IP_TRANSPARENT (the address is not ours), SO_MARK (connect(2) asks for the route), TCP_REPAIR,
 *   bind, the sequence numbers of both queues;
 * - established: TCP_REPAIR_OPTIONS (before anything was sent), TCP_REPAIR_WINDOW;
 * - after repair: SO_REUSEADDR.
 *
 * TCP_REPAIR makes the socket share its address with anybody (SK_FORCE_REUSE): many flows to one destination
 * need that for bind(2), and an SO_REUSEADDR between the two would undo it. The end of repair mode sets it to
 * "share with nobody", and then a server in the guest could not listen on any port to which a flow is
 * diverted. An SO_REUSEADDR after it lets every server listen that has set that option, too; one that has not
 * is refused.
 *
 * TCP_REPAIR_WINDOW: without it the send window stays 0, and snd_wl1, the sequence number that decides
 * whether a segment's window is news, is 0 as well: for half of all initial sequence numbers no window would
 * ever be news.
 *
 * Window scaling: connect(2) has chosen a scale for the receive window as if it would send a SYN. Whoever has
 * not offered scaling must get 0 and 0 explicitly, or the windows he reads are 2^7 times too small.
 *
 * connect(2) says EADDRNOTAVAIL for a four-tuple that is taken (Linux __inet_check_established()).
 *
 * TCP_REPAIR_OFF_NO_WP ends repair without a window probe: a segment to a guest in SYN_SENT would go nowhere.
 */
#include "fwd/repair.h"

#include "fwd/flow.h"

#include "base/bits.h"
#include "base/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/socket.h>

enum {
    MSS_MIN = 88, /* Linux TCP_MIN_MSS; a guest that says less gets this much */
    WSCALE_LEAST = 7,
    WSCALE_BLIND = 10,
};

static int option_set(int fd, int level, int name, int value)
{
    return setsockopt(fd, level, name, &value, sizeof(value)) < 0 ? -errno : 0;
}

static int queue_set(int fd, int queue, uint32_t sequence)
{
    int r = option_set(fd, IPPROTO_TCP, TCP_REPAIR_QUEUE, queue);

    if (r < 0)
        return r;
    return setsockopt(fd, IPPROTO_TCP, TCP_QUEUE_SEQ, &sequence, sizeof(sequence)) < 0 ? -errno : 0;
}

/* The closed socket @fd becomes the end @spec->local of an established connection. */
static int establish(int fd, const struct repair_spec *spec)
{
    int r = option_set(fd, IPPROTO_TCP, TCP_REPAIR, TCP_REPAIR_ON);

    if (r < 0)
        return r;
    if (bind(fd, &spec->local.sa, address_size(&spec->local)) < 0)
        return -errno;
    if ((r = queue_set(fd, TCP_SEND_QUEUE, spec->isn + 1)) < 0 ||
        (r = queue_set(fd, TCP_RECV_QUEUE, spec->peer_isn + 1)) < 0)
        return r;
    if (connect(fd, &spec->peer.sa, address_size(&spec->peer)) < 0)
        return errno == EADDRNOTAVAIL ? -EADDRINUSE : -errno;
    return 0;
}

/* What SYN and SYN-ACK say beyond addresses and sequence numbers. */
static int negotiate(int fd, const struct repair_spec *spec)
{
    const uint32_t peer_wscale = min_u32(spec->peer_wscale, REPAIR_WSCALE_MAX),
                   wscale = min_u32(spec->wscale, REPAIR_WSCALE_MAX);
    const struct tcp_repair_opt options[] = {
        {.opt_code = TCPOPT_MAXSEG, .opt_val = max_u32(spec->mss, MSS_MIN)},
        {.opt_code = TCPOPT_WINDOW, .opt_val = spec->has_wscale ? peer_wscale | wscale << 16 : 0},
        {.opt_code = TCPOPT_SACK_PERMITTED},
    };
    const struct tcp_repair_window window = {
        .snd_wl1 = spec->peer_isn,
        .snd_wnd = spec->window,
        .max_window = spec->window,
        .rcv_wnd = REPAIR_WINDOW,
        .rcv_wup = spec->peer_isn + 1,
    };
    const size_t n_options = ARRAY_SIZE(options) - (spec->sack ? 0 : 1);

    if (setsockopt(fd, IPPROTO_TCP, TCP_REPAIR_OPTIONS, options, (socklen_t)(n_options * sizeof(*options))) <
            0 ||
        setsockopt(fd, IPPROTO_TCP, TCP_REPAIR_WINDOW, &window, sizeof(window)) < 0)
        return -errno;
    return 0;
}

/* A socket with the options that repair_connect_socket() expects. */
static int prepare(int fd, const struct repair_spec *spec)
{
    int r = spec->local.sa.sa_family == AF_INET6 ? option_set(fd, IPPROTO_IPV6, IPV6_TRANSPARENT, 1)
                                                 : option_set(fd, IPPROTO_IP, IP_TRANSPARENT, 1);

    return r < 0 ? r : flow_socket_prepare(fd);
}

int repair_connect_socket(int fd, const struct repair_spec *spec)
{
    int r;

    if ((r = option_set(fd, SOL_SOCKET, SO_MARK, (int)spec->mark)) < 0 || (r = establish(fd, spec)) < 0 ||
        (r = negotiate(fd, spec)) < 0 ||
        (r = option_set(fd, IPPROTO_TCP, TCP_REPAIR, TCP_REPAIR_OFF_NO_WP)) < 0)
        return r;
    return option_set(fd, SOL_SOCKET, SO_REUSEADDR, 1);
}

int repair_connect(const struct repair_spec *spec, int *ret)
{
    _cleanup_close_ int fd = -1;
    int r;

    if (spec->local.sa.sa_family != spec->peer.sa.sa_family ||
        (spec->local.sa.sa_family != AF_INET && spec->local.sa.sa_family != AF_INET6))
        return -EAFNOSUPPORT;
    fd = socket(spec->local.sa.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    if ((r = prepare(fd, spec)) < 0 || (r = repair_connect_socket(fd, spec)) < 0)
        return r;
    *ret = steal_fd(&fd);
    return 0;
}

/*
 * tcp_select_initial_window(): the scale in which tcp_rmem's maximum still fits 16 bits. (It looks at
 * net.core.rmem_max, too, which only a receiver that sets SO_RCVBUF can use.) Never less than for the usual
 * maximum of 6 MiB, since the administrator may raise it later. Blind, 64 MiB: an unnecessarily large scale
 * costs a coarser window (KiBs), a small one throughput.
 */
static uint8_t wscale_read(void)
{
    _cleanup_close_ int fd = open("/proc/sys/net/ipv4/tcp_rmem", O_RDONLY | O_CLOEXEC);
    char text[96], *next = text; /* least, usual, largest */
    unsigned long largest = 0;
    uint8_t wscale = WSCALE_LEAST;
    ssize_t n;

    if (fd < 0)
        return WSCALE_BLIND;
    n = read(fd, text, sizeof(text) - 1);
    if (n <= 0)
        return WSCALE_BLIND;
    text[n] = '\0';
    for (int i = 0; i < 3; i++)
        largest = strtoul(next, &next, 10);
    if (largest == 0)
        return WSCALE_BLIND;
    while (wscale < REPAIR_WSCALE_MAX && (largest >> wscale) > UINT16_MAX)
        wscale++;
    return wscale;
}

uint8_t repair_wscale(void)
{
    static _Atomic uint8_t known; /* 0: not yet; two threads that look at once see the same */
    uint8_t wscale = atomic_load_explicit(&known, memory_order_relaxed);

    if (wscale == 0) {
        wscale = wscale_read();
        atomic_store_explicit(&known, wscale, memory_order_relaxed);
    }
    return wscale;
}
