/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * failure.h - the sentence that goes with an error code
 *
 * Set-up and control code returns a negative errno and, beside it, what failed and what to do next; only cli
 * and api show it to people. Data-plane code returns codes only. Any thread; a struct failure belongs to its
 * caller.
 */
#pragma once

#include "base/role.h"

struct failure {
    int code;       /* negative errno; 0: nothing failed */
    char what[192]; /* "cannot open /dev/net/tun" */
    char hint[192]; /* "load the tun module: modprobe tun"; may be empty */
};

#define FAILURE_NULL \
    {                \
        .code = 0    \
    }

/* Records @code, the formatted sentence and @hint (NULL: none) in @why (NULL: nobody asked); returns @code.
 */
int failure(struct failure *why, int code, const char *hint, const char *what_format, ...)
    __attribute__((format(printf, 4, 5)));

/* "what: strerror(code) (hint)" in @buffer, always terminated; returns @buffer. */
enum { FAILURE_TEXT_SIZE = 512 };
const char *failure_text(const struct failure *why, char *buffer, unsigned buffer_size);
