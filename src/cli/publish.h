/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * publish.h - what --publish says: a forward of ports in one word
 *
 *   [HOST_ADDR:]HOST_PORT[-END]:[GUEST_ADDR:]GUEST_PORT[/tcp|udp]
 *
 * An IPv6 address stands in brackets. Without HOST_ADDR: 0.0.0.0; without GUEST_ADDR: the recommended address
 * of the guest; without a protocol: tcp. The ports of a range are forwarded in parallel. main only.
 */
#pragma once

#include "fwd/forward.h"

/* 0 and the forward, or a negative errno whose sentence names the part of @text that is wrong. @guest is the
 * default guest address. */
int publish_parse(struct forward_spec *ret, const char *text, struct in_addr guest, struct failure *why);
