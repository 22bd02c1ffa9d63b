/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * fd_passing.h - descriptors that go with a message (SCM_RIGHTS, unix(7))
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum { FD_PASSING_MAX = 32 /* per message; the kernel's limit is 253, SCM_MAX_FD */ };

/* Any thread. Sends @size bytes of @data with copies of @fds, which stay the caller's, as one message; a
 * signal does not interrupt it. @n_fds: at most FD_PASSING_MAX, 0: none. @flags of send(2); MSG_NOSIGNAL is
 * added. 0 or a negative errno; -ETOOMANYREFS: more descriptors of this user are on their way, in all
 * processes, than RLIMIT_NOFILE. */
int fd_passing_send(int sock, const void *data, size_t size, const int *fds, uint32_t n_fds, int flags);

struct fd_passing {
    int fds[FD_PASSING_MAX]; /* close-on-exec; the caller's */
    uint32_t n_fds;
    bool cut; /* more were sent than asked for, or than this process has descriptors for */
};

/* Any thread. Receives one message of at most @size bytes into @data, and at most @fds_max (1 to
 * FD_PASSING_MAX) descriptors that came with it. @flags of recvmsg(2); MSG_CMSG_CLOEXEC is added; a signal
 * does not interrupt it. Returns how many bytes, 0: the end; or a negative errno, then there are no
 * descriptors. -EMSGSIZE: the message was longer, and is lost. */
ssize_t fd_passing_receive(int sock, void *data, size_t size, uint32_t fds_max, struct fd_passing *ret,
                           int flags);
/* Closes what is left of them. */
void fd_passing_close(struct fd_passing *p);
