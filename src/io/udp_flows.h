/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * udp_flows.h - the guest's own datagrams, past libslirp
 *
 * One unconnected host socket per guest address and port, as libslirp has it: whoever answers is heard and
 * shown with its own address (endpoint-independent mapping and filtering). Datagrams are taken from frames
 * and sent in batches, answers are received in batches and become frames. States, rules and bounds:
 * the comments at the head of udp_table.c, udp_out.c and udp_in.c.
 *
 * Two halves that may run in two threads: role_udp_out finds, makes and retires flows and sends; role_udp_in
 * receives and closes the sockets of retired flows. A retired flow goes to role_udp_in through a ring, its
 * place comes back through another one; so a descriptor is never closed while the other half may use it.
 */
#pragma once

#include "base/failure.h"
#include "base/role.h"
#include "io/flow_info.h"
#include "io/offload.h"
#include "io/packet.h"

#include <stdint.h>
#include <sys/uio.h>

enum {
    UDP_FLOWS_MAX = 4096,     /* at most; a quarter of RLIMIT_NOFILE if that is less */
    UDP_BATCH_MAX = 64,       /* datagrams waiting to be sent */
    UDP_IDLE_S = 240,         /* a flow without traffic ends after this */
    UDP_IDLE_ANSWERED_S = 10, /* only port 53 was asked, and the last datagram was an answer */
    UDP_IDLE_DNS_S = 30,      /* only the DNS address was asked, and not everything was answered */
    UDP_LINGER_DNS_MS = 200,  /* only the DNS address was asked, everything was answered */
    UDP_LINGER_DNS_MAX = 256, /* beyond that many young flows an answered one ends at once */
    UDP_EVICT_IDLE_S = 5, /* without descriptors only a flow idle for so long makes room for another one */
};

struct udp_flows;

struct udp_flows_config {
    int epoll_fd; /* of role_udp_in; sockets are added with @tag | index */
    uint64_t tag;
    unsigned mtu;
    struct in_addr network, netmask, gateway, dns;
    bool disable_host_loopback, disable_dns;
    bool has_outbound, has_outbound6;
    struct sockaddr_in outbound;
    struct sockaddr_in6 outbound6;
    const char *resolv_conf;
    uint32_t n_flows_max; /* <= UDP_FLOWS_MAX */
    /* role_udp_in and role_udp_out: sends a frame to the guest; the buffer stays the caller's. */
    void (*send)(void *arg, const void *frame, uint32_t size);
    /* The same in pieces, with something left to the guest's kernel (offload.h). Before the first piece there
     * are OFFLOAD_HEADER_SIZE_MAX bytes for the header; @parts are spoilt. NULL: cannot be had. */
    void (*send_parts)(void *arg, const struct virtio_net_hdr *header, struct iovec *parts, uint32_t n_parts);
    /* role_udp_out: role_udp_in has something to close, udp_flows_turn(). NULL: it comes round by itself. */
    void (*retired)(void *arg);
    void *arg;
};

/* main, before threads start: 0 or a negative errno with its sentence. _free: after they ended; NULL is fine;
 * returns NULL. */
int udp_flows_new(struct udp_flows **ret, const struct udp_flows_config *config, struct failure *why);
struct udp_flows *udp_flows_free(struct udp_flows *u);

/* A packet that passed the filter. True: it has been taken; its frame must stay as it is until
 * udp_flows_flush(). False: it is not for here (another protocol, an address or port with rules of its own,
 * no descriptor left): libslirp's. @gso_size: 0, or the size of the datagrams that are joined in the frame.
 * Its checksum is looked at, unless @p says that it was made here.
 */
bool udp_flows_take(struct udp_flows *u, const struct packet *p, uint32_t gso_size, int64_t now_ns)
    RUNS_ON(role_udp_out);
/* Sends what was taken. */
void udp_flows_flush(struct udp_flows *u, int64_t now_ns) RUNS_ON(role_udp_out);
/* Ends idle flows; call at the time it returned last, and after a flow was made (udp_flows_next_ns()). */
void udp_flows_expire(struct udp_flows *u, int64_t now_ns) RUNS_ON(role_udp_out);
/* When udp_flows_expire() is to be called; INT64_MAX: there is no flow. */
int64_t udp_flows_next_ns(const struct udp_flows *u) RUNS_ON(role_udp_out);

/* A flow's socket has @events (epoll): moves a bounded number of datagrams. */
void udp_flows_ready(struct udp_flows *u, uint32_t index, uint32_t events, int64_t now_ns)
    RUNS_ON(role_udp_in);
/* Once per turn, when no event is being dealt with: closes what was retired. */
void udp_flows_turn(struct udp_flows *u) RUNS_ON(role_udp_in);

/* For the API's flow list (flow_info.h), while role_udp_out stands still; what it reads of role_udp_in's is
 * atomic. */
int udp_flows_list(struct udp_flows *u, uint64_t from, struct flow_info *rows, uint32_t max, int64_t now_ns,
                   uint64_t *ret_next) RUNS_ON(role_udp_out);
