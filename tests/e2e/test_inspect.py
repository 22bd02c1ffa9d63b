# SPDX-License-Identifier: GPL-2.0-or-later
"""Seeing inside: stats, flows, slirp_info."""

import time

import pytest
from harness import DNS4, GATEWAY4, GUEST4, PROGRAM_ARGS, REMOTE4, wait_for
from test_divert import start as start_diverting

pytestmark = pytest.mark.extension

CONFINED = ["--enable-sandbox", "--enable-seccomp"]
NO_DIVERT = "--divert=off" in PROGRAM_ARGS or "--no-splice" in PROGRAM_ARGS
needs_divert = pytest.mark.skipif(NO_DIVERT, reason="switched off by $SLIRP4NETNS_ARGS")


def stats(slirp):
    return slirp.api("stats")["return"]


def flows_page(slirp, **arguments):
    """Asked for again when a worker, which has a second to say what it has, had no time for it."""
    page = wait_for("every worker says what it has", lambda: (found := slirp.api("flows", **arguments)) and
                    "timed out" not in found.get("error", {}).get("desc", "") and found)
    assert "return" in page, page
    return page


def flows(slirp, **arguments):
    """All pages."""
    found = []
    for _ in range(10000):
        page = flows_page(slirp, **arguments)
        assert len(page["return"]["flows"]) <= arguments.get("limit", 100)
        found += page["return"]["flows"]
        if "next" not in page["return"]:
            return found
        arguments["cursor"] = page["return"]["next"]
    raise AssertionError("the pages do not end")


def of_tier(slirp, tier, **arguments):
    return [flow for flow in flows(slirp, **arguments) if flow["tier"] == tier]


@pytest.mark.parametrize("args", [[], CONFINED])
def test_stats_have_every_thread_tier_and_reason(world, args):
    slirp = world.start(*args, api=True)
    world.guest.run("ping", "-c2", "-i0.2", GATEWAY4)
    found = stats(slirp)
    threads = {row["name"]: row for row in found["per_thread"]}
    assert {"main", "slirp", "api"} <= set(threads)
    assert (found["threads"] == "split") == ("fwd-0" in threads)
    assert (found["threads"] == "split") == ({"tap-rx", "tap-tx"} <= set(threads))
    assert threads["slirp"]["turns"] > 0 and threads["slirp"]["cpu_ns"] > 0
    assert all(row["turns"] > 0 for name, row in threads.items() if name != "main")
    assert set(found["per_tier"]) >= {"splice-forward", "splice-outbound", "udp-forward", "slirp"}
    assert found["drops"]["rx"]["malformed"] == found["rx_drop_malformed"]
    assert found["syscalls_per_frame"]["rx"] > 0 and found["syscalls_per_frame"]["tx"] > 0
    assert set(found["fallbacks"]) >= {"splice", "divert"}


def assert_reasons_add_up(found):
    for tier in ("splice", "divert"):
        assert sum(found["fallbacks"][tier].values()) == found[f"{tier}_fallback"], (tier, found["fallbacks"])


@needs_divert
def test_fallbacks_have_their_reason(world):
    """lo down in the guest: the connections of both directions take libslirp's path because of that."""
    world.guest.run("ip", "tuntap", "add", "name", "tap0", "mode", "tap")
    world.guest.ip("link set tap0 up", "addr add 10.0.2.100/24 dev tap0", "route add default via 10.0.2.2 dev tap0")
    slirp = world.start(configure=False, api=True)
    world.remote.peer("tcp_echo", REMOTE4, 7000)
    world.guest.peer("tcp_echo", "0.0.0.0", 7001)
    slirp.forward("tcp", 18080, 7001)
    assert world.guest.client("echo", REMOTE4, 7000, "hello")["reply"] == "hello"
    assert world.host.client("echo", "127.0.0.1", 18080, "hello")["reply"] == "hello"
    found = stats(slirp)
    assert found["divert_fallback_lo_down"] == 1 == found["fallbacks"]["divert"]["lo_down"]
    assert found["splice_fallback_lo_down"] == 1 == found["fallbacks"]["splice"]["lo_down"]
    assert_reasons_add_up(found)


def test_slirp_info_is_libslirps_own_table(world):
    slirp = world.start("--no-splice", api=True)
    world.remote.peer("tcp_echo", REMOTE4, 7000)
    world.guest.begin("client", "crowd", REMOTE4, 7000, 1).event("connected")
    info = slirp.api("slirp_info")["return"]["info"]
    assert "TCP[ESTABLISHED]" in info and REMOTE4 in info
    assert stats(slirp)["world_stops"] >= 1


