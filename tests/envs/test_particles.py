"""The particle worlds: equal to mpe2's, step by step from the same states, by choices and by vectors."""

import importlib
import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from playthrough import check_golden

from marlet.envs.adversary import Adversary
from marlet.envs.crypto import Crypto
from marlet.envs.particles import Bodies
from marlet.envs.push import Push
from marlet.envs.reference import Reference
from marlet.envs.speaker_listener import SpeakerListener
from marlet.envs.spread import Spread
from marlet.envs.tag import Tag
from marlet.envs.world_comm import WorldComm
from marlet.testing import check_env

pytestmark = pytest.mark.rough

WORLDS = {
    Spread: "simple_spread_v3",
    SpeakerListener: "simple_speaker_listener_v4",
    Reference: "simple_reference_v3",
    Adversary: "simple_adversary_v3",
    Push: "simple_push_v3",
    Crypto: "simple_crypto_v3",
    Tag: "simple_tag_v3",
    WorldComm: "simple_world_comm_v3",
}


def theirs(world, seed, **options):
    """mpe2's environment after a reset, and what it shows."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = importlib.import_module(f"mpe2.{WORLDS[world]}")
    env = module.parallel_env(**options)
    obs, _ = env.reset(seed=seed)
    return env, obs


def goals_of(world, env):
    """The landmarks that matter in mpe2's world, by their indices."""
    them = env.unwrapped.world
    index = {id(mark): k for k, mark in enumerate(them.landmarks)}
    if world is SpeakerListener:
        return [index[id(them.agents[0].goal_b)]]
    if world is Reference:
        return [index[id(agent.goal_b)] for agent in them.agents]
    if world is Crypto:
        return [index[id(them.agents[0].goal_a)], int(np.argmax(them.agents[2].key))]
    return [index[id(them.agents[0].goal_a)]] if world in (Adversary, Push) else []


def bodies_of(ours, env, clock) -> Bodies:
    """Where mpe2's bodies are and what they say, as ours."""
    them = env.unwrapped.world
    rows = lambda things, what: jnp.array(np.stack([getattr(t.state, what) for t in things]), jnp.float32)  # noqa: E731
    return Bodies(
        position=rows(them.agents, "p_pos"),
        velocity=rows(them.agents, "p_vel"),
        landmark=rows(them.landmarks, "p_pos"),
        said=tuple(
            jnp.array(agent.state.c[: figure.words], jnp.float32)
            for agent, figure in zip(them.agents, ours.figures, strict=True)
        ),
        goal=tuple(jax.nn.one_hot(k, len(them.landmarks)) for k in goals_of(type(ours), env)),
        clock=clock,
    )


def random_action(ours, env, rng, crowded):
    """An action of everyone, as mpe2 takes it and as we do; in a crowd mostly everyone pushes towards the middle."""
    them, given = {}, np.zeros((len(ours.figures), ours.spec.num_actions), np.float32)
    choice = np.zeros(len(ours.figures), np.int32)
    for i, (name, figure) in enumerate(zip(env.possible_agents, ours.figures, strict=True)):
        count = figure.actions(ours.continuous)
        place = env.unwrapped.world.agents[i].state.p_pos
        axis = int(rng.integers(2))
        inward = (1 if place[axis] > 0 else 2) + 2 * axis
        pushes = crowded and figure.moves and rng.random() < 0.8
        if ours.continuous:
            share = rng.random(count).astype(np.float32)
            if pushes:
                share[:5] = np.eye(5)[inward]
            them[name], given[i, :count] = share, 2 * share - 1
        else:
            choice[i] = int(rng.integers(count))
            if pushes:
                choice[i] += inward - choice[i] % 5
            them[name] = int(choice[i])
    return them, (given if ours.continuous else choice)


def compare(ours, said, obs, reward=None):
    for i, (view, figure) in enumerate(zip(obs.values(), ours.figures, strict=True)):
        np.testing.assert_allclose(said.obs[i, : len(view)], view, atol=2e-4, err_msg=figure.name)
        np.testing.assert_array_equal(said.obs[i, len(view) :], 0)
        np.testing.assert_array_equal(
            said.available[i], np.arange(said.available.shape[1]) < figure.actions(ours.continuous)
        )
    if reward is not None:
        np.testing.assert_allclose(said.reward, list(reward.values()), atol=3e-4)


@pytest.mark.parametrize("continuous", [False, True])
@pytest.mark.parametrize(
    ("world", "options"),
    [*((world, {}) for world in WORLDS), (Spread, {"agents": 5}), (Tag, {"prey": 2, "hunters": 2, "obstacles": 1})],
)
def test_equals_mpe2_side_by_side(world, options, continuous):
    """Whole episodes of random play on their own; and crowded ones, set to mpe2's state after every step, because the
    stiff contacts make more of single against double precision with every bump."""
    ours = world(continuous=continuous, **options)
    names = {"agents": "N", "prey": "num_good", "hunters": "num_adversaries", "obstacles": "num_obstacles"}
    step = jax.jit(lambda state, action: ours.step(state, action, key=jax.random.key(0)))
    stiff = any(figure.collides for figure in ours.figures)
    for seed, crowded in enumerate([False, False, stiff, stiff]):
        env, obs = theirs(
            world, seed, continuous_actions=continuous, **{names[name]: value for name, value in options.items()}
        )
        assert tuple(env.possible_agents) == ours.spec.names
        bodies = bodies_of(ours, env, jnp.zeros((), jnp.int32))
        compare(ours, ours._say(bodies, None), obs)
        rng = np.random.default_rng(seed)
        for t in range(25):
            them, action = random_action(ours, env, rng, crowded)
            bodies, said = step(bodies, jnp.array(action))
            obs, reward, dead, cut, _ = env.step(them)
            compare(ours, said, obs, reward)
            assert bool(said.truncated) == all(cut.values()) == (t == 24)
            assert said.alive.all()
            assert not any(dead.values())
            if stiff:
                bodies = bodies_of(ours, env, bodies.clock)


