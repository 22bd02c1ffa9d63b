# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line, and what has to be there before anything is measured."""
import argparse
import importlib.util
import os
import shlex
import shutil
import subprocess
from pathlib import Path

from . import scenarios
from .util import ROOT, busy_share, note

PROGRAMS = {"ours": [os.environ.get("SLIRP4NETNS") or "build/src/slirp4netns"], "reference": ["/usr/bin/slirp4netns"], "pasta": ["/usr/bin/pasta"],
            "rootlesskit": ["/usr/bin/rootlesskit"], "relay": [], "loopback": [], "veth": []}
LIMITS = ("relay", "loopback", "veth")
LEFT_OUT = {"full": (), "quick": ("relay", "veth"), "smoke": ("veth",)}
MINUTES_FULL, MINUTES_QUICK = 40.0, 2.6
ROUNDS_FULL, ROUNDS_QUICK = 5, 3
SMOKE_SECONDS = 0.1
SMOKE_PATIENCE_S = 10.0
BUSY_LOOK_S, BUSY_LOOKS, BUSY_MAX = 1.0, 5, 0.15
TOOLS = {"slirp4netns": "the reference", "pasta": "a peer", "rootlesskit": "a peer", "nft": "nested containers",
         "gnuplot": "pictures", "iperf3": "a load", "ip": "the network", "unshare": "namespaces", "cc": "the load generator"}


def positive(kind, most=3600):
    def parse(text):
        value = kind(text)
        if not 0 < value <= most:
            raise ValueError
        return value
    parse.__name__ = f"positive {kind.__name__}"
    return parse


def parse_program(text):
    """NAME, or NAME=PATH[,ARG]..."""
    name, equals, rest = text.partition("=")
    if not equals:
        if name not in PROGRAMS:
            raise argparse.ArgumentTypeError(f"'{name}' is none of {' '.join(PROGRAMS)}, and has no =PATH[,ARG]...")
        return {"name": name, "command": list(PROGRAMS[name])}
    command = rest.split(",")
    if not name or not command[0] or name in LIMITS:
        raise argparse.ArgumentTypeError(f"'{text}' is not NAME=PATH[,ARG]...")
    return {"name": name, "command": command}


def parse_peer(text):
    """NAME=COMMAND, as a shell would split it."""
    name, equals, rest = text.partition("=")
    try:
        command = shlex.split(rest)
    except ValueError as e:
        raise argparse.ArgumentTypeError(f"'{text}': {e}") from e
    if not name or not equals or not command or name in PROGRAMS:
        raise argparse.ArgumentTypeError(f"'{text}' is not NAME=COMMAND with a name of its own")
    return {"name": name, "command": command}


def parser():
    p = argparse.ArgumentParser(
        prog="bench/compare",
        description="Compares this slirp4netns with its peers: paired, interleaved, in namespaces of its own.",
        epilog="Scenarios: " + " ".join(s.id for s in scenarios.all_scenarios()) +
               ". A name may end before a slash: tcp-in means all of tcp-in/MTU/STREAMS.")
    mode = p.add_mutually_exclusive_group()
    mode.add_argument("--quick", action="store_true", help="the most important scenarios in under three minutes")
    mode.add_argument("--full", action="store_true",
                      help=f"all scenarios, {ROUNDS_FULL} rounds, in {MINUTES_FULL:g} minutes (this is the default)")
    mode.add_argument("--smoke", action="store_true",
                      help="one scenario of each kind, as short as can be: does everything work?")
    p.add_argument("--minutes", type=positive(float), metavar="N", help="how long it may take: loads are so long")
    p.add_argument("--rounds", type=positive(int, 1000), help=f"rounds (default {ROUNDS_FULL}, or {ROUNDS_QUICK})")
    p.add_argument("--seconds", type=positive(float), help="seconds of one load, whatever it takes in all")
    p.add_argument("--peer", type=parse_peer, action="append", default=[], metavar="NAME=COMMAND",
                   help="one more program; its kind goes by its file's name (pasta, rootlesskit, else slirp4netns)")
    p.add_argument("--programs", type=parse_program, nargs="+", metavar="NAME[=PATH[,ARG]...]",
                   help=f"what to compare (default: {' '.join(PROGRAMS)}); the first one is divided by the others")
    p.add_argument("--cells", nargs="+", metavar="SCENARIO", help="only these")
    p.add_argument("--out", type=Path, metavar="DIRECTORY",
                   help="write result.json, result.md, short.md and pictures there (default: bench/out; --smoke: nowhere)")
    p.add_argument("--json", type=Path, metavar="FILE", help="write the result there as well")
    p.add_argument("--markdown", action="store_true", help="print the Markdown tables, not the plain ones")
    p.add_argument("--user", help="ordinary user for rootlesskit (default: slirptest, or one with subordinate ids)")
    p.add_argument("--force", action="store_true", help="measure on a busy machine, too")
    return p


