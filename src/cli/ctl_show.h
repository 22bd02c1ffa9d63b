/* SPDX-License-Identifier: GPL-2.0-or-later */
/* ctl_show.h - replies of the API as tables; main only, plain functions */
#pragma once

#include <jansson.h>
#include <stdio.h>

/* Each takes the reply's "return" as it is in docs/api.md; members that are missing leave holes. */
void ctl_show_list(FILE *f, const json_t *reply);
void ctl_show_stats(FILE *f, const json_t *reply);
void ctl_show_info(FILE *f, const json_t *reply);

/* @reply: all pages together. With @before (the reply of @seconds ago, else NULL) the busiest come first,
 * with their rates. */
void ctl_show_flows(FILE *f, const json_t *reply, const json_t *before, double seconds);
