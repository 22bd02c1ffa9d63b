/* SPDX-License-Identifier: GPL-2.0-or-later */
/* util.c - time, reports, pattern; see load.h */
#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "load.h"

struct sums sums;

static uint64_t looked_ns, paused_ns, said_ns;
static volatile sig_atomic_t ended;

void die(const char *format, ...)
{
    va_list ap;
    int saved = errno;

    fprintf(stderr, "soak-load %s: ", name);
    va_start(ap, format);
    vfprintf(stderr, format, ap);
    va_end(ap);
    if (saved != 0) {
        fprintf(stderr, ": %s", strerror(saved));
    }
    fputc('\n', stderr);
    exit(1);
}

static uint64_t now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

uint64_t running_ns(void)
{
    return looked_ns - paused_ns;
}

static void on_term(int number)
{
    (void)number;
    ended = 1;
}

bool loop_ended(void)
{
    return ended != 0;
}

int loop_wait(int epoll_fd, struct epoll_event events[EVENTS], bool ticking)
{
    uint64_t wait_ms = ticking ? TICK_MS : STATUS_S * 1000, now;
    int n;

    if (looked_ns == 0) {
        struct sigaction action = {.sa_handler = on_term};

        sigaction(SIGTERM, &action, NULL);
        said_ns = looked_ns = now_ns();
    }
    n = epoll_wait(epoll_fd, events, EVENTS, (int)wait_ms);
    if (n < 0 && errno != EINTR) {
        die("epoll_wait");
    }
    now = now_ns();
    if (now - looked_ns > (wait_ms + GAP_MS) * NS_PER_MS) {
        paused_ns += now - looked_ns;
    }
    looked_ns = now;
    if (now - said_ns >= STATUS_S * NS_PER_S) {
        said_ns = now;
        say(false);
    }
    return n > 0 ? n : 0;
}

void say(bool final)
{
    printf("{\"name\": \"%s\", \"started\": %" PRIu64 ", \"good\": %" PRIu64 ", \"failed\": %" PRIu64
           ", \"corrupt\": %" PRIu64 ", \"open\": %" PRIu64 ", \"bytes\": %" PRIu64 ", \"errors\": {",
           name, sums.started, sums.good, sums.failed, sums.corrupt, sums.open, sums.bytes);
    for (int i = 0; i < ERRORS_MAX && sums.errors[i].what; i++) {
        printf("%s\"%s\": %" PRIu64, i ? ", " : "", sums.errors[i].what, sums.errors[i].n);
    }
    printf("}, \"final\": %s}\n", final ? "true" : "false");
    if (fflush(stdout) != 0) { /* nobody listens any more */
        exit(1);
    }
}

void failed(const char *what)
{
    sums.failed++;
    for (int i = 0; i < ERRORS_MAX; i++) {
        if (!sums.errors[i].what) {
            sums.errors[i].what = what;
        }
        if (strcmp(sums.errors[i].what, what) == 0) {
            sums.errors[i].n++;
            return;
        }
    }
}

void raise_descriptor_limit(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &limit);
    }
}

void watch(int epoll_fd, int how, int fd, uint32_t events, void *what)
{
    struct epoll_event event = {.events = events, .data = {.ptr = what}};

    if (epoll_ctl(epoll_fd, how, fd, &event) < 0) {
        die("epoll_ctl");
    }
}

struct target target_parse(const char *addr, const char *port)
{
    struct target target = {.len = sizeof(target.in)};
    uint16_t port_be = htons((uint16_t)strtoul(port, NULL, 10));

    if (inet_pton(AF_INET, addr, &target.in.sin_addr) == 1) {
        target.in.sin_family = AF_INET;
        target.in.sin_port = port_be;
    } else if (inet_pton(AF_INET6, addr, &target.in6.sin6_addr) == 1) {
        target.in6.sin6_family = AF_INET6;
        target.in6.sin6_port = port_be;
        target.len = sizeof(target.in6);
    } else {
        errno = 0;
        die("'%s' is not an address", addr);
    }
    return target;
}

/* splitmix64: Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators (2014) */
static uint64_t mix(uint64_t x)
{
    x += UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

uint64_t random_next(void)
{
    static uint64_t state;

    if (state == 0) {
        state = now_ns();
    }
    return mix(state++);
}

unsigned pace_take(struct pace *pace)
{
    uint64_t now = running_ns();
    unsigned n;

    if (pace->last_ns != 0) {
        pace->due += pace->rate * (double)(now - pace->last_ns) / (double)NS_PER_S;
    }
    pace->last_ns = now;
    n = (unsigned)pace->due;
    pace->due -= n;
    return n;
}

void pattern_fill(uint8_t *to, uint64_t seed, uint64_t offset, size_t n)
{
    seed = mix(seed);
    while (n > 0) {
        uint64_t word = mix(seed + offset / 8 * UINT64_C(0x9e3779b97f4a7c15));
        size_t skip = offset % 8, part = 8 - skip < n ? 8 - skip : n;

        if (part == 8) {
            memcpy(to, &word, 8);
        } else {
            memcpy(to, (const uint8_t *)&word + skip, part);
        }
        to += part;
        offset += part;
        n -= part;
    }
}

bool pattern_is(const uint8_t *bytes, uint64_t seed, uint64_t offset, size_t n)
{
    static uint8_t expected[PIECE];

    pattern_fill(expected, seed, offset, n);
    return memcmp(bytes, expected, n) == 0;
}
