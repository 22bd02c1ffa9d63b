/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "api/socket_file.h"

#include "base/cleanup.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

/* Returns false when @path, seen from @dir_fd, cannot be looked at. */
static bool identify(int dir_fd, const char *path, struct file_identity *ret)
{
    struct stat st;

    if (fstatat(dir_fd, path, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return false;
    *ret = (struct file_identity){.dev = st.st_dev, .ino = st.st_ino};
    return true;
}

static bool is_now(const struct file_identity *then, int dir_fd, const char *path)
{
    struct file_identity now;

    return identify(dir_fd, path, &now) && now.dev == then->dev && now.ino == then->ino;
}

/* So that the file can be removed at the end, whatever the working directory is then. */
static void remember_file(struct socket_file *s, const char *path)
{
    const char *slash = strrchr(path, '/');
    _cleanup_free_ char *dir = slash ? strndup(path, (size_t)(slash - path) + 1) : strdup(".");

    snprintf(s->name, sizeof(s->name), "%s", slash ? slash + 1 : path);
    s->dir_fd = dir ? open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC) : -1;
    if (!identify(s->dir_fd, s->name, &s->file) || !identify(AT_FDCWD, "/", &s->root))
        closep(&s->dir_fd);
}

int socket_file_listen(struct socket_file *s, const char *path, const char *what, int backlog,
                       struct failure *why)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    static const char hint[] = "choose a path in a directory that exists and can be written";

    if (strlen(path) >= sizeof(addr.sun_path))
        return failure(why, -ENAMETOOLONG, "use a path of less than 108 bytes", "%s %s", what, path);
    memcpy(addr.sun_path, path, strlen(path));
    if (unlink(path) < 0 && errno != ENOENT && errno != EISDIR && errno != EPERM)
        return failure(why, -errno, hint, "cannot remove what is at the path of the %s, %s", what, path);
    s->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (s->listen_fd < 0)
        return failure(why, -errno, NULL, "cannot make the %s", what);
    if (bind(s->listen_fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
        return failure(why, -errno, hint, "cannot bind the %s to %s: bind", what, path);
    remember_file(s, path);
    if (listen(s->listen_fd, backlog) < 0)
        return failure(why, -errno, NULL, "cannot listen on the %s %s", what, path);
    return 0;
}

void socket_file_seal(struct socket_file *s)
{
    /* Inside the sandbox a descriptor of a directory outside would be a way out (openat(2) with ".."): the
     * file stays, as it always has. */
    if (s->dir_fd >= 0 && !is_now(&s->root, AT_FDCWD, "/"))
        closep(&s->dir_fd);
}

void socket_file_close(struct socket_file *s)
{
    if (s->dir_fd >= 0 && is_now(&s->file, s->dir_fd, s->name) && unlinkat(s->dir_fd, s->name, 0) < 0)
        log_warning("API: cannot remove the socket %s: %m", s->name);
    closep(&s->listen_fd);
    closep(&s->dir_fd);
}
