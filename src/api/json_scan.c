/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "api/json_scan.h"

#include <stdint.h>
#include <string.h>

enum { KEYS_MAX = 64 }; /* keys of one object; no command has that many */

struct scan {
    const char *text;
    size_t size, at;
    bool ended;
};

static enum json_scan_result scan_value(struct scan *s, int depth);

static enum json_scan_result short_of(const struct scan *s)
{
    return s->ended ? JSON_SCAN_BAD : JSON_SCAN_INCOMPLETE;
}

static void skip_space(struct scan *s)
{
    while (s->at < s->size && memchr(" \t\r\n", s->text[s->at], 4))
        s->at++;
}

static bool is_hex(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

/* One UTF-8 sequence of more than one byte (RFC 3629: no overlong forms, no surrogates, nothing above
 * U+10FFFF). */
static enum json_scan_result scan_utf8(struct scan *s)
{
    const uint8_t *p = (const uint8_t *)s->text + s->at;
    size_t left = s->size - s->at, n;
    uint8_t low = 0x80, high = 0xbf;

    if (p[0] >= 0xc2 && p[0] <= 0xdf) {
        n = 2;
    } else if (p[0] >= 0xe0 && p[0] <= 0xef) {
        n = 3;
        low = p[0] == 0xe0 ? 0xa0 : 0x80;
        high = p[0] == 0xed ? 0x9f : 0xbf;
    } else if (p[0] >= 0xf0 && p[0] <= 0xf4) {
        n = 4;
        low = p[0] == 0xf0 ? 0x90 : 0x80;
        high = p[0] == 0xf4 ? 0x8f : 0xbf;
    } else {
        return JSON_SCAN_BAD;
    }
    for (size_t i = 1; i < n; i++) {
        if (i == left)
            return short_of(s);
        if (p[i] < low || p[i] > high)
            return JSON_SCAN_BAD;
        low = 0x80;
        high = 0xbf;
    }
    s->at += n;
    return JSON_SCAN_COMPLETE;
}

static enum json_scan_result scan_string(struct scan *s)
{
    enum json_scan_result r;

    s->at++;
    while (s->at < s->size) {
        unsigned char c = (unsigned char)s->text[s->at];

        if (c == '"') {
            s->at++;
            return JSON_SCAN_COMPLETE;
        }
        if (c < 0x20)
            return JSON_SCAN_BAD;
        if (c >= 0x80) {
            r = scan_utf8(s);
            if (r != JSON_SCAN_COMPLETE)
                return r;
        } else if (c == '\\') {
            if (s->at + 1 == s->size)
                return short_of(s);
            if (s->text[s->at + 1] == 'u') {
                for (size_t i = 2; i < 6; i++) {
                    if (s->at + i >= s->size)
                        return short_of(s);
                    if (!is_hex(s->text[s->at + i]))
                        return JSON_SCAN_BAD;
                }
                s->at += 6;
            } else if (s->text[s->at + 1] && strchr("\"\\/bfnrt", s->text[s->at + 1])) {
                s->at += 2;
            } else {
                return JSON_SCAN_BAD;
            }
        } else {
            s->at++;
        }
    }
    return short_of(s);
}

static enum json_scan_result scan_digits(struct scan *s)
{
    size_t begin = s->at;

    while (s->at < s->size && s->text[s->at] >= '0' && s->text[s->at] <= '9')
        s->at++;
    if (s->at > begin)
        return JSON_SCAN_COMPLETE;
    return s->at == s->size ? short_of(s) : JSON_SCAN_BAD;
}

static enum json_scan_result scan_number(struct scan *s)
{
    enum json_scan_result r;

    if (s->text[s->at] == '-')
        s->at++;
    if (s->at < s->size && s->text[s->at] == '0')
        s->at++;
    else if ((r = scan_digits(s)) != JSON_SCAN_COMPLETE)
        return r;
    if (s->at < s->size && s->text[s->at] == '.') {
        s->at++;
        if ((r = scan_digits(s)) != JSON_SCAN_COMPLETE)
            return r;
    }
    if (s->at < s->size && (s->text[s->at] | 0x20) == 'e') {
        s->at++;
        if (s->at < s->size && (s->text[s->at] == '+' || s->text[s->at] == '-'))
            s->at++;
        if ((r = scan_digits(s)) != JSON_SCAN_COMPLETE)
            return r;
    }
    return s->at == s->size && !s->ended ? JSON_SCAN_INCOMPLETE
                                         : JSON_SCAN_COMPLETE; /* the next byte may be a digit */
}

static enum json_scan_result scan_word(struct scan *s, const char *word)
{
    for (; *word; word++, s->at++) {
        if (s->at == s->size)
            return short_of(s);
        if (s->text[s->at] != *word)
            return JSON_SCAN_BAD;
    }
    return JSON_SCAN_COMPLETE;
}

/* @object: with keys, which must differ. */
static enum json_scan_result scan_container(struct scan *s, int depth, bool object)
{
    struct {
        size_t at, size;
    } keys[KEYS_MAX];
    unsigned n_keys = 0;
    char close = object ? '}' : ']';
    enum json_scan_result r;

    s->at++;
    skip_space(s);
    if (s->at < s->size && s->text[s->at] == close) {
        s->at++;
        return JSON_SCAN_COMPLETE;
    }
    for (;;) {
        skip_space(s);
        if (s->at == s->size)
            return short_of(s);
        if (object) {
            if (s->text[s->at] != '"' || n_keys == KEYS_MAX)
                return JSON_SCAN_BAD;
            keys[n_keys].at = s->at;
            if ((r = scan_string(s)) != JSON_SCAN_COMPLETE)
                return r;
            keys[n_keys].size = s->at - keys[n_keys].at;
            for (unsigned i = 0; i < n_keys; i++) {
                if (keys[i].size == keys[n_keys].size &&
                    memcmp(s->text + keys[i].at, s->text + keys[n_keys].at, keys[i].size) == 0)
                    return JSON_SCAN_BAD;
            }
            n_keys++;
            skip_space(s);
            if (s->at == s->size)
                return short_of(s);
            if (s->text[s->at++] != ':')
                return JSON_SCAN_BAD;
        }
        if ((r = scan_value(s, depth + 1)) != JSON_SCAN_COMPLETE)
            return r;
        skip_space(s);
        if (s->at == s->size)
            return short_of(s);
        if (s->text[s->at] == close) {
            s->at++;
            return JSON_SCAN_COMPLETE;
        }
        if (s->text[s->at++] != ',')
            return JSON_SCAN_BAD;
    }
}

static enum json_scan_result scan_value(struct scan *s, int depth)
{
    if (depth > JSON_DEPTH_MAX)
        return JSON_SCAN_BAD;
    skip_space(s);
    if (s->at == s->size)
        return short_of(s);
    switch (s->text[s->at]) {
    case '{':
        return scan_container(s, depth, true);
    case '[':
        return scan_container(s, depth, false);
    case '"':
        return scan_string(s);
    case 't':
        return scan_word(s, "true");
    case 'f':
        return scan_word(s, "false");
    case 'n':
        return scan_word(s, "null");
    default:
        return s->text[s->at] == '-' || (s->text[s->at] >= '0' && s->text[s->at] <= '9') ? scan_number(s)
                                                                                         : JSON_SCAN_BAD;
    }
}

enum json_scan_result json_scan(const char *text, size_t size, bool ended, size_t *ret_begin, size_t *ret_end)
{
    struct scan s = {.text = text, .size = size, .ended = ended};
    enum json_scan_result r;

    /* A byte order mark is no part of JSON, but clients on other systems write one. */
    if (size >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0)
        s.at = 3;
    skip_space(&s);
    *ret_begin = s.at;
    r = scan_value(&s, 0);
    *ret_end = s.at;
    return r;
}
