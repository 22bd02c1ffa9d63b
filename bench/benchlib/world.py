# SPDX-License-Identifier: GPL-2.0-or-later
"""The network of the measurements. Addresses are those of documentation (RFC 5737).

     remote                           host (this process)                         guest
  203.0.113.2  ------- veth -------  203.0.113.1                  program      tap0 10.0.2.100
  203.0.113.130 -- delayed link --  203.0.113.129               ===========     |
                                     lo 127.0.0.1, 192.0.2.1                    br0 192.0.2.129 -- 192.0.2.130 nested
                                     host0 198.51.100.1 (leads nowhere; pasta imitates it)

Host and remote stay for the whole run; guests, programs, servers and the delayed link are new for every measurement.
"""
import contextlib
import os
import shutil
import subprocess
from pathlib import Path

from . import iperf3
from .util import BENCH, DEADLINE_S, ROOT, MeasurementError, end_child, listeners, note, read_line, run, words

HOST = "192.0.2.1"                # on the host's lo: where servers on the host are
RESOLVER = (HOST, 53)
LOOPBACK = "127.0.0.1"
VETH_HOST, VETH_REMOTE = "203.0.113.1", "203.0.113.2"
DELAY_HOST, DELAY_REMOTE = "203.0.113.129", "203.0.113.130"
TEMPLATE, TEMPLATE_ROUTER = "198.51.100.1", "198.51.100.2"
PASTA_DNS = "198.51.100.53"
LIMIT_HOST, LIMIT_GUEST = "198.51.100.129", "198.51.100.130"  # the veth pair without a program
BRIDGE, NESTED = "192.0.2.129", "192.0.2.130"

CONGESTION_CONTROL = "/proc/sys/net/ipv4/tcp_congestion_control"
WANTED_CONGESTION_CONTROL = "cubic"
FIRST_PORT, N_PORTS = 20000, 10000  # each measurement has its own, so that no TIME_WAIT is met again
SPACE_S = 300                       # a namespace that nobody ends does so after this long beyond its time
SERVER_S = 120                      # and a server
DELAY_QUEUE = 4000                  # packets

# As its first line a namespace says what congestion control is in force; then it waits for the end of its input.
SPACE_SCRIPT = f"""
    echo {WANTED_CONGESTION_CONTROL} 2>/dev/null > {CONGESTION_CONTROL}
    echo 1 2>/dev/null > /proc/sys/net/ipv4/tcp_no_metrics_save
    cat {CONGESTION_CONTROL} || echo unknown
    exec timeout "$1" cat
"""


