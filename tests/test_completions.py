#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The completions of bash, zsh and fish know the options of --help, what those take, and --run's command.

Usage: test_completions.py PROGRAM BASH_FILE ZSH_FILE FISH_FILE [UNITTEST_ARGUMENT]...
Of zsh and fish what is not installed is skipped.
"""

import re
import shutil
import subprocess
import sys
import unittest

SECONDS_MAX = 20
PROGRAM, BASH, ZSH, FISH = sys.argv[1:5]


def output(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, timeout=SECONDS_MAX, check=True).stdout


def options() -> dict[str, tuple[str | None, str | None]]:
    """Long name: short name, argument."""
    found = re.findall(r"^(?:-(\w), )?--([a-z0-9-]+)(?:=(\S+))?\s+\S", output(PROGRAM, "--help"), re.M)
    return {name: (short or None, argument or None) for short, name, argument in found}


# As the line of --help that shows the use of --ctl has them.
CTL_COMMANDS = set(re.search(r"--ctl SOCKET .* ([a-z|]+) \[ARGUMENT\]", output(PROGRAM, "--help"))[1].split("|"))


def skip(test: unittest.TestCase, why: str) -> None:
    print(f"SKIP: {why}", flush=True)  # scripts/summary.py counts it
    test.skipTest(why)


class Bash(unittest.TestCase):
    def complete(self, *words: str) -> set[str]:
        """What comes for the last word, with "=" cut off as bash does it."""
        split = [part for word in words for part in (re.split("(=)", word) if word.startswith("--") else [word])]
        if len(split) > 1 and split[-1] == "" and split[-2] == "=":
            split.pop()
        script = ('source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _slirp4netns; '
                  'printf "%s\\n" "${COMPREPLY[@]}"')
        return set(output("bash", "--norc", "-c", script, "bash", BASH, "slirp4netns", *split).split())

    def test_every_option_is_offered(self) -> None:
        expected = {f"--{name}{'=' if argument else ''}" for name, (_, argument) in options().items()}
        self.assertGreater(len(expected), 20)
        self.assertEqual(self.complete("--"), expected)

    def test_hidden_options_are_not(self) -> None:
        self.assertEqual(self.complete("--no-h"), set())

    def test_words_are_offered_in_both_forms(self) -> None:
        self.assertEqual(self.complete("--netns-type="), {"path", "pid", "tapfd"})
        self.assertEqual(self.complete("--netns-type", "p"), {"path", "pid"})
        self.assertEqual(self.complete("-c", "--io-backend=io"), {"io_uring"})

    def test_paths_are_files(self) -> None:
        self.assertIn("/etc/passwd", self.complete("--api-socket=/etc/passw"))
        self.assertIn("/etc/passwd", self.complete("-a", "/etc/pass"))

    def test_interfaces(self) -> None:
        self.assertIn("lo", self.complete("--outbound-addr="))

    def test_after_run_comes_a_command(self) -> None:
        self.assertIn("bash", self.complete("--run", "bas"))
        self.assertIn("bash", self.complete("--run", "--mtu=9000", "-p", "80:80", "--", "bas"))
        self.assertIn("/etc/passwd", self.complete("--run", "cat", "/etc/pass"))
        self.assertNotIn("--mtu=", self.complete("--run", "cat", "--m"))

    def test_between_run_and_its_command_come_options(self) -> None:
        self.assertEqual(self.complete("--run", "--map"), {"--map-current-user"})

    def test_after_ctl_comes_one_of_its_commands(self) -> None:
        for form in (["--ctl", "/tmp/s"], ["--ctl=/tmp/s"], ["--json", "--ctl", "/tmp/s", "--watch"]):
            self.assertEqual(self.complete(*form, ""), CTL_COMMANDS, form)
        self.assertEqual(self.complete("--ctl", "/tmp/s", "re"), {"remove"})
        self.assertEqual(self.complete("--ctl", "/tmp/s", "remove", ""), set())
        self.assertIn("/etc/passwd", self.complete("--ctl", "/etc/passw"))


class Zsh(unittest.TestCase):
    def setUp(self) -> None:
        if not shutil.which("zsh"):
            skip(self, "zsh is not installed")

    def test_it_is_valid(self) -> None:
        output("zsh", "-n", ZSH)

    def test_every_option_has_a_specification(self) -> None:
        # The array as zsh itself reads it; _arguments cannot be asked outside of an editor.
        script = ('functions[_f]="$(<$1)"; _arguments() { shift 2; print -rl -- "$@"; }; words=(slirp4netns); _f')
        specs = output("zsh", "-f", "-c", script, "zsh", ZSH).splitlines()
        for name, (short, argument) in options().items():
            form = rf"(\([^)]*\)|\*)?--{name}{'=' if argument else ''}\[.*\]{':' + argument + ':.*' if argument else ''}"
            self.assertTrue(any(re.fullmatch(form, spec) for spec in specs), (name, specs))
            if short:
                self.assertTrue(any(re.match(rf"(\([^)]*\)|\*)-{short}\+?\[", spec) for spec in specs), short)
        self.assertTrue(any(spec.endswith(":TYPE:(path pid tapfd)") for spec in specs))

    def test_after_ctl_comes_one_of_its_commands(self) -> None:
        script = ('functions[_f]="$(<$1)"; _arguments() { shift 2; print -rl -- "$@"; }; '
                  "words=(slirp4netns --ctl=/tmp/s ''); _f")
        first = [spec for spec in output("zsh", "-f", "-c", script, "zsh", ZSH).splitlines() if spec.startswith("1:")]
        self.assertEqual([set(spec.split(":")[2].strip("()").split()) for spec in first], [CTL_COMMANDS])


class Fish(unittest.TestCase):
    def setUp(self) -> None:
        if not shutil.which("fish"):
            skip(self, "fish is not installed")

    def complete(self, line: str) -> set[str]:
        text = output("fish", "--no-config", "-c", f"source {FISH}; complete -C '{line}'")
        return {entry.split("\t")[0] for entry in text.splitlines()}

    def test_every_option_is_offered(self) -> None:
        offered = {entry.rstrip("=") for entry in self.complete("slirp4netns --")}
        self.assertEqual({f"--{name}" for name in options()} - offered, set())

    def test_words_are_offered(self) -> None:
        self.assertEqual(self.complete("slirp4netns --netns-type="),
                         {"--netns-type=path", "--netns-type=pid", "--netns-type=tapfd"})

    def test_after_run_comes_a_command(self) -> None:
        self.assertIn("bash", self.complete("slirp4netns --run bas"))

    def test_after_ctl_comes_one_of_its_commands(self) -> None:
        self.assertEqual(CTL_COMMANDS - self.complete("slirp4netns --ctl /tmp/s "), set())


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], *sys.argv[5:]])
