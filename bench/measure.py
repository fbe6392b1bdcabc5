"""How something is measured: in a process of its own, after a warm-up, as a median of several runs, taking turns where
things are compared."""

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RUNS, SECONDS = 7, 0.5
"""Timed runs of each program, and how long one of them should take."""
QUICK_RUNS, QUICK_SECONDS = 3, 0.05

Row = dict[str, Any]
"""A line of a table: what was measured, by the names of the columns in `report.py`."""
Program = Callable[[int, int], Any]
"""`program(steps, key)` starts that many steps and returns arrays that are there when it is done."""


@dataclass(frozen=True)
class Wish:
    """What a benchmark is to measure."""

    quick: bool = False
    """Only see that it works."""
    sizes: tuple[int, ...] = (64, 512, 4096)
    """Environments stepped side by side."""
    cores: int = 1


Call = tuple[Callable[..., Row], tuple[Any, ...]]
"""A row to measure: a function of this folder, and its arguments."""


@dataclass(frozen=True)
class Table:
    """Rows that stand below one another."""

    title: str
    calls: list[Call]
    finished: Callable[[list[Row]], list[Row]] = lambda rows: rows
    """What the rows become when all are there: how they compare with one another."""


@dataclass(frozen=True)
class Rate:
    """How fast a program is."""

    per_second: float
    """Median over the runs."""
    compiling: float
    """Seconds of the first run beyond a second one."""
    busy: float
    """Seconds of processor time in a second: how many cores are at work."""


def alone(function: Callable[..., Row], *arguments: Any, environment: Mapping[str, str] | None = None) -> Row:
    """What a function of this folder returns, run in a fresh process that keeps no compiled programs."""
    variables = {**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "false", **(environment or {})}
    name = f"{Path(function.__code__.co_filename).stem}.{function.__name__}"
    order = [sys.executable, str(HERE / "run.py"), "--one", name, json.dumps(arguments)]
    done = subprocess.run(order, check=True, stdout=subprocess.PIPE, env=variables, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def imported() -> float:
    """Seconds of importing JAX and all of Marlet that trains, if this is the first time in the process."""
    begun = time.perf_counter()
    import marlet.catalogue
    import marlet.engine.train  # noqa: F401

    return time.perf_counter() - begun


def peak_megabytes() -> float:
    """The most memory that this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def timed(program: Program, steps: int, key: int) -> tuple[float, float]:
    """Seconds of one run by the clock, and of processor time."""
    import jax

    begun, worked = time.perf_counter(), time.process_time()
    jax.block_until_ready(program(steps, key))
    return time.perf_counter() - begun, time.process_time() - worked


def long_enough(program: Program, quick: bool, first: int = 100) -> tuple[int, float]:
    """How many steps make a run worth timing, and the seconds the first, compiling run took beyond a second one."""
    cold, warm = timed(program, first, 0)[0], timed(program, first, 1)[0]
    wanted = QUICK_SECONDS if quick else SECONDS
    steps = max(first, int(first * wanted / warm))
    timed(program, steps, 0)  # where the number of steps is part of the program, this one is compiled
    return steps, cold - warm


def in_turns(
    programs: Mapping[str, Program], units: Mapping[str, float], quick: bool, first: int = 100
) -> dict[str, Rate]:
    """How many units each program does in a second, one of its steps being so many of them.

    The programs take turns, so that a busy moment of the machine hits them alike.
    """
    ready = {name: long_enough(program, quick, first) for name, program in programs.items()}
    taken = {name: [] for name in programs}
    for key in range(QUICK_RUNS if quick else RUNS):
        for name, program in programs.items():
            taken[name].append(timed(program, ready[name][0], key))
    rates = {}
    for name, (steps, compiling) in ready.items():
        seconds = statistics.median(seconds for seconds, _ in taken[name])
        busy = statistics.median(worked / seconds for seconds, worked in taken[name])
        rates[name] = Rate(units[name] * steps / seconds, compiling, busy)
    return rates


def measured(program: Program, units: float, quick: bool, first: int = 100) -> Rate:
    """How many units a program does in a second."""
    return in_turns({"it": program}, {"it": units}, quick, first)["it"]


def run_to_end(argv: list[str], environment: Mapping[str, str] | None = None) -> float:
    """Seconds from a process's start to its end; what it prints is not shown.

    Raises:
        subprocess.CalledProcessError: if it fails.
    """
    begun = time.perf_counter()
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, env={**os.environ, **(environment or {})})
    return time.perf_counter() - begun


def marlet(*words: str) -> list[str]:
    """The command `marlet ...` in this Python."""
    return [sys.executable, "-m", "marlet", *words]
