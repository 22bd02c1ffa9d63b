# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest's own datagrams on the direct path (--udp=direct).

The same promise is asked of libslirp's path wherever that keeps it.
"""

import os

import pytest
from harness import DNS4, DNS6, GATEWAY4, GATEWAY6, HOST4, REMOTE4, REMOTE6, wait_for
from test_inspect import of_tier
from test_tcp import start

BOTH = pytest.mark.parametrize("path", [pytest.param(["--udp=direct"], marks=pytest.mark.extension), []],
                               ids=["direct", "slirp"])
DIRECT = "--udp=direct"
pytestmark = pytest.mark.extension
FAMILIES = pytest.mark.parametrize("v6", [False, True], ids=["v4", "v6"])


def stats(slirp):
    return slirp.api("stats")["return"]


def descriptors(slirp):
    return len(os.listdir(f"/proc/{slirp.pid}/fd"))


# Sockets of the guest that nsagent makes in advance, with --api-socket, and two descriptors of its standby's.
STOCK = 2 * 64 + 2


def remote_of(v6):
    return REMOTE6 if v6 else REMOTE4


def test_udp_slirp_leaves_everything_to_libslirp(world):
    world.remote.peer("udp_echo", REMOTE4, 7000)
    slirp = world.start("--udp=slirp", api=True)
    assert world.guest.client("udp", REMOTE4, 7000, 10)["same"]
    assert stats(slirp)["udp_opened"] == 0


@FAMILIES
def test_datagrams_go_past_libslirp(world, v6):
    world.remote.peer("udp_echo", remote_of(v6), 7000)
    slirp = start(world, DIRECT, v6=v6, api=True)
    assert world.guest.client("udp", remote_of(v6), 7000, 10)["same"]
    # The guest may have its answer before the program has counted it.
    wait_for("both ways are counted", lambda: [stats(slirp)[f"udp_{name}"] for name in
                                               ("out", "in", "out_bytes", "in_bytes")] == [1, 1, 10, 10])
    assert stats(slirp)["slirp_sockets"] == 0
    rows = of_tier(slirp, "udp")
    assert rows and rows[0]["proto"] == "udp" and rows[0]["bytes_to_host"] == 10


@BOTH
@FAMILIES
@pytest.mark.parametrize("mtu", [1500, 65520])
def test_many_datagrams_come_back_as_they_were(world, path, v6, mtu):
    """Also what is sent as one batch: sizes alternate, so that runs begin and end."""
    world.remote.peer("udp_echo_many", remote_of(v6), 7000)
    start(world, *path, f"--mtu={mtu}", v6=v6)
    for size in (1, 1200, 1400):
        r = world.guest.client("udp_many", remote_of(v6), 7000, 30, size)
        # A sender that moves to another CPU may be overtaken on its way (veth), and a burst may be cut.
        assert r["good"] == r["n"] >= 20, r


@BOTH
@pytest.mark.parametrize("mtu", [1500, 65520])
def test_segments_of_one_send_arrive_as_datagrams(world, path, mtu):
    world.remote.peer("udp_echo_many", REMOTE4, 7000)
    world.start(*path, f"--mtu={mtu}")
    r = world.guest.client("udp_segments", REMOTE4, 7000, 20, 1200)
    assert r["same"] and r["sizes"] == [1193, 1200]


@pytest.mark.parametrize("mtu", [1500, 65520])
@pytest.mark.parametrize("forward", [False, True], ids=["alone", "beside-a-forward"])
def test_frames_hold_several_datagrams_both_ways(world, mtu, forward):
    """Where the kernel has USO (Linux 6.2)."""
    world.remote.peer("udp_echo_many", REMOTE4, 7000)
    slirp = world.start(DIRECT, f"--mtu={mtu}", api=True)
    if forward:
        slirp.forward("udp", 5353, 5300)
    r = world.guest.client("udp_segments", REMOTE4, 7000, 20, 1200)
    assert r["same"] and r["sizes"] == [1193, 1200]
    # The guest may have its answer before the program has counted it.
    wait_for("both ways are counted", lambda: [stats(slirp)[name] for name in ("udp_out", "udp_in")] == [20, 20])
    s = stats(slirp)
    assert s["rx_drop_offload"] == s["tx_gso_refused"] == 0
    if tuple(int(n) for n in os.uname().release.split("-")[0].split(".")[:2]) < (6, 2):
        return
    assert s["rx_gso"] > 0 and s["udp_out_calls"] < 10
    for _ in range(20):  # answers are joined when several wait at the same time
        assert world.guest.client("udp_segments", REMOTE4, 7000, 20, 1200)["same"]
        if stats(slirp)["udp_in_joined"] > 0:
            return
    raise AssertionError("never were two answers joined")


def test_what_is_joined_from_a_forwards_port_is_taken_apart(world):
    """It may be for the forward's clients; it is not."""
    world.remote.peer("udp_echo_many", REMOTE4, 7000)
    slirp = world.start(DIRECT, api=True)
    slirp.forward("udp", 5353, 5300)
    r = world.guest.client("udp_segments", REMOTE4, 7000, 20, 1200, 5300)
    assert r["same"] and r["sizes"] == [1193, 1200]


