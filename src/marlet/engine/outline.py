"""Finds out by tracing what an algorithm reports, and whether it ever looks at the state of the world.

Nothing is computed. On the host the state costs time: every step asks each environment for it, and small environments
work on it for a tenth of the time that they take to step. Many algorithms never look at it.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.interpreters.partial_eval import dce_jaxpr
from jaxtyping import PyTree

from marlet.algorithms.base import Algorithm
from marlet.types import Key, Rollout, Spec, Step, Transition


@dataclass(frozen=True)
class Outline:
    """What is known of an algorithm in an environment before it runs."""

    metrics: tuple[str, ...]
    reads_state: bool
    """Whether anything it chooses or reports depends on the state, be it by way of what it has learned."""


def outline(algorithm: Algorithm, spec: Spec) -> Outline:
    """Trace choosing and learning on arrays of the right shapes.

    What matters is what the choice depends on, what those parts of `learned` depend on after an update, and so on
    until nothing is added. A replay therefore counts only by what is made of it: that states are kept in one is not
    yet reading them.
    """
    key, step = jax.random.key(0), _example(spec, algorithm.envs)
    learned = jax.eval_shape(lambda key: algorithm.init(spec, key=key), key)
    memory = jax.eval_shape(lambda learned: algorithm.blank(learned, algorithm.envs), learned)
    choices = [
        _Traced(partial(algorithm.act, greedy=greedy), learned, memory, step, key=key) for greedy in (False, True)
    ]
    _, action, extra = choices[0].result
    first = jax.ShapeDtypeStruct(step.truncated.shape, bool)
    one = Transition(now=step, action=action, next=step, first=first, extra=extra)
    many = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((algorithm.length, *leaf.shape), leaf.dtype), one)
    update = _Traced(algorithm.update, learned, Rollout(transitions=many, memory=memory), key=key)
    return Outline(metrics=tuple(update.result[1]), reads_state=_reads_state(choices, update))


class _Traced:
    """A function as a list of operations."""

    def __init__(self, function: Any, *given: PyTree, key: Key):
        closed, self.result = jax.make_jaxpr(function, return_shape=True)(*given, key=key)
        self.jaxpr, self.given = closed.jaxpr, jax.tree.structure((given, key))

    def needs(self, wanted: PyTree[bool]) -> Any:
        """Which arrays the `wanted` ones of the results depend on, in the structure of what was given but the key."""
        return jax.tree.unflatten(self.given, dce_jaxpr(self.jaxpr, jax.tree.leaves(wanted))[1])[0]


def _reads_state(choices: list[_Traced], update: _Traced) -> bool:
    matters = jax.tree.map(lambda _: False, update.result[0])
    for choice in choices:
        learned, _, step = choice.needs(jax.tree.map(lambda _: True, choice.result))
        if step.state:
            return True
        matters = jax.tree.map(bool.__or__, matters, learned)
    while True:
        learned, rollout = update.needs((matters, jax.tree.map(lambda _: True, update.result[1])))
        if rollout.transitions.now.state or rollout.transitions.next.state:
            return True
        more = jax.tree.map(bool.__or__, matters, learned)
        if more == matters:
            return False
        matters = more


def _example(spec: Spec, batch: int) -> Step:
    """The shapes of a step of `batch` environments."""
    b, n, a = batch, spec.num_agents, spec.num_actions
    shape = lambda kind, *axes: jax.ShapeDtypeStruct(axes, kind)  # noqa: E731
    return Step(
        obs=shape(jnp.float32, b, n, *spec.obs_shape),
        state=shape(jnp.float32, b, spec.state_size),
        available=shape(jnp.bool_, b, n, a),
        reward=shape(jnp.float32, b, n),
        alive=shape(jnp.bool_, b, n),
        truncated=shape(jnp.bool_, b),
        cost=shape(jnp.float32, b, n),
    )
