/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * resolv.h - the first nameserver of /etc/resolv.conf, for each family
 *
 * As libslirp does it: the file is looked at again at most once per second, and read again when it is
 * another one (device, inode, size, modification time). A scope ("%eth0") is honoured. One thread.
 */
#pragma once

#include "io/address.h"

#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>

enum { RESOLV_SIZE_MAX = 64 * 1024 }; /* bytes that are read */

struct resolv {
    const char *path;
    int64_t checked_ns;
    bool checked;
    struct stat seen;
    union address v4, v6; /* port 53; family 0: there is none */
};

/* The nameserver of @family as a socket address with port 53; NULL: none, or the file cannot be read. Valid
 * until the next call. */
const union address *resolv_get(struct resolv *r, int family, int64_t now_ns);
