# SPDX-License-Identifier: GPL-2.0-or-later
"""--run: a command in namespaces of its own."""

import json
import os
import pathlib
import pty
import re
import resource
import select
import signal
import subprocess
import time

import pytest
from harness import (AS, DEADLINE_S, DNS4, IN_USERNS, PROGRAM, PROGRAM_ARGS, PYTHON, REMOTE4, REMOTE6, identity, run,
                     wait_for)

pytestmark = [pytest.mark.extension, pytest.mark.makes_userns]

CONFINED = ["--enable-sandbox", "--enable-seccomp"]


def run_command(world, *command, args=(), **kwargs):
    return world.run_program("--run", *args, "--", *command, **kwargs)


def start_command(world, *command, args=(), **kwargs):
    """In the background; ends with the test."""
    process = subprocess.Popen(world.argv("--run", *args, "--", *command), stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kwargs)

    def end():
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=DEADLINE_S)

    world.ends.append(end)
    return process


def line(process):
    """The next line COMMAND prints."""
    assert select.select([process.stdout], [], [], DEADLINE_S)[0], "COMMAND printed nothing"
    text = process.stdout.readline()
    assert text, process.stderr.read()
    return text.rstrip("\n")


def alive(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text("utf-8").rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def children(pid):
    return [int(p) for p in subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True,
                                           check=False).stdout.split()]


@pytest.mark.parametrize("args", [[], CONFINED])
def test_everything_is_up_before_the_command_starts(world, args):
    world.remote.peer("tcp_echo", REMOTE4, 7)
    # The very first thing COMMAND does is to connect
    done = run_command(world, PYTHON, str(world.peer_py), "client", "echo", REMOTE4, "7", "hello", args=args)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["reply"] == "hello"


def test_interfaces_are_as_with_configure(world):
    done = run_command(world, "ip", "-json", "addr", args=["--mtu=9000", "--cidr=10.9.0.0/24"])
    links = {link["ifname"]: link for link in json.loads(done.stdout)}
    assert "UP" in links["lo"]["flags"] and "UP" in links["tap0"]["flags"]
    assert links["tap0"]["mtu"] == 9000
    assert links["tap0"]["addr_info"][0]["local"] == "10.9.0.100"
    routes = json.loads(run_command(world, "ip", "-json", "route", args=["--cidr=10.9.0.0/24"]).stdout)
    assert [r["gateway"] for r in routes if r["dst"] == "default"] == ["10.9.0.2"]


def test_with_ipv6_there_is_an_address_at_once(world):
    world.remote.peer("tcp_echo", REMOTE6, 7)
    # The first neighbour solicitation on a link that has just come up may be lost.
    assert world.host.client("echo", REMOTE6, 7, "x")["reply"] == "x"
    done = run_command(world, PYTHON, str(world.peer_py), "client", "echo", REMOTE6, "7", "x",
                       args=["--enable-ipv6"])
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["reply"] == "x", done.stderr
    assert "no IPv6 address" not in done.stderr


@pytest.mark.parametrize("args", [[], CONFINED])
def test_root_inside_is_the_default(world, args):
    done = run_command(world, "id", "-u", args=args)
    assert (done.returncode, done.stdout) == (0, "0\n"), done.stderr


@pytest.mark.parametrize("args", [[], CONFINED])
def test_map_current_user_keeps_the_id(world, args):
    expected = world.host.run(*identity(), "id", "-u").stdout
    done = run_command(world, "id", "-u", args=["--map-current-user", *args])
    assert (done.returncode, done.stdout) == (0, expected), done.stderr
    if AS == "user" and not IN_USERNS:
        done = run_command(world, "grep", "CapEff", "/proc/self/status", args=["--map-current-user"])
        assert done.stdout.split()[1] == "0000000000000000", "an ordinary user inside has no capabilities"


