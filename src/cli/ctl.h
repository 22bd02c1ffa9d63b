/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ctl.h - --ctl: the API's client for people
 *
 * main only, in a process that does nothing else: one request after the other to the API socket of another
 * slirp4netns, the replies as tables (ctl_show.h) or as they are.
 */
#pragma once

#include "base/failure.h"

#include <jansson.h>
#include <stdbool.h>

struct ctl {
    const char *socket_path;
    char **words; /* the command and its arguments, NULL at the end */
    bool json, watch;
};

/* Returns the exit status; everything to be said has been said. */
int ctl_run(const struct ctl *ctl);

/* Whether @word is a command; for the command line. */
bool ctl_is_command(const char *word);
/* The commands' names, NULL behind the last; for help, completions and tests. */
const char *ctl_command(unsigned i);

/* One request. Returns the reply's "return", to be released by the caller, or NULL with the sentence. Takes
 * @arguments (NULL: none). */
json_t *ctl_ask(const char *socket_path, const char *execute, json_t *arguments, struct failure *why);
