# SPDX-License-Identifier: GPL-2.0-or-later
"""Port forwards that do not go over the TAP: the agent in the guest's namespaces, and splice."""

import os
import pathlib

import pytest
from harness import AS, HOST4, HOST6, IN_USERNS, PROGRAM_ARGS, REMOTE4, REMOTE6, wait_for
from test_api import guest_address6, start_api6
from test_tcp import SIZE

pytestmark = [pytest.mark.extension,
              pytest.mark.skipif("--no-splice" in PROGRAM_ARGS, reason="splice has been switched off by $SLIRP4NETNS_ARGS")]


def agent_pid(slirp):
    return next(iter(slirp.agents()), None)


def entry(slirp):
    return slirp.api("list_hostfwd")["entries"][-1]


def went_by(slirp, path):
    """False: the agent has not heard yet of an address that the guest has got after the start."""
    e = entry(slirp)
    assert e["path"] == path or "guest_addr" in e["reason"], e
    return e["path"] == path


def tap_bytes(world):
    stats = world.guest.ip_json("-s", "link", "show", "tap0")[0]["stats64"]
    return stats["rx"]["bytes"] + stats["tx"]["bytes"]


@pytest.mark.parametrize("args", [[], ["--enable-sandbox", "--enable-seccomp"], ["--disable-host-loopback"]])
@pytest.mark.parametrize("who", ["remote", "loopback"])
def test_bulk_takes_the_splice_path_and_not_the_tap(world, args, who):
    slirp = world.start(*args, api=True)
    slirp.forward("tcp", 8080, 80)
    world.guest.peer("tcp_sink", "0.0.0.0", 80)
    before = tap_bytes(world)
    client, addr = (world.remote, HOST4) if who == "remote" else (world.host, "127.0.0.1")
    r = client.client("upload", addr, 8080, SIZE)
    assert r["server"] == {"n": SIZE, "sha256": r["sha256"]}
    assert tap_bytes(world) - before < 10000
    e = wait_for("all is counted", lambda: (e := entry(slirp))["bytes_in"] >= SIZE and e["bytes_out"] > 0 and e)
    assert (e["path"], e["reason"], e["connections"]) == ("splice", "", 1)
    assert e["bytes_in"] == SIZE and e["bytes_out"] < 1000


def test_the_client_is_seen_with_address_and_port(world):
    slirp = world.start(api=True)
    slirp.forward("tcp", 8080, 80)
    server = world.guest.peer("tcp_echo", "0.0.0.0", 80)
    r = world.remote.client("echo", HOST4, 8080, "hello")
    event = server.event("accepted")
    assert (event["peer"], event["port"]) == (REMOTE4, r["source_port"])
    assert entry(slirp)["path"] == "splice"


def test_ipv6_clients_are_seen_with_address_and_port(world):
    slirp = start_api6(world)
    slirp.forward("tcp", 8080, 80, "::", guest_address6(world))
    server = world.guest.peer("tcp_echo", "::", 80)

    def is_seen():
        r = world.remote.client("echo", HOST6, 8080, "hello")
        event = server.event("accepted")
        assert (event["peer"], event["port"]) == (REMOTE6, r["source_port"])
        return went_by(slirp, "splice")

    wait_for("the agent has heard of the address", is_seen)


def test_a_client_port_that_is_taken_is_replaced(world):
    slirp = world.start(api=True)
    slirp.forward("tcp", 8080, 80)
    slirp.forward("tcp", 8081, 80)
    server = world.guest.peer("tcp_echo", "0.0.0.0", 80)
    # The same source port to two forwards of one guest port: two connections, one address and port.
    first = world.remote.begin("client", "hold", HOST4, 8080, "203.0.113.9", 33333)
    first.event("held")
    assert server.event("accepted")["port"] == 33333
    r = world.remote.client("echo", HOST4, 8081, "hello", "203.0.113.9", 33333)
    assert r["reply"] == "hello"
    assert server.event("accepted")["peer"] == REMOTE4


def test_a_refused_connection_is_a_reset(world):
    slirp = world.start(api=True)
    slirp.forward("tcp", 8080, 80)
    r = world.remote.client("read", HOST4, 8080)
    assert r["errno"] in ("ECONNRESET", "EPIPE")
    assert slirp.api("stats")["return"]["splice_refused"] == 1
    world.guest.peer("tcp_echo", "0.0.0.0", 80)
    assert world.remote.client("echo", HOST4, 8080, "hello")["reply"] == "hello"


