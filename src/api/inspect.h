/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * inspect.h - the requests that only look: stats, flows, slirp_info
 *
 * Each returns its reply (reply.h). Reference: docs/api.md.
 */
#pragma once

#include "api/commands.h"

#include <jansson.h>

enum {
    FLOWS_LIMIT_DEFAULT = 100,
    FLOWS_LIMIT_MAX = 1000,
    FLOWS_LOOKS_MAX = 64, /* questions to the carriers for one request; what is left is the next page's */
};

char *inspect_stats(const struct api_context *context, const json_t *arguments) RUNS_ON(role_api);
char *inspect_flows(const struct api_context *context, const json_t *arguments) RUNS_ON(role_api);
char *inspect_slirp_info(const struct api_context *context, const json_t *arguments) RUNS_ON(role_api);
