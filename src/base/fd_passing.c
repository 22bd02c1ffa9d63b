/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "base/fd_passing.h"

#include "base/bits.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#ifndef SCM_PIDFD
#define SCM_PIDFD 4 /* Linux 6.5, SO_PASSPIDFD */
#endif

union control {
    char buffer[CMSG_SPACE(FD_PASSING_MAX * sizeof(int))];
    struct cmsghdr align;
};

int fd_passing_send(int sock, const void *data, size_t size, const int *fds, uint32_t n_fds, int flags)
{
    union control control = {.buffer = {0}};
    struct iovec iov = {.iov_base = (void *)data, .iov_len = size};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    ssize_t n;

    assert(n_fds <= FD_PASSING_MAX);
    if (n_fds > 0) {
        struct cmsghdr *cmsg;

        msg.msg_control = control.buffer;
        msg.msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
        cmsg = CMSG_FIRSTHDR(&msg);
        cmsg->cmsg_level = SOL_SOCKET;
        cmsg->cmsg_type = SCM_RIGHTS;
        cmsg->cmsg_len = CMSG_LEN(n_fds * sizeof(int));
        memcpy(CMSG_DATA(cmsg), fds, n_fds * sizeof(int));
    }
    do {
        n = sendmsg(sock, &msg, flags | MSG_NOSIGNAL);
    } while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : 0;
}

static void take(struct fd_passing *ret, const struct cmsghdr *cmsg)
{
    uint32_t n = (uint32_t)((cmsg->cmsg_len - CMSG_LEN(0)) / sizeof(int));

    n = min_u32(n, FD_PASSING_MAX - ret->n_fds); /* the kernel cannot have put more */
    memcpy(ret->fds + ret->n_fds, CMSG_DATA(cmsg), n * sizeof(int));
    ret->n_fds += n;
}

static void drop(const struct cmsghdr *cmsg)
{
    struct fd_passing unwanted = {.n_fds = 0};

    take(&unwanted, cmsg);
    fd_passing_close(&unwanted);
}

ssize_t fd_passing_receive(int sock, void *data, size_t size, uint32_t fds_max, struct fd_passing *ret,
                           int flags)
{
    union control control;
    struct iovec iov = {.iov_base = data, .iov_len = size};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.buffer};
    ssize_t n;

    assert(fds_max > 0 && fds_max <= FD_PASSING_MAX);
    ret->n_fds = 0;
    ret->cut = false;
    do {
        msg.msg_controllen = CMSG_LEN(fds_max * sizeof(int)); /* CMSG_SPACE() may have room for one more */
        n = recvmsg(sock, &msg, flags | MSG_CMSG_CLOEXEC);
    } while (n < 0 && errno == EINTR);
    if (n < 0)
        return -errno;
    ret->cut = (msg.msg_flags & MSG_CTRUNC) != 0;
    for (struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg); cmsg; cmsg = CMSG_NXTHDR(&msg, cmsg)) {
        if (cmsg->cmsg_level != SOL_SOCKET)
            continue;
        if (cmsg->cmsg_type == SCM_RIGHTS)
            take(ret, cmsg);
        else if (cmsg->cmsg_type ==
                 SCM_PIDFD) /* nobody here asks for them, but whoever made @sock may have */
            drop(cmsg);
    }
    if (msg.msg_flags & MSG_TRUNC) {
        fd_passing_close(ret);
        return -EMSGSIZE;
    }
    return n;
}

void fd_passing_close(struct fd_passing *p)
{
    while (p->n_fds > 0)
        close(p->fds[--p->n_fds]);
}