def test_crowds_bump():
    """Collisions are among what is compared: they happen in the crowded episodes."""
    ours, bumps = Spread(), 0
    env, _ = theirs(Spread, 2)
    rng = np.random.default_rng(2)
    for _ in range(25):
        _, reward, *_ = env.step(random_action(ours, env, rng, True)[0])
        bumps += len({round(r, 6) for r in reward.values()}) > 1
    assert bumps > 0


def test_another_order_of_integration_would_be_seen():
    # mpe2 moves bodies with the velocity before the push; the other order puts them a tenth of the push further on.
    env, _ = theirs(Spread, 0)
    bodies = bodies_of(Spread(), env, jnp.zeros((), jnp.int32))
    obs, *_ = env.step(dict.fromkeys(env.possible_agents, 2))
    _, said = Spread().step(bodies, jnp.full(3, 2), key=jax.random.key(0))
    np.testing.assert_allclose(said.obs[:, 2:4], np.stack(list(obs.values()))[:, 2:4], atol=1e-5)
    moved_late = said.obs[:, 2:4] + 0.1 * said.obs[:, :2]
    assert not np.allclose(moved_late, np.stack(list(obs.values()))[:, 2:4], atol=1e-3)


@partial(jax.jit, static_argnames=("env", "idle"))
def played(env, idle=False, *, key):
    """Returns of 4000 episodes of random play, or of doing nothing."""
    reset_key, act_key = jax.random.split(key)
    state, _ = jax.vmap(lambda key: env.reset(key=key))(jax.random.split(reset_key, 4000))
    limits = jnp.array([figure.actions(False) for figure in env.figures])
    actions = jnp.where(idle, 0, jax.random.randint(act_key, (25, 4000, len(env.figures)), 0, limits))

    def body(state, action):
        state, step = jax.vmap(lambda s, a: env.step(s, a, key=key))(state, action)
        return state, step.reward.mean(0)

    return jax.lax.scan(body, state, actions)[1].sum(0)


@pytest.mark.parametrize(
    ("world", "expected", "margin"),
    [
        (Spread, (-26.4,) * 3, 0.4),
        (SpeakerListener, (-39.9,) * 2, 1.0),
        (Reference, (-28.5,) * 2, 0.6),
        (Adversary, (-29.0, 8.2, 8.2), 0.6),
        (Push, (0.0, -28.2), 0.6),
        (Tag, (4.4, 4.4, 4.4, -16.6), 1.2),
    ],
)
def test_random_play_earns_what_is_known(world, expected, margin):
    np.testing.assert_allclose(played(world(), key=jax.random.key(0)), expected, atol=margin)


def test_doing_nothing_in_spread_earns_what_is_known():
    assert float(played(Spread(), True, key=jax.random.key(0)).mean()) == pytest.approx(-24.0, abs=0.4)


@pytest.mark.parametrize("continuous", [False, True])
@pytest.mark.parametrize("world", [SpeakerListener, Crypto, WorldComm, Reference])
def test_the_contract_is_kept(world, continuous):
    check_env(world(steps=4, continuous=continuous), episodes=1)


GAMES = {
    "spread": (Spread(agents=2, steps=3), [[1, 2], [3, 4], [0, 1]]),
    "speaker_listener": (SpeakerListener(steps=3), [[1, 2], [0, 4], [2, 1]]),
    "reference": (Reference(steps=3), [[11, 2], [3, 44], [0, 21]]),
    "adversary": (Adversary(steps=3), [[1, 2, 3], [4, 0, 1], [2, 2, 2]]),
    "push": (Push(steps=3), [[1, 2], [3, 4], [0, 1]]),
    "crypto": (Crypto(steps=3), [[1, 2, 3], [0, 0, 0], [3, 1, 2]]),
    "tag": (Tag(steps=3), [[1, 2, 3, 4], [0, 1, 2, 3], [4, 4, 4, 4]]),
    "world_comm": (WorldComm(steps=3), [[16, 2, 3, 4, 1, 0], [0, 1, 2, 3, 4, 1], [9, 4, 4, 4, 2, 2]]),
}


@pytest.mark.parametrize("name", GAMES)
def test_golden_playthrough(name):
    check_golden(name, *GAMES[name])


@pytest.mark.parametrize("world", WORLDS)
def test_the_frame_shows_bodies_goals_and_words(world):
    env = world()
    begin, step = jax.jit(partial(env.reset, key=jax.random.key(0))), jax.jit(partial(env.step, key=jax.random.key(0)))
    state, _ = begin()
    before = env.render(jax.device_get(state))
    assert before.shape == (360, 360, 3)
    assert before.dtype == np.uint8
    assert len(np.unique(before.reshape(-1, 3), axis=0)) > 4
    for _ in range(3):
        state, _ = step(state, np.full(len(env.figures), 2, np.int32))
    assert (env.render(jax.device_get(state)) != before).any()
