"""Ctrl-C and SIGTERM while a run goes on: it stops where it can be saved."""

import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


class Signals:
    """Turns Ctrl-C and SIGTERM into a wish that is granted at the next chunk; a second one is granted at once."""

    def __init__(self, live: bool):
        """`live`: somebody looks on, and is told that the first one was heard."""
        self._live = live

    def __enter__(self) -> "Signals":
        self.caught: int | None = None
        self._before = {}
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in EXIT_CODES}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.caught is not None:
            raise SystemExit(EXIT_CODES[signal.Signals(number)])
        self.caught = number
        if self._live:  # past the buffers, which may be in the middle of something
            os.write(2, b"\nStopping when this part is done and saved; Ctrl-C again stops at once, unsaved.\n")

    def leave(self, path: Path) -> None:
        """Stop, now that everything is saved."""
        said = f"Stopped; saved. Go on with: marlet train --resume {path}"
        if self.caught == signal.SIGTERM:
            print(said, file=sys.stderr)
            raise SystemExit(EXIT_CODES[signal.SIGTERM])
        raise KeyboardInterrupt(said)
