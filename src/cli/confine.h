/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * confine.h - what each thread gives up when everything is open
 *
 * Always: the file system, where the kernel has Landlock, and the capabilities that others need. With
 * --enable-seccomp: the system calls that others need (seccomp.h).
 *
 * main only. confine_begin() after the last file has been opened and after sandbox_enter() or
 * privileges_drop(); then the threads are started, each of which gives up what its duties do not need before
 * it does anything; then confine_main().
 */
#pragma once

#include "base/failure.h"

#include <stdbool.h>
#include <sys/types.h>

enum { CONFINE_FILES_MAX = 2 };

struct confine_config {
    bool sandbox;      /* --enable-sandbox: main keeps its one capability, as clients may expect */
    bool seccomp;      /* --enable-seccomp */
    bool watch;        /* main looks into /proc for others in the guest's namespace (target.h) */
    pid_t children[2]; /* processes that main may have to signal; 0: none */
    const char *files[CONFINE_FILES_MAX]; /* that main removes at the end; NULL: none */
};

/* 0, or a negative errno with its sentence. */
int confine_begin(const struct confine_config *config, struct failure *why);
int confine_main(struct failure *why);

/* main, after confine_begin(): are files closed to the threads? For the line that says so. */
bool confine_has_landlock(void);
