"""Learners of mixed strategies from tables: policy hill climbing with "win or learn fast", and minimax-Q."""

from dataclasses import dataclass, replace

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from marlet.algorithms.tabular import Tabular, live_means, needs_table
from marlet.equations.choices import chosen
from marlet.equations.games import zero_sum
from marlet.equations.schedules import counted
from marlet.errors import MarletError
from marlet.options import changed, option
from marlet.parts.tables import distinct, draw, entries_of, entry, explored, highest, improve, preferred, restricted
from marlet.types import Key, Memory, Metrics, Rollout, Spec, Step


class Climbers(eqx.Module):
    """Each agent's action values, its policy, and the mean of its policies so far."""

    values: Float[Array, "n entries a"]
    policy: Float[Array, "n entries a"]
    average: Float[Array, "n entries a"]
    visits: Float[Array, "n entries"]
    steps: Int[Array, ""]
    levels: tuple[int, ...] = eqx.field(static=True)


@dataclass(frozen=True)
class PolicyClimbing(Tabular):
    """Each agent moves its policy towards the action it values most, and faster while it is losing.

    Bowling & Veloso 2002 (Artificial Intelligence 136), tables 3 and 5, with the step that stays on the simplex. An
    agent wins where its policy is worth more than the mean of its policies so far. With equal rates it is plain
    policy hill climbing (PHC). k visits of one entry in one update climb k steps, with the values after them. Where
    several actions are best they share the gain. Greedy play is the mixed policy itself, without epsilon.
    """

    win_rate: float = option(0.001, "probability moved per visit while winning", low=0.0, high=1.0)
    lose_rate: float = option(0.004, "probability moved per visit while losing", low=0.0, high=1.0)

    def check(self, spec: Spec) -> None:
        needs_table("Policy hill climbing", spec, spec.num_agents * entries_of(spec.levels) * spec.num_actions)

    def init(self, spec: Spec, *, key: Key) -> Climbers:
        n, a, entries = spec.num_agents, spec.num_actions, entries_of(spec.levels)
        even = jnp.full((n, entries, a), 1 / a, jnp.float32)
        return Climbers(
            values=jnp.full((n, entries, a), self.initial_value, jnp.float32),
            policy=even,
            average=even,
            visits=jnp.zeros((n, entries), jnp.float32),
            steps=jnp.zeros((), jnp.int32),
            levels=spec.levels,
        )

    def act(
        self, learned: Climbers, memory: Memory, step: Step, *, key: Key, greedy: bool = False
    ) -> tuple[Memory, Int[Array, "B n"], tuple[()]]:
        policy = learned.policy[jnp.arange(step.obs.shape[-2]), entry(step.obs, learned.levels)]
        policy = explored(restricted(policy, step.available), step.available, self.epsilon(learned.steps, greedy))
        return (), draw(policy, key=key), ()

    def update(self, learned: Climbers, rollout: Rollout, *, key: Key) -> tuple[Climbers, Metrics]:
        t = rollout.transitions
        n, entries, a = learned.values.shape
        agent = jnp.arange(n)
        before, after = entry(t.now.obs, learned.levels), entry(t.next.obs, learned.levels)
        value = chosen(learned.values[agent, before], t.action)
        follows = jnp.where(t.next.alive, highest(learned.values[agent, after], t.next.available), 0.0)
        error = t.next.reward + self.discount * follows - value
        place = agent * entries + before
        rate = self.learning_rate * t.now.alive
        values = improve(learned.values.ravel(), (place * a + t.action).ravel(), error.ravel(), rate.ravel())

        # The dead are sent off the table, where nothing is written.
        cells, at = distinct(jnp.where(t.now.alive, place, n * entries).ravel(), n * entries)
        visits = jax.ops.segment_sum(jnp.ones(cells.size), at, cells.size)
        legal = jax.ops.segment_max(t.now.available.reshape(-1, a).astype(jnp.int32), at, cells.size) > 0
        rows = lambda table: table.reshape(n * entries, -1)[cells]  # noqa: E731
        policy, average, total = climbed(
            rows(values),
            restricted(rows(learned.policy), legal),
            rows(learned.average),
            rows(learned.visits)[:, 0],
            legal=legal,
            visits=visits,
            win_rate=self.win_rate,
            lose_rate=self.lose_rate,
        )
        write = lambda table, new: table.reshape(n * entries, -1).at[cells].set(new, mode="drop")  # noqa: E731
        learned = replace(
            learned,
            values=values.reshape(n, entries, a),
            policy=write(learned.policy, policy).reshape(n, entries, a),
            average=write(learned.average, average).reshape(n, entries, a),
            visits=write(learned.visits, total[:, None]).reshape(n, entries),
            steps=counted(learned.steps, t.first.size),
        )
        return learned, live_means(t.now.alive, value=value, error=jnp.abs(error))

    def tables(self, learned: Climbers) -> Float[Array, "n entries a"]:
        """The action values, for pictures of them."""
        return learned.values


