# SPDX-License-Identifier: GPL-2.0-or-later
"""Options, marks and fixtures of the end-to-end tests. See harness.py for the topology.

Marks:
  extension             something the single-threaded program never had
  since("1.3.0")        the single-threaded program has it from that version on
  reference_bug("...")  the single-threaded program does it wrong; what is tested is right
  makes_userns          the program makes a user namespace: not with the thread sanitizer
Each is skipped, with its reason, when $SLIRP4NETNS is the single-threaded program.
"""

import os
import pathlib
import pwd
import stat
import subprocess
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import harness  # noqa: E402


def enter_user_namespace() -> None:
    """An ordinary user needs a user namespace of his own before anything else; pytest starts again in there."""
    if os.geteuid() == 0 or harness.IN_USERNS:
        return
    os.environ["E2E_IN_USERNS"] = "1"
    os.environ["E2E_AS"] = "user"
    # pytest calls its directory in /tmp after this; "root", which he is about to be, may have one already.
    os.environ["LOGNAME"] = f"user{os.geteuid()}"
    os.execvp("unshare", ["unshare", "-U", "-r", "-n", "-m", sys.executable, "-m", "pytest", *sys.argv[1:]])


def pytest_configure(config: pytest.Config) -> None:
    for mark in ("extension: not in the single-threaded program", "since(version): in it from this version on",
                 "reference_bug(what): it does this wrong",
                 "makes_userns: the program makes a user namespace"):
        config.addinivalue_line("markers", mark)
    if hasattr(config, "workerinput"):
        return
    enter_user_namespace()
    if not os.access(harness.PROGRAM, os.X_OK):
        pytest.exit(f"{harness.PROGRAM} is not there: build first (scripts/test does), or set SLIRP4NETNS", 3)
    if harness.AS == "user" and not harness.IN_USERNS:
        try:
            pwd.getpwnam(harness.USER)
        except KeyError:
            subprocess.run(["useradd", "--no-create-home", "--shell", "/usr/sbin/nologin", harness.USER], check=False)
            pwd.getpwnam(harness.USER)
    check_tun()
    allow_cubic()


def allow_cubic() -> None:
    """As on most machines: whoever may not choose a congestion control freely may at least choose the usual one."""
    if os.geteuid() != 0 or harness.IN_USERNS or os.environ.get("CI") != "true":
        return
    base = pathlib.Path("/proc/sys/net/ipv4")
    available, allowed = (set((base / f"tcp_{kind}_congestion_control").read_text().split())
                          for kind in ("available", "allowed"))
    if "cubic" in available - allowed:
        (base / "tcp_allowed_congestion_control").write_text(" ".join(sorted(allowed | {"cubic"})))


def check_tun() -> None:
    try:
        mode = os.stat("/dev/net/tun").st_mode
    except FileNotFoundError:
        pytest.exit("/dev/net/tun does not exist: load the module (modprobe tun)", 3)
    if harness.AS == "user" and not stat.S_IMODE(mode) & stat.S_IWOTH:
        if os.geteuid() == 0 and not harness.IN_USERNS and os.environ.get("CI") == "true":
            os.chmod("/dev/net/tun", 0o666)
        else:
            pytest.exit("/dev/net/tun cannot be opened by ordinary users here, as it can on most machines: "
                        "chmod 0666 /dev/net/tun, or CI=true to let the tests do it as root", 3)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if harness.SANITIZER == "thread" and item.get_closest_marker("makes_userns"):
            item.add_marker(pytest.mark.skip(reason=harness.NO_USERNS))
    version = harness.reference_version()
    if version is None:
        return
    for item in items:
        for mark in item.iter_markers():
            reason = None
            if mark.name == "extension":
                reason = "not in the single-threaded program"
            elif mark.name == "reference_bug":
                reason = f"the single-threaded program: {mark.args[0]}"
            elif mark.name == "since" and version < tuple(int(n) for n in mark.args[0].split(".")):
                reason = f"needs slirp4netns {mark.args[0]}"
            if reason:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.hookimpl(tryfirst=True, hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item):  # type: ignore[no-untyped-def]
    outcome = yield
    report = outcome.get_result()
    world = getattr(item, "funcargs", {}).get("world")
    if report.when == "call" and report.failed and world:
        report.sections.append(("slirp4netns", world.report()))
        if os.environ.get("KEEP") == "1":
            world.hold()


@pytest.fixture
def world(request: pytest.FixtureRequest):  # type: ignore[no-untyped-def]
    made = harness.World(request.node.name)
    yield made
    made.end()
