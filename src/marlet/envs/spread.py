"""Cooperative navigation: agents spread over landmarks without bumping into each other (mpe2's `simple_spread_v3`)."""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float

from marlet.envs.particles import Bodies, Figure, Particles, Post, length, touch
from marlet.options import option
from marlet.types import computed_once

RADIUS = 0.15


@dataclass(frozen=True)
class Spread(Particles):
    """`agents` discs and as many landmarks in a plane; together the agents should cover every landmark.

    Equal to `mpe2.simple_spread_v3` (Lowe et al. 2017, arXiv:1706.02275), per agent, to rounding error.

    - **Agents** n = agents = 3: one team, one kind.
    - **Observation** `n d`, d = 6 n = 18: own velocity (2), own position (2), landmarks relative to it (2 n), the other
      agents relative to it (2 (n-1)), and 2 (n-1) zeros where other particle worlds carry messages.
    - **State** `s`, s = 6 n = 18: positions, velocities and landmarks.
    - **Action** `n`, one of 5 (with `continuous` `n a`, a = 5): 0 nothing, 1 left, 2 right, 3 down, 4 up. A push
      accelerates by 5 for one step of 0.1; positions move with the velocity before the push; a quarter of the velocity is
      lost each step; overlapping discs push each other off.
    - **Reward** of each agent: `(1 - local_ratio)` times minus the sum over landmarks of the distance to the nearest
      agent, minus `local_ratio` for every agent it overlaps.
    - **End**: truncated after `steps` = 25 steps; nobody dies.

    Return per agent and episode of the default task: random play -26.4, doing nothing -24.0, a scripted assignment -7.5.
    """

    agents: int = option(3, "number of agents and of landmarks", low=1, high=32)
    local_ratio: float = option(0.5, "share of the own collisions in the reward", low=0.0, high=1.0)

    @property
    def figures(self) -> tuple[Figure, ...]:
        return tuple(Figure(f"agent_{i}", size=RADIUS) for i in range(self.agents))

    @property
    def posts(self) -> tuple[Post, ...]:
        return (Post(),) * self.agents

    @property
    def obs_size(self) -> int:
        return 6 * self.agents

    def observe(self, bodies: Bodies) -> Float[Array, "n d"]:
        n, place = self.agents, bodies.position
        landmarks = bodies.landmark - place[:, None]
        # Of all pairs in a row, every (n+1)-th is of an agent with itself.
        pairs = (place - place[:, None]).reshape(n * n, 2)
        others = pairs[1:].reshape(n - 1, n + 1, 2)[:, :-1].reshape(n, 2 * (n - 1))
        silence = jnp.zeros((n, 2 * (n - 1)))
        return jnp.concatenate([bodies.velocity, place, landmarks.reshape(n, 2 * n), others, silence], axis=1)

    def pay(self, bodies: Bodies) -> list[Float[Array, ""]]:
        n = self.agents
        uncovered = jnp.zeros(())
        for j in range(n):
            uncovered += jnp.min(jnp.stack([length(bodies.position[i] - bodies.landmark[j]) for i in range(n)]))
        uncovered = computed_once(uncovered)  # and not again for each agent
        bumps = [jnp.zeros(())] * n
        for i in range(n):
            for j in range(i):
                bump = 1.0 * touch(bodies, i, j, 2 * RADIUS)
                bumps[i], bumps[j] = bumps[i] + bump, bumps[j] + bump
        return [-(1 - self.local_ratio) * uncovered - self.local_ratio * bump for bump in bumps]
