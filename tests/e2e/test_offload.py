# SPDX-License-Identifier: GPL-2.0-or-later
"""Checksums and segmentation left to the kernel: --offload, on the way through libslirp (--divert=off)."""

import contextlib
import os
import socket

import pytest
from harness import REMOTE4, REMOTE6, wait_for
from test_tcp import start

pytestmark = pytest.mark.extension

SIZE = 6_000_017
TUNSETIFF, TUNSETVNETHDRSZ = 0x400454CA, 0x400454D8
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
CARRIERS = ["--io-backend=epoll --threads=shared", "--io-backend=epoll --threads=split",
            "--io-backend=auto --threads=split"]
WAYS = [*(("auto", carrier) for carrier in CARRIERS), ("off", CARRIERS[0])]


def counters(slirp):
    return slirp.api("stats")["return"]


def both_ways(world, where, addr):
    world.remote.peer("tcp_sink", addr, 7000)
    world.remote.peer("tcp_source", addr, 7001, SIZE)
    up = where.client("upload", addr, 7000, SIZE)
    assert up["server"] == {"n": SIZE, "sha256": up["sha256"]}
    there = world.remote.client("download", addr, 7001)
    here = where.client("download", addr, 7001)
    assert there["n"] == SIZE and (here["n"], here["sha256"]) == (SIZE, there["sha256"])


@pytest.mark.parametrize(("mtu", "addr"), [(576, REMOTE4), (1500, REMOTE4), (1500, REMOTE6), (65520, REMOTE4),
                                           (65520, REMOTE6)])
@pytest.mark.parametrize(("offload", "carrier"), WAYS)
def test_bulk_is_unchanged_both_ways(world, offload, mtu, addr, carrier):
    slirp = start(world, "--divert=off", f"--offload={offload}", f"--mtu={mtu}", *carrier.split(), v6=":" in addr)
    both_ways(world, world.guest, addr)
    text = world.guest.run("ip", "-d", "link", "show", "tap0").stdout
    assert ("vnet_hdr on" in text) == (offload == "auto")
    assert slirp.process.poll() is None


def test_large_frames_go_both_ways_at_a_small_mtu(world):
    slirp = world.start("--divert=off", api=True)
    both_ways(world, world.guest, REMOTE4)
    now = counters(slirp)
    assert now["rx_gso"] > 50 and now["tx_gso"] > 50
    assert now["rx_frames"] + now["tx_frames"] < 2 * SIZE / 1460
    assert now["tx_gso_refused"] == now["rx_drop_offload"] == now["rx_drop_malformed"] == 0


@pytest.mark.parametrize("offload", ["auto", "off"])
@pytest.mark.parametrize("mtu", [576, 1500, 65520])
def test_jumbo_datagrams_arrive(world, offload, mtu):
    world.start(f"--offload={offload}", f"--mtu={mtu}", "--divert=off")
    world.remote.peer("udp_echo", REMOTE4, 7000)
    for size in (1, 1472, 9000, 65507):
        assert world.guest.client("udp", REMOTE4, 7000, size)["same"], size


@pytest.mark.parametrize("size", [1200, 9000, 65000])
def test_jumbo_datagrams_arrive_by_ipv6(world, size):
    start(world, "--divert=off", v6=True)
    world.remote.peer("udp_echo", REMOTE6, 7000)
    assert world.guest.client("udp", REMOTE6, 7000, size)["same"]


@pytest.mark.skipif(bool(os.environ.get("E2E_SANITIZER")), reason="sanitizers have memory of their own")
def test_a_thousand_connections_cost_little_memory(world):
    """libslirp reserves 256 KiB for each; what is not used must not be touched."""
    slirp = world.start("--no-splice")
    world.remote.peer("tcp_echo_many", REMOTE4, 7000)
    assert world.guest.begin("client", "crowd", REMOTE4, 7000, 1000).event("connected")["good"] == 1000
    assert int(slirp.status()["VmRSS"].split()[0]) < 64 << 10


