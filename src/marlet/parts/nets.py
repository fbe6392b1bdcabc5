"""Networks: plain trees of arrays, and teams of them that say which agent uses which copy."""

from collections.abc import Sequence
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from marlet.types import Key, Spec

NARROW = 16
"""Products with fewer columns are widened to as many: on a CPU their gradient is twice as fast so."""


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
        outputs = self.bias.shape[-1]
        if not 1 < outputs < NARROW:
            return x @ self.weight + self.bias
        wide = jnp.pad(self.weight, ((0, 0), (0, NARROW - outputs)))
        return (x @ wide)[..., :outputs] + self.bias


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
    slices of one array (2.3 times as fast). With a gradient and no more rows B than units, the weights' gradient is one
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
    few_rows = memory.shape[0] <= memory.shape[1]

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
    return jnp.einsum("tbm,tbk->mk", before, by_recurrent), by_recurrent.sum((0, 1)), by_driven, start, None


recurrence.defvjp(_forward, _backward)


ACTIVATIONS = {"relu": jax.nn.relu, "tanh": jnp.tanh}


class Net(eqx.Module):
    """Hidden layers, a recurrent memory where `memory_size` is not 0, and a linear last layer."""

    layers: tuple[Linear, ...]
    gru: GRU | None
    last: Linear
    memory_size: int = eqx.field(static=True)
    activation: str = eqx.field(static=True)
    """Of the hidden layers: `relu` or `tanh`."""

    def __init__(
        self,
        inputs: int,
        hidden: tuple[int, ...],
        memory_size: int,
        outputs: int,
        *,
        key: Key,
        last_scale: float = 1.0,
        activation: str = "relu",
    ):
        *layer_keys, gru_key, last_key = jax.random.split(key, len(hidden) + 2)
        sizes = (inputs, *hidden)
        self.layers = tuple(
            Linear(a, b, key=layer_key) for a, b, layer_key in zip(sizes[:-1], sizes[1:], layer_keys, strict=True)
        )
        self.gru = GRU(sizes[-1], memory_size, key=gru_key) if memory_size else None
        self.last = Linear(memory_size or sizes[-1], outputs, key=last_key, scale=last_scale)
        self.memory_size = memory_size
        self.activation = activation

    def features(self, x: Float[Array, "*batch d"]) -> Float[Array, "*batch h"]:
        """What the layers before the memory make of the input."""
        for layer in self.layers:
            x = ACTIVATIONS[self.activation](layer(x))
        return x

    def step(
        self, memory: Float[Array, "*batch m"], x: Float[Array, "*batch d"]
    ) -> tuple[Float[Array, "*batch m"], Float[Array, "*batch a"]]:
        """One step for any number of leading axes; without a memory, `m` is 0."""
        x = self.features(x)
        if self.gru is not None:
            memory = x = self.gru.step(memory, x)
        return memory, self.last(x)

    def unroll(
        self, memory: Float[Array, "B m"], xs: Float[Array, "T B d"], first: Bool[Array, "T B"]
    ) -> tuple[Float[Array, "T B m"], Float[Array, "T B a"]]:
        """T steps: a scan over the recurrent product alone, or all steps at once where there is no memory.

        Returns the memory after each step and the outputs. Where `first`, the memory starts from zeros.
        """
        xs = self.features(xs)
        if self.gru is None:
            return jnp.zeros((*xs.shape[:-1], 0), xs.dtype), self.last(xs)
        memories = self.gru.unroll(memory, xs, first)
        return memories, self.last(memories)


