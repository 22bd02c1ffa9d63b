/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "api/http.h"

#include "api/metrics.h"
#include "base/counters.h"
#include "base/date.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

enum { HEAD_SIZE = 512 }; /* of an answer */

int http_init(struct http *h, const struct api_context *context)
{
    *h = (struct http){.context = context, .in = malloc(HTTP_REQUEST_MAX)};
    return h->in ? 0 : -ENOMEM;
}

void http_deinit(struct http *h)
{
    free(h->in);
    h->in = NULL;
}

char *http_room(struct http *h, size_t *ret_size)
{
    *ret_size = HTTP_REQUEST_MAX - h->n_in;
    return h->in + h->n_in;
}

void http_received(struct http *h, size_t size)
{
    h->n_in += size;
}

void http_ended(struct http *h)
{
    h->ended = true;
}

bool http_is_idle(const struct http *h)
{
    return h->n_in == 0;
}

/* ---- answers ---- */

static const char *reason_phrase(unsigned status)
{
    switch (status) {
    case 200:
        return "OK";
    case 400:
        return "Bad Request";
    case 404:
        return "Not Found";
    case 405:
        return "Method Not Allowed";
    case 413:
        return "Content Too Large";
    case 431:
        return "Request Header Fields Too Large";
    case 500:
        return "Internal Server Error";
    default:
        return "HTTP Version Not Supported"; /* 505 */
    }
}

/* Takes @body (NULL: memory ran out). */
static enum session_step answer(struct http *h, unsigned status, const char *type, char *body,
                                size_t body_size, bool with_body, char **ret, size_t *ret_size)
{
    static const char weekdays[] = "SunMonTueWedThuFriSat", months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
    const struct date d = date_of(time(NULL));
    char head[HEAD_SIZE];
    size_t n;

    if (!body) {
        h->over = true;
        return SESSION_OVER;
    }
    n = (size_t)snprintf(head, sizeof(head),
                         "HTTP/1.1 %u %s\r\nDate: %.3s, %02d %.3s %04d %02d:%02d:%02d GMT\r\nContent-Type: "
                         "%s\r\nContent-Length: %zu\r\n"
                         "Cache-Control: no-store\r\n%sConnection: %s\r\n\r\n",
                         status, reason_phrase(status), weekdays + (ptrdiff_t)3 * d.weekday, d.day,
                         months + (ptrdiff_t)3 * (d.month - 1), d.year, d.hour, d.minute, d.second, type,
                         body_size, status == 405 ? "Allow: GET, HEAD\r\n" : "",
                         h->over ? "close" : "keep-alive");
    *ret_size = n + (with_body ? body_size : 0);
    *ret = malloc(*ret_size);
    if (*ret) {
        memcpy(*ret, head, n);
        memcpy(*ret + n, body, *ret_size - n);
    }
    free(body);
    if (*ret)
        return SESSION_REPLY;
    h->over = true;
    return SESSION_OVER;
}

static enum session_step answer_text(struct http *h, unsigned status, const char *text, bool with_body,
                                     char **ret, size_t *ret_size)
{
    return answer(h, status, "text/plain; charset=utf-8", strdup(text), strlen(text), with_body, ret,
                  ret_size);
}

static enum session_step refuse(struct http *h, unsigned status, const char *text, char **ret,
                                size_t *ret_size)
{
    h->over = true; /* where the next request would begin cannot be told, or is not worth it */
    counter_add(COUNTER_metrics_errors, 1);
    return answer_text(h, status, text, true, ret, ret_size);
}

/* ---- requests ---- */

struct request {
    char *method, *target, *version; /* in the buffer, terminated */
    bool has_host, has_body, close, keep_alive;
};

static bool is_token(const char *text)
{
    /* RFC 9110 5.6.2 */
    return *text &&
           strspn(text, "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ") ==
               strlen(text);
}

static bool has_word(const char *list, const char *word)
{
    size_t n = strlen(word);

    for (const char *at = list; *at; at++) {
        if ((at == list || strchr(", \t", at[-1])) && strncasecmp(at, word, n) == 0 &&
            (at[n] == '\0' || strchr(", \t", at[n])))
            return true;
    }
    return false;
}

static bool parse_field(struct request *r, char *line)
{
    char *colon = strchr(line, ':'), *value;

    if (!colon)
        return false;
    *colon = '\0';
    value = colon + 1 + strspn(colon + 1, " \t");
    if (!is_token(line)) /* also a folded line, and a space before the colon: RFC 9112 5.1, 5.2 */
        return false;
    if (strcasecmp(line, "Host") == 0) {
        if (r->has_host)
            return false;
        r->has_host = true;
    } else if (strcasecmp(line, "Content-Length") == 0) {
        r->has_body = r->has_body || strspn(value, "0 \t") != strlen(value) || *value == '\0';
    } else if (strcasecmp(line, "Transfer-Encoding") == 0) {
        r->has_body = true;
    } else if (strcasecmp(line, "Connection") == 0) {
        r->close = r->close || has_word(value, "close");
        r->keep_alive = r->keep_alive || has_word(value, "keep-alive");
    }
    return true;
}

