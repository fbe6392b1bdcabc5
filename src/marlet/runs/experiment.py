"""Trains and keeps a record: rows of metrics, checkpoints that resume bit for bit, a picture at the end."""

import contextlib
import dataclasses
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from marlet.algorithms.sides import frozen_in
from marlet.engine.devices import bytes_of
from marlet.engine.evaluate import Scores
from marlet.engine.train import Trainer
from marlet.errors import CheckpointFault, MarletError, StorageFault
from marlet.options import describe, whole
from marlet.runs import checkpoint
from marlet.runs.directory import Lock, MetricsFile, Run, create, damaged, written
from marlet.runs.progress import ProgressLine
from marlet.runs.signals import Signals

CHUNK_SECONDS, TURN_SECONDS = 1.0, 0.25
"""How long compiled programs may run before the host looks up, so that Ctrl-C is noticed within it: in all; or, where seeds
take many turns, each turn, for every one costs the host ten milliseconds."""
SAVING_SHARE = 0.1
"""Of a run's time, which saving may take at the most, the last checkpoint aside."""
TABLE_ENTRIES = 1_000_000
"""Tables with more entries than this are not kept over time."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a run was asked for, beside its environment and algorithm."""

    steps: int
    seeds: int
    seed: int
    evaluations: int
    episodes: int
    tensorboard: bool
    save_every: float = 30.0
    """Seconds between two checkpoints, and more where saving them would take over a tenth of the time; 0: as often as possible."""

    def __post_init__(self):
        for name, low in {"steps": 1, "seeds": 1, "seed": 0, "evaluations": 1, "episodes": 1}.items():
            object.__setattr__(self, name, whole(name, getattr(self, name), low))
        if not (isinstance(self.save_every, (int, float)) and self.save_every >= 0):
            raise MarletError(f"save_every is {self.save_every!r}, but must be at least 0 seconds.")
        if self.seed >= 2**31:
            raise MarletError(f"seed is {self.seed}, but must be a whole number from 0 to {2**31 - 1}.")


def train(
    training: Trainer,
    plan: Plan,
    *,
    env: dict[str, Any],
    out: str | Path = "runs",
    name: str | None = None,
    quiet: bool = False,
) -> Run:
    """Train from the beginning. `env` is the environment's record.

    Raises:
        MarletError: for a name that is taken, a full disk, an environment that breaks its contract, ...
        KeyboardInterrupt: after Ctrl-C, when the checkpoint is safe.
    """
    algorithm = training.algorithm
    label = algorithm.name or type(algorithm).__name__.lower()
    with contextlib.closing(training):
        _check_space(training, Path(out))
        run = create(
            out,
            name,
            f"{label}-{env['type']}".lower(),
            {
                "algorithm": describe(algorithm),
                "env": env,
                "train": dataclasses.asdict(plan),
                "spec": dataclasses.asdict(training.spec),
            },
        )
        with Lock(run.path):
            training.start()
            loop = _Loop(run, training, plan, seconds=0.0, row=-1, quiet=quiet)
            if frozen_in(training.algorithm):
                loop.save()  # they come from other runs: `resume` cannot make them again, as it can all else
            return loop.go()


def resume(run: Run, training: Trainer, plan: Plan, *, quiet: bool = False) -> Run:
    """Go on from the newest sound checkpoint, or from the beginning if there is none yet.

    Raises:
        MarletError: if options.json was changed since the checkpoint was saved.
        CheckpointFault: if metrics.csv or every checkpoint is damaged, or does not fit this algorithm and environment; or if
            there is none yet, and the run has frozen policies.
    """
    with contextlib.closing(training), Lock(run.path):
        metrics = MetricsFile(run.path / "metrics.csv")
        if checkpoint.saved(run.checkpoints):
            found, passed = checkpoint.newest(run.checkpoints)
            for sentence in passed:
                print(f"{sentence} Going on from {found.path.name}, saved earlier.", file=sys.stderr)
            _check_unchanged(run, found)
            if not found.notes.keys() >= {"metrics", "seconds", "row"}:
                raise CheckpointFault(f"{found.path} was not saved by a run: it does not say how far the metrics went.")
            training.restore(checkpoint.fit(found.arrays, training.saved_shapes, where=found.path))
            run.metrics()  # before anything is cut from it
            if 0 < metrics.length < found.notes["metrics"]:
                raise damaged(run.path / "metrics.csv")
            seconds, row = found.notes["seconds"], found.notes["row"]
            if found.notes["metrics"] and not metrics.length:
                print(f"{run.path} has lost its metrics.csv, which begins anew.", file=sys.stderr)
                row = -1
            metrics.cut(found.notes["metrics"])
        elif frozen_in(training.algorithm):
            raise CheckpointFault(
                f"{run.path} was stopped before its first checkpoint, which would have held its frozen policies. "
                "Begin it anew."
            )
        else:
            print(f"{run.path} has no checkpoint yet: it begins anew.", file=sys.stderr)
            training.start()
            metrics.cut(0)
            seconds, row = 0.0, -1
        return _Loop(run, training, plan, seconds=seconds, row=row, quiet=quiet).go()


