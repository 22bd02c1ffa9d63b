/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/table.h"

#include "base/bits.h"
#include "cli/ctl_show.h"
#include "test.h"

#include <stdlib.h>
#include <string.h>

static const char *printed(const struct table *t)
{
    static char *text;
    size_t size;
    FILE *f;

    free(text);
    f = open_memstream(&text, &size);
    table_print(t, f);
    assert_int_equal(fclose(f), 0);
    return text;
}

static void test_columns_are_as_wide_as_they_have_to_be(void **state)
{
    static const char *const heads[] = {">ID", "<NAME", "<EMPTY", ">N", NULL};
    struct table t;

    (void)state;
    table_init(&t, heads);
    assert_string_equal(printed(&t), "ID  NAME  EMPTY  N\n");
    for (unsigned i = 0; i < 2; i++) {
        table_cell(&t, "%u", i ? 1 : 1000);
        table_cell(&t, "%s", i ? "longer name" : "a");
        table_cell(&t, "%s", "");
        table_cell(&t, "%u", i);
    }
    assert_string_equal(printed(&t), "  ID  NAME         N\n"
                                     "1000  a            0\n"
                                     "   1  longer name  1\n");
    table_deinit(&t);
}

static void test_nothing_that_a_terminal_obeys_comes_out(void **state)
{
    static const char *const heads[] = {"<A", NULL};
    struct table t;

    (void)state;
    table_init(&t, heads);
    table_cell(&t, "%s", "\033[2J\n\x9b\x7fok");
    assert_string_equal(printed(&t), "A\n?[2J???ok\n");
    table_deinit(&t);
}

static void test_bytes(void **state)
{
    static const struct {
        double bytes;
        const char *text;
    } cases[] = {{0, "0"},       {1, "1"},        {999, "999"},      {1000, "1.0K"},
                 {1024, "1.0K"}, {10200, "10K"},  {1023000, "999K"}, {1048576, "1.0M"},
                 {37e6, "35M"},  {1.5e9, "1.4G"}, {3e18, "2.6E"},    {1e30, "867361737988E"}};

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++)
        assert_string_equal(table_bytes(cases[i].bytes), cases[i].text);
}

static void test_seconds(void **state)
{
    static const struct {
        double seconds;
        const char *text;
    } cases[] = {{-1, "0.0s"},  {0.04, "0.0s"},   {9.9, "9.9s"},   {10, "10s"},      {59.9, "59s"},
                 {60, "1m00s"}, {3599, "59m59s"}, {3600, "1h00m"}, {90061, "1d01h"}, {1e30, "11574074d01h"}};

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++)
        assert_string_equal(table_seconds(cases[i].seconds), cases[i].text);
}

/* Replies of a program that is none of ours. */
static void test_any_json_can_be_shown(void **state)
{
    static const char full[] =
        "{\"entries\":[[],{\"id\":\"x\",\"host_addr\":\"a:b\",\"host_port\":1e300,\"host_port_end\":null}],"
        "\"flows\":[7,{\"guest_addr\":\"\\u001b[2J\",\"guest_port\":-1,\"bytes_to_guest\":\"x\",\"age_ms\":[]"
        "}],"
        "\"per_tier\":{\"\\u001b[2J\":{\"open\":{}}},\"backend\":\"\\u001b[2J\",\"info\":\"\\u001b[2J\"}";
    static const char *const replies[] = {
        "null",
        "[]",
        "7",
        "{}",
        "{\"entries\":7,\"flows\":{},\"per_thread\":[1,null,{}],\"per_tier\":[],\"info\":5}",
        full,
    };
    char *text = NULL;
    size_t size;

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(replies); i++) {
        json_t *reply = json_loads(replies[i], JSON_DECODE_ANY, NULL);
        FILE *f = open_memstream(&text, &size);

        assert_non_null(reply);
        ctl_show_list(f, reply);
        ctl_show_flows(f, reply, NULL, 0);
        ctl_show_flows(f, reply, reply, 1);
        ctl_show_stats(f, reply);
        ctl_show_info(f, reply);
        assert_int_equal(fclose(f), 0);
        assert_null(strchr(text, '\033'));
        free(text);
        json_decref(reply);
    }
}

static void test_the_busiest_flow_comes_first(void **state)
{
    json_t *before =
        json_loads("{\"flows\":[{\"proto\":\"tcp\",\"guest_addr\":\"10.0.2.100\",\"guest_port\":1,"
                   "\"bytes_to_guest\":9000,\"bytes_to_host\":0},{\"proto\":\"tcp\",\"guest_addr\":"
                   "\"10.0.2.100\",\"guest_port\":2,\"bytes_to_guest\":0,\"bytes_to_host\":0}]}",
                   0, NULL);
    json_t *now =
        json_loads("{\"flows\":[{\"proto\":\"tcp\",\"guest_addr\":\"10.0.2.100\",\"guest_port\":1,"
                   "\"bytes_to_guest\":9000,\"bytes_to_host\":0},{\"proto\":\"tcp\",\"guest_addr\":"
                   "\"10.0.2.100\",\"guest_port\":2,\"bytes_to_guest\":100,\"bytes_to_host\":100}]}",
                   0, NULL);
    char *text = NULL;
    size_t size;
    FILE *f = open_memstream(&text, &size);

    (void)state;
    ctl_show_flows(f, now, before, 2);
    assert_int_equal(fclose(f), 0);
    assert_string_equal(text, "PROTO  GUEST         REMOTE  TO GUEST  TO HOST   RATE\n"
                              "tcp    10.0.2.100:2  -            100      100  100/s\n"
                              "tcp    10.0.2.100:1  -           8.8K        0    0/s\n");
    free(text);
    json_decref(before);
    json_decref(now);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_columns_are_as_wide_as_they_have_to_be),
        cmocka_unit_test(test_nothing_that_a_terminal_obeys_comes_out),
        cmocka_unit_test(test_bytes),
        cmocka_unit_test(test_seconds),
        cmocka_unit_test(test_any_json_can_be_shown),
        cmocka_unit_test(test_the_busiest_flow_comes_first),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
