# SPDX-License-Identifier: GPL-2.0-or-later
"""A forwarded connection looks like one of a real network, whichever path it takes: by splice, through libslirp, and
through the single-threaded program."""

import json
import os
import signal

import pytest
from harness import GATEWAY4, GATEWAY6, HOST4, HOST6, PROGRAM_ARGS, REMOTE4, reference_version, wait_for
from test_api import guest_address6, start_api6
from test_splice import went_by

REFERENCE = reference_version() is not None
SIZE = 3_000_017
GIB = 1 << 30


@pytest.fixture(params=["splice", "slirp"])
def path(request):
    if request.param == "splice" and (REFERENCE or "--no-splice" in PROGRAM_ARGS):
        pytest.skip("forwards go through libslirp only here")
    return request.param


class Forwarded:
    """Host port 8080 to the guest's port 80, by a path that has been chosen."""

    def __init__(self, world, path, *args):
        self.path, self.slirp = path, world.start(*args, api=True)
        asked = {} if REFERENCE or path == "splice" else {"path": "slirp"}
        reply = self.slirp.api("add_hostfwd", proto="tcp", host_addr="", host_port=8080, guest_addr="", guest_port=80,
                               **asked)
        assert "return" in reply, reply

    def went_its_way(self, n=1):
        if not REFERENCE:
            entry = json.loads(self.slirp.api_raw(b'{"execute":"list_hostfwd"}'))["entries"][-1]
            assert (entry["path"], entry["connections"]) == (self.path, n), entry


def test_the_client_may_end_its_half_first(world, path):
    f = Forwarded(world, path)
    world.guest.peer("tcp_sink", "0.0.0.0", 80)
    r = world.remote.client("upload", HOST4, 8080, SIZE)
    assert r["server"] == {"n": SIZE, "sha256": r["sha256"]}
    f.went_its_way()


def test_the_server_may_end_its_half_first(world, path):
    f = Forwarded(world, path)
    server = world.guest.peer("tcp_half", "0.0.0.0", 80, SIZE)
    r = world.remote.client("after_end", HOST4, 8080, SIZE)
    assert (r["got"]["n"], r["got"]["end"]) == (SIZE, "eof")
    ended = server.event("ended")
    assert (ended["n"], ended["sha256"], ended["end"]) == (SIZE, r["sha256"], "eof")
    f.went_its_way()


def test_a_reset_of_the_client_ends_the_connection(world, path):
    f = Forwarded(world, path)
    server = world.guest.peer("tcp_watch", "0.0.0.0", 80)
    client = world.remote.begin("client", "abort", HOST4, 8080, 1000)
    server.event("accepted")  # a connection that is reset before that may never be seen
    client.process.send_signal(signal.SIGUSR1)
    assert client.result()["ok"]
    # libslirp passes some resets on as an orderly end.
    assert server.event("ended")["end"] in (("ECONNRESET",) if path == "splice" else ("ECONNRESET", "eof"))
    f.went_its_way()


def test_a_reset_of_the_server_is_a_reset(world, path):
    f = Forwarded(world, path)
    world.guest.peer("tcp_reset", "0.0.0.0", 80)
    r = world.remote.client("read", HOST4, 8080)
    # libslirp, in the single-threaded program as well, makes an orderly end of the guest's resets.
    assert r.get("errno") == "ECONNRESET" or (path == "slirp" and r.get("got") == ""), r
    f.went_its_way()


def test_a_server_that_closes_at_once_is_heard(world, path):
    f = Forwarded(world, path)
    world.guest.peer("tcp_greet", "0.0.0.0", 80)
    for _ in range(10):
        r = world.remote.client("listen", HOST4, 8080)
        assert (r["n"], r["end"]) == (5, "eof"), r
    f.went_its_way(10)


def test_both_may_close_at_the_same_time(world, path):
    f = Forwarded(world, path)
    server = world.guest.peer("tcp_hold", "0.0.0.0", 80)
    client = world.remote.begin("client", "hold_and_close", HOST4, 8080)
    client.event("held")
    assert server.event("accepted")["peer"] == REMOTE4
    os.kill(f.slirp.pid, signal.SIGSTOP)
    try:
        for side in (server, client):
            side.process.send_signal(signal.SIGUSR1)
            side.event("shut")
    finally:
        os.kill(f.slirp.pid, signal.SIGCONT)
    for side in (server, client):
        ended = side.event("ended")
        assert (ended["n"], ended["end"]) == (0, "eof")
    f.went_its_way()


