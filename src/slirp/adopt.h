/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * adopt.h - hand an accepted connection to libslirp
 *
 * All listeners are ours, because a forward may carry one connection by splice and the next through libslirp;
 * but libslirp takes connections only from listeners of its own. So for each connection it is given a
 * listener for the guest address in question that nobody can reach, and its accept(2) on that descriptor is
 * answered with the connection we already have; then the listener goes. The accept() that libslirp calls is
 * defined in adopt.c: the executable's symbol precedes the C library's for every shared object (ld.so(8)). It
 * passes everything else through.
 */
#pragma once

#include "base/role.h"
#include "io/address.h"

#include <slirp/libslirp.h>

/* Gives @conn_fd to libslirp as a connection from @shown to @guest (same address family, never a loopback
 * address in
 * @shown: the caller translates). 0: libslirp owns @conn_fd; a negative errno: it stays the caller's.
 * Afterwards slirp_pollfds_fill() is due: what libslirp wanted before has been forgotten. */
int adopt_connection(Slirp *slirp, int conn_fd, const union address *shown, const union address *guest)
    RUNS_ON(role_slirp);
