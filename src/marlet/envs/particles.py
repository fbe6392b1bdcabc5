"""What the particle worlds have in common: discs in a plane that push, collide and speak, as in mpe2.

A scenario is a final subclass of `Particles`. It says what its agents and landmarks are (`figures`, `posts`), what each
agent observes and what each is paid; movement, contact, messages, the state for critics and the picture are here.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from marlet.envs.base import Env, make_step
from marlet.envs.drawing import COLOURS, disc
from marlet.options import option
from marlet.types import Key, Spec, Step, computed_once

DT = 0.1
DAMPING = 0.25
CONTACT_FORCE = 100.0
CONTACT_MARGIN = 1e-3
MOVES = 5
"""0 nothing, 1 left, 2 right, 3 down, 4 up."""
FORWARD, BACK = (2, 4), (1, 3)
"""Moves along each axis."""


@dataclass(frozen=True)
class Figure:
    """What an agent is."""

    name: str
    kind: int = 0
    team: int = 0
    size: float = 0.05
    """Radius."""
    acceleration: float = 5.0
    top_speed: float | None = None
    moves: bool = True
    collides: bool = True
    words: int = 0
    """How many it can choose from to say; 0: it is silent."""

    def actions(self, continuous: bool) -> int:
        """Choices, or components of a vector: pushes first, words after them."""
        if continuous:
            return MOVES * self.moves + self.words
        return (MOVES if self.moves else 1) * max(self.words, 1)


@dataclass(frozen=True)
class Post:
    """What a landmark is."""

    size: float = 0.05
    collides: bool = False


class Bodies(eqx.Module):
    """Where everything is, in units of half the arena's side, what was said, and how many steps the episode has lasted."""

    position: Float[Array, "n 2"]
    velocity: Float[Array, "n 2"]
    landmark: Float[Array, "m 2"]
    said: tuple[Float[Array, " words"], ...]
    """What each agent said last: one-hot, or any weights; of length 0 for silent ones."""
    goal: tuple[Float[Array, " m"], ...]
    """Landmarks that matter, one-hot."""
    clock: Int[Array, ""]


