# SPDX-License-Identifier: GPL-2.0-or-later
"""An nsagent that is killed: its standby takes its place."""

import contextlib
import os
import resource
import signal
import time

import pytest
from harness import GUEST4, HOST4, PROGRAM_ARGS, REMOTE4, wait_for
from test_divert import elements, start, stats, tcp_sockets
from test_inspect import flows_page
from test_splice import entry

OFF = "--divert=off" in PROGRAM_ARGS or "--no-splice" in PROGRAM_ARGS
CONFINED = ["--enable-sandbox", "--enable-seccomp"]
pytestmark = [pytest.mark.extension, pytest.mark.skipif(OFF, reason="switched off by $SLIRP4NETNS_ARGS")]
confinements = pytest.mark.parametrize("args", [[], CONFINED], ids=["default", "confined"])


def kill_agent(slirp):
    """The one at work; the next one is there, and has a standby, when this returns."""
    n = stats(slirp)["agent_restarts"]
    wait_for("the standby", lambda: len(slirp.agents()) == 2)
    agent, standby = slirp.agents()
    os.kill(agent, signal.SIGKILL)
    wait_for("another one takes its place", lambda: stats(slirp)["agent_restarts"] == n + 1)
    # One that is killed while it adds a rule has not noted it, and nobody takes it away.
    assert wait_for("it has a standby, and has looked around", slirp.settled)[0] == standby
    assert stats(slirp)["agent_lost"] == n + 1


def tiers(slirp):
    return sorted(flow["tier"] for flow in flows_page(slirp)["return"]["flows"] if flow["proto"] == "tcp")


def left_in_guest(world):
    text = "".join(world.guest.run(*argv).stdout for argv in (
        ["ip", "-4", "rule"], ["ip", "-6", "rule"], ["ip", "-4", "route", "show", "table", "all"],
        ["ip", "-6", "route", "show", "table", "all"], ["nft", "list", "tables"]))
    return [line for line in text.splitlines() if "21324" in line or "0x534c0000" in line or "slirp4netns_" in line]


@confinements
def test_an_agent_that_is_killed_comes_back(world, args):
    slirp = start(world, *args)
    slirp.forward("tcp", 8080, 80)
    world.guest.peer("tcp_echo", "0.0.0.0", 80)
    world.remote.peer("tcp_echo", REMOTE4, 7000)
    held = [world.guest.begin("client", "hold", REMOTE4, 7000, GUEST4, 0),
            world.remote.begin("client", "hold", HOST4, 8080, REMOTE4, 0)]
    for client in held:
        client.event("held")
    spliced = tiers(slirp)
    assert spliced == ["splice-forward", "splice-outbound"]

    def diverted_again():
        n = stats(slirp)["divert_flows"]
        assert world.guest.client("echo", REMOTE4, 7000, "out")["reply"] == "out"
        return stats(slirp)["divert_flows"] == n + 1

    def forwarded_by_splice_again():
        n = stats(slirp)["splice_flows"]
        assert world.remote.client("echo", HOST4, 8080, "in")["reply"] == "in"
        return stats(slirp)["splice_flows"] > n and entry(slirp)["path"] == "splice"

    for _ in range(3):  # each time by one that was made by the one before
        kill_agent(slirp)
        assert tiers(slirp) == spliced
        wait_for("new outbound connections are diverted", diverted_again)
        wait_for("new forwarded connections are spliced", forwarded_by_splice_again)
    for client in held:
        client.process.send_signal(signal.SIGUSR1)
        assert client.event("alive")["ok"]
    assert slirp.err().count("another one takes its place") == 3
    pids = slirp.agents()
    slirp.stop()
    wait_for("everything is gone", lambda: not left_in_guest(world))
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)


