/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * interface.h - what --configure does inside the guest's network namespace
 *
 * A process that is in that namespace. rtnetlink(7) through libmnl.
 */
#pragma once

#include "cli/options.h"

/* Loopback up; the TAP up with MTU, MAC address, IPv4 address and a default route over the gateway. Returns 0
 * or a negative errno; the sentence says which step. IPv6 comes by router advertisements from libslirp. */
int interface_configure(const struct options *o, struct failure *why);
