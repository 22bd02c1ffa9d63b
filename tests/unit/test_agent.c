/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * test_agent.c - the nsagent in a real guest: a user and a network namespace of a child that only holds them
 *
 *   this process (outside)                         guest (inside)
 *   agent_start() --- socketpair ---------------- nsagent
 *   client socket, from the stock ------ lo ----- listener, made by a helper that entered, and handed out
 *
 * The guest has lo and, where /dev/net/tun can be opened, a TAP with the default route that nobody reads, as
 * slirp4netns's guests have it: what should stay on lo and does not, gets no answer. Runs the same as root
 * and as an ordinary user. Every wait has a deadline; alarm(2) stands behind all of them.
 */
#include "fwd/agent.h"

#include "base/bits.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fd_passing.h"
#include "fwd/agent_protocol.h"
#include "test.h"

#include <errno.h>
#include <fcntl.h>
#include <libmnl/libmnl.h>
#include <linux/fib_rules.h>
#include <linux/if_tun.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>

enum {
    WAIT_MS = 30000,
    END_MS = 2900,  /* less than an agent may take for its end before it is killed (agent.c) ... */
    LAST_MS = 4900, /* ... and when nobody is left to do that (agent_process.c) */
    ALARM_S = 280,
    MARK = 0x51110000,
    TABLE = 20753,
    PRIORITY = 20753,
    CLIENT_PORT = 40404,
    SERVER_PORT = 8080,
};

/* ---- rtnetlink, inside ---- */

/* One request; @callback sees every message of the answer. 0 or a negative errno. */
static int transact(struct nlmsghdr *request, mnl_cb_t callback, void *arg)
{
    struct mnl_socket *nl = mnl_socket_open2(NETLINK_ROUTE, SOCK_CLOEXEC);
    static char answer[32768];
    int r = MNL_CB_OK;

    if (!nl || mnl_socket_bind(nl, 0, MNL_SOCKET_AUTOPID) < 0)
        return -errno;
    request->nlmsg_flags |= NLM_F_REQUEST;
    request->nlmsg_seq = 1;
    if (mnl_socket_sendto(nl, request, request->nlmsg_len) < 0)
        r = MNL_CB_ERROR;
    while (r > MNL_CB_STOP) {
        ssize_t n = mnl_socket_recvfrom(nl, answer, sizeof(answer));

        r = n < 0 ? MNL_CB_ERROR : mnl_cb_run(answer, (size_t)n, 1, mnl_socket_get_portid(nl), callback, arg);
    }
    r = r < 0 ? -errno : 0;
    mnl_socket_close(nl);
    return r;
}

struct request {
    union {
        struct nlmsghdr header;
        char space[512];
    };
};

static void *request_init(struct request *q, uint16_t type, uint16_t flags, size_t size)
{
    memset(q, 0, sizeof(*q));
    mnl_nlmsg_put_header(q->space);
    q->header.nlmsg_type = type;
    q->header.nlmsg_flags = flags;
    return mnl_nlmsg_put_extra_header(&q->header, size);
}

static int link_set(const char *name, bool up)
{
    struct request q;
    struct ifinfomsg *link = request_init(&q, RTM_NEWLINK, NLM_F_ACK, sizeof(*link));
    bool lo = strcmp(name, "lo") == 0;

    link->ifi_index = (int)if_nametoindex(name);
    link->ifi_change = IFF_UP | (lo ? 0 : IFF_NOARP); /* NOARP: the guest does not wait for neighbours */
    link->ifi_flags = up ? link->ifi_change : 0;
    return transact(&q.header, NULL, NULL);
}

static int address_change(uint16_t type, const char *name, int family, const char *text, uint8_t prefix)
{
    struct request q;
    struct ifaddrmsg *body =
        request_init(&q, type, NLM_F_ACK | (type == RTM_NEWADDR ? NLM_F_CREATE : 0), sizeof(*body));
    uint8_t address[16];
    size_t size = family == AF_INET ? 4 : 16;

    if (inet_pton(family, text, address) != 1)
        return -EINVAL;
    body->ifa_family = (uint8_t)family;
    body->ifa_prefixlen = prefix;
    body->ifa_flags = family == AF_INET6 ? IFA_F_NODAD : 0; /* usable at once */
    body->ifa_index = if_nametoindex(name);
    mnl_attr_put(&q.header, IFA_LOCAL, size, address);
    mnl_attr_put(&q.header, IFA_ADDRESS, size, address);
    return transact(&q.header, NULL, NULL);
}

static int default_route_add(const char *name, int family)
{
    struct request q;
    struct rtmsg *body = request_init(&q, RTM_NEWROUTE, NLM_F_ACK | NLM_F_CREATE, sizeof(*body));

    body->rtm_family = (uint8_t)family;
    body->rtm_table = RT_TABLE_MAIN;
    body->rtm_protocol = RTPROT_BOOT;
    body->rtm_scope = RT_SCOPE_UNIVERSE;
    body->rtm_type = RTN_UNICAST;
    mnl_attr_put_u32(&q.header, RTA_OIF, if_nametoindex(name));
    return transact(&q.header, NULL, NULL);
}

static int tap_open(void)
{
    struct ifreq ifr = {.ifr_name = "tap0", .ifr_flags = IFF_TAP | IFF_NO_PI};
    int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);

    return fd < 0 || ioctl(fd, TUNSETIFF, &ifr) < 0 ? -1 : fd;
}

/* ---- the guest ---- */

struct guest {
    pid_t pid;
    int user_fd, net_fd;
    char skip[160]; /* why there is none */
};

static struct guest guest;

static int text_write(const char *path, const char *text)
{
    _cleanup_close_ int fd = open(path, O_WRONLY | O_CLOEXEC);

    return fd < 0 || write(fd, text, strlen(text)) < 0 ? -errno : 0;
}

/* In the child that holds the namespaces: NULL, or what could not be had. */
static const char *guest_make(void)
{
    char users[32], groups[32];
    const char *device = "tap0";

    snprintf(users, sizeof(users), "0 %u 1", geteuid());
    snprintf(groups, sizeof(groups), "0 %u 1", getegid());
    if (unshare(CLONE_NEWUSER | CLONE_NEWNET) < 0)
        return errno == EINVAL ? "no user namespace for a process with threads (ThreadSanitizer has one)"
                               : "no user and network namespace";
    if (text_write("/proc/self/setgroups", "deny") < 0 || text_write("/proc/self/uid_map", users) < 0 ||
        text_write("/proc/self/gid_map", groups) < 0)
        return "the user cannot be mapped into a new user namespace";
    if (link_set("lo", true) < 0)
        return "the new namespace comes without rights over its network (AppArmor?)";
    if (tap_open() < 0) /* it stays open with this process */
        device = "lo";
    if (link_set(device, true) < 0 || address_change(RTM_NEWADDR, device, AF_INET, "10.0.2.100", 24) < 0 ||
        address_change(RTM_NEWADDR, device, AF_INET6, "fd00::100", 64) < 0)
        return "the guest's interface cannot be configured (IPv6 off?)";
    if (strcmp(device, "lo") != 0 &&
        (default_route_add(device, AF_INET) < 0 || default_route_add(device, AF_INET6) < 0))
        return "the guest's routes cannot be set";
    return NULL;
}

