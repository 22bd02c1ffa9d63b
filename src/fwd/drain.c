/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "fwd/drain.h"

#include "base/bits.h"
#include "base/clock.h"

#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

/* Bytes that the guest has not acknowledged, its FIN counted as one (tcp(7), SIOCOUTQ). A connection that was
 * reset keeps the number. */
static int left(int fd)
{
    struct tcp_info info;
    socklen_t length = sizeof(info);
    int n;

    if (ioctl(fd, SIOCOUTQ, &n) < 0 || n <= 1)
        return 0;
    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length) < 0 || info.tcpi_state == TCP_CLOSE)
        return 0;
    return n;
}

void drains_init(struct drains *ds)
{
    *ds = (struct drains){.look_ns = INT64_MAX};
    link_init(&ds->all);
}

bool drain_add(struct drains *ds, struct drain *d, int fd)
{
    d->left = left(fd);
    if (d->left == 0)
        return false;
    d->fd = fd;
    d->progress_ns = clock_monotonic_ns();
    if (link_is_alone(&ds->all))
        ds->look_ns = d->progress_ns + DRAIN_LOOK_MS * NS_PER_MS;
    link_insert_before(&ds->all, &d->link);
    return true;
}

void drain_remove(struct drain *d)
{
    link_take_out(&d->link);
}

void drains_turn(struct drains *ds)
{
    struct link *next;
    int64_t now_ns;

    if (link_is_alone(&ds->all) || (now_ns = clock_monotonic_ns()) < ds->look_ns)
        return;
    ds->look_ns = now_ns + DRAIN_LOOK_MS * NS_PER_MS;
    for (struct link *l = ds->all.next; l != &ds->all; l = next) {
        struct drain *d = container_of(l, struct drain, link);
        int now_left = left(d->fd);

        next = l->next;
        if (now_left != d->left)
            d->progress_ns = now_ns;
        d->left = now_left;
        if (now_left == 0)
            ds->on_over(ds->arg, d, false);
        else if (now_ns - d->progress_ns >= DRAIN_SILENT_MS * NS_PER_MS)
            ds->on_over(ds->arg, d, true);
    }
}

int64_t drains_until_ns(const struct drains *ds)
{
    return link_is_alone(&ds->all) ? INT64_MAX : ds->look_ns;
}
