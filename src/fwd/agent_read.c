/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * agent_read.c - what an agent says
 *
 * It may have been taken over by somebody: whatever is not in agent_protocol.h ends it, and descriptors are
 * taken only where the protocol has them.
 *
 * A new list of addresses is collected in `next` and replaces `local` when it is complete.
 */
#include "fwd/agent_private.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/syscall_filter.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>

enum {
    MESSAGES_PER_READ = 32, /* what is left wakes the worker again */
    HOLD_MS = 1000,         /* after less than was asked for */
    ERRNO_MAX = 4095,
};

static_assert((int)SOCKETS_PER_MESSAGE <= (int)FD_PASSING_MAX, "they fit a message");

int agent_receive(int fd, struct delivery *d)
{
    const uint32_t fds_max = SOCKETS_PER_MESSAGE;
    ssize_t n = fd_passing_receive(fd, &d->message, sizeof(d->message), fds_max, &d->with, MSG_DONTWAIT);

    /* Once: it ended with requests unread. What it said before is still there (unix(7)). */
    if (n == -ECONNRESET)
        n = fd_passing_receive(fd, &d->message, sizeof(d->message), fds_max, &d->with, MSG_DONTWAIT);
    if (n == (ssize_t)sizeof(d->message))
        return 0;
    fd_passing_close(&d->with);
    return n == 0 ? -EPIPE : n == -EMSGSIZE || n > 0 ? -EPROTO : (int)n;
}

static int take_delivery(struct agent *a, struct delivery *d) RUNS_ON(role_fwd)
{
    const struct agent_message *m = &d->message;
    int index = family_index(m->family);
    struct stock *s;

    if (index < 0 || m->count > m->settled || m->count > SOCKETS_PER_MESSAGE)
        return -EPROTO;
    s = &a->stocks[index];
    if (m->settled > s->asked || d->with.n_fds > m->count || (d->with.n_fds < m->count && !d->with.cut))
        return -EPROTO;
    s->asked -= m->settled;
    if (d->with.n_fds > 0)
        s->dry_ns = 0;
    /* asked + n was within the bound, n_fds <= settled: they fit. */
    for (uint32_t i = 0; i < d->with.n_fds; i++)
        s->fds[s->n++] = d->with.fds[i];
    if (d->with.n_fds < m->settled)
        s->hold_ns = clock_monotonic_ns() + HOLD_MS * NS_PER_MS;
    d->with.n_fds = 0; /* the stock's now */
    agent_refill(a, index);
    return 0;
}

static int take_state(struct agent *a, const struct agent_message *m) RUNS_ON(role_fwd)
{
    int index = family_index(m->family);

    if (index < 0 ||
        (m->result != AGENT_READY && (m->result < AGENT_LO_DOWN || m->result > AGENT_NO_TRANSPARENT)))
        return -EPROTO;
    a->stocks[index].reason = (enum agent_reason)m->result;
    a->looks = false;
    agent_refill(a, index);
    return 0;
}

static int take_addresses(struct agent *a, const struct agent_message *m) RUNS_ON(role_fwd)
{
    if (m->count > ADDRESSES_PER_MESSAGE || m->first != a->n_next || m->final > 1 ||
        m->count > AGENT_ADDRESSES_MAX - a->n_next || (!m->final && m->count == 0))
        return -EPROTO;
    memcpy(a->next + a->n_next, m->addresses, m->count * sizeof(m->addresses[0]));
    a->n_next += m->count;
    if (m->final) {
        memcpy(a->local, a->next, a->n_next * sizeof(a->next[0]));
        a->n_local = a->n_next;
        a->n_next = 0;
    }
    return 0;
}

static int take_diverted(struct agent *a, struct delivery *d) RUNS_ON(role_fwd)
{
    int result = d->message.result;

    if (result > 0 || !a->on_diverted || d->with.n_fds > (result == 0 ? 1 : 0))
        return -EPROTO;
    if (result == 0 && d->with.n_fds == 0)
        result = AGENT_NOT_RECEIVED;
    a->n_diverts -= a->n_diverts > 0;
    a->on_diverted(a->on_diverted_arg, d->message.divert.id, result,
                   d->with.n_fds == 1 ? d->with.fds[0] : -1);
    d->with.n_fds = 0; /* the callee's */
    return 0;
}

int agent_reported_failure(struct agent_message *m, struct failure *why)
{
    m->sentence.what[sizeof(m->sentence.what) - 1] = '\0';
    m->sentence.hint[sizeof(m->sentence.hint) - 1] = '\0';
    return failure(why, m->result, m->sentence.hint, "%s", m->sentence.what);
}