def test_a_capture_holds_datagrams_as_they_are(world):
    world.remote.peer("udp_echo_many", REMOTE4, 7000)
    slirp = world.start(DIRECT, f"--pcap={world.work}/x.pcapng", api=True)
    assert world.guest.client("udp_segments", REMOTE4, 7000, 20, 1200)["same"]
    assert stats(slirp)["rx_gso"] == 0


def test_without_offload_every_datagram_is_a_frame(world):
    world.remote.peer("udp_echo_many", REMOTE4, 7000)
    slirp = world.start(DIRECT, "--offload=off", api=True)
    assert world.guest.client("udp_segments", REMOTE4, 7000, 20, 1200)["same"]
    wait_for("all are counted", lambda: stats(slirp)["udp_in"] == 20)
    s = stats(slirp)
    assert s["rx_gso"] == s["udp_in_joined"] == 0


@pytest.mark.parametrize("v6", [False, True], ids=["v4", "v6"])
@pytest.mark.parametrize("size", [1, 9000, 65507])
def test_large_datagrams_by_both_families(world, v6, size):
    world.remote.peer("udp_echo", remote_of(v6), 7000)
    start(world, DIRECT, v6=v6)
    # Whose neighbour has not answered yet keeps only so many fragments for it; and any may be lost on a busy machine.
    assert world.guest.client("udp", remote_of(v6), 7000, 1)["same"]
    wait_for("it comes back", lambda: world.guest.client("udp", remote_of(v6), 7000, size, 5).get("same"))


@pytest.mark.parametrize("mode", ["shared", "split"])
@pytest.mark.parametrize("headers", [[], ["options"], ["fragment"], ["options", "options"]],
                         ids=["nothing", "options", "whole", "options-twice"])
def test_a_datagram_in_ipv6_fragments_arrives_whatever_follows_the_fragment_header(world, mode, headers):
    """All of its fragments are put together by one thread, also when only the first one says that it is UDP."""
    far = world.remote.peer("udp_echo", REMOTE6, 7000)
    start(world, DIRECT, f"--threads={mode}", v6=True)
    world.guest.do("raw_fragments6", "tap0", REMOTE6, 7000, *headers)
    assert far.event("datagram")["n"] == 64


@pytest.mark.parametrize("mode", ["shared", "split"])
def test_a_fragment_that_was_in_fragments_is_dropped_and_counted(world, mode):
    """Nobody sends that; what is put together is a fragment again."""
    slirp = start(world, DIRECT, f"--threads={mode}", v6=True, api=True)
    world.guest.do("raw_fragments6", "tap0", REMOTE6, 7000, "part")
    wait_for("it is counted", lambda: stats(slirp)["rx_drop_fragment"] == 1)


@pytest.mark.reference_bug("shows the gateway's ICMP errors with the source 127.0.0.1, which the guest drops")
@pytest.mark.parametrize("addr", [GATEWAY4, GATEWAY6])
def test_a_closed_port_of_the_gateway_is_refused(world, addr):
    start(world, DIRECT, v6=":" in addr)
    assert world.guest.client("udp_connected", addr, 7000)["errno"] == "ECONNREFUSED"


