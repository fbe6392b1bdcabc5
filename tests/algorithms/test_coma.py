"""COMA: counterfactual identities, targets at the ends, what the critic sees, and what is refused."""

import dataclasses
from functools import partial

import endless
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from endless import Endless
from many_runs import begun, moved, said, same

from marlet.algorithms.coma import Lessons, _actor_loss, coma, counterfactual, seen_by_critic, values_of
from marlet.engine.rollout import Tally, opening, rollout
from marlet.equations.distributions import log_chances
from marlet.errors import MarletError
from marlet.types import Spec

TINY = dict(hidden=(8,), critic_hidden=(16,))
CLIMBING = np.array([[11, -30, 0], [-30, 7, 6], [0, 0, 5]], np.float32)

pytestmark = pytest.mark.rough


def play(env, algorithm, learned, steps, *, key):
    """A rollout that begins three steps into an episode."""
    first_key, warm_key, play_key = jax.random.split(key, 3)
    world = opening(env, algorithm, learned, algorithm.envs, key=first_key)
    tally = Tally.empty(algorithm.envs, env.spec.num_agents)
    world, tally, _ = rollout(env, algorithm, learned, world, tally, 3, key=warm_key)
    return rollout(env, algorithm, learned, world, tally, steps, key=play_key)[2]


# --- the counterfactual ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 5])
def test_the_advantage_is_nought_on_average_whatever_the_others_do(n):
    draws = np.random.default_rng(n)
    values, logits = draws.normal(size=(2, 7, 3, n, 4)).astype(np.float32)
    log_chance = jax.jit(log_chances)(logits, np.broadcast_to([True, True, True, False], logits.shape))
    advantage = jax.jit(counterfactual)
    by_action = np.stack([advantage(values, log_chance, np.full((7, 3, n), a, np.int32)) for a in range(4)], -1)
    np.testing.assert_allclose((np.exp(log_chance) * by_action).sum(-1), 0.0, atol=1e-5)
    # An illegal action's value is not in the baseline.
    values[..., 3] += 100.0
    other = advantage(values, log_chance, np.zeros((7, 3, n), np.int32))
    np.testing.assert_allclose(other, by_action[..., 0], atol=1e-5)


def test_the_baseline_leaves_the_gradient_unchanged_and_it_is_exact():
    """All joint actions of the climbing game at the uniform policy: pi_a (q_a - v), with the true table as the critic."""
    joint = np.stack(np.meshgrid(range(3), range(3), indexing="ij"), -1).reshape(1, 9, 2)
    values = np.stack([CLIMBING[:, joint[0, :, 1]].T, CLIMBING[joint[0, :, 0]]], 1)[None]
    algorithm = coma(sharing="own", **TINY)
    spec = Spec(num_agents=2, num_actions=3, obs_shape=(1,), state_size=1)
    actor = jax.tree.map(np.zeros_like, begun(algorithm, spec).actor)
    uniform = np.full((1, 9, 2, 3), -np.log(3.0), np.float32)
    team = CLIMBING[joint[..., 0], joint[..., 1]][..., None] * np.ones((1, 9, 2), np.float32)
    steepness = jax.jit(jax.grad(lambda actor, lessons: _actor_loss(jnp.float32(0.0), actor, lessons)[0]))

    def gradient(advantage):
        lessons = Lessons(
            obs=np.ones((1, 9, 2, 1), np.float32),
            available=np.ones((1, 9, 2, 3), bool),
            action=joint,
            advantage=advantage,
            acts=np.ones((1, 9, 2), bool),
            first=np.ones((1, 9), bool),
            memory=np.zeros((1, 9, 2, 0), np.float32),
        )
        return -2 * np.asarray(steepness(actor, lessons).copies.last.bias)  # the loss is a mean over two agents

    with_baseline = gradient(jax.jit(counterfactual)(values, uniform, joint))
    np.testing.assert_allclose(with_baseline[0], (-0.96296, -0.74074, 1.70370), atol=1e-5)
    np.testing.assert_allclose(with_baseline, gradient(team), atol=1e-5)