/* The second report is always of a failure: what came after the first one did not succeed. */
static int take_started(struct agent_message *m)
{
    struct failure why = FAILURE_NULL;
    char text[512];

    if (m->result < 0) {
        agent_reported_failure(m, &why);
        log_warning("nsagent: %s", failure_text(&why, text, sizeof(text)));
    }
    return -EPROTO;
}

/* It cannot divert containers; agent_divert_nested()'s caller says it. */
static void take_nested_error(struct agent *a, int error) RUNS_ON(role_fwd)
{
    switch (error) {
    case -EAGAIN:
    case -EINTR:
    case -ENOBUFS:
    case -ENOMEM: /* these pass: the next packet that should not have come asks again */
        a->nested = false;
        break;
    default:
        a->nested_error = error;
    }
}

int agent_take_complaint(struct agent *a, const struct agent_message *m)
{
    static struct log_limit limit;

    if (m->result < -ERRNO_MAX)
        return -EPROTO;
    if (m->count == AGENT_MADE_CALL && m->result >= 0) {
        a->broken = true;
        log_limited(&limit, LOG_LEVEL_ERROR,
                    "seccomp: nsagent made the system call %s (%d), which it never needs, and was ended",
                    syscall_name(m->result), m->result);
    } else if (m->count == AGENT_STANDS_ALONE && m->result < 0) {
        log_limited(&limit, LOG_LEVEL_INFO, "nsagent has no standby, and will not come back if it ends: %s",
                    strerror(-m->result));
    } else if (m->count == AGENT_LEAVES_NESTED && m->result < 0) {
        if (!a->nested)
            return -EPROTO; /* nobody has asked */
        take_nested_error(a, m->result);
    } else if (m->count == AGENT_SEES_FILES && m->result < 0) {
        log_limited(
            &limit, LOG_LEVEL_INFO,
            "nsagent has neither an empty file system nor Landlock, only its filter of system calls: %s",
            strerror(-m->result));
    } else {
        return -EPROTO;
    }
    return 0;
}

/* Nothing is said to it, and nobody is signalled, that is no child of ours. */
static int take_standby(struct agent *a, struct delivery *d) RUNS_ON(role_fwd)
{
    enum { CONVERSATION, PIDFD, N_FDS };

    if (d->with.n_fds > N_FDS || d->message.result <= 0 || a->standby.pid > 0)
        return -EPROTO;
    if (d->with.cut) /* out of descriptors: none, then */
        return 0;
    if (d->with.n_fds != N_FDS || !agent_child_is_ours(d->with.fds[PIDFD]))
        return -EPROTO;
    a->standby = (struct agent_child){
        .pid = d->message.result, .pidfd = d->with.fds[PIDFD], .fd = d->with.fds[CONVERSATION]};
    d->with.n_fds = 0; /* ours now */
    return 0;
}

static int take(struct agent *a, struct delivery *d) RUNS_ON(role_fwd)
{
    if (d->message.type == MESSAGE_SOCKETS)
        return take_delivery(a, d);
    if (d->message.type == MESSAGE_DIVERTED)
        return take_diverted(a, d);
    if (d->message.type == MESSAGE_STANDBY)
        return take_standby(a, d);
    if (d->with.n_fds > 0)
        return -EPROTO;
    switch (d->message.type) {
    case MESSAGE_STATE:
        return take_state(a, &d->message);
    case MESSAGE_ADDRESSES:
        return take_addresses(a, &d->message);
    case MESSAGE_COMPLAINT:
        return agent_take_complaint(a, &d->message);
    case MESSAGE_STARTED:
        return take_started(&d->message);
    case MESSAGE_UNDIVERTED:
        return d->message.count > 0 && undivert_queue_done(&a->undiverts, d->message.count) ? 0 : -EPROTO;
    default:
        return -EPROTO;
    }
}

int agent_read(struct agent *a)
{
    if (a->gone)
        return -EPIPE;
    if (a->previous.pid > 0 && agent_child_reap(&a->previous))
        agent_child_close(&a->previous);
    for (int i = 0; i < MESSAGES_PER_READ; i++) {
        struct delivery d;
        int r = agent_receive(a->child.fd, &d);

        if (r == -EAGAIN)
            break;
        if (r == 0) {
            a->deaf = false;
            a->heard_ns = clock_monotonic_ns();
            r = take(a, &d);
            fd_passing_close(&d.with);
        }
        if (r < 0)
            return agent_set_gone(a, r != -EPIPE);
    }
    /* Before whoever asks for more connections fills its socket again. */
    agent_send_undiverts(a);
    for (int i = 0; i < AGENT_FAMILIES; i++)
        agent_refill(a, i);
    return 0;
}
