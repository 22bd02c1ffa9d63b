# SPDX-License-Identifier: GPL-2.0-or-later
"""The result: JSON (bench/schema.json), plain and Markdown tables, files, exit status."""
import dataclasses
import datetime
import json
import os
import platform
from pathlib import Path

from . import plots
from .figures import distribution, factor, human, human_spread, ratios, summary
from .measure import IDLE_S, IDLE_SETTLE_S, READY_STARTS
from .util import BENCH, ROOT, MeasurementError, note, run, status_number
from .world import WANTED_CONGESTION_CONTROL

FORMAT = 2
STATES = {"cannot": "cannot", "failed": "FAILED", "partly": "*"}


def utc_now():
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def impatient(scenario, seconds):
    return dataclasses.replace(scenario, patience_s=seconds, stretch=1.0,
                               seconds_min=min(scenario.seconds_min, 4 * scenario.rtt_ms / 1000))


# ---- the result ----

def machine(world, load_before):
    git = ["git", "-c", f"safe.directory={ROOT}", "-C", ROOT]
    try:
        commit = run([*git, "rev-parse", "HEAD"]).strip()
        dirty = bool(run([*git, "status", "--porcelain", "--untracked-files=no"]).strip())
    except MeasurementError:
        commit, dirty = "unknown", None
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    busy = float(os.environ.get("SLIRP_BENCH_BUSY", "-1"))
    return {
        "kernel": platform.release(), "architecture": platform.machine(), "cpus": len(os.sched_getaffinity(0)),
        "cpu_model": models[0].partition(":")[2].strip() if models else "unknown",
        "memory_kib": status_number(Path("/proc/meminfo"), "MemTotal"),
        "distribution": distribution_name(), "python": platform.python_version(),
        "load_average": {"before": load_before, "after": os.getloadavg()[0]},
        "busy_before": busy if busy >= 0 else None,
        "congestion_control": {"wanted": WANTED_CONGESTION_CONTROL, "host": world.congestion_control,
                               "guest": sorted(world.guest_congestion_control)},
        "delay": "netem" if getattr(world, "netem", False) else "bench/delay",
        "root": world.root, "commit": commit, "commit_dirty": dirty}


def distribution_name():
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return "unknown"


def cell_entry(cell):
    """What a program did in a scenario, besides figures."""
    entry = {"state": cell.state, "errors": cell.errors}
    if cell.cannot:
        entry["reason"] = cell.cannot
    ways = {result.way for result in cell.rounds if result and result.way}
    if ways:
        entry["way"] = " and ".join(sorted(ways))
    quantiles = distribution([result.quantiles for result in cell.rounds if result and result.quantiles])
    if quantiles:
        entry["cdf_us"] = quantiles
    details = [result.detail for result in cell.rounds if result and result.detail]
    if details:
        entry["counts"] = details
    return entry


def scenario_entry(rounds, scenario, names):
    cells = {name: rounds.cells[scenario.id, name] for name in names}
    metrics = []
    for metric in scenario.metrics:
        samples = {name: [result.figures.get(metric.key) if result else None for result in cell.rounds]
                   for name, cell in cells.items()}
        figures = {name: summary(column) for name, column in samples.items()}
        subject = samples[names[0]]
        metrics.append({
            "key": metric.key, "name": metric.name, "unit": metric.unit, "better": metric.better,
            "samples": samples, **{what: {name: figures[name][what] for name in names}
                                   for what in ("median", "min", "max")},
            "ratios": {name: ratios(subject, samples[name]) for name in names[1:]}})
    return {"id": scenario.id, "group": scenario.group, "title": scenario.title, "way": scenario.way,
            "load": list(scenario.load), "mtu": scenario.mtu, "rtt_ms": scenario.rtt_ms, "idle": scenario.idle,
            "programs": {name: cell_entry(cell) for name, cell in cells.items()}, "metrics": metrics}


def result(rounds, unavailable, options, started, load_before):
    names = [program["name"] for program in rounds.programs]
    return {
        "format": FORMAT, "mode": options.mode, "started": started, "finished": utc_now(),
        "settings": {"rounds": len(rounds.seconds), "rounds_wanted": options.rounds,
                     "seconds": [round(s, 3) for s in rounds.seconds],
                     "minutes": options.minutes, "ready_starts": READY_STARTS,
                     "idle_settle_seconds": IDLE_SETTLE_S, "idle_seconds": IDLE_S},
        "machine": machine(rounds.world, load_before),
        "programs": [{"name": program["name"], "command": program["command"], "version": program["version"],
                      "limit": program["kind"].limit, "kind": type(program["kind"]).__name__.lower()}
                     for program in rounds.programs],
        "unavailable": unavailable, "subject": names[0],
        "scenarios": [scenario_entry(rounds, scenario, names) for scenario in rounds.scenarios],
        "failures": [{"scenario": cell.scenario.id, "program": cell.program["name"], **error}
                     for cell in rounds.cells.values() for error in cell.errors]}


