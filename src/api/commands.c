/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "api/commands.h"

#include "api/inspect.h"
#include "api/reply.h"
#include "base/bits.h"
#include "base/counters.h"

#include <arpa/inet.h>
#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

char *command_refuse(enum command_refusal why)
{
    role_assert(&role_api);
    counter_add(COUNTER_api_requests, 1);
    return reply_bad_request("%s", why == COMMAND_TOO_LARGE ? "too large message" : "cannot parse JSON");
}

/* ---- arguments ---- */

static bool has(const json_t *arguments, const char *key)
{
    return json_object_get(arguments, key) != NULL;
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

static bool parse_path(const json_t *arguments, enum forward_path *ret)
{
    const char *text = reply_string_of(arguments, "path");

    if (!has(arguments, "path") || (text && strcmp(text, "auto") == 0))
        *ret = FORWARD_AUTO;
    else if (text && strcmp(text, "slirp") == 0)
        *ret = FORWARD_SLIRP;
    else
        return false;
    return true;
}

/* In the order in which clients expect complaints: proto, host_addr, host_port, guest_addr, guest_port; what
 * is new comes after its nearest relative. Returns NULL, or the name of the first bad argument. */
static const char *parse_forward(const struct api_context *context, const json_t *arguments,
                                 struct forward_spec *spec)
{
    const struct proto *proto = find_proto(reply_string_of(arguments, "proto"));
    uint64_t first, last, guest;
    const char *text;

    if (!proto)
        return "proto";
    *spec = (struct forward_spec){
        .proto = proto->proto,
        .v4_only = proto->family == AF_INET,
        .v6_only = proto->family == AF_INET6,
    };

    text = reply_string_of(arguments, "host_addr");
    if (!text || !*text)
        text = spec->v6_only ? "::" : "0.0.0.0";
    if (!parse_address(&spec->host, text) ||
        (proto->family != AF_UNSPEC && spec->host.sa.sa_family != proto->family))
        return "host_addr";

    if (!reply_number_of(arguments, "host_port", 1, 65535, &first))
        return "host_port";
    last = first;
    if (has(arguments, "host_port_end") &&
        !reply_number_of(arguments, "host_port_end", (double)first, 65535, &last))
        return "host_port_end";
    address_set_port(&spec->host, (uint16_t)first);
    spec->n_ports = (uint16_t)(last - first + 1);

    text = reply_string_of(arguments, "guest_addr");
    if (spec->v6_only && (!text || !*text) && !IN6_IS_ADDR_UNSPECIFIED(&context->guest6))
        text = "::";
    if (!parse_guest(context, text, &spec->guest))
        return "guest_addr";

    if (!reply_number_of(arguments, "guest_port", 1, 65536 - spec->n_ports, &guest))
        return "guest_port";
    address_set_port(&spec->guest, (uint16_t)guest);

    return parse_path(arguments, &spec->path) ? NULL : "path";
}

/* ---- commands ---- */

static char *add_hostfwd(const struct api_context *context, const json_t *arguments) RUNS_ON(role_api)
{
    struct failure why = FAILURE_NULL;
    struct forward_spec spec;
    const char *bad = arguments ? parse_forward(context, arguments, &spec) : "proto";
    char text[512];
    uint64_t id;

    if (bad)
        return reply_bad_request("add_hostfwd: bad arguments.%s", bad);
    if (forwards_add(context->forwards, &spec, &id, &why) < 0)
        return reply_bad_request("add_hostfwd: slirp_add_hostfwd failed: %s",
                                 failure_text(&why, text, sizeof(text)));
    return reply_build(json_pack("{s:{s:I}}", "return", "id", (json_int_t)id));
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
    json_t *entries = arg, *b = json_object();

    reply_number(b, "id", info->id);
    reply_string(b, "proto", proto_text(spec));
    reply_string(b, "host_addr", reply_address(&spec->host, text));
    reply_number(b, "host_port", address_port(&spec->host));
    reply_string(b, "guest_addr", reply_address(&spec->guest, text));
    reply_number(b, "guest_port", address_port(&spec->guest));
    reply_string(b, "path", info->path);
    reply_string(b, "reason", info->reason);
    reply_number(b, "connections", info->n_connections);
    reply_number(b, "bytes_in", info->bytes_to_guest);
    reply_number(b, "bytes_out", info->bytes_to_host);
    if (spec->n_ports > 1)
        reply_number(b, "host_port_end", address_port(&spec->host) + spec->n_ports - 1u);
    (void)json_array_append_new(entries, b);
}

/* The documents promised {"return":{"entries":[...]}}, clients have always got {"entries":[...]}: both. */
static char *list_hostfwd(const struct api_context *context, const json_t *arguments) RUNS_ON(role_api)
{
    json_t *entries = json_array();

    (void)arguments;
    forwards_each(context->forwards, put_entry, entries);
    return reply_build(json_pack("{s:{s:O},s:o}", "return", "entries", entries, "entries", entries));
}

static char *remove_hostfwd(const struct api_context *context, const json_t *arguments) RUNS_ON(role_api)
{
    struct failure why = FAILURE_NULL;
    char text[512];
    uint64_t id;
    int r;

    if (!arguments || !reply_number_of(arguments, "id", 1, 9007199254740992.0,
                                       &id)) /* 2^53: where doubles end being exact */
        return reply_bad_request("remove_hostfwd: bad arguments.id");
    r = forwards_remove(context->forwards, id, &why);
    if (r == -ENOENT)
        return reply_bad_request("remove_hostfwd: bad arguments.id");
    if (r < 0)
        return reply_bad_request("remove_hostfwd: slirp_remove_hostfwd failed: %s",
                                 failure_text(&why, text, sizeof(text)));
    return reply_build(json_pack("{s:{}}", "return"));
}

static const struct {
    const char *name;
    char *(*answer)(const struct api_context *context, const json_t *arguments);
} commands[] = {
    {"add_hostfwd", add_hostfwd}, {"list_hostfwd", list_hostfwd}, {"remove_hostfwd", remove_hostfwd},
    {"stats", inspect_stats},     {"flows", inspect_flows},       {"slirp_info", inspect_slirp_info},
};

static enum command_keep keep_of(const json_t *request)
{
    const json_t *node = json_object_get(request, "keep_alive");

    if (!json_is_boolean(node))
        return COMMAND_KEEP_UNSAID;
    return json_is_true(node) ? COMMAND_KEEP_YES : COMMAND_KEEP_NO;
}

TSA(no_thread_safety_analysis) /* the table's functions are reached through pointers; all run here */
static char *run_command(const struct api_context *context, const json_t *request,
                         enum command_keep *ret_keep)
{
    const json_t *arguments;
    const char *name;

    if (!json_is_object(request))
        return reply_bad_request("json_object() failed");
    *ret_keep = keep_of(request);
    name = reply_string_of(request, "execute");
    if (!name)
        return reply_bad_request("no execute found");
    arguments = json_object_get(request, "arguments");
    if (!json_is_object(arguments))
        arguments = NULL;
    for (unsigned i = 0; i < ARRAY_SIZE(commands); i++) {
        if (strcmp(name, commands[i].name) == 0)
            return commands[i].answer(context, arguments);
    }
    return reply_bad_request("unknown execute");
}

void command_init(void)
{
    size_t seed = 0;

    /* 0 makes jansson look for a seed in files, which the sandbox hides later. */
    if (getrandom(&seed, sizeof(seed), 0) != sizeof(seed) || seed == 0)
        seed = (size_t)getpid();
    json_object_seed(seed);
}

char *command_answer(const struct api_context *context, const char *text, size_t size,
                     enum command_keep *ret_keep)
{
    static const char bom[] = "\xef\xbb\xbf";
    json_t *request;
    char *answer;

    role_assert(&role_api);
    *ret_keep = COMMAND_KEEP_UNSAID;
    if (size >= strlen(bom) && memcmp(text, bom, strlen(bom)) == 0) {
        text += strlen(bom);
        size -= strlen(bom);
    }
    /* All numbers as doubles: a whole number of any length is a number, and only a bad argument. */
    request = json_loadb(text, size, JSON_DECODE_ANY | JSON_DECODE_INT_AS_REAL, NULL);
    if (request) {
        counter_add(COUNTER_api_requests, 1);
        answer = run_command(context, request, ret_keep);
    } else {
        answer = command_refuse(COMMAND_UNPARSABLE);
    }
    json_decref(request);
    return answer;
}
