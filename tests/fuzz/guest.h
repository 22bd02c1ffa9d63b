/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * guest.h - fuzz_engine's guest: makes frames from an input, and checks every frame that it gets
 *
 * It speaks ARP, NDP, DHCP, ICMP, UDP, DNS and TCP, well unless the input wants it otherwise; its TCP knows
 * what it has sent and what has come, so that acknowledgements, windows and resets are right. Payload of TCP
 * is the pattern of outside.h.
 */
#pragma once

#include "fuzz.h"

#include "io/address.h"

enum {
    FORWARDED_PORT = 53,     /* of the guest: where forwards of datagrams lead */
    GUEST_TAKEN_PORT = 7999, /* of a server: what else is there to take may take it */
};

/* A connection of the guest's, once it has its SYN-ACK. */
struct guest_connection {
    union address own, remote;
    uint32_t iss, irs; /* initial sequence numbers: sent, received */
    uint8_t wscale;
    bool as_sent;           /* the SYN was not damaged on its way */
    const uint8_t *syn_ack; /* TCP's header, NULL in reset() */
    uint32_t syn_ack_size;
};

struct guest_config {
    int fd; /* the guest's end of what stands for the TAP */
    unsigned mtu;
    bool ipv6, no_loopback;
    /* True: this connection's packets take another way than the TAP from now on; what comes by the TAP is for
     * it the SYN-ACK once more or nothing. reset(): the guest has given it up. NULL: there is no other way.
     */
    bool (*established)(const struct guest_connection *c);
    void (*reset)(const struct guest_connection *c);
};

void guest_begin(const struct guest_config *config);
/* Takes all frames that have come, checks them, answers what a kernel would answer. True: there were some. */
bool guest_receive(void);
/* One step of the input. */
void guest_step(struct input *in);
/* @n SYNs, each from a port of its own that nobody listens to. */
void guest_flood(unsigned n, uint8_t destination);
/* Resets every connection there is. */
void guest_end(void);
/* After the last frame. */
void guest_free(void);
