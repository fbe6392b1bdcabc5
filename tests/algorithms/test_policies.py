"""Policy gradients: exact gradients, ends, memories, the sequential factor, and what is refused."""

import dataclasses
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from endless import Endless, values_of
from many_runs import begun, said, spread_out

from marlet.algorithms.policies import ia2c, ippo, maa2c, mapg, mappo
from marlet.algorithms.policies_in_turns import happo
from marlet.algorithms.policy_gradient import Lessons, PolicyGradient
from marlet.engine.rollout import Tally, opening, rollout
from marlet.envs.matrix import Matrix, nested
from marlet.errors import MarletError
from marlet.parts.heads import Categorical, Gaussian, Squashed
from marlet.parts.normalisers import PopArt, Raw, Running
from marlet.types import Spec

TINY = dict(hidden=(8,))
CLIMBING = np.array([[11, -30, 0], [-30, 7, 6], [0, 0, 5]], np.float32)

pytestmark = pytest.mark.rough


def play(env, algorithm, learned, steps, *, key, warm=0):
    """A rollout, after `warm` steps that are not kept; and the world after it."""
    world = opening(env, algorithm, learned, algorithm.envs, key=jax.random.fold_in(key, 0))
    tally = Tally.empty(algorithm.envs, env.spec.num_agents)
    if warm:
        world, tally, _ = rollout(env, algorithm, learned, world, tally, warm, key=jax.random.fold_in(key, 1))
    world, _, played = rollout(env, algorithm, learned, world, tally, steps, key=jax.random.fold_in(key, 2))
    return played, world


@partial(jax.jit, static_argnames=("algorithm", "env"))
def first_rollout(algorithm, env):
    """A fresh learner and a rollout of its own."""
    learned = algorithm.init(env.spec, key=jax.random.key(0))
    return learned, play(env, algorithm, learned, algorithm.length, key=jax.random.key(1), warm=3)[0]


@partial(jax.jit, static_argnames="algorithm")
def taken(algorithm, learned, played):
    """What is learned of a rollout before the networks are."""
    return algorithm._lessons(learned, played)[:2]


def lessons_of(algorithm, env, *, alter=lambda played: played):
    """What a fresh learner takes from a rollout of its own, and that rollout."""
    learned, played = first_rollout(algorithm, env)
    return *taken(algorithm, learned, alter(played)), played


# --- gradients -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [mapg, ia2c, ippo, happo])
def test_the_gradient_at_the_uniform_policy_is_exact(make):
    """All nine joint actions of the climbing game, each once: pi_a (q_a - v) for every agent."""
    algorithm = make(sharing="own", hidden=(4,), entropy=0.0, entropy_end=0.0)
    env = Matrix(payoff=tuple(map(tuple, CLIMBING)))
    learned = begun(algorithm, env.spec)
    actor = jax.tree.map(np.zeros_like, learned.actor)
    joint = np.stack(np.meshgrid(range(3), range(3), indexing="ij"), -1).reshape(1, 9, 2)
    ones = np.ones((1, 9, 2), np.float32)
    lessons = Lessons(
        obs=ones[..., None],
        seen=ones[..., None],
        available=np.ones((1, 9, 2, 3), bool),
        action=joint,
        log_prob=np.log(ones / 3),
        advantage=CLIMBING[joint[..., 0], joint[..., 1]][..., None] * ones,
        value=ones,
        target=ones,
        acts=np.ones((1, 9, 2), bool),
        counts=np.ones((1, 9, 2), bool),
        first=np.ones((1, 9), bool),
        actor_memory=np.zeros((1, 9, 2, 0), np.float32),
        critic_memory=np.zeros((1, 9, 2, 0), np.float32),
    )

    def loss(actor, lessons):
        return algorithm._actor_loss(learned, lessons.chosen_by(actor), lessons, jax.random.key(0))[0]

    gradient = -2 * np.asarray(jax.jit(jax.grad(loss))(actor, lessons).copies.last.bias)  # a mean over two agents
    for agent, table in enumerate((CLIMBING, CLIMBING.T)):
        values = table.mean(1)
        np.testing.assert_allclose(gradient[agent], (values - values.mean()) / 3, atol=1e-5)
    np.testing.assert_allclose(gradient[0], (-0.96296, -0.74074, 1.70370), atol=1e-5)


