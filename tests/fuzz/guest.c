/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "guest.h"

#include "frames.h"
#include "outside.h"

#include "base/clock.h"
#include "io/reassembly.h"

#include <arpa/inet.h>
#include <netinet/icmp6.h>
#include <netinet/ip_icmp.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    FRAME_MAX = 65535 + ETH_SIZE,
    SLOTS = 8,
    SYNS_MAX = 512, /* that are known */
    SLOT_PORT = 40000,
    SERVER_PORT = 80, /* forwards' connections are taken here, and refused elsewhere */
    WINDOW = 65535,
    MSS = 1200,
    FIN = 1,
    SYN = 2,
    RST = 4,
    PSH = 8,
    ACK = 16,
    URG = 32,
};

struct tcp {
    bool used, v6, silent, open; /* silent: does not answer by itself; open: both have sent their SYN */
    uint8_t remote[16];
    uint16_t port, remote_port;
    uint32_t iss, next, max; /* first, next to send, the highest that was ever sent */
    uint32_t got;            /* next expected */
    uint32_t irs, edge;      /* first received; right edge of the largest window that was announced */
    uint32_t acked;          /* by the other end */
    uint16_t window;
    uint8_t wscale;
    bool elsewhere; /* guest_config.established() */
    bool damaged;   /* something was sent that is not what it should have been, but sound */
};

/* What happens to the next frame. */
struct damage {
    uint16_t at, cut; /* cut: bytes off its end */
    uint8_t xor ;
    bool mend;
    uint16_t piece; /* 0: whole; else in fragments of so many bytes */
    bool backwards, overlap;
};

static struct guest_config config;
static struct reassembly *reassembly;
static struct tcp slots[SLOTS];
static struct damage damage;
static bool damage_was_mended, odd_mac;
static uint32_t n_opened, n_syns, syns[SYNS_MAX]; /* initial sequence numbers */
static bool raw_sent;
static uint8_t out[FRAME_MAX], in_frame[FRAME_MAX + 1];
static uint16_t next_id;
static struct {
    bool v6;
    uint8_t addr[16];
    uint16_t port, own_port;
} last_datagram;

static const uint8_t guest_mac[6] = {2, 0, 0, 0, 0, 1}, host_mac[6] = {0x52, 0x55, 0x0a, 0, 2, 2};
static const uint8_t guest4[4] = {10, 0, 2, 100};
static const uint8_t guest6[16] = {0xfd, [15] = 0x64};

static const uint8_t *destination(bool v6, uint8_t which)
{
    static const uint8_t v4[][4] = {
        {10, 0, 2, 2},  {203, 0, 113, 9}, {10, 0, 2, 3},        {192, 0, 2, 1},    {127, 0, 0, 1},
        {10, 0, 2, 77}, {10, 0, 2, 255},  {255, 255, 255, 255}, {224, 0, 0, 1},    {10, 0, 2, 100},
        {0, 0, 0, 0},   {169, 254, 1, 1}, {127, 1, 2, 3},       {198, 51, 100, 7},
    };
    static const uint8_t v6s[][16] = {
        {0xfd, [15] = 2},
        {0x20, 0x01, 0x0d, 0xb8, 0, 1, [15] = 9},
        {0xfd, [15] = 3},
        {0x20, 0x01, 0x0d, 0xb8, 0xff, 0xff, [15] = 1},
        {[15] = 1},
        {0xfd, [15] = 0x77},
        {0xff, 2, [15] = 1},
        {0xff, 2, [15] = 2},
        {0xfe, 0x80, [15] = 2},
        {[10] = 0xff, 0xff, 127, 0, 0, 1},
        {[15] = 0},
        {0xff, 2, [11] = 1, 0xff, [15] = 2},
        {0xfd, [15] = 0x64},
    };

    return v6 ? v6s[which % ARRAY_SIZE(v6s)] : v4[which % ARRAY_SIZE(v4)];
}

/* With $FUZZ_SHOW: every frame, for who looks into an input that failed. */
static void show(const char *way, const uint8_t *frame, uint32_t size)
{
    static int wanted = -1;

    if (wanted < 0)
        wanted = getenv("FUZZ_SHOW") != NULL;
    if (!wanted)
        return;
    fprintf(stderr, "%lld ms %s %u:", (long long)(clock_monotonic_ns() / NS_PER_MS), way, size);
    for (uint32_t i = 0; i < min_u32(size, 94); i++)
        fprintf(stderr, "%s%02x", i == 14 || i == 34 ? "  " : " ", frame[i]);
    fputc('\n', stderr);
}

