/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * relay.c - the least that a program between a TAP and a socket has to do for datagrams
 *
 * Usage: relay PID NAME ADDR PORT SECONDS
 *
 * Makes the TAP device NAME in the network namespace of process PID and carries the datagrams that the guest
 * sends to ADDR and PORT, and what comes back from there, by as few system calls as there are: frames are
 * read one by one, as a TAP gives them, up to BATCH of them leave with one sendmsg(2) (UDP_SEGMENT), as many
 * are received with one recvmmsg(2) and go to the guest as one frame (USO). One flow at a time, IPv4, no
 * table, no checks, no errors reported, nothing else carried: not a program for anybody, but a limit for all
 * that read a TAP. Says
 * {"ready": true} when the device exists, and ends after SECONDS or on a signal; the device goes with it.
 */
#include "tool.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/if_tun.h>
#include <linux/virtio_net.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <netinet/udp.h>
#include <poll.h>
#include <sched.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef TUN_F_USO4
#define TUN_F_USO4 0x20
#define TUN_F_USO6 0x40
#endif
#ifndef VIRTIO_NET_HDR_GSO_UDP_L4
#define VIRTIO_NET_HDR_GSO_UDP_L4 5
#endif

enum {
    BATCH = 64,
    JOINED_BYTES_MAX = 65000, /* a datagram's length field has 16 bits, and so has a packet's */
    FRAME_MAX = 70 * 1024,
    DATAGRAM_MAX = 65507,
    SOCKET_BUFFER = 1 << 20,
    POLL_MS = 100,
    SECONDS_MAX = 3600,
};

struct head { /* of a frame of the TAP */
    struct virtio_net_hdr virtio;
    struct ethhdr eth;
    struct iphdr ip;
    struct udphdr udp;
} __attribute__((packed));

static struct {
    int tap_fd, socket_fd;
    struct head last; /* of the guest's last datagram: where answers go */
    uint8_t frames[BATCH][FRAME_MAX];
    uint8_t datagrams[BATCH][DATAGRAM_MAX];
    struct mmsghdr messages[BATCH];
    struct iovec in[BATCH];
} relay;

static double now_s(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static int socket_to(const char *address, uint16_t port)
{
    struct sockaddr_in sin = {.sin_family = AF_INET, .sin_port = htons(port)};
    const int size = SOCKET_BUFFER;
    int fd;

    if (inet_pton(AF_INET, address, &sin.sin_addr) != 1) {
        errno = 0;
        die("'%s' is not an IPv4 address", address);
    }
    fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&sin, sizeof(sin)) < 0) {
        die("no socket to %s", address);
    }
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size)); /* as much as is permitted */
    (void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
    return fd;
}

static void join(long pid, const char *kind, int type)
{
    char path[64];
    int fd;

    snprintf(path, sizeof(path), "/proc/%ld/ns/%s", pid, kind);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    /* EINVAL: it is our own user namespace. */
    if (fd < 0 || (setns(fd, type) < 0 && !(type == CLONE_NEWUSER && errno == EINVAL))) {
        die("cannot join the %s namespace of process %ld", kind, pid);
    }
    close(fd);
}

static int tap_open(const char *name)
{
    struct ifreq ifr = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
    int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK), size = sizeof(struct virtio_net_hdr);

    if (fd < 0) {
        die("cannot open /dev/net/tun");
    }
    if (snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "%s", name) >= (int)sizeof(ifr.ifr_name)) {
        errno = 0;
        die("'%s' is too long for the name of an interface", name);
    }
    if (ioctl(fd, TUNSETIFF, &ifr) < 0 || ioctl(fd, TUNSETVNETHDRSZ, &size) < 0) {
        die("cannot make %s", name);
    }
    if (ioctl(fd, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_USO4 | TUN_F_USO6) < 0) {
        die("no offloads for %s: Linux 6.2 has them", name);
    }
    return fd;
}

/* ---- from the guest ---- */

