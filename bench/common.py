# SPDX-License-Identifier: GPL-2.0-or-later
"""What bench/compare and bench/forward share: guests, servers, programs under test, rounds, ratios, output."""
import contextlib
import datetime
import os
import platform
import selectors
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

NAME = Path(sys.argv[0]).name
BENCH = Path(__file__).resolve().parent
ROOT = BENCH.parent
INSIDE = "SLIRP_BENCH_INSIDE"  # set in the environment of the second start: "root" or "user"

WANTED_CONGESTION_CONTROL = "cubic"
CONGESTION_CONTROL = "/proc/sys/net/ipv4/tcp_congestion_control"
HOST_ADDRESS = "192.0.2.1/24"  # of the host's lo, besides 127.0.0.1 (RFC 5737)
FIRST_PORT = 20000             # of the servers: each measurement has its own, so that no TIME_WAIT is met again
N_PORTS = 10000

DEADLINE_S = 10.0       # for everything that should be done at once
LOAD_MARGIN_S = 20.0    # what a load may take beyond its seconds
SERVER_MARGIN_S = 40.0  # the server ends by itself after this long beyond the load's seconds
GUEST_MARGIN_S = 120.0  # and the guest


class MeasurementError(Exception):
    """A measurement that gave no figure."""


def note(text):
    print(text, file=sys.stderr, flush=True)


def wait_readable(fd, deadline_s):
    with selectors.DefaultSelector() as selector:
        selector.register(fd, selectors.EVENT_READ)
        return bool(selector.select(deadline_s))