@confinements
def test_no_connection_is_lost_while_agents_are_killed(world, args):
    """Those whose guest's side was being built are built by the next one."""
    slirp = start(world, *args)
    world.remote.peer("tcp_echo_many", REMOTE4, 7000)
    n = 1000 if os.environ.get("E2E_SANITIZER") else 2500
    clients = [world.guest.begin("client", "sequence", REMOTE4, 7000, n) for _ in range(2)]
    for i in range(5):
        wait_for("connections go on", lambda i=i: stats(slirp)["divert_flows"] > (i + 1) * n // 8)
        kill_agent(slirp)
    assert [client.result(60).get("good") for client in clients] == [n, n]
    s = stats(slirp)
    assert s["divert_flows"] + s["divert_fallback"] == 2 * n and s["divert_flows"] > n, s
    wait_for("the table is empty", lambda: stats(slirp)["divert_open"] == 0, 20)
    wait_for("no element is left", lambda: elements(world) == [])


def test_an_agent_that_does_not_answer_is_replaced(world):
    """A root of the guest's may stop it."""
    slirp = start(world, *CONFINED)
    world.remote.peer("tcp_echo", REMOTE4, 7000)
    agent, standby = wait_for("the agent has looked around", slirp.settled)
    os.kill(agent, signal.SIGSTOP)
    assert world.guest.client("echo", REMOTE4, 7000, "anybody?")["reply"] == "anybody?"
    s = stats(slirp)
    assert (s["divert_flows"], s["agent_restarts"]) == (1, 1), s
    assert slirp.agents()[0] == standby and "has not answered" in slirp.err()


def test_a_pause_of_all_is_not_the_agents_silence(world):
    """A frozen container, a virtual machine that was saved: nobody could answer."""
    slirp = start(world, *CONFINED)
    server = world.remote.peer("tcp_echo", REMOTE4, 7000)
    agent = wait_for("the agent has looked around", slirp.settled)[0]
    os.kill(agent, signal.SIGSTOP)
    client = world.guest.begin("client", "echo", REMOTE4, 7000, "wait")
    server.event("accepted")
    wait_for("the agent has been asked for the guest's side", lambda: all(
        slirp.status(tid)["State"].startswith("S") for tid in slirp.threads()))
    slirp.process.send_signal(signal.SIGSTOP)
    time.sleep(4)  # more than an agent may be silent for
    os.kill(agent, signal.SIGCONT)
    wait_for("it has answered", slirp.at_rest)  # it has 200 ms for that once the program goes on
    slirp.process.send_signal(signal.SIGCONT)
    assert client.result()["reply"] == "wait"
    s = stats(slirp)
    assert (s["divert_flows"], s["agent_restarts"], s["agent_lost"]) == (1, 0, 0), s


@pytest.mark.skipif(resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 16384, reason="fewer descriptors than this needs")
def test_an_agent_with_too_much_to_do_is_waited_for(world):
    """Its socket takes some 170 requests; the others wait for it, and none goes to libslirp instead."""
    n = 500
    slirp = start(world, *CONFINED)
    world.remote.peer("tcp_echo_many", REMOTE4, 7000)
    agent = wait_for("the agent has looked around", slirp.settled)[0]
    begin = time.monotonic()
    os.kill(agent, signal.SIGSTOP)
    client = world.guest.begin("client", "at_once", REMOTE4, 7000, n)
    wait_for("more than it can hear", lambda: tcp_sockets(world.remote) >= n / 2)
    with contextlib.suppress(ProcessLookupError):  # 3 s on a busy machine: its standby is asked, then
        os.kill(agent, signal.SIGCONT)
    assert client.result(60).get("good") == n
    seconds = time.monotonic() - begin
    s = stats(slirp)
    assert s["divert_flows"] > 0 and s["divert_flows"] + s["divert_fallback"] == n, s
    assert s["divert_fallback"] == 0 or seconds > 2, s  # for which they wait


def take_over_stopped(slirp):
    """The agent is killed; its standby, which takes its place, is stopped and has said nothing. Returns its id."""
    agent, standby = wait_for("the agent has looked around", slirp.settled)
    os.kill(standby, signal.SIGSTOP)
    n = stats(slirp)["agent_restarts"]
    os.kill(agent, signal.SIGKILL)
    wait_for("another one takes its place", lambda: stats(slirp)["agent_restarts"] == n + 1)
    return standby


@confinements
def test_an_agent_that_has_not_looked_around_is_waited_for(world, args):
    """As at the start on a busy machine: the path that a connection begins with is the one it keeps."""
    slirp = start(world, *args)
    slirp.forward("tcp", 8080, 80)
    server = world.remote.peer("tcp_echo", REMOTE4, 7000)
    world.guest.peer("tcp_echo", "0.0.0.0", 80)
    for _ in range(5):  # a busy machine may take longer for it than the program is patient
        before, begin = stats(slirp), time.monotonic()
        standby = take_over_stopped(slirp)
        clients = [world.guest.begin("client", "echo", REMOTE4, 7000, "wait"),
                   world.remote.begin("client", "echo", HOST4, 8080, "wait")]
        server.event("accepted")  # the host's side of an outbound connection does not wait
        n = before["fwd_accepted"] + 1
        wait_for("the forward has its connection", lambda n=n: stats(slirp)["fwd_accepted"] == n)
        now = stats(slirp)
        with contextlib.suppress(ProcessLookupError):
            os.kill(standby, signal.SIGCONT)
        assert [client.result()["reply"] for client in clients] == ["wait", "wait"]
        if time.monotonic() - begin < 2:
            break
    else:
        pytest.skip("the machine was too busy, five times")

    def change(to, name):
        return to[name] - before[name]

    after = stats(slirp)
    assert [change(now, name) for name in ("divert_flows", "splice_flows")] == [0, 0], now
    assert [change(after, name) for name in ("divert_flows", "splice_flows")] == [1, 1], after
    assert [change(after, name) for name in ("divert_fallback", "splice_fallback")] == [0, 0], after
    assert entry(slirp)["path"] == "splice"


def test_one_that_does_not_look_around_is_not_waited_for_for_ever(world):
    slirp = start(world)
    slirp.forward("tcp", 8080, 80)
    world.remote.peer("tcp_echo", REMOTE4, 7000)
    world.guest.peer("tcp_echo", "0.0.0.0", 80)
    take_over_stopped(slirp)
    clients = [world.guest.begin("client", "echo", REMOTE4, 7000, "anybody?"),
               world.remote.begin("client", "echo", HOST4, 8080, "anybody?")]
    assert [client.result()["reply"] for client in clients] == ["anybody?", "anybody?"]
    s = stats(slirp)
    assert (s["divert_flows"], s["divert_fallback"], s["splice_flows"], s["splice_fallback"]) == (0, 1, 0, 1), s


def test_libslirp_takes_over_when_no_agent_answers(world):
    slirp = start(world, *CONFINED)
    world.remote.peer("tcp_echo", REMOTE4, 7000)
    for pid in wait_for("the agent has looked around", slirp.settled):
        os.kill(pid, signal.SIGSTOP)
    assert world.guest.client("echo", REMOTE4, 7000, "anybody?")["reply"] == "anybody?"
    wait_for("both are gone", lambda: not slirp.agents())
    s = stats(slirp)
    assert (s["divert_flows"], s["agent_lost"]) == (0, 2), s
    wait_for("the table is gone", lambda: "slirp4netns_" not in world.guest.run("nft", "list", "tables").stdout)


def test_nothing_is_left_when_the_program_is_killed_after_its_agent(world):
    slirp = start(world)
    kill_agent(slirp)
    wait_for("the next one has looked around", lambda: len(left_in_guest(world)) == 2 * 4 + 1)
    pids = slirp.agents()
    slirp.process.kill()
    slirp.wait()
    wait_for("everything is gone", lambda: not left_in_guest(world))
    wait_for("so are the agents", lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids))
