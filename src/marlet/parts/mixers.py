"""Mixers: join the agents' own action values into one value of the team, or leave each agent its own.

A mixer says how values are joined (`mix`), what the joined values are rewarded by (`share`) and whether they still go on
(`lives`), so that one learning rule serves independent, summed and monotone values alike. Like an algorithm it is a
frozen dataclass of options; its weights, where it has any, are made by `init` and handed to `mix`.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from marlet.options import check_options, option
from marlet.parts.layers import Linear
from marlet.types import Key, Spec, computed_once


@dataclass(frozen=True)
class Mixer(ABC):
    """Joins values of n agents into m: one for the team, or n where nothing is joined."""

    def __post_init__(self):
        check_options(self)

    joins: ClassVar[bool]
    """Whether one value stands for all agents, who must then be one team."""
    reads_state: ClassVar[bool] = False
    """Whether joining looks at the world's state."""

    @abstractmethod
    def init(self, spec: Spec, *, key: Key) -> PyTree[Array]:
        """Its weights; () if it has none."""

    @abstractmethod
    def mix(
        self, weights: PyTree[Array], values: Float[Array, "*batch n"], state: Float[Array, "*batch s"]
    ) -> Float[Array, "*batch m"]:
        """The joined values. They never fall when an agent's own value rises: each agent's best action is the team's."""

    def share(self, reward: Float[Array, "*batch n"]) -> Float[Array, "*batch m"]:
        """The reward that each joined value predicts: of a team, the mean of its agents.

        The mean, and not the sum, keeps the value in the units of one agent's return; where agents share a reward, it
        is that reward.
        """
        return reward.mean(-1, keepdims=True) if self.joins else reward

    def lives(self, alive: Bool[Array, "*batch n"]) -> Bool[Array, "*batch m"]:
        """Whether each joined value has anything left to predict: of a team, until all its agents are dead."""
        return alive.any(-1, keepdims=True) if self.joins else alive


@dataclass(frozen=True)
class Apart(Mixer):
    """Mixes nothing: each agent's value predicts its own reward."""

    joins = False

    def init(self, spec: Spec, *, key: Key) -> PyTree[Array]:
        return ()

    def mix(
        self, weights: PyTree[Array], values: Float[Array, "*batch n"], state: Float[Array, "*batch s"]
    ) -> Float[Array, "*batch n"]:
        return values


@dataclass(frozen=True)
class Sum(Mixer):
    """The plain sum (Sunehag et al. 2017, arXiv:1706.05296, equation 3)."""

    joins = True

    def init(self, spec: Spec, *, key: Key) -> PyTree[Array]:
        return ()

    def mix(
        self, weights: PyTree[Array], values: Float[Array, "*batch n"], state: Float[Array, "*batch s"]
    ) -> Float[Array, "*batch 1"]:
        return values.sum(-1, keepdims=True)


class Hypernetworks(eqx.Module):
    """What turns the state into the weights and biases of the monotone mixer's two layers."""

    first_weights: tuple[Linear, ...]
    first_bias: Linear
    second_weights: tuple[Linear, ...]
    second_bias: tuple[Linear, ...]


@dataclass(frozen=True)
class Monotonic(Mixer):
    """A network of the values whose weights the state decides and are never negative (Rashid et al. 2018, arXiv:1803.11485).

    Two layers. Hypernetworks of the state give their weights and their biases, which may have any sign.

    The weights are made non-negative by the absolute value (section 4.1), which is softly capped here: bootstrapping
    feeds a slope that can grow without bound back into its own targets. On `spread`, whose rewards are never positive,
    uncapped weights drove the team's value from -6 to above zero, up to +36, at step sizes from 5e-4 to 3e-3.
    A capped slope loses nothing, for the agents' own values may have any scale.
    """

    size: int = option(32, "units of the mixing layer", low=1)
    hyper: int = option(64, "units of the hypernetworks' hidden layer; 0 for none", low=0)

    joins = True
    reads_state = True

    def init(self, spec: Spec, *, key: Key) -> Hypernetworks:
        first_key, first_bias_key, second_key, second_bias_key = jax.random.split(key, 4)
        n, s = spec.num_agents, spec.state_size
        return Hypernetworks(
            first_weights=_layers((s, self.hyper, n * self.size), key=first_key),
            first_bias=Linear(s, self.size, key=first_bias_key, scale=1.0),
            second_weights=_layers((s, self.hyper, self.size), key=second_key),
            second_bias=_layers((s, self.size, 1), key=second_bias_key),
        )

    def mix(
        self, weights: Hypernetworks, values: Float[Array, "*batch n"], state: Float[Array, "*batch s"]
    ) -> Float[Array, "*batch 1"]:
        n = values.shape[-1]
        first = _slope(_apply(weights.first_weights, state)).reshape(*state.shape[:-1], n, self.size)
        second = _slope(_apply(weights.second_weights, state)) / self.size
        first, second = computed_once((first, second))  # lest XLA make one slow kernel of products and sums
        joined = jnp.einsum("...n,...nw->...w", values, first, precision="highest")
        hidden = jax.nn.elu(joined + weights.first_bias(state))
        return (hidden * second).sum(-1, keepdims=True) + _apply(weights.second_bias, state)


def _slope(x: Float[Array, "*batch w"]) -> Float[Array, "*batch w"]:
    """The absolute value, softly capped at 2."""
    return 2 * jnp.tanh(jnp.abs(x) / 2)


def _layers(sizes: tuple[int, int, int], *, key: Key) -> tuple[Linear, ...]:
    """Two layers, or one where the hidden size is 0."""
    inputs, hidden, outputs = sizes
    if not hidden:
        return (Linear(inputs, outputs, key=key, scale=1.0),)
    hidden_key, last_key = jax.random.split(key)
    return (Linear(inputs, hidden, key=hidden_key), Linear(hidden, outputs, key=last_key, scale=1.0))


def _apply(layers: tuple[Linear, ...], x: Float[Array, "*batch s"]) -> Float[Array, "*batch out"]:
    for layer in layers[:-1]:
        x = jax.nn.relu(layer(x))
    return layers[-1](x)
