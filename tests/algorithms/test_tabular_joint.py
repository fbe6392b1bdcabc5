"""Tables of joint actions: numbering, partner models, updates by hand, and who finds the optimum of the climbing game."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from many_runs import acted, at, line, played, said, score, train, updated

from marlet.algorithms.tabular_joint import (
    CentralQ,
    JointActionLearner,
    all_available,
    central_q,
    choices_in,
    jal,
    joint_of,
    worth,
)
from marlet.envs.grid import Grid
from marlet.envs.matrix import Matrix
from marlet.errors import MarletError
from marlet.types import Spec

KEY = jax.random.key(0)

pytestmark = pytest.mark.rough


@pytest.mark.parametrize(("n", "a"), [(1, 3), (2, 3), (5, 2)])
def test_joint_actions_are_numbered_and_named_alike(n, a):
    np.testing.assert_array_equal(joint_of(choices_in(n, a).T, a), np.arange(a**n))


def test_a_joint_action_is_legal_if_everyones_part_is():
    available = jnp.array([[True, False, True], [False, True, True]])
    expected = np.outer(available[0], available[1]).ravel()
    np.testing.assert_array_equal(all_available(available), expected)


@pytest.mark.parametrize(
    ("next", "expected"),
    [
        ({}, 0.1 * (2 + 0.9 * 7)),
        ({"truncated": True}, 0.1 * (2 + 0.9 * 7)),
        ({"alive": jnp.array([True, False])}, 0.1 * (2 + 0.9 * 7)),
        ({"alive": False}, 0.1 * 2),
        ({"available": jnp.array([[True, True], [True, False]])}, 0.1 * (2 + 0.9 * 4)),
    ],
    ids=["goes on", "cut off", "one dies", "all die", "best joint action illegal"],
)
def test_central_update_by_hand(next, expected):
    rule = CentralQ()
    learned = rule.init(line(2), key=KEY)
    after = 1 * 4 + 2  # the agents arrive in cells 1 and 2
    learned = replace(learned, values=learned.values.at[0, after].set(jnp.array([1.0, 3.0, 4.0, 7.0])))
    end = said(at(1, 2), actions=2, reward=jnp.array([1.0, 3.0]), **next)
    values = updated(rule, learned, played(said(at(3, 0), actions=2), [[[1, 0]]], end)).values
    np.testing.assert_allclose(values, learned.values.at[0, 3 * 4, 2].set(expected), atol=1e-6)


def test_partner_models_are_frequencies():
    rule = JointActionLearner()
    learned = rule.init(line(2), key=KEY)
    step = said(jnp.zeros((3, 1, 2, 1)), actions=2)
    learned = updated(rule, learned, played(step, [[[0, 1]], [[0, 1]], [[1, 1]]], step))
    np.testing.assert_array_equal(learned.seen[0, 0], [[3, 2], [1, 4]])  # each began at one
    np.testing.assert_array_equal(learned.seen[1, 0], [[3, 2], [1, 4]])
    np.testing.assert_array_equal(learned.seen[0, 1], np.ones((2, 2)))


def test_worth_is_the_mean_over_partners():
    rule = JointActionLearner()
    learned = rule.init(line(3), key=KEY)
    rng = np.random.default_rng(0)
    values = rng.normal(size=learned.values.shape)
    seen = rng.integers(1, 9, size=learned.seen.shape).astype(float)
    learned = replace(learned, values=jnp.asarray(values, jnp.float32), seen=jnp.asarray(seen, jnp.float32))
    cells = (2, 0, 3)
    result = np.asarray(worth(learned, said(at(*cells), actions=2)))[0, 0]
    for i, cell in enumerate(cells):
        joint = values[i, cell].reshape(2, 2, 2)
        chance = seen[i, cell] / seen[i, cell].sum(-1, keepdims=True)
        for own in range(2):
            expected = 0.0
            for others in np.ndindex(2, 2):
                action = list(others)
                action.insert(i, own)
                partners = [j for j in range(3) if j != i]
                expected += joint[tuple(action)] * np.prod([chance[j, action[j]] for j in partners])
            np.testing.assert_allclose(result[i, own], expected, atol=1e-5)


def test_actions_of_equal_worth_are_preferred_alike():
    """Before anything is learned, and whatever the partners do: rounding decides nothing."""
    learned = JointActionLearner(initial_value=20.0).init(line(3, a=3), key=KEY)
    learned = replace(learned, seen=jax.random.randint(KEY, learned.seen.shape, 1, 50).astype(jnp.float32))
    step = said(jax.random.randint(KEY, (7, 4, 3, 1), 0, 4) / 3, actions=3)
    np.testing.assert_array_equal(np.ptp(worth(learned, step), axis=-1), 0.0)


def test_partners_are_not_expected_to_do_what_is_illegal():
    learned = JointActionLearner().init(line(2), key=KEY)
    learned = replace(learned, values=learned.values.at[0, 0].set(jnp.array([0.0, 8.0, 2.0, 8.0])))
    step = said(at(0, 0), actions=2, available=jnp.array([[True, True], [True, False]]))
    np.testing.assert_allclose(worth(learned, step)[0, 0, 0], [0, 2], atol=1e-6)
    np.testing.assert_allclose(worth(learned, said(at(0, 0), actions=2))[0, 0, 0], [4, 5], atol=1e-6)


@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("rule", [CentralQ(envs=4, length=3), JointActionLearner(envs=4, length=3)])
def test_any_number_of_agents_environments_and_steps(n, rule):
    learned = rule.init(line(n), key=KEY)
    step = said(jnp.zeros((4, n, 1)), actions=2, available=jnp.array([False, True]))
    action = acted(rule, learned, step)
    np.testing.assert_array_equal(action, np.ones((4, n)))
    steps = said(jnp.zeros((3, 4, n, 1)), actions=2, reward=1.0, alive=False)
    now = said(jnp.zeros((3, 4, n, 1)), actions=2)
    learned = updated(rule, learned, played(now, np.ones((3, 4, n), int), steps))
    touched = rule.tables(learned)[:, 0, -1]  # everyone plays 1 in entry 0: twelve visits
    np.testing.assert_allclose(touched, np.full(touched.shape, 1 - 0.9**12), rtol=1e-5)
    assert learned.steps == 12


@pytest.mark.parametrize(("game", "best"), [("climbing", 11), ("penalty", 10)])
def test_only_the_central_learner_finds_the_best(game, best):
    env, found = Matrix(game=game), {}
    neutral = {"initial_value": 0.0, "epsilon_start": 1.0, "epsilon_end": 0.02, "epsilon_steps": 1000}
    for rule in (CentralQ(**neutral), JointActionLearner(**neutral)):
        learned = train(env, rule, 1500, 100, key=KEY)
        found[type(rule)] = (np.asarray(score(env, rule, learned, key=KEY)) == best).mean()
    assert found[CentralQ] > 0.99
    assert found[JointActionLearner] < 0.1


@pytest.mark.learn
def test_a_central_learner_gathers_the_shared_grid():
    env = Grid(shared=True)
    learned = train(env, central_q(), 2000 * env.steps, 12, key=KEY)
    paid = score(env, central_q(), learned, envs=200, steps=env.steps, key=KEY)
    assert np.median(paid) / (4.5 * env.size**2) > 0.79


def test_refusals_name_the_cure():
    with pytest.raises(MarletError, match=r"one team.*2 teams.*tabular_iql"):
        central_q().check(Grid().spec)
    with pytest.raises(MarletError, match=r"table of 10,000,000,000 numbers"):
        central_q().check(Grid(shared=True, agents=5).spec)
    with pytest.raises(MarletError, match="cannot be counted"):
        jal().check(Spec(2, 2, (3,), 1))
    with pytest.raises(MarletError, match="discount"):
        jal(discont=0.5)
    central_q().check(Grid(shared=True).spec)
    jal().check(Grid().spec)
