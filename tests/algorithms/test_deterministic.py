"""Off-policy actor-critics: whose actions gradients pass through, targets at the ends, noise, delay, entropy, masks."""

import dataclasses
from functools import partial
from unittest import mock

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from endless import Endless, values_of
from many_runs import begun, experience_of, imagined, moved, said, same, spread_out, step_by_step

from marlet.algorithms.deterministic import facmac, iddpg, maddpg, masac, matd3
from marlet.engine.rollout import Tally, opening, rollout
from marlet.equations.distributions import log_chances, straight_through
from marlet.errors import MarletError
from marlet.parts.critics import as_vectors
from marlet.types import Spec

TINY = dict(hidden=(8,), envs=3, warmup=0)
VECTORS = Spec(num_agents=3, num_actions=2, obs_shape=(4,), state_size=5, continuous=True)
CHOICES = Spec(num_agents=3, num_actions=4, obs_shape=(4,), state_size=5)

pytestmark = pytest.mark.rough


@partial(jax.jit, static_argnames=("algorithm", "spec"))
def sequences(algorithm, spec, *, key):
    """Random sequences; everyone lives, and every action may be taken."""
    return experience_of(imagined(spec, algorithm.length, 4, memory=algorithm.memory, key=key), spec)


def replay_of(algorithm, learned):
    """A replay of one random rollout."""
    played = imagined(learned.spec, algorithm.length, algorithm.envs, memory=algorithm.memory, key=jax.random.key(1))
    return jax.jit(partial(learned.replay.add, spec=learned.spec))(played)


# --- choosing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [maddpg, masac])
@pytest.mark.parametrize("spec", [VECTORS, CHOICES])
def test_noise_is_off_when_greedy_and_nothing_illegal_is_chosen(make, spec):
    algorithm = make(**TINY)
    learned = begun(algorithm, spec)
    legal = np.ones((50, 3, spec.num_actions), bool)
    legal[:, 1, 2:3] = spec.continuous
    step = dataclasses.replace(
        said(np.ones((50, 3, 4)), actions=spec.num_actions, available=legal), state=jnp.zeros((50, 5))
    )
    act = jax.jit(partial(algorithm.act, learned, algorithm.blank(learned, 50), step), static_argnames="greedy")
    one, two = (act(key=jax.random.key(k), greedy=True)[1] for k in (0, 1))
    np.testing.assert_array_equal(one, two)
    loud, other = (np.asarray(act(key=jax.random.key(k))[1]) for k in (0, 1))
    assert (loud != other).any()
    if spec.continuous:
        assert (np.abs(loud) <= 1).all()
    else:
        assert not (loud[:, 1] == 2).any()
        assert (loud[:, 0] == 2).any()


def test_a_choice_is_exactly_one_hot_and_gradients_pass_through_it():
    log_chance = log_chances(jnp.array([1.0, 0.0, 2.0, 9.0]), jnp.array([True, True, True, False]))
    worth = jnp.array([1.0, 2.0, 3.0, 4.0])
    draw = jax.jit(jax.vmap(lambda key: straight_through(log_chance, 1.0, key=key)))
    drawn = np.asarray(draw(jax.random.split(jax.random.key(0), 2000)))
    np.testing.assert_allclose(drawn.max(-1), 1.0, atol=1e-6)
    np.testing.assert_allclose(drawn.sum(-1), 1.0, atol=1e-6)
    np.testing.assert_allclose(drawn.mean(0), np.exp(log_chance), atol=0.03)
    value = lambda logits: (straight_through(logits, 1.0, key=jax.random.key(1)) * worth).sum()  # noqa: E731
    gradient = np.asarray(jax.jit(jax.grad(value))(log_chance))
    assert np.abs(gradient[:3]).max() > 0.01
    assert gradient[3] == 0


# --- gradients -------------------------------------------------------------------------------------------------------


