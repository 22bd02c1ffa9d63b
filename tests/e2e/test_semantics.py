# SPDX-License-Identifier: GPL-2.0-or-later
"""A connection of the guest looks like one of a real network, whichever way it goes.

The promises are the same for diverted connections, for those through libslirp ($SLIRP4NETNS_ARGS contains
--divert=off), and for the single-threaded program. That a connection was diverted is shown by counters.
"""

import os
import signal

import pytest
from harness import AS, DNS4, GATEWAY4, GATEWAY6, HOST4, HOST6, PROGRAM_ARGS, REMOTE4, REMOTE6, reference_version, \
    wait_for
from test_divert import stats
from test_tcp import fails_within, has_ipv6

OFF = "--divert=off" in PROGRAM_ARGS or "--no-splice" in PROGRAM_ARGS
REFERENCE = reference_version() is not None
SIZE = 3_000_017
FAMILIES = pytest.mark.parametrize("addr", [REMOTE4, REMOTE6])


@pytest.fixture
def way():
    return "libslirp" if REFERENCE or OFF else "diverted"


def divert_option(way):
    return ["--divert=on"] if way == "diverted" else []


class Started:
    """The program, and how many connections of the guest it has to have diverted."""

    def __init__(self, world, way, *args, v6=False):
        if v6:
            world.guest.run("sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0", check=False)
            args = (*args, "--enable-ipv6")
        self.way = way
        if REFERENCE:
            self.slirp = world.start(*args)
        else:
            self.slirp = world.start(*divert_option(way), *args, api=True)
        if v6:
            has_ipv6(world)

    def stats(self):
        return stats(self.slirp)

    def went_its_way(self, n):
        """At least @n connections were diverted and none that could have been was not; or none at all."""
        if REFERENCE:
            return
        s = self.stats()
        if self.way == "diverted":
            assert s["divert_flows"] >= n and s["divert_fallback"] == 0, s
        else:
            assert s["divert_flows"] == 0

    def nothing_left(self):
        """Every diverted connection has ended; the table forgets them some seconds later."""
        if self.way == "diverted":
            wait_for("no diverted connection is left", lambda: self.stats()["divert_open"] == 0, 30)


def start(world, way, *args, addr=""):
    return Started(world, way, *args, v6=":" in addr)


class Silence:
    """A port that answers nothing, until it is told to."""

    def __init__(self, space, port):
        self.space = space
        done = space.run("nft", "add table inet quiet; add chain inet quiet in { type filter hook input priority 0; }; "
                         f"add rule inet quiet in tcp dport {port} counter drop", check=False)
        if done.returncode != 0:
            pytest.skip(f"nft does not work here: {done.stderr}")

    def swallowed(self):
        text = self.space.run("nft", "list", "table", "inet", "quiet").stdout
        return int(text.split("packets ")[1].split()[0])

    def end(self):
        self.space.run("nft", "delete", "table", "inet", "quiet")


# ---- beginnings ----

@FAMILIES
def test_refused_is_refused_at_once(world, way, addr):
    s = start(world, way, addr=addr)
    world.remote.peer("tcp_echo", addr, 7000)
    assert world.guest.client("echo", addr, 7000, "x")["reply"] == "x"  # neighbours are known from here on
    fails_within(world, 0.5, addr, 7009, "ECONNREFUSED")
    s.went_its_way(1)
    if way == "diverted":
        assert s.stats()["divert_refused"] >= 1


@pytest.mark.parametrize("addr", ["198.51.100.1", "2001:db8:99::1"])
def test_no_route_is_unreachable_at_once(world, way, addr):
    s = start(world, way, addr=addr)
    fails_within(world, 2, addr, 7000, "ENETUNREACH", "EHOSTUNREACH")
    if way == "diverted":
        assert s.stats()["divert_unreachable"] >= 1


@pytest.mark.reference_bug("loses the error, the guest waits")
@pytest.mark.parametrize("addr", ["203.0.113.77", "2001:db8:1::77"])
def test_a_host_that_is_not_there_is_unreachable(world, way, addr):
    s = start(world, way, addr=addr)
    for key in ("ipv4/neigh/net0/retrans_time_ms", "ipv6/neigh/net0/retrans_time_ms"):
        world.host.run("sysctl", "-qw", f"net/{key}=300", check=False)
    r = world.guest.client("connect", addr, 7000)
    assert r["errno"] in ("EHOSTUNREACH", "ENETUNREACH") and r["seconds"] < 10, r
    if way == "diverted":
        assert s.stats()["divert_unreachable"] >= 1


