/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * server.h - the API socket and its thread
 *
 * A UNIX stream socket, one thread, many clients at once: a client that says nothing, or reads nothing, holds
 * nobody up. Requests and replies are in docs/api.md; what a request does is in commands.h.
 *
 * A client's life: reading (bytes are collected until they are one complete JSON value, or the client's end
 * of file) -> answering (exactly one write per reply, unless the socket's buffer is full) -> reading again
 * when it asked to be kept (one request per line), else draining until it closes, so that a reset never
 * overtakes the reply.
 */
#pragma once

#include "api/commands.h"
#include "base/failure.h"

struct api_server;

/* main, before threads start and before the sandbox: binds @path (a file in the way is removed, as ever) and
 * listens. 0, or a negative errno with its sentence. @context must outlive the server. */
int api_server_new(struct api_server **ret, const char *path, const struct api_context *context,
                   struct failure *why);
/* main: starts and joins the thread "api". */
int api_server_start(struct api_server *s, struct failure *why);
void api_server_stop(struct api_server *s);
/* main: closes the socket and removes its file if that is still there, still ours and still reachable.
 * Returns NULL. */
struct api_server *api_server_free(struct api_server *s);
