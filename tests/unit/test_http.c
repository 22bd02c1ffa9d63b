/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "api/http.h"

#include "api/metrics.h"
#include "base/bits.h"
#include "base/counters.h"
#include "test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- a table of forwards that opens nothing ---- */

struct forwards {
    unsigned n;
};

static struct forwards table;

int forwards_add(struct forwards *f, const struct forward_spec *spec, uint64_t *ret_id, struct failure *why)
{
    (void)f;
    (void)spec;
    (void)ret_id;
    (void)why;
    fail_msg("metrics change nothing");
    return -1;
}

int forwards_remove(struct forwards *f, uint64_t id, struct failure *why)
{
    return forwards_add(f, NULL, &id, why);
}

void forwards_each(struct forwards *f, void (*visit)(const struct forward_info *info, void *arg), void *arg)
{
    for (unsigned i = 0; i < f->n; i++) {
        struct forward_info info = {
            .id = i + 1, .path = "slirp", .reason = "a \"reason\" with \\ and\n all", .bytes_to_guest = 7};

        info.spec.proto = i % 2 ? IPPROTO_UDP : IPPROTO_TCP;
        info.spec.host.in.sin_family = info.spec.guest.in.sin_family = AF_INET;
        visit(&info, arg);
    }
}

/* ---- a scraper ---- */

static struct api_context context;
static struct http http;
static char *reply; /* the last one, terminated */

static int before_each(void **state)
{
    (void)state;
    table = (struct forwards){.n = 2};
    context = (struct api_context){
        .forwards = &table, .backend = "epoll", .mode = "split", .outbound = "because \"no\"\n"};
    role_assert(&role_api);
    return http_init(&http, &context);
}

static int after_each(void **state)
{
    (void)state;
    role_assert(&role_api);
    http_deinit(&http);
    http_deinit(&http);
    free(reply);
    reply = NULL;
    return 0;
}

static void say_bytes(const char *bytes, size_t size) RUNS_ON(role_api)
{
    size_t room;
    char *at = http_room(&http, &room);

    assert_true(size <= room);
    memcpy(at, bytes, size);
    http_received(&http, size);
}

static enum session_step next(void) RUNS_ON(role_api)
{
    char *text = NULL;
    size_t size = 0;
    enum session_step step = http_next(&http, &text, &size);

    if (step == SESSION_REPLY) {
        free(reply);
        reply = strndup(text, size);
        assert_int_equal(strlen(reply), size);
        free(text);
    }
    return step;
}

/* One request on a connection of its own; returns its status. */
static unsigned ask(const char *request) RUNS_ON(role_api)
{
    http_deinit(&http);
    assert_int_equal(http_init(&http, &context), 0);
    say_bytes(request, strlen(request));
    http_ended(&http);
    assert_int_equal(next(), SESSION_REPLY);
    assert_int_equal(strncmp(reply, "HTTP/1.1 ", 9), 0);
    assert_non_null(strstr(reply, "\r\n\r\n"));
    return (unsigned)strtoul(reply + 9, NULL, 10);
}

static const char *body(void)
{
    return strstr(reply, "\r\n\r\n") + 4;
}

static void test_metrics_are_served(void **state)
{
    char length[64];

    (void)state;
    role_assert(&role_api);
    assert_int_equal(ask("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"), 200);
    assert_non_null(
        strstr(reply, "\r\nContent-Type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n"));
    snprintf(length, sizeof(length), "\r\nContent-Length: %zu\r\n", strlen(body()));
    assert_non_null(strstr(reply, length));
    assert_non_null(strstr(reply, "\r\nConnection: keep-alive\r\n"));
    assert_string_equal(reply + strlen(reply) - 6, "# EOF\n");
}

static void test_head_has_no_content(void **state)
{
    (void)state;
    role_assert(&role_api);
    assert_int_equal(ask("HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n"), 200);
    assert_string_equal(body(), "");
    assert_null(strstr(reply, "Content-Length: 0\r\n"));
}

