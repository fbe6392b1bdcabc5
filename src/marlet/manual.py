"""What the command says of itself: `marlet --help`, `marlet COMMAND --help`, and `marlet list`."""

import inspect
import textwrap
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from marlet.catalogue import (
    algorithm_entry,
    algorithm_names,
    env_entry,
    env_names,
    is_foreign,
    settings,
    suited,
)
from marlet.errors import MarletError, nearest
from marlet.sources import Entry, Option, shown
from marlet.words import Command, algorithm_first, flag, printable

WIDTH = 100

INTRODUCTION = """\
marlet COMMAND ...   multi-agent reinforcement learning on JAX

{commands}

`marlet COMMAND --help` tells the rest, `marlet list` what there is to train, and
`marlet train qmix spread --help` every option of that algorithm and environment.

Examples:
  marlet train qmix spread --seeds 4 --steps 2e6 --learning-rate 1e-3 --env.agents 4
  marlet train iql pettingzoo:mpe2.simple_spread_v3 --steps 1e6
  marlet compare runs/qmix-... runs/vdn-... --out comparison

{names}

Exit codes: 0 done, 2 bad words, options or files, 3 the environment broke its contract,
  4 numbers no longer finite, 5 no sound checkpoint or record, 6 disk or memory too small,
  130 stopped by Ctrl-C, 143 by SIGTERM, both after saving. `--debug` shows the traceback.
"""

DEBUG = Option("debug", "bool", "False", "show the whole traceback when something goes wrong")


def introduction(commands: Iterable[Command]) -> str:
    """What `marlet --help` says."""
    envs = [*env_names(), "pettingzoo:MODULE, or your own PACKAGE.MODULE:FUNCTION"]
    return INTRODUCTION.format(
        commands=columns((f"{command.name} {command.words}", command.summary) for command in commands),
        names=columns([("Algorithms", ", ".join(algorithm_names())), ("Environments", ", ".join(envs))]),
    ).rstrip()


def help_of(command: Command, words: list[str]) -> str:
    """What a command does, and its options; those of the algorithm and environment where they are named."""
    parts = [f"{command.usage} [options]", inspect.getdoc(command.run) or ""]
    parts.append("Options\n" + options(command.options | {"debug": DEBUG}))
    if command.name == "train" and words:
        parts.append(options_of(algorithm_first(words), env=words[1] if words[1:] else ""))
    envs = {"train": words[1:], "check-env": words}.get(command.name, [])
    if envs and is_foreign(envs[0]):
        parts.append(f"Options of {printable(envs[0])}: what it takes by name, as --env.NAME VALUE.")
    elif envs:
        parts.append(options_of(env_entry(envs[0]), "env."))
    elif "ENV" in command.words:
        parts.append(
            f"What you name has options of its own: `{command.example} --help`. `marlet list` tells what there is."
        )
    return "\n\n".join(parts)


def options_of(entry: Entry, prefix: str = "", env: str = "") -> str:
    """What an algorithm or environment is, and its options; of an algorithm, its defaults in `env`."""
    head = textwrap.fill(f"Options of {entry.name}: {entry.summary}", WIDTH)
    here = {name: f"{shown(value)} in {env}" for name, value in suited(entry.name, env, {}).items()} if env else {}
    return f"{head}\n{options(settings(entry, {}), prefix, here)}"


def contents() -> str:
    """What `marlet list` says."""
    algorithms = columns((name, algorithm_entry(name).summary) for name in algorithm_names())
    envs = columns((name, env_entry(name).summary) for name in env_names())
    hint = "`marlet list NAME` tells what one learns, sees and needs, and its options."
    return f"Algorithms\n{algorithms}\n\nEnvironments\n{envs}\n\n{hint}"


def about(name: str) -> str:
    """All that the sources say of an algorithm or an environment.

    Raises:
        MarletError: for an unknown name, with the nearest real one.
    """
    if name in env_names():
        entry = env_entry(name)
        lines = columns((", ".join(names), typed) for names, typed in suited_in(name))
        here = lines and f"Defaults that differ in {name}\n{lines}"
        return "\n\n".join(filter(None, (entry.doc, options(settings(entry, {}), "env."), here)))
    if name in algorithm_names():
        entry = algorithm_entry(name)
        lines = columns((env, typed) for env in env_names() for names, typed in suited_in(env) if name in names)
        apart = lines and f"Defaults that differ in one environment\n{lines}"
        return "\n\n".join(filter(None, (entry.doc, entry.family_doc, options(settings(entry, {})), apart)))
    known = [*algorithm_names(), *env_names()]
    raise MarletError(f"There is no algorithm or environment '{printable(name)}'.{nearest(name, known)}")


def suited_in(env: str) -> list[tuple[list[str], str]]:
    """Which algorithms have defaults of their own in an environment, and those, as they are typed."""
    found = {name: suited(name, env, {}) for name in algorithm_names()}
    typed = {name: " ".join(map(as_typed, here, here.values())) for name, here in found.items() if here}
    return [([name for name in typed if typed[name] == text], text) for text in dict.fromkeys(typed.values())]


def as_typed(name: str, value: Any) -> str:
    """An option with its value: `--hidden 64,64`, `--no-double`."""
    if isinstance(value, bool):
        return flag(name if value else f"no-{name}")
    return f"{flag(name)} {shown(value)}"


def options(known: Mapping[str, Option], prefix: str = "", here: Mapping[str, str] = MappingProxyType({})) -> str:
    """Every option with what it takes, what it means, its range, and its default; `here` holds those that hold here alone."""
    lines = []
    for name, option in known.items():
        no = "[no-]" if option.type == "bool" else ""
        left = f"--{no}{flag(prefix + name)[2:]} {metavar(option)}".rstrip()
        default = "" if option.shown_default in ("None", "") else f"default {option.shown_default}"
        default = f"default {here[name]}, {option.shown_default} elsewhere" if name in here else default
        notes = "; ".join(part for part in (option.range, default) if part)
        lines.append((left, option.help + (f" ({notes})" if notes else "")))
    return columns(lines)


def metavar(option: Option) -> str:
    """What an option takes: `INT`, `{apart,sum,monotonic}`."""
    if option.parts or option.choices:
        return "{" + ",".join(map(str, option.parts or option.choices)) + "}"
    kind = option.type.removesuffix(" | None")
    return {"int": "INT", "float": "NUMBER", "bool": "", "str": "TEXT"}.get(kind, "A,B,...")


def columns(pairs: Iterable[tuple[str, str]]) -> str:
    """Two columns; a long left side stands on a line of its own."""
    pairs = list(pairs)
    left = min(max((len(name) for name, _ in pairs), default=0), 30)
    lines = []
    for name, text in pairs:
        wrapped = textwrap.wrap(text, WIDTH - left - 4) or [""]
        if len(name) > left:
            lines.append(f"  {name}")
            name = ""
        lines += [
            f"  {part:<{left}}  {line}".rstrip()
            for part, line in zip([name, *[""] * len(wrapped)], wrapped, strict=False)
        ]
    return "\n".join(lines)
