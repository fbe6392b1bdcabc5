"""Runs that are killed, stopped or started twice: resumed, they end bit for bit where they would have ended."""

import csv
import errno
import hashlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import marlet
from marlet import cli
from marlet.engine.train import Training
from marlet.errors import MarletError, StorageFault
from marlet.runs import checkpoint, experiment
from marlet.runs.directory import Lock, MetricsFile, Run

SMALL = "--hidden 8 --capacity 200 --warmup 40 --batch 4 --envs 4 --length 5 --epsilon_steps 500"
FAMILIES = {
    "deep": f"vdn two_step {SMALL} --seeds 2 --steps 30000",
    "recurrent": f"qmix spread --env.agents 2 --memory 8 {SMALL} --steps 15000",
    "tabular": "tabular_iql two_step --seeds 2 --steps 200000",
    "host": f"iql pettingzoo:mpe2.simple_spread_v3 --env.max_cycles 7 {SMALL} --workers 2 --steps 3000",
}
COMMON = "--quiet --evaluations 5 --episodes 4"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Where runs and compiled programs are kept, and the environment of the processes that train."""
    folder = tmp_path_factory.mktemp("resume")
    env = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(folder / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    return folder, env


def begin(home, *argv):
    folder, env = home
    argv = [sys.executable, "-m", "marlet", "train", *argv]
    return subprocess.Popen(argv, cwd=folder, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def done(process):
    _, told = process.communicate(timeout=300)
    assert process.returncode == 0, told


def fresh(home, family, name, save_every="0"):
    return begin(home, *FAMILIES[family].split(), *COMMON.split(), "--name", name, "--save-every", save_every)


def outcome(path):
    """What must not depend on how a run went: SHA-256 of all that is saved, and the rows but for the clock."""
    found, passed = checkpoint.newest(path / "checkpoints")
    assert passed == []
    digest = hashlib.sha256()
    for name in sorted(found.arrays):
        digest.update(name.encode() + found.arrays[name].tobytes())
    with open(path / "metrics.csv", newline="") as file:
        rows = [{name: cell for name, cell in row.items() if name != "seconds"} for row in csv.DictReader(file)]
    keys = [(row["steps"], row["seed"]) for row in rows]
    assert len(set(keys)) == len(keys)
    assert [float(row["steps"]) for row in rows] == sorted(float(row["steps"]) for row in rows)
    return digest.hexdigest(), rows


@pytest.fixture(scope="module")
def whole(home):
    """What each family's uninterrupted run comes to, made when first asked for."""
    known = {}

    def of(family):
        if family not in known:
            done(fresh(home, family, f"whole-{family}", "1000"))
            known[family] = outcome(home[0] / "runs" / f"whole-{family}")
        return known[family]

    return of


def wait_for(process, condition, seconds=200):
    deadline = time.monotonic() + seconds
    while not condition() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)


def pause(process, seconds):
    until = time.monotonic() + seconds
    wait_for(process, lambda: time.monotonic() > until)


def latest(path):
    names = [folder.name for folder in checkpoint.saved(path / "checkpoints")]
    return names[-1] if names else ""


def children(process):
    try:
        return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    except OSError:
        return []


def all_gone(pids, seconds=10):
    deadline = time.monotonic() + seconds
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(map(alive, pids))


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def killed_and_resumed(home, family, kills, name, draws):
    """Kill a run at random moments, `kills` times, some before the first save; then let it end. Kills that hit."""
    path, hits = home[0] / "runs" / name, 0
    process = fresh(home, family, name)
    for _ in range(kills):
        before = latest(path)
        if draws.random() < 0.8:
            wait_for(process, lambda before=before: latest(path) != before)
            pause(process, draws.uniform(0, 0.7))
        else:
            wait_for(process, (path / "options.json").exists)
            pause(process, draws.uniform(0, 3))
        workers = children(process)
        hits += process.poll() is None
        process.kill()
        process.communicate()
        assert all_gone(workers), "workers leave with their parent"
        process = begin(home, "--resume", str(path), "--quiet")
    done(process)
    assert not list((path / "checkpoints").glob(".*"))
    return hits


@pytest.mark.parametrize("family", FAMILIES)
def test_a_killed_run_ends_where_it_would_have_ended(home, whole, family):
    if family == "host":
        pytest.importorskip("mpe2")
    hits = killed_and_resumed(home, family, 2, f"killed-{family}", np.random.default_rng(0))
    assert hits >= 1
    assert outcome(home[0] / "runs" / f"killed-{family}") == whole(family)


@pytest.mark.learn
@pytest.mark.parametrize("family", FAMILIES)
def test_fifty_kills(home, whole, family):
    draws, hits, round = np.random.default_rng(1), 0, 0
    while hits < 50:
        name = f"often-{family}-{round}"
        hits += killed_and_resumed(home, family, 5, name, draws)
        assert outcome(home[0] / "runs" / name) == whole(family)
        round += 1


