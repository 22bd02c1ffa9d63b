/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * fuzz_agent.c - the program, and an nsagent that somebody has taken over
 *
 * Input: steps. Some are messages of the agent's, well-formed or not, with any number of descriptors; the
 * others are what a worker does with its agent. The process is not there: fork(2) is replaced, and this
 * target has the other end of the socket pair, and those of the standbys it tells of. What agent.h promises
 * must hold whatever the agent says: sockets in the stock are bounded, every descriptor that came has one
 * owner, the first nonsense is the end, no process is signalled that is no child, and what a former agent has
 * said or was asked for is not the next one's.
 */
#include "fwd/agent_child.h"
#include "fwd/agent_protocol.h"

#include "fds.h"

#include "base/cleanup.h"
#include "base/fd_passing.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { STEPS_MAX = 200, PID = 0x3fffffff, IDS = 8 };

/* A message that is mostly sound: kind, then the fields it has. */
enum step {
    STEP_STATE,
    STEP_ADDRESSES,
    STEP_SOCKETS,
    STEP_DIVERTED,
    STEP_STANDBY,
    STEP_END,    /* it closes its end */
    STEP_ANSWER, /* what has been asked for, as an honest agent would */
    STEP_FIELDS, /* every field from the input */
    STEP_BYTES,  /* any bytes, any size */
    STEP_READ,   /* from here on: the worker */
    STEP_RESTART,
    STEP_TAKE,
    STEP_REACH,
    STEP_DIVERT,
    STEP_UNDIVERT,
    STEP_OTHER,
    STEP_UNDIVERTED, /* the agent's again */
    STEPS,
};

static const struct seed seeds[] = {
    /* started; a list of one address; both states; sockets asked for and given; one taken */
    SEED("\x00\x00\x00"
         "\x01\x01\x01\x00\x02\x0a\x00\x02\x64"
         "\x00\x00\x00"
         "\x00\x01\x00"
         "\x09"
         "\x06\x00"
         "\x09"
         "\x0b\x00"
         "\x0c\x00\x0a\x00\x02\x64"),
    /* started; ready; outbound connections: asked for, answered, an answer without a socket, an unknown id */
    SEED("\x00\x00\x00"
         "\x00\x00\x00"
         "\x0d\x00\x03"
         "\x03\x03\x00\x01"
         "\x09"
         "\x0d\x01\x04"
         "\x03\x04\x05\x00"
         "\x09"
         "\x0e\x05"
         "\x0f"),
    /* started; a standby; ready; gone; the standby takes over and has one of its own; ready; gone */
    SEED("\x00\x00\x00"
         "\x04\x09\x00\x00"
         "\x00\x00\x00"
         "\x05\x09\x0a"
         "\x04\x08\x00\x00"
         "\x00\x00\x00"
         "\x09\x0b\x00\x05\x09\x0a"),
    /* a standby that is no child; one without a process; two of them */
    SEED("\x00\x00\x00"
         "\x04\x09\x01\x00\x09\x0a"),
    SEED("\x00\x00\x00"
         "\x04\x00\x00\x00\x09\x0a"),
    SEED("\x00\x00\x00"
         "\x04\x09\x00\x00\x04\x09\x00\x00\x09\x0a"),
    /* not started, with a sentence */
    SEED("\x01\xff\xf0no place for it"),
    /* too many descriptors, a list out of order, half a message */
    SEED("\x00\x00\x00"
         "\x00\x00\x00"
         "\x09"
         "\x02\x00\x10\x10\x10"
         "\x09"),
    SEED("\x00\x00\x00"
         "\x01\x02\x00\x04"
         "\x09"),
    SEED("\x00\x00\x00"
         "\x08\x10half a message"
         "\x09"),
};

/* ---- what the program would call ---- */

static int agent_end = -1;   /* the agent's end of the pair; -1: it has closed it */
static int standby_end = -1; /* the same of the standby that was introduced last */
static bool is_child;        /* what the kernel would say of a pidfd */
static int null_fd = -1;
static uint32_t n_removed; /* calls of nft_remove() */
static bool joined;

