/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * http.h - one scraper's conversation: HTTP/1.1 requests in, metrics out
 *
 * As session.h: no descriptor, no clock and no waiting in here. Owner: the api thread. As little HTTP as a
 * scraper needs (RFC 9112): GET and HEAD of /metrics, several requests on a connection, no bodies. Whatever
 * is not understood is answered with a status and ends the connection.
 */
#pragma once

#include "api/commands.h"
#include "api/session.h"

enum { HTTP_REQUEST_MAX = 8 * 1024 }; /* bytes of a request's head */

struct http {
    const struct api_context *context;
    char *in; /* HTTP_REQUEST_MAX bytes, of which @n_in have come */
    size_t n_in;
    bool ended, over;
};

/* 0 or -ENOMEM. _deinit() may be called twice. */
int http_init(struct http *h, const struct api_context *context) RUNS_ON(role_api);
void http_deinit(struct http *h) RUNS_ON(role_api);

/* These are as in session.h. */
char *http_room(struct http *h, size_t *ret_size) RUNS_ON(role_api);
void http_received(struct http *h, size_t size) RUNS_ON(role_api);
void http_ended(struct http *h) RUNS_ON(role_api);
enum session_step http_next(struct http *h, char **ret, size_t *ret_size) RUNS_ON(role_api);
bool http_is_idle(const struct http *h) RUNS_ON(role_api);
