/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "api/commands.h"

#include "api/json_scan.h"
#include "base/bits.h"
#include "base/counters.h"

#include <arpa/inet.h>
#include <errno.h>
#include <json-glib/json-glib.h>
#include <math.h>
#include <string.h>

/* ---- replies ---- */

static char *build(JsonBuilder *b)
{
    JsonNode *root = json_builder_get_root(b);
    char *text = json_to_string(root, FALSE);

    json_node_unref(root);
    g_object_unref(b);
    return text;
}

/* {"error":{"desc":"bad request: WHAT"}} */
static char *bad_request(const char *format, ...) __attribute__((format(printf, 1, 2)));
static char *bad_request(const char *format, ...)
{
    JsonBuilder *b = json_builder_new();
    va_list ap;
    char *what, *desc;

    va_start(ap, format);
    what = g_strdup_vprintf(format, ap);
    va_end(ap);
    desc = g_strdup_printf("bad request: %s", what);
    json_builder_begin_object(b);
    json_builder_set_member_name(b, "error");
    json_builder_begin_object(b);
    json_builder_set_member_name(b, "desc");
    json_builder_add_string_value(b, desc);
    json_builder_end_object(b);
    json_builder_end_object(b);
    g_free(what);
    g_free(desc);
    counter_add(COUNTER_api_errors, 1);
    return build(b);
}

char *command_too_large(void)
{
    return bad_request("too large message");
}

/* ---- arguments ---- */

static const char *string_of(JsonObject *arguments, const char *key)
{
    JsonNode *node = arguments ? json_object_get_member(arguments, key) : NULL;

    return node && JSON_NODE_HOLDS_VALUE(node) && json_node_get_value_type(node) == G_TYPE_STRING
               ? json_node_get_string(node)
               : NULL;
}

/* A whole number between @min and @max; false for anything else. 8080.0 is the same number as 8080. */
static bool number_of(JsonObject *arguments, const char *key, double min, double max, uint64_t *ret)
{
    JsonNode *node = arguments ? json_object_get_member(arguments, key) : NULL;
    double n;

    if (!node || !JSON_NODE_HOLDS_VALUE(node) ||
        (json_node_get_value_type(node) != G_TYPE_INT64 && json_node_get_value_type(node) != G_TYPE_DOUBLE))
        return false;
    n = json_node_get_double(node);
    if (!(n >= min && n <= max) || n != floor(n))
        return false;
    *ret = (uint64_t)n;
    return true;
}

struct proto {
    const char *name;
    int proto;
    int family; /* AF_UNSPEC: the address decides */
};

static const struct proto protos[] = {
    {"tcp", IPPROTO_TCP, AF_UNSPEC}, {"udp", IPPROTO_UDP, AF_UNSPEC}, {"tcp4", IPPROTO_TCP, AF_INET},
    {"udp4", IPPROTO_UDP, AF_INET},  {"tcp6", IPPROTO_TCP, AF_INET6}, {"udp6", IPPROTO_UDP, AF_INET6},
};

static bool parse_address(union address *ret, const char *text)
{
    memset(ret, 0, sizeof(*ret));
    if (inet_pton(AF_INET, text, &ret->in.sin_addr) == 1) {
        ret->sa.sa_family = AF_INET;
        return true;
    }
    if (inet_pton(AF_INET6, text, &ret->in6.sin6_addr) == 1) {
        ret->sa.sa_family = AF_INET6;
        return true;
    }
    return false;
}

/* In the order in which clients expect complaints: proto, host_addr, host_port, guest_addr, guest_port.
 * Returns NULL, or the reply that names the first bad one. */
static char *parse_forward(const struct api_context *context, JsonObject *arguments,
                           struct forward_spec *spec)
{
    const struct proto *proto = NULL;
    const char *name = string_of(arguments, "proto"), *text;
    uint64_t port, end;

    *spec = (struct forward_spec){.n_ports = 1};
    for (unsigned i = 0; name && i < ARRAY_SIZE(protos); i++) {
        if (strcmp(name, protos[i].name) == 0)
            proto = &protos[i];
    }
    if (!proto)
        return bad_request("add_hostfwd: bad arguments.proto");
    spec->proto = proto->proto;

