"""Independent and shared tables: one update by hand, ends and deaths, and what is learned how often."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from many_runs import acted, at, line, played, said, score, train, updated

from marlet.algorithms.tabular import TabularQ, boltzmann, hysteretic, shared_q, tabular_iql
from marlet.envs.base import Env, make_step
from marlet.envs.grid import Grid
from marlet.envs.matrix import Matrix
from marlet.envs.two_step import TwoStep
from marlet.errors import MarletError
from marlet.types import Spec

KEY = jax.random.key(0)
PLAIN = TabularQ()  # learning rate .1, discount .9

pytestmark = pytest.mark.rough


def test_one_update_by_hand():
    learned = PLAIN.init(line(2), key=KEY)
    learned = replace(learned, values=learned.values.at[0, 1].set(jnp.array([2.0, 5.0])))
    rollout = played(said(at(0, 3), actions=2), [[[1, 0]]], said(at(1, 2), actions=2, reward=jnp.array([1.0, -4.0])))
    values = updated(PLAIN, learned, rollout).values
    # Agent 0: .1 (1 + .9 * 5); agent 1: .1 (-4 + .9 * 0).
    expected = learned.values.at[0, 0, 1].set(0.55).at[1, 3, 0].set(-0.4)
    np.testing.assert_allclose(values, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("now", "next", "expected"),
    [
        ({}, {}, 0.1 * (1 + 0.9 * 5)),
        ({}, {"truncated": True}, 0.1 * (1 + 0.9 * 5)),
        ({}, {"alive": False}, 0.1 * 1),
        ({"alive": False}, {"alive": False}, 0.0),
        ({}, {"available": jnp.array([True, False])}, 0.1 * (1 + 0.9 * 2)),
    ],
    ids=["goes on", "cut off", "dies", "was dead", "best action illegal"],
)
def test_what_follows_an_end(now, next, expected):
    learned = PLAIN.init(line(1), key=KEY)
    learned = replace(learned, values=learned.values.at[0, 1].set(jnp.array([2.0, 5.0])))
    rollout = played(said(at(0), actions=2, **now), [[[0]]], said(at(1), actions=2, reward=1.0, **next))
    np.testing.assert_allclose(updated(PLAIN, learned, rollout).values[0, 0], [expected, 0], atol=1e-6)


def test_hysteretic_believes_bad_news_less():
    rule = hysteretic(learning_rate=0.1, negative_scale=0.1, initial_value=0.0)
    learned = rule.init(line(2), key=KEY)
    end = said(at(0, 0), actions=2, reward=jnp.array([10.0, -10.0]), alive=False)
    values = updated(rule, learned, played(said(at(0, 0), actions=2), [[[0, 0]]], end)).values
    np.testing.assert_allclose(values[:, 0, 0], [1.0, -0.1], atol=1e-6)


def test_who_uses_which_table():
    spec = line(3, kinds=(0, 1, 0))
    rollout = played(said(at(0, 1, 2), actions=2), [[[0, 0, 0]]], said(at(0, 0, 0), actions=2, reward=1.0, alive=False))
    for sharing, cells in {
        "shared": [(0, 0), (0, 1), (0, 2)],
        "own": [(0, 0), (1, 1), (2, 2)],
        "kinds": [(0, 0), (1, 1), (0, 2)],
    }.items():
        rule = replace(PLAIN, sharing=sharing)
        values = np.asarray(updated(rule, rule.init(spec, key=KEY), rollout).values[..., 0])
        assert values.shape[0] == max(table for table, _ in cells) + 1
        assert set(zip(*np.nonzero(values), strict=True)) == set(cells)


@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("sharing", ["own", "shared"])
def test_a_batch_equals_a_slow_loop(n, sharing):
    steps, batch, a, cells = 3, 4, 2, 4
    rule = replace(PLAIN, sharing=sharing, negative_scale=0.5, envs=batch, length=steps)
    rng = np.random.default_rng(n)
    learned = rule.init(line(n), key=KEY)
    learned = replace(learned, values=jnp.asarray(rng.normal(size=learned.values.shape), jnp.float32))
    here, there = (rng.integers(cells, size=(steps, batch, n)) for _ in range(2))
    action, reward = rng.integers(a, size=(steps, batch, n)), rng.normal(size=(steps, batch, n))
    alive, next_alive = rng.random((2, steps, batch, n)) < 0.8
    now = said(here[..., None] / 3, actions=a, alive=alive)
    next = said(there[..., None] / 3, actions=a, alive=next_alive, reward=reward)

    old = np.asarray(learned.values, np.float64)
    expected, visits = old.copy(), {}
    for t, b, i in np.ndindex(steps, batch, n):
        if alive[t, b, i]:
            table = 0 if sharing == "shared" else i
            follows = old[table, there[t, b, i]].max() if next_alive[t, b, i] else 0
            cell = (table, here[t, b, i], action[t, b, i])
            error = reward[t, b, i] + 0.9 * follows - old[cell]
            visits.setdefault(cell, []).append((error, 0.1 if error >= 0 else 0.05))
    for cell, met in visits.items():
        errors, rates = np.array(met).T
        expected[cell] += (1 - np.prod(1 - rates)) * (errors @ rates) / rates.sum()
    assert max(map(len, visits.values())) > 1, "some visits must meet"
    np.testing.assert_allclose(updated(rule, learned, played(now, action, next)).values, expected, atol=1e-5)


def test_illegal_actions_are_never_chosen():
    spec = line(2, a=3)
    step = said(jnp.zeros((500, 2, 1)), actions=3, available=jnp.array([[True, False, True], [False, True, True]]))
    for rule in (TabularQ(epsilon_start=1.0, epsilon_end=1.0), PLAIN, boltzmann()):
        learned = rule.init(spec, key=KEY)
        learned = replace(learned, values=learned.values.at[0, :, 1].set(99.0).at[1, :, 0].set(99.0))
        action = acted(rule, learned, step)
        assert set(np.unique(action[:, 0])) == {0, 2}, "ties and exploration reach every legal action"
        assert set(np.unique(action[:, 1])) == {1, 2}


def test_exploration_follows_its_schedule_and_greedy_play_has_none():
    rule = TabularQ(epsilon_start=1.0, epsilon_end=0.2, epsilon_steps=100)
    learned = rule.init(line(1), key=KEY)
    learned = replace(learned, values=learned.values.at[..., 1].set(1.0))
    step = said(jnp.zeros((20_000, 1, 1)), actions=2)
    for steps, share in ((0, 0.5), (50, 0.3), (100, 0.1), (1000, 0.1)):
        action = acted(rule, replace(learned, steps=jnp.array(steps)), step)
        assert (action == 0).mean() == pytest.approx(share, abs=0.02)
    assert (acted(rule, learned, step, greedy=True) == 1).all()


def test_boltzmann_cools():
    rule = boltzmann(initial_value=0.0, temperature_start=2.0, temperature_end=0.5, temperature_steps=100)
    learned = rule.init(line(1), key=KEY)
    learned = replace(learned, values=learned.values.at[..., 1].set(1.0))
    step = said(jnp.zeros((20_000, 1, 1)), actions=2)
    for steps, temperature in ((0, 2.0), (100, 0.5)):
        action = acted(rule, replace(learned, steps=jnp.array(steps)), step)
        assert action.mean() == pytest.approx(1 / (1 + np.exp(-1 / temperature)), abs=0.02)


def test_steps_are_counted_over_environments():
    rule = replace(PLAIN, envs=4, length=3)
    step = said(jnp.zeros((3, 4, 1, 1)), actions=2)
    learned = updated(rule, rule.init(line(1), key=KEY), played(step, np.zeros((3, 4, 1), int), step))
    assert learned.steps == 12


@dataclass(frozen=True)
class Endless(Env):
    """One cell, one useless choice, reward 1 for ever; a clock of ten steps shows or is watched only from outside."""

    dies: bool = False
    cells: int = 1

    @property
    def spec(self):
        return Spec(1, 2, (1,), 1, horizon=10, levels=(self.cells,))

    def reset(self, *, key):
        return jnp.zeros((), jnp.int32), self._say(jnp.zeros((), jnp.int32), 0.0)

    def step(self, state, action, *, key):
        return state + 1, self._say(state + 1, 1.0)

    def _say(self, time, reward):
        over = time >= 10
        return make_step(
            self.spec,
            obs=jnp.reshape(time / max(self.cells - 1, 1), (1, 1)),
            state=jnp.zeros(1),
            reward=jnp.full(1, reward),
            alive=~over[None] if self.dies else jnp.ones(1, bool),
            truncated=jnp.zeros((), bool) if self.dies else over,
        )


def test_a_cut_is_bootstrapped_through_and_a_death_is_not():
    rule = replace(PLAIN, learning_rate=0.5, epsilon_start=1.0, epsilon_end=1.0)
    endless = train(Endless(), rule, 1000, 1, key=KEY).values[0, 0, 0]
    np.testing.assert_allclose(endless, 10.0, atol=1e-3)
    # Negative control: were the cut taken for a death, a table that sees the clock would hold 1 + .9 + ... + .9^9.
    dying = train(Endless(dies=True, cells=11), rule, 1000, 1, key=KEY).values[0, 0, 0]
    np.testing.assert_allclose(dying, 6.5132, atol=1e-3)


def test_climbing_and_penalty_games_are_missed_alone_and_hysteresis_helps():
    runs = 100
    neutral = {"learning_rate": 0.1, "initial_value": 0.0, "epsilon_start": 1.0}
    settings = {
        "alone": {**neutral, "negative_scale": 1.0},
        "hysteretic": {**neutral, "negative_scale": 0.1},
        "boltzmann": {"learning_rate": 0.1, "initial_value": 0.0, "epsilon_start": 0.0, "temperature_start": 5.0},
    }
    default = {"negative_scale": 1.0, "temperature_start": 0.0, "temperature_end": 0.0, "epsilon_end": 0.0}
    settings["boltzmann"]["temperature_end"] = 0.1
    options = {
        name: jnp.repeat(jnp.array([(default | variant)[name] for variant in settings.values()]), runs)
        for name in ("learning_rate", "initial_value", "epsilon_start", *default)
    }
    rule = TabularQ(epsilon_steps=2000, temperature_steps=2000)
    found, paid = {}, {}
    for game, best in (("climbing", 11), ("penalty", 10)):
        env = Matrix(game=game)
        learned = train(env, rule, 2500, runs * len(settings), key=KEY, options=options)
        scores = np.asarray(score(env, PLAIN, learned, key=KEY)).reshape(len(settings), runs)
        for name, row in zip(settings, scores, strict=True):
            found[game, name], paid[game, name] = (row == best).mean(), row.mean()
    assert found["climbing", "alone"] < 0.1
    assert found["penalty", "alone"] < 0.1
    assert found["climbing", "hysteretic"] > 0.5
    assert found["penalty", "hysteretic"] > 0.5
    for game in ("climbing", "penalty"):
        assert found[game, "alone"] < found[game, "boltzmann"] < found[game, "hysteretic"]
    assert paid["climbing", "alone"] + 0.5 < paid["climbing", "boltzmann"] < paid["climbing", "hysteretic"]


@pytest.mark.parametrize("rule", [tabular_iql(), hysteretic()])
def test_prisoners_defect(rule):
    env = Matrix(game="prisoners_dilemma")
    learned = train(env, rule, 2000, 30, key=KEY)
    scores = np.asarray(score(env, rule, learned, key=KEY))
    assert (scores == 1).mean() > 0.9  # 3 if both cooperated, 2.5 if one did


def test_two_step_game_pays_seven_to_those_who_learn_alone():
    rule = TabularQ(discount=0.99, learning_rate=0.03, epsilon_start=1.0, epsilon_end=1.0)
    learned = train(TwoStep(), rule, 4000, 30, key=KEY)
    scores = np.asarray(score(TwoStep(), rule, learned, steps=2, key=KEY))
    np.testing.assert_allclose(scores, 7.0)


def test_refusals_name_the_cure():
    with pytest.raises(MarletError, match=r"cannot be counted.*deep iql"):
        PLAIN.check(Spec(1, 2, (3,), 1))
    with pytest.raises(MarletError, match="continuous"):
        PLAIN.check(Spec(1, 2, (1,), 1, continuous=True, levels=(3,)))
    with pytest.raises(MarletError, match=r"table of [\d,]+ numbers for 2 agents.*--env.sight 0"):
        PLAIN.check(Grid(sight=2).spec)
    with pytest.raises(MarletError, match="learning_rate"):
        tabular_iql(lerning_rate=0.1)
    with pytest.raises(MarletError, match="from 0"):
        tabular_iql(discount=1.5)
    for rule in (shared_q(), tabular_iql(), hysteretic(), boltzmann()):
        rule.check(Grid().spec)


def gathered(env, rule, episodes, seeds=12):
    """The share of everything that greedy play collects, the median over seeds."""
    learned = train(env, rule, episodes * env.steps, seeds, key=KEY)
    paid = score(env, rule, learned, envs=200, steps=env.steps, key=jax.random.key(1))
    everything = 4.5 * env.size**2 / (1 if env.shared else env.agents)
    return float(np.median(paid) / everything)


@pytest.mark.learn
@pytest.mark.parametrize(
    ("rule", "episodes"),
    [(shared_q(), 4000), (tabular_iql(), 2000), (hysteretic(), 4000), (boltzmann(), 2000)],
    ids=lambda part: getattr(part, "name", None),
)
def test_grid_is_gathered_better_than_at_random(rule, episodes):
    idle = gathered(Grid(), replace(rule, learning_rate=0.0, epsilon_end=1.0), 1)
    assert idle < 0.72, "what is not learned gathers .69"
    assert gathered(Grid(), rule, episodes) > 0.79
