"""Reads what was typed after `marlet` into words and options, and checks both against the sources, which are not imported.

Options are read here and not by a library because they are known only when the algorithm, its parts and the environment
are, must be known without importing them, and a mistake is answered by one sentence with the nearest real name.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from marlet.catalogue import (
    algorithm_entry,
    algorithm_names,
    check_opponent,
    checked,
    env_entry,
    env_names,
    is_foreign,
    make_env,
    named_in,
    settings,
)
from marlet.errors import MarletError, nearest
from marlet.sources import Entry, Option, literal, snake

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
        entry = Entry(self.name, __name__, self.name, "", "", lambda: self.options)
        return checked(entry, {name: given[name] for name in given if name in self.options})


def split(tokens: Iterable[str], commands: Iterable[Command]) -> tuple[list[str], Given]:
    """Words, and options with their text: `--seeds 4`, `--seeds=4`, `--quiet`, `--no-quiet`.

    Raises:
        MarletError: for an option without its value, or given twice.
    """
    words, given, name = [], {}, ""
    known = switches(commands)
    for token in tokens:
        if token.startswith("--"):
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
        elif name and given[name] == MISSING:
            given[name] = token
        elif token.startswith("-"):
            raise MarletError(
                f"'{printable(token)}' begins with one dash, but options begin with two: -{printable(token)}"
            )
        elif name in known and token.lower() in ("true", "false"):
            raise MarletError(f"{flag(name)} takes no value: say {flag(name)} or --no-{flag(name)[2:]}.")
        else:
            words.append(token)
    given.pop("debug", None)  # it is for `main`, whatever the command
    return words, given


def switches(commands: Iterable[Command]) -> set[str]:
    """The options that are said or not said, and take no value."""
    return {"debug"} | {name for name, option in every_option(commands) if option.type == "bool"}


def every_option(commands: Iterable[Command]) -> list[tuple[str, Option]]:
    """All options there are: of these commands, of each algorithm and of each environment of Marlet's own."""
    tables = [("", command.options) for command in commands]
    tables += [("", settings(algorithm_entry(name), {})) for name in algorithm_names()]
    tables += [("env.", settings(env_entry(name), {})) for name in env_names()]
    return [(prefix + name, option) for prefix, table in tables for name, option in table.items()]


def counted(command: Command, words: list[str], count: int) -> list[str]:
    """The words, if there are as many as there should be.

    Raises:
        MarletError: with what should have been typed.
    """
    if len(words) == count:
        return words
    if len(words) > count:
        raise MarletError(f"'{printable(words[count])}' is one word too many: {command.usage}")
    raise MarletError(
        f"Something is missing: {command.usage}, such as `{command.example}`. See: marlet {command.name} --help"
    )


def refuse_strangers(command: str, given: Given, known: Iterable[str], source: str = "") -> None:
    """Refuse options that the command does not have, and those left without a value; `source` is the file they are from.

    Raises:
        MarletError: with the nearest real option.
    """
    known = set(known)
    for name in given:
        if name not in known:
            whole = name.partition(".")[0]
            part = f" with {flag(whole)} {printable(given[whole])}" if whole in known and whole in given else ""
            close = nearest(flag(name), map(flag, known))
            close = close if "Did you mean" in close and not part else f" See: marlet {command} --help"
            raise MarletError(f"{source}`marlet {command}` has no option {printable(flag(name))}{part}.{close}")
    for name, value in given.items():
        if value == MISSING:
            raise MarletError(f"{flag(name)} needs a value after it.")


def chosen(
    command: Command, words: list[str], given: Given
) -> tuple[tuple[str, Given], tuple[str, Given], dict[str, Any]]:
    """The algorithm with its options, the environment with its own, and the options of training: all checked.

    Raises:
        MarletError: for the first thing that is not as it should be.
    """
    if words:
        algorithm_first(words)
    name, env_name = counted(command, words, 2)
    if env_name in algorithm_names():
        raise MarletError(f"'{env_name}' is an algorithm: marlet train {name} ENV, or {name} ENV --versus {env_name}")
    path = given.get("options", MISSING)
    kept = {} if path == MISSING else from_file(path, name, env_name)
    typed, given = given, kept | given
    entry = algorithm_entry(name)
    of_env = of_environment(given)
    others = {key: value for key, value in given.items() if not key.startswith("env.") and key not in command.options}
    known = {*settings(entry, others), *command.options}
    known |= {f"env.{key}" for key in (of_env if is_foreign(env_name) else settings(env_entry(env_name), of_env))}
    refuse_strangers(f"train {name} {printable(env_name)}", typed, known)
    refuse_strangers(f"train {name} {printable(env_name)}", kept, known - {"options", "resume"}, f"{path}: ")
    checked(entry, others)
    own = command.checked(given)
    own.pop("options", None)
    for opponent in named_in(own.get("versus", "")):
        check_opponent(opponent)
    check_environment(command, env_name, of_env)
    return (name, others), (env_name, of_env), own


