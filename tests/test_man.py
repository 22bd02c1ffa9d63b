# SPDX-License-Identifier: GPL-2.0-or-later
"""The manual says what the program does: its options are those of --help, its API commands those of the API, and the
API reference has its counters.

The program is $SLIRP4NETNS, or the one in build/. Both sides are parsed, not searched: an option that is
mentioned somewhere else in the manual does not count.
"""

import os
import pathlib
import re
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
MANUAL = ROOT / "man" / "slirp4netns.1"
COMMANDS = ROOT / "src" / "api" / "commands.c"
COUNTERS = ROOT / "src" / "base" / "counters.h"
API = ROOT / "docs" / "api.md"
PROGRAM = os.environ.get("SLIRP4NETNS", str(ROOT / "build" / "src" / "slirp4netns"))
SECONDS_MAX = 10

Option = tuple[str, str | None, str | None]  # long name, short name, name of the argument


def section(title: str) -> str:
    found = re.search(rf"^\.Sh {title}\n(.*?)(?=^\.Sh |\Z)", MANUAL.read_text("utf-8"), re.M | re.S)
    assert found, f"the manual has no section {title}"
    return found[1]


def manual_options() -> set[Option]:
    # .It Fl c , -configure   |   .It Fl -cidr Ns = Ns Ar CIDR
    item = re.compile(r"^\.It Fl (?:(\w) , )?-([a-z0-9-]+)(?: Ns = Ns Ar (\S+))?$")
    options = set()
    for line in section("OPTIONS").splitlines():
        if line.startswith(".It Fl"):
            found = item.match(line)
            assert found, f"not of the form that all options have: {line}"
            options.add((found[2], found[1], found[3]))
    return options


@pytest.fixture(scope="module")
def help_text() -> str:
    if not os.access(PROGRAM, os.X_OK):
        pytest.fail(f"{PROGRAM} is not there: build first, or set SLIRP4NETNS")
    version = subprocess.run([PROGRAM, "--version"], capture_output=True, text=True, timeout=SECONDS_MAX, check=True)
    if not re.match(r"slirp4netns version [2-9]", version.stdout):
        pytest.skip(f"{PROGRAM} is another program; the manual is not about it")
    run = subprocess.run([PROGRAM, "--help"], capture_output=True, text=True, timeout=SECONDS_MAX, check=True)
    return run.stdout


def help_options(text: str) -> set[Option]:
    item = re.compile(r"^(?:-(\w), )?--([a-z0-9-]+)(?:=(\S+))?\s+\S")
    return {(m[2], m[1], m[3]) for m in map(item.match, text.splitlines()) if m}


def test_help_lists_options_at_all(help_text: str) -> None:
    assert len(help_options(help_text)) >= 19  # those of slirp4netns 1.3


def test_every_option_of_help_is_in_the_manual(help_text: str) -> None:
    assert help_options(help_text) - manual_options() == set()


def test_every_option_of_the_manual_is_in_help(help_text: str) -> None:
    assert manual_options() - help_options(help_text) == set()


def test_options_are_in_the_same_order(help_text: str) -> None:
    in_help = re.findall(r"^(?:-\w, )?--([a-z0-9-]+)", help_text, re.M)
    in_manual = re.findall(r"^\.It Fl (?:\w , )?-([a-z0-9-]+)", section("OPTIONS"), re.M)
    assert in_manual == in_help


def test_defaults_are_the_same(help_text: str) -> None:
    words = " ".join(section("OPTIONS").split())
    default_mtu = re.search(r"--mtu=.*default=(\d+)", help_text)
    default_cidr = re.search(r"--cidr=.*default=([0-9./]+)", help_text)
    assert default_mtu and f"The default is {default_mtu[1]}." in words
    assert default_cidr and f"The default is {default_cidr[1]}" in words


def test_every_api_command_is_in_the_manual() -> None:
    table = re.search(r"\} commands\[\] = \{\n(.*?)\n\};", COMMANDS.read_text("utf-8"), re.S)
    assert table, f"{COMMANDS} has no table of commands"
    in_program = set(re.findall(r'\{"(\w+)",', table[1]))
    in_manual = set(re.findall(r"^\.It Cm (\w+)$", section("API SOCKET"), re.M))
    assert in_program and in_manual == in_program


def test_every_counter_is_in_the_api_reference() -> None:
    """docs/api.md has a row for each counter; how many there are and their names, not every word."""
    in_program = re.findall(r'X\((\w+), *"', COUNTERS.read_text("utf-8"))
    table = re.search(r"^\| member \| unit \| meaning \|\n(.*?)\n\n", API.read_text("utf-8"), re.M | re.S)
    assert table, f"{API} has no table of counters"
    in_reference = re.findall(r"^\| `(\w+)` \|", table[1], re.M)
    assert len(in_program) > 50 and sorted(in_reference) == sorted(in_program)


def test_cross_references_are_in_order() -> None:
    references = [(int(number), name) for name, number in re.findall(r"^\.Xr (\S+) (\d)", section("SEE ALSO"), re.M)]
    assert references and references == sorted(references)
