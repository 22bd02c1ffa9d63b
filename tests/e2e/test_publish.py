# SPDX-License-Identifier: GPL-2.0-or-later
"""--publish: forwards that are there from the start, without the API."""

import subprocess

import pytest
from harness import AS, DEADLINE_S, GUEST4, HOST4, HOST6, IN_USERNS, PROGRAM_ARGS, PYTHON, REMOTE4

pytestmark = pytest.mark.extension

SPLICE = "--no-splice" not in PROGRAM_ARGS
CONFINED = ["--enable-sandbox", "--enable-seccomp"]


@pytest.mark.parametrize("args", [[], CONFINED])
def test_a_port_is_published_without_the_api(world, args):
    world.start("--publish=8080:80", *args)
    server = world.guest.peer("tcp_echo", "0.0.0.0", 80)
    r = world.remote.client("echo", HOST4, 8080, "hello")
    assert r["reply"] == "hello"
    event = server.event("accepted")
    assert (event["peer"], event["port"]) == (REMOTE4, r["source_port"])


@pytest.mark.skipif(not SPLICE, reason="splice has been switched off by $SLIRP4NETNS_ARGS")
def test_it_takes_the_splice_path_and_the_api_shows_it(world):
    slirp = world.start("-p", "8080:80", "--publish=127.0.0.1:9000-9002:10.0.2.99:90/udp", api=True)
    world.guest.peer("tcp_echo", "0.0.0.0", 80)
    assert world.remote.client("echo", HOST4, 8080, "x")["reply"] == "x"
    tcp, udp = slirp.api("list_hostfwd")["entries"]
    assert (tcp["proto"], tcp["host_addr"], tcp["host_port"], tcp["guest_addr"], tcp["guest_port"]) == \
        ("tcp", "0.0.0.0", 8080, GUEST4, 80)
    assert (tcp["path"], tcp["reason"], tcp["connections"]) == ("splice", "", 1)
    assert (udp["proto"], udp["host_addr"], udp["host_port"], udp["host_port_end"], udp["guest_addr"], udp["guest_port"]) == \
        ("udp", "127.0.0.1", 9000, 9002, "10.0.2.99", 90)
    assert slirp.api("remove_hostfwd", id=tcp["id"]) == {"return": {}}
    assert world.remote.client("connect", HOST4, 8080)["errno"] == "ECONNREFUSED"


@pytest.mark.parametrize("port", [9000, 9002])
def test_ranges_run_in_parallel(world, port):
    world.start("-p", "9000-9002:90")
    world.guest.peer("tcp_echo", "0.0.0.0", port - 9000 + 90)
    assert world.host.client("echo", "127.0.0.1", port, "x")["reply"] == "x"


def test_udp(world):
    world.start("-p", "8080:80/udp")
    world.guest.peer("udp_echo", "0.0.0.0", 80)
    assert world.remote.client("udp", HOST4, 8080)["n"] == 5


def test_an_ipv6_address_of_the_host(world):
    world.start("-p", f"[{HOST6}]:8080:80")
    world.guest.peer("tcp_echo", "0.0.0.0", 80)
    assert world.host.client("echo", HOST6, 8080, "x")["reply"] == "x"
    assert world.host.client("connect", "127.0.0.1", 8080)["errno"] == "ECONNREFUSED"


def test_with_a_path(world):
    world.start("-p", "8080:80", "--netns-type=path", f"--userns-path=/proc/{world.guest.pid}/ns/user",
                target=[f"/proc/{world.guest.pid}/ns/net", "tap0"])
    world.guest.peer("tcp_echo", "0.0.0.0", 80)
    assert world.remote.client("echo", HOST4, 8080, "x")["reply"] == "x"


@pytest.mark.makes_userns
@pytest.mark.parametrize("args", [[], CONFINED])
def test_with_run(world, args):
    process = subprocess.Popen(world.argv("--run", "-p", "8080:80", *args, "--", PYTHON, str(world.peer_py), "tcp_echo",
                                          "0.0.0.0", "80"),
                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert "ready" in process.stdout.readline()
        assert world.remote.client("echo", HOST4, 8080, "x")["reply"] == "x"
        assert REMOTE4 in process.stdout.readline()
    finally:
        process.kill()
        process.communicate(timeout=DEADLINE_S)


@pytest.mark.parametrize("proto", ["tcp", "udp"])
@pytest.mark.parametrize("args", [[], CONFINED])
def test_a_busy_port_fails_at_the_start_and_is_named(world, args, proto):
    holder = world.host.begin("tcp_echo" if proto == "tcp" else "udp_echo", "0.0.0.0", 8081)
    holder.event("ready")
    done = world.run_program("-c", "-p", f"8080-8082:80/{proto}", *args, str(world.guest.pid), "tap0")
    assert done.returncode == 1
    assert f"{proto.upper()} port 8081" in done.stderr and "Address already in use" in done.stderr, done.stderr
    assert "another program or forward has it" in done.stderr


@pytest.mark.makes_userns
def test_a_busy_port_fails_with_run_before_the_command(world):
    holder = world.host.begin("tcp_echo", "127.0.0.1", 8080)
    holder.event("ready")
    done = world.run_program("--run", "-p", "127.0.0.1:8080:80", "--", "touch", str(world.work / "marker"))
    assert done.returncode == 1 and "TCP port 8080" in done.stderr
    assert not (world.work / "marker").exists()


@pytest.mark.skipif(AS != "user" or IN_USERNS, reason="root may bind every port")
def test_a_privileged_port_names_the_sysctl(world):
    world.host.run("sysctl", "-q", "net.ipv4.ip_unprivileged_port_start=1024")
    done = world.run_program("-c", "-p", "80:80", str(world.guest.pid), "tap0")
    assert done.returncode == 1 and "TCP port 80 " in done.stderr and "ip_unprivileged_port_start" in done.stderr


def test_an_address_that_is_not_the_hosts_is_named(world):
    done = world.run_program("-c", "-p", "198.51.100.7:8080:80", str(world.guest.pid), "tap0")
    assert done.returncode == 1 and "TCP port 8080" in done.stderr and "Cannot assign requested address" in done.stderr


def test_ports_are_free_again_after_the_end(world):
    slirp = world.start("-p", "8080:80")
    slirp.stop()
    with_listener = world.host.run(PYTHON, "-c", "import socket; socket.create_server(('0.0.0.0', 8080))")
    assert with_listener.returncode == 0


def test_an_argument_that_is_none_is_shown_with_the_form():
    from test_cli import program
    done = program("--publish=80", "1", "tap0")
    assert done.returncode == 1
    assert "--publish=80: two ports are needed" in done.stderr and "[HOST_ADDR:]HOST_PORT[-END]:" in done.stderr
