/* SPDX-License-Identifier: GPL-2.0-or-later */
/* namespace.h - a network namespace of one's own, whose lo is all there is, and a resolv.conf of one's own */
#pragma once

#include "fuzz.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

__attribute__((format(printf, 1, 2))) static inline _Noreturn void namespace_fail(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fprintf(stderr, ": %s\n", strerror(errno));
    exit(EXIT_FAILURE);
}

static inline bool namespace_write(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    bool good = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);

    if (fd >= 0)
        close(fd);
    return good;
}

/* The file is on a file system that only this namespace ever sees: however the process ends, nothing is left. */
static inline void namespace_resolv_conf(const char *text)
{
    static const char path[] = "/tmp/resolv.conf";
    int fd;

    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 || mount("tmpfs", "/tmp", "tmpfs", 0, NULL) < 0)
        namespace_fail("cannot mount a file system");
    fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (fd < 0 || write(fd, text, strlen(text)) < 0)
        namespace_fail("cannot write %s", path);
    close(fd);
    if (mount(path, "/etc/resolv.conf", NULL, MS_BIND, NULL) < 0)
        namespace_fail("cannot show another /etc/resolv.conf");
    if (umount2("/tmp", MNT_DETACH) < 0)
        namespace_fail("cannot unmount a file system");
}

/* Before there are threads; also for an ordinary user, where the system lets one make a user namespace. */
static inline void namespace_enter(const char *resolv_conf)
{
    struct ifreq ifr = {.ifr_flags = IFF_UP};
    unsigned uid = geteuid(), gid = getegid();
    char map[32];
    int fd;

    if (unshare(CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWNS) < 0)
        namespace_fail("cannot make a user and network namespace (is it forbidden here?)");
    snprintf(map, sizeof(map), "0 %u 1", uid);
    if (!namespace_write("/proc/self/uid_map", map))
        namespace_fail("cannot write /proc/self/uid_map");
    snprintf(map, sizeof(map), "0 %u 1", gid);
    if (!namespace_write("/proc/self/setgroups", "deny") || !namespace_write("/proc/self/gid_map", map))
        namespace_fail("cannot write /proc/self/gid_map");
    fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    memcpy(ifr.ifr_name, "lo", 3);
    if (fd < 0 || ioctl(fd, SIOCSIFFLAGS, &ifr) < 0)
        namespace_fail("cannot bring lo up");
    close(fd);
    (void)namespace_write("/proc/sys/net/ipv4/ping_group_range", "0 0"); /* else pings end at once */
    namespace_resolv_conf(resolv_conf);
}

/* On lo, with a full prefix. By the program ip, which knows both families. */
static inline void namespace_address(const char *address)
{
    char *const argv[] = {(char *)"ip",  (char *)"addr", (char *)"add", (char *)address,
                          (char *)"dev", (char *)"lo",   NULL};
    pid_t pid = fork();
    int status;

    if (pid == 0) {
        execvp(argv[0], argv);
        _exit(EXIT_FAILURE);
    }
    if (pid < 0 || waitpid(pid, &status, 0) != pid || status != 0)
        namespace_fail("ip addr add %s dev lo", address);
}
