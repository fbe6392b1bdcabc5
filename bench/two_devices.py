"""One seed on one CPU device against the same seed on a device a core, at the same total batch."""

import statistics

from measure import Row, Table, Wish, alone, measured

ALGORITHMS = ("ippo", "mappo")
TURNS = 3


def plan(wish: Wish) -> list[Table]:
    """The table to measure."""
    calls = [(both, (name, wish.cores, wish.quick)) for name in ALGORITHMS[: 1 if wish.quick else None]]
    return [Table("One seed on one CPU device and on one a core, default options on `spread`", calls)]


def both(algorithm: str, cores: int, quick: bool) -> Row:
    """Steps a second on one device and on several: processes that take turns, for one cannot have two numbers of devices."""
    told: dict[int, list[Row]] = {1: [], cores: []}
    for _ in range(1 if quick else TURNS):
        for devices, rows in told.items():
            rows.append(alone(on_devices, algorithm, devices, quick))
    middle = {
        devices: {name: statistics.median(row[name] for row in rows) for name in rows[0]}
        for devices, rows in told.items()
    }
    return {
        "subject": f"`{algorithm}`",
        "one_device": middle[1]["steps_per_second"],
        "one_device_busy": middle[1]["busy"],
        "device_per_core": middle[cores]["steps_per_second"],
        "device_per_core_busy": middle[cores]["busy"],
        "ratio_devices": middle[cores]["steps_per_second"] / middle[1]["steps_per_second"],
    }


def on_devices(algorithm: str, devices: int, quick: bool) -> Row:
    """Steps a second of training one seed with so many CPU devices."""
    import jax

    # The one place that says how many devices there are; the engine takes what it finds.
    jax.config.update("jax_num_cpu_devices", devices)
    from marlet.catalogue import make_algorithm, make_env
    from marlet.engine.train import Training

    program = Training(make_env("spread"), make_algorithm(algorithm), seeds=1)
    program.start()
    rate = measured(lambda steps, key: program.advance(steps), program.steps_per_iteration, quick, first=1)
    return {"steps_per_second": rate.per_second, "busy": rate.busy}
