/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * fuzz_http.c - what a hostile scraper writes to the metrics socket
 *
 * Input: the first byte says how the rest is cut into writes. Every answer must be HTTP whose Content-Length
 * is true; the conversation must never run out of room while it waits, and must come to its end. The same
 * bytes must get the same answers however they are cut.
 */
#include "api/http.h"

#include "fuzz.h"

static const struct seed seeds[] = {
    SEED("\x00GET /metrics HTTP/1.1\r\nHost: localhost\r\nUser-Agent: x\r\n\r\n"),
    SEED("\x07HEAD / HTTP/1.1\r\nHost: a\r\n\r\nGET http://a/metrics?x HTTP/1.0\r\nConnection: "
         "keep-alive\r\n\r\n"),
    SEED("\x01POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"),
    SEED("\x03\r\n\nGET / HTTP/1.1\nHost:a\nConnection: x, close\nTransfer-Encoding: chunked\n\n0\r\n\r\n"),
};

void forwards_each(struct forwards *f, void (*visit)(const struct forward_info *info, void *arg), void *arg)
{
    (void)f;
    (void)visit;
    (void)arg;
    CHECK(false); /* there is no table here */
}

static void check_answer(const char *text, size_t size)
{
    static const char length[] = "\r\nContent-Length: ";
    char *copy = strndup(text, size), *end = strstr(copy, "\r\n\r\n"), *at = strstr(copy, length);
    size_t n_body = size - (size_t)(end - copy) - 4;

    CHECK(strlen(copy) == size && strncmp(copy, "HTTP/1.1 ", 9) == 0);
    CHECK(end && at && at < end);
    CHECK(n_body == strtoul(at + strlen(length), NULL, 10) || n_body == 0); /* 0: to HEAD */
    free(copy);
}

/* Statuses of the answers, in order, in @ret. Returns how many. */
static size_t talk(const char *text, size_t size, size_t cut, unsigned *ret, size_t max) RUNS_ON(role_api)
{
    struct api_context context = {.backend = "epoll", .mode = "shared"};
    enum session_step step = SESSION_WAIT;
    struct http h;
    size_t n = 0, at = 0;

    CHECK(http_init(&h, &context) == 0);
    while (step != SESSION_OVER) {
        char *answer = NULL;
        size_t answer_size = 0;

        if (step == SESSION_WAIT && at == size) {
            http_ended(&h);
        } else if (step == SESSION_WAIT) {
            size_t room, piece = size - at < cut ? size - at : cut;
            char *to = http_room(&h, &room);

            CHECK(room > 0);
            piece = piece < room ? piece : room;
            memcpy(to, text + at, piece);
            http_received(&h, piece);
            at += piece;
        }
        step = http_next(&h, &answer, &answer_size);
        if (step == SESSION_REPLY) {
            check_answer(answer, answer_size);
            CHECK(n < max);
            ret[n++] = (unsigned)strtoul(answer + 9, NULL, 10);
        }
        free(answer);
        CHECK(at < size || n <= max);
    }
    http_deinit(&h);
    return n;
}

enum { ANSWERS_MAX = 4096 };

TSA(no_thread_safety_analysis) int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static unsigned whole[ANSWERS_MAX], pieces[ANSWERS_MAX];
    size_t n;

    if (size == 0)
        return 0;
    role_enter(&role_api);
    n = talk((const char *)data + 1, size - 1, SIZE_MAX, whole, ANSWERS_MAX);
    CHECK(n == talk((const char *)data + 1, size - 1, data[0] ? data[0] : 1, pieces, ANSWERS_MAX));
    CHECK(memcmp(whole, pieces, n * sizeof(whole[0])) == 0);
    role_leave(&role_api);
    return 0;
}

FUZZ_MUTATOR(seeds, mend_nothing)
