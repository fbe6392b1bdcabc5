"""What an environment breaks of its contract while it is trained in: found within the compiled program, told outside it."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from marlet.errors import EnvironmentFault
from marlet.types import Rollout, Spec, where

FAULTS = {
    1: "gave a reward that is not finite",
    2: "gave an observation that is not finite",
    3: "left a live agent no legal action",
    4: "gave a cost that is not finite",
    5: "gave a state that is not finite",
}
STATE = 5


class Fault(eqx.Module):
    """Each environment's first breach of its contract; `kind` 0 while there is none."""

    kind: Int[Array, " B"]
    iteration: Int[Array, " B"]
    step: Int[Array, " B"]
    agent: Int[Array, " B"]

    @staticmethod
    def none(batch: int) -> "Fault":
        return Fault(*(jnp.zeros(batch, jnp.int32) for _ in range(4)))

    def after(self, iteration: Int[Array, ""], played: Rollout, reads_state: bool) -> "Fault":
        """The first breach up to the end of an iteration's rollout; the state is looked at where it is read."""
        t = played.transitions
        breaches = [
            ~jnp.isfinite(t.next.reward),
            ~(jnp.isfinite(t.now.obs) & jnp.isfinite(t.next.obs)).all(-1),
            t.now.alive & ~t.now.available.any(-1),
            ~jnp.isfinite(t.next.cost),
        ]
        if reads_state:
            breaches.append(jnp.broadcast_to(~jnp.isfinite(t.next.state).all(-1, keepdims=True), t.next.cost.shape))
        breaches = jnp.stack(breaches)  # kinds T B n
        any_kind = breaches.any((0, 3))
        step = jnp.argmax(any_kind, axis=0)
        there = jnp.take_along_axis(breaches, step[None, None, :, None], axis=1)[:, 0]  # kinds B n
        agent = jnp.argmax(there.any(0), axis=-1)
        kind = 1 + jnp.argmax(jnp.take_along_axis(there, agent[None, :, None], axis=2)[..., 0], axis=0)
        fault = Fault(kind, jnp.broadcast_to(iteration, step.shape), step, agent)
        fault = jax.tree.map(lambda leaf: leaf.astype(jnp.int32), fault)
        return where(any_kind.any(0) & (self.kind == 0), fault, self)


def told(name: str, spec: Spec, fault: Fault, seeds: Int[np.ndarray, " S"], length: int) -> EnvironmentFault | None:
    """The earliest breach of an environment in which several seeds learned, in rollouts of `length` steps; if there is one.

    The arrays of `fault` lead with the seeds.
    """
    if not fault.kind.any():
        return None
    steps = np.where(fault.kind > 0, fault.iteration * length + fault.step, np.iinfo(np.int32).max)
    s, env = np.unravel_index(np.argmin(steps), steps.shape)
    kind = int(fault.kind[s, env])
    whose = "" if kind == STATE else f"agent {spec.names[int(fault.agent[s, env])]!r}, "
    return EnvironmentFault(
        f"{name} {FAULTS[kind]}: seed {seeds[s]}, environment {env}, {whose}after "
        f"{steps[s, env]} steps of each environment. Run `marlet check-env` on it."
    )