@pytest.mark.parametrize("args", [[], CONFINED])
def test_a_connection_of_libslirps(world, args):
    slirp = world.start("--no-splice", *args, api=True)
    world.remote.peer("tcp_echo", REMOTE4, 7000)
    world.guest.begin("client", "crowd", REMOTE4, 7000, 1).event("connected")
    flow = [f for f in of_tier(slirp, "slirp") if f["proto"] == "tcp"][0]
    assert (flow["guest_addr"], flow["remote_addr"], flow["remote_port"]) == (GUEST4, REMOTE4, 7000)
    assert flow["state"] == "established" and flow["guest_port"] > 0
    assert "bytes_to_guest" not in flow and "age_ms" not in flow  # libslirp does not count


@needs_divert
@pytest.mark.parametrize("args", [[], CONFINED])
def test_a_diverted_connection(world, args):
    slirp = start_diverting(world, *args)
    world.remote.peer("tcp_echo", REMOTE4, 7000)
    client = world.guest.begin("client", "crowd", REMOTE4, 7000, 1)
    port, = client.event("connected")["ports"]
    begun = time.monotonic()
    wait_for("the bytes are counted", lambda: of_tier(slirp, "splice-outbound")[0]["bytes_to_guest"] == 5)
    flow, = of_tier(slirp, "splice-outbound")
    assert (flow["proto"], flow["guest_addr"], flow["guest_port"]) == ("tcp", GUEST4, port)
    assert (flow["remote_addr"], flow["remote_port"]) == (REMOTE4, 7000)
    assert flow["state"] == "open" and flow["bytes_to_host"] == 5
    assert flow["age_ms"] <= (time.monotonic() - begun) * 1000 + 2000
    client.end()
    wait_for("it is gone", lambda: not of_tier(slirp, "splice-outbound"))


@pytest.mark.skipif("--no-splice" in PROGRAM_ARGS, reason="switched off by $SLIRP4NETNS_ARGS")
def test_a_spliced_forward(world):
    slirp = world.start(api=True)
    world.guest.peer("tcp_echo", "0.0.0.0", 7001)
    slirp.forward("tcp", 18080, 7001)
    wait_for("a spliced one", lambda: world.host.client("echo", "127.0.0.1", 18080, "x") and
             stats(slirp)["splice_flows"])
    port, = world.host.begin("client", "crowd", "127.0.0.1", 18080, 1).event("connected")["ports"]
    flow, = wait_for("it is shown", lambda: of_tier(slirp, "splice-forward"))
    assert (flow["guest_addr"], flow["guest_port"]) == (GUEST4, 7001)
    assert (flow["remote_addr"], flow["remote_port"]) == (GATEWAY4, port)


def test_a_client_of_a_udp_forward(world):
    slirp = world.start(api=True)
    world.guest.peer("udp_echo", "0.0.0.0", 5000)
    slirp.forward("udp", 15000, 5000)
    assert world.host.client("udp", "127.0.0.1", 15000)["same"]
    found = [f for f in flows(slirp) if f["proto"] == "udp" and f["guest_port"] == 5000]
    assert [(f["tier"], f["bytes_to_guest"], f["bytes_to_host"]) for f in found] == [("udp-forward", 5, 5)]


@needs_divert
def test_thousands_of_flows_come_in_pages_while_bytes_move(world):
    slirp = start_diverting(world)
    world.remote.peer("tcp_echo_many", REMOTE4, 7000)
    world.remote.peer("tcp_source_big", REMOTE4, 7001, 1 << 30)
    transfer = world.guest.begin("client", "download", REMOTE4, 7001)
    crowd = world.guest.begin("client", "crowd", REMOTE4, 7000, 900)
    crowd.event("connected")
    for limit in (1000, 7):
        found = of_tier(slirp, "splice-outbound", limit=limit)
        ends = {(f["guest_port"], f["remote_port"]) for f in found}
        assert len(found) == len(ends)
        assert len([1 for _, port in ends if port == 7000]) == 900
    crowd.end()
    assert transfer.result(90)["n"] == 1 << 30


@pytest.mark.parametrize("arguments", [{"limit": 0}, {"limit": 1001}, {"limit": "7"}, {"limit": 1.5}, {"limit": -1},
                                       {"cursor": -1}, {"cursor": "x"}, {"cursor": 2 ** 53}, {"cursor": 9 << 40}])
def test_bad_arguments_are_named(world, arguments):
    slirp = world.start(api=True)
    assert slirp.api("flows", **arguments)["error"]["desc"].startswith(
        f"bad request: flows: bad arguments.{next(iter(arguments))}")


def test_any_cursor_is_harmless(world):
    slirp = world.start(api=True)
    for cursor in (1, 65535, 1 << 31, 1 << 32, (1 << 40) - 1, 1 << 40, (3 << 40) - 1):
        flows_page(slirp, cursor=cursor)


def test_dns_is_shown_as_udp(world):
    slirp = world.start(api=True)
    world.host.peer("udp_echo", "127.0.0.1", 53)
    assert world.guest.client("udp", DNS4, 53)["same"]
    assert any(f["proto"] == "udp" and f["remote_port"] == 53 for f in flows(slirp))
