"""QMIX, VDN and IQL learn cooperative navigation; they are compared, and the best plays in PettingZoo's own environment.

    make demo                                       runs this with the numbers below
    python examples/demo.py --steps 20000           shorter, to see how it goes

Everything is kept in a folder below runs/: one run for each algorithm and comparison/ with the curves and the table.
"""

import argparse
import shutil
import threading
import time
from pathlib import Path

import marlet
from marlet.engine.devices import one_device_per_core
from marlet.runs.directory import Run
from marlet.runs.report import as_text, improvements

ALGORITHMS = ("qmix", "vdn", "iql")
SEEDS = 4
STEPS = 400_000
"""Environment steps of each seed."""
EVALUATIONS = 20
EPISODES = 512
"""Played at the end in each of the two environments."""
THEIRS = "pettingzoo:mpe2.simple_spread_v3"
RANDOM, IDLE, SCRIPTED = -26.4, -24.0, -7.5
"""Return per agent and episode of random play, of doing nothing, and of a scripted assignment of landmarks."""
TELL_SECONDS = 10.0


def main() -> None:
    """Train, compare, cross over."""
    given = arguments()
    begun = time.monotonic()
    one_device_per_core()  # so that each seed has a core of its own
    home = Path(given.out) / f"demo-{time.strftime('%Y%m%d-%H%M%S')}"

    runs = []
    for k, name in enumerate(ALGORITHMS, start=1):
        print(f"[{k}/{len(ALGORITHMS)}] {name} on spread: {given.seeds} seeds, {given.steps:,} steps each", flush=True)
        with Teller(home / name, given.steps):
            runs.append(
                marlet.train(
                    "spread",
                    name,
                    options={"learning_rate_steps": given.steps},
                    steps=given.steps,
                    seeds=given.seeds,
                    evaluations=EVALUATIONS,
                    out=home,
                    name=name,
                )
            )

    rows = marlet.compare([run.path for run in runs], out=home / "comparison")
    picture = home / "comparison" / "curves.png"
    print("\nGreedy return per agent and episode: median over seeds and its 95 % interval")
    print(as_text(rows))
    print("\n".join(improvements(runs)))
    print(f"For scale: random play {RANDOM}, doing nothing {IDLE}, a scripted assignment {SCRIPTED}.")
    print(f"Curves: {picture}")
    if given.picture:
        shutil.copyfile(picture, given.picture)

    best = max(runs, key=final)
    print(
        f"\nThe best policy, {best.name}, in Marlet's spread and in mpe2's simple_spread_v3, {EPISODES} episodes each"
    )
    print(as_text(side_by_side(best)))
    print(f"\n{time.monotonic() - begun:.0f} seconds. Watch it: marlet watch {best.path}")


def arguments() -> argparse.Namespace:
    """The numbers above, unless others are given."""
    parser = argparse.ArgumentParser(description="Train QMIX, VDN and IQL on spread, compare them, play in mpe2.")
    parser.add_argument("--steps", type=lambda text: int(float(text)), default=STEPS, help="steps of each seed")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="learners of each algorithm")
    parser.add_argument("--out", default="runs", help="where the demo's folder is made")
    parser.add_argument("--picture", type=Path, help="also copy the curves to this file")
    return parser.parse_args()


def final(run: Run) -> float:
    """The median seed's last evaluation."""
    return marlet.compare([run.path])[0]["return"]


def side_by_side(run: Run) -> list[dict]:
    """The same policy's return in both environments, with 95 % intervals over episodes."""
    rows = []
    for name, env in (("marlet spread", None), ("mpe2 simple_spread_v3", THEIRS)):
        mean = marlet.evaluate(run.path, env, episodes=EPISODES).rows()[-1]
        rows.append({"environment": name, "return": mean["return"], "low": mean["low"], "high": mean["high"]})
    return rows


class Teller:
    """Tells every few seconds how far a run is, also where there is no terminal for a live line."""

    def __init__(self, path: Path, total: int):
        self.path, self.total = path, total
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        told = 0
        while not self._done.wait(TELL_SECONDS):
            if not (self.path / "metrics.csv").exists():
                continue
            metrics = Run(self.path).metrics()
            steps = metrics["steps"].max() if metrics else 0
            if steps > told:
                told = steps
                now = metrics["return"][metrics["steps"] == steps].mean()
                print(f"      {steps / self.total:4.0%}   return {now:6.1f}", flush=True)


if __name__ == "__main__":
    main()
