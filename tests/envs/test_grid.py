"""The resource grid: its rules by hand, what it conserves, and how much random play gathers."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from playthrough import check_golden

from marlet.envs.grid import DOWN, LEFT, RIGHT, UP, Grid, GridState, border
from marlet.errors import MarletError
from marlet.testing import check_env

pytestmark = pytest.mark.rough

KEY = jax.random.key(0)


def laid_out(env: Grid, values: list[list[int]]) -> GridState:
    """The opening of an episode with chosen values."""
    values = np.array(values, np.float32)
    row, col = np.array(env.placement or border(env.size, env.agents), np.int32).T
    return GridState(values=values, row=row, col=col, total=values.sum(), time=np.int32(0))


@functools.cache
def compiled(env: Grid):
    """`reset` of a key, and `step` of a state and actions."""
    return jax.jit(lambda key: env.reset(key=key)), jax.jit(
        lambda state, action, key=KEY: env.step(state, action, key=key)
    )


def play(env: Grid, state, *actions):
    """What follows from the given actions: the last state and all steps."""
    steps = []
    for action in actions:
        state, step = compiled(env)[1](state, np.array(action, np.int32))
        steps.append(step)
    return state, steps


@functools.partial(jax.jit, static_argnums=0)
def random_share(env: Grid, row: jax.Array) -> jax.Array:
    """The share gathered by random play after each step, mean over 1000 episodes whose agents start in `row`; `T`."""
    reset_key, act_key = jax.random.split(KEY)
    actions = jax.random.randint(act_key, (env.steps, env.agents, 1000), 0, 4)
    state = jax.vmap(lambda key: env.reset(key=key)[0], out_axes=-1)(jax.random.split(reset_key, 1000))
    state = eqx.tree_at(lambda s: s.row, state, jnp.broadcast_to(row[:, None], state.row.shape))

    def one(state, action):
        state = jax.vmap(lambda s, a: env.step(s, a, key=KEY)[0], (-1, -1), -1)(state, action)
        return state, jax.vmap(lambda s: s.share, -1)(state).mean()

    return jax.lax.scan(one, state, actions)[1]


NINE = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]


def test_an_agent_takes_what_lies_in_the_cell_it_enters():
    env = Grid(size=3)
    state, (first, second, third) = play(env, laid_out(env, NINE), (RIGHT, UP), (LEFT, LEFT), (UP, LEFT))
    assert first.reward.tolist() == [2, 6]
    assert second.reward.tolist() == [1, 5]  # agent 0 comes back to its starting cell and takes what lay there
    assert third.reward.tolist() == [0, 4]  # and bumps into the wall where nothing is left
    assert state.values.tolist() == [[0, 0, 3], [0, 0, 0], [7, 8, 9]]
    assert float(state.share) == pytest.approx(18 / 45)


def test_a_wall_counts_as_entering_ones_own_cell():
    env = Grid(size=3)
    _, (first, second) = play(env, laid_out(env, NINE), (UP, DOWN), (UP, RIGHT))
    assert first.reward.tolist() == [1, 9]
    assert second.reward.tolist() == [0, 0]


def test_agents_in_one_cell_share_its_value_equally():
    env = Grid(size=3, agents=3, placement=((0, 1), (2, 1), (0, 0)))
    state, (step,) = play(env, laid_out(env, NINE), (DOWN, UP, RIGHT))
    assert step.reward.tolist() == [2.5, 2.5, 2]
    assert state.values[1, 1] == 0


def test_cooperative_agents_are_paid_the_sum():
    own, shared = Grid(size=3), Grid(size=3, shared=True)
    _, (step,) = play(shared, laid_out(shared, NINE), (RIGHT, UP))
    assert step.reward.tolist() == [8, 8]
    assert shared.spec.teams == (0, 0)
    assert own.spec.teams == (0, 1)


def test_the_clock_cuts_off_and_kills_nobody():
    env = Grid(steps=2)
    _, (first, second) = play(env, compiled(env)[0](KEY)[0], (UP, UP), (UP, UP))
    assert (bool(first.truncated), bool(second.truncated)) == (False, True)
    assert second.alive.all()


def test_the_state_shows_values_and_places():
    env = Grid(size=3)
    _, (step,) = play(env, laid_out(env, NINE), (RIGHT, UP))
    values, rows, cols = np.split(np.asarray(step.state), [9, 15])
    np.testing.assert_allclose(values.reshape(3, 3) * 9, [[1, 0, 3], [4, 5, 0], [7, 8, 9]], atol=1e-6)
    assert rows.reshape(2, 3).tolist() == [[1, 0, 0], [0, 1, 0]]
    assert cols.reshape(2, 3).tolist() == [[0, 1, 0], [0, 0, 1]]


@pytest.mark.parametrize(("size", "agents", "sight"), [(2, 1, 1), (3, 4, 2), (4, 2, 1)])
def test_sight_is_what_a_slow_loop_sees(size, agents, sight):
    env = Grid(size=size, agents=agents, sight=sight)
    actions = np.random.default_rng(0).integers(0, 4, (8, agents))
    reset, step = compiled(env)
    state, _ = reset(KEY)
    for action in actions:
        state, said = step(state, action)
        place = list(zip(state.row.tolist(), state.col.tolist(), strict=True))
        around = range(-sight, sight + 1)
        for i, (r, c) in enumerate(place):
            cells = [(r + down, c + right) for down in around for right in around]
            inside = [0 <= y < size and 0 <= x < size for y, x in cells]
            values = [float(state.values[cell]) / 9 if fits else 0 for cell, fits in zip(cells, inside, strict=True)]
            others = [any(place[j] == cell for j in range(agents) if j != i) for cell in cells]
            np.testing.assert_allclose(said.obs[i], [r / (size - 1), c / (size - 1), *values, *others], atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**30))
def test_nothing_is_lost_and_nothing_appears(seed):
    env = Grid(size=3, agents=4, steps=8)
    state, _ = compiled(env)[0](jax.random.key(seed))
    actions = np.random.default_rng(seed).integers(0, 4, (8, 4))
    total = float(state.values.sum())
    state, steps = play(env, state, *actions)
    gathered = sum(float(step.reward.sum()) for step in steps)
    assert gathered + float(state.values.sum()) == pytest.approx(total, abs=1e-3)
    assert float(state.share) == pytest.approx(gathered / total, abs=1e-4)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**30))
def test_permuted_agents_are_paid_permuted(seed):
    order = np.array([1, 2, 0])
    place = ((0, 0), (1, 2), (2, 2))
    env, turned = Grid(size=3, agents=3, placement=place), Grid(size=3, agents=3, placement=[place[i] for i in order])
    actions = np.random.default_rng(seed).integers(0, 4, (5, 3))
    _, steps = play(env, compiled(env)[0](KEY)[0], *actions)
    _, turned_steps = play(turned, compiled(turned)[0](KEY)[0], *actions[:, order])
    for one, two in zip(steps, turned_steps, strict=True):
        np.testing.assert_array_equal(one.reward[order], two.reward)
        np.testing.assert_array_equal(one.obs[order], two.obs)


def test_regrowth_refills_empty_cells_as_often_as_it_says():
    """Sixteen grids of a hundred cells: one of as many takes a minute to compile."""
    env = Grid(size=10, regrowth=0.25, agents=1)
    step = jax.jit(jax.vmap(lambda state, key: env.step(state, np.array([UP]), key=key)[0]))
    empty = jax.tree.map(lambda leaf: np.stack([leaf] * 16), laid_out(env, np.zeros((10, 10))))
    state = step(empty, jax.random.split(KEY, 16))
    values = np.asarray(state.values)
    assert set(np.unique(values)) == set(range(10))
    assert (values > 0).mean() == pytest.approx(0.25, abs=0.04)
    assert values[values > 0].mean() == pytest.approx(5, abs=0.5)
    np.testing.assert_array_equal(state.total, values.sum((1, 2)))
    again = step(state, jax.random.split(jax.random.key(1), 16))
    kept = values > 0
    kept[:, 0, 0] = False  # where the agent stands
    assert (np.asarray(again.values) > 0).sum() > kept.sum()
    np.testing.assert_array_equal(np.asarray(again.values)[kept], values[kept])


def test_random_play_gathers_most_in_100_steps_and_two_thirds_in_25():
    env = Grid(steps=100)
    share = random_share(env, jnp.array([0, 4]))
    assert share[24] == pytest.approx(0.69, abs=0.01)
    assert share[99] == pytest.approx(0.97, abs=0.01)
    # The numbers tell where the agents start: in adjacent corners they gather less.
    assert random_share(env, jnp.array([4, 4]))[24] < 0.68


def test_agents_start_spread_along_the_border():
    assert border(5, 2) == ((0, 0), (4, 4))
    assert border(5, 4) == ((0, 0), (0, 4), (4, 4), (4, 0))
    assert len(set(border(4, 12))) == 12
    assert border(2, 1) == ((0, 0),)


def test_an_impossible_placement_is_refused():
    with pytest.raises(MarletError, match="names 1 cells, but there are 2 agents"):
        Grid(placement=((0, 0),))
    with pytest.raises(MarletError, match=r"placement holds \(0, 5\)"):
        Grid(placement=((0, 0), (0, 5)))


def test_options_are_hashable_and_comparable():
    assert hash(Grid(placement=[[0, 0], [1, 1]])) == hash(Grid(placement=((0, 0), (1, 1))))


@pytest.mark.parametrize("env", [Grid(size=3, steps=6), Grid(size=3, sight=1, agents=3, regrowth=0.2, steps=6)])
def test_grid_keeps_the_contract(env):
    assert check_env(env)


def test_compiled_and_not_are_the_same():
    env = Grid(size=3, regrowth=0.3)
    plain = env.step(laid_out(env, NINE), np.array([RIGHT, UP]), key=KEY)
    jitted = compiled(env)[1](laid_out(env, NINE), np.array([RIGHT, UP], np.int32))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), plain, jitted)


def test_the_picture_shows_agents_and_values():
    env = Grid()
    state = laid_out(env, np.full((5, 5), 7))
    frame = env.render(state)
    assert frame.dtype == np.uint8
    assert frame.shape == (240, 240, 3)
    moved = env.render(eqx.tree_at(lambda s: s.row, state, np.array([1, 4])))
    assert (frame[:48, :48] != moved[:48, :48]).any()
    assert (frame[96:] == moved[96:]).all()
    emptied = env.render(eqx.tree_at(lambda s: s.values, state, np.zeros((5, 5))))
    assert (emptied.mean((0, 1)) > frame.mean((0, 1))).all()


def test_golden_playthrough():
    actions = [[RIGHT, LEFT], [RIGHT, UP], [DOWN, UP], [DOWN, LEFT], [LEFT, LEFT], [UP, UP]]
    check_golden("grid", Grid(size=4, steps=6), actions)
    check_golden(
        "grid_sight", Grid(size=3, agents=3, sight=1, regrowth=0.1, shared=True, steps=2), [[1, 2, 0], [3, 2, 0]]
    )
