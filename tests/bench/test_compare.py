# SPDX-License-Identifier: GPL-2.0-or-later
"""bench/compare at work, as short as can be: every kind of scenario, broken peers, interruptions, its own checks.

The program is $SLIRP4NETNS, or the one in build/. Figures are not looked at.
"""

import collections.abc
import contextlib
import json
import os
import pathlib
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import uuid
import xml.etree.ElementTree

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
COMPARE = ROOT / "bench" / "compare"
BUILT = ROOT / "build" / "bench"
PROGRAM = os.environ.get("SLIRP4NETNS", str(ROOT / "build" / "src" / "slirp4netns"))
TOKEN = "SLIRP_BENCH_TEST"  # in the environment of everything a run starts
SMOKE_S, SHORT_S, END_S = 150, 60, 30
SMOKE = pytest.mark.xdist_group("smoke")  # those that look at the one smoke run, if several processes share the tests
PNG = b"\x89PNG\r\n\x1a\n"


def processes_with(token: str) -> list[str]:
    """Processes that have the token in their environment, as far as they can be seen."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if f"{TOKEN}={token}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(f"{entry.name} {(entry / 'cmdline').read_bytes().replace(bytes(1), b' ').decode()}")
    return found


def wait_for(what: str, condition: collections.abc.Callable[[], bool], seconds: float = END_S) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.05)


class Runs:
    """Starts bench/compare with a token and a directory for temporary files of its own."""

    def __init__(self) -> None:
        self.token, self.temporary = uuid.uuid4().hex, pathlib.Path(tempfile.mkdtemp(prefix="bench-test-"))
        os.chmod(self.temporary, 0o755)  # the user of rootlesskit must get to the files in there
        self.environment = {**os.environ, "SLIRP4NETNS": PROGRAM, TOKEN: self.token, "TMPDIR": str(self.temporary)}

    def run(self, *arguments: str, seconds: float = SHORT_S) -> subprocess.CompletedProcess:
        return subprocess.run([COMPARE, *arguments], env=self.environment, capture_output=True, text=True,
                              timeout=seconds)

    def start(self, *arguments: str) -> subprocess.Popen:
        return subprocess.Popen([COMPARE, *arguments], env=self.environment, stdout=subprocess.DEVNULL,
                                stderr=subprocess.PIPE, start_new_session=True)

    def check_nothing_is_left(self) -> None:
        wait_for("all processes have ended", lambda: not processes_with(self.token))
        assert not list(self.temporary.iterdir())


    def close(self) -> None:
        shutil.rmtree(self.temporary, ignore_errors=True)


@pytest.fixture
def runs() -> collections.abc.Iterator[Runs]:
    made = Runs()
    yield made
    made.close()


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """One run of one scenario of each kind, with a peer that ends at once."""
    made, out = Runs(), tmp_path_factory.mktemp("out")
    done = made.run("--smoke", "--peer", "broken=/bin/false", "--out", str(out), seconds=SMOKE_S)
    assert done.returncode == 0, done.stderr[-4000:]
    made.check_nothing_is_left()
    made.close()
    return {"result": json.loads((out / "result.json").read_text()), "out": out, "stdout": done.stdout,
            "stderr": done.stderr}


@SMOKE
def test_every_kind_of_scenario_works_with_every_program_that_is_there(smoke: dict) -> None:
    result = smoke["result"]
    there = [program["name"] for program in result["programs"] if program["name"] != "broken"]
    assert "ours" in there and "loopback" in there
    measured = {name for scenario in result["scenarios"] for name, entry in scenario["programs"].items()
                if entry["state"] == "measured"}
    assert "relay" in measured  # of a few scenarios only
    for scenario in result["scenarios"]:
        states = {name: scenario["programs"][name]["state"] for name in there}
        assert states["ours"] == "measured", (scenario["id"], scenario["programs"]["ours"])
        for metric in scenario["metrics"]:
            for name, state in states.items():
                assert state in ("cannot", "failed") or metric["samples"][name] == [metric["median"][name]]
    for name in there:  # peers have bugs of their own, but most of it must work
        entries = [scenario["programs"][name] for scenario in result["scenarios"]]
        failed = [entry for entry in entries if entry["state"] == "failed"]
        assert len(failed) <= len(entries) / 4, (name, failed)


@SMOKE
def test_each_program_is_measured_or_it_is_said_why_not(smoke: dict) -> None:
    result = smoke["result"]
    names = {program["name"] for program in result["programs"]} | {e["program"] for e in result["unavailable"]}
    assert names >= {"ours", "reference", "pasta", "rootlesskit", "loopback", "broken"}
    assert all(entry["reason"] for entry in result["unavailable"])
    for entry in result["unavailable"]:
        assert f"{entry['program']}: UNAVAILABLE" in smoke["stdout"]
    for scenario in result["scenarios"]:
        for name, entry in scenario["programs"].items():
            assert entry["state"] != "cannot" or entry["reason"], (scenario["id"], name)


@SMOKE
def test_a_broken_peer_is_reported_as_failed(smoke: dict) -> None:
    result = smoke["result"]
    entries = [scenario["programs"]["broken"] for scenario in result["scenarios"]]
    assert {entry["state"] for entry in entries} == {"failed"}
    assert all("ended before it was ready" in entry["errors"][0]["error"] for entry in entries)
    assert sum(failure["program"] == "broken" for failure in result["failures"]) == len(entries)
    assert "broken" in smoke["stdout"] and "FAILED" in smoke["stdout"]
    table = [line for line in (smoke["out"] / "result.md").read_text().splitlines() if line.startswith("| ")]
    assert any("FAILED" in line for line in table)


@SMOKE
def test_the_result_is_what_the_schema_says(smoke: dict) -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="python3-jsonschema is not installed")
    jsonschema.validate(smoke["result"], json.loads((ROOT / "bench" / "schema.json").read_text()))
    assert "JSON: 0 schema problems" in smoke["stderr"]


@SMOKE
def test_the_payload_went_the_way_that_was_intended(smoke: dict) -> None:
    ways = {scenario["id"]: {name: entry.get("way") for name, entry in scenario["programs"].items()}
            for scenario in smoke["result"]["scenarios"]}
    for scenario in ("tcp-out/65520/1", "nested-out/1500/1", "fwd-in/host/1", "tcp-crr"):
        assert ways[scenario]["ours"] == "splice", (scenario, ways[scenario])
    if "reference" in ways["tcp-out/65520/1"]:
        assert ways["tcp-out/65520/1"]["reference"] == "tap"
    assert ways["tcp-out/65520/1"]["loopback"] == "lo"


@SMOKE
def test_there_are_pictures(smoke: dict) -> None:
    if not shutil.which("gnuplot"):
        pytest.skip("gnuplot is not installed")
    for name in ("overview", "latency-cdf", "rates", "udp"):
        assert (smoke["out"] / f"{name}.png").read_bytes().startswith(PNG)
        tree = xml.etree.ElementTree.parse(smoke["out"] / f"{name}.svg")
        assert tree.getroot().tag.endswith("svg") and len(list(tree.iter())) > 50
        assert f"]({name}.svg)" in (smoke["out"] / "result.md").read_text()


@SMOKE
def test_progress_tells_the_time_left(smoke: dict) -> None:
    lines = [line for line in smoke["stderr"].splitlines() if " left] round 1, " in line]
    left = [int(line[1:].split(":")[0]) * 60 + int(line.split(":")[1][:2]) for line in lines]
    assert len(lines) > 50 and left[0] > left[len(left) // 2] > left[-1]


def script(directory: pathlib.Path, name: str, text: str) -> str:
    path = directory / name
    path.write_text("#!/bin/bash\n" + text)
    path.chmod(0o755)
    return str(path)


def test_peers_that_stall_or_cheat_are_reported_as_failed(runs: Runs, tmp_path: pathlib.Path) -> None:
    stalled = script(tmp_path, "stalled", 'if [ "$1" = -c ]; then sleep 600; fi\n')
    # Says that it is ready, and carries nothing.
    idle = script(tmp_path, "idle", 'if [ "$1" = -c ]; then while [ "$1" != -r ]; do shift; done\n'
                                    'eval "printf 1 >&$2"; sleep 600; fi\n')
    # Promises diversion, and does without.
    secret = script(tmp_path, "secret", f'exec {PROGRAM} "$@" $([ "$1" = -c ] && echo --divert=off)\n')
    done = runs.run("--smoke", "--cells", "tcp-crr", "--programs", "ours", "--peer", f"stalled={stalled}", "--peer",
                    f"idle={idle}", "--peer", f"secret={secret}", "--json", str(tmp_path / "result.json"),
                    seconds=2 * SHORT_S)  # each of the three is waited for
    assert done.returncode == 0, done.stderr
    entry = json.loads((tmp_path / "result.json").read_text())["scenarios"][0]["programs"]
    assert entry["ours"]["state"] == "measured"
    for name, text in (("stalled", "no ready byte after"), ("idle", "nothing gets through"),
                       ("secret", "do not go by splice")):
        assert entry[name]["state"] == "failed" and text in entry[name]["errors"][0]["error"], entry[name]
    runs.check_nothing_is_left()


def test_our_own_failure_is_one_of_the_run(runs: Runs) -> None:
    done = runs.run("--smoke", "--cells", "ready", "--programs", "ours=/bin/false", "loopback")
    assert done.returncode == 1 and "FAILED" in done.stdout
    runs.check_nothing_is_left()


def test_a_program_that_is_not_there_is_said_to_be_so(runs: Runs) -> None:
    done = runs.run("--smoke", "--cells", "ready", "--programs", "ours", "gone=/nonexistent/slirp4netns")
    assert done.returncode == 1
    assert "gone: UNAVAILABLE: /nonexistent/slirp4netns is not an executable file" in done.stdout
    assert "gone was asked for" in done.stderr


def first_measurement(process: subprocess.Popen) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        if b" left] round 1, " in line:
            return
    raise AssertionError(f"it ended with status {process.wait(END_S)} before the first measurement")


@pytest.mark.parametrize("how", ["Ctrl-C", "SIGTERM", "SIGKILL"])
def test_an_interrupted_run_leaves_nothing(runs: Runs, how: str) -> None:
    process = runs.start("--smoke", "--seconds", "3", "--cells", "tcp-out/65520/1", "fwd-in/host/1", "rtt-out/10")
    try:
        first_measurement(process)
        assert len(processes_with(runs.token)) > 3
        if how == "Ctrl-C":
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        else:
            process.send_signal(getattr(signal, how))
        assert process.wait(END_S) == {"Ctrl-C": 130, "SIGTERM": 143, "SIGKILL": -9}[how]
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
    wait_for("all processes have ended", lambda: not processes_with(runs.token))
    if how == "SIGKILL":  # nobody is left to remove the directory, but what was in it was in memory
        assert all(not list(path.iterdir()) for path in runs.temporary.iterdir())
    else:
        assert not list(runs.temporary.iterdir())


def test_a_busy_machine_is_refused(runs: Runs) -> None:
    burners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
    try:
        done = runs.run("--quick", "--cells", "ready", "--programs", "ours")
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()
    assert done.returncode == 1 and "busy with something else" in done.stderr and "--force" in done.stderr
    assert "round 1" not in done.stderr


def test_unknown_scenarios_and_bad_peers_are_refused(runs: Runs) -> None:
    for arguments, text in ((["--cells", "tcp"], "there is no scenario tcp"), (["--peer", "x"], "is not NAME=COMMAND"),
                            (["--minutes", "0"], "--minutes"), (["--seconds", "1", "--minutes", "1"], "contradict")):
        done = runs.run("--smoke", *arguments)
        assert done.returncode == 2 and text in done.stderr


# ---- the tools underneath ----

def load(*arguments: str, seconds: float = 20) -> subprocess.CompletedProcess:
    return subprocess.run([BUILT / "load", *arguments], capture_output=True, text=True, timeout=seconds)


@contextlib.contextmanager
def liar(sent: int, received: int) -> collections.abc.Iterator[int]:
    """A server that takes one block and reports these counts; yields its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        def serve() -> None:
            with contextlib.suppress(OSError):
                connection, _ = listener.accept()
                with connection:
                    begun = connection.recv(17, socket.MSG_WAITALL)
                    assert begun[:1] == b"S"
                    while connection.recv(1 << 18)[-1:] != b"e":
                        pass
                    connection.sendall(b"e" + struct.pack("=QQQ", sent, received, received))
                    connection.recv(1)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.close()
        thread.join(END_S)


