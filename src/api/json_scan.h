/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * json_scan.h - is there a complete JSON value yet, and is it one that we accept?
 *
 * RFC 8259, strictly, where json-glib is lenient: no comments, no duplicate keys in an object, valid UTF-8,
 * no control characters in strings. A request arrives in pieces; this tells when it is whole. Any thread,
 * pure.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

enum json_scan_result { JSON_SCAN_INCOMPLETE, JSON_SCAN_COMPLETE, JSON_SCAN_BAD };

enum { JSON_DEPTH_MAX = 32 };

/* Looks at @text[0..@size); leading white space is skipped. With @ended nothing more will come, so that a
 * number at the end counts as complete. Returns JSON_SCAN_COMPLETE and the value's extent (from *@ret_begin
 * to *@ret_end). */
enum json_scan_result json_scan(const char *text, size_t size, bool ended, size_t *ret_begin,
                                size_t *ret_end);
