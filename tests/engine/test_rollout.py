"""Compiled rollouts against a ledger kept by hand: nothing is lost, moved or shared between steps and copies."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toys import Counting, Ledger

from marlet.engine import rollout as engine
from marlet.engine.rollout import Tally, opening, rollout

pytestmark = pytest.mark.rough

B, T, N = 4, 23, 3


def played(env, parts=(T,), seed=0, begin=lambda world: world):
    """Rollouts of these lengths, joined, with the tally, the memories that each began with and the worlds around them."""
    algorithm, key = Counting(), jax.random.key(seed)
    learned = algorithm.init(env.spec, key=key)
    world, tally = begin(opening(env, algorithm, learned, B, key=key)), Tally.empty(B, N)
    run = jax.jit(
        lambda world, tally, key, length: rollout(env, algorithm, learned, world, tally, length, key=key),
        static_argnums=3,
    )
    found, began, worlds = [], [], [world]
    for k, length in enumerate(parts):
        world, tally, one = run(world, tally, jax.random.fold_in(key, k), length)
        found.append(one.transitions)
        began.append(np.asarray(one.memory))
        worlds.append(jax.device_get(world))
    transitions = jax.tree.map(lambda *leaves: np.concatenate([np.asarray(leaf) for leaf in leaves]), *found)
    return transitions, jax.device_get(tally), began, worlds


@pytest.fixture(scope="module")
def ledger():
    return played(Ledger(), (11, 12))


def follow(env, t):
    """Each copy by itself, one step after the other, in plain Python. Returns how often the clock and death ended one.

    Raises:
        AssertionError: where a step is not what its copy's books say.
    """
    ends = {"cut": 0, "died": 0}
    agent = np.arange(N)
    seen = lambda tag, clock, total: np.stack([agent * 0 + tag, agent * 0 + clock, total + agent], -1)  # noqa: E731
    for b in range(B):
        tag, clock, total = int(t.now.obs[0, b, 0, 0]), int(t.now.obs[0, b, 0, 1]), 0
        for k in range(len(t.first)):
            np.testing.assert_array_equal(t.now.obs[k, b], seen(tag, clock, total))
            assert t.first[k, b] == (clock == 0)
            assert t.extra[k, b] == clock, "the memory is as old as the episode"
            assert not t.now.truncated[k, b]
            assert t.now.alive[k, b].all()
            if k > 0:
                np.testing.assert_array_equal(t.now.reward[k, b], clock * (agent + 1))
            clock, total = clock + 1, total + t.action[k, b].sum()
            # The final step is kept: the same episode's tag, its last clock, and the reward of the last action.
            np.testing.assert_array_equal(t.next.obs[k, b], seen(tag, clock, total))
            np.testing.assert_array_equal(t.next.reward[k, b], clock * (agent + 1))
            if clock == env.steps_of(tag):
                cut = bool(env.horizon) or tag % 2 == 0
                ends["cut" if cut else "died"] += 1
                assert t.next.truncated[k, b] == cut
                assert (t.next.alive[k, b] == cut).all()
                if k + 1 < len(t.first):
                    assert t.now.obs[k + 1, b, 0, 0] != tag, "another episode"
                    tag, clock, total = int(t.now.obs[k + 1, b, 0, 0]), 0, 0
            else:
                assert not t.next.over[k, b]
                assert t.next.alive[k, b].all()
    return ends


def sum_up(t, tally, world, clock):
    """The tally and what is under way, added up by hand; `clock` holds the copies' steps before the first.

    Raises:
        AssertionError: where a sum is another.
    """
    episodes, score, length = np.zeros(B), np.zeros((B, N)), np.zeros(B)
    running, clock = np.zeros((B, N)), np.array(clock)
    for k in range(len(t.first)):
        for b in range(B):
            running[b] += t.next.reward[k, b]
            clock[b] += 1
            if t.next.truncated[k, b] or not t.next.alive[k, b].any():
                episodes[b], score[b], length[b] = episodes[b] + 1, score[b] + running[b], length[b] + clock[b]
                running[b], clock[b] = 0, 0
    np.testing.assert_array_equal(tally.episodes, episodes)
    np.testing.assert_allclose(tally.score, score, rtol=1e-6)
    np.testing.assert_array_equal(tally.length, length)
    np.testing.assert_array_equal(world.score, running)  # what is under way is kept for the next rollout
    np.testing.assert_array_equal(world.clock, clock)
    np.testing.assert_array_equal(world.memory, clock)
    np.testing.assert_array_equal(world.first, clock == 0)
    return episodes


def test_the_axes_are_steps_copies_agents(ledger):
    t = ledger[0]
    assert t.now.obs.shape == t.next.obs.shape == (T, B, N, 3)
    assert t.action.shape == t.next.reward.shape == (T, B, N)
    assert t.first.shape == t.next.truncated.shape == (T, B)


def test_every_copy_keeps_its_own_books(ledger):
    ends = follow(Ledger(), ledger[0])
    assert min(ends.values()) > 3


def test_copies_do_not_play_the_same(ledger):
    t = ledger[0]
    assert len(np.unique(t.now.obs[0, :, 0, 0])) == B
    assert (t.action[:, 0] != t.action[:, 1]).any()


def test_the_tally_sums_what_ended_in_each_copy(ledger):
    t, tally, _, worlds = ledger
    episodes = sum_up(t, tally, worlds[-1], np.zeros(B))
    assert episodes.sum() > 10
    assert (episodes > 0).all()
    with pytest.raises(AssertionError):  # the control: the copies' sums are not each other's
        sum_up(t, jax.tree.map(lambda leaf: np.roll(leaf, 1, axis=0), tally), worlds[-1], np.zeros(B))


def test_a_rollout_tells_the_memories_it_began_with(ledger):
    t, _, (first, second), _ = ledger
    assert not first.any()
    np.testing.assert_array_equal(second, t.extra[11])
    assert second.any()


@pytest.mark.parametrize("mortal", [True, False])
def test_without_an_end_nothing_restarts(mortal, monkeypatch):
    monkeypatch.setattr(Ledger, "spec", replace(Ledger().spec, mortal=mortal))
    t, tally, _, _ = played(Ledger(longest=0))
    assert t.first.sum() == B
    assert not tally.episodes.any()
    np.testing.assert_array_equal(t.extra, np.broadcast_to(np.arange(T)[:, None], (T, B)))


def test_all_may_end_at_every_step():
    t, tally, _, _ = played(Ledger(longest=1))
    assert t.first.all()
    assert not t.extra.any()
    np.testing.assert_array_equal(tally.episodes, T)
    np.testing.assert_array_equal(tally.length, T)


def test_drawing_openings_for_a_few_changes_no_number(monkeypatch):
    """40 copies, so that none, a few and many end at once; then the same with openings always drawn for all."""
    env, algorithm, key = Ledger(longest=40), Counting(), jax.random.key(0)

    def worlds(few):
        monkeypatch.setattr(engine, "FEW", few)
        world = opening(env, algorithm, algorithm.init(env.spec, key=key), 40, key=key)
        run = jax.jit(lambda world: rollout(env, algorithm, (), world, Tally.empty(40, N), 60, key=key))
        return jax.device_get(run(world))

    some, every = worlds(8), worlds(1000)
    ending = some[2].transitions.next.over.sum(1)
    assert 0 in ending
    assert ((ending > 0) & (ending <= 5)).any()
    assert (ending > 5).any()
    jax.tree.map(np.testing.assert_array_equal, some, every)


@pytest.mark.parametrize(
    ("env", "length"), [(Ledger(longest=9), 12), (Ledger(horizon=6), 3), (Ledger(horizon=5), 6), (Ledger(horizon=4), 4)]
)
@pytest.mark.parametrize("copies", [1, 40])
def test_seeds_at_once_play_as_each_does_alone_and_open_episodes_together(env, length, copies, monkeypatch):
    algorithm, keys = Counting(), jax.random.split(jax.random.key(0), 3)

    def run(key):
        world = opening(env, algorithm, algorithm.init(env.spec, key=key), copies, key=key)
        play = lambda carry, key: rollout(env, algorithm, (), *carry, length, key=key)  # noqa: E731
        return jax.lax.scan(
            lambda carry, key: (lambda after: (after[:2], after[2].transitions))(play(carry, key)),
            (world, Tally.empty(copies, N)),
            jax.random.split(key, 4),
        )

    def questions():
        return jax.jit(jax.vmap(lambda key: run(key))).lower(keys).as_text().count("stablehlo.case")

    together, alone = jax.jit(jax.vmap(run))(keys), jax.jit(run)
    for k, key in enumerate(keys):
        own = jax.tree.map(lambda leaf, k=k: leaf[k], together)
        jax.tree.map(np.testing.assert_array_equal, own, alone(key))
    asked = questions()
    assert (asked > 0) == (length != env.horizon), "where all end with the rollout, nothing is asked"
    monkeypatch.setattr(engine, "_most", lambda case: case)
    assert questions() == 0  # the control: of one for each seed, every answer is computed


# --- where nobody dies, episodes last as long as is known beforehand -------------------------------------------------


def at(clocks, told=None):
    """The world in which each copy's episode has lasted so long, and its clock says so (or says what is `told`)."""

    def begin(world):
        clock = jnp.array(clocks)
        tag, _, total = world.state
        return replace(
            world,
            state=(tag, clock, total),
            now=replace(world.now, obs=world.now.obs.at[..., 1].set(clock[:, None])),
            first=clock == 0,
            memory=clock,
            clock=clock if told is None else jnp.array(told),
        )

    return begin


