/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * role.h - which thread may run what, checked by the compiler
 *
 * A role is a duty of a thread (see docs/ARCHITECTURE.md). A thread takes its roles once, at its start;
 * several roles may share one thread. Clang's -Wthread-safety reads the attributes and refuses a call from a
 * function that does not hold the role, or an access to a field that another role owns; gcc ignores them. The
 * compiler cannot see through pointers: callbacks from libraries begin with role_assert(), which debug builds
 * also check against what the running thread really took.
 */
#pragma once

#include <stdint.h>

#if defined(__clang__)
#define TSA(x) __attribute__((x))
#else
#define TSA(x)
#endif

#define RUNS_ON(r) TSA(requires_capability(r))
#define OWNED_BY(r) TSA(guarded_by(r))

struct TSA(capability("role")) role {
    const char *name;
    uint32_t bit; /* in the mask of the running thread's roles */
};

extern struct role role_main;   /* process life cycle; before the threads start it stands in for every role */
extern struct role role_tap_rx; /* reads the TAP */
extern struct role role_slirp;  /* the only caller of libslirp */
extern struct role role_tap_tx; /* writes the TAP */
extern struct role role_api;    /* the control socket */
extern struct role role_fwd;    /* a splice worker: each flow belongs to one worker for life */
extern struct role role_udp_out; /* sends the guest's datagrams */
extern struct role role_udp_in;  /* receives what answers them */

/* Any thread, at its start: takes @r for the thread's life time. */
void role_enter(struct role *r) TSA(acquire_capability(*r));
/* The same thread, when it ends or hands the role to another one (world stop). */
void role_leave(struct role *r) TSA(release_capability(*r));
/* Any place that the compiler cannot follow: states that the running thread holds @r; debug builds check it.
 */
void role_assert(struct role *r) TSA(assert_capability(*r));
