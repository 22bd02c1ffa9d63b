# SPDX-License-Identifier: GPL-2.0-or-later
"""What the program, its threads and its agent have given up."""

import errno
import os
import pathlib
import re
import signal

import inject
import pytest
from harness import AS, DNS4, GATEWAY4, IN_USERNS, SANITIZER, run, wait_for
from test_api import GOOD, add

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
COPY_FLAGS = 0x8000 | 0x1000 | signal.SIGCHLD  # CLONE_PARENT | CLONE_PIDFD: how a standby is made

# Thread, what it is made to call. Builds with sanitizers allow some of it.
FORBIDDEN = [
    ("main", ("execve", 0, 0, 0)),
    ("main", ("openat", AT_FDCWD, 0, os.O_WRONLY)),
    ("main", ("kill", 1, 0)),
    ("main", ("pidfd_send_signal", 0, signal.SIGTERM)),
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
        inject.call(tid, "rt_sigaction", signal.SIGABRT, 0, 0, 8)  # as abort(3) does in newer C libraries
    assert world.guest.run("ping", "-c1", "-W3", GATEWAY4).returncode == 0
    assert slirp.api("list_hostfwd")["entries"] == []
    assert slirp.process.poll() is None


def test_a_heap_that_shrinks_opens_no_file(world):
    """Without jemalloc: the C library looks at the system's overcommitment before a thread's own heap shrinks."""
    slirp = world.start("--enable-seccomp", api=True,
                        env={"MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_MMAP_THRESHOLD_": str(4 << 20)})
    for port in range(20000, 20800):
        slirp.api_raw(add(**{**GOOD, "host_port": port}))
    assert len(slirp.api("list_hostfwd")["entries"]) == 800
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


# ---- capabilities(7) ----

# Root itself may not have all of them here.
HELD = int(re.search(r"^CapPrm:\s*(\w+)", pathlib.Path("/proc/self/status").read_text(), re.M)[1], 16)
BIND, ADMIN, RAW, PTRACE, RESOURCE = (HELD & (1 << c) for c in (10, 12, 13, 19, 24))


def capabilities(slirp):
    """{thread: what it has}; each is asserted to have nothing to inherit and no more to be had."""
    found = {}
    for tid in slirp.threads():
        status = slirp.status(tid)
        assert status["CapAmb"] == "0" * 16 and status["CapEff"] == status["CapPrm"]
        found[status["Name"]] = int(status["CapPrm"], 16)
        assert int(status["CapInh"], 16) & ~found[status["Name"]] == 0
    return found


@pytest.mark.parametrize("args", [[], ["--enable-seccomp"]])
def test_a_thread_has_the_capabilities_of_its_duties(world, args):
    slirp = world.start("--threads=split", *args, f"--pcap={world.work}/x.pcapng", api=True)
    want = {"slirp4netns": PTRACE, "slirp": RAW, "tap-rx": 0, "tap-tx": 0, "pcap": 0, "api": BIND,
            "fwd-0": ADMIN | RESOURCE}
    if AS == "user":
        want = dict.fromkeys(want, 0)
    assert capabilities(slirp) == want


def test_with_one_thread_it_has_what_its_duties_need_together(world):
    found = capabilities(world.start("--threads=shared", api=True))
    assert found["slirp"] == (RAW | ADMIN | RESOURCE if AS == "root" else 0)
    assert found["api"] == (BIND if AS == "root" else 0)


def test_main_has_none_when_it_watches_nobody(world):
    slirp = world.start("--netns-type=path", target=[f"/proc/{world.guest.pid}/ns/net", "tap0"]) if AS == "root" else \
        world.start("--netns-type=path", f"--userns-path=/proc/{world.guest.pid}/ns/user",
                    target=[f"/proc/{world.guest.pid}/ns/net", "tap0"])
    assert capabilities(slirp)["slirp4netns"] == 0


def test_in_the_sandbox_only_main_and_api_have_one(world):
    found = capabilities(world.start("--threads=split", "--enable-sandbox", api=True))
    assert found == {"slirp4netns": BIND, "slirp": 0, "tap-rx": 0, "tap-tx": 0, "api": BIND, "fwd-0": 0}


# ---- files ----

needs_landlock = pytest.mark.skipif(inject.landlock_version() == 0, reason="this kernel has no Landlock")


def opened(slirp, name, path, flags=os.O_RDONLY):
    """What open(2) answers to that thread: 0, or the errno."""
    tid = thread(slirp, "slirp4netns" if name == "main" else name)
    return -min(0, inject.ask(slirp.pid, tid, "openat", AT_FDCWD, str(path), flags, 0o600))


@injectable
@needs_landlock
@pytest.mark.parametrize("args", [[], ["--enable-sandbox"]])
def test_only_the_resolvers_file_is_within_reach(world, args):
    slirp = world.start("--threads=split", *args, f"--pcap={world.work}/x.pcapng", api=True)
    for name in ("slirp", "tap-rx"):  # tap-rx sends the guest's datagrams, those to the DNS address among them
        assert opened(slirp, name, "/etc/resolv.conf") == 0
        assert opened(slirp, name, "/etc/resolv.conf", os.O_WRONLY) == errno.EACCES
        assert opened(slirp, name, "/run/new", os.O_WRONLY | os.O_CREAT) in (errno.EACCES, errno.EROFS)
    for name in ("tap-tx", "api", "fwd-0", "pcap"):
        assert opened(slirp, name, "/etc/resolv.conf") == errno.EACCES, name
    if not args:
        assert opened(slirp, "slirp", world.dir / "peer.py") == errno.EACCES
        assert opened(slirp, "slirp", "/proc/self/status") == errno.EACCES
        assert opened(slirp, "main", "/proc/self/status") == 0, "it looks for others in the namespace"
    assert world.guest.run("ping", "-c1", "-W3", GATEWAY4).returncode == 0


@injectable
@needs_landlock
def test_main_that_watches_nobody_opens_nothing_and_removes_its_socket(world):
    user = [] if AS == "root" else [f"--userns-path=/proc/{world.guest.pid}/ns/user"]
    slirp = world.start("--netns-type=path", *user, target=[f"/proc/{world.guest.pid}/ns/net", "tap0"], api=True)
    assert opened(slirp, "main", "/etc/resolv.conf") == errno.EACCES
    assert slirp.api_path.exists()
    slirp.stop()
    assert not slirp.api_path.exists()


@needs_landlock
def test_a_changed_resolv_conf_is_read_by_a_confined_thread(world):
    world.host.peer("dns", "127.0.0.1", 53, "192.0.2.33")
    world.resolv_conf("nameserver 192.0.2.1\n")
    world.start("--enable-seccomp")
    world.resolv_conf("nameserver 127.0.0.1\n")
    wait_for("the new server", lambda: world.guest.client("dns", DNS4, 53, "udp", 3).get("address") == "192.0.2.33")


# ---- nsagent ----

def agent(slirp):
    """The one at work, which has its standby, and two filters."""
    wait_for("the standby", lambda: len(slirp.agents()) == 2)
    pid = slirp.agents()[0]

    def sealed():
        text = pathlib.Path(f"/proc/{pid}/status").read_text()
        return SANITIZER or re.search(r"^Seccomp_filters:\s*2", text, re.M)

    wait_for("the agent is sealed", sealed)
    return pid


@pytest.mark.skipif(IN_USERNS or os.geteuid() != 0, reason="only root may look into the agent")
def test_the_agent_has_an_empty_file_system_and_one_capability(world):
    slirp = world.start(api=True)
    agent(slirp)
    for pid in slirp.agents():
        assert os.listdir(f"/proc/{pid}/root/") == []
        mounts = pathlib.Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
        assert len(mounts) == 1 and mounts[0].split()[5].startswith("ro,"), mounts
        status = dict(re.findall(r"^(\w+):\s*(.*)$", pathlib.Path(f"/proc/{pid}/status").read_text(), re.M))
        assert status["CapPrm"] == status["CapEff"] == f"{1 << 12:016x}" and status["CapInh"] == "0" * 16
        assert status["NoNewPrivs"] == "1"
        assert SANITIZER or status["Seccomp"] == "2"
    assert "nsagent has neither" not in slirp.err()


@injectable
@pytest.mark.skipif(bool(SANITIZER), reason="the agent has no filter then")
@pytest.mark.parametrize("what", [("openat", AT_FDCWD, 0, os.O_RDONLY), ("socket", AF_NETLINK, SOCK_RAW, 0),
                                  ("execve", 0, 0, 0), ("clone", COPY_FLAGS, 0, 0)], ids=lambda what: what[0])
def test_a_forbidden_call_of_the_agent_ends_it_and_is_named(world, what):
    slirp = world.start("--enable-seccomp", "--enable-sandbox", api=True)
    inject.call(agent(slirp), *what)
    line = f"seccomp: nsagent made the system call {what[0]} ({inject.SYSCALLS[what[0]]}), which it never needs"
    wait_for("the line", lambda: line in slirp.err())
    wait_for("it has no successor", lambda: "no other takes its place (it broke a rule)" in slirp.err())
    wait_for("its standby ends, too", lambda: not slirp.agents())
    assert slirp.process.poll() is None
    assert world.guest.run("ping", "-c1", "-W3", GATEWAY4).returncode == 0
