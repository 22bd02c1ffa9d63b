/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "api/json_scan.h"

#include "base/bits.h"
#include "test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What becomes of a text that comes to its end. */
enum fate {
    WHOLE,      /* complete with its last byte, or with a byte before that */
    AT_END,     /* complete when the end is told: a number */
    TOO_LITTLE, /* the end comes too early */
    BAD,        /* whatever follows */
};

struct outcome {
    enum fate fate;
    size_t used; /* of WHOLE and AT_END */
};

/* Each piece in memory of its own, so that AddressSanitizer sees a byte too many being read. */
static enum json_scan_result feed(struct json_scan *s, const char *text, size_t size, size_t *ret_used)
{
    char *piece = malloc(size ? size : 1);
    enum json_scan_result r;

    memcpy(piece, text, size);
    *ret_used = SIZE_MAX;
    r = json_scan_feed(s, piece, size, ret_used);
    assert_true(*ret_used <= size);
    if (r == JSON_SCAN_INCOMPLETE)
        assert_int_equal(*ret_used, size);
    free(piece);
    return r;
}

static struct outcome outcome_of(enum json_scan_result r, const struct json_scan *s, size_t used)
{
    if (r == JSON_SCAN_COMPLETE)
        return (struct outcome){WHOLE, used};
    if (r == JSON_SCAN_BAD)
        return (struct outcome){BAD, 0};
    if (json_scan_end(s) == JSON_SCAN_COMPLETE)
        return (struct outcome){AT_END, used};
    return (struct outcome){TOO_LITTLE, 0};
}

/* The pieces @text[0..a), [a..b) and [b..size). */
static struct outcome scan_split(const char *text, size_t size, size_t a, size_t b)
{
    const size_t ends[] = {a, b, size};
    enum json_scan_result r = JSON_SCAN_INCOMPLETE;
    static struct json_scan s;
    size_t used, at = 0;

    memset(&s, 0xa5, sizeof(s)); /* json_scan_init() must not count on anything */
    json_scan_init(&s);
    for (unsigned i = 0; i < ARRAY_SIZE(ends) && r == JSON_SCAN_INCOMPLETE; i++) {
        r = feed(&s, text + at, ends[i] - at, &used);
        at += used;
    }
    return outcome_of(r, &s, at);
}

static struct outcome scan_bytes(const char *text, size_t size)
{
    enum json_scan_result r = JSON_SCAN_INCOMPLETE;
    static struct json_scan s;
    size_t used, at = 0;

    json_scan_init(&s);
    while (at < size && r == JSON_SCAN_INCOMPLETE) {
        r = feed(&s, text + at, 1, &used);
        at += used;
    }
    return outcome_of(r, &s, at);
}

static void assert_same(struct outcome got, struct outcome expected, const char *text, const char *how)
{
    if (got.fate != expected.fate || got.used != expected.used)
        fail_msg("%s, %s: fate %d after %zu bytes, not %d after %zu", text, how, got.fate, got.used,
                 expected.fate, expected.used);
}

/* Whole, in every two pieces, with an empty piece between them, byte by byte. */
static void assert_fate_of(const char *text, size_t size, enum fate fate, size_t used)
{
    struct outcome expected = {fate, used};

    assert_same(scan_split(text, size, 0, 0), expected, text, "whole");
    for (size_t i = 0; i <= size; i++) {
        char how[64];

        snprintf(how, sizeof(how), "split at %zu", i);
        assert_same(scan_split(text, size, i, i), expected, text, how);
        assert_same(scan_split(text, size, i, i < size ? i + 1 : i), expected, text, how);
    }
    assert_same(scan_bytes(text, size), expected, text, "byte by byte");
}

static void assert_whole(const char *text)
{
    assert_fate_of(text, strlen(text), WHOLE, strlen(text));
}

static void assert_bad(const char *text)
{
    assert_fate_of(text, strlen(text), BAD, 0);
}

