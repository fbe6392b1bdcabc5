"""Worker processes that step host environments, and how their parent hears of everything that can go wrong.

Workers are fresh processes that import the environment by name (never forks: those deadlock under JAX's threads, and
never pickles). Each holds a share of the copies and one end of a socket; observations and actions lie in memory that
all share. The parent keeps no end of a worker's socket but its own, so that a worker's death is heard at once.
"""

import json
import mmap
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import IO, Any, BinaryIO

import numpy as np

from marlet.bridges.facts import Facts
from marlet.bridges.resolve import Factory
from marlet.bridges.worker import DONE, FAULT, LOOK, STEP, Board, board, board_bytes, where_it_was
from marlet.errors import EnvironmentFault, MarletError

BEGIN = (
    "import json, sys, signal; signal.signal(signal.SIGINT, signal.SIG_IGN); order = json.loads(sys.argv[1]); "
    "sys.path[:] = order['path']; from marlet.bridges.worker import main; main(order)"
)
"""What a worker runs. It takes over the parent's module path, and never imports the parent's main module."""

ALONE = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "JAX_PLATFORMS": "cpu"}
"""Workers share the cores among themselves and leave accelerators to the parent."""

START_SECONDS = 120.0
"""Patience with imports and the building of one copy of the environment."""


@dataclass(frozen=True)
class Worker:
    """What the parent holds of one worker."""

    process: subprocess.Popen
    wire: socket.socket
    lifeline: IO[bytes]
    """The worker's standard input; it leaves when that ends."""
    notes: BinaryIO
    """Where the worker's interpreter writes its stack when it crashes or is asked to."""
    indices: list[int]


