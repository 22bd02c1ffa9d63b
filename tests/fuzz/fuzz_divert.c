/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * fuzz_divert.c - the guest's TCP connections by splice, in steps
 *
 * As fuzz_engine.c, with the first worker on the slirp thread's loop (engine_share(), as in shared mode), its
 * flows, the agent's side in the program (agent.c) and diversion (divert.c, divert_entry.c). What is inside
 * the guest's namespaces is inside.c; a host that lets one wait is slow_host.c. The table of connections is
 * small (meson.build), so that it is full now and then; connect(2) and pipe2(2) fail when the input says so.
 *
 * Checked, besides what the engine's target checks: both ends of a diverted connection get the bytes of the
 * other one; a connection is in the nft set exactly if it is diverted; nothing but a SYN-ACK comes by the TAP
 * for it; with --disable-host-loopback nothing connects to the loopback; in the end there is no connection,
 * no element and no pipe beyond the pool, and the counters say so.
 *
 * Input: two bytes of options, one of this target's, steps.
 */
#include "drive.h"
#include "guest.h"
#include "inside.h"
#include "namespace.h"
#include "outside.h"
#include "slow_host.h"

#include "base/counters.h"
#include "fwd/divert.h"
#include "fwd/worker.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/random.h>
#include <sys/syscall.h>

enum { PIPES_IDLE_MAX = 16, FLOOD_MAX = 64 };

enum step { STEP_INSIDE, STEP_SLOW, STEP_FLOWS, STEP_FLOOD, STEP_CONNECT_FAILS, STEP_PIPE_FAILS, STEPS };

#define INSIDE(what) OWN "\x00" what
#define IN_SEND(slot, size) INSIDE("\x00" slot size)
#define IN_SHUTDOWN(slot) INSIDE("\x01" slot)
#define IN_CLOSE(slot) INSIDE("\x02" slot)
#define IN_DEAF(slot) INSIDE("\x03" slot)
#define AGENT(how) INSIDE("\x04" how)
#define FAIL(what) INSIDE("\x05" what)
#define STATE(what) INSIDE("\x06" what)
#define SAY(what) INSIDE("\x07" what)
#define SLOW(conn, how) OWN "\x01" conn how
#define FLOWS OWN "\x02"
#define FLOOD(n, dst) OWN "\x03" n dst
#define CONNECT_FAILS(how) OWN "\x04" how
#define PIPE_FAILS(n) OWN "\x05" n

