/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * publish.c
 *
 * The text is cut at the colons that are not in brackets: two to four fields. Two are ports; four are
 * addresses and ports in turn; of three, the first is an address if it looks like one (a dot or a bracket),
 * otherwise the second is. What looks like an address has to be one: there are no host names here, as there
 * are none in the API.
 */
#include "cli/publish.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
    TEXT_MAX = 256, /* bytes; the longest that makes sense has about 110 */
    FIELDS_MAX = 4,
    PORT_MAX = 65535,
};

#define FORM "[HOST_ADDR:]HOST_PORT[-END]:[GUEST_ADDR:]GUEST_PORT[/tcp|udp]"

/* Decimal digits only; stops at the first other character. 0: no port. */
static uint32_t read_port(const char **text)
{
    uint32_t n = 0;

    for (; isdigit((unsigned char)**text) && n <= PORT_MAX; (*text)++)
        n = 10 * n + (uint32_t)(**text - '0');
    return n <= PORT_MAX ? n : 0;
}

static bool looks_like_address(const char *field)
{
    return field[0] == '[' || strchr(field, '.') != NULL;
}

static bool read_address(union address *ret, char *field)
{
    size_t size = strlen(field);

    memset(ret, 0, sizeof(*ret));
    if (field[0] != '[') {
        ret->sa.sa_family = AF_INET;
        return inet_pton(AF_INET, field, &ret->in.sin_addr) == 1;
    }
    if (field[size - 1] != ']')
        return false;
    field[size - 1] = '\0';
    ret->sa.sa_family = AF_INET6;
    return inet_pton(AF_INET6, field + 1, &ret->in6.sin6_addr) == 1;
}

/* Cuts @text in place. Returns how many fields there are, FIELDS_MAX + 1 if more than that. */
static unsigned cut(char *text, char *fields[FIELDS_MAX])
{
    bool in_brackets = false;
    unsigned n = 1;

    fields[0] = text;
    for (; *text; text++) {
        in_brackets = (in_brackets || *text == '[') && *text != ']';
        if (*text != ':' || in_brackets)
            continue;
        if (n == FIELDS_MAX)
            return FIELDS_MAX + 1;
        *text = '\0';
        fields[n++] = text + 1;
    }
    return n;
}

static int bad(const char *text, const char *what, struct failure *why)
{
    return failure(why, -EINVAL, "it has the form " FORM, "--publish=%s: %s", text, what);
}

static int read_protocol(struct forward_spec *spec, char *copy)
{
    char *slash = strchr(copy, '/');

    spec->proto = IPPROTO_TCP;
    if (!slash)
        return 0;
    *slash = '\0';
    if (strcmp(slash + 1, "udp") == 0)
        spec->proto = IPPROTO_UDP;
    else if (strcmp(slash + 1, "tcp") != 0)
        return -EINVAL;
    return 0;
}

int publish_parse(struct forward_spec *ret, const char *text, struct in_addr guest, struct failure *why)
{
    struct forward_spec spec = {.host.in.sin_family = AF_INET,
                                .guest.in = {.sin_family = AF_INET, .sin_addr = guest}};
    char copy[TEXT_MAX], *fields[FIELDS_MAX], *host_addr = NULL, *guest_addr = NULL;
    uint32_t first, last, to;
    const char *at;
    unsigned n;

    if (strlen(text) >= sizeof(copy))
        return bad(text, "it is too long", why);
    memcpy(copy, text, strlen(text) + 1);
    if (read_protocol(&spec, copy) < 0)
        return bad(text, "the protocol must be tcp or udp", why);
    n = cut(copy, fields);
    if (n < 2 || n > FIELDS_MAX)
        return bad(text, "two ports are needed, each with an address before it or without", why);
    if (n == 4 || (n == 3 && looks_like_address(fields[0])))
        host_addr = fields[0];
    if (n == 4 || (n == 3 && !host_addr))
        guest_addr = fields[n - 2];
    if (host_addr && !read_address(&spec.host, host_addr))
        return bad(text, "the host's address is none (IPv6 addresses stand in brackets)", why);
    if (guest_addr && !read_address(&spec.guest, guest_addr))
        return bad(text, "the guest's address is none (IPv6 addresses stand in brackets)", why);

    at = fields[host_addr ? 1 : 0];
    first = last = read_port(&at);
    if (first > 0 && *at == '-') {
        at++;
        last = read_port(&at);
    }
    if (first == 0 || last == 0 || *at != '\0')
        return bad(text, "the host's port must be a number from 1 to 65535, or a range of them", why);
    if (last < first)
        return bad(text, "the range of ports ends before it begins", why);
    at = fields[n - 1];
    to = read_port(&at);
    if (to == 0 || *at != '\0')
        return bad(text, "the guest's port must be a number from 1 to 65535", why);
    if (to + (last - first) > PORT_MAX)
        return bad(text, "the guest's ports would go beyond 65535", why);
    address_set_port(&spec.host, (uint16_t)first);
    address_set_port(&spec.guest, (uint16_t)to);
    spec.n_ports = (uint16_t)(last - first + 1);
    *ret = spec;
    return 0;
}
