/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * session.h - one client's conversation: bytes in, replies out
 *
 * No descriptor, no clock and no waiting in here: the server moves the bytes, tests and fuzzers do without
 * one. Owner: the api thread.
 *
 * A request is answered as soon as its bytes are one complete JSON value. Whether another one may follow is
 * decided then: yes when the request ended with a newline or asked for "keep_alive"; otherwise what follows
 * is ignored, as it has always been.
 */
#pragma once

#include "api/commands.h"
#include "api/json_scan.h"

enum { REQUEST_MAX = 64 * 1024 }; /* bytes of a request and of the white space before it */

enum session_step {
    SESSION_REPLY, /* there is a reply: send it, then ask again */
    SESSION_WAIT,  /* more bytes are needed, or the client's end of file */
    SESSION_OVER,  /* there will be no more replies */
};

struct session {
    const struct api_context *context;
    char *in; /* REQUEST_MAX bytes: the request begins at @begin, @n_in have come */
    size_t begin, n_scanned, n_in;
    struct json_scan scan;      /* has seen everything before @n_scanned */
    bool ended, over, answered; /* answered: at least one request */
    bool keep_alive;
    bool line_open; /* the last reply ended without a newline */
};

/* 0 or -ENOMEM. _deinit() may be called twice. */
int session_init(struct session *s, const struct api_context *context) RUNS_ON(role_api);
void session_deinit(struct session *s) RUNS_ON(role_api);

/* Where the next bytes belong: never no room after SESSION_WAIT. */
char *session_room(struct session *s, size_t *ret_size) RUNS_ON(role_api);
/* @size bytes have been put there. */
void session_received(struct session *s, size_t size) RUNS_ON(role_api);
/* Nothing more will come: end of file, or the server's patience is at its end. */
void session_ended(struct session *s) RUNS_ON(role_api);

/* What to do next. *@ret is the reply to SESSION_REPLY, with what has to be around it: to be sent as it is
 * and freed with free(). */
enum session_step session_next(struct session *s, char **ret, size_t *ret_size) RUNS_ON(role_api);

/* Everything that came has been answered. */
bool session_is_idle(const struct session *s) RUNS_ON(role_api);
