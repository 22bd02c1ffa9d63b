/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * baton.h - several threads of which one runs at a time: who would sleep hands on
 *
 * The runners are started by baton_spawn() and wait for baton_go(). The one that has the baton runs until it
 * wants to sleep. Then the next one looks whether there is something for it. When all have looked and found
 * nothing, the world acts, and they look again. So what they do follows from the input, as with one thread.
 */
#pragma once

#include "fuzz.h"

#include "base/thread.h"

#include <pthread.h>

enum { BATON_RUNNERS_MAX = 4 };

/* For one input. @act(ms): what happens while all sleep, for @ms of the clock that baton_sleep() was given at
 * most (-1: no limit). Returns false when nothing will ever happen but the end. */
void baton_begin(bool (*act)(int timeout_ms));
/* As thread_spawn(). */
int baton_spawn(pthread_t *ret, const struct thread_start *start);
/* All have been started. */
void baton_go(void);
/* Is the calling thread one of them? */
bool baton_is_mine(void);
/* The one that runs: @look(arg) asks without waiting; 0: there is nothing. Returns what it says, or 0 when
 * @timeout_ms have passed by @now_ns(). */
int baton_sleep(int (*look)(void *arg), void *arg, int timeout_ms, int64_t (*now_ns)(void));
