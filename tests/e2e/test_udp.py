# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest's datagrams, ICMP, DHCP, DNS, ARP and router advertisements."""

import pytest
from harness import DNS4, DNS6, GATEWAY4, GATEWAY6, HOST4, REMOTE4, REMOTE6, wait_for
from test_tcp import start


@pytest.mark.parametrize("mtu", [1500, 65520])
@pytest.mark.parametrize("size", [0, 1, 1472, 9000, 65507])
def test_datagrams_of_any_size_come_back(world, mtu, size):
    world.start(f"--mtu={mtu}")
    world.remote.peer("udp_echo", REMOTE4, 7000)
    r = world.guest.client("udp", REMOTE4, 7000, size)
    assert r == {**r, "same": True, "n": size, "peer": REMOTE4, "peer_port": 7000}


def test_datagrams_by_ipv6(world):
    start(world, v6=True)
    world.remote.peer("udp_echo", REMOTE6, 7000)
    assert world.guest.client("udp", REMOTE6, 7000, 1200)["same"]


@pytest.mark.parametrize("addr", [GATEWAY4, GATEWAY6])
def test_the_gateway_is_the_hosts_loopback(world, addr):
    start(world, v6=":" in addr)
    world.host.peer("udp_echo", "::1" if ":" in addr else "127.0.0.1", 7000)
    r = world.guest.client("udp", addr, 7000, 100)
    assert r["same"] and r["peer"] == addr


def test_anybody_may_answer(world):
    """Endpoint-independent mapping and filtering, which STUN and peer-to-peer programs need."""
    world.start()
    echo = world.remote.peer("udp_echo", REMOTE4, 7000)
    guest = world.guest.begin("udp_listen_twice", REMOTE4, 7000)
    mapped = echo.event("datagram")["port"]
    guest.event("first")
    other = world.remote.do("udp_from_elsewhere", HOST4, mapped, 33)
    assert guest.event("second") == {"event": "second", "peer": REMOTE4, "port": other["source_port"], "n": 33}


def test_outbound_addr_is_the_source_of_datagrams(world):
    world.host.ip("addr add 203.0.113.5/24 dev net0")
    world.start("--outbound-addr=203.0.113.5")
    echo = world.remote.peer("udp_echo", REMOTE4, 7000)
    assert world.guest.client("udp", REMOTE4, 7000, 10)["same"]
    assert echo.event("datagram")["peer"] == "203.0.113.5"


@pytest.mark.parametrize("args", [[], ["--disable-host-loopback"]])
@pytest.mark.parametrize("addr", [GATEWAY4, DNS4])
def test_the_gateway_and_the_dns_address_answer_echo_requests(world, args, addr):
    world.start(*args)
    assert world.guest.run("ping", "-c2", "-i0.2", "-W3", addr).returncode == 0


def test_the_ipv6_gateway_answers_echo_requests(world):
    start(world, v6=True)
    assert world.guest.run("ping", "-c2", "-i0.2", "-W3", GATEWAY6).returncode == 0


def test_echo_requests_reach_other_hosts(world):
    world.host.run("sysctl", "-qw", "net.ipv4.ping_group_range=0 2147483647", check=False)
    if world.host.run("sysctl", "-n", "net.ipv4.ping_group_range").stdout.split()[0] != "0":
        pytest.skip("net.ipv4.ping_group_range cannot be set in a namespace of this machine")
    world.start()
    assert world.guest.run("ping", "-c2", "-i0.2", "-W3", REMOTE4).returncode == 0


def test_dhcp_offers_the_first_address(world):
    world.start(configure=False)
    world.guest.ip("link set lo up", "link set tap0 up")
    done = world.guest.run("udhcpc", "-i", "tap0", "-n", "-q", "-f", "-t", "5", "-T", "1", "-s", "/bin/true",
                           check=False)
    assert "10.0.2.15" in done.stdout + done.stderr, done.stdout + done.stderr


@pytest.mark.parametrize("proto", ["udp", "tcp"])
@pytest.mark.parametrize("args", [[], ["--disable-host-loopback"]])
def test_dns_goes_to_the_hosts_nameserver(world, proto, args):
    world.host.peer("dns", "127.0.0.1", 53, "192.0.2.33")
    world.start(*args)
    assert world.guest.client("dns", DNS4, 53, proto) == pytest.approx({"address": "192.0.2.33", "seconds": 0}, abs=60)