def test_no_pass_profits_beyond_the_clip():
    """Ratio 1.5 with a gain, ratio .5 with a loss: held; the other two ways: pulled back."""
    algorithm = ippo(clip=0.2, entropy=0.0, entropy_end=0.0, **TINY)
    _, lessons, _ = lessons_of(algorithm, Matrix())
    learned = begun(algorithm, Matrix().spec)

    @jax.jit
    def steepness(shift, advantage):
        moved = dataclasses.replace(
            lessons, log_prob=lessons.log_prob - shift, advantage=jnp.full_like(lessons.advantage, advantage)
        )
        loss = lambda actor: algorithm._actor_loss(learned, moved.chosen_by(actor), moved, jax.random.key(0))[0]  # noqa: E731
        return sum(jnp.abs(leaf).sum() for leaf in jax.tree.leaves(jax.grad(loss)(learned.actor)))

    # `lessons` hold the log-probabilities of the first round; the fresh actor of the same key gives the same.
    assert steepness(np.log(1.5), 1.0) == 0
    assert steepness(np.log(0.5), -1.0) == 0
    assert steepness(np.log(1.5), -1.0) > 0
    assert steepness(np.log(0.5), 1.0) > 0


# The critic says v. An error of e is e^2 / 2; beyond `huber` it grows linearly; and who has moved by more than `value_clip`
# from what was said is judged by the farthest it may have moved, where that is worse.
@pytest.mark.parametrize(
    ("options", "said_before", "error", "loss"),
    [
        ({}, 1.0, 3.0, 4.5),
        ({"huber": 1.0}, 1.0, 3.0, 2.5),
        ({"huber": 1.0}, 1.0, 0.5, 0.125),
        ({"value_clip": 0.2}, -1.0, 0.0, 0.32),
        ({"value_clip": 0.2}, 0.1, 0.0, 0.0),
        ({"value_clip": 0.2, "huber": 0.5}, -1.0, 0.0, 0.275),
    ],
)
def test_the_critics_loss_is_square_huber_or_clipped(options, said_before, error, loss):
    algorithm = ippo(envs=2, length=2, minibatches=1, **options, **TINY)
    learned, lessons, _ = lessons_of(algorithm, Matrix())
    value = lessons.judged_by(learned.critic)
    lessons = dataclasses.replace(lessons, value=value + said_before, target=value + error)
    np.testing.assert_allclose(algorithm._critic_loss(value, lessons)[0], loss, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(("steps", "weight"), [(0, 0.4), (50, 0.25), (100, 0.1), (500, 0.1)])
def test_entropy_is_worth_its_weight_of_the_hour(steps, weight):
    algorithm = ippo(envs=2, length=2, minibatches=1, entropy=0.4, entropy_end=0.1, entropy_steps=100, **TINY)
    learned, lessons, _ = lessons_of(algorithm, Matrix())
    learned = dataclasses.replace(learned, steps=jnp.int32(steps))
    lessons = dataclasses.replace(lessons, advantage=jnp.zeros_like(lessons.advantage))
    loss, told = algorithm._actor_loss(learned, lessons.chosen_by(learned.actor), lessons, jax.random.key(0))
    assert told["entropy"] > 1
    np.testing.assert_allclose(loss, -weight * told["entropy"], rtol=1e-6)


@pytest.mark.parametrize("advantage", [1.0, 0.0, -1.0])
@pytest.mark.parametrize("shift", [200.0, -200.0])
def test_a_policy_that_has_moved_very_far_still_has_a_gradient(shift, advantage):
    algorithm = ippo(envs=2, length=2, minibatches=1, **TINY)
    learned, lessons, _ = lessons_of(algorithm, Matrix())
    moved = dataclasses.replace(
        lessons, log_prob=lessons.log_prob - shift, advantage=jnp.full_like(lessons.advantage, advantage)
    )
    loss = lambda actor: algorithm._actor_loss(learned, moved.chosen_by(actor), moved, jax.random.key(0))[0]  # noqa: E731
    value, gradient = jax.value_and_grad(loss)(learned.actor)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((value, gradient)))


