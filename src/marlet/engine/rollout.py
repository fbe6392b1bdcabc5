"""Plays B compiled environments for T steps: act, step, and reset where an episode is over."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Array, Bool, Float, Int, Shaped

from marlet.algorithms.base import Algorithm, Learned
from marlet.envs.base import Env
from marlet.parts.experience import seen_in, steps_after
from marlet.types import Key, Memory, Rollout, Step, Transition, computed_once, on_cpu, where

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
    """Sums over the episodes that ended in each environment."""

    episodes: Float[Array, " B"]
    score: Float[Array, "B n"]
    length: Float[Array, " B"]

    @staticmethod
    def empty(batch: int, num_agents: int) -> "Tally":
        return Tally(jnp.zeros(batch), jnp.zeros((batch, num_agents)), jnp.zeros(batch))


FEW = 16
"""Where no more than one in this many environments end at once, only as many openings are drawn."""


def reset(env: Env, which: Int[Array, " B"], *, key: Key) -> tuple[Any, Step]:
    """Open an episode in each of these environments. An environment's opening does not depend on the others'."""
    return jax.vmap(lambda i: env.reset(key=jax.random.fold_in(key, i)), out_axes=(BATCH_LAST, 0))(which)


def step(env: Env, state: Any, action: Array, *, key: Key) -> tuple[Any, Step]:
    """One step of every environment."""
    stepped = jax.vmap(
        lambda state, action, key: env.step(state, action, key=key),
        in_axes=(BATCH_LAST, 0, 0),
        out_axes=(BATCH_LAST, 0),
    )
    state, next = stepped(state, action, jax.random.split(key, action.shape[0]))
    return jax.tree.map(_kept_in_order, state), _batch_innermost(next)


def _batch_innermost(step: Step) -> Step:
    """The same step, with observations in memory as the environment makes them of its state, one number of all copies after
    the other; in the order of their axes, writing them would be half of what stepping costs."""
    if not on_cpu():
        return step
    obs = with_layout_constraint(step.obs, Layout((*range(1, step.obs.ndim), 0)))
    # Behind a barrier, lest it be the very thing a program returns: JAX 0.10 would hand it out in that order, and misread it
    # where it is handed in again.
    return eqx.tree_at(lambda step: step.obs, step, computed_once(obs))


def _kept_in_order(x: Array) -> Array:
    """The same array, in memory as its axes say: XLA would lay tables of cells out as the observations made of them, and
    then step them half as fast. Smaller arrays are better left to it."""
    if x.ndim < 3 or jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        return x
    return with_layout_constraint(x, Layout(tuple(range(x.ndim))))


def opening(env: Env, algorithm: Algorithm, learned: Learned, batch: int, *, key: Key) -> World:
    """The world before the first step."""
    state, now = reset(env, jnp.arange(batch), key=key)
    return World(
        state=state,
        now=now,
        first=jnp.ones(batch, bool),
        memory=algorithm.blank(learned, batch),
        score=jnp.zeros((batch, env.spec.num_agents), jnp.float32),
        clock=jnp.zeros(batch, jnp.int32),
    )


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
    axis: str | None = None,
) -> tuple[World, Tally, Rollout]:
    """T = `length` steps of all environments. Where an episode ends, the next one opens; its final step stays in `next`.

    How openings are made depends on what is known of the ends, and changes nothing but how much is computed: once after
    the rollout where all episodes end with it; for a stretch of steps at a time where no episode can be over twice in it;
    else whenever one is over. `world` is one that `opening` began and this function went on with, always by as many steps.
    """
    spec, batch, horizon = env.spec, world.first.shape[0], env.spec.horizon or 1
    play_key, open_key = jax.random.split(key)
    blank = algorithm.blank(learned, batch)
    aligned = spec.aligned(length)
    stretch = length if aligned or spec.mortal else _stretch(length, horizon)

    def play(world: World, number: Int[Array, ""], fresh: tuple[Any, Step] | None) -> tuple[World, Transition]:
        act_key, step_key, reset_key = jax.random.split(jax.random.fold_in(play_key, number), 3)
        memory, action, extra = algorithm.act(learned, world.memory, world.now, key=act_key, greedy=greedy)
        state, next = step(env, world.state, action, key=step_key)
        t = Transition(now=world.now, action=action, next=next, first=world.first, extra=extra)
        ended = World(state, next, next.over, memory, world.score, world.clock)
        if aligned:
            # Not yet opened anew, so that what comes next need not be noted twice.
            seen = jax.tree.map(lambda leaf: None, seen_in(next))
            light = eqx.tree_at(lambda s: (s.obs, s.state, s.available), next, (seen.obs, seen.state, seen.available))
            return ended, eqx.tree_at(lambda t: t.next, t, light)
        return (_reopened(env, blank, ended, key=reset_key) if fresh is None else _replaced(blank, ended, fresh)), t

    def play_stretch(world: World, number: Int[Array, ""]) -> tuple[World, Transition]:
        numbers = number * stretch + jnp.arange(stretch)
        if spec.mortal or aligned:
            return jax.lax.scan(lambda world, number: play(world, number, None), world, numbers)
        ends = (world.clock + number * stretch) % horizon + stretch >= horizon
        fresh_key = jax.random.fold_in(open_key, number)
        draw = lambda: reset(env, jnp.arange(batch), key=fresh_key)  # noqa: E731
        fresh = jax.lax.cond(_most(ends.any()), draw, lambda: (world.state, world.now))
        return jax.lax.scan(lambda world, number: play(world, number, fresh), world, numbers)

    memory = world.memory
    if stretch == length:
        ended, t = play_stretch(world, jnp.zeros((), jnp.int32))
    else:
        ended, t = jax.lax.scan(play_stretch, world, jnp.arange(length // stretch))
        t = jax.tree.map(lambda leaf: leaf.reshape(length, *leaf.shape[2:]), t)
    if aligned:
        t = eqx.tree_at(
            lambda t: (t.next.obs, t.next.state, t.next.available),
            t,
            jax.tree.leaves(steps_after(seen_in(t.now), seen_in(ended.now))),
            is_leaf=lambda leaf: leaf is None,
        )
        if length == horizon:  # and all end now
            ended = _replaced(blank, ended, reset(env, jnp.arange(batch), key=open_key))
        else:
            ended = _reopened(env, blank, ended, key=open_key)
    tally, score, clock = _counted(tally, world, t.next)
    after = World(ended.state, ended.now, ended.first, ended.memory, score, clock)
    return after, tally, Rollout(transitions=t, memory=memory, axis=axis)


def _stretch(length: int, horizon: int) -> int:
    """The most steps into which a rollout can be parted evenly, none of them longer than an episode."""
    return max(part for part in range(1, length + 1) if length % part == 0 and part <= horizon)


def _counted(tally: Tally, world: World, next: Step) -> tuple[Tally, Float[Array, "B n"], Int[Array, " B"]]:
    """The tally with a rollout's episodes; the scores and clocks of those still under way."""
    over, number = next.over, jnp.arange(next.over.shape[0])[:, None]
    last = jnp.max(jnp.where(over, number, -1), axis=0)
    done, some = (number <= last).astype(jnp.float32), last >= 0  # T B: not after the last end
    # As a product: XLA's own sums over a leading axis are ten times slower.
    in_all = lambda x: (jnp.ones(x.shape[0]) @ x.reshape(x.shape[0], -1)).reshape(x.shape[1:])  # noqa: E731
    earned = lambda part: in_all(part[..., None] * next.reward)  # noqa: E731
    tally = Tally(
        episodes=tally.episodes + in_all(over.astype(jnp.float32)),
        score=tally.score + jnp.where(some[:, None], world.score, 0.0) + earned(done),
        length=tally.length + jnp.where(some, world.clock, 0) + in_all(done),
    )
    under_way = 1 - done
    since = jnp.where(some, 0, world.clock) + in_all(under_way).astype(jnp.int32)
    return tally, jnp.where(some[:, None], 0.0, world.score) + earned(under_way), since


