# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest's own TCP connections that do not go over the TAP."""

import json
import contextlib
import os
import pathlib
import signal
import socket
import time

import pytest
from harness import GATEWAY4, GUEST4, HOST4, PROGRAM_ARGS, REMOTE4, REMOTE6, wait_for
from test_configure import MAKE_TAP
from test_splice import agent_pid, raise_limit, tap_bytes
from test_tcp import SIZE, has_ipv6

GIB = 1 << 30
OFF = "--divert=off" in PROGRAM_ARGS or "--no-splice" in PROGRAM_ARGS
pytestmark = [pytest.mark.extension, pytest.mark.skipif(OFF, reason="switched off by $SLIRP4NETNS_ARGS")]


def stats(slirp):
    return slirp.api("stats")["return"]


def start(world, *args, **kwargs):
    """With the API, which tells how connections went."""
    return world.start(*args, api=True, **kwargs)


@pytest.mark.parametrize("mtu", [576, 1500, 65520])
@pytest.mark.parametrize("args", [[], ["--enable-seccomp"], ["--enable-sandbox", "--enable-seccomp"]])
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


def transfer(world, slirp, direction, in_the_middle):
    """A gibibyte, with something happening to it on the way; it has to arrive unchanged."""
    size = GIB // (8 if os.environ.get("E2E_SANITIZER") else 1)
    if direction == "download":
        world.remote.peer("tcp_source_big", REMOTE4, 7000, size)
        client = world.guest.begin("client", "download", REMOTE4, 7000, "signal")
    else:
        world.remote.peer("tcp_sink_big", REMOTE4, 7000)
        client = world.guest.begin("client", "upload_big", REMOTE4, 7000, size, "signal")
    moved = wait_for("it has begun", lambda: stats(slirp)["divert_bytes"])
    assert moved < size // 2  # the client holds the rest back
    client.process.send_signal(signal.SIGUSR1)
    in_the_middle()
    r = client.result(90)
    if direction == "download":
        assert (r["n"], r["sha256"]) == (size, world.remote.begin("digest_of", size).result(60)["sha256"])
    else:
        assert r["server"] == {"n": size, "sha256": r["sha256"]}
    s = stats(slirp)
    assert s["divert_flows"] == 1 and s["divert_fallback"] == 0, s


@pytest.mark.parametrize("direction", ["download", "upload"])
def test_flushed_rules_do_not_end_a_transfer(world, direction):
    """The guest flushes its ruleset and its routing rules in the middle."""
    slirp = start(world, "--mtu=1500")

    def flush():
        world.guest.run("nft", "flush", "ruleset", check=False)
        for priority in (21324, 21325, 21326):
            world.guest.run("ip", "rule", "del", "priority", str(priority))

    transfer(world, slirp, direction, flush)


@pytest.mark.parametrize("direction", ["download", "upload"])
def test_the_agents_death_does_not_end_a_transfer(world, direction):
    slirp = start(world)
    transfer(world, slirp, direction, lambda: os.kill(agent_pid(slirp), 9))
    wait_for("another one has taken its place", lambda: stats(slirp)["agent_restarts"] == 1)
    assert stats(slirp)["agent_lost"] == 1


def test_the_agents_death_leaves_no_element_to_catch_later_connections(world):
    """In the sandbox nobody else may take elements away: the table goes with the last connection."""
    slirp = start(world, "--enable-sandbox", "--enable-seccomp")
    world.remote.peer("tcp_echo", REMOTE4, 7000)
    assert world.guest.client("echo", REMOTE4, 7000, "x")["reply"] == "x"
    slirp.kill_agents()
    wait_for("the table is gone", lambda: "slirp4netns_" not in world.guest.run("nft", "list", "tables").stdout)
    assert world.guest.client("echo", REMOTE4, 7000, "again")["reply"] == "again"
    assert stats(slirp)["divert_flows"] == 1 and stats(slirp)["divert_fallback"] == 1


def test_an_element_that_nobody_takes_away_catches_no_connection_for_long(world):
    """As above, but the last connection lives on: who comes with the old addresses is refused at once, not led astray."""
    slirp = start(world, "--enable-sandbox", "--enable-seccomp")
    world.remote.peer("tcp_echo", REMOTE4, 7000)
    world.remote.peer("tcp_last_word", REMOTE4, 7001)
    held = world.guest.begin("client", "hold", REMOTE4, 7000, GUEST4, 0)
    held.event("held")
    assert world.guest.client("again", REMOTE4, 7001, GUEST4, 40000, 1)["good"] == 1
    slirp.kill_agents()
    wait_for("the agent is missed", lambda: "no other takes its place" in slirp.err())
    assert elements(world) != []
    again = world.guest.client("again", REMOTE4, 7001, GUEST4, 40000, 1)
    assert again.get("errno") == "ECONNREFUSED", again
    assert world.guest.client("echo", REMOTE4, 7000, "other port")["reply"] == "other port"
    held.process.send_signal(signal.SIGUSR1)
    assert held.event("alive")["ok"]
    wait_for("the table is gone", lambda: "slirp4netns_" not in world.guest.run("nft", "list", "tables").stdout)
    assert world.guest.client("again", REMOTE4, 7001, GUEST4, 40000, 1)["good"] == 1


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
    wait_for("all is counted", lambda: stats(slirp)["divert_bytes"] > 20_000_000)
    assert tap_bytes(world) - before < 2_000_000


def test_thousands_of_connections_at_once(world):
    slirp = start(world, preexec=raise_limit)
    world.remote.peer("tcp_echo_many", REMOTE4, 7000)
    assert world.guest.begin("client", "many", REMOTE4, 7000, 5000).result(120)["good"] == 5000
    assert stats(slirp)["divert_flows"] > 4500


