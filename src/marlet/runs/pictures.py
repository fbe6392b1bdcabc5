"""Pictures of runs: learning curves with intervals over seeds, and learned tables over time.

Names and labels are data here too: they are drawn as they are written, and never read as a formula.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from marlet.equations.statistics import interval, median
from marlet.errors import MarletError, StorageFault
from marlet.runs.directory import Run
from marlet.runs.report import Curve, curves_of, labels, plain, tasks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8A6D3B")
"""Told apart by the colour-blind too (Okabe & Ito), in the order of the runs."""

SHOWN_CELLS = 60
"""Cells of a learned table that its picture shows: those that changed most."""


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
    """Draw the learning curves of `runs` into the PNG `out`, a panel for each environment and each of its teams.

    A line is the median over seeds of the greedy return per agent; the band around it is the 95 % bootstrap interval
    over seeds, left out where there is one seed.

    Raises:
        MarletError: if a run has no evaluations yet.
        StorageFault: if `out` cannot be written.
    """
    names, places = labels(runs), tasks(runs)
    panels: dict[tuple[str, str], list[tuple[int, Curve]]] = {}
    for k, run in enumerate(runs):
        for curve in curves_of(run):
            panels.setdefault((places[k], curve.team), []).append((k, curve))
    figure, axes = _figure(len(panels))
    for ((place, team), drawn), ax in zip(panels.items(), axes, strict=True):
        for k, curve in drawn:
            _draw(ax, curve, names[k], COLOURS[k % len(COLOURS)])
        _dress(ax, plain(f"{place}, team {team}" if team else place))
    _save(figure, out)
    return out


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
