"""Reads what was typed after `marlet` into words and options, and checks both against the sources, which are not imported.

Options are read here and not by a library because they are known only when the algorithm, its parts and the environment
are, must be known without importing them, and a mistake is answered by one sentence with the nearest real name.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from marlet.catalogue import (
    algorithm_entry,
    algorithm_names,
    checked,
    env_entry,
    env_names,
    is_foreign,
    make_env,
    settings,
)
from marlet.errors import MarletError, nearest
from marlet.sources import Entry, Option, literal

Given = dict[str, str]
"""Options as typed, by their names in Python: `learning_rate`, `env.agents`."""

MISSING = "\0"
"""Stands for the value of an option that was given none."""


@dataclass(frozen=True)
class Command:
    """One word after `marlet`, and what may follow it."""

    name: str
    run: Callable[["Command", list[str], Given], None]
    words: str
    """What has to be named, for the usage line."""
    example: str
    options: dict[str, Option] = field(default_factory=dict)
    foreign: bool = False
    """Whether options of algorithms and environments follow."""

    @property
    def usage(self) -> str:
        """The command and its words, as they are typed."""
        return f"marlet {self.name} {self.words}"

    @property
    def summary(self) -> str:
        """The first line of the function's docstring."""
        return (self.run.__doc__ or "").partition("\n")[0]

    def checked(self, given: Given) -> dict[str, Any]:
        """Those of the given options that are the command's own, as values within their ranges."""
        entry = Entry(self.name, __name__, self.name, "", "", self.options)
        return checked(entry, {name: given[name] for name in given if name in self.options})


def split(tokens: Iterable[str], commands: Iterable[Command]) -> tuple[list[str], Given]:
    """Words, and options with their text: `--seeds 4`, `--seeds=4`, `--quiet`, `--no-quiet`.

    Raises:
        MarletError: for an option without its value, or given twice.
    """
    words, given, waiting = [], {}, ""
    known = switches(commands)
    for token in tokens:
        if not token.startswith("--"):
            if waiting:
                given[waiting], waiting = token, ""
            else:
                words.append(token)
        else:
            text, equals, value = token[2:].partition("=")
            name = text.replace("-", "_")
            off = name not in known and name.startswith("no_")
            name = name.removeprefix("no_") if off else name
            if name in given:
                raise MarletError(f"{flag(name)} is given twice.")
            if equals:
                given[name] = value
            elif off or name in known:
                given[name] = "false" if off else "true"
            else:
                # A misspelt switch looks like this, too: the caller knows the names and says which it is.
                given[name] = MISSING
            waiting = name if given[name] == MISSING else ""
    return words, given


def switches(commands: Iterable[Command]) -> set[str]:
    """The options that are said or not said, and take no value."""
    tables = [("", command.options) for command in commands]
    tables += [("", settings(algorithm_entry(name), {})) for name in algorithm_names()]
    tables += [("env.", settings(env_entry(name), {})) for name in env_names()]
    return {"debug"} | {
        prefix + name for prefix, table in tables for name, option in table.items() if option.type == "bool"
    }


def counted(command: Command, words: list[str], count: int) -> list[str]:
    """The words, if there are as many as there should be.

    Raises:
        MarletError: with what should have been typed.
    """
    if len(words) == count:
        return words
    if len(words) > count:
        raise MarletError(f"'{printable(words[count])}' is one word too many: {command.usage}")
    raise MarletError(f"Something is missing: {command.usage}, such as `{command.example}`. See: marlet list")


def refuse_strangers(command: str, given: Given, known: Iterable[str]) -> None:
    """Refuse options that the command does not have, and those left without a value.

    Raises:
        MarletError: with the nearest real option.
    """
    known = {*known, "debug"}
    for name in given:
        if name not in known:
            close = nearest(flag(name), map(flag, known))
            close = close if "Did you mean" in close else f" See: marlet {command.split()[0]} --help"
            raise MarletError(f"`marlet {command}` has no option {printable(flag(name))}.{close}")
    for name, value in given.items():
        if value == MISSING:
            metavar = {"resume": "RUN", "out": "PATH", "env": "NAME", "steps": "2e6"}.get(name, "VALUE")
            raise MarletError(f"{flag(name)} needs a value: {flag(name)} {metavar}")


def chosen(
    command: Command, words: list[str], given: Given
) -> tuple[tuple[str, Given], tuple[str, Given], dict[str, Any]]:
    """The algorithm with its options, the environment with its own, and the options of training: all checked.

    Raises:
        MarletError: for the first thing that is not as it should be.
    """
    if len(words) == 2 and words[0] in env_names() and words[1] in algorithm_names():
        raise MarletError(f"The algorithm comes first: marlet train {words[1]} {words[0]}")
    if words:
        algorithm_entry(words[0])
    name, env_name = counted(command, words, 2)
    entry = algorithm_entry(name)
    of_env = of_environment(given)
    others = {key: value for key, value in given.items() if not key.startswith("env.") and key not in command.options}
    known = {*settings(entry, others), *command.options}
    known |= {f"env.{key}" for key in (of_env if is_foreign(env_name) else settings(env_entry(env_name), of_env))}
    refuse_strangers(f"train {name} {printable(env_name)}", given, known)
    others.pop("debug", None)
    checked(entry, others)
    own = command.checked(given)
    for opponent in filter(None, own.get("versus", "").split(",")):
        if not Path(opponent).is_dir():
            algorithm_entry(opponent)
    check_environment(command, env_name, of_env)
    return (name, others), (env_name, of_env), own


def own_and_env(command: Command, given: Given, env_name: str = "") -> tuple[dict[str, Any], Callable[[], Any]]:
    """All options of a command, defaults included, and what gives the environment that was named, or None.

    Options `--env.X` belong to that environment; it is not imported before they are known to be right.
    """
    of_env = of_environment(given)
    refuse_strangers(command.name, given, {*command.options, *(f"env.{key}" for key in of_env if command.foreign)})
    own = {name: literal(option.default) for name, option in command.options.items()} | command.checked(given)
    env_name = env_name or own.pop("env", "")
    if of_env and not env_name:
        raise MarletError(f"{flag(f'env.{next(iter(of_env))}')} needs the environment's name, too: --env NAME")
    if env_name:
        check_environment(command, env_name, of_env)
    return own, lambda: make_env(env_name, of_env) if of_env else env_name or None


def of_environment(given: Given) -> Given:
    """The options `--env.X`, by their own names."""
    return {name.removeprefix("env."): value for name, value in given.items() if name.startswith("env.")}


def check_environment(command: Command, name: str, options: Given) -> None:
    """Refuse a name, an option or a value that one of Marlet's own environments does not have."""
    if not is_foreign(name):
        entry = env_entry(name)
        known = {f"env.{key}" for key in settings(entry, options)}
        refuse_strangers(f"{command.name} {name}", {f"env.{key}": value for key, value in options.items()}, known)
        checked(entry, options)


def flag(name: str) -> str:
    """An option as it is typed: `--learning-rate`."""
    return "--" + name.replace("_", "-")


def printable(text: str) -> str:
    """Text without what a terminal would obey."""
    return "".join(mark for mark in text if mark.isprintable() or mark == "\n")
