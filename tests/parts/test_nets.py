"""Networks: unrolling is stepping, memories restart, copies go where they belong."""

from functools import cache

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marlet.parts.layers import MinGRU, linear_recurrence, pair_by_pair, step_by_step
from marlet.parts.nets import Team, soft_update, team_of, uses_of
from marlet.types import Spec, where

STEPS, BATCH, FEATURES, ACTIONS = 4, 3, 5, 2
USES = [(0,), (0, 0), (0, 1), (0, 0, 1), (1, 0, 1, 0), (0, 1, 2, 3, 4)]

pytestmark = pytest.mark.rough


@cache
def make(uses, memory, **options):
    return jax.jit(lambda: team_of(uses, FEATURES, (8,), memory, ACTIONS, key=jax.random.key(1), **options))()


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
@pytest.mark.parametrize(("memory", "cell"), [(0, "gru"), (6, "gru"), (6, "linear")])
def test_unrolling_equals_stepping_with_memories_restarted_by_first(uses, memory, cell):
    team = make(uses, memory, cell=cell)
    obs = normal(STEPS, BATCH, len(uses), FEATURES)
    first = np.array([[False, True, False], [False, False, True], [True, False, False], [False, True, False]])
    start = normal(*team.blank(BATCH).shape, seed=3)
    memories, outputs = unroll(team, start, obs, first)
    assert outputs.shape == (STEPS, BATCH, len(uses), ACTIONS)
    held, expected = stepped(team, start, obs, first)
    np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-6)
    if memory:
        np.testing.assert_allclose(memories, held, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("cell", ["gru", "linear"])
def test_a_memory_that_is_not_restarted_is_noticed(cell):
    team = make((0, 0), 6, cell=cell)
    obs = normal(STEPS, BATCH, 2, FEATURES)
    never, once = np.zeros((2, STEPS, BATCH), bool)
    once[2] = True
    kept, restarted = (unroll(team, team.blank(BATCH), obs, first)[1] for first in (never, once))
    np.testing.assert_array_equal(kept[:2], restarted[:2])
    assert not np.allclose(kept[2:], restarted[2:])


@pytest.mark.parametrize("cell", ["gru", "linear"])
def test_the_gradient_is_that_of_stepping(cell):
    """Of all weights and the memory at the start, restarts inside; one copy has more than two rows a unit, one fewer."""
    uses, units = (0, 0, 1), 2
    team = make(uses, units, cell=cell)
    obs, slope = (jnp.asarray(normal(STEPS, BATCH, 3, size, seed=size)) for size in (FEATURES, ACTIONS))
    first = jnp.array([[False, True, False], [False, False, True], [True, False, False], [False] * 3])
    start = jnp.asarray(normal(BATCH, 3, units, seed=3))
    fast, slow = (
        jax.tree.leaves(eqx.filter_jit(eqx.filter_grad(total))((team, start)))
        for total in (
            lambda given: (slope * Team.unroll(*given, obs, first)[1]).sum(),
            lambda given: (slope * stepped(*given, obs, first)[1]).sum(),
        )
    )
    for one, other in zip(fast, slow, strict=True):
        assert np.abs(other).max() > 0
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_a_linear_memory_passes_nothing_over_a_beginning():
    """What came before it changes nothing after it, and no gradient goes back over it."""
    team = make((0, 0), 6, cell="linear")
    first = np.zeros((STEPS, BATCH), bool)
    first[2] = True

    @eqx.filter_jit
    def later(start, early):
        obs = jnp.concatenate([early, normal(STEPS - 2, BATCH, 2, FEATURES)])
        return team.unroll(start, obs, first)[1][2:]

    given = normal(BATCH, 2, 6, seed=3), normal(2, BATCH, 2, FEATURES, seed=4)
    np.testing.assert_array_equal(later(*given), later(*(5 * x + 1 for x in given)))
    for slope in eqx.filter_jit(jax.grad(lambda *given: (later(*given) ** 2).sum(), (0, 1)))(*given):
        assert not slope.any()


@pytest.mark.parametrize("way", [step_by_step, pair_by_pair])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_either_way_of_a_linear_recurrence_is_the_loop(way, steps):
    """Each kind of device uses one of them; both are right everywhere."""
    stays, comes, memory = normal(steps, 3, 2), normal(steps, 3, 2, seed=3), normal(3, 2, seed=4)
    stays[steps // 2] = 0
    found, expected = jax.jit(way)(stays, comes, memory), []
    for t in range(steps):
        memory = stays[t] * memory + comes[t]
        expected.append(memory)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_a_linear_recurrence_is_a_loop_on_a_cpu_and_a_tree_elsewhere():
    traced = jax.jit(linear_recurrence).trace(normal(7, 3, 2), normal(7, 3, 2), normal(3, 2))
    has_loop = {device: "while" in traced.lower(lowering_platforms=(device,)).as_text() for device in ("cpu", "cuda")}
    assert has_loop == {"cpu": True, "cuda": False}


def test_a_linear_memory_by_hand():
    """One unit, whose gate stands at 1/4: it keeps three quarters, and a quarter comes of what it is told."""
    cell = MinGRU(1, 1, key=jax.random.key(0))
    cell = eqx.tree_at(
        lambda cell: (cell.inputs.weight, cell.inputs.bias), cell, (jnp.array([[0.0, 2.0]]), jnp.array([-np.log(3), 0]))
    )
    np.testing.assert_allclose(cell.step(jnp.array([8.0]), jnp.array([4.0])), [0.75 * 8 + 0.25 * 2 * 4], rtol=1e-6)
    xs, first = jnp.array([4.0, 0.0, 2.0]).reshape(3, 1, 1), jnp.array([[False], [False], [True]])
    np.testing.assert_allclose(cell.unroll(jnp.array([[8.0]]), xs, first)[:, 0, 0], [8.0, 6.0, 1.0], rtol=1e-6)


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
