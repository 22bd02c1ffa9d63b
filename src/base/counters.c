/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "base/counters.h"

const struct counter_row counter_rows[COUNTER_COUNT] = {
#define X(name, unit, text) {#name, unit, text},
    COUNTERS(X)
#undef X
};

struct counter counters[COUNTER_COUNT];
