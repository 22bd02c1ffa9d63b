/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * log.h - one line per event on stderr, for people or (JSON) for programs
 *
 * Any thread. A line is one write(2) of at most LOG_LINE_MAX bytes, so lines of different threads do not mix.
 * Whatever a message contains, it stays one line: control characters and what is not UTF-8 are replaced.
 * Nothing is logged per frame: what a hostile guest can trigger goes through a struct log_limit.
 *
 * LOG_TEXT  "WARNING: MESSAGE"; lines of LOG_LEVEL_INFO have no such beginning
 * LOG_JSON  {"time":"2026-11-24T08:00:00.123456Z","level":"warning","message":"MESSAGE"}
 */
#pragma once

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARNING, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };
enum { LOG_LEVELS = LOG_LEVEL_DEBUG + 1 };
enum log_format { LOG_TEXT, LOG_JSON };

enum {
    LOG_MESSAGE_MAX = 1024, /* bytes; what is longer is cut */
    LOG_LINE_MAX = 4096,    /* PIPE_BUF: written whole or not at all, also to a pipe */
};

/* Before threads start. Default: LOG_LEVEL_INFO, LOG_TEXT. */
void log_set_level(enum log_level level);
void log_set_format(enum log_format format);

/* "error", "warning", "info", "debug" */
extern const char *const log_level_names[LOG_LEVELS];

void log_line(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#define log_error(...) log_line(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warning(...) log_line(LOG_LEVEL_WARNING, __VA_ARGS__)
#define log_info(...) log_line(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...) log_line(LOG_LEVEL_DEBUG, __VA_ARGS__)

/* As log_line(), but text without the level's name before it: lines that clients know word for word. */
void log_plain(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* For a handler of a signal: no lock, no allocation. */
void log_from_signal(enum log_level level, const char *message);

/* main, before the program is ready. A line of the start: in text on stdout, through stdio, where it has
 * always been; in JSON a line like any other. */
void log_startup(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* main, before the first line: lines of the start go to stderr in text, too; stdout belongs to somebody else.
 */
void log_startup_to_stderr(void);

/* At most one line per second of a kind; the next line says how many were left out. Zero-initialised is
 * ready. */
struct log_limit {
    _Atomic int64_t next_ns; /* CLOCK_MONOTONIC */
    _Atomic uint32_t n_suppressed;
};

void log_limited(struct log_limit *limit, enum log_level level, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* The two formats, without writing: the line of @message with its newline in @line. Returns its size.
 * @time_ns: CLOCK_REALTIME. */
size_t log_format_text(char line[LOG_LINE_MAX], const char *before, const char *message);
size_t log_format_json(char line[LOG_LINE_MAX], int64_t time_ns, enum log_level level, const char *message);
