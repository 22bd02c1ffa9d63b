/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "slow_host.h"

#include "frames.h"
#include "namespace.h"
#include "outside.h"

#include <linux/if_tun.h>
#include <netinet/ip_icmp.h>

enum {
    PACKET_MAX = 65536,
    CONNS_MAX = 16,
    TCP_SIZE = 20,
    ISS = 0x7fffff00,
    WINDOW = 0x4000,
    FIN = 1,
    SYN = 2,
    RST = 4,
    ACK = 16,
    QUOTED = IP4_SIZE + 8, /* of an ICMP error (RFC 792) */
};

struct conn {
    bool used, accepted;
    uint8_t syn[QUOTED];
    uint32_t irs, got; /* first and next sequence number */
};

static int tun = -1;
static struct conn conns[CONNS_MAX];
static uint8_t in_packet[PACKET_MAX], out_packet[ETH_SIZE + 128];

static uint32_t get_u32(const uint8_t *p)
{
    return (uint32_t)get_u16(p) << 16 | get_u16(p + 2);
}

static void put_u32(uint8_t *p, uint32_t v)
{
    put_u16(p, (uint16_t)(v >> 16));
    put_u16(p + 2, (uint16_t)v);
}

/* Addresses are those of @syn, the other way round; returns the upper layer. */
static uint8_t *begin_packet(const uint8_t *syn, uint8_t protocol)
{
    uint8_t *ip = out_packet + ETH_SIZE;

    memset(out_packet, 0, sizeof(out_packet));
    put_u16(out_packet + ETH_TYPE_AT, 0x0800);
    ip[8] = 64;
    ip[9] = protocol;
    memcpy(ip + 12, syn + 16, 4);
    memcpy(ip + 16, syn + 12, 4);
    return ip + IP4_SIZE;
}

static void send_packet(uint32_t l4_size)
{
    frame_mend(out_packet, ETH_SIZE + IP4_SIZE + l4_size);
    CHECK(write(tun, out_packet + ETH_SIZE, IP4_SIZE + l4_size) == IP4_SIZE + l4_size);
}

static void send_tcp(const struct conn *c, uint8_t flags)
{
    uint8_t *tcp = begin_packet(c->syn, IPPROTO_TCP);

    memcpy(tcp, c->syn + IP4_SIZE + 2, 2);
    memcpy(tcp + 2, c->syn + IP4_SIZE, 2);
    put_u32(tcp + 4, flags & SYN ? ISS : ISS + 1);
    put_u32(tcp + 8, c->got);
    tcp[12] = TCP_SIZE / 4 << 4;
    tcp[13] = flags;
    put_u16(tcp + 14, WINDOW);
    send_packet(TCP_SIZE);
}

static void send_unreachable(const struct conn *c, uint8_t code)
{
    uint8_t *icmp = begin_packet(c->syn, IPPROTO_ICMP);

    icmp[0] = ICMP_DEST_UNREACH;
    icmp[1] = code;
    memcpy(icmp + 8, c->syn, QUOTED);
    send_packet(8 + QUOTED);
}

static void conn_end(struct conn *c)
{
    if (c->used)
        send_tcp(c, RST | ACK);
    c->used = false;
}

static struct conn *conn_find(const uint8_t *ip)
{
    for (int i = 0; i < CONNS_MAX; i++) {
        if (conns[i].used && memcmp(conns[i].syn + 12, ip + 12, 12) == 0) /* addresses and ports */
            return &conns[i];
    }
    return NULL;
}

static void take_syn(const uint8_t *ip)
{
    struct conn one, *c = &one;

    for (int i = 0; i < CONNS_MAX; i++) {
        if (!conns[i].used) {
            c = &conns[i];
            break;
        }
    }
    *c = (struct conn){.used = true, .irs = get_u32(ip + IP4_SIZE + 4)};
    c->got = c->irs + 1;
    memcpy(c->syn, ip, QUOTED);
    if (c == &one)
        conn_end(c);
}

static void take_packet(const uint8_t *ip, uint32_t size)
{
    const uint8_t *tcp = ip + IP4_SIZE;
    uint32_t header, sequence;
    struct conn *c;

    if (size < IP4_SIZE + TCP_SIZE || ip[0] != 0x45 || ip[9] != IPPROTO_TCP)
        return;
    header = IP4_SIZE + (tcp[12] >> 4) * 4u;
    sequence = get_u32(tcp + 4);
    c = conn_find(ip);
    CHECK(header <= size);
    if (!c && (tcp[13] & (SYN | ACK)) == SYN) {
        take_syn(ip);
    } else if (c && tcp[13] & RST) {
        c->used = false;
    } else if (c && c->accepted && sequence == c->got) {
        for (uint32_t i = header; i < size && outside_believes(); i++)
            CHECK(ip[i] == pattern(sequence + i - header - c->irs - 1));
        c->got += size - header + (tcp[13] & FIN ? 1 : 0);
        if (size > header || tcp[13] & FIN)
            send_tcp(c, ACK);
    }
}

bool slow_host_serve(void)
{
    bool any = false;
    ssize_t n;

    while ((n = read(tun, in_packet, sizeof(in_packet))) > 0) {
        take_packet(in_packet, (uint32_t)n);
        any = true;
    }
    return any;
}

void slow_host_step(struct input *in)
{
    static const uint8_t codes[] = {ICMP_HOST_UNREACH, ICMP_NET_UNREACH, ICMP_PORT_UNREACH,
                                    ICMP_PKT_FILTERED};
    unsigned index = input_u8(in);
    struct conn *c = &conns[index % CONNS_MAX];

    for (int i = 0; i < CONNS_MAX && !c->used; i++)
        c = &conns[++index % CONNS_MAX];
    if (!c->used)
        return;
    switch (input_u8(in) % 8) {
    case 0:
        conn_end(c);
        break;
    case 1:
        send_tcp(c, FIN | ACK);
        break;
    case 2:
    case 3:
    case 4:
    case 5:
        if (!c->accepted)
            send_unreachable(c, codes[index / CONNS_MAX % ARRAY_SIZE(codes)]);
        break;
    default:
        if (!c->accepted)
            send_tcp(c, SYN | ACK);
        c->accepted = true;
    }
}

void slow_host_begin(void)
{
    memset(conns, 0, sizeof(conns));
    while (slow_host_serve()) /* what the last input's connections have said since */
        memset(conns, 0, sizeof(conns));
}

void slow_host_end(void)
{
    (void)slow_host_serve();
    for (int i = 0; i < CONNS_MAX; i++)
        conn_end(&conns[i]);
}

void slow_host_init(void)
{
    struct ifreq ifr = {.ifr_flags = IFF_TUN | IFF_NO_PI, .ifr_name = "slow"};

    tun = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (tun < 0 || ioctl(tun, TUNSETIFF, &ifr) < 0)
        namespace_fail("cannot make a TUN device");
    namespace_run("ip", "addr", "add", "198.51.100.1/24", "dev", "slow", NULL);
    namespace_run("ip", "link", "set", "slow", "up", NULL);
}
