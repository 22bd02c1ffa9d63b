# SPDX-License-Identifier: GPL-2.0-or-later
"""Namespaces, targets and the interface: who may be attached to what, and how it looks afterwards."""

import os
import pathlib
import signal
import socket
import struct
import time

import pytest
from harness import AS, DEADLINE_S, GATEWAY4, GUEST4, PYTHON, REMOTE4, identity, run, wait_for


def address(space, interface, family="inet"):
    return [(a["local"], a["prefixlen"]) for link in space.ip_json("addr", "show", "dev", interface)
            for a in link.get("addr_info", []) if a["family"] == family]


def test_configure_sets_address_route_mtu_and_loopback(world):
    world.start("--mtu=4000")
    link = world.guest.ip_json("link", "show", "tap0")[0]
    assert link["mtu"] == 4000 and "UP" in link["flags"] and "LOWER_UP" in link["flags"]
    assert address(world.guest, "tap0") == [(GUEST4, 24)]
    assert "UP" in world.guest.ip_json("link", "show", "lo")[0]["flags"]
    route = world.guest.ip_json("route", "show", "default")
    assert [(r["gateway"], r["dev"]) for r in route] == [(GATEWAY4, "tap0")]


def test_default_mtu_is_1500(world):
    world.start()
    assert world.guest.ip_json("link", "show", "tap0")[0]["mtu"] == 1500


def test_largest_mtu(world):
    world.start("--mtu=65521")
    assert world.guest.ip_json("link", "show", "tap0")[0]["mtu"] == 65521


def test_without_configure_the_interface_is_only_made(world):
    world.start(configure=False)
    link = world.guest.ip_json("link", "show", "tap0")[0]
    assert "UP" not in link["flags"]
    assert address(world.guest, "tap0") == []


def test_cidr_moves_every_address(world):
    world.start("--cidr=10.10.0.0/16")
    assert address(world.guest, "tap0") == [("10.10.0.100", 16)]
    assert world.guest.ip_json("route", "show", "default")[0]["gateway"] == "10.10.0.2"
    world.remote.peer("tcp_echo", REMOTE4, 7000)
    assert world.guest.client("echo", REMOTE4, 7000, "x")["reply"] == "x"
    assert world.guest.run("ping", "-c1", "-W3", "10.10.0.2").returncode == 0


def test_macaddress(world):
    world.start("--macaddress=0e:d4:18:d9:38:fb")
    assert world.guest.ip_json("link", "show", "tap0")[0]["address"] == "0e:d4:18:d9:38:fb"


@pytest.mark.reference_bug("takes a MAC address of five groups")
def test_macaddress_of_five_groups_is_refused(world):
    done = world.run_program("-c", "--macaddress=0e:d4:18:d9:38", str(world.guest.pid), "tap0")
    assert done.returncode == 1 and "0e:d4:18:d9:38" in done.stderr


def test_a_multicast_macaddress_is_an_error(world):
    done = world.run_program("-c", "--macaddress=01:00:5e:00:00:01", str(world.guest.pid), "tap0")
    assert done.returncode == 1 and done.stderr.strip()


def test_ipv6_address_and_route_come_by_router_advertisement(world):
    world.guest.run("sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0", check=False)
    world.start("--enable-ipv6")
    found = wait_for("an address in fd00::/64",
                     lambda: [a for a, _ in address(world.guest, "tap0", "inet6") if a.startswith("fd00:")])
    assert found
    wait_for("a default route", lambda: world.guest.ip_json("-6", "route", "show", "default"))


def test_without_enable_ipv6_there_is_no_router(world):
    world.start()
    world.guest.run("ping", "-c1", "-W3", GATEWAY4)
    assert world.guest.ip_json("-6", "route", "show", "default") == []


@pytest.mark.skipif(AS != "root", reason="a path alone does not name the user namespace that an ordinary user must enter")
def test_path_target(world):
    world.start("--netns-type=path", target=[f"/proc/{world.guest.pid}/ns/net", "tap0"])
    assert address(world.guest, "tap0") == [(GUEST4, 24)]


def test_path_target_with_its_user_namespace(world):
    world.start("--netns-type=path", f"--userns-path=/proc/{world.guest.pid}/ns/user",
                target=[f"/proc/{world.guest.pid}/ns/net", "tap0"])
    assert address(world.guest, "tap0") == [(GUEST4, 24)]


