# SPDX-License-Identifier: GPL-2.0-or-later
"""The rounds: every scenario with every program, interleaved, within a time budget, with the time left.

In each round a scenario is measured with all programs one directly after the other; the order rotates by round and by
scenario. A program that has failed at a scenario GIVE_UP times in a row is not tried again at it: it stands in the
result as failed, and the others have the time.
"""
import dataclasses
import time

from .figures import human, minutes, plan_seconds
from .measure import measure
from .util import MeasurementError, note

SECONDS_MIN, SECONDS_MAX = 0.25, 10.0
GIVE_UP = 2
OVERTIME = 1.05  # what a round may take beyond the time that is left


@dataclasses.dataclass
class Cell:
    """One scenario with one program."""
    scenario: object
    program: dict
    cannot: str = None
    overhead_s: float = 0.0
    rounds: list = dataclasses.field(default_factory=list)    # a Result or None each
    errors: list = dataclasses.field(default_factory=list)    # {"round", "error"}
    failed_in_a_row: int = 0

    @property
    def given_up(self):
        return self.failed_in_a_row >= GIVE_UP

    @property
    def state(self):
        if self.cannot:
            return "cannot"
        if not self.errors:
            return "measured"
        return "partly" if any(self.rounds) else "failed"

    def load_seconds(self, seconds):
        """Of one load, if the others take so many."""
        return max(seconds * self.scenario.stretch, self.scenario.seconds_min) if self.scenario.load else 0.0


class Rounds:
    def __init__(self, world, programs, scenarios, options, budget_s):
        self.world, self.programs, self.options = world, programs, options
        self.smoke = options.smoke
        self.scenarios = scenarios
        self.cells = {}
        for scenario in scenarios:
            for program in programs:
                self.cells[scenario.id, program["name"]] = Cell(
                    scenario, program, program["kind"].cannot(program, scenario), scenario.overhead_s)
        self.seconds = []  # of a load, round by round
        self.end = time.monotonic() + budget_s if budget_s else None
        self.done = 0

    def active(self):
        return [cell for cell in self.cells.values() if not cell.cannot and not cell.given_up]

    def seconds_of_round(self, rounds_left):
        """Fixed, or what the budget leaves."""
        if not self.end:
            return self.options.seconds
        active = self.active()
        budget = max(0.0, self.end - time.monotonic()) / rounds_left
        loaded = [cell for cell in active if cell.scenario.load]
        least = [cell.scenario.seconds_min for cell in loaded if cell.scenario.seconds_min]
        flexible = [cell.scenario.stretch for cell in loaded if not cell.scenario.seconds_min]
        return plan_seconds(budget, [cell.overhead_s for cell in active] + least, flexible, SECONDS_MIN, SECONDS_MAX)

    def time_left(self, seconds, left_in_round, rounds_after):
        def cost(cells):
            return sum(cell.overhead_s + cell.load_seconds(seconds) for cell in cells)

        return cost(left_in_round) + rounds_after * cost(self.active())

    def run(self):
        for number in range(1, self.options.rounds + 1):
            if number > 1 and not self.fits_another():
                note(f"compare: no time for more than {number - 1} of {self.options.rounds} rounds")
                break
            self.one_round(number)

    def fits_another(self):
        """Whether a round with the shortest loads can be done in the time that is left, or nearly so."""
        if not self.end:
            return True
        return self.time_left(SECONDS_MIN, [], 1) <= (self.end - time.monotonic()) * OVERTIME

    def one_round(self, number):
        rounds_after = self.options.rounds - number
        seconds = self.seconds_of_round(rounds_after + 1)
        self.seconds.append(seconds)
        turns = []
        for j, scenario in enumerate(self.scenarios):
            turn = (number - 1 + j) % len(self.programs)
            for program in self.programs[turn:] + self.programs[:turn]:
                cell = self.cells[scenario.id, program["name"]]
                if not cell.cannot:
                    turns.append(cell)
        for i, cell in enumerate(turns):
            result = None
            if cell.given_up:
                cell.errors.append({"round": number, "error": f"not tried: it had failed {GIVE_UP} times in a row"})
            else:
                left = self.time_left(seconds, [c for c in turns[i:] if not c.given_up], rounds_after)
                result = self.one(cell, number, seconds, left)
            cell.rounds.append(result)

    def one(self, cell, number, seconds, left_s):
        start = time.monotonic()
        load_seconds = cell.load_seconds(seconds)
        where = f"[{minutes(left_s)} left] round {number}, {cell.scenario.id}, {cell.program['name']}:"
        try:
            result = measure(self.world, cell.program, cell.scenario, load_seconds, self.smoke)
            self.check_figures(cell, result)
        except (MeasurementError, OSError) as e:
            note(f"{where} FAILED: {e}")
            cell.errors.append({"round": number, "error": str(e)})
            cell.failed_in_a_row += 1
            result = None
        else:
            cell.failed_in_a_row = 0
            if result.stalled:
                cell.errors.append({"round": number, "error": result.stalled})
            way = f" (by {result.way})" if result.way in ("splice", "mixed") else ""
            note(f"{where} " + ", ".join(human(result.figures.get(metric.key), metric.unit)
                                         for metric in cell.scenario.metrics) + way +
                 (f"; STALLED: {result.stalled}" if result.stalled else ""))
        cell.overhead_s = max(0.0, time.monotonic() - start - load_seconds)
        return result

    def check_figures(self, cell, result):
        for metric in cell.scenario.metrics:
            figure = result.figures.get(metric.key)
            zero_is_wrong = not metric.may_be_zero and not self.smoke  # a load may be too short for anything to arrive
            if figure is not None and (figure < 0 or (figure == 0 and zero_is_wrong)):
                raise MeasurementError(f"{metric.name or cell.scenario.title} is {figure}")
