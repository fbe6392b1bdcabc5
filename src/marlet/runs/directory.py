"""A run's directory: plain files that other programs read without Marlet.

options.json     everything that was decided before the first step, and the versions it ran under
metrics.csv      a row for each evaluation and seed, only ever appended to (`pandas.read_csv`)
checkpoints/     the latest two, see `marlet.runs.checkpoint`
tables/          of tabular learners: the first seed's action values at each evaluation (`numpy.load`)
curves.png       the learning curve with its interval over seeds
events/          for TensorBoard, where asked for
"""

import csv
import fcntl
import hashlib
import io
import json
import os
import platform
import re
import secrets
import socket
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from marlet import keys
from marlet.errors import CheckpointFault, MarletError, StorageFault

FORMAT = 1
"""Of options.json."""
NAME = re.compile(r"[A-Za-z0-9._-]{1,128}")
DECIDED = ("algorithm", "env", "train", "spec")
"""What options.json says of a run: each an object."""
RECORDED = ("marlet", "jax", "jaxlib", "numpy", "equinox", "optax", "safetensors", "pettingzoo")


class Run:
    """A run on disk: what was decided, what was measured, and where its checkpoints are."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        try:
            self.options: dict[str, Any] = json.loads((self.path / "options.json").read_text())
            if not isinstance(self.options, dict):
                raise ValueError("it holds no object")
            if self.options.get("format") != FORMAT:
                raise ValueError(f"it is of format {self.options.get('format')}, but this Marlet reads format {FORMAT}")
            for name in DECIDED:
                if not isinstance(self.options.get(name), dict):
                    raise ValueError(f"it does not say the run's {name}")
        except (FileNotFoundError, NotADirectoryError) as cause:
            raise MarletError(
                f"{self.path} is not a run: it has no options.json. Give the directory that `marlet train` printed."
            ) from cause
        except (OSError, ValueError, KeyError, RecursionError) as cause:
            raise CheckpointFault(f"{self.path / 'options.json'} cannot be read: {cause}.") from cause

    @property
    def name(self) -> str:
        """The directory's own name."""
        return self.path.resolve().name

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.path / "checkpoints"

    def digests(self) -> dict[str, str]:
        """A hash of each part of what was decided, so that a change of it is seen."""
        text = {name: json.dumps(self.options[name], sort_keys=True) for name in DECIDED}
        return {name: hashlib.sha256(told.encode()).hexdigest() for name, told in text.items()}

    def metrics(self) -> dict[str, np.ndarray]:
        """The columns of metrics.csv, none before the first evaluation. A last line that was torn by a crash is left out.

        Raises:
            CheckpointFault: if it is damaged.
        """
        path = self.path / "metrics.csv"
        if not path.exists():
            return {}
        number = lambda text: float(text) if text else float("nan")  # noqa: E731
        try:
            lines = path.read_text().split("\n")[:-1]
            header, *rows = list(csv.reader(lines)) or [[]]
            rows = [row for row in rows if len(row) == len(header)]
            columns = {name: np.array([number(row[k]) for row in rows]) for k, name in enumerate(header)}
        except (ValueError, csv.Error) as cause:
            raise damaged(path) from cause
        if columns and not columns.keys() >= {"steps", "seed", "seconds", "return"}:
            raise damaged(path)
        return columns


def returns_in(columns: Iterable[str]) -> dict[str, str]:
    """Which columns of metrics.csv hold the returns that say how good a learner is, by the team they are of: `return_0`,
    `return_1`, ... where there are several teams, whose mean says nothing; otherwise `return`, of the team ""."""
    teams = {name.removeprefix("return_"): name for name in columns if re.fullmatch(r"return_\d+", name)}
    return teams or {"": "return"}


def damaged(path: Path) -> CheckpointFault:
    """What is said of a metrics.csv that is not as it was written."""
    return CheckpointFault(
        f"{path} is damaged. Put it back from a copy; or move it away and say: marlet train --resume {path.parent}, which goes "
        "on without its rows."
    )


