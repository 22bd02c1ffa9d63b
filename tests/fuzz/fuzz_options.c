/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * fuzz_options.c - the command line, networks in CIDR notation, MAC addresses
 *
 * Input: arguments that end in a zero byte. A caller that passes on what somebody else has written (a
 * container engine's network options) must get a refusal or values that hold together.
 */
#include "cli/options.h"

#include "base/log.h"
#include "fuzz.h"

#include <getopt.h>

enum { ARGUMENTS_MAX = 64 };

static const struct seed seeds[] = {
    SEED("-c\0--mtu=65520\0--disable-host-loopback\0--cidr=10.0.2.0/24\0"
         "1\0tap0"),
    SEED("--netns-type=path\0--enable-ipv6\0--macaddress=02:00:00:00:00:01\0/proc/self/ns/net\0tap0"),
    SEED("--target-type=tapfd\0"
         "7\0--outbound-addr=192.0.2.1\0--outbound-addr6=2001:db8::1"),
    SEED("-e3\0-r4\0-m1500\0--threads=split\0--io-backend=epoll\0--divert=off\0--publish=127.0.0.1:8080:80/"
         "tcp\0"
         "1"),
    SEED("--api-socket=/tmp/x\0--cidr=192.168.0.0/25\0--enable-sandbox\0--enable-seccomp\0--log-level=debug\0"
         "1\0tap1"),
};

static bool is_in_network(const struct options *o, struct in_addr a)
{
    return (a.s_addr & o->netmask.s_addr) == o->network.s_addr;
}

static void check_network(const struct options *o)
{
    CHECK(o->prefix >= 1 && o->prefix <= 25);
    CHECK(ntohl(o->netmask.s_addr) == (uint32_t)(UINT64_C(0xffffffff) << (32 - o->prefix)));
    CHECK((o->network.s_addr & ~o->netmask.s_addr) == 0);
    CHECK(is_in_network(o, o->guest) && is_in_network(o, o->gateway) && is_in_network(o, o->dns));
    CHECK(is_in_network(o, o->dhcp_start) && is_in_network(o, o->dhcp_end));
}

static void check_parts(const char *text)
{
    static struct options o;
    uint8_t mac[6];

    if (options_set_cidr(&o, text) == 0)
        check_network(&o);
    (void)options_parse_mac(mac, text);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    log_set_level(LOG_LEVEL_ERROR);
    return 0;
}

static void check_options(const struct options *o)
{
    check_network(o);
    CHECK(o->mtu <= 65521);
    CHECK(memchr(o->tap_name, 0, sizeof(o->tap_name)));
    CHECK(o->n_publish <= PUBLISH_MAX);
    CHECK(o->target != TARGET_PATH || o->path);
    CHECK(o->target != TARGET_PID || o->run || o->pid > 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct options options;
    static char copy[4096 + 1], program[] = "slirp4netns";
    char *argv[ARGUMENTS_MAX + 2] = {program};
    int argc = 1;

    size = size < sizeof(copy) - 1 ? size : sizeof(copy) - 1;
    memcpy(copy, data, size);
    copy[size] = '\0';
    for (size_t at = 0; at < size && argc <= ARGUMENTS_MAX; at += strlen(copy + at) + 1)
        argv[argc++] = copy + at;
    if (argc > 1)
        check_parts(argv[1]);
    optind = 0; /* begin anew (getopt(3)) */
    if (options_parse(&options, argc, argv) < 0 && !options.ctl && !options.check)
        check_options(&options);
    free(options.command); /* the operands, which otherwise live as long as the program */
    return 0;
}

FUZZ_MUTATOR(seeds, mend_nothing)