static void assert_too_little(const char *text)
{
    assert_fate_of(text, strlen(text), TOO_LITTLE, 0);
}

static void test_values_end_where_they_end(void **state)
{
    static const char *const wholes[] = {
        "{}",
        "[]",
        "\"\"",
        "true",
        "false",
        "null",
        "{\"a\":1}",
        "[1,2,3]",
        "[-0.5e+10,\"x\",true,false,null,{},[]]",
        ("{\"execute\":\"add_hostfwd\",\"arguments\":{\"proto\":\"tcp\",\"host_addr\":\"0.0.0.0\","
         "\"host_port\":8080,\"guest_addr\":\"\",\"guest_port\":80}}"),
        " \t\r\n{ \"a\" : [ 1 , 2 ] , \"b\" : \"}\" }",
        "\"a]}\\\"\"",
        "{\"\":{\"\":[[[]]]}}",
    };

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(wholes); i++) {
        size_t size = strlen(wholes[i]);

        assert_whole(wholes[i]);
        for (size_t n = 0; n < size; n++) /* and not before */
            assert_same(scan_split(wholes[i], n, 0, 0), (struct outcome){TOO_LITTLE, 0}, wholes[i], "cut");
    }
}

static void test_what_follows_a_value_is_not_looked_at(void **state)
{
    (void)state;
    assert_fate_of("{}x", 3, WHOLE, 2);
    assert_fate_of("{} ", 3, WHOLE, 2);
    assert_fate_of("{}{}", 4, WHOLE, 2);
    assert_fate_of("{}\0\xff", 4, WHOLE, 2);
    assert_fate_of("truefalse", 9, WHOLE, 4);
    assert_fate_of("[]]", 3, WHOLE, 2);
    assert_fate_of("\"a\"\"", 4, WHOLE, 3);
    assert_fate_of("{}\n{\"a\":1}", 10, WHOLE, 2);
}

static void test_the_grammar_is_rfc_8259(void **state)
{
    static const char *const bads[] = {
        "]",
        "}",
        ",",
        ":",
        "[,",
        "[1,]",
        "[1 2",
        "[1:",
        "{,",
        "{1",
        "{a",
        "{\"a\",",
        "{\"a\"}",
        "{\"a\":}",
        "{]",
        "[}",
        "{\"a\":1,}",
        "{\"a\":1,,",
        "{\"a\":1]",
        "[1}",
        "[[]}",
        "{\"a\":{}]",
        "{\"a\" 1",
        "{\"a\"::",
        "//",
        "/* */{}",
        "{/",
        "[1,/",
        "#",
        "'a'",
        "{'",
        "tru ",
        "True",
        "nulL",
        "falsy",
        "NaN",
        "Infinity",
        "\xa0",
        "\v",
        "\f",
        "undefined",
        "{\"a\":tru}",
        "[nul]",
        "+1",
        ".5",
        "[,]",
        "{\"a\":1\"b\":2",
    };

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(bads); i++)
        assert_bad(bads[i]);
    assert_fate_of("\0{}", 3, BAD, 0);
    assert_fate_of("{\0}", 3, BAD, 0);
    assert_fate_of("\"\0\"", 3, BAD, 0);
}

static void test_what_is_no_value_yet_waits(void **state)
{
    static const char *const texts[] = {"",        " ",        "\n\n",         "{",       "[",   "{\"a\"",
                                        "{\"a\":", "\"",       "\"\\",         "\"\\u00", "tru", "[1",
                                        "[1,",     "{\"a\":1", "\xef\xbb\xbf", "\xef"};

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(texts); i++)
        assert_too_little(texts[i]);
}

/* ---- numbers ---- */

