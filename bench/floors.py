"""Holds speed to what it was: rates against references measured in the same run, and how far they may fall.

    python bench/floors.py              measures, and prints the ratios beside those in floor.json
    python bench/floors.py --write      measures, and writes floor.json anew

Stepping is held against a lean loop that moves discs, training against products of matrices; neither runs any of Marlet's code.
All of it is done by one core in one process, program after program in turns, and what counts is processor time: what
else the machine does then changes little. A test fails when a ratio has fallen by more than a third.
"""

import argparse
import json
import os
import statistics
import sys
from collections.abc import Callable, Mapping
from typing import Any

from measure import HERE, Program, Row, alone, timed
from products import product_program
from report import circumstances

FLOOR = HERE / "floor.json"
FALLEN = 2 / 3
"""What is left of a ratio that has fallen as far as it may."""
TURNS, TRIES, WRITING_TRIES = 9, 3, 7
ENVS = 512
ROWS, WIDTH = 600, 64
"""Of the matrices: as IPPO multiplies by default."""


def kept() -> dict[str, float]:
    """The ratios that were recorded."""
    return json.loads(FLOOR.read_text())["ratios"]


def fallen(ratios: Mapping[str, float], recorded: Mapping[str, float]) -> list[str]:
    """A sentence for each ratio that is missing, or has fallen by more than a third."""
    return [
        f"{name}: {ratios.get(name, 0):.3g}, but {ratio:.3g} was recorded (python bench/floors.py)"
        for name, ratio in recorded.items()
        if ratios.get(name, 0) < FALLEN * ratio
    ]


def measured(recorded: Mapping[str, float], tries: int = TRIES) -> Row:
    """The ratios in a fresh process; where the user keeps compiled programs, these are kept, too."""
    return alone(best_ratios, recorded, tries, environment={"JAX_ENABLE_COMPILATION_CACHE": "true"})


def best_ratios(recorded: Mapping[str, float], tries: int) -> Row:
    """The best of several tries at each ratio; no more tries than it takes until none has fallen."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # before JAX counts the cores
    subjects = {name: (reference, ready(program, steps)) for name, (reference, program, steps) in programs().items()}
    references = {name: ready(program, steps) for name, (program, steps) in reference_programs().items()}
    best: Row = {}
    for _ in range(tries):
        best = {name: max(ratio, best.get(name, 0.0)) for name, ratio in ratios(subjects, references).items()}
        if recorded and not fallen(best, recorded):
            break
    return best


def ratios(subjects: Mapping[str, tuple[str, Callable]], references: Mapping[str, Callable]) -> dict[str, float]:
    """How often a subject runs while its reference runs once: the median over turns in which each runs once."""
    told: dict[str, list[float]] = {name: [] for name in subjects}
    for turn in range(TURNS):
        seconds = {name: run(turn) for name, run in references.items()}
        for name, (reference, run) in subjects.items():
            told[name].append(seconds[reference] / run(turn))
    return {name: statistics.median(values) for name, values in told.items()}


def ready(program: Program, steps: int) -> Callable[[int], float]:
    """The processor seconds of so many steps, as a function of the key; compiled and run once."""
    timed(program, steps, 0)
    return lambda key: timed(program, steps, key)[1]


def programs() -> dict[str, tuple[str, Program, int]]:
    """What is held to its speed: its reference, the program, and steps that take about a twentieth of a second."""
    from marlet.catalogue import make_algorithm, make_env
    from marlet.engine.train import Training
    from stepping import random_play

    def played(name: str) -> Program:
        go, world, _ = random_play(make_env(name), ENVS)
        return lambda rounds, key: go(world, key, rounds)

    def trained(name: str, options: Mapping[str, Any]) -> Program:
        training = Training(make_env("spread"), make_algorithm(name, options))
        training.start()
        return lambda steps, key: training.advance(steps)

    return {
        "stepping spread": ("discs", played("spread"), 16),
        "stepping grid": ("discs", played("grid"), 16),
        "training vdn": ("products", trained("vdn", {"warmup": 0, "capacity": 10_000}), 50),
        "training ippo": ("products", trained("ippo", {}), 3),
    }


def reference_programs() -> dict[str, tuple[Program, int]]:
    """What they are held against."""
    return {"discs": (discs(ENVS), 2000), "products": (product_program(ROWS, WIDTH, 1), 1000)}


def discs(size: int) -> Program:
    """Three discs and three landmarks in each of `size` planes, pushed at random: a loop as lean as JAX allows."""
    import jax
    import jax.numpy as jnp

    def length(x, y):
        return jnp.sqrt(x * x + y * y)

    def body(discs, key):
        x, y, u, v, total = discs
        push = jax.random.bits(key, (3, size), jnp.uint16) % 5
        u = 0.75 * u + 0.5 * (push == 1) - 0.5 * (push == 2)
        v = 0.75 * v + 0.5 * (push == 3) - 0.5 * (push == 4)
        x, y = x + 0.1 * u, y + 0.1 * v
        away = length(x[:, None] - x[None], y[:, None] - y[None]).sum((0, 1))
        home = length(x[:, None] - jnp.arange(3.0)[:, None], y[:, None] + jnp.arange(3.0)[:, None]).min(0).sum(0)
        return (x, y, u, v, total - home - 0.1 * away), None

    @jax.jit
    def go(start, keys):
        return jax.lax.scan(body, start, keys)[0]

    zeros = jnp.zeros((3, size))
    return lambda steps, key: go((zeros, zeros, zeros, zeros, zeros[0]), jax.random.split(jax.random.key(key), steps))


def main() -> int:
    """Measure, and print or write the ratios."""
    parser = argparse.ArgumentParser(description="Speed against references measured in the same run.")
    parser.add_argument("--write", action="store_true", help="write floor.json anew")
    given = parser.parse_args()
    found = measured({}, WRITING_TRIES) if given.write else measured(kept())
    if given.write:
        record = circumstances("python bench/floors.py --write", ["cpu"]) | {"ratios": found}
        FLOOR.write_text(json.dumps(record, indent=1) + "\n")
    recorded = kept()
    for name, ratio in found.items():
        print(f"{name}: {ratio:.3g}, recorded {recorded[name]:.3g}")
    for sentence in fallen(found, recorded):
        print(sentence, file=sys.stderr)
    return 1 if fallen(found, recorded) else 0


if __name__ == "__main__":
    sys.exit(main())
