/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "api/session.h"

#include "base/bits.h"
#include "base/counters.h"
#include "base/log.h"
#include "test.h"

#include <arpa/inet.h>
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- a table of forwards that opens nothing ---- */

enum { TABLE_MAX = 8 };

struct forwards {
    struct forward_spec spec[TABLE_MAX]; /* in the order they were added */
    uint64_t id[TABLE_MAX];
    unsigned n;
    uint64_t last_id;
    uint64_t removed_id; /* what remove was called with last */
    unsigned n_adds;     /* calls */
    int refuse;          /* adding fails with this */
};

static struct forwards table;

int forwards_add(struct forwards *f, const struct forward_spec *spec, uint64_t *ret_id, struct failure *why)
{
    assert_ptr_equal(f, &table);
    f->n_adds++;
    if (f->refuse < 0)
        return failure(why, f->refuse, "choose another one", "cannot bind 0.0.0.0:%u",
                       address_port(&spec->host));
    assert_true(f->n < TABLE_MAX);
    f->spec[f->n] = *spec;
    f->id[f->n++] = *ret_id = ++f->last_id;
    return 0;
}

int forwards_remove(struct forwards *f, uint64_t id, struct failure *why)
{
    assert_ptr_equal(f, &table);
    f->removed_id = id;
    for (unsigned i = 0; i < f->n; i++) {
        if (f->id[i] != id)
            continue;
        f->n--;
        memmove(f->id + i, f->id + i + 1, (f->n - i) * sizeof(*f->id));
        memmove(f->spec + i, f->spec + i + 1, (f->n - i) * sizeof(*f->spec));
        return 0;
    }
    return failure(why, -ENOENT, NULL, "no forward has the id %llu", (unsigned long long)id);
}

void forwards_each(struct forwards *f, void (*visit)(const struct forward_info *info, void *arg), void *arg)
{
    assert_ptr_equal(f, &table);
    for (unsigned i = 0; i < f->n; i++) {
        struct forward_info info = {
            .id = f->id[i], .spec = f->spec[i], .path = "splice", .reason = "", .n_connections = 7};

        visit(&info, arg);
    }
}

/* ---- a client ---- */

static struct api_context context;
static struct session session;
static char *reply; /* the last one */

static int before_each(void **state)
{
    (void)state;
    memset(&table, 0, sizeof(table));
    context = (struct api_context){.forwards = &table, .backend = "epoll", .mode = "split"};
    inet_pton(AF_INET, "10.0.2.100", &context.guest);
    role_assert(&role_api);
    return session_init(&session, &context);
}

static int after_each(void **state)
{
    (void)state;
    role_assert(&role_api);
    session_deinit(&session);
    session_deinit(&session);
    free(reply);
    reply = NULL;
    return 0;
}

static void reconnect(void) RUNS_ON(role_api)
{
    session_deinit(&session);
    assert_int_equal(session_init(&session, &context), 0);
}

static void say_bytes(const char *bytes, size_t size) RUNS_ON(role_api)
{
    size_t room;
    char *at = session_room(&session, &room);

    assert_true(size <= room);
    memcpy(at, bytes, size);
    session_received(&session, size);
}

static void say(const char *text) RUNS_ON(role_api)
{
    say_bytes(text, strlen(text));
}

static enum session_step next(void) RUNS_ON(role_api)
{
    enum session_step step;
    size_t size = SIZE_MAX;
    char *text = NULL;

    step = session_next(&session, &text, &size);
    if (step == SESSION_REPLY) {
        assert_non_null(text);
        assert_int_equal(strlen(text), size);
        free(reply);
        reply = text;
    } else {
        assert_null(text);
        if (step == SESSION_WAIT) {
            size_t room;

            session_room(&session, &room);
            assert_true(room > 0);
        }
    }
    return step;
}

static void expect(enum session_step step) RUNS_ON(role_api)
{
    assert_int_equal(next(), step);
}

static void expect_reply(const char *text) RUNS_ON(role_api)
{
    expect(SESSION_REPLY);
    assert_string_equal(reply, text);
}

/* {"error":{"desc":"bad request: WHAT"}} and nothing else. */
static void expect_error(const char *what) RUNS_ON(role_api)
{
    char text[256];

    snprintf(text, sizeof(text), "{\"error\":{\"desc\":\"bad request: %s\"}}", what);
    expect_reply(text);
}

/* One connection per request, as it always was: the request, the client's end, the reply, the end. */
static const char *ask(const char *request) RUNS_ON(role_api)
{
    reconnect();
    say(request);
    session_ended(&session);
    expect(SESSION_REPLY);
    assert_int_equal(next(), SESSION_OVER);
    return reply;
}

static void ask_error(const char *request, const char *what) RUNS_ON(role_api)
{
    char text[256];

    snprintf(text, sizeof(text), "{\"error\":{\"desc\":\"bad request: %s\"}}", what);
    if (strcmp(ask(request), text) != 0)
        fail_msg("%s\nis answered with %s\nnot with       %s", request, reply, text);
}

/* As above, but more may be said: WHAT is the beginning. */
static void ask_error_beginning(const char *request, const char *what) RUNS_ON(role_api)
{
    char text[256];
    size_t size;

    snprintf(text, sizeof(text), "{\"error\":{\"desc\":\"bad request: %s", what);
    ask(request);
    size = strlen(reply);
    if (strncmp(reply, text, strlen(text)) != 0 || size < 3 || strcmp(reply + size - 3, "\"}}") != 0)
        fail_msg("%s\nis answered with   %s\nwhich is no longer %s", request, reply, text);
}

static const char *add_request(const char *arguments)
{
    static char text[1024];

    snprintf(text, sizeof(text), "{\"execute\":\"add_hostfwd\",\"arguments\":{%s}}", arguments);
    return text;
}

/* Adds what can be added; returns what the table was told. */
static const struct forward_spec *add(const char *arguments) RUNS_ON(role_api)
{
    table.n = 0;
    ask(add_request(arguments));
    if (strncmp(reply, "{\"return\":{\"id\":", 16) != 0)
        fail_msg("%s: %s", arguments, reply);
    assert_int_equal(table.n, 1);
    return &table.spec[0];
}

static void assert_address(const union address *a, const char *text, unsigned port)
{
    char buffer[INET6_ADDRSTRLEN];

    if (a->sa.sa_family == AF_INET6)
        inet_ntop(AF_INET6, &a->in6.sin6_addr, buffer, sizeof(buffer));
    else
        inet_ntop(AF_INET, &a->in.sin_addr, buffer, sizeof(buffer));
    assert_string_equal(buffer, text);
    assert_int_equal(address_port(a), port);
}

