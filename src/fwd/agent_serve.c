/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * agent_serve.c - one loop: the parent's requests, and notices of the kernel
 *
 * Notices are only a reason to look at everything again, COALESCE_MS apart and never for more than a tenth of
 * the time, because the guest may make as many as it likes; time of the processor, since a busy machine,
 * where the kernel's lock on network configuration is fought for, is no reason to see less. Sending to the
 * parent may wait: there is nothing else to do, and the parent never waits for us. End of the socket is the
 * end, whether the parent has closed it or was killed: the rules are removed. What is left when we are killed
 * ourselves our successor takes over (agent_process.c); without one it is harmless, and recognised by the
 * next run.
 */
#include "fwd/agent_serve.h"

#include "base/bits.h"
#include "base/clock.h"
#include "base/fd_passing.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    COALESCE_MS = 20,
    RETRY_MS = 1000, /* after a look that failed */
};

/* ---- messages ---- */

/* 0 or a negative errno, which ends the process; -ETOOMANYREFS: too many descriptors are on their way. */
static int send_message(const struct agent_serve *a, const struct agent_message *m, const int *fds,
                        uint32_t n_fds)
{
    return fd_passing_send(a->sock, m, sizeof(*m), fds, n_fds, 0);
}

int agent_serve_started(const struct agent_serve *a, const struct failure *why, int divert_state)
{
    struct agent_message m = {.type = MESSAGE_STARTED,
                              .result = why->code,
                              .count = (uint16_t)-divert_state}; /* positive, so that it fits */
    int fd = a->nft && why->code == 0 ? nft_fd(a->nft) : -1;

    if (why->code < 0) {
        memcpy(m.sentence.what, why->what, sizeof(m.sentence.what));
        memcpy(m.sentence.hint, why->hint, sizeof(m.sentence.hint));
    }
    return send_message(a, &m, &fd, fd >= 0);
}

int agent_serve_standby(const struct agent_serve *a, pid_t pid, int sock, int pidfd)
{
    const struct agent_message m = {.type = MESSAGE_STANDBY, .result = pid};
    const int fds[] = {sock, pidfd};

    return send_message(a, &m, fds, ARRAY_SIZE(fds));
}

static int send_addresses(const struct agent_serve *a)
{
    const struct agent_net *n = &a->net;
    uint32_t first = 0;

    do {
        struct agent_message m = {.type = MESSAGE_ADDRESSES, .first = (uint16_t)first};
        uint32_t count = min_u32(n->n_addresses - first, ADDRESSES_PER_MESSAGE);
        int r;

        memcpy(m.addresses, n->addresses + first, count * sizeof(m.addresses[0]));
        first += count;
        m.count = (uint16_t)count;
        m.final = first == n->n_addresses;
        r = send_message(a, &m, NULL, 0);
        if (r < 0)
            return r;
    } while (first < n->n_addresses);
    return 0;
}

/* ---- work ---- */

/* What this process has used of the processor. */
static int64_t used_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
    return (int64_t)ts.tv_sec * NS_PER_S + ts.tv_nsec;
}

int agent_serve_look(struct agent_serve *a)
{
    int64_t begin_ns = used_ns(), pause_ns;
    int lo = agent_net_lo_up(&a->net), listed = agent_net_list(&a->net), r;
    bool failed = lo < 0 || listed < 0;

    if (listed > 0 || (listed == 0 && !a->listed)) {
        r = send_addresses(a);
        if (r < 0)
            return r;
        a->listed = true;
    }
    for (int index = 0; index < AGENT_FAMILIES && lo >= 0 && a->listed; index++) {
        struct agent_message m = {.type = MESSAGE_STATE, .family = family_of(index)};

        m.result = (int32_t)(lo ? agent_net_prepare(&a->net, index) : AGENT_LO_DOWN);
        if (m.result == a->reasons[index])
            continue;
        r = send_message(a, &m, NULL, 0);
        if (r < 0)
            return r;
        a->reasons[index] = m.result;
    }
    /* -EINTR: the addresses have changed while they were listed. */
    pause_ns = failed && listed != -EINTR ? RETRY_MS * NS_PER_MS : COALESCE_MS * NS_PER_MS;
    if (pause_ns < 10 * (used_ns() - begin_ns))
        pause_ns = 10 * (used_ns() - begin_ns);
    a->look = failed;
    a->look_ns = clock_monotonic_ns() + pause_ns;
    return 0;
}

/* The parent's copies are in the message before ours are closed; from then on they are its alone. */
static int give_sockets(struct agent_serve *a, int index, uint32_t n)
{
    while (n > 0) {
        struct agent_message m = {.type = MESSAGE_SOCKETS, .family = family_of(index)};
        uint32_t batch = min_u32(n, SOCKETS_PER_MESSAGE), made = 0;
        int fds[SOCKETS_PER_MESSAGE], fd = 0, r;

        while (made < batch && (fd = agent_net_socket(&a->net, index)) >= 0)
            fds[made++] = fd;
        if (fd == -EPERM || fd == -EACCES)
            a->look = true;
        m.count = (uint16_t)made;
        m.settled = (uint16_t)(made < batch ? n : batch); /* less than asked for: no more for now */
        r = send_message(a, &m, fds, made);
        for (uint32_t i = 0; i < made; i++)
            close(fds[i]);
        if (r == -ETOOMANYREFS) {
            m.count = 0;
            m.settled = (uint16_t)n;
            r = send_message(a, &m, NULL, 0);
        }
        if (r < 0)
            return r;
        n -= m.settled;
    }
    return 0;
}

