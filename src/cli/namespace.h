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

/* Makes the TAP @name in the current network namespace, or attaches to it; with a virtio-net header before
 * each frame if it can and @header says so. The descriptor, or a negative errno with its sentence. */
int tap_open(const char *name, bool header, struct failure *why);

/* A child is at work in the guest's namespaces: one of its own, or one that goes on as something else. */
struct guest_opening {
    const struct options *options; /* the caller's; NULL: this target takes no child */
    int user_fd, net_fd;           /* the guest's namespaces; user_fd is -1 where none is named */
    int sock, child_sock;          /* the report comes through this pair */
    int signal_fd;                 /* the caller's; readable: wait no longer; -1: none */
    pid_t child;                   /* -1: none of its own */
    bool begun;                    /* there is a child */
    struct failure why;            /* there is none */
};

#define GUEST_OPENING_NULL                                                                       \
    {                                                                                            \
        .user_fd = -1, .net_fd = -1, .sock = -1, .child_sock = -1, .signal_fd = -1, .child = -1, \
        .why = FAILURE_NULL                                                                      \
    }

/* Opens what the child needs, where the target takes one. What fails is told by guest_link_open().
 * guest_opening_end() is due in any case. @o must outlive @ret. */
void guest_opening_init(struct guest_opening *ret, const struct options *o);
/* Could a child enter the guest's namespaces? */
bool guest_opening_is_possible(const struct guest_opening *g);

/* In a forked process: enters the namespaces, opens the TAP, and sends it to the parent. 0 or a negative
 * errno, of which the parent has heard. @arg is the struct guest_opening. */
int guest_opening_work(void *arg);

/* A process that calls guest_opening_work() has been forked; or fork one for nothing but that. What that one
 * does runs beside what the caller does meanwhile. */
void guest_opening_begun(struct guest_opening *g);
void guest_opening_fork(struct guest_opening *g);

/* Closes everything, and waits for the end of a child of its own, which follows its report. */
void guest_opening_end(struct guest_opening *g);

/* Waits for the child's report, or for a peer (--target-type=bess). Returns 0, or a negative errno with its
 * sentence; nothing is left behind then but the child, which ends. 1: no peer has come before the signal_fd
 * was readable or the exit-fd's other side closed, and nothing is left behind. Prints the lines that clients
 * expect about descriptors sent and received. */
int guest_link_open(struct guest_link *ret, struct guest_opening *g, const struct options *o,
                    struct failure *why);
