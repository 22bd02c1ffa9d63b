/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory. What `nft` would print, with M the mark and K its mask:
 *
 *     table inet slirp4netns_1234 { flags owner
 *         set tcp4 { type ipv4_addr . inet_service . ipv4_addr . inet_service; size 65536 }
 *         set tcp6 { type ipv6_addr . inet_service . ipv6_addr . inet_service; size 65536 }
 *         chain output { type route hook output priority mangle
 *             meta nfproto ipv4 meta l4proto tcp tcp flags & syn == 0
 *                 ip saddr . tcp sport . ip daddr . tcp dport @tcp4 meta mark set meta mark & ~K | M
 *             (the same for ipv6) }
 *         chain prerouting { type filter hook prerouting priority mangle
 *             meta nfproto ipv4 meta l4proto tcp ct direction original tcp flags & syn == 0
 *                 ct reply ip daddr . ct reply proto-dst . ct reply ip saddr . ct reply proto-src @tcp4
 *                 meta mark set meta mark & ~K | M
 *             (the same for ipv6) } }
 *
 * Every change is one batch (a transaction of nf_tables) in one sendmsg(2). The kernel handles it before that
 * call returns, so all its answers are in the receive queue by then and nothing is ever waited for: the queue
 * is read until the acknowledgement of the last message or until it is empty. Every message of every batch
 * has a sequence number of its own; an answer with another number belongs to a batch that was given up and is
 * dropped. A batch that fails is answered by errors with the number of the message at fault, or of the
 * batch's first message if none is (permission, memory, the commit itself). A batch that may or may not have
 * been done (the answer did not fit the receive queue, ENOBUFS; a signal, EINTR) is sent again: doing one
 * twice is doing it once. The first one, which makes the table, fails then; the table goes with the socket.
 *
 * The socket is connected to the kernel: whoever else sends to it, which root in the guest may, gets
 * ECONNREFUSED (Linux netlink_getsockbyportid()), so that answers cannot be forged or the queue be filled.
 *
 * The table's name contains the socket's netlink port, which nobody else in this network namespace can have
 * at the same time; a process id would be one of another namespace.
 */
#include "fwd/nft.h"

#include "base/bits.h"
#include "base/cleanup.h"

#include <assert.h>
#include <errno.h>
#include <libmnl/libmnl.h>
#include <libnftnl/common.h>
#include <libnftnl/expr.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter_ipv4.h>
#include <stdio.h>
#include <sys/socket.h>

enum {
    BATCH_SIZE = 16 << 10,
    BATCH_TUPLE_SIZE = 64, /* at most, of one of IPv6 */
    BATCH_REST_SIZE = 6 << 10,
    TRIES_MAX = 5,
    ANSWERS_MAX = 64, /* read for one batch; more than a batch has messages */
    TCP_FLAGS_OFFSET = 13,
    TCP_FLAG_SYN = 2,
    DIRECTION_ORIGINAL = 0, /* enum ip_conntrack_dir */
    DIRECTION_REPLY = 1,
};
static_assert(NFT_BATCH_MAX * BATCH_TUPLE_SIZE + BATCH_REST_SIZE <= BATCH_SIZE, "a batch does not fit");

struct nft {
    struct mnl_socket *socket;
    uint32_t mark, mark_mask;
    uint32_t sequence; /* the last one used */
    char table[32];
    bool joined; /* the table is somebody else's, too: see nft_join() */
    /* the batch that is being built */
    uint32_t size;         /* bytes */
    uint32_t n_messages;   /* begin and end are messages, too */
    struct nlmsghdr *last; /* before the end: its acknowledgement is the last answer */
    bool out_of_memory;    /* libnftnl was */
    _Alignas(8) uint8_t batch[BATCH_SIZE];
};

/* ---- families ---- */

/* nft(8)'s numbers for the types in a set's key; only those who list the set read them. */
enum { TYPE_BITS = 6, TYPE_IPV4 = 7, TYPE_IPV6 = 8, TYPE_PORT = 13 };
#define KEY_TYPE(a) (((((a) << TYPE_BITS | TYPE_PORT) << TYPE_BITS | (a)) << TYPE_BITS) | TYPE_PORT)

