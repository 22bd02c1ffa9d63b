# SPDX-License-Identifier: GPL-2.0-or-later
"""What the guest and others must not reach, on every path and by both families.

The witnesses are servers on the host: whatever way a packet takes, it has arrived if one of them hears of it.
"""

import os
import pwd
import re
import resource

import pytest
from harness import (AS, DNS4, DNS6, GATEWAY4, GATEWAY6, HOST4, HOST6, IN_USERNS, PYTHON, REMOTE4, REMOTE6, SANITIZER,
                     run, wait_for)
from test_tcp import start

pytestmark = pytest.mark.extension

# TCP and datagrams both through libslirp, or both past it.
PATHS = {"libslirp": ["--divert=off", "--udp=slirp"], "direct": ["--divert=on", "--udp=direct"],
         "split": ["--divert=off", "--udp=direct", "--threads=split"]}  # datagrams by the threads of the directions
paths = pytest.mark.parametrize("path", list(PATHS))
QUIET_S = 0.5 * (4 if SANITIZER else 1)  # a witness on the same machine hears at once

# Every name for the host's loopback that somebody may think of, and what an implementation may take for one.
LOOPBACK4 = [GATEWAY4, "10.0.2.77", "10.0.2.255", "255.255.255.255", "127.0.0.1", "127.1.2.3", "127.255.255.255",
             "0.0.0.0", "0.1.2.3", "224.0.0.1", "239.1.2.3", "169.254.1.1", DNS4]
LOOPBACK6 = [GATEWAY6, "fd00::77", "::1", "::", "::ffff:127.0.0.1", "::127.0.0.1", "::ffff:0.0.0.0", "::ffff:0:127.0.0.1",
             "64:ff9b::127.0.0.1", "2002:7f00:1::1", "fe80::1", "fe80::2", "ff02::1", "ff01::1", "ff05::1", DNS6]


def loopback_witnesses(world):
    return [world.host.peer(what, addr, 7000)
            for addr in ("127.0.0.1", "127.1.2.3", "::1") for what in ("tcp_echo", "udp_echo")]


def heard(witnesses):
    return [w.process.args[-3:] for w in witnesses
            if any(e.get("event") in ("accepted", "datagram") for e in w.lines(QUIET_S / len(witnesses)))]


def all_are_heard(witnesses):
    """By one witness of each kind at least."""
    seen = set()
    wait_for("both kinds hear", lambda: seen.update(args[0] for args in heard(witnesses)) or
             seen == {"tcp_echo", "udp_echo"})


def barrier(world):
    """What was sent before has been dealt with when a later connection works."""
    world.remote.peer("tcp_echo", REMOTE4, 7001)
    assert world.guest.client("echo", REMOTE4, 7001, "x")["reply"] == "x"


@paths
@pytest.mark.parametrize("destinations", [LOOPBACK4, LOOPBACK6], ids=["v4", "v6"])
def test_no_name_of_the_hosts_loopback_reaches_it(world, path, destinations):
    slirp = start(world, *PATHS[path], "--disable-host-loopback", v6=True)
    witnesses = loopback_witnesses(world)
    world.guest.do("raw_sweep", "tap0", 7000, "10.0.2.100", *destinations)
    barrier(world)
    assert heard(witnesses) == []
    assert slirp.process.poll() is None


@paths
@pytest.mark.parametrize("destinations", [LOOPBACK4, LOOPBACK6], ids=["v4", "v6"])
def test_without_the_option_the_witnesses_hear(world, path, destinations):
    """The test above can fail: the same packets arrive when they may."""
    slirp = start(world, *PATHS[path], v6=True, api=True)
    witnesses = loopback_witnesses(world)
    world.guest.do("raw_sweep", "tap0", 7000, "10.0.2.100", *destinations)
    barrier(world)
    all_are_heard(witnesses)
    assert (slirp.api("stats")["return"]["udp_opened"] > 0) == (path != "libslirp")


@paths
def test_broadcasts_and_groups_stay_here(world, path):
    """Neither the host's network nor its own sockets hear a broadcast; what a host answers to by its own address, it hears."""
    witnesses = [side.peer("udp_echo", "0.0.0.0", 7000) for side in (world.host, world.remote)]
    start(world, *PATHS[path], "--disable-host-loopback")
    world.guest.do("raw_sweep", "tap0", 7000, "10.0.2.100", "255.255.255.255", "203.0.113.255", "203.0.113.0", "10.0.2.255",
                   "10.0.2.0")
    barrier(world)
    assert heard(witnesses) == []
    world.guest.do("raw_sweep", "tap0", 7000, "10.0.2.100", REMOTE4)
    assert witnesses[1].event("datagram")


@paths
@pytest.mark.parametrize("guest_addr", ["127.0.0.1", GATEWAY4, "0.0.0.0", DNS4, "255.255.255.255", "::1", GATEWAY6])
def test_a_forward_does_not_lead_back_to_the_hosts_loopback(world, path, guest_addr):
    slirp = world.start(*PATHS[path], "--disable-host-loopback", "--enable-ipv6", api=True)
    witnesses = loopback_witnesses(world)
    for proto in ("tcp", "udp"):
        slirp.api("add_hostfwd", proto=proto, host_addr="127.0.0.1", host_port=8000, guest_addr=guest_addr,
                  guest_port=7000)  # refusing it is fine, too
    world.host.client("connect", "127.0.0.1", 8000, 2)
    world.host.client("udp", "127.0.0.1", 8000, 5, 0.3)
    assert heard(witnesses) == []


