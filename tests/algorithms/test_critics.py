"""What every critic has to get right: ends, whose value is whose, units, and that the dead are not counted."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from endless import Endless
from many_runs import experience_of
from mortal import Mortal

from marlet.algorithms.coma import Lessons, Verdicts, _actor_loss, _critic_loss, coma
from marlet.algorithms.deterministic import facmac, iddpg, maddpg, masac, matd3
from marlet.algorithms.policies import ippo, maa2c, mappo
from marlet.algorithms.policies_in_turns import happo
from marlet.engine.rollout import Tally, opening, rollout
from marlet.parts.normalisers import PopArt, Running, Statistics

pytestmark = pytest.mark.rough

T, B = 15, 3
TINY = {"envs": B, "length": T, "hidden": (4,)}
DETERMINISTIC = [maddpg, iddpg, matd3, facmac, masac]
POLICIES = [ippo, maa2c, mappo, happo]
"""One for each thing a critic may see, and one whose agents earn what their team earns. IA2C is IPPO here."""
OF_TEAMS = [happo, coma, facmac]
"""Their critics say what the team earns, which goes on while one of it lives."""


def play(env, algorithm, learned, *, key=0):
    """A rollout from the beginning of episodes."""
    open_key, play_key = jax.random.split(jax.random.key(key))
    world = opening(env, algorithm, learned, B, key=open_key)
    return rollout(env, algorithm, learned, world, Tally.empty(B, env.spec.num_agents), T, key=play_key)[2]


# --- ends ------------------------------------------------------------------------------------------------------------


def saying(critic, value):
    """The same critic, but of everything it says this."""
    last = lambda team: (team.copies.last.weight, team.copies.last.bias)  # noqa: E731
    weight, bias = last(critic)
    return eqx.tree_at(last, critic, (jnp.zeros_like(weight), jnp.full_like(bias, value)))


def policy_targets(algorithm, env):
    """What the critic, which says ten, should have said, in units of reward: "T B n"."""
    learned = algorithm.init(env.spec, key=jax.random.key(0))
    learned = dataclasses.replace(learned, critic=saying(learned.critic, 10.0))
    after, lessons, _ = algorithm._lessons(learned, play(env, algorithm, learned))
    return algorithm.normaliser.real(after.statistics, after.critic, lessons.target).reshape(T, B, 2)


def coma_targets(algorithm, env):
    """The same of COMA's target network."""
    learned = algorithm.init(env.spec, key=jax.random.key(0))
    learned = dataclasses.replace(learned, target=saying(learned.target, 10.0))
    played = play(env, algorithm, learned)
    memories, _ = learned.actor.unroll(played.memory, played.transitions.now.obs, played.transitions.first)
    return algorithm._targets(learned, played, memories, key=jax.random.key(1))


def deterministic_targets(algorithm, env):
    """The same of critics of actions, all of them and what joins them; entropy is worth nothing."""
    learned = algorithm.init(env.spec, key=jax.random.key(0))
    played = play(env, algorithm, learned)
    critics = learned.target.critics
    if algorithm.mixer.joins:
        silent = jax.tree.map(jnp.zeros_like, critics.mixer)
        tens = eqx.tree_at(lambda mixer: mixer.second_bias[-1].bias, silent, jnp.full(1, 10.0))
    else:
        tens = critics.mixer
    critics = dataclasses.replace(critics, teams=tuple(saying(team, 10.0) for team in critics.teams), mixer=tens)
    learned = dataclasses.replace(
        learned, target=dataclasses.replace(learned.target, critics=critics), log_temperature=jnp.float32(-50.0)
    )
    return algorithm._targets(learned, experience_of(played, env.spec), key=jax.random.key(1))


TARGETS = {
    coma: coma_targets,
    **dict.fromkeys(POLICIES, policy_targets),
    **dict.fromkeys(DETERMINISTIC, deterministic_targets),
}
CASES = [(make, False) for make in TARGETS] + [(make, True) for make in (mappo, coma, maddpg)]


@pytest.mark.parametrize(("make", "known"), CASES)
def test_ten_is_the_value_that_reproduces_itself_in_the_endless_game(make, known):
    """Reward 1 for ever at discount .9. The clock cuts off after ten steps, and the rollout after fifteen."""
    memory = 3 if make in (mappo, coma, maddpg) else 0
    options = {"discount": 0.9, "memory": memory, **TINY} | ({} if make in DETERMINISTIC else {"decay": 1.0})
    of = jax.jit(lambda deadly: TARGETS[make](make(**options), Endless(known=known, deadly=deadly)))
    np.testing.assert_allclose(of(np.array([False, False])), 10.0, rtol=1e-4)
    if known:
        return
    # Negative control: who takes the clock for a death sees this world instead.
    deadly = np.asarray(of(np.array([True, True])))
    first = 10.0 if make in DETERMINISTIC else 6.5132
    np.testing.assert_allclose(deadly[9], 1.0, rtol=1e-4)
    np.testing.assert_allclose(deadly[0], first, rtol=1e-4)
    # The step that cuts off agent 1 kills agent 0.
    one = np.asarray(of(np.array([True, False])))
    if make in OF_TEAMS:
        np.testing.assert_allclose(one, 10.0, rtol=1e-4)
    else:
        np.testing.assert_allclose(one[..., 0], deadly[..., 0], rtol=1e-4)
        np.testing.assert_allclose(one[..., 1], 10.0, rtol=1e-4)


