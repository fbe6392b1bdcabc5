"""Where arrays live: seeds side by side over devices, and within a device at once or in turn."""

import contextlib
import os
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

SMALL = 2**20
"""Bytes of what one seed learns below which seeds are computed at once (vmap) on a CPU. Larger ones take turns: their
arrays fill the caches alone, and at once they measured 15 % slower than in turn."""


def one_device_per_core() -> None:
    """Present a CPU to JAX as one device a core, so that seeds can be spread. Without effect once JAX has started."""
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", len(os.sched_getaffinity(0)))


class SeedAxis:
    """Places `seeds` independent copies of a program on the devices at hand.

    Every array of a placed tree leads with the padded number of seeds: where the seeds do not divide evenly, copies of
    the last one fill the gap, and `taken` removes them again. Nothing that is saved depends on the devices.
    """

    def __init__(self, seeds: int):
        devices = jax.devices()
        self.seeds = seeds
        self.per_device = -(-seeds // len(devices))
        self.devices = -(-seeds // self.per_device)
        self.padded = self.per_device * self.devices
        self._mesh = Mesh(devices[: self.devices], ("seed",), axis_types=(AxisType.Auto,))
        self._sharding = NamedSharding(self._mesh, PartitionSpec("seed"))

    def place(self, tree: PyTree) -> PyTree:
        """Pad a tree whose arrays lead with `seeds` and spread it over the devices, in buffers of its own."""

        def put(leaf):
            leaf = jnp.concatenate([leaf, jnp.repeat(leaf[-1:], self.padded - self.seeds, axis=0)])
            return jax.device_put(leaf, self._sharding, may_alias=False)

        return jax.tree.map(put, tree)

    def taken(self, tree: PyTree) -> PyTree:
        """A tree's arrays without the padding, leading with `seeds`."""
        return jax.tree.map(lambda leaf: leaf[: self.seeds], tree)

    def spread(self, function: Callable, bytes_per_seed: int, *, donate: bool = False) -> Callable:
        """Compile `function(tree, *shared)` of one seed into one of all seeds; `shared` arguments are the same for all."""
        at_once = bytes_per_seed < SMALL or jax.default_backend() != "cpu"

        def local(tree, *shared):
            if self.per_device == 1:
                alone = jax.tree.map(lambda leaf: leaf[0], tree)
                return jax.tree.map(lambda leaf: leaf[None], function(alone, *shared))
            each = lambda tree: function(tree, *shared)  # noqa: E731
            return jax.vmap(each)(tree) if at_once else jax.lax.map(each, tree)

        seed, whole = PartitionSpec("seed"), PartitionSpec()

        def everywhere(tree, *shared):
            specs = (seed, *(whole,) * len(shared))
            mapped = jax.shard_map(local, mesh=self._mesh, in_specs=specs, out_specs=seed, check_vma=False)
            return mapped(tree, *shared)

        return jax.jit(everywhere, donate_argnums=(0,) if donate else ())


def bytes_of(tree: PyTree) -> int:
    """Bytes of a tree's arrays (or of their shapes, where a length of -1, one not known yet, counts as 1)."""
    return sum(abs(leaf.size) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree) if hasattr(leaf, "dtype"))
