/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * syscall_filter.c
 *
 * The names that the handler needs come from a table made at build time: libseccomp's own lookup allocates,
 * and the call that was caught may be one of the allocator.
 *
 * SA_RESETHAND and SA_NODEFER: when the hook has spoken, the same signal again is the end, and so is another
 * forbidden call made by the hook itself. A thread that has SIGSYS blocked is killed without a word.
 */
#include "base/syscall_filter.h"

#include "base/bits.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SYS_SECCOMP
#define SYS_SECCOMP 1 /* si_code, sigaction(2) */
#endif

static const char *const names[] = {
#include "syscall_names.h"
};

const char *syscall_name(int number)
{
    return number >= 0 && (size_t)number < ARRAY_SIZE(names) && names[number] ? names[number] : "?";
}

/* ---- what happens to a forbidden call ---- */

static void (*violation_hook)(int number, const char *name);

static void on_sigsys(int number, siginfo_t *info, void *context)
{
    (void)context;
    if (info->si_code == SYS_SECCOMP && violation_hook)
        violation_hook(info->si_syscall, syscall_name(info->si_syscall));
    (void)syscall(SYS_tgkill, getpid(), syscall(SYS_gettid),
                  number); /* the default action, by SA_RESETHAND */
}

int syscall_filter_watch(void (*hook)(int number, const char *name))
{
    struct sigaction action = {.sa_sigaction = on_sigsys, .sa_flags = SA_SIGINFO | SA_RESETHAND | SA_NODEFER};
    sigset_t set;

    violation_hook = hook;
    sigemptyset(&action.sa_mask);
    sigemptyset(&set);
    sigaddset(&set, SIGSYS);
    return sigaction(SIGSYS, &action, NULL) < 0 || sigprocmask(SIG_UNBLOCK, &set, NULL) < 0 ? -errno : 0;
}

/* ---- making a filter ---- */

#if SYSCALL_FILTER_SANITIZED
/* Shadow memory, stacks, the list of mappings, their own threads and timers; and, after an error was found,
 * what says where. */
static const char *const sanitizer_calls[] = {
    "mmap",
    "mprotect",
    "openat",
    "open",
    "readlink",
    "readlinkat",
    "sigaltstack",
    "rt_sigaction",
    "clone",
    "clone3",
    "vfork",
    "execve",
    "pipe",
    "pipe2",
    "dup2",
    "dup3",
    "fcntl",
    "wait4",
    "waitid",
    "prctl",
    "personality",
    "getrlimit",
    "prlimit64",
    "sysinfo",
    "stat",
    "lstat",
    "newfstatat",
    "statx",
    "set_robust_list",
    "rseq",
    "getppid",
    "getuid",
    "geteuid",
    "access",
    "faccessat",
    "sched_getaffinity",
    "uname",
    "tgkill",
    "ioctl",
    "pread64",
    "process_vm_readv",
    "getdents64",
    "unlink",
    "ptrace",
    "set_tid_address",
    "arch_prctl",
    "mlock",
    "membarrier",
    "rt_sigprocmask",
};
#endif

static int sanitizer_rules(scmp_filter_ctx filter)
{
#if SYSCALL_FILTER_SANITIZED
    for (unsigned i = 0; i < ARRAY_SIZE(sanitizer_calls); i++) {
        int number = seccomp_syscall_resolve_name(sanitizer_calls[i]);
        int r = number == __NR_SCMP_ERROR ? 0 : seccomp_rule_add(filter, SCMP_ACT_ALLOW, number, 0);

        if (r < 0 && r != -EEXIST)
            return r;
    }
#else
    (void)filter;
#endif
    return 0;
}

static int rule_add(scmp_filter_ctx filter, const struct syscall_rule *rule)
{
    int number = seccomp_syscall_resolve_name(rule->name), r;
    uint32_t action = rule->error == 0 ? SCMP_ACT_ALLOW : SCMP_ACT_ERRNO((uint16_t)rule->error);
    unsigned n_args = 0;

    if (number == __NR_SCMP_ERROR)
        return 0;
    while (n_args < SYSCALL_ARGS_MAX && rule->args[n_args].op != _SCMP_CMP_MIN)
        n_args++;
    r = seccomp_rule_add_array(filter, action, number, n_args, rule->args);
    return r == -EEXIST ? 0 : r; /* another row allows more */
}

static int fill(scmp_filter_ctx filter, const struct syscall_rule *rules, unsigned n_rules, uint32_t duties)
{
    int r = sanitizer_rules(filter);

    for (unsigned i = 0; i < n_rules && r == 0; i++) {
        if (rules[i].duties & duties)
            r = rule_add(filter, &rules[i]);
    }
    return r;
}

int syscall_filter_load(const struct syscall_rule *rules, unsigned n_rules, uint32_t duties,
                        enum syscall_filter_scope scope, const char *who, struct failure *why)
{
    /* Before Linux 4.14 only the offending thread can be killed. */
    uint32_t kill = seccomp_api_get() < 3 ? SCMP_ACT_KILL : SCMP_ACT_KILL_PROCESS;
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_TRAP);
    int r;

    if (!filter)
        return failure(why, -ENOMEM, NULL, "seccomp: cannot make the filter of %s", who);
    /* no_new_privs is set, and the call that sets it is not allowed in the second filter of a thread. */
    if ((r = seccomp_attr_set(filter, SCMP_FLTATR_ACT_BADARCH, kill)) == 0 &&
        (r = seccomp_attr_set(filter, SCMP_FLTATR_CTL_NNP, 0)) == 0 &&
        (r = seccomp_attr_set(filter, SCMP_FLTATR_CTL_TSYNC, scope == FILTER_ALL_THREADS)) == 0 &&
        (r = fill(filter, rules, n_rules, duties)) == 0)
        r = seccomp_load(filter);
    seccomp_release(filter);
    return r < 0 ? failure(why, r, "the kernel must have CONFIG_SECCOMP_FILTER", "seccomp: the filter of %s",
                           who)
                 : 0;
}
