"""A product with a weight, whose gradient is made in a way of its own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marlet.engine.devices import compiler_options
from marlet.parts.layers import product


@pytest.mark.parametrize("outputs", [1, 5, 64])
@pytest.mark.parametrize("shape", [(), (7,), (4, 3, 2)])
def test_a_product_and_its_gradients_are_those_of_any_product(shape, outputs):
    draws = np.random.default_rng(outputs)
    x, weight, slope = (
        jnp.asarray(draws.normal(size=size), jnp.float32) for size in ((*shape, 6), (6, outputs), (*shape, outputs))
    )

    def told(way):
        differentiated = jax.value_and_grad(lambda *given: (way(*given) * slope).sum(), (0, 1))
        return jax.jit(differentiated, compiler_options=compiler_options())

    for one, other in zip(*(jax.tree.leaves(told(way)(x, weight)) for way in (product, jnp.matmul)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_products_of_several_copies_at_once_are_those_of_each():
    draws = np.random.default_rng(0)
    xs, weights = (jnp.asarray(draws.normal(size=size), jnp.float32) for size in ((3, 9, 6), (3, 6, 4)))
    gradients = jax.grad(lambda x, weight: (product(x, weight) ** 2).sum(), (0, 1))
    together = jax.jit(jax.vmap(gradients))(xs, weights)
    for k in range(3):
        for one, other in zip(together, gradients(xs[k], weights[k]), strict=True):
            np.testing.assert_allclose(one[k], other, rtol=1e-4, atol=1e-5)
