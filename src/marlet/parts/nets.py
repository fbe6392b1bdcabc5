"""Networks: plain trees of arrays, and teams of them that say which agent uses which copy."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from marlet.parts.layers import GRU, Linear, MinGRU
from marlet.types import Key, Spec

CELLS = {"gru": GRU, "linear": MinGRU}
ACTIVATIONS = {"relu": jax.nn.relu, "tanh": jnp.tanh}


class Net(eqx.Module):
    """Hidden layers, a recurrent memory where `memory_size` is not 0, hidden layers after it, and a linear last layer."""

    layers: tuple[Linear, ...]
    gru: GRU | MinGRU | None
    after: tuple[Linear, ...]
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
        after: tuple[int, ...] = (),
        key: Key,
        cell: str = "gru",
        last_scale: float = 1.0,
        activation: str = "relu",
    ):
        *layer_keys, gru_key, last_key = jax.random.split(key, len(hidden) + len(after) + 2)
        sizes = (inputs, *hidden)
        self.layers = _stack(sizes, layer_keys[: len(hidden)])
        self.gru = CELLS[cell](sizes[-1], memory_size, key=gru_key) if memory_size else None
        sizes = (memory_size or sizes[-1], *after)
        self.after = _stack(sizes, layer_keys[len(hidden) :])
        self.last = Linear(sizes[-1], outputs, key=last_key, scale=last_scale)
        self.memory_size = memory_size
        self.activation = activation

    def features(self, x: Float[Array, "*batch d"]) -> Float[Array, "*batch h"]:
        """What the layers before the memory make of the input."""
        return self._through(self.layers, x)

    def told(self, x: Float[Array, "*batch h"]) -> Float[Array, "*batch a"]:
        """What the layers after the memory make of it, or of the features where there is none."""
        return self.last(self._through(self.after, x))

    def _through(self, layers: tuple[Linear, ...], x: Float[Array, "*batch d"]) -> Float[Array, "*batch h"]:
        for layer in layers:
            x = ACTIVATIONS[self.activation](layer(x))
        return x

    def step(
        self, memory: Float[Array, "*batch m"], x: Float[Array, "*batch d"]
    ) -> tuple[Float[Array, "*batch m"], Float[Array, "*batch a"]]:
        """One step for any number of leading axes; without a memory, `m` is 0."""
        x = self.features(x)
        if self.gru is not None:
            memory = x = self.gru.step(memory, x)
        return memory, self.told(x)

    def unroll(
        self, memory: Float[Array, "B m"], xs: Float[Array, "T B d"], first: Bool[Array, "T B"]
    ) -> tuple[Float[Array, "T B m"], Float[Array, "T B a"]]:
        """T steps: a scan over what is recurrent alone, or all steps at once where there is no memory.

        Returns the memory after each step and the outputs. Where `first`, the memory starts from zeros.
        """
        xs = self.features(xs)
        if self.gru is None:
            return jnp.zeros((*xs.shape[:-1], 0), xs.dtype), self.told(xs)
        memories = self.gru.unroll(memory, xs, first)
        return memories, self.told(memories)


def _stack(sizes: tuple[int, ...], keys: list[Key]) -> tuple[Linear, ...]:
    """Layers from each size to the next."""
    return tuple(Linear(a, b, key=key) for a, b, key in zip(sizes[:-1], sizes[1:], keys, strict=True))


class Team(eqx.Module):
    """`copies` of one network; agent i uses copy `uses[i]`: (0, 0, 0) shared, (0, 1, 2) own, (0, 0, 1) by kind.

    The copies are stacked on the leading axis of every array. Weights are never gathered per agent: the agents of one
    copy are folded into the batch, and the copies are applied side by side.
    """

    copies: Net
    uses: tuple[int, ...] = eqx.field(static=True)
    sees_index: bool = eqx.field(static=True)
    """Whether each input is joined with the agent's index (one-hot), so that sharers can still differ."""

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


def two_headed(team: Team, other: Team) -> Team:
    """`team` with the outputs of `other` after its own. `other` is layers only, as many as `team` has after its memory, and is
    told what that memory holds (the features where there is none). Later layers stand side by side, zeros between them."""
    one, two = ((*net.after, net.last) for net in (team.copies, other.copies))
    pairs = list(zip(one, two, strict=True))
    first = jax.tree.map(lambda a, b: jnp.concatenate([a, b], axis=-1), *pairs[0])
    *after, last = first, *(_side_by_side(a, b) for a, b in pairs[1:])
    return eqx.tree_at(lambda team: (team.copies.after, team.copies.last), team, (tuple(after), last))


def _side_by_side(a: Linear, b: Linear) -> Linear:
    """A layer that does what `a` does to the first of its inputs, and what `b` does to the others."""
    upper = jnp.pad(a.weight, ((0, 0), (0, 0), (0, b.weight.shape[-1])))
    lower = jnp.pad(b.weight, ((0, 0), (0, 0), (a.weight.shape[-1], 0)))
    both = jnp.concatenate([upper, lower], axis=-2), jnp.concatenate([a.bias, b.bias], axis=-1)
    return eqx.tree_at(lambda layer: (layer.weight, layer.bias), a, both)


def alone(team: Team, agent: Int[Array, ""]) -> Team:
    """The team of that agent only, where each agent has a network of its own and hence no need to see its index."""
    copies = jax.tree.map(lambda leaf: jax.lax.dynamic_index_in_dim(leaf, agent), team.copies)
    return Team(copies, (0,), sees_index=False)


def team_of(
    uses: tuple[int, ...],
    inputs: int,
    hidden: tuple[int, ...],
    memory_size: int,
    outputs: int,
    *,
    after: tuple[int, ...] = (),
    key: Key,
    sees_index: bool = False,
    cell: str = "gru",
    last_scale: float = 1.0,
    activation: str = "relu",
) -> Team:
    """A team of fresh networks, each with a key of its own."""
    inputs += len(uses) if sees_index else 0
    make = partial(
        Net, inputs, hidden, memory_size, outputs, after=after, cell=cell, last_scale=last_scale, activation=activation
    )
    copies = jax.vmap(lambda key: make(key=key))(jax.random.split(key, max(uses) + 1))
    return Team(copies, uses, sees_index)


def uses_of(sharing: str, spec: Spec) -> tuple[int, ...]:
    """Which copy each agent uses: `shared` one for all, `own` one each, `kinds` one for each kind of agent."""
    own = tuple(range(spec.num_agents))
    ranks = {kind: rank for rank, kind in enumerate(dict.fromkeys(spec.kinds))}
    return {"shared": (0,) * spec.num_agents, "own": own, "kinds": tuple(ranks[kind] for kind in spec.kinds)}[sharing]


def soft_update(target: PyTree, online: PyTree, rate: float | Float[Array, ""]) -> PyTree:
    """Move the target network towards the online one: `target + rate (online - target)`. Rate 1 copies."""
    return jax.tree.map(lambda t, o: t + rate * (o - t), target, online)
