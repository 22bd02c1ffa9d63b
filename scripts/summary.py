# SPDX-License-Identifier: GPL-2.0-or-later
"""Adds up what several test programs report, for scripts/test.

    summary.py RESULTS

RESULTS has a line per step: NAME <tab> STATUS <tab> JUNIT. STATUS is the exit status of the step's command;
JUNIT the report it wrote, or empty for a step that is one test in itself. A step that failed without a failed
test in its report (it crashed, or wrote none) counts as one failure, so that nothing is lost.

Prints the reasons of what was skipped with their counts, the failed tests with the first line of what each says,
and the sums last: who sees only the end of a log sees what is wrong. Exit status 1 if anything failed or if
nothing passed.
"""

import collections
import re
import sys
import xml.etree.ElementTree as ElementTree

FAILED_SHOWN_MAX = 50
MESSAGE_SHOWN_MAX = 300


class Sums:
    def __init__(self) -> None:
        self.passed = 0
        self.failed: list[str] = []
        self.skipped: collections.Counter[str] = collections.Counter()

    def add(self, step: str, status: int, report: str) -> None:
        failed_before = len(self.failed)
        if report:
            try:
                self.add_report(step, ElementTree.parse(report))
            except (OSError, ElementTree.ParseError) as e:
                self.failed.append(f"{step}: no usable report, exit status {status} ({e})")
                return
        elif status == 0:
            self.passed += 1
        if status != 0 and len(self.failed) == failed_before:
            self.failed.append(f"{step}: exit status {status}")

    def add_report(self, step: str, report: ElementTree.ElementTree) -> None:
        for case in report.iter("testcase"):
            name = f"{step}: {case.get('classname', '')}.{case.get('name', '')}"
            skipped = case.find("skipped")
            failure = case.find("failure") if case.find("failure") is not None else case.find("error")
            if failure is not None:
                self.failed.append(f"{name}: {self.first_line(failure) or self.cmocka_says(case)}".rstrip(": "))
            elif skipped is not None:
                self.skipped[self.reason(case, skipped)] += 1
            else:
                self.passed += 1
                # A test program may have left out some of its tests.
                for reason in self.said(case):
                    self.skipped[reason] += 1

    @staticmethod
    def first_line(failure: ElementTree.Element) -> str:
        lines = (failure.get("message") or failure.text or "").strip().splitlines()
        return lines[0][:MESSAGE_SHOWN_MAX] if lines else ""

    @staticmethod
    def cmocka_says(case: ElementTree.Element) -> str:
        """meson has no message for a test program that failed: its tests that did, and where."""
        names = re.findall(r"^\[  FAILED  \] (test_\w+)$", case.findtext("system-out") or "", re.M)
        places = re.findall(r"^\[  ERROR   \] --- (.*)\n\[   LINE   \] --- .*?(\w+\.[ch]:\d+)",
                            case.findtext("system-err") or "", re.M)
        shown = list(dict.fromkeys(names))[:3] + [f"{place}: {what}" for what, place in places[:3]]
        return "; ".join(shown)[:MESSAGE_SHOWN_MAX]

    @staticmethod
    def said(case: ElementTree.Element) -> list[str]:
        return re.findall(r"^(?:SKIP|skipped): *(.+)$", case.findtext("system-out") or "", re.M)

    @staticmethod
    def reason(case: ElementTree.Element, skipped: ElementTree.Element) -> str:
        if skipped.get("message"):
            return str(skipped.get("message"))
        # meson reports status 77 without a reason; our programs print it: "SKIP: why"
        said = Sums.said(case)
        return said[0] if said else f"{case.get('name')}: no reason given"


def main() -> int:
    sums = Sums()
    with open(sys.argv[1], encoding="utf-8") as results:
        for line in results:
            step, status, report = line.rstrip("\n").split("\t")
            sums.add(step, int(status), report)
    if sums.skipped:
        print("skipped, by reason:")
        for reason, n in sums.skipped.most_common():
            print(f"  {n:4d}  {reason}")
    if sums.failed:
        print("failed:")
        for name in sums.failed[:FAILED_SHOWN_MAX]:
            print(f"  {name}")
        if len(sums.failed) > FAILED_SHOWN_MAX:
            print(f"  and {len(sums.failed) - FAILED_SHOWN_MAX} more")
    print(f"passed: {sums.passed}  failed: {len(sums.failed)}  skipped: {sums.skipped.total()}")
    return 1 if sums.failed or sums.passed == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
