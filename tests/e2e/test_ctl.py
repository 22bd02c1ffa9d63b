# SPDX-License-Identifier: GPL-2.0-or-later
"""--ctl: the API's client for people."""

import fcntl
import json
import os
import pty
import re
import select
import signal
import socket
import struct
import subprocess
import termios
import threading
import time

import pytest
from harness import GUEST4, PROGRAM, PROGRAM_ARGS, REMOTE4, identity, wait_for

pytestmark = pytest.mark.extension

CONFINED = ["--enable-sandbox", "--enable-seccomp"]


def argv(slirp_or_path, *words):
    path = getattr(slirp_or_path, "api_path", slirp_or_path)
    return [*identity(), PROGRAM, "--ctl", str(path), *words]


# A worker has a second to say what flows it has; when it had no time for it, they are asked for again.
TIMED_OUT = "timed out"


def ctl(slirp, *words, check=True):
    def answered():
        done = subprocess.run(argv(slirp, *words), capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=30,
                              check=False)
        return TIMED_OUT not in done.stderr and done

    done = wait_for("every worker says what it has", answered)
    if check:
        assert done.returncode == 0 and done.stderr == "", done
    return done


@pytest.mark.parametrize("args", [[], CONFINED])
def test_forwards_come_and_go(world, args):
    slirp = world.start(*args, api=True)
    assert ctl(slirp, "add", "127.0.0.1:18080:80").stdout == "1\n"
    assert ctl(slirp, "add", "18090-18092:10.0.2.5:90/udp", "[::1]:18081:80").stdout == "2\n3\n"
    entries = slirp.api("list_hostfwd")["entries"]
    assert [(e["proto"], e["host_addr"], e["host_port"], e.get("host_port_end"), e["guest_addr"], e["guest_port"])
            for e in entries] == [("tcp", "127.0.0.1", 18080, None, GUEST4, 80),
                                  ("udp", "0.0.0.0", 18090, 18092, "10.0.2.5", 90),
                                  ("tcp", "::1", 18081, None, GUEST4, 80)]
    lines = ctl(slirp, "list").stdout.splitlines()
    assert re.split(r"  +", lines[0].strip())[:5] == ["ID", "PROTO", "HOST", "GUEST", "PATH"]
    assert re.split(r"  +", lines[2].strip())[:4] == ["2", "udp", "0.0.0.0:18090-18092", "10.0.2.5:90"]
    assert "[::1]:18081" in lines[3] and len(lines) == 4
    assert ctl(slirp, "remove", "1", "3").stdout == ""
    assert [e["id"] for e in slirp.api("list_hostfwd")["entries"]] == [2]