static const char list[] = "{\"execute\":\"list_hostfwd\"}";
static const char empty_list[] = "{\"return\":{\"entries\":[]},\"entries\":[]}";

/* ---- what is no command ---- */

static void test_what_is_no_json(void **state)
{
    static const char *const requests[] = {
        "",
        " ",
        "\n",
        "\r\n\r\n",
        "\xef\xbb\xbf",
        "// comment\n{\"execute\":\"list_hostfwd\"}",
        "{\"execute\":\"list_hostfwd\"/* comment */}",
        "{\"execute\":\"list_hostfwd\",\"execute\":\"list_hostfwd\"}",
        "{\"execute\":\"list_hostfwd\",\"arguments\":{\"a\":1,\"a\":1}}",
        "{\"execute\":\"list_hostfwd\"",
        "{\"execute\":\"list_hostfwd\",}",
        "{execute:\"list_hostfwd\"}",
        "{'execute':'list_hostfwd'}",
        "{\"execute\":\"list_\xffhostfwd\"}",
        "{\"execute\":\"\\ud800\"}",
        "{\"execute\":\"list_hostfwd\\u0000\"}",
        "1e400", /* beyond a double, as ever */
        "{\"execute\":\"remove_hostfwd\",\"arguments\":{\"id\":-1e400}}",
        "hello",
        "-",
        "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
    };

    (void)state;
    role_assert(&role_api);
    for (unsigned i = 0; i < ARRAY_SIZE(requests); i++)
        ask_error(requests[i], "cannot parse JSON");
    reconnect();
    say_bytes("\0{}", 3);
    expect_error("cannot parse JSON");
    expect(SESSION_OVER);
}

static void test_json_that_is_no_object(void **state)
{
    static const char *const requests[] = {
        "[]", "\"execute\"", "1", "-0.5", "true", "null", "[{\"execute\":\"list_hostfwd\"}]", "false"};

    (void)state;
    role_assert(&role_api);
    for (unsigned i = 0; i < ARRAY_SIZE(requests); i++)
        ask_error(requests[i], "json_object() failed");
}

static void test_objects_that_are_no_command(void **state)
{
    static const char *const nothing[] = {
        "{}",
        "{\"execute\":1}",
        "{\"execute\":null}",
        "{\"execute\":true}",
        "{\"execute\":[\"list_hostfwd\"]}",
        "{\"execute\":{\"execute\":\"list_hostfwd\"}}",
        "{\"Execute\":\"list_hostfwd\"}",
        "{\"arguments\":{\"execute\":\"list_hostfwd\"}}",
    };
    static const char *const unknown[] = {
        "{\"execute\":\"\"}",
        "{\"execute\":\"info\"}",
        "{\"execute\":\"ADD_HOSTFWD\"}",
        "{\"execute\":\"list_hostfwd \"}",
        "{\"execute\":\"list_hostfw\"}",
        "{\"execute\":\"%s%n\"}",
    };

    (void)state;
    role_assert(&role_api);
    for (unsigned i = 0; i < ARRAY_SIZE(nothing); i++)
        ask_error(nothing[i], "no execute found");
    for (unsigned i = 0; i < ARRAY_SIZE(unknown); i++)
        ask_error(unknown[i], "unknown execute");
}

/* jansson parses what the scanner let through: what is JSON must be JSON for both. */
static void test_whatever_is_json_can_be_parsed(void **state)
{
    static const char *const values[] = {
        "0",
        "-0",
        "1",
        "-1",
        "10",
        "0.5",
        "-0.5",
        "0.0",
        "1e5",
        "1E5",
        "1e+5",
        "1E-5",
        "0e0",
        "0E1",
        "0.1e1",
        "-1.25E+2",
        "9223372036854775807",
        "-9223372036854775808",
        "9223372036854775808",
        "18446744073709551616",
        "123456789012345678901234567890",
        "1e-400",
        "\"\"",
        "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"",
        "\"\\u0001\"",
        "\"\\u00e9\\u20ac\\ud83d\\ude00\"",
        "\"\\uffff\"",
        "\"\xf0\x9f\x98\x80\"",
        "\"\x7f\"",
        "\"'\"",
        "\"//\"",
        "\"/*\"",
        "\"\\/\"",
        "[]",
        "{}",
        "[[]]",
        "[1,-1,1.5,-1e5]",
        "{\"\":{\"\":null}}",
        "{\"a b\":1}",
        "{\"/\":1}",
        "{\"\\u00e9\":1}",
        "true",
        "false",
        "null",
        "[true,false,null]",
        "[ ]",
        "{ }",
        "[\t1\r\n,\n2 ]",
        "{\"true\":true}",
        "{\"null\":null,\"var\":1}",
    };
    char text[256];

    (void)state;
    role_assert(&role_api);
    for (unsigned i = 0; i < ARRAY_SIZE(values); i++) {
        snprintf(text, sizeof(text), "{\"x\":%s,\"execute\":\"list_hostfwd\"}", values[i]);
        if (strcmp(ask(text), empty_list) != 0)
            fail_msg("%s: %s", text, reply);
        snprintf(text, sizeof(text), "[%s]", values[i]);
        ask_error(text, "json_object() failed");
    }
}

static void test_a_byte_order_mark_is_no_part_of_the_request(void **state)
{
    (void)state;
    role_assert(&role_api);
    assert_string_equal(ask("\xef\xbb\xbf{\"execute\":\"list_hostfwd\"}"), empty_list);
    assert_string_equal(ask("\xef\xbb\xbf \n{\"execute\":\"list_hostfwd\"}"), empty_list);
    assert_string_equal(ask(" \n\t{\"execute\":\"list_hostfwd\"}"), empty_list);
}

/* ---- add_hostfwd ---- */

