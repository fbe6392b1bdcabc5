"""Learners count their steps, never past what can be counted, and explore as much as their count says."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from many_runs import said

from marlet.algorithms.deterministic import maddpg
from marlet.algorithms.values import iql
from marlet.catalogue import make_algorithm
from marlet.engine.rollout import Tally, opening, rollout
from marlet.envs.matrix import Matrix
from marlet.envs.two_step import TwoStep
from marlet.types import Spec

pytestmark = pytest.mark.rough

MOST = 2**31 - 1
A_LEARNER_OF_EACH_RULE = ["vdn", "ippo", "coma", "maddpg", "tabular_iql", "central_q", "jal", "wolf_phc", "minimax_q"]


@pytest.mark.parametrize("name", A_LEARNER_OF_EACH_RULE)
def test_steps_are_counted_and_never_begin_anew(name):
    env = Matrix(game="matching_pennies") if name == "minimax_q" else TwoStep()
    rule = make_algorithm(name, {"envs": 4, "length": 5})

    @jax.jit
    def counts(before):
        """The rest of what is learned is not asked for, and so not computed."""
        learned = replace(rule.init(env.spec, key=jax.random.key(0)), steps=before)
        world = opening(env, rule, learned, 4, key=jax.random.key(1))
        _, _, played = rollout(env, rule, learned, world, Tally.empty(4, 2), 5, key=jax.random.key(2))
        return rule.update(learned, played, key=jax.random.key(3))[0].steps

    assert [int(counts(jnp.int32(before))) for before in (0, 10, MOST - 7, MOST)] == [20, 30, MOST, MOST]


@pytest.mark.parametrize(("steps", "epsilon"), [(0, 0.8), (50, 0.5), (100, 0.2), (3000, 0.2)])
def test_choices_are_random_as_often_as_the_steps_so_far_say(steps, epsilon):
    rule = iql(epsilon_start=0.8, epsilon_end=0.2, epsilon_steps=100, hidden=(4,), capacity=40)
    learned = rule.init(Spec(num_agents=1, num_actions=4, obs_shape=(1,), state_size=1), key=jax.random.key(0))
    learned, step = replace(learned, steps=jnp.int32(steps)), said(np.ones((8000, 1, 1)), actions=4)
    act = partial(rule.act, learned, rule.blank(learned, 8000), step, key=jax.random.key(1))
    assert np.mean(act()[1] != act(greedy=True)[1]) == pytest.approx(epsilon * 3 / 4, abs=0.02)


@pytest.mark.parametrize(("steps", "spread"), [(0, 0.2), (50, 0.12), (100, 0.04), (3000, 0.04)])
def test_vectors_are_as_noisy_as_the_steps_so_far_say(steps, spread):
    rule = maddpg(noise=0.2, noise_end=0.04, noise_steps=100, hidden=(4,), capacity=40)
    spec = Spec(num_agents=1, num_actions=2, obs_shape=(1,), state_size=1, continuous=True)
    learned = replace(rule.init(spec, key=jax.random.key(0)), steps=jnp.int32(steps))
    step = said(np.zeros((8000, 1, 1)), actions=2)
    act = partial(rule.act, learned, rule.blank(learned, 8000), step, key=jax.random.key(1))
    assert np.std(act()[1] - act(greedy=True)[1]) == pytest.approx(spread, rel=0.03)
