"""Heads: probabilities against sums and integrals, draws against probabilities, masks against leaks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marlet.equations.distributions import draw_choice, log_slope
from marlet.parts.heads import Categorical, Gaussian, Squashed, head_for
from marlet.types import Spec

ALL = jnp.ones(1, bool)

pytestmark = pytest.mark.rough


def test_the_environment_decides_between_choices_and_vectors():
    spec = Spec(num_agents=2, num_actions=3, obs_shape=(1,), state_size=1)
    assert head_for(spec, Squashed()) == Categorical()
    continuous = Spec(num_agents=2, num_actions=3, obs_shape=(1,), state_size=1, continuous=True)
    assert head_for(continuous, Squashed()) == Squashed()
    assert (Categorical().outputs(3), Gaussian().outputs(3), Squashed().outputs(3)) == (3, 6, 6)


# --- choices ---------------------------------------------------------------------------------------------------------

LOGITS = jnp.array([2.0, -1.0, 0.5, 50.0])
LEGAL = jnp.array([True, True, True, False])
CHANCES = np.exp([2.0, -1.0, 0.5]) / np.exp([2.0, -1.0, 0.5]).sum()


def test_choices_are_drawn_as_likely_as_they_are_and_illegal_ones_never():
    many = 200_000
    drawn = Categorical().draw(
        jnp.broadcast_to(LOGITS, (many, 4)), jnp.broadcast_to(LEGAL, (many, 4)), key=jax.random.key(0)
    )
    counts = np.bincount(np.asarray(drawn), minlength=4)
    assert counts[3] == 0
    np.testing.assert_allclose(counts[:3] / many, CHANCES, atol=4e-3)
    assert Categorical().mode(LOGITS, LEGAL) == 0


@pytest.mark.parametrize("legal", [[0], [1], [3], [0, 3], [1, 2]])
def test_extreme_draws_stay_legal(legal, monkeypatch):
    available = jnp.zeros(4, bool).at[jnp.array(legal)].set(True)
    log_chance = jax.nn.log_softmax(jnp.where(available, LOGITS, -1e9))
    for u in (0.0, 1.0 - 2**-24, 1.0):  # the last is more than a uniform number may be
        monkeypatch.setattr(jax.random, "uniform", lambda key, shape, u=u: jnp.full(shape, u, jnp.float32))
        assert int(draw_choice(log_chance, key=jax.random.key(0))) in legal


def test_log_probabilities_and_entropy_are_of_legal_choices():
    head = Categorical()
    for action in range(3):
        assert float(head.log_prob(LOGITS, LEGAL, jnp.array(action))) == pytest.approx(
            np.log(CHANCES[action]), abs=1e-5
        )
    entropy = lambda logits: head.entropy(logits, LEGAL, key=jax.random.key(0))  # noqa: E731
    assert float(entropy(LOGITS)) == pytest.approx(-(CHANCES * np.log(CHANCES)).sum(), abs=1e-5)
    gradient = jax.grad(entropy)(LOGITS)
    assert np.isfinite(gradient).all()
    assert gradient[3] == 0
    # Negative control: with the mask left out, the illegal choice takes almost all of the probability.
    assert float(head.log_prob(LOGITS, jnp.ones(4, bool), jnp.array(0))) < -40
    only = head.entropy(LOGITS, jnp.array([True, False, False, False]), key=jax.random.key(0))
    assert float(only) == pytest.approx(0.0, abs=1e-6)


# --- vectors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", [Gaussian(), Squashed()])
@pytest.mark.parametrize(("mean", "wider"), [(0.0, 0.0), (0.8, -1.0), (-0.5, 0.5)])
def test_densities_integrate_to_one_and_entropy_is_theirs(head, mean, wider):
    """One component, by the trapezoid rule; where the density is wrong by the slope of tanh, this is far from 1."""
    outputs = jnp.array([mean, wider])
    even = np.linspace(-8.0, 8.0, 20_001)
    points = np.tanh(even * 7 / 8) if isinstance(head, Squashed) else even  # crowded at both ends, where tanh is flat
    log_density = jax.vmap(lambda x: head.log_prob(outputs, ALL, x[None]))(jnp.array(points, jnp.float32))
    density = np.exp(np.asarray(log_density, np.float64))
    assert np.trapezoid(density, points) == pytest.approx(1.0, abs=5e-3)
    entropy = -np.trapezoid(density * np.asarray(log_density, np.float64), points)
    keys = jax.random.split(jax.random.key(0), 20_000)
    estimates = jax.vmap(lambda key: head.entropy(outputs, ALL, key=key))(keys)
    assert float(estimates.mean()) == pytest.approx(entropy, abs=0.03)


def test_without_the_correction_the_density_would_not_integrate_to_one():
    points = np.tanh(np.linspace(-7.0, 7.0, 20_001))
    before = jnp.arctanh(jnp.array(points, jnp.float32).clip(-1 + 1e-6, 1 - 1e-6))[:, None]
    outputs = jnp.array([0.8, 0.0])
    corrected = jax.vmap(lambda x: Squashed().log_prob(outputs, ALL, x[None]))(jnp.array(points, jnp.float32))
    naive = np.exp(np.asarray(corrected + jax.vmap(lambda u: log_slope(u, ALL))(before), np.float64))
    assert abs(np.trapezoid(naive, points) - 1) > 0.1


def test_the_slope_of_tanh_is_its_derivative_and_finite_far_out():
    for u in (-3.0, 0.0, 0.7, 4.0):
        assert float(log_slope(jnp.array([u]), ALL)) == pytest.approx(np.log(1 - np.tanh(u) ** 2), rel=1e-3, abs=1e-5)
    assert np.isfinite(log_slope(jnp.array([40.0]), ALL))


@pytest.mark.parametrize("head", [Gaussian(), Squashed()])
def test_components_an_agent_does_not_have_count_for_nothing(head):
    outputs = jnp.array([0.1, 0.2, 0.0, 0.0])
    mine = jnp.array([True, False])
    one = head.log_prob(outputs, mine, jnp.array([0.3, 0.9]))
    other = head.log_prob(outputs, mine, jnp.array([0.3, -0.9]))
    assert one == other
    assert one != head.log_prob(outputs, jnp.ones(2, bool), jnp.array([0.3, -0.9]))


def test_the_log_probability_of_a_draw_is_what_drawing_noted():
    head, outputs = Squashed(), jnp.array([0.4, -0.3, 0.2, -0.5])
    action, noted = head.draw_with_log_prob(outputs, jnp.ones(2, bool), key=jax.random.key(3))
    assert (jnp.abs(action) < 1).all()
    assert float(head.log_prob(outputs, jnp.ones(2, bool), action)) == pytest.approx(float(noted), abs=1e-4)
