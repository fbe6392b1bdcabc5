"""A world and a learner that keep count of themselves, so that every mix-up of steps, copies or episodes shows."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from marlet.algorithms.base import Algorithm
from marlet.envs.base import Env, make_step
from marlet.options import option
from marlet.types import Spec

TRACES: list[str] = []
"""Grows whenever one of the functions below is traced, and only then."""
POISON = 3


@dataclass(frozen=True)
class Ledger(Env):
    """Observes (tag of the episode, clock, sum of all actions so far + agent); earns the clock times agent + 1.

    Episodes with an even tag are cut off by the clock, others end by death; they last from 1 to `longest` steps, as the
    tag says; with `longest` 0 they never end. With a `horizon` nobody dies and all last that long. An agent that plays
    POISON breaks what `poisoned` names, from then on.
    """

    longest: int = option(5, "steps", low=0)
    horizon: int = option(0, "steps", low=0)
    poisoned: str = option("", "what breaks", choices=("", "reward", "obs", "mask", "cost", "state"))

    @property
    def spec(self):
        ends = {"horizon": self.horizon, "mortal": False} if self.horizon else {}
        return Spec(num_agents=3, num_actions=4, obs_shape=(3,), state_size=1, **ends)

    def reset(self, *, key):
        TRACES.append("reset")
        tag = jax.random.randint(key, (), 0, 1_000_000)
        state = (tag, jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))
        return state, self.say(state, jnp.zeros(3, bool), earns=False)

    def step(self, state, action, *, key):
        TRACES.append("step")
        tag, clock, total = state
        state = (tag, clock + 1, total + action.sum())
        return state, self.say(state, action == POISON, earns=True)

    def say(self, state, poison, earns):
        tag, clock, total = state
        poison = poison & (self.poisoned != "")
        index = jnp.arange(3)
        over = clock == self.steps_of(tag)
        dies = over & (tag % 2 == 1) & (not self.horizon)
        obs = jnp.stack([jnp.broadcast_to(tag, 3), jnp.broadcast_to(clock, 3), total + index], -1).astype(jnp.float32)
        reward = clock * (index + 1.0) * earns
        nan = jnp.where(poison, jnp.nan, 0.0)
        return make_step(
            self.spec,
            obs=obs + (nan[:, None] if self.poisoned == "obs" else 0),
            state=jnp.ones(1) + (nan.sum() if self.poisoned == "state" else 0),
            reward=reward + (nan if self.poisoned == "reward" else 0),
            available=~poison[:, None] & jnp.ones(4, bool) if self.poisoned == "mask" else None,
            alive=jnp.broadcast_to(~dies, 3),
            truncated=over & ~dies,
            cost=reward * 0 + (nan if self.poisoned == "cost" else 0),
        )

    def steps_of(self, tag):
        """How long the episode lasts."""
        if self.horizon:
            return self.horizon
        return 1 + tag % self.longest if self.longest else -1


@dataclass(frozen=True)
class Counting(Algorithm):
    """Its memory counts its own steps, and it notes the count; what it learns is how often it was updated.

    In environment `env` agent `agent` plays POISON when the count is `at`. What is learned is not a number after
    `lasting` updates.
    """

    at: int = option(-1, "count")
    env: int = option(0, "which")
    agent: int = option(0, "which")
    lasting: int = option(1_000_000, "updates")

    def check(self, spec):
        pass

    def init(self, spec, *, key):
        return {"updates": jnp.zeros((), jnp.int32), "mean": jnp.zeros(()), "drawn": jax.random.uniform(key)}

    def blank(self, learned, batch):
        return jnp.zeros(batch, jnp.int32)

    def act(self, learned, memory, step, *, key, greedy=False):
        TRACES.append("act")
        batch, n = step.alive.shape
        drawn = jax.random.randint(key, (batch, n), 0, POISON)
        here = (jnp.arange(batch)[:, None] == self.env) & (jnp.arange(n) == self.agent)
        action = jnp.where(here & (memory == self.at)[:, None], POISON, drawn)
        return memory + 1, action, memory

    def update(self, learned, rollout, *, key):
        TRACES.append("update")
        reward = rollout.transitions.next.reward.mean()
        broken = jnp.where(learned["updates"] + 1 >= self.lasting, jnp.nan, 0.0)
        learned = learned | {
            "updates": learned["updates"] + 1,
            "mean": learned["mean"] + jnp.nan_to_num(reward) + broken,
        }
        return learned, {"loss": reward}