static const struct family {
    const char *set;
    uint8_t nfproto;
    uint8_t address_size;
    uint8_t saddr, daddr;    /* offsets in the IP header */
    uint32_t ct_src, ct_dst; /* enum nft_ct_keys */
    uint32_t key_type;
} families[] = {
    {"tcp4", NFPROTO_IPV4, 4, 12, 16, NFT_CT_SRC_IP, NFT_CT_DST_IP, KEY_TYPE(TYPE_IPV4)},
    {"tcp6", NFPROTO_IPV6, 16, 8, 24, NFT_CT_SRC_IP6, NFT_CT_DST_IP6, KEY_TYPE(TYPE_IPV6)},
};

/* A key's parts fill whole registers: four bytes for a port. */
enum { REGISTER_SIZE = 4, KEY_SIZE_MAX = 2 * (16 + REGISTER_SIZE) };

static uint32_t key_size(const struct family *f)
{
    return 2U * (f->address_size + REGISTER_SIZE);
}

static bool of_family(const struct family *f, const union address *a)
{
    return a->sa.sa_family == (f->nfproto == NFPROTO_IPV6 ? AF_INET6 : AF_INET);
}

static uint8_t *key_put(uint8_t *at, const struct family *f, const union address *a)
{
    const void *address =
        f->nfproto == NFPROTO_IPV6 ? (const void *)&a->in6.sin6_addr : (const void *)&a->in.sin_addr;

    memcpy(at, address, f->address_size);
    memset(at + f->address_size, 0, REGISTER_SIZE);
    put_u16(at + f->address_size, address_port(a));
    return at + f->address_size + REGISTER_SIZE;
}

/* ---- batches ---- */

static void message_end(struct nft *n, struct nlmsghdr *message)
{
    n->last = message;
    n->size += MNL_ALIGN(message->nlmsg_len);
    n->n_messages++;
    assert(n->size <= sizeof(n->batch));
}

/* Every message of ours begins with the table's name, whose attribute has the same number everywhere. */
static struct nlmsghdr *message_begin(struct nft *n, uint16_t type, uint16_t flags)
{
    struct nlmsghdr *message =
        nftnl_nlmsg_build_hdr((char *)n->batch + n->size, type, NFPROTO_INET, flags, 0);

    static_assert(NFTA_TABLE_NAME == 1 && NFTA_SET_TABLE == 1 && NFTA_CHAIN_TABLE == 1 &&
                      NFTA_RULE_TABLE == 1 && NFTA_SET_ELEM_LIST_TABLE == 1,
                  "the table's name is another attribute");
    mnl_attr_put_strz(message, NFTA_TABLE_NAME, n->table);
    return message;
}

static void put_u32(struct nlmsghdr *message, uint16_t attribute, uint32_t value)
{
    mnl_attr_put_u32(message, attribute, htonl(value));
}

static void batch_begin(struct nft *n)
{
    n->size = n->n_messages = 0;
    n->out_of_memory = false;
    message_end(n, nftnl_batch_begin((char *)n->batch, 0));
}

/* Reads the answers to the batch whose messages are numbered from @first: 0, or a negative errno and, in
 * *@ret_fault, which message it is about (0: the batch as a whole). -ENOBUFS: there is no answer. */
static int answers_read(struct nft *n, uint32_t first, uint32_t *ret_fault)
{
    _Alignas(struct nlmsghdr) uint8_t space[4096];
    int result = 0;

    for (int i = 0; i < ANSWERS_MAX; i++) {
        ssize_t size = recv(mnl_socket_get_fd(n->socket), space, sizeof(space), MSG_DONTWAIT);
        const struct nlmsghdr *answer = (const struct nlmsghdr *)space;
        int rest = (int)size;

        if (size < 0 && (errno == EINTR || errno == ENOBUFS))
            continue; /* ENOBUFS: an answer was lost, perhaps not the one that counts */
        if (size < 0)
            break;
        for (; mnl_nlmsg_ok(answer, rest); answer = mnl_nlmsg_next(answer, &rest)) {
            const struct nlmsgerr *e = mnl_nlmsg_get_payload(answer);
            uint32_t message = answer->nlmsg_seq - first;

            if (answer->nlmsg_type != NLMSG_ERROR || mnl_nlmsg_get_payload_len(answer) < sizeof(*e) ||
                message >= n->n_messages)
                continue;
            if (e->error < 0 && result == 0) {
                result = e->error;
                *ret_fault = message;
            }
            if (answer->nlmsg_seq == n->last->nlmsg_seq)
                return result;
        }
    }
    return result < 0 ? result : -ENOBUFS;
}

