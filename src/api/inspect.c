/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * inspect.c
 *
 * Flows: the carriers are asked one after the other, a page at a time. A cursor is the carrier's number and
 * its own position in one whole number, small enough to be exact in a double: that is what JSON readers have.
 */
#include "api/inspect.h"

#include "api/reply.h"
#include "base/bits.h"
#include "base/clock.h"
#include "base/counters.h"
#include "base/thread.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- stats ---- */

static json_t *per_thread(void)
{
    struct thread_info rows[THREADS_MAX];
    unsigned n = threads_info(rows);
    json_t *list = json_array();

    for (unsigned i = 0; i < n; i++) {
        json_t *row = json_object();

        reply_string(row, "name", rows[i].name);
        reply_number(row, "cpu_ns", rows[i].cpu_ns);
        reply_number(row, "turns", rows[i].turns);
        reply_number(row, "wake_ups", rows[i].wake_ups);
        (void)json_array_append_new(list, row);
    }
    return list;
}

static json_t *per_tier(void)
{
    uint64_t diverted = counter_read(COUNTER_divert_bytes), spliced = counter_read(COUNTER_splice_bytes);
    json_t *forward = json_object(), *outbound = json_object(), *udp = json_object(), *slirp = json_object();
    json_t *flows = json_object();

    reply_number(forward, "flows", counter_read(COUNTER_splice_flows));
    /* The two are added to one after the other. */
    reply_number(forward, "bytes", spliced > diverted ? spliced - diverted : 0);
    reply_number(outbound, "flows", counter_read(COUNTER_divert_flows));
    reply_number(outbound, "open", counter_read(COUNTER_divert_open));
    reply_number(outbound, "bytes", diverted);
    reply_number(udp, "open", counter_read(COUNTER_udp_forward_clients));
    reply_number(udp, "datagrams_to_guest", counter_read(COUNTER_udp_forward_in));
    reply_number(udp, "datagrams_to_host", counter_read(COUNTER_udp_forward_out));
    reply_number(flows, "open", counter_read(COUNTER_udp_flows));
    reply_number(flows, "flows", counter_read(COUNTER_udp_opened));
    reply_number(flows, "bytes", counter_read(COUNTER_udp_in_bytes) + counter_read(COUNTER_udp_out_bytes));
    reply_number(slirp, "open", counter_read(COUNTER_slirp_sockets));
    return json_pack("{s:o,s:o,s:o,s:o,s:o}", "splice-forward", forward, "splice-outbound", outbound,
                     "udp-forward", udp, "udp", flows, "slirp", slirp);
}

/* The counters whose names tell a reason: X_@middle_Y becomes "X": {"Y": n}. */
static json_t *by_reason(const char *middle)
{
    json_t *groups = json_object();

    for (unsigned i = 0; i < COUNTER_COUNT; i++) {
        const char *name = counter_rows[i].name, *at = strstr(name, middle);
        char group[64];
        json_t *reasons;

        if (!at || (size_t)(at - name) >= sizeof(group))
            continue;
        memcpy(group, name, at - name);
        group[at - name] = '\0';
        reasons = json_object_get(groups, group);
        if (!reasons) {
            reasons = json_object();
            (void)json_object_set_new(groups, group, reasons);
        }
        reply_number(reasons, at + strlen(middle), counter_read(i));
    }
    return groups;
}

static void put_ratio(json_t *object, const char *key, uint64_t a, uint64_t b)
{
    (void)json_object_set_new(object, key,
                              json_real(b > 0 ? round(1000.0 * (double)a / (double)b) / 1000 : 0));
}

static json_t *syscalls_per_frame(void)
{
    json_t *object = json_object();

    put_ratio(object, "rx", counter_read(COUNTER_rx_syscalls), counter_read(COUNTER_rx_frames));
    put_ratio(object, "tx", counter_read(COUNTER_tx_syscalls), counter_read(COUNTER_tx_frames));
    return object;
}