def end_child(process):
    """Ends one child of ours and waits for it."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(3)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait(DEADLINE_S)


def text_of(file):
    file.seek(0)
    return file.read().decode(errors="replace").strip()


def run(command, deadline_s=DEADLINE_S):
    """stdout of a command that must succeed."""
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=deadline_s, text=True)
    except subprocess.TimeoutExpired as e:
        raise MeasurementError(f"{command}: not done after {deadline_s} s") from e
    except OSError as e:
        raise MeasurementError(f"{command[0]}: {e.strerror}") from e
    if done.returncode != 0:
        raise MeasurementError(f"{' '.join(map(str, command))}: exit status {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def set_congestion_control():
    """Asks for the wanted algorithm in this network namespace (it may be refused); returns what is in force."""
    with contextlib.suppress(OSError):
        Path(CONGESTION_CONTROL).write_text(WANTED_CONGESTION_CONTROL)
    try:
        return Path(CONGESTION_CONTROL).read_text().strip()
    except OSError:
        return "unknown"


# ---- the parts of one measurement ----

class Guest:
    """A process with a network namespace of its own; it ends when its stdin does, or after a while."""

    SCRIPT = f"""
        echo {WANTED_CONGESTION_CONTROL} 2>/dev/null > {CONGESTION_CONTROL}
        cat {CONGESTION_CONTROL} || echo unknown
        exec timeout "$1" cat
    """

    def __init__(self, bench, seconds):
        how = ["-n"] if bench.root else ["-U", "-r", "-n"]
        self.enter = ["nsenter", "-n"] if bench.root else ["nsenter", "-U", "-n", "--preserve-credentials"]
        self.process = subprocess.Popen(
            ["unshare", *how, "--", "sh", "-c", self.SCRIPT, "guest", str(int(seconds + GUEST_MARGIN_S))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        try:
            if not wait_readable(self.process.stdout, DEADLINE_S):
                raise MeasurementError("the guest did not start")
            line = self.process.stdout.readline().decode().strip()
            if not line:
                raise MeasurementError("the guest ended at its start")
            bench.guest_congestion_control.add(line)
        except BaseException:
            self.close()
            raise

    def close(self):
        self.process.stdin.close()
        end_child(self.process)
        self.process.stdout.close()

    def command(self, command):
        """command as it is to be started on the host to run in the guest."""
        return [*self.enter, "-t", str(self.process.pid), "--", *map(str, command)]

    def run(self, command, deadline_s):
        return run(self.command(command), deadline_s)


class Server:
    """load serve, on the host's loopback unless told; enter: the command that goes where else it is to run."""

    def __init__(self, bench, seconds, address="127.0.0.1", enter=(), port=None):
        self.port = port or bench.next_port()
        self.process = subprocess.Popen(
            [*enter, bench.load, "serve", address, str(self.port), str(seconds + SERVER_MARGIN_S)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            if not wait_readable(self.process.stdout, DEADLINE_S) or not self.process.stdout.readline():
                end_child(self.process)
                raise MeasurementError(f"no server: {self.process.stderr.read().decode(errors='replace').strip()}")
        except BaseException:
            self.close()
            raise

    def close(self):
        end_child(self.process)
        self.process.stdout.close()
        self.process.stderr.close()


class UnderTest:
    """A program that runs during a measurement; its output goes to a file."""

    def __init__(self):
        self.output = tempfile.TemporaryFile()
        self.process = None

    def explain(self, error):
        return f"{error}\n--- output of the program:\n{text_of(self.output) or '(nothing)'}"

    def check(self):
        if self.process.poll() is not None:
            raise MeasurementError(f"the program ended with {self.process.returncode}")

    def close(self):
        if self.process is not None:
            end_child(self.process)


class Slirp(UnderTest):
    """A slirp4netns attached to a guest; ready_ms is the time from its start to its ready byte."""

    def __init__(self, program, guest, mtu):
        super().__init__()
        ready_read, ready_write = os.pipe()
        command = [program["path"], "-c", "-m", str(mtu), "-r", str(ready_write), *program["args"],
                   str(guest.process.pid), "tap0"]
        try:
            try:
                start = time.monotonic()
                self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self.output,
                                                stderr=self.output, pass_fds=[ready_write])
            except OSError as e:
                raise MeasurementError(f"{program['path']}: {e.strerror}") from e
            finally:
                os.close(ready_write)
            if not wait_readable(ready_read, DEADLINE_S):
                raise MeasurementError(f"no ready byte after {DEADLINE_S:g} s")
            if not os.read(ready_read, 1):
                raise MeasurementError("the program ended before it was ready")
            self.ready_ms = (time.monotonic() - start) * 1000
        except BaseException as e:
            self.close()
            if isinstance(e, MeasurementError):
                raise MeasurementError(self.explain(e)) from e
            raise
        finally:
            os.close(ready_read)


def watch(stack, program):
    """The stack ends the program; whatever goes wrong within it until then is reported with the program's output."""

    def leave(_kind, error, _trace):
        try:
            if error is None:
                try:
                    program.check()  # it must still be there
                except MeasurementError as e:
                    error = e
            if isinstance(error, (MeasurementError, OSError)):
                raise MeasurementError(program.explain(error)) from error
        finally:
            program.close()
            program.output.close()
        return False

    stack.push(leave)
    return program


def attach(stack, program, guest, mtu):
    """Starts a slirp4netns."""
    return watch(stack, Slirp(program, guest, mtu))


def process_tree(pid):
    """The process and its descendants."""
    children = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    tree = [pid]
    for parent in tree:
        tree += children.get(parent, [])
    return tree


def status_number(path, key):
    for line in path.read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1])
    raise MeasurementError(f"no {key} in {path}")


def thread_costs(processes):
    """{thread: (CPU time in ms, voluntary context switches)} of processes."""
    costs = {}
    for process in processes:
        for task in Path(f"/proc/{process}/task").iterdir():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                switches = status_number(task / "status", "voluntary_ctxt_switches")
                try:
                    cpu_ms = int((task / "schedstat").read_text().split()[0]) / 1e6
                except FileNotFoundError:  # a kernel without it: only clock ticks
                    fields = (task / "stat").read_text().rpartition(")")[2].split()
                    cpu_ms = (int(fields[11]) + int(fields[12])) * 1000 / os.sysconf("SC_CLK_TCK")
                costs[task.name] = (cpu_ms, switches)
    return costs


