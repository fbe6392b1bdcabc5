"""What an algorithm reports, and the shapes it reports it of, found by tracing: nothing is computed."""

import jax
import jax.numpy as jnp

from marlet.algorithms.base import Algorithm
from marlet.types import Rollout, Spec, Step, Transition


def metric_names(algorithm: Algorithm, spec: Spec) -> tuple[str, ...]:
    """What an update tells."""
    key, step = jax.random.key(0), example(spec, algorithm.envs)
    learned = jax.eval_shape(lambda key: algorithm.init(spec, key=key), key)
    memory = jax.eval_shape(lambda learned: algorithm.blank(learned, algorithm.envs), learned)
    _, action, extra = jax.eval_shape(algorithm.act, learned, memory, step, key=key)
    played = rollout_of(algorithm, step, memory, action, extra)
    return tuple(jax.eval_shape(algorithm.update, learned, played, key=key)[1])


def rollout_of(algorithm, step, memory, action, extra) -> Rollout:
    """The shapes of a rollout in which each step is such a one."""
    first = jax.ShapeDtypeStruct(step.truncated.shape, bool)
    one = Transition(now=step, action=action, next=step, first=first, extra=extra)
    many = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((algorithm.length, *leaf.shape), leaf.dtype), one)
    return Rollout(transitions=many, memory=memory)


def example(spec: Spec, batch: int) -> Step:
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
