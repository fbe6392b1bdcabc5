"""Trains hundreds of independent runs at once, for checks of how often something is learned; and rollouts by hand.

What tests of several algorithms ask for is one compiled program here: an operation on its own is a program, too, and
compiling a hundred of them takes longer than the tests themselves.
"""

from dataclasses import replace
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from marlet.engine.rollout import Tally, opening, rollout
from marlet.envs.spread import Spread
from marlet.parts.experience import Cuts, Experience, cuts_of, seen_in
from marlet.types import Rollout, Spec, Step, Transition, where


@partial(jax.jit, static_argnames=("env", "algorithm", "steps", "runs"))
def train(env, algorithm, steps, runs, *, key, options=None, world=None):
    """That many runs of `steps` environment steps; everything returned leads with the run.

    `options` holds one value a run for each option named, so that variants of a family are compiled once; `world` does
    for fields of the environment.
    """
    updates = steps // (algorithm.envs * algorithm.length)

    def run(key, options, fields):
        init_key, open_key, train_key = jax.random.split(key, 3)
        rule, game = replace(algorithm, **options), replace(env, **fields)
        learned = rule.init(env.spec, key=init_key)
        world = opening(game, rule, learned, rule.envs, key=open_key)

        def iteration(carry, key):
            learned, world = carry
            play_key, learn_key = jax.random.split(key)
            tally = Tally.empty(rule.envs, env.spec.num_agents)
            world, _, played = rollout(game, rule, learned, world, tally, rule.length, key=play_key)
            learned, _ = rule.update(learned, played, key=learn_key)
            return (learned, world), None

        return jax.lax.scan(iteration, (learned, world), jax.random.split(train_key, updates))[0][0]

    return jax.vmap(run)(jax.random.split(key, runs), options or {}, world or {})


@eqx.filter_jit
def score(env, algorithm, learned, *, envs=1, steps=1, key, greedy=True):
    """The mean over agents of an episode's return, one number a run, from `envs` environments for `steps` steps."""

    def run(learned, key):
        open_key, play_key = jax.random.split(key)
        world = opening(env, algorithm, learned, envs, key=open_key)
        tally = Tally.empty(envs, env.spec.num_agents)
        _, tally, _ = rollout(env, algorithm, learned, world, tally, steps, key=play_key, greedy=greedy)
        return tally.score.mean(-1).sum() / jnp.maximum(tally.episodes.sum(), 1)

    runs = jax.tree.leaves(learned)[0].shape[0]
    return jax.vmap(run)(learned, jax.random.split(key, runs))


@partial(jax.jit, static_argnames=("algorithm", "spec"))
def begun(algorithm, spec):
    """What a learner begins with."""
    return algorithm.init(spec, key=jax.random.key(0))


def moved(one, other):
    """How far apart two trees are, one number an array."""
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return [float(np.abs(np.asarray(a) - np.asarray(b)).max()) for a, b in pairs]


def same(one, other):
    """Whether two trees are equal."""
    assert jax.tree.structure(one) == jax.tree.structure(other)
    return all(map(np.array_equal, jax.tree.leaves(one), jax.tree.leaves(other)))


@partial(jax.jit, static_argnames="rule")
def updated(rule, learned, played):
    """What is learned from this rollout."""
    return rule.update(learned, played, key=jax.random.key(0))[0]


@partial(jax.jit, static_argnames=("rule", "greedy"))
def acted(rule, learned, step, greedy=False):
    """What is done at this step."""
    return rule.act(learned, (), step, key=jax.random.key(0), greedy=greedy)[1]


def line(n, a=2, cells=4, **options):
    """What may be known of a world in which each agent stands in one of a few cells."""
    return Spec(num_agents=n, num_actions=a, obs_shape=(1,), state_size=1, levels=(cells,), **options)


def at(*cells, most=3):
    """Observations, one row an agent, of agents in these cells; T = B = 1."""
    return jnp.array(cells, jnp.float32)[None, None, :, None] / most


def said(obs, *, actions, reward=0.0, available=None, alive=True, truncated=False):
    """A step whose observations are given, `*batch n d`, and everything else broadcast to fit."""
    obs = jnp.asarray(obs, jnp.float32)
    batch, n = obs.shape[:-2], obs.shape[-2]
    fill = lambda x, shape, kind: jnp.broadcast_to(jnp.asarray(x, kind), shape)  # noqa: E731
    return Step(
        obs=obs,
        state=jnp.zeros((*batch, 1)),
        available=fill(True if available is None else available, (*batch, n, actions), bool),
        reward=fill(reward, (*batch, n), jnp.float32),
        alive=fill(alive, (*batch, n), bool),
        truncated=fill(truncated, batch, bool),
        cost=jnp.zeros((*batch, n)),
    )