# ---- figures and rounds ----

class Metric:
    """One line of the table: a figure of a cell."""

    def __init__(self, name, unit, better, may_be_zero=False):
        self.name, self.unit, self.better, self.may_be_zero = name, unit, better, may_be_zero


class Run:
    """Measures every cell with every program."""

    def __init__(self, options, cells, programs):
        self.options, self.cells, self.programs = options, cells, programs
        self.root = os.environ[INSIDE] == "root"
        self.guest_congestion_control = set()
        self.ports_used = 0
        self.failures = []
        self.load = None

    def next_port(self):
        self.ports_used += 1
        return FIRST_PORT + self.ports_used % N_PORTS

    def prepare(self, directory):
        """The load generator and the host's side of the network."""
        sources, built = sorted((BENCH / "load").glob("*.c")), ROOT / "build" / "bench" / "load"
        if os.access(built, os.X_OK) and all(built.stat().st_mtime >= source.stat().st_mtime for source in sources):
            self.load = str(built)
        else:
            self.load = str(Path(directory) / "load")
            run(["cc", "-std=gnu11", "-D_GNU_SOURCE", "-O2", "-o", self.load, *sources], 60)
        run(["ip", "link", "set", "lo", "up"])
        run(["ip", "addr", "add", HOST_ADDRESS, "dev", "lo"])
        self.host_congestion_control = set_congestion_control()

    def measure(self, cell, program, round_number):
        """The cell's figures, or None for each. A figure that there cannot be is None, too, and no failure."""
        try:
            figures = cell.measure(self, program)
            for metric, figure in zip(cell.metrics, figures):
                if figure is not None and (figure < 0 or (figure == 0 and not metric.may_be_zero)):
                    raise MeasurementError(f"{metric.name} is {figure}")
        except (MeasurementError, OSError) as e:
            note(f"round {round_number}, {cell.name}, {program['name']}: FAILED: {e}")
            self.failures.append({"round": round_number, "cell": cell.name, "program": program["name"],
                                  "error": str(e)})
            return [None] * len(cell.metrics)
        note(f"round {round_number}, {cell.name}, {program['name']}: " +
             ", ".join(human(figure, metric.unit) for metric, figure in zip(cell.metrics, figures)))
        return figures

    def rounds(self):
        """{(cell, program): [figures of round 1, ...]}: the programs one after the other in every cell, the order
        rotating by round and by cell."""
        samples = {(cell.name, program["name"]): [] for cell in self.cells for program in self.programs}
        for i in range(self.options.rounds):
            for j, cell in enumerate(self.cells):
                turn = (i + j) % len(self.programs)
                for program in self.programs[turn:] + self.programs[:turn]:
                    samples[cell.name, program["name"]].append(self.measure(cell, program, i + 1))
        return samples

    def machine(self, load_before):
        git = ["git", "-c", f"safe.directory={ROOT}", "-C", str(ROOT)]
        try:
            commit = run([*git, "rev-parse", "HEAD"]).strip()
            dirty = bool(run([*git, "status", "--porcelain", "--untracked-files=no"]).strip())
        except MeasurementError:
            commit, dirty = "unknown", None
        cpuinfo = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        return {
            "kernel": platform.release(), "architecture": platform.machine(),
            "cpus": len(os.sched_getaffinity(0)),
            "cpu_model": cpuinfo[0].partition(":")[2].strip() if cpuinfo else "unknown",
            "memory_kib": status_number(Path("/proc/meminfo"), "MemTotal"),
            "load_average": {"before": load_before, "after": os.getloadavg()[0]},
            "congestion_control": {"wanted": WANTED_CONGESTION_CONTROL, "host": self.host_congestion_control,
                                   "guest": sorted(self.guest_congestion_control)},
            "root": self.root, "commit": commit, "commit_dirty": dirty}


