/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The kernel answers a request before sendto(2) returns, as with nft.c: nothing is waited for. */
#include "fwd/sock_diag.h"

#include <errno.h>
#include <libmnl/libmnl.h>
#include <linux/inet_diag.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

enum {
    BUFFER_SIZE = 512, /* the request, or an error that repeats it */
    ANSWERS_MAX = 8,   /* what an earlier request may have left in the queue comes first */
};

int sock_diag_init(struct sock_diag *d)
{
    d->socket = mnl_socket_open2(NETLINK_SOCK_DIAG, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (!d->socket)
        return -errno;
    if (mnl_socket_bind(d->socket, 0, MNL_SOCKET_AUTOPID) < 0) {
        int r = -errno;

        mnl_socket_close(d->socket);
        d->socket = NULL;
        return r;
    }
    return 0;
}

static void address_put(__be32 *ret_address, __be16 *ret_port, const union address *a)
{
    if (a->sa.sa_family == AF_INET6)
        memcpy(ret_address, &a->in6.sin6_addr, sizeof(a->in6.sin6_addr));
    else
        memcpy(ret_address, &a->in.sin_addr, sizeof(a->in.sin_addr));
    *ret_port = htons(address_port(a));
}

int sock_diag_destroy(struct sock_diag *d, const union address *local, const union address *peer)
{
    _Alignas(8) uint8_t buffer[BUFFER_SIZE];
    struct nlmsghdr *request;
    struct inet_diag_req_v2 *body;

    if (!d->socket)
        return -EOPNOTSUPP;
    request = mnl_nlmsg_put_header(buffer);
    request->nlmsg_type = SOCK_DESTROY;
    request->nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
    request->nlmsg_seq = ++d->sequence;
    body = mnl_nlmsg_put_extra_header(request, sizeof(*body)); /* zeroed */
    body->sdiag_family = (uint8_t)local->sa.sa_family;
    body->sdiag_protocol = IPPROTO_TCP;
    body->idiag_states = UINT32_MAX;
    address_put(body->id.idiag_src, &body->id.idiag_sport, local);
    address_put(body->id.idiag_dst, &body->id.idiag_dport, peer);
    body->id.idiag_cookie[0] = body->id.idiag_cookie[1] = INET_DIAG_NOCOOKIE;
    if (mnl_socket_sendto(d->socket, request, request->nlmsg_len) < 0)
        return -errno;
    for (int i = 0; i < ANSWERS_MAX; i++) {
        ssize_t size = mnl_socket_recvfrom(d->socket, buffer, sizeof(buffer));
        const struct nlmsghdr *answer = (const struct nlmsghdr *)buffer;
        const struct nlmsgerr *error = mnl_nlmsg_get_payload(answer);

        if (size < 0 && errno == EINTR)
            continue;
        if (size < 0)
            return -errno;
        if (mnl_nlmsg_ok(answer, (int)size) && answer->nlmsg_seq == d->sequence &&
            answer->nlmsg_type == NLMSG_ERROR && mnl_nlmsg_get_payload_len(answer) >= sizeof(*error))
            return error->error; /* 0 or a negative errno */
    }
    return -EIO;
}
