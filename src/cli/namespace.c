/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * namespace.c
 *
 * Order in the child (user_namespaces(7), setns(2)): open both namespace files first, because after joining
 * the user namespace the caller's /proc may no longer answer; join the user namespace, which gives the
 * capabilities that joining the network namespace needs. EINVAL from the first setns() means "already in it"
 * (podman, bubblewrap) and any other failure there is decided by the second. The child keeps its ids: those
 * capabilities are all that is asked for, and with the parent's own id the parent may signal it, also once it
 * has become the nsagent (fwd/agent.h), which spares a fork. /dev/net/tun is opened in the
 * caller's mount namespace, after the switch: the TAP belongs to the network namespace of whoever issues
 * TUNSETIFF.
 */
#include "cli/namespace.h"

#include "base/cleanup.h"
#include "base/fd_passing.h"
#include "base/log.h"
#include "cli/interface.h"
#include "io/offload.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#ifndef TUN_F_USO4 /* Linux 6.2 */
#define TUN_F_USO4 0x20
#define TUN_F_USO6 0x40
#endif

/* Parent and child are one program: the struct itself is the message. */
struct report {
    struct failure failure;
};

enum { SEND_TRIES_MAX = 100, SEND_RETRY_MS = 10, BUSY_TRIES = 100, BUSY_STEP_MS = 10 };

static int send_report(int sock, const struct report *report, int fd)
{
    int r;

    for (int i = 0;; i++) {
        r = fd_passing_send(sock, report, sizeof(*report), &fd, fd >= 0, 0);
        /* So many descriptors of this user are on their way, in all processes. They arrive soon. */
        if (r != -ETOOMANYREFS || i == SEND_TRIES_MAX)
            return r;
        (void)poll(NULL, 0, SEND_RETRY_MS);
    }
}

/* Returns 0 with a descriptor or with -1 in @ret_fd; -EPIPE: the child ended without a word. */
static int receive_report(int sock, struct report *report, int *ret_fd)
{
    struct fd_passing with;
    ssize_t n = fd_passing_receive(sock, report, sizeof(*report), 1, &with, MSG_WAITALL);

    if (n < 0)
        return (int)n;
    if (n != sizeof(*report) || with.cut) {
        fd_passing_close(&with);
        return with.cut ? -EMFILE : -EPIPE;
    }
    *ret_fd = with.n_fds == 1 ? with.fds[0] : -1;
    return 0;
}

static int namespaces_open(struct guest_opening *g, const struct options *o)
{
    char net[64], user[64];
    const char *net_path = o->path, *user_path = o->userns_path;

    if (o->target == TARGET_PID) {
        snprintf(net, sizeof(net), "/proc/%d/ns/net", o->pid);
        snprintf(user, sizeof(user), "/proc/%d/ns/user", o->pid);
        net_path = net;
        if (!user_path)
            user_path = user;
    }
    g->net_fd = open(net_path, O_RDONLY | O_CLOEXEC);
    if (g->net_fd < 0)
        return failure(&g->why, -errno,
                       errno == ENOENT   ? "is the process still there?"
                       : errno == EACCES ? "the namespace belongs to another user"
                                         : NULL,
                       "%s", net_path);
    if (!user_path)
        return 0;
    g->user_fd = open(user_path, O_RDONLY | O_CLOEXEC);
    if (g->user_fd < 0)
        return failure(&g->why, -errno, errno == EACCES ? "the namespace belongs to another user" : NULL,
                       "%s", user_path);
    return 0;
}

/* TUNSETIFF, again for BUSY_TRIES * BUSY_STEP_MS while the TAP is taken: io_uring gives files back after the
 * end of the process that had it (a worker of the kernel's does), and whoever starts the next one must not
 * see that. */
static int attach(int fd, struct ifreq *ifr)
{
    for (int i = 0;; i++) {
        if (ioctl(fd, TUNSETIFF, ifr) == 0)
            return 0;
        if (errno != EBUSY || i == BUSY_TRIES)
            return -errno;
        (void)poll(NULL, 0, BUSY_STEP_MS);
    }
}

