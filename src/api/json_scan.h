/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * json_scan.h - where does a JSON value end, and is it one that we accept?
 *
 * RFC 8259, strictly, where libraries are lenient: no comments, no duplicate keys in an object, valid UTF-8
 * and UTF-16 escapes, no control characters in strings, no NUL. A byte order mark before the value is
 * skipped. A value arrives in pieces; every byte is looked at once. Any thread, pure, no allocation.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum json_scan_result {
    JSON_SCAN_INCOMPLETE,
    JSON_SCAN_COMPLETE,
    JSON_SCAN_BAD, /* whatever follows, this will not become a value */
};

enum {
    JSON_DEPTH_MAX = 32,  /* objects and arrays inside each other */
    JSON_KEYS_MAX = 1024, /* keys of all objects open at one time */
};

struct json_scan {
    uint8_t state, after_string, quad_left, utf8_left, utf8_low, utf8_high, depth;
    const char *word;    /* what is left of true, false or null */
    uint16_t quad, high; /* of \uXXXX; @high: the first half of a surrogate pair waits for the second */
    uint32_t containers; /* bit per level: 1 is an object */
    uint64_t hash;       /* of the string being read, as it will be decoded */
    uint32_t n_keys;     /* of all open objects */
    uint16_t first_key[JSON_DEPTH_MAX];
    uint64_t keys[JSON_KEYS_MAX];
};

void json_scan_init(struct json_scan *s);

/* Looks at the next @size bytes. *@ret_used: how many belong to the value and to the white space before it;
 * all of them unless the result is JSON_SCAN_COMPLETE. A number ends only with the byte behind it. After
 * JSON_SCAN_COMPLETE and JSON_SCAN_BAD the scan must be initialised again. */
enum json_scan_result json_scan_feed(struct json_scan *s, const char *text, size_t size, size_t *ret_used);

/* Nothing more will come: JSON_SCAN_COMPLETE (a number) or JSON_SCAN_BAD. */
enum json_scan_result json_scan_end(const struct json_scan *s);

/* Nothing but white space (or nothing at all) so far. */
bool json_scan_is_blank(const struct json_scan *s);
