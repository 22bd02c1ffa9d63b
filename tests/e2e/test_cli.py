# SPDX-License-Identifier: GPL-2.0-or-later
"""What clients parse, and what people read when they made a mistake."""

import os
import re
import subprocess

import pytest
from harness import PROGRAM, PROGRAM_ARGS, run

NO_PID = str(2**22 + 1)  # larger than any pid of Linux
TARGET = [NO_PID, "tap0"]


def program(*args, **kwargs):
    return run([PROGRAM, *PROGRAM_ARGS, *args], **kwargs)


def test_help_has_every_word_that_clients_look_for():
    done = program("--help")
    assert done.returncode == 0 and done.stderr == ""
    for word in ("--netns-type", "--disable-host-loopback", "--mtu", "--enable-sandbox", "--enable-seccomp", "--cidr",
                 "--outbound-addr", "--enable-ipv6", "--api-socket", "--userns-path", "--exit-fd", "--ready-fd",
                 "--configure", "--disable-dns", "--macaddress", "--outbound-addr6", "--target-type"):
        assert re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", done.stdout), word
    assert re.match(r"Usage: \S+ \[OPTION\]\.\.\. PID\|PATH", done.stdout)


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_ends_with_success(option):
    assert program(option).returncode == 0


@pytest.mark.parametrize("option", ["--version", "-v"])
def test_version_has_the_layout_that_docker_parses(option):
    done = program(option)
    assert done.returncode == 0 and done.stderr == ""
    lines = done.stdout.splitlines()
    assert re.fullmatch(r"slirp4netns version \d+\.\d+\.\d+\S*", lines[0])
    assert [line for line in lines if "version" in line] == lines[:1]
    keys = [line.split(": ")[0] for line in lines[1:]]
    for key in ("commit", "libslirp", "SLIRP_CONFIG_VERSION_MAX", "libseccomp"):
        assert key in keys
    assert int(re.search(r"SLIRP_CONFIG_VERSION_MAX: (\d+)", done.stdout)[1]) >= 3
    assert re.search(r"^libseccomp: \d+\.\d+\.\d+$", done.stdout, re.M)


USAGE = "Usage: "


@pytest.mark.parametrize(("args", "message", "usage"), [
    ([], None, True),
    (["--mtu=0", *TARGET], "MTU must be a positive integer (< 65522)", True),
    (["--mtu=65522", *TARGET], "MTU must be a positive integer (< 65522)", True),
    (["--mtu=x", *TARGET], "MTU must be a positive integer (< 65522)", True),
    (["--mtu=1500x", *TARGET], "MTU must be a positive integer (< 65522)", True),
    (["--exit-fd=-1", *TARGET], "exit-fd must be a non-negative integer", True),
    (["--exit-fd=x", *TARGET], "exit-fd must be a non-negative integer", True),
    (["--ready-fd=-1", *TARGET], "ready-fd must be a non-negative integer", True),
    (["0", "tap0"], "PID must be a positive integer", True),
    (["-c", "x1", "tap0"], "PID must be a positive integer", True),
    (["--netns-type=path", "/nonexistent/ns", "tap0"], "existing path expected when --netns-type=path: ", True),
    (["--netns-type=anything", "/nonexistent/ns", "tap0"], "existing path expected when --netns-type=path", True),
    (["--userns-path=/nonexistent/ns", *TARGET], "userns path doesn't exist: /nonexistent/ns", True),
    (["--target-type=x", *TARGET], '--target-type must be either "netns" or "bess"', True),
    (["--target-type=bess", "-c", "/tmp/x"], None, True),
    (["--target-type=bess", "--userns-path=/proc/self/ns/user", "/tmp/x"], None, True),
    (["--macaddress=52:54:00:12:34:56", *TARGET],
     "--macaddr cannot be specified when --configure or -c is not specified", True),
    (["--cidr=10.0.2.0", *TARGET], "invalid CIDR: 10.0.2.0", False),
    (["--cidr=foo", *TARGET], "invalid CIDR: foo", False),
    (["--cidr=300.0.2.0/24", *TARGET], "invalid network address: 300.0.2.0", False),
    (["--cidr=10.0.2.0/0", *TARGET], "prefix length needs to be 1-25", False),
    (["--cidr=10.0.2.0/26", *TARGET], "prefix length needs to be 1-25", False),
    (["--cidr=10.0.2.100/26", *TARGET], "prefix length needs to be 1-25", False),
    (["--cidr=10.0.2.100/24", *TARGET],
     "CIDR needs to be a network address like 10.0.2.0/24, not like 10.0.2.100/24", False),
    (["--outbound-addr=nosuchif0", *TARGET], "outbound-addr has to be valid ipv4 address or interface name.", False),
    (["--outbound-addr6=nosuchif0", *TARGET], None, False),
    (["-c", "--macaddress=zz:54:00:12:34:56", *TARGET], None, False),
    (["--nonsense", *TARGET], "unrecognized option '--nonsense'", True),
    (["--mtu"], "option '--mtu' requires an argument", True),
])
def test_mistakes_are_named_and_end_with_1(args, message, usage):
    done = program(*args)
    assert done.returncode == 1
    assert (USAGE in done.stdout) == usage, done.stdout
    assert USAGE not in done.stderr
    if message:
        assert message in done.stderr
    assert done.stderr.strip() or not args


def test_a_mistake_leaves_no_socket(tmp_path):
    path = tmp_path / "api.sock"
    assert program(f"--api-socket={path}", "-c", *TARGET).returncode == 1
    assert not path.exists()


