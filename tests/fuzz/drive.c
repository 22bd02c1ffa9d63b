/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "drive.h"

#include "baton.h"
#include "fds.h"
#include "outside.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/thread.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
    ANSWERS_MAX = 3000, /* times that there was something to answer, of one input */
    STEPS_MAX = 200,
    TURNS_MAX = 100000,        /* of the loop without a step: it is busy with nothing */
    EMPTY_TURNS_MAX = 1000,    /* ... that does not sleep, and finds nothing */
    TIME_MS_MAX = 1000 * 1000, /* for an input */
    REST_MS = 700 * 1000,      /* all timers of libslirp and of ours */
    RESTS_PER_LOOK = 16,
    PATIENCE_MS = 500, /* real ones, for an input */
    FORWARD_PORT = 8053,
};

enum step {
    STEP_GUEST, /* guest.c says which */
    STEP_TIME,
    STEP_SEND,
    STEP_CLOSE,
    STEP_ADOPT,
    STEP_FORWARD,
    STEP_DATAGRAM,
    STEP_LIST,
    STEP_OWN, /* the target's */
    STEPS,
};

static struct engine *engine;
static struct engine_config config;
static int guest_fd = -1;
static struct input *input;
static int64_t now_ns, left_ms, to_pass_ms;
static uint32_t n_answers, n_steps, n_rests, n_turns, n_empty_turns;
static bool ended;
static struct fds at_rest;
static struct udp_forward *forward;
static const struct drive_part *part;
static bool left, acting;
static uint32_t n_patience;

/* ---- in the place of the system ---- */

int fuzz_clock_gettime(clockid_t clock, struct timespec *ret);
int fuzz_epoll_wait(int fd, struct epoll_event *events, int max, int timeout_ms);
int fuzz_thread_spawn(pthread_t *ret, const struct thread_start *start);
int fuzz_pthread_join(pthread_t thread, void **ret);
int fuzz_poll(struct pollfd *fds, nfds_t n, int timeout_ms);
int real_pthread_join(pthread_t thread, void **ret) __asm__("pthread_join");
int fuzz_sched_yield(void);

int fuzz_clock_gettime(clockid_t clock, struct timespec *ret)
{
    (void)clock;
    now_ns += 1000; /* code that waits by looking at the clock comes to its end, too */
    ret->tv_sec = now_ns / NS_PER_S;
    ret->tv_nsec = now_ns % NS_PER_S;
    return 0;
}

int fuzz_thread_spawn(pthread_t *ret, const struct thread_start *start)
{
    int r;

    if (config.mode == ENGINE_SPLIT)
        return baton_spawn(ret, start);
    r = start->prepare(start->arg);
    if (r == 0)
        start->run(start->arg);
    return r;
}

int fuzz_sched_yield(void)
{
    now_ns += NS_PER_MS;
    return 0;
}

int fuzz_pthread_join(pthread_t thread, void **ret)
{
    return config.mode == ENGINE_SPLIT ? real_pthread_join(thread, ret) : 0;
}

/* ---- steps ---- */

static void step_time(void)
{
    static const int scale[] = {1, 10, 100, 1000};
    int64_t ms = input_u8(input);

    ms *= scale[input_u8(input) % ARRAY_SIZE(scale)];
    to_pass_ms = ms < left_ms ? ms : left_ms;
    left_ms -= to_pass_ms;
}

static void step_adopt(void)
{
    uint8_t b = input_u8(input);
    union address guest = {.in = {.sin_family = AF_INET, .sin_port = htons(b & 1 ? 81 : 80)}};
    int fd = outside_connect(b & 4, b & 2);

    if (fd < 0)
        return;
    if (b & 8 && config.ipv6) {
        guest.in6 = (struct sockaddr_in6){.sin6_family = AF_INET6, .sin6_port = htons(80)};
        guest.in6.sin6_addr.s6_addr[0] = 0xfd;
        guest.in6.sin6_addr.s6_addr[15] = 0x64;
    } else {
        guest.in.sin_addr.s_addr = htonl(b & 16 ? 0x0a000232 : 0x0a000264); /* nobody answers for the first */
    }
    if (engine_adopt(engine, fd, &guest) < 0)
        close(fd);
}

static void step_forward(void) TSA(no_thread_safety_analysis)
{
    union address host = {.in = {.sin_family = AF_INET, .sin_port = htons(FORWARD_PORT)}};
    union address guest = {.in = {.sin_family = AF_INET, .sin_port = htons(FORWARDED_PORT)}};
    struct failure why = FAILURE_NULL;
    uint8_t b = input_u8(input);

    if (forward) {
        engine_udp_forward_remove(engine, forward);
        forward = NULL;
    }
    if (b & 0x80)
        return;
    host.in.sin_addr.s_addr = htonl(b & 1 ? INADDR_LOOPBACK : INADDR_ANY);
    guest.in.sin_addr.s_addr = htonl(b & 2 ? 0x0a000265 : 0x0a000264);
    if (b & 4 && config.ipv6) {
        host.in6 = (struct sockaddr_in6){.sin6_family = AF_INET6, .sin6_port = htons(FORWARD_PORT)};
        guest.in6 = host.in6;
        guest.in6.sin6_addr.s6_addr[0] = 0xfd;
        guest.in6.sin6_addr.s6_addr[15] = 0x64;
    }
    if (engine_udp_forward_add(engine, &host, b & 8, &guest, &forward, &why) < 0)
        forward = NULL;
}

