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

enum { FORWARDED_PORT = 53 }; /* of the guest: where forwards of datagrams lead */

struct guest_config {
    int fd; /* the guest's end of what stands for the TAP */
    unsigned mtu;
    bool ipv6, no_loopback;
};

void guest_begin(const struct guest_config *config);
/* Takes all frames that have come, checks them, answers what a kernel would answer. True: there were some. */
bool guest_receive(void);
/* One step of the input. */
void guest_step(struct input *in);
/* Resets every connection there is. */
void guest_end(void);
/* After the last frame. */
void guest_free(void);
