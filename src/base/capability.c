/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "base/capability.h"

#include <errno.h>
#include <linux/capability.h>
#include <sys/syscall.h>
#include <unistd.h>

int capabilities_get(uint64_t *ret_permitted)
{
    struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];

    if (syscall(SYS_capget, &head, data) < 0)
        return -errno;
    *ret_permitted = (uint64_t)data[1].permitted << 32 | data[0].permitted;
    return 0;
}

int capabilities_set(uint64_t all)
{
    struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
    const struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = {
        {.effective = (uint32_t)all, .permitted = (uint32_t)all},
        {.effective = (uint32_t)(all >> 32), .permitted = (uint32_t)(all >> 32)},
    };

    return syscall(SYS_capset, &head, data) < 0 ? -errno : 0;
}
