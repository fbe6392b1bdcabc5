"""Normalisers: let a critic predict values of any scale in units of their own spread.

A normaliser keeps running statistics of the returns, one set for each copy of the critic. The critic's outputs are
normalised values; what they mean in units of reward is `mean + std * output`. Advantages are always of real values.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from marlet.options import check_options, option
from marlet.parts.nets import Team
from marlet.parts.shards import averaged

NARROWEST = 1e-2
"""Smallest standard deviation taken at its word; returns that hardly differ are not blown up."""


class Statistics(eqx.Module):
    """Weighted mean and variance of the returns of each copy of the critic; later ones weigh more."""

    weight: Float[Array, " copies"]
    """Of all that was seen; it rises from 0 towards 1."""
    mean: Float[Array, " copies"]
    """0 before anything was seen."""
    variance: Float[Array, " copies"]
    """Kept itself: as the mean square less the squared mean it would drown in rounding where returns are large."""

    @property
    def std(self) -> Float[Array, " copies"]:
        """1 before anything was seen."""
        return jnp.where(self.weight > 0, jnp.maximum(jnp.sqrt(self.variance), NARROWEST), 1.0)


@dataclass(frozen=True)
class Normaliser(ABC):
    """How the outputs of a critic stand to values."""

    def __post_init__(self):
        check_options(self)

    def init(self, critic: Team) -> Statistics:
        """Before any return was seen."""
        zeros = jnp.zeros(max(critic.uses) + 1, jnp.float32)
        return Statistics(zeros, zeros, zeros)

    @abstractmethod
    def update(
        self,
        statistics: Statistics,
        critic: Team,
        returns: Float[Array, "T B n"],
        counts: Bool[Array, "T B n"],
        axis: str | None = None,
    ) -> tuple[Statistics, Team]:
        """Take in the returns of a rollout, those that count, once; the critic may change with them. Devices along `axis`
        each bring their own."""

    def normalised(
        self, statistics: Statistics, critic: Team, value: Float[Array, "*batch n"]
    ) -> Float[Array, "*batch n"]:
        """Values in the critic's units."""
        uses = jnp.array(critic.uses)
        return (value - statistics.mean[uses]) / statistics.std[uses]

    def real(self, statistics: Statistics, critic: Team, output: Float[Array, "*batch n"]) -> Float[Array, "*batch n"]:
        """The critic's outputs in units of reward."""
        uses = jnp.array(critic.uses)
        return statistics.mean[uses] + statistics.std[uses] * output


@dataclass(frozen=True)
class Raw(Normaliser):
    """The critic predicts values as they are."""

    def update(
        self,
        statistics: Statistics,
        critic: Team,
        returns: Float[Array, "T B n"],
        counts: Bool[Array, "T B n"],
        axis: str | None = None,
    ) -> tuple[Statistics, Team]:
        return statistics, critic


@dataclass(frozen=True)
class Running(Normaliser):
    """Running statistics (Yu et al. 2022, arXiv:2103.01955, appendix). What outputs mean shifts as they change."""

    rate: float = option(0.02, "weight of a rollout's returns in the statistics", low=1e-6, high=1.0)

    def update(
        self,
        statistics: Statistics,
        critic: Team,
        returns: Float[Array, "T B n"],
        counts: Bool[Array, "T B n"],
        axis: str | None = None,
    ) -> tuple[Statistics, Team]:
        return _taken_in(statistics, critic, returns, counts, self.rate, axis), critic


@dataclass(frozen=True)
class PopArt(Normaliser):
    """Running statistics, and a last layer rescaled with them so that every value stays what it was
    (van Hasselt et al. 2016, arXiv:1602.07714, equation 3)."""

    rate: float = option(0.02, "weight of a rollout's returns in the statistics", low=1e-6, high=1.0)

    def update(
        self,
        statistics: Statistics,
        critic: Team,
        returns: Float[Array, "T B n"],
        counts: Bool[Array, "T B n"],
        axis: str | None = None,
    ) -> tuple[Statistics, Team]:
        later = _taken_in(statistics, critic, returns, counts, self.rate, axis)
        return later, preserved(critic, statistics, later)


def preserved(critic: Team, old: Statistics, new: Statistics) -> Team:
    """The critic whose outputs mean under `new` statistics what they meant under `old`."""
    last = critic.copies.last
    weight = last.weight * (old.std / new.std)[:, None, None]
    bias = (old.std[:, None] * last.bias + (old.mean - new.mean)[:, None]) / new.std[:, None]
    return eqx.tree_at(lambda team: (team.copies.last.weight, team.copies.last.bias), critic, (weight, bias))


def _taken_in(
    statistics: Statistics,
    critic: Team,
    returns: Float[Array, "T B n"],
    counts: Bool[Array, "T B n"],
    rate: float,
    axis: str | None,
) -> Statistics:
    """Running statistics with those of one rollout; a copy of which nothing counted stays as it is.

    Two groups of weights `1 - share` and `share` have together the mean of their variances and the variance of their
    means (Chan, Golub & LeVeque 1983).
    """
    uses = jnp.array(critic.uses)
    mine = jnp.arange(max(critic.uses) + 1)[:, None] == uses  # copies n
    per_copy = lambda x: (mine * jnp.where(counts, x, 0.0).sum((0, 1))).sum(-1)  # noqa: E731
    near = statistics.mean[uses]  # sums of what is small keep their digits
    number, total = averaged((per_copy(jnp.ones_like(returns)), per_copy(returns - near)), axis)
    fraction, number = jnp.where(number > 0, rate, 0.0), jnp.maximum(number, 1e-12)
    step = total / number
    variance = averaged(per_copy((returns - near - step[uses]) ** 2), axis) / number
    weight = statistics.weight + fraction * (1 - statistics.weight)
    share = fraction / jnp.maximum(weight, 1e-12)
    return Statistics(
        weight=weight,
        mean=statistics.mean + share * step,
        variance=(1 - share) * statistics.variance + share * variance + share * (1 - share) * step**2,
    )
