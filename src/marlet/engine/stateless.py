"""Environments without the state that no one reads: it would be written down at every step, and kept in replays."""

from dataclasses import dataclass, replace

import jax.numpy as jnp
from jaxtyping import Array

from marlet.algorithms.base import Algorithm
from marlet.envs.base import Env, State
from marlet.types import Key, Spec, Step


@dataclass(frozen=True)
class Stateless(Env):
    """The same world, whose steps tell of no state: it has no numbers."""

    env: Env

    def __post_init__(self):
        """Its field is no option of a user's, and is not checked as one."""

    @property
    def spec(self) -> Spec:
        return replace(self.env.spec, state_size=0)

    def reset(self, *, key: Key) -> tuple[State, Step]:
        state, step = self.env.reset(key=key)
        return state, replace(step, state=jnp.zeros(0))

    def step(self, state: State, action: Array, *, key: Key) -> tuple[State, Step]:
        state, step = self.env.step(state, action, key=key)
        return state, replace(step, state=jnp.zeros(0))


def read_by(algorithm: Algorithm, env: Env) -> Env:
    """The environment, without its state where the algorithm reads none."""
    return env if algorithm.reads_state() else Stateless(env)