def test_pid_target_with_a_user_namespace_by_path(world):
    world.start(f"--userns-path=/proc/{world.guest.pid}/ns/user")
    assert address(world.guest, "tap0") == [(GUEST4, 24)]


def test_an_unknown_netns_type_is_a_path(world):
    world.start("--netns-type=whatever", f"--userns-path=/proc/{world.guest.pid}/ns/user",
                target=[f"/proc/{world.guest.pid}/ns/net", "tap0"])
    assert address(world.guest, "tap0") == [(GUEST4, 24)]


def test_caller_inside_the_targets_user_namespace(world):
    """Podman starts the program as root of the user namespace that also owns the guest's network."""
    ready_read, ready_write = os.pipe()
    from harness import PROGRAM, PROGRAM_ARGS, Slirp
    holder = world.space([*world.host.enter, *identity(), "unshare", "-r", "-m"] if AS == "user" else
                         [*world.host.enter, "unshare", "-r", "-m"],
                         lambda pid: [*([] if AS == "root" else identity()), "nsenter", "-t", str(pid), "-U", "-m",
                                      "--preserve-credentials"])
    guest = world.space([*holder.enter, "unshare", "-n"],
                        lambda pid: [*holder.enter, "nsenter", "-t", str(pid), "-n"])
    net = ["nsenter", f"--net=/proc/{world.host.pid}/ns/net"] if AS == "root" else []
    argv = [*net, *holder.enter, PROGRAM, *PROGRAM_ARGS, "-c", f"--ready-fd={ready_write}", "--mtu=65520",
            "--enable-sandbox", "--enable-seccomp", "--enable-ipv6", "--disable-host-loopback", "--netns-type=path",
            f"/proc/{guest.pid}/ns/net", "tap0"]
    slirp = Slirp(world, argv, (ready_write,), ready_read, None, None, None, None)
    world.slirps.append(slirp)
    os.close(ready_write)
    slirp.wait_ready()
    assert address(guest, "tap0") == [(GUEST4, 24)]
    assert slirp.status()["CapEff"] == "0000000000000400"


def test_rootlesskits_way_a_persistent_tap_made_before(world):
    """RootlessKit makes and configures the TAP itself and starts the program without -c."""
    world.guest.ip("link set lo up")
    world.guest.run("ip", "tuntap", "add", "name", "tap0", "mode", "tap")
    world.guest.ip("link set tap0 mtu 65520", "link set tap0 up", "addr add 10.0.2.100/24 dev tap0",
                   "route add default via 10.0.2.2 dev tap0")
    slirp = world.start("--mtu=65520", "--disable-host-loopback", "--enable-sandbox", "--enable-seccomp",
                        configure=False)
    world.remote.peer("tcp_echo", REMOTE4, 7000)
    assert world.guest.client("echo", REMOTE4, 7000, "x")["reply"] == "x"
    slirp.stop()
    assert world.guest.ip_json("link", "show", "tap0")  # it is not ours to remove


def test_two_programs_in_one_namespace(world):
    world.start(target=[str(world.guest.pid), "tap0"])
    world.start("--cidr=10.0.3.0/24", target=[str(world.guest.pid), "tap1"])
    assert address(world.guest, "tap0") == [(GUEST4, 24)]
    assert address(world.guest, "tap1") == [("10.0.3.100", 24)]


def test_the_interface_goes_with_the_program(world):
    slirp = world.start()
    slirp.stop()
    wait_for("tap0 is gone", lambda: world.guest.run("ip", "link", "show", "tap0", check=False).returncode != 0)


# ---- descriptors instead of namespaces ----

MAKE_TAP = """
import fcntl, os, socket, struct, sys, array
fd = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(fd, 0x400454ca, struct.pack("16sH22x", b"tap0", 0x1002))
s = socket.socket(fileno=int(sys.argv[1]))
socket.send_fds(s, [b"x"], [fd])
"""


@pytest.mark.since("1.3.0")
def test_tapfd_target(world):
    ours, theirs = socket.socketpair()
    world.guest.run(PYTHON, "-c", MAKE_TAP, str(theirs.fileno()), pass_fds=(theirs.fileno(),))
    _, fds, _, _ = socket.recv_fds(ours, 1, 1)
    world.guest.ip("link set lo up", "link set tap0 up", "addr add 10.0.2.100/24 dev tap0",
                   "route add default via 10.0.2.2 dev tap0")
    slirp = world.start("--netns-type=tapfd", configure=False, target=[str(fds[0])], pass_fds=(fds[0],))
    os.close(fds[0])
    world.remote.peer("tcp_echo", REMOTE4, 7000)
    assert world.guest.client("echo", REMOTE4, 7000, "x")["reply"] == "x"
    slirp.stop()


