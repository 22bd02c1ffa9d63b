/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * agent.c - the parent's side
 *
 * The stock: up to AGENT_STOCK_MAX sockets per family wait here, so that a new connection costs no round
 * trip. n (here) + asked (on their way) never exceeds that; below half of it the difference is asked
 * for. Only a family that is ready is stocked. When the agent sends less than was asked for (descriptors,
 * memory), or fewer than it sent could be received, asking pauses (agent_read.c). A request that does not fit
 * the socket's buffer is made again with the next message or the next socket taken.
 *
 * What it is asked to take away from the nft sets stays in a queue until it says that it is done, so that its
 * successor can be asked again (undivert_queue.h).
 *
 * The agent is gone when the socket says so or when it breaks a rule of agent_protocol.h. Its socket stays
 * open until agent_restart() or agent_free(), so that its number cannot mean something else to the epoll set
 * meanwhile.
 *
 * Then the standby becomes the agent. Its predecessor is killed first: whoever has only closed its socket
 * must not go on beside it, with the same sockets of netlink. It is reaped when the new one has something to
 * say. An agent that broke a rule, or was ended by its filter, has no successor: what was done to it could be
 * done to the next one.
 */
#include "fwd/agent_private.h"

#include "base/bits.h"
#include "base/cleanup.h"
#include "base/clock.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>

enum {
    STOCK_SHARE = 32, /* of the descriptors that this process may have: one part in so many */
    LOOK_MS = 1000,   /* between requests to look at lo again */
    END_MS = 3000, /* for all of its processes to end by themselves: the kernel may be slow to change rules */
    KILLED_MS = 1000, /* for each of them by SIGKILL, then */
    EARLY_COMPLAINTS_MAX = 4,
};

/* ---- the end ---- */

static void stocks_close(struct agent *a) RUNS_ON(role_fwd)
{
    for (int i = 0; i < AGENT_FAMILIES; i++) {
        struct stock *s = &a->stocks[i];

        while (s->n > 0)
            close(s->fds[--s->n]);
    }
}

int agent_set_gone(struct agent *a, bool broken)
{
    stocks_close(a);
    a->n_local = a->n_next = 0;
    a->gone = true;
    a->broken = a->broken || broken;
    return -EPIPE;
}

/* ---- to the agent ---- */

/* Does it owe an answer? */
static bool owes(const struct agent *a) RUNS_ON(role_fwd)
{
    bool sockets = false;

    for (int i = 0; i < AGENT_FAMILIES; i++)
        sockets = sockets || a->stocks[i].asked > 0;
    return sockets || a->n_diverts > 0 || a->undiverts.n_asked > 0 || a->looks || a->deaf;
}

/* 0, or a negative errno: -EAGAIN means later, everything else will show in agent_read() too. */
static int send_message(struct agent *a, const struct agent_message *m) RUNS_ON(role_fwd)
{
    ssize_t n;

    if (!owes(a))
        a->heard_ns = clock_monotonic_ns();
    n = send(a->child.fd, m, sizeof(*m), MSG_DONTWAIT | MSG_NOSIGNAL);
    a->deaf = n < 0 && errno == EAGAIN;
    if (n >= 0)
        return 0;
    return errno == ECONNRESET ? -EPIPE : -errno; /* it ended with requests unread */
}

void agent_refill(struct agent *a, int index)
{
    struct stock *s = &a->stocks[index];
    struct agent_message m = {.type = MESSAGE_WANT_SOCKETS, .family = family_of(index)};

    if (!s->used || (s->reason != AGENT_READY && s->reason != AGENT_NO_SYSCTL) ||
        s->n + s->asked >= (a->stock_max + 1) / 2 || s->hold_ns > clock_monotonic_ns())
        return;
    m.count = (uint16_t)(a->stock_max - s->n - s->asked);
    if (send_message(a, &m) == 0)
        s->asked += m.count;
}

void agent_send_undiverts(struct agent *a)
{
    while (!a->gone) {
        struct agent_message m = {.type = MESSAGE_UNDIVERT};

        m.count = (uint16_t)undivert_queue_next(&a->undiverts, m.tuples, TUPLES_PER_MESSAGE);
        if (m.count == 0 || send_message(a, &m) < 0)
            return;
        undivert_queue_asked(&a->undiverts, m.count);
    }
}

/* ---- the next one ---- */

