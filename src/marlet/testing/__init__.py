"""Conformance checks that anyone can run on parts of their own: does this environment keep its contract?"""

import itertools

import jax

from marlet.envs.base import Env
from marlet.errors import EnvironmentFault
from marlet.testing.breach import expect
from marlet.testing.declared import check_purity, check_render, check_spec, check_traces
from marlet.testing.played import play


def check_env(env: Env, seed: int = 0, episodes: int = 3) -> list[str]:
    """Play `episodes` at random and hold every step against the contract of `Env`, `Spec` and `Step`.

    Args:
        env: one environment, with its options set.
        seed: of the resets, the steps and the random legal actions.
        episodes: how many to play, each to its end, or 500 steps where the environment names no horizon.

    Returns:
        The names of the checks passed, in the order in which they were made.

    Raises:
        EnvironmentFault: at the first breach: what, which agent, what was expected and the cure.
    """
    if not isinstance(env, Env):
        given = f"the class {env.__name__}" if isinstance(env, type) else f"a {type(env).__name__}"
        raise EnvironmentFault(
            f"check_env was given {given}, but expects an environment made from a subclass of marlet's Env. "
            "Pass an instance, such as check_env(Grid())."
        )
    check_declared(env)
    check_purity(env, seed)
    traces = itertools.count()

    def counted(state, action, key):
        next(traces)
        return env.step(state, action, key=key)

    reset, step = jax.jit(lambda key: env.reset(key=key)), jax.jit(counted)
    for episode in range(episodes):
        play(env, reset, step, seed=seed, episode=episode)
    count = next(traces)
    expect(
        env,
        count <= 1,
        f"step was traced {count} times in {episodes} episodes, but must be compiled once",
        "Keep the dtype and shape of every array the same from step to step.",
    )
    check_render(env, reset, seed)
    return [
        *("spec", "traces", "shapes", "state structure", "batches", "purity", "opening", "finite numbers"),
        *(("levels",) if env.spec.levels else ()),
        *("legal actions", "deaths", "horizon", "one compilation"),
        *(() if type(env).render is Env.render else ("render",)),
    ]


def check_declared(env: Env) -> None:
    """What can be held against the contract without playing: the spec, and the arrays that `reset` and `step` return.

    Raises:
        EnvironmentFault: at the first breach.
    """
    check_spec(env)
    check_traces(env)