def climbed(
    values: Float[Array, "k a"],
    policy: Float[Array, "k a"],
    average: Float[Array, "k a"],
    total: Float[Array, " k"],
    *,
    legal: Float[Array, "k a"],
    visits: Float[Array, " k"],
    win_rate: float,
    lose_rate: float,
) -> tuple[Float[Array, "k a"], Float[Array, "k a"], Float[Array, " k"]]:
    """The policies after so many visits of k entries, their averages, and how often each was visited in all."""
    total = total + visits
    average = average + (policy - average) * (visits / jnp.maximum(total, 1))[:, None]
    winning = (policy * values).sum(-1) > (average * values).sum(-1)
    rate = visits * jnp.where(winning, win_rate, lose_rate)
    best = preferred(values, legal)
    share = rate / jnp.maximum(legal.sum(-1) - 1, 1)
    given = jnp.where(best > 0, 0.0, jnp.minimum(policy, share[:, None]))
    return policy - given + best * given.sum(-1, keepdims=True), average, total


class Duel(eqx.Module):
    """What each of two agents thinks of every pair of actions, and the value and policy that follow."""

    values: Float[Array, "2 entries own other"]
    policy: Float[Array, "2 entries own"]
    value: Float[Array, "2 entries"]
    steps: Int[Array, ""]
    levels: tuple[int, ...] = eqx.field(static=True)


@dataclass(frozen=True)
class MinimaxQ(Tabular):
    """Each of two opponents plays what is best against the worst the other may do (Littman 1994, ICML, figure 1).

    The value of an observation is that of the zero-sum game `Q_i(o_i, own, other)`, solved exactly where Q has
    changed. Each takes the other to lose what it wins, so it never looks at the other's reward. Greedy play is the
    mixed policy itself, without epsilon.
    """

    def check(self, spec: Spec) -> None:
        if spec.num_agents != 2 or len(set(spec.teams)) != 2:
            raise MarletError(
                f"Minimax-Q is for two agents with opposed aims, but this environment has {spec.num_agents} agents in "
                f"{len(set(spec.teams))} team(s). Use it in a game of two players, such as soccer."
            )
        needs_table("Minimax-Q", spec, 2 * entries_of(spec.levels) * spec.num_actions**2)

    def init(self, spec: Spec, *, key: Key) -> Duel:
        a, entries = spec.num_actions, entries_of(spec.levels)
        return Duel(
            values=jnp.full((2, entries, a, a), self.initial_value, jnp.float32),
            policy=jnp.full((2, entries, a), 1 / a, jnp.float32),
            value=jnp.full((2, entries), self.initial_value, jnp.float32),
            steps=jnp.zeros((), jnp.int32),
            levels=spec.levels,
        )

    def act(
        self, learned: Duel, memory: Memory, step: Step, *, key: Key, greedy: bool = False
    ) -> tuple[Memory, Int[Array, "B 2"], tuple[()]]:
        policy = learned.policy[jnp.arange(2), entry(step.obs, learned.levels)]
        policy = explored(restricted(policy, step.available), step.available, self.epsilon(learned.steps, greedy))
        return (), draw(policy, key=key), ()

    def update(self, learned: Duel, rollout: Rollout, *, key: Key) -> tuple[Duel, Metrics]:
        t = rollout.transitions
        _, entries, a, _ = learned.values.shape
        agent = jnp.arange(2)
        before, after = entry(t.now.obs, learned.levels), entry(t.next.obs, learned.levels)
        pair = t.action * a + t.action[..., ::-1]
        value = chosen(learned.values[agent, before].reshape(*before.shape, a * a), pair)
        follows = jnp.where(t.next.alive, learned.value[agent, after], 0.0)
        error = t.next.reward + self.discount * follows - value
        place = agent * entries + before
        rate = self.learning_rate * t.now.alive
        values = improve(learned.values.ravel(), (place * a * a + pair).ravel(), error.ravel(), rate.ravel())
        values = values.reshape(2 * entries, a, a)

        cells, at = distinct(jnp.where(t.now.alive, place, 2 * entries).ravel(), 2 * entries)
        any_of = lambda mask: jax.ops.segment_max(mask.reshape(-1, a).astype(jnp.int32), at, cells.size) > 0  # noqa: E731
        own, other = any_of(t.now.available), any_of(t.now.available[..., ::-1, :])
        worth, policy = jax.vmap(zero_sum)(values[cells], own, other)
        learned = replace(
            learned,
            values=values.reshape(learned.values.shape),
            policy=learned.policy.reshape(-1, a).at[cells].set(policy, mode="drop").reshape(2, entries, a),
            value=learned.value.ravel().at[cells].set(worth, mode="drop").reshape(2, entries),
            steps=counted(learned.steps, t.first.size),
        )
        return learned, live_means(t.now.alive, value=value, error=jnp.abs(error))

    def tables(self, learned: Duel) -> Float[Array, "2 entries pairs"]:
        """Each agent's values of pairs of actions (own, other), for pictures of them."""
        return learned.values.reshape(*learned.values.shape[:2], -1)


def wolf_phc(**options) -> PolicyClimbing:
    """Win or learn fast: policies climb slowly while winning, quickly while losing (Bowling & Veloso 2002)."""
    return changed(PolicyClimbing(name="wolf_phc"), **options)


def phc(**options) -> PolicyClimbing:
    """Policy hill climbing at one rate, which circles around mixed equilibria (Bowling & Veloso 2002, table 3)."""
    return changed(PolicyClimbing(name="phc", win_rate=0.002, lose_rate=0.002), **options)


def minimax_q(**options) -> MinimaxQ:
    """Minimax-Q: the safest mixed strategy against any opponent of a zero-sum game (Littman 1994)."""
    return changed(MinimaxQ(name="minimax_q"), **options)
