"""Many runs in one program against as many processes one after another, from process start to process end."""

import os
import statistics
import tempfile

from measure import Row, Table, Wish, marlet, run_to_end

SINGLES = 3
"""Single processes that are measured; the time of all of them is their median, multiplied."""


def plan(wish: Wish) -> list[Table]:
    """The table to measure."""
    full = [("qmix", "spread", 32, 200_000, SINGLES), ("tabular_iql", "grid", 200, 200_000, SINGLES)]
    quick = [("qmix", "spread", 4, 20_000, 1), ("tabular_iql", "grid", 8, 20_000, 1)]
    calls = [(together, arguments) for arguments in (quick if wish.quick else full)]
    return [Table("Many runs in one program, from process start to end", calls)]


def together(algorithm: str, env: str, runs: int, steps: int, singles: int) -> Row:
    """Seconds of one process with all the seeds, and of a process with one.

    Both find their programs compiled, as one does who runs a command again: an earlier run of each, which does not
    count, has filled the cache.
    """
    with tempfile.TemporaryDirectory() as folder:
        cache = {"JAX_COMPILATION_CACHE_DIR": f"{folder}/cache", "JAX_ENABLE_COMPILATION_CACHE": "true"}
        words = [algorithm, env, "--quiet", "--out", f"{folder}/runs"]

        def seconds(seeds: int, steps: int) -> float:
            command = marlet("train", *words, "--seeds", str(seeds), "--steps", str(steps))
            return run_to_end(command, {**os.environ, **cache})

        for seeds in (1, runs):
            seconds(seeds, min(steps, 10_000))
        one = statistics.median(seconds(1, steps) for _ in range(singles))
        all_of_them = seconds(runs, steps)
    return {
        "subject": f"`{algorithm} {env}`",
        "runs": runs,
        "steps": steps,
        "one_run_seconds": one,
        "one_program_seconds": all_of_them,
        "times_one_run": all_of_them / one,
        "ratio_after_another": runs * one / all_of_them,
    }
