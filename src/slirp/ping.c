/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "slirp/ping.h"

#include "base/cleanup.h"
#include "base/log.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/ip_icmp.h>
#include <string.h>
#include <sys/socket.h>

static bool can_ping(void)
{
    static const int types[] = {SOCK_DGRAM, SOCK_RAW};

    for (unsigned i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
        _cleanup_close_ int fd = socket(AF_INET, types[i] | SOCK_CLOEXEC, IPPROTO_ICMP);

        if (fd >= 0 || (errno != EACCES && errno != EPERM)) /* for want of descriptors nothing is known */
            return true;
    }
    return false;
}

void ping_look(struct ping *p, const struct packet *packet)
{
    char text[INET_ADDRSTRLEN];
    struct in_addr dst;

    if (p->looked || !packet->l4 || packet->l4_size < ICMP_MINLEN || packet->l4[0] != ICMP_ECHO)
        return;
    memcpy(&dst, packet->dst, sizeof(dst));
    if ((dst.s_addr & p->netmask.s_addr) == p->network.s_addr)
        return;
    p->looked = true;
    if (!can_ping())
        log_warning("the guest's ping to %s will not be answered: ICMP sockets are not permitted (as root: "
                    "sysctl net.ipv4.ping_group_range=\"0 2147483647\")",
                    inet_ntop(AF_INET, &dst, text, sizeof(text)));
}
