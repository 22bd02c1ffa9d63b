/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * capability.h - capabilities(7) of the calling thread, by capget(2) and capset(2)
 *
 * For the start, which everybody waits for: libcap-ng reads files of /proc along the way. Sets are bit masks,
 * bit CAP_*. Any thread, at any time.
 */
#pragma once

#include <stdint.h>

#define CAPABILITY(number) (UINT64_C(1) << (number))

/* The permitted set. 0 or a negative errno. */
int capabilities_get(uint64_t *ret_permitted);
/* @all become the permitted and the effective set, and nothing is inheritable. They must have been permitted.
 * 0 or a negative errno. */
int capabilities_set(uint64_t all);
