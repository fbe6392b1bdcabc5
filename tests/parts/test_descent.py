"""Steps down a loss: how long the gradients may be, what each of them learns from, and advantages brought to one scale."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marlet.parts import descent
from marlet.parts.descent import descend, optimiser, rested, shuffled, standardised
from marlet.parts.nets import team_of

pytestmark = pytest.mark.rough

GRADIENT = {"a": jnp.array([3.0, 0.0]), "b": jnp.array([[4.0]])}


@pytest.mark.parametrize(("most", "shortened"), [(0.0, 1.0), (10.0, 1.0), (0.5, 0.1), (5e-4, 1e-4)])
def test_gradients_are_no_longer_than_the_most_and_0_is_no_limit(most, shortened):
    rule = optimiser(most)
    direction, state = jax.jit(rule.update)(GRADIENT, rule.init(GRADIENT))
    np.testing.assert_allclose(state[1].mu["b"], 0.1 * shortened * GRADIENT["b"], rtol=1e-5)
    assert float(direction["b"][0, 0]) > 0.9


@pytest.mark.parametrize(("sequences", "epochs"), [(6, 1), (7, 1), (6, 2)])
def test_every_sequence_is_in_one_minibatch_of_an_epoch(sequences, epochs):
    """What an uneven parting leaves over is in none."""
    team = team_of((0,), 1, (), 0, 1, key=jax.random.key(0))
    minibatches = 3

    def loss(teams, lessons, key):
        used = {str(k): (lessons == k).sum().astype(jnp.float32) for k in range(sequences)}
        return (teams[0].copies.last.weight ** 2).sum(), used

    @jax.jit
    def descended(key):
        options = dict(max_gradient=0.0, learning_rate=0.1, epochs=epochs, minibatches=minibatches, key=key)
        return descend(loss, (team,), (rested(team, 0.0),), jnp.arange(sequences)[None], **options)

    steps, orders = epochs * minibatches, set()
    for seed in range(5):
        _, (state,), metrics = descended(jax.random.key(seed))
        assert state[1].count == steps
        used = tuple(round(float(metrics[str(k)]) * steps) for k in range(sequences))
        assert max(used) == epochs
        assert sum(used) == epochs * minibatches * (sequences // minibatches)
        orders.add(used)
    assert (len(orders) > 1) == (sequences % minibatches > 0), "another key leaves out another one"


@pytest.mark.parametrize("count", [1, 2, 5, 64, 1000, 2**16])
def test_a_shuffle_has_every_number_once_and_each_as_likely_in_each_place(count, monkeypatch):
    keys = jax.random.split(jax.random.key(count), 4000 if count <= 1000 else 4)
    orders = np.asarray(jax.jit(jax.vmap(lambda key: shuffled(count, key=key)))(keys))
    np.testing.assert_array_equal(np.sort(orders, axis=1), np.broadcast_to(np.arange(count), orders.shape))
    for place in {0, count // 2, count - 1} if count <= 1000 else ():
        found = np.bincount(orders[:, place], minlength=count)
        expected = len(keys) / count
        spread = ((found - expected) ** 2 / expected).sum()  # chi-squared, with count - 1 degrees of freedom
        assert spread < count - 1 + 5 * (2 * count) ** 0.5
    assert count == 1 or abs(rising(orders) - 0.5) < 0.02
    if count == 2**16:  # the control: one sort is not enough for so many
        monkeypatch.setattr(descent, "ONE_SORT", count)
        assert rising(np.asarray(shuffled(count, key=keys[0]))) > 0.55


def rising(orders):
    """The share of neighbours that rise: half of them, where the order is random."""
    return (orders[..., :-1] < orders[..., 1:]).mean()


@pytest.mark.parametrize("uses", [(0, 0, 0), (0, 1, 1), (0, 1, 2)])
def test_advantages_have_mean_0_and_spread_1_among_those_who_share_a_network_and_live(uses):
    draws = np.random.default_rng(0)
    advantage = (draws.normal(size=(20, 4, 3)) * (1, 10, 100) + (0, 5, -50)).astype(np.float32)
    counts = draws.random((20, 4, 3)) < 0.7
    found = np.asarray(standardised(jnp.asarray(advantage), jnp.asarray(counts), uses))
    for copy in set(uses):
        mine = np.array(uses) == copy
        living = found[..., mine][counts[..., mine]]
        assert abs(living.mean()) < 1e-4
        assert living.std() == pytest.approx(1.0, abs=1e-3)
        assert np.corrcoef(living, advantage[..., mine][counts[..., mine]])[0, 1] == pytest.approx(1.0, abs=1e-4)
