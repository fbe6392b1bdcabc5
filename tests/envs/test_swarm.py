"""The swarm: what is seen, covered and bumped into, against a slow loop; sizes that do not grow with the swarm."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from playthrough import check_golden

from marlet.envs.swarm import Airspace, Swarm

pytestmark = pytest.mark.rough


def slow_views(env, position, target):
    """What each drone sees, found by sorting."""
    rows = []
    for i, here in enumerate(position):
        row = [*(here / env.half_side), *np.minimum(env.half_side - np.abs(here), env.sight)]
        others = [place for j, place in enumerate(position) if j != i]
        for things, count in ((others, env.neighbours), (target, env.seen)):
            gaps = sorted((place - here for place in things), key=np.linalg.norm)
            gaps = [gap for gap in gaps if np.linalg.norm(gap) <= env.sight][:count]
            row += [x for gap in gaps for x in (*gap, 1.0)] + [0.0] * 3 * (count - len(gaps))
        rows.append(row)
    return np.array(rows)


@pytest.mark.parametrize("agents", [2, 5, 17])
def test_what_is_seen_covered_and_hit(agents):
    env = Swarm(agents=agents, targets=4, neighbours=3, seen=2)
    state, said = env.reset(key=jax.random.key(agents))
    np.testing.assert_allclose(said.obs, slow_views(env, state.position, state.target), atol=1e-5)
    rng = np.random.default_rng(0)
    crowd = np.asarray(rng.normal(size=(agents, 2)) * 0.06, np.float32)
    target = np.array([[0.0, 0.0], [0.1, 0.1], [0.9, 0.9], [-0.9, 0.9]], np.float32) * env.half_side
    space = Airspace(jnp.array(crowd), jnp.array(target), jnp.zeros((), jnp.int32))
    _, said = env.step(space, jnp.zeros((agents, 2)), key=jax.random.key(0))
    gaps = np.linalg.norm(crowd[:, None] - crowd[None], axis=-1) + 9 * np.eye(agents)
    bumps = (gaps < 0.05).any(1)
    covered = (np.linalg.norm(crowd[:, None] - target[None], axis=-1) < 0.15).any(0).mean()
    assert covered > 0
    assert agents < 17 or bumps.any()
    np.testing.assert_array_equal(said.cost, bumps)
    np.testing.assert_allclose(said.reward, covered - 0.2 * bumps, atol=1e-6)


def test_drones_stay_inside():
    env = Swarm(agents=3)
    state, _ = env.reset(key=jax.random.key(0))
    for _ in range(40):
        state, _ = env.step(state, jnp.ones((3, 2)), key=jax.random.key(0))
    np.testing.assert_allclose(state.position, env.half_side, rtol=1e-6)


def test_what_one_sees_does_not_grow_with_the_swarm():
    assert Swarm(agents=300).spec.obs_shape == Swarm(agents=3).spec.obs_shape == (28,)
    assert Swarm(agents=300).points == 150


def test_golden_playthrough():
    check_golden("swarm", Swarm(agents=3, neighbours=2, seen=1, steps=2), [[[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]]] * 2)


def test_the_frame_shows_the_swarm():
    env = Swarm()
    frame = env.render(jax.device_get(env.reset(key=jax.random.key(0))[0]))
    assert frame.shape == (360, 360, 3)
    assert len(np.unique(frame.reshape(-1, 3), axis=0)) > 4
