"""Middles, intervals and comparisons of seeds, against numbers worked by hand and against scipy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from marlet.equations.statistics import (
    improvement_interval,
    interquartile_mean,
    interval,
    median,
    probability_of_improvement,
    stratified_interval,
)

SCORES = np.array([3.1, 2.4, 5.0, 4.2, 3.3, 2.9, 4.8, 3.7])

seeds = st.lists(st.floats(-100, 100), min_size=2, max_size=9).map(np.array)


def test_medians_by_hand():
    assert median(np.array([5.0, 1.0, 3.0])) == 3.0
    assert median(np.array([4.0, 1.0, 2.0, 8.0])) == 3.0


def test_the_interquartile_mean_leaves_out_a_quarter_at_each_end():
    assert interquartile_mean(np.array([0.0, 1.0, 2.0, 1000.0])) == 1.5
    assert interquartile_mean(np.array([-50.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 90.0])) == 3.5
    assert interquartile_mean(np.array([1.0, 2.0, 6.0])) == 3.0  # too few: nothing is left out


@given(seeds)
def test_the_interquartile_mean_is_scipys_trimmed_mean(scores):
    assert interquartile_mean(scores) == pytest.approx(stats.trim_mean(scores, 0.25))


@pytest.mark.parametrize("statistic", [interquartile_mean, np.mean])
def test_the_interval_is_scipys_percentile_bootstrap(statistic):
    low, high = interval(SCORES, statistic, resamples=5_000)
    theirs = stats.bootstrap((SCORES,), statistic, n_resamples=5_000, method="percentile", rng=1)
    assert low == pytest.approx(theirs.confidence_interval.low, abs=0.1)
    assert high == pytest.approx(theirs.confidence_interval.high, abs=0.1)
    # Negative control: an interval of another level is not within that tolerance.
    assert interval(SCORES, statistic, level=0.4)[0] != pytest.approx(theirs.confidence_interval.low, abs=0.1)


def test_the_interval_of_two_seeds_by_hand():
    """Of the four equally likely resamples of (0, 1) one has the mean 0, one the mean 1: the ends are 0 and 1."""
    assert interval(np.array([0.0, 1.0]), np.mean) == (0.0, 1.0)
    # A level below one half leaves out both: only the mean 1/2 remains.
    assert interval(np.array([0.0, 1.0]), np.mean, level=0.4) == (0.5, 0.5)


def test_the_interval_of_a_median_by_hand():
    """Of three seeds' resamples 7 of 27 have the smallest as their median, 7 the largest: both lie within 95 %."""
    scores = np.array([1.0, 5.0, 2.0])
    assert interval(scores) == (1.0, 5.0)
    assert interval(scores, level=0.4) == (2.0, 2.0)


def test_one_seed_tells_nothing_of_the_spread():
    assert np.isnan(interval(np.array([3.0]))).all()


def test_the_interval_is_the_same_every_time_and_of_every_point():
    curve = np.stack([SCORES, SCORES + 10])
    low, high = interval(curve)
    np.testing.assert_array_equal((low, high), interval(curve))
    np.testing.assert_allclose(low[1] - low[0], 10)
    assert low[0] == interval(SCORES)[0]
    assert high.shape == (2,)


def test_strata_are_resampled_within_themselves():
    """Two tasks whose seeds agree: whatever is drawn, each task keeps its share, so nothing varies."""
    tasks = [np.zeros(4), np.full(4, 100.0)]
    assert stratified_interval(tasks, np.mean) == (50.0, 50.0)
    # Negative control: thrown together, the shares would vary.
    low, high = interval(np.concatenate(tasks), np.mean)
    assert low < 50 < high


@given(seeds, st.sampled_from([median, interquartile_mean]))
def test_the_interval_holds_only_what_the_seeds_hold(scores, statistic):
    low, high = interval(scores, statistic, resamples=200)
    assert scores.min() - 1e-9 <= low <= high <= scores.max() + 1e-9


def test_probability_of_improvement_by_hand():
    """Of six pairs (4 > 1, 4 > 2, 4 > 4?, 2 > 1, 2 = 2, 2 < 4): three are won and two are ties."""
    assert probability_of_improvement(np.array([4.0, 2.0]), np.array([1.0, 2.0, 4.0])) == pytest.approx(4 / 6)
    assert probability_of_improvement(np.array([1.0]), np.array([0.0])) == 1.0


@given(seeds, seeds)
def test_probability_of_improvement_is_mann_whitney_and_sums_to_one(ours, theirs):
    expected = stats.mannwhitneyu(ours, theirs).statistic / (ours.size * theirs.size)
    assert probability_of_improvement(ours, theirs) == pytest.approx(expected)
    assert probability_of_improvement(theirs, ours) == pytest.approx(1 - expected)


def test_the_interval_of_an_improvement_beyond_doubt_and_of_none():
    assert improvement_interval(SCORES + 100, SCORES, resamples=100) == (1.0, 1.0)
    low, high = improvement_interval(SCORES, SCORES, resamples=500)
    assert low < 0.5 < high