@BOTH
def test_a_closed_port_of_another_host_is_refused(world, path):
    world.start(*path)
    assert world.guest.client("udp_connected", REMOTE4, 7000)["errno"] == "ECONNREFUSED"


def test_a_closed_port_of_another_host_is_refused_by_ipv6(world):
    start(world, DIRECT, v6=True)
    assert world.guest.client("udp_connected", REMOTE6, 7000)["errno"] == "ECONNREFUSED"


@BOTH
def test_an_unreachable_network_is_reported(world, path):
    world.start(*path)
    assert world.guest.client("udp_connected", "198.51.100.7", 7000)["errno"] in ("ENETUNREACH", "EHOSTUNREACH")


@BOTH
def test_the_first_router_is_the_gateway(world, path):
    world.start(*path)
    r = world.guest.client("ttl", REMOTE4, 7000, 1)
    assert (r["type"], r["offender"]) == (11, GATEWAY4)


@BOTH
def test_the_ttl_goes_along(world, path):
    far = world.remote.peer("udp_ttl", REMOTE4, 7000)
    world.start(*path)
    for ttl in (9, 33):
        world.guest.client("ttl", REMOTE4, 7000, ttl, 0)
        assert far.event("datagram")["ttl"] == ttl - 1


@BOTH
def test_datagrams_of_one_port_to_many(world, path):
    """Each peer is answered for itself, the gateway and the DNS address among them."""
    world.remote.peer("udp_echo", REMOTE4, 7000)
    world.host.peer("udp_echo", "127.0.0.1", 7000)
    world.host.peer("dns", "127.0.0.1", 53, "192.0.2.33")
    world.start(*path)
    for _ in range(2):
        assert world.guest.client("udp", REMOTE4, 7000, 20, 15, 40000)["peer"] == REMOTE4
        assert world.guest.client("udp", GATEWAY4, 7000, 20, 15, 40000)["peer"] == GATEWAY4
        assert world.guest.client("dns", DNS4, 53)["address"] == "192.0.2.33"


@BOTH
def test_the_hosts_own_address_is_reached(world, path):
    world.host.peer("udp_echo", HOST4, 7000)
    world.start(*path)
    r = world.guest.client("udp", HOST4, 7000, 20)
    assert r["same"] and r["peer"] == HOST4


def test_outbound_addr6_is_the_source_of_datagrams(world):
    world.host.ip("addr add 2001:db8:1::5/64 dev net0 nodad")
    start(world, DIRECT, "--outbound-addr6=2001:db8:1::5", v6=True)
    echo = world.remote.peer("udp_echo", REMOTE6, 7000)
    assert world.guest.client("udp", REMOTE6, 7000, 10)["same"]
    assert echo.event("datagram")["peer"] == "2001:db8:1::5"


# ---- loopback of the host ----

BYPASSES = ["127.0.0.1", "127.1.2.3", "0.0.0.0", "::1", "::", "::ffff:127.0.0.1", GATEWAY4, GATEWAY6,
            "255.255.255.255"]


@pytest.mark.reference_bug("lets frames addressed to loopback addresses reach the host's loopback")
@pytest.mark.parametrize("addr", BYPASSES)
def test_disable_host_loopback_holds_for_datagrams(world, addr):
    start(world, DIRECT, "--disable-host-loopback", v6=True)
    heard = [world.host.peer("udp_echo", "0.0.0.0", 7000), world.host.peer("udp_echo", "::1", 7000)]
    mac = "52:56:00:00:00:02" if ":" in addr else "52:55:0a:00:02:02"
    assert world.guest.do("raw_udp", "tap0", mac, addr, 7000)["answer"] in ("nothing", "icmp")
    assert not any(h.has_event("datagram", 0.1) for h in heard)


