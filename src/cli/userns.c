/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * userns.c
 *
 * user_namespaces(7): without privilege a map may have one line that maps the writer's own effective id, and
 * the one of groups only after setgroups(2) has been given up in the namespace. With CAP_SETUID and
 * CAP_SETGID in the parent namespace any ids that exist there may be mapped.
 *
 * Distributions restrict user namespaces in three ways: a limit of 0 (ENOSPC from unshare(2)), Debian's old
 * sysctl (EPERM), and AppArmor (Ubuntu 23.10 and later: the namespace is made, but gives no capabilities, so
 * that the next step fails with EPERM or EACCES).
 */
#include "cli/userns.h"

#include "base/cleanup.h"
#include "cli/text.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

enum { MAP_SIZE_MAX = 4096 }; /* the kernel takes at most a page */

static long long read_number(const char *proc_sys, const char *name)
{
    char path[256];

    snprintf(path, sizeof(path), "%s/%s", proc_sys, name);
    return text_file_number(path, 0);
}

const char *userns_hint_at(int error, const char *proc_sys)
{
    if (error == ENOSPC && read_number(proc_sys, "user/max_user_namespaces") == 0)
        return "user namespaces are switched off: as root, sysctl user.max_user_namespaces=15000";
    if (error == ENOSPC)
        return "a limit of namespaces is reached: see sysctl -a | grep user.max_, or they are nested 32 deep";
    if (error == EUSERS)
        return "user namespaces are nested 32 deep already";
    if (error == EINVAL || error == ENOSYS)
        return "the kernel has no user namespaces (CONFIG_USER_NS)";
    if (error != EPERM && error != EACCES)
        return NULL;
    if (read_number(proc_sys, "kernel/unprivileged_userns_clone") == 0)
        return "ordinary users may not make them: as root, sysctl kernel.unprivileged_userns_clone=1";
    if (read_number(proc_sys, "kernel/apparmor_restrict_unprivileged_userns") == 1)
        return "AppArmor gives no capabilities in them (Ubuntu's profile is for /usr/bin/slirp4netns): as "
               "root, "
               "sysctl kernel.apparmor_restrict_unprivileged_userns=0";
    return "a container's seccomp profile or a security module may forbid it, or the root directory is a "
           "chroot";
}

const char *userns_hint(int error)
{
    const char *hint = userns_hint_at(error, "/proc/sys");

    errno = error; /* the caller's other arguments may look at it later */
    return hint;
}

/* All at once: the kernel takes a map by one write(2). */
static int write_all(const char *path, const char *text)
{
    _cleanup_close_ int fd = open(path, O_WRONLY | O_CLOEXEC);

    if (fd < 0 || write(fd, text, strlen(text)) < 0)
        return -errno;
    return 0;
}

/* Every id of our own namespace as itself: the ids are the first column, "inside outside count". */
static int read_identity_map(const char *path, char ret[MAP_SIZE_MAX])
{
    char map[MAP_SIZE_MAX];
    const char *at = map;
    long long inside, outside, count;
    ssize_t r = text_read(path, map, sizeof(map));
    size_t n = 0;

    if (r < 0)
        return (int)r;
    while (n < MAP_SIZE_MAX && text_number(&at, 10, &inside) && text_number(&at, 10, &outside) &&
           text_number(&at, 10, &count))
        n += (size_t)snprintf(ret + n, MAP_SIZE_MAX - n, "%lld %lld %lld\n", inside, inside, count);
    return n > 0 && n < MAP_SIZE_MAX ? 0 : -E2BIG;
}

int userns_write_maps(pid_t pid, enum userns_map map, struct failure *why)
{
    char path[64], uids[MAP_SIZE_MAX], gids[MAP_SIZE_MAX];
    int r = 0;

    if (map == USERNS_ALL && ((r = read_identity_map("/proc/self/uid_map", uids)) < 0 ||
                              (r = read_identity_map("/proc/self/gid_map", gids)) < 0))
        return failure(why, r, "is /proc mounted?", "cannot read the ids of this user namespace");
    if (map != USERNS_ALL) {
        snprintf(uids, sizeof(uids), "%u %u 1\n", map == USERNS_ROOT ? 0 : geteuid(), geteuid());
        snprintf(gids, sizeof(gids), "%u %u 1\n", map == USERNS_ROOT ? 0 : getegid(), getegid());
        snprintf(path, sizeof(path), "/proc/%d/setgroups", pid);
        r = write_all(path, "deny");
        if (r < 0 && r != -ENOENT) /* before Linux 3.19 there is no such file, and no need */
            return failure(why, r, userns_hint(-r), "cannot write %s", path);
    }
    snprintf(path, sizeof(path), "/proc/%d/uid_map", pid);
    r = write_all(path, uids);
    if (r < 0)
        return failure(why, r, userns_hint(-r), "cannot write %s", path);
    snprintf(path, sizeof(path), "/proc/%d/gid_map", pid);
    r = write_all(path, gids);
    return r < 0 ? failure(why, r, userns_hint(-r), "cannot write %s", path) : 0;
}
