/* SPDX-License-Identifier: GPL-2.0-or-later */
/* udp.c - streams and echo floods of datagrams; see load.h */
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "load.h"

enum {
    ECHO_IN_FLIGHT = 64,         /* datagrams of an echo flood on their way ... */
    ECHO_IN_FLIGHT_BYTES = 65536 /* ... and their bytes: ordinary socket buffers hold that much */
};

struct batch {
    struct mmsghdr headers[BATCH];
    struct iovec parts[BATCH];
    uint8_t bytes[BATCH][DATAGRAM_MAX];
};

static struct batch batch;

static void batch_prepare(size_t size)
{
    for (int i = 0; i < BATCH; i++) {
        batch.parts[i] = (struct iovec){.iov_base = batch.bytes[i], .iov_len = size};
        batch.headers[i].msg_hdr = (struct msghdr){.msg_iov = &batch.parts[i], .msg_iovlen = 1};
    }
}

/* Puts the head into every datagram, with numbers from `number`. */
static void batch_fill(struct datagram head, uint32_t number)
{
    for (int i = 0; i < BATCH; i++) {
        head.number = number + (uint32_t)i;
        memcpy(batch.bytes[i], &head, sizeof(head));
    }
}

static struct udp_report ask_for_report(const struct sockaddr_in *sin, uint64_t id)
{
    struct head head = {.op = OP_REPORT, .begin = id};
    struct udp_report report;
    int fd = tcp_connect(sin);

    if (fd < 0) {
        die("connect for the report");
    }
    errno = 0;
    if (send(fd, &head, sizeof(head), 0) != (ssize_t)sizeof(head) ||
        recv(fd, &report, sizeof(report), MSG_WAITALL) != (ssize_t)sizeof(report)) {
        die("no report from the server");
    }
    close(fd);
    return report;
}

/* Datagrams of one size as fast as they can be sent, to the server or from it; counted where they arrive. */
void udp_stream(const char *mode, const struct sockaddr_in *sin, size_t size, double seconds, enum op op)
{
    int fd = udp_connect(sin, op == OP_SOURCE ? SOCK_NONBLOCK : 0);
    uint64_t start = now_ns(), sent = 0, received = 0, counted = 0, bytes = 0;
    struct datagram head = {.op = (uint32_t)op,
                            .id = start ^ (uint64_t)getpid() << 40,
                            .begin = start + length_ns(seconds) / 10,
                            .end = start + length_ns(seconds),
                            .size = (uint32_t)size};
    struct udp_report report;
    double window = (double)(head.end - head.begin) / (double)NS_PER_S;

    memcpy(head.magic, DATAGRAM_MAGIC, sizeof(head.magic));
    batch_prepare(op == OP_SINK ? size : DATAGRAM_MAX);
    if (op == OP_SINK) {
        while (now_ns() < head.end) {
            int n;

            batch_fill(head, (uint32_t)sent);
            n = sendmmsg(fd, batch.headers, BATCH, 0);
            if (n < 0 && errno != ENOBUFS && errno != EAGAIN && errno != ECONNREFUSED) {
                die("sendmmsg");
            }
            sent += n > 0 ? (uint64_t)n : 0;
        }
    } else {
        struct pollfd in = {.fd = fd, .events = POLLIN};
        uint64_t again = start;

        while (now_ns() < head.end) {
            if (received == 0 && now_ns() >= again) { /* the request may get lost */
                if (send(fd, &head, sizeof(head), 0) < 0 && errno != ECONNREFUSED) {
                    die("send of the request");
                }
                again = now_ns() + UDP_TIMEOUT_MS * NS_PER_MS;
            }
            if (poll(&in, 1, ms_until(received == 0 ? again : head.end, 100)) <= 0) {
                continue;
            }
            int n = recvmmsg(fd, batch.headers, BATCH, MSG_DONTWAIT, NULL);
            uint64_t now = now_ns();
            for (int i = 0; i < n; i++) {
                received += batch.headers[i].msg_len == size;
                if (batch.headers[i].msg_len == size && now >= head.begin && now < head.end) {
                    counted++;
                    bytes += size;
                }
            }
        }
    }
    report = ask_for_report(sin, head.id);
    if (op == OP_SINK) {
        received = report.received;
        counted = report.counted;
        bytes = report.counted_bytes;
    } else {
        sent = report.sent;
    }
    if (received > sent) {
        errno = 0;
        die("%" PRIu64 " datagrams were sent and %" PRIu64 " received", sent, received);
    }
    printf("{\"mode\": \"%s\", \"size\": %zu, \"seconds\": %.3f, \"window_s\": %.6f, \"bytes\": %" PRIu64
           ", \"bits_per_s\": %.0f, \"per_second\": %.1f, \"sent\": %" PRIu64 ", \"received\": %" PRIu64
           "}\n",
           mode, size, seconds, window, bytes, (double)bytes * 8 / window, (double)counted / window, sent,
           received);
}

