"""Mixed strategies from tables: one climb by hand, matching pennies, and rock-paper-scissors against the worst."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from many_runs import acted, line, played, said, train, updated

from marlet.algorithms.tabular import TabularQ
from marlet.algorithms.tabular_mixed import PolicyClimbing, climbed, minimax_q, phc, wolf_phc
from marlet.envs.grid import Grid
from marlet.envs.matrix import Matrix
from marlet.equations.games import exploitability
from marlet.errors import MarletError

KEY = jax.random.key(0)

pytestmark = pytest.mark.rough


def climb(values, policy, average, *, visits=1.0, total=1.0, legal=None):
    """The policy after so many visits of one entry, with rates .1 winning and .2 losing."""
    row = lambda x: jnp.array([x], jnp.float32)  # noqa: E731
    legal = jnp.ones((1, len(values)), bool) if legal is None else jnp.array([legal])
    new, _, _ = climbed(
        row(values),
        row(policy),
        row(average),
        jnp.array([total]),
        legal=legal,
        visits=jnp.array([visits]),
        win_rate=0.1,
        lose_rate=0.2,
    )
    return np.asarray(new[0])


def test_one_climb_by_hand():
    # Worth .6, and its average (after this visit) .55: it wins and moves by .1.
    np.testing.assert_allclose(climb([0, 1], [0.4, 0.6], [0.5, 0.5]), [0.3, 0.7], atol=1e-6)
    # Worth .4 against .45: it loses and moves by .2.
    np.testing.assert_allclose(climb([0, 1], [0.6, 0.4], [0.5, 0.5]), [0.4, 0.6], atol=1e-6)
    # Three actions share the step, none falls below zero, and the best gets what was taken.
    np.testing.assert_allclose(climb([0, 0, 1], [0.05, 0.65, 0.3], [0, 0, 1]), [0, 0.55, 0.45], atol=1e-6)
    # Illegal actions are no part of it.
    np.testing.assert_allclose(
        climb([0, 1, 9], [0.6, 0.4, 0], [0, 1, 0], legal=[True, True, False]), [0.4, 0.6, 0], atol=1e-6
    )
    # Three visits are three steps.
    np.testing.assert_allclose(climb([0, 1], [0.9, 0.1], [0, 1], visits=3.0), [0.3, 0.7], atol=1e-6)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_climbing_with_any_number_of_agents_environments_and_steps(n):
    rule = wolf_phc(envs=4, length=3)
    learned = rule.init(line(n, a=3), key=KEY)
    rng = np.random.default_rng(n)
    now, next = (
        said(rng.integers(4, size=(3, 4, n, 1)) / 3, actions=3, reward=rng.normal(size=(3, 4, n))) for _ in range(2)
    )
    for _ in range(3):
        learned = updated(rule, learned, played(now, rng.integers(3, size=(3, 4, n)), next))
    np.testing.assert_allclose(learned.policy.sum(-1), 1, atol=1e-5)
    assert (learned.policy >= 0).all()
    assert learned.visits.sum() == 3 * 3 * 4 * n


@pytest.mark.parametrize("rule", [wolf_phc(), minimax_q()])
def test_the_dead_change_nothing(rule):
    learned = rule.init(line(2, teams=(0, 1)), key=KEY)
    dead = said(jnp.zeros((1, 1, 2, 1)), actions=2, alive=False, reward=5.0)
    after = updated(rule, learned, played(dead, [[[0, 1]]], dead))
    for old, new in zip(
        jax.tree.leaves(replace(learned, steps=1)), jax.tree.leaves(replace(after, steps=1)), strict=True
    ):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("rule", [wolf_phc(), minimax_q()])
def test_illegal_actions_are_never_chosen(rule):
    learned = rule.init(line(2, a=3, teams=(0, 1)), key=KEY)
    step = said(jnp.zeros((300, 2, 1)), actions=3, available=jnp.array([[True, False, True], [False, True, True]]))
    action = acted(rule, learned, step)
    assert set(np.unique(action[:, 0])) == {0, 2}
    assert set(np.unique(action[:, 1])) == {1, 2}


def test_winning_slowly_converges_where_climbing_circles():
    runs, env, spread = 50, Matrix(game="matching_pennies"), {}
    rates = {"wolf": (0.001, 0.004), "phc": (0.004, 0.004)}
    options = {
        name: jnp.repeat(jnp.array([pair[k] for pair in rates.values()]), runs)
        for k, name in enumerate(("win_rate", "lose_rate"))
    }
    learned = train(env, PolicyClimbing(), 20_000, 2 * runs, key=KEY, options=options)
    away = np.abs(np.asarray(learned.policy)[:, :, 0, 0] - 0.5).mean(-1).reshape(2, runs)
    spread = dict(zip(rates, np.sqrt((away**2).mean(-1)), strict=True))
    assert spread["wolf"] < 0.12
    assert spread["phc"] > 2 * spread["wolf"]


def test_minimax_survives_its_worst_opponent_and_q_learning_does_not():
    env, runs = Matrix(game="rock_paper_scissors"), 20
    payoff = jnp.asarray(env.table[0])
    safe = train(env, minimax_q(epsilon_start=0.3, epsilon_end=0.3), 1000, runs, key=KEY)
    loss = jax.vmap(lambda policy: exploitability(payoff, policy))(safe.policy[:, 0, 0])
    assert loss.max() < 0.05
    np.testing.assert_allclose(safe.value, 0, atol=0.05)
    greedy = train(env, TabularQ(), 1000, runs, key=KEY)
    pure = jax.nn.one_hot(greedy.values[:, 0, 0].argmax(-1), 3)
    loss = jax.vmap(lambda policy: exploitability(payoff, policy))(pure)
    assert loss.min() > 0.99, "a pure strategy loses everything to who knows it"


def test_minimax_update_by_hand():
    rule = minimax_q(learning_rate=0.5)
    learned = rule.init(line(2, teams=(0, 1)), key=KEY)
    learned = replace(learned, value=learned.value.at[0, 1].set(4.0).at[1, 1].set(-4.0))
    now, next = (
        said(jnp.zeros((1, 1, 2, 1)), actions=2),
        said(jnp.full((1, 1, 2, 1), 1 / 3), actions=2, reward=jnp.array([1.0, -1.0])),
    )
    after = updated(rule, learned, played(now, [[[0, 1]]], next))
    # .5 (1 + .9 * 4) in (own 0, other 1) of the first agent, its mirror image in the second's.
    np.testing.assert_allclose(after.values[0, 0], [[0, 2.3], [0, 0]], atol=1e-6)
    np.testing.assert_allclose(after.values[1, 0], [[0, 0], [-2.3, 0]], atol=1e-6)
    np.testing.assert_allclose(after.policy[1, 0], [1, 0], atol=1e-6)
    np.testing.assert_allclose(after.value[:, 0], 0, atol=1e-6)


def test_refusals_name_the_cure():
    with pytest.raises(MarletError, match=r"3 agents in 3 team\(s\)\. Use it in a game of two players"):
        minimax_q().check(Grid(agents=3).spec)
    with pytest.raises(MarletError, match=r"1 team\(s\)"):
        minimax_q().check(Grid(shared=True).spec)
    with pytest.raises(MarletError, match="win_rate"):
        wolf_phc(win_rat=0.1)
    for rule in (minimax_q(), wolf_phc(), phc()):
        rule.check(Matrix(game="matching_pennies").spec)
