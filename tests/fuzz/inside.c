/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "inside.h"

#include "fds.h"
#include "namespace.h"
#include "outside.h"

#include "base/fd_passing.h"
#include "fwd/agent_protocol.h"
#include "fwd/flow.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/syscall.h>

enum {
    PID = 0x3fffffff,
    SET_MAX = 256,
    CONNS_MAX = 16,
    LATE_MAX = 32,
    REQUESTS_PER_TURN = 64,
    PATIENCE_MS = 2000,
    SYN_ACK_MSS = 65495, /* as no SYN-ACK of libslirp's has it */
    TCP_SIZE = 20,
    TCP_SYN = 2,
};

enum step {
    STEP_SEND,
    STEP_SHUTDOWN,
    STEP_CLOSE,
    STEP_DEAF,
    STEP_AGENT,
    STEP_FAIL,
    STEP_STATE,
    STEP_SAY,
    STEPS,
};

struct conn {
    int fd; /* -1: free */
    struct nft_tuple tuple;
    uint32_t sent, received;
    bool deaf, ended;
};

static int outside_ns = -1, guest_ns = -1, null_fd = -1;
static struct conn conns[CONNS_MAX];
static uint8_t buffer[65536];
static struct {
    int fd;       /* its end; -1: it has ended */
    int pair_end; /* of the last socketpair(2) */
    bool deaf, slow, stingy;
    bool lied; /* what is in the set says nothing any more */
    int error; /* of the next request */
    struct agent_message late[LATE_MAX];
    uint32_t n_late;
    uint64_t last_id;
} agent;
static struct {
    struct nft_tuple tuples[SET_MAX];
    uint32_t n;
    bool direct, joined;
    int error; /* of the next change */
} set;

/* ---- the nft set ---- */

static uint32_t set_find(const struct nft_tuple *t)
{
    uint32_t i = 0;

    while (i < set.n && memcmp(&set.tuples[i], t, sizeof(*t)) != 0)
        i++;
    return i;
}

/* With $FUZZ_SHOW: what changes in the set. */
static void show(const char *what, const struct nft_tuple *t)
{
    if (getenv("FUZZ_SHOW"))
        fprintf(stderr, "the set: %s port %u to %u\n", what, address_port(&t->source),
                address_port(&t->destination));
}

static int set_add(const struct nft_tuple *t)
{
    int r = set.error;

    set.error = 0;
    if (r != 0)
        return r;
    CHECK(t->source.sa.sa_family == t->destination.sa.sa_family && !address_is_self(&t->source));
    if (set_find(t) < set.n)
        return 0;
    CHECK(set.n < SET_MAX);
    show("added", t);
    set.tuples[set.n++] = *t;
    return 0;
}

static void set_remove(const struct nft_tuple *t)
{
    uint32_t i = set_find(t);

    if (i == set.n)
        return;
    show("removed", t);
    set.tuples[i] = set.tuples[--set.n];
}

/* The program's copy of the socket that owns the table. */
struct nft {
    int fd;
};

static struct nft program_nft;

int nft_join(struct nft **ret, int fd, uint32_t mark, uint32_t mark_mask)
{
    CHECK(mark && !(mark & ~mark_mask));
    program_nft.fd = fd;
    set.joined = true;
    *ret = &program_nft;
    return 0;
}

struct nft *nft_free(struct nft *n)
{
    if (!n)
        return NULL;
    CHECK(set.joined);
    close(n->fd);
    set.joined = false;
    if (agent.fd < 0)
        set.n = 0;
    return NULL;
}

int nft_add(struct nft *n, const struct nft_tuple *tuples, uint32_t count)
{
    CHECK(n == &program_nft && set.joined && count == 1);
    return set.direct ? set_add(tuples) : -EPERM;
}

int nft_remove(struct nft *n, const struct nft_tuple *tuples, uint32_t count)
{
    CHECK(n == &program_nft && set.joined && count <= NFT_BATCH_MAX && (set.direct || count == 0));
    for (uint32_t i = 0; i < count; i++)
        set_remove(&tuples[i]);
    return 0;
}

int nft_nested(struct nft *n, bool on)
{
    CHECK(n == &program_nft && set.joined && set.direct && on);
    return 0;
}

/* ---- the process ---- */

