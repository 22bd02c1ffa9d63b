/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "slirp/filter.h"

#include "io/address.h"
#include "io/frame.h"

#include <netinet/icmp6.h>

/* The addresses that slirp(4netns) gives itself, whatever the IPv4 network is. */
static const uint8_t dns6[16] = {0xfd, [15] = 3};
static const uint8_t prefix6[8] = {0xfd};

/* ::ffff:0:0/96: no address of a packet's (RFC 4038 4.2). libslirp's IPv6 sockets would make IPv4 of it. */
static bool is_mapped(const uint8_t addr[16])
{
    static const uint8_t prefix[12] = {[10] = 0xff, [11] = 0xff};

    return memcmp(addr, prefix, sizeof(prefix)) == 0;
}

static bool is_link_local6(const uint8_t addr[16])
{
    return addr[0] == 0xfe && (addr[1] & 0xc0) == 0x80;
}

/* RFC 9293 3.9.2.3 (MUST-57): a SYN for many is discarded. libslirp answers it in their name, and leads those
 * for the broadcast address to the host's loopback. */
static bool is_for_many(enum packet_kind kind, const struct packet *p)
{
    return kind == PACKET_IPV4 ? p->dst[0] >= 224 : p->dst[0] == 0xff;
}

static enum filter_verdict filter_ipv4(const struct filter *f, const struct packet *p)
{
    if (f->disable_host_loopback && ipv4_is_self(p->dst))
        return FILTER_DROP_LOOPBACK;
    if (f->disable_dns && memcmp(p->dst, &f->dns, 4) == 0 && p->ip_protocol != IPPROTO_ICMP)
        return FILTER_DROP_DNS;
    if (p->ip_protocol == IPPROTO_TCP && is_for_many(PACKET_IPV4, p))
        return FILTER_DROP_OTHER;
    return FILTER_PASS;
}

static enum filter_verdict filter_ipv6(const struct filter *f, const struct packet *p)
{
    if (!f->ipv6)
        return FILTER_DROP_OTHER;
    if (f->disable_host_loopback && ipv6_is_self(p->dst))
        return FILTER_DROP_LOOPBACK;
    if (is_mapped(p->dst) || is_mapped(p->src))
        return FILTER_DROP_OTHER;
    if (f->disable_dns && memcmp(p->dst, dns6, sizeof(dns6)) == 0 && p->ip_protocol != IPPROTO_ICMPV6)
        return FILTER_DROP_DNS;
    if (p->ip_protocol == IPPROTO_TCP && is_for_many(PACKET_IPV6, p))
        return FILTER_DROP_OTHER;
    /* Before 4.8 libslirp answers an echo request for the outside with a complaint to its log, once per
     * packet. */
    if (p->ip_protocol == IPPROTO_ICMPV6 && p->l4 && p->l4_size > 0 && p->l4[0] == ICMP6_ECHO_REQUEST &&
        p->dst[0] != 0xff && !is_link_local6(p->dst) && memcmp(p->dst, prefix6, sizeof(prefix6)) != 0)
        return FILTER_DROP_OTHER;
    return FILTER_PASS;
}

/* ARP in another's name is dropped, as switches do that inspect it: libslirp believes whatever it is told,
 * and would send an address's traffic to a station that does not exist until that address is heard of again.
 */
enum filter_verdict filter_frame(const struct filter *f, enum packet_kind kind, const struct packet *p)
{
    switch (kind) {
    case PACKET_MALFORMED:
        return FILTER_DROP_MALFORMED;
    case PACKET_ARP: /* RFC 826: sender hardware address at 8. The source of the frame is at 6. */
        return memcmp(p->frame + FRAME_ETH_SIZE + 8, p->frame + 6, 6) == 0 ? FILTER_PASS : FILTER_DROP_OTHER;
    case PACKET_IPV4:
        return filter_ipv4(f, p);
    case PACKET_IPV6:
        return filter_ipv6(f, p);
    case PACKET_OTHER:
        break;
    }
    return FILTER_DROP_OTHER;
}
