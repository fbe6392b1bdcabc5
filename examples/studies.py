"""What the studies of this folder share: options, what a run came to, a table for a page, a picture.

The studies are `entropy.py`, `soccer.py`, `motives.py` and `crowd.py`; docs/studies.md tells what they found. Each prints its
table, draws `docs/images/NAME.png` if it is told to, and writes the table into the page it is told of:

    python examples/entropy.py --picture docs/images/entropy.png --page docs/studies.md
"""

import argparse
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from marlet.algorithms.base import Algorithm
from marlet.engine.devices import one_device_per_core
from marlet.engine.train import Training
from marlet.envs.base import Env
from marlet.equations.statistics import interval, median
from marlet.runs.directory import Run
from marlet.runs.pictures import COLOURS
from marlet.runs.report import as_markdown, as_text

Lines = Mapping[str, tuple[Sequence[float], Float[np.ndarray, "points seeds"]]]
"""By label: where the points stand, and each seed's number at each of them."""


def options(description: str, *, steps: float, seeds: int) -> argparse.ArgumentParser:
    """A reader of what every study may be told."""
    reader = argparse.ArgumentParser(description=description.partition("\n")[0])
    reader.add_argument("--steps", type=float, default=steps, help="environment steps of each learner")
    reader.add_argument("--seeds", type=int, default=seeds, help="learners of each kind")
    reader.add_argument("--picture", type=Path, help="draw it into this PNG")
    reader.add_argument("--page", type=Path, help="write the table into this page, between the marks of this study")
    return reader


def trained(env: Env, rule: Algorithm, *, steps: float, seeds: int) -> tuple[Training, float]:
    """A training that has come to its end, and its environment steps in a second of one core; compiling does not count, nor
    does what else the machine is doing."""
    one_device_per_core()
    training = Training(env, rule, seeds=seeds)
    training.start()
    training.advance(1)
    begun = time.process_time()
    iterations = max(1, round(steps / training.steps_per_iteration) - 1)
    training.advance(iterations)
    return training, iterations * training.steps_per_iteration * seeds / (time.process_time() - begun)


def at_the_end(run: Run, column: str = "return") -> Float[np.ndarray, " seeds"]:
    """A column of a run's metrics as each seed ended."""
    metrics = run.metrics()
    return metrics[column][metrics["steps"] == metrics["steps"].max()]


def over_time(
    run: Run, column: str = "return"
) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, "points seeds"]]:
    """The steps of a run's evaluations, and a column there."""
    metrics = run.metrics()
    steps = np.unique(metrics["steps"])
    return steps, np.stack([metrics[column][metrics["steps"] == at] for at in steps])


def told(values: Float[np.ndarray, " seeds"], digits: int = 2) -> str:
    """The median over seeds and its 95 % interval, as text; of one number, that number."""
    low, high = interval(values)
    middle = f"{median(values):z.{digits}f}"
    return middle if values.size == 1 else f"{middle} [{low:z.{digits}f}, {high:z.{digits}f}]"


def report(name: str, rows: Sequence[dict[str, Any]], page: Path | None) -> None:
    """Print the table; write it between the marks `<!-- measured: NAME -->` and `<!-- end -->` of a page, if there is one."""
    print(as_text(rows), flush=True)
    if page:
        marked = re.compile(rf"(<!-- measured: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        page.write_text(
            marked.sub(lambda found: found[1] + as_markdown(rows) + found[2], page.read_text("utf-8")), "utf-8"
        )


def draw(path: Path | None, panels: Mapping[tuple[str, str], Lines], *, log: bool = False) -> None:
    """A panel for each pair of axis labels: medians over seeds as lines, 95 % intervals as bands."""
    if path is None:
        return
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    labels = dict.fromkeys(label for lines in panels.values() for label in lines)
    colours = dict(zip(labels, COLOURS, strict=False))
    figure = Figure(figsize=(5.0 * len(panels), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    for ax, ((across, up), lines) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
        for label, (places, values) in lines.items():
            ax.plot(places, median(values), label=label, color=colours[label], marker="o", markersize=3)
            ax.fill_between(places, *interval(values), color=colours[label], alpha=0.2, linewidth=0)
        ax.set(xlabel=across, ylabel=up, xscale="log" if log else "linear")
        ax.legend(frameon=False, fontsize=8)
        ax.grid(color="#dddddd", linewidth=0.6)
        ax.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=80)