# --- whose value is whose --------------------------------------------------------------------------------------------


def slow_advantages(algorithm, learned, t, units):
    """Every advantage by itself: one copy, one agent, one step after the other; and which of them count."""
    n = t.now.alive.shape[-1]
    seen_now, seen_next = (np.asarray(algorithm._seen(step)) for step in (t.now, t.next))
    said = jax.jit(lambda row: learned.critic.step(learned.critic.blank(1), row[None])[1][0, :, 0])
    found = np.zeros((T, B, n))
    for b in range(B):
        for i in range(n):
            mean, std = units[learned.critic.uses[i]]
            value = [mean + std * float(said(seen_now[k, b])[i]) for k in range(T)]
            later = 0.0
            for k in reversed(range(T)):
                lives = bool(t.next.alive[k, b, i])
                follows = mean + std * float(said(seen_next[k, b])[i]) if lives else 0.0
                goes_on = k + 1 < T and lives and not t.first[k + 1, b]
                error = float(t.next.reward[k, b, i]) + algorithm.discount * follows - value[k]
                later = error + algorithm.discount * algorithm.decay * later * goes_on
                found[k, b, i] = later
    return found


@pytest.mark.parametrize(("make", "n", "sharing"), [(ippo, 1, "shared"), (mappo, 2, "own"), (maa2c, 5, "kinds")])
def test_advantages_are_real_and_each_agents_own(make, n, sharing):
    """Against a loop over copies, agents and steps, with statistics that are far from 0 and 1, deaths and cuts inside."""
    env, algorithm = Mortal(agents=n), make(standardise=False, normaliser=PopArt(), sharing=sharing, **TINY)

    @jax.jit
    def made():
        learned = algorithm.init(env.spec, key=jax.random.key(0))
        copies = max(learned.critic.uses) + 1
        mean, std = 5.0 + jnp.arange(copies), 4.0 + jnp.arange(copies)
        learned = dataclasses.replace(learned, statistics=Statistics(jnp.ones(copies), mean, std**2))
        played = play(env, algorithm, learned)
        return learned, played.transitions, algorithm._lessons(learned, played)[1].advantage

    learned, t, advantage = made()
    copies = range(max(learned.critic.uses) + 1)
    real = [(5.0 + c, 4.0 + c) for c in copies]
    alive = np.asarray(t.now.alive)
    assert n == 1 or not alive.all()  # the episode of an only agent ends with it
    found = np.asarray(advantage).reshape(T, B, n)[alive]
    np.testing.assert_allclose(found, slow_advantages(algorithm, learned, t, real)[alive], rtol=1e-3, atol=1e-3)
    normalised = slow_advantages(algorithm, learned, t, [(0.0, 1.0)] * len(real))[alive]
    assert np.abs(found - normalised).max() > 1


@pytest.mark.parametrize(
    ("make", "normaliser"),
    [(ippo, PopArt(rate=0.3)), (ippo, Running(rate=0.3)), (happo, PopArt(rate=0.3))],
)
def test_statistics_take_a_rollout_in_once_and_the_critic_that_learns_is_the_one_rescaled(make, normaliser):
    """Where nothing is learned from a rollout, values stay what they were, though the statistics have moved."""
    still = {"learning_rate": 0.0, "learning_rate_end": 0.0, "epochs": 3, "minibatches": 2}
    env, algorithm = Mortal(agents=2), make(normaliser=normaliser, **TINY, **still)

    @jax.jit
    def made():
        learned = algorithm.init(env.spec, key=jax.random.key(0))
        played = play(env, algorithm, learned)
        after, _ = algorithm.update(learned, played, key=jax.random.key(1))
        seen = algorithm._seen(played.transitions.now)
        value = lambda by: normaliser.real(  # noqa: E731
            by.statistics, by.critic, by.critic.step(by.critic.blank(B), seen)[1][..., 0]
        )
        return (
            learned.statistics,
            after.statistics,
            algorithm._lessons(learned, played)[0].statistics,
            value(learned),
            value(after),
        )

    before, after, once, value, again = made()
    np.testing.assert_allclose(after.mean, once.mean, rtol=1e-6)
    np.testing.assert_allclose(after.std, once.std, rtol=1e-6)
    assert np.allclose(value, again, atol=1e-4) == (not isinstance(normaliser, Running))
    assert (np.abs(after.weight - before.weight) > 0).any()


# --- the dead are not counted ----------------------------------------------------------------------------------------


def beside(living, dead, axis=1):
    """Sequences and, behind them, those of the dead."""
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b], axis=axis), living, dead)


def shouting(tree, *names):
    """The same lessons with other numbers in these fields."""
    return dataclasses.replace(tree, **{name: getattr(tree, name) + 9.0 for name in names})


