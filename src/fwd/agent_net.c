/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * agent_net.c
 *
 * Packets that carry the mark are to stay inside the guest, whatever their addresses, unless the guest itself
 * knows a way to them that is better than its default route. Per family, in this order (the kernel's own rule
 * 0, "lookup local", comes before and takes everything that is addressed to the guest):
 *
 *   p:    fwmark M to GATEWAY  lookup T       the gateway lies in the TAP's own network, but packets that are
 *                                             shown as coming from it came from the stock
 *   p+1:  fwmark M             lookup main    suppress_prefixlength 0: everything but the default route, so
 *                                             that a container behind a bridge is not taken for an address of
 *                                             our own
 *   p+2:  fwmark M             lookup T       the rest: clients from the outside
 *   T:    local default dev lo
 *
 * The mark comes from SO_MARK on our end; net.ipv4.tcp_fwmark_accept, which serves IPv6 as well, gives it to
 * the socket that the guest's server accepts, so that answers take the same way (tests/kernel/
 * transparent_bind.c shows it). It is left on at the end: alone it does nothing, and others may rely on it by
 * now.
 *
 * What an earlier run left behind (same numbers, ended by SIGKILL) makes EEXIST, which is as good as done;
 * but only what this run added is removed, because a second program may serve the same namespace; what was
 * added is noted in memory that the agent shares with its standby, so that the last one removes it. A route
 * over lo vanishes when lo goes down, so both are asked for again at every look.
 */
#include "fwd/agent_net.h"

#include "fwd/flow.h"

#include "base/bits.h"
#include "base/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <libmnl/libmnl.h>
#include <linux/fib_rules.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <netinet/tcp.h>
#include <sys/mman.h>
#include <sys/socket.h>

enum {
    LO_INDEX = 1,     /* LOOPBACK_IFINDEX of the kernel: lo is the first interface of every namespace */
    DRAIN_MAX = 1024, /* messages; what is left wakes us again */
};

/* ---- rtnetlink ---- */

static void drain(struct mnl_socket *socket, void *buffer, size_t size)
{
    for (int i = 0; i < DRAIN_MAX; i++) {
        /* ENOBUFS: some were lost; all that matters is that there were any. */
        if (recv(mnl_socket_get_fd(socket), buffer, size, MSG_DONTWAIT | MSG_TRUNC) < 0 && errno != ENOBUFS &&
            errno != EINTR)
            return;
    }
}

static struct nlmsghdr *request_new(struct agent_net *n, uint16_t type, uint16_t flags)
{
    struct nlmsghdr *request = mnl_nlmsg_put_header(n->request);

    request->nlmsg_type = type;
    request->nlmsg_flags = NLM_F_REQUEST | flags;
    return request;
}

/* Sends the message in n->request, gives every message of the answer to @callback (may be NULL) and waits for
 * the end of it: an acknowledgement, or the end of a dump. 0 or a negative errno. */
static int transact(struct agent_net *n, mnl_cb_t callback, void *arg)
{
    struct nlmsghdr *request = (struct nlmsghdr *)n->request;
    unsigned port_id = mnl_socket_get_portid(n->requests);
    int r;

    /* What is left of an answer that was given up (ENOBUFS, a dump that was interrupted). */
    drain(n->requests, n->answer, sizeof(n->answer));
    if ((request->nlmsg_flags & NLM_F_DUMP) != NLM_F_DUMP) /* NLM_F_EXCL is one of its two bits */
        request->nlmsg_flags |= NLM_F_ACK;
    request->nlmsg_seq = ++n->sequence;
    if (mnl_socket_sendto(n->requests, request, request->nlmsg_len) < 0)
        return -errno;
    do {
        ssize_t size = mnl_socket_recvfrom(n->requests, n->answer, sizeof(n->answer));

        if (size < 0 && errno == EINTR)
            r = MNL_CB_OK;
        else
            r = size < 0 ? MNL_CB_ERROR
                         : mnl_cb_run(n->answer, (size_t)size, n->sequence, port_id, callback, arg);
    } while (r > MNL_CB_STOP);
    return r < 0 ? -errno : 0;
}

