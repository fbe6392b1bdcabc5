"""From names, options and records to algorithms, environments and parts, so that adding one touches one file and no list.

What there is to name is read from the sources (`sources.py`); nothing is imported to know it, so a misspelt name is answered
in a moment. What is imported, on the way to an object, is only ever a module found there; a name that comes from a file on
disk is looked up and never imported.
"""

import dataclasses
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from marlet.errors import MarletError, nearest
from marlet.options import changed, check_options, option
from marlet.sources import Entry, Option, algorithms, envs, final_classes, options_of, parts, snake
from marlet.suited import SUITED
from marlet.typed import fitted, loose, named, part_name, tuples

if TYPE_CHECKING:
    from marlet.algorithms.base import Algorithm
    from marlet.bridges.resolve import Factory
    from marlet.envs.base import Env
    from marlet.types import Spec

TRUSTED = ("pettingzoo", "mpe2", "atari", "butterfly", "classic", "sisl")
"""Packages whose environments a run's record may name; anything else has to be named by the user again."""


# What there is


def algorithm_names() -> list[str]:
    """Every algorithm that can be named, in order of the alphabet."""
    return sorted(algorithms())


def env_names() -> list[str]:
    """Every environment of Marlet's own."""
    return sorted(envs())


def part_names() -> list[str]:
    """Every part that an option can be."""
    return sorted(parts())


def algorithm_entry(name: str) -> Entry:
    """What is known of an algorithm.

    Raises:
        MarletError: for an unknown name, with the nearest real one.
    """
    return named("algorithm", name, algorithms())


def env_entry(name: str) -> Entry:
    """What is known of one of Marlet's own environments.

    Raises:
        MarletError: for an unknown name, with the nearest real one; or, where a file here is called so, how to name what
            is in it.
    """
    if name not in envs() and Path(f"{name}.py").is_file():
        raise MarletError(
            f"There is no environment '{name}', but {name}.py is here: add what makes an environment in it, such as "
            f"{name}:make_env."
        )
    return named("environment", name, envs())


def part_entry(name: str) -> Entry:
    """What is known of a part.

    Raises:
        MarletError: for an unknown name, with the nearest real one.
    """
    return named("part", name, parts())


def algorithms_for(spec: "Spec") -> list[str]:
    """The algorithms whose defaults accept an environment of this spec."""
    return [name for name in algorithm_names() if accepts(make_algorithm(name), spec)]


def accepts(algorithm: "Algorithm", spec: "Spec") -> bool:
    """Whether an algorithm fits an environment of this spec."""
    try:
        algorithm.check(spec)
    except MarletError:
        return False
    return True


def envs_of_teams(count: int) -> list[str]:
    """Marlet's own environments that have so many teams by default."""
    return [name for name in env_names() if len(set(cast("Env", make_env(name)).spec.teams)) == count]


def check_opponent(name: str) -> None:
    """Refuse what `--versus` names, if it is neither a directory nor an algorithm.

    Raises:
        MarletError: with the nearest algorithm's name, or the cure where it looks like a path.
    """
    if Path(name).is_dir():
        return
    if "/" in name:
        raise MarletError(
            f"There is no run '{name}' to play against. Give a directory that `marlet train` printed, or an algorithm's name."
        )
    algorithm_entry(name)


def named_in(text: str) -> list[str]:
    """The names in a text that parts them by commas."""
    return [name for name in map(str.strip, text.split(",")) if name]


def is_foreign(env_name: str) -> bool:
    """Whether a name stands for an environment outside Marlet: `pettingzoo:...`, `my_package.my_module:make_env`."""
    return ":" in env_name


# From names and options to objects


def settings(entry: Entry, chosen: Mapping[str, Any]) -> dict[str, Option]:
    """All options by their dotted names, those of the chosen parts included: `learning_rate`, `mixer`, `mixer.size`."""
    found = {}
    for item in entry.options.values():
        found[item.name] = item
        if item.parts:
            parts = {part: part_entry(part) for part in item.parts}
            part = named(item.name, part_name(chosen.get(item.name, item.shown_default)), parts)
            inside = settings(part, _inside(item.name, chosen))
            found |= {f"{item.name}.{name}": inner for name, inner in inside.items()}
    return found


