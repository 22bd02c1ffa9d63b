# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest that sends rubbish, or far too much."""

import resource

import pytest
from harness import GATEWAY4, REMOTE4, wait_for
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
