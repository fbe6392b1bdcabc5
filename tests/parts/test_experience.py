"""What a replay keeps: the fields of a rollout, turned so that sequences lead, in the shapes that were promised."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marlet.parts.experience import example_of, experience_of, in_time, rows_for
from marlet.types import Rollout, Spec, Step, Transition

T, B = 5, 3


def rollout(spec):
    """A rollout in which every number is different."""
    n, a = spec.num_agents, spec.num_actions
    counter = iter(range(100))

    def fresh(kind, *axes):
        return (jnp.arange(np.prod(axes)).reshape(axes) + 1000 * next(counter)).astype(kind)

    def step():
        return Step(
            obs=fresh(jnp.float32, T, B, n, *spec.obs_shape),
            state=fresh(jnp.float32, T, B, spec.state_size),
            available=fresh(bool, T, B, n, a),
            reward=fresh(jnp.float32, T, B, n),
            alive=fresh(bool, T, B, n),
            truncated=fresh(bool, T, B),
            cost=fresh(jnp.float32, T, B, n),
        )

    action = fresh(jnp.float32, T, B, n, a) if spec.continuous else fresh(jnp.int32, T, B, n)
    transitions = Transition(now=step(), action=action, next=step(), first=fresh(bool, T, B), extra=())
    return Rollout(transitions=transitions, memory=fresh(jnp.float32, B, n, 4))


@pytest.mark.parametrize("continuous", [False, True])
def test_a_rollout_becomes_sequences_of_the_shapes_promised(continuous):
    spec = Spec(num_agents=2, num_actions=3, obs_shape=(6,), state_size=7, continuous=continuous)
    played = rollout(spec)
    kept = experience_of(played)
    for leaf, shape in zip(jax.tree.leaves(kept), jax.tree.leaves(example_of(spec, T, 4)), strict=True):
        assert (leaf.shape, leaf.dtype) == ((B, *shape.shape), shape.dtype)
    t = played.transitions
    np.testing.assert_array_equal(kept.next_obs[1, 2], t.next.obs[2, 1])
    np.testing.assert_array_equal(kept.action[1, 2], t.action[2, 1])
    np.testing.assert_array_equal(kept.reward[2, 4], t.next.reward[4, 2])
    np.testing.assert_array_equal(in_time(kept).obs, t.now.obs)
    np.testing.assert_array_equal(in_time(kept).memory, played.memory)


def test_rows_never_wrap():
    assert rows_for(100_000, 5, 8) == 20_000
    assert rows_for(1, 5, 8) == 8
    assert rows_for(1001, 10, 7) == 105
