"""Soccer: moves in either order, the ball, goals, walls, and the end."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from playthrough import check_golden

from marlet.envs.soccer import Pitch, Soccer

pytestmark = pytest.mark.rough

STAND, UP, DOWN, BACK, FORWARD = range(5)


def pitch(first, second, ball):
    return Pitch(jnp.array([first, second]), jnp.int32(ball), jnp.zeros((), bool), jnp.zeros((), jnp.int32))


@jax.jit
def outcomes(state, action):
    """What 64 keys make of one step, the game never called off."""
    keys = jax.random.split(jax.random.key(0), 64)
    return jax.vmap(lambda key: Soccer(draw=0.0).step(state, action, key=key))(keys)


def different(state, action):
    """The different outcomes: (row, column) of both, who has the ball, both rewards, whether it is over."""
    after, said = outcomes(state, jnp.array(action))
    rows = np.concatenate([after.place.reshape(64, 4), after.ball[:, None], said.reward, after.over[:, None]], axis=1)
    return {tuple(map(int, row)) for row in rows}


def test_forward_is_away_from_the_own_side():
    assert different(pitch((0, 0), (3, 4), 0), [FORWARD, FORWARD]) == {(0, 1, 3, 3, 0, 0, 0, 0)}
    assert different(pitch((1, 2), (3, 2), 0), [UP, BACK]) == {(0, 2, 3, 3, 0, 0, 0, 0)}


@pytest.mark.parametrize(("action", "stays"), [(UP, (0, 0)), (BACK, (0, 0))])
def test_edges_are_walls(action, stays):
    assert different(pitch((0, 0), (3, 4), 0), [action, STAND]) == {(*stays, 3, 4, 0, 0, 0, 0)}


def test_running_into_the_other_loses_the_ball_and_the_move():
    assert different(pitch((1, 1), (1, 2), 0), [FORWARD, STAND]) == {(1, 1, 1, 2, 1, 0, 0, 0)}
    # Without the ball nothing is won by it: the other keeps it.
    assert different(pitch((1, 1), (1, 2), 1), [FORWARD, STAND]) == {(1, 1, 1, 2, 1, 0, 0, 0)}


def test_the_order_of_moves_is_drawn():
    """Both want the same cell: who comes first has it, the other runs into it. Whoever bumps hands the ball over."""
    found = different(pitch((1, 1), (1, 3), 0), [FORWARD, FORWARD])
    assert found == {(1, 2, 1, 3, 0, 0, 0, 0), (1, 1, 1, 2, 1, 0, 0, 0)}
    after, _ = outcomes(pitch((1, 1), (1, 3), 0), jnp.array([FORWARD, FORWARD]))
    assert 16 < int((after.ball == 0).sum()) < 48


@pytest.mark.parametrize("row", range(4))
def test_goals_are_in_the_middle_and_need_the_ball(row):
    scored = different(pitch((row, 4), (0, 0), 0), [FORWARD, STAND])
    assert scored == ({(row, 4, 0, 0, 0, 1, -1, 1)} if row in (1, 2) else {(row, 4, 0, 0, 0, 0, 0, 0)})
    assert different(pitch((row, 4), (0, 1), 1), [FORWARD, STAND]) == {(row, 4, 0, 1, 1, 0, 0, 0)}
    other = different(pitch((3, 2), (row, 0), 1), [STAND, FORWARD])
    assert other == ({(3, 2, row, 0, 1, -1, 1, 1)} if row in (1, 2) else {(3, 2, row, 0, 1, 0, 0, 0)})


def test_one_has_no_own_goal():
    assert different(pitch((1, 0), (3, 3), 0), [BACK, STAND]) == {(1, 0, 3, 3, 0, 0, 0, 0)}


def test_a_game_is_called_off_as_often_as_it_should_be_and_then_nothing_moves():
    env, state = Soccer(draw=0.3), pitch((1, 1), (2, 3), 0)
    keys = jax.random.split(jax.random.key(0), 2000)
    after, said = jax.jit(jax.vmap(lambda key: env.step(state, jnp.zeros(2, jnp.int32), key=key)))(keys)
    assert float(after.over.mean()) == pytest.approx(0.3, abs=0.04)
    np.testing.assert_array_equal(said.alive, np.repeat(~np.asarray(after.over)[:, None], 2, 1))
    assert not said.reward.any()
    over = Pitch(state.place, state.ball, jnp.ones((), bool), state.clock)
    again, said = env.step(over, jnp.array([FORWARD, UP]), key=keys[0])
    np.testing.assert_array_equal(again.place, over.place)


def test_both_see_the_game_from_their_own_side():
    """The same position turned round: what player 0 sees there, player 1 sees here."""
    _, here = Soccer(draw=0.0).step(pitch((1, 1), (2, 4), 0), jnp.zeros(2, jnp.int32), key=jax.random.key(0))
    _, turned = Soccer(draw=0.0).step(pitch((2, 0), (1, 3), 1), jnp.zeros(2, jnp.int32), key=jax.random.key(0))
    np.testing.assert_array_equal(here.obs[0], turned.obs[1])
    np.testing.assert_array_equal(here.obs[1], turned.obs[0])
    np.testing.assert_allclose(here.obs[0], [1 / 3, 1 / 4, 2 / 3, 1, 1], rtol=1e-6)


def test_golden_playthrough():
    check_golden("soccer", Soccer(draw=0.0), [[FORWARD, UP], [FORWARD, FORWARD], [UP, STAND]])
