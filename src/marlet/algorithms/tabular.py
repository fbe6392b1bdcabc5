"""Q-learning with a table, one for all agents or one each: epsilon-greedy, Boltzmann, optimistic and hysteretic.

Also what all learners with a table have in common: options, what they refuse, and the exploration schedule.
"""

from dataclasses import dataclass, replace

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from marlet.algorithms.base import Algorithm, needs_choices
from marlet.equations.choices import chosen
from marlet.equations.schedules import counted, linear
from marlet.errors import MarletError
from marlet.options import changed, option
from marlet.parts.nets import uses_of
from marlet.parts.tables import draw, entries_of, entry, explored, highest, improve, preferred
from marlet.types import Key, Memory, Metrics, Rollout, Spec, Step

MOST_NUMBERS = 50_000_000
"""The largest table that is made: 200 megabytes."""


@dataclass(frozen=True)
class Tabular(Algorithm):
    """What all learners with a table share. By default they learn after every step of one environment.

    With more environments or steps, all T x B transitions are learned from at once, with the values from before;
    visits that meet in one cell count as if they came one after the other (see `parts.tables.improve`).
    """

    envs: int = option(1, "environments stepped side by side", low=1)
    length: int = option(1, "steps of each environment between two updates", low=1)
    learning_rate: float = option(0.1, "share of its error that a visit corrects", low=0.0, high=1.0)
    discount: float = option(0.9, "worth of a reward one step later", low=0.0, high=1.0)
    initial_value: float = option(0.0, "value of what was never tried; above what can be earned, all is tried early")
    epsilon_start: float = option(0.1, "chance of a random action at the beginning", low=0.0, high=1.0)
    epsilon_end: float = option(0.1, "chance of a random action at the end", low=0.0, high=1.0)
    epsilon_steps: int = option(0, "environment steps over which that chance moves from start to end", low=0)

    def blank(self, learned, batch: int) -> Memory:
        return ()

    def reads_state(self) -> bool:
        return False

    def epsilon(self, steps: Int[Array, ""], greedy: bool) -> Float[Array, ""] | float:
        """The chance of a random action after that many environment steps."""
        return 0.0 if greedy else linear(steps, self.epsilon_start, self.epsilon_end, self.epsilon_steps)


def needs_table(name: str, spec: Spec, numbers: int) -> None:
    """Refuse what no table of `numbers` can hold: continuous actions, observations without end, too many of them.

    Raises:
        MarletError: naming the algorithm, the size and the cure.
    """
    needs_choices(name, spec)
    if not spec.levels:
        raise MarletError(
            f"{name} keeps a table over all observations, but this environment's observations cannot be counted: its "
            "spec names no `levels`. Give the environment features of few values, or use the deep iql."
        )
    if numbers > MOST_NUMBERS:
        raise MarletError(
            f"{name} would need a table of {numbers:,} numbers for {spec.num_agents} agents, but {MOST_NUMBERS:,} is "
            "the most. Let the agents observe less, e.g. --env.sight 0, take fewer agents, or use the deep iql."
        )


def live_means(live: Bool[Array, "..."], **quantities: Float[Array, "..."]) -> Metrics:
    """The mean of each quantity over what was alive."""
    count = jnp.maximum(live.sum(), 1)
    return {name: jnp.where(live, x, 0).sum() / count for name, x in quantities.items()}


class Tables(eqx.Module):
    """Action values by observation, and how long they have been learned."""

    values: Float[Array, "tables entries a"]
    steps: Int[Array, ""]
    uses: tuple[int, ...] = eqx.field(static=True)
    """Which table each agent uses."""
    levels: tuple[int, ...] = eqx.field(static=True)