static void step_list(void) TSA(no_thread_safety_analysis)
{
    static flow_list *const lists[] = {(flow_list *)engine_list_slirp, (flow_list *)engine_list_udp,
                                       (flow_list *)engine_list_flows};
    const unsigned n_lists = config.mode == ENGINE_SPLIT ? 2 : 3; /* the last one waits for tap-rx there */
    struct flow_info rows[FLOW_ROWS_MAX];

    for (unsigned i = 0; i < n_lists; i++) {
        uint64_t from = 0, next;

        do {
            int n = lists[i](engine, from, rows, 3, &next);

            CHECK(n >= 0 && n <= 3 && (next == 0 || next > from));
            for (int row = 0; row < n; row++)
                CHECK(rows[row].tier && memchr(rows[row].state, 0, sizeof(rows[row].state)));
            from = next;
        } while (from);
    }
}

static void step(void)
{
    uint8_t b;

    switch ((enum step)(input_u8(input) % STEPS)) {
    case STEP_GUEST:
        guest_step(input);
        break;
    case STEP_TIME:
        step_time();
        break;
    case STEP_SEND:
        b = input_u8(input);
        outside_send(b, input_u16(input));
        break;
    case STEP_CLOSE:
        b = input_u8(input);
        switch (input_u8(input) % 4) {
        case 0:
            outside_shutdown(b);
            break;
        case 1:
            outside_toggle_reading(b);
            break;
        default:
            outside_close(b, b & 64);
        }
        break;
    case STEP_ADOPT:
        step_adopt();
        break;
    case STEP_FORWARD:
        step_forward();
        break;
    case STEP_DATAGRAM:
        b = input_u8(input);
        outside_datagram(b & 1, b >> 1, FORWARD_PORT, input_u16(input));
        break;
    case STEP_LIST:
        step_list();
        break;
    case STEP_OWN:
        part->step(input);
        break;
    default:
        CHECK(false);
    }
}

/* The input has been used up: everybody goes home. */
static void end(void) TSA(no_thread_safety_analysis)
{
    guest_end();
    if (part->end)
        part->end();
    outside_end();
    if (forward)
        engine_udp_forward_remove(engine, forward);
    forward = NULL;
    ended = true;
    to_pass_ms = REST_MS;
}

static bool is_at_rest(void)
{
    struct fds now;

    fds_look(&now);
    return (int)now.n == (int)at_rest.n + (part->n_fds ? part->n_fds() : 0);
}

/* Time passes until everything that has a timer has ended. Then the guest's end is closed: the engine sees
 * that it is gone, and ends. */
static void rest(void)
{
    if (to_pass_ms > 0 && (part->leave || n_rests++ % RESTS_PER_LOOK != 0 || !is_at_rest()))
        return;
    if (part->leave && !left) {
        left = true;
        part->leave();
        return;
    }
    if (!is_at_rest() && n_patience < PATIENCE_MS) { /* the kernel may be late */
        n_patience++;
        usleep(1000);
        return;
    }
    CHECK(is_at_rest());
    close(guest_fd);
    guest_fd = -1;
}

/* The loop wants to sleep for @timeout_ms (-1: until something happens). */
static void act(int timeout_ms)
{
    bool any;

    n_turns = 0;
    any = guest_receive();
    any |= outside_serve();
    if (part->serve)
        any |= part->serve();
    /* libslirp repeats a segment for each acknowledgement that acknowledges nothing, and this guest answers.
     */
    if (any && n_answers < ANSWERS_MAX) {
        n_answers++;
        return;
    }
    if (!any && at_rest.n == 0)
        fds_look(&at_rest);
    if (!any && ended)
        rest();
    if (to_pass_ms > 0) {
        int64_t ms = timeout_ms >= 0 && timeout_ms < to_pass_ms ? timeout_ms : to_pass_ms;

        now_ns += ms * NS_PER_MS;
        to_pass_ms -= ms;
    } else if (!ended && input->size > 0 && n_steps++ < STEPS_MAX) {
        step();
    } else if (!ended) {
        end();
    }
}

/* Everybody sleeps. */
static bool everybody_sleeps(int timeout_ms)
{
    if (guest_fd < 0)
        return false;
    acting = true;
    act(timeout_ms);
    acting = false;
    return true;
}

static int64_t clock_now(void)
{
    return now_ns;
}

struct look {
    int fd, max;
    struct epoll_event *events;
    struct pollfd *fds;
    nfds_t n;
};

static int look_epoll(void *arg)
{
    const struct look *l = arg;

    return (int)syscall(SYS_epoll_pwait, l->fd, l->events, l->max, 0, NULL, 8);
}

static int look_poll(void *arg)
{
    static const struct timespec zero;
    const struct look *l = arg;

    return (int)syscall(SYS_ppoll, l->fds, l->n, &zero, NULL, 8);
}