/* ---- frames to the host ---- */

static void send_raw(const uint8_t *frame, uint32_t size)
{
    show("from the guest", frame, size);
    odd_mac |= size >= 12 && memcmp(frame + 6, guest_mac, sizeof(guest_mac)) != 0;
    odd_mac |= size >= 6 && memcmp(frame, "\xff\xff\xff\xff\xff\xff", 6) != 0 &&
               memcmp(frame, host_mac, sizeof(host_mac)) != 0;
    (void)send(config.fd, frame, size, MSG_DONTWAIT | MSG_NOSIGNAL); /* full: lost, as on a link */
}

static void send_pieces(const uint8_t *frame, uint32_t size, const struct damage *d)
{
    static uint8_t piece[FRAME_MAX];
    const uint32_t head = ETH_SIZE + IP4_SIZE, n = size - head, step = max_u32(d->piece & ~7u, 8);

    if (get_u16(frame + ETH_TYPE_AT) != 0x0800 || size <= head || n / step > 64) {
        send_raw(frame, size);
        return;
    }
    for (uint32_t at = 0; at < n; at += step) {
        uint32_t from = d->backwards ? (n - 1) / step * step - at : at;
        uint32_t length = min_u32(n - from, d->overlap ? step + 8 : step);

        memcpy(piece, frame, head);
        memcpy(piece + head, frame + head + from, length);
        put_u16(piece + ETH_SIZE + 6, (uint16_t)(from / 8 | (from + length < n ? 0x2000 : 0)));
        frame_mend(piece, head + length);
        send_raw(piece, head + length);
    }
}

/* @size bytes in `out`, lengths and checksums still to be done; the pending damage is spent. */
static void send_frame(uint32_t size)
{
    struct damage d = damage;

    memset(&damage, 0, sizeof(damage));
    frame_mend(out, size);
    damage_was_mended = d.xor &&d.mend;
    if (d.xor) {
        out[d.at % size] ^= d.xor ;
        if (d.mend) {
            frame_mend(out, size);
            outside_believe_nothing();
        }
    }
    if (d.cut)
        size -= d.cut % size;
    if (d.piece)
        send_pieces(out, size, &d);
    else if (size > 0)
        send_raw(out, size);
}

static uint8_t *ethernet(uint16_t type)
{
    memcpy(out, host_mac, sizeof(host_mac));
    memcpy(out + 6, guest_mac, 6);
    put_u16(out + ETH_TYPE_AT, type);
    return out + ETH_SIZE;
}

/* Returns where the upper layer begins. */
static uint8_t *ip(bool v6, const uint8_t *dst, uint8_t protocol, uint8_t ttl)
{
    uint8_t *at = ethernet(v6 ? 0x86dd : 0x0800);

    if (v6) {
        memset(at, 0, IP6_SIZE);
        at[0] = 0x60;
        at[6] = protocol;
        at[7] = ttl;
        memcpy(at + 8, guest6, 16);
        memcpy(at + 24, dst, 16);
        return at + IP6_SIZE;
    }
    memset(at, 0, IP4_SIZE);
    at[0] = 0x45;
    put_u16(at + 4, ++next_id);
    at[8] = ttl;
    at[9] = protocol;
    memcpy(at + 12, guest4, 4);
    memcpy(at + 16, dst, 4);
    return at + IP4_SIZE;
}

static void send_udp(bool v6, const uint8_t *dst, uint16_t src_port, uint16_t dst_port, const void *data,
                     uint32_t size)
{
    uint8_t *udp = ip(v6, dst, IPPROTO_UDP, 64);

    size = min_u32(size, FRAME_MAX - ETH_SIZE - IP6_SIZE - 8);
    put_u16(udp, src_port);
    put_u16(udp + 2, dst_port);
    if (data)
        memcpy(udp + 8, data, size);
    else
        memset(udp + 8, 'g', size);
    last_datagram.v6 = v6;
    memcpy(last_datagram.addr, dst, v6 ? 16 : 4);
    last_datagram.port = dst_port;
    last_datagram.own_port = src_port;
    send_frame((uint32_t)(udp - out) + 8 + size);
}

