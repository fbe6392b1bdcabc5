"""From helping to competing: what each of two agents earns as their motives are mixed.

    python examples/motives.py

Two points head for the one target that only one can hold (`reach`, contested). A dial says what they are paid for: at 0 for
what both do, at 1 for being better than the other; there, what one earns the other loses. The same learners with the same
options play every setting. Two numbers compare settings: `merit` is what the same play would be paid at 0, for coming near
with little effort; `edge` is how much more merit agents have than agents who learned at 0, when they meet.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from studies import draw, options, report, told, trained

import marlet
from marlet.engine.evaluate import play_episodes
from marlet.types import Key, Step

DIAL = (0.0, 0.25, 0.5, 0.75, 1.0)
LEARNERS = ("maddpg", "iddpg", "mapg")
EPISODES = 512


@dataclass(frozen=True)
class Meeting:
    """Agent 0 of what was learned in one place meets agent 1 of what was learned in another."""

    rule: marlet.Algorithm

    def blank(self, learned: tuple[Any, Any], batch: int) -> Any:
        return tuple(self.rule.blank(each, batch) for each in learned)

    def act(
        self, learned: tuple[Any, Any], memory: Any, step: Step, *, key: Key, greedy: bool = False
    ) -> tuple[Any, Float[Array, "B n a"], dict]:
        both = [
            self.rule.act(each, own, step, key=key, greedy=greedy) for each, own in zip(learned, memory, strict=True)
        ]
        action = jnp.stack([said[1][:, i] for i, said in enumerate(both)], axis=1)
        return tuple(said[0] for said in both), action, {}


def compared(
    rule: marlet.Algorithm, learned: Any, kind: Any
) -> tuple[Float[np.ndarray, " seeds"], Float[np.ndarray, " seeds"]]:
    """The merit of what was learned, and its edge over the `kind`, from both places; each seed meets its like."""
    together, against = marlet.Reach(contested=True), marlet.Reach(contested=True, competition=1.0)

    @jax.jit
    @jax.vmap
    def play(learned, kind, key):
        merit = play_episodes(together, rule, learned, EPISODES, key=key).score.mean()
        earned = lambda *pair: play_episodes(against, Meeting(rule), pair, EPISODES, key=key).score[:, 0].mean()  # noqa: E731
        return merit, (earned(learned, kind) - earned(kind, learned)) / 2

    seeds = len(jax.tree.leaves(learned)[0])
    merit, edge = play(learned, kind, jax.random.split(jax.random.key(0), seeds))
    return np.asarray(merit), np.asarray(edge)


def main() -> None:
    given = options(__doc__, steps=1e5, seeds=3).parse_args()
    rows, merits, edges = [], {}, {}
    for learner in LEARNERS:
        rule, found, kind = getattr(marlet, learner)(), [], None
        for competition in DIAL:
            env = marlet.Reach(contested=True, competition=competition)
            training, _ = trained(env, rule, steps=given.steps, seeds=given.seeds)
            own, learned = training.evaluate(EPISODES).score.mean(1), training.snapshot().learned
            kind = learned if kind is None else kind
            found.append(compared(rule, learned, kind))
            each = {f"return of agent {i}": told(own[:, i]) for i in range(own.shape[1])}
            rows.append({"learner": learner, "competition": f"{competition:g}", **each})
            rows[-1] |= {"merit": told(found[-1][0]), "edge": told(found[-1][1])}
        merits[learner], edges[learner] = ((DIAL, np.array(values)) for values in zip(*found, strict=True))
    report("motives", rows, given.page)
    draw(given.picture, {("competition", "merit"): merits, ("competition", "edge over those who learned at 0"): edges})


if __name__ == "__main__":
    main()