def elements(world):
    """What is in the nft sets of the guest's namespace: one per diverted connection."""
    ruleset = json.loads(world.guest.run("nft", "-j", "list", "ruleset").stdout)["nftables"]
    return [elem for item in ruleset for elem in item.get("set", {}).get("elem", [])]


def tcp_sockets(space):
    return int(space.run("cat", "/proc/net/sockstat").stdout.split("TCP: inuse ")[1].split()[0])


def test_many_connections_one_after_the_other_leave_nothing_behind(world):
    """In no namespace: descriptors, sockets, pipes, elements of the set, memory. $E2E_LONG: fifty thousand."""
    slirp = start(world)
    world.remote.peer("tcp_echo_many", REMOTE4, 7000)
    world.guest.begin("client", "sequence", REMOTE4, 7000, 300).result(60)

    def descriptors():
        found = []
        for fd in os.listdir(f"/proc/{slirp.pid}/fd"):
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                found.append(os.readlink(f"/proc/{slirp.pid}/fd/{fd}").split(":")[0])
        return found

    def memory():
        statm = [pathlib.Path(f"/proc/{p}/statm").read_text().split() for p in (slirp.pid, agent_pid(slirp))]
        return sum(int(s[1]) * 4096 for s in statm)

    wait_for("the table is empty", lambda: stats(slirp)["divert_open"] == 0, 20)
    # The agent fills the stock of sockets when it finds the time: it is full when the number stays.
    numbers = []
    wait_for("the stock is full", lambda: numbers.append(len(descriptors())) or numbers[-8:] == numbers[-1:] * 8, 20)
    before, before_memory = descriptors(), memory()
    in_host, in_guest = tcp_sockets(world.host), tcp_sockets(world.guest)
    n = 50000 if os.environ.get("E2E_LONG") == "1" else 1000 if os.environ.get("E2E_SANITIZER") else 10000
    done = 0
    # In parts: guest and host have 28,000 ports each for a destination, and they stay in TIME_WAIT for a minute.
    while done < n:
        part = min(n - done, 25000)
        source, port = f"10.0.2.{101 + done // 25000}", 7001 + done // 25000
        world.guest.ip(f"addr add {source}/24 dev tap0")
        world.remote.peer("tcp_echo_many", REMOTE4, port)
        r = world.guest.begin("client", "sequence", REMOTE4, port, part, source).result(240)
        assert r.get("good") == part, r
        done += part
    wait_for("the table is empty", lambda: stats(slirp)["divert_open"] == 0, 20)
    s = stats(slirp)
    assert s["divert_flows"] + s["divert_fallback"] == n + 300 and s["divert_flows"] > 0.9 * n, s
    # The stock has 32 to 64 sockets, and stays as it is.
    wait_for("descriptors are back, but for the stock", lambda: len(descriptors()) <= len(before) + 32 + 8)
    assert descriptors().count("pipe") <= max(16, before.count("pipe"))
    assert tcp_sockets(world.host) <= in_host + 8 and tcp_sockets(world.guest) <= in_guest + 8
    wait_for("no element is left", lambda: elements(world) == [])
    # The table of those that ended less than 5 s ago, up to 4096, is 2.4 MB; one that libslirp has had instead, 0.3 MB.
    assert os.environ.get("E2E_SANITIZER") or memory() - before_memory < 8 << 20, (before_memory, memory())


def test_a_reader_that_stops_holds_the_sender(world):
    """Backpressure: memory stays bounded however much the sender wants to send."""
    slirp = start(world)
    world.remote.peer("tcp_source_big", REMOTE4, 7000, GIB)
    stopped = world.guest.begin("client", "download", REMOTE4, 7000, "signal")
    wait_for("it has begun", lambda: stats(slirp)["divert_bytes"] > 0)
    time.sleep(1.5)  # the time in which a sender without backpressure would have sent everything
    assert stats(slirp)["divert_bytes"] < 200 << 20
    stopped.process.send_signal(signal.SIGUSR1)
    assert stopped.result(60)["n"] == GIB


def test_outbound_address_and_hosts_own_address(world):
    world.host.ip("addr add 203.0.113.5/24 dev net0")
    slirp = start(world, "--outbound-addr=203.0.113.5")
    server = world.remote.peer("tcp_echo", REMOTE4, 7000)
    assert world.guest.client("echo", REMOTE4, 7000, "x")["reply"] == "x"
    assert server.event("accepted")["peer"] == "203.0.113.5"
    world.host.peer("tcp_echo", HOST4, 7001)
    assert world.guest.client("echo", HOST4, 7001, "x")["reply"] == "x"
    assert stats(slirp)["divert_flows"] == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["term", "kill"])
def test_nothing_is_left_in_the_guest(world, number):
    """Not even after SIGKILL: the table goes with its socket, and the agent has the time to tidy up."""
    slirp = start(world)

    def added():
        return {(argv[1], line) for argv in (["ip", "-4", "rule"], ["ip", "-6", "rule"], ["ip", "-4", "route", "show", "table", "all"],
                                          ["ip", "-6", "route", "show", "table", "all"], ["nft", "list", "tables"])
                for line in world.guest.run(*argv).stdout.splitlines()
                if "21324" in line or "0x534c0000" in line or "slirp4netns_" in line}

    wait_for("both families are there", lambda: len(added()) == 2 * 4 + 1)
    agents = slirp.agents()
    slirp.process.send_signal(number)
    slirp.wait()
    wait_for("everything is gone", lambda: not added())
    wait_for("so are the agents", lambda: not any(os.path.exists(f"/proc/{agent}") for agent in agents))
