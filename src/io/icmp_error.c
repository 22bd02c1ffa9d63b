/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "io/icmp_error.h"

#include "io/packet.h"

#include "base/bits.h"

#include <string.h>

enum { ETH_SIZE = 14, IPV4_SIZE = 20, IPV6_SIZE = 40, ICMP_SIZE = 8, QUOTED_L4_SIZE = 8 };

static const uint8_t gateway6[16] = {0xfd, [15] = 2};

static uint32_t unreachable4(uint8_t *out, const uint8_t *ip, uint32_t size, struct in_addr gateway)
{
    uint32_t quoted_size = (ip[0] & 15) * 4 + QUOTED_L4_SIZE;
    uint8_t *answer = out + ETH_SIZE, *icmp = answer + IPV4_SIZE;
    uint16_t sum;

    if (size < quoted_size)
        return 0;
    memset(answer, 0, IPV4_SIZE + ICMP_SIZE);
    answer[0] = 0x45;
    put_u16(answer + 2, IPV4_SIZE + ICMP_SIZE + quoted_size);
    answer[8] = 64;
    answer[9] = IPPROTO_ICMP;
    memcpy(answer + 12, &gateway, 4);
    memcpy(answer + 16, ip + 12, 4);
    sum = checksum_fold(checksum_add(0, answer, IPV4_SIZE));
    memcpy(answer + 10, &sum, 2);
    icmp[0] = 3; /* destination unreachable */
    icmp[1] = 1; /* host */
    memcpy(icmp + ICMP_SIZE, ip, quoted_size);
    sum = checksum_fold(checksum_add(0, icmp, ICMP_SIZE + quoted_size));
    memcpy(icmp + 2, &sum, 2);

    out[6] = 0x52;
    out[7] = 0x55;
    memcpy(out + 8, &gateway, 4);
    return ETH_SIZE + IPV4_SIZE + ICMP_SIZE + quoted_size;
}

static uint32_t unreachable6(uint8_t *out, const uint8_t *ip, uint32_t size)
{
    static const uint8_t gateway6_mac[6] = {0x52, 0x56, 0, 0, 0, 2};
    uint32_t quoted_size = IPV6_SIZE + QUOTED_L4_SIZE, sum;
    uint8_t *answer = out + ETH_SIZE, *icmp = answer + IPV6_SIZE;
    uint8_t pseudo[8] = {[7] = IPPROTO_ICMPV6};
    uint16_t folded;

    if (size < quoted_size)
        return 0;
    memset(answer, 0, IPV6_SIZE + ICMP_SIZE);
    answer[0] = 0x60;
    put_u16(answer + 4, ICMP_SIZE + quoted_size);
    answer[6] = IPPROTO_ICMPV6;
    answer[7] = 64;
    memcpy(answer + 8, gateway6, 16);
    memcpy(answer + 24, ip + 8, 16);
    icmp[0] = 1; /* destination unreachable */
    icmp[1] = 3; /* address */
    memcpy(icmp + ICMP_SIZE, ip, quoted_size);
    put_u16(pseudo + 2, ICMP_SIZE + quoted_size);
    sum = checksum_add(0, answer + 8, 32);
    sum = checksum_add(sum, pseudo, sizeof(pseudo));
    folded = checksum_fold(checksum_add(sum, icmp, ICMP_SIZE + quoted_size));
    memcpy(icmp + 2, &folded, 2);

    memcpy(out + 6, gateway6_mac, 6);
    return ETH_SIZE + IPV6_SIZE + ICMP_SIZE + quoted_size;
}

uint32_t icmp_error_unreachable(uint8_t out[ICMP_ERROR_FRAME_MAX], const uint8_t *cause, uint32_t cause_size,
                                struct in_addr gateway)
{
    const uint8_t *ip = cause + ETH_SIZE;
    uint32_t size;

    if (cause_size < ETH_SIZE + IPV4_SIZE)
        return 0;
    memcpy(out, cause + 6, 6); /* back to where it came from */
    memcpy(out + 12, cause + 12, 2);
    switch (ip[0] >> 4) {
    case 4:
        size = unreachable4(out, ip, cause_size - ETH_SIZE, gateway);
        break;
    case 6:
        size = unreachable6(out, ip, cause_size - ETH_SIZE);
        break;
    default:
        size = 0;
    }
    return size;
}
