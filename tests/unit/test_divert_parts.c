/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * test_divert_parts.c - fwd/repair and fwd/nft together carry a guest's connection past the TAP
 *
 *     guest's client -- SYN --> tap0 (10.0.2.100, fd00::100) --> the test, which plays the diversion
 *           |  <------------- SYN-ACK ----------------------------------+
 *           +-- all else --> nft: mark --> ip rule --> lo --> socket made by repair_connect()
 *
 * Every test runs in a child of its own, in a new user and network namespace; it ends with code 0, or with 77
 * and a line "SKIP: ..." for what cannot be tried here; anything else is a failure. Kernel clients choose
 * their sequence numbers themselves, so those around 2^31 and 2^32 are a matter of many connections here and
 * of tests/kernel/repair_window.c.
 */
#include "fwd/half_open.h"
#include "fwd/nft.h"
#include "fwd/repair.h"
#include "fwd/sock_diag.h"

#include "base/bits.h"
#include "base/clock.h"
#include "io/packet.h"
#include "test.h"

#include <errno.h>
#include <fcntl.h>
#include <libmnl/libmnl.h>
#include <libnftnl/common.h>
#include <linux/fib_rules.h>
#include <linux/if_tun.h>
#include <linux/neighbour.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    EXIT_SKIP = 77,
    WAIT_MS = 10000,
    ALARM_S = 60,
    TABLE = 21324,
    MARK = 0x5300,
    MARK_MASK = 0xff00,
    FOREIGN_MARK = 0x1a0000, /* outside the mask */
    FLOWS_MAX = 32,
};

#define KIB ((size_t)1 << 10)
#define MIB ((size_t)1 << 20)

static const uint8_t guest_mac[6] = {0x02, 0, 0, 0, 0, 0x64}, gateway_mac[6] = {0x52, 0x55, 0x0a, 0, 2, 2};
static const char *const server4 = "198.51.100.7", *const server6 = "2001:db8:7::7";

/* ---- verdicts ---- */

#define END(code, ...)       \
    do {                     \
        printf(__VA_ARGS__); \
        putchar('\n');       \
        fflush(stdout);      \
        _exit(code);         \
    } while (0)
#define skipped(...) END(EXIT_SKIP, "SKIP: " __VA_ARGS__)
/* Any thread: what must hold; the sentence says what it means that it does not. */
#define CHECK(condition, ...)                             \
    do {                                                  \
        if (!(condition)) {                               \
            printf("test_divert_parts.c:%d: ", __LINE__); \
            END(EXIT_FAILURE, __VA_ARGS__);               \
        }                                                 \
    } while (0)
/* A call that returns a negative value and errno when it fails, and must not. */
#define MUST(call) CHECK((call) >= 0, "%s: %s", #call, strerror(errno))
/* One that returns a negative errno. */
#define ZERO(call)                                                           \
    do {                                                                     \
        int _r = (call);                                                     \
        CHECK(_r == 0, "%s: %d %s", #call, _r, strerror(_r < 0 ? -_r : _r)); \
    } while (0)

/* ---- the guest's network ---- */

struct attribute {
    uint16_t type, size;
    const void *data;
};

/* One rtnetlink request: 0 or a negative errno. */
static int request(uint16_t type, uint16_t flags, const void *body, size_t body_size,
                   const struct attribute *attributes, size_t n_attributes)
{
    struct mnl_socket *socket = mnl_socket_open2(NETLINK_ROUTE, SOCK_CLOEXEC);
    _Alignas(8) uint8_t space[2048];
    struct nlmsghdr *message = mnl_nlmsg_put_header(space);
    ssize_t n;
    int r = 0;

    CHECK(socket, "rtnetlink: %s", strerror(errno));
    message->nlmsg_type = type;
    message->nlmsg_flags = (uint16_t)(NLM_F_REQUEST | NLM_F_ACK | flags);
    memcpy(mnl_nlmsg_put_extra_header(message, body_size), body, body_size);
    for (size_t i = 0; i < n_attributes; i++)
        mnl_attr_put(message, attributes[i].type, attributes[i].size, attributes[i].data);
    MUST(mnl_socket_sendto(socket, message, message->nlmsg_len));
    n = mnl_socket_recvfrom(socket, space, sizeof(space));
    if (n < 0 || mnl_cb_run(space, (size_t)n, 0, 0, NULL, NULL) < 0)
        r = -errno;
    mnl_socket_close(socket);
    return r;
}
#define REQUEST(type, flags, body, attributes) \
    request(type, flags, &(body), sizeof(body), attributes, ARRAY_SIZE(attributes))

static union address at(const char *text, uint16_t port)
{
    union address a;
    bool v6 = strchr(text, ':');

    memset(&a, 0, sizeof(a));
    a.sa.sa_family = v6 ? AF_INET6 : AF_INET;
    CHECK(inet_pton(a.sa.sa_family, text, v6 ? (void *)&a.in6.sin6_addr : (void *)&a.in.sin_addr) == 1,
          "%s is no address", text);
    address_set_port(&a, port);
    return a;
}

/* The bytes of an address as an attribute; points into @a. */
static struct attribute ip_attribute(uint16_t type, const union address *a)
{
    bool v6 = a->sa.sa_family == AF_INET6;

    return (struct attribute){type, v6 ? 16 : 4,
                              v6 ? (const void *)&a->in6.sin6_addr : (const void *)&a->in.sin_addr};
}

static int file_write(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC), r = 0;

    if (fd < 0)
        return -errno;
    if (write(fd, text, strlen(text)) < 0)
        r = -errno;
    close(fd);
    return r;
}

static void sysctl_set(const char *path, const char *text)
{
    int r = file_write(path, text);

    if (r < 0)
        skipped("cannot write %s: %s", path, strerror(-r));
}

static void id_map(const char *path, unsigned id)
{
    char line[32];
    int r;

    snprintf(line, sizeof(line), "0 %u 1", id);
    r = file_write(path, line);
    if (r < 0)
        skipped("cannot write %s: %s", path, strerror(-r));
}

static int link_up(unsigned index, const uint8_t *mac)
{
    struct ifinfomsg link = {.ifi_index = (int)index, .ifi_flags = IFF_UP, .ifi_change = IFF_UP};
    const struct attribute attributes[] = {{IFLA_ADDRESS, 6, mac}};

    return request(RTM_NEWLINK, 0, &link, sizeof(link), attributes, mac ? 1 : 0);
}

/* Address, gateway with its Ethernet address, default route. */
static int address_add(unsigned index, const char *address_text, uint8_t prefix, const char *gateway_text)
{
    union address address = at(address_text, 0), gateway = at(gateway_text, 0);
    sa_family_t family = address.sa.sa_family;
    struct ifaddrmsg a = {.ifa_family = (uint8_t)family,
                          .ifa_prefixlen = prefix,
                          .ifa_flags = family == AF_INET6 ? IFA_F_NODAD : 0,
                          .ifa_index = index};
    const struct attribute a_attributes[] = {ip_attribute(IFA_LOCAL, &address),
                                             ip_attribute(IFA_ADDRESS, &address)};
    struct ndmsg neighbour = {
        .ndm_family = (uint8_t)family, .ndm_ifindex = (int)index, .ndm_state = NUD_PERMANENT};
    const struct attribute n_attributes[] = {ip_attribute(NDA_DST, &gateway), {NDA_LLADDR, 6, gateway_mac}};
    struct rtmsg route = {.rtm_family = (uint8_t)family,
                          .rtm_table = RT_TABLE_MAIN,
                          .rtm_protocol = RTPROT_STATIC,
                          .rtm_type = RTN_UNICAST};
    const struct attribute r_attributes[] = {ip_attribute(RTA_GATEWAY, &gateway), {RTA_OIF, 4, &index}};
    int r;

    if ((r = REQUEST(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, a, a_attributes)) < 0)
        return r;
    ZERO(REQUEST(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, neighbour, n_attributes));
    ZERO(REQUEST(RTM_NEWROUTE, NLM_F_CREATE, route, r_attributes));
    return 0;
}

