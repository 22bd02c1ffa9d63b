/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * run.h - --run: a command in namespaces of its own, connected as any other target
 *
 * main only. Owner of the child process from run_begin() to run_finish().
 */
#pragma once

#include "base/failure.h"
#include "cli/options.h"

#include <sys/signalfd.h>

struct run {
    pid_t pid;    /* the child, which becomes COMMAND; 0: none */
    int sock;     /* to the child until it executes COMMAND */
    int tty_fd;   /* the controlling terminal; -1: none */
    bool started; /* COMMAND has been let go */
};

#define RUN_NULL                 \
    {                            \
        .sock = -1, .tty_fd = -1 \
    }

/* Before anything is opened, a signal blocked or a limit changed: COMMAND inherits what the program was
 * started with. Forks a child that makes the namespaces and waits in them. 0, or a negative errno with its
 * sentence; nothing is left then. */
int run_begin(struct run *ret, const struct options *o, struct failure *why);

/* Adds the signals that run_signal() wants to see. */
void run_signals(sigset_t *set);

/* Everything is ready: COMMAND may start. 0 or a negative errno with its sentence. */
int run_go(struct run *run, struct failure *why);

/* Deals with a signal that this process has got. */
void run_signal(struct run *run, const struct signalfd_siginfo *info);

/* Looks after the child, to be called after every signal. True when it has ended: *@ret_status is what a
 * shell would make of it, its exit status or 128 + the number of the signal. */
bool run_ended(struct run *run, int *ret_status);

/* Ends a COMMAND that still runs (SIGTERM, then SIGKILL) and reaps it. May be called twice, and without
 * run_begin(). */
void run_finish(struct run *run);