@pytest.mark.skipif(AS != "root" or IN_USERNS, reason="only root can map more than itself")
def test_root_can_become_others_inside(world):
    done = run_command(world, "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "id", "-u")
    assert done.stdout == "65534\n", done.stderr


@pytest.mark.skipif(AS != "user", reason="root maps everybody")
def test_an_ordinary_user_gives_up_setgroups(world):
    assert run_command(world, "cat", "/proc/self/setgroups").stdout == "deny\n"


@pytest.mark.parametrize(("command", "status"), [
    (["true"], 0), (["sh", "-c", "exit 7"], 7), (["sh", "-c", "exit 255"], 255),
    (["sh", "-c", "kill -TERM $$"], 143), (["sh", "-c", "kill -KILL $$"], 137), (["sh", "-c", "kill -SEGV $$"], 139),
])
def test_the_exit_status_is_the_commands(world, command, status):
    assert run_command(world, *command).returncode == status


def test_a_command_that_does_not_exist_is_127_and_named(world):
    done = run_command(world, "no-such-command")
    assert done.returncode == 127
    assert "cannot execute no-such-command: No such file or directory (it is not in PATH)" in done.stderr


def test_a_command_that_is_no_program_is_126_and_named(world):
    done = run_command(world, str(world.peer_py))
    assert done.returncode == 126 and f"cannot execute {world.peer_py}: Permission denied" in done.stderr


@pytest.mark.parametrize("args", [[], CONFINED, ["--api-socket=API", "--publish=8080:80", "--enable-ipv6"]])
def test_standard_output_belongs_to_the_command(world, args):
    args = [a.replace("API", str(world.work / "api.sock")) for a in args]
    done = run_command(world, "cat", args=args, stdin=None, input="from the pipe\n")
    assert done.stdout == "from the pipe\n"
    assert all(text.startswith("WARNING: ") for text in done.stderr.splitlines()), done.stderr


def test_log_level_brings_the_usual_lines_to_stderr(world):
    done = run_command(world, "echo", "mine", args=["--log-level=info"])
    assert done.stdout == "mine\n" and "* MTU:             1500" in done.stderr


def test_without_a_command_it_is_the_users_shell(world):
    done = world.run_program("--run", stdin=None, input="echo shell $0; exit 5\n", env={**os.environ, "SHELL": "/bin/dash"})
    assert done.stdout == "shell /bin/dash\n" and done.returncode == 5


def test_what_follows_the_command_is_the_commands(world):
    done = world.run_program("--run", "echo", "--version", "-c", "--", "x", "--mtu=9")
    assert done.stdout == "--version -c -- x --mtu=9\n", done.stderr


@pytest.mark.parametrize(("args", "message"), [
    (["--run", "--netns-type=path", "true"], "--netns-type conflicts with --run"),
    (["--run", "--userns-path=/proc/self/ns/user", "true"], "--userns-path conflicts with --run"),
    (["--run", "--target-type=netns", "true"], "--target-type conflicts with --run"),
    (["true", "--run"], '--run must come before COMMAND, not after "true"'),
    (["--map-current-user", "1", "tap0"], "--map-current-user has a meaning with --run only"),
])
def test_conflicts_are_named(world, args, message):
    done = world.run_program(*args)
    assert done.returncode == 1 and message in done.stderr and "Usage: " in done.stdout


# ---- resolv.conf ----

RESOLV = "search example.test\nnameserver 127.0.0.1\noptions ndots:2\n"


def replace_etc(world, target, real=None):
    """The host gets an /etc of its own whose resolv.conf is a link to target."""
    world.host.run("sh", "-c", """
        set -e
        mkdir "$1/etc"
        cp /etc/passwd /etc/group /etc/nsswitch.conf /etc/ld.so.cache "$1/etc/"
        ln -s "$2" "$1/etc/resolv.conf"
        chmod 0755 "$1/etc"
        mount --bind "$1/etc" /etc
        mount -t tmpfs -o mode=0755 tmpfs /run
        if [ -n "$3" ]; then mkdir -p "${3%/*}"; printf '%s' "$4" >"$3"; chmod 0644 "$3"; fi
    """, "sh", str(world.dir), target, real or "", RESOLV)


@pytest.mark.parametrize("kind", ["file", "link into /run", "relative link", "link elsewhere", "dangling"])
@pytest.mark.parametrize("args", [[], ["--enable-sandbox"]])
def test_resolv_conf_names_the_dns_address(world, kind, args):
    elsewhere = str(world.dir / "a directory" / "stub.conf")
    if kind == "file":
        world.resolv_conf(RESOLV)
    elif kind == "link into /run":
        replace_etc(world, "/run/systemd/resolve/stub-resolv.conf", "/run/systemd/resolve/stub-resolv.conf")
    elif kind == "relative link":
        replace_etc(world, "../run/r.conf", "/run/r.conf")
    elif kind == "link elsewhere":
        replace_etc(world, elsewhere, elsewhere)
    else:
        replace_etc(world, "/run/nowhere/resolv.conf")
    done = run_command(world, "cat", "/etc/resolv.conf", args=["--enable-ipv6", *args])
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [text for text in lines if text.startswith("nameserver")] == [f"nameserver {DNS4}", "nameserver fd00::3"]
    if kind != "dangling":
        assert "search example.test" in lines and "options ndots:2" in lines
        assert world.host.run("cat", "/etc/resolv.conf").stdout == RESOLV, "the host's own has changed"


def test_resolv_conf_follows_cidr(world):
    done = run_command(world, "cat", "/etc/resolv.conf", args=["--cidr=10.9.0.0/24"])
    assert "nameserver 10.9.0.3\n" in done.stdout and "fd00" not in done.stdout


def test_without_dns_resolv_conf_stays(world):
    done = run_command(world, "cat", "/etc/resolv.conf", args=["--disable-dns"])
    assert done.stdout == world.host.run("cat", "/etc/resolv.conf").stdout


def test_without_resolv_conf_it_runs_and_says_so(world):
    replace_etc(world, "x")
    (world.dir / "etc" / "resolv.conf").unlink()
    done = run_command(world, "true")
    assert done.returncode == 0 and "there is no /etc/resolv.conf" in done.stderr


def test_names_are_resolved(world):
    world.host.peer("dns", "127.0.0.1", 53, "192.0.2.33")
    done = run_command(world, PYTHON, "-c", "import socket; print(socket.gethostbyname('name.example.test'))")
    assert done.stdout == "192.0.2.33\n", done.stderr


# ---- life and death ----

def test_limits_descriptors_and_directory_are_the_callers(world):
    ready_read, ready_write = os.pipe()
    done = run([*world.host.enter, *identity(), "env", "-C", "/usr", PROGRAM, *PROGRAM_ARGS, "--run",
                f"--ready-fd={ready_write}", "sh", "-c", "ulimit -Sn; pwd; ls /proc/$$/fd"], pass_fds=(ready_write,),
               preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (300, 4096)))
    os.close(ready_write)
    limit, directory, *fds = done.stdout.splitlines()
    assert (limit, directory) == ("300", "/usr"), done.stderr
    assert set(fds) <= {"0", "1", "2", "10"}, fds  # 10: the shell's own
    assert os.read(ready_read, 2) == b"1"
    os.close(ready_read)