_Noreturn static void guest_hold(int report_fd)
{
    const char *why;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    why = guest_make();
    dprintf(report_fd, "%s", why ? why : "+");
    if (why)
        _exit(1);
    for (;;)
        pause();
}

static int guest_setup(void **state)
{
    struct pollfd p = {.events = POLLIN};
    char path[64];
    int fds[2];
    ssize_t n;

    (void)state;
    alarm(ALARM_S);
    guest = (struct guest){.user_fd = -1, .net_fd = -1};
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    guest.pid = fork();
    assert_true(guest.pid >= 0);
    if (guest.pid == 0)
        guest_hold(fds[1]);
    close(fds[1]);
    p.fd = fds[0];
    assert_int_equal(poll(&p, 1, WAIT_MS), 1);
    n = read(fds[0], guest.skip, sizeof(guest.skip) - 1);
    close(fds[0]);
    assert_true(n > 0);
    if (guest.skip[0] != '+')
        return 0;
    guest.skip[0] = '\0';
    snprintf(path, sizeof(path), "/proc/%d/ns/user", guest.pid);
    guest.user_fd = open(path, O_RDONLY | O_CLOEXEC);
    snprintf(path, sizeof(path), "/proc/%d/ns/net", guest.pid);
    guest.net_fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_true(guest.user_fd >= 0 && guest.net_fd >= 0);
    return 0;
}

static int guest_teardown(void **state)
{
    (void)state;
    kill(guest.pid, SIGKILL);
    assert_int_equal(waitpid(guest.pid, NULL, 0), guest.pid);
    closep(&guest.user_fd);
    closep(&guest.net_fd);
    return 0;
}

#define NEED_GUEST()                                 \
    do {                                             \
        if (guest.skip[0]) {                         \
            print_message("SKIP: %s\n", guest.skip); \
            skip();                                  \
        }                                            \
    } while (0)

