/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * connections.h - libslirp's table of connections, read from the text it makes for people
 *
 * libslirp shows its sockets in no other way. Its text has a line per socket and IPv4 addresses only: an IPv6
 * one appears without addresses, and so it does here. Listening sockets (libslirp's own forwards) are left
 * out. Any thread; plain text in, plain values out.
 */
#pragma once

#include "io/flow_info.h"

/* Reads up to @max flows from the @from-th line on. Returns how many; *@ret_next: the line to go on with, 0:
 * that was all. A line that is not understood is passed over. */
uint32_t connections_read(const char *text, uint64_t from, struct flow_info *rows, uint32_t max,
                          uint64_t *ret_next);
