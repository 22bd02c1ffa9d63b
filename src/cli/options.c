/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * options.c - the option table, --help and --version, and reading the command line by the table
 */
#include "cli/options_private.h"

#include "base/bits.h"
#include "base/log.h"

#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <seccomp.h>
#include <slirp/libslirp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef PROJECT_VERSION
#define PROJECT_VERSION "2.0.0"
#endif
#ifndef PROJECT_COMMIT
#define PROJECT_COMMIT "unknown"
#endif

enum {
    MTU_DEFAULT = 1500,
    MTU_MIN = 68,    /* RFC 791, and libslirp's own limit */
    MTU_MAX = 65521, /* 65535 less an Ethernet header: the largest a TAP takes */
};

static int parse_uint_fd(const char *name, const char *text, int *ret)
{
    char *end;
    long n;

    errno = 0;
    n = strtol(text, &end, 10);
    if (end == text || *end || errno || n < 0 || n > INT32_MAX) {
        fprintf(stderr, "%s must be a non-negative integer\n", name);
        return STATUS_ERROR;
    }
    *ret = (int)n;
    return OK;
}

#define SETTER(name_) static int set_##name_(struct raw *r, const char *arg)
#define FLAG(name_, statement) \
    SETTER(name_)              \
    {                          \
        (void)arg;             \
        statement;             \
        return OK;             \
    }
#define TEXT(name_, place) \
    SETTER(name_)          \
    {                      \
        place = arg;       \
        return OK;         \
    }

FLAG(configure, r->o->configure = true)
FLAG(disable_host_loopback, r->o->disable_host_loopback = true)
FLAG(disable_dns, r->o->disable_dns = true)
FLAG(sandbox, r->o->sandbox = true)
FLAG(no_splice, r->o->no_splice = true)
FLAG(run, r->o->run = true)
FLAG(json, r->o->json = true)
FLAG(watch, r->o->watch = true)
FLAG(map_current_user, r->o->map_current_user = true)
FLAG(check, r->o->check = true)
FLAG(help, r->help = true)
FLAG(version, r->version = true)
TEXT(netns_type, r->netns_type)
TEXT(target_type, r->target_type)
TEXT(cidr, r->cidr)
TEXT(mac, r->mac)
TEXT(userns_path, r->o->userns_path)
TEXT(api_socket, r->o->api_socket)
TEXT(pcap, r->o->pcap)
TEXT(metrics, r->o->metrics)
TEXT(ctl, r->o->ctl)

SETTER(ipv6)
{
    (void)arg;
    r->o->ipv6 = true;
    log_startup(LOG_LEVEL_WARNING, "Support for IPv6 is experimental");
    return OK;
}

SETTER(seccomp)
{
    (void)arg;
    r->o->seccomp = true;
    log_startup(LOG_LEVEL_WARNING, "Support for seccomp is experimental");
    return OK;
}

SETTER(outbound)
{
    log_startup(LOG_LEVEL_WARNING, "Support for --outbound-addr is experimental");
    r->outbound = arg;
    return OK;
}

SETTER(outbound6)
{
    log_startup(LOG_LEVEL_WARNING, "Support for --outbound-addr6 is experimental");
    r->outbound6 = arg;
    return OK;
}

SETTER(no_host_loopback)
{
    log_startup(LOG_LEVEL_WARNING,
                "--no-host-loopback is deprecated and will be removed in the next release, use "
                "--disable-host-loopback instead");
    return set_disable_host_loopback(r, arg);
}

SETTER(create_sandbox)
{
    log_startup(LOG_LEVEL_WARNING,
                "--create-sandbox is deprecated and will be removed in the next release, use "
                "--enable-sandbox instead");
    return set_sandbox(r, arg);
}

SETTER(publish)
{
    if (r->n_publish == PUBLISH_MAX) {
        fprintf(stderr, "--publish may be given %d times, \"%s\" is one too many\n", PUBLISH_MAX, arg);
        return STATUS_ERROR;
    }
    r->publish[r->n_publish++] = arg;
    return OK;
}

SETTER(exit_fd)
{
    return parse_uint_fd("exit-fd", arg, &r->o->exit_fd);
}

SETTER(ready_fd)
{
    return parse_uint_fd("ready-fd", arg, &r->o->ready_fd);
}