static bool spec_is_sound(const struct repair_spec *s)
{
    return s->local.sa.sa_family == s->peer.sa.sa_family && family_index(s->local.sa.sa_family) >= 0;
}

/* The guest's side. What the last connection with these addresses has left in TIME_WAIT must not keep the
 * guest from using its port again, and is the only thing that can be in the way. */
static int build(struct agent_serve *a, const struct repair_spec *spec, int *ret)
{
    int r = repair_connect(spec, ret);

    if (r == -EADDRINUSE && sock_diag_destroy(&a->diag, &spec->local, &spec->peer) == 0)
        r = repair_connect(spec, ret);
    return r;
}

/* First the element, then the socket: nothing is sent before the guest has its SYN-ACK. */
static int divert(struct agent_serve *a, const struct agent_message *request)
{
    struct agent_message m = {.type = MESSAGE_DIVERTED, .divert = {.id = request->divert.id}};
    const struct repair_spec *spec = &request->divert.spec;
    const bool is_there = request->count == 1; /* the element; then it is the parent's to take away */
    struct nft_tuple tuple = {.source = spec->peer, .destination = spec->local};
    int fd = -1, r;

    if (!a->nft || !spec_is_sound(spec))
        return -EPROTO;
    m.result = is_there ? 0 : nft_add(a->nft, &tuple, 1);
    if (m.result == 0 && (m.result = build(a, spec, &fd)) < 0 && !is_there)
        (void)nft_remove(a->nft, &tuple, 1);
    r = send_message(a, &m, &fd, fd >= 0);
    if (r == -ETOOMANYREFS) { /* more on their way than RLIMIT_NOFILE: unix(7) */
        if (!is_there)
            (void)nft_remove(a->nft, &tuple, 1);
        m.result = -EMFILE;
        r = send_message(a, &m, NULL, 0);
    }
    if (fd >= 0)
        close(fd);
    return r;
}

static int undivert(struct agent_serve *a, const struct agent_message *request)
{
    const struct agent_message m = {.type = MESSAGE_UNDIVERTED, .count = request->count};

    (void)nft_remove(a->nft, request->tuples, request->count); /* one that stays takes room, and is not new */
    return send_message(a, &m, NULL, 0);
}

/* A kernel with nf_tables need not have what tells connections apart (conntrack). */
static int divert_nested(struct agent_serve *a)
{
    struct agent_message m = {.type = MESSAGE_COMPLAINT, .count = AGENT_LEAVES_NESTED};

    m.result = a->nft ? nft_nested(a->nft, true) : 0;
    return m.result < 0 ? send_message(a, &m, NULL, 0) : 0;
}

int agent_serve_request(struct agent_serve *a)
{
    struct agent_message m;
    ssize_t n = recv(a->sock, &m, sizeof(m), MSG_DONTWAIT | MSG_TRUNC);
    int index;

    if (n < 0)
        return errno == EAGAIN || errno == EINTR ? 0 : -errno;
    if (n == 0)
        return -EPIPE;
    if (n != (ssize_t)sizeof(m))
        return -EPROTO;
    switch (m.type) {
    case MESSAGE_WANT_SOCKETS:
        index = family_index(m.family);
        if (index < 0 || m.count == 0 || m.count > AGENT_STOCK_MAX)
            return -EPROTO;
        return give_sockets(a, index, m.count);
    case MESSAGE_LOOK: /* at once: the parent does not ask often */
        a->look = true;
        a->look_ns = 0;
        return 0;
    case MESSAGE_DIVERT:
        return divert(a, &m);
    case MESSAGE_UNDIVERT:
        if (!a->nft || m.count == 0 || m.count > TUPLES_PER_MESSAGE)
            return -EPROTO;
        return undivert(a, &m);
    case MESSAGE_NESTED:
        return divert_nested(a);
    default:
        return -EPROTO;
    }
}

void agent_serve_run(struct agent_serve *a)
{
    int r = 0;

    while (r == 0) { /* the first look is the parent's wish */
        int64_t wait_ns = a->look ? a->look_ns - clock_monotonic_ns() : -1;
        struct pollfd fds[2] = {
            {.fd = a->sock, .events = POLLIN},
            /* Once there is a reason to look, more of them would only wake us. */
            {.fd = a->look ? -1 : agent_net_fd(&a->net), .events = POLLIN},
        };
        int timeout_ms = !a->look ? -1 : wait_ns > 0 ? (int)(wait_ns / NS_PER_MS) + 1 : 0;

        if (poll(fds, ARRAY_SIZE(fds), timeout_ms) < 0) {
            if (errno != EINTR)
                break;
            continue;
        }
        if (fds[0].revents)
            r = agent_serve_request(a);
        if (fds[1].revents)
            a->look = true;
        if (r == 0 && a->look && clock_monotonic_ns() >= a->look_ns) {
            agent_net_drain(&a->net); /* before looking: what comes later is a new reason */
            r = agent_serve_look(a);
        }
    }
    agent_net_remove(&a->net);
}
