# SPDX-License-Identifier: GPL-2.0-or-later
"""How the program begins and ends, the sandbox and the system call filter."""

import contextlib
import os
import pathlib
import select
import signal
import subprocess
import time

import pytest
from harness import (AS, DEADLINE_S, DNS4, GATEWAY4, HOST4, IN_USERNS, PROGRAM, PROGRAM_ARGS, PYTHON, REMOTE4, SANITIZER,
                     identity, skip_without_sandbox, wait_for)
from test_run import alive, children

PODMAN = ["--disable-host-loopback", "--mtu=65520", "--enable-sandbox", "--enable-seccomp", "--enable-ipv6"]


def test_ready_is_one_byte_and_then_closed(world):
    slirp = world.start()  # has read the byte
    assert os.read(slirp.ready_fd, 16) == b""


def test_at_ready_the_api_answers_and_the_interface_is_up(world):
    slirp = world.start("--enable-sandbox", "--enable-seccomp", api=True)
    assert slirp.api("list_hostfwd")["entries"] == []
    assert slirp.status()["Seccomp"] == "2"
    assert "UP" in world.guest.ip_json("link", "show", "tap0")[0]["flags"]


def test_a_ready_fd_that_cannot_be_written_is_ignored(world):
    slirp = world.start("--ready-fd=77", target=[str(world.guest.pid), "tap0"], ready=False)
    # Two --ready-fd: the last one, from the harness, counts. So name it last instead.
    slirp.stop()
    process = subprocess.Popen(world.argv("-c", "--ready-fd=77", str(world.guest.pid), "tap0"),
                               stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for("tap0", lambda: world.guest.run("ping", "-c1", "-W1", GATEWAY4, check=False).returncode == 0)
        assert process.poll() is None
    finally:
        process.kill()
        process.wait(10)


HOLD_TAP = """
import fcntl, os, struct, sys
fd = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(fd, 0x400454ca, struct.pack("16sH22x", b"tap0", 0x5002))  # TUNSETIFF: IFF_TAP, IFF_NO_PI, IFF_VNET_HDR
print("held", flush=True)
sys.stdin.readline()
"""


def start_while_held(world, meanwhile):
    """The program, started while somebody else has the TAP, and what @meanwhile found. The program waits for the TAP
    for a second: what took longer than that does not count."""
    for _ in range(5):
        with subprocess.Popen([*world.guest.enter, PYTHON, "-c", HOLD_TAP], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE) as holder:
            assert holder.stdout.readline() == b"held\n"
            begin = time.monotonic()
            slirp = world.start(ready=False)
            found = meanwhile(slirp)
            holder.stdin.close()
        if time.monotonic() - begin < 0.9:
            return slirp, found
        slirp.process.send_signal(signal.SIGCONT)
        pids = children(slirp.pid)
        slirp.stop()
        wait_for("nobody waits for the TAP", lambda pids=pids: not any(alive(pid) for pid in pids))
    pytest.skip("this machine is too busy to hold a TAP for less than a second")


@pytest.mark.extension
def test_a_tap_that_is_given_back_late_is_waited_for(world):
    """As after a program that used io_uring: the kernel gives its files back when it finds the time."""
    def is_there(slirp):
        time.sleep(0.2)  # the time during which the program finds it taken is the case under test
        return slirp.process.poll() is None

    _, was_there = start_while_held(world, is_there)
    assert was_there
    wait_for("the TAP", lambda: world.guest.run("ping", "-c1", "-W1", GATEWAY4, check=False).returncode == 0)


@pytest.mark.parametrize("args", [[], PODMAN])
def test_closing_the_exit_pipe_ends_with_0(world, args):
    slirp = world.start(*args, exit_fd=True, api=not args)
    slirp.send_exit()
    assert slirp.wait() == 0
    if not args:
        assert not slirp.api_path.exists()


def test_data_on_the_exit_pipe_means_nothing(world):
    slirp = world.start(exit_fd=True)
    os.write(slirp.exit_fd, b"x")
    assert world.guest.run("ping", "-c3", "-i0.2", GATEWAY4).returncode == 0
    assert slirp.process.poll() is None
    slirp.send_exit()
    assert slirp.wait() == 0


def test_an_exit_fd_that_is_not_open_ends_at_once_with_0(world):
    slirp = world.start("--exit-fd=88")
    assert slirp.wait() == 0


def test_an_exit_fd_that_never_hangs_up_means_nothing(world):
    null = os.open("/dev/null", os.O_RDWR)
    slirp = world.start(f"--exit-fd={null}", pass_fds=(null,))
    os.close(null)
    assert world.guest.run("ping", "-c3", "-i0.2", GATEWAY4).returncode == 0
    assert slirp.process.poll() is None


@pytest.mark.reference_bug("writes to whatever has that number by then")
@pytest.mark.parametrize("fd", range(3, 16))
def test_descriptor_numbers_that_are_not_open_mean_nothing_else(world, fd):
    """Podman and others leak and close descriptors: a number may become one of the program's own."""
    closed = f"{fd}<&-"
    argv = " ".join(world.argv("-c", f"--ready-fd={fd}", f"--exit-fd={fd}", str(world.guest.pid), "tap0"))
    done = subprocess.run(["bash", "-c", f"exec {argv} {closed}"], stdin=subprocess.DEVNULL, capture_output=True,
                          timeout=DEADLINE_S, check=False)
    assert done.returncode == 0, done.stderr


def test_inside_the_sandbox_no_directory_is_open(world):
    slirp = world.start("--enable-sandbox")
    for fd in os.listdir(f"/proc/{slirp.pid}/fd"):
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            target = os.readlink(f"/proc/{slirp.pid}/fd/{fd}")
            assert not target.startswith("/") or target == "/dev/null" or os.path.isfile(target) or \
                target.startswith(("/dev/net/tun", "/dev/pts")), target


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("args", [[], PODMAN])
def test_signals_end_it_promptly(world, number, args):
    slirp = world.start(*args)
    begin = time.monotonic()
    slirp.process.send_signal(number)
    assert slirp.wait() in (-number, 128 + number)
    assert time.monotonic() - begin < 9


@pytest.mark.reference_bug("leaves the socket file")
@pytest.mark.parametrize("args", [[], PODMAN])
def test_sigterm_removes_the_socket_file(world, args):
    slirp = world.start(*args, api=True)
    slirp.process.terminate()
    slirp.wait()
    if not args:
        assert not slirp.api_path.exists()


def test_sigkill_leaves_no_process_and_no_interface(world):
    slirp = world.start(*PODMAN)
    pids = children(slirp.pid)
    slirp.process.kill()
    slirp.wait()
    wait_for("children are gone", lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids))
    wait_for("tap0 is gone", lambda: world.guest.run("ip", "link", "show", "tap0", check=False).returncode != 0)