def utc_now():
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def over(function, values):
    """function of what was measured; None if nothing was."""
    there = [value for value in values if value is not None]
    return function(there) if there else None


def ratios(column, baseline):
    paired = [a / b if a is not None and b else None for a, b in zip(column, baseline)]
    return {"paired": paired, "median": over(statistics.median, paired), "min": over(min, paired),
            "max": over(max, paired)}


# ---- output ----

def human(value, unit):
    if value is None:
        return "-"
    if unit == "bit/s":
        return f"{value / 1e9:.3f} Gbit/s"
    if unit == "KiB":
        return f"{value / 1024:.2f} MiB"
    if unit == "count":
        return f"{value:g}"
    if unit == "s/GiB":
        return f"{value:.3f} {unit}"
    return f"{value:.{1 if unit in ('us', '1/s') else 2}f} {'µs' if unit == 'us' else unit}"


def factor(value):
    return "-" if value is None else f"{value:.3f}"


def span(ratio):
    return "-" if ratio["min"] is None else f"{ratio['min']:.3f}–{ratio['max']:.3f}"


def machine_facts(result):
    """When, where and on what, line by line."""
    machine, cc = result["machine"], result["machine"]["congestion_control"]
    commit = machine["commit"] + (" with changes" if machine["commit_dirty"] else "")
    yield f"Date: {result['started']} to {result['finished']}"
    yield (f"Machine: Linux {machine['kernel']} {machine['architecture']}, {machine['cpus']} CPUs,"
           f" {machine['cpu_model']}")
    yield f"Load average: {machine['load_average']['before']:.2f} before, {machine['load_average']['after']:.2f} after"
    yield f"Congestion control: {cc['host']} on the host, {' '.join(cc['guest']) or 'unknown'} in the guest"
    yield f"Namespaces of: {'root' if machine['root'] else 'an ordinary user'}"
    yield f"Checkout: {commit}"


def print_text(facts, rows, left=2):
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for fact in facts:
        print(fact)
    print()
    for row in rows:
        print("  ".join(cell.ljust(width) if i < left else cell.rjust(width)
                        for i, (cell, width) in enumerate(zip(row, widths))).rstrip())


def print_markdown(facts, rows, left=2):
    for fact in facts:
        print(f"- {fact}")
    print()
    print("| " + " | ".join(rows[0]) + " |")
    print("|" + "|".join([" --- "] * left + [" ---: "] * (len(rows[0]) - left)) + "|")
    for row in rows[1:]:
        print("| " + " | ".join(row) + " |")


# ---- start ----

def find_program(program):
    """Relative paths: from here, or else from the top of the checkout."""
    for path in (Path(program["path"]).absolute(), ROOT / program["path"]):
        if path.is_file() and os.access(path, os.X_OK):
            return {**program, "path": str(path)}
    sys.exit(f"{NAME}: {program['name']}: {program['path']} is not an executable file")


def positive(kind):
    def parse(text):
        value = kind(text)
        if not 0 < value <= 3600:
            raise ValueError
        return value
    parse.__name__ = f"positive {kind.__name__}"
    return parse


def enter_namespaces():
    """Starts this script again in a network and a mount namespace of its own."""
    root = os.geteuid() == 0
    environment = {**os.environ, INSIDE: "root" if root else "user", "LC_ALL": "C.UTF-8",
                   "PATH": os.environ.get("PATH", "/usr/bin:/bin") + ":/usr/sbin:/sbin"}
    command = ["unshare", *(["-n", "-m"] if root else ["-U", "-r", "-n", "-m"]), "--",
               sys.executable, str(Path(sys.argv[0]).resolve()), *sys.argv[1:]]
    os.execvpe(command[0], command, environment)


def on_signal(number, _frame):
    sys.exit(128 + number)
