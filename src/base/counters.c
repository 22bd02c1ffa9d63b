/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "base/counters.h"

#include <string.h>

const struct counter_row counter_rows[COUNTER_COUNT] = {
#define X(name, unit, text) {#name, unit, text},
    COUNTERS(X)
#undef X
};

struct counter counters[COUNTER_COUNT];

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), n_end = strlen(end);

    return n >= n_end && strcmp(text + n - n_end, end) == 0;
}

bool counter_is_gauge(enum counter_id id)
{
    return ends_with(counter_rows[id].text, "(present value)") ||
           ends_with(counter_rows[id].text, "(largest value)");
}
