/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "base/date.h"
#include "base/log.h"

#include "test.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { ROUNDS = 20000 };

/* What a JSON reader that is not ours makes of the line (jansson takes valid UTF-8 only); to be freed with
 * free(). */
static char *member_of(const char *line, size_t size, const char *name)
{
    json_error_t error;
    json_t *object = json_loadb(line, size, 0, &error);
    char *text;

    if (!object)
        fail_msg("%s: %.*s", error.text, (int)size, line);
    text = strdup(json_string_value(json_object_get(object, name)));
    json_decref(object);
    return text;
}

static void assert_one_line(const char *line, size_t size)
{
    assert_in_range(size, 1, LOG_LINE_MAX);
    assert_int_equal(line[size - 1], '\n');
    for (size_t i = 0; i + 1 < size; i++)
        assert_true((uint8_t)line[i] >= ' ' && line[i] != 0x7f);
}

static void test_json_is_json_whatever_the_message_is(void **state)
{
    static const char *const nasty[] = {
        "",
        "\"",
        "\\",
        "\\\"\\u0000",
        "a\nb\r\tc",
        "\x01\x1f\x7f",
        "\xff\xfe",
        "\xc3",
        "\xc0\x80",
        "\xed\xa0\x80",
        "\xf4\x90\x80\x80",
        "\xe2\x82",
        "\xf0\x9f\x98",
        "</script>",
        "\xe2\x80\xa8",
    };
    char line[LOG_LINE_MAX];
    unsigned seed = 1;

    (void)state;
    for (unsigned i = 0; i < sizeof(nasty) / sizeof(nasty[0]); i++) {
        size_t n = log_format_json(line, 1, LOG_LEVEL_INFO, nasty[i]);

        assert_one_line(line, n);
        free(member_of(line, n, "message"));
    }
    for (unsigned round = 0; round < ROUNDS; round++) {
        char message[2 * LOG_MESSAGE_MAX];
        size_t size = (size_t)rand_r(&seed) % (round % 100 == 0 ? sizeof(message) : 64), n;
        bool low = round % 2;

        for (size_t i = 0; i < size; i++)
            message[i] = (char)(1 + (rand_r(&seed) >> 3) % (low ? 0x7f : 0xff));
        message[size] = '\0';
        n = log_format_json(line, rand_r(&seed), (enum log_level)(round % LOG_LEVELS), message);
        assert_one_line(line, n);
        free(member_of(line, n, "message"));
        assert_one_line(line, log_format_text(line, "WARNING: ", message));
    }
}

static void test_what_is_utf8_comes_through_unchanged(void **state)
{
    static const char *const good[] = {
        "plain",
        "\"quoted\" \\ back\tslash\n",
        "gr\xc3\xbc\xc3\x9f",
        "\xe2\x82\xac",
        "\xf0\x9f\x90\xa7",
        "\xef\xbf\xbd",
        "\x01\x7f",
    };
    char line[LOG_LINE_MAX], *got;

    (void)state;
    for (unsigned i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        got = member_of(line, log_format_json(line, 0, LOG_LEVEL_ERROR, good[i]), "message");
        assert_string_equal(got, good[i]);
        free(got);
    }
    got = member_of(line, log_format_json(line, 0, LOG_LEVEL_ERROR, "a\xff\xc3z"), "message");
    assert_string_equal(got, "a\xef\xbf\xbd\xef\xbf\xbdz");
    free(got);
}

static void test_time_and_level(void **state)
{
    char line[LOG_LINE_MAX], *got;
    size_t n = log_format_json(line, INT64_C(1700000000123456789), LOG_LEVEL_WARNING, "x");

    (void)state;
    got = member_of(line, n, "time");
    assert_string_equal(got, "2023-11-14T22:13:20.123456Z");
    free(got);
    got = member_of(line, n, "level");
    assert_string_equal(got, "warning");
    free(got);
}

/* The C library knows the same calendar. */
static void test_dates(void **state)
{
    unsigned seed = 1;

    (void)state;
    for (int round = 0; round < 20000; round++) {
        /* Every day of leap years and centuries near by, then anywhere in ten thousand years. */
        time_t seconds = round < 3000 ? (time_t)(10950 + round) * 86400 - 1 + round % 3
                                      : (time_t)((int64_t)rand_r(&seed) * 127 + rand_r(&seed));
        struct date d = date_of(seconds);
        struct tm tm;

        assert_non_null(gmtime_r(&seconds, &tm));
        assert_int_equal(d.year, tm.tm_year + 1900);
        assert_int_equal(d.month, tm.tm_mon + 1);
        assert_int_equal(d.day, tm.tm_mday);
        assert_int_equal(d.weekday, tm.tm_wday);
        assert_int_equal(d.hour * 3600 + d.minute * 60 + d.second,
                         tm.tm_hour * 3600 + tm.tm_min * 60 + tm.tm_sec);
    }
}

/* What the functions write to stderr, in @ret. */
static void capture(char *ret, size_t ret_size, void (*what)(void))
{
    int fds[2], saved = dup(STDERR_FILENO);
    ssize_t n;

    assert_true(saved >= 0);
    assert_int_equal(pipe2(fds, O_NONBLOCK), 0);
    assert_true(dup2(fds[1], STDERR_FILENO) >= 0);
    what();
    assert_true(dup2(saved, STDERR_FILENO) >= 0);
    n = read(fds[0], ret, ret_size - 1);
    ret[n > 0 ? n : 0] = '\0';
    close(fds[0]);
    close(fds[1]);
    close(saved);
}

static void log_one_of_each(void)
{
    errno = ENOENT;
    log_error("one: %m");
    assert_int_equal(errno, ENOENT);
    log_warning("two");
    log_info("three");
    log_debug("four");
    log_plain(LOG_LEVEL_ERROR, "five");
}

static void test_levels(void **state)
{
    char got[2048];

    (void)state;
    log_set_level(LOG_LEVEL_DEBUG);
    capture(got, sizeof(got), log_one_of_each);
    assert_string_equal(got,
                        "ERROR: one: No such file or directory\nWARNING: two\nthree\nDEBUG: four\nfive\n");
    log_set_level(LOG_LEVEL_WARNING);
    capture(got, sizeof(got), log_one_of_each);
    assert_string_equal(got, "ERROR: one: No such file or directory\nWARNING: two\nfive\n");
    log_set_level(LOG_LEVEL_ERROR);
    capture(got, sizeof(got), log_one_of_each);
    assert_string_equal(got, "ERROR: one: No such file or directory\nfive\n");
    log_set_level(LOG_LEVEL_INFO);
}

static struct log_limit limit;

static void log_many(void)
{
    for (unsigned i = 0; i < 1000; i++) {
        log_limited(&limit, LOG_LEVEL_WARNING, "again");
        atomic_store_explicit(&limit.next_ns, INT64_MAX, memory_order_relaxed); /* the second lasts */
    }
}

static void test_a_flood_is_one_line(void **state)
{
    char got[2048];

    (void)state;
    capture(got, sizeof(got), log_many);
    assert_string_equal(got, "WARNING: again\n");
    atomic_store_explicit(&limit.next_ns, 0, memory_order_relaxed); /* a second has passed */
    capture(got, sizeof(got), log_many);
    assert_string_equal(got, "WARNING: again (999 more of these since the last line)\n");
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_json_is_json_whatever_the_message_is),
        cmocka_unit_test(test_what_is_utf8_comes_through_unchanged),
        cmocka_unit_test(test_time_and_level),
        cmocka_unit_test(test_dates),
        cmocka_unit_test(test_levels),
        cmocka_unit_test(test_a_flood_is_one_line),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
