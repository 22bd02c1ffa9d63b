/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "base/log.h"

#include "base/clock.h"
#include "base/date.h"

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

const char *const log_level_names[LOG_LEVELS] = {"error", "warning", "info", "debug"};

static const char *const text_prefix[LOG_LEVELS] = {"ERROR: ", "WARNING: ", "", "DEBUG: "};

static enum log_level level_max = LOG_LEVEL_INFO; /* fixed before threads start */
static enum log_format line_format = LOG_TEXT;    /* ditto */
static bool startup_to_stderr;                    /* ditto */

void log_set_level(enum log_level level)
{
    level_max = level;
}

void log_set_format(enum log_format format)
{
    line_format = format;
}

/* How many bytes at @s are one character of UTF-8 (RFC 3629 4); 0: none. */
static unsigned utf8_size(const uint8_t *s)
{
    unsigned n = s[0] < 0x80 ? 1 : s[0] < 0xc2 ? 0 : s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : s[0] < 0xf5 ? 4 : 0;

    for (unsigned i = 1; i < n; i++) {
        if ((s[i] & 0xc0) != 0x80) /* the terminating NUL is none either */
            return 0;
    }
    if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f) || (s[0] == 0xf0 && s[1] < 0x90) ||
        (s[0] == 0xf4 && s[1] > 0x8f))
        return 0;
    return n;
}

/* Appends the character at *@s and moves on; @json: as RFC 8259 7 wants it. */
static size_t put_character(char *to, const uint8_t **s, bool json)
{
    unsigned n = utf8_size(*s);
    uint8_t c = **s;

    *s += n > 0 ? n : 1;
    if (n == 0) {
        memcpy(to, json ? "\xef\xbf\xbd" : "?", json ? 3 : 1); /* U+FFFD */
        return json ? 3 : 1;
    }
    if (n == 1 && (c < ' ' || c == 0x7f)) {
        if (!json) {
            *to = '?';
            return 1;
        }
        return (size_t)sprintf(to, "\\u%04x", c);
    }
    if (json && (c == '"' || c == '\\')) {
        to[0] = '\\';
        to[1] = (char)c;
        return 2;
    }
    memcpy(to, *s - n, n);
    return n;
}

enum { CHARACTER_MAX = 6, END_MAX = 3 }; /* bytes: \u0000; "} and a newline */

static size_t put_message(char *line, size_t n, const char *message, bool json)
{
    const uint8_t *s = (const uint8_t *)message;

    while (*s && n + CHARACTER_MAX + END_MAX <= LOG_LINE_MAX)
        n += put_character(line + n, &s, json);
    return n;
}

size_t log_format_text(char line[LOG_LINE_MAX], const char *before, const char *message)
{
    size_t n = strlen(before);

    memcpy(line, before, n);
    n = put_message(line, n, message, false);
    line[n++] = '\n';
    return n;
}

size_t log_format_json(char line[LOG_LINE_MAX], int64_t time_ns, enum log_level level, const char *message)
{
    struct date d = date_of(time_ns / NS_PER_S);
    size_t n = (size_t)snprintf(
        line, LOG_LINE_MAX,
        "{\"time\":\"%04d-%02d-%02dT%02d:%02d:%02d.%06dZ\",\"level\":\"%s\",\"message\":\"", d.year, d.month,
        d.day, d.hour, d.minute, d.second, (int)(time_ns % NS_PER_S / 1000), log_level_names[level]);

    n = put_message(line, n, message, true);
    memcpy(line + n, "\"}\n", 3);
    return n + 3;
}

static void write_line(enum log_level level, const char *before, const char *message)
{
    char line[LOG_LINE_MAX];
    size_t n;

    if (line_format == LOG_JSON) {
        struct timespec now;

        clock_gettime(CLOCK_REALTIME, &now);
        n = log_format_json(line, (int64_t)now.tv_sec * NS_PER_S + now.tv_nsec, level, message);
    } else {
        n = log_format_text(line, before, message);
    }
    /* A log that cannot be written is no reason to stop forwarding. */
    if (write(STDERR_FILENO, line, n) < 0)
        return;
}

__attribute__((format(printf, 4, 0))) static void
log_write(enum log_level level, const char *before, uint32_t n_suppressed, const char *format, va_list ap)
{
    char message[LOG_MESSAGE_MAX];
    int saved_errno = errno, n; /* %m needs it, and so may the caller */

    n = vsnprintf(message, sizeof(message), format, ap);
    if (n < 0)
        message[0] = '\0';
    if (n_suppressed > 0 && n >= 0 && n < (int)sizeof(message))
        snprintf(message + n, sizeof(message) - n, " (%u more of these since the last line)", n_suppressed);
    write_line(level, before, message);
    errno = saved_errno;
}

void log_line(enum log_level level, const char *format, ...)
{
    va_list ap;

    if (level > level_max)
        return;
    va_start(ap, format);
    log_write(level, text_prefix[level], 0, format, ap);
    va_end(ap);
}

void log_plain(enum log_level level, const char *format, ...)
{
    va_list ap;

    if (level > level_max)
        return;
    va_start(ap, format);
    log_write(level, "", 0, format, ap);
    va_end(ap);
}

void log_from_signal(enum log_level level, const char *message)
{
    write_line(level, text_prefix[level], message);
}

void log_startup_to_stderr(void)
{
    startup_to_stderr = true;
}

void log_startup(enum log_level level, const char *format, ...)
{
    va_list ap;

    if (level > level_max)
        return;
    va_start(ap, format);
    if (line_format == LOG_JSON || startup_to_stderr) {
        log_write(level, startup_to_stderr ? text_prefix[level] : "", 0, format, ap);
    } else {
        printf("%s", text_prefix[level]);
        vprintf(format, ap);
        printf("\n");
    }
    va_end(ap);
}

void log_limited(struct log_limit *limit, enum log_level level, const char *format, ...)
{
    int64_t now_ns = clock_monotonic_ns();
    /* Relaxed: the limit is a courtesy to the reader, not a synchronisation; the exchange picks one winner.
     */
    int64_t next_ns = atomic_load_explicit(&limit->next_ns, memory_order_relaxed);
    va_list ap;

    if (level > level_max)
        return;
    if (now_ns < next_ns ||
        !atomic_compare_exchange_strong_explicit(&limit->next_ns, &next_ns, now_ns + NS_PER_S,
                                                 memory_order_relaxed, memory_order_relaxed)) {
        atomic_fetch_add_explicit(&limit->n_suppressed, 1, memory_order_relaxed);
        return;
    }
    va_start(ap, format);
    log_write(level, text_prefix[level],
              atomic_exchange_explicit(&limit->n_suppressed, 0, memory_order_relaxed), format, ap);
    va_end(ap);
}
