# SPDX-License-Identifier: GPL-2.0-or-later
"""There is always a way through: what the fast ways need is missing, and the connection works all the same."""

import ctypes
import errno
import os
import resource
import socket

import pytest
from harness import GATEWAY4, HOST4, PROGRAM_ARGS, REMOTE4, SANITIZER, run, wait_for
from test_divert import start as start_diverting
from test_divert import stats
from test_splice import entry, raise_limit

OFF = "--divert=off" in PROGRAM_ARGS or "--no-splice" in PROGRAM_ARGS
pytestmark = [pytest.mark.extension, pytest.mark.skipif(OFF, reason="switched off by $SLIRP4NETNS_ARGS")]

CONFINED = ["--enable-sandbox", "--enable-seccomp"]
NETLINK_ROUTE, NETLINK_NETFILTER = 0, 12


def no_call(name, error, *arguments):
    """A preexec that makes @name fail where its arguments are those, (index, value) each, as a container's seccomp
    profile may."""
    class Compare(ctypes.Structure):
        _fields_ = [("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64)]

    lib = ctypes.CDLL("libseccomp.so.2", use_errno=True)
    lib.seccomp_init.restype = ctypes.c_void_p

    def install():
        equal, allow, fail = 4, 0x7fff0000, 0x00050000 | error
        ctx = ctypes.c_void_p(lib.seccomp_init(ctypes.c_uint32(allow)))
        compare = (Compare * len(arguments))(*(Compare(index, equal, value, 0) for index, value in arguments))
        if lib.seccomp_rule_add_array(ctx, ctypes.c_uint32(fail), lib.seccomp_syscall_resolve_name(name),
                                      len(arguments), compare) != 0 or lib.seccomp_load(ctx) != 0:
            os._exit(99)

    return install


def no_netlink(protocol, error):
    """socket(AF_NETLINK, any, @protocol) fails."""
    return no_call(b"socket", error, (0, socket.AF_NETLINK), (2, protocol))


def ready_made_tap(world):
    """As RootlessKit leaves it: nothing for the program to configure."""
    world.guest.ip("link set lo up")
    world.guest.run("ip", "tuntap", "add", "name", "tap0", "mode", "tap")
    world.guest.ip("link set tap0 up", "addr add 10.0.2.100/24 dev tap0", "route add default via 10.0.2.2 dev tap0")


def out_works(world, port=7000):
    world.remote.peer("tcp_sink", REMOTE4, port)
    r = world.guest.client("upload", REMOTE4, port, 100_000)
    assert r["server"]["sha256"] == r["sha256"]


def in_works(world, slirp):
    slirp.forward("tcp", 8080, 80)
    server = world.guest.peer("tcp_echo", "0.0.0.0", 80)
    assert world.remote.client("echo", HOST4, 8080, "hello")["reply"] == "hello"
    assert server.event("accepted")["peer"] == REMOTE4


@pytest.mark.parametrize("error", [errno.EPROTONOSUPPORT, errno.EPERM])
def test_without_nf_tables_only_forwards_are_spliced(world, error):
    slirp = world.start(api=True, preexec=no_netlink(NETLINK_NETFILTER, error))
    out_works(world)
    assert stats(slirp)["divert_flows"] == 0
    wait_for("it is said", lambda: "nf_tables" in slirp.out() + slirp.err())
    in_works(world, slirp)
    assert entry(slirp)["path"] == "splice"


@pytest.mark.parametrize("args", [[], CONFINED])
def test_on_says_that_there_is_no_nf_tables(world, args):
    slirp = world.start("--divert=on", *args, ready=False, preexec=no_netlink(NETLINK_NETFILTER, errno.EPROTONOSUPPORT))
    assert slirp.wait() == 1
    assert "--divert=on" in slirp.err() and "nf_tables" in slirp.err()


def no_filter():
    """Nobody may enter a filter of system calls: seccomp(SECCOMP_SET_MODE_FILTER)."""
    return no_call(b"seccomp", errno.EPERM, (0, 1))


@pytest.mark.skipif(bool(SANITIZER), reason="the agent has no filter then")
def test_on_fails_at_the_start_if_the_agent_cannot_be_sealed(world):
    slirp = world.start("--divert=on", ready=False, preexec=no_filter())
    assert slirp.wait() == 1
    assert "the agent" in slirp.err(), slirp.err()


@pytest.mark.skipif(bool(SANITIZER), reason="the agent has no filter then")
def test_an_agent_that_cannot_be_sealed_ends_and_says_why(world):
    slirp = world.start(api=True, preexec=no_filter())
    wait_for("it is said", lambda: "nsagent: " in slirp.err())
    out_works(world)
    in_works(world, slirp)
    assert stats(slirp)["agent_lost"] == 1
    assert entry(slirp)["path"] == "slirp"


@pytest.mark.parametrize("args", [[], CONFINED])
def test_without_rtnetlink_everything_goes_through_libslirp(world, args):
    """Policy routing is not permitted: the start says so, and so does each forward."""
    ready_made_tap(world)
    slirp = world.start(*args, configure=False, api=True, preexec=no_netlink(NETLINK_ROUTE, errno.EPERM))
    wait_for("it is said", lambda: "rtnetlink" in slirp.out() + slirp.err())
    out_works(world)
    in_works(world, slirp)
    assert entry(slirp)["path"] == "slirp" and entry(slirp)["reason"]
    assert stats(slirp)["divert_flows"] == 0
    assert not run(["pgrep", "-P", str(slirp.pid)]).stdout, "the agent that could not start has been waited for"


def test_rules_that_are_taken_away_and_refused_mean_libslirp(world):
    """Somebody else's rule in the way of ours: packets with the mark are prohibited in the guest."""
    slirp = start_diverting(world)
    world.guest.ip("rule add priority 1 fwmark 0x534c0000/0xffff0000 prohibit")
    slirp.forward("tcp", 8080, 80)
    world.guest.peer("tcp_echo", "0.0.0.0", 80)

    def works():
        return world.remote.client("echo", HOST4, 8080, "hello").get("reply") == "hello"

    wait_for("the forward's connections find libslirp's path", works)
    assert entry(slirp)["path"] == "slirp"


def test_a_read_only_proc_sys_costs_forwards_their_speed_only(world):
    """The program runs inside a container: /proc/sys cannot be written."""
    done = world.host.run("mount", "-o", "bind,ro", "/proc/sys", "/proc/sys", check=False)
    if done.returncode == 0:
        done = world.host.run("mount", "-o", "remount,bind,ro", "/proc/sys", check=False)
    if done.returncode != 0:
        pytest.skip(f"/proc/sys cannot be mounted read-only here: {done.stderr}")
    slirp = world.start(api=True)
    out_works(world)
    in_works(world, slirp)
    assert entry(slirp)["path"] == "slirp" and "tcp_fwmark_accept" in entry(slirp)["reason"]
    assert stats(slirp)["splice_fallback_no_sysctl"] == 1


def test_few_descriptors_end_no_connection_that_works(world):
    """The limit is near: some connections cannot be had, the established ones go on, and later all is well again."""
    slirp = start_diverting(world, preexec=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (96, 96)))
    world.remote.peer("tcp_echo_many", REMOTE4, 7000)
    held = world.guest.begin("client", "hold", REMOTE4, 7000, "10.0.2.100", 0)
    held.event("held")
    many = world.guest.begin("client", "many", REMOTE4, 7000, 200)
    many.result()  # how that ends is not what counts
    held.process.send_signal(10)
    assert held.event("alive")["ok"]
    many.end()
    before = stats(slirp)["divert_flows"]

    def diverted_again():
        return (world.guest.client("echo", REMOTE4, 7000, "x").get("reply") == "x" and
                stats(slirp)["divert_flows"] > before)

    wait_for("connections work and are diverted again", diverted_again, 60)
    assert slirp.process.poll() is None and len(slirp.err()) < 40_000


def test_of_many_connections_none_is_lost(world):
    """One that has no place in the table, or no descriptor for this way, goes through libslirp."""
    slirp = start_diverting(world, preexec=raise_limit)
    world.remote.peer("tcp_echo_many", REMOTE4, 7000)
    n = 8000
    assert world.guest.begin("client", "many", REMOTE4, 7000, n).result(120)["good"] == n
    s = stats(slirp)
    assert s["divert_flows"] + s["divert_fallback"] >= n and s["divert_flows"] > n // 2
    reasons = {key: value for key, value in s.items() if key.startswith("divert_fallback_") and value}
    assert sum(reasons.values()) == s["divert_fallback"], reasons


def test_a_lost_agent_is_said_and_counted(world):
    slirp = start_diverting(world)
    slirp.kill_agents()
    wait_for("it is noticed", lambda: stats(slirp)["agent_lost"] == 1)
    out_works(world)
    world.host.peer("tcp_echo", "127.0.0.1", 7001)
    assert world.guest.client("echo", GATEWAY4, 7001, "x")["reply"] == "x"
    assert stats(slirp)["divert_fallback_no_agent"] == 2 and "agent" in slirp.err()