@BOTH
def test_without_the_option_127_0_0_1_answers_with_its_own_name(world, path):
    """Guix routes 127.0.0.1 to the TAP and counts on it."""
    world.start(*path)
    world.host.peer("udp_echo", "127.0.0.1", 7000)
    r = world.guest.do("raw_udp", "tap0", "52:55:0a:00:02:02", "127.0.0.1", 7000, 15)
    assert r == {"answer": "udp", "source": "127.0.0.1"}


@BOTH
@pytest.mark.parametrize("args", [[], ["--disable-host-loopback"]])
def test_loopback_cannot_speak_first_when_it_is_prohibited(world, path, args):
    """The nameserver on the host's loopback is the exception."""
    world.host.peer("dns", "127.0.0.1", 53, "192.0.2.33")
    world.start(*path, *args)
    assert world.guest.client("dns", DNS4, 53)["address"] == "192.0.2.33"


@FAMILIES
def test_others_on_the_hosts_loopback_are_not_heard_when_it_is_prohibited(world, v6):
    echo = world.remote.peer("udp_echo", remote_of(v6), 7000)
    slirp = start(world, DIRECT, "--disable-host-loopback", v6=v6, api=True)
    guest = world.guest.begin("udp_listen_twice", remote_of(v6), 7000)
    mapped = echo.event("datagram")["port"]
    guest.event("first")
    world.host.do("udp_from_elsewhere", "::1" if v6 else "127.0.0.1", mapped, 33)
    wait_for("the datagram is dropped", lambda: stats(slirp)["udp_drop_source"] == 1)
    assert not guest.has_event("second", 0.2)


# ---- bounds ----

def test_a_spray_of_ports_is_bounded(world):
    """20,000 ports: every datagram is answered, and neither descriptors nor memory follow their number."""
    world.remote.peer("udp_echo_many", REMOTE4, 7000)
    slirp = world.start(DIRECT, api=True)
    before, rss = descriptors(slirp), int(slirp.status()["VmRSS"].split()[0])
    assert world.guest.client("udp_ports", REMOTE4, 7000, 20000)["answered"] > 19000
    s = stats(slirp)
    assert s["udp_flows"] <= 4096 and s["udp_opened"] > 10000 and s["udp_evicted"] > 0
    # A port that finds none to take the place of goes through libslirp, which is where the rest of the bound is.
    assert s["slirp_sockets"] <= s["udp_fallback_table_full"] < 2000
    assert descriptors(slirp) <= before + 4096 + STOCK + s["slirp_sockets"] + 20
    if not os.environ.get("E2E_SANITIZER"):
        assert int(slirp.status()["VmRSS"].split()[0]) < rss + 16 * 1024


def test_a_spray_of_destinations_takes_one_descriptor(world):
    slirp = world.start(DIRECT, api=True)
    before = descriptors(slirp)
    world.guest.client("udp_spray", REMOTE4, 1, 20000)
    assert stats(slirp)["udp_opened"] <= 2
    assert descriptors(slirp) <= before + STOCK + 2


def test_dns_under_load_loses_nothing_and_gives_descriptors_back(world):
    world.host.peer("dns", "127.0.0.1", 53, "192.0.2.33")
    slirp = world.start(DIRECT, api=True)
    before = descriptors(slirp)
    assert world.guest.client("dns_load", DNS4, 53, 6000, 64)["answered"] == 6000
    assert descriptors(slirp) <= before + 256 + 64 + STOCK + 300
    wait_for("the descriptors are back", lambda: descriptors(slirp) <= before + STOCK, 15)


def test_dns_by_ipv6_goes_directly(world):
    world.host.peer("dns", "::1", 53, "192.0.2.34")
    slirp = start(world, DIRECT, v6=True, api=True)
    assert world.guest.client("dns", DNS6, 53)["address"] == "192.0.2.34"
    assert stats(slirp)["udp_dns"] == 1


def test_few_descriptors_do_not_stop_datagrams(world):
    """With a limit of 64 descriptors a quarter of them is there for datagrams; the longest idle makes room."""
    import resource
    world.remote.peer("udp_echo_many", REMOTE4, 7000)
    slirp = world.start(DIRECT, api=True, preexec=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)))
    for _ in range(100):
        assert world.guest.client("udp", REMOTE4, 7000, 10)["same"]
        if stats(slirp)["udp_evicted"] > 0:
            break
    s = stats(slirp)
    assert s["udp_flows"] <= 16 and s["udp_evicted"] > 0
    assert descriptors(slirp) <= 64