/* What @work returns in a child inside the guest: 0 to 127. */
static int in_guest(int (*work)(const void *arg), const void *arg)
{
    int status = -1;
    pid_t pid = fork();

    assert_true(pid >= 0);
    if (pid == 0) {
        if (setns(guest.user_fd, CLONE_NEWUSER) < 0 || setns(guest.net_fd, CLONE_NEWNET) < 0)
            _exit(255);
        _exit(work(arg));
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_in_range(WEXITSTATUS(status), 0, 127);
    return WEXITSTATUS(status);
}

/* ---- addresses, sockets ---- */

static union address address_of(int family, const char *text, uint16_t port)
{
    union address a;

    memset(&a, 0, sizeof(a));
    a.sa.sa_family = (sa_family_t)family;
    address_set_port(&a, port);
    assert_int_equal(
        inet_pton(family, text, family == AF_INET ? (void *)&a.in.sin_addr : (void *)&a.in6.sin6_addr), 1);
    return a;
}

struct listen_order {
    union address address;
    int reply_fd;
};

static int listen_inside(const void *arg)
{
    const struct listen_order *order = arg;
    int on = 1, fd = socket(order->address.sa.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0 ||
        bind(fd, &order->address.sa, address_size(&order->address)) < 0 || listen(fd, 8) < 0)
        return 1;
    return fd_passing_send(order->reply_fd, &on, sizeof(on), &fd, 1, 0) < 0;
}

/* A listening socket of the guest. */
static int guest_listener(const union address *address)
{
    struct listen_order order = {.address = *address};
    struct fd_passing with;
    int pair[2], fd, on;

    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
    order.reply_fd = pair[1];
    assert_int_equal(in_guest(listen_inside, &order), 0);
    assert_int_equal(fd_passing_receive(pair[0], &on, sizeof(on), 1, &with, MSG_DONTWAIT), sizeof(on));
    assert_int_equal(with.n_fds, 1);
    fd = with.fds[0];
    close(pair[0]);
    close(pair[1]);
    return fd;
}

static void wait_ready(int fd, short events)
{
    struct pollfd p = {.fd = fd, .events = events};

    assert_int_equal(poll(&p, 1, WAIT_MS), 1);
}

static void exchange(int from, int to, const char *text)
{
    char buffer[32] = "";
    size_t size = strlen(text);

    assert_int_equal(send(from, text, size, MSG_NOSIGNAL), size);
    wait_ready(to, POLLIN);
    assert_int_equal(recv(to, buffer, sizeof(buffer), MSG_DONTWAIT), size);
    assert_string_equal(buffer, text);
}

/* ---- the agent ---- */

static const struct agent_config *config(void)
{
    static struct agent_config c = {
        .mark = MARK, .mark_mask = 0xffff0000, .stock = true, .table = TABLE, .rule_priority = PRIORITY};

    c.userns_fd = guest.user_fd;
    c.netns_fd = guest.net_fd;
    assert_int_equal(inet_pton(AF_INET, "10.0.2.2", &c.gateway), 1);
    assert_int_equal(inet_pton(AF_INET6, "fd00::2", &c.gateway6), 1);
    return &c;
}

static struct agent *start(void)
{
    struct failure why = FAILURE_NULL;
    struct agent *a = NULL;
    char text[512];
    int r = agent_start(&a, config(), &why);

    if (r == 0)
        r = agent_wait(a, &why);
    if (r < 0)
        print_error("%s\n", failure_text(&why, text, sizeof(text)));
    assert_int_equal(r, 0);
    agent_go(a);
    return a;
}

/* Reads until @deadline_ns or until there is something; false: the agent is gone. */
static bool listen_to(struct agent *a, int64_t deadline_ns) RUNS_ON(role_fwd)
{
    struct pollfd p = {.fd = agent_fd(a), .events = POLLIN};
    int64_t left_ns = deadline_ns - clock_monotonic_ns();

    if (left_ns > 100 * NS_PER_MS)
        left_ns = 100 * NS_PER_MS; /* questions are repeated meanwhile */
    if (left_ns > 0 && poll(&p, 1, (int)(left_ns / NS_PER_MS) + 1) == 1)
        return agent_read(a) == 0;
    return true;
}

static void wait_reason(struct agent *a, const union address *address, enum agent_reason wanted)
    RUNS_ON(role_fwd)
{
    int64_t deadline_ns = clock_monotonic_ns() + WAIT_MS * NS_PER_MS;
    enum agent_reason reason = AGENT_NOT_YET;

    while (clock_monotonic_ns() < deadline_ns && (reason = agent_can_reach(a, address)) != wanted)
        if (!listen_to(a, deadline_ns))
            break;
    if (reason != wanted)
        print_error("the agent says \"%s\"\n", agent_reason_text(reason));
    assert_int_equal(reason, wanted);
}

static int take(struct agent *a, int family) RUNS_ON(role_fwd)
{
    int64_t deadline_ns = clock_monotonic_ns() + WAIT_MS * NS_PER_MS;
    int fd = -EAGAIN;

    while (clock_monotonic_ns() < deadline_ns && (fd = agent_take_socket(a, family)) == -EAGAIN)
        assert_true(listen_to(a, deadline_ns));
    assert_true(fd >= 0);
    return fd;
}

static void wait_gone(struct agent *a) RUNS_ON(role_fwd)
{
    int64_t deadline_ns = clock_monotonic_ns() + WAIT_MS * NS_PER_MS;

    while (agent_read(a) == 0) {
        assert_true(clock_monotonic_ns() < deadline_ns);
        listen_to(a, deadline_ns);
    }
}

/* ---- what it leaves in the guest ---- */

static int rule_attribute(const struct nlattr *attribute, void *arg)
{
    uint32_t *priority = arg;

    if (mnl_attr_get_type(attribute) == FRA_PRIORITY)
        *priority = mnl_attr_get_u32(attribute);
    return MNL_CB_OK;
}

static int route_attribute(const struct nlattr *attribute, void *arg)
{
    uint32_t *table = arg;

    if (mnl_attr_get_type(attribute) == RTA_TABLE)
        *table = mnl_attr_get_u32(attribute);
    return MNL_CB_OK;
}

static int count_one(const struct nlmsghdr *answer, void *arg)
{
    uint32_t number = 0;
    int *count = arg;

    if (answer->nlmsg_type == RTM_NEWRULE) {
        mnl_attr_parse(answer, sizeof(struct fib_rule_hdr), rule_attribute, &number);
        *count += number >= PRIORITY && number < PRIORITY + AGENT_RULES;
    } else if (answer->nlmsg_type == RTM_NEWROUTE) {
        mnl_attr_parse(answer, sizeof(struct rtmsg), route_attribute, &number);
        *count += number == TABLE;
    }
    return MNL_CB_OK;
}

static int count_inside(const void *arg)
{
    static const uint16_t types[] = {RTM_GETRULE, RTM_GETROUTE};
    static const uint8_t families[] = {AF_INET, AF_INET6};
    int count = 0;

    (void)arg;
    for (int i = 0; i < 2; i++) {
        for (int j = 0; j < 2; j++) {
            struct request q;
            struct rtmsg *body = request_init(&q, types[i], NLM_F_DUMP, sizeof(*body));

            body->rtm_family = families[j];
            if (transact(&q.header, count_one, &count) < 0)
                return 255;
        }
    }
    return count;
}

enum { ALL_OF_IT = 2 * (AGENT_RULES + 1) };

static int remove_inside(const void *arg)
{
    (void)arg;
    for (uint32_t i = 0; i < 2 * (AGENT_RULES + 1); i++) {
        struct request q;
        struct fib_rule_hdr *rule;
        struct rtmsg *route;
        int r;

        if (i % 4 == AGENT_RULES) {
            route = request_init(&q, RTM_DELROUTE, NLM_F_ACK, sizeof(*route));
            route->rtm_family = i < 4 ? AF_INET : AF_INET6;
            route->rtm_scope = RT_SCOPE_NOWHERE;
            mnl_attr_put_u32(&q.header, RTA_TABLE, TABLE);
        } else {
            rule = request_init(&q, RTM_DELRULE, NLM_F_ACK, sizeof(*rule));
            rule->family = i < 4 ? AF_INET : AF_INET6;
            mnl_attr_put_u32(&q.header, FRA_PRIORITY, PRIORITY + i % 4);
        }
        r = transact(&q.header, NULL, NULL);
        if (r < 0 && r != -ENOENT && r != -ESRCH)
            return 1;
    }
    return 0;
}

/* agent_free(), and nothing is left; unless that took so long that nobody could tidy up. */
static void free_tidily(struct agent *a)
{
    int64_t begin_ns = clock_monotonic_ns();

    assert_null(agent_free(a));
    if (clock_monotonic_ns() - begin_ns < END_MS * NS_PER_MS)
        assert_int_equal(in_guest(count_inside, NULL), 0);
    assert_int_equal(in_guest(remove_inside, NULL), 0);
}

/* ---- tests ---- */

static void connects_as(struct agent *a, int family, const char *client_text, const char *server_text)
    RUNS_ON(role_fwd)
{
    union address client = address_of(family, client_text, CLIENT_PORT), seen;
    union address server = address_of(family, server_text, SERVER_PORT);
    int listener = guest_listener(&server), fd, accepted, error = -1;
    socklen_t size = sizeof(error);
    char text[INET6_ADDRSTRLEN];

    wait_reason(a, &server, AGENT_READY);
    fd = take(a, family);
    assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    assert_true(fcntl(fd, F_GETFL) & O_NONBLOCK);
    assert_int_equal(bind(fd, &client.sa, address_size(&client)), 0);
    assert_true(connect(fd, &server.sa, address_size(&server)) == 0 || errno == EINPROGRESS);
    wait_ready(fd, POLLOUT);
    assert_int_equal(getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size), 0);
    assert_int_equal(error, 0);
    wait_ready(listener, POLLIN);
    accepted = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    assert_true(accepted >= 0);
    memset(&seen, 0, size = sizeof(seen));
    assert_int_equal(getpeername(accepted, &seen.sa, &size), 0);
    inet_ntop(family, family == AF_INET ? (void *)&seen.in.sin_addr : (void *)&seen.in6.sin6_addr, text,
              sizeof(text));
    assert_string_equal(text, client_text);
    assert_int_equal(address_port(&seen), CLIENT_PORT);
    exchange(fd, accepted, "question");
    exchange(accepted, fd, "answer");
    close(fd);
    close(accepted);
    close(listener);
}

