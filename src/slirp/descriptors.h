/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * descriptors.h - what libslirp waits for, kept in the kernel between turns
 *
 * libslirp tells its interest by walking all its sockets (slirp_pollfds_fill). poll(2) would hand the whole
 * list to the kernel each time; here the list lives in an epoll set and only differences make a system call.
 * Interest is raised at once and lowered lazily: a descriptor is only disarmed when it fires for something
 * nobody wants any more. The index given to libslirp for a descriptor is the descriptor's own number.
 * Everything here belongs to the slirp role.
 */
#pragma once

#include "base/role.h"

#include <stdbool.h>
#include <stdint.h>

enum { FLOW_COPY_MAX = 14 + 60 + 8 }; /* of a SYN: Ethernet, the largest IPv4 header, 8 bytes of TCP */

struct descriptor {
    uint32_t interest; /* epoll events the kernel has */
    uint32_t wanted;   /* epoll events of the last fill; valid when fill == the set's */
    uint32_t ready;    /* epoll events that have fired and not been taken */
    uint32_t fill;
    bool open;                   /* it is libslirp's, and counted */
    bool connecting;             /* an outbound TCP connection not yet decided */
    uint8_t copy_size;           /* of the frame below */
    uint8_t copy[FLOW_COPY_MAX]; /* start of the SYN's frame, for the ICMP error */
};

struct descriptors {
    int epoll_fd;
    struct descriptor *table; /* by descriptor number */
    uint32_t n_table;
    uint32_t fill;   /* number of the current fill */
    uint32_t n_open; /* entries that are open */
};

int descriptors_init(struct descriptors *d);
void descriptors_deinit(struct descriptors *d);

/* libslirp opened or closes @fd. _open returns NULL without memory: the descriptor is then served by the next
 * fill. */
struct descriptor *descriptors_open(struct descriptors *d, int fd) RUNS_ON(role_slirp);
void descriptors_close(struct descriptors *d, int fd) RUNS_ON(role_slirp);
/* The entry of @fd, or NULL. */
struct descriptor *descriptors_get(struct descriptors *d, int fd) RUNS_ON(role_slirp);

/* Brackets slirp_pollfds_fill(): between them descriptors_want() takes SLIRP_POLL_* events and returns the
 * index. */
void descriptors_fill_begin(struct descriptors *d) RUNS_ON(role_slirp);
int descriptors_want(struct descriptors *d, int fd, int slirp_events) RUNS_ON(role_slirp);

/* An event of epoll_wait(): remembered when somebody wants it, disarmed when nobody does. */
void descriptors_fired(struct descriptors *d, int fd, uint32_t events) RUNS_ON(role_slirp);
/* For slirp_pollfds_poll(): SLIRP_POLL_* events of index @fd, once. */
int descriptors_take(struct descriptors *d, int fd) RUNS_ON(role_slirp);
