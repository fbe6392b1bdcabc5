"""What runs reached, side by side: the returns of each seed, a table, and which one probably beats which.

Names and labels are data: whatever a run, an environment or an option is called, it is printed as it is written and never
read as markup, a spreadsheet's formula or a terminal's command.
"""

import csv
import io
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from marlet.equations.statistics import improvement_interval, interval, median, probability_of_improvement
from marlet.errors import MarletError
from marlet.runs.directory import Run, returns_in


class Curve:
    """The greedy return of each seed at each evaluation that all seeds have reached: of one team where there are several."""

    def __init__(self, metrics: dict[str, np.ndarray], team: str):
        self.team = team
        """Its number, or "" where there is one team only."""
        seeds = np.unique(metrics["seed"])
        of_seed = [metrics["seed"] == seed for seed in seeds]
        self.steps = np.array(_reached(metrics))
        at = [own & np.isin(metrics["steps"], self.steps) for own in of_seed]
        returns = metrics[returns_in(metrics)[team]]
        self.returns: Float[np.ndarray, "points seeds"] = np.stack([returns[own] for own in at], axis=-1)
        self.seconds = float(metrics["seconds"].max())

    @property
    def final(self) -> Float[np.ndarray, " seeds"]:
        """The returns at the last evaluation."""
        return self.returns[-1]


def curves_of(run: Run) -> list[Curve]:
    """A run's curve; where it has several teams, one for each: a mean over teams would say nothing of either.

    Raises:
        MarletError: if the run has no evaluations yet.
    """
    metrics = run.metrics()
    if not metrics or not _reached(metrics):
        raise MarletError(f"{run.path} has no evaluations yet: train it on, marlet train --resume {run.path}")
    return [Curve(metrics, team) for team in returns_in(metrics)]


def _reached(metrics: dict[str, np.ndarray]) -> list[float]:
    """The steps of the evaluations that all seeds have reached."""
    seeds = np.unique(metrics["seed"])
    return [steps for steps in np.unique(metrics["steps"]) if np.sum(metrics["steps"] == steps) == len(seeds)]