/* Ends the batch, sends it and hears what became of it; *@ret_fault as above. */
static int batch_commit(struct nft *n, uint32_t *ret_fault)
{
    struct nlmsghdr *last = n->last;
    int r = -ENOMEM;

    *ret_fault = 0;
    if (n->out_of_memory)
        return r;
    last->nlmsg_flags |= NLM_F_ACK;
    message_end(n, nftnl_batch_end((char *)n->batch + n->size, 0));
    n->last = last;
    for (int i = 0; i < TRIES_MAX; i++) {
        const uint32_t first = n->sequence + 1;

        for (uint32_t at = 0; at < n->size;) {
            struct nlmsghdr *message = (struct nlmsghdr *)(n->batch + at);

            message->nlmsg_seq = ++n->sequence;
            at += MNL_ALIGN(message->nlmsg_len);
        }
        r = send(mnl_socket_get_fd(n->socket), n->batch, n->size, 0) < 0 ? -errno
                                                                         : answers_read(n, first, ret_fault);
        if (r != -EINTR && r != -EAGAIN && r != -ENOBUFS)
            break;
    }
    return r;
}

/* ---- expressions ---- */

/* A rule that is being built: its message and its list of expressions. */
struct rule {
    struct nft *nft;
    struct nlmsghdr *message;
    struct nlattr *list;
};

/* Register @i of the sixteen with four bytes. */
static uint32_t reg(uint32_t i)
{
    return NFT_REG32_00 + i;
}

/* NULL: out of memory, which the batch remembers. */
static struct nftnl_expr *expression(struct rule *rule, const char *name)
{
    struct nftnl_expr *e = nftnl_expr_alloc(name);

    if (!e)
        rule->nft->out_of_memory = true;
    return e;
}

/* Puts the expression into the rule and frees it. */
static void put(struct rule *rule, struct nftnl_expr *e)
{
    struct nlattr *element = mnl_attr_nest_start(rule->message, NFTA_LIST_ELEM);

    nftnl_expr_build_payload(rule->message, e);
    mnl_attr_nest_end(rule->message, element);
    nftnl_expr_free(e);
}

static void put_meta(struct rule *rule, uint32_t key, uint16_t direction_attribute, uint32_t r)
{
    struct nftnl_expr *e = expression(rule, "meta");

    if (!e)
        return;
    nftnl_expr_set_u32(e, NFTNL_EXPR_META_KEY, key);
    nftnl_expr_set_u32(e, direction_attribute, r);
    put(rule, e);
}

static void put_equals_u8(struct rule *rule, uint32_t r, uint8_t value)
{
    struct nftnl_expr *e = expression(rule, "cmp");

    if (!e)
        return;
    nftnl_expr_set_u32(e, NFTNL_EXPR_CMP_SREG, r);
    nftnl_expr_set_u32(e, NFTNL_EXPR_CMP_OP, NFT_CMP_EQ);
    nftnl_expr_set_u8(e, NFTNL_EXPR_CMP_DATA, value);
    put(rule, e);
}

static void put_payload(struct rule *rule, uint32_t base, uint32_t offset, uint32_t size, uint32_t r)
{
    struct nftnl_expr *e = expression(rule, "payload");

    if (!e)
        return;
    nftnl_expr_set_u32(e, NFTNL_EXPR_PAYLOAD_BASE, base);
    nftnl_expr_set_u32(e, NFTNL_EXPR_PAYLOAD_OFFSET, offset);
    nftnl_expr_set_u32(e, NFTNL_EXPR_PAYLOAD_LEN, size);
    nftnl_expr_set_u32(e, NFTNL_EXPR_PAYLOAD_DREG, r);
    put(rule, e);
}

/* @direction: negative for what has none. */
static void put_ct(struct rule *rule, uint32_t key, int direction, uint32_t r)
{
    struct nftnl_expr *e = expression(rule, "ct");

    if (!e)
        return;
    nftnl_expr_set_u32(e, NFTNL_EXPR_CT_KEY, key);
    if (direction >= 0)
        nftnl_expr_set_u8(e, NFTNL_EXPR_CT_DIR, (uint8_t)direction);
    nftnl_expr_set_u32(e, NFTNL_EXPR_CT_DREG, r);
    put(rule, e);
}

