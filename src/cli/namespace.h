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

/* Returns 0, or a negative errno with its sentence; nothing is left behind then. Prints the lines that
 * clients expect about descriptors sent and received. */
int guest_link_open(struct guest_link *ret, const struct options *o, struct failure *why);
