/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * reassembly.c
 *
 * A slot has room for the largest headers, then for the largest payload. Payload goes where its offset says;
 * the headers of the fragment with offset 0 are put right before it, so that the whole is one frame. A bitmap
 * with a bit for 8 bytes, the unit of offsets, says what has come: every fragment but the last has a length
 * that is a multiple of it.
 */
#include "io/reassembly.h"

#include "base/bits.h"
#include "base/clock.h"
#include "base/counters.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

enum {
    ETH_SIZE = 14,
    IPV4_SIZE_MAX = 60,
    IPV6_SIZE = 40,
    FRAGMENT_SIZE = 8,
    HEADERS_MAX = ETH_SIZE + IPV4_SIZE_MAX,
    TOTAL_MAX = 65535, /* IPv4: with header; IPv6: without */
};

struct fragment {
    uint8_t addr_size, protocol;
    uint32_t id, offset, size; /* bytes */
    bool more;
    const uint8_t *ip, *data;
    uint32_t header_size; /* of the IP header alone */
};

struct slot {
    bool used;
    uint8_t addr_size, protocol, src[16], dst[16];
    uint32_t id;
    int64_t until_ns;
    uint32_t n_received, size; /* bytes of payload; @size is known once the last fragment is there, else 0 */
    uint32_t end;              /* of what has come so far */
    uint32_t headers_size;     /* with Ethernet's; 0 until the first fragment is there */
    uint8_t *data;             /* HEADERS_MAX + TOTAL_MAX bytes, kept for the slot's next use */
    uint8_t got[TOTAL_MAX / 64 + 1];
};

struct reassembly {
    struct slot slots[REASSEMBLY_SLOTS];
};

int reassembly_new(struct reassembly **ret)
{
    struct reassembly *r = calloc(1, sizeof(*r));

    if (!r)
        return -ENOMEM;
    *ret = r;
    return 0;
}

struct reassembly *reassembly_free(struct reassembly *r)
{
    if (!r)
        return NULL;
    for (unsigned i = 0; i < REASSEMBLY_SLOTS; i++)
        free(r->slots[i].data);
    free(r);
    return NULL;
}

/* The headers have been checked by packet_parse(). False: a kind of fragment that is not taken. */
static bool read_fragment(struct fragment *ret, enum packet_kind kind, const struct packet *p)
{
    const uint8_t *ip = p->frame + ETH_SIZE, *header = ip + IPV6_SIZE;
    struct fragment f = {.ip = ip};

    if (kind == PACKET_IPV4) {
        f.addr_size = 4;
        f.protocol = ip[9];
        f.header_size = (ip[0] & 15) * 4;
        f.id = get_u16(ip + 4);
        f.offset = (get_u16(ip + 6) & 0x1fff) * 8;
        f.more = get_u16(ip + 6) & 0x2000;
        f.data = ip + f.header_size;
        f.size = get_u16(ip + 2) - f.header_size;
    } else {
        /* Linux puts the fragment header first. What comes before it is dropped by libslirp anyway. */
        if (kind != PACKET_IPV6 || ip[6] != IPPROTO_FRAGMENT || get_u16(ip + 4) < FRAGMENT_SIZE)
            return false;
        f.addr_size = 16;
        f.protocol = header[0];
        f.header_size = IPV6_SIZE;
        f.id = (uint32_t)get_u16(header + 4) << 16 | get_u16(header + 6);
        f.offset = get_u16(header + 2) & 0xfff8;
        f.more = header[3] & 1;
        f.data = header + FRAGMENT_SIZE;
        f.size = get_u16(ip + 4) - FRAGMENT_SIZE;
    }
    *ret = f;
    return true;
}

