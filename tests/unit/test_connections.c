/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "slirp/connections.h"

#include "base/bits.h"
#include "test.h"

#include <stdlib.h>

static const char table[] =
    "  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\n"
    "  TCP[ESTABLISHED]    12      10.0.2.100 43210     203.0.113.9  7000     0     0\n"
    "  TCP[HOST_FORWARD]   13       127.0.0.1  8080      10.0.2.100    80     0     0\n"
    "  TCP[FIN_WAIT_2]     15               * 43211         0.0.0.0  7000     0     0\n"
    "  UDP[236 sec]        16      10.0.2.100 39421        10.0.2.3    53     0     0\n"
    "  ICMP[9 sec]         14      10.0.2.100  -        203.0.113.9  -        0     0\n";

static void assert_end(const union address *a, const char *addr, uint16_t port)
{
    char text[INET_ADDRSTRLEN];

    assert_int_equal(a->sa.sa_family, AF_INET);
    assert_string_equal(inet_ntop(AF_INET, &a->in.sin_addr, text, sizeof(text)), addr);
    assert_int_equal(address_port(a), port);
}

static void test_every_kind_of_line(void **state)
{
    struct flow_info rows[8];
    uint64_t next = 1;

    (void)state;
    assert_int_equal(connections_read(table, 0, rows, ARRAY_SIZE(rows), &next), 4);
    assert_int_equal(next, 0);
    assert_int_equal(rows[0].proto, IPPROTO_TCP);
    assert_string_equal(rows[0].state, "established");
    assert_string_equal(rows[0].tier, "slirp");
    assert_end(&rows[0].guest, "10.0.2.100", 43210);
    assert_end(&rows[0].remote, "203.0.113.9", 7000);
    assert_true(rows[0].to_guest == FLOW_BYTES_UNKNOWN && rows[0].age_ns == FLOW_AGE_UNKNOWN);
    /* IPv6: libslirp's text has no addresses. */
    assert_string_equal(rows[1].state, "fin-wait-2");
    assert_int_equal(rows[1].guest.sa.sa_family, AF_UNSPEC);
    assert_int_equal(rows[1].remote.sa.sa_family, AF_UNSPEC);
    assert_int_equal(rows[2].proto, IPPROTO_UDP);
    assert_string_equal(rows[2].state, "open");
    assert_end(&rows[2].remote, "10.0.2.3", 53);
    assert_int_equal(rows[3].proto, IPPROTO_ICMP);
    assert_end(&rows[3].guest, "10.0.2.100", 0);
}

static void test_pages_add_up(void **state)
{
    struct flow_info all[8], page[8];
    uint64_t next;

    (void)state;
    (void)connections_read(table, 0, all, ARRAY_SIZE(all), &next);
    for (uint32_t max = 1; max <= 5; max++) {
        uint32_t n = 0, n_pages = 0;

        next = 0;
        do {
            uint32_t n_page = connections_read(table, next, page, max, &next);

            assert_in_range(n_page, 0, max);
            for (uint32_t i = 0; i < n_page; i++)
                assert_memory_equal(&page[i], &all[n + i], sizeof(page[0]));
            n += n_page;
            assert_in_range(++n_pages, 1, 10);
        } while (next > 0);
        assert_int_equal(n, 4);
    }
}

static void test_any_text_is_harmless(void **state)
{
    static const char alphabet[] = "  TCPUDIM[]-*.:0123456789abf\n\t";
    struct flow_info rows[4];
    unsigned seed = 1;
    uint64_t next;

    (void)state;
    assert_int_equal(connections_read("", 0, rows, ARRAY_SIZE(rows), &next), 0);
    assert_int_equal(connections_read(table, 1000, rows, ARRAY_SIZE(rows), &next), 0);
    for (unsigned round = 0; round < 20000; round++) {
        char text[400];
        size_t size = (size_t)rand_r(&seed) % sizeof(text);

        for (size_t i = 0; i < size; i++)
            text[i] = alphabet[(rand_r(&seed) >> 3) % (int)(sizeof(alphabet) - 1)];
        text[size ? size - 1 : 0] = '\0';
        assert_in_range(connections_read(text, round % 3, rows, ARRAY_SIZE(rows), &next), 0,
                        ARRAY_SIZE(rows));
    }
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_kind_of_line),
        cmocka_unit_test(test_pages_add_up),
        cmocka_unit_test(test_any_text_is_harmless),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
