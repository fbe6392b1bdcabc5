"""Where arrays live: seeds side by side over devices, at once or in turns; or one seed's environments shared by devices."""

import contextlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, PyTree

from marlet.types import on_cpu

SMALL = 2**20
"""Bytes of what one seed learns below which seeds are computed at once (vmap) on a CPU. Larger ones take turns: their
arrays fill the caches alone, and at once they are no faster."""

SHARES = "shares"
"""The axis of devices that share one seed's environments."""


def one_device_per_core() -> None:
    """Present a CPU to JAX as one device a core, so that seeds can be spread. Without effect once JAX has started."""
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", len(os.sched_getaffinity(0)))


WIDTH = "xla_cpu_prefer_vector_width"
"""The flag that says for how many bits at once XLA compiles; 256 where nothing is said."""


def compiler_options() -> dict[str, str] | None:
    """With what programs are compiled on a CPU: for vectors of 512 bits where it has them, unless XLA_FLAGS say for which. And
    so that `types.computed_once` holds, without two passes of XLA, of which one takes barriers out before it fuses, and the
    other makes one kernel of a small loop, in which none can be left. Passes that XLA_FLAGS name to be left out are not, then."""
    if not on_cpu():
        return None
    width = {} if WIDTH in os.environ.get("XLA_FLAGS", "") else {WIDTH: "512"}
    return width | {"xla_disable_hlo_passes": "cse_barrier_expander,small-while-loop-hoisting"}


