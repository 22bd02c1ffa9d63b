/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * syscall_filter.h - seccomp filters that list what is allowed
 *
 * A table says which system call is needed for which duty, and with which arguments. A filter is made from
 * the rows of some duties, for the calling thread or for all threads. Whoever makes another call gets SIGSYS;
 * the handler tells its hook the name, and the process dies from that signal. Calls of a foreign
 * architecture, or of the x32 ABI, kill without a word: their numbers mean something else.
 *
 * Sanitizers' runtimes make calls of their own: builds with them allow more (SYSCALL_FILTER_SANITIZED; the
 * rows at the end of syscall_filter.c), so what such a build says of a filter is not the last word.
 */
#pragma once

#include "base/failure.h"

#include <seccomp.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/mman.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SYSCALL_FILTER_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
#define SYSCALL_FILTER_SANITIZED 1
#endif
#endif
#ifndef SYSCALL_FILTER_SANITIZED
#define SYSCALL_FILTER_SANITIZED 0
#endif

enum { SYSCALL_ARGS_MAX = 3 };

struct syscall_rule {
    const char *name;                           /* unknown to the architecture or to libseccomp: left out */
    uint32_t duties;                            /* bits; whose they are is the table's affair */
    struct scmp_arg_cmp args[SYSCALL_ARGS_MAX]; /* all of them have to hold; several rows: one of them */
    int error;                                  /* 0: allowed; else an errno that is the answer instead */
};

/* Rows. */
#define ALLOW(name_, duties_, ...)                                    \
    {                                                                 \
        .name = (name_), .duties = (duties_), .args = { __VA_ARGS__ } \
    }
#define ANSWER(name_, duties_, error_)                          \
    {                                                           \
        .name = (name_), .duties = (duties_), .error = (error_) \
    }

/* Arguments are ints here: the upper half of a register may hold anything. */
#define ARG_IS(number, value)                                       \
    {                                                               \
        (number), SCMP_CMP_MASKED_EQ, UINT32_MAX, (uint32_t)(value) \
    }
#define ARG_BITS(number, mask, value)                                     \
    {                                                                     \
        (number), SCMP_CMP_MASKED_EQ, (uint32_t)(mask), (uint32_t)(value) \
    }

/* Memory that is never executable, and locks: what the C library and any allocator need. On s390 the one
 * argument of mmap(2) is the address of the six, which a filter cannot look into; mprotect(2) is checked
 * there, too. */
#ifdef __s390__
#define ALLOW_MMAP(duties) ALLOW("mmap", duties)
#else
#define ALLOW_MMAP(duties) ALLOW("mmap", duties, ARG_BITS(2, PROT_EXEC, 0))
#endif
#define ALLOW_MEMORY(duties)                                                                     \
    ALLOW("brk", duties), ALLOW_MMAP(duties), ALLOW("mmap2", duties, ARG_BITS(2, PROT_EXEC, 0)), \
        ALLOW("mprotect", duties, ARG_BITS(2, PROT_EXEC, 0)), ALLOW("munmap", duties),           \
        ALLOW("mremap", duties), ALLOW("madvise", duties), ALLOW("futex", duties),               \
        ALLOW("futex_time64", duties)

enum syscall_filter_scope { FILTER_THIS_THREAD, FILTER_ALL_THREADS };

/* Any thread, once no_new_privs is set. Filters add up: a call has to pass all of them, so a thread can be
 * restricted further as long as its filter allows seccomp(2). @who is for the sentence. 0 or a negative
 * errno.
 */
int syscall_filter_load(const struct syscall_rule *rules, unsigned n_rules, uint32_t duties,
                        enum syscall_filter_scope scope, const char *who, struct failure *why);

/* Before the first filter, main: @hook is called in the handler of SIGSYS, so it may do what
 * signal-safety(7) permits and the filter allows. 0 or a negative errno. */
int syscall_filter_watch(void (*hook)(int number, const char *name));

/* "openat", or "?" for a number that the headers did not know. Any thread, signal handlers too. */
const char *syscall_name(int number);
