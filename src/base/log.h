/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * log.h - one line per event on stderr
 *
 * Any thread. A line is one write(2), so lines of different threads do not mix. Nothing is logged per frame:
 * what a hostile guest can trigger goes through a struct log_limit.
 */
#pragma once

#include <stdatomic.h>
#include <stdint.h>

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARNING, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

/* Before threads start. Default: LOG_LEVEL_INFO. */
void log_set_level(enum log_level level);

void log_line(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#define log_error(...) log_line(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warning(...) log_line(LOG_LEVEL_WARNING, __VA_ARGS__)
#define log_info(...) log_line(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...) log_line(LOG_LEVEL_DEBUG, __VA_ARGS__)

/* At most one line per second of a kind; the next line says how many were left out. Zero-initialised is
 * ready. */
struct log_limit {
    _Atomic int64_t next_ns; /* CLOCK_MONOTONIC */
    _Atomic uint32_t n_suppressed;
};

void log_limited(struct log_limit *limit, enum log_level level, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
