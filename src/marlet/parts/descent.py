"""Descent: steps down a loss, over several passes through what a rollout taught."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PyTree

from marlet.parts.nets import Team
from marlet.parts.shards import averaged
from marlet.types import Key, Metrics, Spec

Teams = tuple[Team, ...]
States = tuple[optax.OptState, ...]
"""Of the optimisers, one for each team."""
Loss = Callable[[Teams, Any, Key], tuple[Float[Array, ""], Metrics]]
ONE_SORT = 2**11
"""So many numbers at the most are shuffled by one sort."""


def optimiser(max_gradient: float, eps: float = 1e-5) -> optax.GradientTransformation:
    """Adam's direction (Kingma & Ba 2015, arXiv:1412.6980) from gradients no longer than `max_gradient`, or of any length
    where that is 0. The step size is applied apart, so that it may be traced."""
    shortened = optax.clip_by_global_norm(max_gradient) if max_gradient else optax.identity()
    return optax.chain(shortened, optax.scale_by_adam(eps=eps))


def rested(team: Team, max_gradient: float) -> optax.OptState:
    """The optimiser's state before the first step. It leads with the copies, each of which is clipped by itself."""
    return jax.vmap(optimiser(max_gradient).init)(team.copies)


def step(
    gradient: Team, team: Team, state: optax.OptState, max_gradient: float, learning_rate: Float[Array, ""]
) -> tuple[Team, optax.OptState]:
    """One step of every copy."""
    direction, state = jax.vmap(optimiser(max_gradient).update)(gradient.copies, state)
    return eqx.tree_at(lambda team: team.copies, team, moved(team.copies, direction, learning_rate)), state


def moved(weights: PyTree[Array], way: PyTree[Array], rate: Float[Array, ""]) -> PyTree[Array]:
    """Weights after a step against the direction `way`."""
    return jax.tree.map(lambda weight, step: weight - rate * step, weights, way)


def once(begun: Bool[Array, ""], improve: Callable[[Any], tuple[Any, Metrics]], parts: Any) -> tuple[Any, Metrics]:
    """What `improve` makes of `parts`, once learning has begun; before, they stay, and no metric is a number."""

    def wait(parts: Any) -> tuple[Any, Metrics]:
        shapes = jax.eval_shape(improve, parts)[1]
        return parts, jax.tree.map(lambda leaf: jnp.full(leaf.shape, jnp.nan, leaf.dtype), shapes)

    return jax.lax.cond(begun, improve, wait, parts)


def descend(
    loss: Loss,
    teams: Teams,
    states: States,
    lessons: Any,
    *,
    max_gradient: float,
    learning_rate: Float[Array, ""],
    epochs: int = 1,
    minibatches: int = 1,
    axis: str | None = None,
    key: Key,
) -> tuple[Teams, States, Metrics]:
    """Steps on `loss(teams, lessons, key)`: in each of `epochs`, one for each of as many random parts of the lessons.

    Every array of the lessons has its K sequences on its second axis; what is left over by an uneven parting is not
    learned from in that epoch. Metrics are means over the steps. Devices that share the environments (`axis`) each take a
    part of their own lessons and average their gradients.
    """
    sequences = jax.tree.leaves(lessons)[0].shape[1]
    size = sequences // minibatches

    def improve(carry, rows_and_key):
        rows, key = rows_and_key
        part = lessons if minibatches == 1 else jax.tree.map(lambda leaf: leaf[:, rows], lessons)
        gradients, metrics = averaged(jax.grad(loss, has_aux=True)(carry[0], part, key), axis)
        stepped = [
            step(gradient, team, state, max_gradient, learning_rate)
            for gradient, team, state in zip(gradients, *carry, strict=True)
        ]
        teams, states = zip(*stepped, strict=True)
        return (teams, states), metrics

    def epoch(carry, key):
        order_key, loss_key = jax.random.split(key)
        rows = shuffled(sequences, key=order_key)[: size * minibatches].reshape(minibatches, size)
        return jax.lax.scan(improve, carry, (rows, jax.random.split(loss_key, minibatches)))

    (teams, states), metrics = jax.lax.scan(epoch, (teams, states), jax.random.split(key, epochs))
    return teams, states, jax.tree.map(jnp.mean, metrics)


def shuffled(count: int, *, key: Key) -> Int[Array, " count"]:
    """The numbers below `count` in random order: random words, whose lowest bits these numbers replace, sorted. A sort of
    words alone takes a fifth of the time of one that carries numbers along, as `jax.random.permutation` does. Where the bits
    above are the same, the lower number comes first: one neighbour in 1000 of 2048 numbers. More are shuffled twice."""
    low = (count - 1).bit_length()
    order = jnp.arange(count, dtype=jnp.uint32)
    for one in (key,) if count <= ONE_SORT else jax.random.split(key):
        words = jax.random.bits(one, (count,), jnp.uint32) >> low << low
        order = order[jnp.sort(words | jnp.arange(count, dtype=jnp.uint32)) & ((1 << low) - 1)]
    return order.astype(jnp.int32)


def mean_of(x: Array, counts: Bool[Array, "*batch n"], number: Float[Array, ""] | None = None) -> Float[Array, ""]:
    """The mean over the entries that count; `number` says how many there are where other devices have more or fewer."""
    number = counts.sum() if number is None else number
    return jnp.where(counts, x, 0.0).sum() / jnp.maximum(number, 1e-6)


def numbers_of(counts: PyTree[Array], spec: Spec, axis: str | None) -> PyTree[Array]:
    """How many entries count, leaf by leaf: on average over the devices, so that their means by it average to the mean
    over all entries. Where nobody dies as many count on each, and nothing is told."""
    return averaged(jax.tree.map(lambda flags: flags.sum() * 1.0, counts), axis if spec.mortal else None)


def standardised(
    advantage: Float[Array, "T B n"], counts: Bool[Array, "T B n"], uses: tuple[int, ...], axis: str | None = None
) -> Float[Array, "T B n"]:
    """Mean 0 and spread 1 over what counts, for the agents of each copy of a network by themselves."""
    mates = jnp.array(uses)[:, None] == jnp.array(uses)
    total = lambda x: mates @ averaged(jnp.where(counts, x, 0.0).sum((0, 1)), axis)  # noqa: E731
    number = jnp.maximum(total(jnp.ones_like(advantage)), 1e-12)
    over_mates = lambda x: total(x) / number  # noqa: E731
    centred = advantage - over_mates(advantage)
    return centred / (jnp.sqrt(over_mates(centred**2)) + 1e-6)


def as_single_steps(lessons: Any) -> Any:
    """T x B steps as T B sequences of one step each: every array that leads with `T B` leads with `1 TB`."""
    return jax.tree.map(lambda leaf: leaf.reshape(1, leaf.shape[0] * leaf.shape[1], *leaf.shape[2:]), lessons)
