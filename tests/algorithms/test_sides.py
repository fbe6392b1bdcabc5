"""Sides: who decides for whom, who learns from what, past selves, frozen policies, and what is refused."""

import dataclasses
import json
import shutil
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from many_runs import begun, said, same
from mortal import Mortal

import marlet
from marlet.algorithms.policies import ia2c, ippo
from marlet.algorithms.scripts import Script, idle, random
from marlet.algorithms.sides import Frozen, Sides, bare, versus, with_replay
from marlet.algorithms.values import iql
from marlet.catalogue import rebuild
from marlet.engine.rollout import Tally, opening, rollout
from marlet.engine.train import Training
from marlet.envs.matrix import Matrix
from marlet.errors import CheckpointFault, MarletError
from marlet.options import describe, option
from marlet.parts.members import members_of, spec_of, step_of
from marlet.types import Spec

MIXED = Spec(num_agents=5, num_actions=7, obs_shape=(1,), state_size=1, teams=(1, 0, 1, 0, 1), kinds=(2, 0, 4, 0, 2))
TINY = dict(hidden=(4,))
PENNIES = Matrix(game="matching_pennies")

pytestmark = pytest.mark.rough


@dataclasses.dataclass(frozen=True)
class Says(Script):
    """Everyone plays what it observes plus `more`."""

    more: int = option(0, "what is added")

    def play(self, spec, step, *, key):
        assert step.obs.shape[-2] == spec.num_agents
        return step.obs[..., 0].astype(jnp.int32) + self.more


@partial(jax.jit, static_argnames=("algorithm", "env", "steps"))
def played(algorithm, env, steps):
    """A rollout by a fresh learner, and that learner."""
    learned = algorithm.init(env.spec, key=jax.random.key(0))
    world = opening(env, algorithm, learned, algorithm.envs, key=jax.random.key(1))
    tally = Tally.empty(algorithm.envs, env.spec.num_agents)
    return learned, rollout(env, algorithm, learned, world, tally, steps, key=jax.random.key(2))[2]


def test_each_team_is_decided_for_by_its_own_side():
    """Teams that are not in the order of the agents: row i of the actions is agent i's."""
    both = Sides(envs=3, sides=(Says(more=0), Says(more=2)))
    learned = both.init(MIXED, key=jax.random.key(0))
    step = said(np.tile(np.arange(5)[:, None], (3, 1, 1)), actions=7)
    _, action, _ = both.act(learned, both.blank(learned, 3), step, key=jax.random.key(1))
    np.testing.assert_array_equal(action, np.tile([0 + 2, 1, 2 + 2, 3, 4 + 2], (3, 1)))


def test_a_side_knows_its_own_agents():
    assert members_of(MIXED) == [(1, 3), (0, 2, 4)]
    spec = spec_of(MIXED, (0, 2, 4))
    assert (spec.num_agents, spec.kinds, spec.teams) == (3, (0, 1, 0), (0, 0, 0))
    assert spec.names == ("agent_0", "agent_2", "agent_4")
    step = step_of(said(np.arange(5)[None, :, None], actions=7, reward=np.arange(5.0)), (0, 2, 4))
    np.testing.assert_array_equal(step.reward[0], [0, 2, 4])
    np.testing.assert_array_equal(step.obs[0, :, 0], [0, 2, 4])


def test_each_side_learns_from_its_own_and_a_script_not_at_all():
    both = versus(ia2c(envs=4, length=3, **TINY), random())
    learned, rolled = played(both, PENNIES, 3)
    update = jax.jit(partial(both.update, key=jax.random.key(3)))
    after, metrics = update(learned, rolled)
    assert not same(after.sides[0].actor, learned.sides[0].actor)
    assert "side0_loss" in metrics
    assert not any(name.startswith("side1_l") for name in metrics)
    np.testing.assert_allclose(metrics["side0_reward"], -metrics["side1_reward"], atol=1e-6)  # what one wins...

    def swapped(reward):
        """The same with the other team's rewards changed: nothing this side learns from."""
        t = rolled.transitions
        next = dataclasses.replace(t.next, reward=t.next.reward.at[..., 1].add(reward))
        other = dataclasses.replace(rolled, transitions=dataclasses.replace(t, next=next))
        return update(learned, other)[0].sides[0]

    assert same(swapped(5.0).actor, after.sides[0].actor)