static void test_servers_see_the_clients_address(void **state)
{
    struct agent *a;

    (void)state;
    NEED_GUEST();
    a = start();
    role_enter(&role_fwd);
    connects_as(a, AF_INET, "203.0.113.9", "10.0.2.100");
    connects_as(a, AF_INET, "203.0.113.9", "127.0.0.1");
    connects_as(a, AF_INET6, "2001:db8::9", "fd00::100");
    connects_as(a, AF_INET6, "2001:db8::9", "::1");
    /* The gateway is in the TAP's own network: only the first rule keeps the server's answers from it. */
    connects_as(a, AF_INET, "10.0.2.2", "10.0.2.100");
    connects_as(a, AF_INET6, "fd00::2", "fd00::100");
    role_leave(&role_fwd);
    assert_null(agent_free(a));
}

/* The refusal is made by no socket: it has the mark only because the agent asked for that. */
static void refused_at_once(struct agent *a, int family, const char *client_text, const char *server_text)
    RUNS_ON(role_fwd)
{
    union address client = address_of(family, client_text, CLIENT_PORT);
    union address server = address_of(family, server_text, SERVER_PORT + 1);
    int fd, error = 0;
    socklen_t size = sizeof(error);

    wait_reason(a, &server, AGENT_READY);
    fd = take(a, family);
    assert_int_equal(bind(fd, &client.sa, address_size(&client)), 0);
    if (connect(fd, &server.sa, address_size(&server)) < 0)
        error = errno;
    if (error == EINPROGRESS) {
        wait_ready(fd, POLLOUT);
        assert_int_equal(getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size), 0);
    }
    assert_int_equal(error, ECONNREFUSED);
    close(fd);
}

static void test_closed_port_is_refused_at_once(void **state)
{
    struct agent *a;

    (void)state;
    NEED_GUEST();
    a = start();
    role_enter(&role_fwd);
    refused_at_once(a, AF_INET, "203.0.113.9", "10.0.2.100");
    refused_at_once(a, AF_INET6, "2001:db8::9", "fd00::100");
    refused_at_once(a, AF_INET, "10.0.2.2", "127.0.0.1");
    role_leave(&role_fwd);
    agent_free(a);
}

/* ---- where marked packets go ---- */

struct way {
    int family;
    const char *to;
    uint32_t mark;
    bool local; /* wanted: it stays inside */
};

static int way_found(const struct nlmsghdr *answer, void *arg)
{
    const struct rtmsg *route = mnl_nlmsg_get_payload(answer);

    if (answer->nlmsg_type == RTM_NEWROUTE)
        *(int *)arg = route->rtm_type;
    return MNL_CB_OK;
}

/* 0: as wanted; 1: not; 2: the guest has no TAP, so there is no other way. */
static int way_inside(const void *arg)
{
    const struct way *way = arg;
    struct request q;
    struct rtmsg *route = request_init(&q, RTM_GETROUTE, NLM_F_ACK, sizeof(*route));
    size_t size = way->family == AF_INET ? 4 : 16;
    uint8_t address[16];
    int type = RTN_UNSPEC;

    if (if_nametoindex("tap0") == 0)
        return 2;
    if (inet_pton(way->family, way->to, address) != 1)
        return 1;
    route->rtm_family = (uint8_t)way->family;
    route->rtm_dst_len = (uint8_t)(8 * size);
    mnl_attr_put(&q.header, RTA_DST, size, address);
    mnl_attr_put_u32(&q.header, RTA_MARK, way->mark);
    if (transact(&q.header, way_found, &type) < 0)
        return 1;
    return type != (way->local ? RTN_LOCAL : RTN_UNICAST);
}

static void test_only_marked_packets_without_a_better_way_stay_inside(void **state)
{
    static const struct way ways[] = {
        {AF_INET, "203.0.113.9", MARK, true},
        {AF_INET6, "2001:db8::9", MARK, true},
        {AF_INET, "203.0.113.9", MARK + 0x1234, true}, /* only the bits of the mask count */
        {AF_INET, "203.0.113.9", 0, false},
        {AF_INET6, "2001:db8::9", 0, false},
        {AF_INET, "203.0.113.9", 0x51100000, false},
        {AF_INET, "10.0.2.2", MARK, true},
        {AF_INET6, "fd00::2", MARK, true},
        {AF_INET, "10.0.2.2", 0, false},
        {AF_INET6, "fd00::2", 0, false},
        /* As a container on a bridge: the guest has a route to it. */
        {AF_INET, "10.0.2.7", MARK, false},
        {AF_INET6, "fd00::7", MARK, false},
    };
    union address address6;
    struct agent *a;

    (void)state;
    NEED_GUEST();
    if (in_guest(way_inside, &ways[0]) == 2) {
        print_message("SKIP: no TAP\n");
        skip();
    }
    address6 = address_of(AF_INET6, "fd00::100", 0);
    a = start();
    role_enter(&role_fwd);
    wait_reason(a, &address6, AGENT_READY);
    role_leave(&role_fwd);
    for (size_t i = 0; i < sizeof(ways) / sizeof(ways[0]); i++) {
        int r = in_guest(way_inside, &ways[i]);

        if (r != 0)
            print_error("%s with mark %#x\n", ways[i].to, ways[i].mark);
        assert_int_equal(r, 0);
    }
    agent_free(a);
}

static int lo_inside(const void *arg)
{
    return link_set("lo", *(const bool *)arg) < 0;
}

static void test_lo_goes_down_and_comes_back(void **state)
{
    static const bool down = false, up = true;
    union address address, address6;
    struct agent *a;

    (void)state;
    NEED_GUEST();
    address = address_of(AF_INET, "10.0.2.100", 0);
    address6 = address_of(AF_INET6, "fd00::100", 0);
    a = start();
    role_enter(&role_fwd);
    wait_reason(a, &address, AGENT_READY);
    assert_int_equal(in_guest(lo_inside, &down), 0);
    wait_reason(a, &address, AGENT_LO_DOWN);
    wait_reason(a, &address6, AGENT_LO_DOWN);
    assert_int_equal(in_guest(lo_inside, &up), 0);
    wait_reason(a, &address, AGENT_READY);
    connects_as(a, AF_INET, "203.0.113.9", "10.0.2.100");
    role_leave(&role_fwd);
    agent_free(a);
}