def test_dns_by_ipv6(world):
    world.host.peer("dns", "::1", 53, "192.0.2.34")
    start(world, v6=True)
    assert world.guest.client("dns", DNS6, 53)["address"] == "192.0.2.34"


@pytest.mark.parametrize("args", [[], ["--disable-host-loopback"]])
@pytest.mark.parametrize("nameserver,loopback,dns", [("0.0.0.0", "127.0.0.1", DNS4), ("::", "::1", DNS6)],
                         ids=["v4", "v6"])
def test_a_nameserver_on_the_unspecified_address_answers_as_the_dns_address(world, nameserver, loopback, dns, args):
    """For the C library that is this host (resolv.conf(5)); its answer comes from the loopback and is known again."""
    world.resolv_conf(f"nameserver {nameserver}\n")
    world.host.peer("udp_echo", loopback, 53)
    start(world, *args, v6=dns == DNS6)
    r = world.guest.client("udp", dns, 53, 40)
    assert (r.get("same"), r.get("peer"), r.get("peer_port")) == (True, dns, 53), r


def test_dns_follows_a_changed_resolv_conf(world):
    world.remote.peer("dns", REMOTE4, 53, "192.0.2.35")
    world.start()
    world.resolv_conf(f"nameserver {REMOTE4}\n")

    def answered():
        return world.guest.client("dns", DNS4, 53, "udp", 3).get("address") == "192.0.2.35"

    wait_for("the new nameserver is asked", answered)


def test_disable_dns(world):
    world.host.peer("dns", "127.0.0.1", 53, "192.0.2.33")
    world.start("--disable-dns")
    assert world.guest.client("dns", DNS4, 53, "udp", 3).get("errno") in ("TIMEOUT", "ENETUNREACH", "EHOSTUNREACH")


@pytest.mark.reference_bug("sends what was for its DNS address to that address of the host's network")
def test_disable_dns_leaks_nothing(world):
    world.host.ip(f"addr add {DNS4}/32 dev lo")
    world.host.peer("dns", DNS4, 53, "192.0.2.33")
    world.host.peer("tcp_echo", DNS4, 7000)
    world.start("--disable-dns")
    assert "errno" in world.guest.client("dns", DNS4, 53, "udp", 3)
    assert "errno" in world.guest.client("connect", DNS4, 7000, 2)


def test_arp_answers_for_gateway_and_dns_only(world):
    world.start()
    assert world.guest.do("arp_query", "tap0", GATEWAY4, 15)["mac"] == "52:55:0a:00:02:02"
    assert world.guest.do("arp_query", "tap0", DNS4, 15)["mac"] == "52:55:0a:00:02:03"
    assert world.guest.do("arp_query", "tap0", "10.0.2.77")["mac"] is None


# ---- loopback of the host ----

BYPASSES = ["127.0.0.1", "127.1.2.3", "0.0.0.0", "::1", "::", "::ffff:127.0.0.1"]


def test_disable_host_loopback_is_seen_as_unreachable(world):
    start(world, "--disable-host-loopback", v6=True)
    world.host.peer("tcp_echo", "127.0.0.1", 7000)
    world.host.peer("tcp_echo", "::1", 7000)
    for addr in (GATEWAY4, GATEWAY6):
        assert world.guest.client("connect", addr, 7000)["errno"] in ("ENETUNREACH", "EHOSTUNREACH")


@pytest.mark.reference_bug("lets frames addressed to loopback addresses reach the host's loopback")
@pytest.mark.parametrize("addr", BYPASSES)
def test_disable_host_loopback_cannot_be_bypassed(world, addr):
    start(world, "--disable-host-loopback", v6=True)
    world.host.peer("tcp_echo", "127.0.0.1", 7000)
    world.host.peer("tcp_echo", "::1", 7000)
    mac = "52:56:00:00:00:02" if ":" in addr else "52:55:0a:00:02:02"
    assert world.guest.do("raw_syn", "tap0", mac, addr, 7000)["answer"] in ("nothing", "icmp")


def test_without_the_option_127_0_0_1_works_directly(world):
    """Guix routes 127.0.0.1 to the TAP (route_localnet) and counts on it."""
    world.start()
    world.host.peer("tcp_echo", "127.0.0.1", 7000)
    assert world.guest.do("raw_syn", "tap0", "52:55:0a:00:02:02", "127.0.0.1", 7000, 15)["answer"] == "syn-ack"