static void send_arp(uint16_t operation, const uint8_t *sender, const uint8_t *target)
{
    static const uint8_t head[] = {0, 1, 8, 0, 6, 4};
    uint8_t *arp = ethernet(0x0806);

    memset(out, 0xff, 6);
    memcpy(arp, head, sizeof(head));
    put_u16(arp + 6, operation);
    memcpy(arp + 8, guest_mac, 6);
    memcpy(arp + 14, sender, 4);
    memset(arp + 18, 0, 6);
    memcpy(arp + 24, target, 4);
    send_frame(ETH_SIZE + 28);
}

/* @target NULL: a router solicitation; else about the neighbour @target, with our link-layer address. */
static void send_ndp(uint8_t type, const uint8_t *dst, const uint8_t *target)
{
    uint8_t *icmp = ip(true, dst, IPPROTO_ICMPV6, 255);
    uint32_t size = target ? 24 : 8;

    memset(icmp, 0, 32);
    icmp[0] = type;
    if (target)
        memcpy(icmp + 8, target, 16);
    if (type == ND_NEIGHBOR_ADVERT)
        icmp[4] = 0x60;
    icmp[size] = type == ND_NEIGHBOR_ADVERT ? 2 : 1;
    icmp[size + 1] = 1;
    memcpy(icmp + size + 2, guest_mac, 6);
    send_frame((uint32_t)(icmp - out) + size + 8);
}

/* ---- TCP ---- */

static uint16_t window_of(const struct tcp *t, uint8_t flags)
{
    return flags & SYN ? t->window : (uint16_t)(t->window >> t->wscale);
}

static void send_tcp(struct tcp *t, uint8_t flags, uint32_t sequence, uint32_t size)
{
    uint8_t *tcp = ip(t->v6, t->remote, IPPROTO_TCP, 64), header = 20;
    uint32_t first = sequence + (flags & SYN ? 1 : 0), edge;

    memset(tcp, 0, 20);
    put_u16(tcp, t->port);
    put_u16(tcp + 2, t->remote_port);
    put_u16(tcp + 4, (uint16_t)(sequence >> 16));
    put_u16(tcp + 6, (uint16_t)sequence);
    put_u16(tcp + 8, (uint16_t)(t->got >> 16));
    put_u16(tcp + 10, (uint16_t)t->got);
    if (flags & SYN && n_syns++ < SYNS_MAX)
        syns[n_syns - 1] = sequence;
    if (flags & SYN) {
        static const uint8_t options[] = {2, 4, MSS >> 8, MSS & 255, 1, 3, 3};

        memcpy(tcp + 20, options, sizeof(options));
        tcp[27] = t->wscale;
        header = 28;
    }
    tcp[12] = (uint8_t)(header / 4 << 4);
    tcp[13] = flags;
    put_u16(tcp + 14, window_of(t, flags));
    if (flags & URG) {
        put_u16(tcp + 18, 1);
        outside_believe_nothing();
    }
    size = min_u32(size, FRAME_MAX - (uint32_t)(tcp - out) - header);
    for (uint32_t i = 0; i < size; i++)
        tcp[header + i] = pattern(first + i - t->iss - 1);
    first += size + (flags & FIN ? 1 : 0);
    if ((int32_t)(first - t->max) > 0)
        t->max = first;
    edge = t->got + t->window;
    if (flags & ACK && (int32_t)(edge - t->edge) > 0)
        t->edge = edge;
    send_frame((uint32_t)(tcp - out) + header + size);
    t->damaged |= damage_was_mended || (flags & SYN && sequence != t->iss);
}

static void address_set(union address *ret, bool v6, const uint8_t *addr, uint16_t port)
{
    memset(ret, 0, sizeof(*ret));
    ret->sa.sa_family = v6 ? AF_INET6 : AF_INET;
    if (v6)
        memcpy(&ret->in6.sin6_addr, addr, 16);
    else
        memcpy(&ret->in.sin_addr, addr, 4);
    address_set_port(ret, port);
}

static void describe(const struct tcp *t, struct guest_connection *ret)
{
    *ret =
        (struct guest_connection){.iss = t->iss, .irs = t->irs, .wscale = t->wscale, .as_sent = !t->damaged};
    address_set(&ret->own, t->v6, t->v6 ? guest6 : guest4, t->port);
    address_set(&ret->remote, t->v6, t->remote, t->remote_port);
}

