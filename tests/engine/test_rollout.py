"""Compiled rollouts against a ledger kept by hand: nothing is lost, moved or shared between steps and copies."""

import jax
import numpy as np
import pytest
from toys import Counting, Ledger

from marlet.engine import rollout as engine
from marlet.engine.rollout import Tally, opening, rollout

B, T, N = 4, 23, 3


def played(env, parts=(T,), seed=0):
    """Rollouts of these lengths, joined, with the tally and the memories that each began with."""
    algorithm, key = Counting(), jax.random.key(seed)
    learned = algorithm.init(env.spec, key=key)
    world, tally = opening(env, algorithm, learned, B, key=key), Tally.empty(N)
    found, began = [], []
    for k, length in enumerate(parts):
        run = jax.jit(
            lambda world, tally, key, length=length: rollout(env, algorithm, learned, world, tally, length, key=key)
        )
        world, tally, one = run(world, tally, jax.random.fold_in(key, k))
        found.append(one.transitions)
        began.append(np.asarray(one.memory))
    transitions = jax.tree.map(lambda *leaves: np.concatenate([np.asarray(leaf) for leaf in leaves]), *found)
    return transitions, jax.device_get(tally), began, world


@pytest.fixture(scope="module")
def ledger():
    return played(Ledger(), (11, 12))


def test_the_axes_are_steps_copies_agents(ledger):
    t = ledger[0]
    assert t.now.obs.shape == t.next.obs.shape == (T, B, N, 3)
    assert t.action.shape == t.next.reward.shape == (T, B, N)
    assert t.first.shape == t.next.truncated.shape == (T, B)


def test_every_copy_keeps_its_own_books(ledger):
    """Each copy is followed by itself, one step after the other, in plain Python."""
    t = ledger[0]
    ends = {"cut": 0, "died": 0}
    for b in range(B):
        tag, clock, total = int(t.now.obs[0, b, 0, 0]), 0, 0
        for k in range(T):
            agent = np.arange(N)
            np.testing.assert_array_equal(
                t.now.obs[k, b], np.stack([agent * 0 + tag, agent * 0 + clock, total + agent], -1)
            )
            assert t.first[k, b] == (clock == 0)
            assert t.extra[k, b] == clock, "the memory is as old as the episode"
            assert not t.now.truncated[k, b]
            assert t.now.alive[k, b].all()
            clock, total = clock + 1, total + t.action[k, b].sum()
            # The final step is kept: the same episode's tag, its last clock, and the reward of the last action.
            np.testing.assert_array_equal(
                t.next.obs[k, b], np.stack([agent * 0 + tag, agent * 0 + clock, total + agent], -1)
            )
            np.testing.assert_array_equal(t.next.reward[k, b], clock * (agent + 1))
            if clock == 1 + tag % 5:
                ends["cut" if t.next.truncated[k, b] else "died"] += 1
                assert t.next.truncated[k, b] == (tag % 2 == 0)
                assert (t.next.alive[k, b] == (tag % 2 == 0)).all()
                if k + 1 < T:
                    assert t.now.obs[k + 1, b, 0, 0] != tag, "another episode"
                    tag, clock, total = int(t.now.obs[k + 1, b, 0, 0]), 0, 0
            else:
                assert not t.next.over[k, b]
    assert min(ends.values()) > 3


def test_copies_do_not_play_the_same(ledger):
    t = ledger[0]
    assert len(np.unique(t.now.obs[0, :, 0, 0])) == B
    assert (t.action[:, 0] != t.action[:, 1]).any()


def test_the_tally_sums_what_ended(ledger):
    t, tally, _, world = ledger
    episodes, score, squares, length, solved = 0, np.zeros(N), 0.0, 0, 0
    running, clock = np.zeros((B, N)), np.zeros(B)
    for k in range(T):
        for b in range(B):
            running[b] += t.next.reward[k, b]
            clock[b] += 1
            if t.next.truncated[k, b] or not t.next.alive[k, b].any():
                episodes, score = episodes + 1, score + running[b]
                squares, length = squares + running[b].mean() ** 2, length + clock[b]
                solved += not t.next.truncated[k, b]
                running[b], clock[b] = 0, 0
    assert tally.episodes == episodes > 10
    np.testing.assert_allclose(tally.score, score, rtol=1e-6)
    np.testing.assert_allclose(tally.squares, squares, rtol=1e-6)
    assert tally.length == length
    assert 0 < solved < episodes
    assert tally.solved == solved
    np.testing.assert_array_equal(world.score, running)  # what is under way is kept for the next rollout
    np.testing.assert_array_equal(world.clock, clock)


def test_a_rollout_tells_the_memories_it_began_with(ledger):
    t, _, (first, second), _ = ledger
    assert not first.any()
    np.testing.assert_array_equal(second, t.extra[11])
    assert second.any()


def test_without_an_end_nothing_restarts():
    t, tally, _, _ = played(Ledger(longest=0))
    assert t.first.sum() == B
    assert tally.episodes == 0
    np.testing.assert_array_equal(t.extra, np.broadcast_to(np.arange(T)[:, None], (T, B)))


def test_all_may_end_at_every_step():
    t, tally, _, _ = played(Ledger(longest=1))
    assert t.first.all()
    assert not t.extra.any()
    assert tally.episodes == tally.length == T * B


def test_drawing_openings_for_a_few_changes_no_number(monkeypatch):
    """40 copies, so that none, a few and many end at once; then the same with openings always drawn for all."""
    env, algorithm, key = Ledger(longest=40), Counting(), jax.random.key(0)

    def worlds(few):
        monkeypatch.setattr(engine, "FEW", few)
        world = opening(env, algorithm, algorithm.init(env.spec, key=key), 40, key=key)
        run = jax.jit(lambda world: rollout(env, algorithm, (), world, Tally.empty(N), 60, key=key))
        return jax.device_get(run(world))

    some, every = worlds(8), worlds(1000)
    ending = some[2].transitions.next.over.sum(1)
    assert 0 in ending
    assert ((ending > 0) & (ending <= 5)).any()
    assert (ending > 5).any()
    jax.tree.map(np.testing.assert_array_equal, some, every)
