"""Training with a GRU against training with a memory that is linear in itself, at JaxMARL's recurrent settings."""

from dataclasses import replace

from measure import Row, Table, Wish, in_turns
from settings import algorithm_of, read

NAMES = ("ippo_recurrent", "mappo_recurrent", "qmix")


def plan(wish: Wish) -> list[Table]:
    """The table to measure."""
    calls = [(both, (name, wish.quick)) for name in NAMES[: 1 if wish.quick else None]]
    return [Table("A GRU and a linear memory, one seed on `spread` at JaxMARL's settings, taking turns", calls)]


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