@paths
@pytest.mark.parametrize("proto,guest_addr", [("tcp", HOST4), ("udp", HOST4), ("tcp", REMOTE4), ("udp", REMOTE4)])
def test_a_forward_leads_to_the_guest_and_nowhere_else(world, path, proto, guest_addr):
    """Also when its guest_addr is that of the host's network, or of somebody in there."""
    slirp = world.start(*PATHS[path], "--disable-host-loopback", api=True)
    side = world.host if guest_addr == HOST4 else world.remote
    witnesses = [side.peer(f"{proto}_echo", guest_addr, 7000)]
    slirp.api("add_hostfwd", proto=proto, host_addr="127.0.0.1", host_port=8000, guest_addr=guest_addr, guest_port=7000)
    if proto == "tcp":
        world.host.client("connect", "127.0.0.1", 8000, 2)
    else:
        world.host.client("udp", "127.0.0.1", 8000, 5, 0.3)
    assert heard(witnesses) == []


@paths
@pytest.mark.parametrize("dns", [DNS4, DNS6])
def test_disable_dns_is_true_of_forwards(world, path, dns):
    """A forward to the DNS address is no way around: not from the host, and not for a guest that reaches the forward."""
    witnesses = [world.host.peer(what, addr, 53) for addr in ("127.0.0.1", "::1") for what in ("tcp_echo", "udp_echo")]
    slirp = start(world, *PATHS[path], "--disable-dns", v6=True, api=True)
    for proto in ("tcp", "udp"):
        slirp.api("add_hostfwd", proto=proto, host_addr="0.0.0.0" if dns == DNS4 else "::", host_port=8053, guest_addr=dns,
                  guest_port=53)  # refusing it is fine, too
    host = HOST4 if dns == DNS4 else HOST6
    for space in (world.host, world.guest):
        space.client("connect", host, 8053, 2)
        space.client("udp", host, 8053, 5, 0.3)
    assert heard(witnesses) == []


@paths
@pytest.mark.parametrize("host", [HOST4, HOST6])
def test_the_hosts_own_addresses_are_reached_like_any_other_but_not_its_loopback(world, path, host):
    """What --disable-host-loopback does not promise: docs/THREAT-MODEL.md. The host's services on all addresses hear."""
    loopback = loopback_witnesses(world)
    servers = {proto: world.host.peer(f"{proto}_echo", host, 7000) for proto in ("tcp", "udp")}
    start(world, *PATHS[path], "--disable-host-loopback", v6=True)
    world.guest.client("source", host, 7000, "tcp")
    world.guest.client("source", host, 7000, "udp")
    assert servers["tcp"].event("accepted") and servers["udp"].event("datagram")
    assert heard(loopback) == []


@paths
def test_disable_dns_closes_the_dns_address_altogether(world, path):
    for addr in (f"addr add {DNS4}/32 dev lo", f"addr add {DNS6}/128 dev lo nodad"):
        world.host.ip(addr)
    witnesses = [world.host.peer(what, addr, 53) for addr in ("127.0.0.1", "::1", DNS4, DNS6)
                 for what in ("tcp_echo", "udp_echo")]
    start(world, *PATHS[path], "--disable-dns", v6=True)
    world.guest.do("raw_sweep", "tap0", 53, "10.0.2.100", DNS4, DNS6, f"::ffff:{DNS4}")
    barrier(world)
    assert heard(witnesses) == []


@paths
@pytest.mark.parametrize("proto", ["tcp", "udp"])
@pytest.mark.parametrize("remote,outbound,option", [
    (REMOTE4, "203.0.113.77", "--outbound-addr"), (REMOTE6, "2001:db8:1::77", "--outbound-addr6")], ids=["v4", "v6"])
def test_outbound_addr_is_the_only_source(world, path, proto, remote, outbound, option):
    world.host.ip(f"addr add {outbound}/{'64 dev net0 nodad' if ':' in outbound else '24 dev net0'}")
    server = world.remote.peer(f"{proto}_echo", remote, 7000)
    start(world, *PATHS[path], f"{option}={outbound}", v6=True)
    world.guest.client("source", remote, 7000, proto)
    assert server.event("accepted" if proto == "tcp" else "datagram")["peer"] == outbound


@paths
@pytest.mark.parametrize("options", [[], ["--outbound-addr=203.0.113.77"]], ids=["any-source", "outbound-addr"])
def test_no_ipv4_address_is_reached_by_its_mapped_form(world, path, options):
    """What is true of IPv4, such as --outbound-addr, is not got round by IPv6."""
    world.host.ip("addr add 203.0.113.77/24 dev net0")
    witnesses = [world.remote.peer(what, REMOTE4, 7000) for what in ("tcp_echo", "udp_echo")]
    start(world, *PATHS[path], *options, v6=True)
    world.guest.do("raw_sweep", "tap0", 7000, "10.0.2.100", f"::ffff:{REMOTE4}")
    barrier(world)
    assert heard(witnesses) == []
    world.guest.do("raw_sweep", "tap0", 7000, "10.0.2.100", REMOTE4)
    assert witnesses[0].event("accepted") and witnesses[1].event("datagram")


