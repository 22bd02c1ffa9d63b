/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "base/bits.h"
#include "fwd/handshake.h"
#include "test.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <string.h>

enum { ETH = 14, HEADER = 28, DATA = 1200 };

/* A SYN with an option of eight bytes and @n_data bytes behind it, its checksums right. Returns its size. */
static uint32_t syn_make(uint8_t *f, bool v6, uint32_t n_data)
{
    uint32_t ip_size = v6 ? 40 : 20, l4_size = HEADER + n_data, addr_size = v6 ? 16 : 4, sum;
    uint8_t *ip = f + ETH, *tcp = ip + ip_size, pseudo[4] = {0, IPPROTO_TCP};
    uint8_t *src = ip + (v6 ? 8 : 12);
    uint16_t folded;

    memset(f, 0, ETH + ip_size + HEADER);
    memset(tcp + HEADER, 'd', n_data);
    put_u16(f + 12, v6 ? 0x86dd : 0x0800);
    assert_int_equal(inet_pton(v6 ? AF_INET6 : AF_INET, v6 ? "fd00::100" : "10.0.2.100", src), 1);
    assert_int_equal(inet_pton(v6 ? AF_INET6 : AF_INET, v6 ? "2001:db8::7" : "198.51.100.7", src + addr_size),
                     1);
    if (v6) {
        ip[0] = 0x60;
        put_u16(ip + 4, (uint16_t)l4_size);
        ip[6] = IPPROTO_TCP;
    } else {
        ip[0] = 0x45;
        ip[9] = IPPROTO_TCP;
        packet_finish_ipv4(ip, ip_size, ip_size + l4_size);
    }
    put_u16(tcp, 40000);
    put_u16(tcp + 2, 443);
    put_u16(tcp + 6, 7);
    tcp[12] = HEADER / 4 << 4;
    tcp[13] = PACKET_TCP_SYN;
    memcpy(tcp + 20, "\x02\x04\x05\xb4\x01\x03\x03\x07", 8);
    put_u16(pseudo + 2, (uint16_t)l4_size);
    sum = checksum_add(checksum_add(0, src, 2 * addr_size), pseudo, sizeof(pseudo));
    folded = checksum_fold(checksum_add(sum, tcp, l4_size));
    memcpy(tcp + 16, &folded, 2);
    return ETH + ip_size + l4_size;
}

static void test_the_copy_of_a_syn_is_the_syn_without_its_data(void **state)
{
    uint8_t with[ETH + 40 + HEADER + DATA], without[ETH + 40 + HEADER], copy[HANDSHAKE_SYN_MAX];
    struct packet p;

    (void)state;
    for (int v6 = 0; v6 < 2; v6++) {
        uint32_t n = syn_make(without, v6, 0);

        assert_int_equal(packet_parse(&p, with, syn_make(with, v6, DATA)), v6 ? PACKET_IPV6 : PACKET_IPV4);
        assert_int_equal(handshake_copy_syn(copy, &p), n);
        assert_memory_equal(copy, without, n);
        assert_int_equal(packet_parse(&p, without, n), v6 ? PACKET_IPV6 : PACKET_IPV4);
        assert_int_equal(handshake_copy_syn(copy, &p), n);
        assert_memory_equal(copy, without, n);
    }
}

static void test_headers_that_do_not_fit_are_not_copied(void **state)
{
    enum { EXTENSION = 8 * 16 };
    uint8_t f[ETH + 40 + EXTENSION + HEADER], moved[HEADER], copy[HANDSHAKE_SYN_MAX];
    struct packet p;

    (void)state;
    (void)syn_make(f, true, 0);
    memcpy(moved, f + ETH + 40, HEADER);
    memset(f + ETH + 40, 0, EXTENSION); /* destination options, all padding (RFC 8200 4.6) */
    f[ETH + 6] = IPPROTO_DSTOPTS;
    put_u16(f + ETH + 4, EXTENSION + HEADER);
    f[ETH + 40] = IPPROTO_TCP;
    f[ETH + 41] = EXTENSION / 8 - 1;
    memcpy(f + ETH + 40 + EXTENSION, moved, HEADER);
    assert_int_equal(packet_parse(&p, f, sizeof(f)), PACKET_IPV6);
    assert_non_null(p.l4);
    assert_int_equal(handshake_copy_syn(copy, &p), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_copy_of_a_syn_is_the_syn_without_its_data),
        cmocka_unit_test(test_headers_that_do_not_fit_are_not_copied),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
