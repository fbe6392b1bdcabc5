"""Trains hundreds of independent runs at once, for checks of how often something is learned."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp

from marlet.engine.rollout import Tally, opening, rollout


@partial(jax.jit, static_argnames=("env", "algorithm", "steps", "seeds"))
def train(env, algorithm, steps, seeds, *, key):
    """`seeds` runs of `steps` environment steps each; everything returned leads with the run."""
    updates = steps // (algorithm.envs * algorithm.length)

    def run(key):
        init_key, open_key, train_key = jax.random.split(key, 3)
        learned = algorithm.init(env.spec, key=init_key)
        world = opening(env, algorithm, learned, algorithm.envs, key=open_key)

        def iteration(carry, key):
            learned, world = carry
            play_key, learn_key = jax.random.split(key)
            tally = Tally.empty(env.spec.num_agents)
            world, _, played = rollout(env, algorithm, learned, world, tally, algorithm.length, key=play_key)
            learned, _ = algorithm.update(learned, played, key=learn_key)
            return (learned, world), None

        return jax.lax.scan(iteration, (learned, world), jax.random.split(train_key, updates))[0][0]

    return jax.vmap(run)(jax.random.split(key, seeds))


@eqx.filter_jit
def score(env, algorithm, learned, *, envs, steps, key, greedy=True):
    """The mean over agents of an episode's return, for each run; `envs` environments for `steps` steps."""

    def run(learned, key):
        open_key, play_key = jax.random.split(key)
        world = opening(env, algorithm, learned, envs, key=open_key)
        tally = Tally.empty(env.spec.num_agents)
        _, tally, _ = rollout(env, algorithm, learned, world, tally, steps, key=play_key, greedy=greedy)
        return tally.score.mean() / jnp.maximum(tally.episodes, 1)

    return jax.vmap(run)(learned, jax.random.split(key, jax.tree.leaves(learned)[0].shape[0]))