SETTER(mtu)
{
    char *end;
    long n;

    errno = 0;
    n = strtol(arg, &end, 10);
    if (end == arg || *end || errno || n <= 0 || n > MTU_MAX) {
        fprintf(stderr, "MTU must be a positive integer (< %d)\n", MTU_MAX + 1);
        return STATUS_ERROR;
    }
    if (n < MTU_MIN) {
        fprintf(stderr, "MTU must be at least %d\n", MTU_MIN);
        return STATUS_ERROR;
    }
    r->o->mtu = (unsigned)n;
    return OK;
}

SETTER(io_backend)
{
    static const char *const names[] = {"auto", "io_uring", "epoll"};

    for (unsigned i = 0; i < ARRAY_SIZE(names); i++) {
        if (strcmp(arg, names[i]) == 0) {
            r->o->backend = (enum engine_backend)i;
            return OK;
        }
    }
    fprintf(stderr, "--io-backend must be \"auto\", \"io_uring\" or \"epoll\", not \"%s\"\n", arg);
    return STATUS_ERROR;
}

SETTER(threads)
{
    static const char *const names[] = {"auto", "split", "shared"};

    for (unsigned i = 0; i < ARRAY_SIZE(names); i++) {
        if (strcmp(arg, names[i]) == 0) {
            r->o->mode = (enum engine_mode)i;
            return OK;
        }
    }
    fprintf(stderr, "--threads must be \"auto\", \"split\" or \"shared\", not \"%s\"\n", arg);
    return STATUS_ERROR;
}

SETTER(udp)
{
    static const char *const names[] = {
        [ENGINE_UDP_AUTO] = "auto", [ENGINE_UDP_DIRECT] = "direct", [ENGINE_UDP_SLIRP] = "slirp"};

    for (unsigned i = 0; i < ARRAY_SIZE(names); i++) {
        if (strcmp(arg, names[i]) == 0) {
            r->o->udp = (enum engine_udp)i;
            return OK;
        }
    }
    fprintf(stderr, "--udp must be \"auto\", \"direct\" or \"slirp\", not \"%s\"\n", arg);
    return STATUS_ERROR;
}

SETTER(offload)
{
    if (strcmp(arg, "auto") != 0 && strcmp(arg, "off") != 0) {
        fprintf(stderr, "--offload must be \"auto\" or \"off\", not \"%s\"\n", arg);
        return STATUS_ERROR;
    }
    r->o->offload = strcmp(arg, "auto") == 0;
    return OK;
}

SETTER(divert)
{
    static const char *const names[] = {[DIVERT_AUTO] = "auto", [DIVERT_ON] = "on", [DIVERT_OFF] = "off"};

    for (unsigned i = 0; i < ARRAY_SIZE(names); i++) {
        if (strcmp(arg, names[i]) == 0) {
            r->o->divert = (enum divert_mode)i;
            return OK;
        }
    }
    fprintf(stderr, "--divert must be \"auto\", \"on\" or \"off\", not \"%s\"\n", arg);
    return STATUS_ERROR;
}

SETTER(log_format)
{
    if (strcmp(arg, "text") != 0 && strcmp(arg, "json") != 0) {
        fprintf(stderr, "--log-format must be \"text\" or \"json\", not \"%s\"\n", arg);
        return STATUS_ERROR;
    }
    log_set_format(strcmp(arg, "json") == 0 ? LOG_JSON : LOG_TEXT);
    (void)r;
    return OK;
}

static int log_level_of(const char *name)
{
    for (int i = 0; i < LOG_LEVELS; i++) {
        if (strcmp(name, log_level_names[i]) == 0)
            return i;
    }
    return -1;
}

SETTER(log_level)
{
    int level = log_level_of(arg);

    (void)r;
    if (level >= 0) {
        log_set_level((enum log_level)level);
        return OK;
    }
    fprintf(stderr, "--log-level must be \"error\", \"warning\", \"info\" or \"debug\", not \"%s\"\n", arg);
    return STATUS_ERROR;
}

SETTER(quiet)
{
    (void)r;
    (void)arg;
    log_set_level(LOG_LEVEL_WARNING);
    return OK;
}

