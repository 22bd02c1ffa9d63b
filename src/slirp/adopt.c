/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "slirp/adopt.h"

#include <errno.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

/* What the next accept() on @listen_fd in this thread gets. Thread-local, so that no other thread's accept()
 * looks. */
struct offer {
    int listen_fd, conn_fd;
    union address shown;
};
static _Thread_local struct offer offer = {.listen_fd = -1, .conn_fd = -1};

/* Stands before the C library's accept(2) for the whole process. */
__attribute__((visibility("default"))) int accept(int fd, __SOCKADDR_ARG addr, socklen_t *restrict addr_size)
{
    if (fd >= 0 && fd == offer.listen_fd && offer.conn_fd >= 0) {
        socklen_t size = address_size(&offer.shown);
        int conn_fd = offer.conn_fd;

        memcpy(addr.__sockaddr__, &offer.shown, *addr_size < size ? *addr_size : size);
        *addr_size = size;
        offer.conn_fd = -1;
        return conn_fd;
    }
    return (int)syscall(SYS_accept4, fd, addr.__sockaddr__, addr_size, 0);
}

/* slirp_pollfds_fill()'s callback: recognises the listener among what libslirp waits for. */
struct search {
    int found_fd;
};

static int find_listener(int fd, int events, void *arg)
{
    struct search *search = arg;
    int listening = 0;
    socklen_t size = sizeof(listening);

    (void)events;
    if (search->found_fd < 0 && getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &size) == 0 &&
        listening) {
        search->found_fd = fd;
        return fd;
    }
    return -1;
}

static int only_listener_ready(int index, void *arg)
{
    const struct search *search = arg;

    return index == search->found_fd ? SLIRP_POLL_IN : 0;
}

int adopt_connection(Slirp *slirp, int conn_fd, const union address *shown, const union address *guest)
{
    /* libslirp takes the family of the guest's address from the listener: both must be the same. */
    union address listen_at = {.in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)}};
    struct search search = {.found_fd = -1};
    socklen_t size = sizeof(listen_at);
    uint32_t timeout_ms = UINT32_MAX;
    int r = 0;

    if (guest->sa.sa_family == AF_INET6)
        listen_at = (union address){.in6 = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT}};
    /* libslirp has no other listener: every forward's is ours. */
    if (slirp_add_hostxfwd(slirp, &listen_at.sa, address_size(&listen_at), &guest->sa, address_size(guest),
                           0) < 0)
        return errno ? -errno : -EINVAL;
    slirp_pollfds_fill(slirp, &timeout_ms, find_listener, &search);
    if (search.found_fd < 0 || getsockname(search.found_fd, &listen_at.sa, &size) < 0)
        return -ENOTSOCK; /* cannot happen: the listener was made above */
    /* Nobody on this host may connect to it: it stops listening before it could be found. It stays bound
     * until closed. */
    shutdown(search.found_fd, SHUT_RDWR);

    offer = (struct offer){.listen_fd = search.found_fd, .conn_fd = conn_fd, .shown = *shown};
    slirp_pollfds_poll(slirp, 0, only_listener_ready, &search);
    if (offer.conn_fd >= 0)
        r = -ECONNABORTED; /* libslirp did not take it: it knows no guest address yet */
    offer = (struct offer){.listen_fd = -1, .conn_fd = -1};

    (void)slirp_remove_hostxfwd(slirp, &listen_at.sa, address_size(&listen_at), 0);
    return r;
}