def table(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """A row for each run, and where it has several teams for each team: the final greedy return per agent (median over
    seeds, 95 % interval), steps, time and rate. There is a column `team` where any run has several.

    Raises:
        MarletError: if a run has no evaluations yet.
    """
    rows = []
    found = [(run, task, curve) for run, task in zip(runs, tasks(runs), strict=True) for curve in curves_of(run)]
    several = any(curve.team for *_, curve in found)
    for run, task, curve in found:
        low, high = interval(curve.final)
        steps, seeds = curve.steps[-1], curve.final.size
        rows.append(
            {
                "run": run.name,
                "algorithm": algorithm_of(run),
                "environment": task,
                **({"team": curve.team} if several else {}),
                "seeds": seeds,
                "return": float(median(curve.final)),
                "low": float(low),
                "high": float(high),
                "steps": int(steps),
                "seconds": round(curve.seconds, 1),
                "steps_per_second": round(steps * seeds / curve.seconds) if curve.seconds else float("nan"),
            }
        )
    return rows


def lengths(runs: Sequence[Run]) -> list[str]:
    """A sentence where runs end after different steps, which makes their returns hard to compare."""
    ends = sorted({int(curves_of(run)[0].steps[-1]) for run in runs})
    if len(ends) < 2:
        return []
    return [
        f"Note: the runs end after {ends[0]:,} to {ends[-1]:,} steps, and each return is that of the run's own end."
    ]


def improvements(runs: Sequence[Run]) -> list[str]:
    """For each later run of the first one's environment: how probably a seed of it beats a seed of the first; where there
    are several teams, by the returns of each."""
    names, places = labels(runs), tasks(runs)
    first = {curve.team: curve.final for curve in curves_of(runs[0])}
    told, alone = [], False
    for run, name, place in list(zip(runs, names, places, strict=True))[1:]:
        for curve in curves_of(run) if place == places[0] else []:
            ours, theirs = first.get(curve.team, np.zeros(0)), curve.final
            alone |= min(ours.size, theirs.size) == 1
            if min(ours.size, theirs.size) > 1:
                chance = probability_of_improvement(theirs, ours)
                low, high = improvement_interval(theirs, ours)
                side = f" as team {curve.team}" if curve.team else ""
                told.append(
                    f"{plain(name)} beats {plain(names[0])}{side} with probability {chance:.2f} [{low:.2f}, {high:.2f}]"
                )
    if alone:
        told.append("One seed alone tells nothing of how probably one beats another: train with --seeds 5.")
    return told


def as_text(rows: Sequence[dict[str, Any]]) -> str:
    """Rows in aligned columns, for a terminal."""
    cells = [list(rows[0]), *([shown(value) for value in row.values()] for row in rows)]
    widths = [max(len(line[k]) for line in cells) for k in range(len(cells[0]))]
    number = [isinstance(value, int | float) for value in rows[0].values()]
    aligned = [
        "  ".join(c.rjust(w) if n else c.ljust(w) for c, w, n in zip(line, widths, number, strict=True))
        for line in cells
    ]
    return "\n".join(line.rstrip() for line in aligned)


def as_markdown(rows: Sequence[dict[str, Any]]) -> str:
    """Rows as a Markdown table; marks that Markdown or HTML would read are escaped."""
    escaped = lambda text: re.sub(r"([\\`*_\[\]<>|&#$~])", r"\\\1", text)  # noqa: E731
    lines = [list(rows[0]), ["---:" if isinstance(v, int | float) else "---" for v in rows[0].values()]]
    lines += [[escaped(shown(v)) if isinstance(v, str) else shown(v) for v in row.values()] for row in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def as_csv(rows: Sequence[dict[str, Any]]) -> str:
    """Rows as CSV. Text that a spreadsheet would run as a formula gets an apostrophe in front."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(rows[0])
    for row in rows:
        writer.writerow([_tame(v) if isinstance(v, str) else "" if math.isnan(v) else v for v in row.values()])
    return text.getvalue()


# Names


def algorithm_of(run: Run) -> str:
    """What the run's algorithm is called."""
    record = run.options["algorithm"]
    return str(record.get("name") or record["type"])


def env_of(run: Run) -> str:
    """What the run's environment is called."""
    return str(run.options["env"]["type"])


def tasks(runs: Sequence[Run]) -> list[str]:
    """Each run's environment, with those options in which it differs from other runs of the same environment."""
    told = []
    for run in runs:
        own = run.options["env"]
        others = [other.options["env"] for other in runs if env_of(other) == env_of(run)]
        inside = own.get("options", own)
        differing = [name for name in inside if any(o.get("options", o).get(name) != inside[name] for o in others)]
        options = ", ".join(f"{name}={inside[name]}" for name in differing)
        told.append(f"{env_of(run)}({options})" if options else env_of(run))
    return told


def labels(runs: Sequence[Run]) -> list[str]:
    """The algorithm's name, with the run's own where two would be called the same in one environment."""
    marks = list(zip(map(algorithm_of, runs), tasks(runs), strict=True))
    return [
        f"{algorithm} ({run.name})" if marks.count((algorithm, task)) > 1 else algorithm
        for run, (algorithm, task) in zip(runs, marks, strict=True)
    ]


def plain(text: str) -> str:
    """Text without anything a terminal would obey: escape sequences and control characters are dropped."""
    without = re.sub(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?|.)?", "", text)
    return "".join(mark for mark in without if mark.isprintable())


def shown(value: Any) -> str:
    """A table's cell as a person reads it."""
    if isinstance(value, float):
        return "-" if math.isnan(value) else f"{value:,.2f}"
    return f"{value:,}" if isinstance(value, int) else plain(str(value))


def _tame(text: str) -> str:
    text = plain(text)
    return "'" + text if text[:1] in tuple("=+-@") else text
