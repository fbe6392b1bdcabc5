"""One seed on one CPU device, on one core and on all, against the same seed on a device a core, at the same total batch."""

import os
import statistics

from measure import Row, Table, Wish, alone, measured

ALGORITHMS = ("ippo", "mappo")
TURNS = 3


def plan(wish: Wish) -> list[Table]:
    """The table to measure."""
    calls = [(both, (name, wish.cores, wish.quick)) for name in ALGORITHMS[: 1 if wish.quick else None]]
    return [Table("One seed on one CPU device and on one a core, default options on `spread`", calls)]


def both(algorithm: str, cores: int, quick: bool) -> Row:
    """Steps a second of one device on one core, of one on all, and of one a core: processes that take turns, for one cannot
    have two numbers of devices."""
    told: dict[tuple[int, int], list[Row]] = {(1, 1): [], (1, cores): [], (cores, cores): []}
    for _ in range(1 if quick else TURNS):
        for given, rows in told.items():
            rows.append(alone(on_devices, algorithm, *given, quick))
    core, device, each = (
        {name: statistics.median(row[name] for row in rows) for name in rows[0]} for rows in told.values()
    )
    return {
        "subject": f"`{algorithm}`",
        "one_core": core["steps_per_second"],
        "one_device": device["steps_per_second"],
        "one_device_busy": device["busy"],
        "device_per_core": each["steps_per_second"],
        "device_per_core_busy": each["busy"],
        "ratio_devices": each["steps_per_second"] / device["steps_per_second"],
        "ratio_core": each["steps_per_second"] / core["steps_per_second"],
    }


def on_devices(algorithm: str, devices: int, cores: int, quick: bool) -> Row:
    """Steps a second of training one seed with so many CPU devices, on so many cores."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    import jax

    # The one place that says how many devices there are; the engine takes what it finds.
    jax.config.update("jax_num_cpu_devices", devices)
    from marlet.catalogue import make_algorithm, make_env
    from marlet.engine.train import Training

    env = make_env("spread")
    program = Training(env, make_algorithm(algorithm, env=env), seeds=1)
    program.start()
    rate = measured(lambda steps, key: program.advance(steps), program.steps_per_iteration, quick, first=1)
    return {"steps_per_second": rate.per_second, "busy": rate.busy}
