# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest's own TCP connections."""

import pytest
from harness import DNS4, GATEWAY4, GATEWAY6, HOST4, REMOTE4, REMOTE6, wait_for

SIZE = 3_000_017


def has_ipv6(world):
    wait_for("an IPv6 address and route", lambda: world.guest.ip_json("-6", "route", "show", "default") and [
        a for link in world.guest.ip_json("-6", "addr", "show", "dev", "tap0", "scope", "global", "-tentative")
        for a in link.get("addr_info", [])])


def start(world, *args, v6=False, **kwargs):
    if v6:
        world.guest.run("sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0", check=False)
    slirp = world.start(*args, *(["--enable-ipv6"] if v6 else []), **kwargs)
    if v6:
        has_ipv6(world)
    return slirp


def fails_within(world, seconds, addr, port, *errors):
    """A connection fails each time, and once at least that fast: other work on the machine may hold up some."""
    seen = []
    for _ in range(5):
        r = world.guest.client("connect", addr, port)
        assert r.get("errno") in errors, r
        seen.append(r["seconds"])
        if seen[-1] < seconds:
            return
    raise AssertionError(f"never within {seconds} s: {seen}")


@pytest.mark.parametrize("mtu", [1500, 65520])
@pytest.mark.parametrize("addr", [REMOTE4, REMOTE6])
def test_upload_arrives_unchanged(world, mtu, addr):
    start(world, f"--mtu={mtu}", v6=":" in addr)
    world.remote.peer("tcp_sink", addr, 7000)
    r = world.guest.client("upload", addr, 7000, SIZE)
    assert r["server"] == {"n": SIZE, "sha256": r["sha256"]}


@pytest.mark.parametrize("mtu", [1500, 65520])
@pytest.mark.parametrize("addr", [REMOTE4, REMOTE6])
def test_download_arrives_unchanged(world, mtu, addr):
    start(world, f"--mtu={mtu}", v6=":" in addr)
    world.remote.peer("tcp_source", addr, 7000, SIZE)
    there = world.remote.client("download", addr, 7000)
    here = world.guest.client("download", addr, 7000)
    assert there["n"] == SIZE and (here["n"], here["sha256"]) == (SIZE, there["sha256"])


@pytest.mark.parametrize("addr", [GATEWAY4, GATEWAY6])
def test_the_gateway_is_the_hosts_loopback(world, addr):
    start(world, v6=":" in addr)
    server = world.host.peer("tcp_echo", "::1" if ":" in addr else "127.0.0.1", 7000)
    assert world.guest.client("echo", addr, 7000, "hello")["reply"] == "hello"
    assert server.event("accepted")["peer"] in ("127.0.0.1", "::1")


def test_the_hosts_own_addresses_are_reachable(world):
    world.start("--disable-host-loopback")
    world.host.peer("tcp_echo", HOST4, 7000)
    assert world.guest.client("echo", HOST4, 7000, "hello")["reply"] == "hello"


@pytest.mark.parametrize("addr", [REMOTE4, REMOTE6, GATEWAY4])
def test_a_refused_connection_is_refused_at_once(world, addr):
    start(world, v6=":" in addr)
    fails_within(world, 5, addr, 7009, "ECONNREFUSED")  # IPv6 may have to find its neighbour first


def test_no_route_is_unreachable(world):
    world.start()
    fails_within(world, 3, "198.51.100.1", 7000, "ENETUNREACH", "EHOSTUNREACH")  # the host has no default route


@pytest.mark.reference_bug("loses the error, the guest waits")
@pytest.mark.parametrize("addr", ["203.0.113.77", "2001:db8:1::77"])
def test_a_host_that_does_not_answer_is_unreachable(world, addr):
    start(world, v6=":" in addr)
    for key in ("ipv4/neigh/net0/retrans_time_ms", "ipv6/neigh/net0/retrans_time_ms"):
        world.host.run("sysctl", "-qw", f"net/{key}=300", check=False)
    r = world.guest.client("connect", addr, 7000)
    assert r["errno"] in ("EHOSTUNREACH", "ENETUNREACH") and r["seconds"] < 10