def test_datagrams_in_the_sandbox_with_few_descriptors(world):
    """Everything that the path does after its start: sockets, TTL, errors, eviction, the nameserver's file."""
    import resource
    world.remote.peer("udp_echo_many", REMOTE4, 7000)
    world.remote.peer("udp_echo_many", REMOTE6, 7000)
    world.host.peer("dns", "127.0.0.1", 53, "192.0.2.33")
    slirp = start(world, DIRECT, "--enable-sandbox", "--enable-seccomp", v6=True, api=True,
                  preexec=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256)))
    for addr in (REMOTE4, REMOTE6):
        assert world.guest.client("udp", addr, 7000, 9000)["same"]
        assert world.guest.client("udp_many", addr, 7000, 200, 1200, "", 3)["good"] > 64  # from then on in bulk
        assert world.guest.client("udp_connected", addr, 7009)["errno"] == "ECONNREFUSED"
        assert world.guest.client("udp_ports", addr, 7000, 100, 0)["answered"] > 0
    assert world.guest.client("ttl", REMOTE4, 7000, 1)["offender"] == GATEWAY4
    assert world.guest.client("dns", DNS4, 53)["address"] == "192.0.2.33"
    s = stats(slirp)
    assert s["udp_evicted"] > 0 and s["udp_dns"] == 1 and s["udp_icmp"] >= 2
    assert slirp.process.poll() is None


# ---- forwards ----

def test_with_split_threads_a_forwarded_port_is_left_to_libslirp(world):
    """Only the slirp thread knows the clients of forwards; other ports are not concerned, and the port is free again later."""
    world.remote.peer("udp_echo_many", REMOTE4, 7000)
    slirp = world.start(DIRECT, "--threads=split", api=True)
    forward = slirp.forward("udp", 5353, 5300)
    assert world.guest.client("udp", REMOTE4, 7000, 10, 15, 5300)["same"]
    s = stats(slirp)
    assert s["udp_opened"] == 0 and s["udp_fallback_forward"] == 1
    assert world.guest.client("udp", REMOTE4, 7000, 10, 15, 5301)["same"]
    assert world.guest.client("udp", REMOTE4, 7000, 9000, 15, 5301)["same"]  # in fragments, by the same socket
    assert stats(slirp)["udp_opened"] == 1
    assert [f["guest_port"] for f in of_tier(slirp, "udp")] == [5301]
    slirp.api("remove_hostfwd", id=forward)
    assert world.guest.client("udp", REMOTE4, 7000, 10, 15, 5300)["same"]
    assert stats(slirp)["udp_opened"] == 2


@pytest.mark.parametrize("mode", ["shared", "split"])
def test_answers_to_a_forwards_clients_are_none_of_libslirps(world, mode):
    slirp = world.start(DIRECT, f"--threads={mode}", api=True)
    slirp.forward("udp", 5353, 5300)
    world.guest.peer("udp_echo", "0.0.0.0", 5300)
    assert world.remote.client("udp", HOST4, 5353, 100)["same"]
    wait_for("the answer is counted", lambda: stats(slirp)["udp_forward_out"] == 1)
    assert stats(slirp)["udp_fallback_forward"] == 0


def test_a_forwards_clients_and_own_datagrams_share_a_guest_port(world):
    """An answer to a forward's client goes there; what the same port sends elsewhere has a socket of its own."""
    world.remote.peer("udp_echo", REMOTE4, 7000)
    slirp = world.start(DIRECT, api=True)
    slirp.forward("udp", 5353, 5300)
    world.guest.peer("udp_echo", "0.0.0.0", 5300)
    assert world.remote.client("udp", HOST4, 5353, 100)["same"]
    wait_for("the answer is counted", lambda: stats(slirp)["udp_forward_out"] == 1)
    assert stats(slirp)["udp_opened"] == 0
