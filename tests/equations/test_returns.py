"""Returns against an independent slow loop, and the identities they must satisfy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marlet.equations import returns
from marlet.equations.returns import continues

pytestmark = pytest.mark.rough

n_step_returns = jax.jit(returns.n_step_returns, static_argnums=4)
lambda_returns = jax.jit(returns.lambda_returns)


def slow_n_step(reward, next_value, goes_on, discount, n):
    """Follow each entry forwards by hand."""
    returns = []
    for t in range(len(reward)):
        total, weight, k = 0.0, 1.0, t
        while True:
            total += weight * reward[k]
            weight *= discount
            if k - t + 1 == n or not goes_on[k]:
                total += weight * next_value[k]
                break
            k += 1
        returns.append(total)
    return np.array(returns)


def test_worked_numbers():
    # Three entries, the second ends an episode by death (its next value is 0), discount .5, two steps.
    returns = n_step_returns(
        jnp.array([1.0, 2.0, 4.0]), jnp.array([10.0, 0.0, 8.0]), jnp.array([True, False, False]), 0.5, 2
    )
    np.testing.assert_allclose(returns, [1 + 0.5 * 2 + 0.25 * 0, 2.0, 4 + 0.5 * 8])


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 7), st.integers(1, 4), st.floats(0, 1), st.integers(0, 2**31 - 1))
def test_equals_the_slow_loop(steps, n, discount, seed):
    rng = np.random.default_rng(seed)
    reward, value = rng.normal(size=(2, steps)).astype(np.float32)
    goes_on = rng.random(steps) < 0.7
    goes_on[-1] = False
    fast = n_step_returns(jnp.array(reward), jnp.array(value), jnp.array(goes_on), discount, n)
    np.testing.assert_allclose(fast, slow_n_step(reward, value, goes_on, discount, n), rtol=1e-4, atol=1e-5)


def test_nothing_after_an_end_changes_what_came_before():
    rng = np.random.default_rng(0)
    reward, value = jnp.array(rng.normal(size=(2, 6)))
    goes_on = jnp.array([True, True, False, True, True, False])
    before = n_step_returns(reward, value, goes_on, 0.9, 4)[:3]
    changed = n_step_returns(reward.at[3:].add(100.0), value.at[3:].add(100.0), goes_on, 0.9, 4)[:3]
    np.testing.assert_array_equal(before, changed)
    # Negative control: where the end is not seen, the later rewards leak into the earlier returns.
    leaky = n_step_returns(reward.at[3:].add(100.0), value, goes_on.at[2].set(True), 0.9, 4)[:3]
    assert not np.allclose(before, leaky)


def test_continues_ends_where_the_next_entry_opens_an_episode_and_at_the_last():
    first = jnp.array([[True, False], [False, True], [True, False]])
    np.testing.assert_array_equal(continues(first), [[True, False], [False, True], [False, False]])


@pytest.mark.parametrize("n", [1, 3, 10])
def test_an_endless_game_is_worth_ten(n):
    # The value of reward 1 for ever at discount .9 reproduces itself.
    returns = n_step_returns(jnp.ones(5), jnp.full(5, 10.0), jnp.array([True] * 4 + [False]), 0.9, n)
    np.testing.assert_allclose(returns, 10.0, rtol=1e-6)


# --- lambda-returns and generalised advantages -----------------------------------------------------------------------

REWARD, VALUE = np.array([1.0, 0.0, 2.0]), np.array([0.5, 1.0, 1.5])


def advantages(decay, last_value=2.0):
    """Of the worked example: three steps, discount .9, `last_value` after the last of them."""
    following = jnp.array([*VALUE[1:], last_value])
    goes_on = jnp.array([True, True, False])
    return np.asarray(lambda_returns(jnp.array(REWARD), following, goes_on, 0.9, decay) - VALUE)


@pytest.mark.parametrize(
    ("decay", "last_value", "expected"),
    [
        (0.8, 2.0, (2.84432, 2.006, 2.3)),
        (0.0, 2.0, (1.4, 0.35, 2.3)),
        (1.0, 2.0, (3.578, 2.42, 2.3)),
        (0.8, 0.0, (1.9112, 0.71, 0.5)),
    ],
)
def test_generalised_advantages_of_the_worked_example(decay, last_value, expected):
    np.testing.assert_allclose(advantages(decay, last_value), expected, atol=1e-5)


def slow_advantages(reward, value, next_value, goes_on, discount, decay):
    """Discounted one-step errors, summed forwards until the episode ends."""
    errors = reward + discount * next_value - value
    found = []
    for t in range(len(reward)):
        total, weight, k = 0.0, 1.0, t
        while True:
            total += weight * errors[k]
            if not goes_on[k]:
                break
            weight *= discount * decay
            k += 1
        found.append(total)
    return np.array(found)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 8), st.floats(0, 1), st.floats(0, 1), st.integers(0, 2**31 - 1))
def test_lambda_returns_less_values_are_generalised_advantages(steps, discount, decay, seed):
    """With ends inside: by death (nothing follows) and by the clock (the final step has a value of its own)."""
    rng = np.random.default_rng(seed)
    reward, value, final = rng.normal(size=(3, steps)).astype(np.float32)
    goes_on = rng.random(steps) < 0.7
    goes_on[-1] = False
    dies = ~goes_on & (rng.random(steps) < 0.5)
    next_value = np.where(goes_on, np.append(value[1:], 0.0), np.where(dies, 0.0, final)).astype(np.float32)
    returns = lambda_returns(jnp.array(reward), jnp.array(next_value), jnp.array(goes_on), discount, decay)
    expected = slow_advantages(reward, value, next_value, goes_on, discount, decay)
    np.testing.assert_allclose(returns - value, expected, rtol=1e-3, atol=1e-4)


def test_decay_one_is_the_whole_return_and_decay_zero_one_step():
    rng = np.random.default_rng(1)
    reward, value = jnp.array(rng.normal(size=(2, 6)))
    goes_on = jnp.array([True, True, False, True, True, False])
    whole = lambda_returns(reward, value, goes_on, 0.9, 1.0)
    np.testing.assert_allclose(whole, n_step_returns(reward, value, goes_on, 0.9, 6), rtol=1e-5)
    np.testing.assert_allclose(lambda_returns(reward, value, goes_on, 0.9, 0.0), reward + 0.9 * value, rtol=1e-6)
    leaky = lambda_returns(reward, value, goes_on.at[2].set(True), 0.9, 1.0)
    assert not np.allclose(whole[:3], leaky[:3])  # an end that is not seen changes what came before
