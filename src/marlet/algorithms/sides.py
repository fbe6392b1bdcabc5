"""Sides: each team with an algorithm of its own, and opponents from the past."""

from dataclasses import dataclass, replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from marlet.algorithms.base import Algorithm, Learned
from marlet.algorithms.scripts import Chance
from marlet.errors import MarletError
from marlet.options import option
from marlet.parts.heads import Action
from marlet.parts.members import members_of, rollout_of, rows_of, rows_of_each, spec_of, step_of
from marlet.parts.replay import Replay
from marlet.types import Key, Memory, Metrics, Rollout, Spec, Step


class League(eqx.Module):
    """Past selves of one side, and how the other side has fared against each."""

    past: list[Array]
    """The arrays of what was learned, replays left out; each leads with `slots`."""
    fared: Float[Array, " slots"]
    """The other side's reward a step against each, a running mean."""
    count: Int[Array, ""]
    """Selves kept so far, those overwritten included."""
    chosen: Int[Array, ""]
    """Whom the other side plays against until the next update."""


class Together(eqx.Module):
    """What all sides have learned."""

    sides: tuple[Learned, ...]
    leagues: tuple[League, ...]
    """One a side; none where everybody plays everybody's latest self."""
    updates: Int[Array, ""]
    spec: Spec = eqx.field(static=True)


@dataclass(frozen=True)
class Frozen(Algorithm):
    """A policy that was learned elsewhere and learns no more."""

    algorithm: Algorithm = option(Chance(), "what it was learned by")
    learned: Any = option(None, "what was learned; kept in checkpoints, not in the record", recorded=False)
    greedy: bool = option(False, "take its best action always, instead of acting as it did while it learned")
    world: str = option("", "the environment it was learned in, for what is told", recorded=False)

    def __hash__(self) -> int:
        return hash((type(self), self.name, self.algorithm, self.greedy, id(self.learned)))

    def check(self, spec: Spec) -> None:
        fits = True
        try:
            self.algorithm.check(spec)
            if self.learned is not None:
                begun = jax.eval_shape(lambda key: self.algorithm.init(spec, key=key), jax.random.key(0))
                shapes = lambda tree: [np.shape(leaf) for leaf in jax.tree.leaves(tree)]  # noqa: E731
                fits = shapes(_without_replay(self.learned)) == shapes(_without_replay(begun))
        except MarletError:
            fits = False
        if not fits:
            where = f"in {self.world}, " if self.world else ""
            raise MarletError(
                f"The frozen policy {self.name} was learned {where}by agents that saw or did other things than this side's. "
                "Freeze a run of the same environment with the same options."
            )

    def init(self, spec: Spec, *, key: Key) -> Learned:
        """What was learned, but for the replay, from which nobody learns any more; when a run is resumed, the checkpoint
        fills in what it was."""
        begun = _without_replay(self.algorithm.init(spec, key=key))
        if self.learned is None:
            return begun
        leaves = jax.tree.leaves(_without_replay(self.learned))
        return jax.tree.unflatten(jax.tree.structure(begun), map(jnp.asarray, leaves))

    def reads_state(self) -> bool:
        return self.algorithm.reads_state()

    def blank(self, learned: Learned, batch: int) -> Memory:
        return self.algorithm.blank(learned, batch)

    def act(
        self, learned: Learned, memory: Memory, step: Step, *, key: Key, greedy: bool = False
    ) -> tuple[Memory, Action, PyTree[Array]]:
        return self.algorithm.act(learned, memory, step, key=key, greedy=greedy or self.greedy)

    def update(self, learned: Learned, rollout: Rollout, *, key: Key) -> tuple[Learned, Metrics]:
        return learned, {}