int fuzz_socketpair(int domain, int type, int protocol, int pair[2]);
pid_t fuzz_fork(void);

int fuzz_socketpair(int domain, int type, int protocol, int pair[2])
{
    int r = (int)syscall(SYS_socketpair, domain, type | SOCK_NONBLOCK, protocol, pair);

    if (r == 0)
        agent_end = fcntl(pair[1], F_DUPFD_CLOEXEC, 3);
    return r;
}

pid_t fuzz_fork(void)
{
    return PID;
}

void agent_child_hold(struct agent_child *c)
{
    CHECK(c->pid == PID && c->pidfd == -1);
}

bool agent_child_is_ours(int pidfd)
{
    CHECK(fcntl(pidfd, F_GETFD) == FD_CLOEXEC);
    return is_child;
}

void agent_child_kill(const struct agent_child *c)
{
    CHECK(c->pid >= 0 && (c->pid == PID || c->pid == 0 || c->pidfd >= 0));
}

bool agent_child_reap(const struct agent_child *c)
{
    CHECK(c->pid == PID || c->pid == 0 || c->pidfd >= 0);
    return true;
}

bool agent_child_wait(const struct agent_child *c, int64_t until_ns)
{
    CHECK(until_ns > 0);
    return agent_child_reap(c);
}

void agent_child_hang_up(struct agent_child *c)
{
    closep(&c->fd);
}

void agent_child_close(struct agent_child *c)
{
    closep(&c->fd);
    closep(&c->pidfd);
    c->pid = 0;
}

void agent_process(int sock, const struct agent_config *config, pid_t parent_pid)
{
    (void)sock;
    (void)config;
    (void)parent_pid;
    abort();
}

struct nft {
    int fd;
};

static struct nft table;

int nft_join(struct nft **ret, int fd, uint32_t mark, uint32_t mark_mask)
{
    CHECK(mark && !(mark & ~mark_mask) && fcntl(fd, F_GETFD) >= 0);
    if (!joined)
        return -EPERM;
    table.fd = fd;
    *ret = &table;
    return 0;
}

struct nft *nft_free(struct nft *n)
{
    if (n)
        close(n->fd);
    return NULL;
}

int nft_add(struct nft *n, const struct nft_tuple *tuples, uint32_t count)
{
    CHECK(n == &table && count == 1);
    return address_port(&tuples->source) % 3 == 0 ? -EPERM : 0;
}

int nft_remove(struct nft *n, const struct nft_tuple *tuples, uint32_t count)
{
    (void)tuples;
    CHECK(n == &table && count >= 1 && count <= NFT_BATCH_MAX);
    n_removed++;
    return 0;
}

int nft_nested(struct nft *n, bool on)
{
    CHECK(n == &table && on);
    return 0;
}

int repair_connect_socket(int fd, const struct repair_spec *spec)
{
    CHECK(fcntl(fd, F_GETFD) >= 0);
    return address_port(&spec->peer) % 2 == 0 ? 0 : -EADDRINUSE;
}

/* ---- the agent ---- */

static uint32_t asked[AGENT_FAMILIES]; /* sockets, and not answered yet, of this agent */
static uint32_t n_due;                 /* elements that this agent is to be asked to take away */
static uint32_t n_heard;               /* of them, asked for */
static uint32_t n_done;                /* of them, what it has said to be gone */
static uint32_t n_taken;               /* sockets that the worker has been given, all families */
static uint32_t n_given;               /* descriptors that were sent in good messages, sockets and others */

static void say_with(const void *data, size_t size, const int *others, uint32_t n_others, uint32_t n_fds)
{
    int fds[FD_PASSING_MAX];

    n_fds = min_u32(n_fds, ARRAY_SIZE(fds));
    for (uint32_t i = 0; i < n_fds; i++)
        fds[i] = i < n_others ? others[i] : null_fd;
    /* Full, or closed: it is not heard. */
    if (fd_passing_send(agent_end, data, size, fds, n_fds, MSG_DONTWAIT) < 0)
        return;
    n_given += n_fds;
    if (size == sizeof(struct agent_message) &&
        ((const struct agent_message *)data)->type == MESSAGE_UNDIVERTED)
        n_done += ((const struct agent_message *)data)->count;
}

