"""Deep Q-learning of teams: solved games, ends, masks, memories, targets."""

import dataclasses
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from endless import Endless, values_of
from many_runs import begun, experience_of, imagined, moved, same, spread_out, step_by_step, train

from marlet.algorithms.values import iql, qmix, vdn
from marlet.engine.rollout import Tally, opening, rollout
from marlet.envs.matrix import Matrix
from marlet.envs.two_step import TwoStep
from marlet.errors import MarletError
from marlet.parts.mixers import Monotonic
from marlet.types import Spec

SMALL = dict(hidden=(32,), warmup=0, learning_rate=5e-3, learning_rate_end=5e-4, target_rate=0.05, sees_index=True)
UNIFORM = dict(epsilon_start=1.0, epsilon_end=1.0)
GAME = dict(envs=32, length=1, batch=64, capacity=2_000, **SMALL, **UNIFORM)
QUICK = dict(learning_rate=1e-2, target_rate=0.1)
MIXER = dict(mixer=Monotonic(size=16, hyper=32))

pytestmark = pytest.mark.rough


def joint_table(algorithm, learned, obs, state):
    """The joined value of every joint action, shape (a,) * n (each agent's own value where nothing is joined)."""
    team = learned.online.team
    _, values = team.step(team.blank(1), obs[None])
    values = values[0]
    n, a = values.shape
    joint = jnp.stack(jnp.meshgrid(*[jnp.arange(a)] * n, indexing="ij"), -1)
    taken = jnp.take_along_axis(values, joint.reshape(-1, n).T, axis=1).T
    mixed = algorithm.mixer.mix(learned.online.mixer, taken, jnp.broadcast_to(state, (a**n, state.shape[-1])))
    return mixed.reshape(*[a] * n, -1)


def tables_of_runs(algorithm, env, runs, obs, state, steps):
    learned = train(env, algorithm, steps, runs, key=jax.random.key(0))
    table = jax.jit(jax.vmap(partial(joint_table, algorithm), in_axes=(0, None, None)))
    return np.asarray(table(learned, obs, state))[..., 0]


# --- solved games ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def qtran_game():
    env = Matrix(game="qtran")
    _, step = env.reset(key=jax.random.key(0))
    return env, step.obs, step.state


def test_vdn_fits_the_closest_sum_to_qtrans_game(qtran_game):
    env, obs, state = qtran_game
    tables = tables_of_runs(vdn(**GAME, learning_rate_steps=100_000), env, 4, obs, state, 100_000)
    expected = [[-6.22, -4.89, -4.89], [-4.89, -3.56, -3.56], [-4.89, -3.56, -3.56]]
    np.testing.assert_allclose(np.median(tables, axis=0), expected, atol=0.25)


def test_qmix_as_trained_gives_up_the_best_of_qtrans_game(qtran_game):
    env, obs, state = qtran_game
    algorithm = qmix(**GAME | QUICK | MIXER, learning_rate_steps=40_000)
    tables = tables_of_runs(algorithm, env, 8, obs, state, 40_000)  # 5 of 8 runs; the others find 8
    expected = [[-8, -8, -8], [-8, 0, 0], [-8, 0, 0]]
    np.testing.assert_allclose(np.median(tables, axis=0), expected, atol=0.5)


@pytest.fixture(scope="module")
def two_step():
    """What each algorithm learns in QMIX's two-step game from uniform data, trained once."""
    options = GAME | QUICK | dict(discount=0.99, learning_rate_steps=30_000)
    algorithms = {iql: iql(**options), vdn: vdn(**options), qmix: qmix(**options | MIXER)}
    return {
        make: (algorithm, train(TwoStep(), algorithm, 30_000, 4, key=jax.random.key(1)))
        for make, algorithm in algorithms.items()
    }


