# SPDX-License-Identifier: GPL-2.0-or-later
"""--check, and errors that tell the next step: each is provoked."""

import re
import subprocess

import pytest
from harness import (AS, DEADLINE_S, DNS4, GATEWAY4, IN_USERNS, PROGRAM, PROGRAM_ARGS, REMOTE4, identity, run, wait_for)

pytestmark = [pytest.mark.extension, pytest.mark.makes_userns]

NAMES = ["TAP device", "user namespaces", "io_uring", "nf_tables", "policy routing", "TCP_REPAIR", "IP_TRANSPARENT", "ping",
         "open descriptors", "pipes", "TCP windows", "low ports", "name server"]
MOUNTS = pytest.mark.skipif(IN_USERNS, reason="needs the right to mount as the tests' root")

GROUPS = pytest.mark.skipif(IN_USERNS, reason="an ordinary user's namespace has one group, so no range can be set in it")


def check(world, *before):
    """State, costs and fix of each line."""
    done = run([*world.host.enter, *identity(), *before, PROGRAM, "--check"])
    found, name = {}, None
    for line in done.stdout.splitlines():
        if head := re.match(r"(ok|less|FAIL) +(.{18}) (.*)", line):
            name = head[2].strip()
            found[name] = {"state": head[1], "what": head[3]}
        elif more := re.match(r" {25}(costs|fix): +(.*)", line):
            found[name][more[1]] = more[2]
    return done, found


def test_what_is_there_is_ok(world):
    done, found = check(world)
    assert list(found) == NAMES, done.stdout
    assert done.returncode == 0 and "slirp4netns can run here" in done.stdout and done.stderr == ""
    for name in ("TAP device", "user namespaces", "policy routing", "IP_TRANSPARENT", "TCP_REPAIR", "name server"):
        assert found[name]["state"] == "ok", done.stdout
    for entry in found.values():
        assert ("costs" in entry and "fix" in entry) == (entry["state"] != "ok"), done.stdout


def test_it_leaves_nothing_behind(world):
    before = world.host.run("ip", "-o", "link").stdout, world.host.run("cat", "/proc/self/mountinfo").stdout
    check(world)
    assert (world.host.run("ip", "-o", "link").stdout, world.host.run("cat", "/proc/self/mountinfo").stdout) == before


@pytest.mark.parametrize("args", [["--check", "1"], ["--check", "--run"]])
def test_it_goes_with_nothing_else(world, args):
    done = run([PROGRAM, *args])
    assert done.returncode == 1 and "--check goes with nothing else" in done.stderr


def test_without_a_tap_device_it_fails(world):
    world.host.run("mount", "-t", "tmpfs", "tmpfs", "/dev/net")
    done, found = check(world)
    assert done.returncode == 1 and "cannot run here" in done.stdout
    assert found["TAP device"]["state"] == "FAIL" and "modprobe tun" in found["TAP device"]["fix"]


def test_without_user_namespaces_an_ordinary_user_cannot_run(world):
    nested = ["unshare", "--user", "--map-current-user", "--keep-caps", "sh", "-c",
              "echo 0 >/proc/sys/user/max_user_namespaces && exec setpriv --ambient-caps=-all --inh-caps=-all \"$@\"", "sh"]
    if AS == "root" or IN_USERNS:
        nested = ["unshare", "-r", "sh", "-c", "echo 0 >/proc/sys/user/max_user_namespaces && exec \"$@\"", "sh"]
    done, found = check(world, *nested)
    entry = found["user namespaces"]
    assert "sysctl user.max_user_namespaces=" in entry["fix"], done.stdout
    if AS == "root" or IN_USERNS:  # root serves network namespaces without one
        assert (done.returncode, entry["state"]) == (0, "less")
    else:
        assert (done.returncode, entry["state"]) == (1, "FAIL")


@GROUPS
def test_ping_names_the_sysctl_and_its_value(world):
    if AS == "root":
        pytest.skip("root has raw sockets")
    world.host.run("sysctl", "-q", "net.ipv4.ping_group_range=1 0")
    entry = check(world)[1]["ping"]
    assert entry["state"] == "less" and "ping_group_range=1 0" in entry["what"] and "0 2147483647" in entry["fix"]
    world.host.run("sysctl", "-q", "net.ipv4.ping_group_range=0 4294967294")
    assert check(world)[1]["ping"]["state"] == "ok"


def test_limits_are_shown(world):
    entry = check(world, "prlimit", "--nofile=1024:1024")[1]["open descriptors"]
    assert entry["state"] == "less" and "1024 at most" in entry["what"] and "LimitNOFILE" in entry["fix"]


def test_a_resolv_conf_without_a_server_is_named(world):
    world.resolv_conf("# nothing\n")
    entry = check(world)[1]["name server"]
    assert entry["state"] == "less" and "names none" in entry["what"]


