"""What users call: from names, objects and paths to runs, policies and tables."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from marlet.algorithms.base import Algorithm
from marlet.algorithms.sides import Frozen, Sides
from marlet.algorithms.sides import versus as sides_of
from marlet.bridges.resolve import Factory
from marlet.catalogue import (
    check_opponent,
    make_algorithm,
    make_env,
    named_in,
    rebuild,
    record_of,
    with_record,
)
from marlet.engine.host import STEP_TIMEOUT, HostEnv
from marlet.envs.base import Env
from marlet.errors import MarletError
from marlet.fitting import training_of, within_memory
from marlet.options import whole
from marlet.runs import evaluate as evaluation
from marlet.runs import experiment, pictures, report
from marlet.runs.directory import Run
from marlet.runs.policy import Policy, from_run
from marlet.testing import check_env as check_marlet_env


def train(
    env: str | Env | Factory,
    algorithm: str | Algorithm,
    *,
    options: Mapping[str, Any] | None = None,
    versus: str | Path | Algorithm | Sequence[str | Path | Algorithm] = "",
    league: str = "latest",
    steps: float = 1e6,
    seeds: int = 1,
    seed: int = 0,
    out: str | Path = "runs",
    name: str | None = None,
    evaluations: int = 40,
    episodes: int = 128,
    tensorboard: bool = False,
    quiet: bool = False,
    workers: int | None = None,
    step_timeout: float = STEP_TIMEOUT,
    save_every: float = 30.0,
) -> Run:
    """Train `seeds` independent learners and keep everything in a new directory below `out`.

    Args:
        env: an environment, or its name: `"spread"`, `"pettingzoo:mpe2.simple_spread_v3"`, `"my_module:make_env"`.
        algorithm: such as `marlet.qmix(learning_rate=1e-3)`, taken as it is; or its name, and its defaults are those that suit
            the environment (`marlet list ENV` tells where they differ).
        options: of an algorithm that is named, by their names on the command line: `{"mixer.size": 8}`.
        versus: what the other teams play, in their order: an algorithm or its name, or a run, whose policy is frozen;
            several in a sequence, or parted by commas.
        league: which selves of the other team one plays against: `latest`, `past` or `hardest` (see `Sides`).
        steps: environment steps of each seed.
        seeds: learners, trained side by side.
        seed: of the first learner; the others follow.
        out: where runs are kept.
        name: of the run's directory; made from what is trained and the time, when left out.
        evaluations: greedy evaluations over the run, evenly spaced.
        episodes: of each evaluation.
        tensorboard: also write events for TensorBoard.
        quiet: print nothing.
        workers: processes that step an environment that lives in Python; one a core, when left out.
        step_timeout: seconds that a step or reset of such an environment may take before it is ended.
        save_every: seconds between two checkpoints; more where saving would take over a tenth of the time; 0: always.

    Raises:
        MarletError: for what cannot be trained, with the cause and the cure, before anything is compiled.
        KeyboardInterrupt: after Ctrl-C, when the checkpoint is safe.
    """
    plan = experiment.Plan(
        steps=steps,
        seeds=seeds,
        seed=seed,
        evaluations=evaluations,
        episodes=episodes,
        tensorboard=tensorboard,
        save_every=save_every,
    )
    pictures.ready(Path(out))
    env = env_of(env)
    algorithm = against(algorithm_of(algorithm, env, options), versus, league, env)
    with within_memory(algorithm):
        training = training_of(env, algorithm, plan, workers, step_timeout)
        return pictured(experiment.train(training, plan, env=record_of(env), out=out, name=name, quiet=quiet))


def resume(
    path: str | Path,
    *,
    env: str | Env | Factory | None = None,
    quiet: bool = False,
    workers: int | None = None,
    step_timeout: float = STEP_TIMEOUT,
) -> Run:
    """Go on with a run from its newest sound checkpoint, bit for bit as if it had never stopped.

    `env` names the environment again where it is code from outside Marlet.

    Raises:
        MarletError: if `path` is no run, or its environment has to be named, or another one was named.
        CheckpointFault: if every checkpoint is damaged.
    """
    run = Run(path)
    plan = experiment.Plan(**run.options["train"])
    world = env_of_run(run, env)
    given, begun = json.loads(json.dumps(record_of(world))), run.options["env"]
    if given != begun:
        raise MarletError(f"{run.path} was begun in {begun}, so it cannot go on in {given}.")
    algorithm = rebuild(run.options["algorithm"])
    with within_memory(algorithm):
        training = training_of(world, algorithm, plan, workers, step_timeout)
        return pictured(experiment.resume(run, training, plan, quiet=quiet))


def load(path: str | Path, *, seed: int | None = None) -> Policy:
    """The policy that a run has learned: of the learner with this seed, or of the one whose last evaluation was best. Where
    there are several teams, the return of team 0 decides.

    Raises:
        MarletError: if `path` is no run or has no such seed.
        CheckpointFault: if no checkpoint is sound.
    """
    run, seed = Run(path), None if seed is None else whole("seed", seed, 0)
    return from_run(run, rebuild(run.options["algorithm"]), seed=seed)


def frozen(path: str | Path, *, side: int = 0, seed: int | None = None, greedy: bool = False) -> Frozen:
    """The policy of a run as an opponent that learns no more; of a run with several sides, the policy of one of them.

    Raises:
        MarletError: if `path` is no run, or has no such seed or side.
        CheckpointFault: if no checkpoint is sound.
    """
    policy = load(path, seed=seed)
    algorithm, learned, name = policy.algorithm, policy.learned, Run(path).name
    if isinstance(algorithm, Sides):
        if not 0 <= side < len(algorithm.sides):
            raise MarletError(f"{path} has the sides 0 to {len(algorithm.sides) - 1}, but {side} was asked for.")
        algorithm, learned = algorithm.sides[side], learned.sides[side]
    world = report.env_of(Run(path))
    return Frozen(name=name, algorithm=algorithm, learned=learned, greedy=greedy, world=world)


def against(
    algorithm: Algorithm,
    versus: str | Path | Algorithm | Sequence[str | Path | Algorithm],
    league: str = "latest",
    env: Env | Factory | None = None,
) -> Algorithm:
    """The algorithm with its opponents, if there are any; names become algorithms that suit `env`, and runs frozen policies.

    Raises:
        MarletError: for a name that is neither, or a league without opponents.
    """
    names = named_in(versus) if isinstance(versus, str) else versus
    others = list(names) if isinstance(names, Sequence) else [names]
    if not others:
        if league != "latest":
            raise MarletError(f"The league '{league}' needs opponents: say which by versus, such as --versus ippo.")
        return algorithm

    def opponent(one: str | Path | Algorithm, side: int) -> Algorithm:
        if isinstance(one, str | Path):
            check_opponent(str(one))
            return frozen(one, side=side) if Path(one).is_dir() else make_algorithm(str(one), env=env)
        return algorithm_of(one)

    return sides_of(algorithm, *(opponent(one, k + 1) for k, one in enumerate(others)), league=league)


def evaluate(
    path: str | Path,
    env: str | Env | Factory | None = None,
    *,
    episodes: int = 512,
    seed: int | None = None,
    again: bool = False,
) -> evaluation.Evaluation:
    """Play whole greedy episodes with what a run has learned, in its own environment or in `env`.

    The episodes are fresh ones; with `again` those of the run's own evaluations, if `episodes` is as many.

    Raises:
        MarletError: if the environment's agents do not see or do what was trained.
    """
    episodes = whole("episodes", episodes)
    return evaluation.evaluate(load(path, seed=seed), env_of_run(Run(path), env), episodes=episodes, again=again)


def compare(paths: str | Path | Sequence[str | Path], out: str | Path | None = None) -> list[dict[str, Any]]:
    """A row for each run, and where it has several teams for each of them; with `out`, also `curves.png`, `table.csv` and
    `table.md` in that directory.

    Raises:
        MarletError: if a path is no run or has no evaluations yet.
        StorageFault: if `out` cannot be written.
    """
    runs = [Run(path) for path in ([paths] if isinstance(paths, str | Path) else paths)]
    if not runs:
        raise MarletError("There is nothing to compare: name at least one run.")
    rows = report.table(runs)
    if out is not None:
        folder = Path(out)
        pictures.ready(folder)
        pictures.curves(runs, folder / "curves.png")
        (folder / "table.csv").write_text(report.as_csv(rows))
        (folder / "table.md").write_text(report.as_markdown(rows))
    return rows


def check_env(env: str | Env | Factory, *, episodes: int = 3, seed: int = 0) -> list[str]:
    """Play `episodes` at random and hold every step against the environment's contract.

    Returns:
        What was checked.

    Raises:
        EnvironmentFault: at the first breach: what, which agent, what was expected and the cure.
    """
    env, episodes = env_of(env), whole("episodes", episodes)
    if not isinstance(env, Factory):
        return check_marlet_env(env, seed=seed, episodes=episodes)
    draws, ended = np.random.default_rng(seed), 0
    with HostEnv(env, 1, workers=0) as host:
        now = host.reset(seed)
        for _ in range(episodes * (host.spec.horizon or 1000)):
            if host.spec.continuous:
                action = draws.uniform(-1, 1, (1, host.spec.num_agents, host.spec.num_actions))
            else:
                action = (draws.random(now.available.shape) * now.available).argmax(-1)
            next, now = host.step(action)
            ended += int(next.over[0])
            if ended == episodes:
                break
    return ["spaces", "agents", "shapes", "finite numbers", "legal actions", "deaths", f"{ended} episodes' ends"]


def env_of(env: str | Env | Factory, options: Mapping[str, Any] | None = None) -> Env | Factory:
    """The environment itself, made by its name where a name is given.

    Raises:
        MarletError: for what is neither.
    """
    if isinstance(env, str):
        return make_env(env, options)
    if not isinstance(env, Env | Factory):
        raise MarletError(
            f"{_said(env)} is not an environment. Give one that is made, such as marlet.Spread(), or its name, such as "
            "'spread' or 'my_module:make_env'."
        )
    return env


def algorithm_of(
    algorithm: str | Algorithm, env: Env | Factory | None = None, options: Mapping[str, Any] | None = None
) -> Algorithm:
    """The algorithm itself, made by its name where a name is given, with these options and the defaults that suit `env`.

    Raises:
        MarletError: for what is neither, or for options of an algorithm that is made.
    """
    if isinstance(algorithm, str):
        return make_algorithm(algorithm, options, env=env)
    if not isinstance(algorithm, Algorithm):
        raise MarletError(
            f"{_said(algorithm)} is not an algorithm. Give one that is made, such as marlet.qmix(), or its name: 'qmix'."
        )
    if options:
        kind = type(algorithm).__name__
        raise MarletError(
            f"options are given beside a {kind} that is made, but belong to an algorithm that is named: give its name, "
            "such as 'qmix', or set them where it is made, as in marlet.qmix(learning_rate=1e-3)."
        )
    return algorithm


def _said(thing: Any) -> str:
    """What was given, in a word or two."""
    kind = "class" if isinstance(thing, type) else "function" if callable(thing) else ""
    return f"The {kind} {thing.__name__}" if kind and hasattr(thing, "__name__") else repr(thing)


def env_of_run(run: Run, env: str | Env | Factory | None = None) -> Env | Factory:
    """The environment a run was trained in; or `env`, with the run's own options where it is the same one by name."""
    record = run.options["env"]
    if env is None:
        return rebuild(record)
    made = env_of(env, record.get("options") if env == record["type"] else None)
    same = isinstance(env, str) and isinstance(made, Env) and type(made).__name__ == record["type"]
    return with_record(made, record) if same else made


def pictured(run: Run) -> Run:
    """A run with its pictures drawn anew."""
    pictures.curves([run], run.path / "curves.png")
    pictures.write_tables_png(run)
    return run
