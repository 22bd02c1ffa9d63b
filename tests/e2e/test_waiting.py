# SPDX-License-Identifier: GPL-2.0-or-later
"""What forwarded connections wait for, and what they do not wait for."""

import os
import signal
import time

import pytest
from harness import HOST4, PROGRAM_ARGS, REMOTE4, wait_for
from test_agent_restart import take_over_stopped
from test_splice import entry

OTHER4 = "203.0.113.10"
pytestmark = [pytest.mark.extension,
              pytest.mark.skipif("--no-splice" in PROGRAM_ARGS, reason="splice has been switched off by $SLIRP4NETNS_ARGS")]


def stats(slirp):
    return slirp.api("stats")["return"]


def test_a_full_backlog_is_no_reason_for_another_path(world):
    """It answers nobody for longer than a guest whose rules lead connections astray is waited for."""
    slirp = world.start(api=True)
    slirp.forward("tcp", 8080, 80)
    server = world.guest.peer("tcp_echo_late", "0.0.0.0", 80, 8)
    client = world.remote.begin("client", "at_once", HOST4, 8080, 40)
    wait_for("all of them are there", lambda: stats(slirp)["fwd_accepted"] == 40)
    time.sleep(1.5)  # that time
    server.process.send_signal(signal.SIGUSR1)
    assert client.result(30)["good"] == 40
    s = stats(slirp)
    assert (s["splice_flows"], s["splice_fallback"], entry(slirp)["path"]) == (40, 0, "splice"), s


def test_one_client_that_is_not_answered_leads_no_others_away(world):
    """As one whose address is in a network of the guest's own."""
    done = world.guest.run("nft", "add table ip t; add chain ip t i { type filter hook input priority 0; }; "
                           f"add rule ip t i iif lo ip saddr {OTHER4} tcp dport 80 drop", check=False)
    if done.returncode != 0:
        pytest.skip("nft does not work here")
    world.remote.ip(f"addr add {OTHER4}/24 dev net0")
    slirp = world.start(api=True)
    slirp.forward("tcp", 8080, 80)
    world.guest.peer("tcp_echo", "0.0.0.0", 80)

    def path_from(source):
        assert world.remote.client("echo", HOST4, 8080, "hello", source, 0).get("reply") == "hello"
        return entry(slirp)["path"]

    assert [path_from(source) for source in (REMOTE4, OTHER4, REMOTE4)] == ["splice", "slirp", "splice"]
    tried = stats(slirp)["splice_flows"]
    assert path_from(OTHER4) == "slirp" and stats(slirp)["splice_flows"] == tried  # not even tried
    assert path_from(REMOTE4) == "splice"


def delays(world, n):
    """How long each of so many connections takes."""
    took = []
    for _ in range(n):
        begin = time.monotonic()
        assert world.remote.client("echo", HOST4, 8080, "hello").get("reply") == "hello"
        took.append(time.monotonic() - begin)
    return took


def test_an_agent_that_never_looks_around_delays_none_but_the_first(world):
    """Where outbound connections are not diverted nobody ends it."""
    slirp = world.start("--divert=off", api=True)
    slirp.forward("tcp", 8080, 80)
    world.guest.peer("tcp_echo", "0.0.0.0", 80)
    standby = take_over_stopped(slirp)
    took = delays(world, 6)
    assert min(took[1:]) < 1, took
    s = stats(slirp)
    assert (s["splice_fallback_not_yet"], s["splice_fallback"]) == (6, 6), s
    os.kill(standby, signal.SIGCONT)

    def spliced():
        assert world.remote.client("echo", HOST4, 8080, "hello").get("reply") == "hello"
        return entry(slirp)["path"] == "splice"

    wait_for("it has looked around", spliced)


def test_an_agent_that_sends_no_sockets_delays_none_but_the_first(world):
    """It is stopped when it has looked around: its stock lasts for a while."""
    slirp = world.start("--divert=off", api=True)
    slirp.forward("tcp", 8080, 80)
    world.guest.peer("tcp_echo_many", "0.0.0.0", 80)
    for pid in wait_for("the agent has looked around", slirp.settled):
        os.kill(pid, signal.SIGSTOP)
    assert world.remote.client("many", HOST4, 8080, 200)["good"] == 200
    s = stats(slirp)
    assert s["splice_flows"] > 0 and s["splice_flows"] + s["splice_fallback_no_socket"] == 200, s
    took = delays(world, 5)
    assert min(took) < 1, took
    assert entry(slirp)["path"] == "slirp"


@pytest.mark.skipif("--divert=off" in PROGRAM_ARGS, reason="switched off by $SLIRP4NETNS_ARGS")
def test_an_agent_that_sends_no_sockets_is_replaced(world):
    slirp = world.start(api=True)
    slirp.forward("tcp", 8080, 80)
    world.guest.peer("tcp_echo_many", "0.0.0.0", 80)
    agent, standby = wait_for("the agent has looked around", slirp.settled)
    os.kill(agent, signal.SIGSTOP)
    assert world.remote.client("many", HOST4, 8080, 200)["good"] == 200
    wait_for("its standby takes its place", lambda: stats(slirp)["agent_restarts"] == 1)
    assert slirp.agents()[0] == standby

    def spliced():
        assert world.remote.client("echo", HOST4, 8080, "hello").get("reply") == "hello"
        return entry(slirp)["path"] == "splice"

    wait_for("its sockets are used", spliced)
