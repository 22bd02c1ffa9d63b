/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/ctl_show.h"

#include "base/counters.h"
#include "cli/table.h"

#include <stdlib.h>
#include <string.h>

static const char *text_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));

    return text ? text : "";
}

static double number_of(const json_t *object, const char *key)
{
    return json_number_value(json_object_get(object, key)); /* 0: there is none */
}

/* "ADDR:PORT" in @buffer, or "-". */
static const char *end_of(const json_t *object, const char *addr_key, const char *port_key, char buffer[80])
{
    const char *addr = text_of(object, addr_key);

    if (!*addr)
        return "-";
    snprintf(buffer, 80, strchr(addr, ':') ? "[%s]:%.0f" : "%s:%.0f", addr, number_of(object, port_key));
    return buffer;
}

/* ---- list ---- */

void ctl_show_list(FILE *f, const json_t *reply)
{
    static const char *const heads[] = {">ID",   "<PROTO",    "<HOST",    "<GUEST",  "<PATH",
                                        ">CONN", ">TO GUEST", ">TO HOST", "<REASON", NULL};
    const json_t *row;
    struct table t;
    size_t i;

    table_init(&t, heads);
    json_array_foreach(json_object_get(reply, "entries"), i, row)
    {
        char host[80], guest[80], last[16] = "";

        if (json_object_get(row, "host_port_end"))
            snprintf(last, sizeof(last), "-%.0f", number_of(row, "host_port_end"));
        table_cell(&t, "%.0f", number_of(row, "id"));
        table_cell(&t, "%s", text_of(row, "proto"));
        table_cell(&t, "%s%s", end_of(row, "host_addr", "host_port", host), last);
        table_cell(&t, "%s", end_of(row, "guest_addr", "guest_port", guest));
        table_cell(&t, "%s", text_of(row, "path"));
        table_cell(&t, "%.0f", number_of(row, "connections"));
        table_cell(&t, "%s", table_bytes(number_of(row, "bytes_in")));
        table_cell(&t, "%s", table_bytes(number_of(row, "bytes_out")));
        table_cell(&t, "%s", text_of(row, "reason"));
    }
    table_print(&t, f);
    table_deinit(&t);
}

/* ---- flows ---- */

struct flow_row {
    const json_t *flow;
    double bytes, rate; /* both directions; the rate is -1 when it is not known */
};

static double bytes_of(const json_t *flow)
{
    return number_of(flow, "bytes_to_guest") + number_of(flow, "bytes_to_host");
}

static void key_of(const json_t *flow, char key[200])
{
    char guest[80], remote[80];

    snprintf(key, 200, "%s %s %s %s", text_of(flow, "proto"), text_of(flow, "tier"),
             end_of(flow, "guest_addr", "guest_port", guest),
             end_of(flow, "remote_addr", "remote_port", remote));
}

/* Bytes by key_of(). */
static json_t *index_flows(const json_t *reply)
{
    json_t *index = json_object();
    const json_t *flow;
    size_t i;

    json_array_foreach(json_object_get(reply, "flows"), i, flow)
    {
        char key[200];

        key_of(flow, key);
        (void)json_object_set_new_nocheck(index, key, json_real(bytes_of(flow)));
    }
    return index;
}

static int busier(const void *a, const void *b)
{
    const struct flow_row *x = a, *y = b;

    if (x->rate != y->rate)
        return x->rate > y->rate ? -1 : 1;
    return x->bytes > y->bytes ? -1 : x->bytes < y->bytes;
}

static void show_flow(struct table *t, const struct flow_row *row)
{
    const json_t *flow = row->flow;
    bool counted = json_object_get(flow, "bytes_to_guest") != NULL;
    char guest[80], remote[80];

    table_cell(t, "%s", text_of(flow, "proto"));
    table_cell(t, "%s", end_of(flow, "guest_addr", "guest_port", guest));
    table_cell(t, "%s", end_of(flow, "remote_addr", "remote_port", remote));
    table_cell(t, "%s", text_of(flow, "tier"));
    table_cell(t, "%s", text_of(flow, "state"));
    table_cell(t, "%s", counted ? table_bytes(number_of(flow, "bytes_to_guest")) : "");
    table_cell(t, "%s", counted ? table_bytes(number_of(flow, "bytes_to_host")) : "");
    table_cell(t, "%s%s", row->rate >= 0 ? table_bytes(row->rate) : "", row->rate >= 0 ? "/s" : "");
    table_cell(t, "%s",
               json_object_get(flow, "age_ms") ? table_seconds(number_of(flow, "age_ms") / 1000) : "");
}