@pytest.mark.parametrize("memory", [0, 4])
def test_each_agent_learns_from_what_those_before_it_changed(memory, monkeypatch):
    """Three agents in a random order, each dead at some entries: advantages are multiplied by how much likelier those
    before have made their own actions, where they acted.

    Learning is replaced by a step that can be read off: it adds the mean of the advantages that count to the bias of the
    first action.
    """
    env = Matrix(payoff=nested(np.tile(np.arange(8.0).reshape(2, 2, 2) % 5, (3, 1, 1, 1))))
    algorithm = happo(envs=6, length=1, minibatches=1, standardise=False, memory=memory, **TINY)
    learned, lessons, _ = lessons_of(algorithm, env)
    acts = jnp.arange(18).reshape(1, 6, 3) % 4 != 1
    lessons = dataclasses.replace(lessons, acts=acts)
    biases = lambda team: team.copies.last.bias  # noqa: E731

    def readable(self, loss, learned, teams, states, given, axis, *, key):
        (team,), mean = teams, (given.advantage * given.acts).mean((0, 1))
        return (eqx.tree_at(biases, team, biases(team).at[:, 0].add(mean)),), states, {}

    monkeypatch.setattr(PolicyGradient, "_descend", readable)
    key = jax.random.key(5)
    actor = jax.jit(lambda learned, lessons: algorithm._in_turns(learned, lessons, None, key=key)[0])(learned, lessons)
    found = np.asarray(biases(actor) - biases(learned.actor))

    @jax.jit
    def ratio_of(team, lessons):
        return jnp.exp(
            Categorical().log_prob(lessons.chosen_by(team), lessons.available, lessons.action) - lessons.log_prob
        )

    team, factor = learned.actor, np.ones((1, 6))
    for place, agent in enumerate(np.asarray(jax.random.permutation(jax.random.split(key)[0], 3))):
        plain = np.asarray(lessons.advantage * acts)[..., agent]
        expected = (factor * plain).mean()
        np.testing.assert_allclose(found[agent], [expected, 0], rtol=1e-4, atol=1e-6)
        assert place == 0 or abs(expected - plain.mean()) > 0.01  # without the factor it is another
        team = eqx.tree_at(biases, team, biases(team).at[agent, 0].add(expected))
        factor = factor * np.where(acts, ratio_of(team, lessons), 1.0)[..., agent]


# --- ends ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "known", "options"),
    [
        (ippo, True, dict(normaliser=PopArt())),
        (mappo, False, dict(normaliser=Running(), huber=1.0)),
        (ia2c, True, dict(normaliser=Raw(), length=7)),
        (maa2c, True, dict(sharing="own", memory=4, decay=0.6, epochs=4, minibatches=2)),
        (mapg, False, dict(value_clip=0.5)),
        (ippo, True, dict(critic_sees="hidden", memory=4, normaliser=PopArt())),
    ],
)
def test_the_endless_game_is_worth_ten(make, known, options):
    """The clock cannot be seen: a critic that takes it for a death fits the mean over the clock, below 6.5132."""
    base = dict(envs=8, length=10, discount=0.9, learning_rate=5e-3, learning_rate_end=5e-4, learning_rate_steps=24_000)

    algorithm = make(**(base | TINY | options))

    def value(env, learned):
        played, _ = play(env, algorithm, learned, 10, key=jax.random.key(1))
        return algorithm._lessons(learned, played)[2]["value"]

    ((cut,), (dead,)) = values_of(algorithm, 32_000, value, known=known)
    assert cut == pytest.approx(10.0, rel=0.03)
    assert dead < 7.0


@pytest.mark.parametrize("normaliser", [PopArt(rate=0.5), Running(rate=0.5), Raw()])
def test_values_move_from_what_the_critic_says_when_learning_begins(normaliser):
    """`value_clip` holds them near it; statistics that have moved on must not look like a move of the critic."""
    algorithm = ippo(envs=2, length=3, minibatches=1, normaliser=normaliser, **TINY)
    after, lessons, _ = lessons_of(algorithm, Endless())
    np.testing.assert_allclose(lessons.judged_by(after.critic), lessons.value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "options",
    [dict(memory=4, hidden_after=(3, 2)), dict(memory=4, sharing="own"), dict(hidden=(8, 3), hidden_after=(5,))],
)
def test_a_critic_of_what_the_actor_holds_is_another_last_layer_of_the_actor(options):
    """Values are made of the actor's memory or hidden layer, and its gradient reaches what the two share."""
    algorithm = ippo(critic_sees="hidden", envs=3, length=5, minibatches=1, **(TINY | options))
    learned, played = first_rollout(algorithm, Endless())
    t = played.transitions

    @jax.jit
    def said(actor, critic):
        """What is asked of the one and of the other, each by itself."""
        net = actor.copies
        if net.gru is None:
            held = jax.tree.map(lambda leaf: leaf[0], net).features(actor._seen(t.now.obs))
        else:
            held, _ = actor.unroll(played.memory[0], t.now.obs, t.first)
        return critic.step(jnp.zeros((*held.shape[:-1], 0)), held)[1][..., 0]

    after, lessons = taken(algorithm, learned, played)
    value = said(learned.actor, learned.critic)
    worth = lambda statistics, critic, value: algorithm.normaliser.real(statistics, critic, value.reshape(5, 3, 2))  # noqa: E731
    np.testing.assert_allclose(
        worth(after.statistics, after.critic, lessons.value),
        worth(learned.statistics, learned.critic, value),
        atol=1e-4,
    )

    def apart(teams):
        actor, critic = teams
        acting, _ = algorithm._actor_loss(after, lessons.chosen_by(actor), lessons, jax.random.key(0))
        value = said(actor, critic).reshape(lessons.value.shape)
        return acting + algorithm._critic_loss(value, lessons)[0]

    teams = (after.actor, after.critic)
    expected = jax.jit(jax.grad(apart))(teams)
    found = jax.jit(jax.grad(lambda teams: algorithm._both_losses(after, teams, lessons, jax.random.key(0))[0]))(teams)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), found, expected)
    judging = jax.grad(
        lambda actor: algorithm._critic_loss(said(actor, after.critic).reshape(lessons.value.shape), lessons)[0]
    )
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(judging(after.actor).copies.layers)) > 1e-4


