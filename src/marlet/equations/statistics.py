"""What several seeds say together: middles, intervals and comparisons, as recommended by Agarwal et al. 2021.

Few seeds make means treacherous, so Marlet reports medians and interquartile means with bootstrap intervals over
seeds (arXiv:2108.13264, section 4). Everything here is numpy on the host; given the same numbers and the same `seed`,
an interval is always the same.
"""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

RESAMPLES = 5_000
Scores = Float[np.ndarray, " seeds"]
Statistic = Callable[..., np.ndarray]
"""Takes an array and `axis`, the axis of the scores."""


def median(scores: Float[np.ndarray, "*axes"], axis: int = -1) -> Float[np.ndarray, "*rest"]:
    """The score that half of the seeds reach."""
    return np.median(scores, axis=axis)


def interquartile_mean(scores: Float[np.ndarray, "*axes"], axis: int = -1) -> Float[np.ndarray, "*rest"]:
    """The mean of the middle half: a quarter of the scores, rounded down, is left out at each end."""
    cut = scores.shape[axis] // 4
    middle = np.sort(scores, axis=axis).take(range(cut, scores.shape[axis] - cut), axis=axis)
    return middle.mean(axis=axis)


def interval(
    scores: Float[np.ndarray, "*points seeds"],
    statistic: Statistic = median,
    *,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[Float[np.ndarray, "*points"], Float[np.ndarray, "*points"]]:
    """The percentile bootstrap interval of a statistic over seeds: lower and upper end at every point.

    Whole seeds are drawn with replacement, the same ones at all points of a curve. One seed says nothing of the
    spread: its interval is not a number.
    """
    return stratified_interval([scores], statistic, level=level, resamples=resamples, seed=seed)


def stratified_interval(
    strata: Sequence[Float[np.ndarray, "*points seeds"]],
    statistic: Statistic = interquartile_mean,
    *,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[Float[np.ndarray, "*points"], Float[np.ndarray, "*points"]]:
    """The interval of a statistic of all strata together, where each stratum (a task) is resampled within itself.

    Drawing within strata keeps every resample's share of each task as it is (Agarwal et al. 2021, section 4.1). Strata
    may differ in how many seeds they have. Where no stratum has two, the interval is not a number.
    """
    draws = np.random.default_rng(seed)
    points = strata[0].shape[:-1]
    if all(scores.shape[-1] < 2 for scores in strata):
        nothing = np.full(points, np.nan)
        return nothing, nothing
    picks = [draws.integers(scores.shape[-1], size=(resamples, scores.shape[-1])) for scores in strata]
    values = np.empty((*points, resamples))
    for r in range(0, resamples, 500):  # in slices, so that long curves of many seeds fit in memory
        drawn = [scores[..., pick[r : r + 500]] for scores, pick in zip(strata, picks, strict=True)]
        values[..., r : r + 500] = statistic(np.concatenate(drawn, axis=-1), axis=-1)
    tail = 50 * (1 - level)
    low, high = np.percentile(values, [tail, 100 - tail], axis=-1)
    return low, high


def probability_of_improvement(ours: Scores, theirs: Scores) -> float:
    """The chance that a seed of ours beats a seed of theirs; ties count half (the Mann-Whitney statistic)."""
    apart = ours[:, None] - theirs[None, :]
    return float(np.mean((apart > 0) + 0.5 * (apart == 0)))


def improvement_interval(
    ours: Scores, theirs: Scores, *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """The percentile bootstrap interval of the probability of improvement, both sides resampled on their own."""
    draws = np.random.default_rng(seed)
    values = [
        probability_of_improvement(draws.choice(ours, ours.size), draws.choice(theirs, theirs.size))
        for _ in range(resamples)
    ]
    tail = 50 * (1 - level)
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)
