"""Replay: what is sampled is what was recorded, row by row, whatever ends where and however often the ring went round."""

import dataclasses
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import marlet
from marlet.algorithms.base import Algorithm
from marlet.engine.devices import bytes_of
from marlet.engine.rollout import Tally, opening, rollout
from marlet.envs.base import Env, make_step
from marlet.options import option
from marlet.parts.replay import Replay
from marlet.types import Spec

pytestmark = pytest.mark.rough

B, N = 3, 2


@dataclass(frozen=True)
class Diary(Env):
    """Everything said tells the episode (its tag), its clock and who says it, so that no two rows are alike.

    With a `horizon` nobody dies and episodes last that long. Without, agent i dies when the clock is past
    `tag // 7^i % 7`, and where `tag` is even the clock cuts off after 3 steps, be one dead or not.
    """

    horizon: int = option(0, "steps", low=0)

    @property
    def spec(self):
        return Spec(N, 4, (3,), 2, horizon=self.horizon or None, mortal=not self.horizon)

    def reset(self, *, key):
        state = (jax.random.randint(key, (), 0, 4_000_000), jnp.zeros((), jnp.int32))
        return state, self.say(state, jnp.zeros(N, jnp.int32))

    def step(self, state, action, *, key):
        state = (state[0], state[1] + 1)
        return state, self.say(state, action)

    def say(self, state, action):
        tag, clock = state
        agent = jnp.arange(N)
        cut = clock == self.horizon if self.horizon else (clock == 3) & (tag % 2 == 0)
        alive = clock <= tag // 7**agent % 7
        return make_step(
            self.spec,
            obs=jnp.stack([jnp.broadcast_to(tag, N), jnp.broadcast_to(clock, N), agent], -1),
            state=jnp.stack([-tag, clock]),
            reward=tag % 1000 + 10_000 * clock + 100_000 * action * (clock > 0) + 0.25 * agent,
            available=(tag + clock + agent[:, None] + jnp.arange(4)) % 3 > 0,
            alive=(jnp.ones(N, bool) if self.horizon else alive) | (clock == 0),
            truncated=cut,
        )


@dataclass(frozen=True)
class Counter(Algorithm):
    """Acts at random and counts its steps."""

    def check(self, spec):
        pass

    def init(self, spec, *, key):
        return ()

    def blank(self, learned, batch):
        return jnp.zeros((batch, N, 1))

    def act(self, learned, memory, step, *, key, greedy=False):
        return memory + 1, jax.random.randint(key, step.alive.shape, 0, 4), ()

    def update(self, learned, rollout, *, key):
        return learned, {}


WAYS = {
    "mortal": (Diary(), 4),
    "aligned, one rollout an episode": (Diary(horizon=5), 5),
    "aligned, two rollouts an episode": (Diary(horizon=6), 3),
    "not aligned": (Diary(horizon=6), 4),
    "not aligned, some rollouts without an end": (Diary(horizon=9), 4),
    "episodes shorter than a rollout": (Diary(horizon=3), 7),
    "an end at every step": (Diary(horizon=1), 3),
}
SLOTS = 3
"""That can be sampled."""


@pytest.fixture(scope="module", params=WAYS, ids=str)
def way(request):
    """The environment, T, and what was recorded in 11 rollouts, with the replay after each."""
    env, length = WAYS[request.param]
    algorithm = Counter(envs=B, length=length)
    replay = Replay.empty(env.spec, length=length, memory=1, envs=B, capacity=SLOTS * length * B - 1)

    @jax.jit
    def one(world, replay, key):
        world, _, played = rollout(env, algorithm, (), world, Tally.empty(B, N), length, key=key)
        return world, replay.add(played, env.spec), played

    world = opening(env, algorithm, (), B, key=jax.random.key(0))
    recorded, replays = [], []
    for k in range(11):
        world, replay, played = one(world, replay, jax.random.key(k + 1))
        recorded.append(jax.device_get(played))
        replays.append(replay)
    return env, length, recorded, replays


@partial(jax.jit, static_argnums=1)
def sampled(replay, count):
    e = replay.sample(count, key=jax.random.key(0))
    return e, e.now, e.next


def found_in(recorded, replay, count):
    """Which rollouts and environments were sampled, "K" each. Every row of every one must be as it was recorded.

    Raises:
        AssertionError: where one is not.
    """
    e, now, next = jax.device_get(sampled(replay, count))
    length = e.alive.shape[0]
    assert e.first.shape == (length, count)
    opened = {
        tuple(played.transitions.now.obs[0, b, 0, :2]): (r, b) for r, played in enumerate(recorded) for b in range(B)
    }
    assert len(opened) == len(recorded) * B
    places = [opened.get(tuple(row), (-1, -1)) for row in now.obs[0, :, 0, :2]]
    rounds, envs = np.array(places).T
    assert (rounds >= 0).all(), "begins where no rollout began"

    def expected(pick):
        """What was recorded of the rollouts sampled, "T K ..."."""
        return np.stack([np.asarray(pick(recorded[r].transitions))[:, b] for r, b in places], axis=1)

    for name in ("obs", "state", "available"):
        np.testing.assert_array_equal(getattr(now, name), expected(lambda t, name=name: getattr(t.now, name)))
        lives = expected(lambda t: t.next.alive).any(-1)
        there = expected(lambda t, name=name: getattr(t.next, name))
        np.testing.assert_array_equal(getattr(next, name)[lives], there[lives])
    np.testing.assert_array_equal(e.alive, expected(lambda t: t.now.alive))
    np.testing.assert_array_equal(e.next_alive, expected(lambda t: t.next.alive))
    np.testing.assert_array_equal(e.reward, expected(lambda t: t.next.reward))
    np.testing.assert_array_equal(e.action, expected(lambda t: t.action))
    np.testing.assert_array_equal(e.first, expected(lambda t: t.first))
    np.testing.assert_array_equal(e.memory, np.stack([recorded[r].memory[b] for r, b in places]))
    return rounds, envs


