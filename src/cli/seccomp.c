/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * seccomp.c
 *
 * Starting programs, looking into other processes, changing namespaces, mounts and modules, and new io_uring
 * rings: a ring's operations are invisible to seccomp, so after this point there are only the restricted ones
 * of tap_uring.c. Names that the running libseccomp does not know are left out.
 */
#include "cli/seccomp.h"

#include "base/bits.h"
#include "base/log.h"

#include <errno.h>
#include <seccomp.h>
#include <stdio.h>

static const char *const blocked[] = {
    "execve",
    "execveat",
    "lookup_dcookie",
    "pidfd_getfd",
    "pidfd_open",
    "pidfd_send_signal",
    "ptrace",
    "process_vm_readv",
    "process_vm_writev",
    "delete_module",
    "finit_module",
    "init_module",
    "chroot",
    "fsconfig",
    "fsmount",
    "fsopen",
    "fspick",
    "mount",
    "move_mount",
    "open_tree",
    "pivot_root",
    "umount",
    "umount2",
    "open_by_handle_at",
    "prctl",
    "setns",
    "unshare",
    "kexec_file_load",
    "kexec_load",
    "reboot",
    "name_to_handle_at",
    "io_uring_setup",
    "io_uring_register",
    "bpf",
    "userfaultfd",
    "perf_event_open",
    "mount_setattr",
    "keyctl",
    "add_key",
    "request_key",
};

int seccomp_enter(struct failure *why)
{
    scmp_filter_ctx filter;
    uint32_t action = SCMP_ACT_KILL_PROCESS;
    char names[LOG_MESSAGE_MAX / 2 + 256] = "";
    size_t n_names = 0;
    int r;

    filter = seccomp_init(SCMP_ACT_ALLOW);
    if (!filter)
        return failure(why, -ENOMEM, NULL, "seccomp: cannot make a filter");
    if (seccomp_api_get() < 3) /* before Linux 4.14 only the offending thread can be killed */
        action = SCMP_ACT_KILL;
#ifdef __x86_64__
    /* What a filter says of one ABI means nothing for another that the kernel would also run. EEXIST: there
     * already. */
    if (((r = seccomp_arch_add(filter, SCMP_ARCH_X86)) < 0 && r != -EEXIST) ||
        ((r = seccomp_arch_add(filter, SCMP_ARCH_X32)) < 0 && r != -EEXIST)) {
        seccomp_release(filter);
        return failure(why, r, NULL, "seccomp: cannot cover the 32-bit system calls");
    }
#endif
    for (unsigned i = 0; i < ARRAY_SIZE(blocked); i++) {
        int number = seccomp_syscall_resolve_name(blocked[i]);

        if (number == __NR_SCMP_ERROR)
            continue;
        r = seccomp_rule_add(filter, action, number, 0);
        if (r < 0) {
            seccomp_release(filter);
            return failure(why, r, NULL, "seccomp: cannot block %s", blocked[i]);
        }
        n_names += (size_t)snprintf(names + n_names, sizeof(names) - n_names, " %s", blocked[i]);
        if (n_names >= sizeof(names)) /* the line would be cut: the list has grown beyond it */
            n_names = sizeof(names) - 1;
    }
    log_startup(LOG_LEVEL_INFO, "seccomp: The following syscalls are blocked:%s.", names);
    r = seccomp_attr_set(filter, SCMP_FLTATR_CTL_TSYNC, 1);
    if (r == 0)
        r = seccomp_load(filter);
    seccomp_release(filter);
    return r < 0 ? failure(why, r, "run without --enable-seccomp if the kernel has no CONFIG_SECCOMP_FILTER",
                           "seccomp: cannot load the filter")
                 : 0;
}
