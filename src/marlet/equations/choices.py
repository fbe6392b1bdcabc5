"""How an action is chosen from values, among those that are legal."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from marlet.types import Key, computed_once


def masked(values: Float[Array, "*batch a"], available: Bool[Array, "*batch a"]) -> Float[Array, "*batch a"]:
    """Values with those of illegal actions at minus infinity. Never a target: only for argmax and max."""
    return jnp.where(available, values, -jnp.inf)


def epsilon_greedy(
    values: Float[Array, "*batch a"],
    available: Bool[Array, "*batch a"],
    epsilon: float | Float[Array, ""],
    *,
    key: Key,
) -> Int[Array, "*batch"]:
    """The best legal action, or with probability epsilon any legal action, all equally likely.

    One uniform number serves twice: below epsilon it says "explore", and then u / epsilon is uniform again.
    """
    u = jax.random.uniform(key, values.shape[:-1])
    count = available.sum(-1)
    rank = jnp.minimum((u / jnp.maximum(epsilon, 1e-12) * count).astype(jnp.int32), count - 1)
    explored = jnp.argmax(available.cumsum(-1) > rank[..., None], axis=-1)
    best = jnp.argmax(masked(values, available), axis=-1)
    return jnp.where(u < epsilon, explored, best).astype(jnp.int32)


def chosen(values: Float[Array, "*batch a"], action: Int[Array, "*batch"]) -> Float[Array, "*batch"]:
    """The value of the action taken. A product with a one-hot row: on small axes quicker than a gather, forth and back."""
    return total(values * jax.nn.one_hot(action, values.shape[-1], dtype=values.dtype))


def total(x: Float[Array, "*batch a"]) -> Float[Array, "*batch"]:
    """The sum over a short last axis, written out: XLA hands a reduction to a library that is slow at those. It and
    its slope are computed once, and not again for each entry."""
    first, *others = (x[..., i] for i in range(x.shape[-1]))
    return computed_once(sum(others, first))
