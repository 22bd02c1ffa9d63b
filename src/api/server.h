/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * server.h - the API socket, the metrics socket, and their thread
 *
 * A UNIX stream socket, one thread, many clients at once: a client that says nothing, or reads nothing, holds
 * nobody up. Requests and replies are in docs/api.md; a client's conversation is in session.h, what a request
 * does in commands.h. A second socket serves metrics over HTTP (http.h, metrics.h), with places of its own.
 */
#pragma once

#include "api/commands.h"
#include "base/failure.h"

struct api_server;

/* main, before threads start and before the sandbox: binds @path for requests and @metrics_path for scrapers
 * (NULL: none; a file in the way is removed, as ever) and listens. 0, or a negative errno with its sentence.
 * @context must outlive the server. */
int api_server_new(struct api_server **ret, const char *path, const char *metrics_path,
                   const struct api_context *context, struct failure *why);
/* main, after the sandbox: starts the thread "api". _stop() joins it; it need not have been started. */
int api_server_start(struct api_server *s, struct failure *why);
void api_server_stop(struct api_server *s);
/* main: closes the socket and removes its file if that is still there, still ours and still reachable (it is
 * not from inside the sandbox). Returns NULL; NULL is fine. */
struct api_server *api_server_free(struct api_server *s);
