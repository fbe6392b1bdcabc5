"""Networks: unrolling is stepping, memories restart, copies go where they belong."""

from functools import cache

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marlet.parts.nets import Team, soft_update, uses_of
from marlet.types import Spec, where

STEPS, BATCH, FEATURES, ACTIONS = 4, 3, 5, 2
USES = [(0,), (0, 0), (0, 1), (0, 0, 1), (1, 0, 1, 0), (0, 1, 2, 3, 4)]

pytestmark = pytest.mark.rough


@cache
def make(uses, memory, **options):
    return jax.jit(lambda: Team(uses, FEATURES, (8,), memory, ACTIONS, key=jax.random.key(1), **options))()


def normal(*shape, seed=2):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


unroll, step = eqx.filter_jit(Team.unroll), eqx.filter_jit(Team.step)


@eqx.filter_jit
def stepped(team, held, obs, first):
    """The slow way: step by step, blank where an episode begins."""
    memories, outputs = [], []
    for t in range(STEPS):
        held, output = team.step(where(first[t], team.blank(BATCH), held), obs[t])
        memories.append(held)
        outputs.append(output)
    return jnp.stack(memories), jnp.stack(outputs)


@pytest.mark.parametrize("uses", USES)
@pytest.mark.parametrize("memory", [0, 6])
def test_unrolling_equals_stepping_with_memories_restarted_by_first(uses, memory):
    team = make(uses, memory)
    obs = normal(STEPS, BATCH, len(uses), FEATURES)
    first = np.array([[False, True, False], [False, False, True], [True, False, False], [False, True, False]])
    start = normal(*team.blank(BATCH).shape, seed=3)
    memories, outputs = unroll(team, start, obs, first)
    assert outputs.shape == (STEPS, BATCH, len(uses), ACTIONS)
    held, expected = stepped(team, start, obs, first)
    np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-6)
    if memory:
        np.testing.assert_allclose(memories, held, rtol=1e-5, atol=1e-6)


def test_a_memory_that_is_not_restarted_is_noticed():
    team = make((0, 0), 6)
    obs = normal(STEPS, BATCH, 2, FEATURES)
    never, once = np.zeros((2, STEPS, BATCH), bool)
    once[2] = True
    kept, restarted = (unroll(team, team.blank(BATCH), obs, first)[1] for first in (never, once))
    np.testing.assert_array_equal(kept[:2], restarted[:2])
    assert not np.allclose(kept[2:], restarted[2:])


@pytest.mark.parametrize("uses", USES)
def test_each_agent_uses_its_own_copy(uses):
    team = make(uses, 0)
    obs = normal(BATCH, len(uses), FEATURES)
    _, outputs = step(team, team.blank(BATCH), obs)
    alone = eqx.filter_jit(lambda net, obs: net.step(jnp.zeros((BATCH, 0)), obs)[1])
    for i, copy in enumerate(uses):
        net = jax.tree.map(lambda leaf, copy=copy: np.asarray(leaf)[copy], team.copies)
        np.testing.assert_allclose(outputs[:, i], alone(net, obs[:, i]), rtol=1e-5, atol=1e-6)


def test_sharing_equals_own_copies_that_are_equal():
    shared, own = make((0, 0, 0), 0), make((0, 1, 2), 0)
    equal = jax.tree.map(lambda one, many: np.broadcast_to(one, many.shape), shared.copies, own.copies)
    own = eqx.tree_at(lambda team: team.copies, own, equal)
    obs = normal(BATCH, 3, FEATURES)
    one, other = (step(team, team.blank(BATCH), obs)[1] for team in (shared, own))
    np.testing.assert_allclose(one, other, rtol=1e-5)


def test_permuting_sharing_agents_permutes_outputs_unless_they_see_their_index():
    obs = normal(BATCH, 3, FEATURES)
    order = np.array([2, 0, 1])
    blind, seeing = make((0, 0, 0), 0), make((0, 0, 0), 0, sees_index=True)
    output = lambda team, obs: np.asarray(step(team, team.blank(BATCH), obs)[1])  # noqa: E731
    np.testing.assert_allclose(output(blind, obs)[:, order], output(blind, obs[:, order]), rtol=1e-5, atol=1e-6)
    assert not np.allclose(output(seeing, obs)[:, order], output(seeing, obs[:, order]))


def test_who_shares_with_whom():
    spec = Spec(num_agents=4, num_actions=2, obs_shape=(3,), state_size=1, kinds=(7, 2, 7, 2))
    assert uses_of("shared", spec) == (0, 0, 0, 0)
    assert uses_of("own", spec) == (0, 1, 2, 3)
    assert uses_of("kinds", spec) == (0, 1, 0, 1)


def test_a_soft_update_moves_the_target_towards_the_online_network():
    target, online = {"w": jnp.array([0.0, 10.0])}, {"w": jnp.array([1.0, 0.0])}
    np.testing.assert_allclose(soft_update(target, online, 0.1)["w"], [0.1, 9.0])
    np.testing.assert_allclose(soft_update(target, online, 1.0)["w"], [1.0, 0.0])