/* One more. False: too many of late. */
static bool count_death(struct agent *a) RUNS_ON(role_fwd)
{
    int64_t *oldest = &a->deaths_ns[a->n_deaths++ % AGENT_DEATHS_MAX], now_ns = clock_monotonic_ns();
    bool good = *oldest == 0 || now_ns - *oldest > AGENT_DEATHS_S * NS_PER_S;

    *oldest = now_ns;
    return good;
}

/* It has ended by itself and waits to be reaped; or it has not, and does so now. */
static void bury(struct agent *a) RUNS_ON(role_fwd)
{
    agent_child_kill(&a->child);
    (void)agent_child_reap(&a->previous); /* else it stays a zombie until our own end */
    agent_child_close(&a->previous);
    a->previous = a->child;
    closep(&a->previous.fd);
}

int agent_restart(struct agent *a, const char **ret_why)
{
    static const struct agent_message look = {.type = MESSAGE_LOOK};
    const bool good = count_death(a);

    assert(a->gone);
    *ret_why = a->broken             ? "it broke a rule"
               : a->standby.pid <= 0 ? "it has no standby"
               : !good               ? "it was the last of too many within a minute"
                                     : NULL;
    if (*ret_why) {
        agent_abandon(a);
        return -EPIPE;
    }
    bury(a);
    a->child = a->standby;
    a->standby = (struct agent_child)AGENT_CHILD_NULL;
    for (int i = 0; i < AGENT_FAMILIES; i++) {
        a->stocks[i].reason = AGENT_NOT_YET;
        a->stocks[i].asked = 0;
        a->stocks[i].hold_ns = a->stocks[i].dry_ns = 0;
    }
    a->look_ns = a->awaited_ns = 0;
    a->n_diverts = 0;
    a->looks = a->deaf = false;
    a->nested = false; /* the former one may not have heard of it */
    undivert_queue_again(&a->undiverts);
    if (send_message(a, &look) < 0) {
        *ret_why = "so has its standby";
        agent_abandon(a);
        return -EPIPE;
    }
    a->looks = true;
    a->gone = false;
    a->generation++;
    agent_send_undiverts(a);
    return 0;
}

/* The agent, whatever it has done, ends with its conversation and takes its rules away; the standby has no
 * other end to wait for. Neither is to keep the nft table, nor sockets that nobody will read. */
void agent_abandon(struct agent *a)
{
    (void)agent_set_gone(a, false);
    a->over = true;
    agent_child_hang_up(&a->child);
    agent_child_hang_up(&a->standby);
    agent_child_kill(&a->standby);
}

uint32_t agent_generation(const struct agent *a)
{
    return a->generation;
}

bool agent_has_standby(const struct agent *a)
{
    return a->standby.pid > 0;
}

/* ---- questions ---- */

bool agent_is_local(const struct agent *a, const union address *guest)
{
    struct agent_address wanted = {.family = guest->sa.sa_family};

    if (guest->sa.sa_family == AF_INET)
        memcpy(wanted.bytes, &guest->in.sin_addr, sizeof(guest->in.sin_addr));
    else if (guest->sa.sa_family == AF_INET6)
        memcpy(wanted.bytes, &guest->in6.sin6_addr, sizeof(guest->in6.sin6_addr));
    else
        return false;
    /* All of 127.0.0.0/8 is lo's, whichever address of it is listed. */
    if (guest->sa.sa_family == AF_INET && wanted.bytes[0] == 127)
        return !a->gone;
    for (uint32_t i = 0; i < a->n_local; i++) {
        if (memcmp(&a->local[i], &wanted, sizeof(wanted)) == 0)
            return true;
    }
    return false;
}

enum agent_reason agent_can_reach(struct agent *a, const union address *guest)
{
    static const struct agent_message message = {.type = MESSAGE_LOOK};
    int index = family_index(guest->sa.sa_family);
    enum agent_reason reason;
    int64_t now_ns;

    if (a->gone)
        return AGENT_NO_AGENT;
    if (index < 0)
        return AGENT_NOT_LOCAL;
    reason = a->stocks[index].reason;
    if (reason == AGENT_LO_DOWN && (now_ns = clock_monotonic_ns()) >= a->look_ns &&
        send_message(a, &message) == 0)
        a->look_ns = now_ns + LOOK_MS * NS_PER_MS;
    if (reason != AGENT_READY)
        return reason;
    return agent_is_local(a, guest) ? AGENT_READY : AGENT_NOT_LOCAL;
}

void agent_on_diverted(struct agent *a, void (*hook)(void *arg, uint64_t id, int result, int fd), void *arg)
{
    a->on_diverted = hook;
    a->on_diverted_arg = arg;
}

