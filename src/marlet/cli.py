"""The command `marlet`: words and options are checked first (`words.py`); JAX is imported only to compute."""

import errno
import hashlib
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from marlet import manual
from marlet.catalogue import make_algorithm, make_env
from marlet.errors import MarletError, StorageFault, nearest
from marlet.sources import Option
from marlet.words import (
    Command,
    Given,
    chosen,
    counted,
    every_option,
    flag,
    own_and_env,
    printable,
    refuse_strangers,
    split,
)


def _options(*options: Option) -> dict[str, Option]:
    return {option.name: option for option in options}


ENV = Option(
    "env", "str", "''", "another environment (its options: --env.NAME), or the run's own where it is code of yours"
)
LEARNER = Option(
    "seed",
    "int | None",
    "None",
    "which learner; the best one (with several teams, by the first's return), when left out",
)

ALLOWED_WITH_RESUME = {"resume", "quiet", "workers", "step_timeout", "env"}
APPLIES = "only --env, --quiet, --workers and --step-timeout apply"
TRAIN = _options(
    Option("steps", "int", "1_000_000", "environment steps of each seed", low=1, high=1e15),
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
    Option("seeds", "int", "1", "independent learners, trained side by side", low=1, high=1_000_000),
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
    Option(
        "step_timeout",
        "float",
        "60.0",
        "seconds that a step or reset of one copy of such an environment may take before it is ended",
        low=0.001,
    ),
    Option(
        "save_every",
        "float",
        "30.0",
        "seconds between two checkpoints, which a power cut may cost; more where saving takes over a tenth of the time; 0: always",
        low=0,
    ),
    Option("options", "str | None", "None", "a JSON file of options: what is typed beside it goes before"),
    Option(
        "resume",
        "str | None",
        "None",
        f"go on with this run instead of starting one; {APPLIES}",
    ),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and say how it went: 0, a `MarletError`'s own code, or 130 after Ctrl-C."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        dispatch(argv)
        print(end="", flush=True)  # what fails here would otherwise be told by Python as it leaves
    except MarletError as error:
        if "--debug" in argv:
            raise
        print(f"marlet: {printable(str(error))}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt as stop:
        print(f"\n{printable(str(stop)) or 'Stopped.'}", file=sys.stderr)
        return 130
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.ENOSPC):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if error.errno == errno.ENOSPC:
            print("marlet: The disk is full. Free some space and try again.", file=sys.stderr)
            return StorageFault.exit_code
        # Otherwise the reader of a pipe has seen enough.
    return 0


def version(package: str) -> str:
    """Of an installed package."""
    from importlib import metadata  # takes a tenth of the time of `--help`, which needs none of it

    return metadata.version(package)


def dispatch(argv: list[str]) -> None:
    """Find the command and give it its words and options."""
    name, *rest = argv or ["--help"]
    if name == "help" and rest:
        name, rest = rest[0], [*rest[1:], "--help"]
    if name in ("--help", "-h", "help"):
        print(manual.introduction(COMMANDS.values()))
        return
    if name == "--version":
        print(f"marlet {version('marlet')}")
        return
    if name not in COMMANDS:
        raise MarletError(
            f"There is no command '{printable(name)}'.{nearest(name, [*COMMANDS, '--help', '--version'])}"
        )
    command = COMMANDS[name]
    asked = {"--help", "-h"}.intersection(rest)
    words, given = split([token for token in rest if token not in asked], COMMANDS.values())
    if asked:
        print(manual.help_of(command, words))
    else:
        command.run(command, words, given)


# The commands


def train(command: Command, words: list[str], given: Given) -> None:
    """Train an algorithm in an environment: `marlet train qmix spread --seeds 4`."""
    if "resume" in given:
        settled = sorted(given.keys() & {name for name, _ in every_option([command])} - ALLOWED_WITH_RESUME)
        if settled:
            raise MarletError(
                f"A run goes on as it was begun, so {flag(settled[0])} cannot be chosen anew; with --resume {APPLIES}."
            )
        refuse_strangers("train --resume", given, ALLOWED_WITH_RESUME)
        if words:
            raise MarletError(f"--resume goes on with a run as it was begun, so '{words[0]}' cannot be chosen anew.")
        own = command.checked(given)
        door = prepared()
        run = door.resume(own.pop("resume"), env=given.get("env"), **own)
    else:
        algorithm, world, own = chosen(command, words, given)
        door = prepared()
        env = make_env(*world)
        run = door.train(env, make_algorithm(*algorithm, env=env), **own)
    print(run.path)


def evaluate(command: Command, words: list[str], given: Given) -> None:
    """Play many greedy episodes with a run and print each agent's return with its 95 % interval."""
    (path,) = counted(command, words, 1)
    own, env = own_and_env(command, given)
    door = prepared()
    from marlet.runs.directory import Run
    from marlet.runs.report import as_text

    found = door.evaluate(path, env(), episodes=own["episodes"], seed=own["seed"], again=own["again"])
    print(as_text(found.rows()))
    learners = Run(path).options["train"]["seeds"]
    best = f", the best of {learners} by its last evaluation" + (" of team 0" if len(set(found.teams)) > 1 else "")
    print(
        f"{len(found.returns)} episodes of {found.lengths.mean():.1f} steps, "
        f"{found.solved.mean():.0%} ended by the world and not by the clock; "
        f"played by seed {found.seed}{best if own['seed'] is None and learners > 1 else ''}"
    )


def compare(command: Command, words: list[str], given: Given) -> None:
    """Print a table of runs; with --out also curves.png, table.csv and table.md.

    `seconds` and `steps_per_second` count everything since a run began, compiling and evaluating too.
    """
    counted(command, words, max(1, len(words)))
    own, _ = own_and_env(command, given)
    from marlet.runs.directory import Run
    from marlet.runs.report import as_text, improvements, lengths

    door = prepared()
    print(as_text(door.compare(words, own["out"])))
    for sentence in (*lengths([Run(path) for path in words]), *improvements([Run(path) for path in words])):
        print(sentence)
    if own["out"] is not None:
        print(Path(own["out"]) / "curves.png")


def watch(command: Command, words: list[str], given: Given) -> None:
    """Play one episode with a run: as episode.gif, or as text where the environment draws text."""
    (path,) = counted(command, words, 1)
    own, env = own_and_env(command, given)
    if own["terminal"] and own["out"] is not None:
        raise MarletError("--terminal shows the episode here and --out keeps it in a file: leave one of them out.")
    out = Path(own["out"] or Path(path) / "episode.gif")
    door = prepared()
    from marlet.runs import watch as show
    from marlet.runs.directory import Run

    if own["out"] is not None:
        show.check_output(out)
    policy = door.load(path, seed=own["seed"])
    episode = show.play(policy, door.env_of_run(Run(path), env()), seed=own["episode"])
    if own["terminal"] or (isinstance(episode.frames[0], str) and own["out"] is None):
        show.perform(episode, policy.spec.names)
        return
    show.check_output(out)
    print(show.save(episode, out))


def list_(command: Command, words: list[str], given: Given) -> None:
    """List algorithms and environments; with a name, tell all about it."""
    own_and_env(command, given)
    print("\n".join(map(manual.about, words)) or manual.contents())


def check_env(command: Command, words: list[str], given: Given) -> None:
    """Play an environment at random and hold every step against the contract."""
    (name,) = counted(command, words, 1)
    _, env = own_and_env(command, given, name)
    door = prepared()
    print(f"{name} keeps its contract: {', '.join(door.check_env(env()))}")


EVALUATE = _options(
    Option("episodes", "int", "512", "how many", low=1),
    Option(
        "again", "bool", "False", "the episodes of the run's own evaluations (--episodes as many) and not fresh ones"
    ),
    ENV,
    LEARNER,
)
COMPARE = _options(Option("out", "str | None", "None", "a directory for curves.png and the table"))
WATCH = _options(
    Option("out", "str | None", "None", "a file in .gif or .mp4; RUN/episode.gif, when left out"),
    Option("terminal", "bool", "False", "show it in the terminal instead"),
    Option("episode", "int", "0", "seed of the episode", low=0),
    ENV,
    LEARNER,
)
COMMANDS = {
    command.name: command
    for command in (
        Command("train", train, "ALGORITHM ENV", "marlet train qmix spread", TRAIN, foreign=True),
        Command("evaluate", evaluate, "RUN", "marlet evaluate runs/...", EVALUATE, foreign=True),
        Command("compare", compare, "RUN ...", "marlet compare runs/... runs/...", COMPARE),
        Command("watch", watch, "RUN", "marlet watch runs/...", WATCH, foreign=True),
        Command("list", list_, "[NAME]", "marlet list qmix"),
        Command("check-env", check_env, "ENV", "marlet check-env spread", foreign=True),
    )
}


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
