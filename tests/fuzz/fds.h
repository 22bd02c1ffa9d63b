/* SPDX-License-Identifier: GPL-2.0-or-later */
/* fds.h - which descriptors are open: what one input has opened must be closed when it has ended */
#pragma once

#include "fuzz.h"

#include <poll.h>

enum { FDS_LOOKED_AT = 384 };

struct fds {
    uint8_t open[FDS_LOOKED_AT / 8];
    uint32_t n;
};

/* One system call. */
static inline void fds_look(struct fds *ret)
{
    struct pollfd all[FDS_LOOKED_AT];

    for (int i = 0; i < FDS_LOOKED_AT; i++)
        all[i] = (struct pollfd){.fd = i};
    CHECK(poll(all, FDS_LOOKED_AT, 0) >= 0);
    memset(ret, 0, sizeof(*ret));
    for (int i = 0; i < FDS_LOOKED_AT; i++) {
        if (!(all[i].revents & POLLNVAL)) {
            ret->open[i / 8] |= (uint8_t)(1 << i % 8);
            ret->n++;
        }
    }
}

/* The same ones as before. */
static inline void fds_check(const struct fds *before)
{
    struct fds now;

    fds_look(&now);
    CHECK(memcmp(&now, before, sizeof(now)) == 0);
}
