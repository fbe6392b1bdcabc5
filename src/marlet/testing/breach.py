"""What the checks say when a contract is broken: what was found, and the cure."""

from typing import Any

import numpy as np

from marlet.envs.base import Env
from marlet.errors import EnvironmentFault
from marlet.types import Step


def expect(env: Env, kept: Any, breach: str, cure: str) -> None:
    """Raise unless the contract is kept."""
    if not kept:
        raise EnvironmentFault(f"{type(env).__name__}: {breach}. {cure}")


def fields(one: Step, two: Step) -> list[tuple[str, np.ndarray, np.ndarray]]:
    return [(name, np.asarray(getattr(one, name)), np.asarray(getattr(two, name))) for name in vars(one)]