    text = string_of(arguments, "host_addr");
    if (!text || !*text)
        text = proto->family == AF_INET6 ? "::" : "0.0.0.0";
    if (!parse_address(&spec->host, text) ||
        (proto->family != AF_UNSPEC && spec->host.sa.sa_family != proto->family))
        return bad_request("add_hostfwd: bad arguments.host_addr");
    spec->v6_only = proto->family == AF_INET6;

    if (!number_of(arguments, "host_port", 1, 65535, &port))
        return bad_request("add_hostfwd: bad arguments.host_port");
    address_set_port(&spec->host, (uint16_t)port);
    if (arguments && json_object_has_member(arguments, "host_port_end")) {
        if (!number_of(arguments, "host_port_end", (double)port, 65535, &end))
            return bad_request("add_hostfwd: bad arguments.host_port_end");
        spec->n_ports = (uint16_t)(end - port + 1);
    }

    text = string_of(arguments, "guest_addr");
    if (!text || !*text) {
        spec->guest.in = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr = context->guest};
    } else if (!parse_address(&spec->guest, text)) {
        return bad_request("add_hostfwd: bad arguments.guest_addr");
    } else if (spec->guest.sa.sa_family == AF_INET && spec->guest.in.sin_addr.s_addr == 0) {
        spec->guest.in.sin_addr = context->guest;
    }

    if (!number_of(arguments, "guest_port", 1, 65536 - spec->n_ports, &port))
        return bad_request("add_hostfwd: bad arguments.guest_port");
    address_set_port(&spec->guest, (uint16_t)port);

    text = string_of(arguments, "path");
    if (text && strcmp(text, "slirp") == 0)
        spec->path = FORWARD_SLIRP;
    else if (text && strcmp(text, "auto") != 0)
        return bad_request("add_hostfwd: bad arguments.path");
    return NULL;
}

/* ---- commands ---- */

static char *add_hostfwd(const struct api_context *context, JsonObject *arguments) RUNS_ON(role_api)
{
    struct failure why = FAILURE_NULL;
    struct forward_spec spec;
    char *complaint = parse_forward(context, arguments, &spec), text[512];
    JsonBuilder *b;
    uint64_t id;

    if (complaint)
        return complaint;
    if (forwards_add(context->forwards, &spec, &id, &why) < 0)
        return bad_request("add_hostfwd: slirp_add_hostfwd failed: %s",
                           failure_text(&why, text, sizeof(text)));
    b = json_builder_new();
    json_builder_begin_object(b);
    json_builder_set_member_name(b, "return");
    json_builder_begin_object(b);
    json_builder_set_member_name(b, "id");
    json_builder_add_int_value(b, (gint64)id);
    json_builder_end_object(b);
    json_builder_end_object(b);
    return build(b);
}

static void put_string(JsonBuilder *b, const char *key, const char *value)
{
    json_builder_set_member_name(b, key);
    json_builder_add_string_value(b, value);
}

static void put_number(JsonBuilder *b, const char *key, uint64_t value)
{
    json_builder_set_member_name(b, key);
    json_builder_add_int_value(b, (gint64)value);
}

static const char *address_text(const union address *a, char buffer[INET6_ADDRSTRLEN])
{
    return a->sa.sa_family == AF_INET6 ? inet_ntop(AF_INET6, &a->in6.sin6_addr, buffer, INET6_ADDRSTRLEN)
                                       : inet_ntop(AF_INET, &a->in.sin_addr, buffer, INET6_ADDRSTRLEN);
}

static void put_entry(const struct forward_info *info, void *arg)
{
    const struct forward_spec *spec = &info->spec;
    char text[INET6_ADDRSTRLEN];
    JsonBuilder *b = arg;

    json_builder_begin_object(b);
    put_number(b, "id", info->id);
    put_string(b, "proto", spec->proto == IPPROTO_TCP ? "tcp" : "udp");
    put_string(b, "host_addr", address_text(&spec->host, text));
    put_number(b, "host_port", address_port(&spec->host));
    put_string(b, "guest_addr", address_text(&spec->guest, text));
    put_number(b, "guest_port", address_port(&spec->guest));
    if (spec->n_ports > 1)
        put_number(b, "host_port_end", address_port(&spec->host) + spec->n_ports - 1u);
    put_string(b, "path", info->path);
    put_string(b, "reason", info->reason);
    put_number(b, "connections", info->n_connections);
    put_number(b, "bytes_in", info->bytes_to_guest);
    put_number(b, "bytes_out", info->bytes_to_host);
    json_builder_end_object(b);
}

