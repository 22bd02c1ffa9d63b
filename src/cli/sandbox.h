/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * sandbox.h - --enable-sandbox: a file system of /etc and /run only, no capabilities but one
 *
 * main, before threads start. Two steps, because the user namespace has to be joined before files are made
 * (their owner is the id there) and the file system has to go after the last file outside /etc and /run has
 * been opened.
 */
#pragma once

#include "base/failure.h"
#include "cli/options.h"

/* Gets the capabilities that the second step needs: nothing for root; anyone else joins the target's user
 * namespace (the PID's, or --userns-path), or makes one when there is no target. 0 or a negative errno. */
int sandbox_join(const struct options *o, struct failure *why);

/* After sandbox_join(): new mount namespace, read-only /etc and /run, no_new_privs, every capability set
 * reduced to CAP_NET_BIND_SERVICE. 0 or a negative errno; the process is not usable after a failure. */
int sandbox_enter(struct failure *why);

/* For everybody, before threads start, when the last program has been executed (newuidmap, the command of
 * --run): no_new_privs, no core dumps. 0 or a negative errno. */
int privileges_close(struct failure *why);

/* Instead of sandbox_enter(), at the same place: keeps those capabilities that something needs later. Nothing
 * to do for an ordinary user, who has none. 0 or a negative errno. */
int privileges_drop(struct failure *why);
