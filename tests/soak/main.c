/* SPDX-License-Identifier: GPL-2.0-or-later */
/* main.c - the command line; see load.h */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "load.h"

const char *name;

__attribute__((noreturn)) static void usage(void)
{
    fputs("Usage: soak-load NAME serve TARGET...\n"
          "       soak-load NAME tcp RATE AT_ONCE BYTES_MAX TARGET...\n"
          "       soak-load NAME udp RATE SOCKETS RENEW_SECONDS TARGET...\n"
          "       soak-load NAME dns RATE ANSWER TARGET\n"
          "TARGET is ADDR PORT; RATE is a second's. SIGTERM ends it.\n",
          stderr);
    exit(2);
}

static double number(const char *text, double low, double high)
{
    char *end;
    double value = strtod(text, &end);

    if (end == text || *end != '\0' || !(value >= low && value <= high)) {
        errno = 0;
        die("'%s' is not a number from %g to %g", text, low, high);
    }
    return value;
}

int main(int argc, char **argv)
{
    struct target targets[TARGETS_MAX];
    unsigned n = 0;
    int first;

    if (argc < 5) {
        usage();
    }
    name = argv[1];
    first = strcmp(argv[2], "serve") == 0 ? 3 : strcmp(argv[2], "dns") == 0 ? 5 : 6;
    for (int i = first; i + 1 < argc && n < TARGETS_MAX; i += 2) {
        targets[n++] = target_parse(argv[i], argv[i + 1]);
    }
    if (n == 0 || first + (int)n * 2 != argc) {
        usage();
    }
    signal(SIGPIPE, SIG_IGN);
    raise_descriptor_limit();
    if (strcmp(argv[2], "serve") == 0) {
        serve(targets, n);
    } else if (strcmp(argv[2], "tcp") == 0) {
        tcp_client(number(argv[3], 0.001, 1e6), (unsigned)number(argv[4], 1, 1e5),
                   (uint32_t)number(argv[5], 1, 1 << 30), targets, n);
    } else if (strcmp(argv[2], "udp") == 0) {
        udp_client(number(argv[3], 0.001, 1e6), (unsigned)number(argv[4], 1, 1000), number(argv[5], 0, 1e6),
                   targets, n);
    } else if (strcmp(argv[2], "dns") == 0 && n == 1) {
        dns_client(number(argv[3], 0.001, 1e6), targets, argv[4]);
    } else {
        usage();
    }
    say(true);
    return sums.corrupt > 0;
}