@pytest.mark.parametrize(("length", "known"), [(6, True), (6, False), (2, True)])
def test_targets_without_a_trace_are_the_reward_and_what_the_next_step_is_worth(length, known):
    algorithm = mappo(
        memory=4,
        envs=2,
        length=length,
        minibatches=1,
        decay=0.0,
        discount=0.9,
        reward_scale=0.1,
        normaliser=Raw(),
        **TINY,
    )
    learned, rollouts = spread_out(algorithm, known=known)

    @jax.jit
    def made(played):
        t = played.transitions
        memories, _ = learned.critic.unroll(played.memory[1], algorithm._seen(t.now), t.first)
        worth = lambda memories: learned.critic.step(memories, algorithm._seen(t.next))[1][..., 0]  # noqa: E731
        return algorithm._lessons(learned, played)[1].target, worth(memories), worth(jnp.roll(memories, 1, axis=0))

    for played in rollouts:
        target, worth, control = made(played)
        np.testing.assert_allclose(target, 0.1 * played.transitions.next.reward + 0.9 * worth, rtol=1e-4, atol=1e-5)
        assert not np.allclose(worth, control, atol=1e-3)


def dying(played):
    """The same rollout in which agent 0 dies at the third step of five, while the others live on."""
    t = played.transitions
    now = t.now.alive.at[3:, :, 0].set(False)
    next = t.next.alive.at[2:, :, 0].set(False)
    return dataclasses.replace(
        played,
        transitions=dataclasses.replace(
            t, now=dataclasses.replace(t.now, alive=now), next=dataclasses.replace(t.next, alive=next)
        ),
    )


def test_the_dead_teach_nothing():
    """What is noted of an agent after its death changes neither its own lessons nor the others'."""
    algorithm = ippo(envs=3, length=5, memory=2, standardise=True, **TINY)

    def later(played, by):
        t = dying(played).transitions
        reward = t.next.reward.at[3:, :, 0].add(by)
        obs = t.next.obs.at[2:, :, 0].add(by)
        changed = dataclasses.replace(t, next=dataclasses.replace(t.next, reward=reward, obs=obs))
        return dataclasses.replace(played, transitions=changed)

    env = Endless()
    _, one, _ = lessons_of(algorithm, env, alter=partial(later, by=0.0))
    _, other, _ = lessons_of(algorithm, env, alter=partial(later, by=9.0))
    for name in ("advantage", "target"):
        kept = np.asarray(one.acts)
        np.testing.assert_array_equal(np.asarray(getattr(one, name))[kept], np.asarray(getattr(other, name))[kept])
    assert not one.acts[3:, :, 0].any()
    _, control, _ = lessons_of(algorithm, env, alter=lambda played: dying(later(played, 9.0)))
    assert not np.allclose(control.target[3:, :, 0], one.target[3:, :, 0])  # it was there to be seen


