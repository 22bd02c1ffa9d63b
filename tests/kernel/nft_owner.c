/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * nft_owner.c - a table that lives and dies with its netlink socket
 *
 * The diversion's rules must outlive the guest's own `nft flush ruleset` and must not outlive the program,
 * however that ends. NFT_TABLE_F_OWNER (Linux 5.12) promises both: only the owning netlink socket may change
 * the table, and the kernel removes it when that socket closes.
 */
#include "kernel.h"

#include <libnftnl/common.h>
#include <libnftnl/table.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>

static const char *const owned = "slirp_owned", *const plain = "plain";

struct found {
    bool owned, plain;
    uint32_t owner, owned_flags;
};

static struct mnl_socket *nft_open(void)
{
    struct mnl_socket *nl = mnl_socket_open(NETLINK_NETFILTER);

    if (!nl)
        skip("no nfnetlink: %s", strerror(errno));
    must(mnl_socket_bind(nl, 0, MNL_SOCKET_AUTOPID));
    return nl;
}

/* Sends one table message in a batch: 0 or a negative errno. No @name: all tables. */
static int table_send(struct mnl_socket *nl, uint16_t type, uint16_t family, const char *name, uint32_t flags)
{
    char space[1024], answer[4096];
    struct nftnl_table *table = nftnl_table_alloc();
    struct mnl_nlmsg_batch *batch = mnl_nlmsg_batch_start(space, sizeof(space));
    uint16_t message_flags = NLM_F_ACK | (type == NFT_MSG_NEWTABLE ? NLM_F_CREATE | NLM_F_EXCL : 0);
    struct nlmsghdr *message;
    ssize_t n;
    int result = 0;

    check(table && batch, "out of memory");
    if (name)
        nftnl_table_set_str(table, NFTNL_TABLE_NAME, name);
    if (flags)
        nftnl_table_set_u32(table, NFTNL_TABLE_FLAGS, flags);
    nftnl_batch_begin(mnl_nlmsg_batch_current(batch), 1);
    mnl_nlmsg_batch_next(batch);
    message = nftnl_nlmsg_build_hdr(mnl_nlmsg_batch_current(batch), type, family, message_flags, 2);
    nftnl_table_nlmsg_build_payload(message, table);
    mnl_nlmsg_batch_next(batch);
    nftnl_batch_end(mnl_nlmsg_batch_current(batch), 3);
    mnl_nlmsg_batch_next(batch);

    must(mnl_socket_sendto(nl, mnl_nlmsg_batch_head(batch), mnl_nlmsg_batch_size(batch)));
    check(ready(mnl_socket_get_fd(nl), POLLIN), "nf_tables does not answer");
    n = mnl_socket_recvfrom(nl, answer, sizeof(answer));
    if (n < 0 || mnl_cb_run(answer, (size_t)n, 0, mnl_socket_get_portid(nl), NULL, NULL) < 0)
        result = -errno;
    mnl_nlmsg_batch_stop(batch);
    nftnl_table_free(table);
    return result;
}

static int table_seen(const struct nlmsghdr *message, void *context)
{
    struct nftnl_table *table = nftnl_table_alloc();
    struct found *found = context;

    check(table && nftnl_table_nlmsg_parse(message, table) == 0, "cannot parse a table message");
    if (strcmp(nftnl_table_get_str(table, NFTNL_TABLE_NAME), owned) == 0) {
        found->owned = true;
        found->owned_flags = nftnl_table_get_u32(table, NFTNL_TABLE_FLAGS);
        found->owner =
            nftnl_table_is_set(table, NFTNL_TABLE_OWNER) ? nftnl_table_get_u32(table, NFTNL_TABLE_OWNER) : 0;
    } else {
        found->plain = true;
    }
    nftnl_table_free(table);
    return MNL_CB_OK;
}

static struct found tables_dump(struct mnl_socket *nl)
{
    char space[4096];
    struct found found = {.owned = false};
    struct nlmsghdr *message = nftnl_nlmsg_build_hdr(space, NFT_MSG_GETTABLE, NFPROTO_UNSPEC, NLM_F_DUMP, 4);
    int more = 1;

    must(mnl_socket_sendto(nl, message, message->nlmsg_len));
    while (more > 0) {
        ssize_t n;

        check(ready(mnl_socket_get_fd(nl), POLLIN), "nf_tables does not answer a dump");
        n = mnl_socket_recvfrom(nl, space, sizeof(space));
        must(n);
        more = mnl_cb_run(space, (size_t)n, 4, mnl_socket_get_portid(nl), table_seen, &found);
        must(more);
    }
    return found;
}

int main(void)
{
    struct mnl_socket *owner, *other;
    int64_t deadline;
    struct found found;
    int r;

    namespace_enter();
    owner = nft_open();
    other = nft_open();
    r = table_send(other, NFT_MSG_NEWTABLE, NFPROTO_INET, plain, 0);
    if (r < 0)
        skip("no nf_tables: %s", strerror(-r));
    r = table_send(owner, NFT_MSG_NEWTABLE, NFPROTO_INET, owned, NFT_TABLE_F_OWNER);
    if (r == -EINVAL || r == -EOPNOTSUPP)
        skip("nf_tables has no owner flag (Linux 5.12): %s", strerror(-r));
    check(r == 0, "cannot make a table with an owner: %s", strerror(-r));
    found = tables_dump(other);
    check(found.plain && found.owned && (found.owned_flags & NFT_TABLE_F_OWNER),
          "the new tables are not there");
    check(found.owner == mnl_socket_get_portid(owner), "the table's owner is %u, not its maker", found.owner);

    r = table_send(other, NFT_MSG_DELTABLE, NFPROTO_INET, owned, 0);
    check(r == -EPERM, "deleting somebody else's table gives %d, not EPERM", r);
    r = table_send(other, NFT_MSG_DELTABLE, NFPROTO_UNSPEC, NULL, 0); /* what nft flush ruleset sends */
    check(r == 0, "flush: %s", strerror(-r));
    found = tables_dump(other);
    check(!found.plain, "the flush flushed nothing: this test proves nothing");
    check(found.owned, "another socket's flush took the table with an owner");

    mnl_socket_close(owner);
    for (deadline = now_ms() + WAIT_MS; found.owned && now_ms() < deadline; poll(NULL, 0, 5))
        found = tables_dump(other);
    check(!found.owned, "the table has outlived its owner's socket");
    mnl_socket_close(other);
    shows("a table with an owner survives another socket's delete (EPERM) and flush, and goes when its "
          "socket closes");
}
