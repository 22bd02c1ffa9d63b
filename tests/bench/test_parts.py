# SPDX-License-Identifier: GPL-2.0-or-later
"""The parts of bench/compare that need no network: figures, ratios, rounds, command line, tables, pictures' scripts."""

import argparse
import json
import pathlib
import sys
import types

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "bench"))

from benchlib import figures, iperf3, options, plots, programs, report, rounds, scenarios, util  # noqa: E402


# ---- figures ----

def test_ratios_are_of_the_same_round() -> None:
    found = figures.ratios([2.0, 9.0, 4.0], [1.0, 3.0, 8.0])
    assert found == {"paired": [2.0, 3.0, 0.5], "median": 2.0, "min": 0.5, "max": 3.0}


def test_a_round_without_both_figures_has_no_ratio() -> None:
    found = figures.ratios([2.0, None, 4.0, 5.0], [1.0, 3.0, None, 0])
    assert found == {"paired": [2.0, None, None, None], "median": 2.0, "min": 2.0, "max": 2.0}
    assert figures.ratios([None], [1.0])["median"] is None


def test_median_ratio_is_not_the_ratio_of_medians() -> None:
    ours, other = [10.0, 20.0, 90.0], [10.0, 40.0, 30.0]
    assert figures.ratios(ours, other)["median"] == 1.0
    assert figures.summary(ours)["median"] / figures.summary(other)["median"] == pytest.approx(20 / 30)


def test_cost_per_gib() -> None:
    # Half a CPU at 4 GiB/s is an eighth of a CPU second for each GiB.
    assert figures.cost_per_gib(0.5, 4 * 8 * 2 ** 30) == pytest.approx(0.125)
    assert figures.cost_per_gib(0.5, 0) is None


def test_distribution_is_the_median_of_each_quantile() -> None:
    found = figures.distribution([[[0.5, 10.0], [1.0, 90.0]], [[0.5, 20.0], [1.0, 50.0]], [[0.5, 12.0], [1.0, 70.0]]])
    assert found == [[0.5, 12.0], [1.0, 70.0]]
    assert figures.distribution([]) == []


@pytest.mark.parametrize(("payload", "link", "way"), [
    (1000, 1200, "tap"), (1000, 500, "tap"), (1000, 300, "mixed"), (1000, 100, "splice"), (1000, 0, "splice")])
def test_way_taken(payload: int, link: int, way: str) -> None:
    assert figures.way_taken(payload, link) == way


@pytest.mark.parametrize(("value", "unit", "text"), [
    (None, "us", "–"), (43.1e9, "bit/s", "43.10 Gbit/s"), (5.2e6, "bit/s", "5.2 Mbit/s"), (64.25, "us", "64.2 µs"),
    (20500.0, "us", "20.50 ms"), (12345.6, "1/s", "12,346 /s"), (4.98, "1/s", "4.98 /s"), (3072, "KiB", "3.00 MiB"),
    (1.5, "KiB", "1.50 KiB"), (0.1234, "s/GiB", "0.123 s/GiB"), (12.34, "ms", "12.3 ms"), (1500, "count", "1,500")])
def test_human(value: float | None, unit: str, text: str) -> None:
    assert figures.human(value, unit) == text


def test_seconds_follow_from_the_budget() -> None:
    # 100 s for 4 measurements of 5 s overhead, one of them twice as long: 80 s for 5 shares.
    assert figures.plan_seconds(100, [5, 5, 5, 5], [1, 1, 1, 2], 0.25, 60) == pytest.approx(16)
    assert figures.plan_seconds(10, [5, 5, 5], [1, 1, 1], 0.25, 60) == 0.25
    assert figures.plan_seconds(1000, [1], [1], 0.25, 10) == 10


def test_addresses_of_proc_net() -> None:
    word = (127 << 24 | 1).to_bytes(4, "big")
    assert util.address_text(f"{int.from_bytes(word, sys.byteorder):08X}") == "127.0.0.1"
    assert util.address_text("0" * 32) == "::"


# ---- the command line ----

def test_programs_by_name_and_by_path() -> None:
    assert options.parse_program("reference") == {"name": "reference", "command": ["/usr/bin/slirp4netns"]}
    assert options.parse_program("split=build/x,--threads=split") == {"name": "split",
                                                                     "command": ["build/x", "--threads=split"]}