def test_silence_is_a_timeout(world, way):
    """The guest's own patience counts; and the port may be used again, when the host is there after all."""
    s = start(world, way)
    world.guest.run("sysctl", "-qw", "net.ipv4.tcp_syn_retries=1")
    silence = Silence(world.remote, 7000)
    r = world.guest.client("echo", REMOTE4, 7000, "x", "10.0.2.100", 40000)
    assert r["errno"] == "ETIMEDOUT" and 1 < r["seconds"] < 10, r
    silence.end()
    world.remote.peer("tcp_echo", REMOTE4, 7000)
    world.guest.run("sysctl", "-qw", "net.ipv4.tcp_syn_retries=6")
    r = world.guest.client("echo", REMOTE4, 7000, "x", "10.0.2.100", 40000)
    assert r.get("reply") == "x", r


def test_a_host_that_answers_late_is_reached(world, way):
    """The guest repeats its SYN meanwhile; there must be one connection, not two."""
    s = start(world, way)
    silence = Silence(world.remote, 7000)
    server = world.remote.peer("tcp_echo", REMOTE4, 7000)
    client = world.guest.begin("client", "echo", REMOTE4, 7000, "x")
    wait_for("the host has asked twice", lambda: silence.swallowed() >= 2)
    silence.end()
    assert client.result().get("reply") == "x"
    assert server.event("accepted")["peer"] == HOST4
    assert not server.has_event("accepted", 1.5)
    s.went_its_way(1)


def test_a_client_that_has_gone_before_the_answer_leaves_nothing(world, way):
    """It gives up while the host is still being asked. The late server must not keep a connection to nobody."""
    s = start(world, way)
    silence = Silence(world.remote, 7000)
    server = world.remote.peer("tcp_watch", REMOTE4, 7000)
    assert world.guest.client("connect", REMOTE4, 7000, 0.3)["errno"] == "TIMEOUT"
    wait_for("the host has asked", lambda: silence.swallowed() >= 1)
    silence.end()
    if server.has_event("accepted", 8):  # the connection that was on its way; it may also have been given up
        assert server.event("ended")["n"] == 0
    s.nothing_left()
    world.remote.peer("tcp_echo", REMOTE4, 7001)
    assert world.guest.client("echo", REMOTE4, 7001, "x")["reply"] == "x"


def test_a_server_that_closes_at_once_is_heard(world, way):
    s = start(world, way)
    world.remote.peer("tcp_greet", REMOTE4, 7000)
    for _ in range(20):
        r = world.guest.client("listen", REMOTE4, 7000)
        assert (r["n"], r["end"]) == (5, "eof"), r
    s.went_its_way(20)


# ---- ends ----

@FAMILIES
def test_the_guest_may_end_its_half_first(world, way, addr):
    s = start(world, way, addr=addr)
    world.remote.peer("tcp_sink", addr, 7000)
    r = world.guest.client("upload", addr, 7000, SIZE)
    assert r["server"] == {"n": SIZE, "sha256": r["sha256"]}
    s.went_its_way(1)


@FAMILIES
def test_the_server_may_end_its_half_first(world, way, addr):
    s = start(world, way, addr=addr)
    server = world.remote.peer("tcp_half", addr, 7000, SIZE)
    r = world.guest.client("after_end", addr, 7000, SIZE)
    assert (r["got"]["n"], r["got"]["end"]) == (SIZE, "eof")
    ended = server.event("ended")
    assert (ended["n"], ended["sha256"], ended["end"]) == (SIZE, r["sha256"], "eof")
    s.went_its_way(1)


@FAMILIES
def test_a_reset_of_the_server_is_a_reset(world, way, addr):
    s = start(world, way, addr=addr)
    world.remote.peer("tcp_reset", addr, 7000)
    assert world.guest.client("read", addr, 7000).get("errno") == "ECONNRESET"
    s.went_its_way(1)


@FAMILIES
def test_a_reset_of_the_guest_is_a_reset(world, way, addr):
    s = start(world, way, addr=addr)
    server = world.remote.peer("tcp_watch", addr, 7000)
    client = world.guest.begin("client", "abort", addr, 7000, 1000)
    server.event("accepted")  # a connection that is reset before that may never be seen
    client.process.send_signal(signal.SIGUSR1)
    assert client.result()["ok"]
    # libslirp closes its socket in an orderly way then; that is where the reference's own fault shows.
    assert server.event("ended")["end"] == ("ECONNRESET" if way == "diverted" else "eof")
    s.went_its_way(1)


