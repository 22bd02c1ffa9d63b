/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "io/wakeup.h"

#include "base/thread.h"

#include <errno.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <unistd.h>

int wakeup_init(struct wakeup *w)
{
    atomic_init(&w->sleeping, 0);
    w->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return w->fd < 0 ? -errno : 0;
}

void wakeup_deinit(struct wakeup *w)
{
    if (w->fd >= 0)
        close(w->fd);
    w->fd = -1;
}

void wakeup_drain(struct wakeup *w)
{
    uint64_t n;

    thread_count_wake_up();
    /* EAGAIN: somebody else's reading of the same event, nothing to do. The counter resets in one read. */
    while (read(w->fd, &n, sizeof(n)) < 0 && errno == EINTR)
        ;
}

void wakeup_send(struct wakeup *w)
{
    static const uint64_t one = 1;

    /* EAGAIN (counter at its maximum) means that it is readable already, which is all we want. */
    while (write(w->fd, &one, sizeof(one)) < 0 && errno == EINTR)
        ;
}