class Space:
    """A process with a network namespace of its own. Its process ends when its input does, or after a while."""

    def __init__(self, world, seconds, user=False, inside=()):
        """user: with a user namespace as well; inside: the command that leads where it is started."""
        self.users = user or bool(inside and "-U" in inside)
        self.process = subprocess.Popen(
            [*inside, "unshare", *(["-U", "-r"] if user else []), "-n", "--", "sh", "-c", SPACE_SCRIPT, "space",
             str(int(seconds + SPACE_S))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        try:
            world.guest_congestion_control.add(read_line(self.process, DEADLINE_S, "a namespace"))
        except BaseException:
            self.close()
            raise

    @property
    def pid(self):
        return self.process.pid

    def close(self):
        end_child(self.process)

    def command(self, command=()):
        """A command as it is to be started on the host to run in here."""
        how = ["nsenter", "-U", "-n", "--preserve-credentials"] if self.users else ["nsenter", "-n"]
        return [*how, "-t", str(self.pid), "--", *words(command)]

    def run(self, *lines):
        run(self.command(["sh", "-e", "-c", "\n".join(lines)]))


class World:
    def __init__(self, directory, root):
        self.directory, self.root = Path(directory), root
        self.stack = contextlib.ExitStack()
        self.guest_congestion_control = set()
        self.ports_used = self.paths = 0
        self.template_error = None

    def close(self):
        self.stack.close()

    def build(self):
        """The load generator and the host's side of the network."""
        self.load = self.tool("load", sorted((BENCH / "load").glob("*.c")))
        self.delay = self.tool("delay", [BENCH / "delay.c", BENCH / "tool.h"])
        self.relay = self.tool("relay", [BENCH / "relay.c", BENCH / "tool.h"])
        os.chmod(self.directory, 0o711)  # for the user of rootlesskit
        with contextlib.suppress(OSError):
            Path(CONGESTION_CONTROL).write_text(WANTED_CONGESTION_CONTROL)
        self.congestion_control = Path(CONGESTION_CONTROL).read_text().strip()
        if self.congestion_control != WANTED_CONGESTION_CONTROL:
            note(f"compare: measuring with {self.congestion_control}, since {WANTED_CONGESTION_CONTROL} is not permitted"
                 " in network namespaces; root can permit it: sysctl -w net.ipv4.tcp_allowed_congestion_control="
                 f"'{allowed_congestion_control()} {WANTED_CONGESTION_CONTROL}'")
        for name, value in (("tcp_no_metrics_save", 1), ("ip_forward", 1)):
            Path(f"/proc/sys/net/ipv4/{name}").write_text(str(value))
        self.remote = Space(self, 24 * 3600)
        self.stack.callback(self.remote.close)
        run(["sh", "-e", "-c", f"""
            ip link set lo up
            ip addr add {HOST}/32 dev lo
            ip link add remote0 type veth peer name host0 netns {self.remote.pid}
            ip addr add {VETH_HOST}/25 dev remote0
            ip link set remote0 up
            """])
        self.remote.run("ip link set lo up", f"ip addr add {VETH_REMOTE}/25 dev host0", "ip link set host0 up",
                        f"ip route add default via {VETH_HOST}",
                        f"ip rule add from {DELAY_REMOTE} lookup 7")
        self.resolver_file()
        try:
            run(["sh", "-e", "-c", f"""
                ip link add up host0 type veth peer name nowhere0
                ip link set nowhere0 up
                ip addr add {TEMPLATE}/25 dev host0
                ip route add default via {TEMPLATE_ROUTER} dev host0
                """])
        except MeasurementError as e:
            self.template_error = e

    def resolver_file(self):
        """The programs find their resolver on the host."""
        path = self.new_path("resolv.conf")
        path.write_text(f"nameserver {RESOLVER[0]}\n")
        where = Path("/etc/resolv.conf").resolve()
        self.resolver_error = None
        if not where.is_file():
            self.resolver_error = f"there is no {where} to put another one in front of"
            return
        run(["mount", "--bind", path, where])

    def tool(self, name, sources):
        built = ROOT / "build" / "bench" / name
        if os.access(built, os.X_OK) and all(built.stat().st_mtime >= source.stat().st_mtime for source in sources):
            return built
        path = self.directory / name
        run(["cc", "-std=gnu11", "-D_GNU_SOURCE", "-O2", "-o", path,
             *(source for source in sources if source.suffix == ".c")], 60)
        return path

    def next_port(self):
        self.ports_used += 1
        return FIRST_PORT + self.ports_used % N_PORTS

    def new_path(self, kind):
        self.paths += 1
        return self.directory / f"{kind}{self.paths}"

    def guest(self, seconds):
        return Space(self, seconds, user=not self.root)

    def check_nobody_listens(self, patient):
        """What was started for an earlier measurement must not answer in this one."""
        left = listeners() + listeners(self.remote.pid)
        if left and patient(lambda: not listeners() + listeners(self.remote.pid)):
            return
        if left:
            raise MeasurementError(f"somebody listens already: {', '.join(left)}")

    @contextlib.contextmanager
    def delayed(self, rtt_ms, seconds):
        """A link to the remote with a round-trip time: netem where the kernel has it, else bench/delay."""
        with contextlib.ExitStack() as stack:
            if self.has_netem():
                self.netem_link(stack, rtt_ms)
            else:
                process = subprocess.Popen(
                    words([self.delay, rtt_ms / 2, "delay0", "delay0", self.remote.pid, seconds + SERVER_S]),
                    stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
                stack.callback(end_child, process)
                try:
                    read_line(process, DEADLINE_S, "bench/delay")
                except MeasurementError as e:
                    end = process.stderr.read().decode(errors="replace").strip()
                    raise MeasurementError(f"{e}: {end}") from e
            up = f"ip link set delay0 up mtu 1500 txqueuelen {DELAY_QUEUE}"
            run(["sh", "-e", "-c", f"{up}\nip addr add {DELAY_HOST}/25 dev delay0"])
            self.remote.run(up, f"ip addr add {DELAY_REMOTE}/25 dev delay0",
                            f"ip route add default via {DELAY_HOST} dev delay0 table 7",
                            f"ip route add {LIMIT_GUEST}/32 via {DELAY_HOST} dev delay0 src {DELAY_REMOTE}")
            yield

    def has_netem(self):
        """Asked once."""
        if not hasattr(self, "netem"):
            self.netem = False
            if shutil.which("tc"):
                with contextlib.suppress(MeasurementError):
                    run(["tc", "qdisc", "add", "dev", "remote0", "root", "netem", "delay", "1ms"])
                    self.netem = True
                    run(["tc", "qdisc", "del", "dev", "remote0", "root"])
        return self.netem

    def netem_link(self, stack, rtt_ms):
        run(["ip", "link", "add", "delay0", "type", "veth", "peer", "name", "delay0", "netns", self.remote.pid])
        stack.callback(run, ["ip", "link", "del", "delay0"])
        netem = ["tc", "qdisc", "add", "dev", "delay0", "root", "netem", "delay", f"{rtt_ms / 2:g}ms", "limit",
                 "200000"]
        run(netem)
        run(self.remote.command(netem))

    @contextlib.contextmanager
    def nested(self, guest, link, mtu, seconds):
        """A container behind a bridge and masquerade inside a guest."""
        with contextlib.ExitStack() as stack:
            space = Space(self, seconds, inside=guest.command())
            stack.callback(space.close)
            guest.run(f"ip link add br0 mtu {mtu} type bridge",
                      f"ip link add inner0 mtu {mtu} type veth peer name eth0 mtu {mtu} netns {space.pid}",
                      "ip link set inner0 master br0 up", f"ip addr add {BRIDGE}/25 dev br0", "ip link set br0 up",
                      "echo 1 > /proc/sys/net/ipv4/ip_forward", "nft add table ip bench",
                      "nft add chain ip bench out '{ type nat hook postrouting priority 100 ; }'",
                      f"nft add rule ip bench out ip saddr {NESTED} oifname {link} masquerade")
            space.run("ip link set lo up", f"ip addr add {NESTED}/25 dev eth0", "ip link set eth0 up",
                      f"ip route add default via {BRIDGE}")
            yield space


def allowed_congestion_control():
    try:
        return Path("/proc/sys/net/ipv4/tcp_allowed_congestion_control").read_text().strip()
    except OSError:
        return "reno"


class Server:
    """load serve, or iperf3; enter: the command that leads where it is to run."""

    def __init__(self, world, address, port, seconds, enter=(), mode="serve"):
        command = (iperf3.server_command(address, port, seconds + SERVER_S) if mode == "iperf3" else
                   [world.load, mode, address, port, seconds + SERVER_S])
        self.process = subprocess.Popen(
            words([*enter, *command]),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            read_line(self.process, DEADLINE_S, "the server")
        except MeasurementError as e:
            self.process.kill()
            text = self.process.stderr.read().decode(errors="replace").strip()
            self.close()
            raise MeasurementError(f"{e}: {text}") from e
        except BaseException:
            self.close()
            raise

    def check(self):
        if self.process.poll() is not None:
            raise MeasurementError(f"the server ended: {self.process.stderr.read().decode(errors='replace').strip()}")

    def close(self):
        end_child(self.process)