def test_a_teams_reward_goes_on_until_its_last_member_is_dead():
    algorithm = mappo(envs=2, length=5, team_reward=True, discount=0.9, sees_index=False, **TINY)

    def paid(played):
        t = dying(played).transitions
        reward = jnp.zeros_like(t.next.reward).at[4, :, 1].set(4.0)
        changed = dataclasses.replace(t, next=dataclasses.replace(t.next, reward=reward))
        return dataclasses.replace(played, transitions=changed)

    after, lessons, _ = lessons_of(algorithm, Endless(), alter=paid)
    returns = algorithm.normaliser.real(after.statistics, after.critic, lessons.target).reshape(5, 2, 2)
    # Agent 0 is dead when its mate earns 4: its own entry at step 2 has its share of it all the same.
    assert lessons.counts.reshape(5, 2, 2)[4, :, 0].all()
    np.testing.assert_allclose(returns[..., 0], returns[..., 1], atol=1e-3)


# --- memories, axes, heads -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sharing", ["shared", "own"])
def test_replaying_a_rollout_reproduces_what_was_done(sharing):
    """The log-probabilities noted when acting, from the memories the rollout began with, ends inside."""
    algorithm = mappo(envs=3, length=9, memory=5, minibatches=1, sharing=sharing, **TINY)
    learned, lessons, played = lessons_of(algorithm, Endless())

    @jax.jit
    def replayed(memory, first):
        _, outputs = learned.actor.unroll(memory, lessons.obs, first)
        return Categorical().log_prob(outputs, lessons.available, lessons.action)

    assert float(jnp.abs(lessons.actor_memory).max()) > 0
    assert played.transitions.first[1:].any()
    again = replayed(lessons.actor_memory[0], lessons.first)
    np.testing.assert_allclose(again, lessons.log_prob, rtol=1e-5, atol=1e-6)
    blank = replayed(jnp.zeros_like(lessons.actor_memory[0]), lessons.first)
    unbroken = replayed(lessons.actor_memory[0], jnp.zeros_like(lessons.first))
    assert not np.allclose(blank, lessons.log_prob, atol=1e-7)
    assert not np.allclose(unbroken, lessons.log_prob, atol=1e-7)


def test_single_steps_are_the_rollouts_own_entries():
    """T = 4, B = 3, n = 2: entry (t, b) is row 3 t + b, for every field."""
    algorithm = mappo(envs=3, length=4, minibatches=2, **TINY)
    _, lessons, played = lessons_of(algorithm, Endless())
    t = played.transitions
    assert lessons.obs.shape == (1, 12, 2, 1)
    assert lessons.seen.shape == (1, 12, 2, 2)
    for entry, noted in ((lessons.action, t.action), (lessons.log_prob, t.extra["log_prob"])):
        np.testing.assert_array_equal(entry[0], np.asarray(noted).reshape(12, 2))
    np.testing.assert_array_equal(lessons.first[0], np.asarray(t.first).reshape(12))


@pytest.mark.parametrize("head", [Gaussian(), Squashed()])
def test_vectors_are_drawn_and_greedy_ones_do_not_depend_on_the_key(head):
    spec = Spec(num_agents=2, num_actions=3, obs_shape=(4,), state_size=5, continuous=True, kinds=(0, 1))
    algorithm = mappo(head=head, sharing="kinds", envs=3, **TINY)
    learned = begun(algorithm, spec)
    step = dataclasses.replace(said(np.ones((3, 2, 4)), actions=3), state=jnp.zeros((3, 5)))
    act = jax.jit(partial(algorithm.act, learned, algorithm.blank(learned, 3), step), static_argnames="greedy")
    one, two = (act(key=jax.random.key(k), greedy=True)[1] for k in (0, 1))
    assert one.shape == (3, 2, 3)
    np.testing.assert_array_equal(one, two)
    assert not np.allclose(act(key=jax.random.key(0))[1], act(key=jax.random.key(1))[1])


def test_what_does_not_fit_is_refused_with_the_cure():
    teams = Spec(num_agents=2, num_actions=2, obs_shape=(4,), state_size=1, teams=(0, 1))
    with pytest.raises(MarletError, match=r"2 teams.*ippo or mappo"):
        happo().check(teams)
    with pytest.raises(MarletError, match="Set sharing to 'own'"):
        happo(sharing="shared").check(Endless().spec)
    with pytest.raises(MarletError, match="Set critic_sees to 'obs'"):
        happo(critic_sees="hidden").check(Endless().spec)
    with pytest.raises(MarletError, match="Use more envs, or fewer minibatches"):
        ippo(envs=2, length=1).check(teams)
    with pytest.raises(MarletError, match=r"vectors of size 2.*squashed"):
        ippo(head=Categorical()).check(dataclasses.replace(teams, continuous=True))
    ippo().check(teams)
