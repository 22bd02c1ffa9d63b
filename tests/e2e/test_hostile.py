# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest that sends rubbish, or far too much."""

import os
import pathlib
import resource
import signal
import statistics
import time

import pytest
from harness import DEADLINE_S, GATEWAY4, REMOTE4, SANITIZER, wait_for
from test_inspect import flows_page
from test_tcp import start


@pytest.mark.reference_bug("libslirp follows pointers out of overlapping fragments and crashes")
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_broken_frames_harm_nobody(world, seed):
    slirp = start(world, v6=True)
    world.remote.peer("tcp_echo", REMOTE4, 7000)
    world.guest.do("raw_frames", "tap0", seed, 4000)
    assert world.guest.client("echo", REMOTE4, 7000, "alive")["reply"] == "alive"
    assert slirp.process.poll() is None
    assert len(slirp.err()) < 20000


@pytest.mark.reference_bug("spins and logs without end when descriptors run out")
def test_no_descriptors_left_is_no_reason_to_spin(world):
    slirp = world.start(preexec=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)))
    world.remote.peer("tcp_echo", REMOTE4, 7000)
    many = world.guest.begin("client", "many", REMOTE4, 7000, 100)
    many.result()  # some of the hundred cannot be had: how that ends is not what counts
    before = slirp.cpu_s()
    # Still alive, and quiet.
    many.end()
    wait_for("connections work again",
             lambda: world.guest.client("echo", REMOTE4, 7000, "x").get("reply") == "x", 60)
    assert slirp.cpu_s() - before < 5
    assert len(slirp.err()) < 20000


@pytest.mark.reference_bug("keeps the soft limit of 1024")
def test_the_soft_limit_of_descriptors_is_raised(world):
    slirp = world.start(preexec=lambda: resource.setrlimit(
        resource.RLIMIT_NOFILE, (256, resource.getrlimit(resource.RLIMIT_NOFILE)[1])))
    limits = open(f"/proc/{slirp.pid}/limits", encoding="utf-8").read()
    line = next(line for line in limits.splitlines() if line.startswith("Max open files"))
    soft, hard = line.split()[3:5]
    assert soft == hard


def test_gateway_pings_survive_a_flood(world):
    world.start()
    world.guest.run("ping", "-c", "2000", "-f", "-q", GATEWAY4)
    assert world.guest.run("ping", "-c1", "-W3", GATEWAY4).returncode == 0


ATTACKS = ["syn_flood", "syn_options", "port_scan", "scan_of_the_loopback", "rst_fin_storm", "half_open", "udp_spray",
           "fragments", "arp_spoof", "ndp_spoof", "checksum_lies", "gso_lies", "zero_window"]
# Those that do not meet TCP's diversion are the same without it.
DIVERTED = [*ATTACKS[:6], "checksum_lies", "gso_lies", "zero_window"]
READERS = 100
ATTACK_RATE = 2000  # frames a second: what a scanner does, and little work for the one that makes them
MEMORY_MAX = 96 << 20  # reassembly may have 2 MiB, the frame pools 50 MiB; the rest is libslirp's sockets
SETTLE_S = 40
# Other work on the machine changes a rate by a factor of four from one second to the next (seen with a load of 12: one
# comparison in six failed, none with the machine to itself). What an attack really does, it does every time.
ATTEMPTS_MAX = 6


@pytest.mark.extension
@pytest.mark.skipif(bool(SANITIZER), reason="sanitizers have a speed and a footprint of their own")
@pytest.mark.parametrize("attack,args", [
    *[pytest.param(attack, ["--divert=off"], id=f"{attack}-libslirp") for attack in ATTACKS],
    *[pytest.param(attack, ["--divert=auto"], id=f"{attack}-divert") for attack in DIVERTED]])
