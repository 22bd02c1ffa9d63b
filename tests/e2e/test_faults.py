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
from harness import AS, PYTHON, REMOTE4, ROOT, identity, wait_for
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
