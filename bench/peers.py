"""Other libraries' environments with random actions, in one process, where they are installed (`make bench-peers`)."""

import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from measure import QUICK_SECONDS, RUNS, SECONDS, Call, Row, Table, Wish, measured, peak_megabytes

JUMANJI_SIZE = 512
PETTINGZOO = {"mpe2": "mpe2.simple_spread_v3"}
GYMNASIUM = {"lbforaging": "Foraging-8x8-2p-2f-v3", "rware": "rware-tiny-2ag-v2"}
JUMANJI = ("RobotWarehouse-v0", "LevelBasedForaging-v0")


def plan(wish: Wish) -> list[Table]:
    """The table to measure: of those that are installed."""
    calls: list[Call] = [(parallel, (package, wish.quick)) for package in PETTINGZOO if find_spec(package)]
    calls += [(gymnasium, (package, wish.quick)) for package in GYMNASIUM if find_spec(package)]
    if find_spec("jumanji"):
        calls += [(jumanji, (name, JUMANJI_SIZE, wish.quick)) for name in JUMANJI]
    return [Table("Other libraries' environments by themselves", calls)] if calls else []


def jaxmarl_play(size: int) -> Callable:
    """A program `go(key, steps)` of JaxMARL's spread with its own automatic resets; as few random draws as it allows."""
    import equinox as eqx
    import jax
    import jax.numpy as jnp
    import jaxmarl  # pyright: ignore[reportMissingImports]

    from stepping import draw

    env = jaxmarl.make("MPE_simple_spread_v3")
    n, choices = len(env.agents), env.action_space(env.agents[0]).n
    obs, state = jax.jit(jax.vmap(env.reset))(jax.random.split(jax.random.key(0), size))

    @eqx.filter_jit
    def go(key, steps: int):
        def body(carry, key):
            _, state, total = carry
            act_key, step_key = jax.random.split(key)
            drawn = draw(act_key, (n, size), choices)
            actions = dict(zip(env.agents, drawn, strict=True))
            obs, state, reward, _, _ = jax.vmap(env.step)(jax.random.split(step_key, size), state, actions)
            return (obs, state, total + sum(reward[agent] for agent in env.agents)), None

        return jax.lax.scan(body, (obs, state, jnp.zeros(size)), jax.random.split(key, steps))[0]

    return go


def parallel(package: str, quick: bool) -> Row:
    """An environment of PettingZoo's parallel kind."""
    begun = time.perf_counter()
    import importlib

    env = importlib.import_module(PETTINGZOO[package]).parallel_env()
    env.reset(seed=0)
    spaces = {agent: env.action_space(agent) for agent in env.possible_agents}
    import_seconds = time.perf_counter() - begun
    actions = drawn_ahead(lambda: {agent: space.sample() for agent, space in spaces.items()})

    def step(action: Any) -> None:
        env.step(action)
        if not env.agents:
            env.reset()

    return row(f"`{PETTINGZOO[package]}`", step, actions, quick, import_seconds)


def gymnasium(package: str, quick: bool) -> Row:
    """An environment that Gymnasium registers."""
    begun = time.perf_counter()
    import importlib

    import gymnasium as registry

    importlib.import_module(package)
    env = registry.make(GYMNASIUM[package], disable_env_checker=True)
    env.reset(seed=0)
    import_seconds = time.perf_counter() - begun
    actions = drawn_ahead(env.action_space.sample)

    def step(action: Any) -> None:
        _, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            env.reset()

    return row(f"`{package}` {GYMNASIUM[package]}", step, actions, quick, import_seconds)


def drawn_ahead(draw: Callable[[], Any], count: int = 1000) -> list[Any]:
    """Actions drawn before the clock runs, so that drawing them is not what is measured."""
    return [draw() for _ in range(count)]


def row(subject: str, step: Callable[[Any], None], actions: list[Any], quick: bool, import_seconds: float) -> Row:
    """The steps a second of a stepping function: the median of several runs."""
    rates = []
    for _ in range(RUNS):
        begun, done, wanted = time.perf_counter(), 0, QUICK_SECONDS if quick else SECONDS
        while (passed := time.perf_counter() - begun) < wanted:
            step(actions[done % len(actions)])
            done += 1
        rates.append(done / passed)
    return {
        "subject": subject,
        "environments": 1,
        "peer_steps_per_second": sorted(rates)[len(rates) // 2],
        "import_seconds": import_seconds,
        "megabytes": peak_megabytes(),
    }


def jumanji(name: str, size: int, quick: bool) -> Row:
    """One of jumanji's environments of several agents, with its own automatic resets, `size` side by side."""
    begun = time.perf_counter()
    import equinox as eqx
    import jax
    import jumanji as library  # pyright: ignore[reportMissingImports]
    from jumanji.wrappers import VmapAutoResetWrapper  # pyright: ignore[reportMissingImports]

    from stepping import draw

    env = VmapAutoResetWrapper(library.make(name))
    import_seconds = time.perf_counter() - begun
    spec = env.unwrapped.action_spec
    choices = int(spec.num_values.max())
    state, _ = jax.jit(env.reset)(jax.random.split(jax.random.PRNGKey(0), size))

    @eqx.filter_jit
    def go(key, steps: int):
        def body(state, key):
            state, step = env.step(state, draw(key, (size, *spec.shape), choices))
            return state, step.reward.sum()

        return jax.lax.scan(body, state, jax.random.split(key, steps))

    rate = measured(lambda steps, key: go(jax.random.key(key), steps), size, quick)
    return {
        "subject": f"`jumanji` {name}",
        "environments": size,
        "peer_steps_per_second": rate.per_second,
        "busy": rate.busy,
        "import_seconds": import_seconds,
        "compile_seconds": rate.compiling,
        "megabytes": peak_megabytes(),
    }
