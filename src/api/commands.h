/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * commands.h - what the API's requests do
 *
 * The reply to every request, whatever it is, is one JSON text. The strings are those that clients of
 * slirp4netns know; where more can be said it follows the known text. Reference: docs/api.md.
 */
#pragma once

#include "base/role.h"
#include "fwd/forward.h"
#include "io/flow_info.h"

#include <netinet/in.h>

struct flow_source { /* somebody who carries flows */
    flow_list *list; /* called by the api thread */
    void *arg;
};

enum { FLOW_SOURCES_MAX = 8 };

struct api_context { /* fixed before threads start */
    struct forwards *forwards;
    struct in_addr guest;       /* default of guest_addr */
    struct in6_addr guest6;     /* the same for IPv6; :: when nobody knows */
    const char *backend, *mode; /* for "stats" */
    const char *outbound;       /* ditto: "splice", or why libslirp carries the guest's own TCP connections */
    struct flow_source flow_sources[FLOW_SOURCES_MAX];
    unsigned n_flow_sources;
    /* The api thread: libslirp's own table, to be freed with free(); NULL: no memory. */
    char *(*slirp_info)(void *arg);
    void *arg;
};

enum command_keep { /* what the request says of its connection */
                    COMMAND_KEEP_UNSAID,
                    COMMAND_KEEP_YES, /* "keep_alive": true */
                    COMMAND_KEEP_NO,
};

enum command_refusal {
    COMMAND_UNPARSABLE,
    COMMAND_TOO_LARGE,
};

/* main, once, before the sandbox. */
void command_init(void);

/* Answers the request in @text[0..@size): one value that json_scan accepted, white space and a byte order
 * mark before it allowed. The reply is compact JSON without a newline, to be freed with free();
 * NULL: there is no memory for it. */
char *command_answer(const struct api_context *context, const char *text, size_t size,
                     enum command_keep *ret_keep) RUNS_ON(role_api);

/* The reply to what is no request at all. To be freed with free(); NULL as above. */
char *command_refuse(enum command_refusal why) RUNS_ON(role_api);
