/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * load.h - what the parts of the soak test's traffic share
 *
 * One program, one thread per process. Every payload is a function of a seed and an offset, so that the
 * receiver knows each byte without being told: a byte that is lost, doubled, moved or changed is found at
 * once.
 *
 * Each process prints its sums as one line of JSON every STATUS_S seconds and a last one with "final": true.
 * SIGTERM ends it: a client starts nothing new then, and finishes what it has begun.
 *
 * All processes may be stopped (SIGSTOP) for minutes. Deadlines are therefore in running time: a turn of the
 * loop that took longer than GAP_MS was such a pause and does not count.
 */
#pragma once

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/types.h>

#define NS_PER_S UINT64_C(1000000000)
#define NS_PER_MS UINT64_C(1000000)

enum {
    TARGETS_MAX = 16,
    EVENTS = 64,
    TICK_MS = 20, /* connections and datagrams are started in bursts, so far apart */
    STATUS_S = 2,
    GAP_MS = 2000,
    STALL_S = 240, /* a connection that does not move for so long has failed; TCP's timers go up to 120 s */
    PIECE = 64 * 1024,
    ERRORS_MAX = 16, /* kinds of errors that are told apart */
};

struct target {
    union {
        struct sockaddr sa;
        struct sockaddr_in in;
        struct sockaddr_in6 in6;
    };
    socklen_t len;
};

/* What a process reports; a kind that it does not have stays 0. */
struct sums {
    uint64_t started, good, failed, corrupt, open, bytes;
    struct {
        const char *what;
        uint64_t n;
    } errors[ERRORS_MAX]; /* ends with the first without a name */
};
extern struct sums sums;

/* main.c */
extern const char *name; /* of this process, for its reports */

/* util.c */
__attribute__((noreturn, format(printf, 1, 2))) void die(const char *format, ...); /* adds errno unless 0 */
/* Running time; looked at anew by each loop_wait(). */
uint64_t running_ns(void);

/* epoll_wait() for at most TICK_MS if @ticking, else STATUS_S; says the sums when that is due. */
int loop_wait(int epoll_fd, struct epoll_event events[EVENTS], bool ticking);
bool loop_ended(void); /* SIGTERM has come */
void say(bool final);
void failed(const char *what); /* counts a failure; @what is a string that stays */
void raise_descriptor_limit(void);
void watch(int epoll_fd, int how, int fd, uint32_t events, void *what);
struct target target_parse(const char *addr, const char *port);
uint64_t random_next(void);
/* How many may be started now at @rate a second; what is missed in a pause is not made up for. */
struct pace {
    double rate, due;
    uint64_t last_ns;
};
unsigned pace_take(struct pace *pace);

/* The @n bytes at @offset of what belongs to @seed. */
void pattern_fill(uint8_t *to, uint64_t seed, uint64_t offset, size_t n);
bool pattern_is(const uint8_t *bytes, uint64_t seed, uint64_t offset, size_t n); /* n <= PIECE */

/* tcp.c, datagrams.c: until SIGTERM, and then until what has been begun is done */
void serve(const struct target *targets, unsigned n_targets);
void tcp_client(double rate, unsigned at_once, uint32_t bytes_max, const struct target *targets,
                unsigned n_targets);
void udp_client(double rate, unsigned n_sockets, double renew_s, const struct target *targets,
                unsigned n_targets);
void dns_client(double rate, const struct target *target, const char *answer);
int udp_server(const struct target *target);
void udp_serve(int fd);
