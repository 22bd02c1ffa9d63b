/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "base/landlock.h"

#include <assert.h>
#include <errno.h>
#include <linux/landlock.h>
#include <sys/syscall.h>
#include <unistd.h>

static_assert((uint64_t)LANDLOCK_READ_FILE == LANDLOCK_ACCESS_FS_READ_FILE &&
                  (uint64_t)LANDLOCK_REMOVE_FILE == LANDLOCK_ACCESS_FS_REMOVE_FILE,
              "the kernel's numbers");

/* What a version handles: the header may be older than the kernel. */
static uint64_t handled(int version)
{
    uint64_t all = (UINT64_C(1) << 13) - 1; /* 1: up to MAKE_SYM */

    if (version >= 2)
        all |= UINT64_C(1) << 13; /* REFER, Linux 5.19 */
    if (version >= 3)
        all |= UINT64_C(1) << 14; /* TRUNCATE, Linux 6.2 */
    if (version >= 5)
        all |= UINT64_C(1) << 15; /* IOCTL_DEV, Linux 6.10 */
    return all;
}

int landlock_version(void)
{
    long version = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);

    return version < 0 ? 0 : (int)version;
}

int landlock_new(int *ret_fd)
{
    const uint64_t fs =
        handled(landlock_version()); /* the first member of the kernel's struct, which may grow */
    long fd = syscall(SYS_landlock_create_ruleset, &fs, sizeof(fs), 0);

    if (fd < 0)
        return -errno;
    *ret_fd = (int)fd; /* close-on-exec by itself */
    return 0;
}

int landlock_allow(int ruleset_fd, int dir_fd, uint64_t access)
{
    const struct landlock_path_beneath_attr rule = {.allowed_access = access, .parent_fd = dir_fd};

    return syscall(SYS_landlock_add_rule, ruleset_fd, LANDLOCK_RULE_PATH_BENEATH, &rule, 0) < 0 ? -errno : 0;
}

int landlock_enter(int ruleset_fd)
{
    return syscall(SYS_landlock_restrict_self, ruleset_fd, 0) < 0 ? -errno : 0;
}
