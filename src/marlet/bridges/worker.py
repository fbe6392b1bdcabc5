"""Steps some of the copies of a host environment, in a process of its own or in the caller's.

A worker is a fresh Python that was told names, never sent code. It shares one block of memory with its parent, the
`Board`, and is otherwise told single bytes: look at the board, reset, step. So a step costs two system calls a worker.
Nothing here imports JAX.
"""

import faulthandler
import json
import mmap
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from marlet.bridges.facts import Facts, Record, fields
from marlet.bridges.from_pettingzoo import Copy
from marlet.bridges.resolve import Factory
from marlet.errors import EnvironmentFault, MarletError

LOOK, RESET, STEP = b"l", b"r", b"s"
DONE, FAULT, HELLO = b".", b"!", b"="


@dataclass(frozen=True)
class Board:
    """The arrays that parent and workers share; each leads with `B`. A worker writes its own rows only."""

    next: Record
    """What the last action led to, before any reset."""
    opening: Record
    """The first step of the episode that is on, written by each reset."""
    action: np.ndarray
    busy: np.ndarray
    """Copies that the next command is for."""
    over: np.ndarray
    """Episodes that the last action ended; they have been opened anew."""
    episode: np.ndarray
    """Number of the episode that is on, from 0."""
    clock: np.ndarray
    """Steps taken in it."""
    seed: np.ndarray
    """The base seed, a single number."""
    at: np.ndarray
    """The copy each worker is at; -1 between commands."""


def board(facts: Facts, batch: int, workers: int, memory: memoryview | None = None) -> Board:
    """Lay the board out in `memory`, or in memory of its own."""
    if memory is None:
        memory = memoryview(bytearray(board_bytes(facts, batch, workers)))
    arrays, at = [], 0
    for shape, kind in _plan(facts, batch, workers):
        arrays.append(np.ndarray(shape, kind, memory, at))
        at += _rounded(arrays[-1].nbytes)
    names = list(fields(facts, batch))
    count = len(names)
    return Board(
        dict(zip(names, arrays[:count], strict=True)),
        dict(zip(names, arrays[count : 2 * count], strict=True)),
        *arrays[2 * count :],
    )


def board_bytes(facts: Facts, batch: int, workers: int) -> int:
    """Memory that a board takes."""
    plan = _plan(facts, batch, workers)
    return sum(_rounded(np.dtype(kind).itemsize * int(np.prod(shape))) for shape, kind in plan)


def _plan(facts: Facts, batch: int, workers: int) -> list[tuple[tuple[int, ...], Any]]:
    """Shape and kind of each array of a board, in its order."""
    n, a = len(facts.names), facts.num_actions
    record = fields(facts, batch).values()
    action = ((batch, n, a), np.float32) if facts.continuous else ((batch, n), np.int32)
    copies = [((batch,), kind) for kind in (np.bool_, np.bool_, np.int64, np.int64)]
    return [*record, *record, action, *copies, ((1,), np.int64), ((workers,), np.int64)]


