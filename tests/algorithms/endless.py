"""The game that tells a cut by the clock from a death: its value is 10, or much less for who takes the one for the other."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from many_runs import train

from marlet.envs.base import Env, make_step
from marlet.types import Spec


@dataclass(frozen=True)
class Endless(Env):
    """Reward 1 for ever, cut off by a clock of 10 that is told apart from a death, or not. That nobody can die may be
    `known` beforehand: then rollouts and replays keep the final steps alone.

    The clock may be `deadly` for some agents only; it cuts off the others.
    """

    deadly: bool | jax.Array = False
    known: bool = False

    @property
    def spec(self):
        return Spec(num_agents=2, num_actions=2, obs_shape=(1,), state_size=1, horizon=10, mortal=not self.known)

    def reset(self, *, key):
        return jnp.zeros((), jnp.int32), make_step(self.spec, obs=jnp.ones((2, 1)), state=jnp.ones(1))

    def step(self, state, action, *, key):
        ends = state + 1 >= 10
        step = make_step(
            self.spec,
            obs=jnp.ones((2, 1)),
            state=jnp.ones(1),
            reward=jnp.ones(2),
            alive=jnp.broadcast_to(~(ends & self.deadly), (2,)),
            truncated=ends & ~jnp.all(jnp.asarray(self.deadly)),
        )
        return state + 1, step


def values_of(algorithm, steps, value, *, known=False, runs=1):
    """What learners take the game to be worth, where the clock cuts it off, and where it kills, shape (2, runs).

    `value` tells it of one game and what was learned in it. Both games are one program, unless it is `known` of the first
    that nobody dies in it, which cannot be said of the second.
    """

    def learned_in(known, deadly):
        deadly = jnp.repeat(jnp.array(deadly), runs)
        learned = train(
            Endless(known=known), algorithm, steps, len(deadly), key=jax.random.key(0), world={"deadly": deadly}
        )
        return jax.jit(jax.vmap(lambda deadly, one: value(Endless(deadly, known), one)))(deadly, learned)

    found = [learned_in(True, [False]), learned_in(False, [True])] if known else [learned_in(False, [False, True])]
    return np.concatenate(found).reshape(2, runs)
