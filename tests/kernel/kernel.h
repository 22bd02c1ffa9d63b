/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * kernel.h - what the kernel tests share: verdicts, a namespace of one's own, a TAP, a few rtnetlink requests
 *
 * A test shows one behaviour of the kernel that the program relies on, without any of the program's code. It
 * ends in exactly one line and one exit code: shows() and 0 when the behaviour is there; skip() and 77 when
 * it cannot be tried, because the kernel is too old or the permission is missing; fail() and 1 when it can be
 * tried and is not as relied on.
 *
 * Everything happens in a new user and network namespace, so a test run by root has no more rights than one
 * run by an ordinary user. Nothing is waited for without a deadline; alarm(2) stands behind all of them.
 */
#ifndef TESTS_KERNEL_H
#define TESTS_KERNEL_H

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <libmnl/libmnl.h>
#include <linux/fib_rules.h>
#include <linux/if_tun.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { EXIT_SKIP = 77, WAIT_MS = 5000, ALARM_SECONDS = 20 };

#define VERDICT(prefix, code, ...)  \
    do {                            \
        printf(prefix __VA_ARGS__); \
        putchar('\n');              \
        exit(code);                 \
    } while (0)
#define shows(...) VERDICT("shows: ", EXIT_SUCCESS, __VA_ARGS__)
#define skip(...) VERDICT("SKIP: ", EXIT_SKIP, __VA_ARGS__)
#define fail(...) VERDICT("FAIL: ", EXIT_FAILURE, __VA_ARGS__)

/* What must hold; the sentence says what it means that it does not. */
#define check(condition, ...)  \
    do {                       \
        if (!(condition))      \
            fail(__VA_ARGS__); \
    } while (0)

/* A system call that must not fail. */
#define must(call)                                                             \
    do {                                                                       \
        if ((call) < 0)                                                        \
            fail("%s:%d: %s: %s", __FILE__, __LINE__, #call, strerror(errno)); \
    } while (0)

static inline void alarm_rang(int signal_number)
{
    static const char line[] = "FAIL: still running at the last deadline\n";

    (void)signal_number;
    if (write(STDOUT_FILENO, line, sizeof(line) - 1) < 0)
        abort();
    _exit(EXIT_FAILURE);
}

/* Writes @text to @path: 0 or a negative errno. */
static inline int file_write(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC), result = 0;

    if (fd < 0)
        return -errno;
    if (write(fd, text, strlen(text)) < 0)
        result = -errno;
    close(fd);
    return result;
}

/* The number in the file at @path, or -1. */
static inline long file_number(const char *path)
{
    FILE *file = fopen(path, "re");
    char line[64];
    long number = -1;

    if (!file)
        return -1;
    if (fgets(line, sizeof(line), file))
        number = strtol(line, NULL, 10);
    fclose(file);
    return number;
}

/* @fd is ready for @events before the deadline. */
static inline bool ready(int fd, short events)
{
    struct pollfd p = {.fd = fd, .events = events};

    return poll(&p, 1, WAIT_MS) == 1;
}

static inline int64_t now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* ---- rtnetlink: one request, one answer ---- */

struct request {
    union {
        struct nlmsghdr header;
        char space[512];
    };
};

static inline void *request_start(struct request *q, uint16_t type, uint16_t flags, size_t body_size)
{
    memset(q, 0, sizeof(*q));
    mnl_nlmsg_put_header(q->space);
    q->header.nlmsg_type = type;
    q->header.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | flags;
    return mnl_nlmsg_put_extra_header(&q->header, body_size);
}

/* 0 or a negative errno. */
static inline int request_send(struct request *q)
{
    struct mnl_socket *nl = mnl_socket_open(NETLINK_ROUTE);
    char answer[4096];
    ssize_t n;
    int result = 0;

    if (!nl || mnl_socket_bind(nl, 0, MNL_SOCKET_AUTOPID) < 0)
        fail("cannot open rtnetlink: %s", strerror(errno));
    q->header.nlmsg_seq = 1;
    if (mnl_socket_sendto(nl, q, q->header.nlmsg_len) < 0)
        fail("cannot send to rtnetlink: %s", strerror(errno));
    check(ready(mnl_socket_get_fd(nl), POLLIN), "rtnetlink does not answer");
    n = mnl_socket_recvfrom(nl, answer, sizeof(answer));
    if (n < 0 || mnl_cb_run(answer, (size_t)n, 1, mnl_socket_get_portid(nl), NULL, NULL) < 0)
        result = -errno;
    mnl_socket_close(nl);
    return result;
}

static inline void request_must(struct request *q, const char *what)
{
    int r = request_send(q);

    if (r < 0)
        fail("%s: %s", what, strerror(-r));
}

static inline size_t address_size(int family)
{
    return family == AF_INET ? sizeof(struct in_addr) : sizeof(struct in6_addr);
}

static inline void request_put_address(struct request *q, uint16_t attribute, int family, const char *text)
{
    uint8_t address[sizeof(struct in6_addr)];

    check(inet_pton(family, text, address) == 1, "%s is not an address", text);
    mnl_attr_put(&q->header, attribute, address_size(family), address);
}

/* Without neighbour discovery (IFF_NOARP) the guest sends at once, to its own Ethernet address. */
static inline int link_up(const char *name)
{
    struct request q;
    struct ifinfomsg *link = request_start(&q, RTM_NEWLINK, 0, sizeof(*link));

    link->ifi_index = (int)if_nametoindex(name);
    link->ifi_flags = link->ifi_change = IFF_UP | (strcmp(name, "lo") == 0 ? 0 : IFF_NOARP);
    return request_send(&q);
}