/* register = (register & @mask) ^ @flip, of @size bytes */
static void put_bitwise(struct rule *rule, uint32_t r, uint32_t size, const void *mask, const void *flip)
{
    struct nftnl_expr *e = expression(rule, "bitwise");

    if (!e)
        return;
    nftnl_expr_set_u32(e, NFTNL_EXPR_BITWISE_SREG, r);
    nftnl_expr_set_u32(e, NFTNL_EXPR_BITWISE_DREG, r);
    nftnl_expr_set_u32(e, NFTNL_EXPR_BITWISE_LEN, size);
    nftnl_expr_set(e, NFTNL_EXPR_BITWISE_MASK, mask, size);
    nftnl_expr_set(e, NFTNL_EXPR_BITWISE_XOR, flip, size);
    put(rule, e);
}

static void put_lookup(struct rule *rule, const char *set, uint32_t r)
{
    struct nftnl_expr *e = expression(rule, "lookup");

    if (!e)
        return;
    nftnl_expr_set_str(e, NFTNL_EXPR_LOOKUP_SET, set);
    nftnl_expr_set_u32(e, NFTNL_EXPR_LOOKUP_SREG, r);
    put(rule, e);
}

/* ---- the table's parts ---- */

static void put_set(struct nft *n, const struct family *f)
{
    struct nlmsghdr *message = message_begin(n, NFT_MSG_NEWSET, NLM_F_CREATE);
    struct nlattr *description;

    mnl_attr_put_strz(message, NFTA_SET_NAME, f->set);
    put_u32(message, NFTA_SET_FLAGS, 0);
    put_u32(message, NFTA_SET_KEY_TYPE, f->key_type);
    put_u32(message, NFTA_SET_KEY_LEN, key_size(f));
    put_u32(message, NFTA_SET_ID, f->nfproto);
    description = mnl_attr_nest_start(message, NFTA_SET_DESC);
    put_u32(message, NFTA_SET_DESC_SIZE, NFT_TUPLES_MAX);
    mnl_attr_nest_end(message, description);
    message_end(n, message);
}

static void put_chain(struct nft *n, const char *name, const char *type, uint32_t hook_number)
{
    struct nlmsghdr *message = message_begin(n, NFT_MSG_NEWCHAIN, NLM_F_CREATE);
    struct nlattr *hook;

    mnl_attr_put_strz(message, NFTA_CHAIN_NAME, name);
    hook = mnl_attr_nest_start(message, NFTA_CHAIN_HOOK);
    put_u32(message, NFTA_HOOK_HOOKNUM, hook_number);
    put_u32(message, NFTA_HOOK_PRIORITY, (uint32_t)NF_IP_PRI_MANGLE);
    mnl_attr_nest_end(message, hook);
    put_u32(message, NFTA_CHAIN_POLICY, NF_ACCEPT);
    mnl_attr_put_strz(message, NFTA_CHAIN_TYPE, type);
    message_end(n, message);
}

/* The registers from 0: the flow as it is on the TAP, read from the packet's own headers or from conntrack.
 */
static void put_key(struct rule *rule, const struct family *f, bool nested)
{
    const uint32_t sport = f->address_size / REGISTER_SIZE, daddr = sport + 1, dport = daddr + sport;

    if (nested) {
        put_ct(rule, f->ct_dst, DIRECTION_REPLY, reg(0));
        put_ct(rule, NFT_CT_PROTO_DST, DIRECTION_REPLY, reg(sport));
        put_ct(rule, f->ct_src, DIRECTION_REPLY, reg(daddr));
        put_ct(rule, NFT_CT_PROTO_SRC, DIRECTION_REPLY, reg(dport));
    } else {
        put_payload(rule, NFT_PAYLOAD_NETWORK_HEADER, f->saddr, f->address_size, reg(0));
        put_payload(rule, NFT_PAYLOAD_TRANSPORT_HEADER, 0, 2, reg(sport));
        put_payload(rule, NFT_PAYLOAD_NETWORK_HEADER, f->daddr, f->address_size, reg(daddr));
        put_payload(rule, NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2, reg(dport));
    }
}