def reach_of(algorithm, spec, agent):
    """How steep the value of `agent` is in each agent's own network (sharing is `own`): (n,) sums of absolute gradients."""
    learned = begun(algorithm, spec)
    e = sequences(algorithm, spec, key=jax.random.key(1))
    only = dataclasses.replace(e, alive=e.alive & (jnp.arange(3) == agent))

    def loss(actor):
        return algorithm._actor_loss(actor, learned.online.critics, learned, only, key=jax.random.key(2))[0]

    steep = jax.jit(jax.grad(loss))(learned.online.actor).copies
    return sum(np.abs(leaf).reshape(3, -1).sum(1) for leaf in jax.tree.leaves(jax.device_get(steep)))


@pytest.mark.parametrize("spec", [VECTORS, CHOICES])
def test_the_others_actions_are_those_that_were_taken(spec):
    """The critic of agent 1 moves the actor of agent 1 and no other."""
    steep = reach_of(maddpg(sharing="own", restraint=0.0, **TINY), spec, 1)
    assert steep[1] > 1e-4
    np.testing.assert_array_equal(steep[[0, 2]], 0.0)


def test_a_joined_value_moves_all_actors_at_once():
    algorithm = facmac(sharing="own", restraint=0.0, **TINY)
    learned, e = begun(algorithm, VECTORS), sequences(algorithm, VECTORS, key=jax.random.key(1))
    loss = lambda actor: algorithm._actor_loss(actor, learned.online.critics, learned, e, key=jax.random.key(2))[0]  # noqa: E731
    steep = jax.jit(jax.grad(loss))(learned.online.actor).copies.last.weight
    assert (np.abs(steep).sum((1, 2)) > 1e-6).all()


def test_two_critics_are_two():
    algorithm = matd3(**TINY)
    learned = begun(algorithm, VECTORS)
    one, two = learned.online.critics.teams
    assert moved(one.copies.last.weight, two.copies.last.weight)[0] > 0.01
    e = sequences(algorithm, VECTORS, key=jax.random.key(1))
    targets = jax.jit(lambda learned: algorithm._targets(learned, e, key=jax.random.key(2)))

    def promising(bias):
        first = lambda learned: learned.target.critics.teams[0].copies.last.bias  # noqa: E731
        return targets(eqx.tree_at(first, learned, jnp.full((1, 1), bias)))

    # Of the two the lower is believed: one that promises everything changes little, one that fears everything all.
    assert moved(promising(100.0), targets(learned))[0] < 10
    assert np.asarray(promising(-100.0)).max() < -80


@pytest.mark.parametrize("spec", [CHOICES, VECTORS])
@pytest.mark.parametrize(("make", "soft"), [(masac, True), (maddpg, False)])
def test_soft_actors_are_judged_by_what_they_do_now(make, soft, spec):
    """And the others by what their target does: the one that is not asked changes nothing."""
    algorithm = make(**TINY)
    learned = begun(algorithm, spec)
    e = sequences(algorithm, spec, key=jax.random.key(1))
    targets = jax.jit(lambda learned: algorithm._targets(learned, e, key=jax.random.key(2)))
    moved = lambda nets: jax.tree.map(lambda leaf: leaf + 1.0, nets.actor)  # noqa: E731
    now = eqx.tree_at(lambda learned: learned.online.actor, learned, moved(learned.online))
    before = eqx.tree_at(lambda learned: learned.target.actor, learned, moved(learned.target))
    same = lambda changed: np.allclose(targets(changed), targets(learned), atol=1e-6)  # noqa: E731
    assert (same(now), same(before)) == (not soft, soft)


def noted(algorithm, compute):
    """What `compute` returns, and the actions and log-probabilities that were chosen meanwhile."""
    chosen, choose = [], type(algorithm)._chosen

    def choosing(*arguments, **options):
        chosen.append(choose(*arguments, **options))
        return chosen[-1]

    with mock.patch.object(type(algorithm), "_chosen", choosing):
        return compute(), *chosen[-1]