def test_an_attack_is_bounded_and_leaves_others_half_of_their_throughput(world, attack, args):
    slirp = world.start("--disable-host-loopback", "--enable-ipv6", *args, api=True)
    world.remote.peer("tcp_source_endless", REMOTE4, 7001)
    if attack == "half_open":
        world.remote.peer("tcp_echo_many", REMOTE4, 7000)

    def attacked_by():
        if attack in ("zero_window", "one_byte"):
            return world.guest.peer("slow_readers", REMOTE4, 7001, attack, READERS, 3)
        return world.guest.peer("raw_attack", "tap0", attack, 3, ATTACK_RATE)

    def rate():
        return world.guest.client("rate", REMOTE4, 7001, 0.6)["rate"]

    def descriptors():
        return len(os.listdir(f"/proc/{slirp.pid}/fd"))

    def memory():
        return int(pathlib.Path(f"/proc/{slirp.pid}/statm").read_text("utf-8").split()[1]) * resource.getpagesize()

    rate()
    n_before, seen = descriptors(), []
    for _ in range(ATTEMPTS_MAX):
        quiet = [rate()]
        attacker = attacked_by()
        attacked = [rate(), rate()]
        assert attacker.result()["sent"] >= (READERS if attack in ("zero_window", "one_byte") else ATTACK_RATE // 4)
        assert memory() < MEMORY_MAX
        quiet.append(rate())
        seen.append((quiet, attacked))
        if max(attacked) >= statistics.median(quiet) / 2:
            break
    else:
        raise AssertionError(f"less than half each time: {seen}")
    assert slirp.process.poll() is None
    assert len(slirp.err()) < 20000
    if attack not in ("udp_spray", "half_open", "gso_lies"):  # libslirp keeps a datagram's socket for four minutes
        wait_for("descriptors are given back", lambda: descriptors() <= n_before + 20, SETTLE_S)
    assert rate() > 0


def silent_places(world):
    """What arrives at the remote for somebody else is dropped without a word: it does not forward."""
    world.host.ip(f"route add 198.51.100.0/24 via {REMOTE4}")


@pytest.mark.extension
@pytest.mark.skipif(bool(SANITIZER), reason="sanitizers have a speed of their own")
@pytest.mark.parametrize("attack", ["half_open", "silent_places"])
def test_half_open_diverted_connections_are_bounded_and_others_get_through(world, attack):
    """Destinations that never answer, or a guest that never does: 256 and 128 of 1024 descriptors' worth."""
    slirp = world.start("--disable-host-loopback", "--divert=on", api=True,
                        preexec=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024)))
    silent_places(world)
    world.remote.peer("tcp_echo_many", REMOTE4, 7000)
    world.remote.peer("tcp_source_endless", REMOTE4, 7001)
    world.remote.peer("tcp_echo", REMOTE4, 7002)

    def rate():
        return world.guest.client("rate", REMOTE4, 7001, 0.6)["rate"]

    def stats():
        found = slirp.api("stats")["return"]
        seen.append(found["divert_half_open"])
        assert len(os.listdir(f"/proc/{slirp.pid}/fd")) < 1000
        return found

    seen, rates = [], []
    rate()
    for _ in range(ATTEMPTS_MAX):
        quiet = rate()
        attacker = world.guest.peer("raw_attack", "tap0", attack, 3, ATTACK_RATE)
        attacked = []
        for _ in range(2):
            attacked.append(rate())
            begin = time.monotonic()
            answer = world.guest.client("echo", REMOTE4, 7002, "new")
            assert answer.get("reply") == "new", answer
            assert time.monotonic() - begin < 7  # its SYN was sent three times at most
            stats()
        assert attacker.result()["sent"] >= ATTACK_RATE // 4
        rates.append((quiet, attacked))
        if max(attacked) >= min(quiet, rate()) / 2:
            break
    else:
        raise AssertionError(f"less than half each time: {rates}")
    # Beyond the bounds are those that are younger than a tenth of a second, at most half as many again; and what came in
    # one turn.
    assert 100 < max(seen) <= (256 + 128) * 1.5 + 64, seen
    assert stats()["divert_half_open_evicted"] > 100
    assert stats()["divert_fallback_descriptors"] == 0
    assert slirp.process.poll() is None


@pytest.mark.extension
def test_connections_without_end_do_not_keep_the_program_from_ending(world):
    """Each of these takes longer to serve than to ask for."""
    slirp = world.start("--threads=split", "--divert=on", api=True)
    world.remote.peer("tcp_echo_many", REMOTE4, 7000)
    world.guest.peer("raw_attack", "tap0", "syn_flood", 2 * DEADLINE_S, 1_000_000)
    wait_for("they are served", lambda: slirp.api("stats")["return"]["divert_flows"] > 200)
    assert flows_page(slirp)["return"]["flows"]
    slirp.process.terminate()
    assert slirp.wait() == -signal.SIGTERM


@pytest.mark.extension
@pytest.mark.skipif(bool(SANITIZER), reason="sanitizers have a footprint of their own")
def test_half_open_connections_through_libslirp_are_bounded_and_small(world):
    """Buffers that nothing was written to take no memory: 266 KiB for each connection they once were."""
    slirp = world.start("--divert=off", api=True)
    world.remote.peer("tcp_echo_many", REMOTE4, 7000)

    def resident():
        return int(slirp.status()["VmRSS"].split()[0]) << 10

    before = resident()
    attacker = world.guest.peer("raw_attack", "tap0", "half_open", DEADLINE_S, 2500)
    wait_for("they are there", lambda: slirp.api("stats")["return"]["slirp_sockets"] > 1500)
    attacker.end()
    after = resident()
    n = slirp.api("stats")["return"]["slirp_sockets"]
    assert (after - before) / n < 32 << 10, (before, after, n)


@pytest.mark.extension
@pytest.mark.skipif(bool(SANITIZER), reason="sanitizers have a speed of their own")
@pytest.mark.skipif(resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 10000, reason="fewer descriptors than the bound")
def test_connections_through_libslirp_have_a_bound_besides_that_of_descriptors(world):
    slirp = world.start("--divert=off", api=True)
    silent_places(world)
    attacker = world.guest.peer("raw_attack", "tap0", "silent_places", DEADLINE_S, 4000, 12000)

    def stats():
        return slirp.api("stats")["return"]

    wait_for("SYNs are dropped", lambda: stats()["rx_drop_connections"] > 0)
    attacker.end()
    assert 8000 < stats()["slirp_sockets"] <= 8192
    assert world.guest.run("ping", "-c1", "-W3", GATEWAY4).returncode == 0
