"""The game that tells a cut by the clock from a death: its value is 10, or much less for who takes the one for the other."""

from dataclasses import dataclass

import jax.numpy as jnp

from marlet.envs.base import Env, make_step
from marlet.types import Spec


@dataclass(frozen=True)
class Endless(Env):
    """Reward 1 for ever, cut off by a clock of 10 that is told apart from a death, or not. That nobody can die may be
    `known` beforehand: then rollouts and replays keep the final steps alone."""

    deadly: bool = False
    known: bool = False

    @property
    def spec(self):
        return Spec(num_agents=2, num_actions=2, obs_shape=(1,), state_size=1, horizon=10, mortal=not self.known)

    def reset(self, *, key):
        return jnp.zeros((), jnp.int32), make_step(self.spec, obs=jnp.ones((2, 1)), state=jnp.ones(1))

    def step(self, state, action, *, key):
        ends = state + 1 >= 10
        step = make_step(
            self.spec,
            obs=jnp.ones((2, 1)),
            state=jnp.ones(1),
            reward=jnp.ones(2),
            alive=jnp.broadcast_to(~(ends & self.deadly), (2,)),
            truncated=ends & jnp.logical_not(self.deadly),
        )
        return state + 1, step