ARP = bytes.fromhex("ffffffffffff 020000000001 0806 0001 0800 06 04 0001 020000000001 0a000264 000000000000 0a000202"
                    .replace(" ", ""))


@pytest.mark.since("1.3.0")
def test_tapfd_may_be_a_socket_and_its_end_is_noticed(world):
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    slirp = world.start("--netns-type=tapfd", configure=False, target=[str(theirs.fileno())],
                        pass_fds=(theirs.fileno(),))
    theirs.close()
    ours.settimeout(DEADLINE_S)
    ours.send(ARP)
    answer = ours.recv(2048)
    assert answer[6:12] == bytes.fromhex("52550a000202") and answer[12:14] == b"\x08\x06"
    ours.close()
    if slirp.world and os.environ.get("SLIRP4NETNS", "").endswith("/usr/bin/slirp4netns"):
        return
    assert slirp.wait() == 1
    assert slirp.err().strip()


@pytest.mark.since("1.3.0")
def test_a_tapfd_that_is_not_open_is_an_error(world):
    done = world.run_program("--netns-type=tapfd", "77")
    assert done.returncode == 1 and "77" in done.stderr


@pytest.mark.parametrize("operand", ["-1", "x"])
@pytest.mark.since("1.3.0")
def test_a_tapfd_must_be_a_number(operand):
    from harness import PROGRAM
    done = run([PROGRAM, "--netns-type=tapfd", "--", operand])
    assert done.returncode == 1 and "TAPFD must a file descriptor" in done.stderr


def bess_connect(path):
    s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    s.settimeout(DEADLINE_S)

    def connected():
        try:
            s.connect(str(path))
            return True
        except OSError:
            return False

    wait_for("the BESS socket listens", connected)
    return s


def test_bess_target(world):
    """User Mode Linux's BESS transport: one SEQPACKET client, bare Ethernet frames."""
    path = world.work / "bess.sock"
    slirp = world.start("--target-type=bess", configure=False, target=[str(path)], ready=False)
    s = bess_connect(path)
    slirp.wait_ready()
    s.send(ARP)
    assert s.recv(2048)[6:12] == bytes.fromhex("52550a000202")
    s.close()


@pytest.mark.reference_bug("burns a CPU for ever")
def test_the_end_of_the_bess_peer_ends_the_program(world):
    path = world.work / "bess.sock"
    slirp = world.start("--target-type=bess", configure=False, target=[str(path)], ready=False)
    s = bess_connect(path)
    slirp.wait_ready()
    s.close()
    assert slirp.wait() == 1
    assert not path.exists()


def waiting_for_its_peer(world, **kwargs):
    path = world.work / "bess.sock"
    slirp = world.start("--target-type=bess", configure=False, target=[str(path)], ready=False, **kwargs)
    wait_for("the BESS socket", path.exists)
    return slirp, path


@pytest.mark.reference_bug("leaves the socket file")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_it_while_it_waits_for_its_bess_peer(world, number):
    """By the signal, as always, and promptly; nothing is left of its socket."""
    slirp, path = waiting_for_its_peer(world)
    begin = time.monotonic()
    slirp.process.send_signal(number)
    assert slirp.wait() == -number
    assert time.monotonic() - begin < 9
    assert not path.exists()


@pytest.mark.reference_bug("looks at its exit-fd only when it has a peer")
def test_closing_the_exit_pipe_ends_it_while_it_waits_for_its_bess_peer(world):
    slirp, path = waiting_for_its_peer(world, exit_fd=True)
    slirp.send_exit()
    assert slirp.wait() == 0
    assert not path.exists()


@pytest.mark.reference_bug("looks at its exit-fd only when it has a peer")
def test_an_exit_fd_that_is_not_open_spares_the_wait_for_a_bess_peer(world):
    path = world.work / "bess.sock"
    slirp = world.start("--target-type=bess", "--exit-fd=88", configure=False, target=[str(path)], ready=False)
    assert slirp.wait() == 0
    assert not path.exists()


