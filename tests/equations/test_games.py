"""Zero-sum games against a linear programming library, and what deviating gains."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import linprog

from marlet.equations.games import exploitability, nash_conv, zero_sum

pytestmark = pytest.mark.rough

ROCK_PAPER_SCISSORS = np.array([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]])
MOST = 6
solve = jax.jit(zero_sum)


def by_linear_program(payoff):
    """The game's value, by another method and in double precision."""
    a, b = payoff.shape
    program = linprog(
        np.append(np.zeros(a), -1.0),
        A_ub=np.c_[-payoff.T, np.ones(b)],
        b_ub=np.zeros(b),
        A_eq=np.append(np.ones(a), 0.0)[None],
        b_eq=[1.0],
        bounds=[(0, None)] * a + [(None, None)],
    )
    return -program.fun


whole = st.integers(-4, 4).map(float)
real = st.floats(-100, 100, width=32)
games = st.tuples(st.integers(1, MOST), st.integers(1, MOST)).flatmap(
    lambda shape: st.one_of(arrays(np.float64, shape, elements=whole), arrays(np.float64, shape, elements=real))
)


def padded(payoff):
    """The game inside one of fixed shape, so that everything is compiled once; the masks leave the padding out."""
    a, b = payoff.shape
    wide = np.full((MOST, MOST), 1e6, np.float32)
    wide[:a, :b] = payoff
    return wide, np.arange(MOST) < a, np.arange(MOST) < b


@given(games)
@settings(max_examples=200, deadline=None)
def test_value_and_strategy_are_those_of_the_linear_program(payoff):
    value, strategy = solve(*padded(payoff))
    scale = max(np.ptp(payoff), 1e-3 * np.abs(payoff).max(), 1e-6)
    expected = by_linear_program(payoff)
    assert abs(value - expected) < 1e-4 * scale
    strategy = np.asarray(strategy)
    assert strategy.sum() == pytest.approx(1, abs=1e-4)
    assert (strategy >= 0).all()
    assert strategy[len(payoff) :].sum() == 0, "illegal actions are never played"
    assert (strategy[: len(payoff)] @ payoff).min() > expected - 1e-4 * scale


def test_known_games():
    value, strategy = solve(jnp.array(ROCK_PAPER_SCISSORS))
    np.testing.assert_allclose(value, 0, atol=1e-6)
    np.testing.assert_allclose(strategy, np.full(3, 1 / 3), atol=1e-6)
    # Mixed 2 x 2: the value is (ad - bc) / (a + d - b - c) = 3.5 / 4, the strategy (d - c) / (a + d - b - c).
    value, strategy = solve(jnp.array([[2.0, 0.5], [0.5, 1.0]]))
    np.testing.assert_allclose(value, 1.75 / 2, atol=1e-6)
    np.testing.assert_allclose(strategy, [0.25, 0.75], atol=1e-6)
    value, strategy = solve(jnp.array([[3.0, 1.0], [5.0, 2.0]]))  # a saddle point
    np.testing.assert_allclose(value, 2, atol=1e-6)
    np.testing.assert_allclose(strategy, [0, 1], atol=1e-6)
    value, strategy = solve(jnp.full((3, 2), 7.0))
    np.testing.assert_allclose(value, 7, atol=1e-6)


def test_illegal_actions_change_the_game():
    without_paper = jnp.array([True, False, True])
    value, strategy = solve(jnp.array(ROCK_PAPER_SCISSORS), rows=without_paper)
    # Left with rock and scissors against everything: (2/3, 1/3) loses 1/3.
    np.testing.assert_allclose(value, -1 / 3, atol=1e-6)
    np.testing.assert_allclose(strategy, [2 / 3, 0, 1 / 3], atol=1e-6)
    value, _ = solve(jnp.array(ROCK_PAPER_SCISSORS), columns=without_paper)
    np.testing.assert_allclose(value, 1 / 3, atol=1e-6)


def test_many_games_at_once_are_solved_as_one_by_one():
    many = np.random.default_rng(0).normal(size=(50, 4, 3)).astype(np.float32)
    values, strategies = jax.jit(jax.vmap(zero_sum))(many)
    for game, value, strategy in zip(many, values, strategies, strict=True):
        one_value, one_strategy = solve(game)
        np.testing.assert_allclose(value, one_value, atol=1e-5)
        np.testing.assert_allclose(strategy, one_strategy, atol=1e-5)


@pytest.mark.parametrize("noise", [1e-6, 1e-5, 1e-4])
def test_games_that_are_almost_degenerate_are_solved_from_both_sides(noise):
    """Tables that have nearly settled: few different payoffs, and rounding errors on them. What the rows are sure of is all
    that the columns cannot help giving."""
    rng = np.random.default_rng(0)
    many = rng.integers(-2, 3, (4000, 5, 5)) + noise * rng.normal(size=(4000, 5, 5))
    both = jax.jit(jax.vmap(zero_sum))
    _, rows = both(jnp.array(many, jnp.float32))
    _, columns = both(jnp.array(-many.swapaxes(1, 2), jnp.float32))
    sure = np.einsum("ka,kab->kb", rows, many).min(1)
    given_up = np.einsum("kb,kab->ka", columns, many).max(1)
    assert np.isfinite(sure).all()
    assert (given_up - sure).max() < 0.01


def test_nash_conv_of_rock_paper_scissors():
    payoffs = jnp.stack([ROCK_PAPER_SCISSORS, -ROCK_PAPER_SCISSORS])
    even, rock = jnp.full(3, 1 / 3), jnp.array([1.0, 0, 0])
    np.testing.assert_allclose(nash_conv(payoffs, (even, even)), 0, atol=1e-6)
    np.testing.assert_allclose(nash_conv(payoffs, (rock, rock)), 2, atol=1e-6)
    np.testing.assert_allclose(exploitability(payoffs[0], even), 0, atol=1e-6)
    np.testing.assert_allclose(exploitability(payoffs[0], rock), 1, atol=1e-6)


def test_nash_conv_of_general_games():
    dilemma = jnp.array([[[3.0, 0], [5, 1]], [[3, 5], [0, 1]]])
    cooperate, defect = jnp.array([1.0, 0]), jnp.array([0, 1.0])
    np.testing.assert_allclose(nash_conv(dilemma, (defect, defect)), 0)
    np.testing.assert_allclose(nash_conv(dilemma, (cooperate, cooperate)), 4)  # each would gain 2
    np.testing.assert_allclose(nash_conv(dilemma, (cooperate, defect)), 1)  # the first would gain 1


@given(arrays(np.float64, (2, 3, 4), elements=whole), st.integers(0, 2**31))
@settings(max_examples=50, deadline=None)
def test_nash_conv_is_never_negative(payoffs, seed):
    first, second = (np.random.default_rng(seed + k).dirichlet(np.ones(size)) for k, size in enumerate((3, 4)))
    assert nash_conv(jnp.asarray(payoffs), (jnp.asarray(first), jnp.asarray(second))) > -1e-5