@pytest.mark.parametrize("inner_mtu", [1500, 1400])
def test_a_container_behind_masquerade_downloads(world, inner_mtu):
    """Its frames are forwarded: only real segments of its own MSS come through."""
    slirp = world.start("--divert=off", api=True)
    inner = world.space([*world.guest.enter, "unshare", "-n"],
                        lambda pid: [*world.guest.enter, "nsenter", "-t", str(pid), "-n"])
    world.guest.ip("link add br0 type bridge", "addr add 172.18.0.1/16 dev br0", "link set br0 up",
                   f"link add veth0 type veth peer name eth0 netns {inner.pid}", "link set veth0 master br0",
                   f"link set veth0 mtu {inner_mtu}", "link set veth0 up")
    inner.ip("link set lo up", "addr add 172.18.0.2/16 dev eth0", f"link set eth0 mtu {inner_mtu}", "link set eth0 up",
             "route add default via 172.18.0.1")
    world.guest.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
    done = world.guest.run("nft", "add table ip nat; add chain ip nat post { type nat hook postrouting priority 100; }; "
                           "add rule ip nat post oifname tap0 masquerade", check=False)
    if done.returncode != 0:
        pytest.skip("nft masquerade does not work here")
    both_ways(world, inner, REMOTE4)
    assert counters(slirp)["tx_gso"] > 50


@contextlib.contextmanager
def tap_of_the_guest(world, flags, header_size):
    """A TAP made by somebody else, configured, and its descriptor."""
    code = ("import fcntl,os,socket,struct,sys,array\n"
            "fd=os.open('/dev/net/tun',os.O_RDWR)\n"
            f"fcntl.ioctl(fd,{TUNSETIFF},struct.pack('16sH22x',b'tap0',{flags}))\n"
            f"{header_size} and fcntl.ioctl(fd,{TUNSETVNETHDRSZ},struct.pack('i',{header_size}))\n"
            "s=socket.socket(fileno=int(sys.argv[1]))\n"
            "socket.send_fds(s,[b'x'],[fd])\n")
    ours, theirs = socket.socketpair()
    world.guest.run("/usr/bin/python3", "-c", code, str(theirs.fileno()), pass_fds=(theirs.fileno(),))
    fd = socket.recv_fds(ours, 1, 1)[1][0]
    os.set_blocking(fd, False)
    try:
        world.guest.ip("link set lo up", "addr add 10.0.2.100/24 dev tap0", "link set tap0 up mtu 1500",
                       "route add default via 10.0.2.2")
        yield fd
    finally:
        os.close(fd)


@pytest.mark.parametrize(("header", "size"), [(True, 10), (True, 12), (False, 0)])
@pytest.mark.parametrize("offload", ["auto", "off"])
def test_a_tapfd_keeps_its_headers(world, header, size, offload):
    flags = IFF_TAP | IFF_NO_PI | (IFF_VNET_HDR if header else 0)
    with tap_of_the_guest(world, flags, size) as fd:
        world.start("--netns-type=tapfd", f"--offload={offload}", configure=False, target=[str(fd)], pass_fds=(fd,))
        both_ways(world, world.guest, REMOTE4)


def test_a_header_of_an_odd_size_is_an_error(world):
    with tap_of_the_guest(world, IFF_TAP | IFF_NO_PI | IFF_VNET_HDR, 40) as fd:
        done = world.run_program("--netns-type=tapfd", str(fd), pass_fds=(fd,))
        assert done.returncode == 1 and "the TAP's virtio-net header has 40 bytes" in done.stderr


def test_a_persistent_tap_is_left_as_others_expect_it(world):
    """Who attaches next without headers must not get frames with half a checksum."""
    world.guest.ip("tuntap add dev tap0 mode tap")
    slirp = world.start("--divert=off")
    both_ways(world, world.guest, REMOTE4)
    slirp.stop()

    def text():
        return world.guest.run("ip", "-d", "link", "show", "tap0").stdout

    assert "persist on" in text()
    wait_for("nobody is attached", lambda: "NO-CARRIER" in text())
    world.start("--divert=off", "--offload=off", configure=False)
    world.remote.peer("udp_echo", REMOTE4, 7002)
    assert world.guest.client("udp", REMOTE4, 7002, 1200)["same"]
