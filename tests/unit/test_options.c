/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/options.h"

#include "base/bits.h"
#include "test.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char captured_out[8192], captured_err[2048];

static void read_back(FILE *file, char *buffer, size_t size)
{
    size_t n;

    fflush(file);
    rewind(file);
    n = fread(buffer, 1, size - 1, file);
    buffer[n] = '\0';
}

/* Parses "slirp4netns ARGS..." with both output streams caught. */
static int parse(struct options *o, const char *args)
{
    static char text[512], *argv[32]; /* what was parsed may point into them */
    FILE *out = tmpfile(), *err = tmpfile();
    int argc = 1, saved_out, saved_err, status;

    memset(argv, 0, sizeof(argv));
    argv[0] = (char *)"slirp4netns";
    snprintf(text, sizeof(text), "%s", args);
    for (char *word = strtok(text, " "); word; word = strtok(NULL, " "))
        argv[argc++] = word;
    fflush(NULL);
    saved_out = dup(STDOUT_FILENO);
    saved_err = dup(STDERR_FILENO);
    dup2(fileno(out), STDOUT_FILENO);
    dup2(fileno(err), STDERR_FILENO);
    status = options_parse(o, argc, argv);
    fflush(NULL);
    dup2(saved_out, STDOUT_FILENO);
    dup2(saved_err, STDERR_FILENO);
    close(saved_out);
    close(saved_err);
    read_back(out, captured_out, sizeof(captured_out));
    read_back(err, captured_err, sizeof(captured_err));
    fclose(out);
    fclose(err);
    return status;
}

static void assert_addr(struct in_addr a, const char *text)
{
    char buffer[INET_ADDRSTRLEN];

    assert_string_equal(inet_ntop(AF_INET, &a, buffer, sizeof(buffer)), text);
}

static void test_defaults(void **state)
{
    struct options o;

    (void)state;
    assert_int_equal(parse(&o, "42 tap0"), -1);
    assert_int_equal(o.target, TARGET_PID);
    assert_int_equal(o.pid, 42);
    assert_string_equal(o.tap_name, "tap0");
    assert_int_equal(o.mtu, 1500);
    assert_int_equal(o.exit_fd, -1);
    assert_int_equal(o.ready_fd, -1);
    assert_false(o.configure || o.ipv6 || o.sandbox || o.seccomp || o.disable_dns || o.disable_host_loopback);
    assert_addr(o.guest, "10.0.2.100");
    assert_addr(o.gateway, "10.0.2.2");
    assert_addr(o.dns, "10.0.2.3");
    assert_addr(o.dhcp_start, "10.0.2.15");
    assert_addr(o.dhcp_end, "10.0.2.30");
    assert_string_equal(captured_out, "");
    assert_string_equal(captured_err, "");
}

static void test_order_prefixes_and_clusters_are_free(void **state)
{
    struct options o;

    (void)state;
    assert_int_equal(parse(&o, "42 --conf tap7 -e 5 -r4 --mtu 1400 --mtu=9000 -6"), -1);
    assert_true(o.configure && o.ipv6);
    assert_int_equal(o.exit_fd, 5);
    assert_int_equal(o.ready_fd, 4);
    assert_int_equal(o.mtu, 9000); /* the last one wins */
    assert_string_equal(o.tap_name, "tap7");
    assert_int_equal(parse(&o, "-c6r3 1 t"), -1);
    assert_true(o.configure && o.ipv6);
    assert_int_equal(o.ready_fd, 3);
}

static void test_targets(void **state)
{
    struct options o;

    (void)state;
    assert_int_equal(parse(&o, "--netns-type=path /proc/self/ns/net tap0"), -1);
    assert_int_equal(o.target, TARGET_PATH);
    assert_int_equal(parse(&o, "--netns-type=whatever /proc/self/ns/net tap0"), -1);
    assert_int_equal(o.target, TARGET_PATH);
    assert_int_equal(parse(&o, "--netns-type=tapfd 7"), -1);
    assert_int_equal(o.target, TARGET_TAPFD);
    assert_int_equal(o.tap_fd, 7);
    assert_int_equal(parse(&o, "--target-type=bess /tmp/s"), -1);
    assert_int_equal(o.target, TARGET_BESS);
    assert_int_equal(parse(&o, "5 interface-name-of-25-char"), -1);
    assert_int_equal(strlen(o.tap_name), 15);
    assert_int_equal(parse(&o, "5 tap0 more"), -1);
    assert_string_equal(captured_out, "WARNING: too many arguments\n");
}