@pytest.mark.parametrize("text", ["other", "=path", "name=", "loopback=/bin/true"])
def test_bad_programs_are_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        options.parse_program(text)


def test_a_peer_is_a_command_line() -> None:
    assert options.parse_peer("old='/opt/my programs/slirp4netns' --x 'a b'") == {
        "name": "old", "command": ["/opt/my programs/slirp4netns", "--x", "a b"]}


@pytest.mark.parametrize("text", ["name", "name=", "=x", "ours=/bin/true", "x='"])
def test_bad_peers_are_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        options.parse_peer(text)


@pytest.mark.parametrize(("program", "kind"), [
    ({"name": "x", "command": ["/opt/pasta.avx2"]}, "Pasta"), ({"name": "x", "command": ["rootlesskit"]}, "Rootlesskit"),
    ({"name": "x", "command": ["/a/b"]}, "Slirp4netns"), ({"name": "loopback", "command": []}, "Loopback"),
    ({"name": "veth", "command": []}, "Veth"), ({"name": "relay", "command": []}, "Relay")])
def test_the_kind_goes_by_the_name_of_the_file(program: dict, kind: str) -> None:
    assert type(programs.kind_of(program)).__name__ == kind


def test_what_iperf3_says_becomes_a_rate() -> None:
    said = {"end": {"sum_sent": {"packets": 94340}, "sum_received": {"bytes": 44828400, "seconds": 2.0,
                                                                    "lost_packets": 56983}}}
    assert iperf3.result(json.dumps(said), 1200) == {"sent": 94340, "received": 37357, "lost": 56983,
                                                     "per_second": 18678.5}
    with pytest.raises(util.MeasurementError, match="unable to connect"):
        iperf3.result(json.dumps({"start": {}, "end": {}, "error": "unable to connect to server"}), 1200)
    said["end"]["sum_received"]["seconds"] = 0
    for nonsense in ("", "iperf3: usage", "[]", '{"end": {}}', json.dumps(said)):
        with pytest.raises(util.MeasurementError):
            iperf3.result(nonsense, 1200)


def test_scenarios_are_chosen_by_whole_words() -> None:
    names = ["tcp-in/1500/1", "tcp-in/1500/16", "tcp-in/65520/1", "tcp-rr"]
    assert scenarios.select(names, ["tcp-in/1500"]) == names[:2]
    assert scenarios.select(names, ["tcp-in/1500/1", "tcp-rr"]) == [names[0], names[3]]
    with pytest.raises(KeyError):
        scenarios.select(names, ["tcp"])


def test_every_scenario_has_a_name_of_its_own_and_the_selections_exist() -> None:
    names = [s.id for s in scenarios.all_scenarios()]
    assert len(set(names)) == len(names)
    for chosen in (scenarios.QUICK, scenarios.SMOKE):
        assert scenarios.select(names, chosen)


def test_the_smoke_selection_has_every_way_mode_mtu_and_number_of_streams() -> None:
    everything = scenarios.all_scenarios()
    smoke = [s for s in everything if s.id in scenarios.SMOKE]
    for what in (lambda s: s.way, lambda s: s.mtu, lambda s: s.client, lambda s: s.proto, lambda s: s.group,
                 lambda s: s.rtt_ms, lambda s: s.load[:1] if s.load else s.id):
        assert {what(s) for s in smoke} == {what(s) for s in everything}


def test_modes_set_rounds_and_time() -> None:
    full, quick, smoke = options.parse(["--full"]), options.parse(["--quick"]), options.parse(["--smoke"])
    assert full.rounds >= 5 and full.minutes and not full.seconds
    assert quick.minutes < 3 and len(quick.scenarios) < len(full.scenarios)
    assert smoke.rounds == 1 and smoke.seconds and not smoke.minutes
    assert options.parse(["--full", "--minutes", "7"]).minutes == 7
    assert [p["name"] for p in options.parse(["--peer", "mine=/x"]).programs][-4:] == ["mine", "relay", "loopback", "veth"]


def test_a_machine_is_looked_at_until_it_is_quiet() -> None:
    looks = iter([0.9, 0.3, 0.1, 0.0])
    assert options.min_until(0.15, 5, lambda: next(looks)) == 0.1 and next(looks) == 0.0
    assert options.min_until(0.15, 2, iter([0.9, 0.8, 0.1]).__next__) == 0.8