static bool is_elsewhere(const struct tcp *t, const struct packet *p)
{
    struct guest_connection c;

    if (!config.established)
        return false;
    describe(t, &c);
    c.syn_ack = p->l4;
    c.syn_ack_size = p->l4_size;
    return config.established(&c);
}

static void tcp_reset(struct tcp *t)
{
    memset(&damage, 0, sizeof(damage));
    if (t->used && t->elsewhere) {
        struct guest_connection c;

        describe(t, &c);
        config.reset(&c);
    } else if (t->used)
        send_tcp(t, RST | (t->open ? ACK : 0), t->acked, 0);
    t->used = false;
}

/* What had the slot before is reset: nobody would know of it any more. */
static void tcp_open(struct tcp *t, bool v6, const uint8_t *remote, uint16_t port, uint16_t remote_port)
{
    tcp_reset(t);
    *t = (struct tcp){.used = true,
                      .v6 = v6,
                      .port = port,
                      .remote_port = remote_port,
                      .iss = 0xfffff000u + port +
                             (++n_opened << 20), /* one that uses a port again has another */
                      .window = WINDOW};
    memcpy(t->remote, remote, v6 ? 16 : 4);
    t->next = t->max = t->acked = t->iss + 1;
}

static struct tcp *tcp_find(const struct packet *p, bool v6)
{
    for (int i = 0; i < SLOTS; i++) {
        struct tcp *t = &slots[i];

        if (t->used && t->v6 == v6 && t->port == p->dst_port && t->remote_port == p->src_port &&
            memcmp(t->remote, p->src, v6 ? 16 : 4) == 0)
            return t;
    }
    return NULL;
}

static uint32_t get_u32(const uint8_t *p)
{
    return (uint32_t)get_u16(p) << 16 | get_u16(p + 2);
}

/* A connection from outside. */
static void tcp_asked(const struct packet *p, bool v6)
{
    struct tcp *t = &slots[p->src_port % SLOTS];

    tcp_open(t, v6, p->src, p->dst_port, p->src_port);
    t->irs = get_u32(p->l4 + 4);
    t->got = t->edge = t->irs + 1;
    t->open = true;
    if (p->dst_port == SERVER_PORT) {
        send_tcp(t, SYN | ACK, t->iss, 0);
    } else {
        send_tcp(t, RST | ACK, 0, 0);
        t->used = false;
    }
}

/* A segment of a connection that nobody knows. */
static void tcp_refuse(const struct packet *p, bool v6)
{
    struct tcp t = {.v6 = v6, .port = p->dst_port, .remote_port = p->src_port};

    memcpy(t.remote, p->src, v6 ? 16 : 4);
    t.acked = get_u32(p->l4 + 8);
    t.used = true;
    tcp_reset(&t);
}

static void tcp_check_data(struct tcp *t, uint32_t sequence, const uint8_t *data, uint32_t size)
{
    /* One byte may be a probe of a closed window. */
    CHECK(size <= 1 || (int32_t)(sequence + size - t->edge) <= 0);
    for (uint32_t i = 0; i < size; i++)
        CHECK(data[i] == pattern(sequence + i - t->irs - 1));
}

/* A SYN-ACK answers a SYN that was sent, if not the last one of its connection. */
static void check_syn_ack(const struct packet *p)
{
    uint32_t isn = get_u32(p->l4 + 8) - 1;

    if ((p->tcp_flags & (SYN | ACK)) != (SYN | ACK) || n_syns > SYNS_MAX || raw_sent || !outside_believes())
        return;
    for (uint32_t i = 0; i < n_syns; i++) {
        if (syns[i] == isn)
            return;
    }
    CHECK(!"a SYN-ACK for nothing");
}