/* ip rule add fwmark MARK/MASK lookup TABLE; ip route add local default dev lo table TABLE */
static void mark_means_local(sa_family_t family, uint32_t mark, uint32_t mask)
{
    const uint32_t table = TABLE, lo = if_nametoindex("lo");
    struct fib_rule_hdr rule = {.family = (uint8_t)family, .action = FR_ACT_TO_TBL};
    const struct attribute rule_attributes[] = {
        {FRA_TABLE, 4, &table}, {FRA_FWMARK, 4, &mark}, {FRA_FWMASK, 4, &mask}};
    struct rtmsg route = {.rtm_family = (uint8_t)family,
                          .rtm_protocol = RTPROT_STATIC,
                          .rtm_scope = RT_SCOPE_HOST,
                          .rtm_type = RTN_LOCAL};
    const struct attribute route_attributes[] = {{RTA_TABLE, 4, &table}, {RTA_OIF, 4, &lo}};

    ZERO(REQUEST(RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL, rule, rule_attributes));
    ZERO(REQUEST(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, route, route_attributes));
}

/* An IPv6 address is there at once, but packets to it are only taken when the kernel has noticed, a little
 * later, that the link is up: the address's own route says so. @digits: as in /proc/net/ipv6_route. */
static void v6_wait(const char *digits)
{
    int64_t deadline = clock_monotonic_ns() + WAIT_MS * NS_PER_MS;

    for (;;) {
        FILE *file = fopen("/proc/thread-self/net/ipv6_route", "re");
        char line[256];
        bool found = false;

        CHECK(file, "no list of IPv6 routes: %s", strerror(errno));
        while (fgets(line, sizeof(line), file))
            found |= strncmp(line, digits, 32) == 0 && strncmp(line + 32, " 80 ", 4) == 0;
        fclose(file);
        if (found)
            return;
        CHECK(clock_monotonic_ns() < deadline, "the IPv6 address %s is not usable", digits);
        poll(NULL, 0, 1);
    }
}

struct world {
    int tap;
    struct nft *nft;
    bool has_v6;
    uint32_t isns[FLOWS_MAX]; /* of the last SYNs that syn_wait() has seen */
    uint32_t n_isns;
    uint32_t n_timed;
    int64_t repair_ns[FLOWS_MAX], add_ns[FLOWS_MAX], remove_ns[FLOWS_MAX];
};

static void namespace_enter(void)
{
    unsigned uid = geteuid(), gid = getegid();
    int r;

    alarm(ALARM_S);
    signal(SIGPIPE, SIG_IGN);
    if (unshare(CLONE_NEWUSER | CLONE_NEWNET) < 0)
        skipped("no user and network namespace: %s", strerror(errno));
    r = file_write("/proc/self/setgroups", "deny");
    if (r < 0 && r != -ENOENT)
        skipped("cannot write /proc/self/setgroups: %s", strerror(-r));
    id_map("/proc/self/uid_map", uid);
    id_map("/proc/self/gid_map", gid);
    r = link_up(if_nametoindex("lo"), NULL);
    if (r < 0)
        skipped("no rights over the new network namespace: %s", strerror(-r));
}

static void world_new(struct world *w, uint32_t rule_mark, uint32_t rule_mask)
{
    struct ifreq ifr = {.ifr_name = "tap0", .ifr_flags = IFF_TAP | IFF_NO_PI};
    unsigned tap;
    int r;

    namespace_enter();
    memset(w, 0, sizeof(*w));
    w->tap = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (w->tap < 0)
        skipped("cannot open /dev/net/tun: %s", strerror(errno));
    if (ioctl(w->tap, TUNSETIFF, &ifr) < 0)
        skipped("cannot make a TAP: %s", strerror(errno));
    tap = if_nametoindex("tap0");
    ZERO(link_up(tap, guest_mac));
    ZERO(address_add(tap, "10.0.2.100", 24, "10.0.2.2"));
    mark_means_local(AF_INET, rule_mark, rule_mask);
    w->has_v6 = address_add(tap, "fd00::100", 64, "fd00::2") == 0;
    if (w->has_v6) {
        mark_means_local(AF_INET6, rule_mark, rule_mask);
        v6_wait("fd000000000000000000000000000100");
    }
    r = nft_new(&w->nft, MARK, MARK_MASK);
    if (r == -EOPNOTSUPP || r == -ENOENT || r == -EPROTONOSUPPORT)
        skipped("nf_tables with an owner (Linux 5.12) cannot be had: %s", strerror(-r));
    ZERO(r);
}

static void world_free(struct world *w)
{
    w->nft = nft_free(w->nft);
    close(w->tap);
}

/* ---- the TAP ---- */

/* The next TCP frame that the guest sends; everything else is read over. False: none in @timeout_ms. */
static bool tcp_next(struct world *w, int timeout_ms, uint8_t frame[2048], struct packet *ret)
{
    int64_t deadline = clock_monotonic_ns() + timeout_ms * NS_PER_MS;

    for (;;) {
        int64_t left_ns = deadline - clock_monotonic_ns();
        struct pollfd p = {.fd = w->tap, .events = POLLIN};
        enum packet_kind kind;
        ssize_t n;

        if (poll(&p, 1, left_ns > 0 ? (int)(left_ns / NS_PER_MS) + 1 : 0) == 0)
            return false;
        n = read(w->tap, frame, 2048);
        MUST(n);
        kind = packet_parse(ret, frame, (uint32_t)n);
        if ((kind == PACKET_IPV4 || kind == PACKET_IPV6) && ret->ip_protocol == IPPROTO_TCP && ret->l4)
            return true;
    }
}

/* Nothing but SYNs that came again. */
static void tap_is_quiet(struct world *w, int n_syns_max)
{
    uint8_t frame[2048];
    struct packet p;

    for (int n_syns = 0; tcp_next(w, 20, frame, &p);) {
        CHECK(p.tcp_flags == PACKET_TCP_SYN, "TCP with flags %#x from port %d came out of the TAP",
              p.tcp_flags, p.src_port);
        CHECK(++n_syns <= n_syns_max, "%d SYNs came again", n_syns);
    }
}

struct syn {
    struct nft_tuple tuple;
    uint32_t isn;
    uint16_t window, mss;
    bool has_wscale, sack;
    uint8_t wscale;
};

static union address packet_address(const struct packet *p, const uint8_t *bytes, uint16_t port)
{
    union address a;

    memset(&a, 0, sizeof(a));
    if (p->frame[12] == 0x08) {
        a.sa.sa_family = AF_INET;
        memcpy(&a.in.sin_addr, bytes, 4);
    } else {
        a.sa.sa_family = AF_INET6;
        memcpy(&a.in6.sin6_addr, bytes, 16);
    }
    address_set_port(&a, port);
    return a;
}

static uint32_t get_u32(const uint8_t *p)
{
    return (uint32_t)get_u16(p) << 16 | get_u16(p + 2);
}

static void put_u32(uint8_t *p, uint32_t v)
{
    put_u16(p, (uint16_t)(v >> 16));
    put_u16(p + 2, (uint16_t)v);
}

