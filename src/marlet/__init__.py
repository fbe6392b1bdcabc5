"""Marlet: multi-agent reinforcement learning on JAX.

    import marlet

    run = marlet.train("spread", "qmix", steps=2e6, seeds=4)
    policy = marlet.load(run.path)
    actions = policy.act(observations)

Everything below is imported when it is first used; `import marlet` alone is quick and leaves JAX alone.
"""

import importlib
import importlib.util
from typing import Any

from marlet.errors import MarletError as MarletError

DOOR = ("train", "resume", "load", "frozen", "evaluate", "compare", "check_env")
RECORDS = {
    "Env": "marlet.envs.base",
    "Algorithm": "marlet.algorithms.base",
    "Sides": "marlet.algorithms.sides",
    "versus": "marlet.algorithms.sides",
    "Run": "marlet.runs.directory",
    "Policy": "marlet.runs.policy",
    "Spec": "marlet.types",
    "Step": "marlet.types",
    "Transition": "marlet.types",
}


def _homes() -> dict[str, str]:
    """The module that each public name lives in."""
    catalogue = importlib.import_module("marlet.catalogue")
    algorithms = map(catalogue.algorithm_entry, catalogue.algorithm_names())
    envs = map(catalogue.env_entry, catalogue.env_names())
    parts = map(catalogue.part_entry, catalogue.part_names())
    found = {entry.attribute: entry.module for entry in (*algorithms, *envs, *parts)}
    return found | dict.fromkeys(DOOR, "marlet.door") | RECORDS


def __getattr__(name: str) -> Any:
    if not name.startswith("_") and importlib.util.find_spec(f"marlet.{name}"):
        return importlib.import_module(f"marlet.{name}")
    homes = {} if name.startswith("_") else _homes()
    if name not in homes:
        raise AttributeError(f"module 'marlet' has no attribute '{name}'")
    value = globals()[name] = getattr(importlib.import_module(homes[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted([*_homes(), "MarletError"])
