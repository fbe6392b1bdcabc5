"""What networks are made of: a linear layer, and recurrent memories."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from marlet.types import Key, computed_once


class Linear(eqx.Module):
    """`x @ weight + bias`, with normal weights whose variance is `scale² / inputs` (He et al. 2015, arXiv:1502.01852).

    Not orthogonal ones: their QR decomposition calls a BLAS whose threads were seen to lock up inside XLA's.
    """

    weight: Float[Array, "inputs outputs"]
    bias: Float[Array, " outputs"]

    def __init__(self, inputs: int, outputs: int, *, key: Key, scale: float = 2**0.5):
        self.weight = scale / inputs**0.5 * jax.random.normal(key, (inputs, outputs), jnp.float32)
        self.bias = jnp.zeros(outputs, jnp.float32)

    def __call__(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch outputs"]:
        return product(x, self.weight) + self.bias


@jax.custom_vjp
def product(x: Float[Array, "*batch inputs"], weight: Float[Array, "inputs outputs"]) -> Float[Array, "*batch outputs"]:
    """`x @ weight`, to be differentiated in reverse mode only. On a CPU XLA multiplies matrices that lie row by row, as here
    and for the gradient of `x`, by a fast kernel, and a transposed one by a slow one. So `x` is turned around in memory before
    it is multiplied for the weight's gradient, which takes half the time."""
    return x @ weight


def _product_forward(x, weight):
    return x @ weight, (x, weight)


def _product_backward(residuals, slope):
    x, weight = residuals
    return slope @ weight.T, _by_weight(x, slope)


def _by_weight(
    x: Float[Array, "*batch inputs"], slope: Float[Array, "*batch outputs"]
) -> Float[Array, "inputs outputs"]:
    """The gradient of the weight of `x @ weight`, from that of the product. (A single column has no fast kernel.)"""
    rows, slopes = (part.reshape(-1, part.shape[-1]) for part in (x, slope))
    if slopes.shape[1] == 1:
        return (slopes.T @ rows).T
    # Parted also from what made the rows, else they are written down once more before they are turned.
    return computed_once(computed_once(rows).T) @ slopes


product.defvjp(_product_forward, _product_backward)


class GRU(eqx.Module):
    """A gated recurrent unit (Cho et al. 2014, arXiv:1406.1078), reset gate applied to the recurrent product."""

    inputs: Linear
    recurrent: Linear

    def __init__(self, inputs: int, size: int, *, key: Key):
        input_key, recurrent_key = jax.random.split(key)
        self.inputs = Linear(inputs, 3 * size, key=input_key, scale=1.0)
        self.recurrent = Linear(size, 3 * size, key=recurrent_key, scale=1.0)

    def step(self, memory: Float[Array, "*batch m"], x: Float[Array, "*batch h"]) -> Float[Array, "*batch m"]:
        """The next memory."""
        driven, recurrent = jnp.split(self.inputs(x), 3, axis=-1), jnp.split(self.recurrent(memory), 3, axis=-1)
        return _mixed(memory, *_gates(driven, recurrent))

    def unroll(
        self, memory: Float[Array, "B m"], xs: Float[Array, "T B h"], first: Bool[Array, "T B"]
    ) -> Float[Array, "T B m"]:
        """The memory after each of T steps; it starts from zeros where `first`. Only the recurrent product is in the scan."""
        return recurrence(self.recurrent.weight, self.recurrent.bias, self.inputs(xs), memory, ~first)


Three = Sequence[Array]
"""One array each for the reset gate, the update gate and the new content."""


def _gates(driven: Three, recurrent: Three) -> tuple[Array, Array, Array]:
    """How much of the memory the new content is told of, how much of it stays, and the new content."""
    reset = jax.nn.sigmoid(driven[0] + recurrent[0])
    update = jax.nn.sigmoid(driven[1] + recurrent[1])
    return reset, update, jnp.tanh(driven[2] + reset * recurrent[2])


def _mixed(memory: Array, reset: Array, update: Array, new: Array) -> Array:
    return update * memory + (1 - update) * new


@jax.custom_vjp
def recurrence(
    weight: Float[Array, "m three_m"],
    bias: Float[Array, " three_m"],
    driven: Float[Array, "T B three_m"],
    memory: Float[Array, "B m"],
    keep: Bool[Array, "T B"],
) -> Float[Array, "T B m"]:
    """The memory after each step of a GRU, whose memory is dropped where it does not `keep` it.

    Without a gradient the three gates have arrays of their own, which XLA fuses into vectorised loops as it does not the
    slices of one array (2.3 times as fast). With a gradient and few rows B, up to two a unit, the weights' gradient is one
    product after the backward scan instead of a sum within it (1.6 times as fast for 24 rows of 128 units).
    """
    parts = jnp.split(weight, 3, axis=1), jnp.split(bias, 3), jnp.split(driven, 3, axis=-1)
    weights, biases, driven_parts = parts

    def body(memory: Array, step: tuple[Three, Array]) -> tuple[Array, Array]:
        driven, keep = step
        memory = jnp.where(keep[:, None], memory, 0.0)
        recurrent = [memory @ w + b for w, b in zip(weights, biases, strict=True)]
        memory = _mixed(memory, *_gates(driven, recurrent))
        return memory, memory

    return jax.lax.scan(body, memory, (driven_parts, keep))[1]