static struct slot *find_slot(struct reassembly *r, const struct fragment *f, const struct packet *p,
                              int64_t now_ns)
{
    struct slot *free_slot = NULL;

    for (unsigned i = 0; i < REASSEMBLY_SLOTS; i++) {
        struct slot *s = &r->slots[i];

        if (s->used && s->until_ns < now_ns) {
            s->used = false;
            counter_add_shared(COUNTER_rx_drop_fragment, 1);
        }
        if (s->used && s->id == f->id && s->addr_size == f->addr_size && s->protocol == f->protocol &&
            memcmp(s->src, p->src, f->addr_size) == 0 && memcmp(s->dst, p->dst, f->addr_size) == 0)
            return s;
        if (!free_slot || (free_slot->used && (!s->used || s->until_ns < free_slot->until_ns)))
            free_slot = s;
    }
    if (free_slot->used)
        counter_add_shared(COUNTER_rx_drop_fragment, 1);
    free_slot->used = false;
    if (!free_slot->data && !(free_slot->data = malloc(HEADERS_MAX + TOTAL_MAX)))
        return NULL;
    free_slot->used = true;
    free_slot->addr_size = f->addr_size;
    free_slot->protocol = f->protocol;
    free_slot->id = f->id;
    free_slot->until_ns = now_ns + REASSEMBLY_MS * NS_PER_MS;
    free_slot->n_received = free_slot->size = free_slot->end = free_slot->headers_size = 0;
    memcpy(free_slot->src, p->src, f->addr_size);
    memcpy(free_slot->dst, p->dst, f->addr_size);
    memset(free_slot->got, 0, sizeof(free_slot->got));
    return free_slot;
}

/* False: this fragment spoils its datagram. */
static bool add_fragment(struct slot *s, const struct fragment *f, const uint8_t *frame)
{
    uint32_t end = f->offset + f->size;
    uint32_t end_max = f->addr_size == 4 ? TOTAL_MAX - f->header_size : TOTAL_MAX;

    if (f->size == 0 || end > end_max || (f->more && f->size % 8 != 0) || (s->size != 0 && end > s->size) ||
        (!f->more && (s->size != 0 || s->end > end)))
        return false;
    for (uint32_t i = f->offset / 8; i < (end + 7) / 8; i++) {
        if (s->got[i / 8] & (1u << i % 8))
            return false;
        s->got[i / 8] |= (uint8_t)(1u << i % 8);
    }
    memcpy(s->data + HEADERS_MAX + f->offset, f->data, f->size);
    s->n_received += f->size;
    s->end = max_u32(s->end, end);
    if (!f->more)
        s->size = end;
    if (f->offset == 0) {
        s->headers_size = ETH_SIZE + f->header_size;
        memcpy(s->data + HEADERS_MAX - s->headers_size, frame, s->headers_size);
    }
    return true;
}

/* Makes the headers of a datagram that was never cut. */
static const uint8_t *finish(struct slot *s, uint32_t *ret_size)
{
    uint8_t *frame = s->data + HEADERS_MAX - s->headers_size, *ip = frame + ETH_SIZE;
    uint32_t header_size = s->headers_size - ETH_SIZE;

    if (s->addr_size == 4) {
        put_u16(ip + 6, 0);
        packet_finish_ipv4(ip, header_size, header_size + s->size);
    } else {
        put_u16(ip + 4, (uint16_t)s->size);
        ip[6] = s->protocol;
    }
    s->used = false;
    counter_add_shared(COUNTER_rx_reassembled, 1);
    *ret_size = s->headers_size + s->size;
    return frame;
}

const uint8_t *reassembly_take(struct reassembly *r, enum packet_kind kind, const struct packet *p,
                               int64_t now_ns, uint32_t *ret_size)
{
    struct fragment f;
    struct slot *s;

    if (!read_fragment(&f, kind, p)) {
        counter_add_shared(COUNTER_rx_drop_fragment, 1);
        return NULL;
    }
    s = find_slot(r, &f, p, now_ns);
    if (!s || !add_fragment(s, &f, p->frame)) {
        if (s)
            s->used = false;
        counter_add_shared(COUNTER_rx_drop_fragment, 1);
        return NULL;
    }
    return s->size != 0 && s->n_received == s->size ? finish(s, ret_size) : NULL;
}
