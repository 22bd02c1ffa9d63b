# SPDX-License-Identifier: GPL-2.0-or-later
"""The process that the peers of the end-to-end tests are forked from.

A test needs a handful of peers in its namespaces, and each was nsenter(1), setpriv(1) and an interpreter that compiled
peer.py: 0.15 s of CPU time, half of what a whole run took. Here one process for each of pytest's has peer.py loaded;
it forks, and the new process does by itself what nsenter and setpriv do with the few options that the tests use. What
it does not know it executes, so every command line may be given to it and means the same; it is only faster.

The two sides speak JSON over a SOCK_SEQPACKET pair, a question and an answer at a time:
  {"argv": [...]} and two descriptors, its output and errors  ->  {"pid": 1} or {"error": "..."}
  {"reap": 1}, a process that has ended                       ->  {"status": of waitpid(2)}
This side ends with the conversation. A process is reaped when the tests have seen its end, and not before, so that its
number means nothing else until then.

What is not loaded (threading, random, ...) is what would do something in each new process.
"""

import ctypes
import gc
import json
import marshal
import os
import signal
import socket
import sys

PYTHON = "/usr/bin/python3"
MESSAGE_MAX = 1 << 18
FLAGS = {"-U": 0x10000000, "-m": 0x00020000, "-n": 0x40000000}  # CLONE_NEWUSER, CLONE_NEWNS, CLONE_NEWNET
FILES = {"-U": "user", "-m": "mnt", "-n": "net"}
PR_SET_DUMPABLE, PR_CAPBSET_DROP = 4, 24


class Commands:
    """What is done without a program; each takes the options and says whether it knows all of them."""

    def __init__(self) -> None:
        self.libc = ctypes.CDLL(None, use_errno=True)
        with open("/proc/sys/kernel/cap_last_cap", encoding="ascii") as last:
            self.capabilities = range(int(last.read()) + 1)

    def call(self, name: str, *args: int) -> None:
        if getattr(self.libc, name)(*args) < 0:
            raise OSError(ctypes.get_errno(), f"{name}{args}: {os.strerror(ctypes.get_errno())}")

    def dumpable(self) -> None:
        """As a program that has been executed: its files in /proc are its user's."""
        self.call("prctl", PR_SET_DUMPABLE, 1, 0, 0, 0)

    def setpriv(self, options: list[str]) -> bool:
        """Becomes an ordinary user. (Root of a user namespace that only loses capabilities does so by executing.)"""
        named = dict(o.split("=", 1) for o in options if "=" in o)
        uid, gid = named.pop("--reuid", ""), named.pop("--regid", "")
        if not uid or not gid or named != {"--inh-caps": "-all", "--bounding-set": "-all"} or \
                [o for o in options if "=" not in o] != ["--clear-groups"]:
            return False
        for capability in self.capabilities:
            self.call("prctl", PR_CAPBSET_DROP, capability, 0, 0, 0)
        os.setgroups([])
        os.setresgid(*[int(gid)] * 3)
        os.setresuid(*[int(uid)] * 3)
        self.dumpable()
        return True

    def nsenter(self, options: list[str]) -> bool:
        if options[0] != "-t" or not set(options[2:]) <= {*FLAGS, "--preserve-credentials"} or \
                ("-U" in options) != ("--preserve-credentials" in options):
            return False
        kinds = [o for o in FLAGS if o in options]  # the user namespace is the first, and permits the others
        fds = [os.open(f"/proc/{options[1]}/ns/{FILES[kind]}", os.O_RDONLY | os.O_CLOEXEC) for kind in kinds]
        for kind, fd in zip(kinds, fds):
            self.call("setns", fd, FLAGS[kind])
            os.close(fd)
        self.dumpable()
        return True


def n_options(words: list[str]) -> int:
    n = 1
    while n < len(words) and words[n].startswith("-"):
        n += 2 if words[n] == "-t" else 1
    return n


def become(words: list[str], commands: Commands) -> None:
    """Does not return."""
    while words[0] in ("setpriv", "nsenter"):
        n = n_options(words)
        if not getattr(commands, words[0])(words[1:n]):
            break
        words = words[n:]
    if words[0] == PYTHON and os.path.basename(words[1]) == "peer.py":
        sys.modules["peer"].main(words[2:])
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # which an interpreter ignores
        signal.signal(number, signal.SIG_DFL)
    os.execvp(words[0], words)


def child_main(sock: socket.socket, words: list[str], fds: list[int], commands: Commands) -> None:
    try:
        sock.close()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number, fd in enumerate(fds, 1):
            os.dup2(fd, number)
            os.close(fd)
        become(words, commands)
    except BaseException:  # pylint: disable=broad-except
        sys.excepthook(*sys.exc_info())
        sys.stderr.flush()
    os._exit(1)


def answer_to(question: dict, fds: list[int], sock: socket.socket, commands: Commands) -> dict:
    if "reap" in question:
        return {"status": os.waitpid(question["reap"], 0)[1]}
    try:
        pid = os.fork()
    except OSError as e:
        return {"error": str(e)}
    if pid == 0:
        child_main(sock, question["argv"], fds, commands)
    return {"pid": pid}


def load(name: str) -> None:
    """Imports it, but has another process compile it, which leaves megabytes to copy in each process that is forked."""
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), name + ".py")
    read_fd, write_fd = os.pipe()
    pid = os.fork()
    if pid == 0:
        with open(path, encoding="utf-8") as source, open(write_fd, "wb") as to:
            marshal.dump(compile(source.read(), path, "exec"), to)
        os._exit(0)
    os.close(write_fd)
    with open(read_fd, "rb") as compiled:
        code = marshal.load(compiled)
    os.waitpid(pid, 0)
    sys.modules[name] = module = type(sys)(name)
    module.__file__ = path
    exec(code, module.__dict__)  # pylint: disable=exec-used


def main(fd: int) -> None:
    load("peer")
    commands = Commands()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C: the tests still end what they have begun
    gc.collect()
    gc.freeze()  # so that the collector leaves the pages shared
    with socket.socket(fileno=fd) as sock:
        sock.set_inheritable(False)
        while True:
            data, fds, _, _ = socket.recv_fds(sock, MESSAGE_MAX, 2)
            if not data:
                return
            answer = answer_to(json.loads(data), fds, sock, commands)
            for given in fds:
                os.close(given)
            sock.send(json.dumps(answer).encode())


if __name__ == "__main__":
    main(int(sys.argv[1]))
