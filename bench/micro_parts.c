/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * micro_parts.c - what every frame passes: ring and wake-up between threads, checksum, parser
 *
 * Usage: micro-parts SECONDS
 *
 * The ring is io/spsc.h with the program's eventcount (io/wakeup.h) at both ends. The hand-off is half of
 * the time that one id takes to another thread and back: with both asleep in between, as when frames are
 * rare, and with both looking all the time.
 *
 * Says one figure a line, as JSON: {"name": ..., "value": ..., "unit": ...}.
 */
#include "base/clock.h"
#include "io/frame.h"
#include "io/packet.h"
#include "io/wakeup.h"

#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { RING = 256, BATCH_MAX = 64, WAIT_MS = 1000, CALLS = 1000 };

static int64_t duration_ns;

__attribute__((noreturn)) static void die(const char *what)
{
    perror(what);
    exit(1);
}

static void say(const char *name, double value, const char *unit)
{
    printf("{\"name\": \"%s\", \"value\": %.4f, \"unit\": \"%s\"}\n", name, value, unit);
}

/* ---- ring and hand-off ---- */

struct end {
    struct spsc ring; /* towards this end */
    struct wakeup wake;
};

struct pair {
    struct end there, back;
    uint32_t batch;
    bool sleeps;
    atomic_bool over; /* relaxed: ordered by the wake-up */
};

static bool over(struct pair *p)
{
    return atomic_load_explicit(&p->over, memory_order_relaxed);
}

/* Waits until there is something; returns how much. 0: it is over. */
static uint32_t receive(struct pair *p, struct end *e, frame_id *ids)
{
    for (;;) {
        uint32_t n = spsc_pop(&e->ring, ids, BATCH_MAX);
        struct pollfd pfd = {.fd = e->wake.fd, .events = POLLIN};

        if (n > 0 || over(p))
            return n;
        if (!p->sleeps) {
            sched_yield();
            continue;
        }
        wakeup_prepare(&e->wake);
        if (spsc_empty(&e->ring) && !over(p) && poll(&pfd, 1, WAIT_MS) > 0)
            wakeup_drain(&e->wake);
        wakeup_cancel(&e->wake);
    }
}

static void *answer(void *arg)
{
    struct pair *p = arg;
    frame_id ids[BATCH_MAX];
    uint32_t n;

    while ((n = receive(p, &p->there, ids)) > 0) {
        (void)spsc_push(&p->back.ring, ids, n); /* fits: as many are on their way as the ring has places */
        wakeup_notify(&p->back.wake);
    }
    return NULL;
}

/* How many ids went there and back in a second, with @batch of them at most on their way. */
static double measure_pair(uint32_t batch, bool sleeps)
{
    struct pair p = {.batch = batch, .sleeps = sleeps};
    frame_id ids[BATCH_MAX] = {0};
    uint64_t n_back = 0;
    int64_t start_ns, now_ns;
    pthread_t thread;

    if (spsc_init(&p.there.ring, RING, 0) < 0 || spsc_init(&p.back.ring, RING, 0) < 0 ||
        wakeup_init(&p.there.wake) < 0 || wakeup_init(&p.back.wake) < 0 ||
        pthread_create(&thread, NULL, answer, &p) != 0)
        die("a pair of threads");
    start_ns = clock_monotonic_ns();
    do {
        uint32_t n_out = spsc_push(&p.there.ring, ids, batch);

        wakeup_notify(&p.there.wake);
        while (n_out > 0) {
            uint32_t n = receive(&p, &p.back, ids);

            n_out -= n;
            n_back += n;
        }
        now_ns = clock_monotonic_ns();
    } while (now_ns - start_ns < duration_ns);
    atomic_store_explicit(&p.over, true, memory_order_relaxed);
    wakeup_send(&p.there.wake);
    pthread_join(thread, NULL);
    spsc_deinit(&p.there.ring);
    spsc_deinit(&p.back.ring);
    wakeup_deinit(&p.there.wake);
    wakeup_deinit(&p.back.wake);
    return (double)n_back * (double)NS_PER_S / (double)(now_ns - start_ns);
}

