/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * sandbox.c
 *
 * The new root is a small tmpfs mounted over /tmp of the new mount namespace; /etc and /run are bound into it
 * (libslirp reads /etc/resolv.conf whenever it changes, and that is often a link into /run). Where
 * resolv.conf resolves to a third place (WSL, NixOS), that one file is bound at its own path. Every mount is
 * a slave: the host's later mounts under /etc and /run are followed, nothing here ever shows on the host
 * (mount_namespaces(7)).
 *
 * Changing ids or capabilities clears the parent-death signal that a client may have set for us (prctl(2)):
 * it is read before and set again after.
 */
#include "cli/sandbox.h"

#include "base/capability.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "cli/userns.h"

#include <cap-ng.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define NEW_ROOT "/tmp"

static int death_signal_get(void)
{
    int signal = 0;

    return prctl(PR_GET_PDEATHSIG, &signal) < 0 ? 0 : signal;
}

static void death_signal_set(int signal)
{
    if (signal > 0 && prctl(PR_SET_PDEATHSIG, signal) < 0)
        log_warning("cannot restore the parent-death signal: %m");
}

static int write_file(const char *path, const char *text)
{
    _cleanup_close_ int fd = open(path, O_WRONLY | O_CLOEXEC);

    if (fd < 0 || write(fd, text, strlen(text)) < 0)
        return -errno;
    return 0;
}

/* No target whose namespace could be joined: one of our own, with this user as id 0. */
static int make_userns(struct failure *why)
{
    char map[64];
    uid_t uid = geteuid();
    gid_t gid = getegid();
    int r;

    if (unshare(CLONE_NEWUSER) < 0)
        return failure(why, -errno, userns_hint(errno), "cannot make a user namespace for the sandbox");
    snprintf(map, sizeof(map), "0 %u 1", uid);
    if ((r = write_file("/proc/self/setgroups", "deny")) < 0 ||
        (r = write_file("/proc/self/uid_map", map)) < 0)
        return failure(why, r, userns_hint(-r), "cannot map the user into the sandbox's namespace");
    snprintf(map, sizeof(map), "0 %u 1", gid);
    if ((r = write_file("/proc/self/gid_map", map)) < 0)
        return failure(why, r, NULL, "cannot map the group into the sandbox's namespace");
    return 0;
}

int sandbox_join(const struct options *o, struct failure *why)
{
    _cleanup_close_ int fd = -1;
    const char *path = o->userns_path;
    int signal = death_signal_get(), r = 0;
    char buffer[64];

    /* Id 0 alone is not enough: root of a container has it, but may mount nothing. */
    if (geteuid() == 0 && capng_get_caps_process() == 0 &&
        capng_have_capability(CAPNG_EFFECTIVE, CAP_SYS_ADMIN))
        return 0;
    if (!path && o->target == TARGET_PID) {
        snprintf(buffer, sizeof(buffer), "/proc/%d/ns/user", o->pid);
        path = buffer;
    }
    if (!path) {
        r = make_userns(why);
    } else {
        fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
            return failure(why, -errno, NULL, "%s", path);
        if (setns(fd, CLONE_NEWUSER) < 0 && errno != EINVAL) /* EINVAL: in it already */
            return failure(why, -errno, NULL, "setns(CLONE_NEWUSER) to %s", path);
        /* Files made from here on belong to id 0 there, which is this user outside. EINVAL: there is no id 0
         * (--map-current-user); what the next step needs are the capabilities, which setns(2) has given. */
        if ((setegid(0) < 0 && errno != EINVAL) || (seteuid(0) < 0 && errno != EINVAL))
            return failure(why, -errno, NULL, "cannot become id 0 in %s", path);
    }
    death_signal_set(signal);
    return r;
}

static int bind_directory(const char *from, const char *to, struct failure *why)
{
    /* Whatever is locked on the source stays; more restrictions may always be added. */
    unsigned long restrict_flags = MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC;

    if (mkdir(to, 0755) < 0)
        return failure(why, -errno, NULL, "sandbox: mkdir %s", to);
    if (mount(from, to, NULL, MS_BIND | MS_REC, NULL) < 0)
        return failure(why, -errno, NULL, "sandbox: bind %s", from);
    if (mount(NULL, to, NULL, MS_SLAVE | MS_REC, NULL) < 0)
        return failure(why, -errno, NULL, "sandbox: make %s a slave mount", from);
    if (mount(NULL, to, NULL, restrict_flags, NULL) < 0)
        return failure(why, -errno, NULL, "sandbox: remount %s read-only", from);
    return 0;
}

static bool is_below(const char *path, const char *directory)
{
    size_t size = strlen(directory);

    return strncmp(path, directory, size) == 0 && path[size] == '/';
}