int fuzz_socketpair(int domain, int type, int protocol, int pair[2]);
pid_t fuzz_fork(void);

int fuzz_socketpair(int domain, int type, int protocol, int pair[2])
{
    int r = (int)syscall(SYS_socketpair, domain, type, protocol, pair);

    agent.pair_end = r == 0 ? pair[1] : -1;
    return r;
}

/* False: the descriptors cannot be sent now; what other processes of this user have on their way counts as
 * well (unix(7), ETOOMANYREFS). */
static bool say(const struct agent_message *m, const int *fds, uint32_t n_fds)
{
    int r = fd_passing_send(agent.fd, m, sizeof(*m), fds, n_fds, MSG_DONTWAIT);

    CHECK(r == 0 || r == -ETOOMANYREFS || r == -EPIPE || r == -ECONNRESET); /* the latter: it is not heard */
    return r != -ETOOMANYREFS;
}

/* Its first words. */
pid_t fuzz_fork(void)
{
    static const struct agent_message started = {.type = MESSAGE_STARTED},
                                      addresses = {.type = MESSAGE_ADDRESSES, .final = 1};
    struct agent_message state = {.type = MESSAGE_STATE, .result = AGENT_READY};

    agent.fd = fcntl(agent.pair_end, F_DUPFD_CLOEXEC, 3);
    CHECK(agent.fd >= 0);
    for (int i = 0; !say(&started, &null_fd, 1); i++) {
        CHECK(i < PATIENCE_MS);
        usleep(1000);
    }
    (void)say(&addresses, NULL, 0);
    for (int i = 0; i < AGENT_FAMILIES; i++) {
        state.family = family_of(i);
        (void)say(&state, NULL, 0);
    }
    return PID;
}

void agent_process(int sock, const struct agent_config *config, pid_t parent_pid)
{
    (void)sock;
    (void)config;
    (void)parent_pid;
    abort();
}

static void go_inside(bool inside)
{
    CHECK(setns(inside ? guest_ns : outside_ns, CLONE_NEWNET) == 0);
}