def test_teams_of_unlike_agents_that_die_learn_each_by_its_own_rule():
    """Agents 0 and 3 learn by one rule, 1 and 4 by another, 2 by none; each team has both kinds, of which one observes and
    may do less. What the dead did teaches nobody, what the living did teaches their own side only."""
    env = Mortal(agents=5, teams=3, narrow=True)
    kinds = {"sharing": "kinds", **TINY}
    rules = (ippo(envs=4, length=7, minibatches=1, **kinds), iql(memory=3, warmup=0, batch=4, capacity=56, **kinds))
    all_sides = versus(*rules, random())
    all_sides.check(env.spec)

    @jax.jit
    def learns(dead, living):
        """What is learned when these agents did something else while dead, and those while alive."""
        learned = all_sides.init(env.spec, key=jax.random.key(0))
        world = opening(env, all_sides, learned, 4, key=jax.random.key(5))
        rolled = rollout(env, all_sides, learned, world, Tally.empty(4, 5), 7, key=jax.random.key(2))[2]
        t = rolled.transitions
        action = (t.action + jnp.where(t.now.alive, living, dead)) % t.now.available.sum(-1)
        altered = dataclasses.replace(rolled, transitions=dataclasses.replace(t, action=action))
        return learned, all_sides.update(learned, altered, key=jax.random.key(3))[0], t

    weights = lambda learned: (learned.sides[0].actor, learned.sides[1].online.team)  # noqa: E731
    nobody, everyone = np.zeros(5, int), np.ones(5, int)
    before, after, t = learns(nobody, nobody)
    assert not t.now.alive.all((0, 1)).any()
    assert not t.now.available[..., [1, 3], 2].all()
    assert np.take_along_axis(np.asarray(t.now.available), np.asarray(t.action)[..., None], -1).all()
    for new, old in zip(weights(after), weights(before), strict=True):
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(new))
        assert (new.copies.last.bias != old.copies.last.bias).any(-1).tolist() == [True, True]  # both kinds

    taught = lambda *others: [same(*pair) for pair in zip(weights(after), weights(learns(*others)[1]), strict=True)]  # noqa: E731
    assert taught(everyone, nobody) == [True, True]
    assert taught(nobody, np.array([1, 0, 1, 1, 0])) == [False, True]
    assert taught(nobody, np.array([0, 1, 1, 0, 1])) == [True, False]


# --- the league ------------------------------------------------------------------------------------------------------


def league_of(**options):
    return versus(ia2c(envs=4, length=2, learning_rate=0.1, **TINY), ia2c(**TINY), league="past", slots=3, **options)


def test_past_selves_are_kept_in_turn_and_drawn_from_what_there_is():
    both = league_of(every=2)
    learned, rolled = played(both, PENNIES, 2)
    update = jax.jit(both.update)
    seen = []
    for k in range(9):
        learned, _ = update(learned, rolled, key=jax.random.key(k))
        seen.append(learned)
    counts = [int(one.leagues[0].count) for one in seen]
    assert counts == [0, 1, 1, 2, 2, 3, 3, 4, 4]
    # Slot 0 was overwritten by the fourth self, which is the learner after 8 updates; slot 1 holds that after 4.
    for slot, when in ((0, 7), (1, 3), (2, 5)):
        kept = [leaf[slot] for leaf in seen[-1].leagues[1].past]
        assert all(map(np.array_equal, kept, bare(seen[when].sides[1])))
    assert all(int(one.leagues[0].chosen) < max(1, count) for one, count in zip(seen, counts, strict=True))


