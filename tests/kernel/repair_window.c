/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * repair_window.c - an established TCP socket without a handshake
 *
 * A diverted flow's guest-side socket stands in for a remote server that has never spoken: TCP_REPAIR, bind
 * to the remote's address, sequence numbers, connect(2), TCP_REPAIR_OPTIONS, TCP_REPAIR_WINDOW, repair off
 * without a window probe (Linux 4.19). Two traps, both of which this would catch:
 *
 * Without TCP_REPAIR_WINDOW the send window is 0 and so is snd_wl1, which decides whether a segment's window
 * is news: for half of all initial sequence numbers sequence arithmetic says "old", and not a byte is ever
 * sent. Hence the ISNs on both sides of 2^31. A snd_wl1 that does not fit the receive sequence is EINVAL.
 *
 * TCP_REPAIR forces address reuse, and SO_REUSEADDR after it would undo that: hence many flows, one
 * destination.
 *
 * The guest's end is a repaired socket too: only so can the test choose its ISN.
 */
#include "kernel.h"

#include <netinet/tcp.h>

enum { MARK = 0x534c, TABLE = 21324, MSS = 1460, WINDOW_SCALE = 7, SYN_WINDOW = 64240, BYTES = 1 << 20 };

static const uint32_t remote_isn = 0xfffffff0; /* wraps within the first bytes */

static void queue_set(int fd, int queue, uint32_t sequence)
{
    must(option_set(fd, IPPROTO_TCP, TCP_REPAIR_QUEUE, queue));
    must(setsockopt(fd, IPPROTO_TCP, TCP_QUEUE_SEQ, &sequence, sizeof(sequence)));
}

/* The end at @own of a connection with @peer, as it is after the handshake that has not taken place. */
static int repaired(const union address *own, const union address *peer, uint32_t own_isn, uint32_t peer_isn)
{
    const struct tcp_repair_opt options[] = {
        {.opt_code = TCPOPT_MAXSEG, .opt_val = MSS},
        {.opt_code = TCPOPT_WINDOW, .opt_val = WINDOW_SCALE | WINDOW_SCALE << 16},
        {.opt_code = TCPOPT_SACK_PERMITTED},
    };
    const struct tcp_repair_window window = {
        .snd_wl1 = peer_isn,
        .snd_wnd = SYN_WINDOW, /* a SYN's window is not scaled */
        .max_window = SYN_WINDOW,
        .rcv_wnd = SYN_WINDOW,
        .rcv_wup = peer_isn + 1,
    };
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct tcp_info info;
    socklen_t length = sizeof(info);

    must(fd);
    must(option_set(fd, IPPROTO_IP, IP_TRANSPARENT, 1));
    must(option_set(fd, SOL_SOCKET, SO_MARK, MARK));
    if (option_set(fd, IPPROTO_TCP, TCP_REPAIR, 1) < 0)
        skip("no TCP_REPAIR: %s", strerror(errno));
    queue_set(fd, TCP_SEND_QUEUE, own_isn + 1);
    queue_set(fd, TCP_RECV_QUEUE, peer_isn + 1);
    check(bind(fd, &own->any, sizeof(own->v4)) == 0, "bind in repair mode: %s", strerror(errno));
    check(connect(fd, &peer->any, sizeof(peer->v4)) == 0, "connect in repair mode: %s", strerror(errno));
    must(setsockopt(fd, IPPROTO_TCP, TCP_REPAIR_OPTIONS, options, sizeof(options)));
    must(setsockopt(fd, IPPROTO_TCP, TCP_REPAIR_WINDOW, &window, sizeof(window)));
    check(option_set(fd, IPPROTO_TCP, TCP_REPAIR, TCP_REPAIR_OFF_NO_WP) == 0,
          "cannot leave repair mode silently: %s", strerror(errno));

    must(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length));
    check(info.tcpi_state == TCP_ESTABLISHED, "the repaired socket is in state %d, not ESTABLISHED",
          info.tcpi_state);
    check(info.tcpi_snd_wscale == WINDOW_SCALE && info.tcpi_rcv_wscale == WINDOW_SCALE &&
              (info.tcpi_options & (TCPI_OPT_WSCALE | TCPI_OPT_SACK)) == (TCPI_OPT_WSCALE | TCPI_OPT_SACK),
          "options of the repaired socket: %#x, window scales %d and %d", info.tcpi_options,
          info.tcpi_snd_wscale, info.tcpi_rcv_wscale);
    return fd;
}

static void transfer(int from, int to, uint32_t guest_isn, const char *direction)
{
    static char out[BYTES], in[64 << 10];
    size_t sent = 0, received = 0;
    int64_t deadline = now_ms() + WAIT_MS;

    while (received < BYTES) {
        ssize_t n = sent < BYTES ? send(from, out, BYTES - sent, 0) : 0;

        check(n >= 0 || errno == EAGAIN, "guest ISN %#x, %s: send: %s", guest_isn, direction,
              strerror(errno));
        sent += n > 0 ? (size_t)n : 0;
        n = recv(to, in, sizeof(in), 0);
        check(n > 0 || (n < 0 && errno == EAGAIN), "guest ISN %#x, %s: recv: %s", guest_isn, direction,
              n < 0 ? strerror(errno) : "end of stream");
        received += n > 0 ? (size_t)n : 0;
        if (n < 0)
            poll(NULL, 0, 1);
        check(now_ms() < deadline, "guest ISN %#x, %s: %zu of %d bytes at the deadline", guest_isn, direction,
              received, BYTES);
    }
}

int main(void)
{
    static const uint32_t guest_isns[] = {0,          1,          0x7ffffff0, 0x7fffffff,
                                          0x80000000, 0x80000001, 0xfffffff0, 0xffffffff};
    const size_t n_flows = sizeof(guest_isns) / sizeof(guest_isns[0]);
    union address remote = address_of(AF_INET, "203.0.113.9", 443);
    int at_remote[sizeof(guest_isns) / sizeof(guest_isns[0])],
        at_guest[sizeof(guest_isns) / sizeof(guest_isns[0])];

    namespace_enter();
    address_add("lo", AF_INET, "10.0.2.100", 32);
    mark_means_local(AF_INET, MARK, TABLE);

    for (size_t i = 0; i < n_flows; i++) {
        union address guest = address_of(AF_INET, "10.0.2.100", (uint16_t)(40000 + i));

        at_remote[i] = repaired(&remote, &guest, remote_isn, guest_isns[i]);
        at_guest[i] = repaired(&guest, &remote, guest_isns[i], remote_isn);
        /* The stand-in speaks first: nothing has ever confirmed its send window. */
        transfer(at_remote[i], at_guest[i], guest_isns[i], "to the guest");
        transfer(at_guest[i], at_remote[i], guest_isns[i], "from the guest");
    }
    for (size_t i = 0; i < n_flows; i++) {
        char byte;

        must(shutdown(at_remote[i], SHUT_WR));
        check(ready(at_guest[i], POLLIN) && recv(at_guest[i], &byte, 1, 0) == 0,
              "a repaired socket's FIN is lost");
        close(at_remote[i]);
        close(at_guest[i]);
    }
    shows("%zu flows to one 203.0.113.9:443 ESTABLISHED by TCP_REPAIR, %d MiB each way whatever the ISNs, "
          "FIN arrives",
          n_flows, BYTES >> 20);
}
