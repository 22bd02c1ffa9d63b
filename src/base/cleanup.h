/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * cleanup.h - release by scope, for set-up and control code (the data plane releases explicitly)
 */
#pragma once

#include <stdlib.h>
#include <unistd.h>

#define _cleanup_(f) __attribute__((cleanup(f)))

/* Returns the value of *@p and leaves the "nothing" value behind, so that a cleanup finds nothing to release.
 */
#define steal(p)                  \
    ({                            \
        __typeof__(p) _p = (p);   \
        __typeof__(*_p) _v = *_p; \
        *_p = NULL;               \
        _v;                       \
    })

static inline int steal_fd(int *fd)
{
    int r = *fd;

    *fd = -1;
    return r;
}

static inline void closep(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

static inline void freep(void *p)
{
    free(*(void **)p);
}

#define _cleanup_close_ _cleanup_(closep)
#define _cleanup_free_ _cleanup_(freep)