static void give_sockets(const struct agent_message *request)
{
    static const int one = 1;
    uint32_t left = request->count;

    CHECK(family_index(request->family) >= 0 && left >= 1 && left <= AGENT_STOCK_MAX);
    while (left > 0) {
        struct agent_message m = {.type = MESSAGE_SOCKETS, .family = request->family};
        uint32_t n = min_u32(left, SOCKETS_PER_MESSAGE), made = agent.stingy ? n / 4 : n;
        int fds[SOCKETS_PER_MESSAGE];

        go_inside(true);
        for (uint32_t i = 0; i < made; i++) {
            bool v6 = m.family == AF_INET6;

            fds[i] = socket(m.family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
            CHECK(fds[i] >= 0);
            CHECK(setsockopt(fds[i], v6 ? IPPROTO_IPV6 : IPPROTO_IP, v6 ? IPV6_TRANSPARENT : IP_TRANSPARENT,
                             &one, sizeof(one)) == 0);
            CHECK(flow_socket_prepare(fds[i]) == 0);
        }
        go_inside(false);
        m.count = (uint16_t)made;
        m.settled = (uint16_t)(made < n ? left : n);
        if (!say(&m, fds, made)) {
            m.count = 0;
            m.settled = (uint16_t)left;
            (void)say(&m, NULL, 0);
        }
        for (uint32_t i = 0; i < made; i++)
            close(fds[i]);
        left -= m.settled;
    }
}

static void divert(const struct agent_message *request)
{
    struct agent_message m = {.type = MESSAGE_DIVERTED, .divert = {.id = request->divert.id}};
    const struct repair_spec *spec = &request->divert.spec;
    struct nft_tuple tuple = {.source = spec->peer, .destination = spec->local};
    int fd = -1;

    CHECK(request->count <= 1 && (set.direct || request->count == 0));
    m.result = agent.error;
    agent.error = 0;
    if (m.result == 0 && request->count == 0)
        m.result = set_add(&tuple);
    if (m.result == 0) {
        go_inside(true);
        m.result = repair_connect(spec, &fd);
        go_inside(false);
        if (m.result < 0 && request->count == 0)
            set_remove(&tuple);
    }
    if (!say(&m, &fd, fd >= 0)) {
        if (request->count == 0)
            set_remove(&tuple);
        m.result = -EMFILE;
        (void)say(&m, NULL, 0);
    }
    if (fd >= 0)
        close(fd);
}

static void hear(const struct agent_message *m)
{
    switch (m->type) {
    case MESSAGE_WANT_SOCKETS:
        give_sockets(m);
        break;
    case MESSAGE_DIVERT:
        agent.last_id = m->divert.id;
        if (agent.slow && agent.n_late < LATE_MAX)
            agent.late[agent.n_late++] = *m;
        else
            divert(m);
        break;
    case MESSAGE_UNDIVERT:
        CHECK(!set.direct && m->count >= 1 && m->count <= TUPLES_PER_MESSAGE);
        for (uint32_t i = 0; i < m->count; i++)
            set_remove(&m->tuples[i]);
        (void)say(&(struct agent_message){.type = MESSAGE_UNDIVERTED, .count = m->count}, NULL, 0);
        break;
    default:
        CHECK(m->type == MESSAGE_LOOK || (m->type == MESSAGE_NESTED && !set.direct));
    }
}

static void agent_end(void)
{
    if (agent.fd >= 0)
        close(agent.fd);
    if (getenv("FUZZ_SHOW"))
        fprintf(stderr, "the agent ends\n");
    agent.fd = -1;
    agent.n_late = 0;
    if (!set.joined)
        set.n = 0;
}

static bool agent_serve(void)
{
    struct agent_message m;
    bool any = agent.n_late > 0 && !agent.slow;
    ssize_t n;

    if (agent.fd < 0 || agent.deaf)
        return false;
    for (uint32_t i = 0; !agent.slow && i < agent.n_late; i++)
        divert(&agent.late[i]);
    if (!agent.slow)
        agent.n_late = 0;
    for (int i = 0; i < REQUESTS_PER_TURN; i++) {
        struct pollfd p = {.fd = agent.fd, .events = POLLIN | POLLOUT};

        /* An answer must have its place: the process would wait for it. */
        if (poll(&p, 1, 0) <= 0 || (p.revents & (POLLIN | POLLOUT)) != (POLLIN | POLLOUT))
            break;
        n = recv(agent.fd, &m, sizeof(m), MSG_DONTWAIT | MSG_TRUNC);
        if (n == 0) { /* it is not wanted any more */
            agent_end();
            return true;
        }
        if (n < 0)
            break;
        CHECK(n == (ssize_t)sizeof(m));
        hear(&m);
        any = true;
    }
    return any;
}

/* ---- the guest's TCP ---- */

static void conn_close(struct conn *c, bool reset)
{
    static const struct linger now = {.l_onoff = 1};

    if (c->fd < 0)
        return;
    if (reset)
        (void)setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
    close(c->fd);
    c->fd = -1;
}

static void tuple_of(const struct guest_connection *c, struct nft_tuple *ret)
{
    memset(ret, 0, sizeof(*ret));
    ret->source = c->own;
    ret->destination = c->remote;
}

static uint32_t get_u32(const uint8_t *p)
{
    return (uint32_t)get_u16(p) << 16 | get_u16(p + 2);
}

/* The SYN-ACK's options, and that they are the ones that the SYN has asked for. */
static void read_syn_ack(struct repair_spec *spec, const uint8_t *tcp, uint32_t size)
{
    uint32_t end = (tcp[12] >> 4) * 4u;

    CHECK(end >= TCP_SIZE && end == size);
    for (uint32_t at = TCP_SIZE; at < end; at += tcp[at] == 1 ? 1 : tcp[at + 1]) {
        if (tcp[at] == 1)
            continue;
        CHECK(at + 1 < end && tcp[at + 1] >= 2 && at + tcp[at + 1] <= end);
        CHECK(tcp[at] == 2 || tcp[at] == 3); /* no others were offered */
        if (tcp[at] == 2) {
            CHECK(tcp[at + 1] == 4);
            spec->mss = get_u16(tcp + at + 2);
        } else {
            CHECK(tcp[at + 1] == 3 && tcp[at + 2] <= REPAIR_WSCALE_MAX);
            spec->has_wscale = true;
            spec->peer_wscale = tcp[at + 2];
        }
    }
}

/* What a kernel answers to a SYN-ACK: the end of repair mode sends an acknowledgement. */
static void acknowledge(int fd)
{
    static const int on = 1, off = 0;

    CHECK(setsockopt(fd, IPPROTO_TCP, TCP_REPAIR, &on, sizeof(on)) == 0);
    CHECK(setsockopt(fd, IPPROTO_TCP, TCP_REPAIR, &off, sizeof(off)) == 0);
    CHECK(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) == 0);
}

