"""The command `marlet`: names and options are checked first, from the sources; JAX is imported only to compute.

Options are read here and not by a library because they are known only when the algorithm, its parts and the environment
are, must be known without importing them, and a mistake is answered by one sentence with the nearest real name.
"""

import hashlib
import os
import platform
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from marlet.catalogue import (
    algorithm_entry,
    algorithm_names,
    checked,
    env_entry,
    env_names,
    is_foreign,
    make_algorithm,
    make_env,
    settings,
)
from marlet.errors import MarletError, nearest
from marlet.sources import Entry, Option, literal

WIDTH = 100
Given = dict[str, str]
"""Options as typed, by their names in Python: `learning_rate`, `env.agents`."""

INTRODUCTION = """\
marlet COMMAND ...   multi-agent reinforcement learning on JAX

{commands}

`marlet COMMAND --help` tells the rest; `marlet train qmix spread --help` every option of that algorithm and environment.

Examples:
  marlet train qmix spread --seeds 4 --steps 2e6 --learning-rate 1e-3 --env.agents 4
  marlet train iql pettingzoo:mpe2.simple_spread_v3 --steps 1e6
  marlet compare runs/qmix-... runs/vdn-... --out comparison

Algorithms:    {algorithms}
Environments:  {environments}, pettingzoo:MODULE, or your own PACKAGE.MODULE:FUNCTION
"""


def _options(*options: Option) -> dict[str, Option]:
    return {option.name: option for option in options}


DEBUG = Option("debug", "bool", "False", "show the whole traceback when something goes wrong")
ENV = Option("env", "str", "''", "another environment to play in, or the run's own where it is code of yours")
LEARNER = Option("seed", "int | None", "None", "which learner; the best one, when left out")

TRAIN = _options(
    Option("steps", "int", "1_000_000", "environment steps of each seed", low=1),
    Option(
        "versus",
        "str",
        "''",
        "what the other teams play, in their order: algorithms' names, or runs, whose policies are frozen",
    ),
    Option(
        "league",
        "str",
        "'latest'",
        "which selves of the other team one plays against",
        choices=("latest", "past", "hardest"),
    ),
    Option("seeds", "int", "1", "independent learners, trained side by side", low=1),
    Option("seed", "int", "0", "of the first learner; the others follow", low=0),
    Option("out", "str", "'runs'", "where runs are kept"),
    Option(
        "name", "str | None", "None", "of the run's directory; made from what is trained and the time, when left out"
    ),
    Option("evaluations", "int", "40", "greedy evaluations over the run, evenly spaced", low=1),
    Option("episodes", "int", "128", "of each evaluation", low=1),
    Option("tensorboard", "bool", "False", "also write events for TensorBoard"),
    Option("quiet", "bool", "False", "print nothing but the run's directory"),
    Option(
        "workers", "int | None", "None", "processes that step an environment that lives in Python; one a core", low=0
    ),
    Option("save_every", "float", "30.0", "seconds between two checkpoints: what a power cut loses at the most", low=0),
    Option("resume", "str | None", "None", "go on with this run instead of starting one; only --env and --quiet apply"),
)
ALLOWED_WITH_RESUME = {"resume", "quiet", "workers", "env", "debug"}


