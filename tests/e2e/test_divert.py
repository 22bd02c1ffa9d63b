# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest's own TCP connections that do not go over the TAP."""

import os
import pathlib
import socket
import time

import pytest
from harness import GATEWAY4, HOST4, PROGRAM_ARGS, REMOTE4, REMOTE6, wait_for
from test_configure import MAKE_TAP
from test_splice import agent_pid, raise_limit, tap_bytes
from test_tcp import SIZE, has_ipv6

OFF = "--divert=off" in PROGRAM_ARGS or "--no-splice" in PROGRAM_ARGS
pytestmark = [pytest.mark.extension, pytest.mark.skipif(OFF, reason="switched off by $SLIRP4NETNS_ARGS")]


def stats(slirp):
    return slirp.api("stats")["return"]


def start(world, *args, **kwargs):
    """Ready to divert: the agent has its rules (the first connections of a program may be faster than that)."""
    slirp = world.start(*args, api=True, **kwargs)
    wait_for("the agent's rules", lambda: len(world.guest.run("ip", "rule").stdout.splitlines()) == 6)
    wait_for("the nft table", lambda: "slirp4netns_" in world.guest.run("nft", "list", "tables").stdout)
    return slirp


@pytest.mark.parametrize("mtu", [576, 1500, 65520])
@pytest.mark.parametrize("args", [[], ["--enable-sandbox", "--enable-seccomp"]])
def test_bulk_does_not_touch_the_tap(world, mtu, args):
    slirp = start(world, f"--mtu={mtu}", *args)
    world.remote.peer("tcp_sink", REMOTE4, 7000)
    world.remote.peer("tcp_source", REMOTE4, 7001, SIZE)
    before = tap_bytes(world)
    r = world.guest.client("upload", REMOTE4, 7000, SIZE)
    assert r["server"] == {"n": SIZE, "sha256": r["sha256"]}
    assert world.guest.client("download", REMOTE4, 7001)["n"] == SIZE
    assert tap_bytes(world) - before < 10000
    assert stats(slirp)["divert_flows"] == 2 and stats(slirp)["divert_fallback"] == 0


def test_ipv6_is_diverted(world):
    world.guest.run("sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0", check=False)
    slirp = start(world, "--enable-ipv6")
    has_ipv6(world)
    world.remote.peer("tcp_sink", REMOTE6, 7000)
    r = world.guest.client("upload", REMOTE6, 7000, SIZE)
    assert r["server"]["sha256"] == r["sha256"]
    assert stats(slirp)["divert_flows"] == 1


def test_the_gateway_is_diverted_to_loopback(world):
    slirp = start(world)
    server = world.host.peer("tcp_echo", "127.0.0.1", 7000)
    assert world.guest.client("echo", GATEWAY4, 7000, "hello")["reply"] == "hello"
    assert server.event("accepted")["peer"] == "127.0.0.1"
    assert stats(slirp)["divert_flows"] == 1


def test_a_prohibited_loopback_stays_prohibited(world):
    slirp = start(world, "--disable-host-loopback")
    world.host.peer("tcp_echo", "127.0.0.1", 7000)
    assert world.guest.client("connect", GATEWAY4, 7000)["errno"] in ("ENETUNREACH", "EHOSTUNREACH")
    for addr in ("127.0.0.1", "0.0.0.0", "127.9.9.9"):
        assert world.guest.do("raw_syn", "tap0", "52:55:0a:00:02:02", addr, 7000)["answer"] in ("nothing", "icmp")
    assert stats(slirp)["divert_flows"] == 0


def test_it_works_without_configure(world):
    """RootlessKit's way: the TAP is there before, and not ours to configure."""
    world.guest.ip("link set lo up")
    world.guest.run("ip", "tuntap", "add", "name", "tap0", "mode", "tap")
    world.guest.ip("link set tap0 up", "addr add 10.0.2.100/24 dev tap0", "route add default via 10.0.2.2 dev tap0")
    slirp = start(world, configure=False)
    world.remote.peer("tcp_echo", REMOTE4, 7000)
    assert world.guest.client("echo", REMOTE4, 7000, "hello")["reply"] == "hello"
    assert stats(slirp)["divert_flows"] == 1