def algorithm_first(words: list[str]) -> Entry:
    """The algorithm that the first word names.

    Raises:
        MarletError: if it is none; where it is an environment, with the right order.
    """
    if words[0] in env_names():
        first = words[1] if words[1:] and words[1] in algorithm_names() else "ALGORITHM"
        raise MarletError(f"The algorithm comes first: marlet train {first} {words[0]}")
    return algorithm_entry(words[0])


def from_file(path: str, algorithm: str, env: str) -> Given:
    """The options in a JSON file, as the text in which they would be typed: `{"options": {"envs": 8, "mixer.size": 32}}`.

    Raises:
        MarletError: if it cannot be read, or says that it is for another algorithm or environment.
    """
    try:
        found = json.loads(Path(path).read_text("utf-8"))
    except OSError as cause:
        raise MarletError(f"The options of {path} cannot be read: {cause.strerror}.") from None
    except (ValueError, RecursionError) as cause:
        raise MarletError(f"{path} is not JSON: {cause}.") from None
    if isinstance(found, dict) and isinstance(found.get("algorithm"), dict):
        found = from_record(found, path, env)
    if not isinstance(found, dict) or not isinstance(found.get("options"), dict):
        raise MarletError(f'{path} should hold options, such as {{"options": {{"envs": 8, "mixer.size": 32}}}}.')
    for what, name in (("algorithm", algorithm), ("env", env)):
        if found.get(what, name) != name:
            raise MarletError(f"{path} has options for the {what} '{found[what]}', but '{name}' was named.")
    text = lambda value: value if isinstance(value, str) else repr(value) if _is_plain(value) else json.dumps(value)  # noqa: E731
    return {name.replace("-", "_"): text(value) for name, value in found["options"].items()}


def from_record(record: dict[str, Any], path: str, env_name: str) -> dict[str, Any]:
    """A run's own options.json in the form of a file of options, so that a run can be repeated by it.

    Raises:
        MarletError: if it is no whole record, or of a run with opponents, whose policies it does not hold.
    """
    algorithm, env, train = (record.get(name) for name in ("algorithm", "env", "train"))
    if not (isinstance(algorithm, dict) and isinstance(env, dict) and isinstance(train, dict) and "type" in env):
        raise MarletError(f"{path} does not say the algorithm, the environment and the training of a run.")
    if "sides" in algorithm:
        raise MarletError(f"{path} is of a run with opponents, which is repeated by its command: see `command` in it.")
    kind = str(env["type"])
    # Code of one's own is recorded by its class, and named by its module: whether they are the same is not known here.
    name = kind if is_foreign(kind) else snake(kind) if snake(kind) in env_names() else env_name
    world = env.get("options", {}) if is_foreign(kind) else _flat(env)
    own = {key: value for key, value in _flat(algorithm).items() if key != "name"}
    return {
        "algorithm": algorithm.get("name"),
        "env": name,
        "options": own | {f"env.{key}": value for key, value in world.items()} | train,
    }


def _flat(record: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A record's options by their dotted names; a part is its name, and what is inside."""
    found = {}
    for name, value in record.items():
        if isinstance(value, dict):
            found[prefix + name] = snake(str(value.get("type")))
            found |= _flat(value, f"{prefix}{name}.")
        elif name != "type":
            found[prefix + name] = value
    return found


def _is_plain(value: Any) -> bool:
    """Whether Python writes it as `literal` reads it, and JSON may not: None, inf."""
    return value is None or isinstance(value, float)


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
    if name in algorithm_names():
        raise MarletError(
            f"'{name}' is an algorithm, but the name of an environment is needed: {', '.join(env_names())}."
        )
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
