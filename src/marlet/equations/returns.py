"""Returns: what a choice turned out to be worth, from rewards and the values of what follows.

Every function reads a rollout forwards in time on its leading axis. `next_value[t]` is the value of the step that
action t led to, already zero where nothing follows (death); `goes_on[t]` says that entry t + 1 continues the same
episode, so it is False at an episode's end, by death or by the clock, and at the rollout's last entry.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def continues(first: Bool[Array, "T *batch"]) -> Bool[Array, "T *batch"]:
    """`goes_on` of a rollout, from the flags that say where episodes open."""
    return jnp.concatenate([~first[1:], jnp.zeros_like(first[:1])])


def n_step_returns(
    reward: Float[Array, "T *batch"],
    next_value: Float[Array, "T *batch"],
    goes_on: Bool[Array, "T *batch"],
    discount: float | Float[Array, ""],
    n: int,
) -> Float[Array, "T *batch"]:
    """The sum of n discounted rewards and the value after them (Sutton & Barto 2018, equation 7.1).

    Fewer than n where the episode or the rollout ends: then the value is taken there, which is zero after a death and
    the final step's own value after the clock has cut the episode off.
    """
    returns = reward + discount * next_value
    for _ in range(n - 1):
        later = jnp.concatenate([returns[1:], returns[-1:]])
        returns = reward + discount * jnp.where(goes_on, later, next_value)
    return returns


def lambda_returns(
    reward: Float[Array, "T *batch"],
    next_value: Float[Array, "T *batch"],
    goes_on: Bool[Array, "T *batch"],
    discount: float | Float[Array, ""],
    decay: float | Float[Array, ""],
) -> Float[Array, "T *batch"]:
    """The mean of all n-step returns, those of more steps weighted less by `decay` each (Sutton & Barto 2018, 12.2).

    Less the values of the steps acted from, these are the generalised advantages of Schulman et al. 2016
    (arXiv:1506.02438, equation 16): decay 0 gives the one-step errors, decay 1 the whole return.
    """

    def body(later: Array, step: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        reward, next_value, goes_on = step
        beyond = jnp.where(goes_on, (1 - decay) * next_value + decay * later, next_value)
        returns = reward + discount * beyond
        return returns, returns

    last = jnp.zeros_like(next_value[0])
    return jax.lax.scan(body, last, (reward, next_value, goes_on), reverse=True)[1]
