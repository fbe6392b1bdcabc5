"""Cooperative navigation: agents spread over landmarks without bumping into each other (mpe2's `simple_spread_v3`)."""

from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from marlet.envs.base import Env, make_step
from marlet.envs.drawing import COLOURS, disc
from marlet.options import option
from marlet.types import Key, Spec, Step

DT = 0.1
DAMPING = 0.25
ACCELERATION = 5.0
RADIUS = 0.15
CONTACT_FORCE = 100.0
CONTACT_MARGIN = 1e-3


class Bodies(eqx.Module):
    """Where everything is, in units of half the arena's side, and how many steps the episode has lasted."""

    position: Float[Array, "n 2"]
    velocity: Float[Array, "n 2"]
    landmark: Float[Array, "n 2"]
    clock: Int[Array, ""]


@dataclass(frozen=True)
class Spread(Env):
    """`agents` discs and as many landmarks in a plane; together the agents should cover every landmark.

    Equal to `mpe2.simple_spread_v3` (Lowe et al. 2017, arXiv:1706.02275), per agent, to rounding error.

    - **Observation** `(6 n,)` of each agent: own velocity (2), own position (2), landmarks relative to it (2 n), the
      other agents relative to it (2 (n-1)), and 2 (n-1) zeros where other particle worlds carry messages.
    - **State** `(6 n,)`: positions, velocities and landmarks.
    - **Action**: 0 nothing, 1 left, 2 right, 3 down, 4 up. A push accelerates by 5 for one step of 0.1; positions move
      with the velocity before the push; a quarter of the velocity is lost each step; overlapping discs push each other off.
    - **Reward** of each agent: `(1 - local_ratio)` times minus the sum over landmarks of the distance to the nearest
      agent, minus `local_ratio` for every agent it overlaps.
    - **End**: truncated after `steps` steps; nobody dies.

    Return per agent and episode of the default task: random play -26.4, doing nothing -24.0, a scripted assignment -7.5.
    """

    agents: int = option(3, "number of agents and of landmarks", low=1, high=32)
    local_ratio: float = option(0.5, "share of the own collisions in the reward", low=0.0, high=1.0)
    steps: int = option(25, "steps of an episode", low=1)

    @property
    def spec(self) -> Spec:
        return Spec(
            num_agents=self.agents,
            num_actions=5,
            obs_shape=(6 * self.agents,),
            state_size=6 * self.agents,
            horizon=self.steps,
        )

    def reset(self, *, key: Key) -> tuple[Bodies, Step]:
        places = jax.random.uniform(key, (2, self.agents, 2), minval=-1.0, maxval=1.0)
        bodies = Bodies(places[0], jnp.zeros((self.agents, 2)), places[1], jnp.zeros((), jnp.int32))
        return bodies, make_step(self.spec, **self._views(bodies))

    def step(self, state: Bodies, action: Int[Array, " n"], *, key: Key) -> tuple[Bodies, Step]:
        push = ACCELERATION * jnp.stack(
            [1.0 * (action == 2) - (action == 1), 1.0 * (action == 4) - (action == 3)], axis=-1
        )
        force = push + self._contact(state.position)
        bodies = Bodies(
            position=state.position + DT * state.velocity,
            velocity=state.velocity * (1 - DAMPING) + DT * force,
            landmark=state.landmark,
            clock=state.clock + 1,
        )
        truncated = bodies.clock >= self.steps
        return bodies, make_step(self.spec, reward=self._reward(bodies), truncated=truncated, **self._views(bodies))

    def _contact(self, position: Float[Array, "n 2"]) -> Float[Array, "n 2"]:
        """The force on each agent from those it touches; every pair is looked at once."""
        force = [jnp.zeros(2)] * self.agents
        for i in range(self.agents):
            for j in range(i):
                apart = position[i] - position[j]
                distance = _length(apart)
                depth = (2 * RADIUS - distance) / CONTACT_MARGIN
                penetration = CONTACT_MARGIN * (jnp.maximum(depth, 0) + jnp.log1p(jnp.exp(-jnp.abs(depth))))
                push = CONTACT_FORCE * penetration * apart / jnp.maximum(distance, 1e-12)
                force[i], force[j] = force[i] + push, force[j] - push
        return jnp.stack(force)

    def _reward(self, bodies: Bodies) -> Float[Array, " n"]:
        uncovered = jnp.zeros(())
        for j in range(self.agents):
            distances = [_length(bodies.position[i] - bodies.landmark[j]) for i in range(self.agents)]
            uncovered += jnp.min(jnp.stack(distances))
        bumps = [jnp.zeros(())] * self.agents
        for i in range(self.agents):
            for j in range(i):
                bump = 1.0 * (_length(bodies.position[i] - bodies.position[j]) < 2 * RADIUS)
                bumps[i], bumps[j] = bumps[i] + bump, bumps[j] + bump
        return -(1 - self.local_ratio) * uncovered - self.local_ratio * jnp.stack(bumps)

    def _views(self, bodies: Bodies) -> dict[str, Array]:
        """What each agent observes, and the state."""
        n = self.agents
        obs = []
        for i in range(n):
            own = bodies.position[i]
            others = [bodies.position[j] - own for j in range(n) if j != i]
            silence = [jnp.zeros(2)] * (n - 1)
            landmarks = [bodies.landmark[j] - own for j in range(n)]
            obs.append(jnp.concatenate([bodies.velocity[i], own, *landmarks, *others, *silence]))
        state = jnp.concatenate([bodies.position, bodies.velocity, bodies.landmark]).reshape(-1)
        return {"obs": jnp.stack(obs), "state": state}

    def render(self, state: Bodies) -> np.ndarray:
        """A frame of 360 x 360 pixels: landmarks as small dark dots, agents as discs of their true size."""
        frame = np.full((360, 360, 3), 248, np.uint8)
        scale = 360 / 2.8
        for x, y in np.asarray(state.landmark):
            disc(frame, (1.4 - y) * scale, (x + 1.4) * scale, 0.05 * scale, np.array([60, 60, 70]))
        for i, (x, y) in enumerate(np.asarray(state.position)):
            disc(frame, (1.4 - y) * scale, (x + 1.4) * scale, RADIUS * scale, COLOURS[i % len(COLOURS)])
        return frame


def _length(vector: Float[Array, "2"]) -> Float[Array, ""]:
    return jnp.sqrt(vector[0] ** 2 + vector[1] ** 2)