def test_another_seed_would_be_seen(home, whole):
    """The control: the comparison above does not hold for just any run."""
    argv = [*FAMILIES["tabular"].split(), *COMMON.split(), "--seed", "1", "--name", "other"]
    done(begin(home, *argv))
    ours, theirs = whole("tabular"), outcome(home[0] / "runs" / "other")
    assert ours[0] != theirs[0]
    assert ours[1] != theirs[1]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("family", ["tabular", "host"])
def test_a_stopped_run_saves_and_goes_on(home, whole, family, number, code):
    if family == "host":
        pytest.importorskip("mpe2")
    name = f"stopped-{family}-{code}"
    path = home[0] / "runs" / name
    process = fresh(home, family, name, "1000")
    wait_for(process, lambda: (path / "metrics.csv").exists())
    time.sleep(0.3)
    workers, begun = children(process), time.monotonic()
    process.send_signal(number)
    _, told = process.communicate(timeout=60)
    took = time.monotonic() - begun
    assert process.returncode == code, told
    assert "Traceback" not in told
    cure = re.search(r"Go on with: marlet train (--resume .+)$", told, re.MULTILINE)
    assert cure, told
    assert took < 20  # half a second a chunk; more where it was still compiling
    assert all_gone(workers)
    assert checkpoint.newest(path / "checkpoints")[0].notes["iteration"] > 0
    done(begin(home, *shlex.split(cure[1]), "--quiet"))
    assert outcome(path) == whole(family)


def test_a_second_process_is_sent_away(home, capsys, monkeypatch):
    monkeypatch.setattr("marlet.engine.devices.one_device_per_core", lambda: None)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", home[1]["JAX_COMPILATION_CACHE_DIR"])
    path = home[0] / "runs" / "twice"
    process = begin(
        home, *["tabular_iql", "two_step", "--steps", "1000000000", "--name", "twice", "--quiet", "--episodes", "2"]
    )
    wait_for(process, lambda: (path / "metrics.csv").exists())
    assert cli.main(["train", "--resume", str(path), "--quiet"]) == 2
    told = capsys.readouterr().err
    assert f"is being trained by process {process.pid} on " in told
    process.kill()
    process.communicate()
    with Lock(path):
        pass


def test_one_of_twenty_gets_the_lock(tmp_path):
    held, refused, ready = [], [], threading.Barrier(20)

    def start():
        ready.wait()
        try:
            held.append(Lock(tmp_path))
        except MarletError as fault:
            refused.append(str(fault))

    threads = [threading.Thread(target=start) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(held), len(refused)) == (1, 19)
    with held[0]:
        pass
    with Lock(tmp_path):
        pass


def test_how_a_run_is_watched_changes_nothing_of_what_it_learns(tmp_path):
    def learned(name, **watched):
        options = {
            "steps": 3000,
            "seeds": 2,
            "out": tmp_path,
            "name": name,
            "quiet": True,
            "evaluations": 2,
            "episodes": 2,
        }
        marlet.train(marlet.TwoStep(), marlet.tabular_iql(), **(options | watched))
        arrays = checkpoint.newest(tmp_path / name / "checkpoints")[0].arrays
        return {key: array for key, array in arrays.items() if key.startswith((".learned", ".world"))}

    ours = learned("a")
    for k, watched in enumerate(({"evaluations": 7}, {"episodes": 5}, {"quiet": False}, {"save_every": 0})):
        theirs = learned(f"b{k}", **watched)
        assert all(np.array_equal(ours[key], theirs[key]) for key in ours), watched
    theirs = learned("c", seed=1)  # the control
    assert not all(np.array_equal(ours[key], theirs[key]) for key in ours)


def test_resuming_falls_back_to_a_sound_checkpoint_and_says_so(tmp_path, capsys):
    def trained(name):
        options = {"steps": 3000, "evaluations": 6, "episodes": 2, "save_every": 0, "out": tmp_path, "quiet": True}
        return marlet.train(marlet.TwoStep(), marlet.tabular_iql(), name=name, **options).path

    path, other = trained("a"), trained("b")
    assert outcome(path) == outcome(other)
    newest = checkpoint.saved(path / "checkpoints")[-1]
    with open(newest / checkpoint.ARRAYS, "r+b") as file:
        file.seek(-3, os.SEEK_END)
        file.write(b"x")
    with open(path / "metrics.csv", "a") as file:
        file.write("3000,0,1.5,7.2")  # torn
    assert len(Run(path).metrics()["steps"]) == len(Run(other).metrics()["steps"])
    marlet.resume(path, quiet=True)
    told = capsys.readouterr().err
    assert f"{newest} is damaged" in told
    assert "saved earlier" in told
    assert checkpoint.saved(path / "checkpoints")[-1].name == newest.name + "+"
    for folder in checkpoint.saved(path / "checkpoints")[:-1]:
        assert folder.name <= newest.name
    assert checkpoint.newest(path / "checkpoints")[0].notes["iteration"] == 3000
    digest, rows = outcome(path)
    assert (digest, rows) == outcome(other)


