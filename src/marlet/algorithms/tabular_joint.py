"""Learners whose table knows what everyone did: one for the whole team, or one each with a model of the partners."""

from dataclasses import dataclass, replace

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from marlet.algorithms.base import needs_one_team
from marlet.algorithms.tabular import STEADY, Tables, Tabular, live_means, needs_table
from marlet.equations.choices import chosen
from marlet.equations.schedules import counted
from marlet.options import changed
from marlet.parts.tables import (
    draw,
    entries_of,
    entry,
    explored,
    highest,
    improve,
    joint_entry,
    preferred,
    restricted,
)
from marlet.types import Key, Memory, Metrics, Rollout, Spec, Step


def choices_in(num_agents: int, num_actions: int) -> Int[Array, "n joint"]:
    """What each agent does in each joint action; agent 0's choice turns slowest."""
    joint = jnp.arange(num_actions**num_agents)
    return jnp.stack(jnp.unravel_index(joint, (num_actions,) * num_agents)).astype(jnp.int32)


def joint_of(action: Int[Array, "*batch n"], num_actions: int) -> Int[Array, "*batch"]:
    """The number of the joint action."""
    n = action.shape[-1]
    return action @ (num_actions ** jnp.arange(n - 1, -1, -1, dtype=jnp.int32))


def all_available(available: Bool[Array, "*batch n a"]) -> Bool[Array, "*batch joint"]:
    """The joint actions in which everyone's part is legal."""
    n, a = available.shape[-2:]
    who = choices_in(n, a)
    return available[..., jnp.arange(n)[:, None], who].all(-2)


@dataclass(frozen=True)
class CentralQ(Tabular):
    """One table `Q(o_1..o_n, a_1..a_n)` of the team's value, and its best joint action is played.

    The reward is the mean of the agents'. The team goes on as long as one agent lives. To explore, the whole team
    draws a legal joint action.
    """

    def check(self, spec: Spec) -> None:
        needs_one_team("A central learner", spec, cure="Use tabular_iql or jal, which give each agent its own value.")
        needs_table("A central learner", spec, (entries_of(spec.levels) * spec.num_actions) ** spec.num_agents)

    def init(self, spec: Spec, *, key: Key) -> Tables:
        n = spec.num_agents
        return Tables(
            values=jnp.full((1, entries_of(spec.levels) ** n, spec.num_actions**n), self.initial_value, jnp.float32),
            steps=jnp.zeros((), jnp.int32),
            uses=(0,) * n,
            levels=spec.levels,
        )

    def act(
        self, learned: Tables, memory: Memory, step: Step, *, key: Key, greedy: bool = False
    ) -> tuple[Memory, Int[Array, "B n"], tuple[()]]:
        n, a = step.available.shape[-2:]
        available = all_available(step.available)
        policy = preferred(learned.values[0, joint_entry(step.obs, learned.levels)], available)
        joint = draw(explored(policy, available, self.epsilon(learned.steps, greedy)), key=key)
        return (), choices_in(n, a)[:, joint].T, ()

    def update(self, learned: Tables, rollout: Rollout, *, key: Key) -> tuple[Tables, Metrics]:
        t = rollout.transitions
        values = learned.values[0]
        before, after = joint_entry(t.now.obs, learned.levels), joint_entry(t.next.obs, learned.levels)
        joint = joint_of(t.action, t.now.available.shape[-1])
        value = chosen(values[before], joint)
        follows = jnp.where(t.next.alive.any(-1), highest(values[after], all_available(t.next.available)), 0.0)
        error = t.next.reward.mean(-1) + self.discount * follows - value
        live = t.now.alive.any(-1)
        cell = before * values.shape[1] + joint
        values = improve(values.ravel(), cell.ravel(), error.ravel(), (self.learning_rate * live).ravel())
        learned = replace(
            learned, values=values.reshape(learned.values.shape), steps=counted(learned.steps, t.first.size)
        )
        return learned, live_means(live, value=value, error=jnp.abs(error))

    def tables(self, learned: Tables) -> Float[Array, "1 entries joint"]:
        """The team's values of joint actions, for pictures of them."""
        return learned.values


class PartnerTables(eqx.Module):
    """Each agent's values of joint actions, and what it has seen the others do."""

    values: Float[Array, "n entries joint"]
    seen: Float[Array, "n entries n a"]
    """How often agent i, observing an entry, saw agent j do a; each starts at one, an even guess."""
    steps: Int[Array, ""]
    levels: tuple[int, ...] = eqx.field(static=True)


