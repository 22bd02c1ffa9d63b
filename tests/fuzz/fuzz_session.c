/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * fuzz_session.c - what a hostile client writes to the API socket
 *
 * Input: the first byte says how the rest is cut into writes. Every reply must be one JSON object with
 * "return" or "error", the session must never run out of room while it waits, and must come to its end.
 */
#include "api/session.h"

#include "base/log.h"
#include "fuzz.h"

#include <errno.h>
#include <jansson.h>

static const struct seed seeds[] = {
    SEED("\x00{\"execute\":\"add_hostfwd\",\"arguments\":{\"proto\":\"tcp\",\"host_addr\":\"0.0.0.0\","
         "\"host_port\":8080,\"guest_addr\":\"\",\"guest_port\":80}}"),
    SEED("\x00{\"execute\":\"add_hostfwd\",\"arguments\":{\"proto\":\"udp\",\"host_addr\":\"127.0.0.1\","
         "\"host_port\":65529,\"host_port_end\":65535,\"guest_addr\":\"10.0.2.100\",\"guest_port\":65529}}"),
    SEED("\x07{\"execute\":\"list_hostfwd\"}\n{\"execute\":\"stats\"}\r\n"),
    SEED("\x01{\"execute\":\"remove_hostfwd\",\"arguments\":{\"id\":1},\"keep_alive\":true}[]"),
    SEED("\x20\xef\xbb\xbf{\"execute\":\"add_hostfwd\",\"arguments\":{\"proto\":\"udp6\",\"host_port\":1e3,"
         "\"host_port_end\":1009,\"guest_addr\":\"fd00::64\",\"guest_port\":-0.5E+1,\"path\":\"slirp\"}}"),
    SEED("\x03[\"\\ud83d\\ude00\\u0061\xc3\xa9\\n\",[[{\"a\":{\"a\":null}}]],true,false]\n-12.5e3 "),
};

/* ---- a table of forwards that opens nothing ---- */

enum { TABLE_MAX = 4 };

struct forwards {
    struct forward_spec spec[TABLE_MAX];
    uint64_t n;
};

int forwards_add(struct forwards *f, const struct forward_spec *spec, uint64_t *ret_id, struct failure *why)
{
    CHECK(spec->proto == IPPROTO_TCP || spec->proto == IPPROTO_UDP);
    CHECK(spec->host.sa.sa_family == AF_INET || spec->host.sa.sa_family == AF_INET6);
    CHECK(spec->guest.sa.sa_family == AF_INET || spec->guest.sa.sa_family == AF_INET6);
    CHECK(!(spec->v4_only && spec->v6_only));
    CHECK(!spec->v4_only || spec->host.sa.sa_family == AF_INET);
    CHECK(!spec->v6_only || spec->host.sa.sa_family == AF_INET6);
    CHECK(spec->guest.sa.sa_family == AF_INET6 || spec->guest.in.sin_addr.s_addr != 0);
    CHECK(spec->n_ports > 0 && address_port(&spec->host) > 0 && address_port(&spec->guest) > 0);
    CHECK(address_port(&spec->host) + spec->n_ports <= 65536);
    CHECK(address_port(&spec->guest) + spec->n_ports <= 65536);
    if (f->n == TABLE_MAX)
        return failure(why, -ENOSPC, NULL, "no place for \"%u\"", address_port(&spec->host));
    f->spec[f->n] = *spec;
    *ret_id = ++f->n;
    return 0;
}

int forwards_remove(struct forwards *f, uint64_t id, struct failure *why)
{
    CHECK(id >= 1 && id <= 1ULL << 53);
    if (id > f->n)
        return failure(why, -ENOENT, "look at \"list_hostfwd\"", "no such id");
    f->n--;
    memmove(f->spec + id - 1, f->spec + id, (f->n - (id - 1)) * sizeof(*f->spec));
    return 0;
}

void forwards_each(struct forwards *f, void (*visit)(const struct forward_info *info, void *arg), void *arg)
{
    for (uint64_t i = 0; i < f->n; i++) {
        struct forward_info info = {.id = i + 1, .spec = f->spec[i], .path = "slirp", .reason = "because"};

        visit(&info, arg);
    }
}

/* What the scanner accepts jansson must be able to parse, but for numbers beyond a double: the scanner is the
 * stricter one. */
static void check_parser(const char *text, size_t size)
{
    json_error_t error;
    json_t *value;

    if (size >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0) {
        text += 3;
        size -= 3;
    }
    value = json_loadb(text, size, JSON_DECODE_ANY | JSON_DECODE_INT_AS_REAL, &error);
    CHECK(value || json_error_code(&error) == json_error_numeric_overflow);
    json_decref(value);
}

