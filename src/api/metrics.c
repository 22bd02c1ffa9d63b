/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * metrics.c
 *
 * OpenMetrics 1.0: a family is TYPE, UNIT (if its name ends with one) and HELP, then all of its samples; no
 * family appears twice; label values and help texts are escaped; units are base units.
 */
#include "api/metrics.h"

#include "api/reply.h"
#include "base/counters.h"
#include "base/thread.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef PROJECT_VERSION
#define PROJECT_VERSION "2.0.0"
#endif

enum { NAME_MAX_SIZE = 96 };

#define PREFIX "slirp4netns_"

static void put_escaped(FILE *f, const char *text)
{
    for (; *text; text++) {
        if (*text == '\n')
            fputs("\\n", f);
        else if (*text == '"' || *text == '\\')
            fprintf(f, "\\%c", *text);
        else
            fputc(*text, f);
    }
}

static void put_label(FILE *f, const char *before, const char *name, const char *value)
{
    fprintf(f, "%s%s=\"", before, name);
    put_escaped(f, value);
    fputc('"', f);
}

/* @unit: NULL, or what @name ends with after an underscore. */
static void put_family(FILE *f, const char *name, const char *type, const char *unit, const char *help)
{
    fprintf(f, "# TYPE " PREFIX "%s %s\n", name, type);
    if (unit)
        fprintf(f, "# UNIT " PREFIX "%s %s\n", name, unit);
    fprintf(f, "# HELP " PREFIX "%s ", name);
    put_escaped(f, help);
    fputs(".\n", f);
}

static void put_seconds(FILE *f, uint64_t ns)
{
    fprintf(f, "%" PRIu64 ".%09" PRIu64, ns / 1000000000, ns % 1000000000);
}

/* ---- counters ---- */

static bool has_suffix(const char *name, const char *suffix)
{
    size_t n = strlen(name), n_suffix = strlen(suffix);

    return n > n_suffix + 1 && name[n - n_suffix - 1] == '_' && strcmp(name + n - n_suffix, suffix) == 0;
}

static void cut_word(char *name, const char *word)
{
    size_t n = strlen(word);

    for (char *at = strstr(name, word); at; at = strstr(at + 1, word)) {
        if (at > name && at[-1] == '_' && (at[n] == '_' || at[n] == '\0')) {
            memmove(at - 1, at + n, strlen(at + n) + 1);
            return;
        }
    }
}

/* A family of one sample. */
static void put_counter(FILE *f, enum counter_id id)
{
    const struct counter_row *row = &counter_rows[id];
    bool is_gauge = counter_is_gauge(id), is_ns = strcmp(row->unit, "ns") == 0;
    const char *unit = is_ns ? "seconds" : row->unit, *more = "";
    char stem[NAME_MAX_SIZE], name[NAME_MAX_SIZE];

    snprintf(stem, sizeof(stem), "%s", row->name);
    cut_word(stem, "total");
    if (is_ns) {
        cut_word(stem, "ns");
        more = "_seconds";
    } else if (strcmp(unit, "bytes") == 0 && !has_suffix(stem, unit)) {
        more = "_bytes";
    }
    snprintf(name, sizeof(name), "%.*s%s", (int)(sizeof(name) - sizeof("_seconds")), stem, more);
    put_family(f, name, is_gauge ? "gauge" : "counter", has_suffix(name, unit) ? unit : NULL, row->text);
    fprintf(f, PREFIX "%s%s ", name, is_gauge ? "" : "_total");
    if (is_ns)
        put_seconds(f, counter_read(id));
    else
        fprintf(f, "%" PRIu64, counter_read(id));
    fputc('\n', f);
}

/* Where in a counter's name the reason begins: behind "_drop_" or "_fallback_". NULL: it has none. */
static const char *reason_of(const char *name, const char *middle)
{
    const char *at = strstr(name, middle);

    return at ? at + strlen(middle) : NULL;
}

static void put_reasons(FILE *f, const char *middle, const char *family, const char *label, const char *help)
{
    put_family(f, family, "counter", NULL, help);
    for (unsigned i = 0; i < COUNTER_COUNT; i++) {
        const char *reason = reason_of(counter_rows[i].name, middle);
        char where[NAME_MAX_SIZE];

        if (!reason)
            continue;
        snprintf(where, sizeof(where), "%.*s", (int)(reason - strlen(middle) - counter_rows[i].name),
                 counter_rows[i].name);
        fprintf(f, PREFIX "%s_total", family);
        put_label(f, "{", label, where);
        put_label(f, ",", "reason", reason);
        fprintf(f, "} %" PRIu64 "\n", counter_read(i));
    }
}

static void put_counters(FILE *f)
{
    for (unsigned i = 0; i < COUNTER_COUNT; i++) {
        if (!reason_of(counter_rows[i].name, "_drop_") && !reason_of(counter_rows[i].name, "_fallback_"))
            put_counter(f, i);
    }
    put_reasons(f, "_drop_", "drops", "where", "Frames that were dropped, by place and reason");
    put_reasons(f, "_fallback_", "fallbacks", "tier",
                "Connections that took libslirp's path instead of a tier, by reason");
}

/* ---- threads ---- */

static void put_thread(FILE *f, const char *family, const struct thread_info *thread)
{
    fprintf(f, PREFIX "%s_total", family);
    put_label(f, "{", "thread", thread->name);
    fputs("} ", f);
}

