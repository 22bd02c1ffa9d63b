/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/interface.h"

#include "base/cleanup.h"

#include <errno.h>
#include <libmnl/libmnl.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <time.h>

struct netlink {
    struct mnl_socket *socket;
    uint8_t buffer[4096];
    uint32_t sequence;
};

/* Sends the message in nl->buffer and waits for its acknowledgement. 0 or a negative errno. */
static int transact(struct netlink *nl, struct nlmsghdr *message)
{
    uint32_t port_id = mnl_socket_get_portid(nl->socket);
    ssize_t n;

    message->nlmsg_flags |= NLM_F_REQUEST | NLM_F_ACK;
    message->nlmsg_seq = ++nl->sequence;
    if (mnl_socket_sendto(nl->socket, message, message->nlmsg_len) < 0)
        return -errno;
    n = mnl_socket_recvfrom(nl->socket, nl->buffer, sizeof(nl->buffer));
    if (n < 0)
        return -errno;
    return mnl_cb_run(nl->buffer, n, nl->sequence, port_id, NULL, NULL) < 0 ? -errno : 0;
}

static struct nlmsghdr *message_new(struct netlink *nl, int type, int flags)
{
    struct nlmsghdr *message = mnl_nlmsg_put_header(nl->buffer);

    message->nlmsg_type = type;
    message->nlmsg_flags = flags;
    return message;
}

static int link_up(struct netlink *nl, unsigned index, unsigned clear_flags, unsigned mtu, const uint8_t *mac)
{
    struct nlmsghdr *message = message_new(nl, RTM_NEWLINK, 0);
    struct ifinfomsg *link = mnl_nlmsg_put_extra_header(message, sizeof(*link));

    link->ifi_family = AF_UNSPEC;
    link->ifi_index = (int)index;
    link->ifi_flags = IFF_UP;
    link->ifi_change = IFF_UP | clear_flags;
    if (mtu)
        mnl_attr_put_u32(message, IFLA_MTU, mtu);
    if (mac)
        mnl_attr_put(message, IFLA_ADDRESS, 6, mac);
    return transact(nl, message);
}

static int address_add(struct netlink *nl, unsigned index, const struct options *o)
{
    struct nlmsghdr *message = message_new(nl, RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE);
    struct ifaddrmsg *address = mnl_nlmsg_put_extra_header(message, sizeof(*address));
    struct in_addr broadcast = {.s_addr = o->network.s_addr | ~o->netmask.s_addr};

    address->ifa_family = AF_INET;
    address->ifa_prefixlen = (uint8_t)o->prefix;
    address->ifa_scope = RT_SCOPE_UNIVERSE;
    address->ifa_index = index;
    mnl_attr_put(message, IFA_LOCAL, sizeof(o->guest), &o->guest);
    mnl_attr_put(message, IFA_ADDRESS, sizeof(o->guest), &o->guest);
    mnl_attr_put(message, IFA_BROADCAST, sizeof(broadcast), &broadcast);
    return transact(nl, message);
}

/* In front of a default route that is there already, as SIOCADDRT does it: several programs may serve a
 * namespace. */
static int default_route_add(struct netlink *nl, unsigned index, const struct options *o)
{
    struct nlmsghdr *message = message_new(nl, RTM_NEWROUTE, NLM_F_CREATE);
    struct rtmsg *route = mnl_nlmsg_put_extra_header(message, sizeof(*route));

    route->rtm_family = AF_INET;
    route->rtm_table = RT_TABLE_MAIN;
    route->rtm_protocol = RTPROT_BOOT;
    route->rtm_scope = RT_SCOPE_UNIVERSE;
    route->rtm_type = RTN_UNICAST;
    mnl_attr_put(message, RTA_GATEWAY, sizeof(o->gateway), &o->gateway);
    mnl_attr_put_u32(message, RTA_OIF, index);
    return transact(nl, message);
}

static void netlink_close(struct netlink *nl)
{
    if (nl->socket)
        mnl_socket_close(nl->socket);
}

int interface_configure(const struct options *o, struct failure *why)
{
    _cleanup_(netlink_close) struct netlink nl = {.sequence = (uint32_t)time(NULL)};
    unsigned lo = if_nametoindex("lo"), tap = if_nametoindex(o->tap_name);
    int r;

    nl.socket = mnl_socket_open2(NETLINK_ROUTE, SOCK_CLOEXEC);
    if (!nl.socket || mnl_socket_bind(nl.socket, 0, MNL_SOCKET_AUTOPID) < 0)
        return failure(why, -errno, "is AF_NETLINK forbidden by a seccomp profile?",
                       "cannot open an rtnetlink socket");
    if (lo == 0 || tap == 0)
        return failure(why, -ENODEV, NULL, "cannot find interface %s", lo == 0 ? "lo" : o->tap_name);
    if ((r = link_up(&nl, lo, 0, 0, NULL)) < 0)
        return failure(why, r, NULL, "set lo up");
    /* Clients know the interface without multicast, as an ioctl that writes all flags at once leaves it. The
     * address has to be set before the link is up for some drivers; a TAP does not mind. */
    if ((r = link_up(&nl, tap, IFF_MULTICAST, o->mtu, o->has_mac ? o->mac : NULL)) < 0)
        return failure(why, r, o->has_mac ? "a MAC address must be unicast: its first byte even" : NULL,
                       "set %s up with MTU %u", o->tap_name, o->mtu);
    if ((r = address_add(&nl, tap, o)) < 0)
        return failure(why, r, NULL, "set address of %s", o->tap_name);
    if ((r = default_route_add(&nl, tap, o)) < 0)
        return failure(why, r, NULL, "set route");
    return 0;
}
