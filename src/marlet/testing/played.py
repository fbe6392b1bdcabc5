"""What only playing tells of an environment: its numbers, its deaths, and its end."""

import itertools
from collections.abc import Callable

import jax
import numpy as np

from marlet.envs.base import Env, State
from marlet.testing.breach import expect, fields
from marlet.types import Spec, Step

PATIENCE = 500
"""Steps of an episode played where the environment names no horizon."""


def play(env: Env, reset: Callable, step: Callable, *, seed: int, episode: int) -> None:
    """One episode of random legal actions, each step checked, and two steps beyond a death of all."""
    spec = env.spec
    random = np.random.default_rng([seed, episode])
    keys = (jax.random.fold_in(jax.random.key(seed), k) for k in itertools.count(episode * 10**6))
    state, device_step = reset(next(keys))
    now = opening = jax.device_get(device_step)
    check_opening(env, opening)
    check_step(env, opening, opening, "after reset")
    beyond = 0
    for t in range(1, (spec.horizon or PATIENCE) + 3):
        action, key = draw(spec, now, random), next(keys)
        new_state, device_step = step(state, action, key)
        after = jax.device_get(device_step)
        moment = f"after {t} steps of episode {episode}"
        check_step(env, after, opening, moment)
        check_deaths(env, now, after, moment)
        if not spec.mortal:
            check_length(env, after, t, moment)
        if not now.alive.all() and now.alive.any():
            check_silence(env, step, state, action, key, now, after, moment)
        beyond += not now.alive.any()
        if (bool(after.over) and after.alive.any()) or beyond == 2:
            return  # what follows a cut by the clock is nobody's concern; what follows death is silence
        expect(
            env,
            spec.horizon is None or t < spec.horizon or bool(after.over),
            f"the episode is not over {moment}, but spec.horizon is {spec.horizon}",
            "Set truncated once the clock has run out, or give the true horizon.",
        )
        state, now = new_state, after


def draw(spec: Spec, now: Step, random: np.random.Generator) -> np.ndarray:
    """A random action of each agent: a legal choice, or a vector within [-1, 1]."""
    if spec.continuous:
        return random.uniform(-1, 1, (spec.num_agents, spec.num_actions)).astype(np.float32)
    return np.array([random.choice(np.flatnonzero(legal)) for legal in now.available], np.int32)


def check_opening(env: Env, opening: Step) -> None:
    """A reset brings no reward and no end."""
    names = env.spec.names
    for field in ("reward", "cost"):
        values = getattr(opening, field)
        i = int(np.argmax(values != 0))
        expect(
            env,
            not values.any(),
            f"{names[i]} has {field} {values[i]:g} after reset, but nothing has been done yet",
            f"Leave {field} out of make_step in `reset`.",
        )
    i = int(np.argmin(opening.alive))
    expect(
        env,
        opening.alive.all(),
        f"{names[i]} is not alive after reset, but every episode opens with everyone alive",
        "Set alive to True for all in `reset`.",
    )
    expect(
        env,
        not opening.truncated,
        "the episode is truncated after reset, but has not begun",
        "Let the clock start at 0 in `reset`.",
    )


def check_step(env: Env, step: Step, opening: Step, moment: str) -> None:
    """Numbers are finite, observations within their levels, and every agent may do something."""
    spec = env.spec
    for field in ("obs", "reward", "cost"):
        values = getattr(step, field).reshape(spec.num_agents, -1)
        i, k = np.unravel_index(np.argmin(np.isfinite(values)), values.shape)
        expect(
            env,
            np.isfinite(values).all(),
            f"{field} of {spec.names[i]} is {values[i, k]} {moment}"
            + (f" in feature {k}" if field == "obs" else "")
            + ", but must be finite",
            "Look for a division by zero, or the root or logarithm of a negative number.",
        )
    expect(
        env,
        np.isfinite(step.state).all(),
        f"feature {np.argmin(np.isfinite(step.state))} of the global state is not finite {moment}",
        "Look for a division by zero, or the root or logarithm of a negative number.",
    )
    if spec.levels:
        check_levels(env, step, opening, moment)
    i = int(np.argmin(step.available.any(-1)))
    expect(
        env,
        step.available.any(-1).all(),
        f"{spec.names[i]} has no legal action {moment}, but must have one" + ("" if step.alive[i] else ", dead or not"),
        "Make an action that does nothing available."
        if step.alive[i]
        else "Make all actions of a dead agent available: available | ~alive[:, None].",
    )


def check_levels(env: Env, step: Step, opening: Step, moment: str) -> None:
    """Feature k of a living agent is one of 0, 1/(levels[k]-1), ..., 1; one that has a single level never changes."""
    spec = env.spec
    levels = np.array(spec.levels)
    scaled = step.obs * (levels - 1)
    nearest = np.clip(np.round(scaled), 0, levels - 1)
    bad = np.where(levels == 1, step.obs != opening.obs, np.abs(scaled - nearest) > 1e-3) & step.alive[:, None]
    i, k = np.unravel_index(np.argmax(bad), bad.shape)
    expect(
        env,
        not bad.any(),
        f"{spec.names[i]} observes {step.obs[i, k]:g} in feature {k} {moment}, but spec.levels[{k}] is {levels[k]}: "
        + ("it must never change" if levels[k] == 1 else f"it must be one of 0, 1/{levels[k] - 1}, ..., 1"),
        "Scale the feature as value/(levels-1), or leave levels out.",
    )


def check_deaths(env: Env, now: Step, after: Step, moment: str) -> None:
    """Who was dead stays dead, and earns and costs nothing."""
    names, dead = env.spec.names, ~now.alive
    i = int(np.argmax(dead & after.alive))
    expect(
        env,
        not (dead & after.alive).any(),
        f"{names[i]} is alive again {moment}, but the dead stay dead until the next reset",
        "Write alive = state.alive & ... in `step`, and never reset there: the engine does.",
    )
    for field in ("reward", "cost"):
        values = np.where(dead, getattr(after, field), 0)
        i = int(np.argmax(values != 0))
        expect(
            env,
            not values.any(),
            f"{names[i]} was dead and still has {field} {values[i]:g} {moment}, but the dead have none",
            f"Multiply {field} by who was alive before the step; the step of the death itself still counts.",
        )


def check_length(env: Env, after: Step, t: int, moment: str) -> None:
    """Where nobody is mortal, nobody dies and the clock cuts every episode off at the horizon, never sooner."""
    i = int(np.argmin(after.alive))
    expect(
        env,
        after.alive.all(),
        f"{env.spec.names[i]} is dead {moment}, but spec.mortal is False",
        "Leave mortal out of the spec.",
    )
    expect(
        env,
        not after.truncated or t == env.spec.horizon,
        f"the episode is cut off {moment}, but spec.mortal is False and spec.horizon is {env.spec.horizon}",
        "Give the true horizon, or leave mortal out of the spec where episodes differ in length.",
    )


def check_silence(
    env: Env, step: Callable, state: State, action: np.ndarray, key: jax.Array, now: Step, after: Step, moment: str
) -> None:
    """What the dead choose changes nothing."""
    other = action.copy()
    other[~now.alive] = -action[~now.alive] if env.spec.continuous else (action[~now.alive] + 1) % env.spec.num_actions
    changed = jax.device_get(step(state, other, key)[1])
    for field, one, two in fields(after, changed):
        expect(
            env,
            np.array_equal(one, two),
            f"{field} depends on what dead agents chose {moment}, but their actions must have no effect",
            "Mask the action of the dead in `step`.",
        )
