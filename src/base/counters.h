/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * counters.h - everything the program counts, one row each: name, unit, sentence
 *
 * The API's statistics and the manual follow this table. A counter that one thread writes is bumped with
 * counter_add(); one that several threads write with counter_add_shared(). Anyone may read at any time.
 * Orderings are relaxed throughout: a counter says how often, never that something else has happened.
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define COUNTERS(X)                                                                                          \
    X(rx_frames, "frames", "frames read from the TAP")                                                       \
    X(rx_bytes, "bytes", "bytes read from the TAP")                                                          \
    X(rx_batches, "batches", "times the reader handed frames on")                                            \
    X(rx_syscalls, "calls", "system calls made to read the TAP")                                             \
    X(rx_drop_malformed, "frames",                                                                           \
      "frames from the guest dropped because their headers contradict themselves")                           \
    X(rx_drop_loopback, "frames",                                                                            \
      "frames from the guest dropped because they name a prohibited loopback address")                       \
    X(rx_drop_other, "frames",                                                                               \
      "frames from the guest dropped because nothing here speaks their protocol, or ARP in another's name")  \
    X(rx_drop_checksum, "frames", "frames from the guest with a wrong checksum, of IPv4 or of a SYN")        \
    X(rx_drop_connections, "frames",                                                                         \
      "SYNs of the guest dropped because libslirp has as many sockets as it may")                            \
    X(rx_reassembled, "datagrams", "datagrams put together from fragments")                                  \
    X(rx_drop_fragment, "events",                                                                            \
      "fragments and unfinished datagrams dropped: overlapping, contradictory, nested, too late, too many")  \
    X(rx_drop_dns, "frames", "frames to the DNS address dropped under --disable-dns")                        \
    X(rx_drop_offload, "frames", "frames from the guest dropped because their virtio-net header lies")       \
    X(rx_gso, "frames", "frames from the guest that are many segments or datagrams (TSO, USO)")              \
    X(rx_errors, "errors", "reads of the TAP that failed for a passing reason")                              \
    X(tx_frames, "frames", "frames written to the TAP")                                                      \
    X(tx_bytes, "bytes", "bytes written to the TAP")                                                         \
    X(tx_inline, "frames", "frames the slirp thread wrote itself because the writer was idle")               \
    X(tx_batches, "batches", "times the writer took frames from its ring")                                   \
    X(tx_syscalls, "calls", "system calls made to write the TAP")                                            \
    X(tx_drop_ring_full, "frames", "frames to the guest dropped because the ring to the writer was full")    \
    X(tx_drop_link, "frames", "frames to the guest dropped because the TAP is down or refuses them")         \
    X(tx_acks_merged, "frames", "acknowledgements left out because a later one of the turn covers them")     \
    X(tx_gso, "frames", "frames to the guest that are many segments (TSO)")                                  \
    X(tx_gso_refused, "frames", "... that the TAP refused; segments are made here from then on")             \
    X(wake_slirp, "wake-ups", "times the slirp thread was woken by the reader")                              \
    X(wake_tx, "wake-ups", "times the writer was woken by the slirp thread")                                 \
    X(slirp_loops, "turns", "turns of the slirp thread's loop")                                              \
    X(slirp_fills, "passes", "passes over libslirp's sockets to learn what they wait for")                   \
    X(slirp_polls, "passes", "passes over libslirp's sockets to serve them")                                 \
    X(slirp_epoll_ctl, "calls", "changes of the descriptor set")                                             \
    X(slirp_sockets, "sockets", "descriptors libslirp has open (present value)")                             \
    X(slirp_guest_errors, "times", "times libslirp complained of the guest")                                 \
    X(slirp_unreachable, "connections", "outbound connections that failed later and were reported by ICMP")  \
    X(world_stops, "times", "times the API stopped the slirp thread")                                        \
    X(world_stop_ns_total, "ns", "time the slirp thread stood still for the API, in all")                    \
    X(world_stop_ns_max, "ns", "time the slirp thread stood still for the API (largest value)")              \
    X(world_stops_over_1ms, "times", "times that lasted longer than a millisecond")                          \
    X(world_stops_over_5ms, "times", "times that lasted longer than five milliseconds")                      \
    X(udp_forward_in, "datagrams", "datagrams from clients of UDP forwards towards the guest")               \
    X(udp_forward_out, "datagrams", "replies of the guest towards clients of UDP forwards")                  \
    X(udp_forward_drop, "datagrams",                                                                         \
      "datagrams of UDP forwards dropped (client table full, guest unknown, send error)")                    \
    X(udp_forward_clients, "clients", "clients of UDP forwards remembered (present value)")                  \
    X(udp_flows, "flows", "the guest's own UDP flows on the direct path (present value)")                    \
    X(udp_opened, "flows", "UDP flows of the guest that got a socket of their own")                          \
    X(udp_expired, "flows", "UDP flows that ended because nothing came any more")                            \
    X(udp_evicted, "flows", "UDP flows that made room for another one")                                      \
    X(udp_out, "datagrams", "datagrams of the guest's UDP flows to the host")                                \
    X(udp_out_bytes, "bytes", "payload of these")                                                            \
    X(udp_out_calls, "calls", "system calls made to send them")                                              \
    X(udp_in, "datagrams", "datagrams to the guest's UDP flows")                                             \
    X(udp_in_bytes, "bytes", "payload of these")                                                             \
    X(udp_in_calls, "calls", "system calls made to receive them")                                            \
    X(udp_in_joined, "frames", "frames to the guest that hold several of these")                             \
    X(udp_dns, "datagrams", "questions to the DNS address")                                                  \
    X(udp_icmp, "frames", "ICMP errors for datagrams of the guest's that were passed to it")                 \
    X(udp_gso_off, "times", "times a batch could not be handed over in one piece (UDP_SEGMENT)")             \
    X(udp_drop_full, "datagrams", "datagrams of the guest dropped because a socket's buffer was full")       \
    X(udp_drop_refused, "datagrams", "datagrams of the guest that the kernel refused to send")               \
    X(udp_drop_checksum, "datagrams", "datagrams of the guest with a wrong checksum")                        \
    X(udp_drop_source, "datagrams",                                                                          \
      "datagrams dropped because the guest must not or cannot see who sent them")                            \
    X(udp_fallback_descriptors, "datagrams", "datagrams left to libslirp because descriptors ran out")       \
    X(udp_fallback_table_full, "datagrams", "... because there was no place for another flow")               \
    X(udp_fallback_forward, "datagrams", "... because a forward leads to that port and threads are split")   \
    X(udp_fallback_bind, "datagrams", "... because a socket could not be set up (--outbound-addr)")          \
    X(udp_fallback_no_nameserver, "datagrams", "... because resolv.conf names no nameserver of the family")  \
    X(fwd_accepted, "connections", "connections accepted for TCP forwards")                                  \
    X(fwd_refused, "connections", "connections of TCP forwards that nobody could take")                      \
    X(fwd_accept_paused, "times", "times accepting had to pause because descriptors ran out")                \
    X(splice_flows, "connections", "connections that were joined by splice")                                 \
    X(splice_bytes, "bytes", "bytes that went through by splice, both directions")                           \
    X(splice_pipes, "pipes", "pipes that are open, with bytes or waiting for some (present value)")          \
    X(splice_refused, "connections", "connections of forwards that the guest's server refused")              \
    X(splice_fallback, "connections", "connections of forwards that took libslirp's path instead")           \
    X(splice_fallback_no_agent, "connections", "... because nsagent is gone")                                \
    X(splice_fallback_not_yet, "connections", "... because nsagent had not looked around for two seconds")   \
    X(splice_fallback_lo_down, "connections", "... because the guest's lo is down")                          \
    X(splice_fallback_no_rules, "connections", "... because policy routing cannot be had")                   \
    X(splice_fallback_no_sysctl, "connections", "... because net.ipv4.tcp_fwmark_accept cannot be set")      \
    X(splice_fallback_no_transparent, "connections", "... because IP_TRANSPARENT or SO_MARK is forbidden")   \
    X(splice_fallback_not_local, "connections", "... because the address is not the guest's own")            \
    X(splice_fallback_client_address, "connections", "... because the client's address cannot be shown")     \
    X(splice_fallback_no_socket, "connections", "... because no socket of the guest's came in time")         \
    X(splice_fallback_no_answer, "connections", "... because the guest did not answer in its namespace")     \
    X(splice_fallback_queue_full, "connections", "... because the workers had too many waiting")             \
    X(divert_open, "connections", "outbound connections that are diverted (present value)")                  \
    X(divert_flows, "connections", "outbound connections that were diverted")                                \
    X(divert_bytes, "bytes", "bytes of diverted connections, both directions")                               \
    X(divert_half_open, "connections",                                                                       \
      "outbound connections that one end may not have answered yet (present value)")                         \
    X(divert_half_open_evicted, "connections", "... given up for newer ones, because there were too many")   \
    X(divert_half_open_expired, "connections", "... given up after a minute without an answer of the guest") \
    X(divert_refused, "connections", "outbound connections refused by their destination")                    \
    X(divert_unreachable, "connections", "outbound connections to destinations that cannot be reached")      \
    X(divert_fallback, "connections", "outbound connections that took libslirp's path instead")              \
    X(divert_fallback_no_agent, "connections", "... because nsagent is gone")                                \
    X(divert_fallback_not_yet, "connections", "... because nsagent had not looked around for two seconds")   \
    X(divert_fallback_lo_down, "connections", "... because the guest's lo is down")                          \
    X(divert_fallback_no_rules, "connections", "... because policy routing cannot be had")                   \
    X(divert_fallback_no_sysctl, "connections", "... because net.ipv4.tcp_fwmark_accept cannot be set")      \
    X(divert_fallback_no_transparent, "connections", "... because IP_TRANSPARENT or SO_MARK is forbidden")   \
    X(divert_fallback_queue_full, "connections", "... because too many SYNs were waiting")                   \
    X(divert_fallback_table_full, "connections", "... because there was no place for another connection")    \
    X(divert_fallback_descriptors, "connections", "... because descriptors or memory ran out")               \
    X(divert_fallback_connect, "connections", "... because connecting failed for an unusual reason")         \
    X(divert_fallback_agent_busy, "connections", "... because nsagent had too much to do for two seconds")   \
    X(divert_fallback_agent_failed, "connections", "... because nsagent could not make the guest's side")    \
    X(divert_leaked, "frames", "frames of diverted connections that came over the TAP and were dropped")     \
    X(capture_frames, "frames", "frames written to the capture")                                             \
    X(capture_drop_ring_full, "frames", "frames missing in the capture because its ring was full")           \
    X(agent_lost, "times", "times the agent in the guest's namespace ended before the program")              \
    X(agent_restarts, "times", "times another agent took its place")                                         \
    X(api_connections, "connections", "connections to the API socket")                                       \
    X(api_requests, "requests", "requests answered by the API")                                              \
    X(api_errors, "requests", "requests answered with an error")                                             \
    X(metrics_connections, "connections", "connections to the metrics socket")                               \
    X(metrics_scrapes, "requests", "times the metrics were read")                                            \
    X(metrics_errors, "requests", "requests to the metrics socket that were refused")