/* ---- the scanner by itself: the same result however its input is cut ---- */

static void check_scan(const char *text, size_t size, size_t cut)
{
    static struct json_scan whole, pieces;
    size_t used = 0, at = 0, n;
    enum json_scan_result r = JSON_SCAN_INCOMPLETE, expected;

    json_scan_init(&whole);
    expected = json_scan_feed(&whole, text, size, &used);
    CHECK(used <= size);
    json_scan_init(&pieces);
    while (at < size && r == JSON_SCAN_INCOMPLETE) {
        size_t piece = size - at < cut ? size - at : cut;

        r = json_scan_feed(&pieces, text + at, piece, &n);
        CHECK(n <= piece && (r == JSON_SCAN_COMPLETE || n == piece));
        at += n;
    }
    CHECK(r == expected);
    if (r == JSON_SCAN_COMPLETE)
        CHECK(at == used);
    if (r == JSON_SCAN_INCOMPLETE)
        CHECK(json_scan_end(&pieces) == json_scan_end(&whole) &&
              json_scan_is_blank(&pieces) == json_scan_is_blank(&whole));
    if (r == JSON_SCAN_INCOMPLETE && json_scan_end(&whole) == JSON_SCAN_COMPLETE)
        check_parser(text, size);
    /* What ends must end there again, with or without what follows. */
    if (expected == JSON_SCAN_COMPLETE) {
        json_scan_init(&pieces);
        r = json_scan_feed(&pieces, text, used, &n);
        CHECK(r == JSON_SCAN_COMPLETE || json_scan_end(&pieces) == JSON_SCAN_COMPLETE);
        check_parser(text, used);
    }
}

/* ---- the session ---- */

/* Newlines around it, JSON between them; nothing but a "return" or an "error". */
static void check_reply(const char *reply, size_t size)
{
    json_t *root;

    CHECK(strlen(reply) == size && size > 0);
    if (reply[0] == '\n') {
        reply++;
        size--;
    }
    if (size > 0 && reply[size - 1] == '\n')
        size--;
    CHECK(!memchr(reply, '\n', size));
    root = json_loadb(reply, size, 0, NULL);
    CHECK(json_is_object(root));
    CHECK(!json_object_get(root, "return") != !json_object_get(root, "error"));
    json_decref(root);
}

/* Until it waits or is over; at most a reply per byte that has come, and one for the end. */
static enum session_step drain(struct session *s, size_t *n_left) RUNS_ON(role_api)
{
    enum session_step step;
    size_t size;
    char *reply;

    while ((step = session_next(s, &reply, &size)) == SESSION_REPLY) {
        CHECK((*n_left)-- > 0);
        check_reply(reply, size);
        free(reply);
    }
    return step;
}

static void talk(const char *text, size_t size, size_t cut) RUNS_ON(role_api)
{
    struct forwards table = {.n = 0};
    struct api_context context = {.forwards = &table, .backend = "epoll", .mode = "shared"};
    enum session_step step = SESSION_WAIT;
    size_t n_left = size + 1;
    struct session s;

    context.guest.s_addr = htonl(0x0a000264);
    if (size % 2)
        context.guest6.s6_addr[0] = 0xfd;
    CHECK(session_init(&s, &context) == 0);
    for (size_t at = 0; at < size && step == SESSION_WAIT;) {
        size_t n = size - at < cut ? size - at : cut, room;
        char *in = session_room(&s, &room);

        CHECK(room > 0);
        n = n < room ? n : room;
        memcpy(in, text + at, n);
        session_received(&s, n);
        at += n;
        step = drain(&s, &n_left);
    }
    if (step == SESSION_WAIT) {
        bool idle = session_is_idle(&s);
        size_t before = n_left;

        session_ended(&s);
        CHECK(drain(&s, &n_left) == SESSION_OVER);
        CHECK(idle == (n_left == before)); /* whoever said half of something is told so */
    }
    CHECK(drain(&s, &n_left) == SESSION_OVER);
    session_deinit(&s);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    log_set_level(LOG_LEVEL_WARNING);
    command_init();
    return 0;
}

TSA(no_thread_safety_analysis) int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    size_t cut;

    if (size == 0)
        return 0;
    cut = data[0] ? data[0] : SIZE_MAX;
    check_scan((const char *)data + 1, size - 1, cut);
    role_enter(&role_api);
    talk((const char *)data + 1, size - 1, cut);
    role_leave(&role_api);
    return 0;
}

FUZZ_MUTATOR(seeds, mend_nothing)
