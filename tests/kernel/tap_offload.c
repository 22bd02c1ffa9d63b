/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * tap_offload.c - large frames through the TAP in both directions
 *
 * TUNSETOFFLOAD says what may come out of the TAP: TCP segmentation (CSUM, TSO4, TSO6) and, since Linux 6.2,
 * UDP segmentation, whose two flags are refused one without the other. None of it needs a capability. What
 * goes in is described by its virtio_net_hdr alone. Some kernels around 6.10 refused such writes with EINVAL
 * (e269d79c7d35, fixed by 89add40066f9): the program tests itself at start, this test tells that reason
 * apart.
 */
#include "kernel.h"

#include <linux/virtio_net.h>
#include <netinet/ip.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>

enum { OFFLOAD_USO4 = 0x20, OFFLOAD_USO6 = 0x40, GSO_UDP_L4 = 5 }; /* newer than the headers */
enum {
    TCP_MSS_USED = 1460,
    TCP_PAYLOAD = 22 * TCP_MSS_USED,
    UDP_PAYLOAD = 1000,
    UDP_COUNT = 10,
    PORT = 7777
};

static const unsigned tso = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6;

struct frame {
    struct virtio_net_hdr vnet;
    uint8_t ethernet_destination[6], ethernet_source[6];
    uint16_t ethernet_type;
    struct iphdr ip;
    union {
        struct tcphdr tcp;
        struct udphdr udp;
        uint8_t rest[65535 - 20];
    };
} __attribute__((packed));
enum { ETHERNET_SIZE = 14, L4_OFFSET = ETHERNET_SIZE + sizeof(struct iphdr) };
static_assert(offsetof(struct frame, tcp) - offsetof(struct frame, ethernet_destination) == L4_OFFSET,
              "frame layout");

static struct frame in, out;

static uint16_t sum_fold(const void *data, size_t size, uint32_t sum)
{
    for (size_t i = 0; i + 1 < size; i += 2)
        sum += (uint32_t)((const uint8_t *)data)[i] << 8 | ((const uint8_t *)data)[i + 1];
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)sum;
}

/* Reads frames into @in until one is IPv4 of @protocol from or to PORT: its size without the virtio_net_hdr.
 */
static size_t frame_receive(int tap, uint8_t protocol, const char *what)
{
    int64_t deadline = now_ms() + WAIT_MS;

    while (now_ms() < deadline && ready(tap, POLLIN)) {
        ssize_t n = read(tap, &in, sizeof(in));

        if (n > (ssize_t)(sizeof(in.vnet) + L4_OFFSET + sizeof(struct udphdr)) &&
            in.ethernet_type == htons(0x0800) && in.ip.protocol == protocol && in.udp.dest == htons(PORT))
            return (size_t)n - sizeof(in.vnet);
    }
    fail("%s does not come out of the TAP", what);
}

/* Writes @out, answer to @in, whose L4 header and payload of @l4_size bytes are there except for the
 * checksum. */
static void frame_send(int tap, uint8_t protocol, size_t l4_size, uint16_t checksum_offset, const char *what)
{
    size_t size = sizeof(out.vnet) + L4_OFFSET + l4_size;
    uint16_t sum;

    out.vnet.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
    out.vnet.csum_start = L4_OFFSET;
    out.vnet.csum_offset = checksum_offset;
    memcpy(out.ethernet_destination, in.ethernet_source, 6);
    memcpy(out.ethernet_source, (uint8_t[]){0x52, 0x55, 10, 0, 2, 2}, 6);
    out.ethernet_type = htons(0x0800);
    out.ip = (struct iphdr){.version = 4, .ihl = 5, .ttl = 64, .protocol = protocol};
    out.ip.tot_len = htons((uint16_t)(sizeof(out.ip) + l4_size));
    out.ip.saddr = in.ip.daddr;
    out.ip.daddr = in.ip.saddr;
    out.ip.check = htons((uint16_t)~sum_fold(&out.ip, sizeof(out.ip), 0));
    /* the kernel adds the rest: only the pseudo header */
    sum = htons(
        sum_fold((const uint8_t *)&out.ip + offsetof(struct iphdr, saddr), 8, protocol + (uint32_t)l4_size));
    memcpy(out.rest + checksum_offset, &sum, sizeof(sum));
    check(write(tap, &out, size) == (ssize_t)size, "the TAP refuses %s: %s", what, strerror(errno));
}

