/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "base/role.h"

#include <assert.h>

struct role role_main = {"main", 1u << 0};
struct role role_tap_rx = {"tap-rx", 1u << 1};
struct role role_slirp = {"slirp", 1u << 2};
struct role role_tap_tx = {"tap-tx", 1u << 3};
struct role role_api = {"api", 1u << 4};
struct role role_fwd = {"fwd", 1u << 5};
struct role role_udp_out = {"udp-out", 1u << 6};
struct role role_udp_in = {"udp-in", 1u << 7};

static _Thread_local uint32_t roles_held;

/* The three bodies below are what the annotations describe, so the analysis must not look inside. */
TSA(no_thread_safety_analysis) void role_enter(struct role *r)
{
    assert(!(roles_held & r->bit));
    roles_held |= r->bit;
}

TSA(no_thread_safety_analysis) void role_leave(struct role *r)
{
    assert(roles_held & r->bit);
    roles_held &= ~r->bit;
}

TSA(no_thread_safety_analysis) void role_assert(struct role *r)
{
    assert(roles_held & r->bit);
    (void)r;
}
