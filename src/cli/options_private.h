/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * options_private.h - what reading the command line (options.c) leaves to judging it (options_check.c)
 *
 * main, before anything else.
 */
#pragma once

#include "cli/options.h"

/* What has been read before it can be judged: the meaning of the operands depends on options that may follow
 * them. */
struct raw {
    struct options *o;
    const char *netns_type, *target_type, *cidr, *mac, *outbound, *outbound6;
    const char *publish[PUBLISH_MAX];
    unsigned n_publish;
    bool help, version;
};

/* What a step of parsing says. STATUS_SAID: an error whose own line is enough, without the usage text. */
enum { OK = -1, STATUS_ERROR = 1, STATUS_SAID = 2 };

/* Whether everything goes together, and what follows from it: r->o is complete afterwards. @operands: what
 * was no option, @n of them. One of the above; unless it is OK, the reason is on stderr. */
int options_check(struct raw *r, char **operands, int n);
