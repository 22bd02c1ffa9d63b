# SPDX-License-Identifier: GPL-2.0-or-later
"""The kinds of programs that are compared: how each is started, and what it cannot do.

A kind's attach() starts the program with a guest, and with the forward the scenario wants, and returns an Attached.
The stack it is given ends all of that again.
"""
import contextlib
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from . import world as net
from .util import DEADLINE_S, ROOT, MeasurementError, end_child, process_tree, read_line, run, wait_readable, words

GUEST_ADDRESS = "10.0.2.100"  # slirp4netns -c gives it to the TAP
RELAY_GATEWAY = "10.0.2.2"
PASTA_POLL_S = 0.001


class UnderTest:
    """A program that runs during a measurement; its output goes to a file. It ends with the stack, whatever happens."""

    def __init__(self, stack):
        self.output = tempfile.TemporaryFile()
        self.process = None
        stack.push(self._leave)

    def start(self, command, **more):
        options = {"stdin": subprocess.DEVNULL, "stdout": self.output, "stderr": self.output, **more}
        try:
            self.process = subprocess.Popen(words(command), **options)
        except OSError as e:
            raise MeasurementError(f"{command[0]}: {e.strerror}") from e

    def check(self):
        if self.process.poll() is not None:
            raise MeasurementError(f"the program ended with status {self.process.returncode}")

    def processes(self):
        return process_tree(self.process.pid)

    def text(self):
        self.output.seek(0)
        return self.output.read().decode(errors="replace").strip()

    def _leave(self, _kind, error, _trace):
        """Ends the program and its descendants; what went wrong until then is told with the program's output."""
        try:
            if self.process is not None:
                tree = self.processes() if self.process.poll() is None else []
                end_child(self.process)
                for pid in tree[1:]:
                    with contextlib.suppress(OSError):
                        os.kill(pid, signal.SIGKILL)
            if isinstance(error, (MeasurementError, OSError)):
                text = self.text()
                raise MeasurementError(f"{error}; the program said: {last_words(text)}" if text else
                                       str(error)) from error
        finally:
            self.output.close()
        return False


def last_words(text):
    """The last lines of what a program has said, on one line; pasta complains about syslog between them."""
    lines = [line.strip() for line in text.splitlines() if "to syslog" not in line]
    return " / ".join(lines[-6:])


class Attached:
    """A guest with its network. guest: the Space servers and clients run in; link: its interface to the host."""

    def __init__(self, guest, link, program=None, dns=None, forward_address=None, api=None, ready_ms=None):
        self.guest, self.link, self.program = guest, link, program
        self.dns, self.forward_address, self.api, self.ready_ms = dns, forward_address, api, ready_ms
        self.server_address = "0.0.0.0"  # of a forward's server

    def processes(self):
        return self.program.processes() if self.program else []

    def check(self):
        if self.program:
            self.program.check()

    def stats(self):
        """What the program has counted; None if it does not tell."""
        return ask(self.api, {"execute": "stats"})["return"] if self.api else None


def ask(path, request):
    """What slirp4netns answers to a request."""
    answer = b""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(DEADLINE_S)
            connection.connect(str(path))
            connection.sendall(json.dumps(request).encode())
            connection.shutdown(socket.SHUT_WR)
            while piece := connection.recv(65536):
                answer += piece
        reply = json.loads(answer)
    except (OSError, ValueError) as e:
        raise MeasurementError(f"the API did not answer {request['execute']}: {e} {answer!r}") from e
    if "error" in reply:
        raise MeasurementError(f"the API refused {request['execute']}: {reply['error']}")
    return reply


class Kind:
    limit = False  # not a program, but what it could reach at best
    makes_guest = False

    def look_at(self, world, program):
        """Whether it can be had here, before anything is measured; raises MeasurementError, sets the version."""
        path = Path(program["command"][0])
        for candidate in (path.absolute(), ROOT / path, Path(shutil.which(str(path)) or "/nonexistent")):
            if candidate.is_file() and os.access(candidate, os.X_OK):
                program["command"] = [str(candidate), *program["command"][1:]]
                break
        else:
            raise MeasurementError(f"{path} is not an executable file")
        try:
            text = run([candidate, "--version"], 5)
        except MeasurementError as e:
            text = f"unknown ({e})"
        program["version"] = text.strip().splitlines()[:5] or ["unknown"]

    def cannot(self, program, scenario):
        """Why it cannot do a scenario; None if it can."""
        return None

    def expects(self, program, scenario):
        """The way the payload must take: "splice", "tap", or None for either."""
        return None

    def attach(self, world, program, scenario, port, seconds, stack):
        raise NotImplementedError