static void tcp_receive(const struct packet *p, bool v6)
{
    struct tcp *t = tcp_find(p, v6);
    uint32_t sequence = get_u32(p->l4 + 4), header = (p->l4[12] >> 4) * 4u, size = p->l4_size - header;
    uint8_t flags = p->tcp_flags;
    bool answer = size > 0 || flags & (SYN | FIN);

    check_syn_ack(p);
    if (!t && (flags & (SYN | ACK | RST)) == SYN)
        tcp_asked(p, v6);
    else if (!t && !(flags & RST))
        tcp_refuse(p, v6);
    if (!t)
        return;
    if (t->elsewhere) {
        if (!(flags & SYN))
            t->elsewhere = is_elsewhere(t, p); /* may have ended */
        CHECK((flags & (SYN | ACK | RST)) == (SYN | ACK) || !t->elsewhere);
        t->used = t->elsewhere || !(flags & RST);
        return;
    }
    if (flags & RST) {
        t->used = false;
        return;
    }
    if (flags & SYN && flags & ACK && !t->open && get_u32(p->l4 + 8) != t->iss + 1) {
        tcp_refuse(p, v6); /* RFC 9293 3.10.7.3: the answer to an earlier SYN */
        return;
    }
    if (flags & ACK) {
        CHECK((int32_t)(get_u32(p->l4 + 8) - t->max) <= 0 || t->damaged);
        t->acked = get_u32(p->l4 + 8);
    }
    if (flags & SYN) {
        if (!t->open) {
            t->irs = sequence;
            t->got = t->edge = sequence + 1;
            t->open = true;
            t->elsewhere = is_elsewhere(t, p);
        }
    } else if (t->open) {
        tcp_check_data(t, sequence, p->l4 + header, size);
        if ((int32_t)(sequence - t->got) <= 0 && (int32_t)(sequence + size - t->got) > 0)
            t->got = sequence + size;
        if (flags & FIN && sequence + size == t->got)
            t->got++;
    }
    if (answer && t->open && !t->silent && !t->elsewhere)
        send_tcp(t, ACK, t->next, 0);
}

void guest_flood(unsigned n, uint8_t which)
{
    for (unsigned i = 0; i < n; i++) {
        struct tcp t = {.iss = i, .window = WINDOW, .port = (uint16_t)(20000 + n_opened++ % 20000)};

        memcpy(t.remote, destination(false, which), 4);
        t.remote_port = OUTSIDE_PORT;
        send_tcp(&t, SYN, t.iss, 0);
    }
}

void guest_end(void)
{
    for (int i = 0; i < SLOTS; i++)
        tcp_reset(&slots[i]);
}

void guest_free(void)
{
    reassembly = reassembly_free(reassembly);
}

/* ---- frames from the host ---- */

static void check_transport(const struct packet *p, bool v6)
{
    uint32_t at = transport_sum_at(p->ip_protocol);

    if (at == 0 || !p->l4)
        return;
    if (p->ip_protocol == IPPROTO_ICMP)
        CHECK(checksum_fold(checksum_add(0, p->l4, p->l4_size)) == 0);
    else if (v6 || p->ip_protocol == IPPROTO_TCP || get_u16(p->l4 + at) != 0)
        CHECK(transport_sum(p->src, p->dst, v6 ? 16 : 4, p->ip_protocol, p->l4, p->l4_size) == 0);
}

static void answer_neighbour(enum packet_kind kind, const struct packet *p)
{
    const uint8_t *arp = p->frame + ETH_SIZE;

    if (kind == PACKET_ARP && get_u16(arp + 6) == 1 && memcmp(arp + 24, guest4, 4) == 0)
        send_arp(2, guest4, arp + 14);
    if (kind == PACKET_IPV6 && p->ip_protocol == IPPROTO_ICMPV6 && p->l4 && p->l4_size >= 24 &&
        p->l4[0] == ND_NEIGHBOR_SOLICIT && memcmp(p->l4 + 8, guest6, 16) == 0)
        send_ndp(ND_NEIGHBOR_ADVERT, p->src, guest6);
}

/* Is it about something that the guest has not begun? */
static bool is_from_outside(const struct packet *p)
{
    return (p->ip_protocol == IPPROTO_UDP && p->dst_port == FORWARDED_PORT) ||
           (p->ip_protocol == IPPROTO_TCP && (p->tcp_flags & (SYN | ACK)) == SYN);
}

/* A loopback address answers only a guest that has named it, and may. */
static void check_addresses(enum packet_kind kind, const struct packet *p)
{
    bool v6 = kind == PACKET_IPV6, is_self = v6 ? ipv6_is_self(p->src) : ipv4_is_self(p->src);

    CHECK(!is_self || (!config.no_loopback && !is_from_outside(p)));
    CHECK(config.ipv6 || !v6);
    CHECK(v6 ? p->src[0] != 0xff : p->src[0] < 224);
    if (!v6)
        CHECK(checksum_fold(checksum_add(0, p->frame + ETH_SIZE, (p->frame[ETH_SIZE] & 15) * 4u)) == 0);
}