def validate(result):
    """What the schema says against a result; None if it could not be asked."""
    try:
        import jsonschema
    except ImportError:
        return None
    schema = json.loads((BENCH / "schema.json").read_text())
    validator = jsonschema.validators.validator_for(schema)
    validator.check_schema(schema)
    return [f"{e.json_path}: {e.message}" for e in validator(schema).iter_errors(result)]


# ---- tables ----

def facts(result):
    """When, where and on what, line by line."""
    m, cc, settings = result["machine"], result["machine"]["congestion_control"], result["settings"]
    yield f"Date: {result['started']} to {result['finished']}"
    yield (f"Machine: {m['cpus']} CPUs ({m['cpu_model']}), {m['memory_kib'] / 2 ** 20:.0f} GiB, {m['distribution']},"
           f" Linux {m['kernel']} {m['architecture']}")
    busy = "" if m["busy_before"] is None else f", {m['busy_before']:.0%} busy before"
    yield f"Load average: {m['load_average']['before']:.2f} before, {m['load_average']['after']:.2f} after{busy}"
    yield f"Congestion control: {cc['host']} on the host, {' '.join(cc['guest']) or 'unknown'} in the guest"
    yield f"Started by {'root' if m['root'] else 'an ordinary user'}; long ways by {m['delay']}"
    yield f"Checkout: {m['commit']}{' with changes' if m['commit_dirty'] else ''}"
    for program in result["programs"]:
        command = f"{' '.join(program['command'])}, " if program["command"] else ""
        yield f"{program['name']}: {command}{'; '.join(program['version'])}"
    for entry in result["unavailable"]:
        yield f"{entry['program']}: UNAVAILABLE: {' / '.join(entry['reason'].splitlines())}"
    low, high = min(settings["seconds"]), max(settings["seconds"])
    length = f"{low:.2f}" if high - low < 0.005 else f"{low:.2f} to {high:.2f}"
    wanted = "" if settings["rounds"] == settings["rounds_wanted"] else f" of {settings['rounds_wanted']}"
    yield (f"{settings['rounds']}{wanted} rounds, interleaved, {length} s a load; medians; ratios are medians of the ratios"
           " within a round" + ("; SMOKE TEST: the figures mean nothing" if result["mode"] == "smoke" else ""))


def cell_text(scenario, metric, name, spread):
    """A program's figure in the table, or why there is none."""
    state = scenario["programs"][name]["state"]
    if state in ("cannot", "failed"):
        return STATES[state]
    if metric["median"][name] is None:
        return "–"
    text = human(metric["median"][name], metric["unit"]) + (STATES["partly"] if state == "partly" else "")
    column = {"min": metric["min"][name], "max": metric["max"][name]}
    return f"{text} ({human_spread(column, metric['unit'])})" if spread else text


def ratio_text(ratio, spread):
    if ratio["median"] is None:
        return "–"
    return factor(ratio["median"]) + (f" ({factor(ratio['min'])} – {factor(ratio['max'])})" if spread else "")


def tables(result, spread):
    """[(group, rows)]; the first row is the heading."""
    names = [program["name"] for program in result["programs"]]
    found = []
    for scenario in result["scenarios"]:
        if not found or found[-1][0] != scenario["group"]:
            found.append((scenario["group"], [["", "better", *names,
                                               *(f"{names[0]}/{name}" for name in names[1:])]]))
        for metric in scenario["metrics"]:
            title = ": ".join(filter(None, (scenario["title"], metric["name"])))
            found[-1][1].append([title, metric["better"],
                                 *(cell_text(scenario, metric, name, spread) for name in names),
                                 *(ratio_text(metric["ratios"][name], spread) for name in names[1:])])
    return found


def remarks(result):
    """Why cells are empty."""
    cannot, seen = {}, set()
    for scenario in result["scenarios"]:
        for name, entry in scenario["programs"].items():
            if entry["state"] == "cannot":
                cannot.setdefault((name, entry["reason"]), []).append(scenario["id"])
    for (name, reason), ids in cannot.items():
        yield f"{name} cannot: {reason} ({len(ids)} scenarios)"
    for failure in result["failures"]:
        key = (failure["scenario"], failure["program"], failure["error"])
        if key not in seen:
            seen.add(key)
            what = "STALLED" if failure["error"].startswith("stalled") else "FAILED"
            yield (f"{what} in round {failure['round']}: {failure['scenario']}, {failure['program']}:"
                   f" {' / '.join(failure['error'].splitlines())}")


def plain(result):
    lines = list(facts(result))
    for group, rows in tables(result, spread=False):
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines += ["", group]
        lines += ["  " + "  ".join(cell.ljust(width) if i < 2 else cell.rjust(width)
                                   for i, (cell, width) in enumerate(zip(row, widths))).rstrip() for row in rows]
    return "\n".join([*lines, "", *remarks(result)]).rstrip() + "\n"