static void say(const void *data, size_t size, uint32_t n_fds)
{
    say_with(data, size, NULL, 0, n_fds);
}

/* With a conversation of its own, whose other end becomes agent_end when it takes over. */
static void introduce(struct agent_message *m, struct input *in)
{
    uint32_t n_fds;
    int pair[2];

    m->type = MESSAGE_STANDBY;
    m->result = (int8_t)input_u8(in);
    is_child = input_u8(in) % 2 == 0;
    n_fds = (2 + input_u8(in)) % 4;
    CHECK(syscall(SYS_socketpair, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) == 0);
    say_with(m, sizeof(*m), pair, 1, n_fds);
    close(pair[0]);
    closep(&standby_end);
    standby_end = pair[1];
}

/* What the program says must be a message of the protocol, and within its bounds. */
static void hear(void)
{
    struct agent_message m;
    ssize_t n;
    int index;

    while ((n = recv(agent_end, &m, sizeof(m), MSG_DONTWAIT | MSG_TRUNC)) > 0) {
        CHECK(n == (ssize_t)sizeof(m));
        index = family_index(m.family);
        switch (m.type) {
        case MESSAGE_WANT_SOCKETS:
            CHECK(index >= 0 && m.count >= 1 && m.count <= AGENT_STOCK_MAX);
            asked[index] += m.count;
            CHECK(asked[index] <= AGENT_STOCK_MAX);
            break;
        case MESSAGE_DIVERT:
            CHECK(m.count <= 1 && m.divert.id < IDS);
            break;
        case MESSAGE_UNDIVERT:
            CHECK(m.count >= 1 && m.count <= TUPLES_PER_MESSAGE);
            n_heard += m.count;
            break;
        default:
            CHECK(m.type == MESSAGE_LOOK || m.type == MESSAGE_NESTED);
        }
    }
}

/* 0: its sockets; else the family that is said. */
static uint16_t input_family(struct input *in)
{
    uint8_t b = input_u8(in);

    return b < 2 ? family_of(b) : b;
}

static void say_fields(struct agent_message *m, struct input *in)
{
    uint32_t n_fds = input_u8(in);

    m->type = input_u8(in) % (MESSAGE_UNDIVERTED + 2);
    m->family = input_family(in);
    m->count = input_u8(in);
    m->settled = input_u8(in);
    m->first = input_u16(in);
    m->final = input_u8(in);
    m->result = (int8_t)input_u8(in);
    (void)input_bytes(in, m->addresses, input_u8(in) % sizeof(m->addresses));
    say(m, sizeof(*m), n_fds % 40);
}

static void answer(struct agent_message *m, int index)
{
    hear();
    while (asked[index] > 0) {
        m->type = MESSAGE_SOCKETS;
        m->family = family_of(index);
        m->count = m->settled = (uint16_t)min_u32(asked[index], SOCKETS_PER_MESSAGE);
        say(m, sizeof(*m), m->count);
        asked[index] -= m->count;
    }
}