@partial(jax.jit, static_argnames=("spec", "steps", "count", "memory", "ends"))
def imagined(spec, steps, count, *, memory=0, ends=0.0, key):
    """A rollout of random numbers from -1 to 1. With the chance `ends` an agent is dead, an action but the first may not
    be taken, or an episode begins or is cut off: whatever a step says, the next one does not depend on it."""
    keys = iter(jax.random.split(key, 14))
    n, a = spec.num_agents, spec.num_actions
    numbers = lambda *axes: jax.random.normal(next(keys), (steps, count, *axes)).clip(-1, 1)  # noqa: E731
    happens = lambda chance, *axes: jax.random.bernoulli(next(keys), chance, (steps, count, *axes))  # noqa: E731

    def step():
        return Step(
            obs=numbers(n, *spec.obs_shape),
            state=numbers(spec.state_size),
            available=happens(1 - ends, n, a).at[..., 0].set(True),
            reward=numbers(n),
            alive=happens(1 - ends, n),
            truncated=happens(ends),
            cost=jnp.zeros((steps, count, n)),
        )

    action = numbers(n, a) if spec.continuous else jax.random.randint(key, (steps, count, n), 0, a)
    transitions = Transition(now=step(), action=action, next=step(), first=happens(ends), extra=())
    return Rollout(transitions=transitions, memory=jax.random.normal(jax.random.fold_in(key, 1), (count, n, memory)))


def experience_of(rollout, spec):
    """All of a rollout in its order, as a replay gives it back: where the clock cut off at the end, another step follows."""
    t, last = rollout.transitions, seen_in(jax.tree.map(lambda leaf: leaf[-1], rollout.transitions.next))
    opened = jax.tree.map(lambda leaf: ~leaf if leaf.dtype == bool else leaf + 1, last)
    last = where(t.next.truncated[-1], opened, last)
    return Experience(
        seen=jax.tree.map(lambda now, last: jnp.concatenate([now, last[None]]), seen_in(t.now), last),
        alive=t.now.alive,
        action=t.action,
        reward=t.next.reward,
        next_alive=t.next.alive,
        first=t.first,
        memory=rollout.memory,
        cuts=cuts_of(t, spec),
    )


def step_by_step(e, memories):
    """The same transitions as sequences of one step: each begins with the memory before it, and what it led to follows.

    `memories` are those after each step, "T K n m".
    """
    single = lambda leaf: leaf.reshape(1, -1, *leaf.shape[2:])  # noqa: E731
    seen = jax.tree.map(lambda now, next: jnp.concatenate([single(now), single(next)]), e.now, e.next)
    before = jnp.concatenate([e.memory[None], memories[:-1]])
    return Experience(
        seen=seen,
        alive=single(e.alive),
        action=single(e.action),
        reward=single(e.reward),
        next_alive=single(e.next_alive),
        first=single(e.first),
        memory=single(before)[0],
        cuts=Cuts(jax.tree.map(lambda leaf: leaf[1:], seen), jnp.ones((1, single(e.alive).shape[1]), jnp.int32)),
    )


def spread_out(algorithm, *, known):
    """A fresh learner and two rollouts of its own in spread, one after the other, in episodes of four steps.

    Of six steps each, these are cut off within the first, which ends in mid-episode, and within the second and at its end;
    of two, at the end of the second alone.

    That nobody dies there is told to the learner only if it is `known`.
    """
    assert algorithm.length in (2, 6)
    env = Spread(agents=2, steps=4)

    @jax.jit
    def made():
        learned = algorithm.init(replace(env.spec, mortal=not known), key=jax.random.key(0))
        world = opening(env, algorithm, learned, algorithm.envs, key=jax.random.key(1))
        tally = Tally.empty(algorithm.envs, 2)
        run = jax.jit(lambda world, key: rollout(env, algorithm, learned, world, tally, algorithm.length, key=key))
        world, _, one = run(world, jax.random.key(2))
        return learned, (one, run(world, jax.random.key(3))[2])

    learned, rollouts = made()
    cut = [rollout.transitions.next.truncated[:, 0].tolist() for rollout in rollouts]
    assert np.concatenate(cut).tolist() == [k % 4 == 3 for k in range(2 * algorithm.length)]
    return learned, rollouts


def played(now, action, next):
    """A rollout of these transitions; every array leads with `T B`."""
    first = jnp.zeros(now.truncated.shape, bool)
    return Rollout(
        transitions=Transition(now=now, action=jnp.asarray(action), next=next, first=first, extra=()), memory=()
    )
