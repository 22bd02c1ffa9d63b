# SPDX-License-Identifier: GPL-2.0-or-later
"""Peers without the price of starting programs: see forker.py, which this is the tests' side of."""

from __future__ import annotations

import atexit
import json
import os
import pathlib
import select
import signal
import socket
import subprocess
import threading
from typing import Any

from forker import MESSAGE_MAX, PYTHON

FORKER = pathlib.Path(__file__).resolve().parent / "forker.py"


class Server:
    """The one that forks."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.process = subprocess.Popen([PYTHON, "-S", str(FORKER), str(theirs.fileno())],
                                            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                            pass_fds=(theirs.fileno(),))
        atexit.register(self.end)

    def ask(self, question: dict[str, Any], fds: list[int]) -> dict[str, Any]:
        with self.lock:
            socket.send_fds(self.sock, [json.dumps(question).encode()], fds)
            answer = json.loads(self.sock.recv(MESSAGE_MAX) or '{"error": "the process that forks has ended"}')
        if "error" in answer:
            raise OSError(f"{question}: {answer['error']}")
        return answer

    def end(self) -> None:
        self.sock.close()
        self.process.wait(10)


server: Server | None = None


class Child:
    """A process with pipes for its output and errors and an empty input; as subprocess.Popen has it."""

    def __init__(self, argv: list[str]) -> None:
        global server
        server = server or Server()
        out, err = os.pipe(), os.pipe()
        self.stdout, self.stderr = open(out[0], "rb"), open(err[0], "rb")
        self.args = argv
        self.returncode: int | None = None
        try:
            self.pid = server.ask({"argv": argv}, [out[1], err[1]])["pid"]
            self.pidfd = os.pidfd_open(self.pid)
        finally:
            for fd in (out[1], err[1]):
                os.close(fd)

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not select.select([self.pidfd], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            assert server
            self.returncode = os.waitstatus_to_exitcode(server.ask({"reap": self.pid}, [])["status"])
            os.close(self.pidfd)
        return self.returncode

    def poll(self) -> int | None:
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)