class Placement:
    """Places `seeds` independent copies of a program on the devices at hand.

    What is placed is a list of trees, one a turn. Every array of a turn leads with the same number of seeds, spread
    evenly over the devices; where the seeds do not fill the last turn, copies of the last one do, and `taken` removes
    them again. Where there are more devices than seeds, the environments of each are shared by `shares` of them, if
    `shareable` says so. Nothing that is saved depends on the devices.
    """

    def __init__(self, seeds: int, bytes_per_seed: int, shareable: Callable[[int], bool] = lambda shares: shares == 1):
        devices = jax.devices()
        self.seeds = seeds
        per_device = -(-seeds // len(devices))
        self.devices = -(-seeds // per_device)
        self.shares = max(k for k in range(1, len(devices) // self.devices + 1) if k == 1 or shareable(k))
        at_once = bytes_per_seed < SMALL or not on_cpu()
        self.turns, self.together = (1, per_device) if at_once else (per_device, 1)
        grid = np.array(devices[: self.devices * self.shares]).reshape(self.devices, self.shares)
        self._mesh = Mesh(grid, ("seed", SHARES), axis_types=(AxisType.Auto,) * 2)

    @property
    def axis(self) -> str | None:
        """The name that a seed's program gives to the devices that share it; None where one device has it all."""
        return SHARES if self.shares > 1 else None

    def turn_of(self, shapes: PyTree[jax.ShapeDtypeStruct]) -> PyTree[jax.ShapeDtypeStruct]:
        """The shapes of one turn of what has these shapes for one seed."""
        width = self.devices * self.together
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((width, *leaf.shape), leaf.dtype), shapes)

    def place(self, tree: PyTree, env_axes: PyTree[int]) -> list[PyTree]:
        """Spread a tree whose arrays lead with `seeds`, in buffers of its own. `env_axes` holds in place of each
        array which of its axes, not counting that of the seeds, is of environments; -1 where none is."""
        width = self.devices * self.together

        def put(leaf: Any, env_axis: int, turn: int) -> Array:
            rows = np.minimum(np.arange(turn * width, (turn + 1) * width), self.seeds - 1)
            return jax.device_put(np.asarray(leaf)[rows], self._sharding(self._spec(env_axis)), may_alias=False)

        return [jax.tree.map(partial(put, turn=turn), tree, env_axes) for turn in range(self.turns)]

    def taken(self, turns: list[PyTree]) -> PyTree[np.ndarray]:
        """What was placed or computed, as numpy arrays that lead with `seeds`."""
        return jax.tree.map(lambda *leaves: _joined(leaves)[: self.seeds], *turns)

    def spread(self, function: Callable, takes: PyTree[int], gives: PyTree[int], *, donate: bool = False) -> "Program":
        """Compile `function(tree, *common)` of one seed into one of a list of turns.

        `takes` and `gives` are the `env_axes` of the tree and of the result; the function sees one device's share. The
        `common` arguments are the same for all seeds. Turns that donate their arrays come back in fresh ones.
        """
        # Said beforehand, since XLA writes the places of its results in another way than `place`, which would be another
        # program to compile: what was restored goes on in the one that what was computed goes on in.
        sharding = lambda axis: self._sharding(self._spec(axis))  # noqa: E731
        taken, given = jax.tree.map(sharding, takes), jax.tree.map(sharding, gives)
        compiled = jax.jit(
            self.of_a_turn(function, takes, gives),
            in_shardings=(taken, self._sharding(PartitionSpec())),
            out_shardings=given,
            donate_argnums=(0,) if donate else (),
            compiler_options=compiler_options(),
        )
        return Program(compiled)

    def of_a_turn(self, function: Callable, takes: PyTree[int], gives: PyTree[int]) -> Callable:
        """The function of one turn of seeds that `spread` compiles."""

        def local(tree: PyTree, *common: Array) -> PyTree:
            if self.together > 1:
                return jax.vmap(lambda tree: function(tree, *common))(tree)
            alone = jax.tree.map(lambda leaf: leaf[0], tree)
            return jax.tree.map(lambda leaf: leaf[None], function(alone, *common))

        takes, gives = jax.tree.map(self._spec, takes), jax.tree.map(self._spec, gives)

        def everywhere(tree: PyTree, common: tuple[Array, ...]) -> PyTree:
            specs = (takes, *(PartitionSpec(),) * len(common))
            return jax.shard_map(local, mesh=self._mesh, in_specs=specs, out_specs=gives, check_vma=False)(
                tree, *common
            )

        return everywhere

    def own_share(self, tree: PyTree[Array], env_axes: PyTree[int]) -> PyTree[Array]:
        """This device's share of arrays that hold all of one seed's environments; called within what is `spread`."""
        if self.shares == 1:
            return tree

        def cut(leaf: Array, env_axis: int) -> Array:
            if env_axis < 0:
                return leaf
            size = leaf.shape[env_axis] // self.shares
            return jax.lax.dynamic_slice_in_dim(leaf, jax.lax.axis_index(SHARES) * size, size, env_axis)

        return jax.tree.map(cut, tree, env_axes)

    def _sharding(self, spec: PartitionSpec) -> NamedSharding:
        return NamedSharding(self._mesh, spec)

    def _spec(self, env_axis: int) -> PartitionSpec:
        return PartitionSpec("seed") if env_axis < 0 else PartitionSpec("seed", *(None,) * env_axis, SHARES)


def _joined(turns: Sequence[Array]) -> np.ndarray:
    """An array of all turns on the host, into which each device's part is copied once."""
    width, *others = turns[0].shape
    joined = np.empty((len(turns) * width, *others), turns[0].dtype)
    for turn, array in enumerate(turns):
        rows = joined[turn * width : (turn + 1) * width]
        for shard in array.addressable_shards:
            if shard.replica_id == 0:
                rows[shard.index] = shard.data
    return joined


class Program:
    """What `Placement.spread` compiles when it is first called, or beforehand: it takes turn after turn and waits for each."""

    def __init__(self, compiled: jax.stages.Wrapped):
        self._lazy, self._early = compiled, None

    def compile_early(self, turn: PyTree[jax.ShapeDtypeStruct], *common: jax.ShapeDtypeStruct) -> None:
        """Compile for turns of these shapes beside whatever else goes on; the first call waits for it."""
        if self._early is None:
            lowered = self._lazy.lower(turn, common)  # here, since JAX's settings may hold for this thread alone
            thread = ThreadPoolExecutor(1)
            self._early = thread.submit(lowered.compile)
            thread.shutdown(wait=False)

    def __call__(self, turns: list[PyTree], *common: Array) -> list[PyTree]:
        compiled = self._early.result() if self._early else self._lazy
        return [jax.block_until_ready(compiled(turn, common)) for turn in turns]


def fresh(tree: PyTree[Array]) -> PyTree[Array]:
    """A copy in buffers of its own, where the tree is: equal constants may share one, which cannot be donated twice."""
    return jax.tree.map(lambda leaf: jax.device_put(leaf, leaf.sharding, may_alias=False), tree)


def whole(tree: PyTree) -> PyTree[int]:
    """The `env_axes` of a tree of which every device holds all."""
    return jax.tree.map(lambda _: -1, tree)


def bytes_of(tree: PyTree) -> int:
    """Bytes of a tree's arrays (or of their shapes, where a length of -1, one not known yet, counts as 1)."""
    return sum(abs(leaf.size) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree) if hasattr(leaf, "dtype"))
