"""How long from the process's start to a good return on spread, with default options.

    python bench/time_to_return.py                         measures and draws docs/images/time_to_return.png
    python bench/time_to_return.py --drawn-from bench/results/latest.json       draws what was measured before
    python bench/time_to_return.py --algorithms vdn,ippo --seeds 3 --seconds 30

Each run is a `marlet train` of its own, one after the other, with a warm cache of compiled programs, which the first
run fills. Its evaluations, every 25 000 steps as by default, are part of the time.
"""

import argparse
import json
import os
import statistics
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from measure import HERE, Row, Table, Wish
from watching import Seen, watched

GOAL = -13.0
"""Return per agent, greedy: random play earns -26.4, a scripted assignment -7.5."""
ALGORITHMS = ("vdn", "iql", "qmix", "ippo", "mappo")
SEEDS, SECONDS = 3, 30.0
QUICK_SEEDS, QUICK_SECONDS = 1, 12.0
PATIENCE = 600.0
"""Seconds that the first run has to compile everything."""
EVALUATED_EVERY = 25_000
STEPS = 10_000_000
"""More than a run has time for."""
IMAGE = HERE.parent / "docs" / "images" / "time_to_return.png"


def plan(wish: Wish) -> list[Table]:
    """The table to measure, a row for each algorithm."""
    seeds, seconds = (QUICK_SEEDS, QUICK_SECONDS) if wish.quick else (SEEDS, SECONDS)
    algorithms = ALGORITHMS[:1] if wish.quick else ALGORITHMS
    title = f"From process start to {GOAL:g} per agent on `spread`, default options"
    return [Table(title, [(reaching, (name, seeds, seconds)) for name in algorithms])]


def reaching(algorithm: str, seeds: int, seconds: float) -> Row:
    """Median seconds to the goal, over seeds, and the curves."""
    words = [algorithm, "spread", "--steps", str(STEPS), "--evaluations", str(STEPS // EVALUATED_EVERY)]
    with tempfile.TemporaryDirectory() as cache:
        variables = {**os.environ, "JAX_COMPILATION_CACHE_DIR": cache, "JAX_ENABLE_COMPILATION_CACHE": "true"}
        updated = lambda row: row["steps"] > 0  # noqa: E731
        watched(words, environment=variables, seconds=PATIENCE, enough=updated)
        runs = [watched([*words, "--seed", str(seed)], environment=variables, seconds=seconds) for seed in range(seeds)]
    reached = [row for row in (first_at(run, GOAL) for run in runs) if row]
    best = min(len(run) for run in runs) - 1
    if best < 0:
        raise RuntimeError(f"A run of {algorithm} had no evaluation within {seconds:g} seconds: give it more.")
    return {
        "subject": f"`{algorithm}`",
        "reached": f"{len(reached)} of {seeds}",
        # Where at most half of the seeds come there, the median one never does.
        "goal_seconds": median_of([row["clock"] for row in reached], of=seeds),
        "goal_steps": median_of([row["steps"] for row in reached], of=seeds),
        "return": statistics.median(run[best]["return"] for run in runs),
        "after_seconds": statistics.median(run[best]["clock"] for run in runs),
        "curve": median_curve(runs),
    }


def first_at(run: list[Seen], goal: float) -> Seen | None:
    """The first evaluation at the goal or better."""
    return next((row for row in run if row["return"] >= goal), None)


def median_of(values: list[float], *, of: int) -> float | None:
    """The median of `of` values where those that are missing are the largest; None if it is one of them."""
    return statistics.median([*values, *[float("inf")] * (of - len(values))]) if 2 * len(values) > of else None


def median_curve(runs: list[list[Seen]]) -> dict[str, list[float]]:
    """Median seconds and median return over seeds, evaluation by evaluation, as far as all seeds came."""
    together = list(zip(*runs, strict=False))
    return {
        "seconds": [statistics.median(row["clock"] for row in rows) for rows in together],
        "return": [statistics.median(row["return"] for row in rows) for rows in together],
    }


def drawn(rows: list[Mapping[str, Any]], path: Path) -> None:
    """The curves as a picture: one line an algorithm, the median over seeds."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for row in rows:
        axes.plot(row["curve"]["seconds"], row["curve"]["return"], label=row["subject"].strip("`"))
    axes.axhline(GOAL, color="0.6", linewidth=0.8, linestyle="--")
    axes.set_ylim(bottom=-30)
    axes.set_xlim(left=0)
    axes.set_xlabel("seconds since the process started")
    axes.set_ylabel("greedy return per agent on spread")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    """Measure and draw, or draw what was measured."""
    parser = argparse.ArgumentParser(description="Greedy return against seconds since the process's start, on spread.")
    parser.add_argument("--algorithms", default=",".join(ALGORITHMS), help="names, parted by commas")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each run")
    parser.add_argument("--drawn-from", type=Path, help="a latest.json, instead of measuring")
    parser.add_argument("--out", type=Path, default=IMAGE, help="the picture")
    given = parser.parse_args()
    if given.drawn_from:
        found = json.loads(given.drawn_from.read_text())["time_to_return"]["tables"]
        rows = [row for table in found.values() for row in table]
    else:
        rows = [reaching(name, given.seeds, given.seconds) for name in given.algorithms.split(",")]
        for row in rows:
            print({name: value for name, value in row.items() if name != "curve"})
    drawn(rows, given.out)
    print(given.out)


if __name__ == "__main__":
    main()
