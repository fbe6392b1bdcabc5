"""What was seen and done in a rollout or a sample of it, and what networks say of it, without doing anything twice.

Transition t leads from step t to step t + 1, but for the clock: where it cut an episode off, step t + 1 opens the next
one. The final steps, from which targets bootstrap, are kept apart; they are few.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree, Shaped

from marlet.parts.nets import Team
from marlet.types import Spec, Step, Transition


class Seen(eqx.Module):
    """What networks are told of a step."""

    obs: Float[Array, "*batch n d"]
    state: Float[Array, "*batch s"]
    available: Bool[Array, "*batch n a"]


class Cuts(eqx.Module):
    """The final steps of episodes that the clock cut off, in E places for each environment."""

    seen: Seen
    """Every array leads with `E B`."""
    at: Int[Array, "E B"]
    """The transition that led there; T where the place is not used."""
    aligned: bool = eqx.field(static=True, default=False)
    """Whether no episode can be cut off but after the last transition."""


class Experience(eqx.Module):
    """K sequences of T transitions, in time order."""

    seen: Seen
    """Every array leads with `T1 K`: the steps acted from, and the one after them."""
    alive: Bool[Array, "T K n"]
    action: Int[Array, "T K n"] | Float[Array, "T K n a"]
    reward: Float[Array, "T K n"]
    next_alive: Bool[Array, "T K n"]
    first: Bool[Array, "T K"]
    memory: Float[Array, "K n m"]
    """Before the first step."""
    cuts: Cuts

    @property
    def now(self) -> Seen:
        """The steps acted from; every array leads with `T K`."""
        return jax.tree.map(lambda leaf: leaf[:-1], self.seen)

    @property
    def next(self) -> Seen:
        """The steps that the transitions led to; every array leads with `T K`."""
        return jax.tree.map(lambda leaf, final: following(leaf, final, self.cuts.at), self.seen, self.cuts.seen)

    def outputs_after(
        self, team: Team, memories: Float[Array, "T K n m"], outputs: Float[Array, "T K n a"]
    ) -> Float[Array, "T K n a"]:
        """What networks that are told of observations say of `next`, from what they said of `now`."""
        return outputs_after(team, memories, outputs, self.next.obs[-1], self.cuts.seen.obs, self.cuts)


def seen_in(step: Step) -> Seen:
    """What networks are told of this step."""
    return Seen(step.obs, step.state, step.available)


def cuts_of(t: Transition, spec: Spec) -> Cuts:
    """Where the clock cut episodes off in a rollout."""
    length = t.first.shape[0]
    places = spec.cuts(length)
    times = jnp.arange(length)[:, None]
    if spec.aligned(length):
        at = jnp.where(t.next.truncated[-1:], length - 1, length)
        return Cuts(jax.tree.map(lambda leaf: leaf[-1:], seen_in(t.next)), at, aligned=True)
    at = jnp.where(t.next.truncated, times, length)
    if places < length:
        at = jnp.sort(at, axis=0)[:places]
    return Cuts(jax.tree.map(lambda leaf: at_cuts(leaf, at), seen_in(t.next)), at)


def at_cuts(x: Shaped[Array, "T B *rest"], at: Int[Array, "E B"]) -> Shaped[Array, "E B *rest"]:
    """The entries of the transitions that led to a cut; anything where a place is not used."""
    if at.shape[0] == x.shape[0]:
        return x
    rows = jnp.minimum(at, x.shape[0] - 1).reshape(*at.shape, *(1,) * (x.ndim - 2))
    return jnp.take_along_axis(x, rows, axis=0)


def following(
    x: Shaped[Array, "T1 B *rest"], at_cut: Shaped[Array, "E B *rest"], at: Int[Array, "E B"]
) -> Shaped[Array, "T B *rest"]:
    """What is true of the step that each transition led to, from what is true of each step and of the final ones."""
    later = x[1:]
    length = later.shape[0]
    as_wide = lambda flags: flags.reshape(*flags.shape, *(1,) * (x.ndim - 2))  # noqa: E731
    if at.shape[0] == length:
        return jnp.where(as_wide(at < length), at_cut, later)
    for place in range(at.shape[0]):
        here = jnp.arange(length)[:, None] == at[place]
        later = jnp.where(as_wide(here), at_cut[place], later)
    return later


def outputs_after(
    team: Team,
    memories: Float[Array, "T K n m"],
    outputs: Float[Array, "T K n a"],
    last: Float[Array, "K n d"],
    finals: Float[Array, "E K n d"],
    cuts: Cuts,
) -> Float[Array, "T K n a"]:
    """What networks say of the step that each transition led to: read off what they said one step later.

    It is computed anew for `last` alone, to which the last transition led (the final step, where the clock cut off there),
    and for the `finals` of episodes that were cut off before; where cuts are aligned there are none.
    """
    if cuts.aligned:
        return steps_after(outputs, team.step(memories[-1], last)[1])
    before = jnp.concatenate([at_cuts(memories, cuts.at), memories[-1:]])
    _, said = team.step(before, jnp.concatenate([finals, last[None]]))
    return following(jnp.concatenate([outputs, said[-1:]]), said[:-1], cuts.at)


def steps_after(now: PyTree[Array], last: PyTree[Array]) -> PyTree[Array]:
    """Arrays of T steps, `T B ...`, moved on by one: `last` is what came after them, `B ...`."""
    return jax.tree.map(lambda a, b: jnp.concatenate([a[1:], b[None]]), now, last)
