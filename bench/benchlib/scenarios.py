# SPDX-License-Identifier: GPL-2.0-or-later
"""Every scenario: where the client and the server are, what the load does, what figures come out of it."""
from dataclasses import dataclass

from . import iperf3
from . import world as net
from .util import DEADLINE_S

STREAMS = (1, 4, 16)
MTUS = (1500, 9000, 65520)
MTU = 65520  # where nothing else is said


@dataclass(frozen=True)
class Metric:
    key: str    # of the load's result, or computed by measure.py
    name: str   # in the table, after the scenario's title; empty when it is the only one
    unit: str
    better: str
    may_be_zero: bool = False


@dataclass(frozen=True)
class Scenario:
    """way: out (client in the guest), nested (client in a container inside it), forward (client on the host or the
    remote, server in the guest), none (no load). proto: who answers: bench/load by TCP or UDP, its resolver (dns), or
    iperf3. load: mode of bench/load and its number, or iperf3, direction and size."""
    id: str
    group: str
    title: str
    way: str
    load: tuple
    metrics: tuple
    proto: str = "tcp"
    mtu: int = MTU
    client: str = "host"      # of a forward: host or remote
    rtt_ms: float = 0.0       # a delayed link between host and remote, where the other side then is
    idle: int = 0             # connections that are open and do nothing meanwhile
    stretch: float = 1.0      # this many times the seconds of a load
    seconds_min: float = 0.0
    overhead_s: float = 0.18   # estimate of what a measurement takes beyond the load
    patience_s: float = DEADLINE_S  # for a program to become ready

    @property
    def address(self):
        """The host's address that is forwarded."""
        if self.client == "host":
            return net.LOOPBACK
        return net.DELAY_HOST if self.rtt_ms else net.VETH_HOST


BITS = Metric("bits_per_s", "", "bit/s", "higher")
COSTS = (Metric("cpu_program", "CPU of the program", "s/GiB", "lower"),
         Metric("cpu_system", "CPU of the whole system", "s/GiB", "lower"))
LATENCIES = (Metric("p50_us", "p50", "us", "lower"), Metric("p99_us", "p99", "us", "lower"),
             Metric("p999_us", "p99.9", "us", "lower"))
RATE = Metric("per_second", "", "1/s", "higher")


def counted(n, thing):
    return f"{n:,} {thing}{'' if n == 1 else 's'}"


def bulk_metrics(streams):
    return (BITS, *COSTS) if streams == 1 else (BITS,)


def tcp_bulk():
    for word, direction in (("out", "guest to host"), ("in", "host to guest"), ("both", "both at once")):
        for mtu in MTUS:
            for streams in STREAMS:
                yield Scenario(f"tcp-{word}/{mtu}/{streams}", "TCP of the guest",
                               f"{direction}, MTU {mtu}, {counted(streams, 'stream')}", "out",
                               (f"tcp-{word}", streams), bulk_metrics(streams), mtu=mtu)
    for word, direction in (("out", "container to host"), ("in", "host to container")):
        for mtu in (1500, 65520):
            for streams in (1, 4):
                yield Scenario(f"nested-{word}/{mtu}/{streams}", "TCP of a nested container",
                               f"{direction}, MTU {mtu}, {counted(streams, 'stream')}", "nested",
                               (f"tcp-{word}", streams), bulk_metrics(streams), mtu=mtu, overhead_s=0.3)


def forwards():
    for client in ("host", "remote"):
        for word, mode, direction in (("in", "tcp-out", "to guest"), ("out", "tcp-in", "from guest")):
            for streams in STREAMS:
                yield Scenario(f"fwd-{word}/{client}/{streams}", "TCP port forwards",
                               f"{direction}, client on {'loopback' if client == 'host' else 'a remote'},"
                               f" {counted(streams, 'stream')}",
                               "forward", (mode, streams), bulk_metrics(streams), client=client, overhead_s=0.3)


def round_trips():
    for rtt in (10, 100):
        more = {"rtt_ms": rtt, "stretch": 2.0 if rtt > 50 else 1.0, "seconds_min": rtt / 50, "mtu": 1500,
                "overhead_s": 0.4 + 10 * rtt / 1000}
        for word, direction in (("out", "guest to remote"), ("in", "remote to guest")):
            yield Scenario(f"rtt-{word}/{rtt}", "TCP over a long way",
                           f"{direction}, {rtt} ms round trip, 1 stream", "out", (f"tcp-{word}", 1), (BITS,), **more)
        yield Scenario(f"rtt-fwd-in/{rtt}", "TCP over a long way",
                       f"remote to guest through a forward, {rtt} ms round trip, 1 stream", "forward",
                       ("tcp-out", 1), (BITS,), client="remote", **more)


