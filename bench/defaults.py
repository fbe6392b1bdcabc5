"""Training of every deep algorithm by its default options: steps a second, and what it has learned by then."""

from measure import Row, Table, Wish, imported
from training import QUICK_STEPS, timed

STEPS = 200_000


def plan(wish: Wish) -> list[Table]:
    """The table to measure."""
    from marlet.catalogue import algorithm_entry, algorithm_names

    deep = [name for name in algorithm_names() if "hidden" in algorithm_entry(name).options]
    return [
        Table(
            "Every deep algorithm on `spread`, one seed, by its default options",
            [(at_defaults, (name, wish.quick)) for name in deep],
        )
    ]


def at_defaults(name: str, quick: bool) -> Row:
    """Environment steps a second of whole training of an algorithm by its default options, and what it has learned by then."""
    import_seconds = imported()
    from marlet.catalogue import make_algorithm, make_env
    from marlet.engine.devices import one_device_per_core
    from marlet.engine.train import Training

    one_device_per_core()
    env = make_env("spread")
    program = Training(env, make_algorithm(name, env=env), seeds=1)
    row = timed(program, 1, QUICK_STEPS if quick else STEPS, quick)
    return {"subject": f"`{name}`", "import_seconds": import_seconds, **row}
