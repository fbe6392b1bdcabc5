"""What one team alone sees of a spec, a step and a rollout."""

from dataclasses import replace

import jax
import numpy as np
from jaxtyping import Array, PyTree

from marlet.types import Rollout, Spec, Step, Transition


def members_of(spec: Spec) -> list[tuple[int, ...]]:
    """The agents of each team, in the order of the teams."""
    return [tuple(i for i, team in enumerate(spec.teams) if team == one) for one in sorted(set(spec.teams))]


def spec_of(spec: Spec, members: tuple[int, ...]) -> Spec:
    """What one team may know of the environment."""
    kinds = [spec.kinds[i] for i in members]
    ranks = {kind: rank for rank, kind in enumerate(dict.fromkeys(kinds))}
    return replace(
        spec,
        num_agents=len(members),
        kinds=tuple(ranks[kind] for kind in kinds),
        teams=(0,) * len(members),
        names=tuple(spec.names[i] for i in members),
    )


def step_of(step: Step, members: tuple[int, ...]) -> Step:
    """The rows of one team; the state is everyone's."""
    who = np.array(members)
    return Step(
        obs=step.obs[..., who, :],
        state=step.state,
        available=step.available[..., who, :],
        reward=step.reward[..., who],
        alive=step.alive[..., who],
        truncated=step.truncated,
        cost=step.cost[..., who],
    )


def rollout_of(rollout: Rollout, members: tuple[int, ...], side: int) -> Rollout:
    """What one team has lived through."""
    t = rollout.transitions
    transitions = Transition(
        now=step_of(t.now, members),
        action=t.action[:, :, np.array(members)],
        next=step_of(t.next, members),
        first=t.first,
        extra=t.extra[side],
    )
    return Rollout(transitions=transitions, memory=rollout.memory[side])


def rows_of(rollout: Rollout, rows: slice) -> Rollout:
    """Some of the environments."""
    return Rollout(
        transitions=jax.tree.map(lambda leaf: leaf[:, rows], rollout.transitions),
        memory=rows_of_each(rollout.memory, rows),
    )


def rows_of_each(tree: PyTree[Array], rows: slice) -> PyTree[Array]:
    return jax.tree.map(lambda leaf: leaf[rows], tree)