static void test_a_number_ends_with_the_byte_behind_it(void **state)
{
    static const char *const numbers[] = {"0",   "-0",   "1",     "9",       "10",    "-10",  "1234567890",
                                          "0.0", "1.5",  "-1.25", "1e5",     "1E5",   "1e+5", "1e-5",
                                          "0e0", "0E-0", "1.5e3", "-1.5E+3", "1e400", "1e00", "0.10"};
    static const char ends[] = " \t\r\n,]}:\"{[xa\x01\x80";
    char text[64];

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(numbers); i++) {
        size_t size = strlen(numbers[i]);

        assert_fate_of(numbers[i], size, AT_END, size);
        for (unsigned j = 0; j < sizeof(ends); j++) { /* NUL, too */
            snprintf(text, sizeof(text), "%s%c", numbers[i], ends[j]);
            assert_fate_of(text, size + 1, WHOLE, size);
        }
        snprintf(text, sizeof(text), " %s 7", numbers[i]); /* the white space behind it stays */
        assert_fate_of(text, size + 3, WHOLE, size + 1);
        snprintf(text, sizeof(text), "[%s]", numbers[i]);
        assert_whole(text);
        snprintf(text, sizeof(text), "{\"a\":%s}", numbers[i]);
        assert_whole(text);
        snprintf(text, sizeof(text), "[%s,%s ]", numbers[i], numbers[i]);
        assert_whole(text);
    }
}

static void test_half_a_number_is_none(void **state)
{
    static const char *const halves[] = {"-", "1.", "1e", "1e+", "1e-", "1.5e", "-0.", "0e"};
    static const char *const bads[] = {"-a",   "--1",     "-.5",     "1.a",   "1..",  "1.e5",
                                       "1ea",  "1e+-",    "1e.5",    "[01]",  "[00]", "[-01]",
                                       "[1a]", "[1.5.2]", "[1e5.0]", "[0x1]", "[1-1]"};
    char text[16];

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(halves); i++) {
        assert_too_little(halves[i]);
        snprintf(text, sizeof(text), "%s ", halves[i]);
        assert_bad(text);
        snprintf(text, sizeof(text), "[%s]", halves[i]);
        assert_bad(text);
    }
    for (unsigned i = 0; i < ARRAY_SIZE(bads); i++)
        assert_bad(bads[i]);
    assert_fate_of("01", 2, WHOLE, 1); /* a value that ended, and something behind it */
    assert_fate_of("-00", 3, WHOLE, 2);
}

static void test_a_number_in_a_container_is_not_the_end(void **state)
{
    (void)state;
    assert_too_little("[1");
    assert_too_little("[1 ");
    assert_too_little("{\"a\":12");
    assert_too_little("{\"a\":12,\"b\":1.5e1");
}

/* ---- depth and keys ---- */

static size_t make_nested(char *text, unsigned depth, bool objects, bool closed)
{
    size_t n = 0;

    for (unsigned i = 0; i < depth; i++) {
        bool object = objects && i % 2 == 0;

        n += (size_t)sprintf(text + n, "%s", object ? "{\"a\":" : "[");
    }
    if (objects && depth % 2 == 1)
        n += (size_t)sprintf(text + n, "0");
    for (unsigned i = depth; closed && i > 0; i--)
        text[n++] = objects && (i - 1) % 2 == 0 ? '}' : ']';
    text[n] = '\0';
    return n;
}

static void test_the_depth_has_a_limit(void **state)
{
    char text[8 * JSON_DEPTH_MAX + 64];

    (void)state;
    for (int objects = 0; objects < 2; objects++) {
        make_nested(text, JSON_DEPTH_MAX, objects, true);
        assert_whole(text);
        make_nested(text, JSON_DEPTH_MAX - 1, objects, true);
        assert_whole(text);
        make_nested(text, JSON_DEPTH_MAX + 1, objects, true);
        assert_bad(text);
        make_nested(text, JSON_DEPTH_MAX, objects, false);
        assert_too_little(text);
    }
    char *end = text;

    *end++ = '['; /* depth, not number */
    for (int i = 0; i < 2 * JSON_DEPTH_MAX; i++)
        end = stpcpy(end, i ? ",[]" : "[]");
    stpcpy(end, "]");
    assert_whole(text);
}

