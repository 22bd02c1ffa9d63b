/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * fuzz_engine.c - the whole data plane between a hostile guest and a small outside, in steps
 *
 * The engine is driven by drive.c. What is to be taken from it by somebody else, a TCP packet, is taken for a
 * port of its own, and given back.
 *
 * Checked: every frame that the guest gets (guest.c); every byte and every datagram that arrives outside
 * (outside.c); what drive.h says. AddressSanitizer does the rest, libFuzzer looks at memory.
 */
#include "drive.h"

#include "guest.h"

static const struct seed seeds[] = {
    /* a connection in both directions, closed by both */
    SEED("\x00\x01" CONNECT("\x00", "\x01") SEGMENT("\x00", "\x18", "\x00\x64", "\x00")
             SEND("\x00", "\x10\x00") SEGMENT("\x00", "\x11", "\x00\x00", "\x00") CLOSE("\x00", "\x00")
                 TIME("\x05", "\x01") LIST),
    /* to the gateway, with a closed window and probes of it; a reset */
    SEED("\x01\x02" CONNECT("\x01", "\x00") WINDOW("\x01", "\x00", "\x01") SEND("\x00", "\xff\xff")
             TIME("\x20", "\x01") WINDOW("\x01", "\xff", "\x00") SEGMENT("\x01", "\x14", "\x00\x00", "\x00")),
    /* refused, unreachable, IPv6, the same port again */
    SEED("\x01\x00" CONNECT("\x10", "\x01") CONNECT("\x01", "\x03") CONNECT("\x0a", "\x01")
             CONNECT("\x4a", "\x01") SEGMENT("\x02", "\x10", "\x01\x00", "\x01")
                 SEGMENT("\x02", "\x10", "\x01\x00", "\xff")),
    /* datagrams, directly and through libslirp; a question; an answer to nobody; loopback that is forbidden
     */
    SEED("\x09\x01" UDP("\x00", "\x01", "\x00", "\x00\x64") UDP("\x03", "\x01", "\x00", "\x20\x00")
             DNS("\x00") DNS("\x01") ANSWER("\x00\x10") TIME("\xff", "\x02") LIST),
    SEED("\x03\x01" UDP("\x00", "\x00", "\x00", "\x00\x64") UDP("\x00", "\x04", "\x00", "\x10\x00") UDP(
        "\x02", "\x07", "\x00", "\x00\x01") CONNECT("\x00", "\x00") DNS("\x00") TIME("\xff", "\x02")),
    /* pings, DHCP, neighbours, a datagram in fragments, backwards */
    SEED("\x01\x01" ECHO("\x00", "\x00") ECHO("\x00", "\x01") ECHO("\x01", "\x01") DHCP("\x01") DHCP(
        "\x03") "\x00\x08\x00\x07\x00"
                "\x00\x08\x01\x0b\x00" DAMAGE("\x18\x00\x20") UDP("\x00", "\x01", "\x00", "\x08\x00")
                    DAMAGE("\x28\x00\x20") UDP("\x00", "\x01", "\x00", "\x08\x00")),
    /* forwards: connections adopted, one refused; clients of a datagram forward */
    SEED("\x01\x01" ADOPT("\x00") SEND("\x00", "\x40\x00") SEGMENT("\x00", "\x18", "\x10\x00", "\x00")
             ADOPT("\x01") ADOPT("\x06") FORWARD("\x00") DATAGRAM("\x00", "\x00\x40") ANSWER("\x00\x40")
                 DATAGRAM("\x01", "\x20\x00") LIST FORWARD("\x80")),
    /* the direction threads: datagrams both ways, a forward, a connection, fragments */
    SEED("\x09\x81" UDP("\x00", "\x01", "\x00", "\x00\x64") UDP("\x03", "\x01", "\x00", "\x20\x00")
             DNS("\x00") TIME("\xff", "\x02") CONNECT("\x00", "\x01") SEND("\x00", "\x40\x00")
                 SEGMENT("\x00", "\x11", "\x01\x00", "\x00") DAMAGE("\x18\x00\x20")
                     UDP("\x00", "\x01", "\x00", "\x08\x00") FORWARD("\x00") DATAGRAM("\x00", "\x00\x40")
                         ANSWER("\x00\x40") LIST),
    /* bytes that are wrong: their checksum is, too */
    SEED("\x00\x01" CONNECT("\x00", "\x01") DAMAGE("\x01\x60\x55") SEGMENT("\x00", "\x18", "\x00\x64", "\x00")
             SEGMENT("\x00", "\x18", "\x00\x64", "\x00")),
};

static struct engine *engine;
static uint8_t taken[ENGINE_INJECT_SIZE_MAX];
static uint32_t n_taken;

static bool take_tcp(void *arg, const struct packet *p)
{
    (void)arg;
    if (p->dst_port != GUEST_TAKEN_PORT)
        return false;
    n_taken = min_u32(p->size, sizeof(taken)); /* as divert does with a SYN: it may come back */
    memcpy(taken, p->frame, n_taken);
    return true;
}

static void begin(struct engine *e, const struct engine_config *config, struct input *in)
{
    (void)config;
    (void)in;
    engine = e;
    n_taken = 0;
    engine_set_take_tcp(e, take_tcp, NULL);
}

static void step_inject(struct input *in)
{
    (void)in;
    if (n_taken > 0)
        engine_inject(engine, taken, n_taken);
    n_taken = 0;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    drive_init();
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct drive_part part = {.begin = begin, .step = step_inject};

    return drive(data, size, &part);
}

FUZZ_MUTATOR(seeds, mend_nothing)