# guix-daemon's filter: sockets other than IPv4's and IPv6's do not exist, socketpair() of another family says 0 and
# makes nothing; system calls newer than its list do not exist.
GUIX = r"""
import ctypes, os, struct, sys
lib = ctypes.CDLL("libseccomp.so.2", use_errno=True)
lib.seccomp_init.restype = ctypes.c_void_p
class Arg(ctypes.Structure):
    _fields_ = [("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64)]
ERRNO = lambda n: 0x00050000 | n
EQ = 4
c = ctypes.c_void_p(lib.seccomp_init(ctypes.c_uint32(0x7fff0000)))
num = lambda name: lib.seccomp_syscall_resolve_name(name.encode())
def rule(action, name, *args):
    a = (Arg * max(1, len(args)))(*args)
    if lib.seccomp_rule_add_array(c, ctypes.c_uint32(action), num(name), len(args), a) != 0:
        sys.exit("no rule for " + name)
for family in (1, 16, 17):  # AF_UNIX, AF_NETLINK, AF_PACKET
    rule(ERRNO(38), "socket", Arg(0, EQ, family, 0))
    rule(ERRNO(0), "socketpair", Arg(0, EQ, family, 0))
for name in ("io_uring_setup", "io_uring_enter", "io_uring_register", "ptrace"):
    rule(ERRNO(38), name)
if lib.seccomp_load(c) != 0:
    sys.exit("seccomp_load")
os.execvp(sys.argv[1], sys.argv[1:])
"""


@pytest.mark.since("1.3.0")
def test_guix_tapfd_under_its_seccomp_filter(world):
    from harness import PROGRAM, PROGRAM_ARGS, Slirp
    if "--io-backend=io_uring" in PROGRAM_ARGS:
        pytest.skip("io_uring was asked for and is what the filter denies")
    ours, theirs = socket.socketpair()
    world.guest.run(PYTHON, "-c", MAKE_TAP, str(theirs.fileno()), pass_fds=(theirs.fileno(),))
    _, fds, _, _ = socket.recv_fds(ours, 1, 1)
    world.guest.ip("link set lo up", "link set tap0 up", "addr add 10.0.2.100/24 dev tap0",
                   "route add default via 10.0.2.2 dev tap0")
    ready_read, ready_write = os.pipe()
    # As root of its own namespaces, with an almost empty /etc and /run; here: root of a user namespace.
    argv = [*world.host.enter, *([] if AS == "root" else identity()), "unshare", "-r", "-m", PYTHON, "-c", GUIX,
            PROGRAM, *PROGRAM_ARGS, "--netns-type=tapfd", "--enable-sandbox", "--enable-ipv6",
            f"--ready-fd={ready_write}", "--disable-host-loopback", str(fds[0])]
    slirp = Slirp(world, argv, (ready_write, fds[0]), ready_read, None, None, None, None)
    world.slirps.append(slirp)
    os.close(ready_write)
    os.close(fds[0])
    slirp.wait_ready()
    world.remote.peer("tcp_echo", REMOTE4, 7000)
    assert world.guest.client("echo", REMOTE4, 7000, "x")["reply"] == "x"


def test_real_rootlesskit(world):
    """The client of most installations, with this program in its PATH."""
    import shutil
    from harness import PROGRAM, PROGRAM_ARGS
    if not shutil.which("rootlesskit"):
        pytest.skip("rootlesskit is not installed (package rootlesskit)")
    if AS == "root" or os.environ.get("E2E_IN_USERNS") == "1":
        pytest.skip("rootlesskit is for ordinary users outside a user namespace")
    subids = "".join(pathlib.Path(p).read_text() for p in ("/etc/subuid", "/etc/subgid") if os.path.exists(p))
    if subids.count("slirptest:") < 2:
        pytest.skip("the user slirptest has no subordinate ids (/etc/subuid, /etc/subgid)")
    wrapper = world.dir / "slirp4netns"
    wrapper.write_text(f'#!/bin/sh\nexec {PROGRAM} {" ".join(PROGRAM_ARGS)} "$@"\n')
    wrapper.chmod(0o755)
    world.remote.peer("tcp_hello", REMOTE4, 7000)
    done = world.host.run(
        *identity()[:4], "env", f"HOME={world.work}", f"XDG_RUNTIME_DIR={world.work}", "rootlesskit",
        "--net=slirp4netns", f"--slirp4netns-binary={wrapper}", "--mtu=65520", "--slirp4netns-sandbox=true",
        "--slirp4netns-seccomp=true", "--disable-host-loopback", "--copy-up=/etc",
        f"--state-dir={world.work}/state", PYTHON, str(world.peer_py), "client", "connect", REMOTE4, "7000",
        check=False)
    assert '"ok": true' in done.stdout, done.stdout + done.stderr