def test_a_server_that_stops_reading_holds_the_client(world, path):
    f = Forwarded(world, path)
    server = world.guest.peer("tcp_quiet", "0.0.0.0", 80)
    total = 256 << 20
    client = world.remote.begin("client", "push", HOST4, 8080, total, 1.5)
    assert client.event("stalled")["n"] < 64 << 20
    server.process.send_signal(signal.SIGUSR1)
    r = client.result(90)
    assert r["server"] == {"n": total, "sha256": r["sha256"]}
    f.went_its_way()


@pytest.mark.extension
def test_a_gibibyte_each_way_through_libslirp_is_unchanged(world):
    f = Forwarded(world, "slirp", "--mtu=65520")
    n = GIB // (8 if os.environ.get("E2E_SANITIZER") else 1)
    server = world.guest.peer("tcp_sink_big", "0.0.0.0", 80)
    r = world.remote.begin("client", "upload_big", HOST4, 8080, n).result(120)
    assert r["server"] == {"n": n, "sha256": r["sha256"]}
    server.end()
    world.guest.peer("tcp_source_big", "0.0.0.0", 80, n)
    r = world.remote.begin("client", "download", HOST4, 8080).result(120)
    assert (r["n"], r["sha256"]) == (n, world.host.begin("digest_of", n).result(60)["sha256"])
    f.went_its_way(2)


# ---- clients that the guest would look for on its own link ----

def link_local(space):
    return wait_for("a link-local address", lambda: [
        a["local"] for link in space.ip_json("-6", "addr", "show", "dev", "net0", "scope", "link", "-tentative")
        for a in link.get("addr_info", []) if "local" in a])[0]


def forward_by(slirp, way, host_addr="", guest_addr=""):
    """Host port 8080 to the guest's port 80 by splice, through libslirp, or for datagrams."""
    if way == "splice" and "--no-splice" in PROGRAM_ARGS:
        pytest.skip("forwards go through libslirp only here")
    asked = {"path": "slirp"} if way == "slirp" and not REFERENCE else {}
    reply = slirp.api("add_hostfwd", proto="udp" if way == "udp" else "tcp", host_addr=host_addr, host_port=8080,
                      guest_addr=guest_addr, guest_port=80, **asked)
    assert "return" in reply, reply


def client_by(world, slirp, way, host):
    """Is answered; returns whom the guest's server has seen."""
    addr = "::" if ":" in host else "0.0.0.0"
    if way == "udp":
        server = world.guest.peer("udp_echo", addr, 80)
        assert world.remote.client("udp", host, 8080, 1200).get("same")
        return server.event("datagram")["peer"]
    server = world.guest.peer("tcp_echo", addr, 80)

    def seen():
        assert world.remote.client("echo", host, 8080, "hello").get("reply") == "hello"
        peer = server.event("accepted")["peer"]
        return (REFERENCE or went_by(slirp, way)) and peer

    return wait_for("the agent has heard of the guest's address", seen)


@pytest.mark.extension
@pytest.mark.parametrize("way", ["splice", "slirp", "udp"])
def test_a_link_local_client_is_served_as_the_gateway(world, way):
    """The guest is not on that link: an answer to the client's own address would not leave the guest."""
    slirp = start_api6(world)
    forward_by(slirp, way, "::", guest_address6(world))
    link_local(world.remote)
    assert client_by(world, slirp, way, f"{link_local(world.host)}%net0") == GATEWAY6


@pytest.mark.reference_bug("shows an address that the guest looks for on its own link")
@pytest.mark.parametrize("way", ["splice", "slirp", "udp"])
def test_a_client_with_an_address_of_the_guests_network_is_served_as_the_gateway(world, way):
    """Nobody answers for its own address on the guest's link."""
    world.remote.ip("addr add 10.0.2.77/32 dev net0", f"route add {HOST4}/32 dev net0 src 10.0.2.77")
    world.host.ip("route add 10.0.2.77/32 dev net0")
    slirp = world.start(api=True)
    forward_by(slirp, way)
    assert client_by(world, slirp, way, HOST4) == GATEWAY4


@pytest.mark.extension
@pytest.mark.parametrize("way", ["splice", "slirp", "udp"])
def test_a_client_with_an_ipv6_address_of_the_guests_network_is_served_as_the_gateway(world, way):
    world.remote.ip("addr add fd00::77/128 dev net0 nodad", f"route add {HOST6}/128 dev net0 src fd00::77")
    world.host.ip("route add fd00::77/128 dev net0")
    slirp = start_api6(world)
    forward_by(slirp, way, "::", guest_address6(world))
    assert client_by(world, slirp, way, HOST6) == GATEWAY6
