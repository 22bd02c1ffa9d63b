/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "api/reply.h"

#include "base/counters.h"

#include <arpa/inet.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { DESC_MAX = 1024 }; /* of an error, bytes; longer ones are cut */

char *reply_build(json_t *root)
{
    char *text = root ? json_dumps(root, JSON_COMPACT) : NULL;

    json_decref(root);
    return text;
}

char *reply_bad_request(const char *format, ...)
{
    static const char prefix[] = "bad request: ";
    char desc[DESC_MAX];
    va_list ap;

    memcpy(desc, prefix, sizeof(prefix));
    va_start(ap, format);
    (void)vsnprintf(desc + strlen(prefix), sizeof(desc) - strlen(prefix), format, ap);
    va_end(ap);
    counter_add(COUNTER_api_errors, 1);
    return reply_build(json_pack("{s:{s:s}}", "error", "desc", desc));
}

void reply_string(json_t *object, const char *key, const char *value)
{
    (void)json_object_set_new(object, key, json_string(value));
}

void reply_number(json_t *object, const char *key, uint64_t value)
{
    (void)json_object_set_new(object, key, json_integer((json_int_t)value));
}

const char *reply_address(const union address *a, char buffer[INET6_ADDRSTRLEN])
{
    return a->sa.sa_family == AF_INET6 ? inet_ntop(AF_INET6, &a->in6.sin6_addr, buffer, INET6_ADDRSTRLEN)
                                       : inet_ntop(AF_INET, &a->in.sin_addr, buffer, INET6_ADDRSTRLEN);
}

const char *reply_string_of(const json_t *arguments, const char *key)
{
    return json_string_value(json_object_get(arguments, key)); /* NULL: it is none */
}

bool reply_number_of(const json_t *arguments, const char *key, double min, double max, uint64_t *ret)
{
    const json_t *node = json_object_get(arguments, key);
    double n = json_number_value(node);

    if (!json_is_number(node) || !(n >= min && n <= max) || n != floor(n))
        return false;
    *ret = (uint64_t)n;
    return true;
}
