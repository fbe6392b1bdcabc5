"""A team covers a landmark without telling its adversary which it is (mpe2's `simple_adversary_v3`)."""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float

from marlet.envs.particles import Bodies, Figure, Particles, Post, at, length, others_than
from marlet.options import option


@dataclass(frozen=True)
class Adversary(Particles):
    """`agents` good agents know which landmark is the goal; their adversary sees only where everyone is.

    Equal to `mpe2.simple_adversary_v3` (Lowe et al. 2017, arXiv:1706.02275), to rounding error.

    - **Agents** n = agents + 1 = 3: the adversary first, then the good ones; two teams, two kinds. There are `agents`
      landmarks.
    - **Observation** `n d`, d = 4 agents + 2 = 10: good agents the goal relative to them (2), landmarks (2 each) and
      others (2 each) relative to them; the adversary the same without the goal, then zeros.
    - **State** `s`, s = 7 agents + 4 = 18: positions, velocities, landmarks, and the goal (one-hot).
    - **Action** `n`, one of 5 (with `continuous` `n a`, a = 5): 0 nothing, 1 left, 2 right, 3 down, 4 up. Bodies pass
      through each other.
    - **Reward** of the adversary: minus its distance to the goal. Of each good agent: the adversary's distance to the
      goal, less that of the good agent nearest to it.
    - **End**: truncated after `steps` = 25 steps; nobody dies.

    Return per episode of random play: adversary -29.0, good agents 8.2.
    """

    agents: int = option(2, "number of good agents and of landmarks", low=1, high=32)

    @property
    def figures(self) -> tuple[Figure, ...]:
        good = [Figure(f"agent_{i}", kind=1, team=1, size=0.15, collides=False) for i in range(self.agents)]
        return (Figure("adversary_0", size=0.15, collides=False), *good)

    @property
    def posts(self) -> tuple[Post, ...]:
        return (Post(size=0.08),) * self.agents

    @property
    def obs_size(self) -> int:
        return 4 * self.agents + 2

    @property
    def goals(self) -> int:
        return 1

    def observe(self, bodies: Bodies) -> list[Float[Array, " d"]]:
        goal = at(bodies.goal[0], bodies.landmark)
        views = []
        for i, place in enumerate(bodies.position):
            told = [goal - place] if i else []
            views.append(
                jnp.concatenate(
                    [
                        *told,
                        *(mark - place for mark in bodies.landmark),
                        *(other - place for other in others_than(i, bodies.position)),
                    ]
                )
            )
        return views

    def pay(self, bodies: Bodies) -> list[Float[Array, ""]]:
        goal = at(bodies.goal[0], bodies.landmark)
        away = [length(place - goal) for place in bodies.position]
        nearest = jnp.min(jnp.stack(away[1:]))
        return [-away[0]] + [away[0] - nearest] * self.agents