def markdown(result, pictures=()):
    lines = [f"- {fact}" for fact in facts(result)] + [
        "- In brackets: the lowest and the highest of the rounds. An asterisk: it failed or stalled in some rounds, see the end.", ""]
    lines += [f"![{title}]({file})" for file, title in pictures]
    for group, rows in tables(result, spread=True):
        lines += ["", f"### {group}", "", "| " + " | ".join(rows[0]) + " |",
                  "|" + "|".join([" --- "] * 2 + [" ---: "] * (len(rows[0]) - 2)) + "|"]
        lines += ["| " + " | ".join(row) + " |" for row in rows[1:]]
    notes = list(remarks(result))
    if notes:
        lines += ["", "### Not measured", "", *(f"- {text.replace('|', '/')}" for text in notes)]
    return "\n".join(lines) + "\n"


# What a short table is made of, where there are figures for it.
SHORT = [("tcp-out/1500/1", "bits_per_s"), ("tcp-out/65520/1", "bits_per_s"), ("tcp-out/65520/4", "bits_per_s"),
         ("tcp-in/1500/1", "bits_per_s"), ("tcp-in/65520/1", "bits_per_s"), ("tcp-in/65520/4", "bits_per_s"),
         ("tcp-both/65520/4", "bits_per_s"), ("nested-out/1500/1", "bits_per_s"), ("nested-in/1500/1", "bits_per_s"),
         ("fwd-in/host/1", "bits_per_s"), ("fwd-in/host/16", "bits_per_s"), ("fwd-out/remote/4", "bits_per_s"),
         ("rtt-out/10", "bits_per_s"), ("rtt-in/100", "bits_per_s"), ("tcp-out/65520/1", "cpu_program"),
         ("fwd-in/host/1", "cpu_program"), ("tcp-rr", "p50_us"), ("tcp-rr", "p99_us"), ("udp-rr", "p50_us"),
         ("fwd-tcp-rr", "p50_us"), ("tcp-crr", "per_second"), ("fwd-tcp-crr", "per_second"),
         ("fwd-tcp-crr-many", "per_second"), ("udp-out/1200", "per_second"), ("udp-in/1200", "per_second"),
         ("udp-echo/1200", "per_second"), ("dns", "per_second"), ("flows/1000", "p50_us"), ("flows/5000", "p50_us"),
         ("flows/1000", "flow_kib"), ("ready", "ready_ms"), ("idle", "rss_kib"), ("idle", "wakeups")]


def short(result):
    """A Markdown table for the front page: the most important scenarios, medians, and the ratio to each peer."""
    names = [program["name"] for program in result["programs"]]
    peers = [program["name"] for program in result["programs"][1:] if not program["limit"]]
    found = {scenario["id"]: scenario for scenario in result["scenarios"]}
    rows = [["", "better", *names, *(f"{names[0]}/{name}" for name in peers)]]
    for identifier, key in SHORT:
        scenario = found.get(identifier)
        metric = next((m for m in scenario["metrics"] if m["key"] == key), None) if scenario else None
        if metric:
            title = ": ".join(filter(None, (scenario["group"], scenario["title"], metric["name"])))
            rows.append([title, metric["better"], *(cell_text(scenario, metric, name, False) for name in names),
                         *(ratio_text(metric["ratios"][name], False) for name in peers)])
    return "\n".join(["| " + " | ".join(rows[0]) + " |", "|" + "|".join([" --- "] * 2 + [" ---: "] * (len(rows[0]) - 2)) +
                      "|", *("| " + " | ".join(row) + " |" for row in rows[1:])]) + "\n"


# ---- files ----

def deliver(result, options):
    """Writes and prints everything; returns the exit status."""
    problems = validate(result)
    pictures, plot_error = [], None
    text = json.dumps(result, indent=1) + "\n"
    if options.json:
        options.json.write_text(text)
    if options.out:
        (options.out / "result.json").write_text(text)
        try:
            pictures = plots.draw(result, options.out)
        except MeasurementError as e:
            plot_error = e
        (options.out / "result.md").write_text(markdown(result, pictures))
        (options.out / "short.md").write_text(short(result))
    print(markdown(result, pictures) if options.markdown else plain(result), end="", flush=True)
    if plot_error:
        note(f"compare: no pictures: {plot_error}")
    if options.out:
        note(f"compare: result.json, result.md and {len(pictures)} pictures (SVG and PNG) are in {options.out}")
    for problem in problems or []:
        note(f"compare: the result is not what bench/schema.json says: {problem}")
    return status(result, problems, options)


def status(result, problems, options):
    """A peer that fails is part of the result; what was asked for by name must be there, and our program work."""
    subject = [f for f in result["failures"] if f["program"] == result["subject"]]
    missing = [e["program"] for e in result["unavailable"] if e["program"] in options.asked_for]
    for name in missing:
        note(f"compare: {name} was asked for and could not be measured")
    figures = sum(figure is not None for scenario in result["scenarios"] for metric in scenario["metrics"]
                  for samples in metric["samples"].values() for figure in samples)
    judged = "not validated, there is no jsonschema" if problems is None else f"{len(problems)} schema problems"
    note(f"compare: {figures} figures, {len(result['failures'])} failures, {len(subject)} of them of"
         f" {result['subject']}; JSON: {judged}")
    return 1 if subject or problems or missing else 0