void ctl_show_flows(FILE *f, const json_t *reply, const json_t *before, double seconds)
{
    static const char *const heads[] = {"<PROTO",    "<GUEST",   "<REMOTE", "<TIER", "<STATE",
                                        ">TO GUEST", ">TO HOST", ">RATE",   ">AGE",  NULL};
    const json_t *flows = json_object_get(reply, "flows"), *flow;
    json_t *old = before && seconds > 0 ? index_flows(before) : NULL;
    struct flow_row *rows = calloc(json_array_size(flows) + 1, sizeof(*rows));
    struct table t;
    size_t i;

    table_init(&t, heads);
    json_array_foreach(flows, i, flow)
    {
        struct flow_row row = {.flow = flow, .bytes = bytes_of(flow), .rate = -1};
        char key[200];

        key_of(flow, key);
        if (old && json_object_get(flow, "bytes_to_guest")) {
            double then = json_number_value(json_object_get(old, key));

            row.rate = row.bytes > then ? (row.bytes - then) / seconds : 0;
        }
        if (!rows) /* no memory to sort them */
            show_flow(&t, &row);
        else
            rows[i] = row;
    }
    if (rows && old)
        qsort(rows, json_array_size(flows), sizeof(*rows), busier);
    for (i = 0; rows && i < json_array_size(flows); i++)
        show_flow(&t, &rows[i]);
    table_print(&t, f);
    table_deinit(&t);
    free(rows);
    json_decref(old);
}

/* ---- stats ---- */

static void show_threads(FILE *f, const json_t *threads)
{
    static const char *const heads[] = {"<THREAD", ">CPU", ">TURNS", ">WAKE-UPS", NULL};
    const json_t *row;
    struct table t;
    size_t i;

    table_init(&t, heads);
    json_array_foreach(threads, i, row)
    {
        table_cell(&t, "%s", text_of(row, "name"));
        table_cell(&t, "%s", table_seconds(number_of(row, "cpu_ns") / 1e9));
        table_cell(&t, "%.0f", number_of(row, "turns"));
        table_cell(&t, "%.0f", number_of(row, "wake_ups"));
    }
    fputc('\n', f);
    table_print(&t, f);
    table_deinit(&t);
}

static void show_tiers(FILE *f, json_t *tiers)
{
    static const char *const heads[] = {"<TIER", ">OPEN", ">SO FAR", ">BYTES", NULL};
    const char *name;
    struct table t;
    json_t *tier;

    table_init(&t, heads);
    json_object_foreach(tiers, name, tier)
    {
        table_cell(&t, "%s", name);
        if (json_object_get(tier, "open"))
            table_cell(&t, "%.0f", number_of(tier, "open"));
        else
            table_cell(&t, "%s", "");
        if (json_object_get(tier, "flows"))
            table_cell(&t, "%.0f", number_of(tier, "flows"));
        else
            table_cell(&t, "%s", "");
        table_cell(&t, "%s", json_object_get(tier, "bytes") ? table_bytes(number_of(tier, "bytes")) : "");
    }
    fputc('\n', f);
    table_print(&t, f);
    table_deinit(&t);
}

/* What has happened at all, with the sentence that this program has for it. */
static void show_counters(FILE *f, const json_t *reply)
{
    static const char *const heads[] = {"<COUNTER", ">VALUE", "<UNIT", "<MEANING", NULL};
    struct table t;

    table_init(&t, heads);
    for (unsigned i = 0; i < COUNTER_COUNT; i++) {
        const struct counter_row *row = &counter_rows[i];
        double value = number_of(reply, row->name);

        if (value == 0)
            continue;
        table_cell(&t, "%s", row->name);
        table_cell(&t, "%.0f", value);
        table_cell(&t, "%s", row->unit);
        table_cell(&t, "%s", row->text);
    }
    fputc('\n', f);
    table_print(&t, f);
    table_deinit(&t);
}

void ctl_show_stats(FILE *f, const json_t *reply)
{
    const json_t *per_frame = json_object_get(reply, "syscalls_per_frame");

    fputs("data plane ", f);
    table_clean(f, text_of(reply, "backend"));
    fputs(", threads ", f);
    table_clean(f, text_of(reply, "threads"));
    fputs(", outbound TCP ", f);
    table_clean(f, text_of(reply, "outbound"));
    fprintf(f, "\nsystem calls per frame: %.2f from the guest, %.2f to the guest\n",
            number_of(per_frame, "rx"), number_of(per_frame, "tx"));
    show_tiers(f, json_object_get(reply, "per_tier"));
    show_threads(f, json_object_get(reply, "per_thread"));
    show_counters(f, reply);
}

void ctl_show_info(FILE *f, const json_t *reply)
{
    table_clean(f, text_of(reply, "info"));
}
