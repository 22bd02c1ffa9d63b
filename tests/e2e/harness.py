# SPDX-License-Identifier: GPL-2.0-or-later
"""The world of one end-to-end test, and the program in it.

       remote                      host                                    guest
  203.0.113.9      veth      203.0.113.1      slirp4netns        tap0  10.0.2.100
  2001:db8:1::9  --------  2001:db8:1::1   =================          fd00::/64
                            lo 127.0.0.1, ::1

Three network namespaces, so no packet can leave the machine. The host has a mount namespace as well, with a
resolv.conf of its own: its nameserver is the host's loopback.

Who runs the program ($E2E_AS):
  root  root, with all capabilities; the guest has a network namespace and no user namespace
  user  an ordinary user without capabilities; the guest has a user namespace of that user's
Started by an ordinary user, the tests put themselves into a user namespace first; then "user" is that user as
root of the user namespace, without capabilities.

What runs in the namespaces is peer.py, forked from a process that has it loaded (forker.py), or a program.

KEEP=1 leaves the world of a failed test standing for ten minutes and prints how to enter it.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import pwd
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

import spawn
from forker import PYTHON

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PROGRAM = os.environ.get("SLIRP4NETNS") or str(ROOT / "build" / "src" / "slirp4netns")
PROGRAM_ARGS = os.environ.get("SLIRP4NETNS_ARGS", "").split()
AS = os.environ.get("E2E_AS", "root" if os.geteuid() == 0 else "user")
SANITIZER = os.environ.get("E2E_SANITIZER", "")
# unshare(2) refuses a new user namespace to a process with threads, and that sanitizer has one of its own.
NO_USERNS = "the thread sanitizer's own thread keeps the program from making a user namespace"
IN_USERNS = os.environ.get("E2E_IN_USERNS") == "1"
USER = "slirptest"  # made by conftest.py when root runs the tests

DEADLINE_S = 20.0 * (3 if SANITIZER else 1)

HOST4, REMOTE4 = "203.0.113.1", "203.0.113.9"
HOST6, REMOTE6 = "2001:db8:1::1", "2001:db8:1::9"
GATEWAY4, DNS4, GUEST4 = "10.0.2.2", "10.0.2.3", "10.0.2.100"
GATEWAY6, DNS6 = "fd00::2", "fd00::3"


def reference_version() -> tuple[int, ...] | None:
    """The version of the single-threaded program if that is what is tested, else None."""
    text = subprocess.run([PROGRAM, "--version"], capture_output=True, text=True, timeout=30, check=True).stdout
    found = re.match(r"slirp4netns version (\d+)\.(\d+)\.(\d+)", text)
    assert found, text
    version = tuple(int(n) for n in found.groups())
    return None if version[0] >= 2 else version


def skip_without_sandbox(args: Iterable[str]) -> None:
    """The single-threaded program needs a capability for it that an ordinary user's tests do not leave to it."""
    if "--enable-sandbox" in args and IN_USERNS and reference_version() is not None:
        pytest.skip("the single-threaded program may not make its sandbox in the namespace of an ordinary user's tests")