static void open_conn(const struct guest_connection *c, const struct nft_tuple *tuple)
{
    struct repair_spec spec = {
        .local = c->own,
        .peer = c->remote,
        .peer_isn = c->irs,
        .isn = c->iss,
        .window = get_u16(c->syn_ack + 14),
        .wscale = c->wscale,
    };
    int fd = -1, r;

    read_syn_ack(&spec, c->syn_ack, c->syn_ack_size);
    CHECK(spec.mss == SYN_ACK_MSS && spec.window == REPAIR_WINDOW && spec.has_wscale);
    go_inside(true);
    r = repair_connect(&spec, &fd);
    go_inside(false);
    CHECK(r == 0 || r == -EADDRINUSE); /* the end of one with the same addresses may take its time */
    if (r == 0)
        acknowledge(fd);
    for (int i = 0; i < CONNS_MAX && fd >= 0; i++) {
        if (conns[i].fd < 0) {
            conns[i] = (struct conn){.fd = fd, .tuple = *tuple};
            return;
        }
    }
    if (fd >= 0)
        close(fd);
}

bool inside_established(const struct guest_connection *c)
{
    bool is_syn_ack = c->syn_ack[13] & TCP_SYN, is_ours, in_set;
    struct nft_tuple tuple;

    tuple_of(c, &tuple);
    in_set = set_find(&tuple) < set.n;
    if (!is_syn_ack)
        return in_set && set.direct && !agent.lied; /* else the set may be late */
    is_ours = c->syn_ack_size >= TCP_SIZE + 4 && c->syn_ack[TCP_SIZE] == 2 &&
              get_u16(c->syn_ack + TCP_SIZE + 2) == SYN_ACK_MSS;
    /* What the set has would never reach libslirp; what it has not would never reach the socket. */
    CHECK(!set.direct || agent.lied || is_ours == in_set);
    if (!is_ours)
        return false;
    if (c->as_sent) {
        CHECK(get_u32(c->syn_ack + 8) == c->iss + 1);
        open_conn(c, &tuple);
    }
    return true;
}

void inside_reset(const struct guest_connection *c)
{
    struct nft_tuple tuple;

    tuple_of(c, &tuple);
    for (int i = 0; i < CONNS_MAX; i++) {
        if (memcmp(&conns[i].tuple, &tuple, sizeof(tuple)) == 0)
            conn_close(&conns[i], true);
    }
}

static void conn_read(struct conn *c)
{
    enum pattern_end end = pattern_read(c->fd, &c->received, true);

    if (end == PATTERN_RESET)
        conn_close(c, true);
    c->ended = end == PATTERN_ENDED;
}

bool inside_serve(void)
{
    struct pollfd ready[CONNS_MAX];
    bool any = agent_serve();

    for (int i = 0; i < CONNS_MAX; i++)
        ready[i] =
            (struct pollfd){.fd = conns[i].deaf || conns[i].ended ? -1 : conns[i].fd, .events = POLLIN};
    if (poll(ready, CONNS_MAX, 0) <= 0)
        return any;
    for (int i = 0; i < CONNS_MAX; i++) {
        if (ready[i].revents)
            conn_read(&conns[i]);
    }
    return true;
}

/* ---- steps ---- */

static struct conn *nth(unsigned index)
{
    struct conn *c = &conns[index % CONNS_MAX];

    for (int i = 0; i < CONNS_MAX && c->fd < 0; i++)
        c = &conns[++index % CONNS_MAX];
    return c->fd < 0 ? NULL : c;
}

static void step_send(struct conn *c, uint32_t size, bool urgent)
{
    ssize_t n;

    for (uint32_t i = 0; i < size; i++)
        buffer[i] = pattern(c->sent + i);
    n = send(c->fd, buffer, size, MSG_NOSIGNAL | MSG_DONTWAIT | (urgent ? MSG_OOB : 0));
    if (n > 0)
        c->sent += (uint32_t)n;
}