@pytest.mark.parametrize(("make", "payoff"), [(iql, 7.0), (vdn, 7.0), (qmix, 8.0)])
def test_the_two_step_game_under_uniform_data(two_step, make, payoff):
    algorithm, learned = two_step[make]
    env = TwoStep()

    @jax.jit
    @jax.vmap
    def play(learned):
        world = opening(env, algorithm, learned, 1, key=jax.random.key(0))
        _, tally, _ = rollout(env, algorithm, learned, world, Tally.empty(1, 2), 2, key=jax.random.key(0), greedy=True)
        return tally.score.mean()

    assert np.median(play(learned)) == payoff


def test_values_of_the_two_step_game(two_step):
    stage = lambda k: (jnp.broadcast_to(jax.nn.one_hot(k, 3), (2, 3)), jax.nn.one_hot(k, 3))  # noqa: E731

    def table(make, k):
        algorithm, learned = two_step[make]
        tables = jax.jit(jax.vmap(partial(joint_table, algorithm), in_axes=(0, None, None)))(learned, *stage(k))
        return np.median(tables[..., 0], axis=0)

    np.testing.assert_allclose(table(qmix, 0), [[6.93, 6.93], [7.92, 7.92]], atol=0.25)
    np.testing.assert_allclose(table(qmix, 1), np.full((2, 2), 7.0), atol=0.25)
    np.testing.assert_allclose(table(qmix, 2), [[0, 1], [1, 8]], atol=0.4)
    np.testing.assert_allclose(table(vdn, 2), [[-1.5, 2.5], [2.5, 6.5]], atol=0.4)


# --- the end of an episode -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "known", "length", "n_step"), [(iql, True, 10, 1), (vdn, True, 4, 3), (qmix, False, 4, 1)]
)
def test_the_endless_game_is_worth_ten(make, known, length, n_step):
    # The clock cannot be seen, so a learner that takes it for a death fits the mean of what is left over the clock:
    # (1 - .9^k) / .1 averaged over k = 1..10, and less than the 6.5132 of the episode's beginning.
    options = SMALL | dict(discount=0.9, envs=8, batch=16, capacity=800, length=length, n_step=n_step, updates=4)
    algorithm = make(**options, **MIXER if make is qmix else {})

    def value(env, learned):
        _, step = env.reset(key=jax.random.key(0))
        return joint_table(algorithm, learned, step.obs, step.state).max()

    cut, dead = np.median(values_of(algorithm, 4_000 * length, value, known=known, runs=2), axis=1)
    assert cut == pytest.approx(10.0, rel=0.02)
    assert dead < 7.0


@partial(jax.jit, static_argnames=("algorithm", "spec", "count"))
def experience(algorithm, spec, count, *, key):
    """Random sequences, with ends inside."""
    return experience_of(imagined(spec, algorithm.length, count, memory=algorithm.memory, ends=0.3, key=key), spec)


def seen_otherwise(e, *, obs=lambda obs: obs, available=lambda available: available, since=0):
    """The same sequences, where what is seen from the step `since` on is another, that of final steps included."""

    def other(seen, begin):
        later = lambda leaf, change: np.concatenate([leaf[:begin], change(leaf[begin:])])  # noqa: E731
        seen = jax.device_get(seen)
        return dataclasses.replace(seen, obs=later(seen.obs, obs), available=later(seen.available, available))

    assert e.cuts.at.shape[0] == e.alive.shape[0]  # a place for each step
    cuts = dataclasses.replace(e.cuts, seen=other(e.cuts.seen, max(0, since - 1)))
    return dataclasses.replace(e, seen=other(e.seen, since), cuts=cuts)


@partial(jax.jit, static_argnums=(0, 1))
def loss_of(algorithm, spec, sequences):
    """The loss of freshly initialised networks."""
    learned = algorithm.init(spec, key=jax.random.key(0))
    return algorithm._loss(learned.online, learned.target, sequences)[0]


