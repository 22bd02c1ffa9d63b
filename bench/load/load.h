/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * load.h - what the parts of the load generator share
 *
 * One program, one thread. `load serve` is the server for everything, `load dns-serve` a resolver; the other
 * modes are clients that measure one thing and print one JSON object on one line. Client and server run on
 * one machine (in different network namespaces) and share CLOCK_MONOTONIC: a client sends its measuring
 * window as absolute times, so that all streams are counted at their receivers over the very same window.
 *
 * Every mode is bounded in time. A failure ends the program with status 1 and one line on stderr.
 */
#pragma once

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>

#define NS_PER_S UINT64_C(1000000000)
#define NS_PER_MS UINT64_C(1000000)

enum {
    MAX_STREAMS = 64,
    MAX_IDLE = 20000,         /* idle connections of one client */
    BATCH = 32,               /* events, accepts or datagrams handled in one go */
    WRITE_BYTES = 128 * 1024, /* one bulk write */
    READ_BYTES = 256 * 1024,  /* one bulk read */
    DATAGRAM_MIN = 64,        /* room for struct datagram */
    DATAGRAM_MAX = 65507,     /* what IPv4 can carry */
    UDP_BUFFER = 4 << 20,     /* asked for; the kernel gives what net.core.rmem_max allows */
    CONNECT_TIMEOUT_S = 5,    /* also for one answer of a ping-pong over TCP */
    UDP_TIMEOUT_MS = 200,     /* a datagram not answered by then is lost */
    PATIENCE_S = 5,           /* how long after its window a client waits for the first answer */
    DRAIN_S = 5,              /* how long after the window what was sent may take to arrive, unless told */
    DRAIN_MAX_S = 60,
    MAX_SECONDS = 24 * 3600,
    MAX_SAMPLES = 16 * 1024 * 1024,
};

/* A TCP connection starts with this. Times are in ns of CLOCK_MONOTONIC, everything is in host order. */
struct __attribute__((packed)) head {
    uint8_t op; /* enum op */
    uint64_t begin, end;
};

enum op {
    OP_ECHO = 'E',    /* this one byte alone: it and every later byte is sent back */
    OP_SINK = 'S',    /* client sends until the window is over */
    OP_SOURCE = 'G',  /* server sends until the window is over */
    OP_BOTH = 'B',    /* both do */
    OP_REPORT = 'R',  /* the answer is a struct udp_report about the stream of datagrams `begin` */
    OP_COUNTED = 'C', /* the answer is a struct report, the sum of the open connections with this window */
};

/* What follows the head, in both directions: blocks of WRITE_BYTES that begin with BLOCK_DATA, then the one
 * byte BLOCK_END; after it the server sends its report. So the end is known without a half-closed connection,
 * and the bytes that were sent can be compared with those that have arrived. A side that does not send has no
 * blocks. */
enum {
    BLOCK_DATA = 'D',
    BLOCK_END = 'e',
};

struct report {
    uint64_t sent, received, counted; /* payload bytes; counted: received within the window */
};

/* A datagram that is not one is sent back as it is. */
struct datagram {
    uint8_t magic[4]; /* DATAGRAM_MAGIC */
    uint32_t op;      /* OP_SINK: count it. OP_SOURCE: send datagrams of `size` bytes here until `end` */
    uint64_t id, begin, end;
    uint32_t size, number;
};
#define DATAGRAM_MAGIC "LOAD"
_Static_assert(sizeof(struct datagram) <= DATAGRAM_MIN, "the smallest datagram has no room for its header");

struct udp_report {
    uint64_t sent, received, counted, counted_bytes; /* datagrams; sent: by the server */
};

extern uint8_t buffer[READ_BYTES]; /* for what is received */
extern uint8_t block[WRITE_BYTES]; /* what is sent; never changed after the start */

/* util.c */
__attribute__((noreturn, format(printf, 1, 2))) void die(const char *format, ...); /* adds errno unless 0 */
uint64_t now_ns(void);
int ms_until(uint64_t when, int limit); /* rounded up, at most limit */
void set_timeout(int fd, int option, uint64_t ns);
int tcp_connect(const struct sockaddr_in *sin);            /* blocking, with timeouts; -1 with errno */
int udp_connect(const struct sockaddr_in *sin, int flags); /* large buffers */
int bind_server(const struct sockaddr_in *sin, int type);  /* non-blocking; TCP sockets listen */
ssize_t block_send(int fd, uint64_t sent); /* the next part of a block, when `sent` bytes are sent already */
void raise_descriptor_limit(void);
uint64_t length_ns(double seconds);

/* When a client counts answers. If none has come in time, since somebody was not let run, the window goes on
 * until the first one is there, PATIENCE_S at most. */
struct window {
    uint64_t begin, end, latest;
};
struct window window_from(uint64_t start, double seconds);
uint64_t window_end(const struct window *window, uint64_t count); /* when to stop; count: of answers so far */
bool window_has(struct window *window, uint64_t now, uint64_t count); /* whether one that comes now counts */

struct samples {
    uint64_t *ns;
    size_t n, room;
};
void samples_add(struct samples *samples, uint64_t ns);
/* Prints ", "p50_us": ..." and more, with quantiles for a distribution; frees the samples, of which there is
 * one at least. */
void samples_print(struct samples *samples);

/* One mode each; they print their result. */
void serve(struct sockaddr_in sin, double seconds);
void dns_serve(const struct sockaddr_in *sin, double seconds);
void tcp_bulk(const char *mode, const struct sockaddr_in *sin, int n_streams, double seconds, double drain_s,
              enum op op);
enum ping { PING_TCP, PING_UDP, PING_CONNECT };
void ping_pong(const char *mode, const struct sockaddr_in *sin, double seconds, enum ping kind);
void connect_many(const char *mode, const struct sockaddr_in *sin, int parallel, double seconds);
void probe(const char *mode, const struct sockaddr_in *sin, double seconds, bool udp);
void idle(const char *mode, const struct sockaddr_in *sin, int count, double seconds);
void udp_stream(const char *mode, const struct sockaddr_in *sin, size_t size, double seconds, enum op op);
void udp_echo(const char *mode, const struct sockaddr_in *sin, size_t size, double seconds);
void dns_queries(const char *mode, const struct sockaddr_in *sin, int parallel, double seconds, bool fresh);
