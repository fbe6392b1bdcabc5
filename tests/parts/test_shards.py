"""Shares: what devices that each have a part of the environments make of it together is what one makes of all."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marlet.parts.descent import standardised
from marlet.parts.nets import team_of
from marlet.parts.normalisers import PopArt
from marlet.parts.shards import apart, averaged, own_share

pytestmark = pytest.mark.rough

AXIS, DEVICES = "shares", 2
T, B, N = 4, 6, 3


def on_each(function, *trees):
    """`function(*parts)` on each of two, which stand beside each other here instead of on devices of their own."""
    return jax.vmap(function, axis_name=AXIS)(*trees)


def halves(x):
    """Arrays of T B n, parted by environments."""
    return jnp.stack(jnp.split(x, DEVICES, axis=1))


def test_alone_nothing_is_told():
    tree, key = {"x": jnp.arange(3.0), "y": (jnp.ones(()),)}, jax.random.key(0)
    assert averaged(tree, None) is tree
    assert apart(key, None) is key
    assert own_share(12, None) == 12


def test_the_mean_is_that_of_all_devices_leaf_by_leaf():
    tree = {"x": jnp.array([[1.0, 2.0], [3.0, 6.0]]), "y": (jnp.array([[[4.0]], [[0.0]]]), jnp.array([1.0, 2.0]))}
    found = on_each(lambda tree: averaged(tree, AXIS), tree)
    for k in range(DEVICES):
        jax.tree.map(lambda mean, x, k=k: np.testing.assert_array_equal(mean[k], x.mean(0)), found, tree)


def test_keys_are_others_on_each_device_and_shares_are_equal():
    drawn = on_each(lambda _: jax.random.bits(apart(jax.random.key(0), AXIS), (4,)), jnp.zeros(DEVICES))
    assert not (drawn[0] == drawn[1]).any()
    assert on_each(lambda _: jnp.zeros(own_share(12, AXIS)), jnp.zeros(DEVICES)).shape == (DEVICES, 6)


@pytest.fixture(scope="module")
def lived():
    """Numbers of T x B x n, and which of them count: far fewer in the second half of the environments."""
    keys = jax.random.split(jax.random.key(1))
    chance = jnp.where(jnp.arange(B) < B // 2, 0.9, 0.2)[:, None]
    return 3 + 2 * jax.random.normal(keys[0], (T, B, N)), jax.random.bernoulli(keys[1], chance, (T, B, N))


@pytest.mark.parametrize("uses", [(0, 0, 0), (0, 1, 1)])
def test_advantages_are_standardised_over_all_environments(lived, uses):
    x, counts = lived
    whole = standardised(x, counts, uses)
    shared = on_each(lambda x, counts: standardised(x, counts, uses, AXIS), halves(x), halves(counts))
    np.testing.assert_allclose(shared, halves(whole), rtol=1e-5, atol=1e-6)
    alone = on_each(lambda x, counts: standardised(x, counts, uses), halves(x), halves(counts))
    assert not np.allclose(alone, halves(whole), atol=0.05)  # the control


def test_statistics_take_in_the_returns_of_all_environments(lived):
    returns, counts = lived
    critic = team_of((0, 1, 1), 4, (8,), 0, 1, key=jax.random.key(0))
    normaliser = PopArt(rate=0.3)
    before = normaliser.init(critic)
    whole = normaliser.update(before, critic, returns, counts)
    told = lambda axis: on_each(  # noqa: E731
        lambda returns, counts: normaliser.update(before, critic, returns, counts, axis),
        halves(returns),
        halves(counts),
    )
    for k in range(DEVICES):
        same = lambda one, other, k=k: np.testing.assert_allclose(one[k], other, rtol=1e-5, atol=1e-6)  # noqa: E731
        jax.tree.map(same, told(AXIS), whole)
    assert not np.allclose(told(None)[0].mean[0], whole[0].mean, atol=0.01)  # the control