def checked(entry: Entry, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options (dotted names; values or the text a user typed) as values of the right type, all within their ranges.

    Raises:
        MarletError: for an unknown option (with the nearest real one), a wrong type, or a value out of range.
    """
    known = settings(entry, options)
    for name in options:
        if name not in known:
            raise MarletError(f"{entry.name} has no option '{name}'.{nearest(name, known)}")
    values = {name: fitted(entry.name, known[name], name, value) for name, value in options.items()}
    fields = [
        (name.replace(".", "_"), object, limited(known[name], value))
        for name, value in values.items()
        if not known[name].parts
    ]
    check_options(dataclasses.make_dataclass(entry.name, fields)())
    return values


def limited(known: Option, value: Any) -> Any:
    """A dataclass field of this value with the option's range, for `check_options`."""
    return option(value, known.help, low=known.low, high=known.high, choices=known.choices)


def suited(name: str, env_name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults that an algorithm has in this environment alone, but for options that are set.

    Where another part was chosen than the default, or one that is made, nothing is said of its insides.
    """
    made = {key for key, value in options.items() if dataclasses.is_dataclass(value)}
    unset = settings(algorithm_entry(name), options).keys() - options.keys()
    here = SUITED.get(env_name, {}).get(name, {})
    return {key: value for key, value in here.items() if key in unset and key.partition(".")[0] not in made}


def make_algorithm(
    name: str, options: Mapping[str, Any] | None = None, *, env: "Env | Factory | None" = None
) -> "Algorithm":
    """An algorithm by its name, with some options set; where an environment is given, with the defaults that suit it.

    Raises:
        MarletError: for an unknown name or option, with the nearest real one; for a wrong type or range.
    """
    entry, options = algorithm_entry(name), dict(options or {})
    return _made(entry.load()(), checked(entry, suited(name, name_of(env), options) | options))


def name_of(env: "Env | Factory | None") -> str:
    """What one of Marlet's own environments is called; nothing for any other."""
    name = snake(type(env).__name__)
    return name if name in envs() and type(env).__module__ == envs()[name].module else ""


def make_env(name: str, options: Mapping[str, Any] | None = None) -> "Env | Factory":
    """An environment by its name: one of Marlet's own, or a factory of environments that live in Python.

    Raises:
        MarletError: for an unknown name or option, with the nearest real one; for a wrong type or range.
    """
    options = dict(options or {})
    if not is_foreign(name):
        entry = env_entry(name)
        # In one go, and not by changing the default: options may only make sense together.
        return entry.load()(**checked(entry, options))
    from marlet.bridges.resolve import resolve

    factory = resolve(name, **{key: loose(value) for key, value in options.items()})
    if name.startswith("pettingzoo:"):
        return factory
    from marlet.bridges.facts import checked_parallel
    from marlet.envs.base import Env

    made = factory()
    if isinstance(made, Env):
        return made
    checked_parallel(made).close()
    return factory


# Records


def record_of(holder: Any) -> dict[str, Any]:
    """Plain JSON values from which `rebuild` makes the same object again."""
    from marlet.bridges.resolve import Factory
    from marlet.options import describe

    if not isinstance(holder, Factory):
        return describe(holder)
    public = holder.attribute == "parallel_env" and holder.module.partition(".")[0] in TRUSTED
    return {"type": f"pettingzoo:{holder.module}" if public else holder.name, "options": dict(holder.options)}


def rebuild(record: Mapping[str, Any]) -> Any:
    """The algorithm, environment or part that a record describes, only ever of classes found in Marlet's sources.

    An environment of PettingZoo's families is found again, too. Other code outside Marlet is not imported because a
    file says so.

    Raises:
        MarletError: for a type that is unknown or not trusted, or options that do not fit it.
    """
    kind = record.get("type")
    if not isinstance(kind, str):
        raise MarletError(f"A record needs the name of its type, but has {kind!r}.")
    if is_foreign(kind):
        library, _, module = kind.partition(":")
        if library != "pettingzoo" or module.partition(".")[0] not in TRUSTED:
            raise MarletError(
                f"This run was made on '{kind}', code from outside Marlet, which is not imported because a file says so. "
                f"If you trust it, name it yourself: --env {kind}"
            )
        return make_env(kind, record.get("options", {}))
    found = final_classes()
    if kind not in found:
        raise MarletError(
            f"This run was made with '{kind}', which is not in Marlet's sources, and code from outside is not imported because "
            "a file says so. An environment of your own is named again: --env PACKAGE.MODULE:FUNCTION. An algorithm of your own "
            "has to be put into src/marlet/algorithms."
        )
    known = options_of(found[kind])
    values = {}
    for name, value in record.items():
        if name == "type":
            continue
        if name not in known:
            raise MarletError(f"{kind} has no option '{name}'.{nearest(name, known)}")
        if isinstance(value, Mapping):
            values[name] = rebuild(value)
        elif isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
            values[name] = tuple(rebuild(item) for item in value)
        else:
            values[name] = fitted(kind, known[name], name, value)
    return getattr(importlib.import_module(found[kind].module), kind)(**values)


def with_record(holder: Any, record: Mapping[str, Any]) -> Any:
    """An object of a class from outside Marlet, with the options that a record has of it.

    Raises:
        MarletError: for an option that its class no longer has, or one that is a part.
    """
    from marlet.options import describe

    own = describe(holder)
    values = {name: value for name, value in record.items() if name != "type" and own.get(name) != value}
    for name, value in values.items():
        if isinstance(value, Mapping):
            raise MarletError(f"{record['type']}: {name} is not what the run was begun with: {value}.")
    return changed(holder, **{name: tuples(value) for name, value in values.items()})


# Values


def _made(holder: Any, values: Mapping[str, Any]) -> Any:
    """A copy of `holder` with values set by their dotted names."""
    own = {name: value for name, value in values.items() if "." not in name}
    for name in {name.partition(".")[0] for name in values}:
        part = own.get(name, getattr(holder, name))
        if isinstance(part, str) and dataclasses.is_dataclass(getattr(holder, name)):
            part = part_entry(part).load()()
        if inside := _inside(name, values):
            part = _made(part, inside)
        own[name] = part
    return changed(holder, **own)


def _inside(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """What is set of the part `name`."""
    return {key[len(name) + 1 :]: value for key, value in values.items() if key.startswith(name + ".")}
