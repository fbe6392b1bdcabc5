"""Tables of action values: which entry an observation means, how visits move it, and how actions are drawn from it."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from marlet.equations.choices import masked
from marlet.types import Key

FEW = 64
"""So many visits of a table at once, or fewer, are compared in pairs."""


def entries_of(levels: tuple[int, ...]) -> int:
    """How many different observations there are."""
    return math.prod(levels)


def entry(obs: Float[Array, "*batch d"], levels: tuple[int, ...]) -> Int[Array, "*batch"]:
    """The table entry of an observation: its features as digits, the last turning fastest.

    Feature k is one of `0, 1/(levels[k]-1), ..., 1`; a feature of one level counts for nothing. What lies outside is
    moved to the nearest level.
    """
    most = jnp.array(levels) - 1
    digits = jnp.clip(jnp.round(obs * most), 0, most).astype(jnp.int32)
    places = [math.prod(levels[k + 1 :]) for k in range(len(levels))]
    return digits @ jnp.array(places, jnp.int32)


def joint_entry(obs: Float[Array, "*batch n d"], levels: tuple[int, ...]) -> Int[Array, "*batch"]:
    """The table entry of all agents' observations together, agent 0's digits first."""
    return entry(obs.reshape(*obs.shape[:-2], -1), levels * obs.shape[-2])


def distinct(where: Int[Array, " k"], size: int) -> tuple[Int[Array, " k"], Int[Array, " k"]]:
    """The different places among `where`, filled up with `size` (off the table), and which of them each visit is at.

    The work grows with the number of visits and not with the table.
    """
    return jnp.unique(where, size=where.size, fill_value=size, return_inverse=True)


def improve(
    table: Float[Array, " cells"],
    where: Int[Array, " k"],
    error: Float[Array, " k"],
    rate: Float[Array, " k"],
) -> Float[Array, " cells"]:
    """Move each visited cell toward its targets: by `rate * error` for one visit.

    Visits that meet in a cell count as if they came one after the other: together they move it by
    `1 - prod(1 - rate)` of their mean error (weighted by their rates). A plain sum would overshoot as soon as
    `rate` times the visits passes two, and a plain mean would waste all environments but one. A rate of 0 is no visit.

    Few visits are compared in pairs, which takes a quarter of the time of sorting them; all that meet in a cell then
    write the same number there.
    """
    if where.size <= FEW:
        same = where[:, None] == where
        cells, add = where, lambda x: jnp.where(same, x, 0.0).sum(-1)
    else:
        cells, at = distinct(where, table.size)
        add = lambda x: jax.ops.segment_sum(x, at, where.size)  # noqa: E731
    total = add(rate)
    mean = add(rate * error) / jnp.where(total > 0, total, 1)
    return table.at[cells].set(table[cells] - jnp.expm1(add(jnp.log1p(-rate))) * mean, mode="drop")


def highest(values: Float[Array, "*batch a"], available: Bool[Array, "*batch a"]) -> Float[Array, "*batch"]:
    """The largest value of an action that may be taken."""
    return masked(values, available).max(-1)


def restricted(policy: Float[Array, "*batch a"], available: Bool[Array, "*batch a"]) -> Float[Array, "*batch a"]:
    """The policy with illegal actions left out; even over the legal ones where it gave those nothing."""
    legal = jnp.where(available, policy, 0)
    total = legal.sum(-1, keepdims=True)
    return jnp.where(total > 0, legal / jnp.where(total > 0, total, 1), even(available))


def even(available: Bool[Array, "*batch a"]) -> Float[Array, "*batch a"]:
    """The same probability for every action that may be taken."""
    return available / available.sum(-1, keepdims=True)


def explored(
    policy: Float[Array, "*batch a"], available: Bool[Array, "*batch a"], epsilon: Float[Array, ""] | float
) -> Float[Array, "*batch a"]:
    """The policy, but with probability epsilon any legal action."""
    return (1 - epsilon) * policy + epsilon * even(available)


def preferred(
    values: Float[Array, "*batch a"], available: Bool[Array, "*batch a"], temperature: Float[Array, ""] | float = 0.0
) -> Float[Array, "*batch a"]:
    """Probabilities proportional to exp(value / temperature); at temperature 0 the best actions, in equal parts."""
    legal = masked(values, available)
    lead = legal - legal.max(-1, keepdims=True)
    soft = jax.nn.softmax(lead / jnp.where(temperature > 0, temperature, 1))
    return jnp.where(temperature > 0, soft, even(lead == 0))


def draw(policy: Float[Array, "*batch a"], *, key: Key) -> Int[Array, "*batch"]:
    """One action each, where a uniform number falls among the summed probabilities; what has probability 0 never comes."""
    reached = jnp.where(policy > 0, jnp.cumsum(policy, axis=-1), 0.0)  # a sum may round up where nothing was added
    total = reached.max(-1, keepdims=True)
    return (reached > total * jax.random.uniform(key, total.shape)).argmax(-1)
