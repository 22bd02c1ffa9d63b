/* SPDX-License-Identifier: GPL-2.0-or-later */
/* tool.h - what the small programs delay and relay have in common: how they end, and numbers on their command
 * line */
#pragma once

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static volatile sig_atomic_t over;

static void on_signal(int number)
{
    (void)number;
    over = 1;
}

static inline void end_on_signals(void)
{
    struct sigaction action = {.sa_handler = on_signal};

    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
}

/* With what errno says, if it is not 0. */
__attribute__((noreturn, format(printf, 1, 2))) static inline void die(const char *format, ...)
{
    va_list ap;
    int saved = errno;

    fprintf(stderr, "%s: ", program_invocation_short_name);
    va_start(ap, format);
    vfprintf(stderr, format, ap);
    va_end(ap);
    fprintf(stderr, "%s%s\n", saved != 0 ? ": " : "", saved != 0 ? strerror(saved) : "");
    exit(1);
}

static inline double parse_number(const char *text, const char *what, double low, double high)
{
    char *end;
    double value = strtod(text, &end);

    if (end == text || *end != '\0' || !(value >= low && value <= high)) {
        errno = 0;
        die("%s: '%s' is not a number from %g to %g", what, text, low, high);
    }
    return value;
}