@dataclass(frozen=True)
class Particles(Env):
    """Discs in a plane. A push accelerates for one step of 0.1; positions move with the velocity before the push; a
    quarter of the velocity is lost each step; overlapping bodies that collide push each other off.

    Continuous actions have one component from -1 to 1 for each choice: (x + 1) / 2 is how much of that push is made, or
    how loud that word is said. So they are mpe2's, whose components lie from 0 to 1.
    """

    steps: int = option(25, "steps of an episode", low=1)
    continuous: bool = option(False, "act by vectors (continuous actions) instead of choices (discrete ones)")

    @property
    @abstractmethod
    def figures(self) -> tuple[Figure, ...]:
        """What the agents are."""

    @property
    @abstractmethod
    def posts(self) -> tuple[Post, ...]:
        """What the landmarks are."""

    @property
    @abstractmethod
    def obs_size(self) -> int:
        """Features of the agent that sees most."""

    @property
    def goals(self) -> int:
        """How many landmarks are drawn to matter."""
        return 0

    @property
    def reach(self) -> float:
        """How far from the middle landmarks are placed."""
        return 1.0

    @abstractmethod
    def observe(self, bodies: Bodies) -> list[Float[Array, " _"]] | Float[Array, "n d"]:
        """What each agent sees, unpadded; as one array where all see alike, which is quicker."""

    @abstractmethod
    def pay(self, bodies: Bodies) -> list[Float[Array, ""]]:
        """What each agent is paid."""

    @property
    def spec(self) -> Spec:
        figures = self.figures
        moving = sum(figure.moves for figure in figures)
        places = 4 * moving + 2 * len(self.posts) * (moving > 0)
        return Spec(
            num_agents=len(figures),
            num_actions=max(figure.actions(self.continuous) for figure in figures),
            obs_shape=(self.obs_size,),
            state_size=places + sum(figure.words for figure in figures) + self.goals * len(self.posts),
            continuous=self.continuous,
            kinds=tuple(figure.kind for figure in figures),
            teams=tuple(figure.team for figure in figures),
            names=tuple(figure.name for figure in figures),
            horizon=self.steps,
            mortal=False,
        )

    def reset(self, *, key: Key) -> tuple[Bodies, Step]:
        n, m = len(self.figures), len(self.posts)
        place_key, goal_key = jax.random.split(key) if self.goals else (key, key)
        places = jax.random.uniform(place_key, (n + m, 2), minval=-1.0, maxval=1.0)
        marks = jax.random.randint(goal_key, (self.goals,), 0, m) if self.goals else ()
        bodies = Bodies(
            position=places[:n],
            velocity=jnp.zeros((n, 2)),
            landmark=self.reach * places[n:],
            said=tuple(jnp.zeros(figure.words) for figure in self.figures),
            goal=tuple(jax.nn.one_hot(mark, m) for mark in marks),
            clock=jnp.zeros((), jnp.int32),
        )
        return bodies, self._say(bodies, None)

    def step(self, state: Bodies, action: Int[Array, " n"] | Float[Array, "n a"], *, key: Key) -> tuple[Bodies, Step]:
        push, said = self._vectors(action) if self.continuous else self._choices(action)
        velocity = state.velocity * (1 - DAMPING) + DT * (push + self._contact(state))
        bodies = Bodies(
            position=state.position + DT * state.velocity,
            velocity=self._limited(velocity),
            landmark=state.landmark,
            said=said,
            goal=state.goal,
            clock=state.clock + 1,
        )
        return bodies, self._say(bodies, jnp.stack(self.pay(bodies)))

    def _say(self, bodies: Bodies, reward: Float[Array, " n"] | None) -> Step:
        seen = self.observe(bodies)
        if isinstance(seen, list):
            seen = jnp.stack([jnp.pad(view, (0, self.obs_size - view.shape[0])) for view in seen])
        counts = np.array([figure.actions(self.continuous) for figure in self.figures])
        legal = np.arange(counts.max()) < counts[:, None]
        return make_step(
            self.spec,
            obs=seen,
            state=self._state(bodies),
            reward=reward,
            available=None if legal.all() else jnp.asarray(legal),
            truncated=bodies.clock >= self.steps,
        )

    def _state(self, bodies: Bodies) -> Float[Array, " s"]:
        """Positions and velocities of what moves, landmarks, what was said, and the goals."""
        moving = [i for i, figure in enumerate(self.figures) if figure.moves]
        if len(moving) == len(self.figures):
            placed = [bodies.position, bodies.velocity, bodies.landmark]
        else:
            placed = [bodies.position[i] for i in moving] + [bodies.velocity[i] for i in moving]
            placed += [bodies.landmark] if moving else []
        return jnp.concatenate([part.reshape(-1) for part in (*placed, *bodies.said, *bodies.goal)])

    def _choices(self, action: Int[Array, " n"]) -> tuple[Float[Array, "n 2"], tuple[Float[Array, " words"], ...]]:
        """Pushes and words of choices: the index is `push + 5 word` for who does both."""
        moves = np.array([figure.moves for figure in self.figures])
        pushed = (
            action if moves.all() and not any(f.words for f in self.figures) else jnp.where(moves, action % MOVES, 0)
        )
        forward, back = (pushed[:, None] == np.array(ways) for ways in (FORWARD, BACK))
        push = 1.0 * forward - back
        said = tuple(
            jax.nn.one_hot(action[i] // (MOVES if figure.moves else 1), figure.words)
            for i, figure in enumerate(self.figures)
        )
        return self._accelerated(push), said

    def _vectors(self, action: Float[Array, "n a"]) -> tuple[Float[Array, "n 2"], tuple[Float[Array, " words"], ...]]:
        """Pushes and words of vectors."""
        share = (jnp.clip(action, -1, 1) + 1) / 2
        moves = jnp.array([[1.0 * figure.moves] for figure in self.figures])
        room = jnp.pad(share, ((0, 0), (0, max(0, MOVES - share.shape[1]))))  # where nobody moves
        push = moves * jnp.stack([room[:, 2] - room[:, 1], room[:, 4] - room[:, 3]], axis=-1)
        start = [MOVES * figure.moves for figure in self.figures]
        said = tuple(share[i, start[i] : start[i] + figure.words] for i, figure in enumerate(self.figures))
        return self._accelerated(push), said

    def _accelerated(self, push: Float[Array, "n 2"]) -> Float[Array, "n 2"]:
        return push * jnp.array([[figure.acceleration] for figure in self.figures])

    def _limited(self, velocity: Float[Array, "n 2"]) -> Float[Array, "n 2"]:
        """Velocities no faster than each agent's top speed."""
        tops = np.array([figure.top_speed or np.inf for figure in self.figures])
        if np.isinf(tops).all():
            return velocity
        speed = length(velocity)
        return velocity * jnp.where(speed > tops, tops / jnp.maximum(speed, 1e-12), 1.0)[:, None]

    def _contact(self, bodies: Bodies) -> Float[Array, "n 2"]:
        """The force on each agent from what it touches; every pair is looked at once."""
        figures, posts = self.figures, self.posts
        force = [jnp.zeros(2)] * len(figures)
        for i, figure in enumerate(figures):
            if not figure.collides:
                continue
            for j in range(i):
                if figures[j].collides:
                    push = _push_off(bodies.position[i] - bodies.position[j], figure.size + figures[j].size)
                    force[i], force[j] = force[i] + push, force[j] - push
            for k, post in enumerate(posts):
                if post.collides:
                    force[i] += _push_off(bodies.position[i] - bodies.landmark[k], figure.size + post.size)
        return jnp.stack(force)

    def render(self, state: Bodies) -> np.ndarray:
        """A frame of 360 x 360 pixels: landmarks in grey (goals ringed in green), agents as discs of their true size,
        and a dot beside an agent in the colour of the word it says."""
        frame = np.full((360, 360, 3), 248, np.uint8)
        scale = 360 / 2.8
        at = lambda place: ((1.4 - place[1]) * scale, (place[0] + 1.4) * scale)  # noqa: E731
        goals = {int(np.argmax(goal)) for goal in state.goal}
        for k, post in enumerate(self.posts):
            if k in goals:
                disc(frame, *at(state.landmark[k]), (post.size + 0.03) * scale, np.array([60, 170, 90]))
            shade = np.array([60, 60, 70]) if post.size < 0.1 else np.array([170, 175, 180])
            disc(frame, *at(state.landmark[k]), post.size * scale, shade)
        for i, figure in enumerate(self.figures):
            row, column = at(state.position[i])
            disc(frame, row, column, figure.size * scale, COLOURS[i % len(COLOURS)])
            if np.any(state.said[i]):
                word = int(np.argmax(state.said[i]))
                disc(frame, row - 9, column + 9, 4, COLOURS[word % len(COLOURS)])
        return frame


def length(vector: Float[Array, "*batch 2"]) -> Float[Array, "*batch"]:
    """The Euclidean length."""
    return jnp.sqrt(vector[..., 0] ** 2 + vector[..., 1] ** 2)


def touch(bodies: Bodies, i: int, j: int, reach: float) -> Bool[Array, ""]:
    """Whether agents i and j are nearer than the sum of their radii, `reach`."""
    x, y = bodies.position[i] - bodies.position[j]
    return x**2 + y**2 < reach**2


def at(goal: Float[Array, " m"], landmark: Float[Array, "m 2"]) -> Float[Array, "2"]:
    """Where a goal lies: a product with its one-hot row, since gathers do not fuse."""
    return (goal[:, None] * landmark).sum(0)


def others_than(i: int, items: Sequence) -> list:
    """All but the i-th."""
    return [item for j, item in enumerate(items) if j != i]


def out_of_bounds(position: Float[Array, "2"]) -> Float[Array, ""]:
    """The fine for leaving the arena: none within .9, rising to 1 at the edge, then exponentially up to 10 (each axis)."""
    x = jnp.abs(position)
    beyond = jnp.minimum(jnp.exp(2 * x - 2), 10.0)
    return jnp.where(x < 0.9, 0.0, jnp.where(x < 1.0, 10 * (x - 0.9), beyond)).sum()


def _push_off(apart: Float[Array, "2"], reach: float) -> Float[Array, "2"]:
    """The force on a body from another that it overlaps, softly."""
    distance = length(apart)
    depth = (reach - distance) / CONTACT_MARGIN
    penetration = CONTACT_MARGIN * (jnp.maximum(depth, 0) + jnp.log1p(jnp.exp(-jnp.abs(depth))))
    # Once for both bodies and both axes.
    return computed_once(CONTACT_FORCE * penetration / jnp.maximum(distance, 1e-12)) * apart