def test_both_may_close_at_the_same_time(world, way):
    """The program stands still while both sides close, so that each end comes before the other one is known."""
    s = start(world, way)
    server = world.remote.peer("tcp_hold", REMOTE4, 7000)
    client = world.guest.begin("client", "hold_and_close", REMOTE4, 7000)
    client.event("held")
    server.event("accepted")
    os.kill(s.slirp.pid, signal.SIGSTOP)
    try:
        for side in (server, client):
            side.process.send_signal(signal.SIGUSR1)
            side.event("shut")
    finally:
        os.kill(s.slirp.pid, signal.SIGCONT)
    for side in (server, client):
        ended = side.event("ended")
        assert (ended["n"], ended["end"]) == (0, "eof")
    s.went_its_way(1)
    s.nothing_left()


def test_a_port_may_be_used_again_when_the_server_has_closed(world, way):
    """The server closed first, so TIME_WAIT is its affair: the guest's port is free at once."""
    if way == "libslirp":
        pytest.skip("libslirp refuses a port that it remembers in TIME_WAIT, in the single-threaded program as well")
    s = start(world, way)
    world.remote.peer("tcp_last_word", REMOTE4, 7000)
    r = world.guest.client("again", REMOTE4, 7000, "10.0.2.100", 40000, 20)
    assert r.get("good") == 20, r
    s.went_its_way(20)


# ---- in between ----

def test_a_server_that_stops_reading_holds_the_guest(world, way):
    """Backpressure: what is on its way stays bounded, and so does the program's memory."""
    s = start(world, way)
    server = world.remote.peer("tcp_quiet", REMOTE4, 7000)
    total = 256 << 20
    client = world.guest.begin("client", "push", REMOTE4, 7000, total, 1.5)
    assert client.event("stalled")["n"] < 64 << 20
    if not os.environ.get("E2E_SANITIZER"):
        assert int(s.slirp.status()["VmRSS"].split()[0]) < 32 << 10
    server.process.send_signal(signal.SIGUSR1)
    r = client.result(60)
    assert r["server"] == {"n": total, "sha256": r["sha256"]}
    s.went_its_way(1)


def test_both_sides_may_ask_whether_the_other_is_there(world, way):
    s = start(world, way)
    server = world.remote.peer("tcp_keepalive", REMOTE4, 7000)
    assert world.guest.client("idle", REMOTE4, 7000, 8)["reply"] == "still here"  # twice the patience
    assert server.event("ended")["end"] == "eof"
    s.went_its_way(1)


@pytest.mark.parametrize("congestion", ["cubic", "bbr", "reno"])
@pytest.mark.parametrize("mtu", [576, 1500, 65520])
def test_any_congestion_control_of_the_guest(world, way, congestion, mtu):
    """Chosen by a socket option, as only a namespace's root may: a namespace's default is not free to choose."""
    s = start(world, way, f"--mtu={mtu}")
    world.remote.peer("tcp_sink", REMOTE4, 7000)
    r = world.guest.client("congestion", REMOTE4, 7000, congestion, 16 << 20)
    if r.get("errno") == "ENOENT":
        pytest.skip(f"this kernel has no {congestion}")
    assert (r.get("used"), r.get("server")) == (congestion, {"n": 16 << 20, "sha256": r.get("sha256")}), r
    s.went_its_way(1)


# ---- where to ----

@pytest.mark.parametrize(("addr", "local"), [(GATEWAY4, "127.0.0.1"), (GATEWAY6, "::1")])
def test_the_gateway_is_the_hosts_loopback(world, way, addr, local):
    s = start(world, way, addr=addr)
    server = world.host.peer("tcp_echo", local, 7000)
    assert world.guest.client("echo", addr, 7000, "x")["reply"] == "x"
    assert server.event("accepted")["peer"] == local
    s.went_its_way(1)


