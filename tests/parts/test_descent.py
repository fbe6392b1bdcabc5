"""Steps down a loss: how long the gradients may be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marlet.parts.descent import optimiser

pytestmark = pytest.mark.rough

GRADIENT = {"a": jnp.array([3.0, 0.0]), "b": jnp.array([[4.0]])}


@pytest.mark.parametrize(("most", "shortened"), [(0.0, 1.0), (10.0, 1.0), (0.5, 0.1), (5e-4, 1e-4)])
def test_gradients_are_no_longer_than_the_most_and_0_is_no_limit(most, shortened):
    rule = optimiser(most)
    direction, state = jax.jit(rule.update)(GRADIENT, rule.init(GRADIENT))
    np.testing.assert_allclose(state[1].mu["b"], 0.1 * shortened * GRADIENT["b"], rtol=1e-5)
    assert float(direction["b"][0, 0]) > 0.9