def test_metrics_are_cut_to_what_the_checkpoint_knows(tmp_path):
    metrics = MetricsFile(tmp_path / "metrics.csv")
    metrics.append([{"steps": 1.0, "return": float("nan")}])
    length = metrics.length
    metrics.append([{"steps": 2.0, "return": 5.0}])
    metrics.cut(length)
    assert (tmp_path / "metrics.csv").read_text() == "steps,return\n1,\n"
    metrics.cut(10_000)  # never grows
    assert metrics.length == length
    metrics.cut(0)
    metrics.append([{"other": 3.0}])
    assert (tmp_path / "metrics.csv").read_text() == "other\n3\n"


def test_whole_numbers_keep_all_their_digits(tmp_path):
    metrics = MetricsFile(tmp_path / "metrics.csv")
    metrics.append([{"steps": 12_345_678_901, "seed": float(2**31 - 1), "return": 1 / 3, "most": float("inf")}])
    assert (tmp_path / "metrics.csv").read_text().split()[1] == "12345678901,2147483647,0.333333333,inf"


def test_a_full_disk_is_told_in_a_sentence(tmp_path, monkeypatch):
    with pytest.raises(StorageFault, match=r"Could not write /dev/full: No space left.*--resume"):
        MetricsFile(Path("/dev/full")).append([{"steps": 1.0}])

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(StorageFault, match=r"Could not write .*tables: No space left"):
        marlet.train("two_step", "tabular_iql", steps=10, evaluations=1, episodes=1, out=tmp_path, quiet=True)


# Environments from outside Marlet

FOREIGN = """
from dataclasses import dataclass
from marlet.envs.spread import Spread
from marlet.envs.two_step import TwoStep

@dataclass(frozen=True)
class Mine(Spread):
    pass

def make(agents=2):
    return Mine(agents=agents)
"""


@pytest.mark.rough
def test_code_of_ones_own_is_named_again_and_keeps_its_options(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_world.py").write_text(FOREIGN)
    small = {"envs": 2, "length": 3, "hidden": (4,), "capacity": 20, "warmup": 5, "batch": 2}
    from marlet.catalogue import make_env

    env = make_env("my_world:make", {"agents": 4})
    run = marlet.train(env, marlet.iql(**small), steps=30, evaluations=1, episodes=1, name="mine", quiet=True)
    with pytest.raises(MarletError, match=r"made with 'Mine', which is not in Marlet's sources.*named again"):
        marlet.resume(run.path, quiet=True)
    from marlet import door

    assert door.env_of_run(run, "my_world:make") == env
    marlet.resume(run.path, env="my_world:make", quiet=True)
    with pytest.raises(MarletError, match="cannot go on in"):
        marlet.resume(run.path, env=make_env("my_world:make", {"agents": 3}), quiet=True)


def test_a_host_run_is_loaded_evaluated_and_resumed(home, whole):
    pytest.importorskip("mpe2")
    whole("host")
    path = home[0] / "runs" / "whole-host"
    recorded = Run(path).metrics()["return"][-1]
    assert float(f"{marlet.evaluate(path, episodes=4, again=True).returns.mean():.9g}") == pytest.approx(
        recorded, rel=1e-6
    )
    policy = marlet.load(path)
    assert set(policy.act({name: np.zeros(18) for name in policy.spec.names})) == set(policy.spec.names)
    record = json.loads((path / "options.json").read_text())["env"]
    assert record == {"type": "pettingzoo:mpe2.simple_spread_v3", "options": {"max_cycles": 7}}


def test_saving_takes_a_tenth_of_the_time_at_the_most(tmp_path, monkeypatch):
    """Where it is slow; but for the first checkpoint, before which nobody knows, and the last."""
    saves = []
    monkeypatch.setattr(checkpoint, "write", lambda *_: (saves.append(1), time.sleep(0.3)))
    begun = time.monotonic()
    run = marlet.train("two_step", "tabular_iql", steps=300_000, save_every=1e-3, out=tmp_path, quiet=True)
    assert run.metrics()["steps"][-1] == 300_000
    assert (len(saves) - 2) * 0.3 <= (time.monotonic() - begun) / 10


def test_seeds_that_take_turns_are_asked_about_less_often(tmp_path, monkeypatch):
    asked, advance = [], Training.advance
    monkeypatch.setattr(Training, "advance", lambda self, n: (asked.append(n), advance(self, n)))
    monkeypatch.setattr(experiment, "CHUNK_SECONDS", 0.0)
    longest = []
    for seconds in (0.0, 100.0):
        monkeypatch.setattr(experiment, "TURN_SECONDS", seconds)
        marlet.train("two_step", "tabular_iql", steps=100, evaluations=1, out=tmp_path, name=f"{seconds}", quiet=True)
        longest.append(max(asked))
    assert longest[0] == 1
    assert longest[1] >= 32