static void syn_parse(struct syn *ret, const struct packet *p)
{
    const uint8_t *option = p->l4 + 20, *options_end = p->l4 + (size_t)(p->l4[12] >> 4) * 4;

    *ret = (struct syn){.tuple = {.source = packet_address(p, p->src, p->src_port),
                                  .destination = packet_address(p, p->dst, p->dst_port)},
                        .isn = get_u32(p->l4 + 4),
                        .window = get_u16(p->l4 + 14),
                        .mss = p->frame[12] == 0x08 ? 536 : 1220};
    while (option < options_end && *option != TCPOPT_EOL) {
        if (*option == TCPOPT_NOP) {
            option++;
            continue;
        }
        if (*option == TCPOPT_MAXSEG)
            ret->mss = get_u16(option + 2);
        ret->sack |= *option == TCPOPT_SACK_PERMITTED;
        if (*option == TCPOPT_WINDOW) {
            ret->has_wscale = true;
            ret->wscale = option[2];
        }
        CHECK(option[1] >= 2, "the kernel's SYN has an option of %d bytes", option[1]);
        option += option[1];
    }
}

static void syn_next(struct world *w, struct syn *ret)
{
    uint8_t frame[2048];
    struct packet p;

    CHECK(tcp_next(w, WAIT_MS, frame, &p), "no SYN on the TAP");
    CHECK(p.tcp_flags == PACKET_TCP_SYN, "TCP with flags %#x on the TAP instead of a SYN", p.tcp_flags);
    syn_parse(ret, &p);
}

/* One of a connection that is new: on a busy machine the kernel repeats those that are answered late. */
static void syn_wait(struct world *w, struct syn *ret)
{
    bool is_old;

    do {
        syn_next(w, ret);
        is_old = false;
        for (uint32_t i = 0; i < w->n_isns && i < FLOWS_MAX; i++)
            is_old |= w->isns[i] == ret->isn;
    } while (is_old);
    w->isns[w->n_isns++ % FLOWS_MAX] = ret->isn;
}

static void synack_write(struct world *w, const struct syn *syn, uint32_t isn)
{
    const union address *from = &syn->tuple.destination, *to = &syn->tuple.source;
    const bool v6 = from->sa.sa_family == AF_INET6;
    uint8_t frame[128] = {0}, *ip = frame + 14, *tcp = ip + (v6 ? 40 : 20), *o = tcp + 20;
    const struct attribute source = ip_attribute(0, from), destination = ip_attribute(0, to);
    uint16_t sum, size;
    uint32_t pseudo;

    *o++ = TCPOPT_MAXSEG;
    *o++ = 4;
    put_u16(o, v6 ? 1440 : 1460);
    o += 2;
    if (syn->has_wscale) {
        const uint8_t wscale[] = {TCPOPT_NOP, TCPOPT_WINDOW, 3, repair_wscale()};

        memcpy(o, wscale, sizeof(wscale));
        o += sizeof(wscale);
    }
    if (syn->sack) {
        const uint8_t sack[] = {TCPOPT_NOP, TCPOPT_NOP, TCPOPT_SACK_PERMITTED, 2};

        memcpy(o, sack, sizeof(sack));
        o += sizeof(sack);
    }
    size = (uint16_t)(o - tcp);
    put_u16(tcp, address_port(from));
    put_u16(tcp + 2, address_port(to));
    put_u32(tcp + 4, isn);
    put_u32(tcp + 8, syn->isn + 1);
    tcp[12] = (uint8_t)(size / 4 << 4);
    tcp[13] = PACKET_TCP_SYN | PACKET_TCP_ACK;
    put_u16(tcp + 14, REPAIR_WINDOW);

    memcpy(frame, guest_mac, 6);
    memcpy(frame + 6, gateway_mac, 6);
    if (v6) {
        put_u16(frame + 12, 0x86dd);
        ip[0] = 6 << 4;
        put_u16(ip + 4, size);
        ip[6] = IPPROTO_TCP;
        ip[7] = 64;
        memcpy(ip + 8, source.data, 16);
        memcpy(ip + 24, destination.data, 16);
    } else {
        put_u16(frame + 12, 0x0800);
        ip[0] = 0x45;
        put_u16(ip + 2, (uint16_t)(20 + size));
        ip[8] = 64;
        ip[9] = IPPROTO_TCP;
        memcpy(ip + 12, source.data, 4);
        memcpy(ip + 16, destination.data, 4);
        sum = checksum_fold(checksum_add(0, ip, 20));
        memcpy(ip + 10, &sum, 2);
    }
    pseudo = checksum_add(0, source.data, source.size);
    pseudo = checksum_add(pseudo, destination.data, destination.size);
    pseudo = checksum_add(pseudo, (const uint8_t[]){0, IPPROTO_TCP, (uint8_t)(size >> 8), (uint8_t)size}, 4);
    sum = checksum_fold(checksum_add(pseudo, tcp, size));
    memcpy(tcp + 16, &sum, 2);
    MUST(write(w->tap, frame, (size_t)(o - frame)));
}

/* ---- flows ---- */

/* The guest's client: connects in a thread of its own. */
struct client {
    union address server;
    uint32_t mark;
    void (*prepare)(void *arg); /* first thing in the thread */
    void *arg;
    pthread_t thread;
    int fd;
};

static void *client_run(void *arg)
{
    struct client *c = arg;
    const struct timeval patience = {.tv_sec = WAIT_MS / 1000};

    if (c->prepare)
        c->prepare(c->arg);
    c->fd = socket(c->server.sa.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    MUST(c->fd);
    MUST(setsockopt(c->fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience)));
    if (c->mark)
        MUST(setsockopt(c->fd, SOL_SOCKET, SO_MARK, &c->mark, sizeof(c->mark)));
    CHECK(connect(c->fd, &c->server.sa, address_size(&c->server)) == 0, "the guest's connect(): %s",
          strerror(errno));
    MUST(fcntl(c->fd, F_SETFL, O_NONBLOCK));
    return NULL;
}

static void client_start(struct client *c)
{
    CHECK(pthread_create(&c->thread, NULL, client_run, c) == 0, "no thread");
}

struct flow {
    struct client client;
    struct syn syn;
    int own_fd; /* the repaired socket */
    uint32_t isn;
};

static struct repair_spec spec_of(const struct syn *syn, uint32_t isn)
{
    return (struct repair_spec){
        .local = syn->tuple.destination,
        .peer = syn->tuple.source,
        .peer_isn = syn->isn,
        .isn = isn,
        .window = syn->window,
        .mss = syn->mss,
        .has_wscale = syn->has_wscale,
        .peer_wscale = syn->wscale,
        .wscale = repair_wscale(),
        .sack = syn->sack,
    };
}

/* The socket and the element, for a SYN that has been seen. */
static void flow_divert(struct world *w, struct flow *f)
{
    struct repair_spec spec;
    int64_t start, repaired, added;

    f->isn = (uint32_t)clock_monotonic_ns() * 2654435761U;
    spec = spec_of(&f->syn, f->isn);
    start = clock_monotonic_ns();
    ZERO(repair_connect(&spec, &f->own_fd));
    repaired = clock_monotonic_ns();
    ZERO(nft_add(w->nft, &f->syn.tuple, 1));
    added = clock_monotonic_ns();
    if (w->n_timed < FLOWS_MAX) {
        w->repair_ns[w->n_timed] = repaired - start;
        w->add_ns[w->n_timed] = added - repaired;
    }
}

static void flow_begin(struct flow *f, const char *server, uint16_t port)
{
    *f = (struct flow){.client = {.server = at(server, port), .fd = -1}, .own_fd = -1};
    client_start(&f->client);
}

static void flow_answer(struct world *w, struct flow *f)
{
    synack_write(w, &f->syn, f->isn);
    CHECK(pthread_join(f->client.thread, NULL) == 0, "cannot join");
}

static void flow_open(struct world *w, struct flow *f, const char *server, uint16_t port)
{
    flow_begin(f, server, port);
    syn_wait(w, &f->syn);
    flow_divert(w, f);
    flow_answer(w, f);
}

static int tcp_state(int fd)
{
    struct tcp_info info;
    socklen_t size = sizeof(info);

    MUST(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size));
    return info.tcpi_state;
}