class Team(eqx.Module):
    """`copies` of one network; agent i uses copy `uses[i]`: (0, 0, 0) shared, (0, 1, 2) own, (0, 0, 1) by kind.

    The copies are stacked on the leading axis of every array. Weights are never gathered per agent: the agents of one
    copy are folded into the batch, and the copies are applied side by side.
    """

    copies: Net
    uses: tuple[int, ...] = eqx.field(static=True)
    sees_index: bool = eqx.field(static=True)
    """Whether each input is joined with the agent's index (one-hot), so that sharers can still differ."""

    def __init__(
        self,
        uses: tuple[int, ...],
        inputs: int,
        hidden: tuple[int, ...],
        memory_size: int,
        outputs: int,
        *,
        key: Key,
        sees_index: bool = False,
        last_scale: float = 1.0,
        activation: str = "relu",
    ):
        inputs += len(uses) if sees_index else 0
        make = partial(Net, inputs, hidden, memory_size, outputs, last_scale=last_scale, activation=activation)
        self.copies = jax.vmap(lambda key: make(key=key))(jax.random.split(key, max(uses) + 1))
        self.uses = uses
        self.sees_index = sees_index

    def blank(self, batch: int) -> Float[Array, "B n m"]:
        """Memories before an episode."""
        return jnp.zeros((batch, len(self.uses), self.copies.memory_size), jnp.float32)

    def step(
        self, memory: Float[Array, "*batch n m"], obs: Float[Array, "*batch n d"]
    ) -> tuple[Float[Array, "*batch n m"], Float[Array, "*batch n a"]]:
        """One step of every agent."""

        def apply(net: Net, memory: Array, x: Array) -> tuple[Array, Array]:
            return net.step(memory, x)

        return self._each_copy(apply, (memory, self._seen(obs)))

    def unroll(
        self, memory: Float[Array, "B n m"], obs: Float[Array, "T B n d"], first: Bool[Array, "T B"]
    ) -> tuple[Float[Array, "T B n m"], Float[Array, "T B n a"]]:
        """T steps of every agent: the memory after each step, and the outputs."""
        steps, batch = first.shape

        def apply(net: Net, memory: Array, xs: Array) -> tuple[Array, Array]:
            per = xs.shape[2]
            memories, outputs = net.unroll(
                memory.reshape(batch * per, memory.shape[-1]),
                xs.reshape(steps, batch * per, xs.shape[-1]),
                jnp.repeat(first, per, axis=1),
            )
            fold = (steps, batch, per)
            return memories.reshape(*fold, memories.shape[-1]), outputs.reshape(*fold, outputs.shape[-1])

        return self._each_copy(apply, (memory, self._seen(obs)))

    def _seen(self, obs: Float[Array, "*batch n d"]) -> Float[Array, "*batch n d2"]:
        if not self.sees_index:
            return obs
        n = len(self.uses)
        return jnp.concatenate([obs, jnp.broadcast_to(jnp.eye(n, dtype=obs.dtype), (*obs.shape[:-1], n))], axis=-1)

    def _each_copy(self, apply, arrays: tuple[Array, Array]) -> tuple[Array, Array]:
        """Apply each copy to the rows of the agents that use it, and put the rows back in the agents' order."""
        copies = max(self.uses) + 1
        if copies == 1:
            return apply(jax.tree.map(lambda leaf: leaf[0], self.copies), *arrays)
        rows = [[i for i, use in enumerate(self.uses) if use == copy] for copy in range(copies)]
        order = [i for row in rows for i in row]
        back = jnp.argsort(jnp.array(order))
        if len({len(row) for row in rows}) == 1:
            per = len(order) // copies
            folded = [x[..., jnp.array(order), :].reshape(*x.shape[:-2], copies, per, x.shape[-1]) for x in arrays]
            results = jax.vmap(apply, in_axes=(0, *(-3,) * len(arrays)), out_axes=-3)(self.copies, *folded)
            joined = [x.reshape(*x.shape[:-3], len(order), x.shape[-1]) for x in results]
        else:
            parts = [
                apply(
                    jax.tree.map(lambda leaf, c=c: leaf[c], self.copies), *(x[..., jnp.array(row), :] for x in arrays)
                )
                for c, row in enumerate(rows)
            ]
            joined = [jnp.concatenate(pieces, axis=-2) for pieces in zip(*parts, strict=True)]
        memory, outputs = (x[..., back, :] for x in joined)
        return memory, outputs


def uses_of(sharing: str, spec: Spec) -> tuple[int, ...]:
    """Which copy each agent uses: `shared` one for all, `own` one each, `kinds` one for each kind of agent."""
    own = tuple(range(spec.num_agents))
    ranks = {kind: rank for rank, kind in enumerate(dict.fromkeys(spec.kinds))}
    return {"shared": (0,) * spec.num_agents, "own": own, "kinds": tuple(ranks[kind] for kind in spec.kinds)}[sharing]


def soft_update(target: PyTree, online: PyTree, rate: float | Float[Array, ""]) -> PyTree:
    """Move the target network towards the online one: `target + rate (online - target)`. Rate 1 copies."""
    return jax.tree.map(lambda t, o: t + rate * (o - t), target, online)
