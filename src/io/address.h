/* SPDX-License-Identifier: GPL-2.0-or-later */
/* address.h - an IPv4 or IPv6 address with its port, network byte order; values, any thread */
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <string.h>

union address {
    struct sockaddr sa;
    struct sockaddr_in in;
    struct sockaddr_in6 in6;
};

static inline socklen_t address_size(const union address *a)
{
    return a->sa.sa_family == AF_INET6 ? sizeof(a->in6) : sizeof(a->in);
}

/* Host byte order. */
static inline uint16_t address_port(const union address *a)
{
    return ntohs(a->sa.sa_family == AF_INET6 ? a->in6.sin6_port : a->in.sin_port);
}

static inline void address_set_port(union address *a, uint16_t port)
{
    if (a->sa.sa_family == AF_INET6)
        a->in6.sin6_port = htons(port);
    else
        a->in.sin_port = htons(port);
}

/* An IPv4 client of a dual-stack socket appears as ::ffff:a.b.c.d; this makes it what it is. */
static inline void address_unmap(union address *a)
{
    if (a->sa.sa_family == AF_INET6 && IN6_IS_ADDR_V4MAPPED(&a->in6.sin6_addr)) {
        struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = a->in6.sin6_port};

        memcpy(&in.sin_addr, a->in6.sin6_addr.s6_addr + 12, 4);
        memset(a, 0, sizeof(*a));
        a->in = in;
    }
}

/* fe80::/10: on a link, and the guest is on none but its own. */
static inline bool address_is_link_local(const union address *a)
{
    return a->sa.sa_family == AF_INET6 && IN6_IS_ADDR_LINKLOCAL(&a->in6.sin6_addr);
}

/* Would the guest look for @a on its own link, where nobody of that address is? Its network is
 * @network/@netmask, and fd00::/64. */
static inline bool address_is_on_link(const union address *a, struct in_addr network, struct in_addr netmask)
{
    static const uint8_t prefix6[8] = {0xfd};

    if (a->sa.sa_family == AF_INET)
        return (a->in.sin_addr.s_addr & netmask.s_addr) == network.s_addr;
    return address_is_link_local(a) || memcmp(&a->in6.sin6_addr, prefix6, sizeof(prefix6)) == 0;
}

/* 127.0.0.0/8, 0.0.0.0/8, ::1, ::, and the IPv4-mapped forms of these: names of this very host. */
static inline bool ipv4_is_self(const uint8_t addr[4])
{
    return addr[0] == 127 || addr[0] == 0;
}

static inline bool ipv6_is_self(const uint8_t addr[16])
{
    static const uint8_t zero[15];

    if (memcmp(addr, zero, 10) == 0 && addr[10] == 0xff && addr[11] == 0xff)
        return ipv4_is_self(addr + 12);
    return memcmp(addr, zero, 15) == 0 && addr[15] <= 1;
}

static inline bool address_is_self(const union address *a)
{
    return a->sa.sa_family == AF_INET6 ? ipv6_is_self(a->in6.sin6_addr.s6_addr)
                                       : ipv4_is_self((const uint8_t *)&a->in.sin_addr);
}