/* What a stream carries at each place: a period that is no multiple of any buffer's size. */
enum { PATTERN_PERIOD = 65521 };
static uint8_t pattern[PATTERN_PERIOD];

static void pattern_make(void)
{
    uint32_t x = 2463534242U;

    for (size_t i = 0; i < sizeof(pattern); i++) {
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        pattern[i] = (uint8_t)x;
    }
}

struct stream {
    int from, to;
    const char *direction;
    size_t size, sent, received, offset; /* @offset: two directions carry different bytes */
    bool ends;                           /* with a FIN */
    bool ended;
};

static bool stream_send(struct stream *s)
{
    size_t place = (s->sent + s->offset) % PATTERN_PERIOD, left = s->size - s->sent;
    ssize_t n;

    if (left == 0)
        return false;
    n = send(s->from, pattern + place, left < PATTERN_PERIOD - place ? left : PATTERN_PERIOD - place, 0);
    CHECK(n > 0 || errno == EAGAIN, "%s: send: %s", s->direction, strerror(errno));
    if (n < 0)
        return false;
    s->sent += (size_t)n;
    if (s->sent == s->size && s->ends)
        MUST(shutdown(s->from, SHUT_WR));
    return true;
}

static bool stream_receive(struct stream *s)
{
    static uint8_t buffer[256 * KIB];
    ssize_t n;

    if (s->ended || (s->received == s->size && !s->ends))
        return false;
    n = recv(s->to, buffer, sizeof(buffer), 0);
    CHECK(n >= 0 || errno == EAGAIN, "%s: recv: %s", s->direction, strerror(errno));
    if (n < 0)
        return false;
    if (n == 0) {
        CHECK(s->ends && s->received == s->size, "%s: the stream ends after %zu of %zu bytes", s->direction,
              s->received, s->size);
        s->ended = true;
    }
    CHECK(s->received + (size_t)n <= s->size, "%s: too many bytes", s->direction);
    for (size_t i = 0; i < (size_t)n;) {
        size_t place = (s->received + i + s->offset) % PATTERN_PERIOD, run = (size_t)n - i;

        run = run < PATTERN_PERIOD - place ? run : PATTERN_PERIOD - place;
        CHECK(memcmp(buffer + i, pattern + place, run) == 0, "%s: other bytes than were sent, near %zu",
              s->direction, s->received + i);
        i += run;
    }
    s->received += (size_t)n;
    return true;
}

/* @size bytes each way at once, then, if asked for, the end of both directions. */
static void flow_exchange(struct flow *f, size_t size, bool ends)
{
    struct stream up = {f->client.fd, f->own_fd, "from the guest", size, 0, 0, 0, ends, false},
                  down = {f->own_fd, f->client.fd, "to the guest", size, 0, 0, 12345, ends, false};
    int64_t deadline = clock_monotonic_ns() + WAIT_MS * NS_PER_MS;

    while (up.received < size || down.received < size || (ends && (!up.ended || !down.ended))) {
        bool moved = stream_send(&up);

        moved |= stream_send(&down);
        moved |= stream_receive(&up);
        moved |= stream_receive(&down);
        if (!moved) {
            CHECK(clock_monotonic_ns() < deadline, "%zu of %zu bytes from the guest, %zu to it, then nothing",
                  up.received, size, down.received);
            poll(NULL, 0, 1);
        }
    }
}

/* After both directions have ended: the sockets' connections end, then the element goes. */
static void flow_close(struct world *w, struct flow *f)
{
    int64_t deadline = clock_monotonic_ns() + WAIT_MS * NS_PER_MS, start;

    while (tcp_state(f->client.fd) != TCP_CLOSE || tcp_state(f->own_fd) != TCP_CLOSE) {
        CHECK(clock_monotonic_ns() < deadline, "after FIN and FIN: the guest in state %d, we in %d",
              tcp_state(f->client.fd), tcp_state(f->own_fd));
        poll(NULL, 0, 1);
    }
    close(f->own_fd);
    close(f->client.fd);
    start = clock_monotonic_ns();
    ZERO(nft_remove(w->nft, &f->syn.tuple, 1));
    if (w->n_timed < FLOWS_MAX)
        w->remove_ns[w->n_timed++] = clock_monotonic_ns() - start;
}

static void flow_whole(struct world *w, const char *server, uint16_t port, size_t size)
{
    struct flow f;

    flow_open(w, &f, server, port);
    flow_exchange(&f, size, true);
    flow_close(w, &f);
}

/* ---- the ruleset, seen from another socket ---- */

static int count_ours(const struct nlmsghdr *message, void *arg)
{
    const struct nlattr *name = mnl_nlmsg_get_payload_offset(message, sizeof(struct nfgenmsg));

    /* A table's name is its first attribute. */
    if (mnl_attr_get_type(name) == NFTA_TABLE_NAME &&
        strncmp(mnl_attr_get_str(name), "slirp4netns_", 12) == 0)
        ++*(int *)arg;
    return MNL_CB_OK;
}

/* How many tables of ours there are; before that, if asked for, what `nft flush ruleset` sends. */
static int tables_count(bool flush)
{
    struct mnl_socket *socket = mnl_socket_open2(NETLINK_NETFILTER, SOCK_CLOEXEC);
    _Alignas(8) char space[4096];
    struct nlmsghdr *message;
    int n_tables = 0, more = 1;
    ssize_t n;

    CHECK(socket, "nfnetlink: %s", strerror(errno));
    if (flush) {
        message = nftnl_batch_begin(space, 1);
        n = message->nlmsg_len;
        message = nftnl_nlmsg_build_hdr(space + n, NFT_MSG_DELTABLE, NFPROTO_UNSPEC, NLM_F_ACK, 2);
        n += message->nlmsg_len;
        message = nftnl_batch_end(space + n, 3);
        n += message->nlmsg_len;
        MUST(mnl_socket_sendto(socket, space, (size_t)n));
        n = mnl_socket_recvfrom(socket, space, sizeof(space));
        MUST(n);
        CHECK(mnl_cb_run(space, (size_t)n, 2, 0, NULL, NULL) >= 0, "flush: %s", strerror(errno));
    }
    message = nftnl_nlmsg_build_hdr(space, NFT_MSG_GETTABLE, NFPROTO_UNSPEC, NLM_F_DUMP, 4);
    MUST(mnl_socket_sendto(socket, message, message->nlmsg_len));
    while (more > 0) {
        n = mnl_socket_recvfrom(socket, space, sizeof(space));
        MUST(n);
        more = mnl_cb_run(space, (size_t)n, 4, 0, count_ours, &n_tables);
        MUST(more);
    }
    mnl_socket_close(socket);
    return n_tables;
}

/* ---- figures ---- */

static int compare_ns(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

    return x < y ? -1 : x > y;
}

static double median_us(int64_t *ns, size_t n)
{
    int64_t middle;

    qsort(ns, n, sizeof(*ns), compare_ns);
    middle = ns[n / 2];
    return (double)middle / 1000;
}

/* ---- tests ---- */

static void v4_flow(void)
{
    struct world w;

    world_new(&w, MARK, MARK_MASK);
    flow_whole(&w, server4, 443, 8 * MIB);
    tap_is_quiet(&w, 1);
    world_free(&w);
}

static void v6_flow(void)
{
    struct world w;

    world_new(&w, MARK, MARK_MASK);
    if (!w.has_v6)
        skipped("no IPv6");
    flow_whole(&w, server6, 443, 8 * MIB);
    tap_is_quiet(&w, 1);
    world_free(&w);
}

