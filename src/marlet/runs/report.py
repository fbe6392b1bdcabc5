"""What runs look like side by side: curves with intervals over seeds, a table, and learned tables over time.

Names and labels are data: whatever a run, an environment or an option is called, it is drawn and printed as it is
written and never read as a formula, markup, a spreadsheet's formula or a terminal's command.
"""

import csv
import io
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from marlet.equations.statistics import improvement_interval, interval, median, probability_of_improvement
from marlet.errors import MarletError, StorageFault
from marlet.runs.directory import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8A6D3B")
"""Told apart by the colour-blind too (Okabe & Ito), in the order of the runs."""

SHOWN_CELLS = 60
"""Cells of a learned table that its picture shows: those that changed most."""


class Curve:
    """The greedy return of each seed at each evaluation that all seeds have reached."""

    def __init__(self, run: Run):
        metrics = run.metrics()
        if not metrics or not metrics["steps"].size:
            raise MarletError(f"{run.path} has no evaluations yet: nothing to draw.")
        seeds = np.unique(metrics["seed"])
        of_seed = [metrics["seed"] == seed for seed in seeds]
        shared = [steps for steps in np.unique(metrics["steps"]) if np.sum(metrics["steps"] == steps) == len(seeds)]
        self.steps = np.array(shared)
        at = [own & np.isin(metrics["steps"], self.steps) for own in of_seed]
        self.returns: Float[np.ndarray, "points seeds"] = np.stack([metrics["return"][own] for own in at], axis=-1)
        self.seconds = float(metrics["seconds"].max())

    @property
    def final(self) -> Float[np.ndarray, " seeds"]:
        """The returns at the last evaluation."""
        return self.returns[-1]


def ready(out: Path) -> None:
    """Draw a small picture to nowhere and write into `out`, so that neither can fail after hours of training.

    Raises:
        StorageFault: if `out` cannot be written.
        MarletError: if nothing can be drawn.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / ".marlet-probe"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as cause:
        raise StorageFault(f"Cannot write to {out}: {cause.strerror}. Choose another --out.") from cause
    try:
        figure, axes = _figure(1)
        axes[0].plot([0, 1])
        figure.savefig(io.BytesIO(), format="png", dpi=20)
    except Exception as cause:
        raise MarletError(
            f"matplotlib cannot draw here ({type(cause).__name__}: {cause}), so the run's curves could not be kept. "
            "Reinstall it: pip install --force-reinstall matplotlib"
        ) from cause


def curves(runs: Sequence[Run], out: Path) -> Path:
    """Draw the learning curves of `runs` into the PNG `out`, a panel for each environment.

    A line is the median over seeds of the greedy return per agent; the band around it is the 95 % bootstrap interval
    over seeds, left out where there is one seed.

    Raises:
        MarletError: if a run has no evaluations yet.
        StorageFault: if `out` cannot be written.
    """
    found = [Curve(run) for run in runs]
    names, places = labels(runs), tasks(runs)
    panels = list(dict.fromkeys(places))
    figure, axes = _figure(len(panels))
    for panel, ax in zip(panels, axes, strict=True):
        for k, curve in enumerate(found):
            if places[k] == panel:
                _draw(ax, curve, names[k], COLOURS[k % len(COLOURS)])
        _dress(ax, plain(panel))
    _save(figure, out)
    return out


def table(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """A row for each run: the final greedy return per agent (median over seeds, 95 % interval), steps, time and rate.

    Raises:
        MarletError: if a run has no evaluations yet.
    """
    rows = []
    for run, task in zip(runs, tasks(runs), strict=True):
        curve = Curve(run)
        low, high = interval(curve.final)
        steps, seeds = curve.steps[-1], curve.final.size
        rows.append(
            {
                "run": run.name,
                "algorithm": algorithm_of(run),
                "environment": task,
                "seeds": seeds,
                "return": float(median(curve.final)),
                "low": float(low),
                "high": float(high),
                "steps": int(steps),
                "seconds": round(curve.seconds, 1),
                "steps_per_second": round(steps * seeds / curve.seconds) if curve.seconds else float("nan"),
            }
        )
    return rows


def improvements(runs: Sequence[Run]) -> list[str]:
    """For each later run of the first one's environment: how probably a seed of it beats a seed of the first."""
    names, places = labels(runs), tasks(runs)
    ours = Curve(runs[0]).final
    told = []
    for run, name, place in list(zip(runs, names, places, strict=True))[1:]:
        theirs = Curve(run).final
        if place == places[0] and min(ours.size, theirs.size) > 1:
            chance = probability_of_improvement(theirs, ours)
            low, high = improvement_interval(theirs, ours)
            told.append(f"{plain(name)} beats {plain(names[0])} with probability {chance:.2f} [{low:.2f}, {high:.2f}]")
    return told