class Slirp4netns(Kind):
    def look_at(self, world, program):
        super().look_at(world, program)
        try:
            help_text = run([program["command"][0], "--help"], 5)
        except MeasurementError:
            help_text = ""
        program["extensions"] = "--divert" in help_text
        if not program["extensions"]:
            return
        program["version"] = program["version"][:2]

    def expects(self, program, scenario):
        if not program.get("extensions"):
            return "tap"
        if scenario.proto != "tcp" or "--no-splice" in program["command"]:
            return None if scenario.proto != "tcp" else "tap"
        if scenario.way == "forward":
            return "splice"
        return "tap" if "--divert=off" in program["command"] else "splice"

    def attach(self, world, program, scenario, port, seconds, stack):
        guest = world.guest(seconds)
        stack.callback(guest.close)
        under_test = UnderTest(stack)
        wants_api = scenario.way == "forward" or (scenario.way in ("out", "nested") and program.get("extensions"))
        path = world.new_path("api") if wants_api else None
        ready_read, ready_write = os.pipe()
        try:
            start = time.monotonic()
            try:
                under_test.start([*program["command"], "-c", "-m", scenario.mtu, "-r", ready_write,
                                  *([f"--api-socket={path}"] if path else []), guest.pid, "tap0"],
                                 pass_fds=[ready_write])
            finally:
                os.close(ready_write)
            if not wait_readable(ready_read, scenario.patience_s):
                raise MeasurementError(f"no ready byte after {scenario.patience_s:g} s")
            if not os.read(ready_read, 1):
                raise MeasurementError("the program ended before it was ready")
            ready_ms = (time.monotonic() - start) * 1000
        finally:
            os.close(ready_read)
        if scenario.way == "forward":
            ask(path, {"execute": "add_hostfwd",
                       "arguments": {"proto": scenario.proto, "host_addr": scenario.address, "host_port": port,
                                     "guest_addr": GUEST_ADDRESS, "guest_port": port}})
        return Attached(guest, "tap0", under_test, ("10.0.2.3", 53), scenario.address,
                        path if program.get("extensions") else None, ready_ms)


class Pasta(Kind):
    """Imitates the host's interface host0, which leads nowhere."""

    def look_at(self, world, program):
        super().look_at(world, program)
        program["version"] = program["version"][:1]
        if "unknown" in program["version"][0]:
            with contextlib.suppress(MeasurementError):
                program["version"] = [" ".join(run(["dpkg-query", "-W", "passt"]).split())]
        if world.template_error:
            raise MeasurementError(f"no interface for pasta to imitate: {world.template_error}")

    def attach(self, world, program, scenario, port, seconds, stack):
        guest = world.guest(seconds)
        stack.callback(guest.close)
        # pasta drops what it would need to open /proc/PID/ns of another process, so the namespaces become files.
        spaces = []
        for option, kind in [("--netns", "net")] if world.root else [("--userns", "user"), ("--netns", "net")]:
            path = world.new_path(kind)
            path.touch()
            run(["mount", "--bind", f"/proc/{guest.pid}/ns/{kind}", path])
            stack.callback(run, ["umount", "-l", path])
            spaces += [option, path]
        forward = {"tcp": "none", "udp": "none"}
        if scenario.way == "forward":
            forward[scenario.proto] = f"{scenario.address}/{port}"
        command = [*program["command"], "--ipv4-only", "--runas", "0:0", "--config-net", "--ns-ifname", "tap0",
                   "--mtu", scenario.mtu, "--dns-forward", net.PASTA_DNS, "-t", forward["tcp"], "-u", forward["udp"],
                   "-T", "none", "-U", "none"]
        under_test = UnderTest(stack)
        start = time.monotonic()
        # It has no way to say that it is ready but to go to the background: its process id is then in a file.
        pid_file = world.new_path("pid")
        under_test.start(["setsid", *command, "--foreground", "--stderr", "--pid", pid_file, *spaces])
        end = start + scenario.patience_s
        while not (pid_file.is_file() and pid_file.read_text().strip()):
            under_test.check()
            if time.monotonic() > end:
                raise MeasurementError(f"no process id in its file after {scenario.patience_s:g} s")
            time.sleep(PASTA_POLL_S)
        ready_ms = (time.monotonic() - start) * 1000
        return Attached(guest, "tap0", under_test, (net.PASTA_DNS, 53), scenario.address, None, ready_ms)