static void many_flows(void)
{
    enum { FLOWS = 20 };
    struct flow flows[FLOWS];
    struct world w;

    world_new(&w, MARK, MARK_MASK);
    for (int i = 0; i < FLOWS; i++)
        flow_open(&w, &flows[i], w.has_v6 && i % 2 ? server6 : server4, (uint16_t)(1000 + i / 4));
    for (int i = 0; i < FLOWS; i++)
        flow_exchange(&flows[i], 256 * KIB, false);
    for (int i = 0; i < FLOWS; i++) {
        w.n_timed = (uint32_t)i;
        flow_exchange(&flows[i], 16 * KIB, true);
        flow_close(&w, &flows[i]);
    }
    tap_is_quiet(&w, FLOWS);
    world_free(&w);
}

/* One after the other, as they come: what the steps cost. */
static void steps_are_fast(void)
{
    struct nft_tuple tuples[NFT_BATCH_MAX];
    int64_t start, add_ns = 0, remove_ns = 0, on_ns, off_ns;
    struct world w;

    world_new(&w, MARK, MARK_MASK);
    for (int i = 0; i < FLOWS_MAX; i++)
        flow_whole(&w, server4, 443, 16 * KIB);
    printf("median of %d: repair_connect %.1f us, nft_add %.1f us, nft_remove %.1f us\n", FLOWS_MAX,
           median_us(w.repair_ns, FLOWS_MAX), median_us(w.add_ns, FLOWS_MAX),
           median_us(w.remove_ns, FLOWS_MAX));
    for (uint32_t i = 0; i < NFT_BATCH_MAX; i++)
        tuples[i] = (struct nft_tuple){at("10.0.2.100", (uint16_t)(2000 + i)), at(server4, 443)};
    for (int i = 0; i < 100; i++) {
        start = clock_monotonic_ns();
        ZERO(nft_add(w.nft, tuples, NFT_BATCH_MAX));
        add_ns += clock_monotonic_ns() - start;
        start = clock_monotonic_ns();
        ZERO(nft_remove(w.nft, tuples, NFT_BATCH_MAX));
        remove_ns += clock_monotonic_ns() - start;
    }
    printf("batches of %d: nft_add %.1f us, nft_remove %.1f us\n", NFT_BATCH_MAX, (double)add_ns / 1e5,
           (double)remove_ns / 1e5);
    start = clock_monotonic_ns();
    ZERO(nft_nested(w.nft, true));
    on_ns = clock_monotonic_ns() - start;
    start = clock_monotonic_ns();
    ZERO(nft_nested(w.nft, false));
    printf("nft_nested on %.1f us, off %.1f us\n", (double)on_ns / 1e3,
           (double)(clock_monotonic_ns() - start) / 1e3);
    start = clock_monotonic_ns();
    w.nft = nft_free(w.nft);
    off_ns = clock_monotonic_ns();
    ZERO(nft_new(&w.nft, MARK, MARK_MASK));
    printf("nft_free %.1f us, nft_new %.1f us\n", (double)(off_ns - start) / 1e3,
           (double)(clock_monotonic_ns() - off_ns) / 1e3);
    world_free(&w);
}

static void *bulk_send(void *arg)
{
    const struct stream *s = arg;
    struct pollfd p = {.fd = s->from, .events = POLLOUT};
    static uint8_t zeros[256 * KIB];

    for (size_t sent = 0; sent < s->size;) {
        ssize_t n = send(s->from, zeros, sizeof(zeros), 0);

        if (n > 0)
            sent += (size_t)n;
        else
            poll(&p, 1, WAIT_MS);
    }
    MUST(shutdown(s->from, SHUT_WR));
    return NULL;
}

/* Returns Gbit/s. */
static double bulk(int from, int to, size_t size)
{
    struct stream s = {.from = from, .to = to, .size = size};
    struct pollfd p = {.fd = to, .events = POLLIN};
    static uint8_t buffer[256 * KIB];
    int64_t start = clock_monotonic_ns();
    size_t received = 0;
    pthread_t thread;

    CHECK(pthread_create(&thread, NULL, bulk_send, &s) == 0, "no thread");
    for (;;) {
        ssize_t n = recv(to, buffer, sizeof(buffer), 0);

        if (n == 0)
            break;
        if (n > 0)
            received += (size_t)n;
        else
            CHECK(errno == EAGAIN && poll(&p, 1, WAIT_MS) == 1, "bulk: %zu bytes, then nothing", received);
    }
    pthread_join(thread, NULL);
    CHECK(received >= size, "bulk: %zu of %zu bytes", received, size);
    return (double)received * 8 / (double)(clock_monotonic_ns() - start);
}

/* The reader sleeps while the guest sends: the window that it gets is more than an unscaled one. */
static void window_opens(void)
{
    static uint8_t zeros[64 * KIB], buffer[64 * KIB];
    size_t sent = 0, received = 0;
    int64_t end_ns;
    int queued = 0;
    struct world w;
    struct flow f;
    double up, down;

    world_new(&w, MARK, MARK_MASK);
    flow_open(&w, &f, server4, 443);
    up = bulk(f.client.fd, f.own_fd, 256 * MIB);
    down = bulk(f.own_fd, f.client.fd, 256 * MIB);
    flow_close(&w, &f);
    printf("one flow: %.1f Gbit/s from the guest, %.1f Gbit/s to it; window scale %d\n", up, down,
           repair_wscale());

    flow_open(&w, &f, server4, 443);
    end_ns = clock_monotonic_ns() + WAIT_MS * NS_PER_MS;
    do { /* once, unless the machine is busy */
        CHECK(clock_monotonic_ns() < end_ns, "the receive window does not open: %d bytes", queued);
        for (int64_t until = clock_monotonic_ns() + 300 * NS_PER_MS; clock_monotonic_ns() < until;) {
            /* A round: fill what there is room for, then take half of it; so the kernel sees a reader that
             * reads. */
            for (ssize_t n; (n = send(f.client.fd, zeros, sizeof(zeros), 0)) > 0;)
                sent += (size_t)n;
            for (ssize_t n; (n = recv(f.own_fd, buffer, sizeof(buffer), 0)) > 0;)
                received += (size_t)n;
        }
        for (int i = 0; i < 50; i++) {
            for (ssize_t n; (n = send(f.client.fd, zeros, sizeof(zeros), 0)) > 0;)
                sent += (size_t)n;
            poll(NULL, 0, 1);
        }
        MUST(ioctl(f.own_fd, FIONREAD, &queued));
    } while ((size_t)queued <= 256 * KIB);
    printf("a reader that sleeps has %d KiB waiting\n", queued >> 10);
    CHECK(sent > received, "nothing is queued");
    close(f.client.fd);
    close(f.own_fd);
    world_free(&w);
}

static void two_flows_to_one_place(void)
{
    struct flow a, b;
    struct world w;

    world_new(&w, MARK, MARK_MASK);
    flow_open(&w, &a, server4, 443);
    flow_exchange(&a, 64 * KIB, false);
    flow_open(&w, &b, server4, 443);
    flow_exchange(&b, MIB, false);
    flow_exchange(&a, MIB, true);
    flow_close(&w, &a);
    flow_exchange(&b, MIB, true);
    flow_close(&w, &b);
    tap_is_quiet(&w, 2);
    world_free(&w);
}

static void server_listens(void)
{
    const union address any = at("0.0.0.0", 443);
    const int on = 1;
    struct world w;
    struct flow a, b;
    int fd;

    world_new(&w, MARK, MARK_MASK);
    flow_open(&w, &a, server4, 443);
    fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    MUST(fd);
    MUST(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)));
    MUST(bind(fd, &any.sa, sizeof(any.in)));
    MUST(listen(fd, 1));
    /* And the other way round: the server is there first. */
    flow_open(&w, &b, server4, 443);
    flow_exchange(&a, MIB, true);
    flow_exchange(&b, MIB, true);
    flow_close(&w, &a);
    flow_close(&w, &b);
    close(fd);
    tap_is_quiet(&w, 2);
    world_free(&w);
}

