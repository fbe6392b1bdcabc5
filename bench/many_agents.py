"""What an agent's step costs when there are more of them: IPPO with shared parameters on swarm, from 3 to 300 drones."""

from measure import Row, Table, Wish, imported, measured, peak_megabytes

AGENTS = (3, 10, 30, 100, 300)
SIDE_BY_SIDE = 2400
"""Agents in all environments together, whatever their number in each."""


def plan(wish: Wish) -> list[Table]:
    """The table to measure."""
    calls = [(at_number, (agents, wish.quick)) for agents in (AGENTS[:2] if wish.quick else AGENTS)]
    return [Table(f"IPPO with shared parameters on `swarm`, {SIDE_BY_SIDE} agents side by side", calls, compared)]


def at_number(agents: int, quick: bool) -> Row:
    """Agents' steps a second of training, and of stepping alone.

    The agents are not told their index: told as one-hot, it would be an input as long as there are agents.
    """
    import_seconds = imported()
    from marlet.catalogue import make_algorithm, make_env
    from marlet.engine.devices import one_device_per_core
    from marlet.engine.train import Training
    from stepping import random_play

    one_device_per_core()
    env, envs = make_env("swarm", {"agents": agents}), SIDE_BY_SIDE // agents
    algorithm = make_algorithm("ippo", {"envs": envs, "sharing": "shared", "sees_index": False})
    program = Training(env, algorithm, seeds=1)
    program.start()
    steps = program.steps_per_iteration * agents
    trained = measured(lambda steps, key: program.advance(steps), steps, quick, first=1)
    go, world, length = random_play(env, envs)
    stepped = measured(lambda rounds, key: go(world, key, rounds), envs * agents * length, quick, first=10)
    return {
        "agents": agents,
        "environments": envs,
        "agent_steps_per_second": trained.per_second,
        "nanoseconds_per_agent_step": 1e9 / trained.per_second,
        "stepping_nanoseconds_per_agent_step": 1e9 / stepped.per_second,
        "busy": trained.busy,
        "import_seconds": import_seconds,
        "compile_seconds": trained.compiling,
        "megabytes": peak_megabytes(),
    }


def compared(rows: list[Row]) -> list[Row]:
    """The rows with the cost relative to the fewest agents'."""
    first = rows[0]["nanoseconds_per_agent_step"]
    return [{**row, "times_fewest": row["nanoseconds_per_agent_step"] / first} for row in rows]