# ---- rounds ----

class Fake(programs.Kind):
    def __init__(self, unable=()):
        self.unable = unable

    def cannot(self, program, scenario):
        return "it cannot" if scenario.id in self.unable else None


def fake_rounds(monkeypatch, n_rounds, ids, names, measure, budget=None, unable=()):
    chosen = [s for s in scenarios.all_scenarios() if s.id in ids]
    made = [{"name": name, "kind": Fake(unable if name == "b" else ()), "command": ["/x"], "version": ["1"]}
            for name in names]
    monkeypatch.setattr(rounds, "measure", measure)
    monkeypatch.setattr(rounds, "note", lambda text: None)
    settings = types.SimpleNamespace(rounds=n_rounds, seconds=None if budget else 1.0, smoke=False)
    return rounds.Rounds(None, made, chosen, settings, budget)


def constant(value):
    return types.SimpleNamespace(figures={"p50_us": value, "p99_us": value, "p999_us": value}, way="tap",
                                  quantiles=None, detail={}, stalled=None)


def test_programs_take_turns_and_the_order_rotates(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def measure(_world, program, scenario, _seconds, _smoke):
        seen.append((scenario.id, program["name"]))
        return constant(1.0)

    fake_rounds(monkeypatch, 2, ["tcp-rr", "udp-rr"], ["a", "b", "c"], measure).run()
    order = ["".join(name for _, name in seen[i:i + 3]) for i in range(0, 12, 3)]
    assert [scenario for scenario, _ in seen[::3]] == ["tcp-rr", "udp-rr"] * 2
    assert order == ["abc", "bca", "bca", "cab"]


def test_a_peer_that_fails_stays_in_the_result_and_is_not_tried_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    tries = []

    def measure(_world, program, _scenario, _seconds, _smoke):
        if program["name"] == "b":
            tries.append(1)
            raise util.MeasurementError("broken")
        return constant(1.0)

    made = fake_rounds(monkeypatch, 5, ["tcp-rr"], ["a", "b"], measure)
    made.run()
    cell = made.cells["tcp-rr", "b"]
    assert len(tries) == rounds.GIVE_UP
    assert cell.state == "failed" and len(cell.errors) == 5 and cell.rounds == [None] * 5
    assert made.cells["tcp-rr", "a"].state == "measured"


def test_what_cannot_be_done_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(_world, program, _scenario, _seconds, _smoke):
        assert program["name"] == "a"
        return constant(1.0)

    made = fake_rounds(monkeypatch, 1, ["tcp-rr"], ["a", "b"], measure, unable=("tcp-rr",))
    made.run()
    assert made.cells["tcp-rr", "b"].state == "cannot"


def test_a_figure_of_nothing_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    made = fake_rounds(monkeypatch, 1, ["tcp-rr"], ["a"], lambda *_: constant(0))
    made.run()
    assert made.cells["tcp-rr", "a"].state == "failed"


def test_the_budget_sets_the_seconds_of_each_round(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr(rounds.time, "monotonic", lambda: clock[0])

    def measure(_world, _program, _scenario, seconds, _smoke):
        clock[0] += seconds + 0.7
        return constant(1.0)

    made = fake_rounds(monkeypatch, 5, ["tcp-rr", "udp-rr"], ["a", "b"], measure, budget=60)
    made.run()
    assert clock[0] <= 1060 + 1 and clock[0] > 1055
    assert made.seconds[0] == pytest.approx(60 / 5 / 4 - 0.18) and made.seconds[-1] < made.seconds[0]


def test_rounds_that_do_not_fit_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(rounds.time, "monotonic", lambda: clock[0])

    def measure(_world, _program, _scenario, seconds, _smoke):
        clock[0] += seconds + 9.75
        return constant(1.0)

    made = fake_rounds(monkeypatch, 5, ["tcp-rr"], ["a", "b"], measure, budget=70)
    for cell in made.cells.values():
        cell.overhead_s = 9.75
    made.run()
    assert len(made.seconds) == 3 and clock[0] < 70 and made.seconds[-1] >= rounds.SECONDS_MIN


# ---- the result ----

@pytest.fixture
def small_result(monkeypatch: pytest.MonkeyPatch) -> dict:
    values = {"a": [10.0, 20.0, 30.0], "b": [5.0, 20.0, 60.0]}
    turn = {"a": 0, "b": 0}

    def measure(_world, program, scenario, _seconds, _smoke):
        name = program["name"]
        turn[name] += 1
        if scenario.id == "udp-rr" and name == "b":
            raise util.MeasurementError("no answer | at all")
        found = constant(values[name][(turn[name] - 1) % 3])
        found.quantiles = [[0.0, 1.0], [0.5, 2.0], [1.0, 3.0]]
        return found

    made = fake_rounds(monkeypatch, 3, ["tcp-rr"], ["a", "b"], measure)
    made.run()
    more = fake_rounds(monkeypatch, 3, ["udp-rr"], ["a", "b"], measure)
    more.run()
    names = ["a", "b"]
    machine = {"kernel": "6", "architecture": "x", "cpus": 2, "cpu_model": "m", "memory_kib": 1 << 20,
               "distribution": "d", "python": "3", "load_average": {"before": 0.0, "after": 0.0}, "busy_before": 0.01,
               "congestion_control": {"wanted": "cubic", "host": "cubic", "guest": ["cubic"]},
               "delay": "netem", "root": True, "commit": "c", "commit_dirty": False}
    return {"format": report.FORMAT, "mode": "full", "started": "2026-01-01T00:00:00Z",
            "finished": "2026-01-01T00:01:00Z",
            "settings": {"rounds": 3, "rounds_wanted": 3, "seconds": [1.0, 1.0, 1.0], "minutes": None, "ready_starts": 3,
                         "idle_settle_seconds": 1.0, "idle_seconds": 2.0},
            "machine": machine,
            "programs": [{"name": n, "command": ["/x"], "version": ["1"], "limit": False, "kind": "slirp4netns"}
                         for n in names],
            "unavailable": [{"program": "c", "reason": "not here"}], "subject": "a",
            "scenarios": [report.scenario_entry(run, s, names) for run in (made, more) for s in run.scenarios],
            "failures": [{"scenario": cell.scenario.id, "program": cell.program["name"], **error}
                         for run in (made, more) for cell in run.cells.values() for error in cell.errors]}


def test_the_result_is_what_the_schema_says(small_result: dict) -> None:
    pytest.importorskip("jsonschema", reason="python3-jsonschema is not installed")
    assert report.validate(json.loads(json.dumps(small_result))) == []
    small_result["scenarios"][0]["metrics"][0]["samples"]["a"][0] = "fast"
    del small_result["machine"]["kernel"]
    assert len(report.validate(small_result)) == 2


def test_ratios_of_the_result_are_of_the_subject(small_result: dict) -> None:
    metric = small_result["scenarios"][0]["metrics"][0]
    assert metric["median"] == {"a": 20.0, "b": 20.0}
    assert metric["ratios"]["b"] == {"paired": [2.0, 1.0, 0.5], "median": 1.0, "min": 0.5, "max": 2.0}


def test_tables_show_failures_and_what_was_not_there(small_result: dict) -> None:
    for text in (report.plain(small_result), report.markdown(small_result)):
        assert "FAILED" in text and "c: UNAVAILABLE: not here" in text and "20.0 µs" in text
        assert "no answer" in text
    rows = [line for line in report.markdown(small_result).splitlines() if line.startswith("|")]
    assert {row.count("|") for row in rows} == {6}


def test_pictures_have_scripts_where_there_are_figures(small_result: dict) -> None:
    made = {name: script for name, _, _, _, script in plots.scripts(small_result)}
    assert made["overview"] is None and made["throughput-flows"] is None
    assert '"a"' in made["latency"] and "NaN" in made["latency"]
    assert "$d0_0" in made["latency-cdf"]


def test_a_peers_failure_is_no_failure_of_the_run_but_the_subjects_is(small_result: dict,
                                                                     capsys: pytest.CaptureFixture) -> None:
    asked = types.SimpleNamespace(asked_for=set())
    assert report.status(small_result, [], asked) == 0
    assert report.status(small_result, ["wrong"], asked) == 1
    assert report.status(small_result, [], types.SimpleNamespace(asked_for={"c"})) == 1
    small_result["failures"].append({"scenario": "tcp-rr", "program": "a", "round": 1, "error": "x"})
    assert report.status(small_result, [], asked) == 1
    assert "1 of them of a" in capsys.readouterr().err