def test_the_critic_sees_the_others_actions_and_never_its_own():
    rng = np.random.default_rng(0)
    step = dataclasses.replace(said(rng.normal(size=(4, 3, 2)), actions=5), state=jnp.ones((4, 6)))
    action = rng.integers(0, 5, (4, 3))
    other, nought = action.copy(), action.copy()
    other[:, 1], nought[:, 1] = (action[:, 1] + 1) % 5, 0
    seen = jax.jit(seen_by_critic)
    before, after = np.asarray(seen(step, action)), np.asarray(seen(step, other))
    assert before.shape == (4, 3, 6 + 2 + 15)
    np.testing.assert_array_equal(before[:, 1], after[:, 1])
    assert (before[:, 0] != after[:, 0]).any(-1).all()
    assert (before[:, 2] != after[:, 2]).any(-1).all()
    dead = dataclasses.replace(step, alive=step.alive.at[:, 1].set(False))
    np.testing.assert_array_equal(seen(dead, action), seen(dead, nought))


# --- ends, memories, axes --------------------------------------------------------------------------------------------


def test_the_endless_game_is_worth_ten():
    options = dict(envs=8, length=10, discount=0.9, learning_rate=3e-3, learning_rate_end=5e-4, epochs=4, **TINY)
    algorithm = coma(learning_rate_steps=40_000, **options)

    def value(env, learned):
        t = play(env, algorithm, learned, 10, key=jax.random.key(1)).transitions
        return values_of(learned.critic, seen_by_critic(t.now, t.action)).mean()

    ((cut,), (dead,)) = endless.values_of(algorithm, 48_000, value)
    assert cut == pytest.approx(10.0, rel=0.03)
    assert dead < 7.0


@partial(jax.jit, static_argnames=("algorithm", "env"))
def first_rollout(algorithm, env):
    """A fresh learner and a rollout of its own."""
    learned = algorithm.init(env.spec, key=jax.random.key(0))
    return learned, play(env, algorithm, learned, algorithm.length, key=jax.random.key(1))


@partial(jax.jit, static_argnames="algorithm")
def targets_in(algorithm, learned, played):
    """What its critic aims at."""
    memories, _ = learned.actor.unroll(played.memory, played.transitions.now.obs, played.transitions.first)
    return algorithm._targets(learned, played, memories, key=jax.random.key(2))


def target_of(change):
    """Targets of one rollout, 6 steps of 3 environments, some of whose fields are changed."""
    algorithm = coma(envs=3, length=6, decay=0.5, **TINY)
    learned, played = first_rollout(algorithm, Endless())
    played = change(played)
    return targets_in(algorithm, learned, played), played


def altered(played, **fields):
    return dataclasses.replace(played, transitions=dataclasses.replace(played.transitions, **fields))


def test_the_next_action_is_the_one_taken_at_the_next_step_of_the_same_copy():
    """Changing what copy 1 did at step 2 changes the targets of copy 1 up to step 1 and nothing else."""

    def flip(played):
        action = played.transitions.action
        return altered(played, action=action.at[2, 1].set(1 - action[2, 1]))

    (before, played), (after, _) = target_of(lambda played: played), target_of(flip)
    assert not played.transitions.first[1:3].any()
    changed = np.array(before != after)
    assert changed[:2, 1].all()
    changed[:2, 1] = False
    assert not changed.any()


def test_where_the_clock_cuts_off_the_next_episodes_action_is_not_the_next_one():
    """Another action at the first step of an episode changes no target of the episode before it."""

    def cut(played):
        return altered(played, first=played.transitions.first.at[2].set(True))

    def flip(played):
        action = cut(played).transitions.action
        return altered(cut(played), action=action.at[2, 1].set(1 - action[2, 1]))

    (before, _), (after, _), (uncut, _) = target_of(cut), target_of(flip), target_of(lambda played: played)
    np.testing.assert_array_equal(before[:2], after[:2])
    assert (np.asarray(before[1]) != np.asarray(uncut[1])).any()


def test_nothing_follows_the_death_of_all_and_the_reward_is_the_teams():
    def deadly(played):
        t = played.transitions
        reward = jnp.zeros_like(t.next.reward).at[2, :, 0].set(4.0).at[3:].set(100.0)
        alive = t.next.alive.at[2].set(False)
        return altered(
            played, next=dataclasses.replace(t.next, reward=reward, alive=alive), first=t.first.at[3].set(True)
        )

    targets, _ = target_of(deadly)
    np.testing.assert_allclose(targets[2], 2.0, rtol=1e-6)  # the mean of 4 and 0, and nothing after it
    assert (targets[:2] < 10).all()


