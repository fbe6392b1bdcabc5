"""Distributions over actions: draws, log-probabilities and entropies, component by component or choice by choice.

For vectors, `available` says which components an agent has; the others are drawn too, and count for nothing.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from marlet.equations.choices import total
from marlet.types import Key

NEVER = -1e9
"""The log-weight of an illegal choice: its probability is exactly 0, and nothing becomes infinite."""
EDGE = 1 - 1e-6
"""Farthest a squashed action lies from 0 when it is unsquashed: beyond it single precision has lost where it came from."""


def log_chances(logits: Float[Array, "*batch a"], available: Bool[Array, "*batch a"]) -> Float[Array, "*batch a"]:
    """Log-probabilities of choices; those of illegal ones are about -1e9."""
    return jax.nn.log_softmax(jnp.where(available, logits, NEVER), axis=-1)


def draw_choice(log_chance: Float[Array, "*batch a"], *, key: Key) -> Int[Array, "*batch"]:
    """One choice each, by a single uniform number: where it falls among the cumulated probabilities."""
    cumulated = jnp.cumsum(jnp.exp(log_chance), axis=-1)
    total = cumulated[..., -1:]
    # A product that is rounded up to the total itself would fall on no choice at all.
    mark = jnp.minimum(jax.random.uniform(key, total.shape) * total, jnp.nextafter(total, 0.0))
    return jnp.argmax(cumulated > mark, axis=-1).astype(jnp.int32)


def choice_entropy(log_chance: Float[Array, "*batch a"]) -> Float[Array, "*batch"]:
    """Of the legal choices alone, in nats; illegal ones add exactly 0."""
    return -total(jnp.exp(log_chance) * log_chance)


def draw_normal(
    mean: Float[Array, "*batch a"], log_std: Float[Array, "*batch a"], *, key: Key
) -> Float[Array, "*batch a"]:
    """A vector of independent normal components."""
    return mean + jnp.exp(log_std) * jax.random.normal(key, mean.shape)


def normal_log_prob(
    mean: Float[Array, "*batch a"],
    log_std: Float[Array, "*batch a"],
    value: Float[Array, "*batch a"],
    available: Bool[Array, "*batch a"],
) -> Float[Array, "*batch"]:
    """The log-density of a vector."""
    density = -0.5 * ((value - mean) * jnp.exp(-log_std)) ** 2 - log_std - 0.5 * jnp.log(2 * jnp.pi)
    return jnp.where(available, density, 0.0).sum(-1)


def normal_entropy(log_std: Float[Array, "*batch a"], available: Bool[Array, "*batch a"]) -> Float[Array, "*batch"]:
    """In nats; below 0 where a component is nearly certain."""
    return jnp.where(available, log_std + 0.5 * jnp.log(2 * jnp.pi * jnp.e), 0.0).sum(-1)


def log_slope(value: Float[Array, "*batch a"], available: Bool[Array, "*batch a"]) -> Float[Array, "*batch"]:
    """Log of how much `tanh` stretches volumes at `value`, in a form that neither under- nor overflows
    (Haarnoja et al. 2018, arXiv:1801.01290, appendix C, rewritten)."""
    slope = 2 * (jnp.log(2.0) - value - jax.nn.softplus(-2 * value))
    return jnp.where(available, slope, 0.0).sum(-1)


def unsquashed(action: Float[Array, "*batch a"]) -> Float[Array, "*batch a"]:
    """What `tanh` made this action of."""
    return jnp.arctanh(jnp.clip(action, -EDGE, EDGE))


def straight_through(log_chance: Float[Array, "*batch a"], temperature: float, *, key: Key) -> Float[Array, "*batch a"]:
    """A choice drawn as an exactly one-hot row, with the gradient of the softmax that it was drawn by
    (Jang et al. 2017, arXiv:1611.01144, section 2.2)."""
    soft = jax.nn.softmax((log_chance + jax.random.gumbel(key, log_chance.shape)) / temperature, axis=-1)
    hard = jax.nn.one_hot(jnp.argmax(soft, axis=-1), soft.shape[-1], dtype=soft.dtype)
    return hard + (soft - jax.lax.stop_gradient(soft))