static void taken_tuple(void)
{
    struct sock_diag diag = {.socket = NULL};
    struct repair_spec spec;
    struct world w;
    struct flow f;
    int fd = -1, r;

    world_new(&w, MARK, MARK_MASK);
    flow_open(&w, &f, server4, 443);
    spec = spec_of(&f.syn, f.isn);
    r = repair_connect(&spec, &fd);
    CHECK(r == -EADDRINUSE && fd == -1, "a second socket with the same four-tuple: %d", r);
    MUST(shutdown(f.own_fd, SHUT_WR)); /* first: so TIME_WAIT is ours */
    CHECK(poll(&(struct pollfd){.fd = f.client.fd, .events = POLLIN}, 1, WAIT_MS) == 1,
          "our FIN does not arrive");
    MUST(shutdown(f.client.fd, SHUT_WR));
    flow_close(&w, &f);
    r = repair_connect(&spec, &fd);
    CHECK(r == -EADDRINUSE && fd == -1, "a second socket with a four-tuple in TIME_WAIT: %d", r);
    ZERO(sock_diag_init(&diag));
    r = sock_diag_destroy(&diag, &spec.local, &spec.peer);
    if (r == -EOPNOTSUPP)
        skipped("this kernel does not let a socket in TIME_WAIT be destroyed");
    CHECK(r == 0, "the socket in TIME_WAIT cannot be destroyed: %d", r);
    ZERO(repair_connect(&spec, &fd));
    close(fd);
    r = sock_diag_destroy(&diag, &spec.peer, &spec.local);
    CHECK(r == -ENOENT, "there is nothing to destroy the other way round: %d", r);
    mnl_socket_close(diag.socket);
    world_free(&w);
}

static void plain_syn(void)
{
    struct world w;
    struct flow f;

    world_new(&w, MARK, MARK_MASK);
    sysctl_set("/proc/sys/net/ipv4/tcp_window_scaling", "0");
    sysctl_set("/proc/sys/net/ipv4/tcp_sack", "0");
    flow_open(&w, &f, server4, 443);
    CHECK(!f.syn.has_wscale && !f.syn.sack, "the SYN has options that are switched off");
    flow_exchange(&f, 4 * MIB, true);
    flow_close(&w, &f);
    tap_is_quiet(&w, 1);
    world_free(&w);
}

static void lost_synack(void)
{
    struct syn again;
    struct world w;
    struct flow f;

    world_new(&w, MARK, MARK_MASK);
    flow_begin(&f, server4, 443);
    syn_wait(&w, &f.syn);
    flow_divert(&w, &f);
    syn_next(&w, &again);
    CHECK(again.isn == f.syn.isn, "a new SYN, not the old one again");
    flow_answer(&w, &f);
    flow_exchange(&f, MIB, true);
    flow_close(&w, &f);
    tap_is_quiet(&w, 1);
    world_free(&w);
}

static void foreign_flush(void)
{
    struct world w;
    struct flow f;

    world_new(&w, MARK, MARK_MASK);
    flow_open(&w, &f, server4, 443);
    flow_exchange(&f, 64 * KIB, false);
    CHECK(tables_count(true) == 1, "the table is gone with somebody else's flush");
    flow_exchange(&f, MIB, true);
    flow_close(&w, &f);
    tap_is_quiet(&w, 1);
    flow_whole(&w, server4, 443, 64 * KIB);
    world_free(&w);
    CHECK(tables_count(false) == 0, "the table has outlived nft_free()");
}

static void removed_tuple(void)
{
    uint8_t frame[2048];
    struct packet p;
    struct world w;
    struct flow f;

    world_new(&w, MARK, MARK_MASK);
    flow_open(&w, &f, server4, 443);
    flow_exchange(&f, 64 * KIB, false);
    tap_is_quiet(&w, 1);
    ZERO(nft_remove(w.nft, &f.syn.tuple, 1));
    MUST(send(f.client.fd, "x", 1, 0));
    CHECK(tcp_next(&w, WAIT_MS, frame, &p) && p.dst_port == 443 && !(p.tcp_flags & PACKET_TCP_SYN),
          "a removed flow does not come to the TAP");
    CHECK(recv(f.own_fd, frame, 1, 0) < 0 && errno == EAGAIN, "a removed flow's byte arrives");
    /* Its retransmission finds the way when the tuple is back. */
    ZERO(nft_add(w.nft, &f.syn.tuple, 1));
    CHECK(poll(&(struct pollfd){.fd = f.own_fd, .events = POLLIN}, 1, WAIT_MS) == 1 &&
              recv(f.own_fd, frame, sizeof(frame), 0) == 1 && frame[0] == 'x',
          "a flow that is back is not well");
    while (tcp_next(&w, 20, frame, &p))
        continue;
    flow_exchange(&f, MIB, true);
    flow_close(&w, &f);
    tap_is_quiet(&w, 0);
    world_free(&w);
}

/* The rule asks for bits that only the client has set: if the chain lost them, or left those inside the mask,
 * the flow's packets would go to the TAP. */
static void foreign_mark(void)
{
    struct world w;
    struct flow f;

    world_new(&w, FOREIGN_MARK | MARK, 0xffffffff);
    f = (struct flow){.client = {.server = at(server4, 443), .mark = FOREIGN_MARK | 0xa500}};
    client_start(&f.client);
    syn_wait(&w, &f.syn);
    flow_divert(&w, &f);
    flow_answer(&w, &f);
    flow_exchange(&f, MIB, true);
    flow_close(&w, &f);
    tap_is_quiet(&w, 1);
    world_free(&w);
}

static struct nft_tuple tuple_number(uint32_t i)
{
    return (struct nft_tuple){at("10.0.2.100", (uint16_t)(i % 60000 + 1)),
                              at(server4, (uint16_t)(i / 60000 + 1))};
}

static void set_limits(void)
{
    struct nft_tuple tuples[NFT_BATCH_MAX + 1];
    struct world w;
    int r;

    world_new(&w, MARK, MARK_MASK);
    r = nft_add(w.nft, tuples, NFT_BATCH_MAX + 1);
    CHECK(r == -EINVAL, "too large a batch: %d", r);
    ZERO(nft_add(w.nft, tuples, 0));
    tuples[0] = (struct nft_tuple){at("10.0.2.100", 1), at(server6, 1)};
    r = nft_add(w.nft, tuples, 1);
    CHECK(r == -EAFNOSUPPORT, "two families in one tuple: %d", r);

    /* Both families in one batch, one of them twice; again; some of them away, then all. */
    for (uint32_t i = 0; i < NFT_BATCH_MAX; i++)
        tuples[i] = i % 2 ? (struct nft_tuple){at("fd00::100", (uint16_t)i), at(server6, 1)}
                          : (struct nft_tuple){at("10.0.2.100", (uint16_t)(i == 2 ? 0 : i)), at(server4, 1)};
    ZERO(nft_add(w.nft, tuples, NFT_BATCH_MAX));
    ZERO(nft_add(w.nft, tuples, NFT_BATCH_MAX));
    ZERO(nft_remove(w.nft, tuples + 10, 20));
    ZERO(nft_remove(w.nft, tuples + 10, 1));
    ZERO(nft_remove(w.nft, tuples, NFT_BATCH_MAX));
    ZERO(nft_remove(w.nft, tuples, NFT_BATCH_MAX));

    /* If any had been left, the set would be full too early. */
    for (uint32_t i = 0; i < NFT_TUPLES_MAX; i += NFT_BATCH_MAX) {
        for (uint32_t j = 0; j < NFT_BATCH_MAX; j++)
            tuples[j] = tuple_number(i + j);
        ZERO(nft_add(w.nft, tuples, NFT_BATCH_MAX));
    }
    tuples[0] = tuple_number(NFT_TUPLES_MAX);
    r = nft_add(w.nft, tuples, 1);
    CHECK(r == -ENFILE, "one tuple too many: %d", r);
    tuples[1] = tuple_number(0);
    ZERO(nft_remove(w.nft, tuples, 2));
    ZERO(nft_add(w.nft, tuples, 1));
    world_free(&w);
}