static inline void address_add(const char *name, int family, const char *address, uint8_t prefix)
{
    struct request q;
    struct ifaddrmsg *body = request_start(&q, RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, sizeof(*body));

    body->ifa_family = (uint8_t)family;
    body->ifa_prefixlen = prefix;
    body->ifa_flags = family == AF_INET6 ? IFA_F_NODAD : 0; /* usable at once */
    body->ifa_index = if_nametoindex(name);
    request_put_address(&q, IFA_LOCAL, family, address);
    request_put_address(&q, IFA_ADDRESS, family, address);
    request_must(&q, "cannot add an address");
}

/* ip route add [local] default dev NAME table TABLE */
static inline void route_add(const char *name, int family, uint8_t type, uint32_t table)
{
    struct request q;
    struct rtmsg *body = request_start(&q, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, sizeof(*body));

    body->rtm_family = (uint8_t)family;
    body->rtm_table = table < 256 ? (uint8_t)table : RT_TABLE_UNSPEC;
    body->rtm_protocol = RTPROT_STATIC;
    body->rtm_scope = type == RTN_LOCAL ? RT_SCOPE_HOST : RT_SCOPE_LINK;
    body->rtm_type = type;
    mnl_attr_put_u32(&q.header, RTA_TABLE, table);
    mnl_attr_put_u32(&q.header, RTA_OIF, if_nametoindex(name));
    request_must(&q, "cannot add a route");
}

/* ip rule add fwmark MARK/MARK lookup TABLE */
static inline void rule_add(int family, uint32_t mark, uint32_t table)
{
    struct request q;
    struct fib_rule_hdr *body = request_start(&q, RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL, sizeof(*body));

    body->family = (uint8_t)family;
    body->table = RT_TABLE_UNSPEC;
    body->action = FR_ACT_TO_TBL;
    mnl_attr_put_u32(&q.header, FRA_TABLE, table);
    mnl_attr_put_u32(&q.header, FRA_FWMARK, mark);
    mnl_attr_put_u32(&q.header, FRA_FWMASK, mark);
    request_must(&q, "cannot add a rule");
}

/* Packets with @mark are local packets, whatever their addresses: how the splice tier keeps addresses. */
static inline void mark_means_local(int family, uint32_t mark, uint32_t table)
{
    rule_add(family, mark, table);
    route_add("lo", family, RTN_LOCAL, table);
}

/* ---- namespace, TAP ---- */

static inline void map_id(const char *path, unsigned id)
{
    char line[32];
    int r;

    snprintf(line, sizeof(line), "0 %u 1", id);
    r = file_write(path, line);
    if (r < 0)
        skip("cannot write %s: %s", path, strerror(-r));
}

/* First thing in main(). Afterwards this process is root of an empty network whose lo is up. */
static inline void namespace_enter(void)
{
    unsigned uid = geteuid(), gid = getegid();
    int r;

    signal(SIGALRM, alarm_rang);
    signal(SIGPIPE, SIG_IGN);
    alarm(ALARM_SECONDS);
    if (unshare(CLONE_NEWUSER | CLONE_NEWNET) < 0)
        skip("no user and network namespace: %s", strerror(errno));
    r = file_write("/proc/self/setgroups", "deny");
    if (r < 0 && r != -ENOENT)
        skip("cannot write /proc/self/setgroups: %s", strerror(-r));
    map_id("/proc/self/uid_map", uid);
    map_id("/proc/self/gid_map", gid);
    r = link_up("lo");
    if (r == -EPERM)
        skip("the new namespace comes without rights over its network (AppArmor?)");
    check(r == 0, "cannot bring lo up: %s", strerror(-r));
}

/* A TAP called @name, up, non-blocking, frames preceded by a struct virtio_net_hdr (10 bytes). */
static inline int tap_make(const char *name)
{
    struct ifreq ifr = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
    int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC), r;

    if (fd < 0)
        skip("cannot open /dev/net/tun: %s", strerror(errno));
    snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "%s", name);
    if (ioctl(fd, TUNSETIFF, &ifr) < 0)
        skip("cannot make a TAP: %s", strerror(errno));
    r = link_up(name);
    check(r == 0, "cannot bring the TAP up: %s", strerror(-r));
    return fd;
}

/* ---- addresses, sockets ---- */

union address {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
};

static inline union address address_of(int family, const char *text, uint16_t port)
{
    union address a;

    memset(&a, 0, sizeof(a));
    a.any.sa_family = (sa_family_t)family;
    a.v4.sin_port = htons(port); /* at the same place in v6 */
    check(inet_pton(family, text, family == AF_INET ? (void *)&a.v4.sin_addr : (void *)&a.v6.sin6_addr) == 1,
          "%s is not an address", text);
    return a;
}

static inline socklen_t address_length(const union address *a)
{
    return a->any.sa_family == AF_INET ? sizeof(a->v4) : sizeof(a->v6);
}

static inline int option_set(int fd, int level, int name, int value)
{
    return setsockopt(fd, level, name, &value, sizeof(value));
}

/* Receives exactly @size bytes into @buffer before the deadline. */
static inline void receive_all(int fd, void *buffer, size_t size, const char *where)
{
    size_t have = 0;

    while (have < size) {
        ssize_t n = -1;

        check(ready(fd, POLLIN), "%s: %zu of %zu bytes arrived", where, have, size);
        n = recv(fd, (char *)buffer + have, size - have, MSG_DONTWAIT);
        if (n < 0 && errno == EAGAIN)
            continue;
        check(n > 0, "%s: after %zu of %zu bytes: %s", where, have, size,
              n < 0 ? strerror(errno) : "end of stream");
        have += (size_t)n;
    }
}

#endif
