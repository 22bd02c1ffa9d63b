/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * json_scan.c
 *
 * A push-down automaton: one state per thing that may come next, a bit per open container. Two keys are the
 * same when the 64-bit FNV-1a hashes of their decoded bytes are; whoever makes two different ones collide has
 * spoilt a request of his own and nothing else.
 */
#include "api/json_scan.h"

#include <string.h>

enum state {
    START,  /* -> BOM, VALUE */
    BOM_BB, /* the byte order mark: EF BB BF */
    BOM_BF,
    VALUE,
    VALUE_OR_CLOSE, /* after '[' */
    KEY_OR_CLOSE,   /* after '{' */
    KEY,            /* after ',' in an object */
    COLON,
    COMMA_OR_CLOSE,
    STRING, /* -> @after_string */
    ESCAPE,
    QUAD, /* of \uXXXX: @quad_left digits to come */
    UTF8, /* @utf8_left bytes of a sequence to come, the next one in @utf8_low..@utf8_high */
    WORD,
    MINUS, /* numbers: what has been read */
    ZERO,
    DIGITS,
    POINT,
    FRACTION,
    E,
    E_SIGN,
    EXPONENT,
};

enum {
    AFTER_KEY,
    AFTER_VALUE,
};

static const uint64_t fnv_offset = 0xcbf29ce484222325, fnv_prime = 0x100000001b3;

void json_scan_init(struct json_scan *s)
{
    s->state = START;
    s->depth = 0;
    s->n_keys = 0;
    s->high = 0;
}

bool json_scan_is_blank(const struct json_scan *s)
{
    return s->state == START || (s->state == VALUE && s->depth == 0);
}