def _replaced(blank: Memory, ended: World, fresh: tuple[Any, Step]) -> World:
    """The world with a drawn opening wherever an episode is over (`ended.first`)."""
    over = ended.first
    last = lambda new, old: jnp.where(over, new, old)  # noqa: E731
    return World(
        state=jax.tree.map(last, fresh[0], ended.state),
        now=_batch_innermost(where(over, fresh[1], ended.now)),
        first=over,
        memory=where(over, blank, ended.memory),
        score=ended.score,
        clock=ended.clock,
    )


def _reopened(env: Env, blank: Memory, ended: World, *, key: Key) -> World:
    """The world with a new episode wherever one is over.

    Openings are drawn for no more environments than need one, roughly: none, a few, or all. Which of the three changes
    no number, only how much is computed.
    """
    over = ended.first
    batch = over.shape[0]
    few = batch // FEW
    count = over.sum()

    def reopen_all() -> World:
        return _replaced(blank, ended, reset(env, jnp.arange(batch), key=key))

    def reopen_few() -> World:
        (which,) = jnp.nonzero(over, size=few, fill_value=batch)  # what is beyond the batch is dropped
        fresh_state, fresh = reset(env, which, key=key)
        put_last = lambda old, new: old.at[..., which].set(new, mode="drop")  # noqa: E731
        put = lambda old, new: old.at[which].set(new, mode="drop")  # noqa: E731
        state, now = jax.tree.map(put_last, ended.state, fresh_state), jax.tree.map(put, ended.now, fresh)
        return World(state, now, over, where(over, blank, ended.memory), ended.score, ended.clock)

    if not few:
        return jax.lax.cond(_most(count > 0), reopen_all, lambda: ended)
    case = jnp.where(count == 0, 0, jnp.where(count <= few, 1, 2))
    return jax.lax.switch(_most(case), [lambda: ended, reopen_few, reopen_all])


@jax.custom_batching.custom_vmap
def _most(case: Shaped[Array, ""]) -> Shaped[Array, ""]:
    """The case itself; where seeds are computed at once (vmap), the greatest of theirs. So it stays one question for all of
    them: of one each, every answer would be computed."""
    return case


@_most.def_vmap
def _most_of(seeds: int, batched: list[bool], case: Shaped[Array, " seeds"]) -> tuple[Shaped[Array, ""], bool]:
    return case.max(), False