static void test_proto(void **state)
{
    static const char *const bad[] = {
        "",
        "\"proto\":\"\"",
        "\"proto\":\"TCP\"",
        "\"proto\":\"sctp\"",
        "\"proto\":\"tcp5\"",
        "\"proto\":\"tcp \"",
        "\"proto\":null",
        "\"proto\":6",
        "\"proto\":[\"tcp\"]",
        "\"Proto\":\"tcp\"",
    };
    char text[256];

    (void)state;
    role_assert(&role_api);
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        snprintf(text, sizeof(text), "\"host_port\":8080,\"guest_port\":80%s%s", *bad[i] ? "," : "", bad[i]);
        ask_error(add_request(text), "add_hostfwd: bad arguments.proto");
    }
    ask_error("{\"execute\":\"add_hostfwd\"}", "add_hostfwd: bad arguments.proto");
    ask_error("{\"execute\":\"add_hostfwd\",\"arguments\":{}}", "add_hostfwd: bad arguments.proto");
    ask_error("{\"execute\":\"add_hostfwd\",\"arguments\":null}", "add_hostfwd: bad arguments.proto");
    ask_error("{\"execute\":\"add_hostfwd\",\"arguments\":[]}", "add_hostfwd: bad arguments.proto");
    ask_error("{\"execute\":\"add_hostfwd\",\"arguments\":\"proto\"}", "add_hostfwd: bad arguments.proto");
    assert_int_equal(table.n_adds, 0);
    assert_int_equal(add("\"proto\":\"tcp\",\"host_port\":1,\"guest_port\":2")->proto, IPPROTO_TCP);
    assert_int_equal(add("\"proto\":\"udp\",\"host_port\":1,\"guest_port\":2")->proto, IPPROTO_UDP);
}

static void test_addresses_that_are_none(void **state)
{
    static const char *const bad[] = {"localhost",    "10.0.2", "10.0.2.256", "10.0.2.1/24",
                                      "0x7f000001",   "127.1",  " 0.0.0.0",   "0.0.0.0 ",
                                      "1.2.3.4:80",   ":::",    "[::1]",      "::1%lo",
                                      "fe80::1%eth0", "*",      "%s",         "10.0.2.\xc3\xa9"};
    char text[256];

    (void)state;
    role_assert(&role_api);
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        snprintf(text, sizeof(text),
                 "\"proto\":\"tcp\",\"host_addr\":\"%s\",\"host_port\":1,\"guest_port\":2", bad[i]);
        ask_error(add_request(text), "add_hostfwd: bad arguments.host_addr");
        snprintf(text, sizeof(text),
                 "\"proto\":\"tcp\",\"guest_addr\":\"%s\",\"host_port\":1,\"guest_port\":2", bad[i]);
        ask_error(add_request(text), "add_hostfwd: bad arguments.guest_addr");
    }
    assert_int_equal(table.n_adds, 0);
}

static void test_ports_that_are_none(void **state)
{
    static const char *const bad[] = {"0",
                                      "-1",
                                      "65536",
                                      "83622",
                                      "18087.9",
                                      "\"8080\"",
                                      "null",
                                      "true",
                                      "[8080]",
                                      "{}",
                                      "1e9",
                                      "0.5",
                                      "-0",
                                      "18446744073709551617",
                                      "18446744073709559696",
                                      "4294975376",
                                      "1e-400"};
    static const char *const good[] = {"1", "65535", "8080", "8080.0", "8.08e3", "808000e-2"};
    char text[256];

    (void)state;
    role_assert(&role_api);
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        snprintf(text, sizeof(text), "\"proto\":\"tcp\",\"host_port\":%s,\"guest_port\":80", bad[i]);
        ask_error(add_request(text), "add_hostfwd: bad arguments.host_port");
        snprintf(text, sizeof(text), "\"proto\":\"tcp\",\"host_port\":80,\"guest_port\":%s", bad[i]);
        ask_error(add_request(text), "add_hostfwd: bad arguments.guest_port");
    }
    ask_error(add_request("\"proto\":\"tcp\",\"guest_port\":80"), "add_hostfwd: bad arguments.host_port");
    ask_error(add_request("\"proto\":\"tcp\",\"host_port\":80"), "add_hostfwd: bad arguments.guest_port");
    assert_int_equal(table.n_adds, 0);
    for (unsigned i = 0; i < ARRAY_SIZE(good); i++) {
        const struct forward_spec *spec;
        unsigned port = i == 0 ? 1 : i == 1 ? 65535 : 8080;

        snprintf(text, sizeof(text), "\"proto\":\"tcp\",\"host_port\":%s,\"guest_port\":%s", good[i],
                 good[i]);
        spec = add(text);
        assert_int_equal(address_port(&spec->host), port);
        assert_int_equal(address_port(&spec->guest), port);
        assert_int_equal(spec->n_ports, 1);
    }
}

/* All arguments from the @i-th on are bad: the @i-th is named. */
static void test_complaints_come_in_their_order(void **state)
{
    static const struct {
        const char *name, *good, *bad;
    } arguments[] = {
        {"proto", "\"tcp\"", "\"sctp\""},
        {"host_addr", "\"127.0.0.1\"", "\"localhost\""},
        {"host_port", "8080", "0"},
        {"host_port_end", "8081", "8079"},
        {"guest_addr", "\"10.0.2.15\"", "\"nowhere\""},
        {"guest_port", "80", "\"80\""},
        {"path", "\"auto\"", "\"none\""},
    };

    (void)state;
    role_assert(&role_api);
    for (unsigned i = 0; i <= ARRAY_SIZE(arguments); i++) {
        char text[512] = "", what[64];

        for (unsigned j = ARRAY_SIZE(arguments); j-- > 0;) { /* not in the order of the complaints */
            size_t n = strlen(text);

            snprintf(text + n, sizeof(text) - n, "%s\"%s\":%s", n ? "," : "", arguments[j].name,
                     j < i ? arguments[j].good : arguments[j].bad);
        }
        if (i == ARRAY_SIZE(arguments)) {
            add(text);
            break;
        }
        snprintf(what, sizeof(what), "add_hostfwd: bad arguments.%s", arguments[i].name);
        ask_error(add_request(text), what);
    }
}

static void test_defaults(void **state)
{
    static const char *const forms[] = {
        "\"proto\":\"tcp\",\"host_port\":8080,\"guest_port\":80",
        "\"proto\":\"tcp\",\"host_addr\":\"\",\"host_port\":8080,\"guest_addr\":\"\",\"guest_port\":80",
        ("\"proto\":\"tcp\",\"host_addr\":\"0.0.0.0\",\"host_port\":8080,\"guest_addr\":\"0.0.0.0\","
         "\"guest_port\":80,\"comment\":{\"unknown\":[\"keys\"]}"),
    };

    (void)state;
    role_assert(&role_api);
    inet_pton(AF_INET, "192.168.7.100", &context.guest);
    for (unsigned i = 0; i < ARRAY_SIZE(forms); i++) {
        const struct forward_spec *spec = add(forms[i]);

        assert_address(&spec->host, "0.0.0.0", 8080);
        assert_address(&spec->guest, "192.168.7.100", 80);
        assert_int_equal(spec->n_ports, 1);
        assert_int_equal(spec->path, FORWARD_AUTO);
        assert_false(spec->v4_only || spec->v6_only);
    }
}

