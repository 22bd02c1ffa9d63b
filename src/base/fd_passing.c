/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "base/fd_passing.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

int fd_passing_send(int sock, const void *data, size_t size, const int *fds, uint32_t n_fds, int flags)
{
    union {
        char buffer[CMSG_SPACE(FD_PASSING_MAX * sizeof(int))];
        struct cmsghdr align;
    } control = {.buffer = {0}};
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
