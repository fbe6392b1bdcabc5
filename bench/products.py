"""How fast this machine multiplies matrices of the size that learning multiplies, and how much of that learning uses."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from measure import Program, Rate, measured


@dataclass(frozen=True)
class Work:
    """What training multiplies."""

    multiply_adds: int
    """For one step of one environment with all its agents."""
    rows: int
    """Of the matrix that one gradient step multiplies: agents' steps in a minibatch."""
    width: int
    """Units of a layer."""


def work_of(algorithm: Any, spec: Any) -> Work:
    """The work of the PPO family, counted from its options.

    Each step is seen once by the actor, which acts, and by the critic, whose value the advantages need; then in each of
    the epochs by both, forwards and backwards. A backward pass is counted as two forward ones. Not counted is what a recurrent
    critic does while the actor acts, nor that layers which the two share are passed again for the values.
    """
    d, s = spec.obs_shape[0], spec.state_size
    index = spec.num_agents * (algorithm.sees_index and algorithm.sharing != "own")
    inputs = {"obs": [d, d], "state": [d, s], "both": [d, s + d], "hidden": [d]}[algorithm.critic_sees]
    before = sum(multiply_adds(x + index, algorithm.hidden, algorithm.memory, cell=algorithm.cell) for x in inputs)
    held = algorithm.memory or algorithm.hidden[-1]
    after = sum(products_of(held, *algorithm.hidden_after, outputs) for outputs in (spec.num_actions, 1))
    both = before + after
    return Work(
        multiply_adds=spec.num_agents * both * (1 + 3 * algorithm.epochs),
        rows=spec.num_agents * algorithm.envs * algorithm.length // algorithm.minibatches,
        width=algorithm.hidden[-1],
    )


def multiply_adds(inputs: int, hidden: tuple[int, ...], memory: int, *, cell: str = "gru") -> int:
    """Of one forward pass of a network up to its memory: its layers, and the memory's products."""
    last = (inputs, *hidden)[-1]
    gates = {"gru": 3 * (last + memory), "linear": 2 * last}[cell]
    return products_of(inputs, *hidden) + memory * gates


def products_of(*sizes: int) -> int:
    """Of one forward pass of layers, each as wide as the next one is told of."""
    return sum(a * b for a, b in pairwise(sizes))


def product_rate(rows: int, width: int, devices: int, quick: bool) -> Rate:
    """Floating point operations a second of these products, on the rows that the devices share evenly."""
    program = product_program(rows, width, devices)
    return measured(program, 2 * (rows - rows % devices) * width * width, quick)


def product_program(rows: int, width: int, devices: int) -> Program:
    """`(rows x width) @ (width x width)` in float32, one product after the other, with the rows spread over the devices.

    The matrix is orthogonal, so that numbers neither grow nor vanish.
    """
    import jax
    import numpy as np
    from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

    mesh = Mesh(np.array(jax.devices()[:devices]), ("row",), axis_types=(AxisType.Auto,))
    spread, whole = PartitionSpec("row"), PartitionSpec()
    draws = np.random.default_rng(0)
    turn = np.linalg.qr(draws.standard_normal((width, width)))[0].astype(np.float32)
    x = draws.standard_normal((rows - rows % devices, width)).astype(np.float32)
    x = jax.device_put(x, NamedSharding(mesh, spread))

    def local(x, turn, steps):
        return jax.lax.fori_loop(0, steps, lambda _, x: x @ turn, x)

    go = jax.jit(jax.shard_map(local, mesh=mesh, in_specs=(spread, whole, whole), out_specs=spread))
    return lambda steps, key: go(x, turn, steps)
