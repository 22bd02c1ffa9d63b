/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * confine.h - what each thread gives up when everything is open
 *
 * main only. confine_begin() after the last file has been opened and, with --enable-sandbox, after
 * sandbox_enter(); then the threads are started, each of which gives up what its duties do not need before it
 * does anything; then confine_main().
 */
#pragma once

#include "base/failure.h"

#include <stdbool.h>
#include <sys/types.h>

struct confine_config {
    bool seccomp;      /* --enable-seccomp */
    bool watch;        /* main looks into /proc for others in the guest's namespace (target.h) */
    pid_t children[2]; /* processes that main may have to signal; 0: none */
};

/* 0, or a negative errno with its sentence. */
int confine_begin(const struct confine_config *config, struct failure *why);
int confine_main(struct failure *why);
