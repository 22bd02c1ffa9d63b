/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * micro_udp.c - the guest's own datagrams past libslirp: from frames to a socket and back
 *
 * Usage: micro-udp SECONDS
 *
 * Outwards: frames of one flow are taken and flushed, alone or 64 at a time, towards a socket on the loopback
 * whose buffer soon is full; the kernel's way there is part of it. Inwards: 64 datagrams wait, and one event
 * is dealt with; as frames each, and joined. What is told is the time of a datagram; writing to the TAP is
 * not in it. Questions: each from a port of its own, to the DNS address, so that a socket is made for each.
 *
 * Says one figure a line, as JSON: {"name": ..., "value": ..., "unit": ...}.
 */
#include "base/bits.h"
#include "base/clock.h"
#include "io/udp_flows.h"
#include "io/udp_frame.h"

#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

enum { BATCH = 64, PAYLOAD = 1200, PORT = 40000 };

static int64_t duration_ns;
static struct udp_flows *flows;
static int epoll_fd, peer_fd;
static union address gateway, dns, peer;
static uint32_t n_frames;

/* Frames of the guest's, one from each of several ports. */
static struct {
    uint8_t bytes[14 + 20 + 8 + PAYLOAD];
    struct packet packet;
} out[BATCH];
static uint32_t n_out;

__attribute__((noreturn)) static void die(const char *what)
{
    perror(what);
    exit(1);
}

static void say(const char *name, double value)
{
    printf("{\"name\": \"%s\", \"value\": %.4f, \"unit\": \"us\"}\n", name, value);
}

static void keep_frame(void *arg, const void *frame, uint32_t size)
{
    (void)arg;
    memcpy(out[n_out].bytes, frame, size);
    (void)packet_parse(&out[n_out].packet, out[n_out].bytes, size);
    n_out++;
}

static void make_frame(uint16_t port, const union address *to, uint32_t size)
{
    static uint8_t room[UDP_FRAME_HEADROOM + PAYLOAD];
    union address guest = {.in = {.sin_family = AF_INET, .sin_port = htons(port)}};
    uint32_t id = 0;
    struct udp_frame f = {.src = &guest, .dst = to, .mtu = 1500, .id = &id, .send = keep_frame};

    inet_pton(AF_INET, "10.0.2.100", &guest.in.sin_addr);
    if (!udp_frame_send(&f, room + UDP_FRAME_HEADROOM, size))
        die("a frame of the guest's");
}

static void count_frame(void *arg, const void *frame, uint32_t size)
{
    (void)arg;
    (void)frame;
    (void)size;
    n_frames++;
}

static void count_parts(void *arg, const struct virtio_net_hdr *header, struct iovec *parts, uint32_t n_parts)
{
    (void)arg;
    (void)header;
    (void)parts;
    (void)n_parts;
    n_frames++;
}

static void begin(bool joined, const char *resolv_conf) TSA(acquire_capability(role_udp_out))
    TSA(acquire_capability(role_udp_in))
{
    struct udp_flows_config config = {
        .epoll_fd = epoll_fd = epoll_create1(EPOLL_CLOEXEC),
        .mtu = 1500,
        .n_flows_max = 256,
        .resolv_conf = resolv_conf,
        .send = count_frame,
        .send_parts = joined ? count_parts : NULL,
    };
    struct failure why = FAILURE_NULL;

    inet_pton(AF_INET, "10.0.2.0", &config.network);
    inet_pton(AF_INET, "255.255.255.0", &config.netmask);
    config.gateway = gateway.in.sin_addr;
    config.dns = dns.in.sin_addr;
    if (udp_flows_new(&flows, &config, &why) < 0) {
        fprintf(stderr, "%s\n", why.what);
        exit(1);
    }
    role_enter(&role_udp_out);
    role_enter(&role_udp_in);
}

static void end(void) TSA(release_capability(role_udp_in)) TSA(release_capability(role_udp_out))
{
    role_leave(&role_udp_in);
    role_leave(&role_udp_out);
    flows = udp_flows_free(flows);
    close(epoll_fd);
}

static void send_batch(uint32_t n) RUNS_ON(role_udp_out)
{
    int64_t now_ns = clock_coarse_ns();

    for (uint32_t i = 0; i < n; i++)
        (void)udp_flows_take(flows, &out[i].packet, 0, now_ns);
    udp_flows_flush(flows, now_ns);
}

