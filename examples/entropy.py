"""What the entropy bonus does: final returns of policy gradients on a game in which settling early costs.

    python examples/entropy.py

Two agents are paid k when both choose k of 1 to 6, and nothing otherwise. Small batches and large steps make them settle on
what they met first. Prints, for four weights of the bonus, the median, lowest and highest greedy return of ten seeds.
"""

import argparse
import tempfile

import numpy as np

import marlet

PAYOFF = tuple(tuple(float(k + 1) if j == k else 0.0 for j in range(6)) for k in range(6))
WEIGHTS = {"none": (0.0, 0.0), "small": (0.1, 0.1), "large": (3.0, 3.0), "annealed": (3.0, 0.0)}


def main() -> None:
    reader = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    reader.add_argument("--steps", type=float, default=6e4)
    reader.add_argument("--seeds", type=int, default=10)
    given = reader.parse_args()
    print(f"{'entropy':<10}{'from':>6}{'to':>6}{'median':>9}{'lowest':>9}{'highest':>9}{'spread':>9}")
    for name, (start, end) in WEIGHTS.items():
        rule = marlet.mapg(
            sharing="own",
            envs=4,
            length=1,
            learning_rate=0.02,
            learning_rate_end=0.02,
            standardise=False,
            entropy=start,
            entropy_end=end,
            entropy_steps=int(0.8 * given.steps),
        )
        with tempfile.TemporaryDirectory() as folder:
            run = marlet.train(
                marlet.Matrix(payoff=PAYOFF),
                rule,
                steps=given.steps,
                seeds=given.seeds,
                out=folder,
                evaluations=1,
                episodes=64,
                quiet=True,
            )
            metrics = run.metrics()
            last = metrics["return"][metrics["steps"] == metrics["steps"].max()]
        print(
            f"{name:<10}{start:>6}{end:>6}{np.median(last):>9.2f}{last.min():>9.2f}{last.max():>9.2f}{last.std():>9.2f}"
        )


if __name__ == "__main__":
    main()