static void test_starts_while_lo_is_down(void **state)
{
    static const bool down = false, up = true;
    union address address;
    struct agent *a;

    (void)state;
    NEED_GUEST();
    address = address_of(AF_INET, "127.0.0.1", 0);
    assert_int_equal(in_guest(lo_inside, &down), 0);
    a = start();
    role_enter(&role_fwd);
    assert_int_equal(agent_can_reach(a, &address), AGENT_NOT_YET);
    assert_int_equal(agent_take_socket(a, AF_INET), -EAGAIN);
    wait_reason(a, &address, AGENT_LO_DOWN);
    assert_int_equal(in_guest(lo_inside, &up), 0);
    wait_reason(a, &address, AGENT_READY);
    connects_as(a, AF_INET, "203.0.113.9", "127.0.0.1");
    role_leave(&role_fwd);
    agent_free(a);
}

struct address_order {
    uint16_t type;
    int n;
};

static int addresses_inside(const void *arg)
{
    const struct address_order *order = arg;

    for (int i = 0; i < order->n; i++) {
        char text[32];

        snprintf(text, sizeof(text), "192.168.%d.%d", 100 + i / 250, 1 + i % 250);
        if (address_change(order->type, "lo", AF_INET, text, 32) < 0)
            return 1;
    }
    return 0;
}

static void test_addresses_are_followed(void **state)
{
    static const struct address_order add = {RTM_NEWADDR, 1}, del = {RTM_DELADDR, 1};
    union address address, foreign, mapped, loopback;
    struct agent *a;

    (void)state;
    NEED_GUEST();
    address = address_of(AF_INET, "192.168.100.1", 0);
    foreign = address_of(AF_INET, "10.0.2.2", 0);
    mapped = address_of(AF_INET6, "::ffff:10.0.2.100", 0);
    loopback = address_of(AF_INET, "127.8.9.10", 0);
    a = start();
    role_enter(&role_fwd);
    wait_reason(a, &address, AGENT_NOT_LOCAL);
    assert_false(agent_is_local(a, &foreign));
    assert_false(agent_is_local(a, &mapped));
    assert_true(agent_is_local(a, &loopback));
    assert_int_equal(in_guest(addresses_inside, &add), 0);
    wait_reason(a, &address, AGENT_READY);
    assert_int_equal(in_guest(addresses_inside, &del), 0);
    wait_reason(a, &address, AGENT_NOT_LOCAL);
    role_leave(&role_fwd);
    agent_free(a);
}

static void test_more_addresses_than_the_list_holds(void **state)
{
    enum { MANY = AGENT_ADDRESSES_MAX + 32 };
    static const struct address_order add = {RTM_NEWADDR, MANY}, del = {RTM_DELADDR, MANY};
    union address address;
    int n_local = 0;
    struct agent *a;

    (void)state;
    NEED_GUEST();
    assert_int_equal(in_guest(addresses_inside, &add), 0);
    a = start();
    role_enter(&role_fwd);
    address = address_of(AF_INET, "127.0.0.1", 0);
    wait_reason(a, &address, AGENT_READY);
    for (int i = 0; i < add.n; i++) {
        char text[32];

        snprintf(text, sizeof(text), "192.168.%d.%d", 100 + i / 250, 1 + i % 250);
        address = address_of(AF_INET, text, 0);
        n_local += agent_is_local(a, &address);
    }
    assert_in_range(n_local, AGENT_ADDRESSES_MAX - 8, AGENT_ADDRESSES_MAX);
    assert_int_equal(in_guest(addresses_inside, &del), 0);
    address = address_of(AF_INET, "192.168.100.1", 0);
    wait_reason(a, &address, AGENT_NOT_LOCAL);
    role_leave(&role_fwd);
    agent_free(a);
}

static void test_the_stock_is_refilled(void **state)
{
    union address address, address6;
    struct agent *a;

    (void)state;
    NEED_GUEST();
    address = address_of(AF_INET, "127.0.0.1", 0);
    address6 = address_of(AF_INET6, "fd00::100", 0);
    a = start();
    role_enter(&role_fwd);
    wait_reason(a, &address, AGENT_READY);
    wait_reason(a, &address6, AGENT_READY);
    for (int i = 0; i < 5 * AGENT_STOCK_MAX; i++) {
        close(take(a, AF_INET));
        close(take(a, AF_INET6));
    }
    assert_int_equal(agent_take_socket(a, AF_UNIX), -EAFNOSUPPORT);
    role_leave(&role_fwd);
    agent_free(a);
}

static void status_line(pid_t pid, const char *name, char *ret, size_t size)
{
    char path[64], line[256];
    FILE *file;

    snprintf(path, sizeof(path), "/proc/%d/status", pid);
    file = fopen(path, "re");
    assert_non_null(file);
    ret[0] = '\0';
    while (fgets(line, sizeof(line), file)) {
        if (strncmp(line, name, strlen(name)) == 0 && line[strlen(name)] == ':')
            snprintf(ret, size, "%.*s", (int)size - 1, line + strlen(name) + 2);
    }
    fclose(file);
    ret[strcspn(ret, "\n")] = '\0';
}

static void wait_standby(struct agent *a) RUNS_ON(role_fwd)
{
    int64_t deadline_ns = clock_monotonic_ns() + WAIT_MS * NS_PER_MS;

    while (!agent_has_standby(a)) {
        assert_true(clock_monotonic_ns() < deadline_ns);
        assert_true(listen_to(a, deadline_ns));
    }
}

/* Of this process: the ids of those that have not ended, at most two; 3: there are more. */
static int children(pid_t pids[2])
{
    char path[64], line[256] = "", *at = line;
    FILE *file;
    int n = 0;

    snprintf(path, sizeof(path), "/proc/self/task/%d/children", getpid());
    file = fopen(path, "re");
    assert_non_null(file);
    if (!fgets(line, sizeof(line), file))
        line[0] = '\0';
    fclose(file);
    for (;;) {
        char state[64], *end;
        long pid = strtol(at, &end, 10);

        if (end == at)
            return n;
        at = end;
        status_line((pid_t)pid, "State", state, sizeof(state));
        if (pid == guest.pid || state[0] == 'Z' || state[0] == 'X' || state[0] == '\0')
            continue;
        if (n == 2)
            return 3;
        pids[n++] = (pid_t)pid;
    }
}

/* 2: the agent and its standby are left. One that was killed closes its socket before it has ended. */
static void wait_children(pid_t pids[2], int n)
{
    int64_t deadline_ns = clock_monotonic_ns() + WAIT_MS * NS_PER_MS;

    while (children(pids) != n) {
        assert_true(clock_monotonic_ns() < deadline_ns);
        usleep(1000);
    }
}