@pytest.mark.parametrize("args", [[], CONFINED])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_signals_are_passed_on(world, args, number):
    script = (f"import signal,sys\nsignal.pthread_sigmask(signal.SIG_BLOCK, [{int(number)}])\n"
              f"print('ready', flush=True)\nsignal.sigwait([{int(number)}])\nsys.exit(40)")
    process = start_command(world, PYTHON, "-c", script, args=args)
    assert line(process) == "ready"
    process.send_signal(number)
    assert process.wait(DEADLINE_S) == 40


def test_a_command_that_ignores_sigterm_keeps_its_network(world):
    world.remote.peer("tcp_echo", REMOTE4, 7)
    script = ("import signal,socket,sys\nsignal.signal(15, signal.SIG_IGN)\nprint('ready', flush=True)\n"
              "signal.sigwait([signal.SIGUSR1])\n"
              f"print(socket.create_connection(('{REMOTE4}', 7)).getpeername()[0], flush=True)")
    process = start_command(world, "sh", "-c", 'exec "$@"', "sh", PYTHON, "-c",
                            script.replace("import signal", "import signal; signal.pthread_sigmask(0,[10])\nimport signal", 1))
    assert line(process) == "ready"
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGUSR1)
    assert line(process) == REMOTE4
    assert process.wait(DEADLINE_S) == 0


@pytest.mark.parametrize("args", [[], CONFINED])
def test_sigkill_leaves_no_process(world, args):
    process = start_command(world, "sh", "-c", "echo $$; exec sleep 600", args=args)
    command = int(line(process))
    family = [command, *children(process.pid)]
    assert len(set(family)) >= 2 or "--no-splice" in PROGRAM_ARGS or "--divert=off" in PROGRAM_ARGS
    process.kill()
    process.wait(DEADLINE_S)
    for pid in family:
        wait_for(f"process {pid} ends", lambda pid=pid: not alive(pid))


@pytest.mark.parametrize("args", [[], CONFINED])
def test_the_end_of_the_command_leaves_nothing(world, args):
    api = world.work / "api.sock"
    process = start_command(world, "sh", "-c", "echo $$; exec sleep 600", args=[f"--api-socket={api}", *args])
    command = int(line(process))
    family = [command, *children(process.pid)]
    assert api.exists()
    os.kill(command, signal.SIGTERM)
    assert process.wait(DEADLINE_S) == 143
    assert not any(os.path.exists(f"/proc/{pid}") for pid in family)
    assert api.exists() == bool(args)  # the sandbox cannot reach it, as ever


