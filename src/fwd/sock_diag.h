/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * sock_diag.h - forgets a TCP socket of the present network namespace (sock_diag(7), SOCK_DESTROY since
 * Linux 4.5 with CONFIG_INET_DIAG_DESTROY; one in TIME_WAIT since 6.5)
 *
 * A guest may use a port again as soon as the server has closed first, since TIME_WAIT is the server's affair
 * then. A real server takes the new SYN; here its part was played by a socket that repair_connect() has made,
 * and that one's TIME_WAIT keeps the next one from being made for a minute. Needs CAP_NET_ADMIN in the user
 * namespace that owns the network namespace. The nsagent only; nothing is allocated or opened after
 * sock_diag_init().
 */
#pragma once

#include "io/address.h"

#include <stdint.h>

struct mnl_socket;

struct sock_diag {
    struct mnl_socket *socket; /* NULL: there is none */
    uint32_t sequence;         /* of the last request */
};

/* 0 or a negative errno; then sock_diag_destroy() answers -EOPNOTSUPP. */
int sock_diag_init(struct sock_diag *d);
/* What has these two addresses of one family is gone without a packet if it was in TIME_WAIT, by a reset
 * otherwise. 0, or a negative errno: -ENOENT (there is none), -EOPNOTSUPP (this kernel cannot), -EPERM. */
int sock_diag_destroy(struct sock_diag *d, const union address *local, const union address *peer);