@dataclass(frozen=True)
class TabularQ(Tabular):
    """Q-learning from tables (Watkins & Dayan 1992), every agent for itself with its own observation and reward.

    Each choice made moves `Q(o_i, a_i)` towards `r_i + discount max_a Q(o_i', a)` over legal actions; after a death
    nothing follows, after a cut by the clock the final observation's value does. Agents that were dead are not
    learned from. Among equally good actions one is drawn at random.
    """

    sharing: str = option("own", "which agents use one table", choices=("shared", "own", "kinds"))
    negative_scale: float = option(
        1.0, "share of the learning rate with which bad news is believed; 1 believes it like good", low=0.0, high=1.0
    )
    temperature_start: float = option(0.0, "Boltzmann temperature at the beginning; 0 takes the best action", low=0.0)
    temperature_end: float = option(0.0, "Boltzmann temperature at the end, in units of reward", low=0.0)
    temperature_steps: int = option(0, "environment steps over which the temperature moves from start to end", low=0)

    def check(self, spec: Spec) -> None:
        tables = len(set(uses_of(self.sharing, spec)))
        needs_table("Tabular Q-learning", spec, tables * entries_of(spec.levels) * spec.num_actions)

    def init(self, spec: Spec, *, key: Key) -> Tables:
        uses = uses_of(self.sharing, spec)
        shape = (len(set(uses)), entries_of(spec.levels), spec.num_actions)
        return Tables(
            values=jnp.full(shape, self.initial_value, jnp.float32),
            steps=jnp.zeros((), jnp.int32),
            uses=uses,
            levels=spec.levels,
        )

    def act(
        self, learned: Tables, memory: Memory, step: Step, *, key: Key, greedy: bool = False
    ) -> tuple[Memory, Int[Array, "B n"], tuple[()]]:
        values = learned.values[jnp.array(learned.uses), entry(step.obs, learned.levels)]
        temperature = 0.0 if greedy else self._temperature(learned.steps)
        policy = preferred(values, step.available, temperature)
        return (), draw(explored(policy, step.available, self.epsilon(learned.steps, greedy)), key=key), ()

    def update(self, learned: Tables, rollout: Rollout, *, key: Key) -> tuple[Tables, Metrics]:
        t = rollout.transitions
        values, uses = learned.values, jnp.array(learned.uses)
        before, after = entry(t.now.obs, learned.levels), entry(t.next.obs, learned.levels)
        value = chosen(values[uses, before], t.action)
        follows = jnp.where(t.next.alive, highest(values[uses, after], t.next.available), 0.0)
        error = t.next.reward + self.discount * follows - value
        rate = self.learning_rate * jnp.where(error < 0, self.negative_scale, 1.0) * t.now.alive
        cell = (uses * values.shape[1] + before) * values.shape[2] + t.action
        learned = replace(
            learned,
            values=improve(values.ravel(), cell.ravel(), error.ravel(), rate.ravel()).reshape(values.shape),
            steps=counted(learned.steps, t.first.size),
        )
        return learned, live_means(t.now.alive, value=value, error=jnp.abs(error))

    def tables(self, learned: Tables) -> Float[Array, "tables entries a"]:
        """The action values, for pictures of them."""
        return learned.values

    def _temperature(self, steps: Int[Array, ""]) -> Float[Array, ""]:
        return linear(steps, self.temperature_start, self.temperature_end, self.temperature_steps)


# The textbook's constants are the families' defaults. The named learners below differ: on the resource grid, where an
# agent sees only where it stands, a start at zero and epsilon .1 throughout end below random play when played greedily.
# Optimism makes them try every way, and little exploration late lets the values settle on the way they take.
STEADY = {"learning_rate": 0.05, "initial_value": 20.0, "epsilon_end": 0.02, "epsilon_steps": 25_000}


def shared_q(**options) -> TabularQ:
    """All agents learn one table together, each by its own observation and reward (Tan 1993, "sharing policies").

    Every agent writes to the same cells, and what is good for one is taken by the other: smaller steps than alone.
    """
    return changed(TabularQ(name="shared_q", sharing="shared", **STEADY | {"learning_rate": 0.02}), **options)


def tabular_iql(**options) -> TabularQ:
    """Each agent learns a table of its own, the others are part of its world (Tan 1993; Claus & Boutilier 1998)."""
    return changed(TabularQ(name="tabular_iql", **STEADY), **options)


def hysteretic(**options) -> TabularQ:
    """Independent learners that believe good news more than bad, which partners cause (Matignon et al. 2007, IROS).

    Bad news is slow to be believed, so these start twice as high and learn twice as fast as the others.
    """
    faster = STEADY | {"learning_rate": 0.1, "initial_value": 40.0}
    return changed(TabularQ(name="hysteretic", negative_scale=0.2, **faster), **options)


def boltzmann(**options) -> TabularQ:
    """Independent learners that explore by softmax, cooling down (Claus & Boutilier 1998, section 2.2)."""
    cooling = {"temperature_start": 5.0, "temperature_end": 0.1, "temperature_steps": 5_000}
    silent = {"epsilon_start": 0.0, "epsilon_end": 0.0}
    return changed(TabularQ(name="boltzmann", **STEADY | silent, **cooling), **options)
