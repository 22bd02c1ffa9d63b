/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * fd_passing.h - descriptors that go with a message (SCM_RIGHTS, unix(7))
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

enum { FD_PASSING_MAX = 32 /* per message; the kernel's limit is 253, SCM_MAX_FD */ };

/* Any thread. Sends @size bytes of @data with copies of @fds, which stay the caller's, as one message; a
 * signal does not interrupt it. @n_fds: at most FD_PASSING_MAX, 0: none. @flags of send(2); MSG_NOSIGNAL is
 * added. 0 or a negative errno; -ETOOMANYREFS: more descriptors of this user are on their way, in all
 * processes, than RLIMIT_NOFILE. */
int fd_passing_send(int sock, const void *data, size_t size, const int *fds, uint32_t n_fds, int flags);
