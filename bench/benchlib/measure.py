# SPDX-License-Identifier: GPL-2.0-or-later
"""One measurement of one scenario with one program.

Before the load: nobody listens who should not; one byte goes there and back, and the counters show which way it took.
The load itself compares the bytes sent with those received. After it: the counters show the way of the payload, the
program and the server are still there.
"""
import contextlib
import json
import statistics
import subprocess
import time

from . import iperf3
from . import world as net
from .figures import cost_per_gib, way_taken
from .util import (MeasurementError, growth, link_counters, read_line, resident_kib, run,
                   system_cpu_ms, thread_costs, words)

DRAIN_S = 5                    # what was sent may take so long to arrive
LOAD_MARGIN_S = 15.0           # what a load may take beyond its seconds: it lets what is under way arrive
STALE_S = 3.0                  # how long sockets of the measurement before may take to go
CPU_FROM, CPU_TO = 0.1, 1.0    # the part of a load in which CPU time is counted: as load counts bytes
IDLE_SETTLE_S, IDLE_S = 1.0, 2.0
IDLE_CONNECTION_S = 0.01       # for each idle connection to be made, besides DEADLINE_S
READY_STARTS = 3
SMALL_PAYLOAD = 1 << 20        # below this many bytes headers and handshakes blur which way the payload took


class Patience:
    """Waits for a condition."""

    def __init__(self, seconds):
        self.seconds = seconds

    def __call__(self, condition):
        end = time.monotonic() + self.seconds
        while time.monotonic() < end:
            if condition():
                return True
            time.sleep(0.02)
        return False


class Result:
    def __init__(self):
        self.figures = {}
        self.quantiles = None
        self.way = None
        self.stalled = None  # what did not get through though it had the time
        self.detail = {}


def measure(world, program, scenario, seconds, smoke):
    """A Result; raises MeasurementError when there is none."""
    world.check_nobody_listens(Patience(STALE_S))
    if scenario.id == "ready":
        return measure_ready(world, program, scenario, 1 if smoke else READY_STARTS)
    if scenario.id == "idle":
        return measure_idle(world, program, scenario, 0.2 if smoke else IDLE_S)
    return Loaded(world, program, scenario, seconds).measure()


def measure_ready(world, program, scenario, starts):
    times = []
    for _ in range(starts):
        with contextlib.ExitStack() as stack:
            times.append(program["kind"].attach(world, program, scenario, 0, 0, stack).ready_ms)
    result = Result()
    result.figures["ready_ms"] = statistics.median(times)
    return result


def measure_idle(world, program, scenario, seconds):
    result = Result()
    with contextlib.ExitStack() as stack:
        attached = program["kind"].attach(world, program, scenario, 0, seconds, stack)
        time.sleep(min(IDLE_SETTLE_S, seconds * 2))
        attached.check()
        processes = attached.processes()
        before, start = thread_costs(processes), time.monotonic()
        result.figures["rss_kib"] = resident_kib(processes)
        result.figures["threads"] = len(before)
        time.sleep(seconds)
        attached.check()
        cpu_ms, wakeups = growth(before, thread_costs(attached.processes()))
        elapsed = time.monotonic() - start
        result.figures["wakeups"] = wakeups / elapsed
        result.figures["cpu_ms"] = cpu_ms / elapsed
    return result


