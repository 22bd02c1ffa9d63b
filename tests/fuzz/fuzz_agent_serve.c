/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * fuzz_agent_serve.c - the nsagent, and a program that somebody has taken over
 *
 * Input: requests, well-formed or not. The namespace is not there: what the agent would do in it is replaced
 * by functions that check what they are asked for, and answer what the input says. A request that breaks a
 * rule of agent_protocol.h must end the conversation; every other one must be answered as it says there.
 */
#include "fwd/agent_serve.h"

#include "base/fd_passing.h"
#include "fds.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

enum { STEPS_MAX = 64 };

static const struct seed seeds[] = {
    SEED("\x00\x00\x02\x00\x01\x10\x00\x00\x00\x00\x03\x02\x40"), /* looks, asks for sockets of both families
                                                                   */
    SEED("\x01\x03\x07\x00\x00\x01\x02\x03\x04\x05\x06\x07\x08"), /* a connection; the element is there */
    SEED("\x01\x04\x09\x03\x05"),                                 /* elements, containers */
    SEED("\x01\x06\x00\x10not a whole message"),
    SEED("\x01\x05\x01\x02\x00\x41"), /* one socket too many */
};

static struct input *answers; /* what the namespace does comes from the input, too */
static uint32_t n_addresses;

/* ---- the namespace ---- */

void agent_net_remove(struct agent_net *n)
{
    (void)n;
}

int agent_net_fd(const struct agent_net *n)
{
    (void)n;
    return -1;
}

void agent_net_drain(struct agent_net *n)
{
    (void)n;
}

static int answer(void)
{
    static const int all[] = {0, 0, 0, 1, -EIO, -EPERM, -EADDRINUSE, -EEXIST};

    return all[input_u8(answers) % ARRAY_SIZE(all)];
}

int agent_net_lo_up(struct agent_net *n)
{
    (void)n;
    return answer();
}

enum agent_reason agent_net_prepare(struct agent_net *n, int index)
{
    (void)n;
    CHECK(index >= 0 && index < AGENT_FAMILIES);
    return input_u8(answers) % 2 ? AGENT_READY : AGENT_NO_RULES;
}

int agent_net_list(struct agent_net *n)
{
    n->n_addresses = n_addresses = input_u16(answers) % (AGENT_ADDRESSES_MAX + 1);
    return answer();
}

int agent_net_socket(const struct agent_net *n, int index)
{
    int r = answer();

    (void)n;
    CHECK(index >= 0 && index < AGENT_FAMILIES);
    return r < 0 ? r : open("/dev/null", O_RDWR | O_CLOEXEC);
}

int nft_fd(const struct nft *n)
{
    (void)n;
    return STDIN_FILENO;
}

int nft_add(struct nft *n, const struct nft_tuple *tuples, uint32_t count)
{
    int r = answer();

    CHECK(n && count == 1 && tuples->source.sa.sa_family == tuples->destination.sa.sa_family);
    return r < 0 ? r : 0;
}

int nft_remove(struct nft *n, const struct nft_tuple *tuples, uint32_t count)
{
    uint8_t sum = 0;

    for (size_t i = 0; i < count * sizeof(*tuples); i++)
        sum ^= ((const uint8_t *)tuples)[i]; /* they are all there */
    CHECK(n && count >= 1 && count <= TUPLES_PER_MESSAGE);
    return sum ? 0 : -ENOENT;
}

static int nested_error; /* what nft_nested() has answered since it was set to 0 */

int nft_nested(struct nft *n, bool on)
{
    int r = answer();

    CHECK(n && on);
    nested_error = r < 0 ? r : 0;
    return nested_error;
}

int repair_connect(const struct repair_spec *spec, int *ret)
{
    int r = answer();

    CHECK(spec->local.sa.sa_family == spec->peer.sa.sa_family && family_index(spec->peer.sa.sa_family) >= 0);
    if (r < 0)
        return r;
    *ret = open("/dev/null", O_RDWR | O_CLOEXEC);
    CHECK(*ret >= 0);
    return 0;
}

int sock_diag_destroy(struct sock_diag *d, const union address *local, const union address *peer)
{
    (void)d;
    CHECK(local->sa.sa_family == peer->sa.sa_family);
    return answer();
}

/* ---- the program's end ---- */

struct heard {
    uint32_t n, settled, n_fds, n_addresses, states, undiverted;
    bool final;
    uint64_t id;
    int complaint;
};