int agent_divert_state(const struct agent *a)
{
    return a->divert_state;
}

/* The element, if we may: 0 when it is there, -EAGAIN: it is the agent's to add, or another negative errno.
 */
static int element_add(struct agent *a, const struct repair_spec *spec) RUNS_ON(role_fwd)
{
    struct nft_tuple tuple = {.source = spec->peer, .destination = spec->local};
    int r;

    if (!a->direct)
        return -EAGAIN;
    r = nft_add(a->nft, &tuple, 1);
    if (r != -EPERM)
        return r;
    a->direct = false; /* nothing was changed so far, so the agent's turn begins here */
    return -EAGAIN;
}

int agent_divert_now(struct agent *a, const struct repair_spec *spec, int *ret_fd)
{
    struct nft_tuple tuple = {.source = spec->peer, .destination = spec->local};
    int r, fd;

    if (a->gone || !a->direct)
        return -EAGAIN;
    fd = agent_take_socket(a, spec->local.sa.sa_family);
    if (fd < 0)
        return -EAGAIN;
    /* First the element, then the socket: nothing is sent before the guest has its SYN-ACK. */
    r = element_add(a, spec);
    if (r == 0 && (r = repair_connect_socket(fd, spec)) < 0) {
        (void)nft_remove(a->nft, &tuple, 1);
        /* The agent can do something about a TIME_WAIT (sock_diag.h); -EAGAIN means just that here. */
        r = r == -EADDRINUSE ? -EAGAIN : r == -EAGAIN ? -EIO : r;
    }
    if (r < 0)
        close(fd);
    else
        *ret_fd = fd;
    return r;
}

int agent_divert(struct agent *a, uint64_t id, const struct repair_spec *spec)
{
    struct agent_message m = {.type = MESSAGE_DIVERT, .divert = {.id = id, .spec = *spec}};
    struct nft_tuple tuple = {.source = spec->peer, .destination = spec->local};
    int r;

    if (a->gone)
        return -EPIPE;
    r = element_add(a, spec);
    if (r < 0 && r != -EAGAIN)
        return r;
    m.count = r == 0;
    r = send_message(a, &m);
    if (r < 0 && m.count == 1) {
        (void)nft_remove(a->nft, &tuple, 1);
    } else if (r == 0) {
        a->n_diverts++;
        undivert_queue_forget(&a->undiverts, &tuple); /* it would come after this request */
        r = m.count;
    }
    return r;
}

static_assert((int)AGENT_UNDIVERT_MAX <= (int)NFT_BATCH_MAX, "one transaction");

uint32_t agent_undivert(struct agent *a, const struct nft_tuple *tuples, uint32_t count)
{
    uint32_t done;

    if (a->direct) {
        (void)nft_remove(a->nft, tuples, count); /* one that stays does no harm but take room */
        return count;
    }
    if (a->over)
        return a->nft ? 0 : count; /* agent_divert_end() */
    done = undivert_queue_add(&a->undiverts, tuples, count);
    agent_send_undiverts(a);
    return done;
}

bool agent_undivert_is_pending(const struct agent *a, const struct nft_tuple *tuple)
{
    return undivert_queue_has(&a->undiverts, tuple);
}

bool agent_is_deaf(const struct agent *a)
{
    return a->deaf;
}

void agent_give_up(struct agent *a)
{
    if (a->gone)
        return;
    a->heard_ns = clock_monotonic_ns();
    if (a->child.pidfd >= 0) /* kill(2) is main's */
        agent_child_kill(&a->child);
    else
        (void)shutdown(a->child.fd, SHUT_RDWR);
}

int64_t agent_silent_ns(const struct agent *a)
{
    return a->gone || !owes(a) ? -1 : clock_monotonic_ns() - a->heard_ns;
}

void agent_divert_end(struct agent *a)
{
    if (!a->gone || a->direct || !a->nft)
        return;
    a->nft = nft_free(a->nft); /* the agent's copy of the socket is closed already: this was the last one */
    a->undiverts.n = a->undiverts.n_asked = 0;
}

int agent_divert_nested(struct agent *a)
{
    static const struct agent_message message = {.type = MESSAGE_NESTED};
    int r;

    if (a->nested_error < 0)
        return a->nested_error;
    if (a->nested && (a->direct || !a->gone))
        return 0;
    if (a->direct && (r = nft_nested(a->nft, true)) != -EPERM) {
        a->nested = r == 0;
        return r;
    }
    if (a->gone || send_message(a, &message) < 0)
        return -EAGAIN;
    a->nested = true;
    return 0;
}

