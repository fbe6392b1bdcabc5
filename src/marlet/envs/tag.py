"""Slow hunters chase quick prey among obstacles (mpe2's `simple_tag_v3`)."""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float

from marlet.envs.particles import Bodies, Figure, Particles, Post, others_than, out_of_bounds, touch
from marlet.options import option

HUNTER, PREY = 0.075, 0.05


@dataclass(frozen=True)
class Tag(Particles):
    """`hunters` chase `prey`, which are quicker; `obstacles` are in everyone's way.

    Equal to `mpe2.simple_tag_v3` (Lowe et al. 2017, arXiv:1706.02275), to rounding error.

    - **Agents** n = hunters + prey = 4: the hunters (named adversaries) first, then the prey; two teams, two kinds.
    - **Observation** `n d`, d = 2 + 2 obstacles + 2 hunters + 4 prey = 16: own velocity (2) and position (2), obstacles
      relative to it (2 each), others relative to it (2 each), and the velocities of the other prey (2 each). Prey see
      one velocity less, and end in zeros.
    - **State** `s`, s = 4 n + 2 obstacles = 20: positions, velocities, and obstacles.
    - **Action** `n`, one of 5 (with `continuous` `n a`, a = 5): 0 nothing, 1 left, 2 right, 3 down, 4 up. Hunters
      accelerate by 3 up to speed 1, prey by 4 up to 1.3.
    - **Reward** of every hunter: 10 for each pair of a hunter and a prey that touch. Of each prey: -10 for each hunter
      that touches it, less a fine for leaving the arena.
    - **End**: truncated after `steps` = 25 steps; nobody dies.

    Return per episode of random play: hunters 4.4, prey -16.6.
    """

    prey: int = option(1, "number of prey", low=1, high=16)
    hunters: int = option(3, "number of hunters", low=1, high=16)
    obstacles: int = option(2, "number of obstacles", low=0, high=16)

    @property
    def figures(self) -> tuple[Figure, ...]:
        hunters = [Figure(f"adversary_{i}", 0, 0, HUNTER, 3.0, 1.0) for i in range(self.hunters)]
        return (*hunters, *(Figure(f"agent_{i}", 1, 1, PREY, 4.0, 1.3) for i in range(self.prey)))

    @property
    def posts(self) -> tuple[Post, ...]:
        return (Post(size=0.2, collides=True),) * self.obstacles

    @property
    def obs_size(self) -> int:
        return 4 + 2 * (self.obstacles + self.hunters + self.prey - 1 + self.prey)

    @property
    def reach(self) -> float:
        return 0.9

    def observe(self, bodies: Bodies) -> list[Float[Array, " d"]]:
        agents = range(self.hunters + self.prey)
        return [
            jnp.concatenate(
                [
                    bodies.velocity[i],
                    bodies.position[i],
                    *(bodies.landmark[k] - bodies.position[i] for k in range(self.obstacles)),
                    *(bodies.position[j] - bodies.position[i] for j in others_than(i, agents)),
                    *(bodies.velocity[j] for j in others_than(i, agents) if j >= self.hunters),
                ]
            )
            for i in agents
        ]

    def pay(self, bodies: Bodies) -> list[Float[Array, ""]]:
        preys = range(self.hunters, self.hunters + self.prey)
        touching = [[10.0 * touch(bodies, i, j, HUNTER + PREY) for i in range(self.hunters)] for j in preys]
        caught = jnp.array(touching).sum(1)
        return [caught.sum()] * self.hunters + [
            -caught[k] - out_of_bounds(bodies.position[j]) for k, j in enumerate(preys)
        ]