@pytest.mark.parametrize(("make", "n"), [(qmix, 1), (iql, 2), (vdn, 5)])
def test_the_dead_are_not_trained_on_and_illegal_next_actions_do_not_count(make, n):
    spec = Spec(num_agents=n, num_actions=3, obs_shape=(4,), state_size=6)
    algorithm = make(length=7, memory=0, hidden=(8,))
    e = experience(algorithm, spec, 3, key=jax.random.key(n))
    e = dataclasses.replace(e, alive=e.alive.at[2:].set(False), next_alive=e.next_alive.at[1:].set(False))
    base = loss_of(algorithm, spec, e)
    later = seen_otherwise(e, obs=lambda obs: obs + 9.0, since=2)
    later = dataclasses.replace(later, reward=e.reward.at[2:].add(9.0))
    np.testing.assert_array_equal(base, loss_of(algorithm, spec, later))
    assert base != loss_of(algorithm, spec, dataclasses.replace(e, reward=e.reward.at[0].add(9.0)))
    assert base != loss_of(algorithm, spec, seen_otherwise(e, obs=lambda obs: obs + 9.0, since=1))


@pytest.mark.parametrize("double", [False, True])
def test_the_next_action_is_the_best_legal_one(double):
    spec = Spec(num_agents=2, num_actions=3, obs_shape=(4,), state_size=1)
    algorithm = iql(length=1, hidden=(), double=double, sees_index=False)
    # Linear networks with only biases: the target values are 1, 2, 3; the online network likes action 0 best.
    flat = jax.tree.map(np.zeros_like, begun(algorithm, spec).online)
    bias = lambda w, values: eqx.tree_at(lambda w: w.team.copies.last.bias, w, jnp.array([values]))  # noqa: E731
    online, target = bias(flat, [30.0, 20.0, 10.0]), bias(flat, [1.0, 2.0, 3.0])
    e = experience(algorithm, spec, 1, key=jax.random.key(0))
    e = dataclasses.replace(
        seen_otherwise(e, available=lambda available: np.broadcast_to([False, True, True], available.shape), since=1),
        action=np.zeros_like(e.action),
        reward=np.zeros_like(e.reward),
        alive=np.ones_like(e.alive),
        next_alive=np.ones_like(e.next_alive),
    )
    loss, _ = jax.jit(algorithm._loss)(online, target, e)
    next_value = 2.0 if double else 3.0  # of the legal ones, the online network likes action 1, the target action 2
    np.testing.assert_allclose(loss, (30.0 - algorithm.discount * next_value) ** 2, rtol=1e-5)


# --- memories, targets, programs -------------------------------------------------------------------------------------


@pytest.mark.parametrize("sharing", ["shared", "own"])
def test_replaying_a_rollout_reproduces_what_was_seen_when_acting(sharing):
    env, algorithm = Endless(), vdn(memory=6, hidden=(8,), envs=3, length=7, sharing=sharing)
    learned = begun(algorithm, env.spec)
    world = jax.jit(lambda: opening(env, algorithm, learned, 3, key=jax.random.key(1)))()
    play = jax.jit(lambda w, k: rollout(env, algorithm, learned, w, Tally.empty(3, 2), 7, key=k))
    unroll = jax.jit(lambda memory, t: learned.online.team.unroll(memory, t.now.obs, t.first)[0])
    world, _, _ = play(world, jax.random.key(2))
    after, _, played = play(world, jax.random.key(3))  # begins inside an episode and has an end inside
    t = played.transitions
    memories = unroll(played.memory, t)
    assert np.asarray(played.memory).any()
    assert np.asarray(t.first)[1:].any()
    np.testing.assert_allclose(memories[-1], after.memory, rtol=1e-5, atol=1e-6)
    # Negative control: from blank memories, or without restarts, it does not.
    blank = unroll(np.zeros_like(played.memory), t)
    assert not np.allclose(blank[1], memories[1], atol=1e-6)