/* One message for @n datagrams of @size bytes, the last one as long or shorter. */
static void send_joined(struct iovec *parts, int n, size_t size)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(uint16_t))];
    } control;
    struct msghdr m = {.msg_iov = parts, .msg_iovlen = (size_t)n};
    const uint16_t segment = (uint16_t)size;

    if (n > 1) {
        struct cmsghdr *c;

        m.msg_control = control.bytes;
        m.msg_controllen = sizeof(control.bytes);
        c = CMSG_FIRSTHDR(&m);
        c->cmsg_level = IPPROTO_UDP;
        c->cmsg_type = UDP_SEGMENT;
        c->cmsg_len = CMSG_LEN(sizeof(segment));
        memcpy(CMSG_DATA(c), &segment, sizeof(segment));
    }
    /* ECONNREFUSED: nobody listens (any more); all else is lost, as on a wire. */
    if (sendmsg(relay.socket_fd, &m, MSG_DONTWAIT) < 0 && errno != ECONNREFUSED && errno != EAGAIN &&
        errno != ENOBUFS) {
        die("sendmsg");
    }
}

static void from_guest(void)
{
    struct iovec parts[BATCH];
    int n = 0;

    while (n < BATCH) {
        uint8_t *frame = relay.frames[n];
        ssize_t size = read(relay.tap_fd, frame, FRAME_MAX);
        const struct head *head = (const struct head *)(const void *)frame;

        if (size < 0) {
            if (errno != EAGAIN && errno != EIO) { /* EIO: the device is down */
                die("cannot read a frame");
            }
            break;
        }
        if ((size_t)size <= sizeof(*head) || head->eth.h_proto != htons(ETH_P_IP) || head->ip.ihl != 5 ||
            head->ip.protocol != IPPROTO_UDP) {
            continue;
        }
        if (head->virtio.gso_type != VIRTIO_NET_HDR_GSO_NONE ||
            (head->ip.frag_off & htons(IP_MF | IP_OFFMASK)) != 0) {
            errno = 0;
            die("several datagrams, or a part of one, in a frame: not made for that");
        }
        relay.last = *head;
        parts[n++] =
            (struct iovec){.iov_base = frame + sizeof(*head), .iov_len = (size_t)size - sizeof(*head)};
    }
    for (int first = 0, next; first < n; first = next) {
        size_t size = parts[first].iov_len, bytes = size;

        for (next = first + 1; next < n && parts[next - 1].iov_len == size && parts[next].iov_len <= size &&
                               bytes + parts[next].iov_len <= JOINED_BYTES_MAX;
             next++) {
            bytes += parts[next].iov_len;
        }
        send_joined(parts + first, next - first, size);
    }
}

/* ---- to the guest ---- */

static uint32_t sum_words(const void *data, size_t size)
{
    const uint8_t *bytes = data;
    uint32_t sum = 0;

    for (size_t i = 0; i < size; i += 2) {
        uint16_t word;

        memcpy(&word, bytes + i, sizeof(word));
        sum += ntohs(word);
    }
    return sum;
}

