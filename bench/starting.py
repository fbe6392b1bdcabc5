"""Starting: seconds until something answers, and from the command to the first update."""

import os
import statistics
import sys
import tempfile

from measure import QUICK_RUNS, RUNS, Row, Table, Wish, marlet, run_to_end
from watching import watched

FIRST_UPDATE = ["qmix", "spread", "--steps", "5000", "--evaluations", "1"]
"""Ends with its first update: by default learning begins with 5 000 transitions."""
PATIENCE = 300
COLD_RUNS = 3


def plan(wish: Wish) -> list[Table]:
    """The tables to measure."""
    return [
        Table("Starting", [(answering, (subject, wish.quick)) for subject in commands()]),
        Table("From `marlet train qmix spread` to the first update", [(first_update, (wish.quick,))]),
    ]


def commands() -> dict[str, list[str]]:
    """What is started."""
    return {
        "python alone": [sys.executable, "-c", "pass"],
        "`import marlet`": [sys.executable, "-c", "import marlet"],
        "`import marlet`, and all that trains": [sys.executable, "-c", "import marlet; marlet.train"],
        "`marlet --help`": marlet("--help"),
        "`marlet train qmix spread --help`": marlet("train", "qmix", "spread", "--help"),
    }


def answering(subject: str, quick: bool) -> Row:
    """Seconds of whole processes."""
    taken = [run_to_end(commands()[subject]) for _ in range(1 + (QUICK_RUNS if quick else RUNS))]
    return {"subject": subject, "seconds": statistics.median(taken[1:])}  # the first one fills the disk's caches


def first_update(quick: bool) -> Row:
    """Seconds from the process's start to the row of metrics that tells the first update's loss.

    Cold: with an empty folder of compiled programs; warm: with what the cold run left there. The run evaluates before it
    begins and again before it writes that row, so the update itself came a little sooner.
    """
    cold, warm = [], []
    for _ in range(1 if quick else COLD_RUNS):
        with tempfile.TemporaryDirectory() as cache:
            cold.append(_until_loss(cache))
            warm += [_until_loss(cache) for _ in range(1 if quick else 2)]
    return {"cold_seconds": statistics.median(cold), "warm_seconds": statistics.median(warm)}


def _until_loss(cache: str) -> float:
    variables = {**os.environ, "JAX_COMPILATION_CACHE_DIR": cache, "JAX_ENABLE_COMPILATION_CACHE": "true"}
    rows = watched(FIRST_UPDATE, environment=variables, seconds=PATIENCE, enough=lambda row: "loss" in row)
    if not rows or "loss" not in rows[-1]:
        raise RuntimeError("The run ended without a first update.")
    return rows[-1]["clock"]
