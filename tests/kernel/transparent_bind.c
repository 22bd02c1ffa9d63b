/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * transparent_bind.c - a server in the guest sees the client's own address, over lo
 *
 * A forwarded connection is brought to the guest by a socket made in the guest's network namespace:
 * IP_TRANSPARENT lets it bind to an address that is not local, SO_MARK, an ip rule and a table of `local
 * default dev lo` keep its packets on lo, and net.ipv4.tcp_fwmark_accept gives the server's accepted socket
 * the same mark, so that its packets come back over lo too. That one sysctl covers IPv6. The TAP must see
 * nothing of it.
 */
#include "kernel.h"

enum { MARK = 0x534c, TABLE = 21324, CLIENT_PORT = 40404, SERVER_PORT = 8080 };

static void tap_saw_no_tcp(int tap)
{
    uint8_t frame[2048];
    while (read(tap, frame, sizeof(frame)) > 0) {
        const uint8_t *ethernet = frame + 10, *ip = ethernet + 14;

        check(!(ethernet[12] == 0x08 && ethernet[13] == 0x00 && ip[9] == IPPROTO_TCP),
              "IPv4 TCP came out of the TAP");
        check(!(ethernet[12] == 0x86 && ip[6] == IPPROTO_TCP), "IPv6 TCP came out of the TAP");
    }
}

static void connect_as(int tap, int family, const char *client_text, const char *server_text)
{
    union address client = address_of(family, client_text, CLIENT_PORT), seen = {0};
    union address server = address_of(family, server_text, SERVER_PORT);
    int listener = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0),
        fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK, 0);
    socklen_t length = sizeof(seen), int_size = sizeof(int);
    int accepted, error = 0, mark = 0;
    char bytes[8], text[INET6_ADDRSTRLEN] = "";

    must(listener);
    must(bind(listener, &server.any, address_length(&server)));
    must(listen(listener, 1));

    must(fd);
    must(family == AF_INET ? option_set(fd, IPPROTO_IP, IP_TRANSPARENT, 1)
                           : option_set(fd, IPPROTO_IPV6, IPV6_TRANSPARENT, 1));
    must(option_set(fd, SOL_SOCKET, SO_MARK, MARK));
    check(bind(fd, &client.any, address_length(&client)) == 0, "no transparent bind to %s: %s", client_text,
          strerror(errno));
    check(connect(fd, &server.any, address_length(&server)) == 0 || errno == EINPROGRESS, "connect to %s: %s",
          server_text, strerror(errno));
    check(ready(fd, POLLOUT), "no answer from %s to a client that is %s", server_text, client_text);
    must(getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &int_size));
    check(error == 0, "connect as %s: %s", client_text, strerror(error));

    accepted = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    must(accepted);
    must(getpeername(accepted, &seen.any, &length));
    inet_ntop(family, family == AF_INET ? (void *)&seen.v4.sin_addr : (void *)&seen.v6.sin6_addr, text,
              sizeof(text));
    check(strcmp(text, client_text) == 0 && seen.v4.sin_port == htons(CLIENT_PORT),
          "the server sees %s port %d as its client, not %s port %d", text, ntohs(seen.v4.sin_port),
          client_text, CLIENT_PORT);
    must(getsockopt(accepted, SOL_SOCKET, SO_MARK, &mark, &int_size));
    check(mark == MARK, "the accepted socket has mark %#x", (unsigned)mark);

    must(send(fd, "question", 8, 0));
    receive_all(accepted, bytes, 8, "from client to server");
    must(send(accepted, "response", 8, 0));
    receive_all(fd, bytes, 8, "from server to client");
    tap_saw_no_tcp(tap);
    close(accepted);
    close(listener);
    close(fd);
}

int main(void)
{
    int tap, r;

    namespace_enter();
    tap = tap_make("tap0");
    address_add("tap0", AF_INET, "10.0.2.100", 24);
    address_add("tap0", AF_INET6, "fd00::100", 64);
    route_add("tap0", AF_INET, RTN_UNICAST, RT_TABLE_MAIN);
    route_add("tap0", AF_INET6, RTN_UNICAST, RT_TABLE_MAIN);
    mark_means_local(AF_INET, MARK, TABLE);
    mark_means_local(AF_INET6, MARK, TABLE);
    r = file_write("/proc/sys/net/ipv4/tcp_fwmark_accept", "1");
    if (r == -EROFS || r == -EACCES || r == -EPERM)
        skip("cannot set net.ipv4.tcp_fwmark_accept: %s", strerror(-r));
    check(r == 0, "cannot set net.ipv4.tcp_fwmark_accept: %s", strerror(-r));

    connect_as(tap, AF_INET, "203.0.113.9", "10.0.2.100");
    connect_as(tap, AF_INET6, "2001:db8::9", "fd00::100");
    shows("servers on 10.0.2.100 and fd00::100 see 203.0.113.9 and 2001:db8::9, bytes flow over lo, none "
          "over the TAP");
}