static void test_every_level_remembers_what_it_is(void **state)
{
    char text[8 * JSON_DEPTH_MAX + 64];
    size_t n = make_nested(text, JSON_DEPTH_MAX, true, true);

    (void)state;
    for (size_t i = n - JSON_DEPTH_MAX; i < n; i++) { /* one wrong bracket */
        char right = text[i];

        text[i] = right == '}' ? ']' : '}';
        assert_same(scan_split(text, n, 0, 0), (struct outcome){BAD, 0}, text, "wrong bracket");
        text[i] = right;
    }
}

static void test_duplicate_keys_are_refused(void **state)
{
    static const char *const same[] = {
        "{\"a\":1,\"a\"",
        "{\"a\":1,\"b\":2,\"a\"",
        "{\"\":1,\"\"",
        "{\"x\":{\"a\":1,\"a\"",
        "[{\"a\":1,\"a\"",
        "{\"a\":{\"a\":1},\"a\"",
        "{\"a\":{\"b\":1,\"c\":{\"d\":1}},\"b\":{\"b\":[]},\"b\"",
        "{\"a\":1,\"\\u0061\"", /* the same when decoded */
        "{\"/\":1,\"\\/\"",
        "{\"\\n\":1,\"\\u000a\"",
        "{\"\\b\\f\\r\\t\\\"\\\\\":1,\"\\u0008\\u000C\\u000D\\u0009\\u0022\\u005c\"",
        "{\"\xc2\xa2\":1,\"\\u00a2\"",
        "{\"\xc3\xa9\":1,\"\\u00e9\"",                /* two bytes */
        "{\"\xe2\x82\xac\":1,\"\\u20AC\"",            /* three */
        "{\"\xf0\x9f\x98\x80\":1,\"\\ud83d\\ude00\"", /* four */
    };
    static const char *const different[] = {
        "{\"a\":1,\"A\":2}",
        "{\"a\":1,\"aa\":2,\"\":3}",
        "{\"a\":{\"a\":{\"a\":1}}}",
        "[{\"a\":1},{\"a\":1}]",
        "{\"x\":{\"a\":1},\"y\":{\"a\":1},\"a\":1}",
        "{\"a\":\"a\",\"b\":\"a\"}", /* values are no keys */
        "{\"ab\":1,\"ba\":1}",
        "{\"\\u0061\":1,\"\\\\u0061\":1}",
    };

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(same); i++)
        assert_bad(same[i]);
    for (unsigned i = 0; i < ARRAY_SIZE(different); i++)
        assert_whole(different[i]);
}

static void test_the_number_of_open_keys_has_a_limit(void **state)
{
    static char text[JSON_KEYS_MAX * 16 + 256];
    struct outcome got;
    size_t n = 0;

    (void)state;
    n = (size_t)snprintf(text, sizeof(text), "{");
    for (int i = 0; i < JSON_KEYS_MAX; i++)
        n += (size_t)snprintf(text + n, sizeof(text) - n, "%s\"k%d\":0", i ? "," : "", i);
    snprintf(text + n, sizeof(text) - n, "}");
    got = scan_split(text, n + 1, 0, 0);
    assert_same(got, (struct outcome){WHOLE, n + 1}, "all keys", "whole");
    snprintf(text + n, sizeof(text) - n, ",\"one more\"");
    assert_same(scan_split(text, strlen(text), 0, 0), (struct outcome){BAD, 0}, "a key too many", "whole");

    n = (size_t)snprintf(text, sizeof(text), "["); /* closed objects give their keys back */
    for (int i = 0; i < JSON_KEYS_MAX; i++)
        n += (size_t)snprintf(text + n, sizeof(text) - n, "%s{\"k\":0}", i ? "," : "");
    n += (size_t)snprintf(text + n, sizeof(text) - n, ",{\"k\":0,\"l\":0}]");
    assert_same(scan_split(text, n, 0, 0), (struct outcome){WHOLE, n}, "many objects", "whole");
}