static void test_requests_follow_each_other_and_come_in_pieces(void **state)
{
    static const char requests[] =
        "\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\nHEAD /metrics?a=b HTTP/1.1\nhost:x\n\n"
        "GET http://a/nothing HTTP/1.1\r\nHost: x\r\n\r\n"
        "GET / HTTP/1.0\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n";
    static const char *const expected[] = {"200 OK", "200 OK", "404 Not Found", "200 OK"};

    (void)state;
    role_assert(&role_api);
    for (size_t piece = 1; piece < 40; piece++) {
        unsigned n = 0;

        http_deinit(&http);
        assert_int_equal(http_init(&http, &context), 0);
        for (size_t at = 0; at < strlen(requests) && n < 4; at += piece) {
            say_bytes(requests + at, min_u32((uint32_t)piece, (uint32_t)(strlen(requests) - at)));
            while (next() == SESSION_REPLY) {
                assert_in_range(n, 0, 3);
                assert_int_equal(strncmp(reply + 9, expected[n], strlen(expected[n])), 0);
                n++;
            }
        }
        assert_int_equal(n, 4);
        assert_int_equal(next(), SESSION_OVER); /* HTTP/1.0 was the last */
        assert_non_null(strstr(reply, "Connection: close"));
    }
}

static void test_who_wants_to_close_is_let_go(void **state)
{
    (void)state;
    role_assert(&role_api);
    (void)ask("GET / HTTP/1.1\r\nHost: x\r\nConnection: foo, Close\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_non_null(strstr(reply, "Connection: close"));
    assert_int_equal(next(), SESSION_OVER);
    (void)ask("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_non_null(strstr(reply, "Connection: keep-alive"));
    assert_int_equal(next(), SESSION_REPLY);
}

static void test_what_is_refused(void **state)
{
    static const struct {
        const char *request;
        unsigned status;
    } cases[] = {
        {"GET /metrics HTTP/1.1\r\n\r\n", 400}, /* RFC 9112 3.2 */
        {"GET /metrics HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400},
        {"GET /metrics HTTP/1.1\r\nHost : x\r\n\r\n", 400},
        {"GET /metrics HTTP/1.1\r\nHost: x\r\n folded\r\n\r\n", 400},
        {"GET /metrics HTTP/1.1\r\nno colon\r\n\r\n", 400},
        {"GET /metrics HTTP/1.1\r\nHost: x", 400},
        {"GET /metrics HTTP/1.1\r\nHo\rst: x\r\n\r\n", 400},
        {"GET /metrics HTTP/2.0\r\nHost: x\r\n\r\n", 505},
        {"GET /metrics HTTP/1.1.1\r\nHost: x\r\n\r\n", 505},
        {"GET /metrics FTP/1.1\r\nHost: x\r\n\r\n", 400},
        {"GET /metrics\r\n\r\n", 400},
        {"GET\r\n\r\n", 400},
        {"GET  /metrics HTTP/1.1\r\nHost: x\r\n\r\n", 400},
        {"G\"T /metrics HTTP/1.1\r\nHost: x\r\n\r\n", 400},
        {"POST /metrics HTTP/1.1\r\nHost: x\r\n\r\n", 405},
        {"get /metrics HTTP/1.1\r\nHost: x\r\n\r\n", 405},
        {"GET /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello", 413},
        {"GET /metrics HTTP/1.1\r\nHost: x\r\nContent-Length:\r\n\r\n", 413},
        {"GET /metrics HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 413},
        {"GET /metricsx HTTP/1.1\r\nHost: x\r\n\r\n", 404},
        {"GET /../metrics HTTP/1.1\r\nHost: x\r\n\r\n", 404},
        {"GET * HTTP/1.1\r\nHost: x\r\n\r\n", 404},
    };

    (void)state;
    role_assert(&role_api);
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        assert_int_equal(ask(cases[i].request), cases[i].status);
        if (cases[i].status != 404) {
            assert_non_null(strstr(reply, "Connection: close"));
            assert_int_equal(next(), SESSION_OVER);
        }
    }
    assert_int_equal(ask("GET /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"), 200);
    assert_int_equal(ask("POST / HTTP/1.1\r\nHost: x\r\n\r\n"), 405);
    assert_non_null(strstr(reply, "Allow: GET, HEAD\r\n"));
}

static void test_a_request_without_end_is_refused_at_the_limit(void **state)
{
    static char filler[HTTP_REQUEST_MAX];
    size_t room;

    (void)state;
    role_assert(&role_api);
    say_bytes("GET / HTTP/1.1\r\nX: ", 19);
    assert_int_equal(next(), SESSION_WAIT);
    memset(filler, 'a', sizeof(filler));
    (void)http_room(&http, &room);
    say_bytes(filler, room);
    assert_int_equal(next(), SESSION_REPLY);
    assert_int_equal(strncmp(reply, "HTTP/1.1 431 ", 13), 0);
    assert_int_equal(next(), SESSION_OVER);
}

static void test_nothing_is_the_end_without_an_answer(void **state)
{
    (void)state;
    role_assert(&role_api);
    assert_int_equal(next(), SESSION_WAIT);
    assert_true(http_is_idle(&http));
    http_ended(&http);
    assert_int_equal(next(), SESSION_OVER);
}

static void test_hostile_bytes_are_only_bytes(void **state)
{
    static const char alphabet[] = "GETHAD /metrics.1:\r\n\r\n\r\n \t\0\xff%?#Host";
    unsigned seed = 1;

    (void)state;
    role_assert(&role_api);
    for (unsigned round = 0; round < 20000; round++) {
        char bytes[200];
        size_t size = (size_t)rand_r(&seed) % sizeof(bytes);
        unsigned n = 0;

        for (size_t i = 0; i < size; i++)
            bytes[i] = alphabet[(rand_r(&seed) >> 3) % (int)sizeof(alphabet)];
        http_deinit(&http);
        assert_int_equal(http_init(&http, &context), 0);
        say_bytes(bytes, size);
        http_ended(&http);
        while (next() == SESSION_REPLY)
            assert_in_range(++n, 1, sizeof(bytes));
        assert_int_equal(next(), SESSION_OVER);
    }
}

/* ---- the text ---- */

static void test_every_counter_is_there_once(void **state)
{
    (void)state;
    role_assert(&role_api);
    (void)ask("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_non_null(
        strstr(body(), "# TYPE slirp4netns_rx_bytes counter\n# UNIT slirp4netns_rx_bytes bytes\n"));
    assert_non_null(strstr(body(), "\nslirp4netns_rx_bytes_total 0\n"));
    assert_non_null(strstr(body(), "# TYPE slirp4netns_divert_open gauge\n"));
    assert_non_null(strstr(body(), "\nslirp4netns_divert_open 0\n"));
    assert_non_null(strstr(body(), "\nslirp4netns_world_stop_seconds_total 0.000000000\n"));
    assert_non_null(strstr(body(), "\nslirp4netns_world_stop_max_seconds 0.000000000\n"));
    assert_non_null(strstr(body(), "\nslirp4netns_drops_total{where=\"rx\",reason=\"malformed\"} 0\n"));
    assert_non_null(strstr(body(), "\nslirp4netns_fallbacks_total{tier=\"divert\",reason=\"lo_down\"} 0\n"));
    for (const char *line = body(); (line = strstr(line, "# TYPE ")) != NULL; line += 7) {
        char family[128];

        snprintf(family, sizeof(family), "\n%.*s ", (int)strcspn(line + 7, " ") + 7, line);
        assert_null(strstr(line + 7, family));
    }
}

static void test_texts_are_escaped(void **state)
{
    (void)state;
    role_assert(&role_api);
    (void)ask("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_non_null(strstr(body(), "outbound=\"because \\\"no\\\"\\n\"} 1\n"));
    assert_non_null(strstr(body(), "reason=\"a \\\"reason\\\" with \\\\ and\\n all\"} 1\n"));
}

static void test_forwards_are_bounded(void **state)
{
    const char *at;
    unsigned n = 0;

    (void)state;
    role_assert(&role_api);
    table.n = 10000;
    (void)ask("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_non_null(strstr(body(), "\nslirp4netns_forwards 10000\n"));
    for (at = body(); (at = strstr(at, "\nslirp4netns_forward_info{")) != NULL; at++)
        n++;
    assert_int_equal(n, METRICS_FORWARDS_MAX);
    context.forwards = NULL;
    (void)ask("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_non_null(strstr(body(), "\nslirp4netns_forwards 0\n"));
}

#define http_test(f) cmocka_unit_test_setup_teardown(f, before_each, after_each)

int main(void)
{
    static const struct CMUnitTest tests[] = {
        http_test(test_metrics_are_served),
        http_test(test_head_has_no_content),
        http_test(test_requests_follow_each_other_and_come_in_pieces),
        http_test(test_who_wants_to_close_is_let_go),
        http_test(test_what_is_refused),
        http_test(test_a_request_without_end_is_refused_at_the_limit),
        http_test(test_nothing_is_the_end_without_an_answer),
        http_test(test_hostile_bytes_are_only_bytes),
        http_test(test_every_counter_is_there_once),
        http_test(test_texts_are_escaped),
        http_test(test_forwards_are_bounded),
    };

    int failed;

    role_enter(&role_api);
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    role_leave(&role_api);
    return failed;
}
