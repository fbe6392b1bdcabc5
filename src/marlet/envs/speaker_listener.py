"""One agent knows where to go, the other can go there (mpe2's `simple_speaker_listener_v4`)."""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float

from marlet.envs.particles import Bodies, Figure, Particles, Post, at

WORDS = 3


@dataclass(frozen=True)
class SpeakerListener(Particles):
    """A speaker that cannot move tells a listener, in one of three words, which of three landmarks to go to.

    Equal to `mpe2.simple_speaker_listener_v4` (Lowe et al. 2017, arXiv:1706.02275), to rounding error.

    - **Agents** n = 2: the speaker first; one team, two kinds.
    - **Observation** `n d`, d = 11: the speaker the goal's colour (3: .65 in the goal's place, .15 elsewhere), then
      zeros; the listener its velocity (2), the landmarks relative to it (6), and the word said last (3, one-hot).
    - **State** `s`, s = 16: the listener's position and velocity, the landmarks, the word, and the goal (one-hot).
    - **Action** `n`, one of 5 (with `continuous` `n a`, a = 5): the speaker says word 0, 1 or 2;
      the listener 0 nothing, 1 left, 2 right, 3 down, 4 up.
    - **Reward** of both: minus the squared distance of the listener to the goal.
    - **End**: truncated after `steps` = 25 steps; nobody dies.

    Return per agent and episode: random play -39.9, the best without a word
    -15.8, a scripted pair -7.6.
    """

    @property
    def figures(self) -> tuple[Figure, ...]:
        return (
            Figure("speaker_0", kind=0, size=0.075, moves=False, collides=False, words=WORDS),
            Figure("listener_0", kind=1, size=0.075, collides=False),
        )

    @property
    def posts(self) -> tuple[Post, ...]:
        return (Post(size=0.04),) * WORDS

    @property
    def obs_size(self) -> int:
        return 11

    @property
    def goals(self) -> int:
        return 1

    def observe(self, bodies: Bodies) -> list[Float[Array, " d"]]:
        (goal,) = bodies.goal
        listens = [bodies.velocity[1], *(mark - bodies.position[1] for mark in bodies.landmark), bodies.said[0]]
        return [0.15 + 0.5 * goal, jnp.concatenate(listens)]

    def pay(self, bodies: Bodies) -> list[Float[Array, ""]]:
        away = bodies.position[1] - at(bodies.goal[0], bodies.landmark)
        return [-(away**2).sum()] * 2
