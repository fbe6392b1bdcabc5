"""What a replay keeps of a rollout: all that off-policy learning needs of T transitions, and the memories before them."""

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from marlet.types import Rollout, Spec


class Experience(eqx.Module):
    """One sequence. In a replay every array leads with the capacity, in a sample with the batch."""

    obs: Float[Array, "T n d"]
    state: Float[Array, "T s"]
    available: Bool[Array, "T n a"]
    alive: Bool[Array, "T n"]
    action: Int[Array, "T n"] | Float[Array, "T n a"]
    reward: Float[Array, "T n"]
    next_obs: Float[Array, "T n d"]
    next_state: Float[Array, "T s"]
    next_available: Bool[Array, "T n a"]
    next_alive: Bool[Array, "T n"]
    first: Bool[Array, " T"]
    memory: Float[Array, "n m"]


def example_of(spec: Spec, length: int, memory: int) -> Experience:
    """The shapes of one sequence of `length` steps."""
    t, n, a = length, spec.num_agents, spec.num_actions
    shape = lambda kind, *axes: jax.ShapeDtypeStruct(axes, kind)  # noqa: E731
    obs, state = shape(jnp.float32, t, n, *spec.obs_shape), shape(jnp.float32, t, spec.state_size)
    legal, alive = shape(jnp.bool_, t, n, a), shape(jnp.bool_, t, n)
    return Experience(
        obs=obs,
        state=state,
        available=legal,
        alive=alive,
        action=shape(jnp.float32, t, n, a) if spec.continuous else shape(jnp.int32, t, n),
        reward=shape(jnp.float32, t, n),
        next_obs=obs,
        next_state=state,
        next_available=legal,
        next_alive=alive,
        first=shape(jnp.bool_, t),
        memory=shape(jnp.float32, n, memory),
    )


def experience_of(rollout: Rollout) -> Experience:
    """What the replay keeps of a rollout; every array leads with `B`, then `T`."""
    t = rollout.transitions
    kept = Experience(
        obs=t.now.obs,
        state=t.now.state,
        available=t.now.available,
        alive=t.now.alive,
        action=t.action,
        reward=t.next.reward,
        next_obs=t.next.obs,
        next_state=t.next.state,
        next_available=t.next.available,
        next_alive=t.next.alive,
        first=t.first,
        memory=(),
    )
    return replace(jax.tree.map(lambda leaf: leaf.swapaxes(0, 1), kept), memory=rollout.memory)


def in_time(sequences: Experience) -> Experience:
    """A sample whose arrays lead with `T K` instead of `K T`; memories still lead with `K`."""
    turned = jax.tree.map(lambda leaf: leaf.swapaxes(0, 1), replace(sequences, memory=()))
    return replace(turned, memory=sequences.memory)


def rows_for(capacity: int, length: int, envs: int) -> int:
    """Sequences in a replay: enough for `capacity` transitions, a multiple of `envs`, so that writing never wraps."""
    return max(1, -(-capacity // (length * envs))) * envs