static const struct seed seeds[] = {
    /* bytes in both directions, closed by the guest, by the host, reset */
    SEED("\x01\x01\x00" CONNECT("\x00", "\x01") IN_SEND("\x00", "\x10\x00") SEND("\x00", "\x20\x00")
             FLOWS IN_SHUTDOWN("\x00") SEND("\x00", "\x00\x10") CLOSE("\x00", "\x00") TIME("\x06", "\x03")),
    SEED("\x01\x01\x00" CONNECT("\x08", "\x01") SEND("\x00", "\x00\x10") CLOSE("\x00", "\x00")
             IN_SEND("\x00", "\x00\x10") IN_CLOSE("\x00") CONNECT("\x01", "\x00") IN_SEND("\x00", "\xff\xff")
                 IN_CLOSE("\x80") TIME("\x06", "\x03")),
    /* a reader that does not read, on either side; no pipe */
    SEED("\x01\x01\x00" CONNECT("\x00", "\x01") IN_DEAF("\x00") SEND("\x00", "\xff\xff")
             SEND("\x00", "\xff\xff") CLOSE("\x00", "\x01") IN_SEND("\x00", "\xff\xff") PIPE_FAILS("\x08")
                 IN_DEAF("\x00") CLOSE("\x00", "\x01") TIME("\x40", "\x00") CLOSE("\x00", "\x40")),
    /* refused, unreachable, forbidden, and a host that accepts, refuses or cannot be reached later */
    SEED("\x01\x01\x00" CONNECT("\x10", "\x01") CONNECT("\x01", "\x03") CONNECT("\x1a", "\x01")
             CONNECT("\x02", "\x0d") SEGMENT("\x02", "\x02", "\x00\x00", "\xff") SLOW("\x00", "\x06") IN_SEND(
                 "\x00", "\x10\x00") CONNECT("\x03", "\x0d") SLOW("\x01", "\x00") CONNECT("\x04", "\x0d")
                 SLOW("\x01", "\x02") CONNECT_FAILS("\x01") CONNECT("\x05", "\x01")),
    SEED("\x03\x01\x00" CONNECT("\x00", "\x00") CONNECT("\x09", "\x00") CONNECT("\x02", "\x04")),
    /* the same port again: at once, and when the last connection lingers; SYNs again */
    SEED("\x01\x01\x00" CONNECT("\x40", "\x01") CONNECT("\x40", "\x01") SEGMENT(
        "\x00", "\x02", "\x00\x00", "\xff") SEGMENT("\x00", "\x18", "\x00\x64", "\x00") CLOSE("\x00", "\x40")
             IN_CLOSE("\x00") CONNECT("\x40", "\x01") IN_SEND("\x00", "\x00\x10") TIME("\x06", "\x03")),
    /* by the agent: slow, deaf, failing, gone */
    SEED("\x01\x01\x01" CONNECT("\x00", "\x01") IN_SEND("\x00", "\x00\x10") AGENT("\x02")
             CONNECT("\x01", "\x01") SEGMENT("\x01", "\x02", "\x00\x00", "\xff") AGENT("\x02") FAIL("\x02")
                 CONNECT("\x02", "\x01") AGENT("\x01") CONNECT("\x03", "\x01") AGENT("\xf0")
                     CONNECT("\x04", "\x01") IN_SEND("\x00", "\x00\x10") TIME("\xff", "\x03")),
    SEED("\x01\x01\x00" FAIL("\x01") CONNECT("\x00", "\x01") STATE("\x02") CONNECT("\x01", "\x01")
             STATE("\x00") AGENT("\x04") CONNECT("\x02", "\x01") CONNECT("\x03", "\x01") AGENT("\xf0")
                 CONNECT("\x04", "\x01") SAY("\x07\x01\x01\x00")),
    /* an agent that answers twice */
    SEED("\x01\x01\x01" AGENT("\x02") CONNECT("\x00", "\x01") SAY("\x01") CONNECT("\x01", "\x01")
             AGENT("\x02") TIME("\x06", "\x03")),
    /* found: a SYN with data beside the same one without; the agent ends while it builds */
    SEED("\x01\x01\x00" CONNECT("\x00", "\x0d") SEGMENT("\x00", "\x02", "\x00\x7e", "\xff")
             SLOW("\x00", "\x06") IN_SEND("\x00", "\x00\x10") SEGMENT("\x00", "\x03", "\x20\x00", "\xff")),
    SEED("\x01\x01\x00" AGENT("\x02") CONNECT("\x00", "\x01") AGENT("\xf0")
             SEGMENT("\x00", "\x02", "\x00\x00", "\xff") TIME("\x06", "\x03")),
    /* the table is full */
    SEED("\x01\x01\x00" FLOOD("\x20", "\x01") FLOOD("\x20", "\x0d") CONNECT("\x00", "\x01")
             TIME("\xff", "\x03") CONNECT("\x01", "\x01") IN_SEND("\x00", "\x00\x10")),
};

static struct engine *engine;
static struct workers *workers;
static struct divert *divert;
static struct agent *agent;
static bool no_loopback;
static uint64_t n_random;
static int connect_error;
static uint32_t n_pipe_errors;

/* ---- in the place of the system ---- */

int fuzz_connect(int fd, const struct sockaddr *to, socklen_t size);
int fuzz_pipe2(int fds[2], int flags);
ssize_t fuzz_getrandom(void *data, size_t size, unsigned flags);
int fuzz_sched_getaffinity(pid_t pid, size_t size, cpu_set_t *ret);
int fuzz_pthread_cond_timedwait(pthread_cond_t *cond, pthread_mutex_t *mutex, const struct timespec *until);

