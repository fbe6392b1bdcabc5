"""Quantities that change as training goes on."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def linear(count: Int[Array, ""], start: float, end: float, steps: float) -> Float[Array, ""]:
    """From `start` to `end` in equal parts over `steps` counts, then `end`. With 0 steps it is `end` at once."""
    done = jnp.clip(count / jnp.maximum(jnp.asarray(steps, jnp.float32), 1), 0.0, 1.0) if steps else 1.0
    return jnp.asarray(start + (end - start) * done, jnp.float32)


def counted(count: Int[Array, ""], more: int) -> Int[Array, ""]:
    """`count + more`, but never beyond what 32 bits hold: a count that wrapped would begin every schedule anew."""
    return count + jnp.minimum(more, jnp.iinfo(jnp.int32).max - count)