static void put_rule(struct nft *n, const char *chain, const struct family *f, bool nested)
{
    struct rule rule = {.nft = n, .message = message_begin(n, NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND)};
    const uint32_t others = ~n->mark_mask;
    const uint8_t syn = TCP_FLAG_SYN, zero = 0;

    mnl_attr_put_strz(rule.message, NFTA_RULE_CHAIN, chain);
    rule.list = mnl_attr_nest_start(rule.message, NFTA_RULE_EXPRESSIONS);
    put_meta(&rule, NFT_META_NFPROTO, NFTNL_EXPR_META_DREG, reg(0));
    put_equals_u8(&rule, reg(0), f->nfproto);
    put_meta(&rule, NFT_META_L4PROTO, NFTNL_EXPR_META_DREG, reg(0));
    put_equals_u8(&rule, reg(0), IPPROTO_TCP);
    if (nested) {
        put_ct(&rule, NFT_CT_DIRECTION, -1, reg(0));
        put_equals_u8(&rule, reg(0), DIRECTION_ORIGINAL);
    }
    put_payload(&rule, NFT_PAYLOAD_TRANSPORT_HEADER, TCP_FLAGS_OFFSET, 1, reg(0));
    put_bitwise(&rule, reg(0), 1, &syn, &zero);
    put_equals_u8(&rule, reg(0), 0);
    put_key(&rule, f, nested);
    put_lookup(&rule, f->set, reg(0));
    put_meta(&rule, NFT_META_MARK, NFTNL_EXPR_META_DREG, reg(0));
    put_bitwise(&rule, reg(0), sizeof(others), &others, &n->mark);
    put_meta(&rule, NFT_META_MARK, NFTNL_EXPR_META_SREG, reg(0));
    mnl_attr_nest_end(rule.message, rule.list);
    message_end(n, rule.message);
}

static void put_rules(struct nft *n, const char *chain, bool nested)
{
    for (size_t i = 0; i < ARRAY_SIZE(families); i++)
        put_rule(n, chain, &families[i], nested);
}

/* One message with those of the tuples that are of family @f; none if there are none. */
static void put_elements(struct nft *n, uint16_t type, uint16_t flags, const struct family *f,
                         const struct nft_tuple *tuples, uint32_t count)
{
    struct nlmsghdr *message = NULL;
    struct nlattr *list = NULL;

    for (uint32_t i = 0; i < count; i++) {
        uint8_t key[KEY_SIZE_MAX];
        struct nlattr *element, *data;

        if (!of_family(f, &tuples[i].source))
            continue;
        if (!message) {
            message = message_begin(n, type, flags);
            mnl_attr_put_strz(message, NFTA_SET_ELEM_LIST_SET, f->set);
            list = mnl_attr_nest_start(message, NFTA_SET_ELEM_LIST_ELEMENTS);
        }
        key_put(key_put(key, f, &tuples[i].source), f, &tuples[i].destination);
        element = mnl_attr_nest_start(message, NFTA_LIST_ELEM);
        data = mnl_attr_nest_start(message, NFTA_SET_ELEM_KEY);
        mnl_attr_put(message, NFTA_DATA_VALUE, key_size(f), key);
        mnl_attr_nest_end(message, data);
        mnl_attr_nest_end(message, element);
    }
    if (message) {
        mnl_attr_nest_end(message, list);
        message_end(n, message);
    }
}

/* One batch for all of them. */
static int elements_change(struct nft *n, uint16_t type, uint16_t flags, const struct nft_tuple *tuples,
                           uint32_t count)
{
    uint32_t fault;

    if (count > NFT_BATCH_MAX)
        return -EINVAL;
    for (uint32_t i = 0; i < count; i++) {
        sa_family_t family = tuples[i].source.sa.sa_family;

        if (family != tuples[i].destination.sa.sa_family || (family != AF_INET && family != AF_INET6))
            return -EAFNOSUPPORT;
    }
    if (count == 0)
        return 0;
    batch_begin(n);
    for (size_t i = 0; i < ARRAY_SIZE(families); i++)
        put_elements(n, type, flags, &families[i], tuples, count);
    return batch_commit(n, &fault);
}

/* ---- what others call ---- */

static void table_name(struct nft *n)
{
    snprintf(n->table, sizeof(n->table), "slirp4netns_%u", mnl_socket_get_portid(n->socket));
}

static int socket_open(struct nft *n)
{
    const struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
    const int on = 1;
    int fd;

    n->socket = mnl_socket_open2(NETLINK_NETFILTER, SOCK_CLOEXEC);
    if (!n->socket || mnl_socket_bind(n->socket, 0, MNL_SOCKET_AUTOPID) < 0)
        return -errno;
    fd = mnl_socket_get_fd(n->socket);
    if (connect(fd, (const struct sockaddr *)&kernel, sizeof(kernel)) < 0)
        return -errno;
    /* Errors without a copy of the message; answers are understood either way. */
    setsockopt(fd, SOL_NETLINK, NETLINK_CAP_ACK, &on, sizeof(on));
    table_name(n);
    return 0;
}