def wait_for(what: str, condition: Callable[[], Any], seconds: float = DEADLINE_S) -> Any:
    """Looks until the condition is true and returns its value."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.01)
    return value


def identity() -> list[str]:
    """The prefix that makes a command run as the one who starts the program.

    Root of a user namespace may make another one with himself in it only with CAP_SETFCAP (user_namespaces(7), Linux
    5.12), which an ordinary user does not need: the one capability that is kept there.
    """
    if AS == "root":
        return []
    drop = ["--inh-caps=-all", "--bounding-set=-all" + (",+setfcap" if IN_USERNS else "")]
    if IN_USERNS:
        return ["setpriv", *drop]
    user = pwd.getpwnam(USER)
    return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", *drop]


def run(argv: list[str], **kwargs: Any) -> subprocess.CompletedProcess[str]:
    kwargs.setdefault("timeout", DEADLINE_S)
    return subprocess.run(argv, capture_output=True, text=True, stdin=kwargs.pop("stdin", subprocess.DEVNULL), **kwargs)


class Peer:
    """A peer.py (or another program that prints JSON lines) running in a namespace."""

    def __init__(self, argv: list[str], ready: bool = True) -> None:
        self.process = spawn.Child(argv)
        self.buffer = b""
        if ready:
            self.event("ready")

    def lines(self, seconds: float = DEADLINE_S) -> Iterator[dict[str, Any]]:
        end = time.monotonic() + seconds
        while True:
            while b"\n" in self.buffer:
                line, self.buffer = self.buffer.split(b"\n", 1)
                yield json.loads(line)
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.process.stdout], [], [], left)[0]:
                return
            data = os.read(self.process.stdout.fileno(), 65536)
            if not data:
                return
            self.buffer += data

    def event(self, name: str, seconds: float = DEADLINE_S) -> dict[str, Any]:
        for event in self.lines(seconds):
            if event.get("event") == name:
                return event
        self.process.poll()
        raise AssertionError(f"no event {name} from {self.process.args}: exit {self.process.returncode}, "
                             f"{self.stderr_now()}")

    def has_event(self, name: str, seconds: float) -> bool:
        return any(event.get("event") == name for event in self.lines(seconds))

    def stderr_now(self) -> str:
        os.set_blocking(self.process.stderr.fileno(), False)
        return (self.process.stderr.read() or b"").decode()

    def result(self, seconds: float = DEADLINE_S) -> dict[str, Any]:
        """The one line a client prints."""
        for line in self.lines(seconds):
            self.process.wait(DEADLINE_S)
            return line
        raise AssertionError(f"no result from {self.process.args}: {self.stderr_now()}")

    def end(self) -> None:
        self.process.kill()
        self.process.wait(DEADLINE_S)
        for pipe in (self.process.stdout, self.process.stderr):
            pipe.close()


class Space:
    """Namespaces held by a process until its input ends, and how to run commands in them."""

    def __init__(self, world: World, holder: list[str], enter: Callable[[int], list[str]]) -> None:
        self.world = world
        self.holder = subprocess.Popen([*holder, "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                       stderr=subprocess.PIPE, bufsize=0)
        assert self.holder.stdin and self.holder.stdout and self.holder.stderr
        with contextlib.suppress(BrokenPipeError):
            self.holder.stdin.write(b"ready\n")
        if self.holder.stdout.readline() != b"ready\n":
            raise AssertionError(f"{holder} failed: {self.holder.stderr.read().decode()}")
        self.pid = self.holder.pid
        self.enter = enter(self.pid)

    def run(self, *argv: str, check: bool = True, **kwargs: Any) -> subprocess.CompletedProcess[str]:
        done = run([*self.enter, *argv], **kwargs)
        if check and done.returncode != 0:
            raise AssertionError(f"{argv} ended with {done.returncode}: {done.stdout}{done.stderr}")
        return done

    def ip(self, *lines: str) -> None:
        done = subprocess.run([*self.enter, "ip", "-batch", "-"], input="\n".join(lines), capture_output=True,
                              text=True, timeout=DEADLINE_S, check=False)
        assert done.returncode == 0, done.stderr

    def ip_json(self, *argv: str) -> list[dict[str, Any]]:
        return json.loads(self.run("ip", "-json", *argv).stdout or "[]")

    def peer(self, what: str, *args: object) -> Peer:
        """A server of peer.py; it listens when this returns."""
        return self.world.keep(Peer([*self.enter, PYTHON, str(self.world.peer_py), what, *map(str, args)]))

    def begin(self, what: str, *args: object) -> Peer:
        """Something of peer.py that prints its result later."""
        return self.world.keep(Peer([*self.enter, PYTHON, str(self.world.peer_py), what, *map(str, args)], ready=False))

    def do(self, what: str, *args: object) -> dict[str, Any]:
        return self.begin(what, *args).result()

    def client(self, what: str, addr: str, port: int, *args: object) -> dict[str, Any]:
        return self.do("client", what, addr, port, *args)

    def end(self) -> None:
        self.holder.kill()
        self.holder.wait(DEADLINE_S)
        for pipe in (self.holder.stdin, self.holder.stdout, self.holder.stderr):
            if pipe:
                pipe.close()


class Slirp:
    """One run of the program."""

    def __init__(self, world: World, argv: list[str], pass_fds: tuple[int, ...], ready_fd: int | None,
                 exit_fd: int | None, api: pathlib.Path | None, env: dict[str, str] | None,
                 preexec: Callable[[], None] | None) -> None:
        self.world, self.ready_fd, self.exit_fd, self.api_path = world, ready_fd, exit_fd, api
        self.out_path = world.dir / f"slirp{len(world.slirps)}.out"
        self.err_path = world.dir / f"slirp{len(world.slirps)}.err"
        with open(self.out_path, "wb") as out, open(self.err_path, "wb") as err:
            self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=err, pass_fds=pass_fds,
                                            env={**os.environ, **(env or {})}, preexec_fn=preexec)
        self.pid = self.process.pid

    def err(self) -> str:
        return self.err_path.read_text("utf-8", "replace")

    def out(self) -> str:
        return self.out_path.read_text("utf-8", "replace")

    def wait_ready(self) -> Slirp:
        assert self.ready_fd is not None
        if select.select([self.ready_fd], [], [], DEADLINE_S)[0]:
            byte = os.read(self.ready_fd, 16)
            if byte == b"1":
                return self
            raise AssertionError(f"ready-fd said {byte!r}, exit {self.process.poll()}: {self.out()}{self.err()}")
        raise AssertionError(f"not ready: {self.out()}{self.err()}")

    def wait(self, seconds: float = DEADLINE_S) -> int:
        return self.process.wait(seconds)

    def send_exit(self) -> None:
        assert self.exit_fd is not None
        os.close(self.exit_fd)
        self.exit_fd = None

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(DEADLINE_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(DEADLINE_S)
                raise AssertionError("SIGTERM did not end the program") from None
        for fd in (self.ready_fd, self.exit_fd):
            if fd is not None:
                os.close(fd)
        self.ready_fd = self.exit_fd = None

    def agents(self) -> list[int]:
        """Its nsagents that have not ended: the one at work, then its standby, which is always younger."""
        found = []
        for pid in run(["pgrep", "-P", str(self.pid), "-x", "nsagent"]).stdout.split():
            try:
                fields = pathlib.Path(f"/proc/{pid}/stat").read_text("utf-8").rsplit(")", 1)[1].split()
            except OSError:
                continue  # ended meanwhile
            if fields[0] not in "ZX":
                found.append((int(fields[19]), int(pid)))
        return [pid for _, pid in sorted(found)]

    def at_rest(self) -> bool:
        """None of its agents has anything to do: one that waits for the lock on network configuration is in D."""
        return self.are_at_rest(self.agents())

    def settled(self) -> list[int]:
        """Both agents, once the one at work has looked around; else nobody."""
        pids = self.agents()
        return pids if len(pids) == 2 and self.are_at_rest(pids) else []

    @staticmethod
    def are_at_rest(pids: list[int]) -> bool:
        try:
            return all(pathlib.Path(f"/proc/{pid}/stat").read_text("utf-8").rsplit(")", 1)[1].split()[0] == "S"
                       for pid in pids)
        except OSError:
            return False  # one has ended meanwhile

    def kill_agents(self) -> None:
        """Both of them, so that none takes over."""
        wait_for("the standby", lambda: len(self.agents()) == 2)
        agent, standby = self.agents()
        os.kill(standby, signal.SIGKILL)
        wait_for("the standby is dead", lambda: self.agents() == [agent])
        os.kill(agent, signal.SIGKILL)

    def threads(self) -> list[int]:
        """Its own; ThreadSanitizer's one is made before main() and has no other name than the program's."""
        tids = [int(t) for t in os.listdir(f"/proc/{self.pid}/task")]
        if SANITIZER == "thread":
            name = self.status()["Name"]
            tids = [t for t in tids if t == self.pid or self.status(t)["Name"] != name]
        return tids

    def status(self, tid: int | None = None) -> dict[str, str]:
        text = pathlib.Path(f"/proc/{self.pid}/task/{tid or self.pid}/status").read_text("utf-8")
        return dict(re.findall(r"^(\w+):\s*(.*)$", text, re.M))

    def cpu_s(self) -> float:
        fields = pathlib.Path(f"/proc/{self.pid}/stat").read_text("utf-8").rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    # ---- API ----

    def api_connect(self) -> socket.socket:
        s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        s.settimeout(DEADLINE_S)
        s.connect(str(self.api_path))
        return s

    def api_raw(self, data: bytes, shut: bool = True) -> bytes:
        with self.api_connect() as s:
            s.sendall(data)
            if shut:
                s.shutdown(socket.SHUT_WR)
            got = b""
            try:
                while piece := s.recv(65536):
                    got += piece
            except ConnectionResetError:
                pass
            return got

    def api(self, execute: str, **arguments: object) -> dict[str, Any]:
        return json.loads(self.api_raw(json.dumps({"execute": execute, "arguments": arguments}).encode()))

    def forward(self, proto: str, host_port: int, guest_port: int, host_addr: str = "", guest_addr: str = "") -> int:
        reply = self.api("add_hostfwd", proto=proto, host_addr=host_addr, host_port=host_port, guest_addr=guest_addr,
                         guest_port=guest_port)
        assert "return" in reply, reply
        return reply["return"]["id"]


class World:
    def __init__(self, name: str) -> None:
        self.name = name
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="slirp-e2e-"))
        self.dir.chmod(0o755)
        self.slirps: list[Slirp] = []
        self.peers: list[Peer] = []
        self.spaces: list[Space] = []
        self.ends: list[Callable[[], None]] = []
        self.peer_py = self.dir / "peer.py"
        for name in ("peer.py", "attacks.py"):
            shutil.copy(HERE / name, self.dir / name)
            (self.dir / name).chmod(0o644)
        self.work = self.dir / "work"  # the caller may write here
        self.work.mkdir()
        if AS == "user" and not IN_USERNS:
            shutil.chown(self.work, USER, USER)
        try:
            self.build()
        except BaseException:
            self.end()
            raise

    def space(self, holder: list[str], enter: Callable[[int], list[str]]) -> Space:
        space = Space(self, holder, enter)
        self.spaces.append(space)
        return space

    def build(self) -> None:
        self.host = self.space(["unshare", "-n", "-m", "--propagation=private"],
                               lambda pid: ["nsenter", "-t", str(pid), "-n", "-m"])
        self.remote = self.space(["unshare", "-n"], lambda pid: ["nsenter", "-t", str(pid), "-n"])
        self.host.ip("link set lo up", f"link add net0 type veth peer name net0 netns {self.remote.pid}",
                     f"addr add {HOST4}/24 dev net0", f"addr add {HOST6}/64 dev net0 nodad", "link set net0 up")
        self.remote.ip("link set lo up", f"addr add {REMOTE4}/24 dev net0", f"addr add {REMOTE6}/64 dev net0 nodad",
                       "link set net0 up")
        self.resolv_conf("nameserver 127.0.0.1\nnameserver ::1\n")
        self.guest = self.new_guest()
        # It was up first, without a carrier, and drops everything until the kernel has seen to that.
        wait_for("the host's link is up", lambda: self.host.ip_json("link", "show", "net0")[0]["operstate"] == "UP")

    def new_guest(self) -> Space:
        if AS == "root":
            return self.space(["unshare", "-n", "-m"], lambda pid: ["nsenter", "-t", str(pid), "-n", "-m"])
        return self.space([*identity(), "unshare", "-r", "-n", "-m"],
                          lambda pid: [*identity(), "nsenter", "-t", str(pid), "-U", "-n", "-m",
                                       "--preserve-credentials"])

    def resolv_conf(self, text: str) -> None:
        """What the host's resolver is."""
        path = self.dir / "resolv.conf"
        first = not path.exists()
        path.write_text(text, "utf-8")
        path.chmod(0o644)
        if first:
            self.host.run("mount", "--bind", str(path), os.path.realpath("/etc/resolv.conf"))

    def keep(self, peer: Peer) -> Peer:
        self.peers.append(peer)
        return peer

    def argv(self, *args: str) -> list[str]:
        """The command line that runs the program as the caller, on the host."""
        return [*self.host.enter, *identity(), PROGRAM, *PROGRAM_ARGS, *args]

    def run_program(self, *args: str, **kwargs: Any) -> subprocess.CompletedProcess[str]:
        """To its end."""
        return run(self.argv(*args), **kwargs)

    def start(self, *args: str, configure: bool = True, api: bool = False, exit_fd: bool = False,
              target: list[str] | None = None, ready: bool = True, pass_fds: tuple[int, ...] = (),
              env: dict[str, str] | None = None, preexec: Callable[[], None] | None = None,
              api_path: pathlib.Path | None = None) -> Slirp:
        skip_without_sandbox(args)
        ready_read, ready_write = os.pipe()
        argv = [*args, f"--ready-fd={ready_write}"]
        fds = [*pass_fds, ready_write]
        exit_write = None
        if configure:
            argv.append("-c")
        if exit_fd:
            exit_read, exit_write = os.pipe()
            argv.append(f"--exit-fd={exit_read}")
            fds.append(exit_read)
        path = api_path or (self.work / f"api{len(self.slirps)}.sock" if api else None)
        if path:
            argv.append(f"--api-socket={path}")
        argv += [str(self.guest.pid), "tap0"] if target is None else target
        slirp = Slirp(self, self.argv(*argv), tuple(fds), ready_read, exit_write, path, env, preexec)
        self.slirps.append(slirp)
        os.close(ready_write)
        if exit_fd:
            os.close(exit_read)
        if ready:
            slirp.wait_ready()
            if path:  # the program waits 2 s for that, which is not what those who look at the paths are to test
                wait_for("the agent has looked around", slirp.at_rest)
        return slirp

    def report(self) -> str:
        lines = []
        for slirp in self.slirps:
            lines += [f"--- {' '.join(map(str, slirp.process.args))}", slirp.out(), slirp.err()]
        return "\n".join(lines)

    def sanitizer_report(self) -> str:
        pattern = r"(ERROR: \w+Sanitizer|WARNING: ThreadSanitizer|runtime error:|\(process:\d+\): \w+-CRITICAL)"
        for slirp in self.slirps:
            if SANITIZER and re.search(pattern, slirp.err()):
                return slirp.err()
        return ""

    def end(self) -> None:
        problems = []
        for slirp in self.slirps:
            try:
                slirp.stop()
            except AssertionError as e:
                problems.append(str(e))
        for end in self.ends:
            end()
        for peer in self.peers:
            peer.end()
        for space in reversed(self.spaces):
            space.end()
        report = self.sanitizer_report()
        shutil.rmtree(self.dir, ignore_errors=True)
        assert not problems, problems
        assert not report, report

    def hold(self) -> None:
        print(self.report(), file=sys.stderr)
        for name, space in (("host", self.host), ("remote", self.remote), ("guest", self.guest)):
            print(f"{name}: {' '.join(space.enter)} bash", file=sys.stderr)
        signal.sigtimedwait([signal.SIGINT], 600)
