"""Critics of actions: what they are told of what agents do, and what they say of it."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from marlet.parts.heads import Action
from marlet.parts.mixers import Mixer
from marlet.parts.nets import Team
from marlet.types import Spec


class Critics(eqx.Module):
    """One critic of each agent, or two of different beginnings, whose values a mixer joins."""

    teams: tuple[Team, ...]
    mixer: PyTree[Array]
    """Its weights."""
    joined_by: Mixer = eqx.field(static=True)
    sees_all: bool = eqx.field(static=True)
    """Whether a critic is told the state and everyone's action, or its agent's own step alone."""

    def values(
        self,
        obs: Float[Array, "T K n d"],
        state: Float[Array, "T K s"],
        own: Float[Array, "T K n a"],
        others: Float[Array, "T K n a"],
        alive: Bool[Array, "T K n"],
    ) -> list[Float[Array, "T K m"]]:
        """What each critic says of `own` actions beside the `others`', joined by the mixer."""
        *batch, n, a = own.shape
        seen = [obs, own]
        if self.sees_all:
            beside = jnp.where(jnp.eye(n, dtype=bool)[:, :, None], 0.0, (others * alive[..., None])[..., None, :, :])
            told = jnp.broadcast_to(state[..., None, :], (*batch, n, state.shape[-1]))
            seen += [told, beside.reshape(*batch, n, n * a)]
        seen = jnp.concatenate(seen, axis=-1)
        said = [team.step(team.blank(batch[1]), seen)[1][..., 0] for team in self.teams]
        return [self.joined_by.mix(self.mixer, jnp.where(alive, value, 0.0), state) for value in said]


def inputs_of(spec: Spec, sees_all: bool) -> int:
    """The size of what a critic is told."""
    n, a, d = spec.num_agents, spec.num_actions, spec.obs_shape[0]
    return d + a + (spec.state_size + n * a if sees_all else 0)


def as_vectors(spec: Spec, action: Action, available: Bool[Array, "*batch n a"]) -> Float[Array, "*batch n a"]:
    """Actions as critics see them: vectors with zeros for components an agent does not have, choices one-hot."""
    return jnp.where(available, action, 0.0) if spec.continuous else jax.nn.one_hot(action, spec.num_actions)
