/* SPDX-License-Identifier: GPL-2.0-or-later */
/* check.h - --check: what this system has of what the program can use. main only, and nothing else runs. */
#pragma once

/* Prints a line for each thing on stdout: whether it is there; where it is not, what that costs and which
 * command helps. Returns the exit status: 0 if the program can run, 1 otherwise. */
int check_environment(void);
