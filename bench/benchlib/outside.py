# SPDX-License-Identifier: GPL-2.0-or-later
"""The first process. It starts the second one in namespaces of its own (network, mounts, processes), hands it the
signals it gets, and waits.

The second is the first process of its process namespace: when it ends, however it does, the kernel ends everything
that was started in there, and with the last process go the interfaces, rules and mounts.
"""
import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from .util import note

INSIDE = "SLIRP_BENCH_INSIDE"        # in the environment of the second process: "root" or "user"
DIRECTORY = "SLIRP_BENCH_DIRECTORY"  # and where it keeps its files
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
END_S = 20.0     # how long cleaning up may take after a signal
REPEAT_S = 0.5   # a process that has just become the first of its namespace may not hear a signal yet


def supervise():
    """Runs this script again inside; returns its exit status."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:  # the same for all programs: none is to fail for lack of descriptors
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    root = os.geteuid() == 0
    directory = tempfile.mkdtemp(prefix="slirp-bench-")
    environment = {**os.environ, INSIDE: "root" if root else "user", DIRECTORY: directory, "LC_ALL": "C.UTF-8",
                   "PATH": os.environ.get("PATH", "/usr/bin:/bin") + ":/usr/sbin:/sbin"}
    command = ["setpriv", "--pdeathsig=KILL", "--", "unshare", *([] if root else ["-U", "-r"]), "-n", "-m", "-p",
               "--fork", "--kill-child", "--mount-proc", "--", sys.executable, "-B", *sys.argv]
    caught = []
    for number in SIGNALS:
        signal.signal(number, lambda number, _frame: caught.append(number))
    try:
        process = subprocess.Popen(command, env=environment)
        return wait(process, caught)
    except FileNotFoundError as e:
        note(f"compare: {e.filename} is missing: install the package util-linux")
        return 1
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def wait(process, caught):
    due = repeat = None
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            status = process.wait(0.1)
            return 128 + caught[0] if caught else 128 - status if status < 0 else status
        if not caught:
            continue
        now = time.monotonic()
        due = due or now + END_S
        if now >= due:
            process.kill()  # unshare; its child dies with it, and with that one everything else
        elif repeat is None or now >= repeat:
            repeat = now + REPEAT_S
            for child in children(process.pid):
                with contextlib.suppress(OSError):
                    os.kill(child, caught[0])


def children(pid):
    try:
        return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
    except OSError:
        return []


def inside_directory():
    """The second process: its files are in a tmpfs that goes with it."""
    directory = Path(os.environ[DIRECTORY])
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=0711", "bench", directory], check=True)
    return directory


def end_on_signals():
    """A signal ends what is going on in an orderly way; further ones do not disturb that."""

    def end(number, _frame):
        for other in SIGNALS:
            signal.signal(other, signal.SIG_IGN)
        sys.exit(128 + number)

    for number in SIGNALS:
        signal.signal(number, end)
