/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * commands.h - what the API's requests do
 *
 * The reply to every request text, whatever it is, is one JSON text. The strings are those that clients of
 * slirp4netns know; where more can be said it follows the known text.
 */
#pragma once

#include "base/role.h"
#include "fwd/forward.h"

#include <netinet/in.h>

struct api_context { /* fixed before threads start */
    struct forwards *forwards;
    struct in_addr guest;       /* default of guest_addr */
    const char *backend, *mode; /* for "stats" */
};

/* Answers the request in @text[0..@size). The reply is compact JSON without a newline, to be freed with
 * g_free(). */
char *command_answer(const struct api_context *context, const char *text, size_t size) RUNS_ON(role_api);

/* The reply to a request that is longer than the server takes. To be freed with g_free(). */
char *command_too_large(void);
