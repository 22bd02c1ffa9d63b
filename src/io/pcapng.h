/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * pcapng.h - blocks of a pcapng file
 *
 * Source: draft-ietf-opsawg-pcapng. Plain functions, any thread: each puts one whole block at @out, which has
 * room for PCAPNG_BLOCK_MAX bytes, and returns its size. Texts are cut after PCAPNG_TEXT_MAX bytes.
 * Everything is in the byte order of this machine, as the section header says.
 */
#pragma once

#include "io/frame.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    PCAPNG_TEXT_MAX = 400,
    PCAPNG_BLOCK_MAX = FRAME_SIZE_MAX + 3 * PCAPNG_TEXT_MAX + 200,
};

enum { /* link types, www.tcpdump.org/linktypes.html */
       PCAPNG_LINK_ETHERNET = 1,
       PCAPNG_LINK_UPPER_PDU = 252, /* Wireshark's: tags, then what they are about */
};

enum pcapng_direction { PCAPNG_INBOUND = 1, PCAPNG_OUTBOUND = 2 }; /* epb_flags, bits 0 and 1 */

struct pcapng_packet {
    uint32_t interface; /* in the order of their blocks, 0 is the first */
    int64_t time_ns;    /* since the epoch */
    const void *data;
    uint32_t size; /* <= FRAME_SIZE_MAX */
    enum pcapng_direction direction;
    const char *comment; /* NULL: none */
    uint64_t n_dropped;  /* packets that were lost before this one */
};

size_t pcapng_section(uint8_t *out, const char *os, const char *application);
size_t pcapng_interface(uint8_t *out, uint16_t link_type, const char *name, const char *description);
size_t pcapng_packet(uint8_t *out, const struct pcapng_packet *packet);
/* What an interface received and what of it is not in the file, at the end. */
size_t pcapng_statistics(uint8_t *out, uint32_t interface, int64_t time_ns, uint64_t n_received,
                         uint64_t n_dropped);

/* How many of the @size bytes at @blocks are whole blocks. */
size_t pcapng_whole_blocks(const uint8_t *blocks, size_t size);