static void tcp_both_ways(int tap, int *ret_out_size)
{
    union address server = address_of(AF_INET, "10.0.2.2", PORT);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), error = 0;
    socklen_t length = sizeof(error);
    static uint8_t bytes[TCP_PAYLOAD];
    const uint8_t mss_option[4] = {TCPOPT_MAXSEG, TCPOLEN_MAXSEG, TCP_MSS_USED >> 8, TCP_MSS_USED & 0xff};
    uint32_t guest_isn;
    size_t size;

    must(fd);
    check(connect(fd, &server.any, sizeof(server.v4)) < 0 && errno == EINPROGRESS, "connect: %s",
          strerror(errno));
    frame_receive(tap, IPPROTO_TCP, "a SYN");
    check(in.tcp.syn, "the first segment is not a SYN");
    guest_isn = ntohl(in.tcp.seq);

    out.vnet = (struct virtio_net_hdr){.gso_type = VIRTIO_NET_HDR_GSO_NONE};
    out.tcp = (struct tcphdr){.source = in.tcp.dest, .dest = in.tcp.source, .syn = 1, .ack = 1, .doff = 6};
    out.tcp.seq = htonl(1000);
    out.tcp.ack_seq = htonl(guest_isn + 1);
    out.tcp.window = htons(65535);
    memcpy(out.rest + sizeof(out.tcp), mss_option, sizeof(mss_option));
    frame_send(tap, IPPROTO_TCP, sizeof(out.tcp) + sizeof(mss_option), offsetof(struct tcphdr, check),
               "a SYN-ACK");
    check(ready(fd, POLLOUT), "no answer to a SYN-ACK with a partial checksum");
    must(getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length));
    check(error == 0, "connect: %s", strerror(error));

    out.vnet = (struct virtio_net_hdr){.gso_type = VIRTIO_NET_HDR_GSO_TCPV4, .gso_size = TCP_MSS_USED};
    out.vnet.hdr_len = L4_OFFSET + sizeof(out.tcp);
    out.tcp.syn = 0;
    out.tcp.psh = 1;
    out.tcp.doff = 5;
    out.tcp.seq = htonl(1001);
    for (size_t i = 0; i < TCP_PAYLOAD; i++)
        out.rest[sizeof(out.tcp) + i] = (uint8_t)(i * 7 + (i >> 8));
    frame_send(tap, IPPROTO_TCP, sizeof(out.tcp) + TCP_PAYLOAD, offsetof(struct tcphdr, check),
               "a TCP GSO frame");
    receive_all(fd, bytes, sizeof(bytes), "payload of a TCP GSO frame");
    check(memcmp(bytes, out.rest + sizeof(out.tcp), sizeof(bytes)) == 0,
          "the payload has changed on its way");

    must(send(fd, bytes, (size_t)8 * TCP_MSS_USED, 0));
    do
        size = frame_receive(tap, IPPROTO_TCP, "the guest's data");
    while (size <= L4_OFFSET + 4u * in.tcp.doff); /* pure ACKs */
    check(size > ETHERNET_SIZE + 1500 && in.vnet.gso_type == VIRTIO_NET_HDR_GSO_TCPV4 &&
              in.vnet.gso_size == TCP_MSS_USED && (in.vnet.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) &&
              in.vnet.csum_start == L4_OFFSET && in.vnet.csum_offset == offsetof(struct tcphdr, check),
          "the guest's data come as %zu bytes, gso_type %d, gso_size %d, flags %d", size, in.vnet.gso_type,
          in.vnet.gso_size, in.vnet.flags);
    *ret_out_size = (int)size;
    close(fd);
}

static void udp_both_ways(int tap)
{
    union address server = address_of(AF_INET, "10.0.2.2", PORT);
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    static uint8_t bytes[UDP_COUNT * UDP_PAYLOAD];
    size_t size;

    must(fd);
    must(connect(fd, &server.any, sizeof(server.v4)));
    must(option_set(fd, IPPROTO_UDP, UDP_SEGMENT, UDP_PAYLOAD));
    must(send(fd, bytes, sizeof(bytes), 0));
    size = frame_receive(tap, IPPROTO_UDP, "a train of datagrams");
    check(size == L4_OFFSET + sizeof(in.udp) + sizeof(bytes) && in.vnet.gso_type == GSO_UDP_L4 &&
              in.vnet.gso_size == UDP_PAYLOAD,
          "UDP_SEGMENT comes as %zu bytes, gso_type %d, gso_size %d", size, in.vnet.gso_type,
          in.vnet.gso_size);

    out.vnet = (struct virtio_net_hdr){.gso_type = GSO_UDP_L4, .gso_size = UDP_PAYLOAD};
    out.vnet.hdr_len = L4_OFFSET + sizeof(out.udp);
    out.udp = (struct udphdr){.source = in.udp.dest, .dest = in.udp.source};
    out.udp.len = htons(sizeof(out.udp) + sizeof(bytes));
    for (size_t i = 0; i < UDP_COUNT; i++)
        memset(out.rest + sizeof(out.udp) + i * UDP_PAYLOAD, (int)i + 1, UDP_PAYLOAD);
    frame_send(tap, IPPROTO_UDP, sizeof(out.udp) + sizeof(bytes), offsetof(struct udphdr, check),
               "a UDP GSO frame");
    for (size_t i = 0; i < UDP_COUNT; i++) {
        check(ready(fd, POLLIN), "%zu of %d datagrams of a UDP GSO frame arrive", i, UDP_COUNT);
        check(recv(fd, bytes, sizeof(bytes), 0) == UDP_PAYLOAD && bytes[0] == i + 1 &&
                  bytes[UDP_PAYLOAD - 1] == i + 1,
              "datagram %zu of a UDP GSO frame is wrong", i);
    }
    close(fd);
}

int main(void)
{
    int tap, both, out_size = 0;

    namespace_enter();
    tap = tap_make("tap0");
    address_add("tap0", AF_INET, "10.0.2.100", 24);

    check(ioctl(tap, TUNSETOFFLOAD, tso) == 0, "TUNSETOFFLOAD with CSUM, TSO4, TSO6: %s", strerror(errno));
    check(ioctl(tap, TUNSETOFFLOAD, tso | OFFLOAD_USO4) < 0 && errno == EINVAL,
          "USO4 without USO6 is not EINVAL");
    check(ioctl(tap, TUNSETOFFLOAD, tso | OFFLOAD_USO6) < 0 && errno == EINVAL,
          "USO6 without USO4 is not EINVAL");
    both = ioctl(tap, TUNSETOFFLOAD, tso | OFFLOAD_USO4 | OFFLOAD_USO6);
    check(both == 0 || errno == EINVAL, "USO4 with USO6: %s", strerror(errno));

    tcp_both_ways(tap, &out_size);
    if (both == 0)
        udp_both_ways(tap);
    shows("TSO: a frame with %d bytes of TCP goes in whole, one of %d bytes comes out; USO %s", TCP_PAYLOAD,
          out_size,
          both == 0 ? "with both flags: 10 datagrams in one frame, in and out"
                    : "not in this kernel (Linux 6.2)");
}