static void test_what_is_wrong_is_named_on_stderr(void **state)
{
    static const struct {
        const char *args, *message;
        bool with_usage;
    } cases[] = {
        {"abc tap0", "PID must be a positive integer\n", true},
        {"0 tap0", "PID must be a positive integer\n", true},
        {"-1x tap0", "slirp4netns: invalid option -- '1'\n", true},
        {"--exit-fd=-1 5 t", "exit-fd must be a non-negative integer\n", true},
        {"--ready-fd=x 5 t", "ready-fd must be a non-negative integer\n", true},
        {"--mtu=0 5 t", "MTU must be a positive integer (< 65522)\n", true},
        {"--mtu=65522 5 t", "MTU must be a positive integer (< 65522)\n", true},
        {"--mtu=1500x 5 t", "MTU must be a positive integer (< 65522)\n", true},
        {"--mtu=67 5 t", "MTU must be at least 68\n", true},
        {"--netns-type=tapfd x", "TAPFD must a file descriptor\n", true},
        {"--netns-type=path /nonexistent t",
         "existing path expected when --netns-type=path: /nonexistent: No such file or directory\n", true},
        {"--target-type=x 5 t", "--target-type must be either \"netns\" or \"bess\"\n", true},
        {"--target-type=bess -c /x", "--configure conflicts with --target-type=bess\n", true},
        {"--target-type=bess /x y", "too many arguments\n", true},
        {"--userns-path=/nonexistent 5 t", "userns path doesn't exist: /nonexistent\n", true},
        {"--macaddress=aa:bb:cc:dd:ee:ff 5 t",
         "--macaddr cannot be specified when --configure or -c is not specified\n", true},
        {"--outbound-addr=zz 5 t", "outbound-addr has to be valid ipv4 address or interface name.\n", false},
        {"--cidr=foo 5 t", "invalid CIDR: foo\n", false},
        {"--io-backend=x 5 t", "--io-backend must be \"auto\", \"io_uring\" or \"epoll\", not \"x\"\n", true},
        {"--threads=x 5 t", "--threads must be \"auto\", \"split\" or \"shared\", not \"x\"\n", true},
    };
    struct options o;

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        assert_int_equal(parse(&o, cases[i].args), 1);
        assert_string_equal(captured_err, cases[i].message);
        assert_int_equal(strstr(captured_out, "Usage: ") != NULL, cases[i].with_usage);
    }
}

static void test_cidr_arithmetic(void **state)
{
    struct options o;

    (void)state;
    assert_int_equal(parse(&o, "--cidr=192.168.128.0/25 5 t"), -1);
    assert_addr(o.netmask, "255.255.255.128");
    assert_addr(o.guest, "192.168.128.100");
    assert_addr(o.dhcp_end, "192.168.128.30");
    assert_int_equal(parse(&o, "--cidr=128.0.0.0/1 5 t"), -1);
    assert_addr(o.netmask, "128.0.0.0");
}

static void test_cidr_errors_in_their_order(void **state)
{
    static const char *const cases[][2] = {
        {"--cidr=10.0.2.0 5 t", "invalid CIDR: 10.0.2.0\n"},
        {"--cidr=10.0.2.0/ 5 t", "invalid CIDR: 10.0.2.0/\n"},
        {"--cidr=10.0.2/24 5 t", "invalid CIDR: 10.0.2/24\n"},
        {"--cidr=10.0.2.0/24x 5 t", "invalid CIDR: 10.0.2.0/24x\n"},
        {"--cidr=10.0.2.0.0/24 5 t", "invalid CIDR: 10.0.2.0.0/24\n"},
        {"--cidr=10.0..0/24 5 t", "invalid CIDR: 10.0..0/24\n"},
        {"--cidr=10.0.2.0000/24 5 t", "invalid CIDR: 10.0.2.0000/24\n"},
        {"--cidr= 5 t", "invalid CIDR: \n"},
        {"--cidr=10.0.2.0/240 5 t", "invalid CIDR: 10.0.2.0/240\n"},
        {"--cidr=fd00::/64 5 t", "invalid CIDR: fd00::/64\n"},
        {"--cidr=10.0.256.0/24 5 t", "invalid network address: 10.0.256.0\n"},
        {"--cidr=10.0.2.0/0 5 t", "prefix length needs to be 1-25\n"},
        {"--cidr=10.0.2.100/26 5 t", "prefix length needs to be 1-25\n"}, /* before the host bits */
        {"--cidr=10.0.2.100/24 5 t",
         "CIDR needs to be a network address like 10.0.2.0/24, not like 10.0.2.100/24\n"},
    };
    struct options o;

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        assert_int_equal(parse(&o, cases[i][0]), 1);
        assert_string_equal(captured_err, cases[i][1]);
        assert_string_equal(captured_out, "");
    }
}

static void test_mac_addresses_have_six_groups(void **state)
{
    uint8_t mac[6];

    (void)state;
    assert_int_equal(options_parse_mac(mac, "0a:1b:2c:3d:4e:5f"), 0);
    assert_memory_equal(mac, "\x0a\x1b\x2c\x3d\x4e\x5f", 6);
    assert_int_equal(options_parse_mac(mac, "2:1:0:3:4:5"), 0);
    assert_memory_equal(mac, "\x02\x01\x00\x03\x04\x05", 6);
    assert_int_equal(options_parse_mac(mac, "2:1:0:3:4"), -1);
    assert_int_equal(options_parse_mac(mac, "0x1e:1:2:3:4:5"), 0);
    assert_int_equal(options_parse_mac(mac, "1:2:3:4:5:6:7"), -1);
    assert_int_equal(options_parse_mac(mac, "1:2:3:4:5:g"), -1);
    assert_int_equal(options_parse_mac(mac, "1:2:3:4:5:100"), -1);
    assert_int_equal(options_parse_mac(mac, ""), -1);
}