def test_bytes_that_do_not_add_up_are_an_error() -> None:
    with liar(0, 12345) as port:
        done = load("tcp-out", "127.0.0.1", str(port), "1", "0.05")
    assert done.returncode == 1 and "the server got 12345" in done.stderr


def in_namespaces(text: str, seconds: float = SHORT_S) -> str:
    command = ["unshare", *([] if os.geteuid() == 0 else ["-U", "-r"]), "-n", "-m", "-p", "--fork", "--kill-child",
               "--mount-proc", "bash", "-e", "-c", f"set -o pipefail; export LC_ALL=C\n{text}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_delayed_link_has_the_round_trip_it_was_asked_for() -> None:
    out = in_namespaces(f"""
        unshare -n sleep 60 & there=$!
        until [ "$(readlink /proc/$there/ns/net)" != "$(readlink /proc/self/ns/net)" ]; do sleep 0.01; done
        coproc wire {{ {BUILT}/delay 10 d0 d0 $there 30; }}
        read -t 10 line <&${{wire[0]}}
        ip link set lo up; ip link set d0 up; ip addr add 203.0.113.129/25 dev d0
        nsenter -n -t $there sh -ec 'ip link set lo up; ip link set d0 up; ip addr add 203.0.113.130/25 dev d0'
        coproc server {{ nsenter -n -t $there {BUILT}/load serve 203.0.113.130 5001 30; }} 2>/dev/null
        read -t 10 line <&${{server[0]}}
        {BUILT}/load tcp-rr 203.0.113.130 5001 3
        {BUILT}/load tcp-both 203.0.113.130 5001 4 3
    """)
    latency, bulk = map(json.loads, out.splitlines())
    assert 20_000 <= latency["quantiles"][0][1] and latency["p50_us"] < 60_000
    assert bulk["sent"] > 0 and bulk["received"] > 0 and bulk["stuck"] == 0


def test_datagrams_and_queries_are_counted_at_both_ends() -> None:
    out = in_namespaces(f"""
        ip link set lo up
        coproc server {{ {BUILT}/load serve 127.0.0.1 5001 30; }}
        read -t 10 line <&${{server[0]}}
        coproc resolver {{ {BUILT}/load dns-serve 127.0.0.1 53 30; }} 2>/dev/null
        read -t 10 line <&${{resolver[0]}}
        {BUILT}/load udp-out 127.0.0.1 5001 1200 3
        {BUILT}/load udp-in 127.0.0.1 5001 60000 3
        {BUILT}/load udp-echo 127.0.0.1 5001 64 0.2
        {BUILT}/load dns 127.0.0.1 53 8 0.2
        {BUILT}/load idle 127.0.0.1 5001 100 5 </dev/null
    """)
    *measured, opened, alive = map(json.loads, out.splitlines())
    for result in measured[:3]:
        assert 0 < result["received"] <= result["sent"]
    # A resolver that is not let run for two seconds may lose each of the eight queries twice.
    assert measured[3]["count"] > 0 and measured[3]["lost"] <= 16
    assert (opened["open"], alive["alive"]) == (100, 100)


def test_the_small_measurements_say_their_figures(tmp_path: pathlib.Path) -> None:
    out = tmp_path / "micro.json"
    done = subprocess.run([ROOT / "bench" / "micro", "--smoke", "--json", out], capture_output=True, text=True,
                          timeout=SHORT_S)
    assert done.returncode == 0, done.stderr
    figures = {(figure["part"], figure["name"]): figure for figure in json.loads(out.read_text())}
    per_call = figures["splice", "splice, pipe 512 KiB, 1 stream: bytes per call"]
    assert per_call["unit"] == "B" and 0 < per_call["samples"][0] <= 512 << 10
    for size in (64, 1500, 65520):
        for way in ("read, epoll", "write, epoll, 64 at a time"):
            assert figures["tap", f"{way}, {size} B: speed"]["samples"][0] > 0
            assert figures["tap", f"{way}, {size} B: calls"]["samples"][0] >= 1
        by_ring = figures.get(("tap", f"write, io_uring, 64 at a time, {size} B: calls"))
        assert by_ring is None or by_ring["samples"][0] == pytest.approx(1 / 64, rel=0.05)
    assert figures["parts", "hand-off of one id, looking"]["samples"][0] > 0
    for part, name in figures:
        assert part in done.stdout and name in done.stdout


def test_pauses_are_measured(tmp_path: pathlib.Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("it makes network namespaces, as root")
    out = tmp_path / "stops.json"
    done = subprocess.run([ROOT / "bench" / "world-stop", "--flows", "20", "--forwards", "20", "--stops", "50", "--json", out],
                          capture_output=True, text=True, timeout=SHORT_S)
    assert out.exists(), done.stderr
    for mode in json.loads(out.read_text()):
        assert mode["stops"] >= 50 and 0 < mode["p50_us"] <= mode["p99_us"] <= mode["longest_us"]
        assert {"add_hostfwd", "remove_hostfwd", "slirp_info"} <= mode["by_request"].keys()