@dataclass(frozen=True)
class Command:
    """One word after `marlet`."""

    run: Callable[[list[str], Given], None]
    words: str
    """What has to be named, for the usage line."""
    options: dict[str, Option] = field(default_factory=dict)
    foreign: bool = False
    """Whether options of algorithms and environments follow."""

    @property
    def summary(self) -> str:
        """The first line of the function's docstring."""
        return (self.run.__doc__ or "").partition("\n")[0]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and say how it went: 0, a `MarletError`'s own code, or 130 after Ctrl-C."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        dispatch(argv)
    except MarletError as error:
        if "--debug" in argv:
            raise
        print(f"marlet: {printable(str(error))}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt as stop:
        print(f"\n{printable(str(stop)) or 'Stopped.'}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a pipe has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def dispatch(argv: list[str]) -> None:
    """Find the command and give it its words and options."""
    name, *rest = argv or ["--help"]
    if name in ("--help", "-h", "help"):
        print(introduction())
        return
    if name == "--version":
        print(f"marlet {version('marlet')}")
        return
    if name not in COMMANDS:
        raise MarletError(f"There is no command '{printable(name)}'.{nearest(name, COMMANDS)}")
    command = COMMANDS[name]
    if "--help" in rest or "-h" in rest:
        words, _ = split([token for token in rest if token not in ("--help", "-h")])
        print(help_of(name, words))
        return
    command.run(*split(rest))


# The commands


def train(words: list[str], given: Given) -> None:
    """Train an algorithm in an environment: `marlet train qmix spread --seeds 4`."""
    if "resume" in given:
        _refuse_strangers("train --resume", given, ALLOWED_WITH_RESUME)
        if words:
            raise MarletError(f"--resume goes on with a run as it was begun, so '{words[0]}' cannot be chosen anew.")
        own = checked(_entry("train", TRAIN), {name: given[name] for name in given if name in TRAIN})
        door = prepared()
        run = door.resume(own["resume"], env=given.get("env"), **_some(own, "quiet", "workers"))
    else:
        algorithm, env, own = _chosen(words, given)
        door = prepared()
        run = door.train(make_env(*env), make_algorithm(*algorithm), **own)
    print(run.path)


def evaluate(words: list[str], given: Given) -> None:
    """Play many greedy episodes with a run and print each agent's return with its 95 % interval."""
    command = COMMANDS["evaluate"]
    (path,) = _words("evaluate", words, 1)
    own, env = _own(command, "evaluate", given)
    door = prepared()
    from marlet.runs.report import as_text

    found = door.evaluate(path, env(), episodes=own["episodes"], seed=own["seed"], again=own["again"])
    print(as_text(found.rows()))
    print(
        f"{len(found.returns)} episodes of {found.lengths.mean():.1f} steps, {found.solved.mean():.0%} ended by the world"
    )


def compare(words: list[str], given: Given) -> None:
    """Print a table of runs; with --out also curves.png, table.csv and table.md."""
    command = COMMANDS["compare"]
    if not words:
        raise MarletError("compare needs at least one run: marlet compare RUN RUN ...")
    own, _ = _own(command, "compare", given)
    from marlet.runs.directory import Run
    from marlet.runs.report import as_text, improvements

    door = prepared()
    print(as_text(door.compare(words, own["out"])))
    for sentence in improvements([Run(path) for path in words]):
        print(sentence)
    if own["out"] is not None:
        print(Path(own["out"]) / "curves.png")


def watch(words: list[str], given: Given) -> None:
    """Play one episode with a run: as episode.gif, or as text where the environment draws text."""
    command = COMMANDS["watch"]
    (path,) = _words("watch", words, 1)
    own, env = _own(command, "watch", given)
    out = Path(own["out"] or Path(path) / "episode.gif")
    door = prepared()
    from marlet.runs import watch as show
    from marlet.runs.directory import Run

    if own["out"] is not None:
        show.check_output(out)
    policy = door.load(path, seed=own["seed"])
    episode = show.play(policy, door.env_of_run(Run(path), env()), seed=own["episode"])
    if own["terminal"] or (isinstance(episode.frames[0], str) and own["out"] is None):
        print("\n".join(show.told(episode, policy.spec.names)))
        return
    show.check_output(out)
    print(show.save(episode, out))


def list_(words: list[str], given: Given) -> None:
    """List algorithms and environments; with a name, tell all about it."""
    _own(COMMANDS["list"], "list", given)
    if not words:
        print("Algorithms\n" + _lines((name, algorithm_entry(name).summary) for name in algorithm_names()))
        print("\nEnvironments\n" + _lines((name, env_entry(name).summary) for name in env_names()))
        print("\n`marlet list NAME` tells what one learns, sees and needs, and its options.")
        return
    for name in words:
        known = [*algorithm_names(), *env_names()]
        if name not in known:
            raise MarletError(f"There is no algorithm or environment '{printable(name)}'.{nearest(name, known)}")
        is_env = name in env_names()
        entry = env_entry(name) if is_env else algorithm_entry(name)
        print(entry.doc + ("" if is_env else f"\n\n{entry.family_doc}"))
        print("\n" + _help_options(settings(entry, {}), "env." if is_env else ""))


def check_env(words: list[str], given: Given) -> None:
    """Play an environment at random and hold every step against the contract."""
    command = COMMANDS["check-env"]
    (name,) = _words("check-env", words, 1)
    options = {key.removeprefix("env."): value for key, value in given.items() if key.startswith("env.")}
    _own(command, "check-env", {key: given[key] for key in given if not key.startswith("env.")})
    _check_env_options(name, options, "check-env")
    door = prepared()
    print(f"{name} keeps its contract: {', '.join(door.check_env(make_env(name, options)))}")


COMMANDS = {
    "train": Command(train, "ALGORITHM ENV", TRAIN, foreign=True),
    "evaluate": Command(
        evaluate,
        "RUN",
        _options(
            Option("episodes", "int", "512", "how many", low=1),
            Option("again", "bool", "False", "those of the run's own evaluations (--episodes as many), not fresh ones"),
            ENV,
            LEARNER,
        ),
        foreign=True,
    ),
    "compare": Command(
        compare, "RUN ...", _options(Option("out", "str | None", "None", "a directory for curves.png and the table"))
    ),
    "watch": Command(
        watch,
        "RUN",
        _options(
            Option("out", "str | None", "None", "a file in .gif or .mp4; RUN/episode.gif, when left out"),
            Option("terminal", "bool", "False", "show it in the terminal instead"),
            Option("episode", "int", "0", "seed of the episode", low=0),
            ENV,
            LEARNER,
        ),
        foreign=True,
    ),
    "list": Command(list_, "[NAME]"),
    "check-env": Command(check_env, "ENV", foreign=True),
}


# Words and options


def split(tokens: Iterable[str]) -> tuple[list[str], Given]:
    """Words, and options with their text: `--seeds 4`, `--seeds=4`, `--quiet`, `--no-quiet`.

    Raises:
        MarletError: for an option without its value, or given twice.
    """
    words, given, waiting = [], {}, ""
    switches = _switches()
    for token in tokens:
        if not token.startswith("--"):
            if waiting:
                given[waiting], waiting = token, ""
            else:
                words.append(token)
        else:
            text, equals, value = token[2:].partition("=")
            name = text.replace("-", "_")
            off = name not in switches and name.startswith("no_")
            name = name.removeprefix("no_") if off else name
            if name in given:
                raise MarletError(f"{flag(name)} is given twice.")
            if equals:
                given[name] = value
            elif off or name in switches:
                given[name] = "false" if off else "true"
            else:
                # A misspelt switch looks like this, too: the caller knows the names and says which it is.
                given[name] = MISSING
            waiting = name if given[name] == MISSING else ""
    return words, given


MISSING = "\0"
"""Stands for the value of an option that was given none."""


def _switches() -> set[str]:
    """The options that are said or not said, and take no value."""
    entries = [algorithm_entry(name) for name in algorithm_names()]
    found = {name for entry in entries for name, option in settings(entry, {}).items() if option.type == "bool"}
    for name in env_names():
        found |= {f"env.{key}" for key, option in settings(env_entry(name), {}).items() if option.type == "bool"}
    tables = [TRAIN, *(command.options for command in COMMANDS.values())]
    return found | {"debug"} | {name for table in tables for name, option in table.items() if option.type == "bool"}


def _refuse_strangers(command: str, given: Given, known: Iterable[str]) -> None:
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
            raise MarletError(f"{flag(name)} needs a value: {flag(name)} {_metavar_of(name)}")


def _chosen(words: list[str], given: Given) -> tuple[tuple[str, Given], tuple[str, Given], dict[str, Any]]:
    """The algorithm with its options, the environment with its own, and the options of training: all checked.

    Raises:
        MarletError: for the first thing that is not as it should be.
    """
    if len(words) == 2 and words[0] in env_names() and words[1] in algorithm_names():
        raise MarletError(f"The algorithm comes first: marlet train {words[1]} {words[0]}")
    if words:
        algorithm_entry(words[0])
    name, env_name = _words("train", words, 2)
    entry = algorithm_entry(name)
    env_options = {key.removeprefix("env."): value for key, value in given.items() if key.startswith("env.")}
    others = {key: value for key, value in given.items() if not key.startswith("env.") and key not in TRAIN}
    known = {*settings(entry, others), *TRAIN}
    if not is_foreign(env_name):
        known |= {f"env.{key}" for key in settings(env_entry(env_name), env_options)}
    else:
        known |= {f"env.{key}" for key in env_options}
    _refuse_strangers(f"train {name} {printable(env_name)}", given, known)
    others.pop("debug", None)
    checked(entry, others)
    own = checked(_entry("train", TRAIN), {key: value for key, value in given.items() if key in TRAIN})
    for opponent in filter(None, own.get("versus", "").split(",")):
        if not Path(opponent).is_dir():
            algorithm_entry(opponent)
    _check_env_options(env_name, env_options, "train")
    return (name, others), (env_name, env_options), own


def _check_env_options(name: str, options: Given, command: str) -> None:
    """Refuse a name, an option or a value that one of Marlet's own environments does not have."""
    if not is_foreign(name):
        entry = env_entry(name)
        known = {f"env.{key}" for key in settings(entry, options)}
        _refuse_strangers(f"{command} {name}", {f"env.{key}": value for key, value in options.items()}, known)
        checked(entry, options)


def _own(command: Command, name: str, given: Given) -> tuple[dict[str, Any], Callable[[], Any]]:
    """All options of a command, defaults included, and what gives the environment that was named, or None.

    Options `--env.X` belong to that environment; it is not imported before they are known to be right.
    """
    env_options = {key.removeprefix("env."): value for key, value in given.items() if key.startswith("env.")}
    _refuse_strangers(name, given, {*command.options, *(f"env.{key}" for key in env_options if command.foreign)})
    own = {key: literal(option.default) for key, option in command.options.items()}
    own |= checked(_entry(name, command.options), {key: given[key] for key in given if key in command.options})
    env_name = own.pop("env", "")
    if env_options and not env_name:
        raise MarletError(f"{flag(f'env.{next(iter(env_options))}')} needs the environment's name, too: --env NAME")
    if env_name:
        _check_env_options(env_name, env_options, name)
    return own, lambda: make_env(env_name, env_options) if env_options else env_name or None


def _words(command: str, words: list[str], count: int) -> list[str]:
    """The words, if there are as many as there should be."""
    if len(words) == count:
        return words
    usage = f"marlet {command} {COMMANDS[command].words}"
    if len(words) > count:
        raise MarletError(f"'{printable(words[count])}' is one word too many: {usage}")
    examples = {"ALGORITHM ENV": "marlet train qmix spread", "ENV": "marlet check-env spread"}
    example = examples.get(COMMANDS[command].words, f"marlet {command} runs/...")
    raise MarletError(f"Something is missing: {usage}, such as `{example}`. See: marlet list")


def _some(options: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: options[name] for name in names if name in options}


def _entry(name: str, options: dict[str, Option]) -> Entry:
    """A command's own options, checked like those of an algorithm."""
    return Entry(name, __name__, name, "", "", options)


# JAX


def prepared() -> Any:
    """Set JAX up for a command, then import what computes.

    Compiled programs are kept in the user's cache directory, in a folder of their own for each JAX version and
    processor: one compiled for another processor might not run here. `JAX_COMPILATION_CACHE_DIR` chooses another place.
    """
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = cache / "marlet" / f"jax-{version('jax')}-{hashlib.sha256(processor().encode()).hexdigest()[:12]}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
        except OSError:
            pass  # without a cache everything works, a little later
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")

    from marlet.engine.devices import one_device_per_core

    one_device_per_core()
    from marlet import door

    return door


def processor() -> str:
    """What this machine's processor is and can."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    return "\n".join(
        sorted({line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))})
    )


# What is printed


def introduction() -> str:
    """What `marlet --help` says."""
    lines = [(f"{name} {command.words}", command.summary) for name, command in COMMANDS.items()]
    return INTRODUCTION.format(
        commands=_lines(lines), algorithms=", ".join(algorithm_names()), environments=", ".join(env_names())
    ).rstrip()


def help_of(name: str, words: list[str]) -> str:
    """What a command does, and its options; those of the algorithm and environment where they are named."""
    command = COMMANDS[name]
    parts = [f"marlet {name} {command.words}{' [options]' if command.options else ''}\n\n{command.summary}"]
    if command.options:
        parts.append("Options\n" + _help_options(command.options | {"debug": DEBUG}))
    if name == "train" and not words:
        parts.append("Options of an algorithm and an environment: name them, as in `marlet train qmix spread --help`.")
    if name == "train" and words:
        entry = algorithm_entry(words[0])
        parts.append(f"Options of {entry.name}: {entry.summary}\n" + _help_options(settings(entry, {})))
    if name in ("train", "check-env") and (envs := words[1:] if name == "train" else words) and not is_foreign(envs[0]):
        entry = env_entry(envs[0])
        parts.append(f"Options of {entry.name}: {entry.summary}\n" + _help_options(settings(entry, {}), "env."))
    return "\n\n".join(parts)


def flag(name: str) -> str:
    """An option as it is typed: `--learning-rate`."""
    return "--" + name.replace("_", "-")


def printable(text: str) -> str:
    """Text without what a terminal would obey."""
    return "".join(mark for mark in text if mark.isprintable() or mark == "\n")


def _metavar_of(name: str) -> str:
    return {"resume": "RUN", "out": "PATH", "env": "NAME", "steps": "2e6"}.get(name, "VALUE")


def _metavar(option: Option) -> str:
    if option.parts or option.choices:
        return "{" + ",".join(map(str, option.parts or option.choices)) + "}"
    kind = option.type.removesuffix(" | None")
    return {"int": "INT", "float": "NUMBER", "bool": "", "str": "TEXT"}.get(kind, "A,B,...")


def _help_options(options: Mapping[str, Option], prefix: str = "") -> str:
    """Every option with what it takes, what it means, its range and its default."""
    lines = []
    for name, option in options.items():
        no = "[no-]" if option.type == "bool" else ""
        left = f"--{no}{flag(prefix + name)[2:]} {_metavar(option)}".rstrip()
        about = _range(option)
        default = "" if option.shown_default in ("None", "") else f"default {option.shown_default}"
        notes = "; ".join(part for part in (about, default) if part)
        lines.append((left, option.help + (f" ({notes})" if notes else "")))
    return _lines(lines)


def _range(option: Option) -> str:
    if option.low is not None and option.high is not None:
        return f"{option.low:g} to {option.high:g}"
    if option.low is not None:
        return f"at least {option.low:g}"
    return f"at most {option.high:g}" if option.high is not None else ""


def _lines(pairs: Iterable[tuple[str, str]]) -> str:
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
