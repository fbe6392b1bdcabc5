"""Plays whole episodes with what was learned, and keeps their scores one by one."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from marlet.algorithms.base import Algorithm, Learned
from marlet.engine.rollout import Tally, advance, opening
from marlet.envs.base import Env
from marlet.types import Key

LONGEST = 1000
"""Steps after which an evaluation's episode is cut off where the environment has no horizon."""


class Scores(eqx.Module):
    """The first episode of each environment."""

    score: Float[Array, "B n"]
    """Reward summed over the episode, of each agent."""
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
    n = env.spec.num_agents
    world = opening(env, algorithm, learned, episodes, key=open_key)
    scores = Scores(jnp.zeros((episodes, n)), jnp.zeros(episodes, jnp.int32), jnp.zeros(episodes, bool))

    def body(carry):
        step, world, done, scores = carry
        key = jax.random.fold_in(play_key, step)
        world, _, transition = advance(env, algorithm, learned, world, Tally.empty(n), key=key, greedy=greedy)
        over = transition.next.over
        scores = Scores(
            score=scores.score + jnp.where(done[:, None], 0.0, transition.next.reward),
            length=scores.length + ~done,
            solved=scores.solved | (~done & over & ~transition.next.truncated),
        )
        return step + 1, world, done | over, scores

    limit = env.spec.horizon or LONGEST
    start = (jnp.zeros((), jnp.int32), world, jnp.zeros(episodes, bool), scores)
    return jax.lax.while_loop(lambda carry: (carry[0] < limit) & ~carry[2].all(), body, start)[3]