def _forward(weight, bias, driven, memory, keep):
    """The memories, and what the gradient needs: numbers noted on the way, or how to go back."""
    few_rows = memory.shape[0] <= 2 * memory.shape[1]

    def plain(weight, bias, driven, memory):
        def body(memory, step):
            driven, keep = step
            memory = jnp.where(keep[:, None], memory, 0.0)
            recurrent = jnp.split(memory @ weight + bias, 3, axis=-1)
            gates = _gates(jnp.split(driven, 3, axis=-1), recurrent)
            after = _mixed(memory, *gates)
            return after, (after, (memory, *gates, recurrent[2]) if few_rows else None)

        return jax.lax.scan(body, memory, (driven, keep))[1]

    if few_rows:
        memories, noted = plain(weight, bias, driven, memory)
        return memories, ((noted, weight, keep), None)
    memories, backward = jax.vjp(lambda *given: plain(*given)[0], weight, bias, driven, memory)
    return memories, (None, backward)


def _backward(residuals, slope: Float[Array, "T B m"]):
    """Gradients of weight, bias, driven and memory, from those of the memories."""
    kept, backward = residuals
    if kept is None:
        return (*backward(slope), None)
    noted, weight, keep = kept

    def body(later: Array, step: tuple) -> tuple[Array, tuple[Array, Array, Array]]:
        slope, (before, reset, update, new, told), keep = step
        slope = slope + later
        by_new = slope * (1 - update) * (1 - new**2)
        by_update = slope * (before - new) * update * (1 - update)
        by_reset = by_new * told * reset * (1 - reset)
        back = slope * update + jnp.concatenate([by_reset, by_update, by_new * reset], axis=-1) @ weight.T
        return jnp.where(keep[:, None], back, 0.0), (by_reset, by_update, by_new)

    before, reset, *_ = noted
    start, (by_reset, by_update, by_new) = jax.lax.scan(
        body, jnp.zeros_like(before[0]), (slope, noted, keep), reverse=True
    )
    by_recurrent = jnp.concatenate([by_reset, by_update, by_new * reset], axis=-1)
    by_driven = jnp.concatenate([by_reset, by_update, by_new], axis=-1)
    return _by_weight(before, by_recurrent), by_recurrent.sum((0, 1)), by_driven, start, None


recurrence.defvjp(_forward, _backward)


class MinGRU(eqx.Module):
    """A minimal GRU (Feng et al. 2024, arXiv:2410.01201, section 3.1): what it holds decides neither what comes nor what goes.

    So the next memory is linear in the one before, and no product is left between two steps. The new content is not
    squashed: the memory stays within its range, being an average of it.
    """

    inputs: Linear

    def __init__(self, inputs: int, size: int, *, key: Key):
        self.inputs = Linear(inputs, 2 * size, key=key, scale=1.0)

    def step(self, memory: Float[Array, "*batch m"], x: Float[Array, "*batch h"]) -> Float[Array, "*batch m"]:
        """The next memory."""
        stays, comes = self._driven(x)
        return stays * memory + comes

    def unroll(
        self, memory: Float[Array, "B m"], xs: Float[Array, "T B h"], first: Bool[Array, "T B"]
    ) -> Float[Array, "T B m"]:
        """The memory after each of T steps; it starts from zeros where `first`."""
        stays, comes = self._driven(xs)
        return linear_recurrence(jnp.where(first[..., None], 0.0, stays), comes, memory)

    def _driven(self, x: Float[Array, "*batch h"]) -> tuple[Float[Array, "*batch m"], Float[Array, "*batch m"]]:
        """The part of the memory that stays, and what is added to it."""
        update, new = jnp.split(self.inputs(x), 2, axis=-1)
        return jax.nn.sigmoid(-update), jax.nn.sigmoid(update) * new


@jax.custom_vjp
def linear_recurrence(
    stays: Float[Array, "T B m"], comes: Float[Array, "T B m"], memory: Float[Array, "B m"]
) -> Float[Array, "T B m"]:
    """`stays[t] * memory + comes[t]` after each of T steps. Its gradient is such a recurrence too, from the end on."""
    # On a CPU step by step is the faster way; `python bench/run.py --only cells` measures both.
    return jax.lax.platform_dependent(stays, comes, memory, cpu=step_by_step, default=pair_by_pair)


def step_by_step(stays: Float[Array, "T B m"], comes: Float[Array, "T B m"], memory: Float[Array, "B m"]):
    """The recurrence as it is written: T steps, one after the other."""

    def body(memory: Array, step: tuple[Array, Array]) -> tuple[Array, Array]:
        memory = step[0] * memory + step[1]
        return memory, memory

    return jax.lax.scan(body, memory, (stays, comes))[1]


def pair_by_pair(stays: Float[Array, "T B m"], comes: Float[Array, "T B m"], memory: Float[Array, "B m"]):
    """The recurrence by an associative scan: two neighbouring steps are one such step, so it takes about `2 log2 T` of them."""

    def both(one: tuple[Array, Array], other: tuple[Array, Array]) -> tuple[Array, Array]:
        return one[0] * other[0], other[0] * one[1] + other[1]

    stayed, came = jax.lax.associative_scan(both, (stays, comes))
    return stayed * memory + came


def _linear_forward(stays, comes, memory):
    memories = linear_recurrence(stays, comes, memory)
    return memories, (stays, memory, memories)


def _linear_backward(residuals, slope: Float[Array, "T B m"]):
    """Gradients of stays, comes and memory, from those of the memories."""
    stays, memory, memories = residuals
    later = jnp.concatenate([stays[1:], jnp.zeros_like(stays[:1])])
    by_comes = linear_recurrence(later[::-1], slope[::-1], jnp.zeros_like(memory))[::-1]
    before = jnp.concatenate([memory[None], memories[:-1]])
    return by_comes * before, by_comes, stays[0] * by_comes[0]


linear_recurrence.defvjp(_linear_forward, _linear_backward)
