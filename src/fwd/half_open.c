/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * half_open.c
 *
 * There is no event for the guest's acknowledgement of our SYN-ACK. But TCP_INFO counts the segments that a
 * socket has received, and one without a handshake begins with none. So each is looked at once in look_ms (a
 * second) until something has come, and when there are too many. Most connections end, or are looked at once,
 * before they are anything like that old. Meanwhile the SYN-ACK is repeated when a kernel in SYN_RECV would
 * repeat it (tcp_synack_retries 5): it may have been lost, or the answer may have come over the TAP.
 *
 * The C library's header does not know the field, and the kernel's cannot be included beside it.
 */
#include "fwd/half_open.h"

#include "base/bits.h"
#include "base/clock.h"
#include "base/counters.h"

#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>

static uint32_t share(uint32_t part)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur / part >= HALF_OPEN_MAX)
        return HALF_OPEN_MAX;
    return max_u32((uint32_t)limit.rlim_cur / part, 1);
}

uint32_t half_open_connecting_max(void)
{
    return share(4);
}

uint32_t half_open_building_max(void)
{
    return share(16);
}

uint32_t half_open_silent_max(void)
{
    return share(8);
}

/* Not even an acknowledgement has come. False when the kernel does not tell (before Linux 4.2). */
static bool is_silent(int fd)
{
    struct tcp_info info;
    socklen_t length = sizeof(info);

    return getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length) == 0 &&
           length >= offsetof(struct tcp_info, tcpi_segs_in) + sizeof(info.tcpi_segs_in) &&
           info.tcpi_segs_in == 0;
}

void half_opens_init(struct half_opens *h, uint32_t max, uint32_t look_ms)
{
    *h = (struct half_opens){.max = max, .look_ms = look_ms};
    link_init(&h->all);
}

void half_open_add(struct half_opens *h, struct half_open *o, int fd, int64_t since_ns)
{
    if (h->n++ == 0)
        h->look_ns = since_ns + h->look_ms * NS_PER_MS;
    o->since_ns = since_ns;
    o->n_looks = 0;
    o->fd = fd;
    link_insert_before(&h->all, &o->link);
    counter_add_shared(COUNTER_divert_half_open, 1);
}

void half_open_remove(struct half_opens *h, struct half_open *o)
{
    if (link_is_alone(&o->link))
        return;
    link_take_out(&o->link);
    h->n--;
    counter_add_shared(COUNTER_divert_half_open, UINT64_MAX);
}

static struct half_open *oldest(const struct half_opens *h)
{
    return container_of(h->all.next, struct half_open, link);
}

static void make_room(struct half_opens *h, int64_t now_ns)
{
    while (h->n > 0 && half_open_is_too_much(h->n, h->max, now_ns - oldest(h)->since_ns)) {
        if (is_silent(oldest(h)->fd)) {
            counter_add_shared(COUNTER_divert_half_open_evicted, 1);
            h->on_over(h->arg, oldest(h));
        } else {
            half_open_remove(h, oldest(h));
        }
    }
}

static void look(struct half_opens *h, int64_t now_ns)
{
    const int64_t until_ns = now_ns - h->look_ms * NS_PER_MS;
    struct link *next;

    for (struct link *l = h->all.next; l != &h->all; l = next) {
        struct half_open *o = container_of(l, struct half_open, link);

        next = l->next;
        if (o->since_ns > until_ns)
            break;
        if (!is_silent(o->fd)) {
            half_open_remove(h, o);
        } else if (++o->n_looks >= HALF_OPEN_LOOKS) {
            counter_add_shared(COUNTER_divert_half_open_expired, 1);
            h->on_over(h->arg, o);
        } else if ((o->n_looks & (o->n_looks + 1)) == 0) {
            h->on_silent(h->arg, o);
        }
    }
    h->look_ns = now_ns + h->look_ms * NS_PER_MS;
}

void half_opens_turn(struct half_opens *h)
{
    int64_t now_ns;

    if (h->n == 0)
        return;
    now_ns = clock_monotonic_ns();
    make_room(h, now_ns);
    if (now_ns >= h->look_ns)
        look(h, now_ns);
}

int64_t half_opens_until_ns(const struct half_opens *h)
{
    return h->n == 0 ? INT64_MAX : h->look_ns;
}
