/* SPDX-License-Identifier: GPL-2.0-or-later */
/* util.c - time, sockets, samples; see load.h */
#include <errno.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "load.h"

uint8_t buffer[READ_BYTES];
uint8_t block[WRITE_BYTES];

void die(const char *format, ...)
{
    va_list ap;
    int saved = errno;

    fputs("load: ", stderr);
    va_start(ap, format);
    vfprintf(stderr, format, ap);
    va_end(ap);
    if (saved != 0) {
        fprintf(stderr, ": %s", strerror(saved));
    }
    fputc('\n', stderr);
    exit(1);
}

uint64_t now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

uint64_t length_ns(double seconds)
{
    return (uint64_t)(seconds * (double)NS_PER_S);
}

struct window window_from(uint64_t start, double seconds)
{
    uint64_t end = start + length_ns(seconds);

    return (struct window){
        .begin = start + length_ns(seconds) / 10, .end = end, .latest = end + PATIENCE_S * NS_PER_S};
}

uint64_t window_end(const struct window *window, uint64_t count)
{
    return count == 0 ? window->latest : window->end;
}

bool window_has(struct window *window, uint64_t now, uint64_t count)
{
    if (count == 0 && now >= window->end) {
        window->end = now + 1; /* rates are of the time that it took */
    }
    return now >= window->begin && now < window->end;
}

int ms_until(uint64_t when, int limit)
{
    uint64_t now = now_ns(), ms;

    if (when <= now) {
        return 0;
    }
    ms = (when - now + NS_PER_MS - 1) / NS_PER_MS;
    return ms < (uint64_t)limit ? (int)ms : limit;
}

void set_timeout(int fd, int option, uint64_t ns)
{
    struct timeval tv = {.tv_sec = (time_t)(ns / NS_PER_S), .tv_usec = (suseconds_t)(ns % NS_PER_S / 1000)};

    if (setsockopt(fd, SOL_SOCKET, option, &tv, sizeof(tv)) < 0) {
        die("setsockopt(timeout)");
    }
}

int tcp_connect(const struct sockaddr_in *sin)
{
    int one = 1;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0) {
        die("socket");
    }
    set_timeout(fd, SO_SNDTIMEO, CONNECT_TIMEOUT_S * NS_PER_S);
    set_timeout(fd, SO_RCVTIMEO, CONNECT_TIMEOUT_S * NS_PER_S);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    if (connect(fd, (const struct sockaddr *)sin, sizeof(*sin)) < 0) {
        int saved = errno;

        close(fd);
        errno = saved;
        return -1;
    }
    return fd;
}

/* As much as the kernel gives without privilege. */
static void large_buffers(int fd)
{
    int size = UDP_BUFFER;

    (void)setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
    (void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
}

int udp_connect(const struct sockaddr_in *sin, int flags)
{
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | flags, 0);

    if (fd < 0) {
        die("socket");
    }
    large_buffers(fd);
    if (connect(fd, (const struct sockaddr *)sin, sizeof(*sin)) < 0) {
        die("connect");
    }
    return fd;
}

int bind_server(const struct sockaddr_in *sin, int type)
{
    int one = 1;
    int fd = socket(AF_INET, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    if (fd < 0) {
        die("socket");
    }
    if (type == SOCK_STREAM) {
        (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    } else {
        large_buffers(fd);
    }
    if (bind(fd, (const struct sockaddr *)sin, sizeof(*sin)) < 0) {
        die("bind");
    }
    if (type == SOCK_STREAM && listen(fd, 4096) < 0) {
        die("listen");
    }
    return fd;
}

ssize_t block_send(int fd, uint64_t sent)
{
    size_t at = (size_t)(sent % WRITE_BYTES);

    return send(fd, block + at, WRITE_BYTES - at, MSG_DONTWAIT);
}

void raise_descriptor_limit(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &limit); /* what does not fit later says so */
    }
}

void samples_add(struct samples *samples, uint64_t ns)
{
    if (samples->n == MAX_SAMPLES) {
        return; /* far beyond what a percentile needs */
    }
    if (samples->n == samples->room) {
        samples->room = samples->room == 0 ? 1 << 16 : samples->room * 2;
        samples->ns = realloc(samples->ns, samples->room * sizeof(*samples->ns));
        if (samples->ns == NULL) {
            die("realloc");
        }
    }
    samples->ns[samples->n++] = ns;
}

static int compare_ns(const void *a, const void *b)
{
    const uint64_t *x = a, *y = b;

    return (*x > *y) - (*x < *y);
}

void samples_print(struct samples *samples)
{
    static const double tail[] = {0.995, 0.999, 0.9995, 0.9999, 1.0};

    qsort(samples->ns, samples->n, sizeof(*samples->ns), compare_ns);
#define AT(share) ((double)samples->ns[(size_t)((double)(samples->n - 1) * (share))] / 1000.0)
    printf(", \"p50_us\": %.3f, \"p99_us\": %.3f, \"p999_us\": %.3f, \"quantiles\": [", AT(0.5), AT(0.99),
           AT(0.999));
    for (int i = 0; i < 100; i++) {
        printf("[%.2f, %.3f], ", i / 100.0, AT(i / 100.0));
    }
    for (size_t i = 0; i < sizeof(tail) / sizeof(tail[0]); i++) {
        printf("%s[%.4f, %.3f]", i == 0 ? "" : ", ", tail[i], AT(tail[i]));
    }
#undef AT
    printf("]");
    free(samples->ns);
}
