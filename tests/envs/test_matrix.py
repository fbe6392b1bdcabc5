"""Matrix games: their tables, their equilibria, and tables of one's own."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from playthrough import check_golden

from marlet.envs.matrix import GAMES, Matrix
from marlet.errors import MarletError
from marlet.testing import check_env

pytestmark = pytest.mark.rough

KEY = jax.random.key(0)


def pay(env: Matrix, *action: int) -> list[float]:
    return env.step(env.reset(key=KEY)[0], jnp.array(action), key=KEY)[1].reward.tolist()


def pure_equilibria(table: np.ndarray) -> set[tuple[int, ...]]:
    """The joint actions from which no agent gains by choosing another action alone."""
    best = np.all([own == own.max(i, keepdims=True) for i, own in enumerate(table)], 0)
    return set(map(tuple, np.argwhere(best).tolist()))


def test_the_named_tables():
    dilemma = Matrix(game="prisoners_dilemma")
    assert [pay(dilemma, *joint) for joint in itertools.product(range(2), repeat=2)] == [[3, 3], [0, 5], [5, 0], [1, 1]]
    assert pay(Matrix(game="stag_hunt"), 0, 1) == [0, 3]
    assert pay(Matrix(game="matching_pennies"), 0, 1) == [-1, 1]
    assert pay(Matrix(game="rock_paper_scissors"), 0, 2) == [1, -1]
    assert Matrix(game="climbing").table[0].tolist() == [[11, -30, 0], [-30, 7, 6], [0, 0, 5]]
    assert Matrix(game="penalty").table[1].tolist() == [[10, 0, -100], [0, 2, 0], [-100, 0, 10]]
    assert Matrix(game="penalty", penalty=-30).table[1].tolist() == [[10, 0, -30], [0, 2, 0], [-30, 0, 10]]
    assert Matrix(game="qtran").table[0].tolist() == [[8, -12, -12], [-12, 0, 0], [-12, 0, 0]]


@pytest.mark.parametrize(
    ("game", "equilibria"),
    [
        ("prisoners_dilemma", {(1, 1)}),
        ("stag_hunt", {(0, 0), (1, 1)}),
        ("battle_of_sexes", {(0, 0), (1, 1)}),
        ("chicken", {(0, 1), (1, 0)}),
        ("matching_pennies", set()),
        ("rock_paper_scissors", set()),
        ("climbing", {(0, 0), (1, 1)}),
        ("penalty", {(0, 0), (1, 1), (2, 2)}),
        ("qtran", {(0, 0), (1, 1), (1, 2), (2, 1), (2, 2)}),
    ],
)
def test_pure_equilibria_are_the_known_ones(game, equilibria):
    assert pure_equilibria(Matrix(game=game).table) == equilibria


@pytest.mark.parametrize("game", ["matching_pennies", "rock_paper_scissors"])
def test_the_uniform_choice_is_the_equilibrium_of_the_zero_sum_games(game):
    table = Matrix(game=game).table
    assert (table.sum(0) == 0).all()
    assert (table[0].mean(1) == 0).all()
    assert (table[1].mean(0) == 0).all()


@pytest.mark.parametrize("game", GAMES)
def test_teams_follow_from_the_payoffs(game):
    one_team = game in ("climbing", "penalty", "qtran")
    assert Matrix(game=game).spec.teams == ((0, 0) if one_team else (0, 1))


@settings(max_examples=12, deadline=None)
@given(
    hnp.arrays(np.float32, st.tuples(*[st.integers(1, 3)] * 3), elements=st.integers(-9, 9)),
    st.integers(0, 2**30),
)
def test_any_table_pays_what_it_says(own, seed):
    for payoff in (np.stack([own, -own, 2 * own]), *([own] if own.shape[0] != 2 else [])):
        env = Matrix(payoff=payoff)
        table = payoff if payoff.ndim == 4 else np.stack([own] * 3)
        action = np.random.default_rng(seed).integers(0, own.shape)
        assert pay(env, *action) == table[(slice(None), *action)].tolist()


def test_unequal_choices_are_masked():
    env = Matrix(payoff=[[1, 2, 3], [4, 5, 6]])
    _, step = env.reset(key=KEY)
    assert step.available.tolist() == [[True, True, False], [True, True, True]]
    assert env.spec.kinds == (0, 1)
    assert pay(env, 1, 2) == [6, 6]


def test_two_of_three_agents_may_be_one_team():
    own = np.arange(8).reshape(2, 2, 2)
    assert Matrix(payoff=np.stack([own, own, -own])).spec.teams == (0, 0, 1)
    assert Matrix(payoff=np.stack([own, own, own])).spec.teams == (0, 0, 0)
    assert Matrix(payoff=own).spec.num_agents == 2  # the documented reading of a table that fits both
    assert Matrix(payoff=[3, 1, 4]).spec.num_agents == 1


@pytest.mark.parametrize("rounds", [1, 3])
def test_the_game_ends_by_death_after_its_rounds(rounds):
    env = Matrix(game="climbing", rounds=rounds)
    state, step = env.reset(key=KEY)
    for t in range(rounds):
        assert step.alive.all()
        state, step = env.step(state, jnp.array([0, 0]), key=KEY)
        assert step.reward.tolist() == [11, 11]
        assert bool(step.over) == (t == rounds - 1)
    assert not step.truncated
    assert step.available.all()
    assert env.step(state, jnp.array([0, 0]), key=KEY)[1].reward.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("payoff", "complaint"),
    [
        ([[1, 2], [3]], "rows differ in length"),
        ([["a", "b"]], "rows differ in length or hold something else"),
        ([[1, float("nan")], [0, 0]], "not finite"),
        ([[], []], "axis of choices"),
        (3.0, "axis of choices"),
    ],
)
def test_a_bad_table_is_refused(payoff, complaint):
    with pytest.raises(MarletError, match=complaint):
        Matrix(payoff=payoff)


def test_a_misspelt_game_is_answered_with_the_nearest():
    with pytest.raises(MarletError, match="Did you mean 'climbing'"):
        Matrix(game="climbin")


def test_options_are_hashable_and_comparable():
    assert hash(Matrix(payoff=np.eye(2))) == hash(Matrix(payoff=[[1, 0], [0, 1]]))
    assert Matrix(payoff=np.eye(2)) == Matrix(payoff=[[1, 0], [0, 1]])


@pytest.mark.parametrize("env", [Matrix(rounds=3), Matrix(game="penalty"), Matrix(payoff=[[1, 2, 3], [4, 5, 6]])])
def test_matrix_keeps_the_contract(env):
    assert check_env(env)


def test_compiled_and_not_are_the_same():
    env = Matrix(game="chicken")
    state, _ = env.reset(key=KEY)
    action = jnp.array([0, 1])
    jitted = jax.jit(lambda s, a: env.step(s, a, key=KEY))(state, action)
    jax.tree.map(np.testing.assert_array_equal, jitted, env.step(state, action, key=KEY))


def test_golden_playthrough():
    check_golden("matrix", Matrix(game="prisoners_dilemma", rounds=2), [[0, 1], [1, 1]])
    check_golden("matrix_penalty", Matrix(game="penalty"), [[2, 0]])


def test_players_remember_each_from_its_own_side():
    """Two rounds of the prisoner's dilemma: (cooperate, defect), then (defect, defect)."""
    env = Matrix(game="prisoners_dilemma", rounds=5, memory=2)
    assert env.spec.obs_shape == (5,)
    assert env.spec.levels == (1, 3, 3, 3, 3)
    state, opening = env.reset(key=jax.random.key(0))
    np.testing.assert_array_equal(opening.obs, [[1, 0, 0, 0, 0]] * 2)
    for action in ([0, 1], [1, 1]):
        state, said = env.step(state, jnp.array(action), key=jax.random.key(0))
    np.testing.assert_allclose(said.obs, [[1, 1, 1, 0.5, 1], [1, 1, 1, 1, 0.5]])
    np.testing.assert_array_equal(said.state, said.obs[0])
    check_env(Matrix(game="rock_paper_scissors", rounds=3, memory=3), episodes=1)


