"""Replay: a ring of the latest sequences, kept on the device and sampled uniformly."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PyTree

from marlet.types import Key


class Replay(eqx.Module):
    """The latest `capacity` sequences. One sequence is T steps of one environment, neighbours exactly one step apart."""

    store: PyTree[Array]
    """Every array leads with `capacity`."""
    cursor: Int[Array, ""]
    """Where the next sequences go."""
    size: Int[Array, ""]
    """Sequences held."""

    @staticmethod
    def empty(example: PyTree, capacity: int) -> "Replay":
        """Room for `capacity` sequences shaped like `example` (arrays or shapes of one sequence)."""
        store = jax.tree.map(lambda leaf: jnp.zeros((capacity, *leaf.shape), leaf.dtype), example)
        return Replay(store, jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))

    @property
    def capacity(self) -> int:
        return jax.tree.leaves(self.store)[0].shape[0]

    def add(self, sequences: PyTree) -> "Replay":
        """Write B sequences over the oldest. B divides the capacity, so that they never wrap."""
        batch = jax.tree.leaves(sequences)[0].shape[0]
        if self.capacity % batch:
            raise ValueError(f"A replay of {self.capacity} sequences cannot take {batch} at a time without wrapping.")
        write = lambda store, new: jax.lax.dynamic_update_slice_in_dim(store, new, self.cursor, axis=0)  # noqa: E731
        return Replay(
            store=jax.tree.map(write, self.store, sequences),
            cursor=(self.cursor + batch) % self.capacity,
            size=jnp.minimum(self.size + batch, self.capacity),
        )

    def sample(self, count: int, *, key: Key) -> PyTree:
        """`count` sequences, each drawn uniformly from those held; every array leads with `count`."""
        rows = jax.random.randint(key, (count,), 0, jnp.maximum(self.size, 1))
        return jax.tree.map(lambda store: store[rows], self.store)
