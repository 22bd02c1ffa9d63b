/* SPDX-License-Identifier: GPL-2.0-or-later */
/* events.h - who an epoll event of the slirp thread is for; values */
#pragma once

#include <stdint.h>

enum event_kind {
    EVENT_SLIRP, /* value: a descriptor of libslirp */
    EVENT_WAKE,  /* the slirp thread's eventfd */
    EVENT_TAP,   /* the TAP reader, in shared mode */
    EVENT_UDP,   /* value: the socket of a UDP forward */
    EVENT_FLOW,  /* value: a UDP flow of the guest's */
};

/* Tags with any of the upper bits belong to the loop that shares the thread (engine.h). */
enum { EVENTS_GUEST_SHIFT = 56 };

static inline uint64_t events_tag(enum event_kind kind, uint32_t value)
{
    return (uint64_t)kind << 32 | value;
}

static inline enum event_kind events_kind(uint64_t tag)
{
    return (enum event_kind)(tag >> 32);
}

static inline uint32_t events_value(uint64_t tag)
{
    return (uint32_t)tag;
}
