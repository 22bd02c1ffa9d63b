/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "fwd/destination.h"

#include "base/cleanup.h"

#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

bool destination_is_divertible(const struct divert_config *c, const struct packet *p, uint32_t addr_size)
{
    if (addr_size == 4) {
        struct in_addr dst, src;

        memcpy(&dst, p->dst, 4);
        memcpy(&src, p->src, 4);
        if (dst.s_addr == c->gateway.s_addr)
            return !c->disable_host_loopback;
        return (dst.s_addr & c->netmask.s_addr) != c->network.s_addr && !ipv4_is_self(p->dst) &&
               p->dst[0] < 224 && !ipv4_is_self(p->src);
    }
    if (memcmp(p->dst, &c->gateway6, 16) == 0)
        return !c->disable_host_loopback;
    /* fd00::/64 is libslirp's; link-local and multicast destinations need a scope. */
    return memcmp(p->dst, &c->gateway6, 8) != 0 && !ipv6_is_self(p->dst) && p->dst[0] != 0xff &&
           !(p->dst[0] == 0xfe && (p->dst[1] & 0xc0) == 0x80) &&
           !IN6_IS_ADDR_V4MAPPED((const struct in6_addr *)(const void *)p->dst) &&
           !(p->src[0] == 0xfe && (p->src[1] & 0xc0) == 0x80);
}

int destination_connect(const struct divert_config *c, const union address *destination,
                        enum destination_state *ret_state)
{
    static const int one = 1;
    union address to = *destination;
    _cleanup_close_ int fd = -1;
    bool is_gateway = false;
    struct pollfd now = {.events = POLLOUT};

    if (to.sa.sa_family == AF_INET && to.in.sin_addr.s_addr == c->gateway.s_addr) {
        to.in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        is_gateway = true;
    } else if (to.sa.sa_family == AF_INET6 && memcmp(&to.in6.sin6_addr, &c->gateway6, 16) == 0) {
        to.in6.sin6_addr = in6addr_loopback;
        is_gateway = true;
    }
    fd = socket(to.sa.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    /* As in libslirp, which binds even what goes to the host's loopback; that could not work. */
    if (!is_gateway && ((to.sa.sa_family == AF_INET && c->has_outbound) ||
                        (to.sa.sa_family == AF_INET6 && c->has_outbound6))) {
        const struct sockaddr *from = to.sa.sa_family == AF_INET ? (const struct sockaddr *)&c->outbound
                                                                 : (const struct sockaddr *)&c->outbound6;

        (void)setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof(one)); /* only saves ports */
        if (bind(fd, from, address_size(&to)) < 0)
            return -errno;
    }
    now.fd = fd;
    if (connect(fd, &to.sa, address_size(&to)) < 0 && errno != EINPROGRESS)
        return -errno;
    if (poll(&now, 1, 0) > 0)
        *ret_state = now.revents == POLLOUT ? DESTINATION_CONNECTED : DESTINATION_FAILED;
    return steal_fd(&fd);
}