static void receive_frame(const uint8_t *frame, uint32_t size) TSA(no_thread_safety_analysis)
{
    struct packet p;
    enum packet_kind kind = packet_parse(&p, frame, size);
    bool v6 = kind == PACKET_IPV6;

    show("to the guest", frame, size);
    CHECK(size <= config.mtu + ETH_SIZE);
    CHECK(kind == PACKET_ARP || kind == PACKET_IPV4 || v6);
    CHECK(frame[0] & 1 || memcmp(frame, guest_mac, 6) == 0 || odd_mac);
    /* Of libslirp, IPv4 and IPv6; or where the guest has sent something to. */
    CHECK((frame[6] == 0x52 && (frame[7] == 0x55 || frame[7] == 0x56)) || odd_mac);
    answer_neighbour(kind, &p);
    if (kind == PACKET_ARP)
        return;
    check_addresses(kind, &p);
    if (p.is_fragment) {
        frame = reassembly_take(reassembly, kind, &p, clock_monotonic_ns(), &size);
        if (!frame)
            return;
        CHECK(packet_parse(&p, frame, size) == kind && !p.is_fragment);
    }
    check_transport(&p, v6);
    if (p.ip_protocol == IPPROTO_TCP && p.l4)
        tcp_receive(&p, v6);
    if (p.ip_protocol == IPPROTO_UDP && p.l4) {
        last_datagram.v6 = v6;
        memcpy(last_datagram.addr, p.src, v6 ? 16 : 4);
        last_datagram.port = p.src_port;
        last_datagram.own_port = p.dst_port;
    }
}

bool guest_receive(void)
{
    bool any = false;
    ssize_t n;

    while ((n = recv(config.fd, in_frame, sizeof(in_frame), MSG_DONTWAIT)) > 0) {
        uint8_t *copy = malloc((size_t)n); /* its end is guarded */

        CHECK(copy && n <= FRAME_MAX);
        memcpy(copy, in_frame, (size_t)n);
        receive_frame(copy, (uint32_t)n);
        free(copy);
        any = true;
    }
    return any;
}

void guest_begin(const struct guest_config *c)
{
    config = *c;
    memset(slots, 0, sizeof(slots));
    n_opened = n_syns = 0;
    raw_sent = false;
    odd_mac = false;
    memset(&damage, 0, sizeof(damage));
    memset(&last_datagram, 0, sizeof(last_datagram));
    CHECK(reassembly_new(&reassembly) == 0);
    send_arp(1, guest4, destination(false, 0)); /* as a kernel would, before its first packet */
    if (c->ipv6)
        send_ndp(ND_NEIGHBOR_SOLICIT, destination(true, 11), destination(true, 0));
}

/* ---- steps ---- */

static void step_dhcp(struct input *in)
{
    static const uint8_t magic[] = {0x63, 0x82, 0x53, 0x63, 53, 1};
    uint8_t bootp[300] = {1, 1, 6, 0, 1, 2, 3, 4}, n;

    memcpy(bootp + 28, guest_mac, 6);
    memcpy(bootp + 236, magic, sizeof(magic));
    bootp[242] = input_u8(in);
    n = input_u8(in) % 50;
    (void)input_bytes(in, bootp + 243, n);
    bootp[243 + n] = 255;
    send_udp(false, destination(false, 7), 68, 67, bootp, sizeof(bootp) - (n & 1 ? 280 : 0));
}

static void step_dns(struct input *in)
{
    uint8_t question[512] = {0x12, 0x34, 1, 0, 0, 1};
    bool v6 = input_u8(in) & 1;
    uint32_t n = 12 + (uint32_t)input_bytes(in, question + 12, input_u8(in));

    send_udp(v6, destination(v6, 2), (uint16_t)(5300 + n % 4), 53, question, n);
}

static void step_icmp(struct input *in)
{
    bool v6 = input_u8(in) & 1;
    uint8_t *icmp = ip(v6, destination(v6, input_u8(in)), v6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP, 64);
    uint32_t n = input_u16(in) % 2000;

    memset(icmp, 0, 8 + n);
    icmp[0] = v6 ? ICMP6_ECHO_REQUEST : ICMP_ECHO;
    icmp[5] = 7;
    if (n & 1) { /* an error about something, or anything else */
        icmp[0] = input_u8(in);
        icmp[1] = input_u8(in) % 16;
        (void)input_bytes(in, icmp + 8, min_u32(n, 40));
    }
    send_frame((uint32_t)(icmp - out) + 8 + n);
}