def test_in_each_half_one_side_is_what_it_is_now_and_the_other_what_it_was():
    """Latest selves always choose action 0, past ones always action 1: half 0 must be (now, past), half 1 (past, now)."""
    both = league_of(every=1)
    learned, _ = played(both, PENNIES, 2)

    def sure(side, action):
        bias = jnp.zeros((1, 2)).at[0, action].set(50.0)
        return eqx.tree_at(lambda side: side.actor.copies.last.bias, side, bias)

    now = tuple(sure(side, 0) for side in learned.sides)
    leagues = tuple(
        dataclasses.replace(league, past=[np.stack([leaf] * 3) for leaf in bare(sure(side, 1))])
        for league, side in zip(learned.leagues, learned.sides, strict=True)
    )
    set_up = dataclasses.replace(learned, sides=now, leagues=leagues)
    step = said(np.ones((4, 2, 1)), actions=2)
    act = jax.jit(partial(both.act, key=jax.random.key(0)), static_argnames="greedy")
    _, action, _ = act(set_up, both.blank(set_up, 4), step)
    np.testing.assert_array_equal(action, [[0, 1], [0, 1], [1, 0], [1, 0]])
    _, greedy, _ = act(set_up, both.blank(set_up, 4), step, greedy=True)
    np.testing.assert_array_equal(greedy, 0)  # evaluations are between what both are now


@pytest.mark.parametrize("batch", [1, 3])
def test_what_cannot_be_halved_is_played_by_what_all_are_now(batch):
    both = league_of(every=1)
    learned, _ = played(both, PENNIES, 2)
    step = said(np.ones((batch, 2, 1)), actions=2)
    memory, action, _ = both.act(learned, both.blank(learned, batch), step, key=jax.random.key(0))
    assert action.shape == (batch, 2)
    assert jax.tree.map(jnp.shape, memory) == jax.tree.map(jnp.shape, both.blank(learned, batch))


def test_the_hardest_are_met_more_often():
    both = dataclasses.replace(league_of(every=100), league="hardest")
    learned, _ = played(both, PENNIES, 2)
    league = dataclasses.replace(learned.leagues[0], fared=jnp.array([1.0, -1.0, 0.0]), count=jnp.int32(3))

    @jax.jit
    @jax.vmap
    def drawn(key):
        return both._kept(league, learned.sides[0], league.fared[0], jnp.int32(1), key=key).chosen

    counts = np.bincount(drawn(jax.random.split(jax.random.key(0), 2000)), minlength=3)
    assert counts[1] > 2 * counts[2] > 2 * counts[0] > 0


def test_a_past_self_borrows_the_replay():
    algorithm = iql(envs=2, capacity=40, **TINY)
    learned = begun(algorithm, PENNIES.spec)
    arrays = [np.asarray(leaf) + 1 for leaf in bare(learned)]
    again = with_replay(arrays, learned)
    assert again.replay is learned.replay
    np.testing.assert_array_equal(again.steps, learned.steps + 1)
    assert len(arrays) < len(jax.tree.leaves(learned))


# --- frozen policies, runs -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    both = versus(ia2c(envs=4, length=1, **TINY), idle(), league="past", slots=2)
    return marlet.train(PENNIES, both, steps=400, evaluations=2, episodes=4, out=out, name="first", quiet=True)