static void agent_step(enum step step, struct input *in)
{
    static struct agent_message m;
    uint8_t bytes[2 * sizeof(m)];
    uint32_t n_fds = 0;

    memset(&m, 0, sizeof(m));
    switch (step) {
    case STEP_STATE:
        m.type = MESSAGE_STATE;
        m.family = input_family(in);
        m.result = (int8_t)input_u8(in);
        break;
    case STEP_ADDRESSES:
        m.type = MESSAGE_ADDRESSES;
        m.count = input_u8(in);
        m.final = input_u8(in);
        m.first = input_u8(in) * (uint16_t)ADDRESSES_PER_MESSAGE;
        m.addresses[0].family = input_u8(in);
        (void)input_bytes(in, m.addresses[0].bytes, 4);
        break;
    case STEP_SOCKETS:
        m.type = MESSAGE_SOCKETS;
        m.family = input_family(in);
        m.count = input_u8(in);
        m.settled = input_u8(in);
        n_fds = input_u8(in) % 40;
        break;
    case STEP_DIVERTED:
        m.type = MESSAGE_DIVERTED;
        m.divert.id = input_u8(in);
        m.result = (int8_t)input_u8(in);
        n_fds = input_u8(in) % 3;
        break;
    case STEP_UNDIVERTED:
        m.type = MESSAGE_UNDIVERTED;
        m.count = (uint16_t)min_u32(input_u8(in), n_heard - n_done);
        break;
    case STEP_STANDBY:
        introduce(&m, in);
        return;
    case STEP_END:
        closep(&agent_end);
        return;
    case STEP_ANSWER:
        answer(&m, input_u8(in) % AGENT_FAMILIES);
        return;
    case STEP_FIELDS:
        say_fields(&m, in);
        return;
    default: {
        size_t size = input_u16(in) % sizeof(bytes);

        (void)input_bytes(in, bytes, size);
        say(bytes, size, size % 3);
        return;
    }
    }
    say(&m, sizeof(m), n_fds);
}

/* ---- the worker ---- */

static void on_diverted(void *arg, uint64_t id, int result, int fd)
{
    (void)arg;
    (void)id;
    CHECK(result <= AGENT_NOT_RECEIVED && (fd >= 0) == (result == 0));
    if (fd >= 0) {
        CHECK(fcntl(fd, F_GETFD) == FD_CLOEXEC);
        close(fd);
    }
}

static void input_address(struct input *in, union address *ret)
{
    memset(ret, 0, sizeof(*ret));
    ret->sa.sa_family = input_u8(in) % 2 ? AF_INET6 : AF_INET;
    if (ret->sa.sa_family == AF_INET)
        (void)input_bytes(in, &ret->in.sin_addr, 4);
    else
        (void)input_bytes(in, &ret->in6.sin6_addr, 4);
}

static void restart(struct agent *a) RUNS_ON(role_fwd)
{
    uint32_t generation = agent_generation(a);
    const char *why = NULL;
    int r = agent_restart(a, &why);

    CHECK(r == 0 || r == -EPIPE);
    CHECK(agent_is_gone(a) == (r < 0) && (why != NULL) == (r < 0));
    CHECK(agent_generation(a) == generation + (r == 0));
    if (r < 0)
        return;
    CHECK(!agent_has_standby(a));
    for (int i = 0; i < AGENT_FAMILIES; i++)
        CHECK(agent_family_state(a, family_of(i)) == AGENT_NOT_YET);
    closep(&agent_end);
    agent_end = steal_fd(&standby_end);
    memset(asked, 0, sizeof(asked));
    n_due -= n_done; /* what the former one has not said to be gone */
    n_heard = n_done = 0;
}