static void put_threads(FILE *f)
{
    struct thread_info threads[THREADS_MAX];
    unsigned n = threads_info(threads);

    put_family(f, "thread_cpu_seconds", "counter", "seconds", "CPU time of a thread, user and system");
    for (unsigned i = 0; i < n; i++) {
        put_thread(f, "thread_cpu_seconds", &threads[i]);
        put_seconds(f, threads[i].cpu_ns);
        fputc('\n', f);
    }
    put_family(f, "thread_turns", "counter", NULL, "Turns of a thread's loop");
    for (unsigned i = 0; i < n; i++) {
        put_thread(f, "thread_turns", &threads[i]);
        fprintf(f, "%" PRIu64 "\n", threads[i].turns);
    }
    put_family(f, "thread_wake_ups", "counter", NULL, "Times a thread was woken by another one");
    for (unsigned i = 0; i < n; i++) {
        put_thread(f, "thread_wake_ups", &threads[i]);
        fprintf(f, "%" PRIu64 "\n", threads[i].wake_ups);
    }
}

/* ---- forwards ---- */

struct forward_rows {
    unsigned n_all, n;
    struct forward_info row[METRICS_FORWARDS_MAX];
};

static void take_forward(const struct forward_info *info, void *arg)
{
    struct forward_rows *rows = arg;

    rows->n_all++;
    if (rows->n < METRICS_FORWARDS_MAX)
        rows->row[rows->n++] = *info;
}

static void put_id(FILE *f, const struct forward_info *info)
{
    fprintf(f, "{id=\"%" PRIu64 "\"", info->id);
}

static void put_forward_info(FILE *f, const struct forward_info *info)
{
    char host[INET6_ADDRSTRLEN], guest[INET6_ADDRSTRLEN], text[32];

    fputs(PREFIX "forward_info", f);
    put_id(f, info);
    put_label(f, ",", "proto", info->spec.proto == IPPROTO_TCP ? "tcp" : "udp");
    put_label(f, ",", "host_addr", reply_address(&info->spec.host, host));
    snprintf(text, sizeof(text), "%u", address_port(&info->spec.host));
    put_label(f, ",", "host_port", text);
    put_label(f, ",", "guest_addr", reply_address(&info->spec.guest, guest));
    snprintf(text, sizeof(text), "%u", address_port(&info->spec.guest));
    put_label(f, ",", "guest_port", text);
    put_label(f, ",", "path", info->path);
    put_label(f, ",", "reason", info->reason);
    fputs("} 1\n", f);
}

static void put_forwards(FILE *f, const struct forward_rows *rows)
{
    put_family(f, "forwards", "gauge", NULL, "Port forwards that exist");
    fprintf(f, PREFIX "forwards %u\n", rows->n_all);
    put_family(f, "forward", "info", NULL, "A port forward, and how its last connection was carried");
    for (unsigned i = 0; i < rows->n; i++)
        put_forward_info(f, &rows->row[i]);
    put_family(f, "forward_connections", "counter", NULL, "Connections accepted for a TCP forward");
    for (unsigned i = 0; i < rows->n; i++) {
        if (rows->row[i].spec.proto != IPPROTO_TCP)
            continue;
        fputs(PREFIX "forward_connections_total", f);
        put_id(f, &rows->row[i]);
        fprintf(f, "} %" PRIu64 "\n", rows->row[i].n_connections);
    }
    put_family(f, "forward_bytes", "counter", "bytes",
               "Payload of a forward, except what TCP connections sent through libslirp");
    for (unsigned i = 0; i < rows->n; i++) {
        fputs(PREFIX "forward_bytes_total", f);
        put_id(f, &rows->row[i]);
        fprintf(f, ",direction=\"to_guest\"} %" PRIu64 "\n", rows->row[i].bytes_to_guest);
        fputs(PREFIX "forward_bytes_total", f);
        put_id(f, &rows->row[i]);
        fprintf(f, ",direction=\"to_host\"} %" PRIu64 "\n", rows->row[i].bytes_to_host);
    }
}

/* ---- all ---- */

static void put_build(FILE *f, const struct api_context *context)
{
    put_family(f, "build", "info", NULL, "The program, and what it has chosen at start");
    fputs(PREFIX "build_info", f);
    put_label(f, "{", "version", PROJECT_VERSION);
    put_label(f, ",", "backend", context->backend);
    put_label(f, ",", "threads", context->mode);
    put_label(f, ",", "outbound", context->outbound ? context->outbound : "");
    fputs("} 1\n", f);
}

char *metrics_text(const struct api_context *context, size_t *ret_size)
{
    struct forward_rows *rows = calloc(1, sizeof(*rows));
    char *text = NULL;
    FILE *f = open_memstream(&text, ret_size);
    bool good;

    if (!f || !rows) {
        if (f)
            (void)fclose(f); /* nothing in it matters */
        free(text);
        free(rows);
        return NULL;
    }
    if (context->forwards)
        forwards_each(context->forwards, take_forward, rows);
    put_build(f, context);
    put_counters(f);
    put_threads(f);
    put_forwards(f, rows);
    fputs("# EOF\n", f);
    good = !ferror(f);
    good = fclose(f) == 0 && good;
    free(rows);
    if (good)
        return text;
    free(text);
    return NULL;
}