@dataclass(frozen=True)
class Sides(Algorithm):
    """An algorithm made of algorithms: side k decides for the agents of team k and learns from what they see and earn.

    With `league` the sides of a two-team game also meet each other's past selves. In the first half of the environments
    side 0 as it is now plays a past self of side 1, in the second half it is the other way round; each side learns from
    its own half. `past` draws opponents uniformly (fictitious self-play: Heinrich et al. 2015), `hardest` draws those
    more often against whom the learner earns least (Vinyals et al. 2019, prioritised fictitious self-play). A self is
    kept every `every` updates; the latest is always among them. Memories live on where opponents change in mid-episode.
    """

    sides: tuple[Algorithm, ...] = option((), "an algorithm for each team, in the order of the teams")
    league: str = option(
        "latest", "which selves of the other side one plays against", choices=("latest", "past", "hardest")
    )
    slots: int = option(16, "past selves kept of each side", low=1)
    every: int = option(20, "updates between two selves that are kept", low=1)
    sharpness: float = option(2.0, "of `hardest`: how much likelier an opponent is that costs one spread more", low=0.0)

    def check(self, spec: Spec) -> None:
        teams = sorted(set(spec.teams))
        if len(teams) != len(self.sides):
            raise MarletError(
                f"There are algorithms for {len(self.sides)} sides, but this environment has {len(teams)} "
                f"team{'s' if len(teams) > 1 else ''}."
            )
        if self.league != "latest" and (len(teams) != 2 or self.envs % 2):
            raise MarletError(
                f"The league '{self.league}' needs two teams and an even number of envs, but there are {len(teams)} "
                f"team(s) and {self.envs} envs. Use league 'latest'."
            )
        for team, side, members in zip(teams, self._sides(), members_of(spec), strict=True):
            try:
                side.check(spec_of(spec, members))
            except MarletError as misfit:
                raise MarletError(f"Team {team} by itself: {misfit}") from None

    def init(self, spec: Spec, *, key: Key) -> Together:
        keys = jax.random.split(key, len(self.sides))
        learned = tuple(
            side.init(spec_of(spec, members), key=key)
            for side, members, key in zip(self._sides(), members_of(spec), keys, strict=True)
        )
        nought = jnp.zeros((), jnp.int32)
        leagues = tuple(
            League(
                past=[jnp.broadcast_to(leaf, (self.slots, *leaf.shape)) for leaf in bare(one)],
                fared=jnp.zeros(self.slots),
                count=nought,
                chosen=nought,
            )
            for one in learned
            if self.league != "latest"
        )
        return Together(learned, leagues, nought, spec)

    def reads_state(self) -> bool:
        return any(side.reads_state() for side in self.sides)

    def blank(self, learned: Together, batch: int) -> Memory:
        return tuple(side.blank(one, batch) for side, one in zip(self._sides(), learned.sides, strict=True))

    def act(
        self, learned: Together, memory: Memory, step: Step, *, key: Key, greedy: bool = False
    ) -> tuple[Memory, Action, PyTree[Array]]:
        members = members_of(learned.spec)
        keys = jax.random.split(key, len(members))
        half, odd = divmod(step.truncated.shape[0], 2)
        latest = greedy or odd or not learned.leagues  # what cannot be halved is played by what all are now
        memories, actions, extras = [], [], []
        for k, side in enumerate(self._sides()):
            seen = step_of(step, members[k])
            if latest:
                remembered, action, extra = side.act(learned.sides[k], memory[k], seen, key=keys[k], greedy=greedy)
            else:
                league = learned.leagues[k]
                past = with_replay([leaf[league.chosen] for leaf in league.past], learned.sides[k])
                parts = []
                for h, half_key in enumerate(jax.random.split(keys[k])):
                    rows = slice(half * h, half * (h + 1))
                    one = learned.sides[k] if h == k else past
                    parts.append(side.act(one, rows_of_each(memory[k], rows), rows_of_each(seen, rows), key=half_key))
                remembered, action, extra = jax.tree.map(lambda *halves: jnp.concatenate(halves), *parts)
            memories.append(remembered)
            actions.append(action)
            extras.append(extra)
        order = np.argsort(np.concatenate([np.array(m) for m in members]))
        return tuple(memories), jnp.concatenate(actions, axis=1)[:, order], tuple(extras)

    def update(self, learned: Together, rollout: Rollout, *, key: Key) -> tuple[Together, Metrics]:
        members = members_of(learned.spec)
        *keys, league_key = jax.random.split(key, len(members) + 1)
        half = rollout.transitions.first.shape[1] // 2
        sides, metrics = [], {}
        for k, side in enumerate(self._sides()):
            own = rollout_of(rollout, members[k], k)
            if learned.leagues:
                own = rows_of(own, slice(half * k, half * (k + 1)))
            one, found = side.update(learned.sides[k], own, key=keys[k])
            sides.append(one)
            earned = own.transitions.next.reward.mean()
            metrics |= {f"side{k}_{name}": value for name, value in found.items()} | {f"side{k}_reward": earned}
        updates = learned.updates + 1
        leagues = tuple(
            self._kept(league, sides[k], metrics[f"side{1 - k}_reward"], updates, key=jax.random.fold_in(league_key, k))
            for k, league in enumerate(learned.leagues)
        )
        return Together(tuple(sides), leagues, updates, learned.spec), metrics

    def _kept(
        self, league: League, now: Learned, fared: Float[Array, ""], updates: Int[Array, ""], *, key: Key
    ) -> League:
        """The league after an update: the other side's fortune noted, the present self kept when it is time, and whom to
        play next drawn."""
        noted = league.fared.at[league.chosen].set(0.9 * league.fared[league.chosen] + 0.1 * fared)
        keeps = updates % self.every == 0
        slot = league.count % self.slots
        count = league.count + keeps
        past = jax.lax.cond(
            keeps,
            lambda past: [old.at[slot].set(new) for old, new in zip(past, bare(now), strict=True)],
            lambda past: past,
            league.past,
        )
        noted = jnp.where(keeps, noted.at[slot].set(noted.min()), noted)  # a new self is met soon
        there = jnp.arange(self.slots) < jnp.maximum(count, 1)
        mean = jnp.where(there, noted, 0).sum() / there.sum()
        spread = jnp.sqrt(jnp.where(there, (noted - mean) ** 2, 0).sum() / there.sum()) + 1e-6
        weight = -self.sharpness * (noted - mean) / spread if self.league == "hardest" else jnp.zeros(self.slots)
        chosen = jax.random.categorical(key, jnp.where(there, weight, -jnp.inf))
        return League(past=past, fared=noted, count=count, chosen=chosen.astype(jnp.int32))

    def _sides(self) -> tuple[Algorithm, ...]:
        """The sides with the envs and length of the whole; in a league each learns from half of the envs."""
        envs = self.envs // 2 if self.league != "latest" else self.envs
        return tuple(replace(side, envs=envs, length=self.length) for side in self.sides)