void agent_look(struct agent *a)
{
    static const struct agent_message message = {.type = MESSAGE_LOOK};
    int64_t now_ns = clock_monotonic_ns();

    if (!a->gone && now_ns >= a->look_ns && send_message(a, &message) == 0)
        a->look_ns = now_ns + LOOK_MS * NS_PER_MS;
}

enum agent_reason agent_family_state(const struct agent *a, int family)
{
    int index = family_index(family);

    return a->gone || index < 0 ? AGENT_NO_AGENT : a->stocks[index].reason;
}

bool agent_is_awaited(struct agent *a, int family)
{
    const struct stock *s = &a->stocks[family_index(family)];
    int64_t now_ns = clock_monotonic_ns();

    if (s->reason != AGENT_NOT_YET)
        return s->dry_ns == 0 || now_ns - s->dry_ns < AGENT_AWAITED_MS * NS_PER_MS;
    if (a->awaited_ns == 0)
        a->awaited_ns = now_ns;
    return now_ns - a->awaited_ns < AGENT_AWAITED_MS * NS_PER_MS;
}

bool agent_is_gone(const struct agent *a)
{
    return a->gone;
}

int agent_take_socket(struct agent *a, int family)
{
    int index = family_index(family), fd = -EAGAIN;
    struct stock *s;

    if (a->gone)
        return -EPIPE;
    if (index < 0)
        return -EAFNOSUPPORT;
    s = &a->stocks[index];
    s->used = true;
    if (s->n > 0)
        fd = s->fds[--s->n];
    else if (s->dry_ns == 0)
        s->dry_ns = clock_monotonic_ns();
    agent_refill(a, index);
    return fd;
}

int agent_fd(const struct agent *a)
{
    return a->child.fd;
}

pid_t agent_pid(const struct agent *a)
{
    return a->child.pid;
}

const char *agent_reason_text(enum agent_reason r)
{
    static const char *const texts[] = {
        [AGENT_READY] = "ready",
        [AGENT_NO_AGENT] = "there is no agent in the guest's namespaces",
        [AGENT_NOT_YET] = "the agent in the guest's namespaces has not answered yet",
        [AGENT_LO_DOWN] = "the guest's lo is down",
        [AGENT_NO_RULES] = "policy routing is not available in the guest's network namespace",
        [AGENT_NO_SYSCTL] = "net.ipv4.tcp_fwmark_accept cannot be set in the guest's network namespace",
        [AGENT_NO_TRANSPARENT] =
            "IP_TRANSPARENT or SO_MARK is not permitted in the guest's network namespace",
        [AGENT_NOT_LOCAL] = "guest_addr is not an address of the guest's own namespace",
    };

    return (unsigned)r < ARRAY_SIZE(texts) ? texts[r] : "unknown";
}

/* ---- start and end ---- */

static void child_end(struct agent_child *c, int64_t until_ns)
{
    if (!agent_child_wait(c, until_ns)) {
        agent_child_kill(c);
        /* Else it is stuck in the kernel: not worth hanging for. */
        (void)agent_child_wait(c, clock_monotonic_ns() + KILLED_MS * NS_PER_MS);
    }
    agent_child_close(c);
}

/* Their ends of the sockets are closed for them, and they are waited for. */
static void processes_end(struct agent *a) RUNS_ON(role_fwd)
{
    const int64_t until_ns = clock_monotonic_ns() + END_MS * NS_PER_MS;

    agent_child_hang_up(&a->standby);
    agent_child_hang_up(&a->child);
    child_end(&a->child, until_ns);
    child_end(&a->standby, until_ns);
    child_end(&a->previous, until_ns);
}

struct agent *agent_free(struct agent *a) TSA(no_thread_safety_analysis) /* after threads ended */
{
    if (!a)
        return NULL;
    stocks_close(a);
    closep(&a->go_fd);
    nft_free(a->nft);
    processes_end(a);
    free(a);
    return NULL;
}

static void agent_freep(struct agent **a)
{
    agent_free(*a);
}

/* The next message of an agent that has not reported yet. */
static int receive_early(struct agent *a, struct delivery *d, struct failure *why)
{
    struct pollfd p = {.fd = a->child.fd, .events = POLLIN};
    int r;

    do {
        r = poll(&p, 1, AGENT_START_MS);
    } while (r < 0 && errno == EINTR);
    if (r <= 0)
        return failure(why, r < 0 ? -errno : -ETIMEDOUT, NULL, "the agent does not report");
    r = agent_receive(a->child.fd, d);
    return r < 0 ? failure(why, r, NULL, "the agent ended without a report") : 0;
}

