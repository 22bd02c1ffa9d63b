# SPDX-License-Identifier: GPL-2.0-or-later
"""Medians, ratios, distributions, costs: pure functions. None stands for what was not measured."""
import statistics

GIB_BITS = 8 * 2 ** 30


def over(function, values):
    """function of what was measured; None if nothing was."""
    there = [value for value in values if value is not None]
    return function(there) if there else None


def summary(values):
    return {"median": over(statistics.median, values), "min": over(min, values), "max": over(max, values)}


def ratios(column, other):
    """column/other, round by round. A round in which one of them is missing, or other is 0, has no ratio."""
    paired = [a / b if a is not None and b else None for a, b in zip(column, other)]
    return {"paired": paired, **summary(paired)}


def cost_per_gib(cpu_seconds_per_second, bits_per_s):
    """CPU seconds for a GiB of payload; None when nothing has arrived."""
    return cpu_seconds_per_second * GIB_BITS / bits_per_s if bits_per_s else None


def distribution(rounds):
    """The median, over the rounds, of each quantile: [[share, us], ...]. Rounds are such lists, with the same shares."""
    if not rounds:
        return []
    return [[points[0][0], statistics.median(point[1] for point in points)] for points in zip(*rounds)]


def way_taken(payload_bytes, link_bytes):
    """How the payload went: "tap" when the guest's interface has carried it, "splice" when that has carried next to
    nothing of it, else "mixed"."""
    share = link_bytes / payload_bytes if payload_bytes else 0
    return "tap" if share >= 0.5 else "splice" if share <= 0.1 else "mixed"


def human(value, unit):
    """A figure as people read it."""
    if value is None:
        return "–"
    if unit == "bit/s":
        return f"{value / 1e9:.2f} Gbit/s" if value >= 1e9 else f"{value / 1e6:.1f} Mbit/s"
    if unit == "KiB":
        return f"{value / 1024:.2f} MiB" if value >= 1024 else f"{value:.2f} KiB"
    if unit == "us":
        return f"{value / 1000:.2f} ms" if value >= 10000 else f"{value:.1f} µs"
    if unit == "1/s":
        return f"{value:,.0f} /s" if value >= 100 else f"{value:.2f} /s"
    if unit == "count":
        return f"{value:,g}"
    return f"{value:.3f} {unit}" if value < 10 else f"{value:.1f} {unit}"


def human_spread(values, unit):
    return "–" if values["min"] is None else f"{human(values['min'], unit)} – {human(values['max'], unit)}"


def factor(value):
    if value is None:
        return "–"
    return f"{value:.2f}" if value < 100 else f"{value:.0f}"


def minutes(seconds):
    seconds = max(0, round(seconds))
    return f"{seconds // 60}:{seconds % 60:02d}"


def plan_seconds(budget_s, overheads_s, stretches, least, most):
    """The seconds of a load, so that measurements with these overheads and stretches take budget_s in all."""
    seconds = (budget_s - sum(overheads_s)) / sum(stretches) if stretches else least
    return min(max(seconds, least), most)