@pytest.mark.parametrize(
    ("length", "horizon", "clocks"),
    [
        (4, 4, (0, 0, 0, 0)),  # each rollout ends all episodes
        (4, 12, (0, 0, 0, 0)),  # every third does
        (4, 12, (0, 4, 8, 0)),
        (4, 6, (0, 0, 0, 0)),  # one stretch, as long as the rollout
        (4, 6, (0, 1, 3, 5)),
        (6, 4, (0, 0, 0, 0)),  # two stretches of three steps
        (6, 4, (3, 2, 1, 0)),
        (5, 3, (0, 1, 2, 2)),  # five stretches of one step
        (3, 1, (0, 0, 0, 0)),
        (3, 7, (6, 4, 1, 0)),
    ],
)
def test_episodes_that_end_by_the_clock_alone_are_followed_all_the_same(length, horizon, clocks):
    env, rounds = Ledger(horizon=horizon), 8
    t, tally, began, worlds = played(env, (length,) * rounds, begin=at(clocks))
    ends = follow(env, t)
    assert ends == {"cut": sum((length * rounds + clock) // horizon for clock in clocks), "died": 0}
    assert ends["cut"] >= B
    sum_up(t, tally, worlds[-1], clocks)
    np.testing.assert_array_equal(np.stack(began), t.extra[::length])
    for world, k in zip(worlds[1:-1], range(length, length * rounds, length), strict=True):
        np.testing.assert_array_equal(world.now.obs, t.now.obs[k])  # the next rollout goes on where this one ended
    tags = [set(np.unique(t.now.obs[:, b, 0, 0])) for b in range(B)]
    assert len(set.union(*tags)) == sum(map(len, tags))  # no two copies open the same episode
    assert sum(map(len, tags)) == t.first.sum() + sum(clock > 0 for clock in clocks)


@pytest.mark.parametrize(
    ("length", "horizon", "clocks", "told"),
    [
        (4, 4, (1, 1, 1, 1), None),  # taken for aligned, but episodes end in the middle of a rollout
        (2, 5, (3, 3, 3, 3), (0, 0, 0, 0)),  # no opening is drawn for the stretch in which they end
    ],
)
def test_a_world_that_is_not_what_the_rollout_takes_it_for_is_found_out(length, horizon, clocks, told):
    """The control: the ledger notices openings that come too late, or are none."""
    env = Ledger(horizon=horizon)
    t, _, _, _ = played(env, (length,) * 4, begin=at(clocks, told))
    with pytest.raises(AssertionError):
        follow(env, t)


@pytest.mark.parametrize(("length", "horizon"), [(4, 4), (4, 6), (6, 4)])
def test_the_ways_of_opening_differ_in_nothing_but_the_openings(length, horizon, monkeypatch):
    """The same world said to be mortal is played by the third way: the same ends, rewards, clocks and first steps."""
    env = Ledger(horizon=horizon)
    known, tally, _, _ = played(env, (length,) * 4)
    monkeypatch.setattr(Ledger, "spec", replace(env.spec, mortal=True))
    unknown, other_tally, _, _ = played(env, (length,) * 4)
    kept = lambda t: (t.first, t.extra, t.now.obs[..., 1], t.next.obs[..., 1], t.next.reward, t.next.truncated)  # noqa: E731
    jax.tree.map(np.testing.assert_array_equal, (kept(known), tally), (kept(unknown), other_tally))
    assert known.first.sum() > B