/* Not those of the guest and the outside. */
int fuzz_connect(int fd, const struct sockaddr *to, socklen_t size)
{
    union address a;

    if (!drive_is_acting()) {
        memcpy(&a, to, size < sizeof(a) ? size : sizeof(a));
        CHECK(!no_loopback || !address_is_self(&a));
        if (connect_error) {
            errno = connect_error;
            connect_error = 0;
            return -1;
        }
    }
    return (int)syscall(SYS_connect, fd, to, size);
}

int fuzz_pipe2(int fds[2], int flags)
{
    if (n_pipe_errors > 0) {
        n_pipe_errors--;
        errno = EMFILE;
        return -1;
    }
    return (int)syscall(SYS_pipe2, fds, flags);
}

ssize_t fuzz_getrandom(void *data, size_t size, unsigned flags)
{
    uint8_t *p = data;

    (void)flags;
    for (size_t i = 0; i < size; i++) {
        n_random = n_random * UINT64_C(6364136223846793005) + 1;
        p[i] = (uint8_t)(n_random >> 56);
    }
    return (ssize_t)size;
}

/* One worker, on the slirp thread's loop. */
int fuzz_sched_getaffinity(pid_t pid, size_t size, cpu_set_t *ret)
{
    (void)pid;
    (void)size;
    CPU_ZERO(ret);
    CPU_SET(0, ret);
    CPU_SET(1, ret);
    return 0;
}

/* The api thread waits for the worker's answer: it has its turn now. */
int fuzz_pthread_cond_timedwait(pthread_cond_t *cond, pthread_mutex_t *mutex, const struct timespec *until)
    TSA(no_thread_safety_analysis)
{
    (void)cond;
    (void)until;
    pthread_mutex_unlock(mutex);
    (void)workers_turn(workers);
    pthread_mutex_lock(mutex);
    return 0;
}

/* ---- what main does ---- */

static void hook_event(void *arg, uint64_t tag, uint32_t events) TSA(no_thread_safety_analysis)
{
    (void)arg;
    workers_event(workers, tag, events);
}

static int hook_turn(void *arg) TSA(no_thread_safety_analysis)
{
    (void)arg;
    return workers_turn(workers);
}

static bool hook_wanted(void *arg)
{
    (void)arg;
    return workers_wanted(workers);
}

static void hook_prepare(void *arg)
{
    (void)arg;
    workers_prepare(workers);
}

static void hook_cancel(void *arg)
{
    (void)arg;
    workers_cancel(workers);
}

static void hook_send(void *arg, const void *frame, uint32_t size)
{
    (void)arg;
    engine_send_now(engine, frame, size);
}

static void hook_inject(void *arg, const void *frame, uint32_t size)
{
    (void)arg;
    engine_inject(engine, frame, size);
}

static bool hook_take_tcp(void *arg, const struct packet *p) TSA(no_thread_safety_analysis)
{
    (void)arg;
    return divert_take(divert, p);
}

static void begin(struct engine *e, const struct engine_config *c, struct input *in)
{
    static const struct engine_guest guest = {
        .event = hook_event,
        .turn = hook_turn,
        .wanted = hook_wanted,
        .prepare = hook_prepare,
        .cancel = hook_cancel,
    };
    const struct agent_config agent_config = {
        .userns_fd = -1, .netns_fd = 0, .mark = 0x10000, .mark_mask = 0xffff0000, .table = 7, .divert = true};
    struct divert_config config = {
        .network = c->network,
        .netmask = c->netmask,
        .gateway = c->gateway,
        .gateway6.s6_addr = {0xfd, [15] = 2},
        .disable_host_loopback = c->disable_host_loopback,
        .has_outbound = c->has_outbound,
        .has_outbound6 = c->has_outbound6,
        .outbound = c->outbound,
        .outbound6 = c->outbound6,
        .send = hook_send,
        .inject = hook_inject,
    };
    struct failure why = FAILURE_NULL;

    engine = e;
    no_loopback = c->disable_host_loopback;
    n_random = connect_error = 0;
    n_pipe_errors = 0;
    for (unsigned i = 0; i < COUNTER_COUNT; i++)
        counter_set((enum counter_id)i, 0);
    inside_begin(!(input_u8(in) & 1));
    slow_host_begin();
    CHECK(agent_start(&agent, &agent_config, &why) == 0 && agent_wait(agent, &why) == 0);
    CHECK(agent_divert_state(agent) == 0);
    CHECK(workers_new(&workers, agent, engine_epoll_fd(e), &why) == 0);
    engine_share(e, &guest);
    config.workers = workers;
    CHECK(divert_new(&divert, &config, &why) == 0);
    engine_set_take_tcp(e, hook_take_tcp, NULL);
    CHECK(workers_start(workers, &why) == 0); /* its only one has no thread */
    agent_go(agent);
}

