"""What a replay of a million transitions of spread holds, beside what one copy of everything in it would need."""

from measure import Row, Table, Wish, alone, peak_megabytes

CAPACITY, QUICK_CAPACITY = 1_000_000, 100_000
SMALL = 1_000
"""Capacity of the run whose memory stands for all that is not replay."""


def plan(wish: Wish) -> list[Table]:
    """The table to measure."""
    return [Table("Replay memory of `vdn` on `spread`", [(replay, (QUICK_CAPACITY if wish.quick else CAPACITY,))])]


def replay(capacity: int) -> Row:
    """Bytes held, needed, and by which the process grew."""
    large, small = alone(held, capacity), alone(held, SMALL)
    megabyte = 2**20
    grown = large["megabytes"] - small["megabytes"]
    return {
        "transitions": capacity,
        "needed_megabytes": capacity * large["needed"] / megabyte,
        "held_megabytes": large["held"] / megabyte,
        "held_ratio": large["held"] / (capacity * large["needed"]),
        "megabytes": large["megabytes"],
        "grown_megabytes": grown,
        "grown_ratio": grown * megabyte / (capacity * large["needed"]),
    }


def held(capacity: int) -> Row:
    """Bytes of the replay's arrays, bytes that a transition needs, and the process's peak after some training."""
    from marlet.catalogue import make_algorithm
    from marlet.engine.devices import bytes_of, one_device_per_core
    from marlet.engine.train import Training
    from marlet.envs.spread import Spread

    one_device_per_core()
    program = Training(Spread(), make_algorithm("vdn", {"capacity": capacity, "warmup": 0}), seeds=1)
    program.start()
    for _ in range(3):
        program.advance(10)
    return {
        "held": bytes_of(program.progress[0].learned.replay),
        "needed": needed_bytes(program.spec),
        "megabytes": peak_megabytes(),
    }


def needed_bytes(spec) -> int:
    """Of one transition, everything once: each agent's observation, the state if it is read, actions and rewards, 4 bytes a number;
    which actions are legal, who is alive, and whether the step opens an episode, 1 byte a flag."""
    n = spec.num_agents
    numbers = n * spec.obs_shape[0] + spec.state_size + n * (spec.num_actions if spec.continuous else 1) + n
    flags = n * spec.num_actions + n + 1
    return 4 * numbers + flags
