# SPDX-License-Identifier: GPL-2.0-or-later
"""Makes a thread of another process call what it would never call by itself, by ptrace(2). x86-64.

The tracer's stop at the entry of a system call comes before seccomp looks at it (Linux 4.8), so the number that is put
there is what the filter sees.
"""

import contextlib
import ctypes
import errno
import os
import platform
import signal
import time
from collections.abc import Iterator, Sequence

POSSIBLE = platform.machine() == "x86_64"

SYSCALLS = {"mprotect": 10, "rt_sigaction": 13, "sched_yield": 24, "socket": 41, "clone": 56, "execve": 59,
            "kill": 62, "ptrace": 101, "mount": 165, "openat": 257, "setns": 308, "io_uring_setup": 425, "clone3": 435,
            "fcntl": 72, "ioctl": 16, "prctl": 157, "pidfd_send_signal": 424,
            "landlock_create_ruleset": 444}

ATTACH, DETACH, PEEKUSER, POKEUSER, SYSCALL, SETOPTIONS = 16, 17, 3, 6, 24, 0x4200
ORIG_RAX, RAX, RSP = 15 * 8, 10 * 8, 19 * 8
BELOW_STACK = 4096  # beyond what a thread in a system call uses of it
REGISTERS = [14 * 8, 13 * 8, 12 * 8, 7 * 8]  # rdi, rsi, rdx, r10
TRACESYSGOOD = 1
# Not read(2), which a thread may be about to do when a frame has come: 0 would be the end of the TAP.
WAITING = {7: "poll", 202: "futex", 232: "epoll_wait", 271: "ppoll", 281: "epoll_pwait", 219: "restart_syscall",
           426: "io_uring_enter", 441: "epoll_pwait2"}
DEADLINE_S = 10

libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
libc.ptrace.restype = ctypes.c_long


def ptrace(request: int, tid: int, addr: int = 0, data: int = 0) -> int:
    ctypes.set_errno(0)
    result = libc.ptrace(request, tid, addr, data & (2**64 - 1))
    if result == -1 and ctypes.get_errno():
        raise OSError(ctypes.get_errno(), f"ptrace({request:#x})")
    return result


def wait_stop(tid: int) -> int:
    """The signal of the next stop."""
    end = time.monotonic() + DEADLINE_S
    while time.monotonic() < end:
        pid, status = os.waitpid(tid, os.WNOHANG | 0x40000000)  # __WALL
        if pid == tid:
            assert os.WIFSTOPPED(status), f"thread {tid} ended with {status:#x}"
            return os.WSTOPSIG(status)
        time.sleep(0.001)
    raise AssertionError(f"thread {tid} does not stop")


def landlock_version() -> int:
    return max(0, libc.syscall(SYSCALLS["landlock_create_ruleset"], None, 0, 1))


def next_call_stop(tid: int) -> None:
    ptrace(SYSCALL, tid)
    while (number := wait_stop(tid)) != signal.SIGTRAP | 0x80:
        ptrace(SYSCALL, tid, 0, number)


@contextlib.contextmanager
def at_entry(tid: int) -> Iterator[None]:
    """Stops thread @tid where it enters a system call in which it waits: what it is made to call instead answers 0,
    which is no event then."""
    ptrace(ATTACH, tid)
    try:
        while wait_stop(tid) != signal.SIGSTOP:
            ptrace(SYSCALL, tid)
        ptrace(SETOPTIONS, tid, 0, TRACESYSGOOD)
        # Interrupted in one: it may begin that again, or another one.
        next_call_stop(tid)
        end = time.monotonic() + DEADLINE_S
        while ptrace(PEEKUSER, tid, ORIG_RAX) not in WAITING:
            assert time.monotonic() < end, f"thread {tid} waits for nothing"
            next_call_stop(tid)  # its end
            next_call_stop(tid)
        yield
    finally:
        with contextlib.suppress(OSError):
            ptrace(DETACH, tid)


def put(tid: int, name: str, args: Sequence[int]) -> None:
    ptrace(POKEUSER, tid, ORIG_RAX, SYSCALLS[name])
    for register, value in zip(REGISTERS, args):
        ptrace(POKEUSER, tid, register, value)


def call(tid: int, name: str, *args: int) -> None:
    """At its next system call, thread @tid calls @name instead; what comes of it is not looked at."""
    with at_entry(tid):
        put(tid, name, args)


def ask(pid: int, tid: int, name: str, *args: int | str) -> int:
    """The same; returns what came of it, while the thread believes that a signal came. Strings lie below its stack."""
    with at_entry(tid):
        below = ptrace(PEEKUSER, tid, RSP) - BELOW_STACK
        numbers = []
        for arg in args:
            if isinstance(arg, str):
                with open(f"/proc/{pid}/mem", "r+b", buffering=0) as memory:
                    memory.seek(below)
                    memory.write(arg.encode() + b"\0")
                arg = below
            numbers.append(arg)
        put(tid, name, numbers)
        ptrace(SYSCALL, tid)
        while (number := wait_stop(tid)) != signal.SIGTRAP | 0x80:
            ptrace(SYSCALL, tid, 0, number)
        result = ptrace(PEEKUSER, tid, RAX)
        ptrace(POKEUSER, tid, RAX, -errno.EINTR)
        return result