def test_a_guest_address_that_is_not_local_takes_the_other_path(world):
    slirp = world.start(api=True)
    world.guest.peer("tcp_echo", "0.0.0.0", 80)
    slirp.forward("tcp", 8080, 80, "", "10.0.2.77")

    def said():
        world.remote.client("connect", HOST4, 8080)
        e = entry(slirp)
        return e["path"] == "slirp" and "guest_addr" in e["reason"]

    wait_for("the reason is said", said)


def test_a_second_address_of_the_guest_works(world):
    slirp = world.start(api=True)
    world.guest.ip("addr add 10.0.2.77/24 dev tap0")
    server = world.guest.peer("tcp_echo", "10.0.2.77", 80)
    slirp.forward("tcp", 8080, 80, "", "10.0.2.77")

    def works():
        r = world.remote.client("echo", HOST4, 8080, "hello")
        return r.get("reply") == "hello" and entry(slirp)["path"] == "splice"

    wait_for("the agent has heard of the address", works)
    assert server.event("accepted")["peer"] == REMOTE4


def test_without_the_agent_new_connections_go_through_libslirp(world):
    slirp = world.start(api=True)
    slirp.forward("tcp", 8080, 80)
    world.guest.peer("tcp_echo", "0.0.0.0", 80)
    held = world.remote.begin("client", "hold", HOST4, 8080, "203.0.113.9", 0)
    held.event("held")
    assert entry(slirp)["path"] == "splice"
    slirp.kill_agents()
    wait_for("the end of the agent is noticed", lambda: slirp.api("stats")["return"]["agent_lost"] == 1)
    r = world.remote.client("echo", HOST4, 8080, "hello")
    assert r["reply"] == "hello"
    assert entry(slirp)["path"] == "slirp"
    assert "no other takes its place" in slirp.err()
    held.process.send_signal(10)  # SIGUSR1: send something and read it back
    assert held.event("alive")["ok"]


def test_path_slirp_is_obeyed(world):
    slirp = world.start(api=True)
    reply = slirp.api("add_hostfwd", proto="tcp", host_addr="", host_port=8080, guest_addr="", guest_port=80, path="slirp")
    assert "return" in reply
    server = world.guest.peer("tcp_echo", "0.0.0.0", 80)
    assert world.remote.client("echo", HOST4, 8080, "hello")["reply"] == "hello"
    assert server.event("accepted")["peer"] == REMOTE4
    assert (entry(slirp)["path"], entry(slirp)["reason"]) == ("slirp", "asked for")


def test_no_splice_switches_it_off(world):
    slirp = world.start("--no-splice", api=True)
    assert agent_pid(slirp) is None
    slirp.forward("tcp", 8080, 80)
    world.guest.peer("tcp_echo", "0.0.0.0", 80)
    assert world.remote.client("echo", HOST4, 8080, "hello")["reply"] == "hello"
    assert entry(slirp)["path"] == "slirp"


def test_lo_that_comes_up_later_is_noticed(world):
    world.guest.run("ip", "tuntap", "add", "name", "tap0", "mode", "tap")
    world.guest.ip("link set tap0 up", "addr add 10.0.2.100/24 dev tap0", "route add default via 10.0.2.2 dev tap0")
    slirp = world.start(configure=False, api=True)
    slirp.forward("tcp", 8080, 80)
    world.guest.peer("tcp_echo", "10.0.2.100", 80)
    world.remote.client("connect", HOST4, 8080)
    wait_for("it is served", lambda: entry(slirp)["path"] == "slirp")
    assert "lo" in entry(slirp)["reason"]
    world.guest.ip("link set lo up")

    def spliced():
        return world.remote.client("echo", HOST4, 8080, "x").get("reply") == "x" and entry(slirp)["path"] == "splice"

    wait_for("splice is used", spliced)


def test_a_firewall_that_drops_inside_the_guest_is_not_the_end(world):
    """What the guest's own rules do to connections over lo is not known beforehand: libslirp's path is tried then."""
    done = world.guest.run("nft", "add table ip t; add chain ip t i { type filter hook input priority 0; }; "
                           "add rule ip t i iif lo tcp dport 80 drop", check=False)
    if done.returncode != 0:
        pytest.skip("nft does not work here")
    slirp = world.start(api=True)
    slirp.forward("tcp", 8080, 80)
    world.guest.peer("tcp_echo", "0.0.0.0", 80)
    assert world.remote.client("echo", HOST4, 8080, "hello")["reply"] == "hello"
    assert entry(slirp)["path"] == "slirp"


