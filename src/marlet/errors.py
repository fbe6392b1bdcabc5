"""What a person is told when something cannot be done: one clear sentence and an exit code."""

import re
from collections.abc import Iterable
from difflib import get_close_matches


class MarletError(Exception):
    """What was given, what was expected, and the cure; shown without a traceback on the command line."""

    exit_code = 2


class EnvironmentFault(MarletError):
    """An environment broke its contract: wrong shapes, not-a-number, no legal action, a worker that died."""

    exit_code = 3


class NonFinite(MarletError):
    """Training produced a number that is not finite."""

    exit_code = 4


class CheckpointFault(MarletError):
    """A checkpoint is damaged, foreign, or does not fit what it is loaded into."""

    exit_code = 5


class StorageFault(MarletError):
    """The disk is full or may not be written."""

    exit_code = 6


class MemoryFault(MarletError):
    """Memory was too small."""

    exit_code = 6


def nearest(given: str, known: Iterable[str]) -> str:
    """The end of an error sentence that names the real thing: ` Did you mean 'qmix'?`, or the whole list.

    Names are compared without their dashes in front; `lr` is near to `learning_rate`, whose words it begins.
    """
    real = {name.lstrip("-"): name for name in sorted(known)}
    given = given.lstrip("-")
    close = [name for name in real if given == "".join(word[:1] for word in re.split(r"[-_.]", name))]
    close += get_close_matches(given, real, n=1, cutoff=0.5)
    return f" Did you mean '{real[close[0]]}'?" if close else f" Known: {', '.join(real.values())}."
