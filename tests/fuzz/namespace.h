/* SPDX-License-Identifier: GPL-2.0-or-later */
/* namespace.h - a network namespace of one's own, whose lo is all there is, and a resolv.conf of one's own */
#pragma once

#include "fuzz.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <sched.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { NAMESPACE_ARGS_MAX = 12 };

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

/* The file is on a file system that only this namespace ever sees: however the process ends, nothing is left.
 */
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

static inline void namespace_lo_up(void)
{
    struct ifreq ifr = {.ifr_flags = IFF_UP};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    memcpy(ifr.ifr_name, "lo", 3);
    if (fd < 0 || ioctl(fd, SIOCSIFFLAGS, &ifr) < 0)
        namespace_fail("cannot bring lo up");
    close(fd);
}

/* After namespace_enter(): one more network namespace, which is entered. */
static inline void namespace_another_net(void)
{
    if (unshare(CLONE_NEWNET) < 0)
        namespace_fail("cannot make a network namespace");
    namespace_lo_up();
}

/* Before there are threads; also for an ordinary user, where the system lets one make a user namespace. */
static inline void namespace_enter(const char *resolv_conf)
{
    unsigned uid = geteuid(), gid = getegid();
    char map[32];

    if (unshare(CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWNS) < 0)
        namespace_fail("cannot make a user and network namespace (is it forbidden here?)");
    snprintf(map, sizeof(map), "0 %u 1", uid);
    if (!namespace_write("/proc/self/uid_map", map))
        namespace_fail("cannot write /proc/self/uid_map");
    snprintf(map, sizeof(map), "0 %u 1", gid);
    if (!namespace_write("/proc/self/setgroups", "deny") || !namespace_write("/proc/self/gid_map", map))
        namespace_fail("cannot write /proc/self/gid_map");
    namespace_lo_up();
    (void)namespace_write("/proc/sys/net/ipv4/ping_group_range", "0 0"); /* else pings end at once */
    namespace_resolv_conf(resolv_conf);
}

/* Runs @program with arguments, at least two, up to a NULL. */
static inline void namespace_run(const char *program, ...)
{
    char *argv[NAMESPACE_ARGS_MAX] = {(char *)program};
    siginfo_t info;
    va_list args;
    pid_t pid;
    int r;

    va_start(args, program);
    for (int i = 1; i < NAMESPACE_ARGS_MAX && argv[i - 1]; i++)
        argv[i] = va_arg(args, char *);
    va_end(args);
    r = posix_spawnp(&pid, program, NULL, NULL, argv, environ);
    if (r != 0 || waitid(P_PID, (id_t)pid, &info, WEXITED) < 0 || info.si_code != CLD_EXITED ||
        info.si_status != 0)
        namespace_fail("%s %s %s", argv[0], argv[1], argv[2]);
}

/* On lo, with a full prefix, usable at once. By the program ip, which knows both families. */
static inline void namespace_address(const char *address)
{
    namespace_run("ip", "addr", "add", address, "dev", "lo", "nodad", NULL);
}
