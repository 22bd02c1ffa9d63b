#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Checks the models of the ring and of the eventcount with spin, exhaustively, and that each can fail.

Three kinds of runs: the model as it is must hold in every reachable state; with REACH it must be possible to come to
the end (a model that stops early proves nothing); with each BROKEN variant the promise must be refuted. And the
source must still be what was modelled: a changed operation or ordering in it has to be looked at here first.

run.py [spsc|wakeup]       needs spin and a C compiler; exit status 77 without them
"""

import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
SOURCE = HERE.parents[1] / "src" / "io"
SECONDS_MAX = 120
DEPTH_MAX = 200000

HOLDS = {
    "spsc": ["-DSLOTS=2 -DITEMS=8", "-DSLOTS=4 -DITEMS=6"],
    "wakeup": ["-DPRODUCERS=1 -DITEMS=3", "-DPRODUCERS=2 -DITEMS=1", "-DPRODUCERS=1 -DITEMS=2 -DSTOP",
               "-DPRODUCERS=2 -DITEMS=1 -DSPURIOUS=0 -DSTOP"],
}
REACHES = {"spsc": ["-DREACH"], "wakeup": ["-DREACH", "-DREACH -DSTOP"]}
REFUTED = {
    "spsc": [(f"-DBROKEN={n}", "assertion violated") for n in range(1, 7)],
    "wakeup": [(f"-DPRODUCERS=1 -DITEMS=1 -DBROKEN={n}", "invalid end state") for n in range(1, 6)],
}

# Every atomic operation of the functions that are modelled: what, on what, with which ordering.
MODELLED = {
    "spsc.h": {
        "spsc_push": [("load", "tail", "relaxed"), ("load", "head", "acquire"), ("store", "tail", "release")],
        "spsc_pop": [("load", "head", "relaxed"), ("load", "tail", "acquire"), ("store", "head", "release")],
    },
    "wakeup.h": {
        "wakeup_prepare": [("store", "sleeping", "relaxed"), ("thread_fence", "", "seq_cst")],
        "wakeup_cancel": [("store", "sleeping", "relaxed")],
        "wakeup_notify": [("thread_fence", "", "seq_cst"), ("load", "sleeping", "relaxed"),
                          ("exchange", "sleeping", "relaxed")],
    },
}


def fail(text: str) -> None:
    sys.exit(f"run.py: {text}")


def check_source(name: str) -> None:
    file = f"{name}.h"
    text = (SOURCE / file).read_text("utf-8")
    for function, expected in MODELLED[file].items():
        found = re.search(rf"^static inline \w+ {function}\(.*?^}}", text, re.M | re.S)
        if not found:
            fail(f"src/io/{file} has no {function}(): the model is of another program")
        body = re.sub(r"/\*.*?\*/", "", found[0], flags=re.S)
        operations = re.findall(r"atomic_(\w+?)(?:_explicit)?\((?:&\w+->(\w+))?[^;&|]*?memory_order_(\w+)", body)
        if operations != expected:
            fail(f"{function}() in src/io/{file} is not what was modelled: {operations} instead of {expected}. "
                 f"Change tests/model/{name}.pml, then MODELLED here.")
    print(f"{name}: the source has the operations and orderings of the model")


def check(name: str, defines: str, expected: str) -> None:
    """@expected: "" (no error), or the beginning of the error."""
    with tempfile.TemporaryDirectory(prefix="slirp-model-") as directory:
        def run(*argv: str) -> str:
            done = subprocess.run(argv, cwd=directory, capture_output=True, text=True, timeout=SECONDS_MAX, check=False)
            if done.returncode != 0:
                fail(f"{' '.join(argv)} ended with {done.returncode}: {done.stdout}{done.stderr}")
            return done.stdout

        run("spin", "-a", *defines.split(), str(HERE / f"{name}.pml"))
        run("cc", "-O2", "-w", "-DSAFETY", "-DCOLLAPSE", "-DMEMLIM=2000", "-o", "pan", "pan.c")
        out = run("./pan", f"-m{DEPTH_MAX}", "-w22")
    states = re.search(r"(\d+) states, stored", out)
    errors = re.search(r"errors: (\d+)", out)
    if not states or not errors or "max search depth too small" in out or "out of memory" in out:
        fail(f"{name} {defines}: the search was not exhaustive:\n{out}")
    if expected == "" and (errors[1] != "0" or "Search not completed" in out):
        fail(f"{name} {defines}: refuted:\n{out}")
    if expected != "" and not re.search(rf"^pan:1: {expected}", out, re.M):
        fail(f"{name} {defines}: \"{expected}\" was to be found, but was not:\n{out}")
    print(f"{name} {defines}: {'holds in ' + states[1] + ' states' if expected == '' else 'as expected: ' + expected}")


def main() -> int:
    for program in ("spin", "cc"):
        if not shutil.which(program):
            print(f"skipped: {program} is not installed")
            return 77
    for name in sys.argv[1:] or list(HOLDS):
        check_source(name)
        for defines in HOLDS[name]:
            check(name, defines, "")
        for defines in REACHES[name]:
            check(name, defines, "assertion violated 0")
        for defines, error in REFUTED[name]:
            check(name, defines, error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