static void test_what_is_said_is_taken(void **state)
{
    const struct forward_spec *spec;

    (void)state;
    role_assert(&role_api);
    spec = add("\"proto\":\"udp\",\"host_addr\":\"127.0.0.1\",\"host_port\":5353,"
               "\"guest_addr\":\"172.16.0.9\",\"guest_port\":53,\"path\":\"slirp\"");
    assert_int_equal(spec->proto, IPPROTO_UDP);
    assert_address(&spec->host, "127.0.0.1", 5353);
    assert_address(&spec->guest, "172.16.0.9", 53); /* may lie outside of the network */
    assert_int_equal(spec->path, FORWARD_SLIRP);
}

static void test_ipv6(void **state)
{
    static const char ports[] = "\"host_port\":1,\"guest_port\":2";
    const struct forward_spec *spec;
    char text[256];

    (void)state;
    role_assert(&role_api);
    snprintf(text, sizeof(text), "\"proto\":\"tcp6\",%s", ports);
    spec = add(text);
    assert_address(&spec->host, "::", 1);
    assert_true(spec->v6_only);
    assert_address(&spec->guest, "10.0.2.100", 2); /* nobody knows a better one */
    snprintf(text, sizeof(text), "\"proto\":\"tcp6\",\"guest_addr\":\"::\",%s", ports);
    ask_error(add_request(text), "add_hostfwd: bad arguments.guest_addr");

    inet_pton(AF_INET6, "fd00::64", &context.guest6);
    assert_address(&add(text)->guest, "fd00::64", 2);
    snprintf(text, sizeof(text), "\"proto\":\"udp6\",%s", ports);
    spec = add(text);
    assert_int_equal(spec->proto, IPPROTO_UDP);
    assert_address(&spec->guest, "fd00::64", 2);
    snprintf(text, sizeof(text), "\"proto\":\"tcp\",\"host_addr\":\"::1\",%s", ports);
    spec = add(text);
    assert_address(&spec->host, "::1", 1);
    assert_false(spec->v6_only);
    assert_address(&spec->guest, "10.0.2.100", 2);
    snprintf(text, sizeof(text), "\"proto\":\"tcp4\",%s", ports);
    spec = add(text);
    assert_true(spec->v4_only);
    assert_address(&spec->host, "0.0.0.0", 1);

    snprintf(text, sizeof(text), "\"proto\":\"tcp4\",\"host_addr\":\"::1\",%s", ports);
    ask_error(add_request(text), "add_hostfwd: bad arguments.host_addr");
    snprintf(text, sizeof(text), "\"proto\":\"udp6\",\"host_addr\":\"127.0.0.1\",%s", ports);
    ask_error(add_request(text), "add_hostfwd: bad arguments.host_addr");
}

static void test_ranges(void **state)
{
    const struct forward_spec *spec;

    (void)state;
    role_assert(&role_api);
    spec = add("\"proto\":\"tcp\",\"host_port\":8000,\"host_port_end\":8099,\"guest_port\":80");
    assert_int_equal(spec->n_ports, 100);
    spec = add("\"proto\":\"tcp\",\"host_port\":1,\"host_port_end\":65535,\"guest_port\":1");
    assert_int_equal(spec->n_ports, 65535);
    spec = add("\"proto\":\"tcp\",\"host_port\":5,\"host_port_end\":5,\"guest_port\":65535");
    assert_int_equal(spec->n_ports, 1);
    add("\"proto\":\"tcp\",\"host_port\":1,\"host_port_end\":2,\"guest_port\":65534");
    ask_error(add_request("\"proto\":\"tcp\",\"host_port\":1,\"host_port_end\":2,\"guest_port\":65535"),
              "add_hostfwd: bad arguments.guest_port"); /* the last one would be 65536 */
    ask_error(add_request("\"proto\":\"tcp\",\"host_port\":9,\"host_port_end\":8,\"guest_port\":80"),
              "add_hostfwd: bad arguments.host_port_end");
    ask_error(add_request("\"proto\":\"tcp\",\"host_port\":9,\"host_port_end\":65536,\"guest_port\":80"),
              "add_hostfwd: bad arguments.host_port_end");
    ask_error(add_request("\"proto\":\"tcp\",\"host_port\":9,\"host_port_end\":\"9\",\"guest_port\":80"),
              "add_hostfwd: bad arguments.host_port_end");
}

static void test_the_reason_of_a_refusal_follows_the_known_text(void **state)
{
    static const char arguments[] = "\"proto\":\"tcp\",\"host_port\":8080,\"guest_port\":80";

    (void)state;
    role_assert(&role_api);
    table.refuse = -EADDRINUSE;
    ask_error_beginning(add_request(arguments), "add_hostfwd: slirp_add_hostfwd failed");
    assert_non_null(strstr(reply, "cannot bind 0.0.0.0:8080: Address already in use"));
    assert_int_equal(table.n_adds, 1);
    assert_int_equal(table.n, 0);
}

/* ---- ids, lists, removal ---- */

static void test_ids_grow_and_are_numbers(void **state)
{
    static const char arguments[] = "\"proto\":\"tcp\",\"host_port\":8080,\"guest_port\":80";

    (void)state;
    role_assert(&role_api);
    assert_string_equal(ask(add_request(arguments)), "{\"return\":{\"id\":1}}");
    assert_string_equal(ask(add_request(arguments)), "{\"return\":{\"id\":2}}");
    assert_string_equal(ask("{\"execute\":\"remove_hostfwd\",\"arguments\":{\"id\":2}}"), "{\"return\":{}}");
    assert_int_equal(table.removed_id, 2);
    assert_string_equal(ask(add_request(arguments)), "{\"return\":{\"id\":3}}");
    table.last_id = (1ULL << 53) - 1;
    assert_string_equal(ask(add_request(arguments)), "{\"return\":{\"id\":9007199254740992}}");
}

