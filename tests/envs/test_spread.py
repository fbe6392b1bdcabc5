"""Spread: equal to mpe2's `simple_spread_v3`, step by step from the same states."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from playthrough import check_golden

from marlet.envs.spread import Bodies, Spread


def theirs(agents: int, seed: int):
    """mpe2's environment after a reset, and its bodies as ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mpe2 import simple_spread_v3
    env = simple_spread_v3.parallel_env(N=agents)
    obs, _ = env.reset(seed=seed)
    return env, obs, bodies_of(env, jnp.zeros((), jnp.int32))


def bodies_of(env, clock) -> Bodies:
    """Where mpe2's bodies are, as ours."""
    world = env.unwrapped.world
    rows = lambda things, what: jnp.array(np.stack([getattr(t.state, what) for t in things]), jnp.float32)  # noqa: E731
    return Bodies(rows(world.agents, "p_pos"), rows(world.agents, "p_vel"), rows(world.landmarks, "p_pos"), clock)


@pytest.mark.parametrize(("agents", "episodes", "crowded"), [(3, 12, False), (5, 4, False), (3, 8, True), (2, 4, True)])
def test_equals_mpe2_side_by_side(agents, episodes, crowded):
    """Whole episodes of random play on their own; and crowded ones, set to mpe2's state after every step, because the
    stiff contacts make more of single against double precision with every bump."""
    ours = Spread(agents=agents)
    step = jax.jit(lambda state, action: ours.step(state, action, key=jax.random.key(0)))
    bumps = 0
    for seed in range(episodes):
        env, obs, bodies = theirs(agents, seed)
        np.testing.assert_allclose(ours._views(bodies)["obs"], np.stack(list(obs.values())), atol=1e-6)
        rng = np.random.default_rng(seed)
        for t in range(25):
            # In a crowd mostly everyone pushes towards the middle, so that bodies meet.
            action = rng.integers(0, 5, agents)
            if crowded and rng.random() < 0.8:
                axis = int(rng.integers(2))
                action = np.where(np.asarray(bodies.position[:, axis]) > 0, 1, 2) + 2 * axis
            bodies, said = step(bodies, jnp.array(action))
            obs, reward, dead, cut, _ = env.step(
                {name: int(a) for name, a in zip(env.possible_agents, action, strict=True)}
            )
            np.testing.assert_allclose(said.obs, np.stack(list(obs.values())), atol=2e-4)
            np.testing.assert_allclose(said.reward, list(reward.values()), atol=2e-4)
            assert bool(said.truncated) == all(cut.values()) == (t == 24)
            assert said.alive.all()
            assert not any(dead.values())
            if crowded:
                bodies = bodies_of(env, bodies.clock)
            gaps = np.linalg.norm(bodies.position[:, None] - bodies.position[None], axis=-1) + np.eye(agents)
            bumps += int((gaps < 0.3).any())
    assert bumps > 0 or not crowded  # collisions were among what was compared


def test_another_order_of_integration_would_be_seen():
    # mpe2 moves bodies with the velocity before the push; the other order puts them a tenth of the push further on.
    env, _, bodies = theirs(3, 0)
    obs, *_ = env.step(dict.fromkeys(env.possible_agents, 2))
    _, said = Spread().step(bodies, jnp.full(3, 2), key=jax.random.key(0))
    np.testing.assert_allclose(said.obs[:, 2:4], np.stack(list(obs.values()))[:, 2:4], atol=1e-5)
    moved_late = said.obs[:, 2:4] + 0.1 * said.obs[:, :2]
    assert not np.allclose(moved_late, np.stack(list(obs.values()))[:, 2:4], atol=1e-3)


def test_random_play_and_doing_nothing_earn_what_is_known():
    env = Spread()

    @jax.jit
    def play(key, idle):
        keys = jax.random.split(key, 2000)
        state, _ = jax.vmap(lambda key: env.reset(key=key))(keys)
        actions = jnp.where(idle, 0, jax.random.randint(key, (25, 2000, 3), 0, 5))

        def body(state, action):
            state, step = jax.vmap(lambda s, a: env.step(s, a, key=key))(state, action)
            return state, step.reward.mean()

        return jax.lax.scan(body, state, actions)[1].sum()

    assert float(play(jax.random.key(0), False)) == pytest.approx(-26.4, abs=0.4)
    assert float(play(jax.random.key(0), True)) == pytest.approx(-24.0, abs=0.4)


def test_golden_playthrough():
    check_golden("spread", Spread(agents=2, steps=3), [[1, 2], [3, 4], [0, 1]])


def test_the_frame_shows_every_body():
    env = Spread()
    state, _ = env.reset(key=jax.random.key(0))
    frame = env.render(jax.device_get(state))
    assert frame.shape == (360, 360, 3)
    assert frame.dtype == np.uint8
    assert len(np.unique(frame.reshape(-1, 3), axis=0)) > 4