enum counter_id {
#define X(name, unit, text) COUNTER_##name,
    COUNTERS(X)
#undef X
        COUNTER_COUNT
};

/* A sentence that ends in "(present value)" or "(largest value)" is a gauge's; other values only grow. A name
 * X_fallback_Y is the part of X_fallback that has the reason Y; X_drop_Y are drops for the reason Y. */
struct counter_row {
    const char *name, *unit, *text;
};
extern const struct counter_row counter_rows[COUNTER_COUNT];

/* Any thread. */
bool counter_is_gauge(enum counter_id id);

struct counter {
    _Alignas(
        64) _Atomic uint64_t value; /* a line each: writers on different cores do not disturb each other */
};
extern struct counter counters[COUNTER_COUNT];

/* The counter's one writer. */
static inline void counter_add(enum counter_id id, uint64_t n)
{
    _Atomic uint64_t *v = &counters[id].value;

    atomic_store_explicit(v, atomic_load_explicit(v, memory_order_relaxed) + n, memory_order_relaxed);
}

/* The counter's one writer, for present values. */
static inline void counter_set(enum counter_id id, uint64_t n)
{
    atomic_store_explicit(&counters[id].value, n, memory_order_relaxed);
}

/* Any thread. */
static inline void counter_add_shared(enum counter_id id, uint64_t n)
{
    atomic_fetch_add_explicit(&counters[id].value, n, memory_order_relaxed);
}

static inline uint64_t counter_read(enum counter_id id)
{
    return atomic_load_explicit(&counters[id].value, memory_order_relaxed);
}
