/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * seccomp.h - --enable-seccomp: system calls that this program never needs again end the process
 *
 * main, when every thread runs and has made what it needs: the filter covers all of them
 * (SECCOMP_FILTER_FLAG_TSYNC).
 */
#pragma once

#include "base/failure.h"

/* 0, or a negative errno with its sentence. Prints the line that lists what is blocked. */
int seccomp_enter(struct failure *why);
