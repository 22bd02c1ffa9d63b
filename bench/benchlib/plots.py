# SPDX-License-Identifier: GPL-2.0-or-later
"""Pictures of a result, by gnuplot: each as SVG and as PNG."""
import shutil
import subprocess

from .util import MeasurementError

GNUPLOT_S = 60
COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#f0e442", "#999999"]
LIMIT_COLOURS = ["#777777", "#bbbbbb"]

HEAD = """
set encoding utf8
set title "{title}" noenhanced font ",15"
set key outside top center horizontal noenhanced samplen 1.5 width 1
set grid ytics lc rgb "#dddddd" lt 1 lw 1
set border 3 lc rgb "#555555"
set tics nomirror tc rgb "#222222"
set ylabel "{ylabel}" noenhanced
"""


def colours(result):
    """{program: colour}: always the same one for the same place; limits are grey."""
    found, n, n_limits = {}, 0, 0
    for program in result["programs"]:
        if program["limit"]:
            found[program["name"]] = LIMIT_COLOURS[n_limits % len(LIMIT_COLOURS)]
            n_limits += 1
        else:
            found[program["name"]] = COLOURS[n % len(COLOURS)]
            n += 1
    return found


def by_id(result):
    return {scenario["id"]: scenario for scenario in result["scenarios"]}


def metric_of(scenario, key):
    return next((metric for metric in scenario["metrics"] if metric["key"] == key), None) if scenario else None


def quoted(text):
    """A string of gnuplot's; a new line stays one."""
    return '"' + text.replace("\\", "").replace('"', "'").replace("\n", "\\n") + '"'


# ---- grouped bars ----

def bars(result, title, ylabel, entries, scale=1.0, log=False):
    """A script for grouped bars with their range. entries: [(label, scenario, key)]; None if there is nothing."""
    names = [program["name"] for program in result["programs"]]
    rows, used, highest = [], set(), 0
    for label, scenario, key in entries:
        metric = metric_of(scenario, key)
        if metric is None or all(metric["median"][name] is None for name in names):
            continue
        row = [quoted(label)]
        for name in names:
            figures = [metric[what][name] for what in ("median", "min", "max")]
            if figures[0] is None:
                row += ["NaN"] * 3
            else:
                used.add(name)
                row += [f"{figure * scale:.6g}" for figure in figures]
                highest = max(highest, figures[2] * scale)
        rows.append(" ".join(row))
    if not rows:
        return None
    colour = colours(result)
    plots = []
    for i, name in enumerate(names):
        if name in used:
            c = 2 + 3 * i
            plots.append(f"$data using {c}:{c + 1}:{c + 2}:xtic(1) title {quoted(name)} lc rgb '{colour[name]}'")
    n_lines = 1 + max(label.count("\n") for label, *_ in entries)
    script = [HEAD.format(title=title, ylabel=ylabel), "$data << EOD", *rows, "EOD", f"set bmargin {n_lines + 1.5}",
             "set style data histogram", "set style histogram errorbars gap 1 lw 1", "set style fill solid 1.0 noborder",
             "set bars 0.4", "set errorbars lc rgb '#333333'", "set xtics noenhanced scale 0 font ',10'",
             f"set logscale y\nset format y '%g'\nset yrange [*:{highest * 1.5:g}]" if log
             else f"set yrange [0:{highest * 1.08:g}]",
             "plot " + ", \\\n     ".join(plots)]
    return "\n".join(script)


def line_block(result, tag, points_of):
    """(data, parts of a plot command, x values) for one line for each program. points_of(name): [(x, scenario, key,
    scale)]"""
    colour, blocks, parts, ticks = colours(result), [], [], set()
    for i, name in enumerate(program["name"] for program in result["programs"]):
        data = []
        for x, scenario, key, scale in points_of(name):
            metric = metric_of(scenario, key)
            if metric and metric["median"].get(name) is not None:
                data.append(" ".join(f"{value:.6g}" for value in
                                     (x, *(metric[what][name] * scale for what in ("median", "min", "max")))))
                ticks.add(x)
        if data:
            blocks += [f"${tag}{i} << EOD", *data, "EOD"]
            parts.append(f"${tag}{i} using 1:2:3:4 with yerrorlines title {quoted(name)} lc rgb '{colour[name]}'"
                         " lw 2 pt 7 ps 0.8")
    return blocks, parts, ticks


