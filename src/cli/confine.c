/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * confine.c
 *
 * Landlock: the threads of the data plane, the API and the capture open nothing any more; only `slirp`, and
 * `tap-rx` where it sends datagrams, may read below /etc and /run, as in the sandbox, and below the place
 * where resolv.conf really is, because it is replaced by renaming and so has to be allowed by its directory.
 * main may remove its sockets at the end. It is not restricted while it watches the target's namespace:
 * whoever is restricted may not look at other processes (landlock.h).
 *
 * Capabilities belong to threads. What a thread may keep is what privileges_drop() has left to the process
 * (in the sandbox: CAP_NET_BIND_SERVICE) and its duties need. An ordinary user has none to give up.
 *
 * Order, because each step takes away what the ones before need: capabilities, files, system calls.
 */
#include "cli/confine.h"

#include "base/capability.h"
#include "base/cleanup.h"
#include "base/landlock.h"
#include "base/log.h"
#include "base/thread.h"
#include "cli/seccomp.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct need {
    uint32_t duties;
    int capability;
} needs[] = {
    {DUTY_SLIRP, CAP_NET_RAW},        /* echo requests where the group may not make ping sockets */
    {DUTY_API, CAP_NET_BIND_SERVICE}, /* forwards from low ports, at any time */
    {DUTY_FWD, CAP_NET_ADMIN},        /* the guest's side of diverted connections */
    {DUTY_FWD, CAP_SYS_RESOURCE},     /* pipes beyond the limit of ordinary users */
    {DUTY_MAIN, CAP_SYS_PTRACE},      /* is anybody left in the guest's namespace? */
};

static struct { /* fixed before threads start, but for the descriptors, which main closes when all have begun
                 */
    struct confine_config config;
    uint64_t capabilities; /* permitted to the process when it began */
    bool landlock;
    int nothing_fd, resolv_fd, main_fd; /* rules of Landlock; -1: no Landlock, or not for main */
} state = {.nothing_fd = -1, .resolv_fd = -1, .main_fd = -1};

/* ---- files ---- */

bool confine_has_landlock(void)
{
    return state.landlock;
}

/* A directory that does not exist needs no rule. */
static int allow_below(int ruleset_fd, const char *path, uint64_t access)
{
    _cleanup_close_ int fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);

    return fd < 0 ? 0 : landlock_allow(ruleset_fd, fd, access);
}

static char *parent_of(const char *path)
{
    const char *slash = strrchr(path, '/');

    return !slash ? strdup(".") : strndup(path, slash == path ? 1 : (size_t)(slash - path));
}

static int allow_parent(int ruleset_fd, const char *path, uint64_t access)
{
    _cleanup_free_ char *parent = parent_of(path);

    return parent ? allow_below(ruleset_fd, parent, access) : -ENOMEM;
}

static int rules_for_resolv_conf(int ruleset_fd)
{
    _cleanup_free_ char *real = realpath("/etc/resolv.conf", NULL);
    int r;

    if ((r = allow_below(ruleset_fd, "/etc", LANDLOCK_READ_FILE)) < 0 ||
        (r = allow_below(ruleset_fd, "/run", LANDLOCK_READ_FILE)) < 0)
        return r;
    return real ? allow_parent(ruleset_fd, real, LANDLOCK_READ_FILE) : 0;
}

static int rules_for_main(int ruleset_fd)
{
    int r = 0;

    for (unsigned i = 0; i < CONFINE_FILES_MAX && r == 0; i++) {
        if (state.config.files[i])
            r = allow_parent(ruleset_fd, state.config.files[i], LANDLOCK_REMOVE_FILE);
    }
    return r;
}

static int rules_make(struct failure *why)
{
    int r;

    state.landlock = landlock_version() > 0;
    if (!state.landlock)
        return 0;
    if ((r = landlock_new(&state.nothing_fd)) < 0 || (r = landlock_new(&state.resolv_fd)) < 0 ||
        (r = rules_for_resolv_conf(state.resolv_fd)) < 0)
        return failure(why, r, NULL, "cannot make the rules of Landlock");
    if (!state.config.watch &&
        ((r = landlock_new(&state.main_fd)) < 0 || (r = rules_for_main(state.main_fd)) < 0))
        return failure(why, r, NULL, "cannot make main's rules of Landlock");
    return 0;
}

static int files_close(uint32_t duties, const char *name, struct failure *why)
{
    int ruleset_fd = duties & DUTY_MAIN                     ? state.main_fd
                     : duties & (DUTY_SLIRP | DUTY_UDP_OUT) ? state.resolv_fd
                                                            : state.nothing_fd;
    int r = ruleset_fd < 0 ? 0 : landlock_enter(ruleset_fd);

    return r < 0 ? failure(why, r, NULL, "cannot close the file system to the thread %s", name) : 0;
}

/* ---- capabilities ---- */

static int capabilities_keep(uint32_t duties, const char *name, struct failure *why)
{
    uint64_t kept = 0;
    int r;

    if (state.capabilities == 0 || (state.config.sandbox && (duties & DUTY_MAIN)))
        return 0;
    for (unsigned i = 0; i < ARRAY_SIZE(needs); i++) {
        if ((needs[i].duties & duties) && (needs[i].capability != CAP_SYS_PTRACE || state.config.watch))
            kept |= CAPABILITY(needs[i].capability);
    }
    r = capabilities_set(kept & state.capabilities);
    return r < 0 ? failure(why, r, NULL, "cannot drop capabilities of the thread %s", name) : 0;
}

/* ---- threads ---- */

static int confine(uint32_t duties, const char *name, struct failure *why)
{
    int r = capabilities_keep(duties, name, why);

    if (r == 0)
        r = files_close(duties, name, why);
    return r == 0 && state.config.seccomp ? seccomp_thread(duties, name, why) : r;
}

static int confine_thread(const struct thread_start *start)
{
    struct failure why = FAILURE_NULL;
    char text[FAILURE_TEXT_SIZE];
    int r = confine(start->duties, start->name, &why);

    if (r < 0)
        log_error("%s", failure_text(&why, text, sizeof(text)));
    return r;
}

int confine_begin(const struct confine_config *config, struct failure *why)
{
    struct seccomp_config seccomp = {.watch = config->watch};
    int r;

    state.config = *config;
    if ((r = capabilities_get(&state.capabilities)) < 0)
        return failure(why, r, NULL, "cannot read the capabilities");
    if ((r = rules_make(why)) < 0)
        return r;
    for (unsigned i = 0; i < ARRAY_SIZE(seccomp.children); i++)
        seccomp.children[i] = config->children[i];
    thread_set_confine(confine_thread);
    return config->seccomp ? seccomp_begin(&seccomp, why) : 0;
}

int confine_main(struct failure *why)
{
    int r = confine(DUTY_MAIN, "main", why);

    closep(&state.nothing_fd);
    closep(&state.resolv_fd);
    closep(&state.main_fd);
    return r;
}