static void step_ndp(struct input *in)
{
    static const uint8_t types[] = {ND_ROUTER_SOLICIT, ND_NEIGHBOR_SOLICIT, ND_NEIGHBOR_ADVERT,
                                    ND_ROUTER_ADVERT, ND_REDIRECT};
    uint8_t type = types[input_u8(in) % sizeof(types)], dst = input_u8(in), target = input_u8(in);

    send_ndp(type, destination(true, dst), type == ND_ROUTER_SOLICIT ? NULL : destination(true, target));
}

static void step_udp(struct input *in)
{
    static const uint16_t ports[] = {OUTSIDE_PORT, 53, 67, 69, 7001, 547};
    uint8_t b = input_u8(in), dst = input_u8(in);
    uint16_t port = ports[input_u8(in) % ARRAY_SIZE(ports)];

    send_udp(b & 1, destination(b & 1, dst), (uint16_t)(6000 + (b >> 1)), port, NULL, input_u16(in));
}

static void step_answer(struct input *in)
{
    uint8_t addr[16];

    memcpy(addr, last_datagram.addr, sizeof(addr));
    send_udp(last_datagram.v6, addr, last_datagram.own_port, last_datagram.port, NULL, input_u16(in));
}

static void step_connect(struct input *in)
{
    uint8_t b = input_u8(in), dst = input_u8(in);
    struct tcp *t = &slots[b % SLOTS];
    uint16_t port = (uint16_t)(SLOT_PORT + b % SLOTS + (b & 64 ? 0 : SLOTS * (++next_id % 1000)));

    tcp_open(t, b & 8, destination(b & 8, dst), port,
             b & 16   ? 7001
             : b & 32 ? GUEST_TAKEN_PORT
                      : OUTSIDE_PORT);
    t->wscale = input_u8(in) % 15;
    send_tcp(t, SYN, t->iss, 0);
}

/* @in: slot, flags; then how much, how far from where it should be. */
static void step_segment(struct input *in)
{
    struct tcp *t = &slots[input_u8(in) % SLOTS];
    uint8_t flags = input_u8(in);
    uint32_t size = input_u16(in) & 0x7fff, sequence;
    int8_t off = (int8_t)input_u8(in);

    if (!t->used)
        return;
    sequence = t->next + (uint32_t)(off * (off & 1 ? 1 : 700));
    if (off == 0 && !(flags & (RST | SYN)))
        t->next += size + (flags & FIN ? 1 : 0);
    send_tcp(t, flags & (FIN | SYN | RST | PSH | ACK | URG), sequence, size);
}

static void step_window(struct input *in)
{
    struct tcp *t = &slots[input_u8(in) % SLOTS];
    uint8_t b = input_u8(in);

    t->window = (uint16_t)(b < 8 ? b : b << 8);
    t->silent = input_u8(in) & 1;
    if (t->used && t->open)
        send_tcp(t, ACK, t->next, 0);
}

static void step_damage(struct input *in)
{
    uint8_t b = input_u8(in);

    damage.at = input_u8(in);
    damage.xor = b & 1 ? input_u8(in) : 0;
    damage.mend = b & 2;
    damage.cut = b & 4 ? input_u8(in) : 0;
    damage.piece = b & 8 ? input_u8(in) * 8 : 0;
    damage.backwards = b & 16;
    damage.overlap = b & 32;
}

static void step_raw(struct input *in)
{
    uint32_t size = input_u8(in);

    (void)input_bytes(in, out, size);
    raw_sent = true;
    if (size > 0)
        send_frame(size);
}

static void step_arp(struct input *in)
{
    uint8_t b = input_u8(in);

    send_arp(b & 1 ? 1 : 2, b & 2 ? guest4 : destination(false, input_u8(in)), destination(false, b >> 2));
}

void guest_step(struct input *in)
{
    static void (*const steps[])(struct input * in) = {
        step_connect, step_segment, step_window, step_udp, step_dns,    step_icmp,
        step_dhcp,    step_arp,     step_ndp,    step_raw, step_answer, step_damage,
    };

    steps[input_u8(in) % ARRAY_SIZE(steps)](in);
}
