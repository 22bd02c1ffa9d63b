/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * metrics.h - what the program counts, as OpenMetrics 1.0 text
 *
 * The counters (base/counters.h) under names that OpenMetrics wants: a value that only grows ends in _total,
 * nanoseconds become seconds, reasons become labels. docs/api.md lists the families.
 */
#pragma once

#include "api/commands.h"

#include <stddef.h>

enum { METRICS_FORWARDS_MAX = 256 }; /* forwards with values of their own */

#define METRICS_CONTENT_TYPE "application/openmetrics-text; version=1.0.0; charset=utf-8"

/* The whole text, "# EOF" included; to be freed with free(). NULL: no memory. */
char *metrics_text(const struct api_context *context, size_t *ret_size) RUNS_ON(role_api);
