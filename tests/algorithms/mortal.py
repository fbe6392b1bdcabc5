"""A world of unlike agents that die one after the other: whatever mixes up agents, copies or steps shows in it."""

from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from marlet.envs.base import Env, make_step
from marlet.options import option
from marlet.types import Spec

LEVELS = (4, 3)


class Lives(eqx.Module):
    """Everything that is going on in one copy."""

    tag: Int[Array, ""]
    """Tells this episode from all others."""
    span: Int[Array, " n"]
    """Steps that each agent lives; the clock may come first."""
    clock: Int[Array, ""]


@dataclass(frozen=True)
class Mortal(Env):
    """Agents of two kinds see different things, may do different things, and are paid differently.

    Kind 1 has the first two actions only. Agents live from 1 to 8 steps, and the clock cuts off what is left after 6.
    """

    agents: int = option(2, "number of agents", low=1)
    teams: int = option(1, "number of teams, whose members take turns", low=1)
    continuous: bool = option(False, "act by vectors")
    countable: bool = option(True, "whether observations can be counted")
    narrow: bool = option(False, "kind 1 observes the first number only; zeros fill its rows")

    @property
    def spec(self):
        n = self.agents
        return Spec(
            num_agents=n,
            num_actions=3,
            obs_shape=(2,),
            state_size=3,
            continuous=self.continuous,
            kinds=tuple(i % 2 for i in range(n)),
            teams=tuple(i % self.teams for i in range(n)),
            horizon=6,
            levels=LEVELS if self.countable else (),
        )

    def reset(self, *, key):
        tag_key, span_key = jax.random.split(key)
        lives = Lives(
            tag=jax.random.randint(tag_key, (), 0, 1000),
            span=jax.random.randint(span_key, (self.agents,), 1, 9),
            clock=jnp.zeros((), jnp.int32),
        )
        return lives, self.say(lives, jnp.zeros(self.agents))

    def step(self, state, action, *, key):
        lives = Lives(state.tag, state.span, state.clock + 1)
        who = jnp.arange(self.agents)
        chosen = action.sum(-1) if self.continuous else action
        paid = (1.0 + who) * jnp.cos(lives.tag + 3.0 * lives.clock) + 0.1 * chosen
        return lives, self.say(lives, jnp.where(state.clock < state.span, paid, 0.0))

    def say(self, lives, reward):
        who = jnp.arange(self.agents)
        alive = lives.clock < lives.span
        seen = jnp.stack(
            [(lives.tag + 5 * lives.clock + who) % 4 / 3, (lives.tag // 7 + lives.clock * who) % 3 / 2], -1
        )
        seen = jnp.where(self.narrow & (who % 2 == 1)[:, None] & (jnp.arange(2) == 1), 0.0, seen)
        legal = jnp.arange(3) < jnp.where(who % 2, 2, 3)[:, None]
        return make_step(
            self.spec,
            obs=seen,
            state=jnp.stack([lives.clock / 6, lives.tag / 1000, alive.mean()]),
            reward=reward,
            available=legal | ~alive[:, None],
            alive=alive,
            truncated=(lives.clock >= 6) & alive.any(),
        )