def frozen_in(algorithm: Algorithm) -> list[Frozen]:
    """The frozen policies that an algorithm plays beside or against."""
    if isinstance(algorithm, Sides):
        return [one for side in algorithm.sides for one in frozen_in(side)]
    return [algorithm] if isinstance(algorithm, Frozen) else []


def bare(learned: Learned) -> list[Array]:
    """The arrays of what was learned without its replay, which acting does not need."""
    return [leaf for leaf in jax.tree.leaves(learned, is_leaf=_is_replay) if not _is_replay(leaf)]


def with_replay(past: list[Array], now: Learned) -> Learned:
    """A past self in the shape of the present one, whose replay it borrows unread."""
    leaves, shape = jax.tree.flatten(now, is_leaf=_is_replay)
    arrays = iter(past)
    return shape.unflatten([leaf if _is_replay(leaf) else next(arrays) for leaf in leaves])


def _without_replay(learned: Learned) -> Learned:
    return jax.tree.map(lambda part: () if _is_replay(part) else part, learned, is_leaf=_is_replay)


def _is_replay(part: Any) -> bool:
    return isinstance(part, Replay)


def versus(one: Algorithm, *others: Algorithm, league: str = "latest", slots: int = 16, every: int = 20) -> Sides:
    """One algorithm against others: team 0 is played by the first, team 1 by the second, and so on.

    `marlet.train("tag", marlet.versus(marlet.mappo(), marlet.ippo()))`. Environments and lengths are the first one's.
    """
    return Sides(
        name=" vs ".join(side.name for side in (one, *others)),
        envs=one.envs,
        length=one.length,
        sides=(one, *others),
        league=league,
        slots=slots,
        every=every,
    )