/* The rows: what getopt, --help, the manual's test and the reader see. */
static const struct {
    struct option_row row;
    int (*set)(struct raw *r, const char *arg);
} rows[] = {
    {{'c', "configure", NULL, "bring up the interface", false}, set_configure},
    {{'e', "exit-fd", "FD", "specify the FD for terminating slirp4netns", false}, set_exit_fd},
    {{'r', "ready-fd", "FD", "specify the FD to write to when the network is configured", false},
     set_ready_fd},
    {{'m', "mtu", "MTU", "specify MTU (default=1500, max=65521)", false}, set_mtu},
    {{'6', "enable-ipv6", NULL, "enable IPv6 (experimental)", false}, set_ipv6},
    {{'a', "api-socket", "PATH", "specify API socket path", false}, set_api_socket},
    {{0, "cidr", "CIDR", "specify network address CIDR (default=10.0.2.0/24)", false}, set_cidr},
    {{0, "disable-host-loopback", NULL, "prohibit connecting to 127.0.0.1:* on the host namespace", false},
     set_disable_host_loopback},
    {{0, "netns-type", "TYPE", "specify network namespace type ([path|pid|tapfd], default=pid)", false},
     set_netns_type},
    {{0, "userns-path", "PATH", "specify user namespace path", false}, set_userns_path},
    {{0, "enable-sandbox", NULL,
      "create a new mount namespace (and drop all caps except CAP_NET_BIND_SERVICE if running as the root)",
      false},
     set_sandbox},
    {{0, "enable-seccomp", NULL, "enable seccomp to limit syscalls (experimental)", false}, set_seccomp},
    {{0, "outbound-addr", "IPv4",
      "sets outbound ipv4 address to bound to (or an interface name; experimental)", false},
     set_outbound},
    {{0, "outbound-addr6", "IPv6",
      "sets outbound ipv6 address to bound to (or an interface name; experimental)", false},
     set_outbound6},
    {{0, "disable-dns", NULL,
      "disables 10.0.2.3 (or configured internal ip) to host dns redirect (experimental)", false},
     set_disable_dns},
    {{0, "macaddress", "MAC", "specify the MAC address of the TAP (only valid with -c)", false}, set_mac},
    {{0, "target-type", "TYPE", "specify the target type ([netns|bess], default=netns)", false},
     set_target_type},
    {{0, "run", NULL, "make namespaces with a network, run COMMAND (or the user's shell) in them", false},
     set_run},
    {{0, "map-current-user", NULL, "with --run: keep the user's id inside (default: root inside)", false},
     set_map_current_user},
    {{'p', "publish", "PORTS",
      "forward [HOST_ADDR:]HOST_PORT[-END]:[GUEST_ADDR:]GUEST_PORT[/tcp|udp] (repeatable)", false},
     set_publish},
    {{0, "check", NULL, "tell what this system lacks and how to get it, and exit", false}, set_check},
    {{0, "io-backend", "TYPE", "how frames are read and written ([auto|io_uring|epoll], default=auto)",
      false},
     set_io_backend},
    {{0, "threads", "MODE", "threads of the data plane ([auto|split|shared], default=auto: by CPU count)",
      false},
     set_threads},
    {{0, "offload", "MODE", "leave checksums and segmentation to the kernel ([auto|off], default=auto)",
      false},
     set_offload},
    {{0, "divert", "MODE", "move the guest's own TCP connections by splice ([auto|on|off], default=auto)",
      false},
     set_divert},
    {{0, "udp", "PATH",
      "carry the guest's datagrams past libslirp or through it ([auto|direct|slirp], default=auto)", false},
     set_udp},
    {{0, "no-splice", NULL, "carry all TCP connections through libslirp and the TAP", false}, set_no_splice},
    {{0, "ctl", "SOCKET", "ask the program behind an API socket: list, add, remove, stats, flows or info",
      false},
     set_ctl},
    {{0, "json", NULL, "with --ctl: show replies as JSON", false}, set_json},
    {{0, "watch", NULL, "with --ctl: show it again every second", false}, set_watch},
    {{0, "metrics", "SOCKET", "serve OpenMetrics over HTTP on a UNIX socket", false}, set_metrics},
    {{0, "pcap", "FILE", "record the frames of the guest in FILE (pcapng)", false}, set_pcap},
    {{0, "log-format", "FORMAT", "format of the log ([text|json], default=text)", false}, set_log_format},
    {{0, "log-level", "LEVEL", "what is logged ([error|warning|info|debug], default=info)", false},
     set_log_level},
    {{'q', "quiet", NULL, "log warnings and errors only, no start-up lines", false}, set_quiet},
    {{'h', "help", NULL, "show this help and exit", false}, set_help},
    {{'v', "version", NULL, "show version and exit", false}, set_version},
    {{0, "no-host-loopback", NULL, "old name of --disable-host-loopback", true}, set_no_host_loopback},
    {{0, "create-sandbox", NULL, "old name of --enable-sandbox", true}, set_create_sandbox},
};