/* @head: terminated, lines end with \n or \r\n. */
static bool parse_request(struct request *r, char *head)
{
    char *line = head, *next;

    *r = (struct request){0};
    for (bool first = true; *line; line = next, first = false) {
        char *end = strchr(line, '\n');

        if (!end)
            return false;
        next = end + 1;
        *end = '\0';
        if (end > line && end[-1] == '\r')
            end[-1] = '\0';
        if (strchr(line, '\r'))
            return false;
        if (first) {
            r->method = strsep(&line, " ");
            r->target = strsep(&line, " ");
            r->version = line;
            if (!r->target || !r->version || !is_token(r->method) || !*r->target)
                return false;
        } else if (!parse_field(r, line)) {
            return false;
        }
    }
    return r->version != NULL;
}

/* The path of the target, without a query; "http://host/path" is what proxies send. */
static const char *path_of(char *target)
{
    static const char scheme[] = "http://";

    if (strncasecmp(target, scheme, strlen(scheme)) == 0) {
        target = strchr(target + strlen(scheme), '/');
        if (!target)
            return "/";
    }
    target[strcspn(target, "?#")] = '\0';
    return target;
}

static enum session_step serve(struct http *h, struct request *r, char **ret, size_t *ret_size)
    RUNS_ON(role_api)
{
    bool with_body = strcmp(r->method, "HEAD") != 0;
    const char *path;
    size_t size = 0;
    char *text;

    if (strncmp(r->version, "HTTP/", 5) != 0)
        return refuse(h, 400, "This is no HTTP.\n", ret, ret_size);
    if (strcmp(r->version, "HTTP/1.1") != 0 && strcmp(r->version, "HTTP/1.0") != 0)
        return refuse(h, 505, "HTTP/1.1 is spoken here.\n", ret, ret_size);
    if (strcmp(r->version, "HTTP/1.1") == 0 && !r->has_host)
        return refuse(h, 400, "There is no Host.\n", ret, ret_size);
    if (r->has_body)
        return refuse(h, 413, "Requests have no content here.\n", ret, ret_size);
    if (with_body && strcmp(r->method, "GET") != 0)
        return refuse(h, 405, "GET and HEAD are known here.\n", ret, ret_size);
    h->over = r->close || (strcmp(r->version, "HTTP/1.0") == 0 && !r->keep_alive);
    path = path_of(r->target);
    if (strcmp(path, "/") == 0)
        return answer_text(h, 200, "slirp4netns: /metrics\n", with_body, ret, ret_size);
    if (strcmp(path, "/metrics") != 0)
        return answer_text(h, 404, "There is /metrics.\n", with_body, ret, ret_size);
    counter_add(COUNTER_metrics_scrapes, 1);
    text = metrics_text(h->context, &size);
    if (!text)
        return refuse(h, 500, "There is no memory.\n", ret, ret_size);
    return answer(h, 200, METRICS_CONTENT_TYPE, text, size, with_body, ret, ret_size);
}

/* The size of the head with the empty line that ends it; 0: it is not complete. */
static size_t head_size(const char *in, size_t n)
{
    for (const char *at = in; (at = memchr(at, '\n', n - (size_t)(at - in))) != NULL; at++) {
        size_t size = (size_t)(at - in) + 1;

        if (n - size >= 1 && at[1] == '\n')
            return size + 1;
        if (n - size >= 2 && at[1] == '\r' && at[2] == '\n')
            return size + 2;
    }
    return 0;
}

enum session_step http_next(struct http *h, char **ret, size_t *ret_size)
{
    struct request request;
    enum session_step step;
    size_t size, head;

    if (h->over)
        return SESSION_OVER;
    for (size = 0; size < h->n_in && (h->in[size] == '\r' || h->in[size] == '\n'); size++)
        ; /* RFC 9112 2.2: empty lines before a request */
    h->n_in -= size;
    memmove(h->in, h->in + size, h->n_in);
    size = head_size(h->in, h->n_in);
    if (size == 0) {
        if (h->n_in == HTTP_REQUEST_MAX)
            return refuse(h, 431, "The request is too large.\n", ret, ret_size);
        if (!h->ended)
            return SESSION_WAIT;
        if (h->n_in > 0)
            return refuse(h, 400, "The request is not complete.\n", ret, ret_size);
        h->over = true;
        return SESSION_OVER;
    }
    head = size - (h->in[size - 2] == '\r' ? 2 : 1);
    if (memchr(h->in, '\0', head))
        return refuse(h, 400, "The request cannot be read.\n", ret, ret_size);
    h->in[head] = '\0'; /* of the empty line */
    step = parse_request(&request, h->in) ? serve(h, &request, ret, ret_size)
                                          : refuse(h, 400, "The request cannot be read.\n", ret, ret_size);
    h->n_in -= size;
    memmove(h->in, h->in + size, h->n_in);
    return step;
}
