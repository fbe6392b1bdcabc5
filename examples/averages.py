"""A learning rule of one's own: each agent remembers what each of its actions has paid on average.

python examples/averages.py     trains it on the climbing game, where it plays for 5:
against a partner that tries everything, each part of the best joint action (11) looks bad on average
"""

from dataclasses import dataclass, replace

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

import marlet
from marlet.algorithms.base import Algorithm, needs_choices
from marlet.equations.choices import epsilon_greedy
from marlet.options import option
from marlet.types import Key, Memory, Metrics, Rollout, Spec, Step


class Means(eqx.Module):
    """All that training changes."""

    total: Float[Array, "n a"]
    tries: Float[Array, "n a"]


@dataclass(frozen=True)
class Averages(Algorithm):
    """Sample averages of each own action's reward, whatever is observed; for games of one step."""

    name: str = option("averages", "what tables and curves call it")
    epsilon: float = option(1.0, "chance of a random action in training", low=0.0, high=1.0)

    def check(self, spec: Spec) -> None:
        needs_choices("Averages", spec)

    def init(self, spec: Spec, *, key: Key) -> Means:
        zeros = jnp.zeros((spec.num_agents, spec.num_actions))
        return Means(total=zeros, tries=zeros)

    def blank(self, learned: Means, batch: int) -> Memory:
        return ()

    def act(
        self, learned: Means, memory: Memory, step: Step, *, key: Key, greedy: bool = False
    ) -> tuple[Memory, Int[Array, "B n"], tuple[()]]:
        values = jnp.broadcast_to(learned.total / jnp.maximum(learned.tries, 1), step.available.shape)
        return (), epsilon_greedy(values, step.available, 0.0 if greedy else self.epsilon, key=key), ()

    def update(self, learned: Means, rollout: Rollout, *, key: Key) -> tuple[Means, Metrics]:
        t = rollout.transitions
        a = learned.tries.shape[-1]
        tried = jax.nn.one_hot(t.action, a) * t.now.alive[..., None]  # T B n a
        learned = replace(
            learned,
            total=learned.total + (tried * t.next.reward[..., None]).sum((0, 1)),
            tries=learned.tries + tried.sum((0, 1)),
        )
        return learned, {"reward": t.next.reward.mean()}


if __name__ == "__main__":
    run = marlet.train(marlet.Matrix(game="climbing"), Averages(), steps=20_000, seeds=4, evaluations=4, episodes=16)
    print(run.metrics()["return"][-4:])