def test_orphans_do_not_become_its_zombies(world):
    process = start_command(world, "sh", "-c", "(sleep 0.01 &) ; (true &) ; echo $$; exec sleep 600")
    command = int(line(process))
    wait_for("the command is executed",
             lambda: pathlib.Path(f"/proc/{command}/comm").read_text("utf-8") == "sleep\n")
    names = {pid: pathlib.Path(f"/proc/{pid}/comm").read_text("utf-8").strip() for pid in children(process.pid)}
    assert command in names and set(names.values()) <= {"sleep", "nsagent"} and len(names) <= 3, names
    assert all(alive(pid) for pid in names), "a zombie"


def test_exit_fd_ends_the_command(world):
    exit_read, exit_write = os.pipe()
    process = start_command(world, "sh", "-c", "echo $$; exec sleep 600", args=[f"--exit-fd={exit_read}"],
                            pass_fds=(exit_read,))
    os.close(exit_read)
    command = int(line(process))
    os.close(exit_write)
    assert process.wait(DEADLINE_S) == 0
    assert not os.path.exists(f"/proc/{command}")


@pytest.mark.skipif(AS != "root" or IN_USERNS, reason="only root's command can become somebody else")
@pytest.mark.parametrize("args", [[], ["--enable-sandbox"]])
def test_a_command_that_has_become_somebody_else(world, args):
    exit_read, exit_write = os.pipe()
    process = start_command(world, "setpriv", "--reuid=65534", "--clear-groups", "sh", "-c", "echo $$; exec sleep 600",
                            args=[f"--exit-fd={exit_read}", *args], pass_fds=(exit_read,))
    os.close(exit_read)
    command = int(line(process))
    os.close(exit_write)
    try:
        assert process.wait(DEADLINE_S) == 0
        # The sandbox leaves no CAP_KILL, but the namespace that the command is in belongs to the program's user.
        assert not alive(command)
    finally:
        if alive(command):
            os.kill(command, signal.SIGKILL)


def test_a_deleted_tap_ends_it_with_1_and_a_message(world):
    process = start_command(world, "sh", "-c", "ip link del tap0; exec sleep 600")
    assert process.wait(DEADLINE_S) == 1
    assert "the TAP interface was deleted" in process.stderr.read()


def test_a_start_that_fails_runs_nothing(world):
    marker = world.work / "marker"
    done = run_command(world, "touch", str(marker), args=["--api-socket=/nonexistent/api.sock"])
    assert done.returncode == 1 and "/nonexistent/api.sock" in done.stderr
    assert not marker.exists()


# ---- a terminal ----

class Terminal:
    """A program on a terminal of its own, as its session leader and foreground."""

    def __init__(self, argv):
        self.text = ""
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            try:
                os.environ["TERM"] = "dumb"  # no escape sequences
                os.execvp(argv[0], argv)
            finally:
                os._exit(99)
        self.status = None

    def write(self, text):
        os.write(self.fd, text.encode())

    def expect(self, pattern):
        """Reads until the pattern appears; what came up to it is used up."""
        end = time.monotonic() + DEADLINE_S
        while not (found := re.search(pattern, self.text)):
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.fd], [], [], left)[0]:
                raise AssertionError(f"no {pattern!r} on the terminal: {self.text!r}")
            try:
                self.text += os.read(self.fd, 4096).decode("utf-8", "replace")
            except OSError:
                raise AssertionError(f"the terminal was closed without {pattern!r}: {self.text!r}") from None
        self.text = self.text[found.end():]
        return found

    def wait_foreground(self, name):
        """Until a process of this name leads the foreground group, and runs."""
        def in_foreground():
            try:
                leader = os.tcgetpgrp(self.fd)
                stat = pathlib.Path(f"/proc/{leader}/stat").read_text("utf-8")
            except (OSError, ValueError):
                return False
            return f"({name})" in stat and stat.rsplit(")", 1)[1].split()[0] in "SRD"

        wait_for(f"{name} in the foreground", in_foreground)

    def wait(self):
        def reaped():
            if select.select([self.fd], [], [], 0)[0]:  # a program that cannot write cannot end
                try:
                    self.text += os.read(self.fd, 4096).decode("utf-8", "replace")
                except OSError:
                    pass
            pid, self.status = os.waitpid(self.pid, os.WNOHANG)
            return pid

        wait_for("the program on the terminal ends", reaped)
        return os.waitstatus_to_exitcode(self.status)

    def end(self):
        if self.status is None or os.path.exists(f"/proc/{self.pid}"):
            try:
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
            except (ChildProcessError, ProcessLookupError):
                pass
        os.close(self.fd)


