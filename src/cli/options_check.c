/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * options_check.c - what the options and operands mean together, and whether they may
 *
 * Texts and order of the checks are those of slirp4netns, where clients read them.
 */
#include "cli/options_private.h"

#include "base/log.h"
#include "cli/ctl.h"
#include "cli/publish.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <ifaddrs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    API_SOCKET_PATH_SIZE = 108, /* sockaddr_un.sun_path */
    CIDR_PREFIX_MAX = 25,       /* the guest's address is the network's + 100 */
};

static struct in_addr offset_addr(struct in_addr base, uint32_t n)
{
    return (struct in_addr){.s_addr = htonl(ntohl(base.s_addr) + n)};
}

/* Up to @max digits, one at least; then @text is after them. */
static bool skip_digits(const char **text, unsigned max)
{
    unsigned n = 0;

    while (n < max && isdigit((unsigned char)(*text)[n]))
        n++;
    *text += n;
    return n > 0;
}

/* Four numbers with dots between them, a slash and a prefix: ^[0-9]{1,3}(\.[0-9]{1,3}){3}/[0-9]{1,2}$, which
 * regcomp(3) takes a tenth of a millisecond of each start to read. */
static bool cidr_has_its_form(const char *text)
{
    for (const char *separator = ".../"; *separator; separator++, text++) {
        if (!skip_digits(&text, 3) || *text != *separator)
            return false;
    }
    return skip_digits(&text, 2) && *text == '\0';
}

int options_set_cidr(struct options *o, const char *cidr)
{
    char quad[INET_ADDRSTRLEN + 1] = "";
    const char *slash = strchr(cidr, '/');
    unsigned prefix;

    if (!cidr_has_its_form(cidr) || (size_t)(slash - cidr) >= sizeof(quad)) {
        fprintf(stderr, "invalid CIDR: %s\n", cidr);
        return -1;
    }
    memcpy(quad, cidr, slash - cidr);
    if (inet_pton(AF_INET, quad, &o->network) != 1) {
        fprintf(stderr, "invalid network address: %s\n", quad);
        return -1;
    }
    prefix = (unsigned)strtoul(slash + 1, NULL, 10); /* one or two digits, as was seen above */
    if (prefix < 1 || prefix > CIDR_PREFIX_MAX) {
        fprintf(stderr, "prefix length needs to be 1-%d\n", CIDR_PREFIX_MAX);
        return -1;
    }
    o->prefix = prefix;
    o->netmask.s_addr = htonl(0xffffffffu << (32 - prefix));
    if (o->network.s_addr & ~o->netmask.s_addr) {
        fprintf(stderr, "CIDR needs to be a network address like 10.0.2.0/24, not like 10.0.2.100/24\n");
        return -1;
    }
    o->gateway = offset_addr(o->network, 2);
    o->dns = offset_addr(o->network, 3);
    o->dhcp_start = offset_addr(o->network, 15);
    o->dhcp_end = offset_addr(o->network, 30);
    o->guest = offset_addr(o->network, 100);
    return 0;
}

int options_parse_mac(uint8_t ret[6], const char *text)
{
    uint8_t mac[6] = {0};
    const char *at = text;

    for (unsigned i = 0;; i++) {
        char *end;
        unsigned long byte = strtoul(at, &end, 16);

        if (i == 6 || end == at || byte > 0xff || *at == '-' || *at == '+' || *at == ' ')
            return -1;
        mac[i] = (uint8_t)byte;
        if (*end == '\0') {
            if (i < 5)
                return -1;
            break;
        }
        if (*end != ':')
            return -1;
        at = end + 1;
    }
    memcpy(ret, mac, 6);
    return 0;
}

/* The first address of @family that interface @name has. */
static bool interface_address(const char *name, int family, void *ret, size_t size)
{
    struct ifaddrs *list, *a;
    bool found = false;

    if (getifaddrs(&list) < 0)
        return false;
    for (a = list; a && !found; a = a->ifa_next) {
        if (a->ifa_addr && a->ifa_addr->sa_family == family && strcmp(a->ifa_name, name) == 0) {
            memcpy(ret, a->ifa_addr, size);
            found = true;
        }
    }
    freeifaddrs(list);
    return found;
}

