/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/confine.h"

#include "base/log.h"
#include "base/thread.h"
#include "cli/seccomp.h"

static struct confine_config config; /* fixed before threads start */

static int confine(uint32_t duties, const char *name, struct failure *why)
{
    return config.seccomp ? seccomp_thread(duties, name, why) : 0;
}

static int confine_thread(const struct thread_start *start)
{
    struct failure why = FAILURE_NULL;
    char text[FAILURE_TEXT_SIZE];
    int r = confine(start->duties, start->name, &why);

    if (r < 0)
        log_error("%s", failure_text(&why, text, sizeof(text)));
    return r;
}

int confine_begin(const struct confine_config *wanted, struct failure *why)
{
    struct seccomp_config seccomp = {.watch = wanted->watch};

    config = *wanted;
    for (unsigned i = 0; i < ARRAY_SIZE(seccomp.children); i++)
        seccomp.children[i] = config.children[i];
    thread_set_confine(confine_thread);
    return config.seccomp ? seccomp_begin(&seccomp, why) : 0;
}

int confine_main(struct failure *why)
{
    return confine(DUTY_MAIN, "main", why);
}