static bool is_space(uint8_t c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

static bool is_digit(uint8_t c)
{
    return c >= '0' && c <= '9';
}

static void hash_byte(struct json_scan *s, uint8_t c)
{
    s->hash = (s->hash ^ c) * fnv_prime;
}

static void hash_code_point(struct json_scan *s, uint32_t c)
{
    if (c < 0x80) {
        hash_byte(s, (uint8_t)c);
        return;
    }
    if (c < 0x800) {
        hash_byte(s, (uint8_t)(0xc0 | c >> 6));
    } else if (c < 0x10000) {
        hash_byte(s, (uint8_t)(0xe0 | c >> 12));
        hash_byte(s, (uint8_t)(0x80 | (c >> 6 & 0x3f)));
    } else {
        hash_byte(s, (uint8_t)(0xf0 | c >> 18));
        hash_byte(s, (uint8_t)(0x80 | (c >> 12 & 0x3f)));
        hash_byte(s, (uint8_t)(0x80 | (c >> 6 & 0x3f)));
    }
    hash_byte(s, (uint8_t)(0x80 | (c & 0x3f)));
}

static bool in_object(const struct json_scan *s)
{
    return s->containers >> (s->depth - 1) & 1;
}

/* A value has ended: at the top that is the end of all. */
static enum json_scan_result value_ended(struct json_scan *s)
{
    s->state = COMMA_OR_CLOSE;
    return s->depth == 0 ? JSON_SCAN_COMPLETE : JSON_SCAN_INCOMPLETE;
}

static enum json_scan_result open_container(struct json_scan *s, bool object)
{
    if (s->depth == JSON_DEPTH_MAX)
        return JSON_SCAN_BAD;
    s->first_key[s->depth] = (uint16_t)s->n_keys;
    s->containers = (s->containers & ~(1u << s->depth)) | (uint32_t)object << s->depth;
    s->depth++;
    s->state = object ? KEY_OR_CLOSE : VALUE_OR_CLOSE;
    return JSON_SCAN_INCOMPLETE;
}

static enum json_scan_result close_container(struct json_scan *s, bool object)
{
    if (in_object(s) != object)
        return JSON_SCAN_BAD;
    s->depth--;
    s->n_keys = s->first_key[s->depth];
    return value_ended(s);
}

static enum json_scan_result begin_string(struct json_scan *s, uint8_t after)
{
    s->state = STRING;
    s->after_string = after;
    s->hash = fnv_offset;
    return JSON_SCAN_INCOMPLETE;
}

static enum json_scan_result begin_word(struct json_scan *s, const char *rest)
{
    s->state = WORD;
    s->word = rest;
    return JSON_SCAN_INCOMPLETE;
}

static enum json_scan_result begin_value(struct json_scan *s, uint8_t c)
{
    switch (c) {
    case '{':
        return open_container(s, true);
    case '[':
        return open_container(s, false);
    case '"':
        return begin_string(s, AFTER_VALUE);
    case 't':
        return begin_word(s, "rue");
    case 'f':
        return begin_word(s, "alse");
    case 'n':
        return begin_word(s, "ull");
    case '-':
        s->state = MINUS;
        return JSON_SCAN_INCOMPLETE;
    default:
        s->state = c == '0' ? ZERO : DIGITS;
        return is_digit(c) ? JSON_SCAN_INCOMPLETE : JSON_SCAN_BAD;
    }
}

static enum json_scan_result key_ended(struct json_scan *s)
{
    if (s->n_keys == JSON_KEYS_MAX)
        return JSON_SCAN_BAD;
    for (uint32_t i = s->first_key[s->depth - 1]; i < s->n_keys; i++) {
        if (s->keys[i] == s->hash)
            return JSON_SCAN_BAD;
    }
    s->keys[s->n_keys++] = s->hash;
    s->state = COLON;
    return JSON_SCAN_INCOMPLETE;
}

/* The first byte of a sequence (RFC 3629: no overlong forms, no surrogates, nothing above U+10FFFF). */
static enum json_scan_result begin_utf8(struct json_scan *s, uint8_t c)
{
    if (c < 0xc2 || c > 0xf4)
        return JSON_SCAN_BAD;
    s->state = UTF8;
    s->utf8_left = c < 0xe0 ? 1 : c < 0xf0 ? 2 : 3;
    s->utf8_low = c == 0xe0 ? 0xa0 : c == 0xf0 ? 0x90 : 0x80;
    s->utf8_high = c == 0xed ? 0x9f : c == 0xf4 ? 0x8f : 0xbf;
    hash_byte(s, c);
    return JSON_SCAN_INCOMPLETE;
}

static enum json_scan_result string_byte(struct json_scan *s, uint8_t c)
{
    if (c == '\\') {
        s->state = ESCAPE;
        return JSON_SCAN_INCOMPLETE;
    }
    if (c < 0x20 || s->high) /* half a surrogate pair is no character */
        return JSON_SCAN_BAD;
    if (c == '"')
        return s->after_string == AFTER_KEY ? key_ended(s) : value_ended(s);
    if (c >= 0x80)
        return begin_utf8(s, c);
    hash_byte(s, c);
    return JSON_SCAN_INCOMPLETE;
}

static enum json_scan_result escape_byte(struct json_scan *s, uint8_t c)
{
    static const char letters[] = "\"\\/bfnrt", meanings[] = "\"\\/\b\f\n\r\t";
    const char *found;

    if (c == 'u') {
        s->state = QUAD;
        s->quad = 0;
        s->quad_left = 4;
        return JSON_SCAN_INCOMPLETE;
    }
    found = memchr(letters, c, sizeof(letters) - 1);
    if (!found || s->high)
        return JSON_SCAN_BAD;
    hash_byte(s, (uint8_t)meanings[found - letters]);
    s->state = STRING;
    return JSON_SCAN_INCOMPLETE;
}

static enum json_scan_result quad_byte(struct json_scan *s, uint8_t c)
{
    uint8_t lower = c | 0x20, digit;
    bool low;

    if (is_digit(c))
        digit = c - '0';
    else if (lower >= 'a' && lower <= 'f')
        digit = (uint8_t)(lower - 'a' + 10);
    else
        return JSON_SCAN_BAD;
    s->quad = (uint16_t)(s->quad << 4 | digit);
    if (--s->quad_left > 0)
        return JSON_SCAN_INCOMPLETE;
    low = (s->quad & 0xfc00) == 0xdc00;
    if (low != (s->high != 0) || s->quad == 0) /* NUL would end the string for whoever reads it */
        return JSON_SCAN_BAD;
    if (low) {
        hash_code_point(s, 0x10000 + ((s->high & 0x3ffu) << 10 | (s->quad & 0x3ffu)));
        s->high = 0;
    } else if ((s->quad & 0xfc00) == 0xd800) {
        s->high = s->quad;
    } else {
        hash_code_point(s, s->quad);
    }
    s->state = STRING;
    return JSON_SCAN_INCOMPLETE;
}

static enum json_scan_result utf8_byte(struct json_scan *s, uint8_t c)
{
    if (c < s->utf8_low || c > s->utf8_high)
        return JSON_SCAN_BAD;
    hash_byte(s, c);
    s->utf8_low = 0x80;
    s->utf8_high = 0xbf;
    if (--s->utf8_left == 0)
        s->state = STRING;
    return JSON_SCAN_INCOMPLETE;
}

/* Could the number read so far be all of it? */
static bool number_is_whole(const struct json_scan *s)
{
    return s->state == ZERO || s->state == DIGITS || s->state == FRACTION || s->state == EXPONENT;
}

/* True: @c belongs to the number. */
static bool number_byte(struct json_scan *s, uint8_t c)
{
    bool exponent = (c | 0x20) == 'e';

    switch (s->state) {
    case MINUS:
        s->state = c == '0' ? ZERO : DIGITS;
        return is_digit(c);
    case ZERO:
    case DIGITS:
        if (c == '.' || exponent) {
            s->state = exponent ? E : POINT;
            return true;
        }
        return s->state == DIGITS && is_digit(c);
    case POINT:
        s->state = FRACTION;
        return is_digit(c);
    case FRACTION:
        if (exponent)
            s->state = E;
        return exponent || is_digit(c);
    case E:
        s->state = is_digit(c) ? EXPONENT : E_SIGN;
        return is_digit(c) || c == '+' || c == '-';
    case E_SIGN:
        s->state = EXPONENT;
        return is_digit(c);
    default: /* EXPONENT */
        return is_digit(c);
    }
}

/* What separates values: no byte of a string, a word or a number. */
static enum json_scan_result structure_byte(struct json_scan *s, uint8_t c)
{
    if (is_space(c)) {
        if (s->state == START)
            s->state = VALUE;
        return JSON_SCAN_INCOMPLETE;
    }
    switch (s->state) {
    case START:
    case VALUE:
        return begin_value(s, c);
    case VALUE_OR_CLOSE:
        return c == ']' ? close_container(s, false) : begin_value(s, c);
    case KEY_OR_CLOSE:
        if (c == '}')
            return close_container(s, true);
        return c == '"' ? begin_string(s, AFTER_KEY) : JSON_SCAN_BAD;
    case KEY:
        return c == '"' ? begin_string(s, AFTER_KEY) : JSON_SCAN_BAD;
    case COLON:
        s->state = VALUE;
        return c == ':' ? JSON_SCAN_INCOMPLETE : JSON_SCAN_BAD;
    default: /* COMMA_OR_CLOSE */
        if (c == '}' || c == ']')
            return close_container(s, c == '}');
        s->state = in_object(s) ? KEY : VALUE;
        return c == ',' ? JSON_SCAN_INCOMPLETE : JSON_SCAN_BAD;
    }
}

static enum json_scan_result scan_byte(struct json_scan *s, uint8_t c)
{
    switch (s->state) {
    case START:
        if (c != 0xef)
            return structure_byte(s, c);
        s->state = BOM_BB;
        return JSON_SCAN_INCOMPLETE;
    case BOM_BB:
        s->state = BOM_BF;
        return c == 0xbb ? JSON_SCAN_INCOMPLETE : JSON_SCAN_BAD;
    case BOM_BF:
        s->state = VALUE;
        return c == 0xbf ? JSON_SCAN_INCOMPLETE : JSON_SCAN_BAD;
    case STRING:
        return string_byte(s, c);
    case ESCAPE:
        return escape_byte(s, c);
    case QUAD:
        return quad_byte(s, c);
    case UTF8:
        return utf8_byte(s, c);
    case WORD:
        if (c != (uint8_t)*s->word)
            return JSON_SCAN_BAD;
        return *++s->word ? JSON_SCAN_INCOMPLETE : value_ended(s);
    default:
        return structure_byte(s, c);
    }
}

enum json_scan_result json_scan_feed(struct json_scan *s, const char *text, size_t size, size_t *ret_used)
{
    for (size_t i = 0; i < size; i++) {
        uint8_t c = (uint8_t)text[i];
        enum json_scan_result r;

        if (s->state >= MINUS) {
            bool whole = number_is_whole(s);

            if (number_byte(s, c))
                continue;
            if (!whole) {
                *ret_used = size;
                return JSON_SCAN_BAD;
            }
            if (value_ended(s) == JSON_SCAN_COMPLETE) {
                *ret_used = i; /* @c is not part of it */
                return JSON_SCAN_COMPLETE;
            }
        }
        r = scan_byte(s, c);
        if (r != JSON_SCAN_INCOMPLETE) {
            *ret_used = r == JSON_SCAN_COMPLETE ? i + 1 : size;
            return r;
        }
    }
    *ret_used = size;
    return JSON_SCAN_INCOMPLETE;
}

enum json_scan_result json_scan_end(const struct json_scan *s)
{
    return s->depth == 0 && number_is_whole(s) ? JSON_SCAN_COMPLETE : JSON_SCAN_BAD;
}
