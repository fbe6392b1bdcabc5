"""Training with a GRU against training with a memory that is linear in itself; and the two ways of computing the latter."""

from dataclasses import replace
from functools import partial

from measure import Row, Table, Wish, in_turns
from settings import algorithm_of, read

NAMES = ("ippo_recurrent", "mappo_recurrent", "qmix")
SIZES = ((27, 96, 64), (128, 24, 128))
"""Steps, rows and units of the memories of `qmix` and of a minibatch of `ippo_recurrent`."""


def plan(wish: Wish) -> list[Table]:
    """The tables to measure."""
    names = NAMES[: 1 if wish.quick else None]
    return [
        Table(
            "A GRU and a linear memory, one seed on `spread` at JaxMARL's settings, taking turns",
            [(both, (name, wish.quick)) for name in names],
        ),
        Table(
            "A linear memory's recurrence by itself, on one device, taking turns",
            [(either_way, (*sizes, wish.quick)) for sizes in SIZES],
        ),
    ]


def both(name: str, quick: bool) -> Row:
    """Environment steps a second of whole training with either memory."""
    from marlet.catalogue import make_env
    from marlet.engine.devices import one_device_per_core
    from marlet.engine.train import Training

    one_device_per_core()
    programs = {}
    for cell in ("gru", "linear"):
        algorithm = replace(algorithm_of(name), cell=cell)
        program = programs[cell] = Training(make_env(read(name)["env"]), algorithm, seeds=1)
        program.start()
        program.advance(1 + read(name)["options"].get("warmup", 0) // program.steps_per_iteration)
    rates = in_turns(
        {cell: lambda steps, key, program=program: program.advance(steps) for cell, program in programs.items()},
        {cell: program.steps_per_iteration for cell, program in programs.items()},
        quick,
        first=1,
    )
    gru, linear = rates["gru"], rates["linear"]
    return {
        "subject": f"`{name}`",
        "gru": gru.per_second,
        "gru_busy": gru.busy,
        "linear": linear.per_second,
        "linear_busy": linear.busy,
        "ratio_cells": linear.per_second / gru.per_second,
    }


def either_way(steps: int, rows: int, units: int, quick: bool) -> Row:
    """Milliseconds of the recurrence of one memory, step by step and by an associative scan."""
    import jax

    from marlet.parts.layers import pair_by_pair, step_by_step

    stays_key, comes_key = jax.random.split(jax.random.key(0))
    stays, comes = (jax.random.uniform(key, (steps, rows, units)) for key in (stays_key, comes_key))

    def often(way, count: int, key: int) -> list[jax.Array]:
        return [way(stays, comes, comes[0]) for _ in range(count)][-1:]

    ways = {"one": partial(often, jax.jit(step_by_step)), "pair": partial(often, jax.jit(pair_by_pair))}
    rates = in_turns(ways, dict.fromkeys(ways, 1), quick)
    one, pair = (1000 / rates[way].per_second for way in ("one", "pair"))
    return {
        "subject": f"{steps} steps of {rows} rows of {units} units",
        "step_by_step_ms": one,
        "pair_by_pair_ms": pair,
        "ratio_ways": pair / one,
    }