def x_axis(ticks, log):
    labels = ", ".join(f"'{x:,}' {x}" for x in sorted(ticks))
    margin = (f"[{min(ticks) * 0.8}:{max(ticks) * 1.25}]" if log
              else f"[{-max(ticks) * 0.05}:{max(ticks) * 1.05}]")
    return [f"{'set' if log else 'unset'} logscale x", f"set xtics ({labels})", f"set xrange {margin}"]


def lines(result, title, xlabel, ylabel, points_of, logy=False):
    """A script for one line for each program."""
    blocks, parts, ticks = line_block(result, "s", points_of)
    if len(ticks) < 2:
        return None
    return "\n".join([HEAD.format(title=title, ylabel=ylabel), *blocks, f"set xlabel {quoted(xlabel)} noenhanced",
                      *x_axis(ticks, log=False), "set logscale y" if logy else "set yrange [0:*]",
                      "plot " + ", \\\n     ".join(parts)])


def panels(title, ylabel, blocks, made):
    """A script for several plots on one sheet. made: [(heading, lines before, parts)]"""
    columns = 2 if len(made) > 1 else 1
    rows = (len(made) + columns - 1) // columns
    script = [HEAD.format(title="", ylabel=ylabel), *blocks,
              f"set multiplot layout {rows},{columns} title {quoted(title)} noenhanced font ',15'",
              "set grid xtics ytics lc rgb '#dddddd' lt 1"]
    for heading, before, parts in made:
        script += [f"set title {quoted(heading)} noenhanced font ',12'", *before,
                   "plot " + ", \\\n     ".join(parts)]
    return "\n".join([*script, "unset multiplot"])


def flows(result, title, entries):
    """Throughput against the number of flows. entries: [(heading, {streams: scenario})]"""
    blocks, made = [], []
    for i, (heading, scenarios) in enumerate(entries):
        def points_of(_name, scenarios=scenarios):
            return [(n, scenario, "bits_per_s", 1e-9) for n, scenario in scenarios.items()]

        data, parts, ticks = line_block(result, f"f{i}_", points_of)
        if len(ticks) > 1:
            blocks += data
            made.append((heading, [*x_axis(ticks, log=True), "set yrange [0:*]", "set xlabel 'streams'"], parts))
    return panels(title, "Gbit/s", blocks, made) if made else None


def cdf(result, title, entries):
    """The distribution of latencies. entries: [(heading, scenario)]"""
    colour = colours(result)
    blocks, made = [], []
    for i, (heading, scenario) in enumerate(entries):
        parts = []
        for j, name in enumerate(program["name"] for program in result["programs"]):
            points = scenario["programs"][name].get("cdf_us") if scenario else None
            if points:
                blocks += [f"$d{i}_{j} << EOD", *(f"{us:.3f} {share * 100:.4f}" for share, us in points), "EOD"]
                parts.append(f"$d{i}_{j} using 1:2 with lines title {quoted(name)} lc rgb '{colour[name]}' lw 2")
        if parts:
            made.append((heading, ["set logscale x", "set xlabel 'microseconds'", "set yrange [0:100]", "set ytics 20",
                                   "set key bottom right inside vertical"], parts))
    return panels(title, "share of answers, %", blocks, made) if made else None


# ---- the pictures ----

