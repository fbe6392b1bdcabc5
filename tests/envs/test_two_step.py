"""QMIX's two-step game: every way through it."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from playthrough import check_golden

from marlet.envs.two_step import TwoStep
from marlet.testing import check_env

KEY = jax.random.key(0)


@pytest.mark.parametrize("actions", list(itertools.product(range(2), repeat=4)))
def test_every_way_through(actions):
    first, second = actions[:2], actions[2:]
    env = TwoStep()
    state, opening = env.reset(key=KEY)
    assert opening.obs.tolist() == [[1, 0, 0]] * 2
    state, middle = env.step(state, jnp.array(first), key=KEY)
    assert middle.reward.tolist() == [0, 0]
    assert middle.alive.all()
    assert middle.obs.tolist() == ([[0, 0, 1]] if first[0] else [[0, 1, 0]]) * 2
    assert middle.state.tolist() == middle.obs[0].tolist()
    state, last = env.step(state, jnp.array(second), key=KEY)
    assert last.reward.tolist() == [[[0, 1], [1, 8]][second[0]][second[1]] if first[0] else 7] * 2
    assert not last.alive.any()
    assert not last.truncated
    assert env.step(state, jnp.array(second), key=KEY)[1].reward.tolist() == [0, 0]


def test_two_step_keeps_the_contract():
    assert check_env(TwoStep())


def test_compiled_and_not_are_the_same():
    env = TwoStep()
    state, _ = env.reset(key=KEY)
    action = jnp.array([1, 0])
    jitted = jax.jit(lambda s, a: env.step(s, a, key=KEY))(state, action)
    jax.tree.map(np.testing.assert_array_equal, jitted, env.step(state, action, key=KEY))


def test_golden_playthrough():
    check_golden("two_step", TwoStep(), [[1, 0], [1, 1]])
