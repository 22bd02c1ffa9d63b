/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/target.h"

#include "base/cleanup.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static bool is_in_namespace(const struct target_watch *w, const struct stat *st)
{
    return st->st_dev == w->net_dev && st->st_ino == w->net_ino;
}

void target_watch_init(struct target_watch *w, pid_t pid, int net_fd)
{
    char path[64];
    struct stat st;

    *w = (struct target_watch)TARGET_WATCH_NULL;
    if (fstat(net_fd, &st) < 0)
        return;
    w->net_dev = st.st_dev;
    w->net_ino = st.st_ino;
    w->proc_fd = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (w->proc_fd < 0)
        return;
    w->pid_fd = (int)syscall(SYS_pidfd_open, pid, 0); /* close-on-exec by itself */
    if (w->pid_fd < 0 && errno != ESRCH) {
        closep(&w->proc_fd);
        return;
    }
    /* After pidfd_open(): from here on it is one process that is spoken of. */
    snprintf(path, sizeof(path), "/proc/%d/ns/net", pid);
    if (w->pid_fd < 0)
        w->ended = true;
    else if (stat(path, &st) < 0)
        w->ended = errno == ENOENT || errno == ESRCH; /* else it may not be looked at, but it is there */
    else
        w->ended = !is_in_namespace(w, &st);
}

bool target_watch_is_on(const struct target_watch *w)
{
    return w->proc_fd >= 0;
}

void target_watch_deinit(struct target_watch *w)
{
    closep(&w->pid_fd);
    closep(&w->proc_fd);
}

/* Ours, or another program's, whose namespaces we may not see. The name is no secret: who takes it is left
 * alone in its namespace, which is its own affair. */
static bool is_agent(int proc_fd, const char *pid)
{
    char path[32], name[16] = "";
    _cleanup_close_ int fd = -1;

    snprintf(path, sizeof(path), "%.16s/comm", pid);
    fd = openat(proc_fd, path, O_RDONLY | O_CLOEXEC);
    return fd >= 0 && read(fd, name, sizeof(name) - 1) > 0 && strcmp(name, "nsagent\n") == 0;
}

bool target_watch_in_use(const struct target_watch *w)
{
    bool found = false;
    struct dirent *entry;
    DIR *dir;
    int fd = openat(w->proc_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd < 0 || !(dir = fdopendir(fd))) {
        closep(&fd);
        return true; /* cannot know: stay */
    }
    while (!found && (entry = readdir(dir))) {
        char path[sizeof(entry->d_name) + 16];
        struct stat st;

        if (!isdigit((unsigned char)entry->d_name[0]))
            continue;
        snprintf(path, sizeof(path), "%s/ns/net", entry->d_name);
        if (fstatat(fd, path, &st, 0) == 0) {
            found = is_in_namespace(w, &st) && !is_agent(fd, entry->d_name);
        } else if (errno == EACCES || errno == EPERM) {
            /* A process of our own user that we may not look into may be one with other credentials inside.
             */
            found = fstatat(fd, entry->d_name, &st, 0) == 0 && st.st_uid == geteuid() && geteuid() != 0 &&
                    !is_agent(fd, entry->d_name);
        }
    }
    closedir(dir);
    return found;
}
