"""Mixers: what joins must be monotone, must depend on the state, and must be trained."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marlet.parts.mixers import Apart, Monotonic, Sum
from marlet.types import Spec

SPEC = Spec(num_agents=3, num_actions=4, obs_shape=(2,), state_size=5)
MIXERS = [Apart(), Sum(), Monotonic(), Monotonic(size=4, hyper=0)]

pytestmark = pytest.mark.rough


@partial(jax.jit, static_argnums=0)
def begun(mixer, seed=0):
    """Fresh weights, and values of agents and states to mix."""
    weights_key, values_key, state_key = jax.random.split(jax.random.key(seed), 3)
    values, state = jax.random.normal(values_key, (50, 3)), jax.random.normal(state_key, (50, 5))
    return mixer.init(SPEC, key=weights_key), values, state


@partial(jax.jit, static_argnums=0)
def slope_of(mixer, weights, values, state):
    """How steeply what is joined rises with each agent's value."""
    return jax.vmap(jax.jacobian(lambda v, s: mixer.mix(weights, v, s)))(values, state)


@pytest.mark.parametrize("mixer", MIXERS)
@pytest.mark.parametrize("seed", range(5))
def test_no_agents_value_ever_lowers_what_is_joined(mixer, seed):
    weights, values, state = begun(mixer, seed)
    slope = np.asarray(slope_of(mixer, weights, 5 * np.asarray(values), 3 * np.asarray(state)))
    assert slope.shape == (50, 1 if mixer.joins else 3, 3)
    assert (slope >= 0).all()


@pytest.mark.parametrize("mixer", MIXERS[1:])
def test_the_best_joint_action_is_made_of_each_agents_best(mixer):
    weights, _, states = begun(mixer)
    values = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    joint = np.stack(np.meshgrid(*[np.arange(4)] * 3, indexing="ij"), -1).reshape(-1, 3)
    taken = values[np.arange(3), joint]
    mixed = jax.jit(mixer.mix)(weights, taken, np.broadcast_to(np.asarray(states)[0], (64, 5)))
    np.testing.assert_array_equal(joint[np.asarray(mixed)[:, 0].argmax()], values.argmax(-1))


def written_out(mixer, slope, weights, v, s):
    """One mixing by the two-layer network as it is written down, agent by agent."""
    layers = lambda parts, x: parts[-1](jax.nn.relu(parts[0](x)))  # noqa: E731
    first = slope(layers(weights.first_weights, s)).reshape(3, mixer.size)
    hidden = jax.nn.elu(sum(v[i] * first[i] for i in range(3)) + weights.first_bias(s))
    return hidden @ slope(layers(weights.second_weights, s)) / mixer.size + layers(weights.second_bias, s)[0]


def test_what_is_joined_and_its_gradients_are_those_of_the_network_written_out():
    mixer = Monotonic()
    weights, values, state = begun(mixer)
    plain = partial(written_out, mixer, lambda x: 2 * jnp.tanh(jnp.abs(x) / 2))
    ways = (lambda w, v: mixer.mix(w, v, state)[:, 0], lambda w, v: jax.vmap(plain, (None, 0, 0))(w, v, state))
    fast, slow = (jax.jit(way)(weights, values) for way in ways)
    np.testing.assert_allclose(fast, slow, rtol=1e-4, atol=1e-5)
    fast, slow = (jax.jit(jax.grad(lambda *given, way=way: way(*given).sum(), (0, 1)))(weights, values) for way in ways)
    for one, other in zip(*map(jax.tree.leaves, (fast, slow)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3)


def test_weights_that_may_be_negative_would_be_noticed():
    mixer = Monotonic()
    weights, values, state = begun(mixer)
    unsigned = partial(written_out, mixer, lambda x: x, weights)
    assert (np.asarray(jax.jit(jax.vmap(jax.grad(unsigned)))(values, state)) < 0).any()


def test_gradients_reach_every_part_of_the_mixer():
    mixer = Monotonic()
    weights, values, state = begun(mixer)
    gradient = jax.jit(jax.grad(lambda w: (mixer.mix(w, values, state) ** 2).sum()))(weights)
    assert all(np.asarray(leaf).any() for leaf in jax.tree.leaves(gradient))


def test_what_a_team_is_rewarded_by_and_when_it_is_over():
    reward, alive = jnp.array([[1.0, 2.0, 6.0]]), jnp.array([[False, True, False]])
    np.testing.assert_allclose(Sum().share(reward), [[3.0]])
    np.testing.assert_array_equal(Sum().lives(alive), [[True]])
    np.testing.assert_array_equal(Sum().lives(alive & False), [[False]])
    np.testing.assert_array_equal(Apart().share(reward), reward)
    np.testing.assert_array_equal(Apart().lives(alive), alive)