@pytest.mark.parametrize("make", [maddpg, matd3, facmac, masac])
def test_what_may_not_be_chosen_next_is_in_no_target(make):
    algorithm = make(length=6, **TINY)
    learned = begun(algorithm, CHOICES)
    e = experience_of(imagined(CHOICES, 6, 4, ends=0.3, key=jax.random.key(1)), CHOICES)
    _, action, _ = noted(algorithm, lambda: algorithm._targets(learned, e, key=jax.random.key(2)))
    legal = np.asarray(e.next.available)
    assert not legal.all()
    np.testing.assert_allclose(action.sum(-1), 1.0, atol=1e-6)
    assert np.abs(action)[~legal].max() < 1e-6


@pytest.mark.parametrize("spec", [CHOICES, VECTORS])
def test_soft_actors_are_paid_for_the_entropy_to_come_and_for_their_own(spec):
    algorithm = masac(restraint=0.0, **TINY)
    learned, e = begun(algorithm, spec), sequences(algorithm, spec, key=jax.random.key(1))

    def targets_and_loss(temperature):
        warm = dataclasses.replace(learned, log_temperature=jnp.log(jnp.float32(temperature)))
        targets, _, next_log_prob = noted(algorithm, lambda: algorithm._targets(warm, e, key=jax.random.key(2)))
        loss = lambda: algorithm._actor_loss(  # noqa: E731
            warm.online.actor, warm.online.critics, warm, e, key=jax.random.key(3)
        )[0]
        return targets, next_log_prob, *noted(algorithm, loss)[::2]

    cold, warm = targets_and_loss(1e-9), targets_and_loss(0.5)
    np.testing.assert_allclose(warm[0] - cold[0], -algorithm.discount * 0.5 * warm[1], rtol=1e-4, atol=1e-5)
    assert np.abs(warm[1]).min() > 0
    np.testing.assert_allclose(warm[2] - cold[2], 0.5 * warm[3].mean(), rtol=1e-4, atol=1e-5)


def test_matd3_smooths_what_targets_do_within_bounds_and_nothing_else():
    outputs, legal = jnp.zeros((50, 4, 3, 2)), jnp.ones((50, 4, 3, 2), bool)
    chosen = lambda algorithm, exploring: np.asarray(  # noqa: E731
        algorithm._chosen(VECTORS, outputs + 0.5, legal, key=jax.random.key(0), exploring=exploring)[0]
    )
    algorithm = matd3(smoothing=0.1, **TINY)
    noise = chosen(algorithm, False) - np.tanh(0.5)
    assert noise.std() == pytest.approx(0.1, rel=0.1)
    assert np.abs(noise).max() == pytest.approx(0.2, abs=1e-6), "cut off at twice the spread"
    np.testing.assert_allclose(chosen(algorithm, True), np.tanh(0.5), rtol=1e-6)
    np.testing.assert_allclose(chosen(maddpg(**TINY), False), np.tanh(0.5), rtol=1e-6)


def test_actors_and_targets_wait_for_their_turn():
    algorithm = matd3(length=4, batch=4, target_rate=0.5, **TINY)
    learned = begun(algorithm, VECTORS)
    replay = replay_of(algorithm, learned)
    improve = jax.jit(
        lambda learned, key: algorithm._improve(dataclasses.replace(learned, replay=()), replay, None, key=key)[0]
    )
    once = improve(learned, jax.random.key(2))
    assert same(once.online.actor, learned.online.actor)
    assert same(once.actor_optimiser, learned.actor_optimiser)
    assert same(once.target, learned.target)
    assert not same(once.online.critics, learned.online.critics)
    twice = improve(once, jax.random.key(3))
    assert not same(twice.online.actor, learned.online.actor)
    middle = jax.tree.map(lambda old, new: old + 0.5 * (new - old), *jax.device_get((learned.target, twice.online)))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7), twice.target, middle)