static void stopped(void)
{
    workers_stop(workers);
    workers = workers_free(workers);
    divert = divert_free(divert);
    agent = agent_free(agent);
    inside_free();
    CHECK(counter_read(COUNTER_splice_pipes) == 0);
}

/* ---- steps ---- */

static void step_flows(void) TSA(no_thread_safety_analysis)
{
    struct flow_info rows[FLOW_ROWS_MAX];
    uint64_t from = 0, next;

    do {
        int n = workers_list_flows(workers, from, rows, 3, &next);

        CHECK(n >= 0 && n <= 3 && (next == 0 || next > from));
        for (int i = 0; i < n; i++) {
            CHECK(strcmp(rows[i].tier, "splice-outbound") == 0);
            CHECK(memchr(rows[i].state, 0, sizeof(rows[i].state)));
            CHECK(rows[i].guest.sa.sa_family == rows[i].remote.sa.sa_family);
            CHECK(rows[i].age_ns >= 0);
        }
        from = next;
    } while (from);
}

static void step(struct input *in)
{
    static const int errors[] = {ENETUNREACH,  EACCES,       EADDRNOTAVAIL, ETIMEDOUT,
                                 EHOSTUNREACH, ECONNREFUSED, ENOBUFS};
    uint8_t n;

    switch ((enum step)(input_u8(in) % STEPS)) {
    case STEP_INSIDE:
        inside_step(in);
        break;
    case STEP_SLOW:
        slow_host_step(in);
        break;
    case STEP_FLOWS:
        step_flows();
        break;
    case STEP_FLOOD:
        n = input_u8(in) % FLOOD_MAX;
        guest_flood(n, input_u8(in));
        break;
    case STEP_CONNECT_FAILS:
        connect_error = errors[input_u8(in) % ARRAY_SIZE(errors)];
        break;
    case STEP_PIPE_FAILS:
        n_pipe_errors = input_u8(in);
        break;
    default:
        CHECK(false);
    }
}

static bool serve(void)
{
    bool any = inside_serve();

    return slow_host_serve() || any;
}

static void end(void)
{
    connect_error = 0;
    n_pipe_errors = 0;
    inside_end();
    slow_host_end();
}

/* Everything has come to its end: what is left is the stock, and pipes for the next flow. */
static void leave(void)
{
    uint64_t n = 0;

    CHECK(counter_read(COUNTER_divert_open) == 0);
    CHECK(counter_read(COUNTER_splice_pipes) <= PIPES_IDLE_MAX);
    for (unsigned i = COUNTER_divert_fallback_no_agent; i <= COUNTER_divert_fallback_agent_failed; i++)
        n += counter_read((enum counter_id)i);
    CHECK(counter_read(COUNTER_divert_fallback) == n);
    CHECK(counter_read(COUNTER_divert_bytes) == counter_read(COUNTER_splice_bytes));
    inside_leave();
}

static int n_fds(void)
{
    return 2 * (int)counter_read(COUNTER_splice_pipes) - inside_n_closed() - (agent_fd(agent) < 0);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    drive_init();
    inside_init();
    slow_host_init();
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct drive_part part = {
        .begin = begin,
        .serve = serve,
        .step = step,
        .end = end,
        .leave = leave,
        .n_fds = n_fds,
        .stopped = stopped,
        .established = inside_established,
        .reset = inside_reset,
    };

    return drive(data, size, &part);
}

FUZZ_MUTATOR(seeds, mend_nothing)
