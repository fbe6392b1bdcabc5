"""One line that tells how training goes, on a terminal; elsewhere one plain line at the end."""

import math
import sys
import time
from types import TracebackType

import numpy as np

from marlet.equations.statistics import interval, median
from marlet.runs.directory import returns_in

SHOWN_TEAMS = 4
"""Teams whose returns the line has room for."""


class ProgressLine:
    """A live line on a terminal: how far, how fast, how good, how much longer. Use as a context manager.

    Where the standard error is no terminal (a file, a cluster's log) nothing is written but one line at the end, and
    with `quiet` nothing at all.
    """

    def __init__(self, total: int, *, done: int = 0, quiet: bool = False):
        """`total` is the environment steps that each seed will have taken in the end, `done` those it has already taken."""
        self.total, self.done, self.quiet = total, done, quiet
        self.live = not quiet and sys.stderr.isatty()
        self._begun = time.monotonic()
        self._from = 0
        self._steps = done
        self._seeds = 1
        self._rows: list[dict[str, float]] = []
        self._bar = None

    def moved(self, steps: int) -> None:
        """Each seed has taken this many steps."""
        if not self._from:  # until something was trained, the time went into compiling
            self._from, self._begun = steps, time.monotonic()
        self._show(steps)

    def update(self, steps: int, rows: list[dict[str, float]]) -> None:
        """Show an evaluation: one row a seed, as they are written to metrics.csv."""
        self._seeds, self._rows = len(rows), rows
        self._show(steps)

    def _show(self, steps: int) -> None:
        self._steps = steps
        if self._bar is not None:
            self._bar.update(self._task, completed=steps, told=self._told())

    def __enter__(self) -> "ProgressLine":
        if self.live:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            self._bar = Progress(
                BarColumn(24),
                TextColumn("{task.fields[told]}", markup=False),
                TimeRemainingColumn(compact=True, elapsed_when_finished=True),
                console=Console(stderr=True),
                refresh_per_second=4,
            )
            self._task = self._bar.add_task("", total=self.total, completed=self.done, told=self._told())
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif not self.quiet and error is None:
            print(self._told(), file=sys.stderr)

    def _told(self) -> str:
        done = f"{short(self._steps)}/{short(self.total)} steps"
        latest = evaluation(self._rows) if self._rows else ""
        return "  ".join(part for part in (done, self._state(), latest) if part)

    def _state(self) -> str:
        if self.done >= self.total:
            return "already finished"
        return "compiling" if self.live and not self._from else self._rate()

    def _rate(self) -> str:
        """Environment steps a second, of all seeds together, since this process had compiled and begun to train."""
        seconds = time.monotonic() - self._begun
        taken = (self._steps - self._from) * self._seeds
        return f"{short(taken / seconds)} steps/s" if taken and seconds > 0 else ""


def evaluation(rows: list[dict[str, float]]) -> str:
    """`return -7.51 [-7.80, -7.42]  loss 0.0123`: medians over seeds, and the interval where there are several; with several
    teams `return 0: 3.10 1: -17.40`, the return of each."""
    columns = returns_in(rows[0])
    text = "return"
    for team, column in list(columns.items())[:SHOWN_TEAMS]:
        returns = np.array([row[column] for row in rows])
        low, high = interval(returns, resamples=1000)
        text += f"{f' {team}:' if team else ''} {median(returns):.2f}"
        if not math.isnan(low):
            text += f" [{low:.2f}, {high:.2f}]"
    text += " ..." if len(columns) > SHOWN_TEAMS else ""
    losses = np.array([row["loss"] for row in rows if "loss" in row and not math.isnan(row["loss"])])
    return text + (f"  loss {median(losses):.3g}" if losses.size else "")


def short(number: float) -> str:
    """`1.25M`: a count with three digits and a letter."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= 0.9995 * size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.3g}"