def test_losses_of_policies_are_means_over_the_living():
    env, algorithm = Mortal(agents=2), ippo(value_clip=0.1, **TINY)

    @jax.jit
    def losses(count):
        learned = algorithm.init(env.spec, key=jax.random.key(0))
        _, lessons, _ = algorithm._lessons(learned, play(env, algorithm, learned))
        more = shouting(lessons, "advantage", "target")
        more = dataclasses.replace(more, acts=lessons.acts & count, counts=lessons.counts & count)
        of = lambda one: (  # noqa: E731
            algorithm._actor_loss(learned, one.chosen_by(learned.actor), one, jax.random.key(1))[0],
            algorithm._critic_loss(one.judged_by(learned.critic), one)[0],
        )
        return of(lessons), of(beside(lessons, more))

    alone, with_dead = losses(False)
    np.testing.assert_allclose(alone, with_dead, rtol=1e-5)
    alone, with_living = losses(True)
    assert (np.abs(np.subtract(alone, with_living)) > 0.01).all()


def test_losses_of_coma_are_means_over_the_living():
    spec = Mortal(agents=2).spec
    algorithm = coma(critic_hidden=(4,), **TINY)
    learned = algorithm.init(spec, key=jax.random.key(0))
    ones, number = jnp.ones((1, 6, 2)), jax.random.normal(jax.random.key(1), (1, 6, 2))
    choice = jnp.zeros((1, 6, 2), jnp.int32)
    seen = jax.random.normal(jax.random.key(2), (1, 6, 2, spec.state_size + 2 + 6))
    obs = jax.random.normal(jax.random.key(3), (1, 6, 2, 2))

    @jax.jit
    def losses(count, by):
        counts = jnp.broadcast_to(count, (1, 6, 2))
        verdicts = Verdicts(seen=seen, action=choice, target=number + by, counts=counts)
        lessons = Lessons(
            obs=obs + by,
            available=jnp.ones((1, 6, 2, 3), bool),
            action=choice,
            advantage=(number + by) * ones,
            acts=counts,
            first=jnp.zeros((1, 6), bool),
            memory=jnp.zeros((1, 6, 2, 0)),
        )
        return verdicts, lessons

    def of(verdicts, lessons):
        return (
            _critic_loss((learned.critic,), verdicts, jax.random.key(0))[0],
            _actor_loss(jnp.float32(0.1), learned.actor, lessons)[0],
        )

    living, dead, more = losses(True, 0.0), losses(False, 9.0), losses(True, 9.0)
    np.testing.assert_allclose(of(*living), of(*map(beside, living, dead)), rtol=1e-5)
    assert (np.abs(np.subtract(of(*living), of(*map(beside, living, more)))) > 0.01).all()


def test_losses_of_critics_of_actions_are_means_over_the_living():
    env = Mortal(agents=2, continuous=True)
    algorithm = maddpg(**TINY)

    @jax.jit
    def losses(count):
        learned = algorithm.init(env.spec, key=jax.random.key(0))
        e = experience_of(play(env, algorithm, learned), env.spec)
        targets = algorithm._targets(learned, e, key=jax.random.key(1))
        more = dataclasses.replace(e, alive=e.alive & count, action=-e.action)
        both = dataclasses.replace(
            beside(dataclasses.replace(e, memory=()), dataclasses.replace(more, memory=())),
            memory=jnp.concatenate([e.memory, e.memory]),
        )
        of = lambda e, targets: (  # noqa: E731
            algorithm._critic_loss(learned.online.critics, env.spec, e, targets)[0],
            algorithm._actor_loss(learned.online.actor, learned.online.critics, learned, e, key=jax.random.key(2))[0],
        )
        return of(e, targets), of(both, jnp.concatenate([targets, targets + 9.0], axis=1))

    alone, with_dead = losses(False)
    np.testing.assert_allclose(alone, with_dead, rtol=1e-5)
    (critic, _), (with_living, _) = losses(True)
    assert abs(critic - with_living) > 0.01


# --- the last step counts --------------------------------------------------------------------------------------------


def test_the_step_that_kills_is_learned_from():
    env, algorithm = Endless(deadly=True), ippo(**TINY)

    @jax.jit
    def made():
        learned = algorithm.init(env.spec, key=jax.random.key(0))
        return algorithm._lessons(learned, play(env, algorithm, learned))[1]

    lessons = made()
    assert lessons.acts.reshape(T, B, 2)[9].all()
    assert lessons.counts.reshape(T, B, 2)[9].all()


def test_critics_of_actions_learn_from_the_step_that_kills():
    env, algorithm = Endless(deadly=True), maddpg(**TINY)

    @jax.jit
    def loss(by):
        learned = algorithm.init(env.spec, key=jax.random.key(0))
        e = experience_of(play(env, algorithm, learned), env.spec)
        targets = algorithm._targets(learned, e, key=jax.random.key(1)).at[9].add(by)
        return algorithm._critic_loss(learned.online.critics, env.spec, e, targets)[0]

    assert loss(0.0) != loss(1.0)
