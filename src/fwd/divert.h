/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * divert.h - the guest's own TCP connections by splice
 *
 * The slirp role offers every TCP packet of the guest. A SYN that may be diverted is taken: a worker connects
 * to its destination, the agent makes the socket that answers in the destination's name inside the guest's
 * namespace (repair.h) and leads the connection's packets there (nft.h), the guest gets its SYN-ACK, and the
 * two sockets are joined (flow.h). Whatever cannot be diverted goes to libslirp, unchanged. Theory: divert.c
 * and docs/ARCHITECTURE.md; a connection's states: divert_entry.c.
 */
#pragma once

#include "base/failure.h"
#include "base/role.h"
#include "fwd/worker.h"
#include "io/packet.h"

#include <netinet/in.h>
#include <stdbool.h>

struct divert;

struct divert_config {
    struct workers *workers; /* with an agent that can divert; must outlive the divert */
    struct in_addr network, netmask, gateway;
    struct in6_addr gateway6;
    bool disable_host_loopback;
    bool has_outbound, has_outbound6;
    struct sockaddr_in outbound;
    struct sockaddr_in6 outbound6;
    void *arg;
    /* Any thread: writes a frame to the guest. */
    void (*send)(void *arg, const void *frame, uint32_t size);
    /* Any thread: gives a frame of the guest's to libslirp. It is copied. */
    void (*inject)(void *arg, const void *frame, uint32_t size);
};

/* main, before threads start: lodges on the first worker. _free: after the workers and the slirp thread have
 * stopped; NULL is fine; returns NULL. */
int divert_new(struct divert **ret, const struct divert_config *config, struct failure *why);
struct divert *divert_free(struct divert *d);

/* A TCP packet of the guest's, as packet_parse() found it and the filter let it pass. True: it has been taken
 * (and copied if need be); false: it is libslirp's. */
bool divert_take(struct divert *d, const struct packet *p) RUNS_ON(role_slirp);
