"""Table entries, merged visits and the probabilities that actions are drawn by."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marlet.parts.tables import (
    FEW,
    draw,
    entries_of,
    entry,
    explored,
    highest,
    improve,
    joint_entry,
    preferred,
    restricted,
)


@pytest.mark.parametrize("levels", [(5, 5), (1,), (2, 3, 1, 4), (7,)])
def test_every_observation_has_an_entry_of_its_own(levels):
    digits = np.array(list(itertools.product(*map(range, levels))))
    obs = digits / np.maximum(np.array(levels) - 1, 1)
    np.testing.assert_array_equal(entry(jnp.asarray(obs, jnp.float32), levels), np.arange(entries_of(levels)))


def test_entries_of_constants_and_of_what_lies_outside():
    assert entry(jnp.array([1.0]), (1,)) == 0
    np.testing.assert_array_equal(entry(jnp.array([[1.7, -3.0]]), (5, 5)), [20])


def test_joint_entry_counts_in_agents():
    obs = jnp.array([[0.5, 1.0], [0.0, 0.25]])  # entries 14 and 1 of 25
    assert joint_entry(obs, (5, 5)) == 14 * 25 + 1


@given(visits=st.lists(st.tuples(st.integers(0, 3), st.floats(-5, 5), st.floats(0, 1)), min_size=1, max_size=8))
@pytest.mark.parametrize("size", [8, FEW + 1], ids=["in pairs", "sorted"])
@settings(max_examples=50, deadline=None)
def test_visits_that_meet_count_as_one_after_the_other(size, visits):
    visits = visits + [(0, 0.0, 0.0)] * (size - len(visits))  # a rate of zero is no visit
    table = np.arange(4.0)
    expected = table.copy()
    for cell in range(4):
        here = [(error, rate) for where, error, rate in visits if where == cell and rate > 0]
        if here:
            mean = sum(error * rate for error, rate in here) / sum(rate for _, rate in here)
            moved = 1.0
            for _, rate in here:
                moved *= 1 - rate
            expected[cell] += (1 - moved) * mean
    where, error, rate = (jnp.array(column) for column in zip(*visits, strict=True))
    np.testing.assert_allclose(jitted_improve(jnp.asarray(table), where, error, rate), expected, atol=1e-4)


jitted_improve = jax.jit(improve)


def test_equal_targets_are_approached_exactly_as_in_sequence():
    table, target = 2.0, 10.0
    for _ in range(5):
        table += 0.3 * (target - table)
    together = improve(jnp.array([2.0]), jnp.zeros(5, int), jnp.full(5, 8.0), jnp.full(5, 0.3))
    np.testing.assert_allclose(together, [table], rtol=1e-5)
    summed = 2.0 + 5 * 0.3 * 8.0
    assert abs(summed - table) > 4, "a plain sum overshoots"


def test_best_actions_share_and_illegal_ones_get_nothing():
    values = jnp.array([3.0, 9.0, 3.0, 1.0])
    legal = jnp.array([True, False, True, True])
    np.testing.assert_allclose(preferred(values, legal), [0.5, 0, 0.5, 0])
    np.testing.assert_allclose(explored(preferred(values, legal), legal, 0.3), [0.45, 0, 0.45, 0.1], atol=1e-6)
    expected = np.exp([1.5, -np.inf, 1.5, 0.5])
    np.testing.assert_allclose(preferred(values, legal, 2.0), expected / expected.sum(), atol=1e-6)
    np.testing.assert_allclose(preferred(values * 1e4, legal, 1e-3), [0.5, 0, 0.5, 0])
    np.testing.assert_allclose(restricted(jnp.array([0.2, 0.6, 0.2, 0]), legal), [0.5, 0, 0.5, 0], atol=1e-6)
    np.testing.assert_allclose(restricted(jnp.array([0, 1.0, 0, 0]), legal), [1 / 3, 0, 1 / 3, 1 / 3], atol=1e-6)
    assert highest(values, legal) == 3


def test_draws_follow_the_policy():
    policy = jnp.broadcast_to(jnp.array([0.5, 0, 0.3, 0.2]), (40_000, 4))
    counts = np.bincount(draw(policy, key=jax.random.key(0)), minlength=4) / 40_000
    np.testing.assert_allclose(counts, [0.5, 0, 0.3, 0.2], atol=0.015)
    assert counts[1] == 0


@pytest.mark.parametrize("number", [0.0, 1 - 2.0**-24])
def test_a_number_at_either_end_draws_nothing_impossible_however_sums_are_rounded(monkeypatch, number):
    summed = jnp.cumsum
    monkeypatch.setattr(jax.random, "uniform", lambda key, shape: jnp.full(shape, number))
    monkeypatch.setattr(jnp, "cumsum", lambda x, axis: summed(x, axis) * (1 + 1e-6 * jnp.arange(x.shape[axis])))
    policy = jnp.array([[0.0, 0.3, 0.7, 0.0], [0.0, 0.0, 0.2, 0.0], [1.0, 0.0, 0.0, 0.0]])
    np.testing.assert_array_equal(draw(policy, key=jax.random.key(0)), [2 if number else 1, 2, 0])
