"""Replay: a ring of the latest transitions, kept on the device in time order and sampled uniformly in sequences."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from marlet.parts.experience import Cuts, Experience, Seen, cuts_of, seen_in
from marlet.types import Key, Rollout, Spec


class Deeds(eqx.Module):
    """What was done from each step, and what came of it."""

    alive: Bool[Array, "R B n"]
    action: Int[Array, "R B n"] | Float[Array, "R B n a"]
    reward: Float[Array, "R B n"]
    next_alive: Bool[Array, "R B n"]
    first: Bool[Array, "R B"]


class Replay(eqx.Module):
    """The latest rollouts of B environments, each T steps long, one after the other along R = slots x T rows.

    A step is kept once: the one after a rollout's last transition is the first of the next rollout, in the row that
    follows. Only where the clock cut an episode off the final step is kept too, in a ring of its own for each environment.
    """

    seen: Seen
    """Every array leads with `R1 B`: there is a row more, for the step after the last slot."""
    deeds: Deeds
    memory: Float[Array, "slots B n m"]
    """Of the agents, before each rollout."""
    finals: Seen
    """The final steps of episodes that were cut off; every array leads with `F B`."""
    cut_at: Int[Array, "slots E B"]
    """The transition that a cut followed; T where there was none."""
    cut_row: Int[Array, "slots E B"]
    """The row of `finals` that holds it."""
    cuts_so_far: Int[Array, " B"]
    cursor: Int[Array, ""]
    """The slot that is written next."""
    size: Int[Array, ""]
    """Slots that have been written."""
    aligned: bool = eqx.field(static=True)
    """Whether no episode can be cut off but after the last transition of a rollout."""

    @staticmethod
    def empty(spec: Spec, *, length: int, memory: int, envs: int, capacity: int) -> "Replay":
        """Room for `capacity` transitions in rollouts of `envs` environments and `length` steps.

        One slot more is made: while the newest rollout's following step stands in the first row of the oldest, that one
        cannot be sampled.
        """
        slots = max(1, -(-capacity // (length * envs))) + 1
        places = spec.cuts(length)
        finals = slots * length if places == length else slots * length // (spec.horizon or 1) + 2 * places
        n, a, s = spec.num_agents, spec.num_actions, spec.state_size

        def room(rows: int) -> Seen:
            return Seen(
                obs=jnp.zeros((rows, envs, n, *spec.obs_shape)),
                state=jnp.zeros((rows, envs, s)),
                available=jnp.zeros((rows, envs, n, a), bool),
            )

        rows = slots * length
        action = jnp.zeros((rows, envs, n, a)) if spec.continuous else jnp.zeros((rows, envs, n), jnp.int32)
        return Replay(
            seen=room(rows + 1),
            deeds=Deeds(
                alive=jnp.zeros((rows, envs, n), bool),
                action=action,
                reward=jnp.zeros((rows, envs, n)),
                next_alive=jnp.zeros((rows, envs, n), bool),
                first=jnp.zeros((rows, envs), bool),
            ),
            memory=jnp.zeros((slots, envs, n, memory)),
            finals=room(finals),
            cut_at=jnp.full((slots, places, envs), length, jnp.int32),
            cut_row=jnp.zeros((slots, places, envs), jnp.int32),
            cuts_so_far=jnp.zeros(envs, jnp.int32),
            cursor=jnp.zeros((), jnp.int32),
            size=jnp.zeros((), jnp.int32),
            aligned=spec.aligned(length),
        )

    @property
    def env_axes(self) -> "Replay":
        """In place of each array, which of its axes is `B`; -1 where it has none."""
        along = lambda axis, tree: jax.tree.map(lambda _: axis, tree)  # noqa: E731
        axes = {"seen": 1, "deeds": 1, "memory": 1, "finals": 1, "cut_at": 2, "cut_row": 2, "cuts_so_far": 0}
        axes |= {"cursor": -1, "size": -1}
        return Replay(**{name: along(axis, getattr(self, name)) for name, axis in axes.items()}, aligned=self.aligned)

    @property
    def slots(self) -> int:
        return self.memory.shape[0]

    @property
    def length(self) -> int:
        """T: steps of a slot."""
        return self.deeds.first.shape[0] // self.slots

    def add(self, rollout: Rollout, spec: Spec) -> "Replay":
        """Write a rollout over the oldest."""
        t = rollout.transitions
        row = self.cursor * self.length
        write = lambda start: lambda old, new: jax.lax.dynamic_update_slice_in_dim(old, new, start, axis=0)  # noqa: E731
        deeds = Deeds(t.now.alive, t.action, t.next.reward, t.next.alive, t.first)
        last = jax.tree.map(lambda leaf: leaf[-1:], seen_in(t.next))
        seen = jax.tree.map(write(row), self.seen, seen_in(t.now))

        cuts = cuts_of(t, spec)
        used = cuts.at < self.length
        room = self.finals.state.shape[0]
        rows = (self.cuts_so_far + jnp.cumsum(used, axis=0) - used) % room
        envs = jnp.broadcast_to(jnp.arange(rows.shape[1]), rows.shape)
        put = lambda old, new: old.at[jnp.where(used, rows, room), envs].set(new, mode="drop")  # noqa: E731
        return Replay(
            seen=jax.tree.map(write(row + self.length), seen, last),
            deeds=jax.tree.map(write(row), self.deeds, deeds),
            memory=write(self.cursor)(self.memory, rollout.memory[None]),
            finals=jax.tree.map(put, self.finals, cuts.seen),
            cut_at=write(self.cursor)(self.cut_at, cuts.at[None].astype(jnp.int32)),
            cut_row=write(self.cursor)(self.cut_row, rows[None]),
            cuts_so_far=(self.cuts_so_far + used.sum(0)) % room,
            cursor=(self.cursor + 1) % self.slots,
            size=jnp.minimum(self.size + 1, self.slots),
            aligned=self.aligned,
        )

    def sample(self, count: int, *, key: Key) -> Experience:
        """`count` rollouts of one environment each, drawn uniformly from those held but the oldest of a full ring."""
        slot_key, env_key = jax.random.split(key)
        age = jax.random.randint(slot_key, (count,), 0, jnp.clip(self.size, 1, self.slots - 1))
        slot = (self.cursor - 1 - age) % self.slots
        env = jax.random.randint(env_key, (count,), 0, self.memory.shape[1])
        rows = slot * self.length + jnp.arange(self.length + 1)[:, None]
        taken = lambda rows: lambda leaf: leaf[rows, env]  # noqa: E731
        deeds = jax.tree.map(taken(rows[:-1]), self.deeds)
        cut_row = self.cut_row[slot, :, env].T
        cuts = Cuts(jax.tree.map(taken(cut_row), self.finals), self.cut_at[slot, :, env].T, self.aligned)
        return Experience(
            seen=jax.tree.map(taken(rows), self.seen),
            alive=deeds.alive,
            action=deeds.action,
            reward=deeds.reward,
            next_alive=deeds.next_alive,
            first=deeds.first,
            memory=self.memory[slot, env],
            cuts=cuts,
        )