char *inspect_stats(const struct api_context *context, const json_t *arguments)
{
    json_t *values = json_object();

    (void)arguments;
    reply_string(values, "backend", context->backend);
    reply_string(values, "threads", context->mode);
    for (unsigned i = 0; i < COUNTER_COUNT; i++)
        reply_number(values, counter_rows[i].name, counter_read(i));
    reply_string(values, "outbound", context->outbound ? context->outbound : "");
    (void)json_object_set_new(values, "per_thread", per_thread());
    (void)json_object_set_new(values, "per_tier", per_tier());
    (void)json_object_set_new(values, "drops", by_reason("_drop_"));
    (void)json_object_set_new(values, "fallbacks", by_reason("_fallback_"));
    (void)json_object_set_new(values, "syscalls_per_frame", syscalls_per_frame());
    return reply_build(json_pack("{s:o}", "return", values));
}

/* ---- flows ---- */

static const char *proto_name(int proto)
{
    return proto == IPPROTO_TCP ? "tcp" : proto == IPPROTO_UDP ? "udp" : "icmp";
}

static void put_end(json_t *row, const char *addr_key, const char *port_key, const union address *a)
{
    char text[INET6_ADDRSTRLEN];

    if (a->sa.sa_family == AF_UNSPEC)
        return;
    reply_string(row, addr_key, reply_address(a, text));
    reply_number(row, port_key, address_port(a));
}

static json_t *flow_row(const struct flow_info *flow)
{
    json_t *row = json_object();

    reply_string(row, "proto", proto_name(flow->proto));
    put_end(row, "guest_addr", "guest_port", &flow->guest);
    put_end(row, "remote_addr", "remote_port", &flow->remote);
    reply_string(row, "tier", flow->tier);
    reply_string(row, "state", flow->state);
    if (flow->to_guest != FLOW_BYTES_UNKNOWN)
        reply_number(row, "bytes_to_guest", flow->to_guest);
    if (flow->to_host != FLOW_BYTES_UNKNOWN)
        reply_number(row, "bytes_to_host", flow->to_host);
    if (flow->age_ns != FLOW_AGE_UNKNOWN)
        reply_number(row, "age_ms", (uint64_t)(flow->age_ns > 0 ? flow->age_ns : 0) / NS_PER_MS);
    return row;
}

char *inspect_flows(const struct api_context *context, const json_t *arguments)
{
    struct flow_info rows[FLOW_ROWS_MAX];
    uint64_t limit = FLOWS_LIMIT_DEFAULT, cursor = 0, n_told = 0;
    json_t *list, *page;
    unsigned looks;

    if (json_object_get(arguments, "limit") &&
        !reply_number_of(arguments, "limit", 1, FLOWS_LIMIT_MAX, &limit))
        return reply_bad_request("flows: bad arguments.limit (1 to %d)", FLOWS_LIMIT_MAX);
    if (json_object_get(arguments, "cursor") &&
        (!reply_number_of(arguments, "cursor", 0, 9007199254740992.0, &cursor) ||
         cursor / FLOW_POSITIONS >= context->n_flow_sources))
        return reply_bad_request("flows: bad arguments.cursor (give the \"next\" of the page before)");

    list = json_array();
    for (looks = 0; looks < FLOWS_LOOKS_MAX && n_told < limit; looks++) {
        uint64_t source = cursor / FLOW_POSITIONS, next;
        int n;

        if (source >= context->n_flow_sources)
            break;
        n = context->flow_sources[source].list(context->flow_sources[source].arg, cursor % FLOW_POSITIONS,
                                               rows, min_u32(FLOW_ROWS_MAX, (uint32_t)(limit - n_told)),
                                               &next);
        if (n < 0) {
            json_decref(list);
            return reply_bad_request("flows: %s", strerror(-n));
        }
        for (int i = 0; i < n; i++)
            (void)json_array_append_new(list, flow_row(&rows[i]));
        n_told += (uint64_t)n;
        cursor = next > 0 ? source * FLOW_POSITIONS + next : (source + 1) * FLOW_POSITIONS;
    }
    page = json_pack("{s:o}", "flows", list);
    if (cursor / FLOW_POSITIONS < context->n_flow_sources)
        reply_number(page, "next", cursor);
    return reply_build(page ? json_pack("{s:o}", "return", page) : NULL);
}

/* ---- slirp_info ---- */

char *inspect_slirp_info(const struct api_context *context, const json_t *arguments)
{
    char *text = context->slirp_info ? context->slirp_info(context->arg) : NULL, *reply;

    (void)arguments;
    if (!text)
        return reply_bad_request("slirp_info: %s", strerror(ENOMEM));
    reply = reply_build(json_pack("{s:{s:s}}", "return", "info", text));
    free(text);
    return reply;
}