static void worker_step(enum step step, struct agent *a, struct input *in) RUNS_ON(role_fwd)
{
    struct repair_spec spec = {.mss = 1460};
    struct nft_tuple tuples[AGENT_UNDIVERT_MAX];
    union address address;
    bool gone = agent_is_gone(a);
    uint32_t n, before, done;
    int r, fd;

    switch (step) {
    case STEP_READ:
        r = agent_read(a);
        CHECK(r == 0 || r == -EPIPE);
        CHECK(agent_is_gone(a) == (r == -EPIPE));
        break;
    case STEP_RESTART:
        if (gone)
            restart(a);
        break;
    case STEP_TAKE:
        fd = agent_take_socket(a, input_family(in));
        CHECK(!gone || fd == -EPIPE);
        if (fd >= 0) {
            CHECK(fcntl(fd, F_GETFD) == FD_CLOEXEC && ++n_taken <= n_given);
            close(fd);
        }
        break;
    case STEP_REACH:
        input_address(in, &address);
        r = (int)agent_can_reach(a, &address);
        CHECK(agent_reason_text((enum agent_reason)r));
        CHECK(!gone || r == AGENT_NO_AGENT);
        CHECK(r != AGENT_READY || agent_is_local(a, &address));
        CHECK(r != AGENT_READY || agent_family_state(a, address.sa.sa_family) == AGENT_READY);
        break;
    case STEP_DIVERT:
        input_address(in, &spec.peer);
        spec.local = spec.peer;
        address_set_port(&spec.peer, input_u8(in));
        r = agent_divert_now(a, &spec, &fd);
        CHECK(r <= 0 && (!gone || r == -EAGAIN));
        if (r == 0) {
            CHECK(fcntl(fd, F_GETFD) == FD_CLOEXEC && ++n_taken <= n_given);
            close(fd);
        } else {
            r = agent_divert(a, input_u8(in) % IDS, &spec);
            CHECK(r <= 1 && (!gone || r == -EPIPE));
        }
        break;
    case STEP_UNDIVERT:
        n = 1 + input_u8(in) % AGENT_UNDIVERT_MAX;
        memset(tuples, 0, sizeof(tuples));
        before = n_removed;
        done = agent_undivert(a, tuples, n);
        CHECK(done <= n);
        if (n_removed == before)
            n_due += done;
        break;
    default:
        agent_divert_nested(a);
        agent_look(a);
        agent_divert_end(a);
    }
}

TSA(no_thread_safety_analysis) static void talk(struct agent *a, struct input *in)
{
    role_enter(&role_fwd);
    for (int i = 0; i < STEPS_MAX && in->size > 0; i++) {
        enum step step = input_u8(in) % STEPS;

        if (step < STEP_READ || step == STEP_UNDIVERTED)
            agent_step(step, in);
        else
            worker_step(step, a, in);
        hear();
        CHECK(agent_is_gone(a) || agent_end < 0 || n_heard == n_due);
    }
    while (agent_read(a) == 0 && poll(&(struct pollfd){.fd = agent_fd(a), .events = POLLIN}, 1, 0) > 0)
        ;
    role_leave(&role_fwd);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    struct rlimit limit;

    (void)argc;
    (void)argv;
    log_set_level(LOG_LEVEL_ERROR);
    null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    CHECK(null_fd >= 0 && getrlimit(RLIMIT_NOFILE, &limit) == 0);
    limit.rlim_cur = limit.rlim_max;
    CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0); /* so that the stock has its full size */
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, size};
    struct agent_config config = {
        .userns_fd = -1, .netns_fd = 0, .mark = 0x10000, .mark_mask = 0xffff0000, .table = 7, .stock = true};
    struct agent_message started = {.type = MESSAGE_STARTED};
    struct failure why = FAILURE_NULL;
    struct agent *a = NULL;
    char text[FAILURE_TEXT_SIZE];
    struct fds before;
    uint8_t first;

    fds_look(&before);
    memset(asked, 0, sizeof(asked));
    n_taken = n_given = n_due = n_heard = n_done = 0;
    is_child = true;
    CHECK(agent_start(&a, &config, &why) == 0 && agent_pid(a) == PID);
    agent_on_diverted(a, on_diverted, NULL);
    first = input_u8(&in);
    joined = first & 2;
    started.count = input_u8(&in);
    started.result = first & 1 ? (int16_t)input_u16(&in) : 0;
    if (first & 4)
        started.type = input_u8(&in);
    if (started.result != 0)
        (void)input_bytes(&in, &started.sentence, sizeof(started.sentence));
    say(&started, first & 8 ? in.size % sizeof(started) : sizeof(started), first >> 4);
    n_given = 0;
    if (agent_wait(a, &why) == 0) {
        agent_go(a);
        talk(a, &in);
    } else {
        CHECK(strlen(failure_text(&why, text, sizeof(text))) < sizeof(text));
    }
    agent_free(a);
    closep(&agent_end);
    closep(&standby_end);
    fds_check(&before);
    return 0;
}

FUZZ_MUTATOR(seeds, mend_nothing)