@pytest.mark.parametrize(("addr", "local"), [(GATEWAY4, "127.0.0.1"), (GATEWAY6, "::1"), ("fd00::77", "::1")])
def test_the_hosts_loopback_may_be_prohibited(world, way, addr, local):
    s = start(world, way, "--disable-host-loopback", addr=addr)
    world.guest.run("ip", "-6", "neigh", "add", "fd00::77", "lladdr", "52:56:00:00:00:02", "dev", "tap0")
    server = world.host.peer("tcp_echo", local, 7000)
    r = world.guest.client("connect", addr, 7000)
    assert r["errno"] in ("ENETUNREACH", "EHOSTUNREACH"), r
    assert not server.has_event("accepted", 0.2)
    s.went_its_way(0)


@pytest.mark.reference_bug("lets frames addressed to loopback addresses reach the host's loopback")
@pytest.mark.parametrize("addr", ["127.0.0.1", "127.9.9.9", "0.0.0.0", "::1", "::", "::ffff:127.0.0.1",
                                  "::ffff:10.0.2.2", "::127.0.0.1"])
def test_no_name_of_the_loopback_is_a_way_round(world, way, addr):
    s = start(world, way, "--disable-host-loopback", addr=addr)
    server = world.host.peer("tcp_echo", "::" if ":" in addr else "0.0.0.0", 7000)
    mac = "52:56:00:00:00:02" if ":" in addr else "52:55:0a:00:02:02"
    assert world.guest.do("raw_syn", "tap0", mac, addr, 7000)["answer"] in ("nothing", "icmp")
    assert not server.has_event("accepted", 0.2)
    s.went_its_way(0)


@pytest.mark.parametrize("addr", [HOST4, HOST6])
def test_the_hosts_own_addresses_are_reached(world, way, addr):
    """With --disable-host-loopback as well: these are addresses of the network."""
    s = start(world, way, "--disable-host-loopback", addr=addr)
    world.host.peer("tcp_echo", addr, 7000)
    assert world.guest.client("echo", addr, 7000, "x")["reply"] == "x"
    s.went_its_way(1)


@pytest.mark.parametrize(("addr", "option", "source"), [
    (REMOTE4, "--outbound-addr=203.0.113.5", "203.0.113.5"),
    (REMOTE4, "--outbound-addr=net9", "203.0.113.6"),
    (REMOTE6, "--outbound-addr6=2001:db8:1::5", "2001:db8:1::5"),
])
def test_the_outbound_address_is_the_source(world, way, addr, option, source):
    world.host.ip("addr add 203.0.113.5/24 dev net0", "addr add 2001:db8:1::5/64 dev net0 nodad",
                  "link add name net9 type bridge", "addr add 203.0.113.6/32 dev net9", "link set net9 up")
    s = start(world, way, option, addr=addr)
    server = world.remote.peer("tcp_echo", addr, 7000)
    assert world.guest.client("echo", addr, 7000, "x")["reply"] == "x"
    assert server.event("accepted")["peer"] == source
    s.went_its_way(1)


def test_dns_by_tcp_goes_to_the_hosts_nameserver(world, way):
    """Always through libslirp, which knows the nameserver; the other connections keep their own way."""
    s = start(world, way, "--disable-host-loopback")
    world.host.peer("dns", "127.0.0.1", 53, "192.0.2.7")
    assert world.guest.client("dns", DNS4, 53, "tcp")["address"] == "192.0.2.7"
    world.remote.peer("tcp_echo", REMOTE4, 7000)
    assert world.guest.client("echo", REMOTE4, 7000, "x")["reply"] == "x"
    s.went_its_way(1)


# ---- how it was started ----

@pytest.mark.parametrize("args", [[], ["--enable-sandbox", "--enable-seccomp", "--enable-ipv6", "--mtu=65520"]])
def test_a_namespace_by_its_path(world, way, args):
    world.guest.run("sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0", check=False)
    if REFERENCE and args and AS == "user":
        pytest.skip("the single-threaded program has no sandbox for a path (its issue 317)")
    slirp = world.start(*divert_option(way), *args, "--netns-type=path", f"--userns-path=/proc/{world.guest.pid}/ns/user",
                        api=not REFERENCE, target=[f"/proc/{world.guest.pid}/ns/net", "tap0"])
    world.remote.peer("tcp_sink", REMOTE4, 7000)
    r = world.guest.client("upload", REMOTE4, 7000, SIZE)
    assert r["server"]["sha256"] == r["sha256"]
    if not REFERENCE:
        assert stats(slirp)["divert_flows"] == (1 if way == "diverted" else 0)