/* The agent's end is seen, and its successor is at work. */
static void succeed(struct agent *a) RUNS_ON(role_fwd)
{
    uint32_t generation = agent_generation(a);
    pid_t pid = agent_pid(a);
    const char *why = NULL;

    assert_int_equal(kill(pid, SIGKILL), 0);
    wait_gone(a);
    assert_int_equal(agent_restart(a, &why), 0);
    assert_null(why);
    assert_int_equal(agent_generation(a), generation + 1);
    assert_int_not_equal(agent_pid(a), pid);
    assert_false(agent_is_gone(a));
    for (int i = 0; i < 2; i++) /* what the former one has said does not count */
        assert_int_equal(agent_family_state(a, i == 0 ? AF_INET : AF_INET6), AGENT_NOT_YET);
    wait_standby(a);
}

static void test_a_standby_takes_over(void **state)
{
    union address address, address6;
    struct agent *a;
    pid_t pids[2];
    char value[128];

    (void)state;
    NEED_GUEST();
    address = address_of(AF_INET, "10.0.2.100", 0);
    address6 = address_of(AF_INET6, "fd00::100", 0);
    assert_int_equal(in_guest(remove_inside, NULL), 0);
    a = start();
    role_enter(&role_fwd);
    wait_reason(a, &address, AGENT_READY);
    wait_reason(a, &address6, AGENT_READY);
    for (int i = 0; i < 3; i++) {          /* each of them a copy of the one before */
        assert_true(agent_has_standby(a)); /* told of before anything else */
        succeed(a);
        connects_as(a, AF_INET, "203.0.113.9", "10.0.2.100");
        connects_as(a, AF_INET6, "2001:db8::9", "fd00::100");
        wait_children(pids, 2);
    }
    for (int i = 0; i < 2; i++) { /* confined like the first one */
        status_line(pids[i], "Name", value, sizeof(value));
        assert_string_equal(value, "nsagent");
        status_line(pids[i], "CapEff", value, sizeof(value));
        assert_string_equal(value, "0000000000001000"); /* CAP_NET_ADMIN */
        status_line(pids[i], "NoNewPrivs", value, sizeof(value));
        assert_string_equal(value, "1");
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) && !defined(__clang__)
        status_line(pids[i], "Seccomp", value, sizeof(value));
        assert_string_equal(value, "2");
#endif
    }
    role_leave(&role_fwd);
    assert_int_equal(in_guest(count_inside, NULL), ALL_OF_IT);
    free_tidily(a); /* also what the first one has added */
    wait_children(pids, 0);
}

/* A guest that kills its agent again and again. */
static void test_too_many_deaths_are_the_end(void **state)
{
    const char *why = NULL;
    pid_t pids[2];
    struct agent *a;

    (void)state;
    NEED_GUEST();
    a = start();
    role_enter(&role_fwd);
    wait_standby(a);
    for (int i = 0; i < AGENT_DEATHS_MAX; i++)
        succeed(a);
    assert_int_equal(kill(agent_pid(a), SIGKILL), 0);
    wait_gone(a);
    assert_int_equal(agent_restart(a, &why), -EPIPE);
    assert_non_null(strstr(why, "too many"));
    assert_true(agent_is_gone(a));
    role_leave(&role_fwd);
    agent_free(a);
    wait_children(pids, 0);
    assert_int_equal(in_guest(remove_inside, NULL), 0);
}

static void test_a_standby_that_is_dead_takes_over_nothing(void **state)
{
    const char *why = NULL;
    pid_t pids[2], agent;
    struct agent *a;

    (void)state;
    NEED_GUEST();
    a = start();
    role_enter(&role_fwd);
    wait_standby(a);
    agent = agent_pid(a);
    assert_int_equal(children(pids), 2);
    assert_int_equal(kill(pids[0] == agent ? pids[1] : pids[0], SIGKILL), 0);
    assert_int_equal(kill(agent, SIGKILL), 0);
    wait_gone(a);
    /* Its end may not have been seen yet when it is asked. */
    if (agent_restart(a, &why) == 0) {
        wait_gone(a);
        assert_int_equal(agent_restart(a, &why), -EPIPE);
    }
    assert_non_null(why);
    role_leave(&role_fwd);
    agent_free(a);
    wait_children(pids, 0);
    assert_int_equal(in_guest(remove_inside, NULL), 0);
}

static void test_killed_agent_is_noticed(void **state)
{
    union address address;
    struct agent *a;

    (void)state;
    NEED_GUEST();
    address = address_of(AF_INET, "10.0.2.100", 0);
    a = start();
    role_enter(&role_fwd);
    wait_reason(a, &address, AGENT_READY);
    close(take(a, AF_INET));
    assert_int_equal(kill(agent_pid(a), SIGKILL), 0);
    wait_gone(a);
    assert_int_equal(agent_read(a), -EPIPE);
    assert_int_equal(agent_can_reach(a, &address), AGENT_NO_AGENT);
    assert_int_equal(agent_take_socket(a, AF_INET), -EPIPE);
    assert_false(agent_is_local(a, &address));
    agent_abandon(a);
    role_leave(&role_fwd);
    agent_free(a);
    /* Nobody could remove these; the next test's agent takes them as its own. */
    assert_int_equal(in_guest(count_inside, NULL), ALL_OF_IT);
}

/* What an earlier run left is used, not doubled, and not ours to remove. */
static void test_leftovers_are_used_and_left(void **state)
{
    union address address6;
    struct agent *a;

    (void)state;
    NEED_GUEST();
    assert_int_equal(in_guest(count_inside, NULL), ALL_OF_IT);
    address6 = address_of(AF_INET6, "fd00::100", 0);
    a = start();
    role_enter(&role_fwd);
    wait_reason(a, &address6, AGENT_READY);
    connects_as(a, AF_INET, "10.0.2.2", "10.0.2.100");
    role_leave(&role_fwd);
    assert_int_equal(in_guest(count_inside, NULL), ALL_OF_IT);
    agent_free(a);
    assert_int_equal(in_guest(count_inside, NULL), ALL_OF_IT);
    assert_int_equal(in_guest(remove_inside, NULL), 0);
    assert_int_equal(in_guest(count_inside, NULL), 0);
}

static void test_nothing_is_left_at_the_end(void **state)
{
    union address address6;
    struct agent *a;
    pid_t pid;

    (void)state;
    NEED_GUEST();
    address6 = address_of(AF_INET6, "fd00::100", 0);
    assert_int_equal(in_guest(remove_inside, NULL), 0);
    a = start();
    pid = agent_pid(a);
    role_enter(&role_fwd);
    wait_reason(a, &address6, AGENT_READY);
    role_leave(&role_fwd);
    assert_int_equal(in_guest(count_inside, NULL), ALL_OF_IT);
    free_tidily(a);
    assert_int_equal(kill(pid, 0), -1);
    assert_int_equal(errno, ESRCH);
    assert_null(agent_free(NULL));
}

