/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * datagrams.c - UDP that is echoed, and questions to a resolver
 *
 * Datagrams may be lost; what comes back must be right. `failed` counts the ones that have not come back.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "load.h"

enum {
    SIZE_MAX_UDP = 1400,
    LOST_S = 5,          /* so long is waited for answers */
    QUESTIONS_MAX = 256, /* at a time */
};

struct datagram {
    uint64_t number, seed;
};

int udp_server(const struct target *target)
{
    int fd = socket(target->sa.sa_family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), one = 1;

    if (fd < 0 ||
        (target->sa.sa_family == AF_INET6 &&
         setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one)) < 0) ||
        bind(fd, &target->sa, target->len) < 0) {
        die("cannot bind for datagrams");
    }
    return fd;
}

void udp_serve(int fd)
{
    static uint8_t bytes[65536];

    for (int i = 0; i < EVENTS; i++) {
        struct target from = {.len = sizeof(from.in6)};
        ssize_t n = recvfrom(fd, bytes, sizeof(bytes), 0, &from.sa, &from.len);

        if (n < 0) {
            return; /* nothing there, or news of an earlier answer */
        }
        (void)sendto(fd, bytes, (size_t)n, 0, &from.sa, from.len);
    }
}

static int udp_open(int epoll_fd, const struct target *target, void *what)
{
    int fd = socket(target->sa.sa_family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    if (fd < 0 || connect(fd, &target->sa, target->len) < 0) {
        die("a socket for datagrams");
    }
    watch(epoll_fd, EPOLL_CTL_ADD, fd, EPOLLIN, what);
    return fd;
}

/* ---- echo ---- */

struct sender {
    int fd;
    unsigned target;
};

static void sender_send(const struct sender *sender)
{
    uint8_t bytes[SIZE_MAX_UDP];
    struct datagram head = {.number = sums.started, .seed = random_next()};
    size_t n = sizeof(head) + random_next() % (sizeof(bytes) - sizeof(head));

    memcpy(bytes, &head, sizeof(head));
    pattern_fill(bytes + sizeof(head), head.seed, 0, n - sizeof(head));
    sums.started++;
    (void)send(sender->fd, bytes, n, 0); /* what cannot be sent is lost like one that was */
}

static void sender_receive(const struct sender *sender)
{
    for (int i = 0; i < EVENTS; i++) {
        uint8_t bytes[SIZE_MAX_UDP + 1];
        struct datagram head;
        ssize_t n = recv(sender->fd, bytes, sizeof(bytes), 0);

        if (n < 0) {
            return;
        }
        memcpy(&head, bytes, sizeof(head));
        if ((size_t)n < sizeof(head) || head.number >= sums.started || n > SIZE_MAX_UDP ||
            !pattern_is(bytes + sizeof(head), head.seed, 0, (size_t)n - sizeof(head))) {
            sums.corrupt++;
        } else {
            sums.good++;
            sums.bytes += 2 * (uint64_t)n;
        }
    }
}

void udp_client(double rate, unsigned n_sockets, double renew_s, const struct target *targets,
                unsigned n_targets)
{
    struct pace pace = {.rate = rate}, renewals = {.rate = renew_s > 0 ? 1 / renew_s : 0};
    int epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    struct sender *senders = calloc(n_sockets, sizeof(*senders));
    unsigned turn = 0, renewed = 0;
    uint64_t end_ns = UINT64_MAX;

    if (!senders) {
        die("calloc");
    }
    for (unsigned i = 0; i < n_sockets; i++) {
        senders[i].target = i % n_targets;
        senders[i].fd = udp_open(epoll_fd, &targets[i % n_targets], &senders[i]);
    }
    while (end_ns == UINT64_MAX || running_ns() < end_ns) {
        struct epoll_event events[EVENTS];
        int n = loop_wait(epoll_fd, events, true);

        for (int i = 0; i < n; i++) {
            sender_receive(events[i].data.ptr);
        }
        if (loop_ended()) {
            end_ns = end_ns == UINT64_MAX ? running_ns() + LOST_S * NS_PER_S / 5 : end_ns;
            continue;
        }
        for (unsigned due = pace_take(&renewals); due > 0; due--) {
            struct sender *sender = &senders[renewed++ % n_sockets];

            sender_receive(sender);
            close(sender->fd);
            sender->fd = udp_open(epoll_fd, &targets[sender->target], sender);
        }
        for (unsigned due = pace_take(&pace); due > 0; due--) {
            sender_send(&senders[turn++ % n_sockets]);
        }
    }
    sums.failed = sums.started - sums.good - sums.corrupt;
    free(senders);
}

/* ---- questions ---- */

struct question {
    int fd; /* -1: free */
    uint16_t id;
    uint64_t asked_ns;
};

static const uint8_t question_rest[] = "\1\0\0\1\0\0\0\0\0\0\4soak\7example\0\0\1\0\1";

static void ask(int epoll_fd, struct question *question, const struct target *target)
{
    uint8_t bytes[2 + sizeof(question_rest) - 1];

    question->fd = udp_open(epoll_fd, target, question);
    question->id = (uint16_t)random_next();
    question->asked_ns = running_ns();
    memcpy(bytes, &question->id, 2);
    memcpy(bytes + 2, question_rest, sizeof(question_rest) - 1);
    sums.started++;
    sums.open++;
    (void)send(question->fd, bytes, sizeof(bytes), 0);
}

static void question_end(struct question *question)
{
    close(question->fd);
    question->fd = -1;
    sums.open--;
}

static void answer_read(struct question *question, struct in_addr expected)
{
    uint8_t bytes[512];
    ssize_t n = recv(question->fd, bytes, sizeof(bytes), 0);

    if (n < 0) {
        if (errno != EAGAIN) {
            failed("refused");
            question_end(question);
        }
        return;
    }
    if (n < 16 || memcmp(bytes, &question->id, 2) != 0 || memcmp(bytes + n - 4, &expected, 4) != 0) {
        sums.corrupt++;
    } else {
        sums.good++;
        sums.bytes += (uint64_t)n;
    }
    question_end(question);
}

void dns_client(double rate, const struct target *target, const char *answer)
{
    static struct question questions[QUESTIONS_MAX];
    struct pace pace = {.rate = rate};
    int epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    struct in_addr expected;

    if (inet_pton(AF_INET, answer, &expected) != 1) {
        errno = 0;
        die("'%s' is not an address", answer);
    }
    for (int i = 0; i < QUESTIONS_MAX; i++) {
        questions[i].fd = -1;
    }
    while (!loop_ended() || sums.open > 0) {
        struct epoll_event events[EVENTS];
        int n = loop_wait(epoll_fd, events, true);
        unsigned due = pace_take(&pace);

        for (int i = 0; i < n; i++) {
            answer_read(events[i].data.ptr, expected);
        }
        for (int i = 0; i < QUESTIONS_MAX; i++) {
            if (questions[i].fd >= 0 && questions[i].asked_ns + LOST_S * NS_PER_S < running_ns()) {
                failed("no answer");
                question_end(&questions[i]);
            } else if (questions[i].fd < 0 && due > 0 && !loop_ended()) {
                ask(epoll_fd, &questions[i], target);
                due--;
            }
        }
    }
}
