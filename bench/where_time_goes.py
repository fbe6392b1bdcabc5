"""Where the time of training goes: its parts, timed one by one, for QMIX and MAPPO at JaxMARL's settings.

    python bench/run.py --only where_time_goes

A part's time is told for one iteration of training: a rollout and the updates after it. What an iteration takes beyond
rollout and update is the loop around them; what the parts of an update take beyond it is what the compiler saved by
joining them.
"""

from measure import Row, Table, Wish, imported, measured
from training_parts import PLAYING, PPO, Q_LEARNING, Part, Scene, is_q_learning

SETTINGS = ("qmix", "mappo_recurrent")


def plan(wish: Wish) -> list[Table]:
    """The tables to measure, each part in a process of its own."""
    return [
        Table(
            f"Where the time of `{name}` goes: JaxMARL's settings, one seed, one device",
            [(part, (name, label, wish.quick)) for label in parts_of(name)],
            compared,
        )
        for name in SETTINGS[: 1 if wish.quick else None]
    ]


def parts_of(name: str) -> dict[str, Part]:
    """The parts of a setting's training, the whole first."""
    return {**PLAYING, **(Q_LEARNING if is_q_learning(name) else PPO)}


def compared(rows: list[Row]) -> list[Row]:
    """The rows with their share of the whole iteration."""
    return [{**row, "share": row["milliseconds"] / rows[0]["milliseconds"]} for row in rows]


def part(name: str, label: str, quick: bool) -> Row:
    """Milliseconds that one part takes in one iteration of training."""
    imported()
    program, times = parts_of(name)[label](Scene(name))
    rate = measured(program, 1, quick, first=2)
    return {
        "subject": label,
        "milliseconds": 1e3 * times / rate.per_second,
        "busy": rate.busy,
        "compile_seconds": rate.compiling,
    }