def test_a_target_of_an_open_end_bootstraps():
    targets, played = target_of(lambda played: played)
    assert not np.allclose(targets[-1], played.transitions.next.reward[-1])


@pytest.mark.parametrize("sharing", ["shared", "own"])
def test_replaying_a_rollout_reproduces_the_memories_of_acting(sharing):
    env, algorithm = Endless(), coma(envs=3, length=9, memory=5, sharing=sharing, **TINY)

    @jax.jit
    def made():
        learned = algorithm.init(env.spec, key=jax.random.key(0))
        world = opening(env, algorithm, learned, 3, key=jax.random.key(1))
        run = partial(rollout, env, algorithm, learned)
        world, tally, _ = run(world, Tally.empty(3, 2), 4, key=jax.random.key(2))
        after, _, played = run(world, tally, 9, key=jax.random.key(3))
        t = played.transitions
        replayed, _ = learned.actor.unroll(played.memory, t.now.obs, t.first)
        forgot, _ = learned.actor.unroll(jnp.zeros_like(played.memory), t.now.obs[:2], t.first[:2])
        return played, replayed, forgot, after.memory

    played, replayed, forgot, after = made()
    assert played.transitions.first[1:].any()
    np.testing.assert_allclose(replayed[-1], after, rtol=1e-5, atol=1e-6)
    assert not np.allclose(forgot[1], replayed[1], atol=1e-6)


def test_everything_is_trained_the_target_follows_and_the_dead_teach_nothing():
    env, algorithm = Endless(), coma(envs=3, length=5, target_rate=0.25, **TINY)

    before, played = first_rollout(algorithm, env)
    now = played.transitions.now
    one_dead = altered(played, now=dataclasses.replace(now, alive=now.alive.at[:, :, 0].set(False)))
    after = jax.jit(lambda learned, played: algorithm.update(learned, played, key=jax.random.key(2))[0])(
        before, one_dead
    )
    assert min(moved(after.critic, before.critic)) > 0
    assert max(moved(after.actor, before.actor)) > 0
    quarter = jax.tree.map(lambda old, new: old + 0.25 * (new - old), *jax.device_get((before.target, after.critic)))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7), after.target, quarter)
    # The actors of the living learn the same whatever the dead one saw; only the critic's own row of it may differ.
    lessons = Lessons(
        obs=jnp.ones((5, 3, 2, 1)),
        available=jnp.ones((5, 3, 2, 2), bool),
        action=jnp.zeros((5, 3, 2), jnp.int32),
        advantage=jnp.ones((5, 3, 2)),
        acts=jnp.ones((5, 3, 2), bool).at[:, :, 0].set(False),
        first=jnp.zeros((5, 3), bool),
        memory=jnp.zeros((1, 3, 2, 0)),
    )
    gradient = jax.jit(jax.grad(lambda actor, lessons: _actor_loss(jnp.float32(0.1), actor, lessons)[0]))
    one = gradient(before.actor, lessons)
    other = gradient(before.actor, dataclasses.replace(lessons, obs=lessons.obs.at[:, :, 0].add(9.0)))
    assert same(one, other)
    third = gradient(before.actor, dataclasses.replace(lessons, obs=lessons.obs.at[:, :, 1].add(9.0)))
    assert not same(one, third)


def test_what_does_not_fit_is_refused_with_the_cure():
    spec = Spec(num_agents=2, num_actions=2, obs_shape=(4,), state_size=1)
    with pytest.raises(MarletError, match="discrete"):
        coma().check(dataclasses.replace(spec, continuous=True))
    with pytest.raises(MarletError, match=r"2 teams.*ippo or mappo"):
        coma().check(dataclasses.replace(spec, teams=(0, 1)))
    with pytest.raises(MarletError, match=r"minibatches is 7, .* 6 sequences.*fewer minibatches"):
        coma(envs=2, length=3, minibatches=7).check(spec)
    coma().check(spec)