static int parse_outbound(struct raw *r)
{
    struct options *o = r->o;

    if (r->outbound) {
        o->has_outbound = true;
        o->outbound.sin_family = AF_INET;
        if (inet_pton(AF_INET, r->outbound, &o->outbound.sin_addr) != 1 &&
            !interface_address(r->outbound, AF_INET, &o->outbound, sizeof(o->outbound))) {
            fprintf(stderr, "outbound-addr has to be valid ipv4 address or interface name.\n");
            return STATUS_SAID;
        }
        o->outbound.sin_port = 0;
    }
    if (r->outbound6) {
        o->has_outbound6 = true;
        o->outbound6.sin6_family = AF_INET6;
        if (inet_pton(AF_INET6, r->outbound6, &o->outbound6.sin6_addr) != 1 &&
            !interface_address(r->outbound6, AF_INET6, &o->outbound6, sizeof(o->outbound6))) {
            fprintf(stderr, "outbound-addr6 has to be valid ipv6 address or interface name.\n");
            return STATUS_SAID;
        }
        o->outbound6.sin6_port = 0;
    }
    return OK;
}

static int parse_target_type(struct raw *r)
{
    struct options *o = r->o;

    if (!r->target_type || strcmp(r->target_type, "netns") == 0)
        return OK;
    if (strcmp(r->target_type, "bess") != 0) {
        fprintf(stderr, "--target-type must be either \"netns\" or \"bess\"\n");
        return STATUS_ERROR;
    }
    o->target = TARGET_BESS;
    if (o->configure)
        fprintf(stderr, "--configure conflicts with --target-type=bess\n");
    else if (r->netns_type)
        fprintf(stderr, "--netns-type conflicts with --target-type=bess\n");
    else if (o->userns_path)
        fprintf(stderr, "--userns-path conflicts with --target-type=bess\n");
    else
        return OK;
    return STATUS_ERROR;
}

static int parse_operands(struct raw *r, char **operands, int n)
{
    struct options *o = r->o;
    char *end;
    long number;

    if (o->target == TARGET_BESS) {
        if (n != 1) {
            fprintf(stderr, n < 1 ? "--target-type=bess needs an operand, the path of the socket\n"
                                  : "too many arguments\n");
            return STATUS_ERROR;
        }
        o->path = operands[0];
        return OK;
    }
    if (n < 1) {
        fprintf(stderr, "operand missing: PID, PATH or FD of the network namespace or TAP\n");
        return STATUS_ERROR;
    }
    if (!r->netns_type || strcmp(r->netns_type, "pid") == 0) {
        o->target = TARGET_PID;
        errno = 0;
        number = strtol(operands[0], &end, 10);
        if (end == operands[0] || *end || errno || number <= 0 || number > INT32_MAX) {
            fprintf(stderr, "PID must be a positive integer\n");
            return STATUS_ERROR;
        }
        o->pid = (pid_t)number;
    } else if (strcmp(r->netns_type, "tapfd") == 0) {
        o->target = TARGET_TAPFD;
        errno = 0;
        number = strtol(operands[0], &end, 10);
        if (end == operands[0] || *end || errno || number < 0 || number > INT32_MAX) {
            fprintf(stderr, "TAPFD must a file descriptor\n");
            return STATUS_ERROR;
        }
        o->tap_fd = (int)number;
    } else { /* any other word means a path, as it always has */
        o->target = TARGET_PATH;
        if (access(operands[0], F_OK) != 0) {
            fprintf(stderr, "existing path expected when --netns-type=path: %s: %m\n", operands[0]);
            return STATUS_ERROR;
        }
        o->path = operands[0];
    }
    if (n > 1 && o->target != TARGET_TAPFD)
        snprintf(o->tap_name, sizeof(o->tap_name), "%.*s", TAP_NAME_SIZE - 1, operands[1]);
    if (n > (o->target == TARGET_TAPFD ? 1 : 2))
        log_startup(LOG_LEVEL_WARNING, "too many arguments");
    return OK;
}

/* --run: there is a target once we have made it. */
static int parse_command(struct raw *r, char **operands, int n)
{
    struct options *o = r->o;

    if (r->netns_type)
        fprintf(stderr, "--netns-type conflicts with --run, which makes a namespace\n");
    else if (r->target_type)
        fprintf(stderr, "--target-type conflicts with --run, which makes a namespace\n");
    else if (o->userns_path)
        fprintf(stderr, "--userns-path conflicts with --run, which makes a namespace\n");
    else {
        o->target = TARGET_PID;
        o->configure = true;
        o->command = n > 0 ? operands : NULL;
        return OK;
    }
    return STATUS_ERROR;
}