/* Makes the directories on the way to @path, which begins with NEW_ROOT. */
static int make_parents(char *path)
{
    for (char *slash = strchr(path + strlen(NEW_ROOT) + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        if (mkdir(path, 0755) < 0 && errno != EEXIST)
            return -errno;
        *slash = '/';
    }
    return 0;
}

/* Where resolv.conf really is, when that is outside of /etc and /run; found before anything is mounted over,
 * and in the new namespace, because a mount of another one cannot be bound. */
struct resolv_conf {
    char *path; /* NULL: nothing to do */
    int fd;     /* O_PATH */
};

static void resolv_conf_deinit(struct resolv_conf *c)
{
    free(c->path);
    closep(&c->fd);
}

static int resolv_conf_find(struct resolv_conf *ret, struct failure *why)
{
    _cleanup_free_ char *real = realpath("/etc/resolv.conf", NULL);

    if (!real || is_below(real, "/etc") || is_below(real, "/run"))
        return 0; /* none at all: DNS will fail inside as it does outside */
    ret->fd = open(real, O_PATH | O_CLOEXEC);
    if (ret->fd < 0)
        return failure(why, -errno, NULL, "sandbox: open %s", real);
    ret->path = steal(&real);
    return 0;
}

static int resolv_conf_bind(const struct resolv_conf *c, struct failure *why)
{
    _cleanup_free_ char *to = NULL;
    _cleanup_close_ int fd = -1;
    char from[32];
    int r;

    if (!c->path)
        return 0;
    if (asprintf(&to, "%s%s", NEW_ROOT, c->path) < 0)
        return failure(why, -ENOMEM, NULL, "sandbox");
    log_plain(LOG_LEVEL_INFO,
              "sandbox: /etc/resolv.conf (-> %s) is outside of /etc and /run, binding that file too",
              c->path);
    r = make_parents(to);
    if (r < 0)
        return failure(why, r, NULL, "sandbox: directories of %s", to);
    fd = open(to, O_CREAT | O_RDONLY | O_CLOEXEC, 0644);
    if (fd < 0)
        return failure(why, -errno, NULL, "sandbox: create %s", to);
    snprintf(from, sizeof(from), "/proc/self/fd/%d", c->fd);
    if (mount(from, to, NULL, MS_BIND, NULL) < 0)
        return failure(why, -errno, NULL, "sandbox: bind %s", c->path);
    return 0;
}

static int new_root(struct failure *why)
{
    _cleanup_(resolv_conf_deinit) struct resolv_conf resolv_conf = {.fd = -1};
    int r;

    if (unshare(CLONE_NEWNS) < 0)
        return failure(why, -errno, NULL, "sandbox: cannot make a mount namespace");
    if (mount(NULL, "/", NULL, MS_SLAVE | MS_REC, NULL) < 0)
        return failure(why, -errno, NULL, "sandbox: cannot detach from the host's mounts");
    if ((r = resolv_conf_find(&resolv_conf, why)) < 0)
        return r;
    if (mount("tmpfs", NEW_ROOT, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "size=64k,mode=0755") < 0)
        return failure(why, -errno, "the directory must exist", "sandbox: cannot mount a tmpfs on " NEW_ROOT);
    if ((r = bind_directory("/etc", NEW_ROOT "/etc", why)) < 0 ||
        (r = bind_directory("/run", NEW_ROOT "/run", why)) < 0 ||
        (r = resolv_conf_bind(&resolv_conf, why)) < 0)
        return r;
    if (mkdir(NEW_ROOT "/old", 0755) < 0 || chdir(NEW_ROOT) < 0 || syscall(SYS_pivot_root, ".", "old") < 0 ||
        chdir("/") < 0)
        return failure(why, -errno, NULL, "sandbox: pivot_root");
    if (umount2("/old", MNT_DETACH) < 0 || rmdir("/old") < 0)
        return failure(why, -errno, NULL, "sandbox: cannot leave the old root");
    if (mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0)
        log_warning("sandbox: the empty root stays writable: %m");
    return 0;
}

int privileges_close(struct failure *why)
{
    /* 0 would stop files only: a program in core_pattern gets its dump whatever the limit is, but for the
     * value 1, by which the kernel knows such a program's own crash (do_coredump()). */
    static const struct rlimit no_core = {.rlim_cur = 1, .rlim_max = 1};
    struct rlimit before;

    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        return failure(why, -errno, NULL, "no_new_privs");
    /* A hard limit of 0 stays for whoever may not raise it: no files, but a program may still get its dump.
     */
    if (setrlimit(RLIMIT_CORE, &no_core) < 0 &&
        !(errno == EPERM && getrlimit(RLIMIT_CORE, &before) == 0 && before.rlim_max == 0))
        log_warning("core dumps, which would hold what the guest has sent, stay possible: %m");
    return 0;
}

int privileges_drop(struct failure *why)
{
    static const uint64_t needed = CAPABILITY(CAP_NET_BIND_SERVICE) | CAPABILITY(CAP_NET_ADMIN) |
                                   CAPABILITY(CAP_NET_RAW) | CAPABILITY(CAP_SYS_RESOURCE) |
                                   CAPABILITY(CAP_SYS_PTRACE);
    uint64_t permitted;
    int r;

    if ((r = capabilities_get(&permitted)) < 0)
        return failure(why, r, NULL, "cannot read the capabilities");
    /* The bounding set matters to execve(2) only, and gives nothing there after no_new_privs. */
    if (permitted != 0 && (r = capabilities_set(permitted & needed)) < 0)
        return failure(why, r, NULL, "cannot drop capabilities");
    return 0;
}

static int drop_capabilities(struct failure *why)
{
    capng_clear(CAPNG_SELECT_ALL);
    if (capng_updatev(CAPNG_ADD, CAPNG_EFFECTIVE | CAPNG_PERMITTED | CAPNG_INHERITABLE | CAPNG_BOUNDING_SET,
                      CAP_NET_BIND_SERVICE, -1) < 0 ||
        capng_apply(CAPNG_SELECT_ALL) < 0)
        return failure(why, -EPERM, NULL, "sandbox: cannot drop capabilities");
    return 0;
}

int sandbox_enter(struct failure *why)
{
    int signal = death_signal_get(), r;

    r = new_root(why);
    if (r == 0)
        r = drop_capabilities(why);
    death_signal_set(signal);
    return r;
}
