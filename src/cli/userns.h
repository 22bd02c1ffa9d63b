/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * userns.h - making user namespaces, and why one cannot be had
 *
 * main (or a child of it) before threads start.
 */
#pragma once

#include "base/failure.h"

#include <sys/types.h>

/* What to do when unshare(CLONE_NEWUSER), or the first use of the capabilities it gives, has failed with
 * @error (a positive errno): a static string that names the sysctl, or NULL when nothing is known. Leaves
 * @error in errno. */
const char *userns_hint(int error);
/* The same with another place for /proc/sys, for tests. */
const char *userns_hint_at(int error, const char *proc_sys);

/* Who exists in the user namespace of process @pid, which the calling process has not entered. */
enum userns_map {
    USERNS_ROOT,    /* the calling user only, as id 0 */
    USERNS_CURRENT, /* the calling user only, with the id it has here */
    USERNS_ALL,     /* everybody who exists here, with the same ids: needs CAP_SETUID and CAP_SETGID here */
};

/* Writes the maps of @pid, which is in a new child namespace of ours. 0 or a negative errno. */
int userns_write_maps(pid_t pid, enum userns_map map, struct failure *why);
