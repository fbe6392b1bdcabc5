"""The drone swarm: flight, distance and the two ends."""

import functools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from playthrough import check_golden

from marlet.envs.drones import EAST, HOVER, NORTH, SOUTH, WEST, Drones, DronesState
from marlet.testing import check_env

pytestmark = pytest.mark.rough

KEY = jax.random.key(0)


@functools.cache
def compiled(env: Drones):
    """`reset` of a key, and `step` of a state and actions."""
    step = jax.jit(lambda state, action: env.step(state, action, key=KEY))
    return jax.jit(lambda key: env.reset(key=key)), lambda state, actions: step(state, np.array(actions, np.int32))


def placed(x, y, target) -> DronesState:
    """The opening of an episode with chosen places."""
    x, y, target = (np.array(places, np.int32) for places in (x, y, target))
    return DronesState(x=x, y=y, target=target, flying=np.bool_(True), time=np.int32(0))


def test_each_action_moves_as_it_says_and_edges_hold():
    env = Drones(drones=5)
    state = placed([5] * 5, [5] * 5, [0, 0])
    state, _ = compiled(env)[1](state, [NORTH, SOUTH, EAST, WEST, HOVER])
    assert state.x.tolist() == [5, 5, 6, 4, 5]
    assert state.y.tolist() == [6, 4, 5, 5, 5]
    state = placed([0, 0, 9, 0, 0], [9, 0, 0, 0, 0], [5, 5])
    after, _ = compiled(env)[1](state, [NORTH, SOUTH, EAST, WEST, HOVER])
    assert (after.x.tolist(), after.y.tolist()) == (state.x.tolist(), state.y.tolist())


def test_reward_is_minus_the_distance_after_the_move():
    env = Drones(drones=2)
    _, step = compiled(env)[1](placed([3, 8], [0, 9], [0, 3]), [NORTH, WEST])
    np.testing.assert_allclose(step.reward, [-np.hypot(3, 2), -np.hypot(7, 6)], rtol=1e-6)
    np.testing.assert_allclose(step.obs[0] * 9, [3, 1, 0, 3], atol=1e-6)
    np.testing.assert_allclose(step.state * 9, [3, 7, 1, 9, 0, 3], atol=1e-6)
    assert not step.over


def test_the_task_is_done_when_every_drone_is_within_one_cell():
    env = Drones(drones=2)
    state = placed([4, 7], [4, 5], [5, 5])  # the first on the diagonal: Chebyshev 1; the second 2 away
    state, step = compiled(env)[1](state, [HOVER, HOVER])
    assert step.alive.all()
    state, step = compiled(env)[1](state, [HOVER, WEST])
    assert not step.alive.any()
    assert not step.truncated
    np.testing.assert_allclose(step.reward, [-np.sqrt(2), -1], rtol=1e-6)
    state, step = compiled(env)[1](state, [WEST, WEST])  # gone for good
    assert not step.alive.any()
    assert step.reward.tolist() == [0, 0]


def test_an_opening_at_the_target_is_not_an_end_before_a_move():
    env = Drones(size=2)  # where every place is within one cell
    state, opening = compiled(env)[0](KEY)
    assert opening.alive.all()
    assert not compiled(env)[1](state, [HOVER] * 4)[1].alive.any()


def test_the_clock_cuts_off_but_not_what_is_done():
    env = Drones(drones=1, steps=1)
    far, near = placed([0], [0], [9, 9]), placed([0], [0], [2, 0])
    cut, done = (compiled(env)[1](state, [EAST])[1] for state in (far, near))
    assert (bool(cut.truncated), bool(cut.alive.all())) == (True, True)
    assert (bool(done.truncated), bool(done.alive.any())) == (False, False)


@settings(max_examples=15, deadline=None)
@given(st.sampled_from([(3, 3), (6, 1)]), st.integers(0, 2**30))
def test_a_slow_loop_flies_the_same(world, seed):
    size, drones = world
    env = Drones(size=size, drones=drones)
    state, _ = compiled(env)[0](jax.random.key(seed))
    x, y, (tx, ty) = state.x.tolist(), state.y.tolist(), state.target.tolist()
    done = False
    for actions in np.random.default_rng(seed).integers(0, 5, (4, drones)).tolist():
        state, step = compiled(env)[1](state, actions)
        rewards = []
        for i, action in enumerate(actions):
            dx, dy = [(0, 1), (0, -1), (1, 0), (-1, 0), (0, 0)][action]
            x[i], y[i] = min(max(x[i] + dx, 0), size - 1), min(max(y[i] + dy, 0), size - 1)
            rewards.append(0.0 if done else -np.hypot(x[i] - tx, y[i] - ty))
        done = done or all(max(abs(a - tx), abs(b - ty)) <= 1 for a, b in zip(x, y, strict=True))
        np.testing.assert_allclose(step.reward, rewards, rtol=1e-5)
        assert bool(step.alive.any()) == (not done)


def test_places_are_drawn_evenly():
    state, _ = jax.jit(jax.vmap(lambda key: Drones().reset(key=key)))(jax.random.split(KEY, 2000))
    for places in (state.x, state.y, state.target):
        np.testing.assert_allclose(np.bincount(np.ravel(places), minlength=10) / places.size, 0.1, atol=0.02)


def test_a_shortest_path_reaches_the_target():
    state, step = compiled(Drones())[0](KEY)
    for _ in range(20):
        dx, dy = state.target[0] - state.x, state.target[1] - state.y
        across = np.where(dx > 0, EAST, np.where(dx < 0, WEST, HOVER))
        state, step = compiled(Drones())[1](state, np.where(dy > 0, NORTH, np.where(dy < 0, SOUTH, across)))
    assert not step.alive.any()


@pytest.mark.parametrize("env", [Drones(steps=8), Drones(size=3, drones=1)])
def test_drones_keep_the_contract(env):
    assert check_env(env)


def test_compiled_and_not_are_the_same():
    env, state, action = Drones(drones=2), placed([1, 5], [2, 9], [4, 4]), [NORTH, WEST]
    plain = env.step(state, np.array(action), key=KEY)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), compiled(env)[1](state, action), plain)


def test_the_picture_shows_north_above():
    env = Drones(drones=1)
    north, south = (env.render(placed([0], [y], [9, 5])) for y in (9, 0))
    assert north.shape == (240, 240, 3)
    assert north.dtype == np.uint8
    changed = (north != south).any((1, 2)).nonzero()[0]
    assert (north[:24, :24] != south[:24, :24]).any()
    assert set(changed // 24) == {0, 9}


def test_golden_playthrough():
    check_golden("drones", Drones(size=4, drones=2, steps=4), [[0, 3], [0, 3], [2, 0], [1, 4]])
