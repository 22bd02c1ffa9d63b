/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * reply.h - replies are made of these
 *
 * The api thread. Memory that runs out leaves a member out, and reply_build() or the next request fails, too.
 */
#pragma once

#include "io/address.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

/* Takes @root (NULL: memory ran out on the way). The text is to be freed with free(). Without memory there is
 * no reply (NULL): the client sees its connection end. */
char *reply_build(json_t *root);

/* {"error":{"desc":"bad request: WHAT"}}, counted. */
char *reply_bad_request(const char *format, ...) __attribute__((format(printf, 1, 2)));

void reply_string(json_t *object, const char *key, const char *value);
void reply_number(json_t *object, const char *key, uint64_t value);

/* The address without its port, in @buffer. */
const char *reply_address(const union address *a, char buffer[INET6_ADDRSTRLEN]);

/* Arguments. NULL: it is no string. */
const char *reply_string_of(const json_t *arguments, const char *key);
/* A whole number between @min and @max; false for anything else. 8080.0 is the same number as 8080. */
bool reply_number_of(const json_t *arguments, const char *key, double min, double max, uint64_t *ret);