/* The documents promise {"return":{"entries":[...]}}, clients have always got {"entries":[...]}: both. */
static char *list_hostfwd(const struct api_context *context, JsonObject *arguments) RUNS_ON(role_api)
{
    JsonBuilder *b = json_builder_new();

    (void)arguments;
    json_builder_begin_object(b);
    json_builder_set_member_name(b, "return");
    json_builder_begin_object(b);
    json_builder_set_member_name(b, "entries");
    json_builder_begin_array(b);
    forwards_each(context->forwards, put_entry, b);
    json_builder_end_array(b);
    json_builder_end_object(b);
    json_builder_set_member_name(b, "entries");
    json_builder_begin_array(b);
    forwards_each(context->forwards, put_entry, b);
    json_builder_end_array(b);
    json_builder_end_object(b);
    return build(b);
}

static char *remove_hostfwd(const struct api_context *context, JsonObject *arguments) RUNS_ON(role_api)
{
    struct failure why = FAILURE_NULL;
    char text[512];
    uint64_t id;

    if (!number_of(arguments, "id", 1, 9007199254740992.0, &id)) /* 2^53: where doubles end being exact */
        return bad_request("remove_hostfwd: bad arguments.id");
    if (forwards_remove(context->forwards, id, &why) < 0)
        return bad_request("remove_hostfwd: slirp_remove_hostfwd failed: %s",
                           failure_text(&why, text, sizeof(text)));
    return g_strdup("{\"return\":{}}");
}

static char *stats(const struct api_context *context, JsonObject *arguments) RUNS_ON(role_api)
{
    JsonBuilder *b = json_builder_new();

    (void)arguments;
    json_builder_begin_object(b);
    json_builder_set_member_name(b, "return");
    json_builder_begin_object(b);
    put_string(b, "backend", context->backend);
    put_string(b, "threads", context->mode);
    for (unsigned i = 0; i < COUNTER_COUNT; i++)
        put_number(b, counter_rows[i].name, counter_read(i));
    json_builder_end_object(b);
    json_builder_end_object(b);
    return build(b);
}

static const struct {
    const char *name;
    char *(*answer)(const struct api_context *context, JsonObject *arguments);
} commands[] = {
    {"add_hostfwd", add_hostfwd},
    {"list_hostfwd", list_hostfwd},
    {"remove_hostfwd", remove_hostfwd},
    {"stats", stats},
};

TSA(no_thread_safety_analysis) /* the table's functions are reached through pointers; all run here */
static char *run_command(const struct api_context *context, JsonNode *root)
{
    JsonObject *request, *arguments;
    JsonNode *node;
    const char *name;

    if (!JSON_NODE_HOLDS_OBJECT(root))
        return bad_request("json_object() failed");
    request = json_node_get_object(root);
    name = string_of(request, "execute");
    if (!name)
        return bad_request("no execute found");
    node = json_object_get_member(request, "arguments");
    arguments = node && JSON_NODE_HOLDS_OBJECT(node) ? json_node_get_object(node) : NULL;
    for (unsigned i = 0; i < ARRAY_SIZE(commands); i++) {
        if (strcmp(name, commands[i].name) == 0)
            return commands[i].answer(context, arguments);
    }
    return bad_request("unknown execute");
}

char *command_answer(const struct api_context *context, const char *text, size_t size)
{
    JsonParser *parser;
    size_t begin, end;
    char *answer;

    role_assert(&role_api);
    counter_add(COUNTER_api_requests, 1);
    if (json_scan(text, size, true, &begin, &end) != JSON_SCAN_COMPLETE)
        return bad_request("cannot parse JSON");
    parser = json_parser_new();
    if (json_parser_load_from_data(parser, text + begin, (gssize)(end - begin), NULL) &&
        json_parser_get_root(parser))
        answer = run_command(context, json_parser_get_root(parser));
    else
        answer = bad_request("cannot parse JSON");
    g_object_unref(parser);
    return answer;
}
