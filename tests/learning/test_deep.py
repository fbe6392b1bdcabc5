"""Deep learners solve the tasks named for them with their default options; several seeds, thresholds far from random play."""

import numpy as np
import pytest

import marlet
from marlet.runs.directory import Run

pytestmark = pytest.mark.learn


def last(run: Run, column: str) -> np.ndarray:
    """A column's last value of each seed."""
    metrics = run.metrics()
    return metrics[column][metrics["steps"] == metrics["steps"].max()]


@pytest.mark.parametrize("name", ["vdn", "qmix"])
def test_spread_is_learned_within_two_million_steps(name, tmp_path):
    # Random play earns -26.4 per agent, doing nothing -24.0.
    run = marlet.train("spread", name, steps=2e6, seeds=5, evaluations=4, episodes=512, out=tmp_path, quiet=True)
    assert np.median(last(run, "return")) >= -13.0


def test_all_drones_reach_their_target(tmp_path):
    run = marlet.train("drones", "vdn", steps=1e6, seeds=3, evaluations=4, episodes=512, out=tmp_path, quiet=True)
    assert np.median(last(run, "solved")) >= 0.95


def test_deep_learners_that_see_the_values_collect_nearly_all_of_the_grid(tmp_path):
    # The total of 25 cells with a mean of 4.5 is 112.5, paid to each agent where the reward is shared. Random play: .69.
    env = marlet.Grid(sight=4, shared=True)
    run = marlet.train(env, "vdn", steps=1e6, seeds=3, evaluations=4, episodes=512, out=tmp_path, quiet=True)
    assert np.median(last(run, "return")) / 112.5 >= 0.93