def _rounded(length: int) -> int:
    """Whole cache lines, so that no two arrays share one."""
    return -(-length // 64) * 64


def episode_seed(seed: int, copy: int, episode: int) -> int:
    """The seed of one episode of one copy: always the same, hardly ever shared, below 2**31."""
    return int(np.random.SeedSequence((seed, copy, episode)).generate_state(1)[0] & 0x7FFFFFFF)


class Group:
    """The copies that one process steps, one after the other."""

    def __init__(self, make: Callable[[], Any], indices: Sequence[int], own_state: bool, worker: int = 0):
        """Build the copies.

        Raises:
            MarletError: where they cannot be played.
            EnvironmentFault: where the environment itself fails, or two copies differ.
        """
        try:
            self.copies = [Copy(make, index, own_state) for index in indices]
        except MarletError:
            raise
        except Exception as error:
            raise EnvironmentFault(
                f"The environment could not be built: {type(error).__name__}: {error}\n\n{traceback.format_exc()}"
            ) from error
        self.worker = worker
        self.doing = "reset"
        self.facts = self.copies[0].facts
        for copy in self.copies:
            if copy.facts != self.facts:
                raise EnvironmentFault(
                    f"Environment copies {self.copies[0].index} and {copy.index} differ in what they declare: "
                    f"{self.facts} and {copy.facts}."
                )

    def look(self, board: Board) -> None:
        """Take hold of the arrays; row views are made once."""
        self.board = board
        self.rows = [
            (
                copy,
                {name: array[copy.index, ...] for name, array in board.next.items()},
                {name: array[copy.index, ...] for name, array in board.opening.items()},
            )
            for copy in self.copies
        ]

    def reset(self) -> None:
        """Open the episode that the board names in every busy copy."""
        with self._told():
            for copy, _, opening in self.rows:
                if self.board.busy[copy.index]:
                    self._open(copy, opening)
        self.board.at[self.worker] = -1

    def step(self) -> None:
        """Take the board's actions in every busy copy, and open the next episode where one ended."""
        board = self.board
        busy = board.busy.tolist()
        with self._told():
            for copy, next, opening in self.rows:
                b = copy.index
                if not busy[b]:
                    continue
                board.at[self.worker] = b
                self.doing = "step"
                over = copy.step(board.action[b], next)
                board.clock[b] = copy.clock
                board.over[b] = over
                if over:
                    board.episode[b] += 1
                    self._open(copy, opening)
        board.at[self.worker] = -1

    def close(self) -> None:
        """Let the environments release what they hold."""
        for copy in self.copies:
            copy.close()

    def _open(self, copy: Copy, opening: Record) -> None:
        board, b = self.board, copy.index
        board.at[self.worker] = b
        self.doing = "reset"
        board.clock[b] = 0
        copy.reset(episode_seed(int(board.seed[0]), b, int(board.episode[b])), opening)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """What goes wrong in the user's code is told with everything needed to see it again."""
        try:
            yield
        except EnvironmentFault:
            raise
        except (Exception, SystemExit) as error:
            copy = int(self.board.at[self.worker])
            raise EnvironmentFault(
                f"Environment copy {copy} raised {type(error).__name__}: {error}\n"
                f"  while: {self.doing}, {where_it_was(self.board, copy)}\n\n{traceback.format_exc()}"
            ) from error


def where_it_was(board: Board, copy: int) -> str:
    """Seed, episode, step and last actions of a copy, for messages."""
    seed = episode_seed(int(board.seed[0]), copy, int(board.episode[copy]))
    return (
        f"seed {seed}, episode {board.episode[copy]}, after {board.clock[copy]} steps; "
        f"last actions {board.action[copy].tolist()}"
    )


def describe(error: BaseException) -> bytes:
    """An error as one line of text for the parent."""
    if isinstance(error, MarletError):
        said = {"text": str(error), "code": error.exit_code}
    else:
        said = {"text": f"A worker failed: {error!r}\n\n{traceback.format_exc()}", "code": EnvironmentFault.exit_code}
    return json.dumps(said).encode() + b"\n"


def main(order: dict[str, Any]) -> None:
    """A worker's life: build the copies, say what they are, then obey bytes until the parent is gone."""
    notes = os.fdopen(order["notes"], "w")
    faulthandler.enable(notes)
    faulthandler.register(signal.SIGUSR1, notes, all_threads=False)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    if sys.platform == "linux" and os.sched_getscheduler(0) == os.SCHED_OTHER:
        # Woken, a worker then waits for a free core instead of taking the parent's before all others are woken.
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    wire = order["wire"]
    try:
        group = Group(Factory(**order["factory"]), order["indices"], order["own_state"], order["worker"])
        _send(wire, HELLO + json.dumps(asdict(group.facts)).encode() + b"\n")
        while command := os.read(wire, 1):
            if command == LOOK:
                memory = memoryview(mmap.mmap(order["memory"], 0))
                group.look(board(group.facts, order["batch"], order["workers"], memory))
            elif command == RESET:
                group.reset()
            else:
                group.step()
            os.write(wire, DONE)
        group.close()
    except BaseException as error:
        _send(wire, FAULT + describe(error))
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _end_group(signal.SIGTERM)


def _send(wire: int, message: bytes) -> None:
    while message:
        message = message[os.write(wire, message) :]


def _leave_with_parent() -> None:
    """The standard input ends when the parent closes it or dies: leave then, even out of an endless step."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    while os.read(sys.stdin.fileno(), 1):
        pass
    time.sleep(1.0)
    _end_group(signal.SIGKILL)
    os._exit(0)


def _end_group(number: int) -> None:
    """Signal all that the environments started, and this worker, which leads their group."""
    if os.getpgrp() == os.getpid():
        os.killpg(0, number)
