"""A run of `marlet train` watched from outside: when its rows appear in metrics.csv, by the clock from the process's start."""

import csv
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from measure import marlet

POLL = 0.02
"""Seconds between two looks at metrics.csv."""

Seen = dict[str, float]
"""A row of metrics.csv (empty cells left out), with `clock`: seconds from the process's start to when it was seen."""


def watched(
    words: list[str],
    *,
    environment: Mapping[str, str],
    seconds: float,
    enough: Callable[[Seen], bool] = lambda row: False,
) -> list[Seen]:
    """The rows of `marlet train WORDS`, until it ends, until the time is over, or until a row is enough.

    Raises:
        RuntimeError: if the run fails.
    """
    rows: list[Seen] = []
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        command = marlet("train", *words, "--quiet", "--out", folder, "--name", "run")
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=dict(environment)) as process:
            ended = False
            while not ended and time.perf_counter() - begun < seconds:
                ended = process.poll() is not None  # asked before reading: the last rows are not missed
                for row in list(rows_of(Path(folder) / "run" / "metrics.csv"))[len(rows) :]:
                    rows.append({**row, "clock": time.perf_counter() - begun})
                if any(map(enough, rows)):
                    break
                time.sleep(POLL)
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.wait()
            elif process.returncode:
                raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}.")
    return rows


def rows_of(path: Path) -> Iterator[Seen]:
    """The whole rows of a metrics file so far."""
    if path.exists():
        lines = path.read_text().split("\n")[:-1]
        for row in csv.DictReader(lines):
            yield {name: float(value) for name, value in row.items() if value}