int tap_open(const char *name, bool header, struct failure *why)
{
    struct ifreq ifr = {.ifr_flags = (short)(IFF_TAP | IFF_NO_PI | (header ? IFF_VNET_HDR : 0))};
    _cleanup_close_ int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
    int r;

    if (fd < 0)
        return failure(why, -errno,
                       errno == EACCES
                           ? "its mode must let this user read and write it: chmod 0666 /dev/net/tun"
                           : "load the tun module (modprobe tun), or pass the device into the container",
                       "open(\"/dev/net/tun\")");
    snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "%s", name);
    r = attach(fd, &ifr);
    if (r < 0) {
        if (header && r == -EINVAL) /* a kernel that has none, or an interface of another kind */
            return tap_open(name, false, why);
        return failure(why, r,
                       r == -EBUSY ? "another process is attached to this TAP; choose another TAPNAME"
                       : r == -EPERM
                           ? "the user namespace that owns the network namespace was not joined: give a "
                             "PID, or --userns-path"
                       : r == -EINVAL ? "an interface of another kind has this name; choose another TAPNAME"
                                      : NULL,
                       "ioctl(TUNSETIFF) for \"%s\"", name);
    }
    return steal_fd(&fd);
}

static int open_inside(const struct guest_opening *g, struct failure *why)
{
    const struct options *o = g->options;
    _cleanup_close_ int fd = -1;
    int r;

    /* Before the guest can see us: its root may trace what is of its user namespace. */
    if (prctl(PR_SET_DUMPABLE, 0) < 0)
        return failure(why, -errno, NULL, "the child's prctl");
    if (g->user_fd >= 0 && setns(g->user_fd, CLONE_NEWUSER) < 0)
        errno = 0; /* the next step decides */
    if (setns(g->net_fd, CLONE_NEWNET) < 0)
        return failure(why, -errno,
                       errno == EPERM
                           ? "the user namespace that owns the network namespace could not be joined: "
                             "give a PID, or --userns-path"
                       : errno == EINVAL ? "this file is no network namespace"
                                         : NULL,
                       "setns(CLONE_NEWNET)");
    fd = tap_open(o->tap_name, o->offload, why);
    if (fd < 0)
        return fd;
    if (o->configure) {
        r = interface_configure(o, why);
        if (r < 0)
            return r;
    }
    log_plain(LOG_LEVEL_INFO, "sent tapfd=%d for %s", fd, o->tap_name);
    return steal_fd(&fd);
}

int guest_opening_work(void *arg)
{
    struct guest_opening *g = arg;
    struct report report = {.failure = FAILURE_NULL};
    int fd, r;

    closep(&g->sock); /* or we would not see that the parent has ended */
    fd = open_inside(g, &report.failure);
    r = send_report(g->child_sock, &report, fd);
    if (fd < 0)
        return fd;
    close(fd);
    return r;
}

/* ---- the parent ---- */

void guest_opening_init(struct guest_opening *ret, const struct options *o)
{
    int pair[2];

    if (o->target != TARGET_PID && o->target != TARGET_PATH)
        return;
    ret->options = o;
    if (namespaces_open(ret, o) < 0)
        return;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
        failure(&ret->why, -errno, NULL, "socketpair");
        return;
    }
    ret->sock = pair[0];
    ret->child_sock = pair[1];
}

bool guest_opening_is_possible(const struct guest_opening *g)
{
    return g->options && g->why.code == 0;
}

void guest_opening_begun(struct guest_opening *g)
{
    g->begun = true;
    closep(&g->child_sock); /* the child's end is to be the only one */
}

void guest_opening_fork(struct guest_opening *g)
{
    if (!guest_opening_is_possible(g))
        return;
    fflush(NULL); /* or the child would print it again */
    g->child = fork();
    if (g->child < 0)
        failure(&g->why, -errno, NULL, "fork");
    else if (g->child == 0)
        _exit(guest_opening_work(g) < 0 ? EXIT_FAILURE : EXIT_SUCCESS);
    else
        guest_opening_begun(g);
}