/* One thread: what a push and a pop cost when nobody else touches the ring. */
static double measure_ring_alone(void)
{
    frame_id ids[BATCH_MAX] = {0};
    struct spsc ring;
    uint64_t n = 0;
    int64_t start_ns = clock_monotonic_ns(), now_ns;

    if (spsc_init(&ring, RING, 0) < 0)
        die("a ring");
    do {
        for (int i = 0; i < CALLS; i++) {
            (void)spsc_push(&ring, ids, BATCH_MAX);
            n += spsc_pop(&ring, ids, BATCH_MAX);
        }
        now_ns = clock_monotonic_ns();
    } while (now_ns - start_ns < duration_ns);
    spsc_deinit(&ring);
    return (double)n * (double)NS_PER_S / (double)(now_ns - start_ns);
}

/* ---- checksum and parser ---- */

static void measure_checksum(uint32_t size)
{
    uint8_t *data = calloc(1, size);
    int64_t start_ns = clock_monotonic_ns(), now_ns;
    volatile uint16_t sink; /* or the compiler leaves the work out */
    uint64_t n = 0;
    char name[64];

    if (!data)
        die("calloc");
    do {
        for (int i = 0; i < CALLS; i++, n++)
            sink = checksum_fold(checksum_add((uint32_t)i, data, size));
        now_ns = clock_monotonic_ns();
    } while (now_ns - start_ns < duration_ns);
    (void)sink;
    free(data);
    snprintf(name, sizeof(name), "checksum, %u B", size);
    say(name, (double)n * size / (double)(now_ns - start_ns), "GB/s");
}

static void measure_parser(const char *name, bool v6, uint8_t protocol)
{
    uint8_t frame[128] = {0};
    uint32_t ip_size = v6 ? 40 : 20, size = FRAME_ETH_SIZE + ip_size + 20;
    int64_t start_ns = clock_monotonic_ns(), now_ns;
    struct packet packet;
    uint64_t n = 0, n_good = 0;

    put_u16(frame + 12, v6 ? 0x86dd : 0x0800);
    if (v6) {
        frame[FRAME_ETH_SIZE] = 0x60;
        put_u16(frame + FRAME_ETH_SIZE + 4, 20);
        frame[FRAME_ETH_SIZE + 6] = protocol;
    } else {
        frame[FRAME_ETH_SIZE] = 0x45;
        put_u16(frame + FRAME_ETH_SIZE + 2, 40);
        frame[FRAME_ETH_SIZE + 9] = protocol;
    }
    frame[FRAME_ETH_SIZE + ip_size + 12] = 5 << 4; /* TCP's header size */
    if (protocol == IPPROTO_UDP)
        put_u16(frame + FRAME_ETH_SIZE + ip_size + 4, 20);
    do {
        for (int i = 0; i < CALLS; i++, n++)
            n_good += packet_parse(&packet, frame, size) == (v6 ? PACKET_IPV6 : PACKET_IPV4) && packet.l4;
        now_ns = clock_monotonic_ns();
    } while (now_ns - start_ns < duration_ns);
    if (n_good != n) {
        fprintf(stderr, "%s: the parser does not like it\n", name);
        exit(1);
    }
    say(name, (double)(now_ns - start_ns) / (double)n, "ns/frame");
}

int main(int argc, char **argv)
{
    char *end = NULL;
    double seconds = argc == 2 ? strtod(argv[1], &end) : 0;

    if (argc != 2 || end == argv[1] || *end != '\0' || !(seconds >= 0.01 && seconds <= 60)) {
        fputs("Usage: micro-parts SECONDS\n", stderr);
        return 2;
    }
    duration_ns = (int64_t)(seconds * (double)NS_PER_S);
    say("ring, one thread, batches of 64", measure_ring_alone() / 1e6, "million ids/s");
    say("ring, two threads, batches of 64, looking", measure_pair(BATCH_MAX, false) / 1e6, "million ids/s");
    say("ring, two threads, batches of 64, sleeping", measure_pair(BATCH_MAX, true) / 1e6, "million ids/s");
    say("hand-off of one id, looking", (double)NS_PER_S / measure_pair(1, false) / 2000, "us");
    say("hand-off of one id, sleeping", (double)NS_PER_S / measure_pair(1, true) / 2000, "us");
    measure_checksum(64);
    measure_checksum(1460);
    measure_checksum(65480);
    measure_parser("parser, TCP over IPv4", false, IPPROTO_TCP);
    measure_parser("parser, UDP over IPv4", false, IPPROTO_UDP);
    measure_parser("parser, TCP over IPv6", true, IPPROTO_TCP);
    return 0;
}