def parse(arguments=None):
    p = parser()
    options = p.parse_args(arguments)
    options.mode = "quick" if options.quick else "smoke" if options.smoke else "full"
    everything = {s.id: s for s in scenarios.all_scenarios()}
    wanted = options.cells or {"quick": scenarios.QUICK, "smoke": scenarios.SMOKE}.get(options.mode, list(everything))
    try:
        options.scenarios = [everything[name] for name in scenarios.select(list(everything), wanted)]
    except KeyError as e:
        p.error(f"there is no scenario {e.args[0]}; --help lists them")
    options.asked_for = {program["name"] for program in [*(options.programs or []), *options.peer]}
    options.programs = (options.programs or
                        [parse_program(name) for name in PROGRAMS if name not in LEFT_OUT[options.mode]])
    # Limits are the last columns.
    options.programs = sorted([*options.programs, *options.peer], key=lambda program: program["name"] in LIMITS)
    if len({program["name"] for program in options.programs}) != len(options.programs):
        p.error("programs need different names")
    options.rounds = options.rounds or {"quick": ROUNDS_QUICK, "smoke": 1}.get(options.mode, ROUNDS_FULL)
    if options.seconds and options.minutes:
        p.error("--seconds and --minutes contradict each other")
    if options.mode == "smoke":
        options.seconds = options.seconds or SMOKE_SECONDS
    elif not options.seconds:
        options.minutes = options.minutes or (MINUTES_QUICK if options.mode == "quick" else MINUTES_FULL)
    if not options.out and options.mode != "smoke":
        options.out = ROOT / "bench" / "out"
    return options


def prepare(options):
    """Installs what is missing, builds what is to be measured; returns why nothing can be measured, or None."""
    missing = [f"{tool} ({why})" for tool, why in TOOLS.items() if not shutil.which(tool, path=search_path())]
    if importlib.util.find_spec("jsonschema") is None:
        missing.append("python3-jsonschema (checks the result)")
    if missing and not options.smoke:
        note(f"compare: missing: {', '.join(missing)}")
        if subprocess.run([ROOT / "scripts" / "deps.sh", "bench"], stdout=2, check=False).returncode != 0:
            note("compare: going on with what is there")
    if (any(program["command"] == PROGRAMS["ours"] for program in options.programs)
            and not os.access(ROOT / PROGRAMS["ours"][0], os.X_OK)):
        note("compare: building")
        script = f'. "{ROOT}/scripts/lib.sh"; "$root/scripts/deps.sh" build; build "$build_dir" --buildtype=release'
        if subprocess.run(["bash", "-e", "-c", script, "compare"], stdout=2, check=False).returncode != 0:
            return "the program could not be built; see above"
    if not options.smoke:
        options.busy = min_until(BUSY_MAX, BUSY_LOOKS, lambda: busy_share(BUSY_LOOK_S))
        if options.busy > BUSY_MAX and not options.force:
            return (f"{options.busy:.0%} of this machine is busy with something else: figures would be worth nothing."
                    " End that, or measure nevertheless with --force")
    return None


def min_until(enough, times, look):
    """The lowest of several looks; the first one that is low enough is the last."""
    lowest = look()
    for _ in range(times - 1):
        if lowest <= enough:
            break
        lowest = min(lowest, look())
    return lowest


def search_path():
    return os.environ.get("PATH", "/usr/bin:/bin") + ":/usr/sbin:/sbin"
