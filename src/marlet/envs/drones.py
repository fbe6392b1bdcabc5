"""A swarm of drones flies to a target on a grid."""

from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from marlet.envs import drawing
from marlet.envs.base import Env, make_step
from marlet.options import option
from marlet.types import Key, Spec, Step

NORTH, SOUTH, EAST, WEST, HOVER = range(5)


class DronesState(eqx.Module):
    """Where the drones and their target are."""

    x: Int[Array, "*batch n"]
    y: Int[Array, "*batch n"]
    target: Int[Array, "*batch 2"]
    """(x, y)"""
    flying: Bool[Array, "*batch"]
    """False once every drone has reached the target."""
    time: Int[Array, "*batch"]


@dataclass(frozen=True)
class Drones(Env):
    """The drone swarm: all drones are to gather at one target.

    - **Agents** n = drones = 4: one team, one kind.
    - **Opening**: drones and target each in a cell drawn at random; several may be in one cell, then and later.
    - **Action** `n`, one of 5: 0 north (y+1), 1 south (y-1), 2 east (x+1), 3 west (x-1), 4 hover. The edge holds a drone
      back.
    - **Reward** of each drone: minus its Euclidean distance to the target after the move, in cells.
    - **Observation** `n d`, d = 4: x, y, target x, target y, each as k/(size-1).
    - **State** `s`, s = 2 n + 2 = 10: the drones' x, their y, the target's x and y, each as k/(size-1).
    - **End**: everyone dies, the task being done, as soon as after a move every drone is within one cell of the target
      in both directions (Chebyshev); a drone that is there early flies on. Otherwise truncated after `steps` = 50 steps.
    """

    size: int = option(10, "cells along each side", low=2)
    drones: int = option(4, "drones in the swarm", low=1)
    steps: int = option(50, "steps of an episode", low=1)

    @property
    def spec(self) -> Spec:
        return Spec(
            num_agents=self.drones,
            num_actions=5,
            obs_shape=(4,),
            state_size=2 * self.drones + 2,
            names=tuple(f"drone_{i}" for i in range(self.drones)),
            horizon=self.steps,
            levels=(self.size,) * 4,
        )

    def reset(self, *, key: Key) -> tuple[DronesState, Step]:
        place = jax.random.randint(key, (2, self.drones + 1), 0, self.size, jnp.int32)
        state = DronesState(
            x=place[0, :-1],
            y=place[1, :-1],
            target=place[:, -1],
            flying=jnp.ones((), bool),
            time=jnp.zeros((), jnp.int32),
        )
        return state, self._say(state, jnp.zeros(self.drones))

    def step(self, state: DronesState, action: Int[Array, " n"], *, key: Key) -> tuple[DronesState, Step]:
        x = jnp.clip(state.x + (action == EAST) - (action == WEST), 0, self.size - 1)
        y = jnp.clip(state.y + (action == NORTH) - (action == SOUTH), 0, self.size - 1)
        dx, dy = x - state.target[0], y - state.target[1]
        gathered = ((abs(dx) <= 1) & (abs(dy) <= 1)).all()
        distance = jnp.sqrt((dx * dx + dy * dy).astype(jnp.float32))
        reward = jnp.where(state.flying, -distance, 0.0)
        state = DronesState(x=x, y=y, target=state.target, flying=state.flying & ~gathered, time=state.time + 1)
        return state, self._say(state, reward)

    def render(self, state: DronesState) -> drawing.Frame:
        """Seen from above, north up; the ringed cells around the target are where the swarm is to be."""
        cell, top = max(240 // self.size, 16), self.size - 1
        rows, cols = np.ogrid[: self.size, : self.size]
        x, y = (int(k) for k in np.asarray(state.target))
        near = np.maximum(abs(rows - (top - y)), abs(cols - x)) <= 1
        frame = drawing.board(np.where(near[..., None], [205, 232, 200], [226, 234, 243]), cell)
        for radius, colour in ((0.45, [60, 150, 80]), (0.3, [255, 255, 255]), (0.15, [60, 150, 80])):
            drawing.disc(frame, (top - y + 0.5) * cell, (x + 0.5) * cell, radius * cell, np.array(colour))
        drawing.agents(frame, top - np.asarray(state.y), np.asarray(state.x), cell)
        return frame

    def _say(self, state: DronesState, reward: Float[Array, " n"]) -> Step:
        place = jnp.concatenate([state.x, state.y, state.target])
        target = jnp.broadcast_to(state.target, (self.drones, 2))
        return make_step(
            self.spec,
            obs=jnp.concatenate([jnp.stack([state.x, state.y], -1), target], -1) / (self.size - 1),
            state=place / (self.size - 1),
            reward=reward,
            alive=jnp.broadcast_to(state.flying, (self.drones,)),
            truncated=(state.time >= self.steps) & state.flying,
        )