/* After --cidr, which says what the guest's address is. */
static int parse_publish(struct raw *r)
{
    char text[FAILURE_TEXT_SIZE];

    for (unsigned i = 0; i < r->n_publish; i++) {
        struct failure why = FAILURE_NULL;

        if (publish_parse(&r->o->publish[i], r->publish[i], r->o->guest, &why) < 0) {
            why.code = 0; /* "Invalid argument" adds nothing */
            fprintf(stderr, "%s\n", failure_text(&why, text, sizeof(text)));
            return STATUS_SAID;
        }
    }
    r->o->n_publish = r->n_publish;
    return OK;
}

/* --ctl: the operands are a command and its arguments, which are looked at when it runs. */
static int parse_ctl(struct options *o, char **operands, int n)
{
    if (o->run) {
        fprintf(stderr, "--ctl conflicts with --run\n");
        return STATUS_ERROR;
    }
    if (n < 1 || !ctl_is_command(operands[0])) {
        fprintf(stderr,
                n < 1 ? "--ctl needs a command: list, add, remove, stats, flows or info\n"
                      : "--ctl: there is no command \"%s\": list, add, remove, stats, flows, info\n",
                n < 1 ? "" : operands[0]);
        return STATUS_SAID;
    }
    o->command = operands;
    return OK;
}

int options_check(struct raw *r, char **operands, int n_operands)
{
    struct options *o = r->o;
    int status;

    if (o->check) {
        if (n_operands == 0 && !o->run)
            return OK;
        fprintf(stderr, "--check goes with nothing else%s%s\n", n_operands > 0 ? ": " : "",
                n_operands > 0 ? operands[0] : "");
        return STATUS_ERROR;
    }
    if (o->ctl)
        return parse_ctl(o, operands, n_operands);
    if (o->json || o->watch) {
        fprintf(stderr, "--%s has a meaning with --ctl only\n", o->json ? "json" : "watch");
        return STATUS_ERROR;
    }
    if (o->map_current_user && !o->run) {
        fprintf(stderr, "--map-current-user has a meaning with --run only\n");
        return STATUS_ERROR;
    }
    status = o->run ? parse_command(r, operands, n_operands) : parse_target_type(r);
    if (status == OK && !o->run)
        status = parse_operands(r, operands, n_operands);
    if (status != OK)
        return status;
    if (r->cidr && options_set_cidr(o, r->cidr) < 0)
        return STATUS_SAID;
    status = parse_publish(r);
    if (status != OK)
        return status;
    if (o->api_socket && strlen(o->api_socket) >= API_SOCKET_PATH_SIZE) {
        fprintf(stderr, "the specified API socket path is too long (>= %d)\n", API_SOCKET_PATH_SIZE);
        return STATUS_SAID;
    }
    if (o->metrics && strlen(o->metrics) >= API_SOCKET_PATH_SIZE) {
        fprintf(stderr, "--metrics: the path is too long (>= %d): %s\n", API_SOCKET_PATH_SIZE, o->metrics);
        return STATUS_SAID;
    }
    if (o->metrics && o->api_socket && strcmp(o->metrics, o->api_socket) == 0) {
        fprintf(stderr, "--metrics and --api-socket need two sockets, not both %s\n", o->metrics);
        return STATUS_SAID;
    }
    if (o->userns_path && access(o->userns_path, F_OK) != 0) {
        fprintf(stderr, "userns path doesn't exist: %s\n", o->userns_path);
        return STATUS_ERROR;
    }
    if (r->mac && !o->configure) {
        fprintf(stderr, "--macaddr cannot be specified when --configure or -c is not specified\n");
        return STATUS_ERROR;
    }
    if (r->mac && options_parse_mac(o->mac, r->mac) < 0) {
        fprintf(
            stderr,
            "\"%s\" is an invalid MAC address.\n"
            "macaddress has to be a valid MAC address (hex string, 6 bytes, each byte separated by a ':').\n",
            r->mac);
        return STATUS_SAID;
    }
    o->has_mac = r->mac != NULL;
    return parse_outbound(r);
}
