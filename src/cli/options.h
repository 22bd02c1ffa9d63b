/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * options.h - the command line
 *
 * main only. Options are rows of one table (options.c): getopt's arrays, --help and the test that compares
 * them with the manual come from it. Texts, order of checks and exit statuses are the ones clients of
 * slirp4netns know.
 */
#pragma once

#include "base/failure.h"
#include "fwd/forward.h"
#include "slirp/engine.h"

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

enum target_kind { TARGET_PID, TARGET_PATH, TARGET_TAPFD, TARGET_BESS };

enum {
    TAP_NAME_SIZE = 16, /* IFNAMSIZ */
    PUBLISH_MAX = 256,  /* how often --publish may be given; a range counts once */
};

struct options {
    enum target_kind target;
    pid_t pid;                    /* TARGET_PID */
    const char *path;             /* TARGET_PATH: network namespace; TARGET_BESS: socket */
    int tap_fd;                   /* TARGET_TAPFD */
    char tap_name[TAP_NAME_SIZE]; /* not with TARGET_TAPFD and TARGET_BESS */
    bool configure, ipv6, disable_host_loopback, disable_dns, sandbox, seccomp;
    int exit_fd, ready_fd; /* -1: none */
    unsigned mtu;
    struct in_addr network, netmask, guest, gateway, dns, dhcp_start, dhcp_end;
    unsigned prefix;
    const char *userns_path, *api_socket, *metrics, *pcap; /* NULL: none */
    bool has_mac;
    uint8_t mac[6];
    bool has_outbound, has_outbound6;
    struct sockaddr_in outbound;
    struct sockaddr_in6 outbound6;
    enum engine_backend backend;
    enum engine_mode mode;
    bool offload; /* checksums and segmentation are left to the kernel where it takes them */
    bool no_splice;
    enum divert_mode { DIVERT_AUTO, DIVERT_ON, DIVERT_OFF } divert;
    enum engine_udp udp;
    unsigned n_publish;
    struct forward_spec publish[PUBLISH_MAX];
    bool run;              /* the target is a process of our own (run.h), its pid known later */
    bool map_current_user; /* ... in whose namespace the user has the same id as here, not 0 */
    bool check;            /* no target at all: look at the environment (check.h) */
    char **command;        /* ... and what it is to execute, with NULL at the end; NULL: the user's shell */
    const char *ctl; /* another program's API socket: this one is its client (ctl.h), @command what to ask */
    bool json, watch;
};

/* Parses and validates. Returns -1: go on; otherwise the exit status to end with at once (0 after --help and
 * --version, 1 after an error); everything to be said has been said. Strings in @ret point into @argv. */
int options_parse(struct options *ret, int argc, char **argv);

/* The start-up lines on stdout. */
void options_print_banner(const struct options *o);

/* Addresses derived from a network in CIDR notation. 0, or -1 when the reason is on stderr. */
int options_set_cidr(struct options *o, const char *cidr);

/* Six colon-separated hex bytes, leading zeros or not. 0 or -1. */
int options_parse_mac(uint8_t ret[6], const char *text);

/* For tests: row @i of the table, NULL behind the last; hidden rows are old spellings. */
struct option_row {
    int short_name; /* 0: none */
    const char *name, *argument, *help;
    bool hidden;
};
const struct option_row *options_row(unsigned i);