static void test_removal(void **state)
{
    static const char *const bad[] = {"\"\"", "\"1\"", "0",  "-1",  "2.9",   "null",
                                      "true", "[1]",   "{}", "0.5", "1e300", "9007199254740994",
                                      "-0"};
    char text[128];

    (void)state;
    role_assert(&role_api);
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        snprintf(text, sizeof(text), "{\"execute\":\"remove_hostfwd\",\"arguments\":{\"id\":%s}}", bad[i]);
        ask_error(text, "remove_hostfwd: bad arguments.id");
    }
    ask_error("{\"execute\":\"remove_hostfwd\"}", "remove_hostfwd: bad arguments.id");
    ask_error("{\"execute\":\"remove_hostfwd\",\"arguments\":{}}", "remove_hostfwd: bad arguments.id");
    ask_error("{\"execute\":\"remove_hostfwd\",\"arguments\":[1]}", "remove_hostfwd: bad arguments.id");
    ask_error("{\"execute\":\"remove_hostfwd\",\"id\":1}", "remove_hostfwd: bad arguments.id");
    assert_int_equal(table.removed_id, 0);
    ask_error("{\"execute\":\"remove_hostfwd\",\"arguments\":{\"id\":42}}",
              "remove_hostfwd: bad arguments.id");
    assert_int_equal(table.removed_id, 42);
    ask_error("{\"execute\":\"remove_hostfwd\",\"arguments\":{\"id\":9007199254740992}}",
              "remove_hostfwd: bad arguments.id");
    assert_int_equal(table.removed_id, 1ULL << 53);
}

static const char *text_in(const json_t *object, const char *key)
{
    return json_string_value(json_object_get(object, key));
}

static json_int_t number_in(const json_t *object, const char *key)
{
    return json_integer_value(json_object_get(object, key));
}

static void assert_entry(const json_t *entries, unsigned i, int64_t id, const char *proto, const char *host,
                         int64_t host_port, const char *guest, int64_t guest_port)
{
    const json_t *entry = json_array_get(entries, i);

    assert_int_equal(number_in(entry, "id"), id);
    assert_string_equal(text_in(entry, "proto"), proto);
    assert_string_equal(text_in(entry, "host_addr"), host);
    assert_int_equal(number_in(entry, "host_port"), host_port);
    assert_string_equal(text_in(entry, "guest_addr"), guest);
    assert_int_equal(number_in(entry, "guest_port"), guest_port);
    assert_string_equal(text_in(entry, "path"), "splice");
    assert_int_equal(number_in(entry, "connections"), 7);
}

static void test_the_list_has_both_shapes(void **state)
{
    json_t *object;

    (void)state;
    role_assert(&role_api);
    inet_pton(AF_INET6, "fd00::64", &context.guest6);
    assert_string_equal(ask(list), empty_list);
    ask(add_request("\"proto\":\"tcp\",\"host_port\":8080,\"guest_addr\":\"\",\"guest_port\":80"));
    ask(add_request("\"proto\":\"udp\",\"host_addr\":\"127.0.0.1\",\"host_port\":53,\"guest_port\":53"));
    ask(add_request("\"proto\":\"tcp6\",\"host_port\":1000,\"host_port_end\":1009,\"guest_port\":2000"));
    ask(add_request("\"proto\":\"tcp\",\"host_addr\":\"::1\",\"host_port\":1,\"guest_port\":1"));
    ask("{\"execute\":\"list_hostfwd\",\"arguments\":\"ignored\"}");
    assert_null(strpbrk(reply, " \n"));
    object = json_loads(reply, 0, NULL);
    assert_non_null(object);
    for (int shape = 0; shape < 2; shape++) {
        const json_t *holder = shape ? json_object_get(object, "return") : object;
        const json_t *entries = json_object_get(holder, "entries");

        assert_int_equal(json_array_size(entries), 4);
        assert_entry(entries, 0, 1, "tcp", "0.0.0.0", 8080, "10.0.2.100", 80);
        assert_entry(entries, 1, 2, "udp", "127.0.0.1", 53, "10.0.2.100", 53);
        assert_entry(entries, 2, 3, "tcp6", "::", 1000, "fd00::64", 2000);
        assert_entry(entries, 3, 4, "tcp", "::1", 1, "10.0.2.100", 1);
        for (unsigned i = 0; i < 4; i++)
            assert_int_equal(json_object_get(json_array_get(entries, i), "host_port_end") != NULL, i == 2);
        assert_int_equal(number_in(json_array_get(entries, 2), "host_port_end"), 1009);
    }
    json_decref(object);
    ask("{\"execute\":\"remove_hostfwd\",\"arguments\":{\"id\":1}}");
    ask(list);
    assert_null(strstr(reply, "\"id\":1,"));
    assert_true(strstr(reply, "\"id\":2,") < strstr(reply, "\"id\":3,")); /* as they were added */
}

static void test_statistics(void **state)
{
    static const char begin[] = "{\"return\":{\"backend\":\"epoll\",\"threads\":\"split\",";
    uint64_t requests = counter_read(COUNTER_api_requests), errors = counter_read(COUNTER_api_errors);

    (void)state;
    role_assert(&role_api);
    ask("{}");
    ask("{");
    ask(list);
    assert_int_equal(counter_read(COUNTER_api_requests) - requests, 3);
    assert_int_equal(counter_read(COUNTER_api_errors) - errors, 2);
    ask("{\"execute\":\"stats\"}");
    assert_int_equal(strncmp(reply, begin, sizeof(begin) - 1), 0);
    for (unsigned i = 0; i < COUNTER_COUNT; i++) {
        char key[64];

        snprintf(key, sizeof(key), ",\"%s\":", counter_rows[i].name);
        assert_non_null(strstr(reply, key));
    }
}

/* ---- flows ---- */

enum { N_FLOWS = 250 };

/* @arg: how many there are, or a negative errno. */
static int list_flows(void *arg, uint64_t from, struct flow_info *rows, uint32_t max, uint64_t *ret_next)
{
    int n_all = *(int *)arg;
    uint32_t n = 0;

    assert_in_range(max, 1, FLOW_ROWS_MAX);
    *ret_next = 0;
    if (n_all < 0)
        return n_all;
    for (; from < (uint64_t)n_all && n < max; from++, n++) {
        rows[n] = (struct flow_info){.tier = "splice-forward",
                                     .state = "open",
                                     .proto = IPPROTO_TCP,
                                     .to_host = from,
                                     .age_ns = 1500000};
        inet_pton(AF_INET, "10.0.2.100", &rows[n].guest.in.sin_addr);
        rows[n].guest.sa.sa_family = AF_INET;
        address_set_port(&rows[n].guest, (uint16_t)from);
    }
    if (from < (uint64_t)n_all)
        *ret_next = from;
    return (int)n;
}