static void no_rights(void)
{
    struct repair_spec spec;
    struct nft *nft = NULL;
    struct world w;
    int fd = -1, r;

    world_new(&w, MARK, MARK_MASK);
    r = nft_new(&nft, 0x10000, MARK_MASK);
    CHECK(r == -EINVAL, "a mark outside its mask: %d", r);
    MUST(unshare(CLONE_NEWUSER)); /* now the network belongs to somebody else */
    r = nft_new(&nft, MARK, MARK_MASK);
    CHECK(r == -EPERM && !nft, "nft_new() without rights: %d", r);
    spec = (struct repair_spec){.local = at(server4, 443), .peer = at("10.0.2.100", 4711), .mss = 1460};
    r = repair_connect(&spec, &fd);
    CHECK(r == -EPERM && fd == -1, "repair_connect() without rights: %d", r);
    world_free(&w);
}

/* ---- containers ---- */

struct container {
    int number;               /* one digit, part of its addresses */
    int at_home[2], moved[2]; /* pipes: its thread id; the link is there */
};

static void shell(const char *command)
{
    int status = system(command); /* fixed strings; NOLINT(cert-env33-c) */

    if (status != 0)
        skipped("`%s` fails", command);
}

static void container_enter(void *arg)
{
    struct container *c = arg;
    pid_t tid = (pid_t)syscall(SYS_gettid);
    char byte, command[512];

    MUST(unshare(CLONE_NEWNET));
    MUST(write(c->at_home[1], &tid, sizeof(tid)));
    MUST(read(c->moved[0], &byte, 1));
    snprintf(command, sizeof(command),
             "ip link set lo up && ip addr add 172.20.0.1%d/24 dev eth0 && ip link set eth0 up && "
             "ip route add default via 172.20.0.1 && ip addr add fd01::1%d/64 dev eth0 nodad && "
             "ip route add default via fd01::1",
             c->number, c->number);
    shell(command);
    snprintf(command, sizeof(command), "fd01000000000000000000000000001%d", c->number);
    v6_wait(command);
}

/* A container of its own for each flow, as each client's thread brings its network with it. That of an
 * earlier one may still be there. */
static void container_flow(struct world *w, struct flow *f, int number, const char *server, uint16_t port)
{
    struct container c = {.number = number};
    char command[256];
    pid_t tid = 0;

    MUST(pipe(c.at_home));
    MUST(pipe(c.moved));
    *f = (struct flow){.client = {.server = at(server, port), .prepare = container_enter, .arg = &c}};
    client_start(&f->client);
    MUST(read(c.at_home[0], &tid, sizeof(tid)));
    snprintf(command, sizeof(command),
             "ip link add veth%d type veth peer name eth0 netns %d && ip link set veth%d master br0 up",
             number, tid, number);
    shell(command);
    MUST(write(c.moved[1], "", 1));
    syn_wait(w, &f->syn);
    for (int i = 0; i < 2; i++) {
        close(c.at_home[i]);
        close(c.moved[i]);
    }
    flow_divert(w, f);
    flow_answer(w, f);
}

static void bridge_make(struct world *w)
{
    shell("command -v ip >/dev/null && command -v nft >/dev/null");
    if (!w->has_v6)
        skipped("no IPv6");
    sysctl_set("/proc/sys/net/ipv4/ip_forward", "1");
    sysctl_set("/proc/sys/net/ipv6/conf/all/forwarding", "1");
    /* A bridge without an Ethernet address of its own takes another one when a port goes. */
    shell("ip link add br0 address 02:00:00:00:00:01 type bridge && ip addr add 172.20.0.1/24 dev br0 && "
          "ip addr add fd01::1/64 dev br0 nodad && ip link set br0 up");
    shell("nft 'table inet nat { chain postrouting { type nat hook postrouting priority srcnat; "
          "oifname tap0 masquerade; }; chain prerouting { type nat hook prerouting priority dstnat; "
          "ip daddr 10.99.99.99 tcp dport 80 dnat ip to 198.51.100.7:443; }; }'");
}

static void nested(void)
{
    static const char *const servers[] = {"198.51.100.7", "2001:db8:7::7", "10.99.99.99"};
    struct world w;
    struct flow f;

    world_new(&w, MARK, MARK_MASK);
    bridge_make(&w);
    ZERO(nft_nested(w.nft, true));
    ZERO(nft_nested(w.nft, true));
    for (int i = 0; i < (int)ARRAY_SIZE(servers); i++) {
        container_flow(&w, &f, i, servers[i], i == 2 ? 80 : 443);
        flow_exchange(&f, 4 * MIB, true);
        flow_close(&w, &f);
        tap_is_quiet(&w, 1);
    }
    /* The guest's own connections still work. */
    flow_whole(&w, server4, 443, MIB);
    tap_is_quiet(&w, 1);
    ZERO(nft_nested(w.nft, false));
    ZERO(nft_nested(w.nft, false));
    world_free(&w);
}

/* Without the chain the flow's packets come to the TAP; it can be made while they do. */
static void nested_late(void)
{
    uint8_t frame[2048];
    struct packet p;
    struct world w;
    struct flow f;

    world_new(&w, MARK, MARK_MASK);
    bridge_make(&w);
    container_flow(&w, &f, 0, server4, 443);
    do
        CHECK(tcp_next(&w, WAIT_MS, frame, &p), "a container's ACK does not come to the TAP");
    while (p.tcp_flags == PACKET_TCP_SYN); /* once more, on a busy machine */
    CHECK(p.tcp_flags == PACKET_TCP_ACK, "TCP with flags %#x on the TAP instead of an ACK", p.tcp_flags);
    ZERO(nft_nested(w.nft, true));
    flow_exchange(&f, 4 * MIB, false);
    printf("one flow of a container: %.1f Gbit/s\n", bulk(f.client.fd, f.own_fd, 256 * MIB));
    bulk(f.own_fd, f.client.fd, 16 * MIB);
    flow_close(&w, &f);
    tap_is_quiet(&w, 0);
    world_free(&w);
}

/* ---- half open ---- */

struct waiting {
    struct half_opens list;
    struct half_open *over; /* the last one */
    unsigned n_over, n_silent;
};

static void half_open_over(void *arg, struct half_open *o)
{
    struct waiting *w = arg;

    w->n_over++;
    w->over = o;
    half_open_remove(&w->list, o);
}

static void half_open_silent(void *arg, struct half_open *o)
{
    struct waiting *w = arg;

    (void)o;
    w->n_silent++;
}

static void waiting_begin(struct waiting *ret, uint32_t max, uint32_t look_ms)
{
    *ret = (struct waiting){.over = NULL};
    half_opens_init(&ret->list, max, look_ms);
    ret->list.arg = ret;
    ret->list.on_over = half_open_over;
    ret->list.on_silent = half_open_silent;
}

static void waiting_until_empty(struct waiting *w)
{
    int64_t deadline = clock_monotonic_ns() + WAIT_MS * NS_PER_MS;

    while (w->list.n > 0) {
        CHECK(clock_monotonic_ns() < deadline, "%u are still waited for", w->list.n);
        half_opens_turn(&w->list);
        poll(NULL, 0, 1);
    }
    CHECK(half_opens_until_ns(&w->list) == INT64_MAX, "a turn is wanted for nobody");
}

static void silent_flow(struct world *w, struct flow *f, uint16_t port)
{
    flow_begin(f, server4, port);
    syn_wait(w, &f->syn);
    flow_divert(w, f);
}

