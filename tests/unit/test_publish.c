/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/publish.h"

#include "base/bits.h"
#include "test.h"

#include <stdio.h>
#include <string.h>

static struct in_addr default_guest(void)
{
    struct in_addr guest;

    inet_pton(AF_INET, "10.0.2.100", &guest);
    return guest;
}

static void show(char *ret, size_t size, const union address *a)
{
    char text[INET6_ADDRSTRLEN];
    const void *addr = a->sa.sa_family == AF_INET6 ? (const void *)&a->in6.sin6_addr : &a->in.sin_addr;

    snprintf(ret, size, "%s|%u", inet_ntop(a->sa.sa_family, addr, text, sizeof(text)), address_port(a));
}

static void test_what_is_meant(void **state)
{
    static const struct {
        const char *text, *host, *guest;
        int proto;
        unsigned n_ports;
    } rows[] = {
        {"8080:80", "0.0.0.0|8080", "10.0.2.100|80", IPPROTO_TCP, 1},
        {"8080:80/tcp", "0.0.0.0|8080", "10.0.2.100|80", IPPROTO_TCP, 1},
        {"53:5353/udp", "0.0.0.0|53", "10.0.2.100|5353", IPPROTO_UDP, 1},
        {"8000-8009:80", "0.0.0.0|8000", "10.0.2.100|80", IPPROTO_TCP, 10},
        {"8000-8000:80", "0.0.0.0|8000", "10.0.2.100|80", IPPROTO_TCP, 1},
        {"127.0.0.1:8080:80", "127.0.0.1|8080", "10.0.2.100|80", IPPROTO_TCP, 1},
        {"8080:10.0.2.15:80", "0.0.0.0|8080", "10.0.2.15|80", IPPROTO_TCP, 1},
        {"127.0.0.1:8080:10.0.2.15:80", "127.0.0.1|8080", "10.0.2.15|80", IPPROTO_TCP, 1},
        {"[::1]:8080:80", "::1|8080", "10.0.2.100|80", IPPROTO_TCP, 1},
        {"8080:[fd00::100]:80/udp", "0.0.0.0|8080", "fd00::100|80", IPPROTO_UDP, 1},
        {"[::]:1-65535:[fd00::1]:1", "::|1", "fd00::1|1", IPPROTO_TCP, 65535},
        {"[2001:db8::1]:1-2:10.1.2.3:65534/tcp", "2001:db8::1|1", "10.1.2.3|65534", IPPROTO_TCP, 2},
    };

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
        struct failure why = FAILURE_NULL;
        struct forward_spec spec;
        char host[64], guest[64];

        assert_int_equal(publish_parse(&spec, rows[i].text, default_guest(), &why), 0);
        show(host, sizeof(host), &spec.host);
        show(guest, sizeof(guest), &spec.guest);
        assert_string_equal(host, rows[i].host);
        assert_string_equal(guest, rows[i].guest);
        assert_int_equal(spec.proto, rows[i].proto);
        assert_int_equal(spec.n_ports, rows[i].n_ports);
        assert_int_equal(spec.path, FORWARD_AUTO);
        assert_false(spec.v4_only || spec.v6_only);
    }
}

static void test_what_is_wrong_is_named(void **state)
{
    static const struct {
        const char *text, *what;
    } rows[] = {
        {"", "two ports"},
        {"80", "two ports"},
        {"1:2:3:4:5", "two ports"},
        {":", "host's port"},
        {"0:80", "host's port"},
        {"65536:80", "host's port"},
        {"4294967377:80", "host's port"},
        {"-1:80", "host's port"},
        {"+80:80", "host's port"},
        {" 80:80", "host's port"},
        {"80 :80", "host's port"},
        {"80x:80", "host's port"},
        {"80-:80", "host's port"},
        {"80-90-95:80", "host's port"},
        {"90-80:80", "ends before"},
        {"80:0", "guest's port"},
        {"80:80-90", "guest's port"},
        {"80:65536", "guest's port"},
        {"80:", "guest's port"},
        {"10-20:65530", "beyond 65535"},
        {"80:80/sctp", "protocol"},
        {"80:80/", "protocol"},
        {"80:80/TCP", "protocol"},
        {"localhost:80:80", "guest's address"},
        {"127.0.0:80:80", "host's address"},
        {"127.0.0.256:80:80", "host's address"},
        {"::1:80:80", "two ports"},
        {"::80", "guest's address"},
        {"[::1:80:80", "two ports"},
        {"[::g]:80:80", "host's address"},
        {"[]:80:80", "host's address"},
        {"[:80:80", "two ports"},
        {"[127.0.0.1]:80:80", "host's address"},
        {"80:[::1]x:80", "guest's address"},
        {":80:80", "guest's address"},
        {"80::80", "guest's address"},
    };
    char too_long[400];

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
        struct forward_spec spec = {.n_ports = 77};
        struct failure why = FAILURE_NULL;

        assert_true(publish_parse(&spec, rows[i].text, default_guest(), &why) < 0);
        if (!strstr(why.what, rows[i].what))
            fail_msg("\"%s\": %s", rows[i].text, why.what);
        assert_non_null(strstr(why.what, rows[i].text)); /* the value itself */
        assert_non_null(strstr(why.hint, "HOST_PORT"));
        assert_int_equal(spec.n_ports, 77); /* untouched */
    }
    memset(too_long, '1', sizeof(too_long) - 1);
    too_long[sizeof(too_long) - 1] = '\0';
    assert_true(publish_parse(&(struct forward_spec){0}, too_long, default_guest(), NULL) < 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_is_meant),
        cmocka_unit_test(test_what_is_wrong_is_named),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