static void test_flows_come_in_pages_from_all_who_carry_them(void **state)
{
    static int n_first = N_FLOWS, n_none = 0, n_last = 3;
    unsigned limits[] = {1, 7, 100, 128, 129, 1000};

    (void)state;
    role_assert(&role_api);
    context.flow_sources[0] = (struct flow_source){list_flows, &n_first};
    context.flow_sources[1] = (struct flow_source){list_flows, &n_none};
    context.flow_sources[2] = (struct flow_source){list_flows, &n_last};
    context.n_flow_sources = 3;
    for (unsigned l = 0; l < ARRAY_SIZE(limits); l++) {
        char request[128];
        json_int_t cursor = 0;
        unsigned n = 0, n_pages = 0;
        bool more = true;

        while (more) {
            json_t *root, *page, *rows;

            snprintf(request, sizeof(request),
                     "{\"execute\":\"flows\",\"arguments\":{\"limit\":%u,\"cursor\":%lld}}", limits[l],
                     (long long)cursor);
            ask(request);
            root = json_loads(reply, 0, NULL);
            page = json_object_get(root, "return");
            rows = json_object_get(page, "flows");
            assert_in_range(json_array_size(rows), 0, limits[l]);
            for (size_t i = 0; i < json_array_size(rows); i++, n++)
                assert_int_equal(json_integer_value(json_object_get(json_array_get(rows, i), "guest_port")),
                                 n % N_FLOWS);
            more = json_is_integer(json_object_get(page, "next"));
            cursor = json_integer_value(json_object_get(page, "next"));
            json_decref(root);
            assert_in_range(++n_pages, 1, N_FLOWS + 10);
        }
        assert_int_equal(n, N_FLOWS + 3);
    }
}

static void test_a_row_says_what_is_known(void **state)
{
    static int n_one = 1;

    (void)state;
    role_assert(&role_api);
    context.flow_sources[0] = (struct flow_source){list_flows, &n_one};
    context.n_flow_sources = 1;
    ask("{\"execute\":\"flows\"}");
    assert_string_equal(reply, "{\"return\":{\"flows\":[{\"proto\":\"tcp\",\"guest_addr\":\"10.0.2.100\","
                               "\"guest_port\":0,\"tier\":\"splice-forward\",\"state\":\"open\","
                               "\"bytes_to_guest\":0,\"bytes_to_host\":0,\"age_ms\":1}]}}");
}

static void test_bad_pages_and_silent_carriers_are_errors(void **state)
{
    static int n_late = -ETIMEDOUT;

    (void)state;
    role_assert(&role_api);
    context.flow_sources[0] = (struct flow_source){list_flows, &n_late};
    context.n_flow_sources = 1;
    ask("{\"execute\":\"flows\",\"arguments\":{\"limit\":0}}");
    assert_non_null(strstr(reply, "bad request: flows: bad arguments.limit"));
    ask("{\"execute\":\"flows\",\"arguments\":{\"limit\":1001}}");
    assert_non_null(strstr(reply, "bad request: flows: bad arguments.limit"));
    ask("{\"execute\":\"flows\",\"arguments\":{\"cursor\":1099511627776}}");
    assert_non_null(strstr(reply, "bad request: flows: bad arguments.cursor"));
    ask("{\"execute\":\"flows\",\"arguments\":{\"cursor\":null}}");
    assert_non_null(strstr(reply, "bad request: flows: bad arguments.cursor"));
    ask("{\"execute\":\"flows\"}");
    assert_string_equal(reply, "{\"error\":{\"desc\":\"bad request: flows: Connection timed out\"}}");
}

static char *no_info(void *arg)
{
    (void)arg;
    return NULL;
}

static char *some_info(void *arg)
{
    return strdup(arg);
}

static void test_slirp_info(void **state)
{
    (void)state;
    role_assert(&role_api);
    context.slirp_info = some_info;
    context.arg = (char[]){"a \"b\"\n c"};
    ask("{\"execute\":\"slirp_info\"}");
    assert_string_equal(reply, "{\"return\":{\"info\":\"a \\\"b\\\"\\n c\"}}");
    context.slirp_info = no_info;
    ask("{\"execute\":\"slirp_info\"}");
    assert_non_null(strstr(reply, "\"error\""));
}

/* ---- framing ---- */

static void test_a_request_may_come_in_pieces(void **state)
{
    const char *request =
        add_request("\"proto\":\"tcp\",\"host_port\":8080,\"guest_addr\":\"\",\"guest_port\":80");
    size_t size = strlen(request);

    (void)state;
    role_assert(&role_api);
    for (size_t i = 1; i < size; i++) {
        table = (struct forwards){.n = 0};
        reconnect();
        say_bytes(request, i);
        expect(SESSION_WAIT);
        expect(SESSION_WAIT); /* asking twice is harmless */
        assert_int_equal(table.n, 0);
        say_bytes(request + i, size - i);
        expect_reply("{\"return\":{\"id\":1}}");
        expect(SESSION_OVER);
        expect(SESSION_OVER);
    }
    reconnect();
    for (size_t i = 0; i < size; i++) {
        expect(SESSION_WAIT);
        say_bytes(request + i, 1);
    }
    expect_reply("{\"return\":{\"id\":2}}");
}

static void test_the_reply_does_not_wait_for_the_clients_end(void **state)
{
    (void)state;
    role_assert(&role_api);
    say(list);
    expect_reply(empty_list);
    expect(SESSION_OVER);
}

static void test_a_number_waits_for_its_end(void **state)
{
    (void)state;
    role_assert(&role_api);
    say("42");
    expect(SESSION_WAIT);
    session_ended(&session);
    expect_error("json_object() failed");
    expect(SESSION_OVER);
    reconnect();
    say("42");
    expect(SESSION_WAIT);
    say("\n{\"execute\":\"list_hostfwd\"}");
    expect_error("json_object() failed");
    expect(SESSION_REPLY);
    assert_string_equal(reply + 1, empty_list);
    expect(SESSION_OVER);
}

static void test_a_silent_client_is_told_that_nothing_is_no_json(void **state)
{
    (void)state;
    role_assert(&role_api);
    expect(SESSION_WAIT);
    assert_false(session_is_idle(&session));
    session_ended(&session);
    expect_error("cannot parse JSON");
    expect(SESSION_OVER);
}