static void silent_guest(void)
{
    struct half_open o = {.n_looks = 7};
    struct waiting waiting;
    struct world w;
    struct flow f;

    world_new(&w, MARK, MARK_MASK);
    silent_flow(&w, &f, 443);
    waiting_begin(&waiting, 8, 2);
    half_open_add(&waiting.list, &o, f.own_fd, clock_monotonic_ns());
    waiting_until_empty(&waiting);
    CHECK(waiting.n_over == 1 && waiting.over == &o && o.n_looks == HALF_OPEN_LOOKS,
          "given up %u times after %u looks", waiting.n_over, o.n_looks);
    CHECK(waiting.n_silent == 5, "answered again %u times", waiting.n_silent);

    flow_answer(&w, &f); /* an acknowledgement is enough */
    half_open_add(&waiting.list, &o, f.own_fd, clock_monotonic_ns());
    waiting_until_empty(&waiting);
    CHECK(waiting.n_over == 1 && o.n_looks < HALF_OPEN_LOOKS, "given up although it has answered");
    world_free(&w);
}

static void too_many_silent_guests(void)
{
    enum { ANSWERED, OLD, YOUNG, YOUNGEST, N };
    struct half_open o[N];
    struct waiting waiting;
    struct world w;
    struct flow f[N];
    int64_t now_ns, old_ns;

    world_new(&w, MARK, MARK_MASK);
    for (int i = 0; i < N; i++)
        silent_flow(&w, &f[i], (uint16_t)(443 + i));
    flow_answer(&w, &f[ANSWERED]);
    waiting_begin(&waiting, 2, WAIT_MS);
    now_ns = clock_monotonic_ns();
    old_ns = now_ns - HALF_OPEN_GRACE_MS * NS_PER_MS;
    for (int i = 0; i < N; i++)
        half_open_add(&waiting.list, &o[i], f[i].own_fd, i <= OLD ? old_ns : now_ns + WAIT_MS * NS_PER_MS);
    half_opens_turn(&waiting.list);
    CHECK(waiting.n_over == 1 && waiting.over == &o[OLD], "%u were given up", waiting.n_over);
    CHECK(waiting.list.n == 2, "%u are waited for", waiting.list.n);
    for (int i = OLD; i < N; i++)
        flow_answer(&w, &f[i]);
    half_open_remove(&waiting.list, &o[YOUNG]);
    half_open_remove(&waiting.list, &o[YOUNGEST]);
    half_open_remove(&waiting.list, &o[YOUNGEST]);
    CHECK(waiting.list.n == 0, "%u are waited for", waiting.list.n);
    world_free(&w);
}

static void half_open_bounds(void)
{
    struct rlimit limit;
    rlim_t before;

    MUST(getrlimit(RLIMIT_NOFILE, &limit));
    before = limit.rlim_cur;
    limit.rlim_cur = 64;
    MUST(setrlimit(RLIMIT_NOFILE, &limit));
    CHECK(half_open_connecting_max() == 16 && half_open_silent_max() == 8, "of 64 descriptors");
    limit.rlim_cur = 3;
    MUST(setrlimit(RLIMIT_NOFILE, &limit));
    CHECK(half_open_connecting_max() == 1 && half_open_silent_max() == 1, "of 3 descriptors");
    CHECK(!half_open_is_too_much(100, 100, INT64_MAX), "it is not too many");
    CHECK(half_open_is_too_much(101, 100, HALF_OPEN_GRACE_MS * NS_PER_MS), "it is too many, and not young");
    CHECK(!half_open_is_too_much(150, 100, 0) && half_open_is_too_much(151, 100, 0),
          "young ones have a bound");
    limit.rlim_cur = before; /* a sanitizer has files to open at the end */
    MUST(setrlimit(RLIMIT_NOFILE, &limit));
}

/* ---- cmocka ---- */

static void in_child(void (*body)(void))
{
    int status;
    pid_t pid;

    fflush(NULL);
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        pattern_make();
        body();
        exit(0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (WIFEXITED(status) && WEXITSTATUS(status) == EXIT_SKIP)
        skip();
    if (WIFSIGNALED(status))
        print_message("signal %d%s\n", WTERMSIG(status),
                      WTERMSIG(status) == SIGALRM ? ": still running at the last deadline" : "");
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

#define TEST(name, body)           \
    static void name(void **state) \
    {                              \
        (void)state;               \
        in_child(body);            \
    }

TEST(test_an_ipv4_flow_leaves_the_tap_after_its_syn, v4_flow)
TEST(test_an_ipv6_flow_leaves_the_tap_after_its_syn, v6_flow)
TEST(test_many_flows_at_once_whatever_their_sequence_numbers, many_flows)
TEST(test_a_second_flow_to_the_same_destination_works, two_flows_to_one_place)
TEST(test_the_steps_and_their_times, steps_are_fast)
TEST(test_the_receive_window_opens, window_opens)
TEST(test_a_server_of_the_guest_can_listen_on_a_diverted_port, server_listens)
TEST(test_a_taken_four_tuple_is_in_use, taken_tuple)
TEST(test_a_syn_without_options_gets_a_socket_without_them, plain_syn)
TEST(test_a_lost_syn_ack_can_be_sent_again, lost_synack)
TEST(test_somebody_elses_flush_leaves_the_table_alone_and_free_removes_it, foreign_flush)
TEST(test_a_removed_tuple_sends_its_packets_to_the_tap, removed_tuple)
TEST(test_bits_outside_the_mask_stay, foreign_mark)
TEST(test_tuples_may_exist_or_be_missing_and_the_set_has_an_end, set_limits)
TEST(test_without_rights_both_say_eperm, no_rights)
TEST(test_a_masqueraded_container_is_diverted, nested)
TEST(test_the_nested_chain_can_come_later, nested_late)
TEST(test_a_guest_that_never_answers_is_given_up_after_repetitions, silent_guest)
TEST(test_of_too_many_the_oldest_that_has_not_answered_goes, too_many_silent_guests)
TEST(test_half_open_connections_have_a_share_of_the_descriptors, half_open_bounds)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_an_ipv4_flow_leaves_the_tap_after_its_syn),
        cmocka_unit_test(test_an_ipv6_flow_leaves_the_tap_after_its_syn),
        cmocka_unit_test(test_many_flows_at_once_whatever_their_sequence_numbers),
        cmocka_unit_test(test_a_second_flow_to_the_same_destination_works),
        cmocka_unit_test(test_the_steps_and_their_times),
        cmocka_unit_test(test_the_receive_window_opens),
        cmocka_unit_test(test_a_server_of_the_guest_can_listen_on_a_diverted_port),
        cmocka_unit_test(test_a_taken_four_tuple_is_in_use),
        cmocka_unit_test(test_a_syn_without_options_gets_a_socket_without_them),
        cmocka_unit_test(test_a_lost_syn_ack_can_be_sent_again),
        cmocka_unit_test(test_somebody_elses_flush_leaves_the_table_alone_and_free_removes_it),
        cmocka_unit_test(test_a_removed_tuple_sends_its_packets_to_the_tap),
        cmocka_unit_test(test_bits_outside_the_mask_stay),
        cmocka_unit_test(test_tuples_may_exist_or_be_missing_and_the_set_has_an_end),
        cmocka_unit_test(test_without_rights_both_say_eperm),
        cmocka_unit_test(test_a_masqueraded_container_is_diverted),
        cmocka_unit_test(test_the_nested_chain_can_come_later),
        cmocka_unit_test(test_a_guest_that_never_answers_is_given_up_after_repetitions),
        cmocka_unit_test(test_of_too_many_the_oldest_that_has_not_answered_goes),
        cmocka_unit_test(test_half_open_connections_have_a_share_of_the_descriptors),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
