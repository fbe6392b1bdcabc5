"""Where arrays live: seeds side by side over devices, and on a device at once or in turns."""

import contextlib
import os
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, PyTree

SMALL = 2**20
"""Bytes of what one seed learns below which seeds are computed at once (vmap) on a CPU. Larger ones take turns: their
arrays fill the caches alone, and at once they are no faster."""


def one_device_per_core() -> None:
    """Present a CPU to JAX as one device a core, so that seeds can be spread. Without effect once JAX has started."""
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", len(os.sched_getaffinity(0)))


class SeedAxis:
    """Places `seeds` independent copies of a program on the devices at hand.

    What is placed is a list of trees, one a turn. Every array of a turn leads with the same number of seeds, spread
    evenly over the devices; where the seeds do not fill the last turn, copies of the last one do, and `taken` removes
    them again. Nothing that is saved depends on the devices.
    """

    def __init__(self, seeds: int, bytes_per_seed: int):
        devices = jax.devices()
        self.seeds = seeds
        per_device = -(-seeds // len(devices))
        self.devices = -(-seeds // per_device)
        at_once = bytes_per_seed < SMALL or jax.default_backend() != "cpu"
        self.turns, self.together = (1, per_device) if at_once else (per_device, 1)
        self._mesh = Mesh(devices[: self.devices], ("seed",), axis_types=(AxisType.Auto,))
        self._sharding = NamedSharding(self._mesh, PartitionSpec("seed"))

    def place(self, tree: PyTree) -> list[PyTree]:
        """Spread a tree whose arrays lead with `seeds`, in buffers of its own."""
        width = self.devices * self.together

        def put(leaf: Any, turn: int) -> Array:
            rows = np.minimum(np.arange(turn * width, (turn + 1) * width), self.seeds - 1)
            return jax.device_put(np.asarray(leaf)[rows], self._sharding, may_alias=False)

        return [jax.tree.map(partial(put, turn=turn), tree) for turn in range(self.turns)]

    def taken(self, turns: list[PyTree]) -> PyTree[np.ndarray]:
        """What was placed or computed, as numpy arrays that lead with `seeds`."""
        join = lambda *leaves: np.concatenate(leaves)[: self.seeds]  # noqa: E731
        return jax.tree.map(join, *jax.device_get(turns))

    def spread(self, function: Callable, *, donate: bool = False) -> Callable:
        """Compile `function(tree, *shared)` of one seed into one of a list of turns, which waits for its results.

        The `shared` arguments are the same for all seeds. Turns that donate their arrays come back in fresh ones.
        """

        def local(tree: PyTree, *shared: Array) -> PyTree:
            if self.together > 1:
                return jax.vmap(lambda tree: function(tree, *shared))(tree)
            alone = jax.tree.map(lambda leaf: leaf[0], tree)
            return jax.tree.map(lambda leaf: leaf[None], function(alone, *shared))

        seed, whole = PartitionSpec("seed"), PartitionSpec()

        def everywhere(tree: PyTree, *shared: Array) -> PyTree:
            specs = (seed, *(whole,) * len(shared))
            return jax.shard_map(local, mesh=self._mesh, in_specs=specs, out_specs=seed, check_vma=False)(tree, *shared)

        compiled = jax.jit(everywhere, donate_argnums=(0,) if donate else ())
        return lambda turns, *shared: [jax.block_until_ready(compiled(turn, *shared)) for turn in turns]


def bytes_of(tree: PyTree) -> int:
    """Bytes of a tree's arrays (or of their shapes, where a length of -1, one not known yet, counts as 1)."""
    return sum(abs(leaf.size) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree) if hasattr(leaf, "dtype"))
