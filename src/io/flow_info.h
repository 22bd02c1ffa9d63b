/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * flow_info.h - a connection or conversation of the guest's, as the API shows it
 *
 * Plain values: whoever carries the flow fills one in, in its own thread; nothing points back to the flow.
 */
#pragma once

#include "io/address.h"

#include <stdbool.h>
#include <stdint.h>

enum { FLOW_ROWS_MAX = 128 }; /* flows told about in one go: bounds what a data-plane thread spends on it */

#define FLOW_BYTES_UNKNOWN UINT64_MAX
#define FLOW_AGE_UNKNOWN INT64_C(-1)

struct flow_info {
    const char *tier; /* "splice-forward", "splice-outbound", "udp", "udp-forward", "slirp"; static */
    char state[24];   /* the carrier's word for it */
    bool inbound;     /* it was opened from outside */
    int proto;        /* IPPROTO_* */
    union address guest, remote; /* as the guest sees the two ends; AF_UNSPEC: not known */
    uint64_t to_guest, to_host;  /* payload bytes, or FLOW_BYTES_UNKNOWN */
    int64_t age_ns;              /* since it began, or FLOW_AGE_UNKNOWN */
};

/*
 * Tells up to @max (<= FLOW_ROWS_MAX) flows from position @from on (0: the first). Returns how many, or a
 * negative errno; *@ret_next is where to go on, below FLOW_POSITIONS, 0: that was all. A page is the truth of
 * one moment: what begins, ends or moves in the table between two pages may be missed, or told twice.
 */
typedef int flow_list(void *arg, uint64_t from, struct flow_info *rows, uint32_t max, uint64_t *ret_next);
#define FLOW_POSITIONS (UINT64_C(1) << 40)
