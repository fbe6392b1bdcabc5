"""Stepping with random actions: every environment by itself, `spread` beside JaxMARL's, `grid` beside a loop in C."""

import json
import math
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


def random_play(env: Any, size: int, *, apart: bool = False) -> tuple[Callable, Any, int]:
    """A program `go(world, key, rounds)` of random play in Marlet's own engine, the world it begins with, and the steps of
    a round.

    It draws actions, steps, opens new episodes, and keeps the observations of the last step. All devices have their share
    of the environments. With `apart` episodes end one by one; else they end together, where they are of one length.
    """
    import jax

    from marlet.algorithms.base import Algorithm
    from marlet.engine.devices import compiler_options
    from marlet.engine.rollout import Tally, opening, rollout
    from marlet.engine.stateless import read_by
    from marlet.keys import new_key

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

        def reads_state(self):
            return False

    env = read_by(Random(), env)
    devices = jax.devices()[: math.gcd(size, len(jax.devices()))]
    random, share = Random(), size // len(devices)
    horizon = env.spec.horizon or 25
    length = max(1, horizon - 1) if apart else horizon
    mesh, one, all_of = jax.sharding.Mesh(devices, ("share",)), jax.P(), jax.P("share")

    def begun(key):
        key = jax.random.fold_in(key, jax.lax.axis_index("share"))
        world = opening(env, random, (), share, key=key)
        if apart:
            world = one_by_one(world, horizon)
        return jax.tree.map(lambda leaf: leaf[None], (world, Tally.empty(share, env.spec.num_agents)))

    def played(world, key, rounds):
        key = jax.random.fold_in(key, jax.lax.axis_index("share"))

        def body(i, carry):
            return rollout(env, random, (), *carry, length, key=jax.random.fold_in(key, i))[:2]

        carry = jax.lax.fori_loop(0, rounds, body, jax.tree.map(lambda leaf: leaf[0], world))
        return jax.tree.map(lambda leaf: leaf[None], carry)

    mapped = lambda function, takes: jax.jit(  # noqa: E731
        jax.shard_map(function, mesh=mesh, in_specs=takes, out_specs=all_of, check_vma=False),
        compiler_options=compiler_options(),
    )
    go = mapped(played, (all_of, one, one))
    world = mapped(begun, (one,))(new_key(0))
    return lambda world, key, rounds: go(world, new_key(key), rounds), world, length


def one_by_one(world: Any, horizon: int) -> Any:
    """The same world with its clocks apart, so that episodes end one by one."""
    import equinox as eqx
    import jax.numpy as jnp

    clock = jnp.arange(world.first.shape[0], dtype=jnp.int32) % horizon
    return eqx.tree_at(lambda w: (w.state.clock, w.clock), world, (clock, clock))


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
    from marlet.catalogue import make_env
    from marlet.engine.devices import one_device_per_core

    one_device_per_core()
    go, world, length = random_play(make_env(env_name), size)
    rate = measured(lambda rounds, key: go(world, key, rounds), size * length, quick, first=10)
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

    from marlet.engine.devices import one_device_per_core
    from marlet.envs.spread import Spread
    from peers import jaxmarl_play

    one_device_per_core()
    env = Spread()
    programs, lengths = {}, {"jaxmarl": env.steps}
    for name, apart in (("one_by_one", True), ("lockstep", False)):
        go, world, round_length = random_play(env, size, apart=apart)
        programs[name] = lambda rounds, key, go=go, world=world: go(world, key, rounds)
        lengths[name] = round_length
    theirs = jaxmarl_play(size)
    programs["jaxmarl"] = lambda rounds, key: theirs(jax.random.key(key), rounds * lengths["jaxmarl"])
    rates = in_turns(programs, {name: size * length for name, length in lengths.items()}, quick, first=10)
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
    from marlet.catalogue import make_env
    from marlet.engine.devices import one_device_per_core

    one_device_per_core()
    go, world, length = random_play(make_env("grid"), size)
    seconds = QUICK_SECONDS if quick else SECONDS
    with tempfile.TemporaryDirectory() as folder:
        loop = compiled_c(Path(folder))
        # A step of the loop in C is one whole run of it, and says itself how fast it was.
        told: list[float] = []
        rates = in_turns(
            {
                "marlet": lambda rounds, key: go(world, key, rounds),
                "c": lambda steps, key: told.append(run_c(loop, size, seconds)["steps_per_second"]),
            },
            {"marlet": size * length, "c": 1},
            quick,
            first=10,
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
