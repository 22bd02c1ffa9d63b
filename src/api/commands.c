/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "api/commands.h"

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

char *command_refuse(enum command_refusal why)
{
    role_assert(&role_api);
    counter_add(COUNTER_api_requests, 1);
    return bad_request("%s", why == COMMAND_TOO_LARGE ? "too large message" : "cannot parse JSON");
}

/* ---- arguments ---- */

static const char *string_of(JsonObject *arguments, const char *key)
{
    JsonNode *node = json_object_get_member(arguments, key);

    return node && JSON_NODE_HOLDS_VALUE(node) && json_node_get_value_type(node) == G_TYPE_STRING
               ? json_node_get_string(node)
               : NULL;
}

/* A whole number between @min and @max; false for anything else. 8080.0 is the same number as 8080. */
static bool number_of(JsonObject *arguments, const char *key, double min, double max, uint64_t *ret)
{
    JsonNode *node = json_object_get_member(arguments, key);
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

/* Nothing, "" and the unspecified address all mean the default guest of that family. */
static bool parse_guest(const struct api_context *context, const char *text, union address *ret)
{
    if (!text || !*text)
        text = "0.0.0.0";
    if (!parse_address(ret, text))
        return false;
    if (ret->sa.sa_family == AF_INET && ret->in.sin_addr.s_addr == 0)
        ret->in.sin_addr = context->guest;
    else if (ret->sa.sa_family == AF_INET6 && IN6_IS_ADDR_UNSPECIFIED(&ret->in6.sin6_addr))
        ret->in6.sin6_addr = context->guest6;
    return ret->sa.sa_family == AF_INET || !IN6_IS_ADDR_UNSPECIFIED(&ret->in6.sin6_addr);
}

static const struct proto *find_proto(const char *name)
{
    for (unsigned i = 0; name && i < ARRAY_SIZE(protos); i++) {
        if (strcmp(name, protos[i].name) == 0)
            return &protos[i];
    }
    return NULL;
}

static bool parse_path(JsonObject *arguments, enum forward_path *ret)
{
    const char *text = string_of(arguments, "path");

    if (!json_object_has_member(arguments, "path") || (text && strcmp(text, "auto") == 0))
        *ret = FORWARD_AUTO;
    else if (text && strcmp(text, "slirp") == 0)
        *ret = FORWARD_SLIRP;
    else
        return false;
    return true;
}

/* In the order in which clients expect complaints: proto, host_addr, host_port, guest_addr, guest_port; what
 * is new comes after its nearest relative. Returns NULL, or the name of the first bad argument. */
static const char *parse_forward(const struct api_context *context, JsonObject *arguments,
                                 struct forward_spec *spec)
{
    const struct proto *proto = find_proto(string_of(arguments, "proto"));
    uint64_t first, last, guest;
    const char *text;

    if (!proto)
        return "proto";
    *spec = (struct forward_spec){
        .proto = proto->proto,
        .v4_only = proto->family == AF_INET,
        .v6_only = proto->family == AF_INET6,
    };

    text = string_of(arguments, "host_addr");
    if (!text || !*text)
        text = spec->v6_only ? "::" : "0.0.0.0";
    if (!parse_address(&spec->host, text) ||
        (proto->family != AF_UNSPEC && spec->host.sa.sa_family != proto->family))
        return "host_addr";

    if (!number_of(arguments, "host_port", 1, 65535, &first))
        return "host_port";
    last = first;
    if (json_object_has_member(arguments, "host_port_end") &&
        !number_of(arguments, "host_port_end", (double)first, 65535, &last))
        return "host_port_end";
    address_set_port(&spec->host, (uint16_t)first);
    spec->n_ports = (uint16_t)(last - first + 1);

    text = string_of(arguments, "guest_addr");
    if (spec->v6_only && (!text || !*text) && !IN6_IS_ADDR_UNSPECIFIED(&context->guest6))
        text = "::";
    if (!parse_guest(context, text, &spec->guest))
        return "guest_addr";

    if (!number_of(arguments, "guest_port", 1, 65536 - spec->n_ports, &guest))
        return "guest_port";
    address_set_port(&spec->guest, (uint16_t)guest);

    return parse_path(arguments, &spec->path) ? NULL : "path";
}

/* ---- commands ---- */

static char *add_hostfwd(const struct api_context *context, JsonObject *arguments) RUNS_ON(role_api)
{
    struct failure why = FAILURE_NULL;
    struct forward_spec spec;
    const char *bad = arguments ? parse_forward(context, arguments, &spec) : "proto";
    char text[512];
    JsonBuilder *b;
    uint64_t id;

    if (bad)
        return bad_request("add_hostfwd: bad arguments.%s", bad);
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

/* As it was asked for: "tcp6" is not what "tcp" on an IPv6 address is. */
static const char *proto_text(const struct forward_spec *spec)
{
    int family = spec->v4_only ? AF_INET : spec->v6_only ? AF_INET6 : AF_UNSPEC;
    unsigned i = 0;

    while (i < ARRAY_SIZE(protos) - 1 && (protos[i].proto != spec->proto || protos[i].family != family))
        i++;
    return protos[i].name;
}

static void put_entry(const struct forward_info *info, void *arg)
{
    const struct forward_spec *spec = &info->spec;
    char text[INET6_ADDRSTRLEN];
    JsonBuilder *b = arg;

    json_builder_begin_object(b);
    put_number(b, "id", info->id);
    put_string(b, "proto", proto_text(spec));
    put_string(b, "host_addr", address_text(&spec->host, text));
    put_number(b, "host_port", address_port(&spec->host));
    put_string(b, "guest_addr", address_text(&spec->guest, text));
    put_number(b, "guest_port", address_port(&spec->guest));
    put_string(b, "path", info->path);
    put_string(b, "reason", info->reason);
    put_number(b, "connections", info->n_connections);
    put_number(b, "bytes_in", info->bytes_to_guest);
    put_number(b, "bytes_out", info->bytes_to_host);
    if (spec->n_ports > 1)
        put_number(b, "host_port_end", address_port(&spec->host) + spec->n_ports - 1u);
    json_builder_end_object(b);
}

/* The documents promised {"return":{"entries":[...]}}, clients have always got {"entries":[...]}: both. */
static char *list_hostfwd(const struct api_context *context, JsonObject *arguments) RUNS_ON(role_api)
{
    JsonBuilder *b = json_builder_new();
    JsonNode *entries;

    (void)arguments;
    json_builder_begin_array(b);
    forwards_each(context->forwards, put_entry, b);
    json_builder_end_array(b);
    entries = json_builder_get_root(b);
    json_builder_reset(b);

    json_builder_begin_object(b);
    json_builder_set_member_name(b, "return");
    json_builder_begin_object(b);
    json_builder_set_member_name(b, "entries");
    json_builder_add_value(b, json_node_copy(entries)); /* shares the array, copies nothing */
    json_builder_end_object(b);
    json_builder_set_member_name(b, "entries");
    json_builder_add_value(b, entries);
    json_builder_end_object(b);
    return build(b);
}

static char *remove_hostfwd(const struct api_context *context, JsonObject *arguments) RUNS_ON(role_api)
{
    struct failure why = FAILURE_NULL;
    char text[512];
    uint64_t id;
    int r;

    if (!arguments ||
        !number_of(arguments, "id", 1, 9007199254740992.0, &id)) /* 2^53: where doubles end being exact */
        return bad_request("remove_hostfwd: bad arguments.id");
    r = forwards_remove(context->forwards, id, &why);
    if (r == -ENOENT)
        return bad_request("remove_hostfwd: bad arguments.id");
    if (r < 0)
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

static enum command_keep keep_of(JsonObject *request)
{
    JsonNode *node = json_object_get_member(request, "keep_alive");

    if (!node || !JSON_NODE_HOLDS_VALUE(node) || json_node_get_value_type(node) != G_TYPE_BOOLEAN)
        return COMMAND_KEEP_UNSAID;
    return json_node_get_boolean(node) ? COMMAND_KEEP_YES : COMMAND_KEEP_NO;
}

TSA(no_thread_safety_analysis) /* the table's functions are reached through pointers; all run here */
static char *run_command(const struct api_context *context, JsonNode *root, enum command_keep *ret_keep)
{
    JsonObject *request, *arguments;
    JsonNode *node;
    const char *name;

    if (!JSON_NODE_HOLDS_OBJECT(root))
        return bad_request("json_object() failed");
    request = json_node_get_object(root);
    *ret_keep = keep_of(request);
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

char *command_answer(const struct api_context *context, const char *text, size_t size,
                     enum command_keep *ret_keep)
{
    static const char bom[] = "\xef\xbb\xbf";
    JsonParser *parser;
    char *answer;

    role_assert(&role_api);
    *ret_keep = COMMAND_KEEP_UNSAID;
    if (size >= strlen(bom) && memcmp(text, bom, strlen(bom)) == 0) {
        text += strlen(bom);
        size -= strlen(bom);
    }
    parser = json_parser_new();
    if (json_parser_load_from_data(parser, text, (gssize)size, NULL) && json_parser_get_root(parser)) {
        counter_add(COUNTER_api_requests, 1);
        answer = run_command(context, json_parser_get_root(parser), ret_keep);
    } else {
        answer = command_refuse(COMMAND_UNPARSABLE);
    }
    g_object_unref(parser);
    return answer;
}