def test_errors_name_the_value(world):
    slirp = world.start(api=True)
    ctl(slirp, "add", "18080:80")
    for words, said in ((["add", "18080:80"], "TCP port 18080"), (["add", "18080"], "18080"), (["add", "x:80"], "x"),
                        (["add"], "add"), (["remove"], "remove"), (["remove", "7"], "bad arguments.id"),
                        (["remove", "x"], '"x"'), (["list", "y"], '"y"'), (["nothing"], '"nothing"'), ([], "command"),
                        (["add", "18081:80", "--watch"], "--watch")):
        done = ctl(slirp, *words, check=False)
        assert done.returncode == 1 and done.stdout == "" and said in done.stderr, (words, done)
        assert len(done.stderr.splitlines()) == 1
    done = ctl(world.work / "nobody.sock", "list", check=False)
    assert done.returncode == 1 and "cannot connect to" in done.stderr and "--api-socket" in done.stderr
    done = subprocess.run([PROGRAM, "--json", "1"], capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 1 and "--json has a meaning with --ctl only" in done.stderr


def test_stats_and_info_and_json(world):
    slirp = world.start("--no-splice", api=True)
    world.remote.peer("tcp_echo", REMOTE4, 7000)
    world.guest.begin("client", "crowd", REMOTE4, 7000, 2).event("connected")
    text = ctl(slirp, "stats").stdout
    assert "outbound TCP libslirp" in text or "outbound TCP --no-splice" in text
    assert re.search(r"^slirp +\d+", text, re.M) and re.search(r"^THREAD +CPU +TURNS +WAKE-UPS$", text, re.M)
    assert re.search(r"^rx_frames +\d+ +frames +frames read from the TAP$", text, re.M)
    assert json.loads(ctl(slirp, "stats", "--json").stdout)["rx_frames"] > 0
    assert "TCP[ESTABLISHED]" in ctl(slirp, "info").stdout
    assert json.loads(ctl(slirp, "--json", "list").stdout) == {"entries": []}
    flows = json.loads(ctl(slirp, "flows", "--json").stdout)["flows"]
    assert sum(f["remote_port"] == 7000 for f in flows if "remote_port" in f) == 2
    lines = [re.split(r"  +", line.strip()) for line in ctl(slirp, "flows").stdout.splitlines()]
    assert lines[0][:4] == ["PROTO", "GUEST", "REMOTE", "TIER"]
    mine = [line for line in lines if f"{REMOTE4}:7000" in line]
    assert len(mine) == 2 and {(m[0], m[3], m[4]) for m in mine} == {("tcp", "slirp", "established")}
    assert "next" not in json.loads(ctl(slirp, "flows", "--json").stdout)


def test_watching_without_a_terminal_prints_once_a_second(world):
    slirp = world.start(api=True)
    begun = time.monotonic()
    with subprocess.Popen(argv(slirp, "list", "--watch", "--json"), stdout=subprocess.PIPE, text=True) as process:
        lines = [process.stdout.readline() for _ in range(3)]
        assert 1.5 < time.monotonic() - begun < 15
        assert [json.loads(line) for line in lines] == [{"entries": []}] * 3
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0

    def watched():
        with subprocess.Popen(argv(slirp, "flows", "--watch"), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              text=True) as process:
            first = process.stdout.readline()
            if not first and TIMED_OUT in process.stderr.read():
                return None
            slirp.stop()
            return first, process.stdout.read(), process.wait(20)

    first, rest, code = wait_for("every worker says what it has", watched)
    assert first.startswith("PROTO") and "\033" not in rest and code == 1


class Terminal:
    """A terminal of a size, and what a program draws on it."""

    def __init__(self, command, rows, columns):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.environ["TERM"] = "xterm"
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
            os.execvp(command[0], command)
        self.data = b""

    def resize(self, rows, columns):
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def read(self, seconds=0.1):
        while select.select([self.fd], [], [], seconds)[0]:
            try:
                data = os.read(self.fd, 65536)
            except OSError:  # the other side is closed
                return self.data
            self.data += data
        return self.data

    def frames(self):
        """What stands between two homes of the cursor, complete ones only."""
        parts = self.read().decode().split("\033[H")[1:]
        return [p[:p.index("\033[J")].replace("\033[K", "").split("\r\n") for p in parts if "\033[J" in p]

    def end(self, number):
        os.kill(self.pid, number)
        end = time.monotonic() + 20
        while time.monotonic() < end:
            self.read()
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.read(0)
                os.close(self.fd)
                return os.waitstatus_to_exitcode(status)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        raise AssertionError("it does not end")


def test_a_watch_fits_the_terminal_and_follows_its_size(world):
    slirp = world.start(api=True)
    for port in range(18000, 18030):
        slirp.forward("udp", port, 80)
    terminal = Terminal(argv(slirp, "list", "--watch"), 10, 40)
    first = wait_for("a frame", terminal.frames)[0]
    assert len(first) == 10 and all(len(line) <= 40 for line in first)
    assert first[0].startswith("ID  PROTO") and first[-1] == "... 22 more"
    n = len(terminal.frames())
    begun = time.monotonic()
    terminal.resize(20, 60)
    wait_for("it draws again", lambda: any(len(f) == 20 for f in terminal.frames()[n:]))
    assert time.monotonic() - begun < 10
    last = [f for f in terminal.frames() if len(f) == 20][-1]
    assert all(len(line) <= 60 for line in last) and last[-1] == "... 12 more"
    terminal.resize(50, 200)
    wait_for("all of it fits", lambda: len(terminal.frames()[-1]) == 31)
    assert terminal.end(signal.SIGINT) == 0
    assert terminal.data.count(b"\033[?25l") == 1 and terminal.data.rstrip().endswith(b"\033[?25h")


@pytest.mark.skipif("--no-splice" in PROGRAM_ARGS or "--divert=off" in PROGRAM_ARGS,
                    reason="switched off by $SLIRP4NETNS_ARGS")
def test_watching_flows_shows_the_busiest_first(world):
    from test_divert import start as start_diverting
    slirp = start_diverting(world)
    world.remote.peer("tcp_echo_many", REMOTE4, 7000)
    world.remote.peer("tcp_source_big", REMOTE4, 7001, 1 << 40)
    world.guest.begin("client", "crowd", REMOTE4, 7000, 30).event("connected")
    world.guest.begin("client", "download", REMOTE4, 7001)

    def watched():
        terminal = Terminal(argv(slirp, "flows", "--watch"), 12, 120)
        try:
            wait_for("the busy one is on top", lambda: TIMED_OUT in terminal.read().decode() or [
                f for f in terminal.frames() if len(f) > 1 and f"{REMOTE4}:7001" in f[1] and f[1].count("/s") == 1])
            frames = terminal.frames()
        finally:
            code = terminal.end(signal.SIGTERM)
        return TIMED_OUT not in terminal.data.decode() and (code, frames)

    code, frames = wait_for("every worker says what it has", watched)
    assert code == 0 and all(len(f) <= 12 for f in frames)


def fake_server(path, answer):
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    os.chmod(path, 0o666)
    server.listen(8)

    def serve():
        try:
            while True:
                c, _ = server.accept()
                c.recv(65536)
                c.sendall(answer)
                c.close()
        except OSError:
            pass

    threading.Thread(target=serve, daemon=True).start()
    return server


@pytest.mark.parametrize("answer", [b"", b"{", b"\xff\xfe", b"[]", b'{"return":', b'{"x":1}', b'{"error":{}}',
                                    b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\0" * 100000],
                         ids=["nothing", "half", "no text", "list", "cut", "other", "no desc", "http", "zeros"])
def test_a_server_that_is_none_of_ours(world, answer):
    server = fake_server(world.work / "fake.sock", answer)
    for command in ("list", "flows", "stats", "info"):
        done = ctl(world.work / "fake.sock", command, check=False)
        assert done.returncode == 1 and "is this a slirp4netns?" in done.stderr, done
    server.close()


def test_nothing_from_the_other_side_reaches_the_terminal_unseen(world):
    evil = json.dumps({"return": {"entries": [{"id": 1, "proto": "\033[2J"}], "info": "\033]0;x\007\n", "flows": [],
                                  "backend": "\033[2J"}}).encode()
    server = fake_server(world.work / "fake.sock", evil)
    for command in ("list", "flows", "stats", "info"):
        assert "\033" not in ctl(world.work / "fake.sock", command).stdout
    server.close()


def test_pages_that_never_end_do_end(world):
    endless = json.dumps({"return": {"flows": [], "next": 1}}).encode()
    server = fake_server(world.work / "fake.sock", endless)
    assert ctl(world.work / "fake.sock", "flows").stdout.startswith("PROTO")
    server.close()