# --- ends, the dead, memories ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("make", "known", "options"), [(matd3, True, dict(length=4, memory=3))])
def test_the_endless_game_is_worth_ten(make, known, options):
    """The clock cannot be seen: a critic that takes it for a death fits the mean over the clock, below 6.5132."""
    base = dict(
        envs=8, length=10, batch=16, capacity=800, discount=0.9, learning_rate=5e-3, target_rate=0.05, updates=4
    )
    algorithm = make(**(base | dict(hidden=(16,), warmup=0, learning_rate_end=1e-3, noise_steps=1) | options))

    def value(env, learned):
        e = learned.replay.sample(32, key=jax.random.key(1))
        taken = as_vectors(env.spec, e.action, e.now.available)
        alive = jnp.ones_like(e.alive)
        return learned.online.critics.values(e.now.obs, e.now.state, taken, taken, alive)[0].mean()

    ((cut,), (dead,)) = values_of(algorithm, 2_500 * algorithm.length, value, known=known)
    assert cut == pytest.approx(10.0, rel=0.05)
    assert dead < 7.0


@pytest.mark.parametrize(("make", "n"), [(maddpg, 1), (masac, 2), (facmac, 5)])
def test_the_dead_are_not_trained_on_and_nothing_follows_them(make, n):
    spec = dataclasses.replace(VECTORS, num_agents=n, kinds=(), teams=(), names=())
    algorithm = make(length=7, **TINY)
    learned, e = begun(algorithm, spec), sequences(algorithm, spec, key=jax.random.key(1))
    e = dataclasses.replace(e, alive=e.alive.at[2:].set(False), next_alive=e.next_alive.at[1:].set(False))

    @jax.jit
    def losses(e):
        targets = algorithm._targets(learned, e, key=jax.random.key(2))
        critic, _ = algorithm._critic_loss(learned.online.critics, spec, e, targets)
        actor, _ = algorithm._actor_loss(
            learned.online.actor, learned.online.critics, learned, e, key=jax.random.key(3)
        )
        return jnp.stack([critic, actor]), targets

    before, targets = losses(e)

    def other(since, by):
        return dataclasses.replace(e, seen=dataclasses.replace(e.seen, obs=e.seen.obs.at[since].add(by)))

    later, _ = losses(dataclasses.replace(other(slice(2, None), 9.0), reward=e.reward.at[2:].add(9.0)))
    np.testing.assert_array_equal(before, later)
    np.testing.assert_allclose(targets[1], algorithm.mixer.share(e.reward)[1], rtol=1e-6)  # they died there
    assert not np.allclose(targets[0], algorithm.mixer.share(e.reward)[0])
    assert (before != losses(other(0, 1.0))[0]).all()


def test_the_others_dead_are_silent_and_components_one_does_not_have_are_nought():
    algorithm = maddpg(**TINY)
    learned, e = begun(algorithm, VECTORS), sequences(algorithm, VECTORS, key=jax.random.key(1))
    now = e.now

    @jax.jit
    def value(action, alive, available):
        taken = as_vectors(VECTORS, action, available)
        return learned.online.critics.values(now.obs, now.state, taken, taken, alive)[0]

    dead = e.alive.at[:, :, 2].set(False)
    moved = e.action.at[:, :, 2].set(0.5)
    np.testing.assert_array_equal(value(e.action, dead, now.available), value(moved, dead, now.available))
    unlike = value(e.action, e.alive, now.available), value(moved, e.alive, now.available)
    assert not np.allclose(unlike[0][..., 0], unlike[1][..., 0])
    short = now.available.at[:, :, 2].set(False)
    np.testing.assert_array_equal(value(e.action, e.alive, short), value(moved, e.alive, short))