static void test_lines_are_answered_in_their_order(void **state)
{
    char text[2048];

    (void)state;
    role_assert(&role_api);
    snprintf(text, sizeof(text), "%s\n{\"execute\":\"nonsense\"}\r\n%s\n",
             add_request("\"proto\":\"tcp\",\"host_port\":1,\"guest_port\":1"),
             "{\"execute\":\"remove_hostfwd\",\"arguments\":{\"id\":1}} \t");
    say(text);
    expect_reply("{\"return\":{\"id\":1}}");
    assert_false(session_is_idle(&session));
    expect_reply("\n{\"error\":{\"desc\":\"bad request: unknown execute\"}}");
    expect_reply("\n{\"return\":{}}");
    expect(SESSION_WAIT);
    assert_true(session_is_idle(&session));
    say(" \n\n"); /* between requests white space is nothing */
    expect(SESSION_WAIT);
    assert_true(session_is_idle(&session));
    say(list);
    expect(SESSION_REPLY);
    assert_string_equal(reply, "\n{\"return\":{\"entries\":[]},\"entries\":[]}");
    expect(SESSION_OVER); /* this one did not end with a newline */

    reconnect();
    say("{\"execute\":\"list_hostfwd\"}\n");
    expect_reply(empty_list);
    expect(SESSION_WAIT);
    session_ended(&session);
    expect(SESSION_OVER); /* without a complaint */

    reconnect();
    say("{\"execute\":\"list_hostfwd\"}\n{\"execute\":");
    expect_reply(empty_list);
    expect(SESSION_WAIT);
    assert_false(session_is_idle(&session));
    session_ended(&session);
    expect_reply("\n{\"error\":{\"desc\":\"bad request: cannot parse JSON\"}}");
    expect(SESSION_OVER);
}

static void test_lines_in_pieces(void **state)
{
    static const char text[] = "{\"execute\":\"nonsense\"}\n{\"execute\":\"list_hostfwd\"}\n[]\n";
    const size_t first = strchr(text, '\n') - text + 1, second = strlen(text) - 3;

    (void)state;
    role_assert(&role_api);
    for (size_t i = 1; i < sizeof(text) - 1; i++) {
        unsigned n = 0, expected = 3;

        /* Behind a request whose newline has not come the session is over: decided when it was answered. */
        if (i == first - 1)
            expected = 1;
        else if (i == second - 1)
            expected = 2;
        else if (i == sizeof(text) - 2)
            expected = 3;
        reconnect();
        say_bytes(text, i);
        while (next() == SESSION_REPLY)
            n++;
        if (next() == SESSION_WAIT) {
            say_bytes(text + i, sizeof(text) - 1 - i);
            while (next() == SESSION_REPLY)
                n++;
        }
        if (n != expected)
            fail_msg("cut at %zu: %u replies, not %u", i, n, expected);
    }
}

static void test_nothing_is_answered_behind_what_is_no_json(void **state)
{
    (void)state;
    role_assert(&role_api);
    say("{\"execute\":\"list_hostfwd\"}\n{nonsense}\n{\"execute\":\"list_hostfwd\"}\n");
    expect_reply(empty_list);
    expect_reply("\n{\"error\":{\"desc\":\"bad request: cannot parse JSON\"}}");
    expect(SESSION_OVER);
}

static void test_garbage_behind_a_request_is_ignored(void **state)
{
    static const char *const behind[] = {
        "x", "}", "{\"execute\":\"nonsense\"}", " {}", "\t\r {}\n", "\x01", "// no\n", "\xff"};
    char text[128];

    (void)state;
    role_assert(&role_api);
    for (unsigned i = 0; i < ARRAY_SIZE(behind); i++) {
        snprintf(text, sizeof(text), "%s%s", list, behind[i]);
        assert_string_equal(ask(text), empty_list);
    }
    reconnect();
    say_bytes("{\"execute\":\"list_hostfwd\"}\0\0\0", sizeof(list) - 1 + 3);
    expect_reply(empty_list);
    expect(SESSION_OVER);
}

/* ---- keep_alive ---- */

static void test_keep_alive(void **state)
{
    (void)state;
    role_assert(&role_api);
    say("{\"execute\":\"list_hostfwd\",\"keep_alive\":true}");
    expect_reply("{\"return\":{\"entries\":[]},\"entries\":[]}\n");
    expect(SESSION_WAIT);
    assert_true(session_is_idle(&session));
    say("{\"execute\":\"nonsense\"}[]{}"); /* still kept */
    expect_reply("{\"error\":{\"desc\":\"bad request: unknown execute\"}}\n");
    expect_reply("{\"error\":{\"desc\":\"bad request: json_object() failed\"}}\n");
    expect_reply("{\"error\":{\"desc\":\"bad request: no execute found\"}}\n");
    expect(SESSION_WAIT);
    say("{\"execute\":\"list_hostfwd\",\"keep_alive\":false}\n{}");
    expect_reply(empty_list);
    expect(SESSION_OVER); /* although there was a newline */
}

static void test_keep_alive_ends_with_the_client(void **state)
{
    (void)state;
    role_assert(&role_api);
    say("{\"execute\":\"list_hostfwd\",\"keep_alive\":true}\n");
    expect(SESSION_REPLY);
    expect(SESSION_WAIT);
    session_ended(&session);
    expect(SESSION_OVER);
}

static void test_keep_alive_behind_a_line(void **state)
{
    (void)state;
    role_assert(&role_api);
    say("{\"execute\":\"list_hostfwd\"}\n{\"keep_alive\":true}[]");
    expect_reply(empty_list);
    expect_reply("\n{\"error\":{\"desc\":\"bad request: no execute found\"}}\n");
    expect_reply("{\"error\":{\"desc\":\"bad request: json_object() failed\"}}\n");
    expect(SESSION_WAIT);
}

static void test_only_a_boolean_keeps_alive(void **state)
{
    static const char *const values[] = {"1", "\"true\"", "null", "[true]", "{}"};
    char text[128];

    (void)state;
    role_assert(&role_api);
    for (unsigned i = 0; i < ARRAY_SIZE(values); i++) {
        snprintf(text, sizeof(text), "{\"execute\":\"list_hostfwd\",\"keep_alive\":%s}", values[i]);
        reconnect();
        say(text);
        expect_reply(empty_list);
        expect(SESSION_OVER);
    }
    reconnect();
    say("{\"execute\":\"list_hostfwd\",\"arguments\":{\"keep_alive\":true}}");
    expect_reply(empty_list);
    expect(SESSION_OVER);
}