class Loaded:
    """A measurement with a load."""

    def __init__(self, world, program, scenario, seconds):
        self.world, self.program, self.scenario, self.seconds = world, program, scenario, seconds
        self.kind = program["kind"]
        self.result = Result()
        self.probed = scenario.proto in ("tcp", "udp")  # the server answers to bench/load's probe

    def measure(self):
        scenario, world = self.scenario, self.world
        with contextlib.ExitStack() as stack:
            port = world.next_port()
            if scenario.rtt_ms:
                stack.enter_context(world.delayed(scenario.rtt_ms, self.seconds))
            self.attached = self.kind.attach(world, self.program, scenario, port, self.seconds, stack)
            self.client, self.address, self.port = self.place(stack, port)
            self.probe()
            self.check_way_of_probe()
            if scenario.idle:
                with self.idle_connections():
                    self.load_and_check()
            else:
                self.load_and_check()
        return self.result

    def place(self, stack, port):
        """Starts the server; returns the command that leads to the client, and what it connects to."""
        world, scenario, attached = self.world, self.scenario, self.attached
        if scenario.proto == "dns":
            if world.resolver_error:
                raise MeasurementError(world.resolver_error)
            self.serve(stack, net.RESOLVER[0], net.RESOLVER[1], mode="dns-serve")
            return attached.guest.command(), *attached.dns
        if scenario.way == "forward":
            self.serve(stack, attached.server_address, port, attached.guest.command())
            client = world.remote.command() if scenario.client == "remote" else []
            return client, attached.forward_address, port
        if scenario.rtt_ms:
            self.serve(stack, net.DELAY_REMOTE, port, world.remote.command())
            address = net.DELAY_REMOTE
        else:
            self.serve(stack, net.HOST, port, mode="iperf3" if scenario.proto == "iperf3" else "serve")
            address = net.HOST
        if scenario.way == "nested":
            space = stack.enter_context(
                world.nested(attached.guest, attached.link, scenario.mtu, self.seconds))
            return space.command(), address, port
        return attached.guest.command(), address, port

    def serve(self, stack, address, port, enter=(), mode="serve"):
        self.server = net.Server(self.world, address, port, self.seconds, enter, mode)
        stack.callback(self.server.close)

    def load_command(self, mode, *numbers):
        return words([*self.client, self.world.load, mode, self.address, self.port, *numbers])

    # ---- checks ----

    def counters(self):
        return link_counters(self.attached.guest.pid, self.attached.link)

    def probe(self):
        """One byte there and back."""
        if not self.probed:
            return
        patience = self.scenario.patience_s
        try:
            run(self.load_command(f"probe-{self.scenario.proto}", patience), patience + LOAD_MARGIN_S)
        except MeasurementError:
            self.attached.check()
            self.server.check()
            raise

    def check_way_of_probe(self):
        """What went there and back must have been seen on the way."""
        self.attached.check()
        self.at_first = stats = self.attached.stats()
        _, packets = self.counters()
        if self.kind.limit:
            if self.probed and packets == 0:
                raise MeasurementError(f"nothing was seen on {self.attached.link}")
            return
        if self.kind.expects(self.program, self.scenario) == "splice" and stats is not None:
            # The first connection may come before everything is set up; further ones must go the right way.
            if self.spliced(stats) < 1 and not Patience(self.scenario.patience_s)(self.probe_goes_by_splice):
                raise MeasurementError(f"connections do not go by splice ({self.reasons(self.attached.stats())})")
            self.at_first = self.attached.stats()
        elif self.scenario.way != "forward" and self.probed and packets == 0:
            raise MeasurementError("nothing was seen on the guest's interface: the traffic does not go through it")

    def probe_goes_by_splice(self):
        self.probe()
        return self.spliced(self.attached.stats()) >= 1

    def spliced(self, stats):
        return stats.get("splice_flows" if self.scenario.way == "forward" else "divert_flows", 0)

    def reasons(self, stats):
        interesting = ("splice_", "divert_", "agent_")
        return ", ".join(f"{name} {value}" for name, value in stats.items()
                         if name.startswith(interesting) and value) or "no counter says why"

    def check_way_of_payload(self, payload, link_bytes, cpu_ms):
        """The counters against what is intended."""
        if self.kind.limit:
            self.result.way = self.attached.link
            if payload > SMALL_PAYLOAD and link_bytes < payload / 2:
                raise MeasurementError(f"{payload} bytes of payload, but {link_bytes} on {self.attached.link}")
            return
        expected = self.kind.expects(self.program, self.scenario)
        stats = self.attached.stats()
        if self.scenario.proto != "tcp":
            way = None  # what is lost on the way blurs it
        elif payload > SMALL_PAYLOAD:
            way = way_taken(payload, link_bytes)
            if way != "tap" and cpu_ms == 0:
                raise MeasurementError("neither the guest's interface nor the program had anything to do")
        elif stats is not None:
            way = self.way_of_connections(stats)
        else:
            way = None
        self.result.way = way
        if expected and way and way != expected and not (expected == "tap" and way == "mixed"):
            raise MeasurementError(f"the payload went by {way}, not by {expected}"
                                   f" ({self.reasons(stats) if stats else 'it does not say why'})")

    def way_of_connections(self, stats):
        """By what the program has counted since the probe."""
        fallback = "splice_fallback" if self.scenario.way == "forward" else "divert_fallback"
        spliced = self.spliced(stats) - self.spliced(self.at_first)
        fallen = stats.get(fallback, 0) - self.at_first.get(fallback, 0)
        if spliced == 0:
            return "tap"
        return "splice" if fallen <= spliced / 10 else "mixed"

    # ---- the load ----

    @contextlib.contextmanager
    def idle_connections(self):
        count = self.scenario.idle
        before = resident_kib(self.attached.processes())
        allowed = self.scenario.patience_s + count * IDLE_CONNECTION_S
        process = subprocess.Popen(self.load_command("idle", count, allowed + self.seconds + LOAD_MARGIN_S),
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            try:
                read_line(process, allowed, f"the client that opens {count} connections")
            except MeasurementError as e:
                process.kill()
                raise MeasurementError(f"{e}: {process.stderr.read().decode(errors='replace').strip()}") from e
            if not self.kind.limit:
                grown = resident_kib(self.attached.processes()) - before
                self.result.figures["flow_kib"] = max(0, grown) / count
            yield
            process.stdin.close()
            alive = json.loads(read_line(process, LOAD_MARGIN_S, "the client with the idle connections"))["alive"]
            if alive != count:
                raise MeasurementError(f"only {alive} of {count} idle connections survived")
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout, process.stderr):
                pipe.close()

    def load_and_check(self):
        scenario, processes = self.scenario, self.attached.processes()
        bytes_before, _ = self.counters()
        before = thread_costs(processes)
        output, cpu = self.run_load(processes)
        cpu_ms, _ = growth(before, thread_costs(processes))
        link_bytes = self.counters()[0] - bytes_before
        self.attached.check()
        self.server.check()

        payload = output.get("sent", 0) + output.get("received", 0)
        if scenario.load[0] == "udp-out":
            payload = output["sent"] * scenario.load[1]
        elif scenario.load[0] == "udp-in":
            payload = output["received"] * scenario.load[1]
        elif scenario.proto != "tcp":
            payload = 0
        self.check_way_of_payload(payload, link_bytes, cpu_ms)
        self.figures(output, cpu)

    def figures(self, output, cpu):
        figures = self.result.figures
        for metric in self.scenario.metrics:
            if metric.key in output:
                figures[metric.key] = output[metric.key]
        if cpu is not None:
            program, system = cpu
            figures["cpu_system"] = cost_per_gib(system, output["bits_per_s"])
            if not self.kind.limit:
                figures["cpu_program"] = cost_per_gib(program, output["bits_per_s"])
        if output.get("stuck"):
            self.result.stalled = (f"stalled: {output['stuck']} of {output['streams']} streams had not delivered what"
                                   f" was sent {DRAIN_S} s after the load")
        self.result.quantiles = output.get("quantiles")
        self.result.detail = {key: output[key] for key in ("sent", "received", "bytes", "lost", "count")
                              if key in output}

    def run_load(self, processes):
        """(what the load says, (CPU seconds per second of the program, of the system) if the load is bulk)"""
        scenario = self.scenario
        drain = [DRAIN_S] if scenario.load[0] in ("tcp-out", "tcp-in", "tcp-both") else []
        command = self.load_command(*scenario.load, self.seconds, *drain)
        if scenario.proto == "iperf3":
            _, direction, size = scenario.load
            command = words([*self.client, *iperf3.client_command(self.address, self.port, direction, size,
                                                                  self.seconds)])
        try:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                       stderr=subprocess.PIPE, text=True, errors="replace")
        except OSError as e:
            raise MeasurementError(f"{command[0]}: {e.strerror}") from e
        start = time.monotonic()
        try:
            wants_cpu = any(metric.key == "cpu_system" for metric in scenario.metrics)
            cpu = self.cpu_share(processes, start) if wants_cpu else None
            try:
                output, errors = process.communicate(timeout=self.seconds + LOAD_MARGIN_S)
            except subprocess.TimeoutExpired as e:
                raise MeasurementError(f"it stalled: the load was not done {LOAD_MARGIN_S:g} s after its time") from e
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
            process.stdout.close()
            process.stderr.close()
        if scenario.proto == "iperf3" and output:  # it says its errors there, too
            return iperf3.result(output, scenario.load[2]), cpu
        if process.returncode != 0:
            self.attached.check()
            raise MeasurementError(errors.strip() or f"the load ended with status {process.returncode}")
        try:
            return json.loads(output), cpu
        except ValueError as e:
            raise MeasurementError(f"the load did not say JSON: {output!r}") from e

    def cpu_share(self, processes, start):
        sums, system, times = [], [], []
        for part in (CPU_FROM, CPU_TO):
            time.sleep(max(0, start + part * self.seconds - time.monotonic()))
            times.append(time.monotonic())
            sums.append(thread_costs(processes))
            system.append(system_cpu_ms())
        elapsed_ms = (times[1] - times[0]) * 1000
        return growth(*sums)[0] / elapsed_ms, (system[1] - system[0]) / elapsed_ms