def latencies():
    for proto in ("tcp", "udp"):
        for word, way, title in (("", "out", "guest to host"), ("fwd-", "forward", "through a forward")):
            yield Scenario(f"{word}{proto}-rr", "Request and response, 1 byte",
                           f"{proto.upper()}, {title}", way, (f"{proto}-rr",), LATENCIES, proto=proto)
    for word, way, title in (("", "out", "guest to host"), ("fwd-", "forward", "through a forward")):
        yield Scenario(f"{word}tcp-crr", "New connections, 1 byte there and back",
                       f"{title}, one after the other", way, ("tcp-crr",),
                       (RATE, Metric("p50_us", "p50", "us", "lower"), Metric("p99_us", "p99", "us", "lower")))
        yield Scenario(f"{word}tcp-crr-many", "New connections, 1 byte there and back",
                       f"{title}, 32 at a time", way, ("tcp-crr-many", 32), (RATE,))


def datagrams():
    for size in (64, 1200, 8192, 60000):
        yield Scenario(f"udp-out/{size}", "UDP", f"stream, guest to host, {counted(size, 'byte')}", "out",
                       ("udp-out", size), (RATE, *(COSTS if size == 1200 else ())), proto="udp")
    for size in (1200, 60000):
        yield Scenario(f"udp-in/{size}", "UDP", f"stream, host to guest, {counted(size, 'byte')}", "out",
                       ("udp-in", size), (RATE,), proto="udp")
    for size in (64, 1200, 8192, 60000):
        yield Scenario(f"udp-echo/{size}", "UDP", f"echo flood, guest to host, {counted(size, 'byte')}", "out",
                       ("udp-echo", size), (RATE,), proto="udp")
    for word, direction in (("out", "guest to host"), ("in", "host to guest")):
        yield Scenario(f"udp-iperf3-{word}", "UDP", f"iperf3 -u, {direction}, 1,200 bytes, what arrives", "out",
                       ("iperf3", word, 1200), (RATE,), proto="iperf3", seconds_min=iperf3.SECONDS_MIN)
    yield Scenario("fwd-udp-echo/1200", "UDP", "echo flood through a forward, 1,200 bytes", "forward",
                   ("udp-echo", 1200), (RATE,), proto="udp")
    for word, title in (("dns", "64 sockets"), ("dns-fresh", "a new socket for each")):
        yield Scenario(word, "DNS", f"queries, 64 at a time, {title}", "out", (word, 64),
                       (RATE, Metric("lost", "lost", "count", "lower", may_be_zero=True)), proto="dns")


def many_flows():
    for count in (0, 1000, 5000):
        flow = (Metric("flow_kib", "memory per connection", "KiB", "lower", may_be_zero=True),) if count else ()
        yield Scenario(f"flows/{count}", "Besides idle connections",
                       f"TCP request and response, {counted(count, 'idle connection')} open", "out", ("tcp-rr",),
                       (*LATENCIES[:2], *flow), idle=count, overhead_s=0.2 + count / 2500)


def alone():
    yield Scenario("ready", "At rest", "start to ready", "none", (), (Metric("ready_ms", "", "ms", "lower"),))
    yield Scenario("idle", "At rest", "after a second at rest", "none", (),
                   (Metric("rss_kib", "resident memory", "KiB", "lower"),
                    Metric("threads", "threads", "count", "lower"),
                    Metric("wakeups", "wake-ups", "1/s", "lower", may_be_zero=True),
                    Metric("cpu_ms", "CPU", "ms/s", "lower", may_be_zero=True)), overhead_s=3.2)


def all_scenarios():
    return [*tcp_bulk(), *forwards(), *round_trips(), *latencies(), *datagrams(), *many_flows(), *alone()]


QUICK = ["tcp-out/65520/1", "tcp-out/1500/4", "tcp-in/65520/1", "tcp-in/1500/4",
         "nested-out/1500/1", "fwd-in/host/1", "fwd-out/remote/4", "rtt-out/10", "tcp-rr", "udp-rr", "fwd-tcp-rr",
         "tcp-crr", "fwd-tcp-crr-many", "udp-out/1200", "udp-echo/1200", "dns", "flows/1000", "ready", "idle"]
# One of each kind, and each MTU, number of streams, client and size at least once.
SMOKE = ["tcp-out/65520/1", "tcp-in/1500/4", "tcp-both/9000/16", "nested-out/1500/1", "nested-in/65520/4",
         "fwd-in/host/1", "fwd-out/remote/4", "rtt-out/10", "rtt-fwd-in/100", "tcp-rr", "fwd-udp-rr", "tcp-crr",
         "fwd-tcp-crr-many", "udp-out/1200", "udp-in/60000", "udp-echo/64", "udp-iperf3-out",
         "fwd-udp-echo/1200", "dns", "dns-fresh",
         "flows/1000", "ready", "idle"]


def select(names, wanted):
    """The ids of names that wanted asks for: an id, or its beginning before a slash. Raises KeyError for a wanted
    one that there is not."""
    for word in wanted:
        if not any(name == word or name.startswith(word + "/") for name in names):
            raise KeyError(word)
    return [name for name in names if any(name == word or name.startswith(word + "/") for word in wanted)]