static int lo_flags(const struct nlmsghdr *answer, void *arg)
{
    const struct ifinfomsg *link = mnl_nlmsg_get_payload(answer);
    unsigned *flags = arg;

    if (answer->nlmsg_type == RTM_NEWLINK && mnl_nlmsg_get_payload_len(answer) >= sizeof(*link) &&
        link->ifi_index == LO_INDEX)
        *flags = link->ifi_flags;
    return MNL_CB_OK;
}

int agent_net_lo_up(struct agent_net *n)
{
    struct nlmsghdr *request = request_new(n, RTM_GETLINK, 0);
    struct ifinfomsg *link = mnl_nlmsg_put_extra_header(request, sizeof(*link));
    unsigned flags = 0;
    int r;

    link->ifi_family = AF_UNSPEC;
    link->ifi_index = LO_INDEX;
    r = transact(n, lo_flags, &flags);
    return r < 0 ? r : (flags & IFF_UP) != 0;
}

/* ---- policy routing ---- */

/* local default dev lo table T */
static int route(struct agent_net *n, int index, uint16_t type, uint16_t flags)
{
    struct nlmsghdr *request = request_new(n, type, flags);
    struct rtmsg *body = mnl_nlmsg_put_extra_header(request, sizeof(*body));

    body->rtm_family = (uint8_t)family_of(index);
    body->rtm_table = RT_TABLE_UNSPEC; /* the attribute has it */
    body->rtm_protocol = RTPROT_STATIC;
    body->rtm_scope = RT_SCOPE_HOST;
    body->rtm_type = RTN_LOCAL;
    mnl_attr_put_u32(request, RTA_TABLE, n->config->table);
    mnl_attr_put_u32(request, RTA_OIF, LO_INDEX);
    return transact(n, NULL, NULL);
}

/* One of the AGENT_RULES of the head of this file. */
static int rule(struct agent_net *n, int index, uint32_t number, uint16_t type, uint16_t flags)
{
    const struct agent_config *config = n->config;
    struct nlmsghdr *request = request_new(n, type, flags);
    struct fib_rule_hdr *body = mnl_nlmsg_put_extra_header(request, sizeof(*body));

    body->family = (uint8_t)family_of(index);
    body->table = RT_TABLE_UNSPEC; /* the attribute has it */
    body->action = FR_ACT_TO_TBL;
    mnl_attr_put_u32(request, FRA_PRIORITY, config->rule_priority + number);
    mnl_attr_put_u32(request, FRA_FWMARK, config->mark);
    mnl_attr_put_u32(request, FRA_FWMASK, config->mark_mask);
    mnl_attr_put_u32(request, FRA_TABLE, number == 1 ? RT_TABLE_MAIN : config->table);
    if (number == 0 && index == 0) {
        body->dst_len = 32;
        mnl_attr_put(request, FRA_DST, sizeof(config->gateway), &config->gateway);
    } else if (number == 0) {
        body->dst_len = 128;
        mnl_attr_put(request, FRA_DST, sizeof(config->gateway6), &config->gateway6);
    } else if (number == 1) {
        mnl_attr_put_u32(request, FRA_SUPPRESS_PREFIXLEN, 0);
    }
    return transact(n, NULL, NULL);
}

static bool has_gateway(const struct agent_net *n, int index)
{
    return index == 0 ? n->config->gateway.s_addr != 0 : !IN6_IS_ADDR_UNSPECIFIED(&n->config->gateway6);
}

/* @r of an addition: true if the thing is there now; *@added if that is our doing. */
static bool is_there(int r, uint8_t *added)
{
    if (r == 0)
        *added = 1;
    return r == 0 || r == -EEXIST;
}

static enum agent_reason install(struct agent_net *n, int index)
{
    int r;

    /* The route before the rules that lead to it: a rule alone would let marked packets out to the TAP. */
    r = route(n, index, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL);
    if (!is_there(r, &n->added[index].route))
        return r == -ENETDOWN ? AGENT_LO_DOWN : AGENT_NO_RULES;
    for (uint32_t i = 0; i < AGENT_RULES; i++) {
        if (i == 0 && !has_gateway(n, index))
            continue;
        r = rule(n, index, i, RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL);
        if (!is_there(r, &n->added[index].rules[i]))
            return AGENT_NO_RULES;
    }
    return AGENT_READY;
}