void guest_opening_end(struct guest_opening *g)
{
    closep(&g->sock);
    closep(&g->child_sock);
    closep(&g->user_fd);
    closep(&g->net_fd);
    /* Its end is expected: it does nothing after its report. */
    while (g->child > 0 && waitpid(g->child, NULL, 0) < 0 && errno == EINTR)
        ;
    g->child = -1;
}

static int open_in_namespace(struct guest_opening *g, struct failure *why)
{
    struct report report = {.failure = g->why};
    int fd = -1, r;

    if (g->begun) {
        r = receive_report(g->sock, &report, &fd);
        if (r < 0)
            return failure(why, r, NULL, "the child that opens the TAP ended without a report");
    }
    if (fd < 0) {
        if (why)
            *why = report.failure;
        return report.failure.code;
    }
    log_plain(LOG_LEVEL_INFO, "received tapfd=%d", fd);
    return fd;
}

static int set_flags(int fd, struct failure *why)
{
    int flags = fcntl(fd, F_GETFL);

    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 || fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
        return failure(why, -errno, "the operand must be the number of an open descriptor",
                       "TAP descriptor %d", fd);
    return 0;
}

/* --netns-type=tapfd: nothing but system calls on the descriptor itself; callers may forbid everything else.
 */
static int open_given(struct guest_link *ret, int fd, struct failure *why)
{
    struct ifreq ifr = {0};
    struct stat st;
    int r;

    if (fstat(fd, &st) < 0)
        return failure(why, -errno, "the operand must be the number of an open descriptor",
                       "TAP descriptor %d", fd);
    ret->is_socket = S_ISSOCK(st.st_mode);
    if (!ret->is_socket && ioctl(fd, TUNGETIFF, &ifr) < 0)
        return failure(why, -errno,
                       "give a TAP that has been attached with TUNSETIFF, or a SOCK_SEQPACKET socket",
                       "descriptor %d is no TAP", fd);
    if (!ret->is_socket && ((ifr.ifr_flags & IFF_TUN) || !(ifr.ifr_flags & IFF_NO_PI)))
        return failure(why, -EINVAL, "attach it with IFF_TAP | IFF_NO_PI",
                       "descriptor %d is a TUN, or its frames have extra headers", fd);
    r = set_flags(fd, why);
    if (r < 0)
        return r;
    ret->fd = fd;
    return 0;
}

/* Says what we take from the guest's kernel and what we give to it. Needs no capability, only the descriptor.
 */
static int set_offload(struct guest_link *link, const struct options *o, struct failure *why)
{
    /* Each may be refused for itself; USO4 and USO6 are taken together or not at all (Linux 6.2). libslirp
     * takes no datagrams in bulk, and a capture shall show them as they are. */
    static const unsigned wishes[] = {TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6, TUN_F_USO4 | TUN_F_USO6};
    struct ifreq ifr = {0};
    int size = OFFLOAD_HEADER_SIZE;
    unsigned granted = 0;

    if (ioctl(link->fd, TUNGETIFF, &ifr) < 0)
        return failure(why, -errno, NULL, "ioctl(TUNGETIFF)");
    if (!(ifr.ifr_flags & IFF_VNET_HDR)) {
        /* Someone before us may have left it on with a persistent TAP; without headers it would hurt. */
        if (o->target != TARGET_TAPFD)
            (void)ioctl(link->fd, TUNSETOFFLOAD, 0);
        return 0;
    }
    if (o->target != TARGET_TAPFD && ioctl(link->fd, TUNSETVNETHDRSZ, &size) < 0)
        return failure(why, -errno, "use --offload=off", "ioctl(TUNSETVNETHDRSZ)");
    if (ioctl(link->fd, TUNGETVNETHDRSZ, &size) < 0)
        return failure(why, -errno, "use --offload=off", "ioctl(TUNGETVNETHDRSZ)");
    if (size < OFFLOAD_HEADER_SIZE || size > OFFLOAD_HEADER_SIZE_MAX)
        return failure(why, -EINVAL, "set it to 10 or 12 with TUNSETVNETHDRSZ",
                       "the TAP's virtio-net header has %d bytes", size);
    link->header_size = (uint32_t)size;
    if (ioctl(link->fd, TUNSETOFFLOAD, 0) < 0)
        return failure(why, -errno, "use --offload=off", "ioctl(TUNSETOFFLOAD)");
    for (unsigned i = 0; o->offload && i < ARRAY_SIZE(wishes); i++) {
        if (wishes[i] == (TUN_F_USO4 | TUN_F_USO6) && (o->udp == ENGINE_UDP_SLIRP || o->pcap))
            continue;
        if (ioctl(link->fd, TUNSETOFFLOAD, granted | wishes[i]) == 0)
            granted |= wishes[i];
    }
    link->joined_datagrams = granted & TUN_F_USO4;
    return 0;
}

