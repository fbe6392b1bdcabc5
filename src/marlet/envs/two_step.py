"""A game of two steps in which the greedy choice now forfeits the best joint action later."""

from dataclasses import dataclass

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from marlet.envs.base import Env, make_step
from marlet.types import Key, Spec, Step

FIRST, SECOND_A, SECOND_B, OVER = range(4)
PAYOFF = np.array([[[0, 0], [0, 0]], [[7, 7], [7, 7]], [[0, 1], [1, 8]]], np.float32)
"""Paid to both agents, by stage and the two choices."""

SPEC = Spec(num_agents=2, num_actions=2, obs_shape=(3,), state_size=3, horizon=2, levels=(2, 2, 2))


class TwoStepState(eqx.Module):
    """Which of the stages is being played."""

    stage: Int[Array, "*batch"]


@dataclass(frozen=True)
class TwoStep(Env):
    """The two-step game of QMIX (Rashid et al. 2018, arXiv:1803.11485, section 5).

    - **Agents** n = 2: one team, one kind.
    - **Action** `n`, one of 2: 0 or 1. In the first step agent 0's choice alone counts: 0 leads to stage 2A, 1 to 2B.
    - **Reward**, the same for both: 0 in the first step; in 2A 7 whatever they do; in 2B by the table [[0, 1], [1, 8]].
      So the best return is 8, and 7 is what one gets who does not trust the partner.
    - **Observation** `n d`, d = 3: one-hot of the stage (first, 2A, 2B); zeros once the game is over.
    - **State** `s`, s = 3: the same.
    - **End**: everyone dies after 2 steps; nothing follows.
    """

    @property
    def spec(self) -> Spec:
        return SPEC

    def reset(self, *, key: Key) -> tuple[TwoStepState, Step]:
        state = TwoStepState(stage=jnp.full((), FIRST, jnp.int32))
        return state, say(state, jnp.zeros(()))

    def step(self, state: TwoStepState, action: Int[Array, "2"], *, key: Key) -> tuple[TwoStepState, Step]:
        choice = jnp.arange(2)
        played = (state.stage == jnp.arange(3))[:, None, None] & (action[0] == choice)[:, None] & (action[1] == choice)
        stage = jnp.where(state.stage == FIRST, jnp.where(action[0] == 0, SECOND_A, SECOND_B), OVER)
        state = TwoStepState(stage=stage.astype(jnp.int32))
        return state, say(state, jnp.where(played, PAYOFF, 0.0).sum())

    def render(self, state: TwoStepState) -> str:
        return ("first step", "stage 2A", "stage 2B", "over")[int(state.stage)]


def say(state: TwoStepState, reward: Float[Array, ""]) -> Step:
    stage = state.stage == jnp.arange(3)
    return make_step(
        SPEC,
        obs=jnp.stack([stage, stage]),
        state=stage,
        reward=jnp.stack([reward, reward]),
        alive=jnp.broadcast_to(state.stage != OVER, (2,)),
    )
