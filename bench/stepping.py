"""Stepping with random actions: every environment by itself, `spread` beside JaxMARL's, `grid` beside a loop in C."""

import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from measure import (
    HERE,
    QUICK_RUNS,
    QUICK_SECONDS,
    RUNS,
    SECONDS,
    Call,
    Row,
    Table,
    Wish,
    imported,
    in_turns,
    measured,
    peak_megabytes,
)

ONE_SIZE = 512
"""Environments side by side of those that are measured at one size only."""
C_FLAGS = ("-O3", "-march=native")


def plan(wish: Wish) -> list[Table]:
    """The tables to measure; what needs JaxMARL or gcc, where it is installed."""
    from marlet.catalogue import env_names

    sizes = wish.sizes[1:2] or wish.sizes if wish.quick else wish.sizes
    each = [(name, size) for name in ("spread", "grid") for size in sizes]
    each += [(name, ONE_SIZE) for name in env_names() if name not in ("spread", "grid") and not wish.quick]
    beside: list[Table] = []
    if find_spec("jaxmarl"):
        calls: list[Call] = [(beside_jaxmarl, (size, wish.quick)) for size in sizes]
        beside.append(Table("`spread` beside JaxMARL's `MPE_simple_spread_v3`, taking turns", calls))
    if shutil.which("gcc"):
        beside.append(
            Table("`grid` beside a loop in C on one core, taking turns", [(beside_c, (max(sizes), wish.quick))])
        )
    return [*beside, Table("Environments by themselves", [(by_itself, (*one, wish.quick)) for one in each])]


# The one place that knows how the engine plays at random


def random_play(env: Any, size: int) -> tuple[Callable, Any]:
    """A program `go(world, key, steps)` of random play in Marlet's own engine, and the world it begins with.

    It draws actions, steps, opens new episodes, and keeps the observations of the last step.
    """
    import equinox as eqx
    import jax

    from marlet.algorithms.base import Algorithm
    from marlet.engine.rollout import Tally, advance, opening

    @dataclass(frozen=True)
    class Random(Algorithm):
        """Any action, whether legal or not: all environments measured here allow every action."""

        def check(self, spec): ...

        def init(self, spec, *, key):
            return ()

        def blank(self, learned, batch):
            return ()

        def act(self, learned, memory, step, *, key, greedy=False):
            *shape, choices = step.available.shape
            if env.spec.continuous:
                return (), jax.random.uniform(key, (*shape, choices), minval=-1.0), ()
            return (), draw(key, shape, choices), ()

        def update(self, learned, rollout, *, key):
            return learned, {}

    random, n = Random(), env.spec.num_agents

    @eqx.filter_jit
    def go(world, key, steps: int):
        def body(carry, key):
            world, tally, _ = advance(env, random, (), *carry, key=key)
            return (world, tally), None

        return jax.lax.scan(body, (world, Tally.empty(n)), jax.random.split(key, steps))[0]

    return go, jax.jit(lambda key: opening(env, random, (), size, key=key))(jax.random.key(0))


def one_by_one(world: Any, horizon: int) -> Any:
    """The same world with its clocks apart, so that episodes end one by one, as they do in the long run."""
    import equinox as eqx
    import jax.numpy as jnp

    size = world.first.shape[0]
    return eqx.tree_at(lambda w: w.state.clock, world, jnp.arange(size, dtype=jnp.int32) % horizon)


def draw(key: Any, shape: Any, choices: int) -> Any:
    """Actions all but equally likely (to 1 in 10 000), for 16 random bits each: `randint` takes four times as many, and
    would be most of what is measured. The same for both sides."""
    import jax
    import jax.numpy as jnp

    return (jax.random.bits(key, tuple(shape), jnp.uint16) % choices).astype(jnp.int32)


# What is measured, each in a process of its own


def by_itself(env_name: str, size: int, quick: bool) -> Row:
    """Environment steps a second of one environment."""
    import_seconds = imported()
    import jax

    from marlet.catalogue import make_env

    go, world = random_play(make_env(env_name), size)
    rate = measured(lambda steps, key: go(world, jax.random.key(key), steps), size, quick)
    return {
        "subject": f"`{env_name}`",
        "environments": size,
        "steps_per_second": rate.per_second,
        "busy": rate.busy,
        "import_seconds": import_seconds,
        "compile_seconds": rate.compiling,
        "megabytes": peak_megabytes(),
    }


def beside_jaxmarl(size: int, quick: bool) -> Row:
    """`spread` and JaxMARL's, taking turns; once with all episodes in lockstep, once ending one by one."""
    imported()
    import jax

    from marlet.envs.spread import Spread
    from peers import jaxmarl_play

    env = Spread()
    go, world = random_play(env, size)
    apart = one_by_one(world, env.steps)
    theirs = jaxmarl_play(size)
    rates = in_turns(
        {
            "one_by_one": lambda steps, key: go(apart, jax.random.key(key), steps),
            "lockstep": lambda steps, key: go(world, jax.random.key(key), steps),
            "jaxmarl": lambda steps, key: theirs(jax.random.key(key), steps),
        },
        size,
        quick,
    )
    return {
        "environments": size,
        **{name: rate.per_second for name, rate in rates.items()},
        "ratio_one_by_one": rates["one_by_one"].per_second / rates["jaxmarl"].per_second,
        "ratio_lockstep": rates["lockstep"].per_second / rates["jaxmarl"].per_second,
        "busy": rates["one_by_one"].busy,
        "jaxmarl_busy": rates["jaxmarl"].busy,
        "compile_seconds": rates["one_by_one"].compiling,
    }


def beside_c(size: int, quick: bool) -> Row:
    """`grid` and `grid.c`, taking turns."""
    import_seconds = imported()
    import jax

    from marlet.catalogue import make_env

    go, world = random_play(make_env("grid"), size)
    seconds = QUICK_SECONDS if quick else SECONDS
    with tempfile.TemporaryDirectory() as folder:
        loop = compiled_c(Path(folder))
        # A step of the loop in C is one whole run of it, and says itself how fast it was.
        told: list[float] = []
        rates = in_turns(
            {
                "marlet": lambda steps, key: go(world, jax.random.key(key), steps),
                "c": lambda steps, key: told.append(run_c(loop, size, seconds)["steps_per_second"]),
            },
            size,
            quick,
        )
    ours, runs = rates["marlet"], QUICK_RUNS if quick else RUNS
    theirs = sorted(told[-runs:])[runs // 2]
    return {
        "environments": size,
        "steps_per_second": ours.per_second,
        "busy": ours.busy,
        "c": theirs,
        "share_of_c": ours.per_second / theirs,
        "share_per_core": ours.per_second / ours.busy / theirs,  # both by processor time
        "import_seconds": import_seconds,
        "compile_seconds": ours.compiling,
        "megabytes": peak_megabytes(),
    }


def compiled_c(folder: Path) -> Path:
    """The loop in C, compiled.

    Raises:
        FileNotFoundError: if there is no gcc.
    """
    loop = folder / "grid"
    subprocess.run(["gcc", *C_FLAGS, "-o", str(loop), str(HERE / "grid.c")], check=True)
    return loop


def run_c(loop: Path, size: int, seconds: float) -> Row:
    """What the loop in C says of one run: its steps a second, and what the agents earned in an episode."""
    return json.loads(subprocess.run([loop, str(size), str(seconds)], check=True, stdout=subprocess.PIPE).stdout)
