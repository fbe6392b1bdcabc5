"""Reach: the degree of competition, contact, the yardstick controller."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from playthrough import check_golden

from marlet.envs.reach import Field, Reach, proportional

pytestmark = pytest.mark.rough


def field(position, target):
    return Field(jnp.array(position), jnp.array(target), jnp.zeros((), jnp.int32))


def step(env, state, action):
    return env.step(state, jnp.array(action), key=jax.random.key(0))


APART = field([[0.0, 0.0], [0.5, 0.5], [-0.5, 0.5]], [[0.3, 0.4], [0.5, 0.5], [-0.5, -0.5]])


def test_merits_and_rewards_by_hand():
    """No one moves: distances .5, 0, 1; merits are their negatives."""
    still = np.zeros((3, 2))
    paid = lambda competition: step(Reach(agents=3, competition=competition), APART, still)[1].reward  # noqa: E731
    np.testing.assert_allclose(paid(0.0), [-0.5, -0.5, -0.5], atol=1e-6)
    np.testing.assert_allclose(paid(1.0), [-0.5 - -0.5, 0 - -0.75, -1 - -0.25], atol=1e-6)
    np.testing.assert_allclose(paid(0.25), 0.75 * np.array([-0.5] * 3) + 0.25 * np.array([0, 0.75, -0.75]), atol=1e-6)


@pytest.mark.parametrize("competition", [0.0, 0.3, 1.0])
def test_competition_dials_from_equal_pay_to_a_zero_sum(competition):
    env = Reach(agents=3, competition=competition)
    assert env.spec.teams == ((0, 0, 0) if competition == 0 else (0, 1, 2))
    reward = np.asarray(step(env, APART, np.full((3, 2), 0.3))[1].reward)
    assert (np.ptp(reward) < 1e-6) == (competition == 0)
    assert (abs(reward.sum()) < 1e-5) == (competition == 1)


def test_effort_costs_and_moves():
    env = Reach(agents=1, energy=0.5)
    state, said = step(env, field([[0.0, 0.0]], [[1.0, 0.0]]), [[2.0, -0.5]])  # clipped to (1, -.5)
    np.testing.assert_allclose(state.position, [[0.2, -0.1]], atol=1e-6)
    np.testing.assert_allclose(said.reward, -np.hypot(0.8, 0.1) - 0.5 * 1.25, rtol=1e-5)


def test_who_stands_in_the_way_is_pushed_and_pushes():
    env = Reach(agents=2, contested=True)
    state, _ = step(env, field([[0.0, 0.0], [0.1, 0.0]], [[0.0, 0.0]] * 2), np.zeros((2, 2)))
    np.testing.assert_allclose(state.position, [[-0.05, 0.0], [0.15, 0.0]], atol=1e-6)
    opened, _ = env.reset(key=jax.random.key(1))
    np.testing.assert_array_equal(opened.target[0], opened.target[1])


@partial(jax.jit, static_argnums=0)
def played(env, gain):
    """The mean return of 4096 episodes of the proportional controller; of gain 0, of doing nothing."""
    state, said = jax.vmap(lambda key: env.reset(key=key))(jax.random.split(jax.random.key(0), 4096))

    def body(carry, _):
        state, obs = carry
        act = lambda state, obs: env.step(state, proportional(obs, gain), key=jax.random.key(0))  # noqa: E731
        state, said = jax.vmap(act)(state, obs)
        return (state, said.obs), said.reward.mean()

    return jax.lax.scan(body, (state, said.obs), None, env.steps)[1].sum()


def test_the_best_proportional_controller_is_the_one_documented():
    returns = {gain: float(played(Reach(), gain)) for gain in (0.0, *np.arange(0.5, 8.5, 0.5))}
    assert max(returns, key=returns.get) == 4.5
    assert returns[4.5] == pytest.approx(-3.00, abs=0.05)
    assert returns[0.0] == pytest.approx(-10.5, abs=0.15)


def test_golden_playthrough():
    env = Reach(steps=3, competition=0.5)
    check_golden("reach", env, [[[1.0, 0.0], [0.5, -0.5]], [[0.0, 1.0], [-1.0, 0.0]], [[0.2, 0.2], [0.0, 0.0]]])


def test_the_frame_shows_agents_and_targets():
    env = Reach()
    frame = env.render(jax.device_get(env.reset(key=jax.random.key(0))[0]))
    assert frame.shape == (320, 320, 3)
    assert frame.dtype == np.uint8
    other = dataclasses.replace(jax.device_get(env.reset(key=jax.random.key(0))[0]), target=np.zeros((2, 2)))
    assert (env.render(other) != frame).any()