static int table_make(struct nft *n)
{
    struct nlmsghdr *message;
    uint32_t fault, table;
    int r;

    batch_begin(n);
    table = n->n_messages;
    message = message_begin(n, NFT_MSG_NEWTABLE, NLM_F_CREATE | NLM_F_EXCL);
    put_u32(message, NFTA_TABLE_FLAGS, NFT_TABLE_F_OWNER);
    message_end(n, message);
    for (size_t i = 0; i < ARRAY_SIZE(families); i++)
        put_set(n, &families[i]);
    put_chain(n, "output", "route", NF_INET_LOCAL_OUT);
    put_rules(n, "output", false);
    r = batch_commit(n, &fault);
    return r == -EINVAL && fault == table ? -EOPNOTSUPP : r; /* before Linux 5.12: an unknown flag */
}

static void nft_freep(struct nft **n)
{
    *n = nft_free(*n);
}

int nft_new(struct nft **ret, uint32_t mark, uint32_t mark_mask)
{
    _cleanup_(nft_freep) struct nft *n = NULL;
    int r;

    if (mark & ~mark_mask)
        return -EINVAL;
    n = calloc(1, sizeof(*n));
    if (!n)
        return -ENOMEM;
    n->mark = mark;
    n->mark_mask = mark_mask;
    if ((r = socket_open(n)) < 0 || (r = table_make(n)) < 0)
        return r;
    *ret = steal(&n);
    return 0;
}

int nft_join(struct nft **ret, int fd, uint32_t mark, uint32_t mark_mask)
{
    struct nft *n = calloc(1, sizeof(*n));

    if (!n)
        return -ENOMEM;
    n->mark = mark;
    n->mark_mask = mark_mask;
    n->joined = true;
    n->socket = mnl_socket_fdopen(fd);
    if (!n->socket) {
        free(n);
        return -ENOMEM;
    }
    table_name(n);
    *ret = n;
    return 0;
}

void nft_succeed(struct nft *n, uint32_t skip)
{
    n->sequence += skip;
}

int nft_fd(const struct nft *n)
{
    return mnl_socket_get_fd(n->socket);
}

struct nft *nft_free(struct nft *n)
{
    uint32_t fault;

    if (!n)
        return NULL;
    if (n->table[0] && !n->joined) {
        /* The socket's end is the table's end; but a child may have inherited the socket. */
        batch_begin(n);
        message_end(n, message_begin(n, NFT_MSG_DELTABLE, 0));
        batch_commit(n, &fault);
    }
    if (n->socket)
        mnl_socket_close(n->socket);
    free(n);
    return NULL;
}

int nft_add(struct nft *n, const struct nft_tuple *tuples, uint32_t count)
{
    /* Without NLM_F_EXCL what exists is no error. */
    return elements_change(n, NFT_MSG_NEWSETELEM, NLM_F_CREATE, tuples, count);
}

int nft_remove(struct nft *n, const struct nft_tuple *tuples, uint32_t count)
{
    int r = elements_change(n, NFT_MSG_DELSETELEM, 0, tuples, count);

    /* One that is missing has kept the others in (NFT_MSG_DESTROYSETELEM would not, Linux 6.3). */
    for (uint32_t i = 0; r == -ENOENT && count > 1 && i < count; i++) {
        int alone = elements_change(n, NFT_MSG_DELSETELEM, 0, &tuples[i], 1);

        if (alone < 0 && alone != -ENOENT)
            r = alone;
    }
    return r == -ENOENT ? 0 : r;
}

int nft_nested(struct nft *n, bool on)
{
    static const char chain[] = "prerouting";
    struct nlmsghdr *message;
    uint32_t fault;
    int r;

    batch_begin(n);
    if (on)
        put_chain(n, chain, "filter", NF_INET_PRE_ROUTING);
    /* All rules of the chain; then its making, done twice, leaves each of them once. */
    message = message_begin(n, NFT_MSG_DELRULE, 0);
    mnl_attr_put_strz(message, NFTA_RULE_CHAIN, chain);
    message_end(n, message);
    if (on) {
        put_rules(n, chain, true);
    } else {
        message = message_begin(n, NFT_MSG_DELCHAIN, 0);
        mnl_attr_put_strz(message, NFTA_CHAIN_NAME, chain);
        message_end(n, message);
    }
    r = batch_commit(n, &fault);
    return !on && r == -ENOENT ? 0 : r;
}
