/* SPDX-License-Identifier: GPL-2.0-or-later */
/* engine_callbacks.c - what libslirp calls: all from the slirp thread */
#include "slirp/engine_private.h"

#include "base/bits.h"
#include "base/clock.h"
#include "base/counters.h"
#include "base/log.h"

#include <stdlib.h>
#include <string.h>

static ssize_t on_send_packet(const void *frame, size_t size, void *opaque)
{
    struct engine *e = opaque;

    role_assert(&role_slirp);
    acks_to_guest(&e->acks, frame, (uint32_t)size);
    return size;
}

static void on_guest_error(const char *message, void *opaque)
{
    static struct log_limit limit;

    (void)opaque;
    counter_add(COUNTER_slirp_guest_errors, 1);
    log_limited(&limit, LOG_LEVEL_DEBUG, "libslirp: %s", message);
}

static int64_t on_clock_get_ns(void *opaque)
{
    (void)opaque;
    return clock_monotonic_ns();
}

static void *on_timer_new(SlirpTimerId id, void *cb_opaque, void *opaque)
{
    struct engine *e = opaque;

    role_assert(&role_slirp);
    for (unsigned i = 0; i < TIMERS_MAX; i++) {
        if (!e->timers[i].used) {
            e->timers[i] = (struct timer){.used = true, .id = id, .cb_opaque = cb_opaque};
            return &e->timers[i];
        }
    }
    log_error(
        "libslirp wants more timers than this program knows of: upgrade slirp4netns together with libslirp");
    abort();
}

static void on_timer_free(void *timer, void *opaque)
{
    (void)opaque;
    *(struct timer *)timer = (struct timer){.used = false};
}

static void on_timer_mod(void *timer, int64_t expire_ms, void *opaque)
{
    struct timer *t = timer;

    (void)opaque;
    t->armed = true;
    t->expire_ms = expire_ms;
}

static void on_register_poll_fd(int fd, void *opaque)
{
    struct engine *e = opaque;
    struct descriptor *entry;

    role_assert(&role_slirp);
    entry = descriptors_open(&e->descriptors, fd);
    if (entry && e->input_frame) {
        entry->connecting = true;
        entry->copy_size = min_u32(e->input_size, FLOW_COPY_MAX);
        memcpy(entry->copy, e->input_frame, entry->copy_size);
    }
}

static void on_unregister_poll_fd(int fd, void *opaque)
{
    struct engine *e = opaque;

    role_assert(&role_slirp);
    descriptors_close(&e->descriptors, fd);
}

static void on_notify(void *opaque)
{
    struct engine *e = opaque;

    role_assert(&role_slirp);
    e->dirty = true;
}

const SlirpCb engine_callbacks = {
    .send_packet = on_send_packet,
    .guest_error = on_guest_error,
    .clock_get_ns = on_clock_get_ns,
    .timer_new_opaque = on_timer_new,
    .timer_free = on_timer_free,
    .timer_mod = on_timer_mod,
    .register_poll_fd = on_register_poll_fd,
    .unregister_poll_fd = on_unregister_poll_fd,
    .notify = on_notify,
};

/* GLib's messages (libslirp's complaints) come from hostile input: never more than a line per second of them.
 */
void engine_on_glib_message(const gchar *domain, GLogLevelFlags level, const gchar *message, gpointer arg)
{
    static struct log_limit limit;

    (void)arg;
    if (level & G_LOG_FLAG_FATAL)
        log_error("%s: %s", domain ? domain : "GLib", message);
    else
        log_limited(&limit,
                    level & (G_LOG_LEVEL_CRITICAL | G_LOG_LEVEL_ERROR) ? LOG_LEVEL_WARNING : LOG_LEVEL_DEBUG,
                    "%s: %s", domain ? domain : "GLib", message);
}