def terminal(world, argv):
    t = Terminal(argv)
    world.ends.append(t.end)
    return t


def shell_on_terminal(world):
    """The user's interactive shell on the host; its prompt is "outer$ "."""
    t = terminal(world, [*world.host.enter, *identity(), "env", "PS1=outer$ ", "HISTFILE=/dev/null", "bash", "--norc",
                         "--noprofile", "-i"])
    t.expect(r"outer\$ ")
    return t


RUN = " ".join([PROGRAM, *PROGRAM_ARGS, "--run"])


@pytest.mark.parametrize("args", [[], CONFINED])
def test_ctrl_c_reaches_the_command_once(world, args):
    # Every delivery writes a byte. After the first one a second has 0.3 s to come: it must not.
    script = ("import os,select,signal,time\nr,w = os.pipe()\nos.set_blocking(w, False)\nsignal.set_wakeup_fd(w)\n"
              "signal.signal(2, lambda *a: None)\nprint('rea' + 'dy', flush=True)\nselect.select([r], [], [], 20)\n"
              "time.sleep(0.3)\nprint('count', len(os.read(r, 9)), flush=True)")
    t = terminal(world, world.argv("--run", *args, "--", PYTHON, "-c", script))
    t.expect("ready")
    t.write("\x03")
    t.expect(r"count 1\r")
    assert t.wait() == 0


def test_ctrl_c_ends_an_ordinary_command_with_130(world):
    t = terminal(world, world.argv("--run", "--", "sh", "-c", "echo rea''dy; exec sleep 600"))
    t.expect("ready")
    t.write("\x03")
    assert t.wait() == 130


def test_the_terminals_size_and_input_are_the_commands(world):
    t = terminal(world, world.argv("--run", "--", "sh", "-c", "stty rows 17 cols 71; stty size; read x; echo got $x; tty"))
    t.expect(r"17 71")
    t.write("words\n")
    t.expect("got words")
    t.expect("/dev/pts/")
    assert t.wait() == 0


def test_ctrl_z_and_fg_work_as_for_any_job(world):
    t = shell_on_terminal(world)
    t.write(f"{RUN} sh -c 'echo rea\"\"dy; exec sleep 600'\n")
    t.expect("\nready")
    for _ in range(2):
        t.write("\x1a")
        t.expect("Stopped")
        t.expect(r"outer\$ ")
        t.write("fg\n")
        t.wait_foreground("slirp4netns")
    t.write("\x03")
    t.expect(r"outer\$ ")
    t.write("echo status=$?\n")
    t.expect("\nstatus=130")


def test_a_shell_inside_has_job_control(world):
    t = shell_on_terminal(world)
    t.write(f"PS1='inner> ' {RUN} -q bash --norc --noprofile -i\n")
    t.expect("\n(.*)inner> $")
    assert "job control" not in t.text
    t.write("sleep 600\n")
    t.wait_foreground("sleep")
    t.write("\x1a")
    t.expect("Stopped")
    t.expect("inner> ")
    t.write("fg\n")
    t.wait_foreground("sleep")
    t.write("\x03")
    t.expect("inner> ")
    t.write("ip -br link show tap0\n")
    t.expect(r"\ntap0 ")
    t.expect("inner> ")
    t.write("suspend\n")
    t.expect("Stopped")
    t.expect(r"outer\$ ")
    t.write("fg\n")
    t.wait_foreground("bash")
    t.write("echo in''side\n")
    t.expect("\ninside")
    t.write("exit 3\n")
    t.expect(r"outer\$ ")
    t.write("echo status=$?\n")
    t.expect("\nstatus=3")


def test_a_log_line_does_not_stop_it_in_the_background(world):
    # The inner shell has the terminal, "tostop" would stop whoever else writes.
    t = terminal(world, world.argv("--run", f"--api-socket={world.work}/api.sock", "--log-level=info", "--", "bash", "--norc",
                                   "--noprofile", "-i"))
    t.expect("# |\\$ ")
    t.write("stty tostop; echo rea''dy\n")
    t.expect("\nready")
    request = ("import socket; s = socket.socket(socket.AF_UNIX); s.connect('%s'); "
               "s.sendall(b'{\"execute\":\"list_hostfwd\"}'); s.shutdown(1); print(s.recv(4096).decode())")
    for _ in range(2):
        done = world.host.run(PYTHON, "-c", request % (world.work / "api.sock"))
        assert "entries" in done.stdout
    t.write("exit\n")
    assert t.wait() == 0
