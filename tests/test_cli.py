"""The command line as a user types it: what works, what is refused in one sentence, and how fast."""

import contextlib
import csv
import dataclasses
import json
import math
import os
import pty
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
import types

import jax
import numpy as np
import pytest

import marlet
from marlet import __main__, catalogue, cli, door, manual, sources
from marlet.errors import CheckpointFault, MarletError
from marlet.options import describe
from marlet.runs import checkpoint
from marlet.runs.directory import Run
from marlet.runs.policy import best_seed
from marlet.runs.progress import ProgressLine, evaluation, short

TINY = ["--steps", "60", "--seeds", "2", "--evaluations", "2", "--episodes", "4", "--quiet"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A place for runs, and no lasting change to this process: not its devices, nor its compilation cache."""
    patch = pytest.MonkeyPatch()
    folder = tmp_path_factory.mktemp("home")
    patch.setenv("JAX_COMPILATION_CACHE_DIR", str(folder / "cache"))
    patch.setattr("marlet.engine.devices.one_device_per_core", lambda: None)
    yield folder
    patch.undo()


@pytest.fixture(scope="module")
def run(home):
    """A tiny tabular run, trained by the command."""
    argv = ["train", "tabular_iql", "two_step", *TINY, "--tensorboard", "--out", str(home), "--name", "first"]
    assert cli.main(argv) == 0
    return home / "first"


def refused(capsys, *argv, code=2):
    """The one sentence with which a command is refused."""
    assert cli.main(list(argv)) == code
    caught = capsys.readouterr()
    assert caught.out == ""
    assert "Traceback" not in caught.err
    assert caught.err.startswith("marlet: ")
    assert caught.err.count("\n") == 1
    return caught.err


# Opponents


def test_the_other_team_is_named_on_the_command_line(home):
    def sides_of(name, *versus):
        """The league of a run against these, and the kinds of its sides, once it is over."""
        argv = ["train", "tabular_iql", "matrix", "--env.game", "rock_paper_scissors", "--envs", "2", *TINY]
        assert cli.main([*argv, "--out", str(home), "--name", name, "--versus", *versus]) == 0
        told = Run(home / name).options["algorithm"]
        return told["league"], [side["type"] for side in told["sides"]]

    assert sides_of("scripted", "random") == ("latest", ["TabularQ", "Chance"])
    assert sides_of("itself", "tabular_iql", "--league", "past") == ("past", ["TabularQ", "TabularQ"])
    # What the second team has learned there is an opponent for the next run, in which it stays what it was.
    assert sides_of("frozen", str(home / "itself")) == ("latest", ["TabularQ", "Frozen"])
    learned = marlet.frozen(home / "itself", side=1).learned
    assert np.abs(learned.values).max() > 0
    assert all(map(np.array_equal, *map(jax.tree.leaves, (marlet.load(home / "frozen").learned.sides[1], learned))))


# What is refused


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("trian", "Did you mean 'train'"),
        ("help trian", "Did you mean 'train'"),
        ("version", "Did you mean '--version'"),
        ("--helpp", "Did you mean '--help'"),
        ("train", "Something is missing: marlet train ALGORITHM ENV"),
        ("train qmix", "Something is missing"),
        ("train qmxi spread", "no algorithm 'qmxi'. Did you mean 'qmix'"),
        ("train qmix sprad", "no environment 'sprad'. Did you mean 'spread'"),
        ("train spread qmix", "The algorithm comes first: marlet train qmix spread"),
        ("train spread", "The algorithm comes first: marlet train ALGORITHM spread"),
        ("train spread --help", "The algorithm comes first: marlet train ALGORITHM spread"),
        ("train qmix vdn", "'vdn' is an algorithm: marlet train qmix ENV"),
        ("train qmix spread more", "'more' is one word too many"),
        ("train qmix spread --lerning-rate 1", "Did you mean '--learning-rate'"),
        ("train qmix spread --lerning_rate=1", "Did you mean '--learning-rate'"),
        ("train qmix spread --lr 1", "Did you mean '--learning-rate'"),
        ("train qmix spread --zzz 1", "has no option --zzz. See: marlet train qmix spread --help"),
        ("train qmix spread -steps 5", "options begin with two: --steps"),
        ("train qmix spread --double false", "--double takes no value: say --double or --no-double"),
        ("train qmix spread --mixer sun", "There is no mixer 'sun'. Did you mean 'sum'?"),
        ("train qmix spread --mixer sum --mixer.size 3", "has no option --mixer.size with --mixer sum"),
        ("train qmix spread --agents 3", "Did you mean '--env.agents'"),
        ("train qmix spread --env.agent 3", "Did you mean '--env.agents'"),
        ("train qmix spread --mixer.siz 3", "Did you mean '--mixer.size'"),
        ("train qmix spread --quite", "Did you mean '--quiet'"),
        ("train qmix spread --no-doubel", "Did you mean '--double'"),
        ("train qmix spread --seed", "--seed needs a value"),
        ("train qmix spread --seed --quiet", "--seed needs a value"),
        ("train qmix spread --seed 1 --seed 2", "--seed is given twice"),
        ("train qmix spread --seeds 0", "seeds is 0, but must be from 1 to 1000000"),
        ("train qmix spread --seeds 1e9", "seeds is 1000000000, but must be from 1 to 1000000"),
        ("train qmix spread --seeds two", "must be a whole number"),
        ("train qmix spread --steps inf", "steps is 'inf', but must be a whole number"),
        ("train qmix grid --env.placement foo", "must be groups of numbers, such as [[0,0],[4,4]]"),
        ("train qmix grid --env.placement 0,0,4,4", "must be groups of numbers, such as [[0,0],[4,4]]"),
        ("train qmix spread --learning-rate -1", "must be at least 0 "),
        ("train qmix spread --env.agents 99", "must be from 1 to 32"),
        (
            "train --resume runs/x --steps 5",
            "goes on as it was begun, so --steps cannot be chosen anew; with --resume only --env, "
            "--quiet, --workers and --step-timeout apply",
        ),
        ("train --resume runs/x --learning-rate 5", "so --learning-rate cannot be chosen anew"),
        ("train --resume runs/x --env.size 5", "so --env.size cannot be chosen anew"),
        ("train --resume runs/x --quite", "Did you mean '--quiet'"),
        ("train qmix --resume runs/x", "cannot be chosen anew"),
        ("train --resume runs/nowhere", "is not a run"),
        ("evaluate", "marlet evaluate RUN"),
        ("evaluate runs/nowhere", "is not a run"),
        ("evaluate runs/nowhere --episodes 0", "must be at least 1"),
        ("evaluate runs/nowhere --env.agents 3", "needs the environment's name"),
        ("compare", "Something is missing: marlet compare RUN ..."),
        ("watch /dev/null", "is not a run"),
        ("watch runs/nowhere --ot x", "Did you mean '--out'"),
        ("list qmxi", "Did you mean 'qmix'"),
        ("check-env gird", "Did you mean 'grid'"),
        ("check-env qmix", "'qmix' is an algorithm, but the name of an environment is needed: adversary, crypto"),
        ("list qmix qmxi", "Did you mean 'qmix'"),
        ("train ippo tag --versus iql --league latst", "must be one of latest, past, hardest. Did you mean 'latest'?"),
        ("watch runs/nowhere --terminal --out x.gif", "leave one of them out"),
        ("check-env nowhere:make", "There is no module 'nowhere'"),
        (
            "train qmix spread --steps 1e30",
            "steps is 1000000000000000019884624838656, but must be from 1 to 1000000000000000",
        ),
        (
            "train tabular_iql grid --steps 1e14",
            "must be at most 2147483647: rounds of learning are counted in 32 bits",
        ),
        ("train qmix mine:make --step-timeout 0", "step_timeout is 0.0, but must be at least 0.001"),
        ("train qmix spread --capacity 1e13", "capacity is 10000000000000, but must be from 1 to 2147483647"),
    ],
)
def test_mistakes_are_told_in_one_sentence(capsys, home, argv, message):
    assert message in refused(capsys, *argv.split())


def test_steps_without_end_are_refused_from_python_too(home):
    with pytest.raises(MarletError, match="steps is inf, but must be a whole number"):
        marlet.train("spread", "qmix", steps=math.inf, out=home)


def test_too_little_memory_is_told_in_one_sentence(capsys, home):
    line = "train iql two_step --hidden 4 --batch 1000000000 --steps 10 --quiet"
    told = refused(capsys, *line.split(), "--out", str(home), code=6)
    assert "Memory is too small" in told
    assert "make one of these smaller: envs, length, hidden, memory, batch, capacity; or seeds" in told


@pytest.mark.parametrize(
    ("line", "messages"),
    [
        ("qmix spread --versus runs/nothere", ["There is no run 'runs/nothere' to play against."]),
        ("qmix spread --versus ipo", ["no algorithm 'ipo'. Did you mean 'ippo'"]),
        (
            "qmix spread --versus ippo",
            ["has 1 team. Leave --versus out, or name an environment of 2 teams: adv", "tag"],
        ),
        ("minimax_q soccer --versus ippo", ["Team 0 by itself: Minimax-Q is for two agents", "for that side."]),
        ("qmix tag", ["qmix learns one value for one team, but this environment has 2 teams. Use iql"]),
        ("coma reach", ["continuous vectors of size 2. Use an algorithm for", "Fit for this environment: ", "mappo"]),
        ("iql two_step --workers 3", ["workers is 3, but TwoStep is compiled", "leave it out"]),
        (
            "qmix spread --env.continuous",
            ["Fit for this environment: ", "mappo", "discrete actions: --no-env.continuous"],
        ),
    ],
)
def test_misfits_are_told_with_the_cure(capsys, home, line, messages):
    told = refused(capsys, "train", *line.split(), "--out", str(home))
    assert all(message in told for message in messages), told
    assert "variant" not in told


def test_a_file_here_is_told_from_an_environment(capsys, home, monkeypatch):
    monkeypatch.chdir(home)
    assert "Known: adversary" in refused(capsys, "check-env", "hall")
    (home / "hall.py").write_text("")
    assert "There is no environment 'hall', but hall.py is here" in refused(capsys, "check-env", "hall")


def test_misfits_name_what_fits(capsys, home):
    told = refused(capsys, "train", "minimax_q", "spread", "--out", str(home))
    assert "Minimax-Q is for two agents" in told
    assert "Fit for this environment:" in told
    assert "qmix" in told


def test_a_place_that_cannot_be_written_is_told_before_training(capsys, home):
    (home / "file").write_text("")
    told = refused(capsys, "train", "vdn", "two_step", "--out", str(home / "file" / "runs"), code=6)
    assert "Choose another --out" in told


def test_terminal_escapes_are_not_passed_on(capsys):
    assert "\x1b" not in refused(capsys, "train", "qmix\x1b[2J", "spread")


def test_every_error_keeps_its_exit_code(capsys, monkeypatch):
    def fail(argv):
        raise CheckpointFault("It is damaged.")

    monkeypatch.setattr(cli, "dispatch", fail)
    assert refused(capsys, "evaluate", "x", code=5) == "marlet: It is damaged.\n"
    with pytest.raises(MarletError):
        cli.main(["evaluate", "x", "--debug"])


def test_interruptions_end_with_130(capsys, monkeypatch):
    def stop(argv):
        raise KeyboardInterrupt("Stopped; saved.")

    monkeypatch.setattr(cli, "dispatch", stop)
    assert cli.main(["train"]) == 130
    assert capsys.readouterr().err == "\nStopped; saved.\n"


def test_an_interruption_while_the_command_is_imported(capsys, monkeypatch):
    class Interrupted(types.ModuleType):
        def __getattr__(self, name):
            raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "marlet.cli", Interrupted("marlet.cli"))
    assert __main__.main() == 130
    assert capsys.readouterr().err == "\nStopped.\n"


@pytest.mark.parametrize("words", ["list", "--version"])
def test_what_is_told_may_find_no_reader_and_no_room(words):
    def told(out):
        argv = [sys.executable, "-m", "marlet", words]
        found = subprocess.run(argv, stdout=out, stderr=subprocess.PIPE, text=True)
        return found.returncode, found.stderr

    reader, writer = os.pipe()
    os.close(reader)
    assert told(writer) == (0, "")
    os.close(writer)
    with open("/dev/full", "w") as full:
        assert told(full) == (6, "marlet: The disk is full. Free some space and try again.\n")


def test_no_option_of_training_is_also_one_of_an_algorithm():
    own = {*cli.TRAIN, "env", "debug"}
    for name in catalogue.algorithm_names():
        assert not own & set(catalogue.settings(catalogue.algorithm_entry(name), {}))


def test_training_takes_what_the_command_offers():
    import inspect

    own = inspect.signature(door.train).parameters.items()
    parameters = {name: p for name, p in own if p.kind == p.KEYWORD_ONLY}
    del parameters["options"]  # a mapping there, a file here
    offered = {name: option for name, option in cli.TRAIN.items() if name not in ("resume", "options")}
    assert set(offered) == set(parameters)
    assert {name: sources.literal(option.default) for name, option in offered.items()} == {
        name: parameter.default for name, parameter in parameters.items()
    }


# What is told


def test_help_teaches(capsys):
    assert cli.main([]) == cli.main(["--help"]) == 0
    told = capsys.readouterr().out
    assert told.count("\n  marlet ") >= 6  # three examples, twice
    codes = told.rpartition("Exit codes: ")[2]
    for fault in (MarletError, *MarletError.__subclasses__()):
        assert f" {fault.exit_code} " in codes
    for command in cli.COMMANDS:
        assert f"  {command} " in told
        assert cli.main([command, "--help"]) == 0
    assert cli.main(["train", "qmix", "grid", "--help"]) == 0
    told = capsys.readouterr().out
    assert "--learning-rate NUMBER" in told
    assert "--mixer {" in told
    assert "--mixer.size INT" in told
    assert "--[no-]double" in told
    assert "--env.sight INT" in told
    assert "0 to 1; default" in told


def test_help_fits_a_terminal_and_is_of_what_is_named(capsys):
    def told(line):
        assert cli.main(line.split()) == 0
        return capsys.readouterr().out

    for line in ("--help", "list", "train qmix spread --help"):
        assert max(map(len, told(line).splitlines())) <= manual.WIDTH
    assert told("help") == told("--help")
    assert told("help train qmix spread") == told("train qmix spread --help")
    assert "options of its own: `marlet check-env spread --help`" in told("check-env --help")
    assert "Options of my_pkg:make: what it takes by name, as --env.NAME VALUE." in told("train vdn my_pkg:make --help")


def test_the_list_tells_of_everything(capsys):
    assert cli.main(["list"]) == 0
    told = capsys.readouterr().out
    for name in [*catalogue.algorithm_names(), *catalogue.env_names()]:
        assert f"  {name} " in told
    assert cli.main(["list", "qmix", "grid"]) == 0
    told = capsys.readouterr().out
    assert "arXiv:1803.11485" in told
    assert "row and column, each as k/(size-1)" in told


@pytest.mark.parametrize(
    "argv", [["--help"], ["train", "qmix", "sprad"], ["train", "qmix", "spread", "--lerning-rate", "1"]]
)
def test_answers_come_without_jax_and_at_once(argv):
    program = "import sys; from marlet.cli import main; main(sys.argv[1:]); print('jax' in sys.modules, 'numpy' in sys.modules)"
    begun = time.monotonic()
    found = subprocess.run([sys.executable, "-c", program, *argv], capture_output=True, text=True, check=True)
    assert time.monotonic() - begun < 5.0  # a fifth of a second on an idle machine
    assert found.stdout.endswith("False False\n")


# What is done


def test_training_leaves_a_run_with_pictures(run, capsys):
    found = Run(run)
    assert set(found.metrics()["seed"]) == {0, 1}
    assert found.options["train"]["seeds"] == 2
    assert found.options["machine"]["random_numbers"] == "marlet.keys, hashed"
    assert (run / "curves.png").stat().st_size > 1000
    assert (run / "tables.png").stat().st_size > 1000


def test_tensorboard_is_told_the_numbers_of_the_table_and_no_others(run):
    from tensorboardX.proto.event_pb2 import Event

    (file,) = (run / "events").iterdir()
    data, seen = file.read_bytes(), {}
    while data:  # each record: its length in 8 bytes, 4 to check that, the record, 4 to check it
        (length,) = struct.unpack("<Q", data[:8])
        event, data = Event.FromString(data[12 : 12 + length]), data[16 + length :]
        seen |= {(value.tag, event.step): value.simple_value for value in event.summary.value}
    metrics = Run(run).metrics()
    table = {
        (f"seed_{int(seed)}/{name}", int(steps)): value
        for name in metrics.keys() - {"steps", "seed"}
        for steps, seed, value in zip(metrics["steps"], metrics["seed"], metrics[name], strict=True)
    }
    assert any(map(math.isnan, table.values()))
    assert seen == pytest.approx({key: value for key, value in table.items() if not math.isnan(value)})


@pytest.fixture
def reached(monkeypatch):
    """What arrives where `marlet train` would begin to compute."""
    reached = {}

    class Door:
        @staticmethod
        def train(env, algorithm, **own):
            reached.update(env=env, algorithm=algorithm, own=own)
            return Door

        path = "runs/here"

    monkeypatch.setattr(cli, "prepared", lambda: Door)
    return reached


def test_options_reach_the_algorithm_the_environment_and_the_training(reached, capsys):
    options = "--env.regrowth=0.25 --env.shared --mixer.size 8 --no-double --hidden 16,8 --steps 2e6 --name 12 --debug"
    assert cli.main(["train", "qmix", "grid", *options.split()]) == 0
    assert reached["env"] == catalogue.make_env("grid", {"regrowth": 0.25, "shared": True})
    expected = {"mixer.size": 8, "double": False, "hidden": (16, 8)}
    assert reached["algorithm"] == catalogue.make_algorithm("qmix", expected)
    assert reached["own"] == {"steps": 2_000_000, "name": "12"}
    assert capsys.readouterr().out == "runs/here\n"


def test_an_algorithm_that_is_named_is_suited_to_the_environment(reached, monkeypatch, capsys):
    monkeypatch.setattr(catalogue, "SUITED", {"spread": {"vdn": {"hidden": (32, 16), "double": False}}})
    suited = catalogue.make_algorithm("vdn", {"hidden": (32, 16), "double": False})
    for env, expected in (("spread", suited), ("two_step", marlet.vdn())):
        assert cli.main(["train", "vdn", env]) == 0
        assert reached["algorithm"] == door.algorithm_of("vdn", reached["env"]) == expected
    assert door.algorithm_of("vdn", marlet.Spread(), {"double": True}) == dataclasses.replace(suited, double=True)
    assert door.algorithm_of(marlet.vdn(), marlet.Spread()) == marlet.vdn()
    assert door.against(marlet.vdn(), "vdn", env=marlet.Spread()).sides == (marlet.vdn(), suited)
    capsys.readouterr()
    assert cli.main(["train", "vdn", "spread", "--help"]) == cli.main(["train", "vdn", "two_step", "--help"]) == 0
    assert " ".join(capsys.readouterr().out.split()).count("default 32,16 in spread, 64,64 elsewhere") == 1
    assert cli.main(["list", "spread", "two_step", "vdn", "iql"]) == 0
    told = capsys.readouterr().out
    assert told.count("Defaults that differ in spread\n  vdn  --hidden 32,16 --no-double\n") == 1
    assert told.count("Defaults that differ in one environment\n  spread  --hidden 32,16 --no-double\n") == 1


def test_options_come_from_a_file_and_those_on_the_line_go_before(reached, tmp_path):
    file = tmp_path / "kept.json"
    kept = {
        "mixer.size": 8,
        "double": False,
        "hidden": [16, 8],
        "learning-rate": 1e-2,
        "env.shared": True,
        "steps": 5e3,
    }
    file.write_text(json.dumps({"algorithm": "qmix", "env": "grid", "options": kept, "reached": -7.5}))
    line = [
        "train",
        "qmix",
        "grid",
        "--learning-rate",
        "0.5",
        "--options",
        str(file),
        "--mixer.hyper=4",
        "--seeds",
        "2",
    ]
    assert cli.main(line) == 0
    typed = (
        "--mixer.size 8 --no-double --hidden 16,8 --env.shared --steps 5e3 --learning-rate .5 --mixer.hyper 4 --seeds 2"
    )
    by_file = dict(reached)
    assert cli.main(["train", "qmix", "grid", *typed.split()]) == 0
    assert by_file == reached
    assert reached["algorithm"].learning_rate == 0.5
    assert reached["own"] == {"steps": 5000, "seeds": 2}


def test_a_run_is_repeated_from_its_own_record(reached, tmp_path):
    file, train = (
        tmp_path / "options.json",
        {"steps": 5000, "seeds": 2, "seed": 3, "save_every": 7.5, "tensorboard": True},
    )
    made = catalogue.make_algorithm("qmix", {"mixer.size": 8, "hidden": (), "max_gradient": 1e3, "double": False})
    pairs = [("qmix", made, "grid", catalogue.make_env("grid", {"placement": [[0, 0], [4, 4]]}))]
    pairs += [
        (name, catalogue.make_algorithm(name), "two_step", marlet.TwoStep()) for name in catalogue.algorithm_names()
    ]
    pairs += [("iql", marlet.iql(), name, catalogue.make_env(name)) for name in catalogue.env_names()]
    for name, algorithm, env_name, env in pairs:
        record = {"format": 1, "algorithm": describe(algorithm), "env": describe(env), "train": train, "spec": {}}
        file.write_text(json.dumps(record))
        assert cli.main(["train", name, env_name, "--options", str(file), "--seed", "4"]) == 0
        assert reached == {"algorithm": algorithm, "env": env, "own": train | {"seed": 4}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "kept.json cannot be read: No such file"),
        ("{", "kept.json is not JSON: "),
        ("[" * 100_000, "kept.json is not JSON: "),
        ("[1]", "kept.json should hold options, such as"),
        ('{"envs": 8}', "kept.json should hold options, such as"),
        ('{"algorithm": "vdn", "options": {}}', "has options for the algorithm 'vdn', but 'qmix' was named."),
        ('{"env": "grid", "options": {}}', "has options for the env 'grid', but 'spread' was named."),
        (
            '{"options": {"mixer.siz": 8}}',
            "kept.json: `marlet train qmix spread` has no option --mixer.siz. Did you mean",
        ),
        ('{"options": {"options": "x"}}', "has no option --options"),
        ('{"algorithm": {"name": "qmix"}}', "does not say the algorithm, the environment and the training of a run."),
        ('{"algorithm": {"name": "vdn"}, "env": {"type": "Spread"}, "train": {}}', "the algorithm 'vdn', but 'qmix'"),
        ('{"algorithm": {"name": "qmix"}, "env": {"type": "Grid"}, "train": {}}', "the env 'grid', but 'spread'"),
        ('{"algorithm": {"sides": []}, "env": {"type": "Spread"}, "train": {}}', "repeated by its command"),
        ('{"options": {"resume": "x"}}', "has no option --resume"),
        ('{"options": {"hidden": {"units": 8}}}', "hidden is"),
        ('{"options": {"envs": null}}', "must be a whole number"),
        ('{"options": {"discount": 7}}', "must be from 0 to 1"),
    ],
)
def test_a_file_of_options_that_does_not_fit_is_told_in_one_sentence(capsys, tmp_path, content, message):
    file = tmp_path / "kept.json"
    if content is not None:
        file.write_text(content)
    assert message in refused(capsys, "train", "qmix", "spread", "--options", str(file))


def test_a_name_that_is_taken_is_refused(run, capsys):
    told = refused(capsys, "train", "tabular_iql", "two_step", *TINY, "--out", str(run.parent), "--name", "first")
    assert f"exists already. Go on with it by --resume {run}" in told
    shutil.copytree(run, run.parent / "never-saved", ignore=shutil.ignore_patterns("0*"))
    told = refused(capsys, "train", "tabular_iql", "two_step", *TINY, "--out", str(run.parent), "--name", "never-saved")
    assert "exists already. It has no checkpoint to go on from: choose another --name, or remove it." in told


def test_a_finished_run_can_be_resumed(run, capsys):
    files = lambda: {path: path.read_bytes() for path in [run / "metrics.csv", *run.glob("checkpoints/*/*")]}  # noqa: E731
    before = files()
    assert cli.main(["train", "--resume", str(run)]) == 0
    assert files() == before
    told = capsys.readouterr()
    assert told.out.strip().endswith("first")
    assert "already finished" in told.err


@pytest.mark.parametrize(("part", "name", "value"), [("train", "steps", 9_000), ("algorithm", "learning_rate", 0.9)])
def test_a_run_whose_options_were_changed_is_not_resumed(run, tmp_path, capsys, part, name, value):
    changed = shutil.copytree(run, tmp_path / "changed")
    options = json.loads((changed / "options.json").read_text())
    assert name in options[part]
    options[part][name] = value
    (changed / "options.json").write_text(json.dumps(options))
    told = refused(capsys, "train", "--resume", str(changed))
    assert f"was changed since {checkpoint.saved(changed / 'checkpoints')[-1].name} was saved, in: {part}." in told


def test_a_run_without_a_checkpoint_says_that_it_begins_anew(run, tmp_path, capsys):
    bare = shutil.copytree(run, tmp_path / "bare")
    shutil.rmtree(bare / "checkpoints")
    assert cli.main(["train", "--resume", str(bare), "--quiet"]) == 0
    assert capsys.readouterr().err == f"{bare} has no checkpoint yet: it begins anew.\n"


@pytest.mark.parametrize("part", ["algorithm", "env", "train", "spec"])
def test_a_record_that_lacks_a_part_is_told_in_one_sentence(run, tmp_path, capsys, part):
    torn = shutil.copytree(run, tmp_path / "torn")
    options = json.loads((torn / "options.json").read_text())
    del options[part]
    (torn / "options.json").write_text(json.dumps(options))
    for command in ("evaluate", "compare", "watch"):
        assert f"does not say the run's {part}" in refused(capsys, command, str(torn), code=5)


def test_what_was_never_evaluated_is_not_compared(run, tmp_path, capsys):
    bare = shutil.copytree(run, tmp_path / "bare")
    (bare / "metrics.csv").unlink()
    assert "has no evaluations yet" in refused(capsys, "compare", str(bare))


@pytest.mark.parametrize(
    "content", [b"garbage\n", b"steps,seed,seconds,return\n30,0,x,7\n", b"\xff\xfe\n", b"steps,seed\n30,0\n", "cut"]
)
def test_a_damaged_table_is_told_in_one_sentence_and_left_as_it_is(run, tmp_path, capsys, content):
    torn = shutil.copytree(run, tmp_path / "torn")
    whole, cut = (torn / "metrics.csv").read_bytes(), content == "cut"
    content = whole[: whole.rindex(b"\n60,") + 1] if cut else content
    (torn / "metrics.csv").write_bytes(content)
    for command in (["train", "--resume"], *([] if cut else [["compare"], ["evaluate"]])):
        assert "metrics.csv is damaged. Put it back" in refused(capsys, *command, str(torn), code=5)
    assert (torn / "metrics.csv").read_bytes() == content


def test_a_run_without_its_table_goes_on_and_is_evaluated_anew(run, tmp_path, capsys):
    bare = shutil.copytree(run, tmp_path / "bare")
    (bare / "metrics.csv").unlink()
    assert cli.main(["train", "--resume", str(bare), "--quiet"]) == 0
    assert "has lost its metrics.csv" in capsys.readouterr().err
    assert list(Run(bare).metrics()["steps"]) == [60, 60]


def test_a_record_of_another_format_is_told_with_both(run, tmp_path, capsys):
    newer = shutil.copytree(run, tmp_path / "newer")
    options = json.loads((newer / "options.json").read_text()) | {"format": 99}
    (newer / "options.json").write_text(json.dumps(options))
    assert "is of format 99, but this Marlet reads format 1" in refused(capsys, "evaluate", str(newer), code=5)


def test_evaluating(run, capsys):
    assert cli.main(["evaluate", str(run), "--episodes", "8"]) == 0
    header, *rows = capsys.readouterr().out.strip().split("\n")
    assert header.split() == ["agent", "return", "low", "high"]
    assert [row.split()[0] for row in rows] == ["agent_0", "agent_1", "mean", "8"]
    assert float(rows[0].split()[1]) in (0.0, 1.0, 7.0, 8.0)  # what can be earned
    assert "8 episodes of 2.0 steps, 100% ended by the world" in rows[-1]
    assert rows[-1].endswith(f"; played by seed {best_seed(Run(run))}, the best of 2 by its last evaluation")
    assert cli.main(["evaluate", str(run), "--episodes", "2", "--seed", "1"]) == 0
    assert capsys.readouterr().out.endswith("; played by seed 1\n")


def test_evaluating_elsewhere_needs_agents_that_fit(run, capsys):
    told = refused(capsys, "evaluate", str(run), "--env", "spread", "--env.agents", "2", "--episodes", "2")
    assert "trained with num_actions 2, but Spread has 5" in told


def test_evaluating_where_something_seen_is_not_finite(run, tmp_path, monkeypatch, capsys):
    (tmp_path / "blinding.py").write_text(
        "import equinox as eqx\nimport jax.numpy as jnp\nfrom marlet.envs.two_step import TwoStep\n\n"
        "class Blinding(TwoStep):\n"
        "    def step(self, state, action, *, key):\n"
        "        state, step = super().step(state, action, key=key)\n"
        "        return state, eqx.tree_at(lambda s: s.obs, step, step.obs.at[1, 0].set(jnp.nan))\n"
    )
    monkeypatch.chdir(tmp_path)
    told = refused(capsys, "evaluate", str(run), "--env", "blinding:Blinding", "--episodes", "2", code=3)
    assert "Blinding gave an observation or a reward that is not finite. Run `marlet check-env` on it." in told


def test_what_was_learned_acts_in_ones_own_program(run):
    policy = marlet.load(run)
    opening = np.array([1.0, 0.0, 0.0])
    assert set(policy.act({"agent_0": opening, "agent_1": opening})) == {"agent_0", "agent_1"}
    assert policy.act(np.stack([opening, opening])).shape == (2,)
    with pytest.raises(MarletError, match="seeds 0 to 1, but 7"):
        marlet.load(run, seed=7)


def test_comparing(run, home, capsys):
    assert cli.main(["compare", str(run), str(run), "--out", str(home / "both")]) == 0
    told = capsys.readouterr().out
    assert "beats" in told
    rows = list(csv.DictReader((home / "both" / "table.csv").open()))
    assert [row["run"] for row in rows] == ["first", "first"]
    assert rows[0]["environment"] == "TwoStep"
    assert (home / "both" / "table.md").read_text().startswith("| run |")
    assert (home / "both" / "curves.png").stat().st_size > 1000


def test_watching(run, home, capsys):
    assert cli.main(["watch", str(run)]) == 0
    assert capsys.readouterr().out.startswith("step 0\nfirst step")
    assert cli.main(["watch", str(run), "--out", str(home / "episode.gif")]) == 0
    assert (home / "episode.gif").read_bytes().startswith(b"GIF89a")
    capsys.readouterr()
    assert "should end in" in refused(capsys, "watch", str(run), "--out", "episode.txt")


def test_checking_environments(home, capsys):
    assert cli.main(["check-env", "two_step"]) == 0
    assert "two_step keeps its contract: spec" in capsys.readouterr().out
    pytest.importorskip("mpe2")
    assert cli.main(["check-env", "pettingzoo:mpe2.simple_spread_v3", "--env.max_cycles", "4"]) == 0
    assert "3 episodes' ends" in capsys.readouterr().out


def test_ctrl_c_is_answered_saves_and_says_how_to_go_on(tmp_path):
    """The whole command on a terminal of its own, stopped by Ctrl-C; compiled programs go to the user's cache."""
    argv = [sys.executable, "-m", "marlet", "train", "tabular_iql", "two_step", "--steps", "1e9", "--name", "long"]
    env = {key: value for key, value in os.environ.items() if key != "JAX_COMPILATION_CACHE_DIR"}
    env |= {"XDG_CACHE_HOME": str(tmp_path / "cache"), "TERM": "xterm", "COLUMNS": "120"}
    ours, theirs = pty.openpty()
    told = []

    def listen():
        with contextlib.suppress(OSError):  # when the other end is closed
            while True:
                told.append(os.read(ours, 4096))

    with subprocess.Popen(
        [*argv, "--evaluations", "1", "--episodes", "4"], cwd=tmp_path, env=env, stderr=theirs
    ) as process:
        os.close(theirs)
        listener = threading.Thread(target=listen)
        listener.start()
        metrics = tmp_path / "runs" / "long" / "metrics.csv"
        deadline = time.monotonic() + 60
        while not (metrics.exists() and metrics.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)
    listener.join()
    os.close(ours)
    progress, answered, end = b"".join(told).decode().partition("Ctrl-C again stops at once")
    assert process.returncode == 130
    assert "compiling" in progress
    assert "/1G steps" in progress + end
    assert answered
    assert "Go on with: marlet train --resume runs/long" in end
    assert "Traceback" not in end
    assert list((tmp_path / "runs" / "long" / "checkpoints").iterdir())
    assert list((tmp_path / "cache" / "marlet").glob("jax-*"))


def left(body):
    """Exit code, error output and seconds of `marlet` where this is the body of its command."""
    program = f"""
import gc, os, signal, sys, threading, time, types
from marlet import __main__

def command():
{body}

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job is begun with Ctrl-C ignored
sys.modules["marlet.cli"] = types.SimpleNamespace(main=command)
sys.exit(__main__.main())
"""
    begun = time.monotonic()
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    return ended.returncode, ended.stderr, time.monotonic() - begun


def test_ctrl_c_that_comes_where_nothing_can_be_raised_comes_again():
    """Python throws away what a callback of its garbage collector raises, and JAX has such a callback."""
    code, told, _ = left("""
    gc.callbacks.append(lambda phase, _: phase == "start" and os.kill(os.getpid(), signal.SIGINT))
    try:
        gc.collect()
        gc.callbacks.clear()
        time.sleep(20)
    except KeyboardInterrupt:
        return 130
    return 0
""")
    assert (code, told) == (130, "")


@pytest.mark.parametrize(("code", "at_once"), [(130, True), (0, False)])
def test_who_stops_does_not_wait_for_what_is_compiled_beside(code, at_once):
    ended_with, told, seconds = left(f"""
    threading.Thread(target=time.sleep, args=(8,)).start()
    print("Stopped.", file=sys.stderr)
    return {code}
""")
    assert (ended_with, told, seconds < 6) == (code, "Stopped.\n", at_once)


# The progress line


def test_the_progress_line_is_quiet_but_for_the_end(capsys):
    rows = [{"return": -7.0, "loss": 0.5}, {"return": -8.0, "loss": float("nan")}]
    with ProgressLine(2_000_000) as line:
        line.update(0, rows)
        line.moved(1_000_000)
        assert capsys.readouterr().err == ""
        line.update(2_000_000, rows)
    told = capsys.readouterr().err
    assert told.startswith("2M/2M steps  ")
    assert " steps/s  " in told
    assert told.endswith("return -7.50 [-8.00, -7.00]  loss 0.5\n")
    with ProgressLine(10, quiet=True) as line:
        line.update(10, rows)
    assert capsys.readouterr().err == ""


def test_the_progress_line_tells_the_return_of_each_team():
    duel = [{"return": -7.0, "return_0": 3.0, "return_1": -17.0}, {"return": -8.0, "return_0": 4.0, "return_1": -20.0}]
    assert evaluation(duel) == "return 0: 3.50 [3.00, 4.00] 1: -18.50 [-20.00, -17.00]"
    assert evaluation([{"return": 0.0} | {f"return_{k}": k for k in range(9)}]).endswith("3: 3.00 ...")


def test_the_rate_leaves_out_what_went_into_compiling(capsys, monkeypatch):
    clock = iter([0.0, 40.0, 41.0])  # 30 seconds until the first 40 steps, then 1000 a second and seed
    monkeypatch.setattr("marlet.runs.progress.time.monotonic", lambda: next(clock))
    with ProgressLine(1040) as line:
        line.update(0, [{"return": 0.0}] * 2)
        line.moved(40)
        line.moved(1040)
    assert capsys.readouterr().err.startswith("1.04k/1.04k steps  2k steps/s")


def test_the_progress_line_lives_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "120")
    with ProgressLine(100) as line:
        line.update(0, [{"return": 1.0}])
        assert line._told() == "0/100 steps  compiling  return 1.00"  # the program that trains is not ready yet
        line.moved(50)
        assert "compiling" not in line._told()
    assert "50/100 steps" in capsys.readouterr().err


def test_the_progress_line_knows_what_was_done_before(capsys):
    with ProgressLine(100, done=100):
        pass
    assert capsys.readouterr().err == "100/100 steps  already finished\n"


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0"), (999, "999"), (1_250_000, "1.25M"), (999_999, "1M"), (2e9, "2G")]
)
def test_short_numbers(number, text):
    assert short(number) == text
