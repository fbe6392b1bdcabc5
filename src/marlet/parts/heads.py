"""Heads: read a network's outputs as a distribution over actions.

A head says how many outputs an action needs (`outputs`), and draws from, names the mode of, and measures the
distribution that they stand for, so that one policy rule serves choices and vectors alike.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from marlet.equations.choices import chosen, masked
from marlet.equations.distributions import (
    choice_entropy,
    draw_choice,
    draw_normal,
    log_chances,
    log_slope,
    normal_entropy,
    normal_log_prob,
    unsquashed,
)
from marlet.options import check_options, option
from marlet.types import Key, Spec

Action = Int[Array, "*batch"] | Float[Array, "*batch a"]
NARROWEST, WIDEST = -5.0, 1.0
"""Bounds of a normal component's log standard deviation."""


@dataclass(frozen=True)
class Head(ABC):
    """A family of distributions over one agent's action."""

    def __post_init__(self):
        check_options(self)

    @abstractmethod
    def outputs(self, num_actions: int) -> int:
        """How many numbers describe one agent's distribution."""

    @abstractmethod
    def draw(self, outputs: Float[Array, "*batch k"], available: Bool[Array, "*batch a"], *, key: Key) -> Action:
        """A random action."""

    @abstractmethod
    def mode(self, outputs: Float[Array, "*batch k"], available: Bool[Array, "*batch a"]) -> Action:
        """The action a greedy policy takes."""

    @abstractmethod
    def log_prob(
        self, outputs: Float[Array, "*batch k"], available: Bool[Array, "*batch a"], action: Action
    ) -> Float[Array, "*batch"]:
        """The log-probability (of vectors: log-density) of an action."""

    @abstractmethod
    def entropy(
        self, outputs: Float[Array, "*batch k"], available: Bool[Array, "*batch a"], *, key: Key
    ) -> Float[Array, "*batch"]:
        """In nats: exact, or an unbiased estimate from one draw where there is no formula."""


@dataclass(frozen=True)
class Categorical(Head):
    """One of `a` choices; illegal ones have probability 0."""

    def outputs(self, num_actions: int) -> int:
        return num_actions

    def draw(self, outputs: Float[Array, "*batch a"], available: Bool[Array, "*batch a"], *, key: Key) -> Action:
        return draw_choice(log_chances(outputs, available), key=key)

    def mode(self, outputs: Float[Array, "*batch a"], available: Bool[Array, "*batch a"]) -> Action:
        return jnp.argmax(masked(outputs, available), axis=-1).astype(jnp.int32)

    def log_prob(
        self, outputs: Float[Array, "*batch a"], available: Bool[Array, "*batch a"], action: Action
    ) -> Float[Array, "*batch"]:
        return chosen(log_chances(outputs, available), action)

    def entropy(
        self, outputs: Float[Array, "*batch a"], available: Bool[Array, "*batch a"], *, key: Key
    ) -> Float[Array, "*batch"]:
        return choice_entropy(log_chances(outputs, available))


@dataclass(frozen=True)
class Gaussian(Head):
    """A vector of independent normal components, unbounded: environments clip what they are given to [-1, 1].

    The outputs are the means, then the logarithms of the standard deviations over `start`.
    """

    start: float = option(0.6, "standard deviation before learning", low=1e-3, high=2.0)

    def outputs(self, num_actions: int) -> int:
        return 2 * num_actions

    def draw(self, outputs: Float[Array, "*batch k"], available: Bool[Array, "*batch a"], *, key: Key) -> Action:
        return draw_normal(*_normal(outputs, self.start), key=key)

    def mode(self, outputs: Float[Array, "*batch k"], available: Bool[Array, "*batch a"]) -> Action:
        return _normal(outputs, self.start)[0]

    def log_prob(
        self, outputs: Float[Array, "*batch k"], available: Bool[Array, "*batch a"], action: Action
    ) -> Float[Array, "*batch"]:
        return normal_log_prob(*_normal(outputs, self.start), action, available)

    def entropy(
        self, outputs: Float[Array, "*batch k"], available: Bool[Array, "*batch a"], *, key: Key
    ) -> Float[Array, "*batch"]:
        return normal_entropy(_normal(outputs, self.start)[1], available)


@dataclass(frozen=True)
class Squashed(Head):
    """Normal components pressed into (-1, 1) by tanh (Haarnoja et al. 2018, arXiv:1801.01290, appendix C).

    The outputs are those of `Gaussian`. Densities are of the squashed action, corrected for what tanh does to volumes.
    """

    start: float = option(0.6, "standard deviation before learning, before tanh", low=1e-3, high=2.0)

    def outputs(self, num_actions: int) -> int:
        return 2 * num_actions

    def draw(self, outputs: Float[Array, "*batch k"], available: Bool[Array, "*batch a"], *, key: Key) -> Action:
        return jnp.tanh(draw_normal(*_normal(outputs, self.start), key=key))

    def mode(self, outputs: Float[Array, "*batch k"], available: Bool[Array, "*batch a"]) -> Action:
        """The squashed mean: the median of the distribution, component by component."""
        return jnp.tanh(_normal(outputs, self.start)[0])

    def log_prob(
        self, outputs: Float[Array, "*batch k"], available: Bool[Array, "*batch a"], action: Action
    ) -> Float[Array, "*batch"]:
        before = unsquashed(action)
        return normal_log_prob(*_normal(outputs, self.start), before, available) - log_slope(before, available)

    def entropy(
        self, outputs: Float[Array, "*batch k"], available: Bool[Array, "*batch a"], *, key: Key
    ) -> Float[Array, "*batch"]:
        return -self.draw_with_log_prob(outputs, available, key=key)[1]

    def draw_with_log_prob(
        self, outputs: Float[Array, "*batch k"], available: Bool[Array, "*batch a"], *, key: Key
    ) -> tuple[Float[Array, "*batch a"], Float[Array, "*batch"]]:
        """An action that gradients pass through, and its log-density computed before squashing, so that none is lost."""
        mean, log_std = _normal(outputs, self.start)
        before = draw_normal(mean, log_std, key=key)
        return jnp.tanh(before), normal_log_prob(mean, log_std, before, available) - log_slope(before, available)


def head_for(spec: Spec, vectors: Head) -> Head:
    """The head an environment needs: `vectors` for continuous actions, `Categorical` for choices."""
    return vectors if spec.continuous else Categorical()


def _normal(
    outputs: Float[Array, "*batch k"], start: float
) -> tuple[Float[Array, "*batch a"], Float[Array, "*batch a"]]:
    """Means and log standard deviations."""
    mean, wider = jnp.split(outputs, 2, axis=-1)
    return mean, jnp.clip(wider + jnp.log(start), NARROWEST, WIDEST)
