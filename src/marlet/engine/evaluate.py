"""Plays whole episodes with what was learned, and keeps their scores one by one."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from marlet.algorithms.base import Algorithm, Learned
from marlet.engine.rollout import reset, step
from marlet.envs.base import Env
from marlet.types import Key, Step

LONGEST = 1000
"""Steps after which an evaluation's episode is cut off where the environment has no horizon."""


class Scores(eqx.Module):
    """The first episode of each environment."""

    score: Float[Array, "B n"]
    """Reward summed over the episode, of each agent; not a number where one saw something that is not finite."""
    length: Int[Array, " B"]
    solved: Array
    """Whether the world ended it, rather than the clock (Bool "B")."""


def play_episodes(
    env: Env, algorithm: Algorithm, learned: Learned, episodes: int, *, key: Key, greedy: bool = True
) -> Scores:
    """One episode in each of `episodes` environments, played to its end.

    Without a horizon in the environment's spec, episodes are cut off after `LONGEST` steps.
    """
    open_key, play_key = jax.random.split(key)
    state, now = reset(env, jnp.arange(episodes), key=open_key)
    memory = algorithm.blank(learned, episodes)
    scores = Scores(_paid(now, 0.0), jnp.zeros(episodes, jnp.int32), jnp.zeros(episodes, bool))

    def body(carry):
        count, state, now, memory, done, scores = carry
        act_key, step_key = jax.random.split(jax.random.fold_in(play_key, count))
        memory, action, _ = algorithm.act(learned, memory, now, key=act_key, greedy=greedy)
        state, now = step(env, state, action, key=step_key)
        scores = Scores(
            score=scores.score + jnp.where(done[:, None], 0.0, _paid(now, now.reward)),
            length=scores.length + ~done,
            solved=scores.solved | (~done & now.over & ~now.truncated),
        )
        return count + 1, state, now, memory, done | now.over, scores

    limit = env.spec.horizon or LONGEST
    start = (jnp.zeros((), jnp.int32), state, now, memory, jnp.zeros(episodes, bool), scores)
    return jax.lax.while_loop(lambda carry: (carry[0] < limit) & ~carry[4].all(), body, start)[5]


def _paid(now: Step, reward: float | Float[Array, "B n"]) -> Float[Array, "B n"]:
    """The reward; not a number where what was seen is none."""
    return jnp.where(jnp.isfinite(now.obs).all(-1), reward, jnp.nan)
