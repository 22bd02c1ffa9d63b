# SPDX-License-Identifier: GPL-2.0-or-later
"""What the program, its threads and its agent have given up."""

import os
import pathlib
import signal

import inject
import pytest
from harness import GATEWAY4, IN_USERNS, SANITIZER

pytestmark = pytest.mark.extension

needs_injection = [
    pytest.mark.skipif(not inject.POSSIBLE, reason="system calls are injected by x86-64's registers"),
    pytest.mark.skipif(IN_USERNS or os.geteuid() != 0, reason="only root may trace the program"),
]


def injectable(function):
    for mark in needs_injection:
        function = mark(function)
    return function


def thread(slirp, name):
    for tid in slirp.threads():
        if pathlib.Path(f"/proc/{slirp.pid}/task/{tid}/comm").read_text().strip() == name:
            return tid
    raise AssertionError(f"there is no thread {name}")


AT_FDCWD, PROT_EXEC, F_SETOWN, TUNSETIFF = -100, 4, 8, 0x400454CA
AF_UNIX, AF_INET, AF_NETLINK, AF_PACKET, SOCK_STREAM, SOCK_RAW = 1, 2, 16, 17, 1, 3
CLONE_NEWUSER = 0x10000000

# Thread, what it is made to call. Builds with sanitizers allow some of it.
FORBIDDEN = [
    ("main", ("execve", 0, 0, 0)),
    ("main", ("openat", AT_FDCWD, 0, os.O_WRONLY)),
    ("main", ("kill", 1, 0)),
    ("slirp", ("openat", AT_FDCWD, 0, os.O_RDWR)),
    ("slirp", ("socket", AF_PACKET, SOCK_RAW, 0)),
    ("slirp", ("mprotect", 0, 4096, PROT_EXEC)),
    ("tap-rx", ("socket", AF_INET, SOCK_STREAM, 0)),
    ("tap-tx", ("openat", AT_FDCWD, 0, os.O_RDONLY)),
    ("fwd-0", ("socket", AF_UNIX, SOCK_STREAM, 0)),
    ("fwd-0", ("fcntl", 0, F_SETOWN, 1)),
    ("api", ("clone", CLONE_NEWUSER, 0, 0)),
    ("api", ("ioctl", 0, TUNSETIFF, 0)),
    ("api", ("io_uring_setup", 1, 0)),
    ("pcap", ("socket", AF_INET, SOCK_STREAM, 0)),
]
SANITIZED_MAY = {"execve", "openat", "mprotect", "clone", "fcntl", "ioctl"}


@injectable
@pytest.mark.parametrize("name,what", FORBIDDEN, ids=[f"{name}-{what[0]}" for name, what in FORBIDDEN])
def test_a_forbidden_call_ends_the_program_with_its_name(world, name, what):
    if SANITIZER and what[0] in SANITIZED_MAY:
        pytest.skip("sanitizers need this call")
    slirp = world.start("--threads=split", "--enable-seccomp", f"--pcap={world.work}/x.pcapng", api=True)
    inject.call(thread(slirp, "slirp4netns" if name == "main" else name), *what)
    assert slirp.wait() == -signal.SIGSYS
    number = inject.SYSCALLS[what[0]]
    line = f"seccomp: the thread {name} made the system call {what[0]} ({number}), which it never needs"
    assert line in slirp.err()


@injectable
def test_a_call_that_is_allowed_changes_nothing(world):
    slirp = world.start("--threads=split", "--enable-seccomp", api=True)
    for tid in slirp.threads():
        inject.call(tid, "sched_yield")  # 0, which is no event for whoever waited
    assert world.guest.run("ping", "-c1", "-W3", GATEWAY4).returncode == 0
    assert slirp.api("list_hostfwd")["entries"] == []
    assert slirp.process.poll() is None


@injectable
def test_the_line_is_json_in_a_log_of_json(world):
    slirp = world.start("--enable-seccomp", "--log-format=json")
    inject.call(thread(slirp, "slirp"), "mount", 0, 0, 0, 0)
    assert slirp.wait() == -signal.SIGSYS
    assert '"level":"error","message":"seccomp: the thread slirp made the system call mount (165)' in slirp.err()


@pytest.mark.parametrize("mode", ["split", "shared"])
def test_each_thread_has_a_filter_of_its_own_on_top_of_the_programs(world, mode):
    slirp = world.start(f"--threads={mode}", "--enable-seccomp", f"--pcap={world.work}/x.pcapng", api=True)
    for tid in slirp.threads():
        status = slirp.status(tid)
        assert (status["Seccomp"], status["Seccomp_filters"]) == ("2", "2"), status["Name"]
