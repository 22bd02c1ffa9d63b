# SPDX-License-Identifier: GPL-2.0-or-later
"""What breaks outside of the program: it goes on, or ends orderly. See also test_lifecycle and test_without."""

import hashlib
import os
import re
import resource
import signal
import subprocess
import time

import pytest
from harness import AS, GUEST4, PROGRAM_ARGS, PYTHON, REMOTE4, ROOT, SANITIZER, identity, wait_for
from peer import pattern

SIZE = 20_000_000
DIGEST = hashlib.sha256(pattern(SIZE)).hexdigest()
paths = pytest.mark.parametrize("args", [["--divert=off"], ["--divert=auto"]], ids=["libslirp", "divert"])


@pytest.mark.extension
@paths
def test_stopping_and_continuing_loses_nothing(world, args):
    slirp = world.start(*args)
    world.remote.peer("tcp_source", REMOTE4, 7000, SIZE)
    download = world.guest.begin("client", "download", REMOTE4, 7000, 0.5)  # still under way at the second stop
    for _ in range(3):
        os.kill(slirp.pid, signal.SIGSTOP)
        wait_for("it stands still", lambda: slirp.status()["State"].startswith("T"))
        time.sleep(0.3)  # being stopped for a while is the case under test
        os.kill(slirp.pid, signal.SIGCONT)
        wait_for("it runs again", lambda: not slirp.status()["State"].startswith("T"))
    result = download.result()
    assert (result.get("n"), result.get("sha256")) == (SIZE, DIGEST), result
    assert slirp.process.poll() is None


@pytest.mark.extension
@paths
def test_the_hosts_interface_may_go_and_come_back(world, args):
    slirp = world.start(*args)
    world.remote.peer("tcp_echo", REMOTE4, 7000)
    assert world.guest.client("echo", REMOTE4, 7000, "before")["reply"] == "before"
    world.host.ip("link set net0 down")
    assert "errno" in world.guest.client("connect", REMOTE4, 7000, 2)
    world.host.ip("link set net0 up")
    wait_for("it works again", lambda: world.guest.client("echo", REMOTE4, 7000, "after").get("reply") == "after")
    assert slirp.process.poll() is None


@pytest.mark.extension
@pytest.mark.skipif(AS != "user", reason="root is exempt from the limit of pipes")
def test_a_user_without_pipe_memory_still_gets_its_bytes(world):
    """Beyond pipe-user-pages-soft new pipes have a page or two only: slower, but all bytes arrive."""
    code = """
import os, resource, fcntl
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
held, smallest = [], 1 << 20
while len(held) < 5000 and smallest > 8192:
    held.append(os.pipe())
    smallest = fcntl.fcntl(held[-1][0], 1032)  # F_GETPIPE_SZ
print(smallest, flush=True)
import time
time.sleep(300)
"""
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 12000:
        pytest.skip("the hard limit of descriptors is too low to use up the pipes")
    with subprocess.Popen([*world.host.enter, *identity(), PYTHON, "-c", code], stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout and int(holder.stdout.readline()) <= 8192
            slirp = world.start("--divert=auto")
            world.remote.peer("tcp_source", REMOTE4, 7000, SIZE)
            result = world.guest.client("download", REMOTE4, 7000)
            assert (result.get("n"), result.get("sha256")) == (SIZE, DIGEST), result
            assert slirp.process.poll() is None
        finally:
            holder.kill()


@pytest.mark.extension
@pytest.mark.skipif(bool(SANITIZER), reason="sanitizers have address space of their own")
def test_without_memory_what_is_there_goes_on_and_the_end_is_orderly(world):
    """No page more: a spliced transfer needs none. New connections fail, or glib ends the program; then nothing stays."""
    if "--divert=off" in PROGRAM_ARGS or "--no-splice" in PROGRAM_ARGS:
        pytest.skip("switched off by $SLIRP4NETNS_ARGS")
    slirp = world.start("--divert=auto", api=True)
    wait_for("the nft table", lambda: "slirp4netns_" in world.guest.run("nft", "list", "tables").stdout)
    world.remote.peer("tcp_source", REMOTE4, 7000, SIZE)
    world.remote.peer("tcp_echo", REMOTE4, 7001)
    download = world.guest.begin("client", "download", REMOTE4, 7000, 1.5)
    wait_for("it is spliced", lambda: slirp.api("stats")["return"]["divert_bytes"])
    used = int(slirp.status()["VmSize"].split()[0]) << 10
    subprocess.run([*identity(), "prlimit", f"--pid={slirp.pid}", f"--as={used}"], check=True, timeout=20)
    result = download.result()
    assert (result.get("n"), result.get("sha256")) == (SIZE, DIGEST), result
    for _ in range(3):
        world.guest.client("connect", REMOTE4, 7001, 3)
    if slirp.process.poll() is not None:
        wait_for("the rules are gone", lambda: "21324" not in world.guest.run("ip", "rule").stdout)
        world.guest.run("ip", "link", "show", "lo")


@pytest.mark.extension
@paths
def test_a_long_pause_is_like_a_clock_that_jumps(world, args):
    """All the monotonic clock's deadlines are over at once: connections that were there still work, and so do new ones."""
    slirp = world.start(*args, api=True)
    assert "return" in slirp.api("add_hostfwd", proto="tcp", host_port=8080, guest_port=80)
    world.guest.peer("tcp_echo", "0.0.0.0", 80)
    world.remote.peer("tcp_echo", REMOTE4, 7000)
    held = [world.guest.begin("client", "hold", REMOTE4, 7000, GUEST4, 0),
            world.host.begin("client", "hold", "127.0.0.1", 8080, "127.0.0.1", 0)]
    for client in held:
        client.event("held")
    os.kill(slirp.pid, signal.SIGSTOP)
    time.sleep(6)  # longer than any short deadline of the program's: lingering elements, waiting for sockets, hosts' answers
    os.kill(slirp.pid, signal.SIGCONT)
    for client in held:
        client.process.send_signal(signal.SIGUSR1)
        assert client.event("alive")["ok"]
    assert world.guest.client("echo", REMOTE4, 7000, "new")["reply"] == "new"
    assert world.host.client("echo", "127.0.0.1", 8080, "new")["reply"] == "new"


def test_no_timer_follows_the_wall_clock():
    """Somebody sets the clock: only what people are shown and a sequence number change."""
    shown = {"base/log.c", "io/capture.c", "api/http.c", "cli/interface.c"}
    source, found = ROOT / "src", set()
    for path in source.glob("*/*.c"):
        text = re.sub(r"/\*.*?\*/", "", path.read_text("utf-8"), flags=re.S)
        if re.search(r"CLOCK_REALTIME|gettimeofday\(|\btime\((NULL|&)|g_get_real_time", text):
            found.add(str(path.relative_to(source)))
        if "pthread_cond_timedwait" in text:
            assert "pthread_condattr_setclock" in text and "CLOCK_MONOTONIC" in text, path
    assert found <= shown, found - shown
    assert "CLOCK_MONOTONIC" in (source / "base" / "clock.h").read_text("utf-8")
