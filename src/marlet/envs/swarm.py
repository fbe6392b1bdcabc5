"""A swarm of drones covers points of interest, each seeing only what is near."""

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

SPEED = 0.1
REACH = 0.15
BODY = 0.05
NONE = 2**31 - 1


class Airspace(eqx.Module):
    """Where drones and targets are. The arena's half side grows with the root of the number of drones."""

    position: Float[Array, "n 2"]
    target: Float[Array, "m 2"]
    clock: Int[Array, ""]


@dataclass(frozen=True)
class Swarm(Env):
    """`agents` drones in a plane; together they should keep a drone near each of `targets` points, without colliding.

    The arena is a square of half side L = sqrt(agents / 10), so that drones are as dense whatever their number, and what one
    observes does not grow with it.

    - **Agents** n = agents = 10: one team, one kind.
    - **Opening**: drones and targets uniform in the arena.
    - **Action** `n a`, a = 2, in [-1, 1]: the position moves by .1 of it, and stays inside the arena.
    - **Observation** `n d`, d = 4 + 3 neighbours + 3 seen = 28: own position / L (2), how near each pair of walls is, at
      most `sight` (2), then the nearest `neighbours` drones and the nearest `seen` targets within `sight`, each as
      relative position (2) and 1; zeros where there is none.
    - **State** `s`, s = 2 n + 2 points = 30: positions of drones and of the 5 targets / L.
    - **Reward** of each drone: the share of targets with a drone within .15, less `collision` if another drone is
      within .05 of it.
    - **Cost** of each drone: 1 where another is within .05 of it.
    - **End**: truncated after `steps` = 30 steps; nobody dies.
    """

    agents: int = option(10, "number of drones", low=2, high=500)
    targets: int = option(0, "number of points of interest; 0: half as many as drones", low=0)
    sight: float = option(0.6, "how far a drone sees", low=0.0)
    neighbours: int = option(4, "drones a drone keeps in view at most", low=1)
    seen: int = option(4, "targets a drone keeps in view at most", low=1)
    collision: float = option(0.2, "what a collision costs in reward", low=0.0)
    steps: int = option(30, "steps of an episode", low=1)

    @property
    def points(self) -> int:
        """How many targets there are."""
        return self.targets or max(1, self.agents // 2)

    @property
    def half_side(self) -> float:
        """L: half of the arena's side."""
        return (self.agents / 10) ** 0.5

    @property
    def spec(self) -> Spec:
        return Spec(
            num_agents=self.agents,
            num_actions=2,
            obs_shape=(4 + 3 * self.neighbours + 3 * self.seen,),
            state_size=2 * (self.agents + self.points),
            continuous=True,
            horizon=self.steps,
            mortal=False,
        )

    def reset(self, *, key: Key) -> tuple[Airspace, Step]:
        places = self.half_side * jax.random.uniform(key, (self.agents + self.points, 2), minval=-1.0, maxval=1.0)
        space = Airspace(places[: self.agents], places[self.agents :], jnp.zeros((), jnp.int32))
        return space, self._say(space, earns=False)

    def step(self, state: Airspace, action: Float[Array, "n 2"], *, key: Key) -> tuple[Airspace, Step]:
        moved = state.position + SPEED * jnp.clip(action, -1, 1)
        space = Airspace(jnp.clip(moved, -self.half_side, self.half_side), state.target, state.clock + 1)
        return space, self._say(space, earns=True)

    def _say(self, space: Airspace, *, earns: bool) -> Step:
        side = self.half_side
        between = jnp.where(jnp.eye(self.agents, dtype=bool), jnp.inf, _squares(space.position, space.position))
        away = _squares(space.position, space.target)
        walls = side - jnp.abs(space.position)
        obs = jnp.concatenate(
            [
                space.position / side,
                jnp.minimum(walls, self.sight),
                self._near(space.position, space.position, between, self.neighbours),
                self._near(space.position, space.target, away, self.seen),
            ],
            axis=-1,
        )
        bumps = 1.0 * (between < BODY**2).any(0)
        covered = (away < REACH**2).any(1).mean()
        return make_step(
            self.spec,
            obs=obs,
            state=jnp.concatenate([space.position, space.target]).reshape(-1) / side,
            reward=covered - self.collision * bumps if earns else None,
            cost=bumps if earns else None,
            truncated=space.clock >= self.steps,
        )

    def _near(
        self, position: Float[Array, "n 2"], other: Float[Array, "m 2"], square: Float[Array, "m n"], count: int
    ) -> Float[Array, "n three_count"]:
        """The nearest `count` in sight: relative positions and ones, zeros where there is none.

        A square and, in its last bits, whose it is are one whole number, of which the least that is greater than the last
        one is looked for again and again: for few that is quicker than sorting. Of two whose squares differ by less than
        one part in 2^23 / m, the one that is listed first counts as nearer.
        """
        m = len(other)
        own = (1 << (m - 1).bit_length()) - 1
        bits = jax.lax.bitcast_convert_type(square, jnp.int32)  # of numbers that are not negative: ordered as they are
        ranks = jnp.where(square <= self.sight**2, bits & ~own | jnp.arange(m)[:, None], NONE)
        nearest, views = jnp.full(len(position), -1), []
        for _ in range(count):
            nearest = jnp.where(ranks > nearest, ranks, NONE).min(0)
            there = (nearest < NONE)[:, None]
            views += [jnp.where(there, other[jnp.minimum(nearest & own, m - 1)] - position, 0.0), 1.0 * there]
        return jnp.concatenate(views, axis=-1)

    def render(self, state: Airspace) -> np.ndarray:
        """A frame of 360 x 360 pixels: targets with the area from which they are covered, drones as discs."""
        frame = np.full((360, 360, 3), 248, np.uint8)
        scale = 360 / (2 * self.half_side + 0.4)
        at = lambda place: (180 - place[1] * scale, 180 + place[0] * scale)  # noqa: E731
        for place in np.asarray(state.target):
            disc(frame, *at(place), REACH * scale, np.array([205, 228, 210]))
        for i, place in enumerate(np.asarray(state.position)):
            disc(frame, *at(place), max(BODY / 2 * scale, 2.5), COLOURS[i % len(COLOURS)])
        return frame


def _squares(position: Float[Array, "n 2"], other: Float[Array, "m 2"]) -> Float[Array, "m n"]:
    """The squared distance of each other one from each position.

    Differences are written as products, other * 1 + 1 * -own, which is exact. What a product reads is computed beforehand:
    of plain differences, a CPU's compiler draws the actions that led there anew for every pair.
    """

    def gap(own: Float[Array, " n"], others: Float[Array, " m"]) -> Float[Array, "m n"]:
        return jnp.stack([others, jnp.ones_like(others)], axis=1) @ jnp.stack([jnp.ones_like(own), -own])

    return gap(position[:, 0], other[:, 0]) ** 2 + gap(position[:, 1], other[:, 1]) ** 2
