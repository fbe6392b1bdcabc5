"""One agent wants to reach a landmark, the other to keep it away (mpe2's `simple_push_v3`)."""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float

from marlet.envs.particles import Bodies, Figure, Particles, Post, at, length

COLOURED = (0.1, 0.9, 0.1, 0.1, 0.1, 0.9)
"""The two landmarks' colours, one after the other."""


@dataclass(frozen=True)
class Push(Particles):
    """A good agent knows which of two landmarks is the goal; its adversary has to find out and to push it off.

    Equal to `mpe2.simple_push_v3` (Lowe et al. 2017, arXiv:1706.02275), to rounding error.

    - **Agents** n = 2: the adversary first; two teams, two kinds.
    - **Observation** `n d`, d = 19: the good agent its velocity (2), the goal relative to it (2), its colour (3: .25,
      and .75 in the goal's place), the landmarks relative to it (4) and their colours (6), the adversary relative to it
      (2); the adversary its velocity (2), the landmarks (4) and the other (2) relative to it, then zeros.
    - **State** `s`, s = 14: positions, velocities, landmarks, and the goal (one-hot).
    - **Action** `n`, one of 5 (with `continuous` `n a`, a = 5): 0 nothing, 1 left, 2 right, 3 down, 4 up. The two
      agents collide.
    - **Reward** of the good agent: minus its distance to the goal. Of the adversary: that distance less its own.
    - **End**: truncated after `steps` = 25 steps; nobody dies.

    Return per episode of random play: adversary about 0, good agent -28.2.
    """

    @property
    def figures(self) -> tuple[Figure, ...]:
        return (Figure("adversary_0"), Figure("agent_0", kind=1, team=1))

    @property
    def posts(self) -> tuple[Post, ...]:
        return (Post(),) * 2

    @property
    def obs_size(self) -> int:
        return 19

    @property
    def goals(self) -> int:
        return 1

    def observe(self, bodies: Bodies) -> list[Float[Array, " d"]]:
        (goal,) = bodies.goal
        bad, good = bodies.position
        colour = 0.25 + 0.5 * jnp.concatenate([jnp.zeros(1), goal])
        marks = lambda place: [mark - place for mark in bodies.landmark]  # noqa: E731
        told = [at(goal, bodies.landmark) - good, colour]
        return [
            jnp.concatenate([bodies.velocity[0], *marks(bad), good - bad]),
            jnp.concatenate([bodies.velocity[1], *told, *marks(good), jnp.array(COLOURED), bad - good]),
        ]

    def pay(self, bodies: Bodies) -> list[Float[Array, ""]]:
        goal = at(bodies.goal[0], bodies.landmark)
        bad, good = (length(place - goal) for place in bodies.position)
        return [good - bad, -good]