class RootlesskitGuest:
    """The guest that rootlesskit has made."""

    def __init__(self, pid):
        self.pid = pid

    def command(self, command=()):
        return ["nsenter", "-n", "-t", str(self.pid), "--", *words(command)]


class Rootlesskit(Kind):
    """The builtin port driver. rootlesskit makes the guest itself, as an ordinary user; its network driver is the
    distribution's slirp4netns, which has a column of its own and forwards nothing here."""
    makes_guest = True

    def __init__(self, user):
        self.user = user

    def look_at(self, world, program):
        super().look_at(world, program)
        if not world.root:
            raise MeasurementError("it needs subordinate ids, and the namespaces of an ordinary user's run have one"
                                   " id: run as root")
        program["account"] = self.account()
        try:
            run(["setpriv", "--reuid", program["account"], "--clear-groups", "test", "-x", world.directory])
        except MeasurementError as e:
            raise MeasurementError(f"{program['account']} cannot get to {world.directory}: set TMPDIR to a directory"
                                   " that everybody can enter") from e
        for needed in ("setpriv", "newuidmap", "newgidmap", "/usr/bin/slirp4netns"):
            if not shutil.which(needed):
                raise MeasurementError(f"there is no {needed}, which rootlesskit needs")

    def account(self):
        for user in [self.user] if self.user else ["slirptest", *subid_names()]:
            with contextlib.suppress(KeyError):
                if user in subid_names() and pwd.getpwnam(user).pw_uid != 0:
                    return user
        raise MeasurementError(f"{self.user or 'nobody'} is an ordinary user with lines in /etc/subuid and"
                               " /etc/subgid")

    def cannot(self, program, scenario):
        return None if scenario.way == "forward" else "its network is slirp4netns: only its port driver is compared"

    def attach(self, world, program, scenario, port, seconds, stack):
        account = pwd.getpwnam(program["account"])
        home = world.new_path("rk")
        home.mkdir(mode=0o700)
        os.chown(home, account.pw_uid, account.pw_gid)
        under_test = UnderTest(stack)
        under_test.start(
            ["setpriv", f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--init-groups", "--",
             "env", "-i", f"HOME={home}", f"XDG_RUNTIME_DIR={home}", f"TMPDIR={home}", f"PATH={os.environ['PATH']}",
             f"USER={account.pw_name}", *program["command"], f"--state-dir={home}/state", "--net=slirp4netns",
             f"--mtu={scenario.mtu}", "--slirp4netns-binary=/usr/bin/slirp4netns", "--disable-host-loopback",
             "--port-driver=builtin", "--publish", f"{scenario.address}:{port}:{port}/{scenario.proto}",
             "sh", "-c", net.SPACE_SCRIPT, "guest", int(seconds + net.SPACE_S)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        world.guest_congestion_control.add(read_line(under_test.process, scenario.patience_s, "rootlesskit"))
        child = home / "state" / "child_pid"
        end = time.monotonic() + scenario.patience_s
        while not (child.is_file() and child.read_text().strip().isdigit()):
            if time.monotonic() > end:
                raise MeasurementError(f"no process id in {child.name} after {scenario.patience_s:g} s")
            time.sleep(0.01)
        return Attached(RootlesskitGuest(int(child.read_text())), "tap0", under_test, None, scenario.address)


class Relay(Kind):
    """bench/relay: the least that a program between a TAP and a socket has to do for datagrams of one flow."""
    limit = True
    LOADS = ("udp-rr", "udp-echo")  # the others ask for a report by TCP

    def look_at(self, world, program):
        program["version"] = ["bench/relay: as few system calls for one flow as there are, and nothing else"]

    def cannot(self, program, scenario):
        return None if scenario.way == "out" and scenario.load[0] in self.LOADS else "it carries datagrams to one address"

    def expects(self, program, scenario):
        return "tap"

    def attach(self, world, program, scenario, port, seconds, stack):
        guest = world.guest(seconds)
        stack.callback(guest.close)
        under_test = UnderTest(stack)
        under_test.start([world.relay, guest.pid, "tap0", net.HOST, port, seconds + net.SERVER_S],
                         stdout=subprocess.PIPE)
        read_line(under_test.process, scenario.patience_s, "bench/relay")
        guest.run("ip link set lo up", f"ip link set tap0 up mtu {scenario.mtu}",
                  f"ip addr add {GUEST_ADDRESS}/24 dev tap0", f"ip route add default via {RELAY_GATEWAY}",
                  f"ip neigh add {RELAY_GATEWAY} lladdr 02:00:00:00:00:02 dev tap0")
        return Attached(guest, "tap0", under_test)


class Loopback(Kind):
    """No program, no guest: client and server are on the host."""
    limit = True

    def look_at(self, world, program):
        program["version"] = ["client and server on the host, without any program"]

    def cannot(self, program, scenario):
        if scenario.way == "none":
            return "there is no program"
        if scenario.way == "nested":
            return "there is no guest"
        if scenario.way == "out" and scenario.mtu != 65520 and not scenario.rtt_ms:
            return "the same as at MTU 65520"
        return None

    def attach(self, world, program, scenario, port, seconds, stack):
        link = "delay0" if scenario.rtt_ms else "remote0" if scenario.client == "remote" else "lo"
        attached = Attached(HostAsGuest(), link, dns=net.RESOLVER, forward_address=scenario.address)
        attached.server_address = scenario.address
        return attached


class HostAsGuest:
    pid = "self"

    def command(self, command=()):
        return words(command)


class Veth(Kind):
    """No program: the guest is joined to the host by a pair of interfaces, as root can do."""
    limit = True

    def look_at(self, world, program):
        program["version"] = ["guest and host joined by a pair of interfaces, without any program"]
        if not world.root:
            raise MeasurementError("only root can join a namespace to the real host so")

    def cannot(self, program, scenario):
        return "there is no program" if scenario.way == "none" else None

    def attach(self, world, program, scenario, port, seconds, stack):
        guest = world.guest(seconds)
        stack.callback(guest.close)
        mtu = scenario.mtu
        run(["ip", "link", "add", "guest0", "mtu", mtu, "type", "veth", "peer", "name", "eth0", "mtu", mtu, "netns",
             guest.pid])
        stack.callback(run, ["ip", "link", "del", "guest0"])
        run(["sh", "-e", "-c", f"ip addr add {net.LIMIT_HOST}/25 dev guest0\nip link set guest0 up"])
        guest.run("ip link set lo up", f"ip addr add {net.LIMIT_GUEST}/25 dev eth0", "ip link set eth0 up",
                  f"ip route add default via {net.LIMIT_HOST}")
        return Attached(guest, "eth0", dns=net.RESOLVER, forward_address=net.LIMIT_GUEST)

    def expects(self, program, scenario):
        return "tap"


def subid_names():
    """Users that have both subordinate user and group ids."""
    names = []
    for path in ("/etc/subuid", "/etc/subgid"):
        with contextlib.suppress(OSError):
            names.append([line.partition(":")[0] for line in Path(path).read_text().splitlines()])
    return [name for name in names[0] if name in names[1]] if len(names) == 2 else []


def kind_of(program, user=None):
    """By the name of the program's file."""
    if not program["command"]:
        return {"relay": Relay, "loopback": Loopback, "veth": Veth}[program["name"]]()
    file = Path(program["command"][0]).name
    if file.startswith(("pasta", "passt")):
        return Pasta()
    if file.startswith("rootlesskit"):
        return Rootlesskit(user)
    return Slirp4netns()
