/* SPDX-License-Identifier: GPL-2.0-or-later */
/* dns.c - a resolver that knows one address, and a client that asks it (RFC 1035, section 4); see load.h */
#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "load.h"

enum {
    DNS_HEADER = 12,
    DNS_MAX = 512,
    DNS_NAME_MAX = 255,
    DNS_TIMEOUT_MS = 1000, /* a query not answered by then is lost, and another one asked */
};

/* Bytes of the question after the header, or 0 when it is not one question with one name. */
static size_t question_size(const uint8_t *message, size_t n)
{
    size_t at = DNS_HEADER;

    if (n < DNS_HEADER || message[4] != 0 || message[5] != 1) {
        return 0;
    }
    while (at < n && message[at] != 0 && at - DNS_HEADER < DNS_NAME_MAX) {
        if (message[at] > 63) {
            return 0;
        }
        at += 1 + (size_t)message[at];
    }
    return at + 5 <= n && message[at] == 0 ? at + 5 - DNS_HEADER : 0;
}

/* Answers every question with one A record. */
void dns_serve(const struct sockaddr_in *sin, double seconds)
{
    static const uint8_t answer[] = {0xc0, DNS_HEADER, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 53};
    int fd = bind_server(sin, SOCK_DGRAM);
    uint64_t end = now_ns() + length_ns(seconds);
    struct pollfd in = {.fd = fd, .events = POLLIN};

    printf("{\"mode\": \"dns-serve\", \"port\": %u}\n", (unsigned)ntohs(sin->sin_port));
    fflush(stdout);
    while (now_ns() < end) {
        if (poll(&in, 1, ms_until(end, 1000)) <= 0) {
            continue;
        }
        for (int i = 0; i < BATCH; i++) {
            uint8_t message[DNS_MAX + sizeof(answer)];
            struct sockaddr_in from;
            socklen_t from_len = sizeof(from);
            ssize_t n = recvfrom(fd, message, DNS_MAX, 0, (struct sockaddr *)&from, &from_len);
            size_t question;

            if (n < 0) {
                break;
            }
            question = question_size(message, (size_t)n);
            if (question == 0) {
                continue;
            }
            message[2] = 0x81; /* an answer; recursion was asked for, */
            message[3] = 0x80; /* and is there */
            memset(message + 6, 0, 6);
            message[7] = 1;
            memcpy(message + DNS_HEADER + question, answer, sizeof(answer));
            (void)sendto(fd, message, DNS_HEADER + question + sizeof(answer), 0, (struct sockaddr *)&from,
                         from_len);
        }
    }
    close(fd);
}

struct query {
    int fd;
    uint16_t id;
    uint64_t start;
};

static void query_open(struct query *query, int epoll_fd, const struct sockaddr_in *sin)
{
    struct epoll_event event = {.events = EPOLLIN, .data = {.ptr = query}};

    query->fd = udp_connect(sin, SOCK_NONBLOCK);
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, query->fd, &event) < 0) {
        die("epoll_ctl");
    }
}

/* Asks for a name of its own: qNNNNN.example. */
static void query_send(struct query *query, uint32_t number)
{
    uint8_t message[64] = {0};
    size_t at = DNS_HEADER;
    char label[16];
    int n = snprintf(label, sizeof(label), "q%" PRIu32, number);

    query->id = (uint16_t)number;
    query->start = now_ns();
    message[0] = (uint8_t)(query->id >> 8);
    message[1] = (uint8_t)query->id;
    message[2] = 1; /* recursion desired */
    message[5] = 1; /* one question */
    message[at++] = (uint8_t)n;
    memcpy(message + at, label, (size_t)n);
    at += (size_t)n;
    memcpy(message + at, "\7example\0\0\1\0\1", 13); /* type A, class IN */
    at += 13;
    if (send(query->fd, message, at, 0) < 0 && errno != ECONNREFUSED && errno != EAGAIN && errno != ENOBUFS) {
        die("send of a query");
    }
}

/* Keeps `parallel` queries open, each from a socket of its own, or from a new one each time (fresh). */
void dns_queries(const char *mode, const struct sockaddr_in *sin, int parallel, double seconds, bool fresh)
{
    struct samples samples = {0};
    struct query queries[MAX_STREAMS];
    int epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    uint64_t start = now_ns(), now = start, count = 0, lost = 0, swept = start;
    struct window window = window_from(start, seconds);
    uint32_t number = 0;

    if (epoll_fd < 0) {
        die("epoll_create1");
    }
    for (int i = 0; i < parallel; i++) {
        query_open(&queries[i], epoll_fd, sin);
        query_send(&queries[i], number++);
    }
    while (now < window_end(&window, count)) {
        struct epoll_event events[BATCH];
        int n =
            epoll_wait(epoll_fd, events, BATCH, ms_until(window_end(&window, count), DNS_TIMEOUT_MS / 10));

        if (n < 0 && errno != EINTR) {
            die("epoll_wait");
        }
        for (int i = 0; i < n; i++) {
            struct query *query = events[i].data.ptr;
            uint8_t message[DNS_MAX];
            ssize_t size = recv(query->fd, message, sizeof(message), 0);

            if (size < DNS_HEADER || (message[0] << 8 | message[1]) != query->id || message[7] != 1) {
                continue;
            }
            now = now_ns();
            if (window_has(&window, now, count)) {
                count++;
                samples_add(&samples, now - query->start);
            }
            if (fresh) {
                close(query->fd);
                query_open(query, epoll_fd, sin);
            }
            query_send(query, number++);
        }
        now = now_ns();
        if (now < swept + DNS_TIMEOUT_MS / 10 * NS_PER_MS) {
            continue;
        }
        swept = now;
        for (int i = 0; i < parallel; i++) {
            if (now > queries[i].start + DNS_TIMEOUT_MS * NS_PER_MS) {
                lost++;
                query_send(&queries[i], number++);
            }
        }
    }
    if (count == 0) {
        errno = 0;
        die("%s: no answer was measured (%" PRIu64 " queries lost)", mode, lost);
    }
    printf("{\"mode\": \"%s\", \"seconds\": %.3f, \"count\": %" PRIu64 ", \"lost\": %" PRIu64
           ", \"per_second\": %.1f",
           mode, seconds, count, lost,
           (double)count * (double)NS_PER_S / (double)(window.end - window.begin));
    samples_print(&samples);
    printf("}\n");
}
