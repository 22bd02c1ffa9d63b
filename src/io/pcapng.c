/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "io/pcapng.h"

#include <string.h>

enum {
    BLOCK_SECTION = 0x0a0d0d0a,
    BLOCK_INTERFACE = 1,
    BLOCK_STATISTICS = 5,
    BLOCK_PACKET = 6,
    BYTE_ORDER_MAGIC = 0x1a2b3c4d,
    BLOCK_OVERHEAD = 12, /* type, size, size again */
};

enum { /* options */
       OPT_END = 0,
       OPT_COMMENT = 1,
       SHB_OS = 3,
       SHB_APPLICATION = 4,
       IF_NAME = 2,
       IF_DESCRIPTION = 3,
       IF_TSRESOL = 9,
       EPB_FLAGS = 2,
       EPB_DROPCOUNT = 4,
       ISB_IFRECV = 4,
       ISB_IFDROP = 5,
};

struct writer {
    uint8_t *out;
    size_t n;
};

static void add(struct writer *w, const void *data, size_t size)
{
    memcpy(w->out + w->n, data, size);
    w->n += size;
}

static void add_u16(struct writer *w, uint16_t v)
{
    add(w, &v, sizeof(v));
}

static void add_u32(struct writer *w, uint32_t v)
{
    add(w, &v, sizeof(v));
}

/* The upper half first, in either byte order. */
static void add_time(struct writer *w, int64_t time_ns)
{
    add_u32(w, (uint32_t)((uint64_t)time_ns >> 32));
    add_u32(w, (uint32_t)time_ns);
}

static void pad(struct writer *w)
{
    while (w->n % 4 != 0)
        w->out[w->n++] = 0;
}

static void add_option(struct writer *w, uint16_t code, const void *value, size_t size)
{
    add_u16(w, code);
    add_u16(w, (uint16_t)size);
    add(w, value, size);
    pad(w);
}

static void add_text(struct writer *w, uint16_t code, const char *text)
{
    if (text)
        add_option(w, code, text, strnlen(text, PCAPNG_TEXT_MAX));
}

static struct writer begin(uint8_t *out, uint32_t type)
{
    struct writer w = {.out = out};

    add_u32(&w, type);
    add_u32(&w, 0); /* end() */
    return w;
}

static size_t end(struct writer *w)
{
    uint32_t size;

    add_option(w, OPT_END, "", 0);
    size = (uint32_t)w->n + 4;
    add_u32(w, size);
    memcpy(w->out + 4, &size, sizeof(size));
    return w->n;
}

size_t pcapng_section(uint8_t *out, const char *os, const char *application)
{
    static const int64_t not_known = -1; /* the section's length */
    struct writer w = begin(out, BLOCK_SECTION);

    add_u32(&w, BYTE_ORDER_MAGIC);
    add_u16(&w, 1); /* version 1.0 */
    add_u16(&w, 0);
    add(&w, &not_known, sizeof(not_known));
    add_text(&w, SHB_OS, os);
    add_text(&w, SHB_APPLICATION, application);
    return end(&w);
}

size_t pcapng_interface(uint8_t *out, uint16_t link_type, const char *name, const char *description)
{
    static const uint8_t nanoseconds = 9; /* 10^-9 */
    struct writer w = begin(out, BLOCK_INTERFACE);

    add_u16(&w, link_type);
    add_u16(&w, 0);
    add_u32(&w, 0); /* packets are not cut */
    add_text(&w, IF_NAME, name);
    add_text(&w, IF_DESCRIPTION, description);
    add_option(&w, IF_TSRESOL, &nanoseconds, 1);
    return end(&w);
}

size_t pcapng_packet(uint8_t *out, const struct pcapng_packet *packet)
{
    struct writer w = begin(out, BLOCK_PACKET);
    uint32_t flags = packet->direction;

    add_u32(&w, packet->interface);
    add_time(&w, packet->time_ns);
    add_u32(&w, packet->size);
    add_u32(&w, packet->size);
    add(&w, packet->data, packet->size);
    pad(&w);
    add_text(&w, OPT_COMMENT, packet->comment);
    add_option(&w, EPB_FLAGS, &flags, sizeof(flags));
    if (packet->n_dropped > 0)
        add_option(&w, EPB_DROPCOUNT, &packet->n_dropped, sizeof(packet->n_dropped));
    return end(&w);
}

size_t pcapng_statistics(uint8_t *out, uint32_t interface, int64_t time_ns, uint64_t n_received,
                         uint64_t n_dropped)
{
    struct writer w = begin(out, BLOCK_STATISTICS);

    add_u32(&w, interface);
    add_time(&w, time_ns);
    add_option(&w, ISB_IFRECV, &n_received, sizeof(n_received));
    add_option(&w, ISB_IFDROP, &n_dropped, sizeof(n_dropped));
    return end(&w);
}

size_t pcapng_whole_blocks(const uint8_t *blocks, size_t size)
{
    size_t whole = 0;
    uint32_t block;

    while (size - whole >= BLOCK_OVERHEAD) {
        memcpy(&block, blocks + whole + 4, sizeof(block));
        if (block < BLOCK_OVERHEAD || block > size - whole)
            break;
        whole += block;
    }
    return whole;
}