/* ---- strings ---- */

static void test_strings_are_utf8(void **state)
{
    static const char *const wholes[] = {
        "\"\x7f\"",
        "\"\xc2\x80\"",
        "\"\xdf\xbf\"",
        "\"\xe0\xa0\x80\"",
        "\"\xed\x9f\xbf\"",
        "\"\xee\x80\x80\"",
        "\"\xef\xbf\xbf\"",
        "\"\xf0\x90\x80\x80\"",
        "\"\xf4\x8f\xbf\xbf\"",
        "\"a\xc3\xa9z\xf0\x9f\x98\x80!\"",
        "\"\xef\xbb\xbf\"", /* a byte order mark in a string is a character */
    };
    static const char *const bads[] = {
        "\"\x80",         "\"\xbf",         "\"\xc0",
        "\"\xc1",         "\"\xf5",         "\"\xfe",
        "\"\xff",         "\"\xc3\"",       "\"\xc3(",
        "\"\xc3\xc3",     "\"\xe0\x80",     "\"\xe0\x9f",
        "\"\xed\xa0",     "\"\xed\xbf",     "\"\xe2\x82\"",
        "\"\xf0\x8f",     "\"\xf4\x90",     "\"\xf0\x9f\x98\"",
        "\"\xf0\x9f\x41", "\"\xe2\x41",     "\"\xf0\x9f\x98\xc0",
        "{\"\xff",        "\"\xe0\xa0\xc0", "\"\xf1\xc0",
    };

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(wholes); i++)
        assert_whole(wholes[i]);
    for (unsigned i = 0; i < ARRAY_SIZE(bads); i++)
        assert_bad(bads[i]);
}

static void test_no_control_characters_in_strings(void **state)
{
    (void)state;
    for (int c = 0; c < 0x20; c++) {
        char text[] = {'"', (char)c, '"'};

        assert_fate_of(text, sizeof(text), BAD, 0);
    }
}

static void test_escapes(void **state)
{
    (void)state;
    assert_whole("\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u0041\\uFfFf\\uabCD\"");
    for (int c = 0; c < 256; c++) {
        char text[] = {'"', '\\', (char)c, '"'};

        if (c == 'u')
            continue;
        if (c && strchr("\"\\/bfnrt", c))
            assert_fate_of(text, sizeof(text), WHOLE, sizeof(text));
        else
            assert_fate_of(text, sizeof(text), BAD, 0);
    }
    for (int at = 0; at < 4; at++) {
        for (int c = 0; c < 256; c++) {
            char text[] = "\"\\u1234\"";
            bool hex = c && strchr("0123456789abcdefABCDEF", c);

            text[3 + at] = (char)c;
            assert_same(scan_split(text, 8, 5, 5),
                        hex ? (struct outcome){WHOLE, 8} : (struct outcome){BAD, 0}, text, "digit");
        }
    }
    assert_bad("\"\\u0000"); /* would end the string for whoever reads it */
    assert_bad("{\"\\u0000");
    assert_whole("\"\\u0001\"");
}

static void test_surrogates_come_in_pairs(void **state)
{
    static const char *const wholes[] = {
        "\"\\ud800\\udc00\"",         "\"\\uDBFF\\uDFFF\"", "\"\\ud83d\\ude00\\ud83d\\ude00\"",
        "\"x\\ud83d\\ude00\\u0041\"", "\"\\ud7ff\\ue000\"",
    };
    static const char *const bads[] = {
        "\"\\udc00",         "\"\\udfff",        "\"\\ud800\"",
        "\"\\ud800x",        "\"\\ud800\\n",     "\"\\ud800\\u0041",
        "\"\\ud800\\ud800",  "\"\\ud800\\ue000", "\"\\ud83d\\ude00\\udc00",
        "\"\\ud800\xc3\xa9", "{\"\\ud800\":",    "\"\\ud800\\\"",
        "\"\\ud800\\u0000",
    };

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(wholes); i++)
        assert_whole(wholes[i]);
    for (unsigned i = 0; i < ARRAY_SIZE(bads); i++)
        assert_bad(bads[i]);
}