class Crew:
    """The worker processes of one `HostEnv`, and the memory they share."""

    def __init__(self, factory: Factory, copies: int, count: int, own_state: bool):
        shared = _shared_memory()
        self.share = -(-copies // count)
        """Copies that a worker holds, at the most."""
        order = {"factory": asdict(factory), "batch": copies, "workers": count, "own_state": own_state}
        self.workers: list[Worker] = []
        self.poller = select.poll()
        self._laid: Board | None = None
        self._finalizer = weakref.finalize(self, _end, self.workers)
        try:
            for w, indices in enumerate(np.array_split(np.arange(copies), count)):
                self.workers.append(_hire(order, w, indices.tolist(), shared))
                self.poller.register(self.workers[-1].wire, select.POLLIN)
            self.by_wire = {worker.wire.fileno(): w for w, worker in enumerate(self.workers)}
            heard = [Facts(**_tupled(answer)) for answer in self._hear("being built", START_SECONDS * self.share)]
            self.facts = heard[0]
            for w, facts in enumerate(heard):
                if facts != self.facts:
                    raise EnvironmentFault(f"Workers 0 and {w} built different environments: {self.facts} and {facts}.")
            shared.truncate(board_bytes(self.facts, copies, count))
            self.board = self._laid = board(self.facts, copies, count, memoryview(mmap.mmap(shared.fileno(), 0)))
            self.tell(LOOK, START_SECONDS * self.share)
        except BaseException:
            self.close(kill=True)
            raise
        finally:
            shared.close()

    def tell(self, command: bytes, timeout: float) -> None:
        """Send `command` to every worker and wait until all are done."""
        if not self.workers:
            raise MarletError("This environment has been closed.")
        try:
            for w, worker in enumerate(self.workers):
                try:
                    worker.wire.send(command)
                except OSError:
                    raise self._died(w) from None
            self._hear("stepping" if command == STEP else "resetting", timeout)
        except BaseException:
            # A fault, or an interruption between question and answers: these workers can no longer be talked to.
            self.close(kill=True)
            raise

    def close(self, kill: bool = False) -> None:
        """End the workers: politely, unless `kill`."""
        for worker in self.workers:
            self.poller.unregister(worker.wire)
        _end(self.workers, kill)

    def _hear(self, doing: str, timeout: float) -> list[Any]:
        """The answers of all workers, in their order."""
        answers: list[Any] = [None] * len(self.workers)
        waiting = set(range(len(self.workers)))
        deadline = time.monotonic() + timeout
        while waiting:
            ready = self.poller.poll(1000)
            for wire, _ in ready:
                w = self.by_wire[wire]
                try:
                    kind = self.workers[w].wire.recv(1)
                except OSError:
                    kind = b""
                if not kind:
                    raise self._died(w)
                if kind != DONE:
                    answers[w] = self._read_line(w)
                if kind == FAULT:
                    raise (EnvironmentFault if answers[w]["code"] == 3 else MarletError)(answers[w]["text"])
                waiting.discard(w)
            if not ready:
                # A process started by the environment may hold the socket open after its worker's death.
                dead = [w for w in waiting if self.workers[w].process.poll() is not None]
                if dead:
                    raise self._died(dead[0])
            if waiting and time.monotonic() > deadline:
                raise self._hung(min(waiting), doing, timeout)
        return answers

    def _read_line(self, w: int) -> Any:
        line = b""
        while not line.endswith(b"\n"):
            part = self.workers[w].wire.recv(65536)
            if not part:
                raise self._died(w)
            line += part
        return json.loads(line)

    def _died(self, w: int) -> EnvironmentFault:
        worker = self.workers[w]
        try:
            code = worker.process.wait(2.0)
        except subprocess.TimeoutExpired:
            how = "closed its connection"
        else:
            how = f"ended with exit code {code}"
            if code < 0:
                how = f"was killed by {signal.Signals(-code).name}"
                how += " (out of memory, or by a person)" if code == -signal.SIGKILL else ""
        return EnvironmentFault(f"{self._who(w)} {how}{self._where(w)}.{_noted(worker)}")

    def _hung(self, w: int, doing: str, timeout: float) -> EnvironmentFault:
        worker = self.workers[w]
        worker.process.send_signal(signal.SIGUSR1)
        time.sleep(0.5)
        return EnvironmentFault(
            f"{self._who(w)} has been {doing} for more than {timeout:g} seconds and was ended{self._where(w)}."
            f"{_noted(worker)}"
        )

    def _who(self, w: int) -> str:
        indices = self.workers[w].indices
        which = f"copy {indices[0]}" if len(indices) == 1 else f"copies {indices[0]} to {indices[-1]}"
        return f"Worker {w} of environment {which}"

    def _where(self, w: int) -> str:
        if self._laid is None or (copy := int(self._laid.at[w])) < 0:
            return ""
        return f", at copy {copy}, {where_it_was(self._laid, copy)}"


def _shared_memory() -> BinaryIO:
    """A file without a name: nothing is left behind, however the processes end."""
    if sys.platform == "linux":
        return os.fdopen(os.memfd_create("marlet"), "w+b")
    return tempfile.TemporaryFile()


def _hire(order: dict[str, Any], w: int, indices: list[int], shared: BinaryIO) -> Worker:
    """Start one worker. Only its own ends are passed on, and the parent's copies of those are closed."""
    ours, theirs = socket.socketpair()
    notes = tempfile.TemporaryFile()  # noqa: SIM115, closed with the worker
    passed = {"wire": theirs.fileno(), "memory": shared.fileno(), "notes": notes.fileno()}
    whole = {**order, **passed, "worker": w, "indices": indices, "path": sys.path}
    try:
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", BEGIN, json.dumps(whole)],
            stdin=subprocess.PIPE,
            pass_fds=tuple(passed.values()),
            start_new_session=True,
            env={**ALONE, "PYGAME_HIDE_SUPPORT_PROMPT": "1", **os.environ},
        )
    except BaseException:
        ours.close()
        notes.close()
        raise
    finally:
        theirs.close()
    assert process.stdin is not None
    return Worker(process, ours, process.stdin, notes, indices)


def _end(workers: list[Worker], kill: bool = False) -> None:
    """End workers and all that their environments started, and wait for them, so that nothing is left behind."""
    for worker in workers:
        if kill:
            _kill_group(worker)
        worker.wire.close()
        worker.lifeline.close()
    for worker in workers:
        with suppress(subprocess.TimeoutExpired):
            worker.process.wait(3.0)
        _kill_group(worker)
        worker.process.wait()
        worker.notes.close()
    workers.clear()


def _kill_group(worker: Worker) -> None:
    """End a worker, which leads a group of its own, and whoever else is in it."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(worker.process.pid, signal.SIGKILL)


def _noted(worker: Worker) -> str:
    """What the worker's interpreter wrote of its stack."""
    worker.notes.seek(0)
    text = worker.notes.read().decode(errors="replace").strip()
    return f"\n\n{text}" if text else ""


def _tupled(answer: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in answer.items()}
