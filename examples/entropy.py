"""What the weight of the entropy does: none, a little, much, and much that falls to none.

    python examples/entropy.py

Two agents climb by policy gradients in the climbing game, whose best joint action (11) is next to the worst (-30). Against a
partner that still tries everything a third action is the safest and pays 5; from there the way up leads to 6 and 7, but only
for agents that have kept on trying. Rewards while learning are those of the policies as they draw; greedy ones take each
agent's likeliest action.
"""

import tempfile

import numpy as np
from studies import at_the_end, draw, options, over_time, report, told

import marlet
from marlet.runs.directory import Run

STEPS, SEEDS = 50_000, 10
WEIGHTS = {"0": (0.0, 0.0), ".1": (0.1, 0.1), ".3": (0.3, 0.3), "2": (2.0, 2.0), "2, falling to 0": (2.0, 0.0)}
"""At the beginning, and from eight tenths of the steps on."""


def trained(weight: str, out: str, *, steps: float = STEPS, seeds: int = SEEDS) -> Run:
    """A run of agents that differ from the others' by that weight alone."""
    start, end = WEIGHTS[weight]
    rate = {"learning_rate": 0.015, "learning_rate_end": 0.015}
    entropy = {"entropy": start, "entropy_end": end, "entropy_steps": int(0.8 * steps)}
    rule = marlet.mapg(envs=64, length=1, **rate, **entropy)
    return marlet.train("matrix", rule, steps=steps, seeds=seeds, evaluations=20, episodes=8, out=out, quiet=True)


def main() -> None:
    given = options(__doc__, steps=STEPS, seeds=SEEDS).parse_args()
    rows, lines = [], {}
    for weight in WEIGHTS:
        with tempfile.TemporaryDirectory() as out:
            run = trained(weight, out, steps=given.steps, seeds=given.seeds)
            greedy, drawn, entropy = (at_the_end(run, name) for name in ("return", "train_return", "entropy"))
            lines[weight] = over_time(run, "train_return")
        rows.append(
            {
                "weight": weight,
                "greedy return": told(greedy),
                "of all seeds": f"{greedy.min():g} to {greedy.max():g}",
                "settled for 5 or less": f"{np.mean(greedy < 5.5):.0%}",
                "return while learning": told(drawn),
                "entropy": told(entropy),
            }
        )
    report("entropy", rows, given.page)
    draw(given.picture, {("environment steps", "return while learning"): lines})


if __name__ == "__main__":
    main()