def test_of_what_is_sampled_it_is_known_whether_cuts_are_aligned(way):
    env, length, _, replays = way
    assert sampled(replays[-1], 3)[0].cuts.aligned == env.spec.aligned(length)


@pytest.mark.parametrize("rounds", [1, 2, 3, 4, 5, 8, 11])
def test_every_sequence_is_one_that_was_recorded_and_of_the_latest(way, rounds):
    _, _, recorded, replays = way
    replay = replays[rounds - 1]
    found, envs = found_in(recorded[:rounds], replay, 300)
    latest = range(max(0, rounds - SLOTS), rounds)
    assert set(zip(found.tolist(), envs.tolist(), strict=True)) == {(r, b) for r in latest for b in range(B)}


def test_the_worlds_have_the_ends_they_are_here_for(way):
    env, _, recorded, _ = way
    cut = np.concatenate([played.transitions.next.truncated for played in recorded])
    alive = np.concatenate([played.transitions.next.alive for played in recorded])
    assert cut.any()
    if env.spec.mortal:
        assert (~alive.any(-1)).any()
        assert (alive.any(-1) & ~alive.all(-1)).any()
        assert (cut & alive.any(-1) & ~alive.all(-1)).any()
    else:
        assert alive.all()
        np.testing.assert_array_equal(np.flatnonzero(cut[:, 0]) % env.horizon, env.horizon - 1)


def test_all_held_are_sampled_equally_often(way):
    _, _, recorded, replays = way
    for rounds in (2, 11):
        count = 18_000
        found, envs = found_in(recorded[:rounds], replays[rounds - 1], count)
        _, counts = np.unique(found * B + envs, return_counts=True)
        mean = count / (min(rounds, SLOTS) * B)
        assert len(counts) * mean == count
        assert np.abs(counts - mean).max() < 5 * mean**0.5


def test_what_is_written_wrongly_is_found_out(way):
    """The control: other finals, other rows, and the slot whose first row is already the newest one's last step."""
    _, length, recorded, replays = way
    replay = replays[-1]
    assert len(found_in(recorded, replay, 300)[0]) == 300
    shifted = lambda leaf: jnp.roll(leaf, 1, axis=0)  # noqa: E731
    broken = [
        dataclasses.replace(replay, finals=jax.tree.map(lambda leaf: jnp.roll(leaf, 1, axis=1), replay.finals)),
        dataclasses.replace(replay, cut_at=jnp.full_like(replay.cut_at, length)),
        dataclasses.replace(replay, seen=jax.tree.map(shifted, replay.seen)),
        dataclasses.replace(replay, deeds=jax.tree.map(shifted, replay.deeds)),
        dataclasses.replace(replay, memory=shifted(replay.memory) + 1),
        dataclasses.replace(replay, cursor=(replay.cursor + 1) % replay.slots),
    ]
    for one in broken:
        with pytest.raises(AssertionError):
            found_in(recorded, one, 300)


def test_there_is_room_for_what_was_asked_and_a_slot_more():
    spec = Diary().spec
    assert Replay.empty(spec, length=4, memory=0, envs=B, capacity=1).slots == 2
    assert Replay.empty(spec, length=4, memory=0, envs=B, capacity=12).slots == 2
    assert Replay.empty(spec, length=4, memory=0, envs=B, capacity=13).slots == 3


@pytest.mark.parametrize("continuous", [False, True])
def test_the_axes_of_environments_are_where_they_are_said_to_be(continuous):
    """The sizes of all axes differ, so that those of the environments are the ones of that size."""
    spec = Spec(2, 3, (7,), 11, horizon=6, mortal=False, continuous=continuous)
    replay = jax.eval_shape(lambda: Replay.empty(spec, length=4, memory=17, envs=13, capacity=5 * 4 * 13))
    for leaf, axis in zip(jax.tree.leaves(replay), jax.tree.leaves(replay.env_axes), strict=True):
        assert axis == (leaf.shape.index(13) if 13 in leaf.shape else -1)


@pytest.mark.parametrize("length", [5, 26])
def test_a_replay_takes_no_more_room_than_its_transitions(length):
    """One step, action, reward and who lived a transition; final steps, the slot more and the indices are a tenth at most."""
    spec, envs = marlet.Spread().spec, 8
    n, a, d, s = spec.num_agents, spec.num_actions, *spec.obs_shape, spec.state_size
    capacity = 20 * length * envs * 40
    shapes = lambda spec: jax.eval_shape(  # noqa: E731
        lambda: Replay.empty(spec, length=length, memory=0, envs=envs, capacity=capacity)
    )
    needed = capacity * (4 * (n * d + s + n + n) + n * a + n + n + 1)
    assert needed <= bytes_of(shapes(spec)) <= 1.1 * needed
    assert bytes_of(shapes(dataclasses.replace(spec, mortal=True))) > 1.3 * needed  # the control: a final step for each