void agent_net_remove(struct agent_net *n)
{
    /* Failing means that somebody else was faster, or that the namespace is on its way out. */
    for (int index = 0; index < AGENT_FAMILIES; index++) {
        for (uint32_t i = 0; i < AGENT_RULES; i++)
            if (n->added[index].rules[i])
                (void)rule(n, index, i, RTM_DELRULE, 0);
        if (n->added[index].route)
            (void)route(n, index, RTM_DELROUTE, 0);
    }
}

/* ---- net.ipv4.tcp_fwmark_accept ---- */

static bool sysctl_is_on(const struct agent_net *n)
{
    char c = '0';

    return n->sysctl_fd >= 0 && pread(n->sysctl_fd, &c, 1, 0) == 1 && c != '0';
}

/* The answer of the write does not matter: a descriptor for reading only is enough where it is on already. */
static bool sysctl_switch_on(const struct agent_net *n)
{
    return sysctl_is_on(n) || (pwrite(n->sysctl_fd, "1", 1, 0) == 1 && sysctl_is_on(n));
}

/* ---- sockets ---- */

static int option_set(int fd, int level, int name, int value)
{
    return setsockopt(fd, level, name, &value, sizeof(value));
}

int agent_net_socket(const struct agent_net *n, int index)
{
    _cleanup_close_ int fd = socket(family_of(index), SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    if (fd < 0)
        return -errno;
    /* SO_REUSEADDR: a client's port may still be in TIME_WAIT here. */
    if ((index == 0 ? option_set(fd, IPPROTO_IP, IP_TRANSPARENT, 1)
                    : option_set(fd, IPPROTO_IPV6, IPV6_TRANSPARENT, 1)) < 0 ||
        (index == 1 && option_set(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1) < 0) ||
        setsockopt(fd, SOL_SOCKET, SO_MARK, &n->config->mark, sizeof(n->config->mark)) < 0 ||
        option_set(fd, SOL_SOCKET, SO_REUSEADDR, 1) < 0 || flow_socket_prepare(fd) < 0)
        return -errno;
    return steal_fd(&fd);
}

enum agent_reason agent_net_prepare(struct agent_net *n, int index)
{
    enum agent_reason reason = install(n, index);
    int fd;

    if (reason != AGENT_READY)
        return reason;
    if (!sysctl_switch_on(n))
        return AGENT_NO_SYSCTL;
    fd = agent_net_socket(n, index);
    if (fd < 0)
        /* Anything else (no descriptor, no memory) will pass. */
        return fd == -EPERM || fd == -EACCES || fd == -EAFNOSUPPORT || fd == -ENOPROTOOPT
                   ? AGENT_NO_TRANSPARENT
                   : AGENT_READY;
    close(fd);
    return AGENT_READY;
}

/* ---- addresses ---- */

struct address_attributes {
    const uint8_t *local, *address;
    uint32_t flags;
    uint16_t size;
};

static int address_attribute(const struct nlattr *attribute, void *arg)
{
    struct address_attributes *a = arg;
    const uint8_t *payload = mnl_attr_get_payload(attribute);

    switch (mnl_attr_get_type(attribute)) {
    case IFA_LOCAL:
        if (mnl_attr_get_payload_len(attribute) == a->size)
            a->local = payload;
        break;
    case IFA_ADDRESS:
        if (mnl_attr_get_payload_len(attribute) == a->size)
            a->address = payload;
        break;
    case IFA_FLAGS: /* more of them than fit the header's field */
        if (mnl_attr_get_payload_len(attribute) == sizeof(uint32_t))
            a->flags = mnl_attr_get_u32(attribute);
        break;
    default:
        break;
    }
    return MNL_CB_OK;
}

static int address_found(const struct nlmsghdr *answer, void *arg)
{
    const struct ifaddrmsg *body = mnl_nlmsg_get_payload(answer);
    struct address_attributes a = {.flags = 0};
    struct agent_net *n = arg;
    struct agent_address *found;

    if (answer->nlmsg_type != RTM_NEWADDR || mnl_nlmsg_get_payload_len(answer) < sizeof(*body) ||
        family_index(body->ifa_family) < 0 || n->n_found >= AGENT_ADDRESSES_MAX)
        return MNL_CB_OK;
    a.size = body->ifa_family == AF_INET ? 4 : 16;
    a.flags = body->ifa_flags;
    if (mnl_attr_parse(answer, sizeof(*body), address_attribute, &a) < 0)
        return MNL_CB_OK;
    /* IFA_ADDRESS is the peer's on a point-to-point link, which is when IPv6 has IFA_LOCAL too. */
    if (!a.local)
        a.local = a.address;
    /* Not ours yet, or never: a notice comes when that changes. */
    if (!a.local || (a.flags & IFA_F_DADFAILED) ||
        ((a.flags & IFA_F_TENTATIVE) && !(a.flags & IFA_F_OPTIMISTIC)))
        return MNL_CB_OK;
    found = &n->found[n->n_found++];
    memset(found, 0, sizeof(*found));
    found->family = body->ifa_family;
    memcpy(found->bytes, a.local, a.size);
    return MNL_CB_OK;
}

int agent_net_list(struct agent_net *n)
{
    struct nlmsghdr *request = request_new(n, RTM_GETADDR, NLM_F_DUMP);
    struct ifaddrmsg *body = mnl_nlmsg_put_extra_header(request, sizeof(*body));
    int r;

    body->ifa_family = AF_UNSPEC;
    n->n_found = 0;
    r = transact(n, address_found, n);
    if (r < 0)
        return r;
    if (n->n_found == n->n_addresses && memcmp(n->found, n->addresses, n->n_found * sizeof(n->found[0])) == 0)
        return 0;
    memcpy(n->addresses, n->found, n->n_found * sizeof(n->found[0]));
    n->n_addresses = n->n_found;
    return 1;
}

int agent_net_fd(const struct agent_net *n)
{
    return mnl_socket_get_fd(n->notices);
}

void agent_net_drain(struct agent_net *n)
{
    drain(n->notices, n->answer, sizeof(n->answer));
}

/* ---- set-up ---- */

/* A refusal (RST) carries the mark of what it answers only with net.*.fwmark_reflect (ip-sysctl.rst,
 * Linux 3.16), and without the mark it leaves by the TAP. Failing costs time: the connection waits, then
 * takes libslirp's path. */
static void reflect_marks(void)
{
    static const char *const paths[] = {"/proc/sys/net/ipv4/fwmark_reflect",
                                        "/proc/sys/net/ipv6/fwmark_reflect"};

    for (unsigned i = 0; i < ARRAY_SIZE(paths); i++) {
        int fd = open(paths[i], O_WRONLY | O_CLOEXEC);

        if (fd < 0)
            continue;
        if (write(fd, "1", 1) != 1)
            errno = 0;
        close(fd);
    }
}

int agent_net_init(struct agent_net *n, const struct agent_config *config, struct failure *why)
{
    static const char path[] = "/proc/sys/net/ipv4/tcp_fwmark_accept";

    n->config = config;
    /* Not malloc(): it is to be one and the same for those who are made by clone(2). */
    n->added = mmap(NULL, AGENT_FAMILIES * sizeof(*n->added), PROT_READ | PROT_WRITE,
                    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (n->added == MAP_FAILED)
        return failure(why, -errno, NULL, "the agent's memory");
    n->requests = mnl_socket_open2(NETLINK_ROUTE, SOCK_CLOEXEC);
    if (!n->requests || mnl_socket_bind(n->requests, 0, MNL_SOCKET_AUTOPID) < 0)
        return failure(why, -errno, "is AF_NETLINK forbidden by a seccomp profile?",
                       "the agent cannot open an rtnetlink socket");
    n->notices = mnl_socket_open2(NETLINK_ROUTE, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (!n->notices || mnl_socket_bind(n->notices, RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR,
                                       MNL_SOCKET_AUTOPID) < 0)
        return failure(why, -errno, NULL, "the agent cannot listen to rtnetlink");
    /* /proc/sys/net shows the network namespace of whoever opens it, whatever /proc this is; the descriptor
     * stays with that namespace. Without it both families answer AGENT_NO_SYSCTL. */
    n->sysctl_fd = open(path, O_RDWR | O_CLOEXEC);
    if (n->sysctl_fd < 0)
        n->sysctl_fd = open(path, O_RDONLY | O_CLOEXEC); /* a read-only /proc/sys: it may be on already */
    reflect_marks();
    return 0;
}
