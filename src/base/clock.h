/* SPDX-License-Identifier: GPL-2.0-or-later */
/* clock.h - CLOCK_MONOTONIC in nanoseconds; any thread, no system call (vDSO) */
#pragma once

#include <stdint.h>
#include <time.h>

#define NS_PER_S 1000000000LL
#define NS_PER_MS 1000000LL

static inline int64_t clock_monotonic_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * NS_PER_S + ts.tv_nsec;
}