static void test_nonsense_ends_the_agent(void **state)
{
    static const struct agent_message nonsense[] = {
        {.type = MESSAGE_SOCKETS, .family = AF_INET},
        {.type = MESSAGE_WANT_SOCKETS, .family = AF_UNIX, .count = 1},
        {.type = MESSAGE_WANT_SOCKETS, .family = AF_INET, .count = AGENT_STOCK_MAX + 1},
        {.type = MESSAGE_WANT_SOCKETS, .family = AF_INET},
        {.type = MESSAGE_LOOK}, /* cut short */
    };

    (void)state;
    NEED_GUEST();
    for (size_t i = 0; i < sizeof(nonsense) / sizeof(nonsense[0]); i++) {
        size_t size = sizeof(nonsense[i]) - (nonsense[i].type == MESSAGE_LOOK);
        struct agent *a = start();

        assert_int_equal(send(agent_fd(a), &nonsense[i], size, 0), size);
        role_enter(&role_fwd);
        wait_gone(a);
        role_leave(&role_fwd);
        free_tidily(a);
    }
}

/* An answer that was not asked for: the parent must not believe it. */
static void test_unasked_sockets_end_the_conversation(void **state)
{
    static const struct agent_message ask = {
        .type = MESSAGE_WANT_SOCKETS, .family = AF_INET, .count = AGENT_STOCK_MAX};
    union address address;
    struct agent *a;

    (void)state;
    NEED_GUEST();
    address = address_of(AF_INET, "127.0.0.1", 0);
    a = start();
    role_enter(&role_fwd);
    wait_reason(a, &address, AGENT_READY);
    close(take(a, AF_INET));
    assert_int_equal(send(agent_fd(a), &ask, sizeof(ask), 0), sizeof(ask));
    wait_gone(a);
    role_leave(&role_fwd);
    agent_free(a);
}

static void test_agent_is_sealed(void **state)
{
    char value[128];
    union address address;
    struct agent *a;
    pid_t pid;

    (void)state;
    NEED_GUEST();
    address = address_of(AF_INET, "127.0.0.1", 0);
    a = start();
    pid = agent_pid(a);
    role_enter(&role_fwd);
    wait_reason(a, &address, AGENT_READY); /* it answers when it is sealed */
    role_leave(&role_fwd);
    status_line(pid, "Name", value, sizeof(value));
    assert_string_equal(value, "nsagent");
    status_line(pid, "CapEff", value, sizeof(value));
    assert_string_equal(value, "0000000000001000"); /* CAP_NET_ADMIN */
    status_line(pid, "CapPrm", value, sizeof(value));
    assert_string_equal(value, "0000000000001000");
    status_line(pid, "CapBnd", value, sizeof(value));
    assert_string_equal(value, "0000000000000000");
    status_line(pid, "NoNewPrivs", value, sizeof(value));
    assert_string_equal(value, "1");
    /* Not in builds with sanitizers; clang has no such macros to tell. */
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) && !defined(__clang__)
    status_line(pid, "Seccomp", value, sizeof(value));
    assert_string_equal(value, "2");
#endif
    /* What a terminal or a service manager sends to everybody does not end it before its parent. */
    assert_int_equal(kill(pid, SIGINT), 0);
    assert_int_equal(kill(pid, SIGTERM), 0);
    assert_int_equal(kill(pid, SIGHUP), 0);
    role_enter(&role_fwd);
    close(take(a, AF_INET));
    role_leave(&role_fwd);
    agent_free(a);
}

static bool has_ended(pid_t pid)
{
    char path[64], line[256], state = 'X';
    FILE *file;

    snprintf(path, sizeof(path), "/proc/%d/status", pid);
    file = fopen(path, "re");
    if (!file)
        return true;
    while (fgets(line, sizeof(line), file)) /* there is none any more if it is reaped meanwhile */
        (void)sscanf(line, "State: %c", &state);
    fclose(file);
    return state == 'Z' || state == 'X'; /* whoever inherited it may leave it as a zombie */
}

/* The parent of the agent and of its standby ends without a word. */
static void test_agent_dies_with_its_parent(void **state)
{
    int fds[2], status;
    struct pollfd p = {.events = POLLIN};
    pid_t parent, pids[2] = {0};
    int64_t begin_ns;
    union address address6;

    (void)state;
    NEED_GUEST();
    assert_int_equal(in_guest(remove_inside, NULL), 0);
    address6 = address_of(AF_INET6, "fd00::100", 0);
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    parent = fork();
    assert_true(parent >= 0);
    if (parent == 0) {
        struct agent *a = start();

        role_enter(&role_fwd);
        wait_standby(a);
        wait_reason(a, &address6, AGENT_READY); /* it has made all of its rules */
        role_leave(&role_fwd);
        if (children(pids) != 2 || write(fds[1], pids, sizeof(pids)) != sizeof(pids))
            _exit(1);
        for (;;)
            pause();
    }
    close(fds[1]);
    p.fd = fds[0];
    assert_int_equal(poll(&p, 1, WAIT_MS), 1);
    assert_int_equal(read(fds[0], pids, sizeof(pids)), sizeof(pids));
    close(fds[0]);
    assert_false(has_ended(pids[0]) || has_ended(pids[1]));
    kill(parent, SIGKILL);
    assert_int_equal(waitpid(parent, &status, 0), parent);
    begin_ns = clock_monotonic_ns();
    while (!has_ended(pids[0]) || !has_ended(pids[1])) {
        assert_true(clock_monotonic_ns() - begin_ns < WAIT_MS * NS_PER_MS);
        usleep(2000);
    }
    if (clock_monotonic_ns() - begin_ns < LAST_MS * NS_PER_MS)
        assert_int_equal(in_guest(count_inside, NULL), 0); /* it has tidied up */
    assert_int_equal(in_guest(remove_inside, NULL), 0);
}

static void test_failure_has_a_sentence(void **state)
{
    struct agent_config c = *config();
    struct failure why = FAILURE_NULL;
    struct agent *a = NULL;
    int null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

    (void)state;
    assert_true(null_fd >= 0);
    c.userns_fd = -1;
    c.netns_fd = null_fd;
    assert_int_equal(agent_start(&a, &c, &why), 0);
    assert_int_equal(agent_wait(a, &why), -EINVAL);
    a = agent_free(a);
    assert_int_equal(why.code, -EINVAL);
    assert_string_equal(why.what, "the agent cannot join the guest's network namespace");
    assert_string_equal(why.hint, "this file is no network namespace");
    assert_int_equal(agent_start(&a, &c, NULL), 0);
    assert_int_equal(agent_wait(a, NULL), -EINVAL);
    agent_free(a);
    close(null_fd);
}

