/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "base/failure.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int failure(struct failure *why, int code, const char *hint, const char *what_format, ...)
{
    va_list ap;

    if (!why)
        return code;
    why->code = code;
    snprintf(why->hint, sizeof(why->hint), "%s", hint ? hint : "");
    va_start(ap, what_format);
    vsnprintf(why->what, sizeof(why->what), what_format, ap);
    va_end(ap);
    return code;
}

const char *failure_text(const struct failure *why, char *buffer, unsigned buffer_size)
{
    const char *open = why->hint[0] ? " (" : "", *close = why->hint[0] ? ")" : "";

    if (why->code < 0)
        snprintf(buffer, buffer_size, "%s: %s%s%s%s", why->what, strerror(-why->code), open, why->hint,
                 close);
    else
        snprintf(buffer, buffer_size, "%s%s%s%s", why->what, open, why->hint, close);
    return buffer;
}