@dataclass(frozen=True)
class JointActionLearner(Tabular):
    """Each agent values joint actions and expects of its partners what it has seen of them (Claus & Boutilier 1998).

    Agent i's table is `Q_i(o_i, a_1..a_n)`, learned from its own observation and reward. An own action is worth its
    mean over the partners' actions, each drawn independently by its frequency at this observation, illegal ones left
    out. The paper has games of one stage; with several, the best such worth is what is bootstrapped from.
    """

    def check(self, spec: Spec) -> None:
        n = spec.num_agents
        needs_table("A joint action learner", spec, n * entries_of(spec.levels) * spec.num_actions**n)

    def init(self, spec: Spec, *, key: Key) -> PartnerTables:
        n, a, entries = spec.num_agents, spec.num_actions, entries_of(spec.levels)
        return PartnerTables(
            values=jnp.full((n, entries, a**n), self.initial_value, jnp.float32),
            seen=jnp.ones((n, entries, n, a), jnp.float32),
            steps=jnp.zeros((), jnp.int32),
            levels=spec.levels,
        )

    def act(
        self, learned: PartnerTables, memory: Memory, step: Step, *, key: Key, greedy: bool = False
    ) -> tuple[Memory, Int[Array, "B n"], tuple[()]]:
        policy = preferred(worth(learned, step), step.available)
        return (), draw(explored(policy, step.available, self.epsilon(learned.steps, greedy)), key=key), ()

    def update(self, learned: PartnerTables, rollout: Rollout, *, key: Key) -> tuple[PartnerTables, Metrics]:
        t = rollout.transitions
        n, a = t.now.available.shape[-2:]
        agent, partner = jnp.arange(n), jnp.arange(n)
        _, entries, joints = learned.values.shape
        before = entry(t.now.obs, learned.levels)
        joint = jnp.broadcast_to(joint_of(t.action, a)[..., None], before.shape)
        value = chosen(learned.values[agent, before], joint)
        follows = jnp.where(t.next.alive, highest(worth(learned, t.next), t.next.available), 0.0)
        error = t.next.reward + self.discount * follows - value
        cell = (agent * entries + before) * joints + joint
        rate = self.learning_rate * t.now.alive
        values = improve(learned.values.ravel(), cell.ravel(), error.ravel(), rate.ravel())
        both = t.now.alive[..., :, None] & t.now.alive[..., None, :]
        seen = learned.seen.at[agent[:, None], before[..., None], partner, t.action[..., None, :]].add(both)
        learned = replace(
            learned, values=values.reshape(learned.values.shape), seen=seen, steps=counted(learned.steps, t.first.size)
        )
        return learned, live_means(t.now.alive, value=value, error=jnp.abs(error))

    def tables(self, learned: PartnerTables) -> Float[Array, "n entries joint"]:
        """Each agent's values of joint actions, for pictures of them."""
        return learned.values


def worth(learned: PartnerTables, step: Step) -> Float[Array, "*batch n a"]:
    """What each agent expects of each of its own actions: the mean of its joint values over what partners do."""
    n, a = step.available.shape[-2:]
    agent, who = jnp.arange(n), choices_in(n, a)
    cell = entry(step.obs, learned.levels)
    partners = restricted(learned.seen[agent, cell], step.available[..., None, :, :])  # *batch, agent, partner, a
    chance = partners[..., jnp.arange(n)[:, None], who]  # *batch, agent, partner, joint
    together = jnp.where(jnp.eye(n, dtype=bool)[:, :, None], 1.0, chance).prod(-2)
    own = who[:, :, None] == jnp.arange(a)  # agent, joint, a
    values = learned.values[agent, cell]
    best = values.max(-1, keepdims=True)  # means of what is below it: where all is alike, nothing is left to round
    return best + jnp.einsum("...ij,ija->...ia", together * (values - best), own.astype(jnp.float32))


def central_q(**options) -> CentralQ:
    """One learner chooses for the whole team, by its value of joint actions (Boutilier 1996, TARK)."""
    return changed(CentralQ(name="central_q", **STEADY), **options)


def jal(**options) -> JointActionLearner:
    """Joint action learners: values of joint actions with a model of the partners (Claus & Boutilier 1998, AAAI)."""
    return changed(JointActionLearner(name="jal", **STEADY), **options)
