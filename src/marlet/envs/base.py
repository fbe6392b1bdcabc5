"""What an environment is: two pure functions for one copy of a world that never resets itself."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from marlet.options import check_options
from marlet.types import Key, Spec, Step

State = Any


@dataclass(frozen=True)
class Env(ABC):
    """One copy of a world. A subclass is a frozen dataclass whose fields are its options, made with `option`.

    `reset` and `step` are pure, take no Python branch on a traced value, and are vmapped by the engine. An
    environment that draws nothing in `step` ignores the key, which then costs nothing.
    """

    def __post_init__(self):
        check_options(self)

    @property
    @abstractmethod
    def spec(self) -> Spec:
        """What may be known before the first step."""

    @abstractmethod
    def reset(self, *, key: Key) -> tuple[State, Step]:
        """The opening of an episode: rewards zero, everyone alive, not truncated."""

    @abstractmethod
    def step(self, state: State, action: Int[Array, " n"] | Float[Array, "n a"], *, key: Key) -> tuple[State, Step]:
        """What follows when all agents act at once. The reward and the end are those of this action."""

    def render(self, state: State) -> Float[np.ndarray, "height width 3"] | str:
        """The world as a person sees it: an RGB frame with values 0 to 255 (uint8), or text.

        `state` holds numpy arrays of one copy; this runs outside compiled code.
        """
        raise NotImplementedError(f"{type(self).__name__} draws nothing.")


def make_step(
    spec: Spec,
    *,
    obs: Float[Array, "n d"],
    state: Float[Array, " s"],
    reward: Float[Array, " n"] | None = None,
    available: Bool[Array, "n a"] | None = None,
    alive: Bool[Array, " n"] | None = None,
    truncated: Bool[Array, ""] | None = None,
    cost: Float[Array, " n"] | None = None,
) -> Step:
    """A step with everything left out at its usual value: no reward, all legal, all alive, not cut off, no cost."""
    n, a = spec.num_agents, spec.num_actions
    return Step(
        obs=jnp.asarray(obs, jnp.float32),
        state=jnp.asarray(state, jnp.float32),
        available=jnp.ones((n, a), bool) if available is None else available,
        reward=jnp.zeros(n, jnp.float32) if reward is None else jnp.asarray(reward, jnp.float32),
        alive=jnp.ones(n, bool) if alive is None else alive,
        truncated=jnp.zeros((), bool) if truncated is None else truncated,
        cost=jnp.zeros(n, jnp.float32) if cost is None else jnp.asarray(cost, jnp.float32),
    )