def test_off_switches_it_off(world):
    slirp = world.start("--divert=off", api=True)
    world.remote.peer("tcp_echo", REMOTE4, 7000)
    assert world.guest.client("echo", REMOTE4, 7000, "hello")["reply"] == "hello"
    assert stats(slirp)["divert_flows"] == 0
    assert "slirp4netns_" not in world.guest.run("nft", "list", "tables").stdout


def test_on_fails_where_there_is_no_namespace(world):
    ours, theirs = socket.socketpair()
    world.guest.run("/usr/bin/python3", "-c", MAKE_TAP, str(theirs.fileno()), pass_fds=(theirs.fileno(),))
    _, fds, _, _ = socket.recv_fds(ours, 1, 1)
    done = world.run_program("--divert=on", "--netns-type=tapfd", str(fds[0]), pass_fds=(fds[0],))
    os.close(fds[0])
    assert done.returncode == 1 and "--divert=on" in done.stderr


def test_on_works_where_it_can(world):
    slirp = start(world, "--divert=on")
    world.remote.peer("tcp_echo", REMOTE4, 7000)
    assert world.guest.client("echo", REMOTE4, 7000, "hello")["reply"] == "hello"
    assert stats(slirp)["divert_flows"] == 1


def test_flushed_rules_do_not_end_a_transfer(world):
    """The guest flushes its ruleset and its routing rules in the middle."""
    slirp = start(world, "--mtu=1500")
    world.remote.peer("tcp_source_big", REMOTE4, 7000, 1 << 30)
    transfer = world.guest.begin("client", "download", REMOTE4, 7000)
    wait_for("it has begun", lambda: stats(slirp)["divert_bytes"] > 0)
    world.guest.run("nft", "flush", "ruleset", check=False)
    for priority in (21324, 21325, 21326):
        world.guest.run("ip", "rule", "del", "priority", str(priority))
    assert transfer.result(90)["n"] == 1 << 30


def test_the_agents_death_does_not_end_a_transfer(world):
    slirp = start(world)
    world.remote.peer("tcp_source_big", REMOTE4, 7000, 1 << 30)
    transfer = world.guest.begin("client", "download", REMOTE4, 7000)
    wait_for("it has begun", lambda: stats(slirp)["divert_bytes"] > 0)
    os.kill(agent_pid(slirp), 9)
    assert transfer.result(90)["n"] == 1 << 30
    # New ones go through libslirp.
    world.remote.peer("tcp_echo", REMOTE4, 7001)
    assert world.guest.client("echo", REMOTE4, 7001, "hello")["reply"] == "hello"
    assert stats(slirp)["divert_fallback"] == 1


def test_lo_that_is_down_means_libslirp(world):
    world.guest.run("ip", "tuntap", "add", "name", "tap0", "mode", "tap")
    world.guest.ip("link set tap0 up", "addr add 10.0.2.100/24 dev tap0", "route add default via 10.0.2.2 dev tap0")
    slirp = world.start(configure=False, api=True)
    world.remote.peer("tcp_echo", REMOTE4, 7000)
    assert world.guest.client("echo", REMOTE4, 7000, "hello")["reply"] == "hello"
    assert stats(slirp)["divert_flows"] == 0 and stats(slirp)["divert_fallback"] == 1
    world.guest.ip("link set lo up")

    def diverted():
        assert world.guest.client("echo", REMOTE4, 7000, "hello")["reply"] == "hello"
        return stats(slirp)["divert_flows"] > 0

    wait_for("lo is noticed", diverted)