@pytest.mark.reference_bug("burns a CPU and fills the log")
@pytest.mark.parametrize("args", [[], PODMAN])
def test_a_deleted_tap_ends_it_with_1_and_a_message(world, args):
    slirp = world.start(*args)
    world.guest.run("ip", "link", "del", "tap0")
    assert slirp.wait() == 1
    assert "tap0" in slirp.err() and len(slirp.err()) < 4000


def test_a_tap_that_is_down_does_not_end_it(world):
    slirp = world.start()
    world.guest.ip("link set tap0 down", "link set tap0 up", "route add default via 10.0.2.2 dev tap0")
    world.remote.peer("tcp_echo", REMOTE4, 7000)
    assert world.guest.client("echo", REMOTE4, 7000, "x")["reply"] == "x"
    assert slirp.process.poll() is None


@pytest.mark.reference_bug("lives on for ever")
def test_the_end_of_the_target_ends_it(world):
    slirp = world.start()
    world.guest.holder.kill()
    world.guest.holder.wait()
    assert slirp.wait() == 0


@pytest.mark.extension
@pytest.mark.parametrize("reaped", [True, False], ids=["reaped", "zombie"])
def test_a_target_that_ends_during_the_start_is_missed(world, reaped):
    """Its namespace is held by then: there is somebody to serve, or the program finds that nobody is left."""
    def stop_it(slirp):
        # It has opened the namespaces before it has a child, which then waits for the TAP for a second.
        wait_for("its child", lambda: children(slirp.pid) or slirp.process.poll() is not None)
        slirp.process.send_signal(signal.SIGSTOP)

    slirp, _ = start_while_held(world, stop_it)
    world.guest.holder.kill()
    os.waitid(os.P_PID, world.guest.pid, os.WEXITED | (0 if reaped else os.WNOWAIT))
    slirp.process.send_signal(signal.SIGCONT)
    assert slirp.wait() == 0, slirp.err()
    assert "nobody is left" in slirp.out() + slirp.err()


def test_the_end_of_the_target_does_not_end_it_while_others_are_in_the_namespace(world):
    slirp = world.start()
    other = world.guest.peer("tcp_echo", "0.0.0.0", 80)
    world.guest.holder.kill()
    world.guest.holder.wait()
    time.sleep(0.5)  # nothing may happen: there is no condition to wait for
    assert slirp.process.poll() is None
    other.end()