def test_low_ports(world):
    world.host.run("sysctl", "-q", "net.ipv4.ip_unprivileged_port_start=1024")
    state = check(world)[1]["low ports"]["state"]
    assert state == ("ok" if AS == "root" or IN_USERNS else "less")


# ---- errors ----

def test_missing_device(world):
    world.host.run("mount", "-t", "tmpfs", "tmpfs", "/dev/net")
    for args in (["-c", str(world.guest.pid), "tap0"], ["--run", "true"]):
        done = world.run_program(*args)
        assert done.returncode == 1
        assert 'open("/dev/net/tun"): No such file or directory' in done.stderr and "modprobe tun" in done.stderr
        assert ("child failed(1)" in done.stderr) == ("-c" in args)


@MOUNTS
@pytest.mark.skipif(AS == "root", reason="root may open every device")
def test_device_of_root(world):
    world.host.run("sh", "-c", "mount -t tmpfs -o mode=0755 tmpfs /dev/net && mknod -m 0600 /dev/net/tun c 10 200")
    done = world.run_program("-c", str(world.guest.pid), "tap0")
    assert done.returncode == 1 and "Permission denied" in done.stderr and "chmod 0666 /dev/net/tun" in done.stderr


def test_user_namespaces_switched_off(world):
    done = run([*world.host.enter, *identity(), "unshare", "-r", "sh", "-c",
                'echo 0 >/proc/sys/user/max_user_namespaces && exec "$@"', "sh", PROGRAM, *PROGRAM_ARGS, "--run", "true"])
    assert done.returncode == 1
    assert "cannot make a user namespace: No space left on device" in done.stderr
    assert "sysctl user.max_user_namespaces=" in done.stderr


@MOUNTS
def test_user_namespaces_not_permitted(world):
    root = world.dir / "root"
    root.mkdir()
    world.host.run("mount", "--rbind", "/", str(root))
    user = [] if AS == "root" else identity()
    done = run([*world.host.enter, "chroot", str(root), *user, PROGRAM, *PROGRAM_ARGS, "--run", "true"])
    assert done.returncode == 1
    assert "cannot make a user namespace: Operation not permitted" in done.stderr and "chroot" in done.stderr


def test_a_process_that_has_ended(world):
    gone = subprocess.Popen(["true"])
    gone.wait(DEADLINE_S)
    done = world.run_program("-c", str(gone.pid), "tap0")
    assert done.returncode == 1
    assert f"/proc/{gone.pid}/ns/" in done.stderr and "is the process still there?" in done.stderr


@pytest.mark.skipif(AS == "root" or IN_USERNS, reason="no process is somebody else's for root")
def test_somebody_elses_process(world):
    done = world.run_program("-c", str(world.host.pid), "tap0")
    assert done.returncode == 1
    assert "Permission denied" in done.stderr and "the namespace belongs to another user" in done.stderr


@pytest.mark.parametrize("place", ["/run/systemd/resolve/stub-resolv.conf", "elsewhere"])
def test_a_linked_resolv_conf_in_the_sandbox(world, place):
    from test_run import RESOLV, replace_etc
    if place == "elsewhere":
        place = str(world.dir / "stub.conf")
    replace_etc(world, place, place)
    world.host.peer("dns", "127.0.0.1", 53, "192.0.2.33")
    assert "nameserver 127.0.0.1" in RESOLV
    slirp = world.start("--enable-sandbox")
    assert world.guest.client("dns", DNS4, 53)["address"] == "192.0.2.33"
    assert ("binding that file too" in slirp.err()) == place.startswith(str(world.dir))


@GROUPS
def test_ping_that_is_not_permitted_is_said_once(world):
    world.host.run("sysctl", "-q", "net.ipv4.ping_group_range=1 0")
    args = ["--enable-sandbox"] if AS == "root" else []  # which takes raw sockets away from root
    slirp = world.start(*args)
    world.guest.run("ping", "-c1", "-W10", GATEWAY4)
    assert "ping" not in slirp.err()
    for _ in range(2):
        world.guest.run("ping", "-c1", "-W1", REMOTE4, check=False)
    wait_for("the warning", lambda: "ping_group_range" in slirp.err())
    assert slirp.err().count("ping_group_range") == 1
    assert f"the guest's ping to {REMOTE4} will not be answered" in slirp.err()


@GROUPS
def test_ping_that_is_permitted_is_not_talked_about(world):
    world.host.run("sysctl", "-q", "net.ipv4.ping_group_range=0 4294967294")
    slirp = world.start()
    world.guest.run("ping", "-c1", "-W5", REMOTE4)
    assert "ping" not in slirp.err()