@pytest.mark.parametrize("pause", [0, 1.0])
def test_a_slow_reader_gets_everything(world, pause):
    slirp = world.start(api=True)
    slirp.forward("tcp", 8080, 80)
    world.guest.peer("tcp_source", "0.0.0.0", 80, 40_000_000)
    direct = world.guest.client("download", "127.0.0.1", 80)
    r = world.remote.client("download", HOST4, 8080, pause)
    assert (r["n"], r["sha256"]) == (40_000_000, direct["sha256"])


def test_two_hundred_connections_at_once(world):
    slirp = world.start(api=True)
    slirp.forward("tcp", 8080, 80)
    world.guest.peer("tcp_echo", "0.0.0.0", 80)
    assert world.remote.client("many", HOST4, 8080, 200)["good"] == 200
    assert slirp.api("stats")["return"]["splice_flows"] >= 190  # the stock may run dry for a moment


def test_descriptors_are_given_back(world):
    slirp = world.start(api=True)
    slirp.forward("tcp", 8080, 80)
    world.guest.peer("tcp_echo", "0.0.0.0", 80)
    world.remote.client("many", HOST4, 8080, 50)

    def count():
        return len(os.listdir(f"/proc/{slirp.pid}/fd"))

    before = count()
    for _ in range(3):
        world.remote.client("many", HOST4, 8080, 100)
    wait_for("as many descriptors as before, but for the stock", lambda: count() <= before + 140)


def test_nothing_is_left_in_the_guest(world):
    slirp = world.start(api=True)
    world.guest.ip("link add keep0 type bridge")
    pids = wait_for("the agent has looked around", slirp.settled)
    assert len(world.guest.run("ip", "rule").stdout.splitlines()) > 3
    slirp.stop()
    wait_for("rules are gone", lambda: len(world.guest.run("ip", "rule").stdout.splitlines()) == 3)
    assert pids and not any(os.path.exists(f"/proc/{pid}") for pid in pids)
    assert world.guest.run("ip", "route", "show", "table", "all").stdout.count("local default") == 0


def test_the_agent_dies_with_its_parent(world):
    slirp = world.start(api=True)
    wait_for("the standby", lambda: len(slirp.agents()) == 2)
    pids = slirp.agents()
    slirp.process.kill()
    slirp.wait()
    wait_for("the agent and its standby are gone", lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids))


def test_the_agent_is_confined(world):
    slirp = world.start("--enable-sandbox", "--enable-seccomp", api=True)
    wait_for("the standby, made by an agent that is confined", lambda: len(slirp.agents()) == 2)
    pid = agent_pid(slirp)
    text = pathlib.Path(f"/proc/{pid}/status").read_text()
    status = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
    net_admin = 1 << 12
    assert int(status["CapEff"], 16) & ~(net_admin | 1 << 13) == 0
    assert int(status["CapEff"], 16) & net_admin
    if not os.environ.get("E2E_SANITIZER"):
        assert status["Seccomp"] == "2"
    assert status["NoNewPrivs"] == "1"


def test_the_agents_network_is_the_guests(world):
    slirp = world.start(api=True)
    if AS == "user" and not IN_USERNS or os.geteuid() == 0:
        assert os.readlink(f"/proc/{agent_pid(slirp)}/ns/net") == os.readlink(f"/proc/{world.guest.pid}/ns/net")


def test_adding_many_forwards_does_not_stop_traffic(world):
    slirp = world.start(api=True)
    slirp.forward("tcp", 8080, 80)
    world.guest.peer("tcp_source", "0.0.0.0", 80, 60_000_000)
    download = world.remote.begin("client", "download", HOST4, 8080)
    for i in range(200):
        slirp.forward("tcp", 20000 + i, 80)
    assert download.result()["n"] == 60_000_000
    stats = slirp.api("stats")["return"]
    assert stats["world_stop_ns_max"] < 1e9


def test_two_thousand_connections_at_once(world):
    slirp = world.start(api=True, preexec=raise_limit)
    slirp.forward("tcp", 8080, 80)
    world.guest.peer("tcp_echo_many", "0.0.0.0", 80)
    r = world.remote.begin("client", "many", HOST4, 8080, 2000).result(90)
    assert r.get("good") == 2000, r


