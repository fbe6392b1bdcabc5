"""Each agent knows where the other should go (mpe2's `simple_reference_v3`)."""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float

from marlet.envs.particles import Bodies, Figure, Particles, Post, at, length
from marlet.options import option

WORDS = 10


@dataclass(frozen=True)
class Reference(Particles):
    """Two agents move and speak at once; each is told the landmark to which the other should go.

    Equal to `mpe2.simple_reference_v3` (Lowe et al. 2017, arXiv:1706.02275), to rounding error.

    - **Agents** n = 2: one team, one kind.
    - **Observation** `n d`, d = 21: own velocity (2), landmarks relative to it (6), the colour of the other's goal
      (3: .75 in the goal's place, .25 elsewhere), and the word the other said last (10, one-hot).
    - **State** `s`, s = 40: positions, velocities, landmarks, both words, and both goals (one-hot).
    - **Action** `n`, one of 50 (with `continuous` `n a`, a = 15): `push + 5 word`, with pushes 0 nothing, 1 left, 2
      right, 3 down, 4 up and words 0 to 9.
    - **Reward** of each agent: minus the distance of the other to the landmark it should reach, times `local_ratio`,
      plus the mean of both such distances times the rest.
    - **End**: truncated after `steps` = 25 steps; nobody dies.

    Return per agent and episode of random play -28.5.
    """

    local_ratio: float = option(0.5, "share of the own distance in the reward", low=0.0, high=1.0)

    @property
    def figures(self) -> tuple[Figure, ...]:
        return tuple(Figure(f"agent_{i}", collides=False, words=WORDS) for i in range(2))

    @property
    def posts(self) -> tuple[Post, ...]:
        return (Post(),) * 3

    @property
    def obs_size(self) -> int:
        return 21

    @property
    def goals(self) -> int:
        return 2

    def observe(self, bodies: Bodies) -> list[Float[Array, " d"]]:
        return [
            jnp.concatenate(
                [
                    bodies.velocity[i],
                    *(mark - bodies.position[i] for mark in bodies.landmark),
                    0.25 + 0.5 * bodies.goal[i],
                    bodies.said[1 - i],
                ]
            )
            for i in range(2)
        ]

    def pay(self, bodies: Bodies) -> list[Float[Array, ""]]:
        away = [length(bodies.position[1 - i] - at(bodies.goal[i], bodies.landmark)) for i in range(2)]
        mean = (away[0] + away[1]) / 2
        return [-(1 - self.local_ratio) * mean - self.local_ratio * own for own in away]