static int step_error(uint8_t b)
{
    static const int errors[] = {-ENFILE, -EADDRINUSE, -EMFILE, -ENOMEM, -EAGAIN, -EEXIST};

    return errors[b % ARRAY_SIZE(errors)];
}

static void step_agent(uint8_t b)
{
    if (b & 1)
        agent.deaf = !agent.deaf;
    if (b & 2)
        agent.slow = !agent.slow;
    if (b & 4)
        agent.stingy = !agent.stingy;
    if ((b & 0xf0) == 0xf0)
        agent_end();
}

static void step_state(uint8_t family, uint8_t reason)
{
    struct agent_message m = {.type = MESSAGE_STATE, .family = family_of(family & 1)};

    m.result = reason % 5 == 0 ? AGENT_READY : AGENT_LO_DOWN + reason % 4; /* as an honest one says */
    if (agent.fd >= 0)
        (void)say(&m, NULL, 0);
}

/* Answers to nothing, to what is long over, or to what is being done. */
static void step_say(uint8_t b, struct input *in)
{
    struct agent_message m = {.type = MESSAGE_DIVERTED, .divert = {.id = agent.last_id}};
    uint32_t n_fds = b & 1;

    if (b & 2)
        m.divert.id = (uint64_t)input_u8(in) << 16 | input_u8(in);
    m.result = b & 4 ? (int8_t)input_u8(in) : -ENOMEM;
    if (agent.fd < 0)
        return;
    agent.lied = true;
    (void)say(&m, &null_fd, n_fds);
}

void inside_step(struct input *in)
{
    enum step step = input_u8(in) % STEPS;
    uint8_t b = input_u8(in);
    struct conn *c = nth(b);

    switch (step) {
    case STEP_SEND:
        if (c)
            step_send(c, input_u16(in), b & 128);
        break;
    case STEP_SHUTDOWN:
        if (c)
            (void)shutdown(c->fd, SHUT_WR);
        break;
    case STEP_CLOSE:
        if (c)
            conn_close(c, b & 128);
        break;
    case STEP_DEAF:
        if (c)
            c->deaf = !c->deaf;
        break;
    case STEP_AGENT:
        step_agent(b);
        break;
    case STEP_FAIL:
        if (b & 1)
            set.error = step_error(b >> 1);
        else
            agent.error = step_error(b >> 1);
        break;
    case STEP_STATE:
        step_state(b, b >> 1);
        break;
    case STEP_SAY:
        step_say(b, in);
        break;
    default:
        CHECK(false);
    }
}

/* ---- life cycle ---- */

void inside_init(void)
{
    null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    outside_ns = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    CHECK(null_fd >= 0 && outside_ns >= 0);
    namespace_another_net();
    guest_ns = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    CHECK(guest_ns >= 0);
    /* Every address is somebody's here; and addresses can be used again at once. */
    namespace_run("ip", "route", "add", "local", "0.0.0.0/0", "dev", "lo", NULL);
    namespace_run("ip", "-6", "route", "add", "local", "::/0", "dev", "lo", NULL);
    (void)namespace_write("/proc/sys/net/ipv4/tcp_max_tw_buckets", "0");
    go_inside(false);
}

void inside_begin(bool direct)
{
    memset(&agent, 0, sizeof(agent));
    agent.fd = agent.pair_end = -1;
    memset(&set, 0, sizeof(set));
    set.direct = direct;
    memset(conns, 0, sizeof(conns));
    for (int i = 0; i < CONNS_MAX; i++)
        conns[i].fd = -1;
}

void inside_end(void)
{
    for (int i = 0; i < CONNS_MAX; i++)
        conn_close(&conns[i], true);
    agent.deaf = agent.slow = agent.stingy = false;
    agent.error = set.error = 0;
}

void inside_leave(void)
{
    CHECK(set.n == 0 || agent.lied);
    agent_end();
}

int inside_n_closed(void)
{
    return (agent.fd < 0) + !set.joined;
}

void inside_free(void)
{
    CHECK(!set.joined);
    agent_end(); /* the input may have been over before */
}