@pytest.mark.parametrize("sharing", ["shared", "own"])
def test_replaying_a_sequence_reproduces_the_memories_of_acting(sharing):
    env, algorithm = Endless(), maddpg(length=9, memory=5, sharing=sharing, **TINY)

    @jax.jit
    def made():
        learned = algorithm.init(env.spec, key=jax.random.key(0))
        world = opening(env, algorithm, learned, 3, key=jax.random.key(1))
        run = partial(rollout, env, algorithm, learned)
        world, tally, _ = run(world, Tally.empty(3, 2), 4, key=jax.random.key(2))
        after, _, played = run(world, tally, 9, key=jax.random.key(3))
        e = experience_of(played, env.spec)
        return e, learned.online.actor.unroll(e.memory, e.now.obs, e.first)[0], after.memory

    e, replayed, after = made()
    assert e.first[1:].any()
    assert float(jnp.abs(e.memory).max()) > 0
    np.testing.assert_allclose(replayed[-1], after, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("length", "known"), [(6, True), (6, False), (2, True)])
def test_targets_of_a_sequence_are_those_of_its_steps_one_by_one(length, known):
    algorithm = iddpg(memory=4, hidden=(8,), envs=2, length=length)
    learned, rollouts = spread_out(algorithm, known=known)

    @jax.jit
    def targets(played):
        e = experience_of(played, learned.spec)
        memories, _ = learned.target.actor.unroll(e.memory, e.now.obs, e.first)
        of = lambda e: algorithm._targets(learned, e, key=jax.random.key(4))  # noqa: E731
        alone = lambda memories: of(step_by_step(e, memories))  # noqa: E731
        return of(e), alone(memories), alone(1 - memories), alone(jnp.roll(memories, 1, axis=0))

    for played in rollouts:
        whole, single, other, rolled = targets(played)
        whole = whole.reshape(single.shape)
        np.testing.assert_allclose(whole, single, rtol=1e-5, atol=1e-6)
        assert not np.allclose(whole, other, rtol=1e-5, atol=2e-4)
        # Memories of two steps are too much alike for this control.
        assert length == 2 or not np.allclose(whole, rolled, rtol=1e-5, atol=2e-4)


# --- entropy ---------------------------------------------------------------------------------------------------------


def test_the_entropy_sought_is_each_agents_own():
    """Minus two nats for two components, however many agents there are; less for who has fewer."""
    algorithm = masac(**TINY)
    legal = jnp.ones((2, 3, 5, 2), bool).at[:, :, 4, 1].set(False)
    sought = algorithm._sought(VECTORS, legal)
    np.testing.assert_array_equal(sought[0, 0], [-2, -2, -2, -2, -1])
    np.testing.assert_allclose(algorithm._sought(CHOICES, jnp.ones((1, 1, 3, 4), bool)), 0.3 * np.log(4), rtol=1e-6)


def test_the_temperature_rises_while_there_is_too_little_entropy():
    algorithm = masac(length=4, batch=4, learning_rate=1e-2, **TINY)
    learned = begun(algorithm, VECTORS)
    replay = replay_of(algorithm, learned)

    @jax.jit
    def temperature(wider):
        bias = learned.online.actor.copies.last.bias.at[:, 2:].set(wider)
        set_to = eqx.tree_at(lambda learned: learned.online.actor.copies.last.bias, learned, bias)
        return algorithm._improve(dataclasses.replace(set_to, replay=()), replay, None, key=jax.random.key(2))[
            0
        ].log_temperature

    assert temperature(-4.0) > learned.log_temperature
    assert temperature(0.0) < learned.log_temperature


def test_what_does_not_fit_is_refused_with_the_cure():
    two = dataclasses.replace(VECTORS, teams=(0, 1, 1))
    with pytest.raises(MarletError, match=r"2 teams.*maddpg"):
        facmac().check(two)
    for make in (maddpg, iddpg, matd3, masac):
        make().check(two)
        make().check(CHOICES)
