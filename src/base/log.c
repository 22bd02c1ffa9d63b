/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "base/log.h"

#include "base/clock.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

static enum log_level level_max = LOG_LEVEL_INFO; /* fixed before threads start */

void log_set_level(enum log_level level)
{
    level_max = level;
}

__attribute__((format(printf, 3, 0))) static void log_write(enum log_level level, uint32_t n_suppressed,
                                                            const char *format, va_list ap)
{
    static const char *const prefix[] = {"ERROR: ", "WARNING: ", "", "DEBUG: "};
    char line[1024];
    int saved_errno = errno, n, m;

    n = snprintf(line, sizeof(line), "%s", prefix[level]);
    errno = saved_errno; /* for %m */
    m = vsnprintf(line + n, sizeof(line) - n, format, ap);
    n = m < 0 ? n : n + m;
    if (n_suppressed > 0 && n < (int)sizeof(line))
        n += snprintf(line + n, sizeof(line) - n, " (%u more of these since the last line)", n_suppressed);
    if (n > (int)sizeof(line) - 2)
        n = sizeof(line) - 2;
    line[n++] = '\n';
    /* A log that cannot be written is no reason to stop forwarding. */
    if (write(STDERR_FILENO, line, n) < 0)
        errno = saved_errno;
    errno = saved_errno;
}

void log_line(enum log_level level, const char *format, ...)
{
    va_list ap;

    if (level > level_max)
        return;
    va_start(ap, format);
    log_write(level, 0, format, ap);
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
    log_write(level, atomic_exchange_explicit(&limit->n_suppressed, 0, memory_order_relaxed), format, ap);
    va_end(ap);
}
