"""Training at the settings that JaxMARL ships for spread: steps a second, and the return that they reached."""

import statistics
import time
from typing import Any

from measure import Row, Table, Wish, imported, peak_megabytes
from settings import STEPS, algorithm_of, names, read

CHUNKS = 10
"""Parts of a run that are timed one by one; the first, in which learning begins, does not count."""
QUICK_STEPS, QUICK_CHUNKS = 60_000, 3
EPISODES = 512
"""Of the greedy evaluation at the end."""


def plan(wish: Wish) -> list[Table]:
    """The table to measure: each with one seed, and with as many as there are cores."""
    seeds = dict.fromkeys((1, wish.cores))
    calls = [(at_settings, (name, count, wish.quick)) for name in names() for count in seeds]
    return [Table("Training on `spread` at JaxMARL's settings", calls)]


def timed(program: Any, seeds: int, total: int, quick: bool) -> Row:
    """A training begun and trained for that many steps: steps a second of all seeds together, the seconds of compiling, and
    the greedy return at the end."""
    begun = time.perf_counter()
    program.start()
    program.advance(1)
    compile_seconds = time.perf_counter() - begun

    chunks = QUICK_CHUNKS if quick else CHUNKS
    count = max(1, total // chunks // program.steps_per_iteration)
    rates = []
    for _ in range(chunks):
        begun, worked = time.perf_counter(), time.process_time()
        program.advance(count)
        seconds, worked = time.perf_counter() - begun, time.process_time() - worked
        rates.append((count * program.steps_per_iteration * seeds / seconds, worked / seconds))
    score = program.evaluate(EPISODES).score.mean((-1, -2))  # of each seed
    return {
        "steps_per_second": statistics.median(rate for rate, _ in rates[1:]),
        "busy": statistics.median(busy for _, busy in rates[1:]),
        "return": float(statistics.median(score.tolist())),
        "after_steps": program.iteration * program.steps_per_iteration,
        "compile_seconds": compile_seconds,
        "megabytes": peak_megabytes(),
    }


def at_settings(name: str, seeds: int, quick: bool) -> Row:
    """Environment steps a second of whole training, of all seeds together, and the greedy return at the end."""
    import_seconds = imported()
    from marlet.algorithms.policy_gradient import PolicyGradient
    from marlet.catalogue import make_env
    from marlet.engine.devices import one_device_per_core
    from marlet.engine.train import Training
    from products import product_rate, work_of

    one_device_per_core()
    import jax

    record = read(name)
    program = Training(make_env(record["env"]), algorithm_of(name), seeds=seeds)
    row = timed(program, seeds, QUICK_STEPS if quick else STEPS, quick)
    rate = row["steps_per_second"]
    row |= {
        "subject": f"`{name}`",
        "seeds": seeds,
        "jaxmarl_stated": record["jaxmarl_steps_per_second"],
        "ratio_stated": rate / record["jaxmarl_steps_per_second"],
        "import_seconds": import_seconds,
    }
    if isinstance(program.algorithm, PolicyGradient):
        work = work_of(program.algorithm, program.spec)
        done = 2 * work.multiply_adds * rate
        cores = len(jax.devices())
        product = {devices: product_rate(work.rows, work.width, devices, quick).per_second for devices in {1, cores}}
        row |= {
            "gigaflops": done / 1e9,
            "product_gigaflops_one_device": product[1] / 1e9,
            "product_gigaflops": product[cores] / 1e9,
            "share_of_product": done / max(product.values()),
        }
    return row
