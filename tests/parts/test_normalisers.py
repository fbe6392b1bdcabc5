"""Normalisers: outputs are preserved where they should be, statistics are those of the returns, each taken in once."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marlet.parts.nets import team_of
from marlet.parts.normalisers import PopArt, Raw, Running, Statistics, preserved

pytestmark = pytest.mark.rough

USES = (0, 1, 1)


def critic(uses=USES):
    return team_of(uses, 4, (8,), 0, 1, key=jax.random.key(0))


def values(normaliser, statistics, team, obs):
    return normaliser.real(statistics, team, team.step(team.blank(len(obs)), obs)[1][..., 0])


def test_pop_art_of_the_worked_example():
    """Mean 3 -> 5, spread 2 -> 4, weight 2, bias 1: the weight becomes 1, the bias 0."""
    team = team_of((0,), 1, (1,), 0, 1, key=jax.random.key(0))
    last = lambda team: (team.copies.last.weight, team.copies.last.bias)  # noqa: E731
    team = eqx.tree_at(last, team, (jnp.full((1, 1, 1), 2.0), jnp.full((1, 1), 1.0)))
    of = lambda mean, std: Statistics(jnp.ones(1), jnp.array([mean]), jnp.array([std**2]))  # noqa: E731
    weight, bias = last(preserved(team, of(3.0, 2.0), of(5.0, 4.0)))
    assert float(weight[0, 0, 0]) == pytest.approx(1.0)
    assert float(bias[0, 0]) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("normaliser", [PopArt(rate=0.3), Raw()])
def test_values_are_the_same_before_and_after_every_update(normaliser):
    team = critic()
    statistics = normaliser.init(team)
    obs = jax.random.normal(jax.random.key(1), (5, 3, 4))
    before = values(normaliser, statistics, team, obs)
    for k in range(3):
        returns = 7.0 * k - 20 + 5 * jax.random.normal(jax.random.key(k), (6, 2, 3))
        statistics, team = normaliser.update(statistics, team, returns, jnp.ones((6, 2, 3), bool))
        np.testing.assert_allclose(values(normaliser, statistics, team, obs), before, rtol=2e-4, atol=2e-4)


def test_running_statistics_alone_shift_the_values():
    team, normaliser = critic(), Running(rate=0.3)
    obs = jax.random.normal(jax.random.key(1), (5, 3, 4))
    start = normaliser.init(team)
    later, same = normaliser.update(start, team, jnp.full((6, 2, 3), -20.0), jnp.ones((6, 2, 3), bool))
    assert same is team
    assert not np.allclose(values(normaliser, start, team, obs), values(normaliser, later, team, obs), atol=1.0)


def test_statistics_are_of_each_copys_own_returns_that_count():
    team, normaliser = critic(), Running(rate=0.5)
    rng = np.random.default_rng(0)
    returns = rng.normal(size=(6, 2, 3)).astype(np.float32) * [1, 3, 3] + [0, 10, 10]
    counts = rng.random((6, 2, 3)) < 0.7
    statistics, _ = normaliser.update(normaliser.init(team), team, jnp.array(returns), jnp.array(counts))
    first, second = returns[..., 0][counts[..., 0]], returns[..., 1:][counts[..., 1:]]
    np.testing.assert_allclose(statistics.mean, [first.mean(), second.mean()], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(statistics.std, [first.std(), second.std()], rtol=1e-3)
    # Nothing counted for copy 0: it keeps what it had; the other moves halfway in weight.
    none = jnp.array(counts) & jnp.array([False, True, True])
    later, _ = normaliser.update(statistics, team, jnp.array(returns) + 1, none)
    assert later.mean[0] == statistics.mean[0]
    expected = (0.25 * second.mean() + 0.5 * (second.mean() + 1)) / 0.75
    assert float(later.mean[1]) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("mean", [0.0, -2e3, -2e4, 3e5])
def test_the_spread_of_returns_far_from_zero_is_found(mean):
    """Means that rise by a spread a rollout, of which ten are seen: weights .02 (.98)^k, made to sum to 1."""
    team, normaliser = critic(), PopArt()
    statistics, values, weights = normaliser.init(team), [], []
    update = jax.jit(normaliser.update)
    for k in range(10):
        returns = mean + k + jax.random.normal(jax.random.key(k), (40, 8, 3))
        statistics, team = update(statistics, team, returns, jnp.ones((40, 8, 3), bool))
        weights = [0.98 * weight for weight in weights] + [0.02]
        values.append(np.asarray(returns, np.float64)[..., 0])
    weights = np.array(weights) / sum(weights)
    expected = weights @ [value.mean() for value in values]
    spread = np.sqrt(weights @ [((value - expected) ** 2).mean() for value in values])
    assert spread > 2
    np.testing.assert_allclose(statistics.mean[0], expected, rtol=1e-6, atol=1e-5)
    np.testing.assert_allclose(statistics.std[0], spread, rtol=1e-2)
    np.testing.assert_allclose(statistics.weight, 1 - 0.98**10, rtol=1e-5)


def test_units_there_and_back():
    team, normaliser = critic(), PopArt()
    statistics = Statistics(jnp.ones(2), jnp.array([1.0, -4.0]), jnp.array([4.0, 9.0]))
    value = jnp.array([[3.0, 2.0, 8.0]])
    np.testing.assert_allclose(normaliser.normalised(statistics, team, value), [[1.0, 2.0, 4.0]], rtol=1e-5)
    back = normaliser.real(statistics, team, normaliser.normalised(statistics, team, value))
    np.testing.assert_allclose(back, value, rtol=1e-6)