def test_a_reset_is_a_reset(world):
    world.start()
    world.remote.peer("tcp_reset", REMOTE4, 7000)
    assert world.guest.client("read", REMOTE4, 7000).get("errno") == "ECONNRESET"


def test_a_server_that_closes_at_once_is_heard(world):
    world.start()
    world.remote.peer("tcp_hello", REMOTE4, 7000)
    r = world.guest.client("read", REMOTE4, 7000)
    assert r.get("got") == f"hello {HOST4}" or r.get("errno") == "ECONNRESET"  # its close may beat our byte


@pytest.mark.parametrize("mtu", [1500, 65520])
def test_a_slow_reader_gets_everything(world, mtu):
    world.start(f"--mtu={mtu}")
    world.remote.peer("tcp_source", REMOTE4, 7000, SIZE)
    there = world.remote.client("download", REMOTE4, 7000)
    here = world.guest.client("download", REMOTE4, 7000, 1.0)
    assert (here["n"], here["sha256"]) == (SIZE, there["sha256"])


def test_a_reader_may_pause_when_both_sides_have_ended_their_half(world):
    """What the server has sent before it closed arrives, however late it is read."""
    world.start()
    world.remote.peer("tcp_answer_at_end", REMOTE4, 7000, 300_000)
    there = world.remote.client("ask_and_pause", REMOTE4, 7000, 0)
    assert there["n"] == 300_000
    here = world.guest.client("ask_and_pause", REMOTE4, 7000, 7.5)
    assert (here["n"], here["sha256"]) == (there["n"], there["sha256"])


def test_two_hundred_connections_at_once(world):
    world.start()
    world.remote.peer("tcp_echo", REMOTE4, 7000)
    assert world.guest.client("many", REMOTE4, 7000, 200)["good"] == 200


def test_three_hundred_connections_one_after_the_other(world):
    slirp = world.start("--mtu=65520")
    world.remote.peer("tcp_echo", REMOTE4, 7000)
    assert world.guest.client("sequence", REMOTE4, 7000, 300)["good"] == 300
    assert slirp.process.poll() is None


def test_outbound_addr_is_the_source(world):
    world.host.ip("addr add 203.0.113.5/24 dev net0")
    world.start("--outbound-addr=203.0.113.5")
    server = world.remote.peer("tcp_echo", REMOTE4, 7000)
    assert world.guest.client("echo", REMOTE4, 7000, "x")["reply"] == "x"
    assert server.event("accepted")["peer"] == "203.0.113.5"


def test_outbound_addr_may_be_an_interface(world):
    world.host.ip("link add name net9 type bridge", "addr add 203.0.113.6/32 dev net9", "link set net9 up")
    world.start("--outbound-addr=net9")
    server = world.remote.peer("tcp_echo", REMOTE4, 7000)
    assert world.guest.client("echo", REMOTE4, 7000, "x")["reply"] == "x"
    assert server.event("accepted")["peer"] == "203.0.113.6"


@pytest.mark.reference_bug("looks up the interface given to --outbound-addr")
def test_outbound_addr6_may_be_an_interface(world):
    world.host.ip("link add name net9 type bridge", "addr add 2001:db8:1::6/128 dev net9 nodad", "link set net9 up")
    world.remote.ip("route add 2001:db8:1::6/128 via 2001:db8:1::1")  # neighbour discovery is per interface
    start(world, "--outbound-addr6=net9", v6=True)
    server = world.remote.peer("tcp_echo", REMOTE6, 7000)
    assert world.guest.client("echo", REMOTE6, 7000, "x")["reply"] == "x"
    assert server.event("accepted")["peer"] == "2001:db8:1::6"


def test_outbound_addr6_is_the_source(world):
    world.host.ip("addr add 2001:db8:1::5/64 dev net0 nodad")
    start(world, "--outbound-addr6=2001:db8:1::5", v6=True)
    server = world.remote.peer("tcp_echo", REMOTE6, 7000)
    assert world.guest.client("echo", REMOTE6, 7000, "x")["reply"] == "x"
    assert server.event("accepted")["peer"] == "2001:db8:1::5"


def test_other_ports_of_the_dns_address_are_unreachable(world):
    world.start()
    assert world.guest.client("connect", DNS4, 7000)["errno"] in ("ENETUNREACH", "EHOSTUNREACH")
