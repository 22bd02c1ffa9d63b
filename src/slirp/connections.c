/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * connections.c
 *
 * A line of slirp_connection_info() (libslirp 4.7, src/misc.c):
 *
 *   "  TCP[ESTABLISHED]   12      10.0.2.100 43210     203.0.113.9  7000     0     0"
 *   "  UDP[236 sec]       13      10.0.2.100 39421      10.0.2.3     53     0     0"
 *   "  ICMP[9 sec]        14      10.0.2.100  -         203.0.113.9  -       0     0"
 *
 * Protocol and state, descriptor, source and its port, destination and its port, bytes waiting each way.
 */
#include "slirp/connections.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LINE_MAX_SIZE = 160 };

static void read_end(union address *ret, const char *addr, const char *port)
{
    struct in_addr in;

    memset(ret, 0, sizeof(*ret));
    if (inet_pton(AF_INET, addr, &in) != 1 || in.s_addr == 0)
        return;
    ret->sa.sa_family = AF_INET;
    ret->in.sin_addr = in;
    address_set_port(ret, (uint16_t)strtoul(port, NULL, 10)); /* "-" is 0: ICMP has none */
}

static bool read_line(const char *line, struct flow_info *ret)
{
    static const struct {
        const char *name;
        int proto;
    } protos[] = {{"TCP", IPPROTO_TCP}, {"UDP", IPPROTO_UDP}, {"ICMP", IPPROTO_ICMP}};
    char proto[8], state[24], src[INET6_ADDRSTRLEN], src_port[8], dst[INET6_ADDRSTRLEN], dst_port[8];

    if (sscanf(line, " %7[A-Z][%23[^]]] %*d %45s %7s %45s %7s", proto, state, src, src_port, dst, dst_port) !=
            6 ||
        strcmp(state, "HOST_FORWARD") == 0)
        return false;
    for (unsigned i = 0; i < sizeof(protos) / sizeof(protos[0]); i++) {
        if (strcmp(proto, protos[i].name) != 0)
            continue;
        memset(ret, 0, sizeof(*ret)); /* padding, too: rows are compared */
        ret->tier = "slirp";
        ret->proto = protos[i].proto;
        ret->to_guest = ret->to_host = FLOW_BYTES_UNKNOWN;
        ret->age_ns = FLOW_AGE_UNKNOWN;
        /* Of the others the brackets hold how long they will be remembered. */
        snprintf(ret->state, sizeof(ret->state), "%s", ret->proto == IPPROTO_TCP ? state : "open");
        for (char *c = ret->state; *c; c++)
            *c = *c == '_' ? '-' : *c >= 'A' && *c <= 'Z' ? (char)(*c - 'A' + 'a') : *c;
        read_end(&ret->guest, src, src_port);
        read_end(&ret->remote, dst, dst_port);
        return true;
    }
    return false;
}

uint32_t connections_read(const char *text, uint64_t from, struct flow_info *rows, uint32_t max,
                          uint64_t *ret_next)
{
    uint64_t number = 0;
    uint32_t n = 0;

    *ret_next = 0;
    for (const char *at = text, *end; *at; at = *end ? end + 1 : end, number++) {
        char line[LINE_MAX_SIZE];

        end = strchrnul(at, '\n');
        if (number < from)
            continue;
        if (n == max) {
            *ret_next = number;
            break;
        }
        snprintf(line, sizeof(line), "%.*s", (int)(end - at), at);
        if (read_line(line, &rows[n]))
            n++;
    }
    return n;
}