@pytest.mark.parametrize(("length", "known"), [(6, True), (6, False), (2, True)])
@pytest.mark.parametrize("double", [True, False])
def test_what_a_sequence_teaches_is_what_its_steps_teach_one_by_one(double, length, known):
    """Values of what follows are read off the pass over the steps, and computed for the last and final ones: as if for each."""
    algorithm = vdn(memory=4, hidden=(8,), envs=2, length=length, double=double)
    learned, rollouts = spread_out(algorithm, known=known)
    other = algorithm.init(learned.spec, key=jax.random.key(9)).online  # another target, with the online one's memories
    target = eqx.tree_at(lambda w: w.team.copies.last, learned.online, other.team.copies.last)

    @jax.jit
    def losses(played):
        e = experience_of(played, learned.spec)
        memories, _ = learned.online.team.unroll(e.memory, e.now.obs, e.first)
        loss = lambda e: algorithm._loss(learned.online, target, e)[0]  # noqa: E731
        return loss(e), loss(step_by_step(e, memories)), loss(step_by_step(e, jnp.roll(memories, 1, axis=0)))

    for played in rollouts:
        whole, single, control = losses(played)
        np.testing.assert_allclose(whole, single, rtol=1e-5)
        assert abs(whole - control) > 1e-3 * whole


@pytest.mark.parametrize("make", [vdn, qmix])
def test_everything_is_trained_and_targets_follow(make):
    spec = Spec(num_agents=2, num_actions=3, obs_shape=(4,), state_size=5)
    algorithm = make(length=4, hidden=(8,), target_rate=0.5, target_period=2, warmup=0, envs=2)
    learned = begun(algorithm, spec)
    parts = (learned.online, learned.target, learned.optimiser, learned.updates)
    played = imagined(spec, 4, 2, ends=0.3, key=jax.random.key(1))
    replay = jax.jit(partial(learned.replay.add, spec=spec))(played)
    improve = jax.jit(lambda parts, key: algorithm._improve(parts, replay, jnp.float32(0.01), spec, None, key=key)[0])
    once = improve(parts, jax.random.key(2))
    assert min(moved(once[0], learned.online)) > 0
    assert same(once[1], learned.target)  # every second update only
    twice = improve(once, jax.random.key(3))
    middle = jax.tree.map(lambda old, new: old + 0.5 * (new - old), *jax.device_get((learned.target, twice[0])))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), twice[1], middle)


def test_learning_rates_can_be_mapped_over():
    env = TwoStep()

    def run(rate):
        algorithm = qmix(**(GAME | dict(learning_rate=rate, learning_rate_end=rate)))
        learned = algorithm.init(env.spec, key=jax.random.key(0))
        world = opening(env, algorithm, learned, 32, key=jax.random.key(1))
        _, _, played = rollout(env, algorithm, learned, world, Tally.empty(32, 2), 1, key=jax.random.key(2))
        return algorithm.update(learned, played, key=jax.random.key(3))[0].online.team.copies.last.weight

    many = jax.jit(jax.vmap(run))(jnp.array([0.0, 1e-3, 1e-2]))
    sizes = jnp.abs(many - many[0]).max((1, 2, 3))
    assert sizes[0] == 0
    np.testing.assert_allclose(sizes[2] / sizes[1], 10.0, rtol=1e-3)


def test_what_does_not_fit_is_refused_with_the_cure():
    continuous = Spec(num_agents=2, num_actions=2, obs_shape=(4,), state_size=1, continuous=True)
    teams = Spec(num_agents=2, num_actions=2, obs_shape=(4,), state_size=1, teams=(0, 1))
    with pytest.raises(MarletError, match="discrete"):
        qmix().check(continuous)
    with pytest.raises(MarletError, match=r"2 teams.*iql"):
        vdn().check(teams)
    iql().check(teams)
    with pytest.raises(MarletError, match=r"2 teams.*--versus"):
        qmix().check(teams)
    with pytest.raises(MarletError, match=r"vdn: n_step is 6, but the replay's sequences have 5 steps"):
        vdn(n_step=6, length=5).check(dataclasses.replace(teams, teams=(0, 0)))
    vdn(n_step=5, length=5).check(dataclasses.replace(teams, teams=(0, 0)))
    with pytest.raises(MarletError, match=r"qmix has no option 'discout'.* Did you mean 'discount'"):
        qmix(discout=0.9)
    with pytest.raises(MarletError, match=r"from 0 to 1 "):
        qmix(discount=1.5)