@paths
def test_the_programs_own_addresses_are_never_the_hosts(world, path):
    """With --cidr gateway and DNS address move; a host that happens to have those addresses is not to be reached by them."""
    own = ["192.168.77.2", "192.168.77.3"]
    world.host.ip(*[f"addr add {addr}/32 dev net0" for addr in own])
    witnesses = [world.host.peer(what, addr, 7000) for addr in own for what in ("tcp_echo", "udp_echo")]
    start(world, *PATHS[path], "--cidr=192.168.77.0/24", "--disable-host-loopback", v6=True)
    world.guest.do("raw_sweep", "tap0", 7000, "192.168.77.100", *own, *[f"::ffff:{addr}" for addr in own],
                   "192.168.77.255")
    barrier(world)
    assert heard(witnesses) == []


@paths
def test_other_addresses_of_the_guests_network_are_not_promised(world, path):
    """Gateway and DNS address are the program's, no other: nobody answers for them, so a guest's kernel sends nothing to
    them; frames by hand reach a host of that address like every other (docs/DECISIONS.md)."""
    world.host.ip("addr add 10.0.2.77/32 dev net0")
    witnesses = [world.host.peer(what, "10.0.2.77", 7000) for what in ("tcp_echo", "udp_echo")]
    start(world, *PATHS[path], "--disable-host-loopback")
    assert world.guest.do("arp_query", "tap0", "10.0.2.77")["mac"] is None
    world.guest.client("connect", "10.0.2.77", 7000, 5)
    assert heard(witnesses) == []
    world.guest.do("raw_sweep", "tap0", 7000, "10.0.2.100", "10.0.2.77")
    barrier(world)
    all_are_heard(witnesses)


@pytest.mark.skipif(IN_USERNS or os.geteuid() != 0, reason="only root can be somebody else")
def test_another_user_reaches_nothing(world):
    slirp = world.start("--enable-sandbox", "--enable-seccomp", api=True)
    other = pwd.getpwnam("nobody")
    code = f"""
import os, socket
def may(what):
    try:
        what()
        return True
    except PermissionError:
        return False
s = socket.socket(socket.AF_UNIX)
print([name for name, what in {{
    "api": lambda: s.connect({str(slirp.api_path)!r}),
    "descriptors": lambda: os.listdir("/proc/{slirp.pid}/fd"),
    "memory": lambda: open("/proc/{slirp.pid}/mem", "rb"),
    "signal": lambda: os.kill({slirp.pid}, 0),
    "namespace": lambda: os.readlink("/proc/{slirp.pid}/ns/net"),
}}.items() if may(what)])
"""
    done = run([*world.host.enter, "setpriv", f"--reuid={other.pw_uid}", f"--regid={other.pw_gid}", "--clear-groups",
                "--inh-caps=-all", "--bounding-set=-all", PYTHON, "-c", code])
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
    assert slirp.api("list_hostfwd")["entries"] == []


# ---- the program itself ----

def capability_held(number):
    status = open("/proc/self/status", encoding="utf-8").read()
    return int(re.search(r"^CapEff:\s*(\w+)", status, re.M)[1], 16) >> number & 1


def test_no_new_privileges_and_no_core_dumps(world):
    slirp = world.start()
    assert {slirp.status(tid)["NoNewPrivs"] for tid in slirp.threads()} == {"1"}
    limits = open(f"/proc/{slirp.pid}/limits", encoding="utf-8").read()
    line = next(line for line in limits.splitlines() if line.startswith("Max core file size"))
    # 1: too short for any file, and what the kernel takes for "not even to a program in core_pattern".
    assert line.split()[4:6] in (["1", "1"], ["0", "0"])


def test_core_dumps_are_off_where_no_files_were_allowed(world):
    """A hard limit of 0 would let a program in core_pattern have the dump: who may raise it does."""
    slirp = world.start(preexec=lambda: resource.setrlimit(resource.RLIMIT_CORE, (0, 0)))
    limit = "1" if AS == "root" and not IN_USERNS and capability_held(24) else "0"  # CAP_SYS_RESOURCE
    line = next(line for line in open(f"/proc/{slirp.pid}/limits", encoding="utf-8") if line.startswith("Max core"))
    assert line.split()[4:6] == [limit, limit]
    assert "core dumps" not in slirp.err()


@pytest.mark.skipif(AS != "root", reason="an ordinary user may not use low ports")
def test_low_ports_can_be_forwarded_after_the_drop(world):
    slirp = world.start(api=True)
    slirp.forward("tcp", 80, 7000)
    slirp.forward("udp", 53, 7001)
    world.guest.peer("tcp_echo", "0.0.0.0", 7000)
    assert world.host.client("echo", "127.0.0.1", 80, "low")["reply"] == "low"