/* Keeps a number of datagrams on their way there and back. When nothing has come back for a while, all of
 * them are lost. */
void udp_echo(const char *mode, const struct sockaddr_in *sin, size_t size, double seconds)
{
    int fd = udp_connect(sin, SOCK_NONBLOCK);
    uint64_t limit =
        ECHO_IN_FLIGHT_BYTES / size < ECHO_IN_FLIGHT ? ECHO_IN_FLIGHT_BYTES / size : ECHO_IN_FLIGHT;
    uint64_t start = now_ns(), now = start, last = start, sent = 0, received = 0, lost = 0, in_flight = 0,
             counted = 0;
    struct datagram head = {.op = OP_ECHO};
    struct pollfd in = {.fd = fd, .events = POLLIN};
    struct window window = window_from(start, seconds);
    double window_s;

    memcpy(head.magic, DATAGRAM_MAGIC, sizeof(head.magic));
    limit = limit > 0 ? limit : 1;
    while (now < window_end(&window, counted)) {
        int n;

        while (in_flight < limit) {
            unsigned want = limit - in_flight < BATCH ? (unsigned)(limit - in_flight) : BATCH;

            batch_prepare(size);
            batch_fill(head, (uint32_t)sent);
            n = sendmmsg(fd, batch.headers, want, MSG_DONTWAIT);
            if (n <= 0) {
                if (errno != EAGAIN && errno != ENOBUFS && errno != ECONNREFUSED) {
                    die("sendmmsg");
                }
                break;
            }
            sent += (uint64_t)n;
            in_flight += (uint64_t)n;
        }
        (void)poll(&in, 1, 10);
        batch_prepare(DATAGRAM_MAX);
        n = recvmmsg(fd, batch.headers, BATCH, MSG_DONTWAIT, NULL);
        now = now_ns();
        for (int i = 0; i < n; i++) {
            if (batch.headers[i].msg_len == size) {
                received++;
                in_flight -= in_flight > 0;
                counted += window_has(&window, now, counted);
                last = now;
            }
        }
        if (now >= last + UDP_TIMEOUT_MS / 4 * NS_PER_MS) {
            lost += in_flight;
            in_flight = 0;
            last = now;
        }
    }
    if (counted == 0 || received > sent) {
        errno = 0;
        die("%s: %" PRIu64 " datagrams were sent and %" PRIu64 " came back", mode, sent, received);
    }
    window_s = (double)(window.end - window.begin) / (double)NS_PER_S;
    printf("{\"mode\": \"%s\", \"size\": %zu, \"seconds\": %.3f, \"in_flight\": %" PRIu64
           ", \"per_second\": %.1f, \"bits_per_s\": %.0f, \"sent\": %" PRIu64 ", \"received\": %" PRIu64
           ", \"lost\": %" PRIu64 ", \"bytes\": %" PRIu64 "}\n",
           mode, size, seconds, limit, (double)counted / window_s,
           (double)counted * (double)size * 8 / window_s, sent, received, lost, counted * size);
}
