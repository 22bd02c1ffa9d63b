/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "api/session.h"

#include "base/log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LOG_REQUEST_MAX = 800 }; /* bytes of the line, escapes included */

int session_init(struct session *s, const struct api_context *context)
{
    *s = (struct session){.context = context, .in = malloc(REQUEST_MAX)};
    json_scan_init(&s->scan);
    return s->in ? 0 : -ENOMEM;
}

void session_deinit(struct session *s)
{
    free(s->in);
    s->in = NULL;
}

char *session_room(struct session *s, size_t *ret_size)
{
    if (s->begin > 0) {
        memmove(s->in, s->in + s->begin, s->n_in - s->begin);
        s->n_in -= s->begin;
        s->n_scanned -= s->begin;
        s->begin = 0;
    }
    *ret_size = REQUEST_MAX - s->n_in;
    return s->in + s->n_in;
}

void session_received(struct session *s, size_t size)
{
    s->n_in += size;
}

void session_ended(struct session *s)
{
    s->ended = true;
}

bool session_is_idle(const struct session *s)
{
    return s->answered && s->n_scanned == s->n_in && json_scan_is_blank(&s->scan);
}

/* One line, whatever the client sent. */
static void log_request(const char *text, size_t size)
{
    char line[LOG_REQUEST_MAX + sizeof("\\xff...")];
    size_t n = 0, i;

    for (i = 0; i < size && n < LOG_REQUEST_MAX; i++) {
        uint8_t c = (uint8_t)text[i];

        if (c >= ' ' && c < 0x7f)
            line[n++] = (char)c;
        else
            n += (size_t)sprintf(line + n, c == '\n' ? "\\n" : "\\x%02x", c);
    }
    snprintf(line + n, sizeof(line) - n, "%s", i < size ? "..." : "");
    log_info("api_handler: got request: %s", line);
}

/* Replies stand alone, as they always have; those of one connection are kept apart by newlines. Takes @text;
 * without one (memory) the conversation is over. */
static enum session_step reply_with(struct session *s, char *text, char **ret, size_t *ret_size)
{
    const char *before = s->line_open ? "\n" : "", *after = s->keep_alive ? "\n" : "";
    int n = text ? asprintf(ret, "%s%s%s", before, text, after) : -1;

    free(text);
    if (n < 0) {
        *ret = NULL;
        s->over = true;
        return SESSION_OVER;
    }
    *ret_size = (size_t)n;
    s->line_open = !s->keep_alive;
    s->answered = true;
    return SESSION_REPLY;
}

static enum session_step refuse(struct session *s, enum command_refusal why, char **ret, size_t *ret_size)
    RUNS_ON(role_api)
{
    s->over = true; /* where the next request would begin cannot be told */
    log_request(s->in + s->begin, s->n_in - s->begin);
    return reply_with(s, command_refuse(why), ret, ret_size);
}

/* The request is @begin..@n_scanned. */
static enum session_step answer(struct session *s, char **ret, size_t *ret_size) RUNS_ON(role_api)
{
    const char *text = s->in + s->begin;
    size_t size = s->n_scanned - s->begin;
    enum command_keep keep;
    char *reply;
    bool line = false;

    log_request(text, size);
    reply = command_answer(s->context, text, size, &keep);
    if (keep != COMMAND_KEEP_UNSAID)
        s->keep_alive = keep == COMMAND_KEEP_YES;
    for (; !line && s->n_scanned < s->n_in && memchr(" \t\r\n", s->in[s->n_scanned], 4); s->n_scanned++)
        line = s->in[s->n_scanned] == '\n';
    s->begin = s->n_scanned;
    s->over = !s->keep_alive && (!line || keep == COMMAND_KEEP_NO);
    json_scan_init(&s->scan);
    return reply_with(s, reply, ret, ret_size);
}

enum session_step session_next(struct session *s, char **ret, size_t *ret_size)
{
    enum json_scan_result r;
    size_t used;

    if (s->over)
        return SESSION_OVER;
    r = json_scan_feed(&s->scan, s->in + s->n_scanned, s->n_in - s->n_scanned, &used);
    s->n_scanned += used;
    if (r == JSON_SCAN_INCOMPLETE && s->ended) {
        if (session_is_idle(s)) {
            s->over = true;
            return SESSION_OVER;
        }
        r = json_scan_end(&s->scan);
    }
    if (r == JSON_SCAN_COMPLETE)
        return answer(s, ret, ret_size);
    if (r == JSON_SCAN_BAD)
        return refuse(s, COMMAND_UNPARSABLE, ret, ret_size);
    return s->n_in - s->begin == REQUEST_MAX ? refuse(s, COMMAND_TOO_LARGE, ret, ret_size) : SESSION_WAIT;
}