def test_pdeathsig_of_the_parent_is_kept(world):
    """Buildah and RootlessKit start it with PR_SET_PDEATHSIG and rely on it."""
    script = ("import ctypes,subprocess,sys,os\n"
              "p=subprocess.Popen(sys.argv[2:],pass_fds=[int(sys.argv[1])],stdout=subprocess.DEVNULL,"
              "preexec_fn=lambda: ctypes.CDLL(None).prctl(1,9,0,0,0))\n"
              "print(p.pid,flush=True)\nsys.stdin.read()\n")
    skip_without_sandbox(PODMAN)
    ready_read, ready_write = os.pipe()
    # The namespaces and the identity are the parent's already: changing them would clear the signal.
    prefix = [*world.host.enter, *identity()]
    parent = subprocess.Popen([*prefix, "/usr/bin/python3", "-c", script, str(ready_write), PROGRAM, *PROGRAM_ARGS, "-c",
                               f"--ready-fd={ready_write}", *PODMAN, str(world.guest.pid), "tap0"],
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=(ready_write,))
    os.close(ready_write)
    try:
        pid = int(parent.stdout.readline())
        assert select.select([ready_read], [], [], DEADLINE_S)[0] and os.read(ready_read, 1) == b"1"
        parent.kill()
        parent.wait()
        wait_for("it died with its parent", lambda: not alive(pid))
    finally:
        parent.kill()
        parent.wait()
        os.close(ready_read)
        parent.stdin.close()
        parent.stdout.close()


def test_idle_costs_nothing(world):
    slirp = world.start()
    world.guest.run("ping", "-c1", GATEWAY4)

    def wake_ups():
        return sum(int(slirp.status(tid)["voluntary_ctxt_switches"]) for tid in slirp.threads())

    def quiet():
        before, before_wake_ups = slirp.cpu_s(), wake_ups()
        time.sleep(2)  # a span of time is what is measured here
        # The guest's own multicast packets, and libslirp's timers.
        return slirp.cpu_s() - before < 0.2 and wake_ups() - before_wake_ups < 20

    wait_for("two quiet seconds", quiet)


def test_nothing_is_inherited_by_accident(world):
    """Descriptors that the caller leaked (podman does) stay what they are and harm nobody."""
    leaked = os.open("/dev/null", os.O_RDONLY)
    world.start(pass_fds=(leaked,))
    os.close(leaked)
    assert world.guest.run("ping", "-c1", "-W3", GATEWAY4).returncode == 0


# ---- sandbox and seccomp ----

def test_the_sandbox_leaves_one_capability_and_two_directories(world):
    slirp = world.start("--enable-sandbox")
    status = slirp.status()
    assert {status[k] for k in ("CapPrm", "CapEff", "CapInh", "CapBnd")} == {"0000000000000400"}, status
    for tid in slirp.threads():
        status = slirp.status(tid)
        assert {status[k] for k in ("CapPrm", "CapEff", "CapInh")} <= {"0000000000000400", "0000000000000000"}, status
        assert status["CapBnd"] == "0000000000000400"
        assert status["NoNewPrivs"] == "1"
        assert status["CapAmb"] == "0000000000000000"
    if AS == "root" and not IN_USERNS:
        assert sorted(os.listdir(f"/proc/{slirp.pid}/root/")) == ["etc", "run"]


def test_the_sandbox_keeps_the_network_working(world):
    world.host.peer("dns", "127.0.0.1", 53, "192.0.2.33")
    slirp = world.start(*PODMAN, api=True)
    assert world.guest.client("dns", DNS4, 53)["address"] == "192.0.2.33"
    slirp.forward("tcp", 8080, 80)
    world.guest.peer("tcp_echo", "0.0.0.0", 80)
    assert world.remote.client("echo", HOST4, 8080, "x")["reply"] == "x"


def test_the_sandbox_works_with_paths(world):
    if AS == "user" and os.environ.get("SLIRP4NETNS", "").endswith("/usr/bin/slirp4netns"):
        pytest.skip("the single-threaded program: --enable-sandbox needs a PID (its issue 317)")
    slirp = world.start("--enable-sandbox", "--netns-type=path", f"--userns-path=/proc/{world.guest.pid}/ns/user",
                        target=[f"/proc/{world.guest.pid}/ns/net", "tap0"])
    assert slirp.status()["CapEff"] == "0000000000000400"


def test_the_hosts_mounts_stay_as_they_are(world):
    before = world.host.run("cat", "/proc/self/mountinfo").stdout
    slirp = world.start("--enable-sandbox")
    assert world.host.run("cat", "/proc/self/mountinfo").stdout == before
    slirp.stop()


def test_seccomp_covers_every_thread(world):
    slirp = world.start("--enable-seccomp")
    for tid in slirp.threads():
        assert slirp.status(tid)["Seccomp"] == "2"


@pytest.mark.extension
def test_threads_have_names(world):
    slirp = world.start(api=True)
    names = {pathlib.Path(f"/proc/{slirp.pid}/task/{t}/comm").read_text().strip() for t in slirp.threads()}
    assert {"slirp", "api"} <= names


@pytest.mark.skipif(bool(SANITIZER), reason="sanitizers have a memory footprint of their own")
@pytest.mark.extension
def test_the_resident_set_is_small(world):
    slirp = world.start(*PODMAN, api=True)
    world.guest.run("ping", "-c1", GATEWAY4)
    assert int(slirp.status()["VmRSS"].split()[0]) <= 8 * 1024
