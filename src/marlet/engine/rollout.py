"""Plays B compiled environments for T steps: act, step, and reset where an episode is over."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from marlet.algorithms.base import Algorithm, Learned
from marlet.envs.base import Env
from marlet.types import Key, Memory, Rollout, Step, Transition, where

# Inside the engine the environments' own state keeps the batch on its last axis: their small arrays then vectorise
# over environments instead of over coordinates (two to three times faster for the particle worlds on a CPU).
BATCH_LAST = -1


class World(eqx.Module):
    """B environments between two steps, with the agents' memories and the running score of each episode."""

    state: Any
    """Of the environments; every array ends with `B`."""
    now: Step
    first: Bool[Array, " B"]
    memory: Memory
    score: Float[Array, "B n"]
    """Reward summed since the episode began."""
    clock: Int[Array, " B"]
    """Steps since the episode began."""


class Tally(eqx.Module):
    """Sums over the episodes that ended; divide by `episodes` for means."""

    episodes: Float[Array, ""]
    score: Float[Array, " n"]
    squares: Float[Array, ""]
    """Of the episode's score averaged over agents."""
    length: Float[Array, ""]
    solved: Float[Array, ""]
    """Episodes ended by the world rather than by the clock."""

    @staticmethod
    def empty(num_agents: int) -> "Tally":
        zero = jnp.zeros((), jnp.float32)
        return Tally(zero, jnp.zeros(num_agents, jnp.float32), zero, zero, zero)


FEW = 16
"""Where no more than one in this many environments end at once, only as many openings are drawn."""


def reset(env: Env, which: Int[Array, " B"], *, key: Key) -> tuple[Any, Step]:
    """Open an episode in each of these environments. An environment's opening does not depend on the others'."""
    return jax.vmap(lambda i: env.reset(key=jax.random.fold_in(key, i)), out_axes=(BATCH_LAST, 0))(which)


def opening(env: Env, algorithm: Algorithm, learned: Learned, batch: int, *, key: Key) -> World:
    """The world before the first step."""
    state, now = reset(env, jnp.arange(batch), key=key)
    n = env.spec.num_agents
    return World(
        state=state,
        now=now,
        first=jnp.ones(batch, bool),
        memory=algorithm.blank(learned, batch),
        score=jnp.zeros((batch, n), jnp.float32),
        clock=jnp.zeros(batch, jnp.int32),
    )


def advance(
    env: Env, algorithm: Algorithm, learned: Learned, world: World, tally: Tally, *, key: Key, greedy: bool = False
) -> tuple[World, Tally, Transition]:
    """One step of all environments. Where an episode ends, the next one opens; its final step stays in `next`."""
    batch = world.first.shape[0]
    act_key, step_key, reset_key = jax.random.split(key, 3)
    memory, action, extra = algorithm.act(learned, world.memory, world.now, key=act_key, greedy=greedy)
    step = jax.vmap(
        lambda state, action, key: env.step(state, action, key=key),
        in_axes=(BATCH_LAST, 0, 0),
        out_axes=(BATCH_LAST, 0),
    )
    state, next = step(world.state, action, jax.random.split(step_key, batch))
    transition = Transition(now=world.now, action=action, next=next, first=world.first, extra=extra)

    over = next.over
    score = world.score + next.reward
    clock = world.clock + 1
    mean = score.mean(-1)
    tally = Tally(
        episodes=tally.episodes + over.sum(),
        score=tally.score + jnp.where(over[:, None], score, 0).sum(0),
        squares=tally.squares + jnp.where(over, mean**2, 0).sum(),
        length=tally.length + jnp.where(over, clock, 0).sum(),
        solved=tally.solved + (over & ~next.truncated).sum(),
    )
    ended = World(state=state, now=next, first=over, memory=memory, score=score, clock=clock)

    return _reopened(env, algorithm.blank(learned, batch), ended, key=reset_key), tally, transition


def _reopened(env: Env, blank: Memory, ended: World, *, key: Key) -> World:
    """The world with a new episode wherever one is over (`ended.first`).

    Openings are drawn for no more environments than need one, roughly: none, a few, or all. Which of the three changes
    no number, only how much is computed.
    """
    over = ended.first
    batch = over.shape[0]
    few = batch // FEW
    count = over.sum()

    def restarted(state: Any, now: Step) -> World:
        return World(
            state=state,
            now=now,
            first=over,
            memory=where(over, blank, ended.memory),
            score=where(over, jnp.zeros_like(ended.score), ended.score),
            clock=where(over, jnp.zeros_like(ended.clock), ended.clock),
        )

    def reopen_all() -> World:
        fresh_state, fresh = reset(env, jnp.arange(batch), key=key)
        last = lambda new, old: jnp.where(over, new, old)  # noqa: E731
        return restarted(jax.tree.map(last, fresh_state, ended.state), where(over, fresh, ended.now))

    def reopen_few() -> World:
        (which,) = jnp.nonzero(over, size=few, fill_value=batch)  # what is beyond the batch is dropped
        fresh_state, fresh = reset(env, which, key=key)
        put_last = lambda old, new: old.at[..., which].set(new, mode="drop")  # noqa: E731
        put = lambda old, new: old.at[which].set(new, mode="drop")  # noqa: E731
        return restarted(jax.tree.map(put_last, ended.state, fresh_state), jax.tree.map(put, ended.now, fresh))

    if not few:
        return jax.lax.cond(count > 0, reopen_all, lambda: ended)
    case = jnp.where(count == 0, 0, jnp.where(count <= few, 1, 2))
    return jax.lax.switch(case, [lambda: ended, reopen_few, reopen_all])


def rollout(
    env: Env,
    algorithm: Algorithm,
    learned: Learned,
    world: World,
    tally: Tally,
    length: int,
    *,
    key: Key,
    greedy: bool = False,
) -> tuple[World, Tally, Rollout]:
    """T = `length` steps of all environments."""

    def body(carry: tuple[World, Tally], key: Key) -> tuple[tuple[World, Tally], Transition]:
        world, tally, transition = advance(env, algorithm, learned, *carry, key=key, greedy=greedy)
        return (world, tally), transition

    memory = world.memory
    (world, tally), transitions = jax.lax.scan(body, (world, tally), jax.random.split(key, length))
    return world, tally, Rollout(transitions=transitions, memory=memory)