static void test_help_shows_every_option_that_is_not_hidden(void **state)
{
    const struct option_row *row;
    struct options o;
    char word[64];

    (void)state;
    assert_int_equal(parse(&o, "--help"), 0);
    assert_string_equal(captured_err, "");
    for (unsigned i = 0; (row = options_row(i)) != NULL; i++) {
        snprintf(word, sizeof(word), "--%s", row->name);
        assert_int_equal(strstr(captured_out, word) == NULL, row->hidden);
    }
}

static void test_version_has_five_lines_and_the_word_once(void **state)
{
    static const char *const keys[] = {
        "slirp4netns version ", "commit: ", "libslirp: ", "SLIRP_CONFIG_VERSION_MAX: ", "libseccomp: "};
    struct options o;
    char *line, *save;
    unsigned n = 0;

    (void)state;
    assert_int_equal(parse(&o, "--version"), 0);
    for (line = strtok_r(captured_out, "\n", &save); line; line = strtok_r(NULL, "\n", &save), n++) {
        assert_true(n < ARRAY_SIZE(keys));
        assert_int_equal(strncmp(line, keys[n], strlen(keys[n])), 0);
        assert_int_equal(strstr(line, "version") != NULL, n == 0);
    }
    assert_int_equal(n, ARRAY_SIZE(keys));
}

static void test_old_spellings_still_work(void **state)
{
    struct options o;

    (void)state;
    assert_int_equal(parse(&o, "--no-host-loopback --create-sandbox 5 t"), -1);
    assert_true(o.disable_host_loopback && o.sandbox);
    assert_non_null(strstr(captured_out, "WARNING: --no-host-loopback is deprecated"));
    assert_non_null(strstr(captured_out, "WARNING: --create-sandbox is deprecated"));
}

static void test_run_takes_the_rest_as_it_is(void **state)
{
    struct options o;

    (void)state;
    assert_int_equal(parse(&o, "--mtu=9000 --run -p 8080:80 curl -v --mtu=7 -- x"), -1);
    assert_true(o.run && o.configure);
    assert_int_equal(o.mtu, 9000);
    assert_int_equal(o.n_publish, 1);
    assert_string_equal(o.command[0], "curl");
    assert_string_equal(o.command[1], "-v");
    assert_string_equal(o.command[2], "--mtu=7");
    assert_string_equal(o.command[3], "--");
    assert_string_equal(o.command[4], "x");
    assert_null(o.command[5]);
    assert_string_equal(captured_out, "");
    free(o.command);

    assert_int_equal(parse(&o, "--run --map-current-user -- -x"), -1);
    assert_true(o.map_current_user);
    assert_string_equal(o.command[0], "-x");
    assert_null(o.command[1]);
    free(o.command);

    assert_int_equal(parse(&o, "--run"), -1);
    assert_null(o.command);
    assert_int_equal(parse(&o, "--run --"), -1);
    assert_null(o.command);
}

static void test_what_run_does_not_go_with(void **state)
{
    static const char *const lines[] = {"--run --netns-type=pid x", "--run --target-type=bess x",
                                        "--run --userns-path=/proc/self/ns/user x", "x --run",
                                        "--map-current-user 5 t"};
    struct options o;

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(lines); i++) {
        assert_int_equal(parse(&o, lines[i]), 1);
        assert_non_null(strstr(captured_err, "--run"));
        assert_non_null(strstr(captured_out, "Usage: "));
    }
}

static void test_publish_follows_cidr(void **state)
{
    struct options o;

    (void)state;
    assert_int_equal(parse(&o, "--publish 1:2 5 t --cidr=10.9.0.0/24"), -1);
    assert_addr(o.publish[0].guest.in.sin_addr, "10.9.0.100");
    assert_int_equal(parse(&o, "--publish 1:x 5 t"), 1);
    assert_non_null(strstr(captured_err, "--publish=1:x"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_order_prefixes_and_clusters_are_free),
        cmocka_unit_test(test_targets),
        cmocka_unit_test(test_what_is_wrong_is_named_on_stderr),
        cmocka_unit_test(test_cidr_arithmetic),
        cmocka_unit_test(test_cidr_errors_in_their_order),
        cmocka_unit_test(test_mac_addresses_have_six_groups),
        cmocka_unit_test(test_help_shows_every_option_that_is_not_hidden),
        cmocka_unit_test(test_version_has_five_lines_and_the_word_once),
        cmocka_unit_test(test_old_spellings_still_work),
        cmocka_unit_test(test_run_takes_the_rest_as_it_is),
        cmocka_unit_test(test_what_run_does_not_go_with),
        cmocka_unit_test(test_publish_follows_cidr),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