const struct option_row *options_row(unsigned i)
{
    return i < ARRAY_SIZE(rows) ? &rows[i].row : NULL;
}

static void usage(const char *argv0)
{
    printf("Usage: %s [OPTION]... PID|PATH|FD [TAPNAME]\n", argv0);
    printf("       %s --run [OPTION]... [--] [COMMAND [ARGUMENT]...]\n", argv0);
    printf("       %s --check\n", argv0);
    printf("       %s --ctl SOCKET [--json] [--watch] list|add|remove|stats|flows|info [ARGUMENT]...\n",
           argv0);
    printf("User-mode networking for unprivileged network namespaces.\n\n");
    for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
        const struct option_row *row = &rows[i].row;
        char left[64], short_part[8] = "";

        if (row->hidden)
            continue;
        if (row->short_name)
            snprintf(short_part, sizeof(short_part), "-%c, ", row->short_name);
        snprintf(left, sizeof(left), "%s--%s%s%s", short_part, row->name, row->argument ? "=" : "",
                 row->argument ? row->argument : "");
        printf("%-24s %s\n", left, row->help);
    }
}

/* "slirp4netns version X" first; no other line may contain that word, clients take what follows its last
 * occurrence. */
static void print_version(void)
{
    const struct scmp_version *v = seccomp_version();

    printf("slirp4netns version %s\n", PROJECT_VERSION);
    printf("commit: %s\n", PROJECT_COMMIT);
    printf("libslirp: %s\n", slirp_version_string());
    printf("SLIRP_CONFIG_VERSION_MAX: %d\n", SLIRP_CONFIG_VERSION_MAX);
    if (v)
        printf("libseccomp: %u.%u.%u\n", v->major, v->minor, v->micro);
}

/* getopt's arrays, made of the rows. The first character makes getopt return operands where it meets them:
 * with --run everything from the first one on is COMMAND's, whatever it looks like. */
struct getopt_arrays {
    struct option longs[ARRAY_SIZE(rows) + 1];
    char shorts[2 * ARRAY_SIZE(rows) + 2];
};

static void getopt_arrays_fill(struct getopt_arrays *a)
{
    char *s = a->shorts;

    memset(a, 0, sizeof(*a));
    *s++ = '-';
    for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
        const struct option_row *row = &rows[i].row;

        a->longs[i] =
            (struct option){.name = row->name, .has_arg = row->argument ? required_argument : no_argument};
        if (row->short_name) {
            *s++ = (char)row->short_name;
            if (row->argument)
                *s++ = ':';
        }
    }
}

/* The next option. OPTION_ROW: of row *@ret_row; OPTION_OPERAND: an operand, in optarg. */
enum { OPTION_ROW, OPTION_OPERAND, OPTION_UNKNOWN, OPTION_END };

static int next_option(int argc, char **argv, const struct getopt_arrays *a, unsigned *ret_row)
{
    int index = 0, c = getopt_long(argc, argv, a->shorts, a->longs, &index);

    if (c == -1)
        return OPTION_END;
    if (c == 1)
        return OPTION_OPERAND;
    if (c == '?')
        return OPTION_UNKNOWN;
    if (c != 0) {
        for (index = 0; rows[index].row.short_name != c; index++)
            ;
    }
    *ret_row = (unsigned)index;
    return OPTION_ROW;
}

/* How to log has to be known before the first option says something, wherever the options stand. Mistakes are
 * left for the second look. */
static void log_options_first(int argc, char **argv, const struct getopt_arrays *a)
{
    int kind, level = -1, given;
    bool run = false;
    unsigned row;

    opterr = optind = 0;
    while ((kind = next_option(argc, argv, a, &row)) != OPTION_END && !(kind == OPTION_OPERAND && run)) {
        if (kind != OPTION_ROW)
            continue;
        if (rows[row].set == set_run)
            run = true;
        else if (rows[row].set == set_quiet)
            level = LOG_LEVEL_WARNING;
        else if (rows[row].set == set_log_format && strcmp(optarg, "json") == 0)
            log_set_format(LOG_JSON);
        else if (rows[row].set == set_log_level && (given = log_level_of(optarg)) >= 0)
            level = given;
    }
    opterr = 1;
    if (run) /* what COMMAND says is what the user wants to read, and its output may go into a pipe */
        log_startup_to_stderr();
    if (run && level < 0)
        level = LOG_LEVEL_WARNING;
    if (level >= 0)
        log_set_level((enum log_level)level);
}

