/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "io/resolv.h"

#include "base/cleanup.h"
#include "base/clock.h"

#include <ctype.h>
#include <fcntl.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>

enum { CHECK_MS = 1000, DNS_PORT = 53 };

/* The unspecified address is this host, which answers from its loopback: under that name it is known again.
 */
static void take_address(struct resolv *r, char *text)
{
    char *scope = strchr(text, '%');
    union address a;

    memset(&a, 0, sizeof(a));
    if (scope)
        *scope++ = '\0';
    if (!r->v4.sa.sa_family && !scope && inet_pton(AF_INET, text, &a.in.sin_addr) == 1) {
        a.sa.sa_family = AF_INET;
        if (a.in.sin_addr.s_addr == htonl(INADDR_ANY))
            a.in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        address_set_port(&a, DNS_PORT);
        r->v4 = a;
    } else if (!r->v6.sa.sa_family && inet_pton(AF_INET6, text, &a.in6.sin6_addr) == 1) {
        a.sa.sa_family = AF_INET6;
        if (IN6_IS_ADDR_UNSPECIFIED(&a.in6.sin6_addr))
            a.in6.sin6_addr = in6addr_loopback;
        address_set_port(&a, DNS_PORT);
        a.in6.sin6_scope_id = scope ? if_nametoindex(scope) : 0;
        r->v6 = a;
    }
}

static void parse(struct resolv *r, FILE *file)
{
    char line[512];
    size_t n_read = 0;

    while (n_read < RESOLV_SIZE_MAX && fgets(line, sizeof(line), file)) {
        char *at = line, *end;

        n_read += strlen(line);
        if (strncmp(at, "nameserver", 10) != 0 || !isblank((unsigned char)at[10]))
            continue;
        at += strspn(at + 10, " \t") + 10;
        end = at + strcspn(at, " \t\r\n;#");
        *end = '\0';
        take_address(r, at);
    }
}

static void look(struct resolv *r)
{
    struct stat st;
    FILE *file;

    if (stat(r->path, &st) < 0) {
        r->v4.sa.sa_family = r->v6.sa.sa_family = 0;
        r->seen = (struct stat){.st_ino = 0};
        return;
    }
    if (st.st_dev == r->seen.st_dev && st.st_ino == r->seen.st_ino && st.st_size == r->seen.st_size &&
        st.st_mtim.tv_sec == r->seen.st_mtim.tv_sec && st.st_mtim.tv_nsec == r->seen.st_mtim.tv_nsec)
        return;
    r->v4.sa.sa_family = r->v6.sa.sa_family = 0;
    r->seen = st;
    file = S_ISREG(st.st_mode) ? fopen(r->path, "re") : NULL;
    if (!file)
        return;
    parse(r, file);
    (void)fclose(file);
}

const union address *resolv_get(struct resolv *r, int family, int64_t now_ns)
{
    const union address *a = family == AF_INET6 ? &r->v6 : &r->v4;

    if (!r->checked || now_ns - r->checked_ns >= CHECK_MS * NS_PER_MS) {
        r->checked = true;
        r->checked_ns = now_ns;
        look(r);
    }
    return a->sa.sa_family ? a : NULL;
}
