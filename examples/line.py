"""Agents on a line are to stand in one cell."""

from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from marlet.envs.base import Env, make_step
from marlet.options import option
from marlet.types import Key, Spec, Step


class LineState(eqx.Module):
    cell: Int[Array, "*batch n"]
    time: Int[Array, "*batch"]


@dataclass(frozen=True)
class Line(Env):
    """Agents on a line are to stand in one cell.

    Action: 0 left, 1 stay, 2 right.
    Reward of each agent: minus the distance between the outermost two, in cells.
    End: the clock cuts the episode off after `steps` steps.
    """

    size: int = option(9, "cells of the line", low=2)
    agents: int = option(2, "agents on it", low=1)
    steps: int = option(20, "steps of an episode", low=1)

    @property
    def spec(self) -> Spec:
        n = self.agents
        return Spec(num_agents=n, num_actions=3, obs_shape=(n + 1,), state_size=n, horizon=self.steps, mortal=False)

    def reset(self, *, key: Key) -> tuple[LineState, Step]:
        cell = jax.random.randint(key, (self.agents,), 0, self.size, jnp.int32)
        state = LineState(cell=cell, time=jnp.zeros((), jnp.int32))
        return state, self._say(state, 0.0)

    def step(self, state: LineState, action: Int[Array, " n"], *, key: Key) -> tuple[LineState, Step]:
        cell = jnp.clip(state.cell + action - 1, 0, self.size - 1)
        state = LineState(cell=cell, time=state.time + 1)
        return state, self._say(state, (cell.min() - cell.max()).astype(jnp.float32))

    def render(self, state: LineState) -> str:
        return "".join(str((state.cell == k).sum() or ".") for k in range(self.size))

    def _say(self, state: LineState, reward) -> Step:
        place = state.cell / (self.size - 1)
        return make_step(
            self.spec,
            obs=jnp.concatenate([place[:, None], jnp.tile(place, (self.agents, 1))], axis=-1),
            state=place,
            reward=jnp.full(self.agents, reward),
            truncated=state.time >= self.steps,
        )