def test_tit_for_tat_loses_one_round_to_a_defector_and_cooperates_with_itself():
    env = Matrix(game="prisoners_dilemma", rounds=10, memory=1)

    def tit_for_tat(obs):
        return int(obs[2] == 1.0)  # what the other did last: (1 + 1) / 2 is defecting

    def paid(first, second):
        state, said = env.reset(key=jax.random.key(0))
        total = np.zeros(2)
        while said.alive.all():
            action = jnp.array([first(said.obs[0]), second(said.obs[1])])
            state, said = env.step(state, action, key=jax.random.key(0))
            total += said.reward
        return tuple(total)

    assert paid(tit_for_tat, lambda obs: 1) == (9.0, 5.0 + 9.0)
    assert paid(tit_for_tat, tit_for_tat) == (30.0, 30.0)


def test_an_endless_game_is_cut_off_and_not_ended():
    env = Matrix(game="stag_hunt", rounds=2, endless=True)
    state, _ = env.reset(key=jax.random.key(0))
    for k in range(2):
        state, said = env.step(state, jnp.zeros(2, jnp.int32), key=jax.random.key(0))
        assert bool(said.truncated) == (k == 1)
        assert said.alive.all()
        np.testing.assert_array_equal(said.reward, 4)
    check_env(env, episodes=1)