class MetricsFile:
    """Appends rows to metrics.csv; the first row decides the columns."""

    def __init__(self, path: Path):
        self._path = path
        self._columns: list[str] | None = None
        if path.exists() and path.stat().st_size:
            try:
                with open(path, newline="") as file:
                    self._columns = next(csv.reader(file))
            except (ValueError, csv.Error) as cause:
                raise damaged(path) from cause

    def append(self, rows: list[dict[str, float]]) -> None:
        """Write rows and flush them to the disk. What is not a number becomes an empty cell.

        Raises:
            StorageFault: if the disk is full or may not be written.
        """
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        if self._columns is None:
            self._columns = list(rows[0])
            writer.writerow(self._columns)
        for row in rows:
            writer.writerow([_cell(row[name]) for name in self._columns])
        with written(self._path), open(self._path, "a", newline="") as file:
            file.write(text.getvalue())
            file.flush()
            os.fsync(file.fileno())

    @property
    def length(self) -> int:
        """Bytes written so far."""
        return self._path.stat().st_size if self._path.exists() else 0

    def cut(self, length: int) -> None:
        """Forget the rows after this many bytes: they will be made again."""
        if self._path.exists():
            os.truncate(self._path, min(length, self.length))
        if not length:
            self._columns = None


def _cell(value: float) -> str:
    """Nine digits; of whole numbers, such as steps and seeds, all of them."""
    if np.isnan(value):
        return ""
    return str(int(value)) if abs(value) < 2**53 and value == int(value) else f"{value:.9g}"


@contextmanager
def written(path: Path) -> Iterator[None]:
    """Tells in one sentence why a run's file could not be written."""
    try:
        yield
    except OSError as cause:
        raise StorageFault(
            f"Could not write {path}: {cause.strerror}. Checkpoints are untouched; free some space and go on with "
            "--resume."
        ) from cause


class Lock:
    """Keeps a second process out of a run. The kernel releases it however the first one ends."""

    def __init__(self, path: Path):
        try:
            self._file = open(path / "lock", "a+")  # noqa: SIM115
        except OSError as cause:
            raise StorageFault(f"Cannot write to {path}: {cause.strerror}.") from cause
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as cause:
            self._file.seek(0)
            holder = self._file.read().strip() or "another process"
            self._file.close()
            raise MarletError(f"{path} is being trained by {holder}. Wait for it or stop it first.") from cause
        self._file.truncate(0)
        self._file.write(f"process {os.getpid()} on {socket.gethostname()}")
        self._file.flush()

    def __enter__(self) -> "Lock":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def create(out: str | Path, name: str | None, stem: str, options: dict[str, Any]) -> Run:
    """Make a run's directory and write its options.

    Raises:
        MarletError: if the name is taken or has characters that do not belong in a file's name.
        StorageFault: if the directory cannot be written.
    """
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", stem)
    name = name or f"{stem}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    if not (isinstance(name, str) and NAME.fullmatch(name)):
        raise MarletError(
            f"A run cannot be named {name!r}: use up to 128 letters, digits, dots, dashes and underscores."
        )
    path = Path(out) / name
    try:
        path.mkdir(parents=True)
        (path / "checkpoints").mkdir()
        text = json.dumps({"format": FORMAT, **options, **_circumstances()}, indent=1) + "\n"
        (path / "options.json.tmp").write_text(text)
        os.replace(path / "options.json.tmp", path / "options.json")
    except FileExistsError as cause:
        if any((path / "checkpoints").glob("*")):
            cure = f"Go on with it by --resume {path}, or choose another --name."
        else:
            cure = "It has no checkpoint to go on from: choose another --name, or remove it."
        raise MarletError(f"{path} exists already. {cure}") from cause
    except OSError as cause:
        raise StorageFault(f"Cannot write to {path}: {cause.strerror}. Choose another --out.") from cause
    return Run(path)


def _circumstances() -> dict[str, Any]:
    """What the run ran under, so that a difference can be explained later."""
    import jax

    return {
        "versions": {"python": platform.python_version()} | {name: version(name) for name in RECORDED},
        "machine": {
            "processor": platform.machine(),
            "devices": [str(device.device_kind) for device in jax.devices()],
            "random_numbers": f"marlet.keys, {keys.NAME}",
            "xla_flags": os.environ.get("XLA_FLAGS", ""),
        },
        "command": sys.argv,
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