TSA(no_thread_safety_analysis) static void measure_out(const char *name, uint32_t batch)
{
    int64_t start_ns, now_ns;
    uint64_t n = 0;

    begin(false, "/nonexistent/resolv.conf");
    n_out = 0;
    for (uint32_t i = 0; i < batch; i++)
        make_frame(PORT, &gateway, PAYLOAD);
    start_ns = clock_monotonic_ns();
    do {
        send_batch(batch);
        n += batch;
        now_ns = clock_monotonic_ns();
    } while (now_ns < start_ns + duration_ns);
    say(name, (double)(now_ns - start_ns) / 1000 / (double)n);
    end();
}

TSA(no_thread_safety_analysis) static void measure_in(const char *name, bool joined)
{
    static uint8_t bytes[PAYLOAD];
    int64_t spent_ns = 0;
    uint64_t n = 0;
    union address mapped;
    socklen_t size = sizeof(mapped);
    struct epoll_event event;

    begin(joined, "/nonexistent/resolv.conf");
    while (recv(peer_fd, bytes, sizeof(bytes), MSG_DONTWAIT) >= 0) {
        /* what was sent outwards */
    }
    n_out = 0;
    make_frame(PORT, &gateway, PAYLOAD);
    send_batch(1);
    if (recvfrom(peer_fd, bytes, sizeof(bytes), 0, &mapped.sa, &size) != PAYLOAD)
        die("the first datagram");
    for (int64_t start_ns = clock_monotonic_ns(); clock_monotonic_ns() < start_ns + duration_ns;) {
        int64_t begin_ns;

        for (uint32_t i = 0; i < BATCH; i++) {
            if (sendto(peer_fd, bytes, PAYLOAD, 0, &mapped.sa, size) != PAYLOAD)
                die("an answer");
        }
        if (epoll_wait(epoll_fd, &event, 1, 1000) != 1)
            die("an event");
        begin_ns = clock_monotonic_ns();
        udp_flows_ready(flows, (uint32_t)event.data.u64, event.events, begin_ns);
        spent_ns += clock_monotonic_ns() - begin_ns;
        n += BATCH;
    }
    say(name, (double)spent_ns / 1000 / (double)n);
    end();
}

/* What a resolver costs: a question, the socket for it, an answer, its end. */
TSA(no_thread_safety_analysis) static void measure_questions(void)
{
    char path[] = "/tmp/micro-udp.XXXXXX";
    int file = mkstemp(path);
    int64_t start_ns, now_ns;
    uint64_t n = 0;

    if (file < 0 || write(file, "nameserver 127.0.0.1\n", 21) != 21)
        die(path);
    close(file);
    begin(false, path);
    start_ns = clock_monotonic_ns();
    do {
        n_out = 0;
        for (uint32_t i = 0; i < BATCH; i++)
            make_frame((uint16_t)(1024 + (n + i) % 60000), &dns, 40);
        send_batch(BATCH);
        udp_flows_turn(flows);
        n += BATCH;
        now_ns = clock_monotonic_ns();
    } while (now_ns < start_ns + duration_ns);
    say("question from a new port", (double)(now_ns - start_ns) / 1000 / (double)n);
    end();
    unlink(path);
}

int main(int argc, char **argv)
{
    socklen_t size = sizeof(peer);
    static const int buffer = 4 << 20;
    char *rest = NULL;
    double seconds = argc == 2 ? strtod(argv[1], &rest) : 0;

    if (argc != 2 || rest == argv[1] || *rest != '\0' || !(seconds >= 0.01 && seconds <= 60)) {
        fprintf(stderr, "Usage: %s SECONDS\n", argv[0]);
        return 2;
    }
    duration_ns = (int64_t)(seconds * 1e9);
    peer_fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    peer.in = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (peer_fd < 0 || bind(peer_fd, &peer.sa, sizeof(peer.in)) < 0 ||
        getsockname(peer_fd, &peer.sa, &size) < 0)
        die("a socket on the loopback");
    (void)setsockopt(peer_fd, SOL_SOCKET, SO_RCVBUF, &buffer, sizeof(buffer)); /* a wish */
    gateway.in = dns.in = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = peer.in.sin_port};
    inet_pton(AF_INET, "10.0.2.2", &gateway.in.sin_addr);
    inet_pton(AF_INET, "10.0.2.3", &dns.in.sin_addr);
    dns.in.sin_port = htons(53);
    measure_out("out, one at a time", 1);
    measure_out("out, 64 at a time", BATCH);
    measure_in("in, a frame each", false);
    measure_in("in, joined", true);
    measure_questions();
    return 0;
}