class _Loop:
    """The host's side of a run: it decides when to look, never what is computed."""

    def __init__(self, run: Run, training: Trainer, plan: Plan, *, seconds: float, row: int, quiet: bool):
        self.run, self.training, self.plan = run, training, plan
        self.metrics = MetricsFile(run.path / "metrics.csv")
        self.total = -(-plan.steps // training.steps_per_iteration)
        marks = np.linspace(0, self.total, min(plan.evaluations, self.total) + 1)
        self.marks = sorted({round(mark) for mark in marks})
        self.begun = time.monotonic() - seconds
        self.saved, self.saving = time.monotonic(), 0.0
        """When the last checkpoint was written, and how many seconds it took."""
        done = training.iteration * training.steps_per_iteration
        self.line = ProgressLine(self.total * training.steps_per_iteration, done=done, quiet=quiet)
        self.events = _events(run.path) if plan.tensorboard else None
        self.chunk, self.chunk_seconds = 1, max(CHUNK_SECONDS, TURN_SECONDS * training.turns)
        self.failed_saves = 0
        self.row = row
        """Iteration of the last row in metrics.csv; -1 before the first."""

    def go(self) -> Run:
        """Train to the end; what is finished already is left as it is."""
        training = self.training
        finished = min(training.iteration, self.row) >= self.total
        with Signals(self.line.live) as signals, self.line:
            for mark in self.marks:
                while training.iteration < mark:
                    self._advance(min(self.chunk, mark - training.iteration))
                    if signals.caught:
                        self.save()
                        signals.leave(self.run.path)
                    if time.monotonic() - self.saved > self._pause():
                        self._try_save()
                if mark > self.row:
                    self._row()
            if not finished:
                self.save()
        if self.events:
            self.events.close()
        return self.run

    def _advance(self, iterations: int) -> None:
        begun = time.perf_counter()
        self.training.advance(iterations)
        took = time.perf_counter() - begun
        per_iteration = took / iterations
        self.chunk = max(1, min(2 * iterations, int(self.chunk_seconds / max(per_iteration, 1e-9))))
        self.line.moved(self.training.iteration * self.training.steps_per_iteration)

    def _row(self) -> None:
        """Evaluate, and append one row a seed."""
        training = self.training
        scores, means = training.evaluate(self.plan.episodes), training.collect()
        steps = training.iteration * training.steps_per_iteration
        rows = [
            {
                "steps": steps,
                "seed": float(training.seeds[s]),
                "seconds": round(time.monotonic() - self.begun, 3),
                **summary(jax.tree.map(lambda leaf, s=s: leaf[s], scores), training.spec.teams),
                **means[s],
            }
            for s in range(len(training.seeds))
        ]
        self.metrics.append(rows)
        self.row = training.iteration
        self._keep_table()
        self.line.update(int(rows[0]["steps"]), rows)
        if self.events:
            for row in rows:
                for name in (name for name in row.keys() - {"steps", "seed"} if not np.isnan(row[name])):
                    self.events.add_scalar(f"seed_{int(row['seed'])}/{name}", row[name], int(row["steps"]))

    def _keep_table(self) -> None:
        table = self.training.table()
        if table is not None and table.size <= TABLE_ENTRIES:
            folder = self.run.path / "tables"
            with written(folder):
                folder.mkdir(exist_ok=True)
                np.save(folder / f"{self.training.iteration * self.training.steps_per_iteration:012d}.npy", table)

    def _try_save(self) -> None:
        """Save, but let one failure pass: the disk may have room again at the next try."""
        try:
            self.save()
            self.failed_saves = 0
        except StorageFault:
            self.saved = time.monotonic()
            self.failed_saves += 1
            if self.failed_saves > 1:
                raise

    def _pause(self) -> float:
        """Seconds without saving after a checkpoint; none where none are wished."""
        asked = self.plan.save_every
        return max(asked, self.saving * (1 / SAVING_SHARE - 1)) if asked else 0.0

    def save(self) -> None:
        """Write a checkpoint."""
        begun = time.monotonic()
        notes = {
            "iteration": self.training.iteration,
            "metrics": self.metrics.length,
            "row": self.row,
            "seconds": time.monotonic() - self.begun,
            "options": self.run.digests(),
        }
        label = f"{self.training.iteration:010d}"
        checkpoint.write(self.run.checkpoints, label, self.training.snapshot(), notes)
        self.saved = time.monotonic()
        self.saving = self.saved - begun


def summary(scores: Scores, teams: tuple[int, ...]) -> dict[str, float]:
    """One seed's evaluation: the mean return of an agent, its standard error over episodes, length, share solved; where
    there are several teams, also the mean return of an agent of each."""
    mean = scores.score.mean(-1)
    apart = sorted(set(teams)) if len(set(teams)) > 1 else []
    return {
        "return": float(mean.mean()),
        "return_error": float(mean.std(ddof=1) / np.sqrt(len(mean))) if len(mean) > 1 else float("nan"),
        "length": float(scores.length.mean()),
        "solved": float(scores.solved.mean()),
        **{f"return_{team}": float(scores.score[:, np.array(teams) == team].mean()) for team in apart},
    }


def _check_unchanged(run: Run, found: checkpoint.Checkpoint) -> None:
    """Refuse to go on with other options than the checkpoint was saved with. Early checkpoints do not say theirs."""
    theirs = found.notes.get("options", {})
    changed = [name for name, digest in run.digests().items() if theirs.get(name, digest) != digest]
    if changed:
        raise MarletError(
            f"{run.path / 'options.json'} was changed since {found.path.name} was saved, in: {', '.join(changed)}. A run goes "
            "on as it was begun: put the file back, or begin a new run with other options."
        )


def _check_space(training: Trainer, out: Path) -> None:
    """Refuse to begin what could not be saved: two checkpoints and one being written."""
    needed = 3 * bytes_of(training.saved_shapes)
    place = out.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < needed:
        raise StorageFault(
            f"The checkpoints of this run need {needed:,} bytes, but {place} has {free:,} free. Free some space, choose "
            "another --out, fewer --seeds, or a smaller --capacity where there is a replay."
        )


def _events(path: Path) -> Any:
    try:
        from tensorboardX import SummaryWriter
    except ImportError as cause:
        raise MarletError("TensorBoard events need tensorboardX: pip install 'marlet[track]'.") from cause
    return SummaryWriter(str(path / "events"))