def scripts(result):
    """[(file name without its end, title, width, height, script)] of all pictures there are figures for."""
    s = by_id(result)
    get = s.get
    giga = 1e-9

    out_mtu = [(f"{word}\n{mtu}", get(f"tcp-{way}/{mtu}/{n}"), "bits_per_s")
               for n in (4, 1) for mtu in (1500, 9000, 65520)
               for word, way in (("out", "out"), ("in", "in"), ("both", "both"))]
    nested = [(f"{word}\n{mtu}", get(f"nested-{way}/{mtu}/{n}"), "bits_per_s")
              for n in (4, 1) for mtu in (1500, 65520) for word, way in (("out", "out"), ("in", "in"))]

    def present(entries):
        """Of two entries with one label the first that there is."""
        seen, kept = set(), []
        for entry in entries:
            if entry[1] is not None and entry[0] not in seen:
                seen.add(entry[0])
                kept.append(entry)
        return kept

    overview = present([
        ("guest to host,\nMTU 1500", get("tcp-out/1500/4"), "bits_per_s"),
        ("host to guest,\nMTU 1500", get("tcp-in/1500/4"), "bits_per_s"),
        ("guest to host,\nMTU 65520", get("tcp-out/65520/4") or get("tcp-out/65520/1"), "bits_per_s"),
        ("host to guest,\nMTU 65520", get("tcp-in/65520/4") or get("tcp-in/65520/1"), "bits_per_s"),
        ("nested container\nto host, MTU 1500", get("nested-out/1500/4") or get("nested-out/1500/1"), "bits_per_s"),
        ("port forward,\nto guest", get("fwd-in/host/4") or get("fwd-in/host/1"), "bits_per_s"),
        ("port forward,\nfrom guest", get("fwd-out/remote/4"), "bits_per_s")])
    yield ("overview", "TCP throughput", 1100, 480,
           bars(result, "TCP throughput: medians, lines from the lowest to the highest round", "Gbit/s", overview,
                giga))
    yield ("throughput-mtu", "TCP throughput of the guest by direction and MTU", 1100, 480,
           bars(result, "TCP of the guest by direction and MTU", "Gbit/s", present(out_mtu), giga))
    yield ("throughput-nested", "TCP throughput of a nested container", 900, 480,
           bars(result, "TCP of a container behind a bridge and masquerade in the guest, by MTU", "Gbit/s",
                present(nested), giga))
    forward = [(f"{word}\n{where}\n{n} stream{'s' if n > 1 else ''}", get(f"fwd-{way}/{client}/{n}"), "bits_per_s")
               for word, way in (("to guest", "in"), ("from guest", "out"))
               for where, client in (("loopback", "host"), ("remote", "remote")) for n in (1, 4, 16)]
    yield ("throughput-forwards", "TCP throughput of port forwards", 1200, 500,
           bars(result, "TCP port forwards", "Gbit/s", present(forward), giga))
    yield ("throughput-flows", "Throughput against the number of flows", 1100, 760,
           flows(result, "Throughput against the number of flows",
                 [(heading, {n: get(f"{prefix}/{n}") for n in (1, 4, 16)}) for heading, prefix in
                  (("guest to host, MTU 65520", "tcp-out/65520"), ("host to guest, MTU 65520", "tcp-in/65520"),
                   ("guest to host, MTU 1500", "tcp-out/1500"), ("port forward to the guest", "fwd-in/host"))]))
    distance = [(f"{word}\n{rtt} ms", get(f"rtt-{way}/{rtt}"), "bits_per_s")
                for rtt in (10, 100) for word, way in (("out", "out"), ("in", "in"), ("forward", "fwd-in"))]
    yield ("throughput-distance", "TCP throughput over a long way", 1000, 480,
           bars(result, "One TCP stream over a long way, by round-trip time", "Mbit/s", present(distance), 1e-6,
                log=True))
    yield ("latency", "Latency of a round trip", 1000, 480,
           bars(result, "Round trip of one byte, median", "µs", present(
               [(label, get(name), "p50_us") for label, name in
                (("TCP", "tcp-rr"), ("UDP", "udp-rr"), ("TCP, forward", "fwd-tcp-rr"),
                 ("UDP, forward", "fwd-udp-rr"), ("new TCP\nconnection", "tcp-crr"),
                 ("new TCP\nconnection, forward", "fwd-tcp-crr"))])))
    yield ("latency-cdf", "Distribution of the latency of a round trip", 1100, 760,
           cdf(result, "Round trip of one byte: share of answers within a time",
               [("TCP", get("tcp-rr")), ("UDP", get("udp-rr")), ("TCP through a forward", get("fwd-tcp-rr")),
                ("UDP through a forward", get("fwd-udp-rr"))]))
    yield ("rates", "Connections and queries per second", 1100, 480,
           bars(result, "New connections and DNS queries per second", "1/s", present(
               [("connections out", get("tcp-crr"), "per_second"),
                ("connections out,\n32 at a time", get("tcp-crr-many"), "per_second"),
                ("connections through\na forward", get("fwd-tcp-crr"), "per_second"),
                ("through a forward,\n32 at a time", get("fwd-tcp-crr-many"), "per_second"),
                ("DNS queries", get("dns"), "per_second"),
                ("DNS queries,\nnew sockets", get("dns-fresh"), "per_second")])))
    udp = [(f"{word}\n{size:,}", get(f"udp-{way}/{size}"), "per_second")
           for word, way in (("out", "out"), ("in", "in"), ("echo", "echo")) for size in (64, 1200, 8192, 60000)]
    yield ("udp", "Datagrams per second by size", 1200, 480,
           bars(result, "Datagrams delivered per second, by bytes of payload", "1/s", present(udp), log=True))
    yield ("idle-connections", "Round trip besides idle connections", 900, 500,
           lines(result, "TCP round trip while other connections are open and idle", "idle connections",
                 "µs, median", lambda _name: [(n, get(f"flows/{n}"), "p50_us", 1.0) for n in (0, 1000, 5000)],
                 logy=True))
    cost = [(f"{label}", get(name), key) for key in ("cpu_program",) for label, name in
            (("out, MTU 1500", "tcp-out/1500/1"), ("in, MTU 1500", "tcp-in/1500/1"),
             ("out, MTU 65520", "tcp-out/65520/1"), ("in, MTU 65520", "tcp-in/65520/1"),
             ("forward\nto guest", "fwd-in/host/1"), ("forward\nfrom guest", "fwd-out/host/1"),
             ("UDP out", "udp-out/1200"))]
    yield ("cpu", "CPU time of the program per GiB", 1000, 480,
           bars(result, "CPU seconds of the program per GiB, its helper processes included", "s/GiB", present(cost),
                log=True))


def draw(result, directory):
    """Writes the pictures there; returns [(SVG file, title)]. Raises MeasurementError when gnuplot cannot."""
    gnuplot = shutil.which("gnuplot")
    if not gnuplot:
        raise MeasurementError("there is no gnuplot: install the package gnuplot-nox")
    drawn = []
    for name, title, width, height, script in scripts(result):
        if script is None:
            continue
        for end, terminal in (("svg", f"svg size {width},{height} dynamic background rgb 'white' font 'sans,12'"),
                              ("png", f"pngcairo size {width},{height} background rgb 'white' font 'sans,11'")):
            text = f"set terminal {terminal}\nset output {quoted(str(directory / f'{name}.{end}'))}\n{script}\n"
            try:
                done = subprocess.run([gnuplot], input=text, capture_output=True, text=True, timeout=GNUPLOT_S)
            except (OSError, subprocess.TimeoutExpired) as e:
                raise MeasurementError(f"gnuplot: {e}") from e
            if done.returncode != 0 or "error" in done.stderr.lower():
                raise MeasurementError(f"gnuplot: {name}.{end}: {done.stderr.strip()}")
        drawn.append((f"{name}.svg", title))
    return drawn
