/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * namespace.h - get a TAP out of somebody else's network namespace
 *
 * main, before threads start. A child joins the target's user and network namespaces, makes (or attaches to)
 * the TAP there, configures it if asked, and sends the descriptor back; this process never enters the target
 * namespace (setns(2): a multithreaded process could not join a user namespace anyway).
 */
#pragma once

#include "base/failure.h"
#include "cli/options.h"

struct guest_link {
    int fd; /* the TAP, or a socket with bare Ethernet frames; the caller's; non-blocking, close-on-exec */
    bool is_socket;
    uint32_t header_size;  /* of the virtio-net header before each frame; 0: none */
    bool joined_datagrams; /* a frame may hold several, both ways (USO) */
};

#define GUEST_LINK_NULL \
    {                   \
        .fd = -1        \
    }

/* For the agent (TARGET_PID and TARGET_PATH): the guest's network namespace and, where one is named, its user
 * namespace, else -1. The caller's to close. */
int guest_namespaces_open(const struct options *o, int *ret_user, int *ret_net, struct failure *why);

/* Makes the TAP @name in the current network namespace, or attaches to it; with a virtio-net header before
 * each frame if it can and @header says so. The descriptor, or a negative errno with its sentence. */
int tap_open(const char *name, bool header, struct failure *why);

/* The child at work in the guest's namespaces. */
struct guest_opening {
    pid_t child; /* -1: none */
    int sock;    /* its report comes here */
    struct failure why;
};

#define GUEST_OPENING_NULL                           \
    {                                                \
        .child = -1, .sock = -1, .why = FAILURE_NULL \
    }

/* Starts the child, where the target takes one; it works while the caller does other things. What fails is
 * told by guest_link_open(). guest_opening_end() is due in any case. */
void guest_opening_begin(struct guest_opening *g, const struct options *o);

/* Waits for the child's end, which follows its report; without one, does nothing. */
void guest_opening_end(struct guest_opening *g);

/* After guest_opening_begin(); waits for the child's report. Returns 0, or a negative errno with its
 * sentence; nothing is left behind then but the child, which ends. Prints the lines that clients expect about
 * descriptors sent and received. */
int guest_link_open(struct guest_link *ret, struct guest_opening *g, const struct options *o,
                    struct failure *why);