/* ---- sizes ---- */

/* A list request of @size bytes, in pieces that are no divisor of anything; with @closed its last byte. */
static void say_padded(size_t size, bool closed, char pad) RUNS_ON(role_api)
{
    static const char begin[] = "{\"execute\":\"list_hostfwd\",\"pad\":\"", end[] = "\"}";
    char *text = malloc(size);
    size_t at = 0;

    memset(text, pad, size);
    memcpy(text, begin, sizeof(begin) - 1);
    if (closed)
        memcpy(text + size - 2, end, 2);
    while (at < size) {
        size_t n = size - at < 4099 ? size - at : 4099;

        say_bytes(text + at, n);
        at += n;
        if (at < size)
            expect(SESSION_WAIT);
    }
    free(text);
}

static void test_a_request_may_have_64_kib(void **state)
{
    (void)state;
    role_assert(&role_api);
    assert_int_equal(REQUEST_MAX, 65536);
    say_padded(REQUEST_MAX, true, 'x');
    expect_reply(empty_list);
    expect(SESSION_OVER);
    reconnect();
    say_padded(4096, true, 'x'); /* was too large once */
    expect_reply(empty_list);

    reconnect();
    say_padded(REQUEST_MAX - 1, false, 'x');
    expect(SESSION_WAIT);
    say("\"");
    expect_error("too large message"); /* the brace does not fit */
    expect(SESSION_OVER);
    reconnect();
    say_padded(REQUEST_MAX, false, '\x7f'); /* every byte of it is escaped in the log */
    expect_error("too large message");
    expect(SESSION_OVER);
    session_ended(&session);
    expect(SESSION_OVER);
}

static void test_white_space_has_a_limit_too(void **state)
{
    static char blanks[REQUEST_MAX];

    (void)state;
    role_assert(&role_api);
    memset(blanks, ' ', sizeof(blanks));
    say_bytes(blanks, sizeof(blanks));
    expect_error("too large message");
    expect(SESSION_OVER);
}

static void test_the_limit_is_of_each_request(void **state)
{
    (void)state;
    role_assert(&role_api);
    for (int i = 0; i < 4; i++) {
        say_padded(REQUEST_MAX - 1, true, 'x');
        say("\n");
        expect(SESSION_REPLY);
        assert_string_equal(reply + (i > 0), empty_list);
        expect(SESSION_WAIT);
    }
    say_padded(REQUEST_MAX, false, 'x');
    expect_reply("\n{\"error\":{\"desc\":\"bad request: too large message\"}}");
    expect(SESSION_OVER);
}

static void test_a_request_behind_another_moves_to_the_front(void **state)
{
    static char both[REQUEST_MAX];
    static const char second[] = "{\"execute\":\"list_hostfwd\"";
    size_t at;

    (void)state;
    role_assert(&role_api);
    memset(both, ' ', sizeof(both));
    at = sizeof(list);
    memcpy(both, list, at);
    both[at - 1] = '\n';
    memcpy(both + sizeof(both) - (sizeof(second) - 1), second, sizeof(second) - 1);
    say_bytes(both, sizeof(both));
    expect_reply(empty_list);
    expect(SESSION_WAIT); /* finds room: what the first one had */
    memset(both, '\n', at);
    both[0] = '}';
    say_bytes(both, at);
    expect_reply("\n{\"return\":{\"entries\":[]},\"entries\":[]}");
    expect(SESSION_WAIT);
}

/* Nor is there anything in them that the reader of the log would believe. */
static void test_hostile_bytes_are_only_bytes(void **state)
{
    static char text[REQUEST_MAX];

    (void)state;
    role_assert(&role_api);
    for (int c = 0; c < 256; c++) {
        memset(text, c, sizeof(text));
        reconnect();
        say_bytes(text, 2000);
        session_ended(&session);
        expect(SESSION_REPLY);
        assert_int_equal(strncmp(reply, "{\"error\":{\"desc\":\"bad request: ", 31), 0);
        expect(SESSION_OVER);
    }
}

#define session_test(f) cmocka_unit_test_setup_teardown(f, before_each, after_each)

int main(void)
{
    const struct CMUnitTest tests[] = {
        session_test(test_what_is_no_json),
        session_test(test_json_that_is_no_object),
        session_test(test_objects_that_are_no_command),
        session_test(test_whatever_is_json_can_be_parsed),
        session_test(test_a_byte_order_mark_is_no_part_of_the_request),
        session_test(test_proto),
        session_test(test_addresses_that_are_none),
        session_test(test_ports_that_are_none),
        session_test(test_complaints_come_in_their_order),
        session_test(test_defaults),
        session_test(test_what_is_said_is_taken),
        session_test(test_ipv6),
        session_test(test_ranges),
        session_test(test_the_reason_of_a_refusal_follows_the_known_text),
        session_test(test_ids_grow_and_are_numbers),
        session_test(test_flows_come_in_pages_from_all_who_carry_them),
        session_test(test_a_row_says_what_is_known),
        session_test(test_bad_pages_and_silent_carriers_are_errors),
        session_test(test_slirp_info),
        session_test(test_removal),
        session_test(test_the_list_has_both_shapes),
        session_test(test_statistics),
        session_test(test_a_request_may_come_in_pieces),
        session_test(test_the_reply_does_not_wait_for_the_clients_end),
        session_test(test_a_number_waits_for_its_end),
        session_test(test_a_silent_client_is_told_that_nothing_is_no_json),
        session_test(test_lines_are_answered_in_their_order),
        session_test(test_lines_in_pieces),
        session_test(test_nothing_is_answered_behind_what_is_no_json),
        session_test(test_garbage_behind_a_request_is_ignored),
        session_test(test_keep_alive),
        session_test(test_keep_alive_ends_with_the_client),
        session_test(test_keep_alive_behind_a_line),
        session_test(test_only_a_boolean_keeps_alive),
        session_test(test_a_request_may_have_64_kib),
        session_test(test_white_space_has_a_limit_too),
        session_test(test_the_limit_is_of_each_request),
        session_test(test_a_request_behind_another_moves_to_the_front),
        session_test(test_hostile_bytes_are_only_bytes),
    };
    int r;

    log_set_level(LOG_LEVEL_WARNING); /* not every request */
    command_init();
    role_enter(&role_api);
    r = cmocka_run_group_tests(tests, NULL, NULL);
    role_leave(&role_api);
    return r;
}
