# SPDX-License-Identifier: GPL-2.0-or-later
"""Real runtimes with this program in its place: each starts a container from a root file system of busybox, which
resolves a name, downloads by it, and answers on a published port, where it sees the client's own address."""

import hashlib
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess

import pytest
from harness import (AS, HOST4, IN_USERNS, PROGRAM, PROGRAM_ARGS, REMOTE4, USER, identity, reference_version, run,
                     wait_for)
from peer import pattern

SIZE = 5_000_003
REFERENCE = reference_version() is not None
SPLICE = not REFERENCE and "--no-splice" not in PROGRAM_ARGS
WORK = f"""
set -e
echo resolved $(nslookup files.example.test | sed -n 's/^Address.*: \\([0-9.]*\\)$/\\1/p' | tail -n 1)
wget -q -O - http://files.example.test:7000/ | sha256sum | sed 's/^/downloaded /'
exec httpd -f -p 80 -h /www
"""
CGI = '#!/bin/sh\nprintf "Content-Type: text/plain\\r\\n\\r\\n%s" "$REMOTE_ADDR"\n'


class Host:
    """The host as an ordinary user sees it who has a runtime, the program, and a root file system."""

    def __init__(self, world, *programs):
        if AS != "user" or IN_USERNS:
            pytest.skip("rootless runtimes are for an ordinary user outside a user namespace")
        for name in (*programs, "newuidmap", "busybox"):
            if not shutil.which(name):
                pytest.skip(f"{name} is not installed (scripts/packages names the package)")
        subids = "".join(pathlib.Path(p).read_text() for p in ("/etc/subuid", "/etc/subgid") if os.path.exists(p))
        if subids.count(f"{USER}:") < 2:
            pytest.skip(f"the user {USER} has no subordinate ids (/etc/subuid, /etc/subgid)")
        self.world, self.calls = world, world.work / "calls"
        self.home, self.root, self.bin = world.work / "home", world.work / "rootfs", world.work / "bin"
        for path in (self.home, self.bin, self.root / "bin", self.root / "etc", self.root / "www/cgi-bin",
                     *(self.root / name for name in ("dev", "proc", "run", "sys", "tmp"))):
            path.mkdir(parents=True)
        busybox = shutil.which("busybox")
        if subprocess.run(["ldd", busybox], capture_output=True, check=False).returncode == 0:
            pytest.skip("busybox is not static (package busybox-static)")
        shutil.copy(busybox, self.root / "bin/busybox")
        for name in subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split():
            if name != "busybox":
                (self.root / "bin" / name).symlink_to("busybox")
        (self.root / "etc/resolv.conf").write_text("nameserver 10.0.2.3\n")
        (self.root / "etc/hosts").write_text("127.0.0.1 localhost\n")
        self.write(self.root / "www/cgi-bin/who", CGI)
        self.write(self.root / "bin/work", "#!/bin/sh" + WORK)
        # What the runtime calls slirp4netns; it notes how.
        self.program = self.write(self.bin / "slirp4netns", f'#!/bin/sh\necho "$@" >>{self.calls}\n'
                                  f'exec {PROGRAM} {" ".join(PROGRAM_ARGS)} "$@"\n')
        runtime = world.dir / "r"  # short: Podman's names are long, and a socket's path has 107 bytes
        runtime.mkdir(mode=0o700)
        shutil.chown(runtime, USER, USER)
        self.env = {"HOME": str(self.home), "XDG_RUNTIME_DIR": str(runtime),
                    "PATH": f"{self.bin}:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
        run(["chown", "-R", f"{USER}:{USER}", str(world.work)])
        self.home.chmod(0o700)
        # crun refuses a hierarchy of both kinds; without control groups it does not need any.
        if os.path.exists("/sys/fs/cgroup/unified"):
            world.host.run("sh", "-c", "umount -l /sys/fs/cgroup && mount -t tmpfs none /sys/fs/cgroup")
        world.host.run("sysctl", "-qw", "net.ipv4.ping_group_range=0 0", check=False)
        world.host.peer("dns", "127.0.0.1", 53, REMOTE4)
        world.remote.peer("tcp_http", REMOTE4, 7000, SIZE)

    def write(self, path, text):
        path.write_text(text, "utf-8")
        path.chmod(0o755)
        return path

    def argv(self, *argv):
        # The set-user-ID programs of a runtime (newuidmap) need the bounding set, so only the ids are set.
        return [*self.world.host.enter, *identity()[:4], "env", "-i", *(f"{k}={v}" for k, v in self.env.items()), *argv]

    def run(self, *argv, check=True):
        done = run(self.argv(*argv), cwd=self.home, timeout=60)
        assert not check or done.returncode == 0, f"{argv}: {done.returncode} {done.stdout}{done.stderr}"
        return done.stdout

    def start(self, *argv):
        """A container that does WORK; its output goes to a file."""
        self.out = self.world.dir / "container.out"
        with open(self.out, "wb") as out:
            process = subprocess.Popen(self.argv(*argv), stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                                       cwd=self.home)

        def end():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(15)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait(15)

        self.world.ends.append(end)
        return process

    def output(self):
        return self.out.read_text("utf-8", "replace")

    def does_its_work(self, process):
        wait_for("the download is done", lambda: "downloaded" in self.output() or process.poll() is not None, 40)
        output = self.output()
        assert f"resolved {REMOTE4}\n" in output, output
        assert f"downloaded {hashlib.sha256(pattern(SIZE)).hexdigest()}" in output, output
        assert self.calls.exists(), "the runtime did not call the program"

    def asked(self, client, addr, port):
        """Whom the container's server sees; it listens for both families."""
        body = wait_for("the published port answers",
                        lambda: client.client("http", addr, port, "/cgi-bin/who").get("body"))
        return body.strip("[]").removeprefix("::ffff:")

    def api(self, pattern_):
        """The statistics of the program that the runtime has started with an API socket."""
        path = next(iter(self.world.dir.rglob(pattern_)))
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(10)
            s.connect(str(path))
            s.sendall(b'{"execute":"stats"}')
            s.shutdown(socket.SHUT_WR)
            return json.loads(s.makefile().read())["return"]


@pytest.fixture
def rootlesskit(world):
    host = Host(world, "rootlesskit")
    host.options = ["rootlesskit", "--net=slirp4netns", f"--slirp4netns-binary={host.program}", "--mtu=65520",
                    "--slirp4netns-sandbox=auto", "--slirp4netns-seccomp=auto", "--disable-host-loopback",
                    "--copy-up=/etc", "--pidns", f"--state-dir={world.work}/state"]
    return host


def test_rootlesskit_with_its_port_driver_for_this_program(rootlesskit):
    host, world = rootlesskit, rootlesskit.world
    process = host.start(*host.options, "--port-driver=slirp4netns", "--publish=0.0.0.0:8080:80/tcp",
                         "chroot", str(host.root), "/bin/work")
    host.does_its_work(process)
    assert host.asked(world.remote, HOST4, 8080) == REMOTE4
    assert host.asked(world.host, "127.0.0.1", 8080) == "10.0.2.2"
    assert "--enable-sandbox" in host.calls.read_text() and "--enable-seccomp" in host.calls.read_text()
    if SPLICE:
        assert host.api(".s4nn.sock")["splice_flows"] >= 2


def test_a_container_behind_a_bridge_in_rootlesskit(rootlesskit):
    """As dockerd makes it inside RootlessKit: bridge, pair of interfaces, masquerade."""
    host, world = rootlesskit, rootlesskit.world
    if not shutil.which("nft"):
        pytest.skip("nft is not installed (package nftables)")
    nested = host.write(world.work / "nested", f"""#!/bin/sh
set -e
ip link set lo up
ip link add br0 type bridge; ip addr add 172.18.0.1/16 dev br0; ip link set br0 up
unshare -n sh -c 'echo $$; exec sleep 60' >{world.work}/pid &
while ! read pid <{world.work}/pid; do sleep 0.05; done 2>/dev/null
ip link add veth0 type veth peer name eth0 netns $pid; ip link set veth0 master br0 up
echo 1 >/proc/sys/net/ipv4/ip_forward
nft 'add table ip nat; add chain ip nat post {{ type nat hook postrouting priority 100; }};
     add rule ip nat post ip saddr 172.18.0.0/16 oifname tap0 masquerade'
nsenter -t $pid -n sh -c 'ip link set lo up; ip addr add 172.18.0.2/16 dev eth0; ip link set eth0 up
    ip route add default via 172.18.0.1; exec chroot {host.root} /bin/work' || kill $!
""")
    run(["chown", f"{USER}:{USER}", str(nested)])
    process = host.start(*host.options, "--port-driver=slirp4netns", str(nested))
    host.does_its_work(process)
    if SPLICE and "--divert=off" not in PROGRAM_ARGS:
        assert host.api(".s4nn.sock")["divert_flows"] >= 1


@pytest.fixture
def containers(world):
    """Podman's and Buildah's configuration: the program's path, no control groups, no overlay file system."""
    host = Host(world, "podman", "buildah", "crun", "conmon")
    conf = host.write(world.work / "containers.conf", f"""
[containers]
cgroups = "disabled"
log_driver = "k8s-file"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "crun"
network_cmd_path = "{host.program}"
""")
    storage = host.write(world.work / "storage.conf", '[storage]\ndriver = "vfs"\n')
    policy = host.home / ".config/containers/policy.json"
    policy.parent.mkdir(parents=True)
    policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    run(["chown", "-R", f"{USER}:{USER}", str(host.home)])
    host.env |= {"CONTAINERS_CONF": str(conf), "CONTAINERS_STORAGE_CONF": str(storage)}

    def end():
        """The process that holds Podman's user namespace, and what belongs to subordinate ids."""
        for path in world.dir.rglob("pause.pid"):
            os.kill(int(path.read_text()), signal.SIGKILL)
        shutil.rmtree(host.home, ignore_errors=True)

    world.ends.append(end)
    return host


@pytest.mark.parametrize("handler", ["slirp4netns", "rootlesskit"])
def test_podman_with_network_cmd_path(containers, handler):
    host, world = containers, containers.world
    process = host.start("podman", "run", "--rm", "--name=work", f"--network=slirp4netns:port_handler={handler}",
                         "--publish=8080:80", "--rootfs", str(host.root), "/bin/work")
    host.does_its_work(process)
    seen = host.asked(world.remote, HOST4, 8080)
    if handler == "slirp4netns":
        assert seen == REMOTE4
        if SPLICE:
            assert host.api("*.net")["splice_flows"] >= 1
    assert "--enable-sandbox" in host.calls.read_text()
    host.run("podman", "kill", "work", check=False)
    process.wait(20)
    wait_for("the program has ended with its container", lambda: not run(
        ["pgrep", "-u", USER, "-f", f"^{PROGRAM} .*{world.work}"]).stdout)


def test_buildah_run(containers):
    host = containers
    name = host.run("buildah", "from", "scratch").strip()
    host.run("buildah", "copy", "--quiet", name, str(host.root), "/")
    process = host.start("buildah", "run", "--isolation=rootless", name, "/bin/work")
    host.does_its_work(process)