/* Reads all options. @operands has room for @argc + 1 pointers. OK, or the status to end with. */
static int read_options(struct raw *r, int argc, char **argv, const struct getopt_arrays *a, char **operands,
                        int *ret_n_operands)
{
    int kind, status, n = 0;
    unsigned row;

    optind = 0; /* GNU: begin anew */
    while ((kind = next_option(argc, argv, a, &row)) != OPTION_END) {
        if (kind == OPTION_OPERAND) {
            if (r->o->run) {
                optind--; /* from this word on nothing is ours */
                break;
            }
            operands[n++] = optarg;
            continue;
        }
        status = kind == OPTION_ROW ? rows[row].set(r, optarg) : STATUS_ERROR; /* getopt has said what */
        if (status == OK && r->o->run && n > 0) {
            fprintf(stderr, "--run must come before COMMAND, not after \"%s\"\n", operands[0]);
            status = STATUS_ERROR;
        }
        if (status != OK) {
            usage(argv[0]);
            return status;
        }
        if (r->help || r->version)
            break;
    }
    while (!r->help && !r->version && optind < argc)
        operands[n++] = argv[optind++];
    operands[n] = NULL;
    *ret_n_operands = n;
    return OK;
}

int options_parse(struct options *ret, int argc, char **argv)
{
    struct getopt_arrays arrays;
    struct raw raw = {.o = ret};
    char **operands; /* lives as long as the program: --run's command */
    int status, n_operands = 0;

    *ret = (struct options){
        .exit_fd = -1, .ready_fd = -1, .tap_fd = -1, .mtu = MTU_DEFAULT, .tap_name = "tap0", .offload = true};
    if (options_set_cidr(ret, "10.0.2.0/24") < 0)
        return STATUS_ERROR;
    operands = calloc((size_t)argc + 1, sizeof(*operands));
    if (!operands) {
        fprintf(stderr, "cannot allocate memory for the arguments\n");
        return STATUS_ERROR;
    }
    getopt_arrays_fill(&arrays);
    log_options_first(argc, argv, &arrays);
    status = read_options(&raw, argc, argv, &arrays, operands, &n_operands);
    if (status == OK && raw.help) {
        usage(argv[0]);
        status = 0;
    } else if (status == OK && raw.version) {
        print_version();
        status = 0;
    } else if (status == OK) {
        status = options_check(&raw, operands, n_operands);
        if (status == STATUS_ERROR)
            usage(argv[0]);
    }
    if (!ret->command)
        free(operands);
    return status == STATUS_SAID ? STATUS_ERROR : status;
}

void options_print_banner(const struct options *o)
{
    char a[INET6_ADDRSTRLEN];

#define LINE(label, addr) \
    log_startup(LOG_LEVEL_INFO, "* %-16s %s", label ":", inet_ntop(AF_INET, &(addr), a, sizeof(a)))
    log_startup(LOG_LEVEL_INFO, "Starting slirp");
    log_startup(LOG_LEVEL_INFO, "* %-16s %u", "MTU:", o->mtu);
    LINE("Network", o->network);
    LINE("Netmask", o->netmask);
    LINE("Gateway", o->gateway);
    LINE("DNS", o->dns);
    LINE("DHCP begin", o->dhcp_start);
    LINE("DHCP end", o->dhcp_end);
    LINE("Recommended IP", o->guest);
    if (o->api_socket)
        log_startup(LOG_LEVEL_INFO, "* %-16s %s", "API Socket:", o->api_socket);
    if (o->has_outbound)
        log_startup(LOG_LEVEL_INFO, "* Outbound IPv4:    %s",
                    inet_ntop(AF_INET, &o->outbound.sin_addr, a, sizeof(a)));
    if (o->has_outbound6)
        log_startup(LOG_LEVEL_INFO, "* Outbound IPv6:    %s",
                    inet_ntop(AF_INET6, &o->outbound6.sin6_addr, a, sizeof(a)));
    if (o->has_mac)
        log_startup(LOG_LEVEL_INFO, "* %-16s %02x:%02x:%02x:%02x:%02x:%02x", "MAC address:", o->mac[0],
                    o->mac[1], o->mac[2], o->mac[3], o->mac[4], o->mac[5]);
#undef LINE
    if (!o->disable_host_loopback)
        log_startup(LOG_LEVEL_WARNING,
                    "127.0.0.1:* on the host is accessible as %s (set --disable-host-loopback to prohibit "
                    "connecting to 127.0.0.1:*)",
                    inet_ntop(AF_INET, &o->gateway, a, sizeof(a)));
}