def as_text(rows: Sequence[dict[str, Any]]) -> str:
    """Rows in aligned columns, for a terminal."""
    cells = [list(rows[0]), *([shown(value) for value in row.values()] for row in rows)]
    widths = [max(len(line[k]) for line in cells) for k in range(len(cells[0]))]
    number = [isinstance(value, int | float) for value in rows[0].values()]
    aligned = [
        "  ".join(c.rjust(w) if n else c.ljust(w) for c, w, n in zip(line, widths, number, strict=True))
        for line in cells
    ]
    return "\n".join(line.rstrip() for line in aligned)


def as_markdown(rows: Sequence[dict[str, Any]]) -> str:
    """Rows as a Markdown table; marks that Markdown or HTML would read are escaped."""
    escaped = lambda text: re.sub(r"([\\`*_\[\]<>|&#$~])", r"\\\1", text)  # noqa: E731
    lines = [list(rows[0]), ["---:" if isinstance(v, int | float) else "---" for v in rows[0].values()]]
    lines += [[escaped(shown(v)) if isinstance(v, str) else shown(v) for v in row.values()] for row in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def as_csv(rows: Sequence[dict[str, Any]]) -> str:
    """Rows as CSV. Text that a spreadsheet would run as a formula gets an apostrophe in front."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(rows[0])
    for row in rows:
        writer.writerow([_tame(v) if isinstance(v, str) else "" if math.isnan(v) else v for v in row.values()])
    return text.getvalue()


def write_tables_png(run: Run) -> Path | None:
    """Draw how a tabular learner's values grew: one heat map a table, a row for each of the cells that changed most.

    Returns:
        The picture's path, or None where the run kept no tables.
    """
    files = sorted((run.path / "tables").glob("*.npy"))
    if len(files) < 2:
        return None
    steps = np.array([int(file.stem) for file in files])
    values = np.stack([np.load(file, allow_pickle=False) for file in files])  # points tables entries a
    shown_tables = values[:, :4]
    figure, axes = _figure(shown_tables.shape[1], height=6.0)
    for k, ax in enumerate(axes):
        over_time = shown_tables[:, k].reshape(len(files), -1).T  # cells points
        cells = np.sort(np.argsort(-np.ptp(over_time, axis=1), kind="stable")[:SHOWN_CELLS])
        image = ax.pcolormesh(_edges(steps), np.arange(len(cells) + 1), over_time[cells], cmap="viridis")
        actions = values.shape[-1]
        every = max(1, len(cells) // 20)
        ax.set_yticks(np.arange(0, len(cells), every) + 0.5)
        ax.set_yticklabels([f"{cell // actions}: {cell % actions}" for cell in cells[::every]], fontsize=7)
        ax.invert_yaxis()
        ax.set_xlabel("environment steps")
        ax.set_ylabel("observation: action")
        ax.set_title(f"table {k}", fontsize=10)
        ax.xaxis.set_major_formatter(_engineering())
        figure.colorbar(image, ax=ax, label="value")
    out = run.path / "tables.png"
    _save(figure, out)
    return out


# Names


def algorithm_of(run: Run) -> str:
    """What the run's algorithm is called."""
    record = run.options["algorithm"]
    return str(record.get("name") or record["type"])


def env_of(run: Run) -> str:
    """What the run's environment is called."""
    return str(run.options["env"]["type"])


def tasks(runs: Sequence[Run]) -> list[str]:
    """Each run's environment, with those options in which it differs from other runs of the same environment."""
    told = []
    for run in runs:
        own = run.options["env"]
        others = [other.options["env"] for other in runs if env_of(other) == env_of(run)]
        inside = own.get("options", own)
        differing = [name for name in inside if any(o.get("options", o).get(name) != inside[name] for o in others)]
        options = ", ".join(f"{name}={inside[name]}" for name in differing)
        told.append(f"{env_of(run)}({options})" if options else env_of(run))
    return told


def labels(runs: Sequence[Run]) -> list[str]:
    """The algorithm's name, with the run's own where two would be called the same in one environment."""
    marks = list(zip(map(algorithm_of, runs), tasks(runs), strict=True))
    return [
        f"{algorithm} ({run.name})" if marks.count((algorithm, task)) > 1 else algorithm
        for run, (algorithm, task) in zip(runs, marks, strict=True)
    ]


def plain(text: str) -> str:
    """Text without anything a terminal would obey: escape sequences and control characters are dropped."""
    without = re.sub(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?|.)?", "", text)
    return "".join(mark for mark in without if mark.isprintable())


def shown(value: Any) -> str:
    """A table's cell as a person reads it."""
    if isinstance(value, float):
        return "-" if math.isnan(value) else f"{value:,.2f}"
    return f"{value:,}" if isinstance(value, int) else plain(str(value))


def _tame(text: str) -> str:
    text = plain(text)
    return "'" + text if text[:1] in tuple("=+-@") else text


# Drawing


def _figure(panels: int, height: float = 4.2) -> tuple["Figure", list["Axes"]]:
    """A figure that no window and no screen is needed for."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(panels, 3)
    rows = -(-panels // columns)
    figure = Figure(figsize=(6.6 if columns == 1 else 5.0 * columns, height * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes[panels:]:
        ax.remove()
    return figure, list(axes[:panels])


def _draw(ax: "Axes", curve: Curve, label: str, colour: str) -> None:
    low, high = interval(curve.returns)
    (line,) = ax.plot(curve.steps, median(curve.returns), color=colour, linewidth=1.8)
    # A label that begins with an underscore would be left out of the legend: it is put there by hand.
    line.set_gid(f"{plain(label)} ({curve.final.size} seed{'s' if curve.final.size > 1 else ''})")
    if not np.isnan(low).all():
        ax.fill_between(curve.steps, low, high, color=colour, alpha=0.2, linewidth=0)


def _dress(ax: "Axes", title: str) -> None:
    ax.set_title(title, fontsize=10, parse_math=False, loc="left", wrap=True)
    ax.set_xlabel("environment steps")
    ax.set_ylabel("return per agent (greedy)")
    ax.xaxis.set_major_formatter(_engineering())
    ax.grid(color="#dddddd", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.margins(x=0.01)
    lines = ax.get_lines()
    legend = ax.legend(lines, [str(k) for k in range(len(lines))], frameon=False, fontsize=9)
    for text, line in zip(legend.get_texts(), lines, strict=True):
        text.set_parse_math(False)
        text.set_text(line.get_gid())


def _engineering() -> Any:
    from matplotlib.ticker import EngFormatter

    return EngFormatter(sep="")


def _edges(steps: np.ndarray) -> np.ndarray:
    """Borders half-way between the evaluations."""
    middle = (steps[1:] + steps[:-1]) / 2
    return np.concatenate([[steps[0]], middle, [steps[-1] + (steps[-1] - middle[-1])]])


def _save(figure: "Figure", out: Path) -> None:
    try:
        figure.savefig(out, dpi=150)
    except OSError as cause:
        raise StorageFault(f"Cannot write {out}: {cause.strerror or cause}.") from cause