def test_unknown_pid_is_an_error_that_names_it():
    done = program("-c", NO_PID, "tap0")
    assert done.returncode == 1
    assert f"/proc/{NO_PID}/ns/" in done.stderr and "No such file or directory" in done.stderr
    assert "child failed(1)" in done.stderr


@pytest.mark.parametrize(("option", "new"), [("--no-host-loopback", "--disable-host-loopback"),
                                             ("--create-sandbox", "--enable-sandbox")])
def test_old_names_warn_and_work(option, new):
    done = program(option, "-c", *TARGET)
    assert done.returncode == 1 and "No such file" in done.stderr
    assert "WARNING" in done.stdout and new in done.stdout


def test_options_may_be_shortened_clustered_and_repeated():
    # All of it is accepted: what fails is the pid, later.
    done = program("--conf", "--mt", "9000", "--mtu=9001", "--mtu=1400", "-6r9", NO_PID, "tap0")
    assert done.returncode == 1
    assert f"/proc/{NO_PID}/ns/" in done.stderr


def test_extra_operands_are_a_warning(world):
    slirp = world.start(target=[str(world.guest.pid), "tap0", "surplus"])
    world.guest.run("ip", "link", "show", "tap0")
    slirp.stop()
    assert "WARNING: too many arguments" in slirp.out() or slirp.out() == ""  # stdout of the reference is buffered


def test_long_interface_names_are_cut_to_15_bytes(world):
    world.start(target=[str(world.guest.pid), "tap0123456789abcdef"])
    world.guest.run("ip", "link", "show", "tap0123456789ab")


@pytest.mark.extension
@pytest.mark.parametrize("mtu", ["1", "67"])
def test_mtu_below_the_minimum_is_named(mtu):
    done = program(f"--mtu={mtu}", *TARGET)
    assert done.returncode == 1 and "68" in done.stderr


@pytest.mark.parametrize(("args", "lines"), [
    (["--mtu=4000"], ["* MTU:             4000", "* Network:         10.0.2.0", "* Netmask:         255.255.255.0",
                      "* Gateway:         10.0.2.2", "* DNS:             10.0.2.3",
                      "* DHCP begin:      10.0.2.15", "* DHCP end:        10.0.2.30",
                      "* Recommended IP:  10.0.2.100", "WARNING: 127.0.0.1:* on the host is accessible as 10.0.2.2"]),
    (["--cidr=192.168.64.0/20", "--disable-host-loopback"],
     ["* Network:         192.168.64.0", "* Netmask:         255.255.240.0", "* Gateway:         192.168.64.2",
      "* DNS:             192.168.64.3", "* Recommended IP:  192.168.64.100"]),
    (["--outbound-addr=203.0.113.1", "--outbound-addr6=2001:db8:1::1", "--enable-ipv6"],
     ["* Outbound IPv4:    203.0.113.1", "* Outbound IPv6:    2001:db8:1::1",
      "WARNING: Support for IPv6 is experimental"]),
    (["--macaddress=0e:d4:18:d9:38:fb"], ["* MAC address:     0e:d4:18:d9:38:fb"]),
])
def test_banner_says_what_was_chosen(world, args, lines):
    slirp = world.start(*args, exit_fd=True)
    slirp.send_exit()
    assert slirp.wait() == 0
    assert slirp.out().startswith(("Starting slirp", "WARNING")) and "Starting slirp" in slirp.out()
    for line in lines:
        assert line in slirp.out()
    if "--disable-host-loopback" in args:
        assert "is accessible as" not in slirp.out()


def test_an_api_socket_that_cannot_be_bound_is_an_error(world):
    done = world.run_program("-c", "--api-socket=/nonexistent/api.sock", str(world.guest.pid), "tap0")
    assert done.returncode == 1
    assert "bind" in done.stderr and "No such file or directory" in done.stderr


def test_an_api_socket_with_too_long_a_path_is_an_error(world):
    done = world.run_program("-c", "--api-socket=" + "x" * 108, str(world.guest.pid), "tap0")
    assert done.returncode == 1
    assert "the specified API socket path is too long (>= 108)" in done.stderr and USAGE not in done.stdout


def test_a_directory_at_the_api_sockets_path_is_an_error(world):
    (world.work / "dir").mkdir()
    done = world.run_program("-c", f"--api-socket={world.work}/dir", str(world.guest.pid), "tap0")
    assert done.returncode == 1 and "bind" in done.stderr


def test_a_busy_tap_is_an_error(world):
    world.start()
    done = world.run_program("-c", str(world.guest.pid), "tap0")
    assert done.returncode == 1
    assert "Device or resource busy" in done.stderr and "child failed(1)" in done.stderr


def test_a_path_that_is_no_namespace_is_an_error(world):
    done = world.run_program("-c", "--netns-type=path", str(world.peer_py), "tap0")
    assert done.returncode == 1 and "child failed(1)" in done.stderr and "setns" in done.stderr


def test_without_a_tun_device_the_error_names_it(world):
    world.host.run("mount", "-t", "tmpfs", "tmpfs", "/dev/net")
    done = world.run_program("-c", str(world.guest.pid), "tap0")
    assert done.returncode == 1 and "/dev/net/tun" in done.stderr and "child failed(1)" in done.stderr


def test_a_closed_stdout_does_not_matter(world):
    ready_read, ready_write = os.pipe()
    process = subprocess.Popen(["sh", "-c", 'exec "$@" >&-', "sh",
                                *world.argv("-c", f"--ready-fd={ready_write}", str(world.guest.pid), "tap0")],
                               pass_fds=(ready_write,), stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    os.close(ready_write)
    try:
        assert os.read(ready_read, 2) == b"1"
    finally:
        process.kill()
        process.wait(10)
        os.close(ready_read)