/* ---- what is before the value ---- */

static void test_a_byte_order_mark_may_come_first(void **state)
{
    (void)state;
    assert_whole("\xef\xbb\xbf{}");
    assert_whole("\xef\xbb\xbf \n[1]");
    assert_fate_of("\xef\xbb\xbf"
                   "5",
                   4, AT_END, 4);
    assert_bad("\xef\xbb{}");
    assert_bad("\xef{}");
    assert_bad("\xef\xbf\xbf{}");
    assert_bad("\xef\xbb\xbb{}");
    assert_bad("\xbb\xbf{}");
    assert_bad("\xfe\xff{}");
    assert_bad("\xef\xbb\xbf\xef\xbb\xbf{}"); /* one */
    assert_bad(" \xef\xbb\xbf{}");            /* first */
    assert_bad("{\xef\xbb\xbf}");
}

static void test_blank_is_nothing_but_white_space(void **state)
{
    static const struct {
        const char *text;
        bool blank;
    } cases[] = {
        {"", true},   {" ", true},  {"\r\n\t ", true}, {"{", false},   {" [", false},      {"\"", false},
        {"1", false}, {"-", false}, {"t", false},      {"[1,", false}, {"{\"a\":", false},
    };
    struct json_scan s;
    size_t used;

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        json_scan_init(&s);
        assert_true(json_scan_is_blank(&s));
        assert_int_equal(json_scan_feed(&s, cases[i].text, strlen(cases[i].text), &used),
                         JSON_SCAN_INCOMPLETE);
        assert_int_equal(json_scan_is_blank(&s), cases[i].blank);
    }
}

static void test_a_scan_can_be_used_again(void **state)
{
    static const char *const firsts[] = {
        "{\"a\":\"\\ud800", "[[[1.5e", "{\"a\":1,\"a\"", "\xef\xbb", "tru", "{}", "\"\xf0\x9f"};
    struct json_scan s;
    size_t used;

    (void)state;
    json_scan_init(&s);
    for (unsigned i = 0; i < ARRAY_SIZE(firsts); i++) {
        json_scan_feed(&s, firsts[i], strlen(firsts[i]), &used);
        json_scan_init(&s);
        assert_int_equal(json_scan_feed(&s, "{\"a\":\"x\"}y", 10, &used), JSON_SCAN_COMPLETE);
        assert_int_equal(used, 9);
        json_scan_init(&s);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values_end_where_they_end),
        cmocka_unit_test(test_what_follows_a_value_is_not_looked_at),
        cmocka_unit_test(test_the_grammar_is_rfc_8259),
        cmocka_unit_test(test_what_is_no_value_yet_waits),
        cmocka_unit_test(test_a_number_ends_with_the_byte_behind_it),
        cmocka_unit_test(test_half_a_number_is_none),
        cmocka_unit_test(test_a_number_in_a_container_is_not_the_end),
        cmocka_unit_test(test_the_depth_has_a_limit),
        cmocka_unit_test(test_every_level_remembers_what_it_is),
        cmocka_unit_test(test_duplicate_keys_are_refused),
        cmocka_unit_test(test_the_number_of_open_keys_has_a_limit),
        cmocka_unit_test(test_strings_are_utf8),
        cmocka_unit_test(test_no_control_characters_in_strings),
        cmocka_unit_test(test_escapes),
        cmocka_unit_test(test_surrogates_come_in_pairs),
        cmocka_unit_test(test_a_byte_order_mark_may_come_first),
        cmocka_unit_test(test_blank_is_nothing_but_white_space),
        cmocka_unit_test(test_a_scan_can_be_used_again),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
