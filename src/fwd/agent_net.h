/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * agent_net.h - the guest's network as the nsagent sees and prepares it
 *
 * The nsagent only, which has one thread. After agent_net_init() nothing is opened and nothing allocated, so
 * all of the rest runs under the seccomp filter of agent_process.c.
 */
#pragma once

#include "fwd/agent_protocol.h"

struct mnl_socket;

/* Installed by an agent of this parent's, so removed by the last of them: memory that all of them share, and
 * in which nothing is believed but whether it is 0. */
struct agent_added {
    uint8_t route, rules[AGENT_RULES];
};

struct agent_net {
    const struct agent_config *config;
    struct mnl_socket *requests, *notices;
    int sysctl_fd;             /* -1: there is none */
    uint32_t sequence;         /* of the last request */
    struct agent_added *added; /* AGENT_FAMILIES of them */
    struct agent_address addresses[AGENT_ADDRESSES_MAX], found[AGENT_ADDRESSES_MAX];
    uint32_t n_addresses, n_found;
    uint8_t request[512], answer[32768]; /* the kernel fills a buffer of this size with a dump */
};

/* In the guest's network namespace, before the seal. 0 or a negative errno with its sentence. */
int agent_net_init(struct agent_net *n, const struct agent_config *config, struct failure *why);
/* Removes the rules and routes that were added. Descriptors end with the process. */
void agent_net_remove(struct agent_net *n);

/* To be watched for POLLIN, then emptied: links or addresses have changed. */
int agent_net_fd(const struct agent_net *n);
void agent_net_drain(struct agent_net *n);

/* 1, 0 or a negative errno. */
int agent_net_lo_up(struct agent_net *n);
/* lo is up: installs what @index (family_index()) still needs. AGENT_READY or what is missing. */
enum agent_reason agent_net_prepare(struct agent_net *n, int index);
/* Lists the addresses again, in n->addresses. 1: others than before; 0; or a negative errno. */
int agent_net_list(struct agent_net *n);
/* A socket for the stock: the caller's. Or a negative errno. */
int agent_net_socket(const struct agent_net *n, int index);