static int say_and_return(void *arg)
{
    const int *how = arg; /* where to, and what */

    return write(how[0], "f", 1) == 1 ? how[1] : -EIO;
}

/* The process does something else first, and is no agent if that fails. */
static void test_first_of_all(void **state)
{
    static const int results[] = {0, -ENODEV};

    (void)state;
    NEED_GUEST();
    for (unsigned i = 0; i < ARRAY_SIZE(results); i++) {
        struct agent_config c = *config();
        struct failure why = FAILURE_NULL;
        struct agent *a = NULL;
        int ends[2], how[2];
        char said;

        assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
        how[0] = ends[1];
        how[1] = results[i];
        c.first = say_and_return;
        c.first_arg = how;
        assert_int_equal(agent_start(&a, &c, &why), 0);
        close(ends[1]);
        assert_int_equal(agent_wait(a, &why), results[i] < 0 ? -EPIPE : 0);
        assert_int_equal(read(ends[0], &said, 1), 1);
        assert_int_equal(read(ends[0], &said, 1), 0); /* nobody has it any more: not the agent either */
        role_enter(&role_fwd);
        assert_int_equal(agent_is_gone(a), results[i] < 0);
        role_leave(&role_fwd);
        assert_int_equal(agent_pid(a) == 0, results[i] < 0); /* it has been reaped */
        agent_free(a);
        close(ends[0]);
    }
}

enum { LAST_WORD = 7 };

/* In the place of the agent: reports, and when the first request is there leaves a last word and ends without
 * having read it. */
static int dying_agent(void *arg)
{
    const struct agent_message started = {.type = MESSAGE_STARTED},
                               said = {.type = MESSAGE_DIVERTED, .result = -EIO, .divert.id = LAST_WORD};
    struct pollfd p = {.events = POLLIN};

    (void)arg;
    for (int fd = 3; fd < 1024; fd++) {
        int type = 0;
        socklen_t size = sizeof(type);

        if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) == 0 && type == SOCK_SEQPACKET)
            p.fd = fd; /* the last one that was made */
    }
    if (send(p.fd, &started, sizeof(started), MSG_NOSIGNAL) != sizeof(started) || poll(&p, 1, WAIT_MS) != 1 ||
        send(p.fd, &said, sizeof(said), MSG_NOSIGNAL) != sizeof(said))
        _exit(EXIT_FAILURE);
    _exit(EXIT_SUCCESS);
}

static void hear(void *arg, uint64_t id, int result, int fd)
{
    uint64_t *heard = arg;

    assert_int_equal(result, -EIO);
    assert_int_equal(fd, -1);
    *heard = id;
}

/* The kernel says ECONNRESET before the last word, since a request was unread. */
static void test_the_last_word_of_an_agent_is_heard(void **state)
{
    struct agent_config c;
    struct agent *a = NULL;
    uint64_t heard = 0;
    siginfo_t info;

    (void)state;
    NEED_GUEST();
    c = *config();
    c.first = dying_agent;
    assert_int_equal(agent_start(&a, &c, NULL), 0);
    assert_int_equal(agent_wait(a, NULL), 0);
    agent_on_diverted(a, hear, &heard);
    agent_go(a);
    assert_int_equal(waitid(P_PID, (id_t)agent_pid(a), &info, WEXITED | WNOWAIT), 0);
    assert_int_equal(info.si_status, EXIT_SUCCESS);
    role_enter(&role_fwd);
    assert_int_equal(agent_read(a), -EPIPE);
    assert_int_equal(heard, LAST_WORD);
    role_leave(&role_fwd);
    agent_free(a);
}

/* The parent runs out of descriptors: less is received than was sent, nothing breaks. */
static void test_parent_without_descriptors(void **state)
{
    struct rlimit before, few;
    union address address;
    struct agent *a;
    int64_t deadline_ns;
    int next_fd, fd;

    (void)state;
    NEED_GUEST();
    address = address_of(AF_INET, "127.0.0.1", 0);
    a = start();
    next_fd = dup(0);
    close(next_fd);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    few = before;
    few.rlim_cur = (rlim_t)next_fd + 5;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
    role_enter(&role_fwd);
    wait_reason(a, &address, AGENT_READY);
    deadline_ns = clock_monotonic_ns() + WAIT_MS * NS_PER_MS;
    while ((fd = dup(0)) >= 0) { /* until the stock has them all */
        close(fd);
        assert_true(clock_monotonic_ns() < deadline_ns);
        assert_true(listen_to(a, deadline_ns));
    }
    assert_int_equal(errno, EMFILE);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
    for (int i = 0; i < 2 * AGENT_STOCK_MAX; i++)
        close(take(a, AF_INET));
    role_leave(&role_fwd);
    agent_free(a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_servers_see_the_clients_address),
        cmocka_unit_test(test_closed_port_is_refused_at_once),
        cmocka_unit_test(test_only_marked_packets_without_a_better_way_stay_inside),
        cmocka_unit_test(test_lo_goes_down_and_comes_back),
        cmocka_unit_test(test_starts_while_lo_is_down),
        cmocka_unit_test(test_addresses_are_followed),
        cmocka_unit_test(test_more_addresses_than_the_list_holds),
        cmocka_unit_test(test_the_stock_is_refilled),
        cmocka_unit_test(test_nothing_is_left_at_the_end),
        cmocka_unit_test(test_a_standby_takes_over),
        cmocka_unit_test(test_too_many_deaths_are_the_end),
        cmocka_unit_test(test_a_standby_that_is_dead_takes_over_nothing),
        cmocka_unit_test(test_killed_agent_is_noticed),
        cmocka_unit_test(test_the_last_word_of_an_agent_is_heard),
        cmocka_unit_test(test_leftovers_are_used_and_left),
        cmocka_unit_test(test_nonsense_ends_the_agent),
        cmocka_unit_test(test_unasked_sockets_end_the_conversation),
        cmocka_unit_test(test_agent_is_sealed),
        cmocka_unit_test(test_agent_dies_with_its_parent),
        cmocka_unit_test(test_failure_has_a_sentence),
        cmocka_unit_test(test_first_of_all),
        cmocka_unit_test(test_parent_without_descriptors),
    };

    return cmocka_run_group_tests(tests, guest_setup, guest_teardown);
}