def test_thousands_of_connections_leave_nothing_behind(world):
    """$E2E_LONG: twenty thousand."""
    slirp = world.start(api=True)
    slirp.forward("tcp", 8080, 80)
    world.guest.peer("tcp_echo_many", "0.0.0.0", 80)
    assert world.remote.begin("client", "sequence", HOST4, 8080, 500).result(60)["good"] == 500

    def resources():
        pages = {pid: int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in
                 (slirp.pid, agent_pid(slirp))}
        return len(os.listdir(f"/proc/{slirp.pid}/fd")), sum(pages.values()) * 4096

    fds, memory = resources()
    n = 20000 if os.environ.get("E2E_LONG") == "1" else 3000 if os.environ.get("E2E_SANITIZER") else 5000
    r = world.remote.begin("client", "sequence", HOST4, 8080, n).result(150)
    assert r.get("good") == n, r
    wait_for("no more descriptors than before, but for the stock", lambda: resources()[0] <= fds + 70)
    assert os.environ.get("E2E_SANITIZER") or resources()[1] - memory < 2 << 20
    assert entry(slirp)["path"] == "splice"


def raise_limit():
    import resource
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def test_a_guest_server_may_restart(world):
    slirp = world.start(api=True)
    slirp.forward("tcp", 8080, 80)
    for _ in range(3):
        server = world.guest.peer("tcp_echo", "0.0.0.0", 80)
        assert world.remote.client("echo", HOST4, 8080, "hello")["reply"] == "hello"
        server.end()
        assert world.remote.client("read", HOST4, 8080)["errno"] in ("ECONNRESET", "EPIPE")


def test_strict_reverse_path_filtering(world):
    for interface in ("all", "default", "lo"):
        world.guest.run("sysctl", "-qw", f"net.ipv4.conf.{interface}.rp_filter=1")
    slirp = world.start(api=True)
    world.guest.run("sysctl", "-qw", "net.ipv4.conf.tap0.rp_filter=1")
    slirp.forward("tcp", 8080, 80)
    server = world.guest.peer("tcp_echo", "0.0.0.0", 80)
    assert world.remote.client("echo", HOST4, 8080, "hello")["reply"] == "hello"
    assert server.event("accepted")["peer"] == REMOTE4
    assert entry(slirp)["path"] == "splice"


def test_the_agent_killed_in_mid_transfer_does_not_end_the_transfer(world):
    slirp = world.start(api=True)
    slirp.forward("tcp", 8080, 80)
    world.guest.peer("tcp_source", "0.0.0.0", 80, 100_000_000)
    direct = world.guest.client("download", "127.0.0.1", 80)
    download = world.remote.begin("client", "download", HOST4, 8080, 0.3)
    wait_for("it has begun", lambda: slirp.api("stats")["return"]["splice_bytes"] > 0)
    os.kill(agent_pid(slirp), 9)
    r = download.result()
    assert (r["n"], r["sha256"]) == (100_000_000, direct["sha256"])


def test_removed_forwards_keep_their_spliced_connections(world):
    slirp = world.start(api=True)
    ident = slirp.forward("tcp", 8080, 80)
    world.guest.peer("tcp_echo", "0.0.0.0", 80)
    held = world.remote.begin("client", "hold", HOST4, 8080, "203.0.113.9", 0)
    held.event("held")
    slirp.api("remove_hostfwd", id=ident)
    assert world.remote.client("connect", HOST4, 8080)["errno"] == "ECONNREFUSED"
    held.process.send_signal(10)
    assert held.event("alive")["ok"]


def test_a_gibibyte_each_way_is_unchanged(world):
    slirp = world.start("--mtu=65520", api=True)
    slirp.forward("tcp", 8080, 80)
    n = (1 << 30) // (8 if os.environ.get("E2E_SANITIZER") else 1)
    world.guest.peer("tcp_sink_big", "0.0.0.0", 80)
    r = world.remote.begin("client", "upload_big", HOST4, 8080, n).result(120)
    assert r["server"] == {"n": n, "sha256": r["sha256"]}
    world.guest.peer("tcp_source_big", "0.0.0.0", 81, n)
    slirp.forward("tcp", 8081, 81)
    r = world.remote.begin("client", "download", HOST4, 8081).result(120)
    assert r["n"] == n
    direct = world.guest.begin("client", "download", "127.0.0.1", 81).result(120)
    assert r["sha256"] == direct["sha256"]


def test_the_number_of_libslirps_sockets_is_right(world):
    slirp = world.start("--divert=off", api=True)
    assert "return" in slirp.api("add_hostfwd", proto="tcp", host_port=8080, guest_port=80, path="slirp")
    world.guest.peer("tcp_echo", "0.0.0.0", 80)
    held = world.host.begin("client", "hold", "127.0.0.1", 8080, "127.0.0.1", 0)
    held.event("held")
    assert slirp.api("stats")["return"]["slirp_sockets"] == 1
