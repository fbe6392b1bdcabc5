"""Finds an environment by the name a user types, and remembers it in a way that other processes can repeat.

    pettingzoo:mpe2.simple_spread_v3      the module's `parallel_env`
    my_pkg.my_module:make_env             any function or class that gives a `ParallelEnv` or a Marlet `Env`

The current directory is searched first, as `python` itself does.
"""

import importlib
import json
import os
import pkgutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from marlet.errors import EnvironmentFault, MarletError, nearest

CURES = {
    "mpe2": 'pip install "marlet[envs]"',
    "pettingzoo": "pip install pettingzoo",
}


@dataclass(frozen=True)
class Factory:
    """A function or class named by its module, with the options it is called with: no code travels, only names."""

    module: str
    attribute: str
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.module}:{self.attribute}"

    def target(self) -> Callable[..., Any]:
        """The function or class itself.

        Raises:
            MarletError: where the module or the attribute is missing, with the nearest name or the cure.
        """
        found: Any = load(self.module)
        for part in self.attribute.split("."):
            try:
                found = getattr(found, part)
            except AttributeError:
                public = [name for name in dir(found) if not name.startswith("_")]
                raise MarletError(f"{self.module} has no '{self.attribute}'.{nearest(part, public)}") from None
        if not callable(found):
            raise MarletError(
                f"{self.name} is a {type(found).__name__}, but must be a function or class that gives an environment."
            )
        return found

    def __call__(self) -> Any:
        """A new environment; whatever the function gives, unchecked.

        Raises:
            MarletError: where an option is not one the function takes.
            EnvironmentFault: where the function raises, or would end the process.
        """
        target = self.target()
        try:
            return target(**self.options)
        except MarletError:
            raise
        except (Exception, SystemExit) as error:
            if isinstance(error, TypeError) and "unexpected keyword argument" in str(error):
                raise MarletError(f"{self.name} does not take one of the options {self.options}: {error}.") from error
            raise EnvironmentFault(
                f"{self.name} could not be built: {type(error).__name__}: {error}. "
                "Call it in Python, or add --debug, to see where."
            ) from error


def resolve(name: str, **options: Any) -> Factory:
    """The factory a command-line name stands for, already found.

    Raises:
        MarletError: where the name cannot be read, or what it names is missing.
    """
    left, colon, right = name.partition(":")
    if not (left and colon and right):
        raise MarletError(
            f"'{name}' does not name an environment of another library. Write `pettingzoo:mpe2.simple_spread_v3`, "
            "or `my_package.my_module:make_env` for a function of your own."
        )
    try:
        json.dumps(options)
    except TypeError as error:
        raise MarletError(f"The options of {name} must be numbers, text, truth values or lists: {error}.") from None
    factory = Factory(left, right, options) if left != "pettingzoo" else _of_pettingzoo(right, options)
    factory.target()
    return factory


def by_name(make: Callable[[], Any]) -> Factory | None:
    """The factory that repeats `make` in another process, or None where it has no name to be imported by."""
    if isinstance(make, Factory):
        return make
    try:
        module, attribute = make.__module__, make.__qualname__
    except AttributeError:
        return None
    return None if module == "__main__" or "<" in attribute else Factory(module, attribute)


def load(module: str) -> Any:
    """Import a module, the current directory first.

    Raises:
        MarletError: saying which part is missing and how to get it, or how the module failed.
    """
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise MarletError(_what_is_missing(module, error.name or module)) from error
    except (Exception, SystemExit) as error:
        raise MarletError(f"{module} failed while it was imported: {type(error).__name__}: {error}") from error


def _of_pettingzoo(module: str, options: dict[str, Any]) -> Factory:
    """PettingZoo's own families may be named without the package: `sisl.pursuit_v4`."""
    try:
        found = load(module)
    except MarletError as error:
        if not isinstance(error.__cause__, ModuleNotFoundError) or module.startswith("pettingzoo."):
            raise
        try:
            found, module = load(f"pettingzoo.{module}"), f"pettingzoo.{module}"
        except MarletError:
            raise error from None
    if "parallel_env" not in vars(found) and "env" in vars(found):
        raise MarletError(
            f"{module} offers only a turn-based (AEC) `env` and no `parallel_env`, but all agents must act at once."
        )
    return Factory(module, "parallel_env", options)


def _what_is_missing(module: str, missing: str) -> str:
    if not (module == missing or module.startswith(missing + ".")):
        return f"{module} needs the package '{missing}', which is not installed: pip install {missing}"
    parent, _, last = missing.rpartition(".")
    if parent:
        folders = vars(importlib.import_module(parent)).get("__path__", [])
        known = [found.name for found in pkgutil.iter_modules(folders)]
        return f"{parent} has no module '{last}'.{nearest(last, known) if known else ''}"
    cure = CURES.get(missing)
    return f"There is no module '{missing}'. " + (
        f"It is not installed: {cure}"
        if cure
        else f"Install its package, or go to the directory that holds it; {os.getcwd()} does not."
    )