def test_a_frozen_side_stays_what_it_was_and_its_weights_are_not_in_the_record(run, tmp_path):
    opponent = marlet.frozen(run.path, side=0)
    both = versus(ia2c(envs=4, length=1, **TINY), opponent)
    second = marlet.train(PENNIES, both, steps=200, evaluations=1, episodes=4, out=tmp_path, quiet=True)
    learned = marlet.load(second.path).learned
    assert same(learned.sides[1].actor, opponent.learned.actor)
    assert (second.path / "options.json").stat().st_size < 20_000
    assert rebuild(json.loads(json.dumps(describe(both)))) == dataclasses.replace(
        both, sides=(both.sides[0], dataclasses.replace(opponent, learned=None))
    )
    before = checkpoint_bytes(second)
    marlet.resume(second.path, quiet=True)  # a finished run, read back without the first one's weights
    assert checkpoint_bytes(second) == before


def test_a_run_that_is_killed_at_once_goes_on_against_the_same_policy(run, tmp_path, monkeypatch):
    opponent = marlet.frozen(run.path, side=0)
    both = versus(ia2c(envs=4, length=1, **TINY), opponent)

    def killed(*_):
        raise InterruptedError

    options = {"steps": 200, "evaluations": 1, "episodes": 4, "out": tmp_path, "name": "killed", "quiet": True}
    with monkeypatch.context() as patched:
        patched.setattr(Training, "advance", killed)
        with pytest.raises(InterruptedError):
            marlet.train(PENNIES, both, **options)
    marlet.resume(tmp_path / "killed", quiet=True)
    assert eqx.tree_equal(marlet.load(tmp_path / "killed").learned.sides[1].actor, opponent.learned.actor)

    shutil.rmtree(tmp_path / "killed" / "checkpoints")
    with pytest.raises(CheckpointFault, match="stopped before its first checkpoint"):
        marlet.resume(tmp_path / "killed", quiet=True)


def test_a_frozen_learner_leaves_its_replay_behind():
    algorithm = iql(envs=2, capacity=4000, **TINY)
    learned = algorithm.init(PENNIES.spec, key=jax.random.key(0))
    frozen = Frozen(name="other", algorithm=algorithm, learned=learned)
    spec = PENNIES.spec
    kept = frozen.init(spec, key=jax.random.key(1))
    assert all(map(np.array_equal, jax.tree.leaves(kept), bare(learned)))
    assert sum(leaf.size for leaf in jax.tree.leaves(kept)) < 200
    step = said(np.ones((3, 2, 1)), actions=2)
    acted = lambda rule, learned: rule.act(learned, rule.blank(learned, 3), step, key=jax.random.key(2))[1]  # noqa: E731
    np.testing.assert_array_equal(acted(frozen, kept), acted(algorithm, learned))
    assert frozen.update(kept, None, key=jax.random.key(3))[0] is kept


def checkpoint_bytes(run):
    learned = marlet.load(run.path).learned
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(learned)]


def test_every_team_has_its_own_column_of_returns(run):
    metrics = run.metrics()
    np.testing.assert_allclose(metrics["return_0"], -metrics["return_1"], atol=1e-6)


def test_what_does_not_fit_is_refused_with_the_cure(run):
    one_team = Matrix().spec
    with pytest.raises(MarletError, match=r"2 sides, but this environment has 1 team\."):
        versus(ia2c(), random()).check(one_team)
    with pytest.raises(MarletError, match="even number of envs"):
        versus(ia2c(envs=5), random(), league="past").check(PENNIES.spec)
    with pytest.raises(MarletError, match="needs opponents"):
        marlet.train(PENNIES, ia2c(), league="past", steps=10)
    with pytest.raises(MarletError, match="sides 0 to 1"):
        marlet.frozen(run.path, side=2)
    foreign = Frozen(name="other", algorithm=ia2c(**TINY), learned=marlet.frozen(run.path).learned)
    with pytest.raises(MarletError, match="saw or did other things"):
        foreign.check(spec_of(Matrix(game="rock_paper_scissors").spec, (0,)))
    foreign.check(spec_of(PENNIES.spec, (0,)))
    with pytest.raises(MarletError, match=r"first was learned in Matrix, by agents that saw or did other things"):
        marlet.train("tag", "mappo", versus=marlet.frozen(run.path), steps=10)