static uint16_t folded(uint32_t sum)
{
    while (sum >> 16 != 0) {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    return htons((uint16_t)sum);
}

/* One frame for messages @first to before @next, of @size bytes each, @bytes in all. */
static void write_joined(int first, int next, size_t size, size_t bytes)
{
    const struct head *from = &relay.last;
    struct head head = {
        .virtio = {.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
                   .csum_start = sizeof(struct ethhdr) + sizeof(struct iphdr),
                   .csum_offset = offsetof(struct udphdr, check),
                   .hdr_len = sizeof(struct head) - sizeof(struct virtio_net_hdr)},
        .eth = {.h_proto = htons(ETH_P_IP)},
        .ip = {.version = 4,
               .ihl = 5,
               .ttl = 64,
               .protocol = IPPROTO_UDP,
               .tot_len = htons((uint16_t)(sizeof(struct iphdr) + sizeof(struct udphdr) + bytes)),
               .saddr = from->ip.daddr,
               .daddr = from->ip.saddr},
        .udp = {.source = from->udp.dest,
                .dest = from->udp.source,
                .len = htons((uint16_t)(sizeof(struct udphdr) + bytes))}};
    const uint32_t addresses[] = {head.ip.saddr, head.ip.daddr};
    struct iovec parts[1 + BATCH] = {{.iov_base = &head, .iov_len = sizeof(head)}};

    memcpy(head.eth.h_dest, from->eth.h_source, ETH_ALEN);
    memcpy(head.eth.h_source, from->eth.h_dest, ETH_ALEN);
    head.ip.check = (uint16_t)~folded(sum_words(&head.ip, sizeof(head.ip)));
    /* Only begun (virtio, "NEEDS_CSUM"): the pseudo header. */
    head.udp.check = folded(sum_words(addresses, sizeof(addresses)) + IPPROTO_UDP + sizeof(struct udphdr) +
                            (uint32_t)bytes);
    if (next - first > 1) {
        head.virtio.gso_type = VIRTIO_NET_HDR_GSO_UDP_L4;
        head.virtio.gso_size = (uint16_t)size;
    }
    for (int i = first; i < next; i++) {
        parts[1 + i - first] =
            (struct iovec){.iov_base = relay.datagrams[i], .iov_len = relay.messages[i].msg_len};
    }
    if (writev(relay.tap_fd, parts, 1 + next - first) < 0 && errno != EIO && errno != EAGAIN) {
        die("cannot write a frame");
    }
}

static void to_guest(void)
{
    int n = recvmmsg(relay.socket_fd, relay.messages, BATCH, MSG_DONTWAIT, NULL);

    if (n < 0 && errno != EAGAIN && errno != ECONNREFUSED && errno != EINTR) {
        die("recvmmsg");
    }
    for (int first = 0, next; first < n; first = next) {
        size_t size = relay.messages[first].msg_len, bytes = size;

        for (next = first + 1;
             next < n && relay.messages[next - 1].msg_len == size && relay.messages[next].msg_len <= size &&
             relay.messages[next].msg_len > 0 && bytes + relay.messages[next].msg_len <= JOINED_BYTES_MAX;
             next++) {
            bytes += relay.messages[next].msg_len;
        }
        write_joined(first, next, size, bytes);
    }
}

int main(int argc, char **argv)
{
    double end;
    long pid;

    if (argc != 6) {
        fputs("Usage: relay PID NAME ADDR PORT SECONDS\n", stderr);
        return 2;
    }
    pid = (long)parse_number(argv[1], "PID", 1, 1 << 22);
    end = now_s() + parse_number(argv[5], "SECONDS", 0.01, SECONDS_MAX);
    end_on_signals();
    relay.socket_fd = socket_to(argv[3], (uint16_t)parse_number(argv[4], "PORT", 1, 65535));
    join(pid, "user", CLONE_NEWUSER);
    join(pid, "net", CLONE_NEWNET);
    relay.tap_fd = tap_open(argv[2]);
    for (int i = 0; i < BATCH; i++) {
        relay.in[i] = (struct iovec){.iov_base = relay.datagrams[i], .iov_len = DATAGRAM_MAX};
        relay.messages[i].msg_hdr = (struct msghdr){.msg_iov = &relay.in[i], .msg_iovlen = 1};
    }
    printf("{\"ready\": true}\n");
    fflush(stdout);

    while (!over && now_s() < end) {
        struct pollfd polls[] = {{.fd = relay.tap_fd, .events = POLLIN},
                                 {.fd = relay.socket_fd, .events = POLLIN}};

        if (poll(polls, 2, POLL_MS) < 0 && errno != EINTR) {
            die("poll");
        }
        if (polls[0].revents != 0) {
            from_guest();
        }
        if (polls[1].revents != 0) {
            to_guest();
        }
    }
    return 0;
}