def test_containers_behind_masquerade_are_diverted(world):
    """A bridge, a container with an address of its own, and source NAT, as rootless Docker makes them."""
    slirp = start(world)
    inner = world.space([*world.guest.enter, "unshare", "-n"],
                        lambda pid: [*world.guest.enter, "nsenter", "-t", str(pid), "-n"])
    world.guest.ip("link add br0 type bridge", "addr add 172.18.0.1/16 dev br0", "link set br0 up",
                   f"link add veth0 type veth peer name eth0 netns {inner.pid}", "link set veth0 master br0",
                   "link set veth0 up")
    inner.ip("link set lo up", "addr add 172.18.0.2/16 dev eth0", "link set eth0 up", "route add default via 172.18.0.1")
    world.guest.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
    done = world.guest.run("nft", "add table ip nat; add chain ip nat post { type nat hook postrouting priority 100; }; "
                           "add rule ip nat post oifname tap0 masquerade", check=False)
    if done.returncode != 0:
        pytest.skip("nft masquerade does not work here")
    world.remote.peer("tcp_sink", REMOTE4, 7000)
    before = tap_bytes(world)
    r = inner.client("upload", REMOTE4, 7000, 20_000_000)
    assert r["server"]["sha256"] == r["sha256"]
    assert stats(slirp)["divert_bytes"] > 20_000_000
    assert tap_bytes(world) - before < 2_000_000


def test_ports_are_used_again_at_once(world):
    start(world)
    world.remote.peer("tcp_echo", REMOTE4, 7000)
    for _ in range(5):
        r = world.guest.client("echo", REMOTE4, 7000, "hello", "10.0.2.100", 40000)
        assert r.get("reply") == "hello" or r.get("errno") == "EADDRNOTAVAIL", r  # TIME_WAIT of the guest's own


def test_thousands_of_connections_at_once(world):
    slirp = start(world, preexec=raise_limit)
    world.remote.peer("tcp_echo_many", REMOTE4, 7000)
    assert world.guest.begin("client", "many", REMOTE4, 7000, 5000).result(120)["good"] == 5000
    assert stats(slirp)["divert_flows"] > 4500


def test_ten_thousand_connections_leave_nothing_behind(world):
    slirp = start(world)
    world.remote.peer("tcp_echo_many", REMOTE4, 7000)
    world.guest.begin("client", "sequence", REMOTE4, 7000, 300).result(60)
    n = 1000 if os.environ.get("E2E_SANITIZER") else 10000
    before = len(os.listdir(f"/proc/{slirp.pid}/fd"))
    assert world.guest.begin("client", "sequence", REMOTE4, 7000, n).result(150)["good"] == n
    wait_for("the table is empty", lambda: stats(slirp)["divert_open"] == 0, 20)
    wait_for("descriptors are back", lambda: len(os.listdir(f"/proc/{slirp.pid}/fd")) <= before + 8)
    elements = world.guest.run("nft", "list", "ruleset").stdout.count(" . ")
    assert elements < 20, elements
    rss = [int(pathlib.Path(f"/proc/{p}/statm").read_text().split()[1]) * 4 for p in (slirp.pid, agent_pid(slirp))]
    assert os.environ.get("E2E_SANITIZER") or sum(rss) < 40_000, rss


def test_a_reader_that_stops_holds_the_sender(world):
    """Backpressure: memory stays bounded however much the sender wants to send."""
    slirp = start(world)
    world.remote.peer("tcp_source_big", REMOTE4, 7000, 1 << 30)
    stopped = world.guest.begin("client", "download", REMOTE4, 7000, 3.0)
    wait_for("it has begun", lambda: stats(slirp)["divert_bytes"] > 0)
    time.sleep(1.5)  # the time in which a sender without backpressure would have sent everything
    assert stats(slirp)["divert_bytes"] < 200 << 20
    assert stopped.result(60)["n"] == 1 << 30


def test_outbound_address_and_hosts_own_address(world):
    world.host.ip("addr add 203.0.113.5/24 dev net0")
    slirp = start(world, "--outbound-addr=203.0.113.5")
    server = world.remote.peer("tcp_echo", REMOTE4, 7000)
    assert world.guest.client("echo", REMOTE4, 7000, "x")["reply"] == "x"
    assert server.event("accepted")["peer"] == "203.0.113.5"
    world.host.peer("tcp_echo", HOST4, 7001)
    assert world.guest.client("echo", HOST4, 7001, "x")["reply"] == "x"
    assert stats(slirp)["divert_flows"] == 2


def test_nothing_is_left_in_the_guest_even_after_sigkill(world):
    slirp = start(world)
    slirp.process.kill()
    slirp.wait()
    wait_for("the table is gone", lambda: "slirp4netns_" not in world.guest.run("nft", "list", "tables").stdout)
