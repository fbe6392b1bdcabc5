"""Move to a target at a cost, alone, together or against each other."""

from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from marlet.envs.base import Env, make_step
from marlet.envs.drawing import COLOURS, disc
from marlet.envs.particles import length
from marlet.options import option
from marlet.types import Key, Spec, Step

SPEED = 0.2
RADIUS = 0.1


class Field(eqx.Module):
    """Where everyone is and where everyone should be, in units of half the arena's side."""

    position: Float[Array, "n 2"]
    target: Float[Array, "n 2"]
    clock: Int[Array, ""]


@dataclass(frozen=True)
class Reach(Env):
    """`agents` points move towards targets; the action is a velocity, and effort costs.

    - **Agents** n = agents = 2: one team, or one for each agent where `competition` is above 0; one kind.
    - **Opening**: positions and targets uniform in the arena [-1, 1]²; with `contested` all have the same target.
    - **Action** `n a`, a = 2, in [-1, 1]: the position moves by .2 of it, and stays inside the arena. Agents nearer than
      .2 push each other apart, half of the overlap each.
    - **Merit** of agent i: u_i = -(distance to its target) - `energy` |action|².
    - **Reward** of agent i: `(1 - competition) mean_j u_j + competition (u_i - mean_{j≠i} u_j)`. With competition 0 all
      are paid the same; with 1 what one gains the others lose, and rewards sum to zero. In between motives are mixed.
    - **Observation** `n d`, d = 2 n + 2 = 6: own position (2), target relative to it (2), others relative to it (2 each).
    - **State** `s`, s = 4 n = 8: positions and targets.
    - **End**: truncated after `steps` = 10 steps; nobody dies.

    Return of the default task per agent: doing nothing -10.5, random play -11.3, the best proportional controller
    (`proportional`, gain 4.5 of a grid from .5 to 8) -3.00.
    """

    agents: int = option(2, "number of agents", low=1, high=100)
    competition: float = option(0.0, "from 0, paid for what all do, to 1, paid for being better", low=0.0, high=1.0)
    contested: bool = option(False, "all have the same target, which only one can hold")
    energy: float = option(0.1, "cost of an action of length 1", low=0.0)
    steps: int = option(10, "steps of an episode", low=1)

    @property
    def spec(self) -> Spec:
        n = self.agents
        return Spec(
            num_agents=n,
            num_actions=2,
            obs_shape=(2 * n + 2,),
            state_size=4 * n,
            continuous=True,
            teams=tuple(range(n)) if self.competition else (),
            horizon=self.steps,
            mortal=False,
        )

    def reset(self, *, key: Key) -> tuple[Field, Step]:
        places = jax.random.uniform(key, (2, self.agents, 2), minval=-1.0, maxval=1.0)
        target = jnp.broadcast_to(places[1, :1], places[1].shape) if self.contested else places[1]
        field = Field(places[0], target, jnp.zeros((), jnp.int32))
        return field, self._say(field, None)

    def step(self, state: Field, action: Float[Array, "n 2"], *, key: Key) -> tuple[Field, Step]:
        action = jnp.clip(action, -1, 1)
        position = jnp.clip(_apart(state.position + SPEED * action), -1, 1)
        field = Field(position, state.target, state.clock + 1)
        merit = -length(position - state.target) - self.energy * (action**2).sum(-1)
        return field, self._say(field, self._paid(merit))

    def _paid(self, merit: Float[Array, " n"]) -> Float[Array, " n"]:
        """From merits to rewards, by the degree of competition."""
        together = merit.mean()
        others = (merit.sum() - merit) / max(self.agents - 1, 1)
        return (1 - self.competition) * together + self.competition * (merit - others)

    def _say(self, field: Field, reward: Float[Array, " n"] | None) -> Step:
        n = self.agents
        obs = [
            jnp.concatenate(
                [
                    field.position[i],
                    field.target[i] - field.position[i],
                    *(field.position[j] - field.position[i] for j in range(n) if j != i),
                ]
            )
            for i in range(n)
        ]
        return make_step(
            self.spec,
            obs=jnp.stack(obs),
            state=jnp.concatenate([field.position, field.target]).reshape(-1),
            reward=reward,
            truncated=field.clock >= self.steps,
        )

    def render(self, state: Field) -> np.ndarray:
        """A frame of 320 x 320 pixels: targets as rings, agents as discs of their true size, each in its colour."""
        frame = np.full((320, 320, 3), 248, np.uint8)
        scale = 320 / 2.4
        for i in range(self.agents):
            colour = COLOURS[i % len(COLOURS)]
            for place, radius, shade in (
                (state.target[i], 0.06, colour),
                (state.target[i], 0.04, np.full(3, 248)),
                (state.position[i], RADIUS, colour),
            ):
                disc(frame, (1.2 - place[1]) * scale, (place[0] + 1.2) * scale, radius * scale, shade)
        return frame


def proportional(obs: Float[Array, "*batch d"], gain: float) -> Float[Array, "*batch 2"]:
    """The action of a controller that heads for the target the faster the farther it is: the yardstick of this task."""
    return jnp.clip(gain * obs[..., 2:4], -1, 1)


def _apart(position: Float[Array, "n 2"]) -> Float[Array, "n 2"]:
    """Positions after agents that overlap have pushed each other off, every pair looked at once."""
    n = position.shape[0]
    shift = [jnp.zeros(2)] * n
    for i in range(n):
        for j in range(i):
            gap = position[i] - position[j]
            distance = length(gap)
            push = jnp.maximum(2 * RADIUS - distance, 0) / 2 * gap / jnp.maximum(distance, 1e-6)
            shift[i], shift[j] = shift[i] + push, shift[j] - push
    return position + jnp.stack(shift)