/* 0: there is a peer; 1: the end was asked for. A peer may come for hours, or never. */
static int wait_for_peer(int listen_fd, int signal_fd, int exit_fd)
{
    enum { PEER, SIGNAL, EXIT };
    struct pollfd fds[] = {
        [PEER] = {.fd = listen_fd, .events = POLLIN},
        [SIGNAL] = {.fd = signal_fd, .events = POLLIN},
        [EXIT] = {.fd = exit_fd, .events = 0},
    };

    while (poll(fds, sizeof(fds) / sizeof(fds[0]), -1) < 0) {
        if (errno != EINTR)
            return -errno;
    }
    return fds[SIGNAL].revents || fds[EXIT].revents ? 1 : 0;
}

static int open_bess(struct guest_link *ret, int signal_fd, const struct options *o, struct failure *why)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    _cleanup_close_ int listen_fd = -1, fd = -1;
    const char *path = o->path;
    int r;

    if (strlen(path) >= sizeof(addr.sun_path))
        return failure(why, -ENAMETOOLONG, "use a path of less than 108 bytes", "%s", path);
    memcpy(addr.sun_path, path, strlen(path));
    if (unlink(path) < 0 && errno != ENOENT && errno != EISDIR)
        return failure(why, -errno, NULL, "cannot remove the old %s", path);
    listen_fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (listen_fd < 0)
        return failure(why, -errno, NULL, "socket");
    if (bind(listen_fd, (struct sockaddr *)&addr, sizeof(addr)) < 0 || listen(listen_fd, 1) < 0)
        return failure(why, -errno, NULL, "bind %s", path);
    log_plain(LOG_LEVEL_INFO, "Waiting for connection to %s", path);
    do { /* a peer that has gone again is none */
        r = wait_for_peer(listen_fd, signal_fd, o->exit_fd);
        fd = r == 0 ? accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK) : -1;
    } while (r == 0 && fd < 0 && (errno == EINTR || errno == EAGAIN));
    if (r < 0)
        failure(why, r, NULL, "poll");
    else if (r == 0 && fd < 0)
        r = failure(why, -errno, NULL, "accept on %s", path);
    unlink(path); /* one peer, and it is here */
    if (r != 0)
        return r;
    log_plain(LOG_LEVEL_INFO, "sent \"tapfd\"=%d (not really TAP) for %s", fd, path);
    log_plain(LOG_LEVEL_INFO, "received tapfd=%d", fd);
    ret->is_socket = true;
    ret->fd = steal_fd(&fd);
    return 0;
}

int guest_link_open(struct guest_link *ret, struct guest_opening *g, const struct options *o,
                    struct failure *why)
{
    struct guest_link link = GUEST_LINK_NULL;
    int r = 0;

    switch (o->target) {
    case TARGET_PID:
    case TARGET_PATH:
        link.fd = open_in_namespace(g, why);
        break;
    case TARGET_TAPFD:
        r = open_given(&link, o->tap_fd, why);
        break;
    case TARGET_BESS:
        r = open_bess(&link, g->signal_fd, o, why);
        break;
    }
    if (r != 0 || link.fd < 0)
        return r != 0 ? r : link.fd;
    if (!link.is_socket && (r = set_offload(&link, o, why)) < 0) {
        close(link.fd);
        return r;
    }
    *ret = link;
    return 0;
}
