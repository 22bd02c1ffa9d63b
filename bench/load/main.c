/* SPDX-License-Identifier: GPL-2.0-or-later */
/* main.c - the command line of the load generator; see load.h */
#include <arpa/inet.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "load.h"

enum {
    SERVE_S = 3600, /* lifetime of a server unless told */
};

__attribute__((noreturn)) static void usage(void)
{
    fputs("Usage: load serve ADDR PORT [SECONDS]\n"
          "       load tcp-out|tcp-in|tcp-both ADDR PORT STREAMS SECONDS [DRAIN_SECONDS]\n"
          "       load tcp-rr|udp-rr|tcp-crr ADDR PORT SECONDS\n"
          "       load probe-tcp|probe-udp ADDR PORT SECONDS\n"
          "       load tcp-crr-many ADDR PORT PARALLEL SECONDS\n"
          "       load udp-out|udp-in|udp-echo ADDR PORT SIZE SECONDS\n"
          "       load idle ADDR PORT CONNECTIONS SECONDS\n"
          "       load dns-serve ADDR PORT SECONDS\n"
          "       load dns|dns-fresh ADDR PORT PARALLEL SECONDS\n",
          stderr);
    exit(2);
}

static double parse_number(const char *text, const char *what, double low, double high)
{
    char *end;
    double value;

    errno = 0;
    value = strtod(text, &end);
    if (end == text || *end != '\0' || errno != 0 || !(value >= low && value <= high)) {
        errno = 0;
        die("%s: '%s' is not a number from %g to %g", what, text, low, high);
    }
    return value;
}

static struct sockaddr_in parse_address(const char *addr, const char *port)
{
    struct sockaddr_in sin = {.sin_family = AF_INET};

    sin.sin_port = htons((uint16_t)parse_number(port, "PORT", 0, 65535));
    if (inet_pton(AF_INET, addr, &sin.sin_addr) != 1) {
        errno = 0;
        die("ADDR: '%s' is not an IPv4 address", addr);
    }
    return sin;
}

static double parse_seconds(const char *text)
{
    return parse_number(text, "SECONDS", 0.01, MAX_SECONDS);
}

/* What the server does in a bulk mode; 0 for other modes. */
static enum op bulk_op(const char *mode)
{
    return strcmp(mode, "tcp-out") == 0    ? OP_SINK
           : strcmp(mode, "tcp-in") == 0   ? OP_SOURCE
           : strcmp(mode, "tcp-both") == 0 ? OP_BOTH
                                           : 0;
}

/* Modes without a number: load MODE ADDR PORT SECONDS. */
static void without_number(const char *mode, const struct sockaddr_in *sin, double seconds)
{
    if (strcmp(mode, "tcp-rr") == 0) {
        ping_pong(mode, sin, seconds, PING_TCP);
    } else if (strcmp(mode, "udp-rr") == 0) {
        ping_pong(mode, sin, seconds, PING_UDP);
    } else if (strcmp(mode, "tcp-crr") == 0) {
        ping_pong(mode, sin, seconds, PING_CONNECT);
    } else if (strcmp(mode, "probe-tcp") == 0 || strcmp(mode, "probe-udp") == 0) {
        probe(mode, sin, seconds, strcmp(mode, "probe-udp") == 0);
    } else if (strcmp(mode, "dns-serve") == 0) {
        dns_serve(sin, seconds);
    } else {
        usage();
    }
}

/* Modes with a number: load MODE ADDR PORT NUMBER SECONDS. */
static void with_number(const char *mode, const struct sockaddr_in *sin, const char *number, double seconds)
{
    if (bulk_op(mode) != 0) {
        tcp_bulk(mode, sin, (int)parse_number(number, "STREAMS", 1, MAX_STREAMS), seconds, DRAIN_S,
                 bulk_op(mode));
    } else if (strcmp(mode, "tcp-crr-many") == 0) {
        connect_many(mode, sin, (int)parse_number(number, "PARALLEL", 1, MAX_STREAMS), seconds);
    } else if (strcmp(mode, "idle") == 0) {
        idle(mode, sin, (int)parse_number(number, "CONNECTIONS", 0, MAX_IDLE), seconds);
    } else if (strcmp(mode, "udp-out") == 0) {
        udp_stream(mode, sin, (size_t)parse_number(number, "SIZE", DATAGRAM_MIN, DATAGRAM_MAX), seconds,
                   OP_SINK);
    } else if (strcmp(mode, "udp-in") == 0) {
        udp_stream(mode, sin, (size_t)parse_number(number, "SIZE", DATAGRAM_MIN, DATAGRAM_MAX), seconds,
                   OP_SOURCE);
    } else if (strcmp(mode, "udp-echo") == 0) {
        udp_echo(mode, sin, (size_t)parse_number(number, "SIZE", DATAGRAM_MIN, DATAGRAM_MAX), seconds);
    } else if (strcmp(mode, "dns") == 0) {
        dns_queries(mode, sin, (int)parse_number(number, "PARALLEL", 1, MAX_STREAMS), seconds, false);
    } else if (strcmp(mode, "dns-fresh") == 0) {
        dns_queries(mode, sin, (int)parse_number(number, "PARALLEL", 1, MAX_STREAMS), seconds, true);
    } else {
        usage();
    }
}

int main(int argc, char **argv)
{
    const char *mode = argc > 1 ? argv[1] : "";
    struct sockaddr_in sin;

    signal(SIGPIPE, SIG_IGN);
    for (size_t i = 1; i < sizeof(block); i++) {
        block[i] = (uint8_t)(i * 31 + (i >> 8));
    }
    block[0] = BLOCK_DATA;
    if (argc < 4) {
        usage();
    }
    sin = parse_address(argv[2], argv[3]);
    if (strcmp(mode, "serve") == 0 && argc <= 5) {
        serve(sin, argc == 5 ? parse_seconds(argv[4]) : SERVE_S);
    } else if (argc == 5) {
        without_number(mode, &sin, parse_seconds(argv[4]));
    } else if (argc == 6) {
        with_number(mode, &sin, argv[4], parse_seconds(argv[5]));
    } else if (argc == 7 && bulk_op(mode) != 0) {
        tcp_bulk(mode, &sin, (int)parse_number(argv[4], "STREAMS", 1, MAX_STREAMS), parse_seconds(argv[5]),
                 parse_number(argv[6], "DRAIN_SECONDS", 0.1, DRAIN_MAX_S), bulk_op(mode));
    } else {
        usage();
    }
    return 0;
}
