/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * socket_file.h - a listening UNIX socket and the file it has
 *
 * main, except that the api thread accepts from listen_fd.
 */
#pragma once

#include "base/failure.h"

#include <limits.h>
#include <sys/types.h>

struct file_identity {
    dev_t dev;
    ino_t ino;
};

struct socket_file {
    int listen_fd;
    int dir_fd;                      /* where the file is; -1: out of reach */
    char name[NAME_MAX + 1];         /* of the file */
    struct file_identity file, root; /* of that file; of / at that time */
};

#define SOCKET_FILE_NULL              \
    {                                 \
        .listen_fd = -1, .dir_fd = -1 \
    }

/* Before the sandbox: binds @path (a file in the way is removed, as ever) and listens. @what: "API socket".
 * 0, or a negative errno with its sentence; then _close() is still to be called. */
int socket_file_listen(struct socket_file *s, const char *path, const char *what, int backlog,
                       struct failure *why);
/* After the sandbox: gives up what would be a way out of it. */
void socket_file_seal(struct socket_file *s);
/* Closes, and removes the file if it is still there, still ours and still reachable. Twice is fine. */
void socket_file_close(struct socket_file *s);
