"""Measures what stepping a PettingZoo environment through Marlet costs beside the environment's own stepping.

    python bench/host.py

mpe2's simple_spread_v3 is played with random actions, drawn beforehand: by a `HostEnv` with two workers, and bare, as
half the copies in each of two plain processes that do nothing but call `reset` and `step`. The two take turns, so that
a busy moment hits them alike. What is lost is the share of time by which the median run of the first is longer. The
environments are not asked for a state of the world: bare ones are not either, nor are those on which an algorithm
trains that never reads it.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

COPIES, STEPS, WORKERS = 32, 150, 2
"""Copies side by side, steps of each in one run, and processes that step them."""
RUNS = 15
"""Timed runs of each side, after a warm-up of one."""


def main() -> None:
    """Measure, and print one row as JSON."""
    print(json.dumps(lost()))


def lost() -> dict[str, Any]:
    """Steps a second through the library and bare, and the share of time lost; a step is one of one environment."""
    from marlet.bridges.resolve import resolve
    from marlet.engine.host import HostEnv

    plan = actions(COPIES)
    factory = resolve("pettingzoo:mpe2.simple_spread_v3")
    with HostEnv(factory, COPIES, workers=WORKERS, own_state=False) as env, Bare() as bare:

        def through() -> None:
            env.reset(0)
            for action in plan:
                env.step(action)

        hosted, alone = in_turns(through, bare.run)
    return {
        "subject": f"mpe2's simple_spread_v3, {COPIES} copies, {WORKERS} workers",
        "steps_per_second": COPIES * STEPS / hosted,
        "bare_steps_per_second": COPIES * STEPS / alone,
        "lost": hosted / alone - 1,
        "runs": RUNS,
    }


def in_turns(*sides: Callable[[], None]) -> list[float]:
    """Seconds of each side's median run."""
    taken: list[list[float]] = [[] for _ in sides]
    for run in range(RUNS + 1):
        for side, seconds in zip(sides, taken, strict=True):
            begun = time.perf_counter()
            side()
            if run:
                seconds.append(time.perf_counter() - begun)
    return [statistics.median(seconds) for seconds in taken]


def actions(copies: int) -> Any:
    """Random choices, "T B n"."""
    import numpy as np

    return np.random.default_rng(0).integers(5, size=(STEPS, copies, 3)).astype(np.int32)


class Bare:
    """Two plain processes with half the copies each, which play one run whenever they are told to."""

    def __enter__(self) -> "Bare":
        order = [sys.executable, __file__, "--bare"]
        self.processes = [
            subprocess.Popen(order, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(WORKERS)
        ]
        return self

    def run(self) -> None:
        """Let both play, and wait for both."""
        for process in self.processes:
            print(file=process.stdin, flush=True)
        for process in self.processes:
            if process.stdout.readline() != "done\n":
                raise RuntimeError("A process that steps bare environments has ended.")

    def __exit__(self, *reason: object) -> None:
        for process in self.processes:
            process.stdin.close()
            process.wait()


def play_bare() -> None:
    """One plain process: for each line that is read, one run of its copies with nothing between."""
    from mpe2 import simple_spread_v3

    copies = COPIES // WORKERS
    envs = [simple_spread_v3.parallel_env() for _ in range(copies)]
    plan = actions(copies).tolist()
    for _ in sys.stdin:
        for b, env in enumerate(envs):
            env.reset(seed=b)
        for action in plan:
            for b, env in enumerate(envs):
                env.step(dict(zip(env.agents, action[b], strict=True)))
                if not env.agents:
                    env.reset(seed=b)
        print("done", flush=True)


if __name__ == "__main__":
    if sys.argv[1:] == ["--bare"]:
        play_bare()
    else:
        main()