/* The agent's report, before which one that is sealed early may complain of something. 0 or a negative errno
 * with its sentence. */
static int wait_started(struct agent *a, struct failure *why)
    TSA(no_thread_safety_analysis) /* before threads start */
{
    struct delivery d = {.with.n_fds = 0};
    int r;

    for (int i = 0;; i++) {
        if ((r = receive_early(a, &d, why)) < 0)
            return r;
        if (d.message.type != MESSAGE_COMPLAINT || d.with.n_fds > 0 || i == EARLY_COMPLAINTS_MAX ||
            agent_take_complaint(a, &d.message) < 0)
            break;
    }
    if (d.with.n_fds == 1 && d.message.type == MESSAGE_STARTED &&
        nft_join(&a->nft, d.with.fds[0], a->mark, a->mark_mask) == 0)
        d.with.n_fds = 0;
    a->divert_state = d.message.type == MESSAGE_STARTED && !a->nft ? -(int)d.message.count : 0;
    a->direct = a->nft != NULL;
    fd_passing_close(&d.with);
    if (d.message.type != MESSAGE_STARTED || d.message.result > 0)
        return failure(why, -EPROTO, NULL, "the agent's report");
    return d.message.result < 0 ? agent_reported_failure(&d.message, why) : 0;
}

static void agent_init(struct agent *a, const struct agent_config *config)
    TSA(no_thread_safety_analysis) /* before threads start */
{
    a->go_fd = -1;
    a->child = a->standby = a->previous = (struct agent_child)AGENT_CHILD_NULL;
    for (int i = 0; i < AGENT_FAMILIES; i++) {
        a->stocks[i].reason = AGENT_NOT_YET;
        a->stocks[i].used = config->stock;
    }
}

/* A stock must not eat up the descriptors that connections need. */
static uint32_t stock_size(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur / STOCK_SHARE >= AGENT_STOCK_MAX)
        return AGENT_STOCK_MAX;
    return max_u32((uint32_t)limit.rlim_cur / STOCK_SHARE, 1);
}

int agent_start(struct agent **ret, const struct agent_config *config, struct failure *why)
{
    _cleanup_(agent_freep) struct agent *a = calloc(1, sizeof(*a));
    pid_t parent_pid = getpid();
    int pair[2] = {-1, -1}, r;

    assert(config->netns_fd >= 0 && config->mark && (config->mark & ~config->mark_mask) == 0 &&
           config->table);
    if (!a)
        return failure(why, -ENOMEM, NULL, "the agent");
    agent_init(a, config);
    a->stock_max = stock_size();
    a->mark = config->mark;
    a->mark_mask = config->mark_mask;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return failure(why, -errno, "is it forbidden by a seccomp profile?", "the agent's socketpair");
    /* A seccomp profile may also answer "done" to what it did not do. */
    if (pair[0] < 0 || pair[1] < 0)
        return failure(why, -ENOSYS, "a seccomp profile seems to swallow it", "the agent's socketpair");
    a->child.pid = fork();
    if (a->child.pid == 0) {
        close(pair[0]);
        if (config->first && config->first(config->first_arg) < 0)
            _exit(EXIT_FAILURE);
        agent_process(pair[1], config, parent_pid);
    }
    r = -errno;
    a->child.fd = pair[0];
    close(pair[1]);
    if (a->child.pid < 0)
        return failure(why, r, NULL, "cannot fork the agent");
    agent_child_hold(&a->child);
    a->go_fd = fcntl(a->child.fd, F_DUPFD_CLOEXEC, 0);
    if (a->go_fd < 0)
        return failure(why, -errno, "raise RLIMIT_NOFILE", "the agent's socket");
    *ret = steal(&a);
    return 0;
}

int agent_wait(struct agent *a, struct failure *why) TSA(no_thread_safety_analysis) /* before threads run */
{
    int r = wait_started(a, why);

    if (r == -ETIMEDOUT) /* it has had its time */
        agent_child_kill(&a->child);
    if (r < 0) {
        (void)agent_set_gone(a, true);
        a->over = true;
        processes_end(a);
    }
    return r;
}

void agent_go(struct agent *a)
{
    static const struct agent_message look = {.type = MESSAGE_LOOK};

    (void)send(a->go_fd, &look, sizeof(look),
               MSG_DONTWAIT | MSG_NOSIGNAL); /* its end is seen where it is read */
    closep(&a->go_fd);
}
