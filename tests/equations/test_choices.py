"""Choosing among legal actions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marlet.engine.devices import compiler_options
from marlet.equations.choices import chosen, epsilon_greedy, total
from marlet.equations.schedules import linear
from marlet.types import on_cpu

pytestmark = pytest.mark.rough


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0])
def test_illegal_actions_are_never_chosen_and_legal_ones_equally_often(epsilon):
    draws = 60_000
    available = jnp.broadcast_to(jnp.array([False, True, True, False, True]), (draws, 5))
    values = jnp.broadcast_to(jnp.array([9.0, 0.0, 1.0, 9.0, -1.0]), (draws, 5))
    actions = np.asarray(epsilon_greedy(values, available, epsilon, key=jax.random.key(0)))
    share = np.bincount(actions, minlength=5) / draws
    expected = np.array([0, 1, 1, 0, 1]) * epsilon / 3 + np.array([0, 0, 1, 0, 0]) * (1 - epsilon)
    assert share[0] == share[3] == 0.0
    np.testing.assert_allclose(share, expected, atol=0.01)


def test_the_value_of_the_action_taken_and_its_gradient():
    values, action = jnp.arange(12.0).reshape(2, 2, 3), jnp.array([[2, 0], [1, 1]])
    np.testing.assert_array_equal(chosen(values, action), [[2, 3], [7, 10]])
    gradient = jax.grad(lambda v: chosen(v, action).sum())(values)
    np.testing.assert_array_equal(gradient, jax.nn.one_hot(action, 3))


def test_a_schedule_falls_and_then_stays():
    fall = [float(linear(jnp.array(count), 1.0, 0.1, 9)) for count in (0, 1, 9, 100)]
    np.testing.assert_allclose(fall, [1.0, 0.9, 0.1, 0.1], rtol=1e-6)
    assert float(linear(jnp.array(0), 1.0, 0.1, 0)) == pytest.approx(0.1)
    assert float(linear(jnp.array(10**9), 1.0, 0.1, 3e9)) == pytest.approx(0.7)
    assert float(linear(jnp.array(10**9), 1.0, 0.1, 3 * 10**9)) == pytest.approx(0.7)


def test_the_slope_of_a_sum_written_out_is_computed_before_it_is_handed_to_every_entry():
    def barriers(total):
        gradient = jax.jit(jax.grad(lambda x: jnp.sin(total(x)).sum()), compiler_options=compiler_options())
        return gradient.lower(jnp.ones((7, 5))).compile().as_text().count(" opt-barrier(")

    assert barriers(total) == 2 * on_cpu()  # of the sum, and of its slope
    assert barriers(lambda x: sum(x[..., i] for i in range(5))) == 0  # the control