static void hear(int fd, struct heard *h)
{
    memset(h, 0, sizeof(*h));
    for (;;) {
        struct agent_message m;
        struct fd_passing with;
        ssize_t n = fd_passing_receive(fd, &m, sizeof(m), FD_PASSING_MAX, &with, MSG_DONTWAIT);
        const uint32_t n_fds = with.n_fds;

        CHECK(n != -EMSGSIZE);
        if (n <= 0)
            return;
        CHECK(n == (ssize_t)sizeof(m) && !with.cut);
        fd_passing_close(&with);
        switch (m.type) {
        case MESSAGE_SOCKETS:
            CHECK(family_index(m.family) >= 0 && m.count == n_fds && m.count <= m.settled);
            h->settled += m.settled;
            break;
        case MESSAGE_ADDRESSES:
            CHECK(m.first == h->n_addresses && m.count <= ADDRESSES_PER_MESSAGE && !h->final);
            h->n_addresses += m.count;
            h->final = m.final;
            break;
        case MESSAGE_STATE:
            CHECK(family_index(m.family) >= 0);
            h->states++;
            break;
        case MESSAGE_DIVERTED:
            CHECK(m.result <= 0 || m.result == 1);
            CHECK((n_fds == 1) == (m.result == 0));
            h->id = m.divert.id;
            break;
        case MESSAGE_UNDIVERTED:
            h->undiverted += m.count;
            break;
        case MESSAGE_COMPLAINT:
            CHECK(m.count == AGENT_LEAVES_NESTED && m.result < 0 && n_fds == 0);
            h->complaint = m.result;
            break;
        default:
            CHECK(m.type == MESSAGE_STARTED);
        }
        h->n++;
        h->n_fds += n_fds;
    }
}

/* Returns the size to send. */
static size_t request(struct agent_message *m, struct input *in)
{
    size_t size = sizeof(*m);

    memset(m, 0, sizeof(*m));
    switch (input_u8(in) % 7) {
    case 0:
        m->type = MESSAGE_LOOK;
        break;
    case 1:
    case 2:
        m->type = MESSAGE_WANT_SOCKETS;
        m->family = input_u8(in) % 2 ? AF_INET : AF_INET6;
        m->count = input_u8(in) % (AGENT_STOCK_MAX + 2);
        break;
    case 3:
        m->type = MESSAGE_DIVERT;
        m->divert.id = input_u8(in);
        m->count = input_u8(in) % 2;
        m->divert.spec.local.sa.sa_family = input_u8(in) % 4 ? AF_INET : AF_INET6;
        m->divert.spec.peer.sa.sa_family = input_u8(in) % 4 ? AF_INET : AF_INET6;
        break;
    case 4:
        m->type = input_u8(in) % 2 ? MESSAGE_UNDIVERT : MESSAGE_NESTED;
        m->count = input_u8(in) % (TUPLES_PER_MESSAGE + 2);
        break;
    case 5:
        m->type = input_u8(in);
        m->family = input_u8(in);
        m->count = input_u16(in);
        (void)input_bytes(in, &m->settled, input_u8(in));
        break;
    default:
        size = input_u16(in) % (sizeof(*m) + 1);
        (void)input_bytes(in, m, size);
    }
    return size;
}

static bool is_sound(const struct agent_message *m, size_t size, bool divert)
{
    if (size != sizeof(*m))
        return false;
    switch (m->type) {
    case MESSAGE_LOOK:
    case MESSAGE_NESTED:
        return true;
    case MESSAGE_WANT_SOCKETS:
        return family_index(m->family) >= 0 && m->count >= 1 && m->count <= AGENT_STOCK_MAX;
    case MESSAGE_DIVERT:
        return divert && m->divert.spec.local.sa.sa_family == m->divert.spec.peer.sa.sa_family &&
               family_index(m->divert.spec.peer.sa.sa_family) >= 0;
    case MESSAGE_UNDIVERT:
        return divert && m->count >= 1 && m->count <= TUPLES_PER_MESSAGE;
    default:
        return false;
    }
}

static void check_answer(const struct agent_message *m, const struct heard *h)
{
    if (m->type == MESSAGE_WANT_SOCKETS)
        CHECK(h->settled == m->count && h->n_fds <= m->count);
    else if (m->type == MESSAGE_DIVERT)
        CHECK(h->n == 1 && h->id == m->divert.id);
    else if (m->type == MESSAGE_UNDIVERT)
        CHECK(h->n == 1 && h->undiverted == m->count);
    else if (m->type == MESSAGE_NESTED)
        CHECK(h->n == (nested_error < 0) && h->complaint == nested_error);
    else
        CHECK(h->n == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct agent_serve a;
    struct input in = {data, size};
    struct fds before;
    struct heard h;
    int pair[2], r = 0;

    fds_look(&before);
    answers = &in;
    CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0);
    memset(&a, 0, sizeof(a));
    a.sock = pair[1];
    a.reasons[0] = a.reasons[1] = -1;
    if (input_u8(&in) & 1)
        a.nft = (struct nft *)&a; /* only compared with NULL */
    for (int i = 0; r == 0 && i < STEPS_MAX && in.size > 0; i++) {
        struct agent_message m;
        size_t n = request(&m, &in);
        bool sound = is_sound(&m, n, a.nft != NULL);

        nested_error = 0;
        CHECK(send(pair[0], &m, n, MSG_DONTWAIT) == (ssize_t)n);
        r = agent_serve_request(&a);
        hear(pair[0], &h);
        CHECK((r == 0) == sound);
        if (sound)
            check_answer(&m, &h);
        if (r == 0 && a.look) {
            CHECK(agent_serve_look(&a) == 0);
            hear(pair[0], &h);
            CHECK(h.n_addresses == 0 || (h.final && h.n_addresses == n_addresses));
            CHECK(h.states <= AGENT_FAMILIES);
        }
    }
    close(pair[0]);
    if (r == 0)
        CHECK(agent_serve_request(&a) == -EPIPE);
    close(pair[1]);
    fds_check(&before);
    return 0;
}

FUZZ_MUTATOR(seeds, mend_nothing)
