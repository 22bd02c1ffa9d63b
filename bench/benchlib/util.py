# SPDX-License-Identifier: GPL-2.0-or-later
"""Processes and what /proc says of them."""
import contextlib
import os
import selectors
import socket
import subprocess
import sys
import time
from pathlib import Path

BENCH = Path(__file__).resolve().parent.parent
ROOT = BENCH.parent
DEADLINE_S = 10.0  # for everything that should be done at once


class MeasurementError(Exception):
    """A measurement that gave no figure."""


def note(text):
    print(text, file=sys.stderr, flush=True)


def wait_readable(fd, deadline_s):
    with selectors.DefaultSelector() as selector:
        selector.register(fd, selectors.EVENT_READ)
        return bool(selector.select(deadline_s))


def read_line(process, deadline_s, what):
    """The first line a process says; everything after it stays in the pipe."""
    if not wait_readable(process.stdout, deadline_s):
        raise MeasurementError(f"{what} said nothing for {deadline_s:g} s")
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(process.stdout.fileno(), 1)
        if not byte:
            break
        line += byte
    if not line:
        raise MeasurementError(f"{what} ended at its start")
    return line.decode(errors="replace").strip()


def end_child(process):
    """Ends one child of ours and waits for it."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(3)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait(DEADLINE_S)
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()


def words(command):
    return [str(word) for word in command]


def run(command, deadline_s=DEADLINE_S):
    """stdout of a command that must succeed."""
    command = words(command)
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=deadline_s, text=True,
                              errors="replace")
    except subprocess.TimeoutExpired as e:
        raise MeasurementError(f"{' '.join(command)}: not done after {deadline_s:g} s") from e
    except OSError as e:
        raise MeasurementError(f"{command[0]}: {e.strerror}") from e
    if done.returncode != 0:
        raise MeasurementError(f"{' '.join(command)}: exit status {done.returncode}: {done.stderr.strip()}")
    return done.stdout


# ---- /proc ----

def parents():
    """{process: its parent} of all that can be seen."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                found[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    return found


def process_tree(pid):
    """The process and its descendants."""
    children = {}
    for child, parent in parents().items():
        children.setdefault(parent, []).append(child)
    tree = [pid]
    for parent in tree:
        tree += children.get(parent, [])
    return tree


def status_number(path, key):
    for line in path.read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1])
    raise MeasurementError(f"no {key} in {path}")


def resident_kib(processes):
    total = 0
    for pid in processes:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, MeasurementError):
            total += status_number(Path(f"/proc/{pid}/status"), "VmRSS")
    return total


def thread_costs(processes):
    """{thread: (CPU time in ms, voluntary context switches)} of processes."""
    costs = {}
    for process in processes:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for task in Path(f"/proc/{process}/task").iterdir():
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                    switches = status_number(task / "status", "voluntary_ctxt_switches")
                    costs[task.name] = (cpu_ms(task), switches)
    return costs


def cpu_ms(task):
    try:
        return int((task / "schedstat").read_text().split()[0]) / 1e6
    except FileNotFoundError:  # a kernel without it: only clock ticks
        fields = (task / "stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) * 1000 / os.sysconf("SC_CLK_TCK")


def growth(before, after):
    """(CPU time in ms, voluntary context switches) between two thread_costs(); new threads count from 0."""
    pairs = [(now, before.get(thread, (0, 0))) for thread, now in after.items()]
    return tuple(sum(now[i] - then[i] for now, then in pairs) for i in range(2))


def system_cpu_ms():
    """CPU time of everything on this machine that was not idle."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    user, nice, system, _idle, _iowait, irq, softirq = map(int, fields[:7])
    return (user + nice + system + irq + softirq) * 1000 / os.sysconf("SC_CLK_TCK")


def busy_share(seconds):
    """The share of all CPUs that is busy, looked at for so long."""
    before = system_cpu_ms()
    time.sleep(seconds)
    return (system_cpu_ms() - before) / (seconds * 1000 * os.cpu_count())


def link_counters(pid, link):
    """(bytes, packets), both directions, of an interface in the network namespace of a process."""
    for line in Path(f"/proc/{pid}/net/dev").read_text().splitlines():
        name, _, numbers = line.partition(":")
        if name.strip() == link:
            fields = list(map(int, numbers.split()))
            return fields[0] + fields[8], fields[1] + fields[9]
    raise MeasurementError(f"there is no interface {link} in the guest")


def listeners(pid="self"):
    """Sockets that wait for somebody in the network namespace of a process: ["tcp 127.0.0.1:80", ...]."""
    found = []
    for proto, waiting in (("tcp", "0A"), ("tcp6", "0A"), ("udp", "07"), ("udp6", "07")):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/net/{proto}").read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == waiting:
                    address, _, port = fields[1].partition(":")
                    found.append(f"{proto} {address_text(address)}:{int(port, 16)}")
    return found


def address_text(hexadecimal):
    """An address as /proc/net/tcp has it: 32-bit words in the byte order of the host."""
    packed = b"".join(int(hexadecimal[i:i + 8], 16).to_bytes(4, sys.byteorder) for i in range(0, len(hexadecimal), 8))
    return socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed)
