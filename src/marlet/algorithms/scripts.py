"""Play that nobody has learned: opponents and yardsticks for what has."""

from abc import abstractmethod
from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from marlet.algorithms.base import Algorithm
from marlet.equations.distributions import draw_choice, log_chances
from marlet.options import changed
from marlet.parts.heads import Action
from marlet.types import Key, Memory, Metrics, Rollout, Spec, Step


class Nothing(eqx.Module):
    """What a script learns."""

    spec: Spec = eqx.field(static=True)


@dataclass(frozen=True)
class Script(Algorithm):
    """A rule that acts by the step alone and never changes. Your own is a subclass with a `play`."""

    @abstractmethod
    def play(self, spec: Spec, step: Step, *, key: Key) -> Action:
        """The actions of all agents of B environments."""

    def check(self, spec: Spec) -> None:
        """Fits everything."""

    def init(self, spec: Spec, *, key: Key) -> Nothing:
        return Nothing(spec)

    def blank(self, learned: Nothing, batch: int) -> Memory:
        return ()

    def act(
        self, learned: Nothing, memory: Memory, step: Step, *, key: Key, greedy: bool = False
    ) -> tuple[Memory, Action, tuple[()]]:
        return (), self.play(learned.spec, step, key=key), ()

    def update(self, learned: Nothing, rollout: Rollout, *, key: Key) -> tuple[Nothing, Metrics]:
        return learned, {}


@dataclass(frozen=True)
class Chance(Script):
    """Every legal action is as likely; vectors are uniform in [-1, 1]. Also when greedy."""

    def play(self, spec: Spec, step: Step, *, key: Key) -> Action:
        if spec.continuous:
            return jax.random.uniform(key, step.available.shape, minval=-1.0, maxval=1.0)
        return draw_choice(log_chances(jnp.zeros(step.available.shape), step.available), key=key)


@dataclass(frozen=True)
class First(Script):
    """The first legal action, which in most worlds is doing nothing; vectors of zeros."""

    def play(self, spec: Spec, step: Step, *, key: Key) -> Action:
        if spec.continuous:
            return jnp.zeros(step.available.shape)
        return _first(step.available)


def _first(available: Array) -> Array:
    return jnp.argmax(available, axis=-1).astype(jnp.int32)


def random(**options) -> Script:
    """Random play: what every learner has to beat, and an opponent for `--versus`."""
    return changed(Chance(name="random"), **options)


def idle(**options) -> Script:
    """Doing nothing: the first legal action, always."""
    return changed(First(name="idle"), **options)