/* The direction threads'; others only look. */
int fuzz_poll(struct pollfd *fds, nfds_t n, int timeout_ms)
{
    struct look l = {.fds = fds, .n = n};

    return baton_is_mine() && timeout_ms != 0 ? baton_sleep(look_poll, &l, timeout_ms, clock_now)
                                              : look_poll(&l);
}

int fuzz_epoll_wait(int fd, struct epoll_event *events, int max, int timeout_ms)
{
    struct look l = {.fd = fd, .max = max, .events = events};
    int n;

    n_turns++;
    CHECK(n_turns < TURNS_MAX);
    if (config.mode == ENGINE_SPLIT)
        return baton_sleep(look_epoll, &l, timeout_ms, clock_now);
    n = look_epoll(&l);
    if (n != 0 || timeout_ms == 0) {
        n_empty_turns = n == 0 ? n_empty_turns + 1 : 0;
        CHECK(n_empty_turns < EMPTY_TURNS_MAX);
        return n;
    }
    n_empty_turns = 0;
    (void)everybody_sleeps(timeout_ms);
    return look_epoll(&l);
}

bool drive_is_acting(void)
{
    return acting;
}

/* ---- one input ---- */

void drive_init(void)
{
    struct rlimit limit;

    outside_init();
    signal(SIGPIPE, SIG_IGN); /* as main does */
    CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    limit.rlim_cur = FDS_LOOKED_AT;
    CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0); /* all are looked at */
    log_set_level(LOG_LEVEL_ERROR);
    thread_register("fuzz");
}

static void configure(uint8_t flags, uint8_t mtu)
{
    static const unsigned mtus[] = {1280, 1500, 9000, 65520, 576, 65521};

    config = (struct engine_config){
        .is_socket = true,
        .mtu = mtus[mtu % 128 % ARRAY_SIZE(mtus)],
        .network.s_addr = htonl(0x0a000200),
        .netmask.s_addr = htonl(0xffffff00),
        .gateway.s_addr = htonl(0x0a000202),
        .dns.s_addr = htonl(0x0a000203),
        .dhcp_start.s_addr = htonl(0x0a00020f),
        .guest.s_addr = htonl(0x0a000264),
        .ipv6 = flags & 1,
        .disable_host_loopback = flags & 2,
        .disable_dns = flags & 4,
        .udp = flags & 64  ? ENGINE_UDP_AUTO
               : flags & 8 ? ENGINE_UDP_DIRECT
                           : ENGINE_UDP_SLIRP,
        .has_outbound = flags & 16,
        .has_outbound6 = flags & 32,
        .outbound = {.sin_family = AF_INET},
        .outbound6 = {.sin6_family = AF_INET6},
        .backend = ENGINE_BACKEND_EPOLL,
        .mode = mtu & 128 && !part->serve ? ENGINE_SPLIT : ENGINE_SHARED,
    };
    CHECK(inet_pton(AF_INET, OTHER_HOST4, &config.outbound.sin_addr) == 1);
    CHECK(inet_pton(AF_INET6, OTHER_HOST6, &config.outbound6.sin6_addr) == 1);
}

static void await_end(void)
{
    struct pollfd gone = {.fd = engine_gone_fd(engine), .events = POLLIN};
    int n;

    baton_go();
    do /* libFuzzer's -timeout is a limit, and an alarm now and then */
        n = (int)syscall(SYS_ppoll, &gone, 1, NULL, NULL, 8);
    while (n < 0 && errno == EINTR);
    CHECK(n == 1);
}

int drive(const uint8_t *data, size_t size, const struct drive_part *with)
{
    struct input in = {data, size};
    struct failure why = FAILURE_NULL;
    struct fds before;
    int pair[2];
    uint8_t flags = input_u8(&in);

    part = with;
    fds_look(&before);
    configure(flags, input_u8(&in));
    CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) == 0);
    config.tap_fd = pair[0];
    guest_fd = pair[1];
    input = &in;
    now_ns = 1000 * NS_PER_S;
    left_ms = TIME_MS_MAX;
    to_pass_ms = 0;
    n_answers = n_steps = n_rests = n_turns = n_empty_turns = n_patience = 0;
    ended = left = false;
    at_rest.n = 0;
    outside_begin(config.disable_host_loopback);
    CHECK(engine_new(&engine, &config, &why) == 0);
    if (part->begin)
        part->begin(engine, &config, &in);
    guest_begin(&(struct guest_config){.fd = guest_fd,
                                       .mtu = config.mtu,
                                       .ipv6 = config.ipv6,
                                       .no_loopback = config.disable_host_loopback,
                                       .established = part->established,
                                       .reset = part->reset});
    baton_begin(everybody_sleeps);
    CHECK(engine_start(engine, &why) == 0); /* shared mode: until the guest's end is closed */
    engine_go(engine);
    if (config.mode == ENGINE_SPLIT)
        await_end();
    CHECK(engine_gone(engine) < 0 && ended);
    guest_free();
    engine_stop(engine);
    if (part->stopped)
        part->stopped();
    engine = engine_free(engine);
    fds_check(&before);
    return 0;
}
