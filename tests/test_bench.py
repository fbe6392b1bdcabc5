"""The benchmark measures what it says; and speed against references in the same run has not fallen."""

import importlib
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import equinox as eqx
import jax
import numpy as np
import pytest

from marlet import cli
from marlet.catalogue import make_algorithm, make_env

ROOT = Path(__file__).parent.parent
BENCH = ROOT / "bench"
SETTINGS = sorted(path.stem for path in (BENCH / "settings").glob("*.json"))


@pytest.fixture(autouse=True)
def bench(monkeypatch):
    """The folder's modules import one another by their bare names."""
    monkeypatch.syspath_prepend(str(BENCH))


def load(name):
    return importlib.import_module(name)


# How fast


def test_speed_has_not_fallen_by_a_third():
    floors = load("floors")
    recorded = floors.kept()
    assert set(recorded) == {"stepping spread", "stepping grid", "training vdn", "training ippo"}
    assert floors.fallen(floors.measured(recorded), recorded) == []


def test_a_fall_would_be_seen():
    fallen = load("floors").fallen
    assert fallen({"a": 0.68, "b": 2.0}, {"a": 1.0, "b": 1.0}) == []
    (sentence,) = fallen({"a": 0.66, "b": 2.0}, {"a": 1.0, "b": 1.0})
    assert sentence.startswith("a: 0.66, but 1 was recorded")
    assert len(fallen({}, {"a": 1.0})) == 1


def test_a_ratio_is_how_often_one_runs_while_the_other_runs_once():
    ratios = load("floors").ratios
    assert ratios({"twice": ("r", lambda key: 0.5)}, {"r": lambda key: 1.0}) == {"twice": 2.0}


def test_programs_in_turns_are_told_by_their_units():
    measure, turns = load("measure"), []
    rates = measure.in_turns(
        {name: lambda steps, key, name=name: turns.append(name) or np.linalg.svd(np.ones((60, 60))) for name in "ab"},
        units={"a": 10, "b": 10},
        quick=True,
        first=1,
    )
    assert "".join(turns).endswith("ab" * measure.QUICK_RUNS)
    assert all(rate.per_second > 0 for rate in rates.values())


# That it is the same task, and the same settings


@pytest.mark.skipif(shutil.which("gcc") is None, reason="the loop in C is only measured where there is gcc")
def test_the_loop_in_c_plays_the_same_grid(tmp_path):
    stepping = load("stepping")
    told = stepping.run_c(stepping.compiled_c(tmp_path), 512, 0.3)
    go, world, _ = stepping.random_play(make_env("grid"), 512)
    _, tally = go(world, 0, 10)
    assert told["earned_per_episode"] == pytest.approx(float(tally.score.sum() / tally.episodes.sum()), rel=0.02)


def test_clocks_apart_end_episodes_one_by_one():
    stepping, env = load("stepping"), make_env("spread")
    _, (world, _), _ = stepping.random_play(env, 50, apart=True)
    assert np.bincount(np.asarray(world.state.clock).reshape(-1)).tolist() == [2] * env.steps


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_are_what_marlet_train_understands(name, monkeypatch):
    settings = load("settings")
    record = settings.read(name)
    algorithm = settings.algorithm_of(name)
    assert algorithm.envs * algorithm.length == {8: 208, 16: 2048}[record["options"]["envs"]]
    assert record["jaxmarl_steps_per_second"] > 0

    class Reached(Exception):
        pass

    def stop():
        raise Reached

    # All that was typed has been checked before anything is prepared.
    monkeypatch.setattr(cli, "prepared", stop)
    file = str(BENCH / "settings" / f"{name}.json")
    with pytest.raises(Reached):
        cli.main(["train", record["algorithm"], record["env"], "--options", file, "--debug"])


@pytest.mark.parametrize(
    ("name", "cell"),
    [("ippo", "gru"), ("ippo_recurrent", "gru"), ("mappo_recurrent", "gru"), ("mappo_recurrent", "linear")],
)
def test_multiply_adds_are_counted_as_the_networks_are_made(name, cell):
    settings, products = load("settings"), load("products")
    algorithm, spec = replace(settings.algorithm_of(name), cell=cell), make_env("spread").spec
    learned = eqx.filter_eval_shape(algorithm.init, spec, key=jax.random.key(0))
    weights = [leaf for leaf in jax.tree.leaves((learned.actor, learned.critic)) if leaf.ndim == 3]  # copies first
    forward = sum(leaf.size for leaf in weights)
    work = products.work_of(algorithm, spec)
    assert work.multiply_adds == 3 * forward * (1 + 3 * 4)
    assert work.rows * algorithm.minibatches == 3 * 2048


def test_a_network_by_hand():
    assert load("products").multiply_adds(18, (64, 32), 0) == 18 * 64 + 64 * 32
    assert load("products").multiply_adds(18, (64,), 16) == 18 * 64 + 3 * 16 * (64 + 16)
    assert load("products").multiply_adds(18, (64,), 16, cell="linear") == 18 * 64 + 2 * 16 * 64
    assert load("products").products_of(16, 8, 5) == 16 * 8 + 8 * 5


def test_a_product_keeps_its_rows_as_long_as_they_were():
    program = load("products").product_program(12, 8, 1)
    before, after = (np.asarray(program(steps, 0)) for steps in (0, 50))
    assert not np.allclose(before, after)
    np.testing.assert_allclose(np.linalg.norm(after, axis=1), np.linalg.norm(before, axis=1), rtol=1e-4)


def test_what_a_transition_needs_by_hand():
    assert load("replay_memory").needed_bytes(make_env("spread").spec) == 4 * (3 * 18 + 18 + 3 + 3) + 3 * 5 + 3 + 1


# What is told


@pytest.mark.rough
@pytest.mark.parametrize("part", ["q_forward", "q_gradient"])
def test_what_is_timed_of_q_learning_learns_from_steps_that_were_played(part, monkeypatch):
    """From a replay of nothing XLA would know the loss beforehand, and nothing would be timed."""
    parts = load("training_parts")
    small = make_algorithm("qmix", {"envs": 4, "length": 5, "capacity": 100, "batch": 8, "hidden": (8,), "memory": 8})
    monkeypatch.setattr(parts, "algorithm_of", lambda name: small)
    scene = parts.Scene("qmix")
    assert scene.learned.replay.size == scene.learned.replay.slots
    weights, target, batch = parts._q_batch(scene)
    assert batch.alive.all()
    assert np.asarray(batch.seen.obs).std() > 0.1
    assert small._loss(weights, target, batch)[0] > 0.1
    before = jax.tree.map(np.array, (weights, target))
    timed, _ = getattr(parts, part)(scene)
    after = timed(3, 0)
    for one, other in zip(jax.tree.leaves(before), jax.tree.leaves(after[:2]), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-20)
    biases = [networks.team.copies.last.bias for networks in (before[0], after[0])]
    assert (biases[0] == 0).all()
    assert (np.abs(biases[1]) > 0).all(), "next to nothing, because the result was waited for"


def test_a_run_is_watched_until_a_row_is_enough(monkeypatch):
    watching = load("watching")
    script = (
        "import pathlib, sys, time\n"
        "file = pathlib.Path(sys.argv[1], 'run', 'metrics.csv')\n"
        "file.parent.mkdir()\n"
        "with open(file, 'w') as out:\n"
        "    for line in ['steps,return,loss', '0,-20,', '9,-12,.5', '18,-11,.4']:\n"
        "        print(line, file=out, flush=True)\n"
        "        time.sleep(.2)\n"
        "    print('27,-1', end='', file=out, flush=True)\n"
        "    time.sleep(60)\n"
    )
    place = lambda words: words[words.index("--out") + 1]  # noqa: E731
    monkeypatch.setattr(watching, "marlet", lambda *words: [sys.executable, "-c", script, place(words)])
    rows = watching.watched(["x"], environment={}, seconds=30, enough=lambda row: row["return"] > -12.5)
    assert [row["steps"] for row in rows] == [0, 9]
    assert "loss" not in rows[0]
    assert rows[0]["clock"] + 0.1 < rows[1]["clock"] < 10
    assert len(watching.watched(["x"], environment={}, seconds=2)) == 3  # the torn line is no row


def test_a_run_that_fails_is_told(monkeypatch):
    watching = load("watching")
    monkeypatch.setattr(watching, "marlet", lambda *words: [sys.executable, "-c", "raise SystemExit(3)"])
    with pytest.raises(RuntimeError, match="ended with 3"):
        watching.watched(["x"], environment={}, seconds=30)


def test_curves_are_medians_as_far_as_all_seeds_came(tmp_path):
    subject = load("time_to_return")
    run = lambda *returns: [  # noqa: E731
        {"return": r, "clock": 2.0 * k, "steps": 10.0 * k} for k, r in enumerate(returns)
    ]
    runs = [run(-20, -14, -12), run(-22, -13), run(-21, -15, -14)]
    assert subject.median_curve(runs) == {"seconds": [0, 2], "return": [-21, -14]}
    assert [subject.first_at(each, -13) for each in runs] == [runs[0][2], runs[1][1], None]
    assert subject.median_of([4.0, 2.0], of=3) == 4.0
    assert subject.median_of([4.0], of=2) is None
    subject.drawn([{"subject": "`vdn`", "curve": subject.median_curve(runs)}], tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes()[1:4] == b"PNG"


def test_every_subject_plans_its_tables():
    run, wish = load("run"), load("measure").Wish(cores=2)
    for name, module in run.SUBJECTS.items():
        tables = module.plan(wish)
        assert tables or name in ("peers", "host_envs")
        for function, arguments in (call for table in tables for call in table.calls):
            assert callable(getattr(module, function.__name__))
            json.dumps(arguments)


def test_a_subject_goes_from_a_fresh_process_to_the_tables(tmp_path, monkeypatch, capsys):
    run, measure = load("run"), load("measure")

    class Toy:
        @staticmethod
        def plan(wish):
            table = measure.Table("Toys", [(run.devices, ())], lambda rows: [{**row, "agents": 7} for row in rows])
            return [table] if wish.quick else []

    monkeypatch.setitem(run.SUBJECTS, "toy", Toy)
    monkeypatch.setattr(sys, "argv", ["run.py", "--quick", "--only", "toy", "--out", str(tmp_path)])
    (tmp_path / "latest.json").write_text(json.dumps({"starting": {"kept": 1, "tables": {}}}))
    monkeypatch.setattr(run, "page", lambda results: str(list(results)))
    assert run.main() == 0
    results = json.loads((tmp_path / "latest.json").read_text())
    assert results["starting"] == {"kept": 1, "tables": {}}
    assert results["toy"]["tables"]["Toys"] == [{"devices": results["toy"]["devices"], "agents": 7}]
    assert "| agents |\n| ---: |\n| 7 |" in capsys.readouterr().out
    assert (tmp_path / "latest.md").read_text() == "['starting', 'toy']"


def test_a_misspelt_subject_is_refused():
    done = subprocess.run([sys.executable, BENCH / "run.py", "--only", "steping"], stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert "there is no subject 'steping'" in done.stderr


def test_tables_have_the_columns_that_any_row_has():
    table = load("report").table
    rows = [{"subject": "a", "steps_per_second": 2_340_000.0, "curve": [1]}, {"subject": "b", "share": 0.25}]
    assert table(rows).splitlines() == [
        "|  | Marlet, steps/s | share |",
        "| --- | ---: | ---: |",
        "| a | 2.34 M |  |",
        "| b |  | 25 % |",
    ]


def test_the_page_is_as_it_would_be_written_anew(tmp_path):
    report, run = load("report"), load("run")
    text = report.PAGE.read_text("utf-8")
    results = json.loads(report.LATEST.read_text()) if report.LATEST.exists() else {}
    assert text == report.renewed(text, results, report.PAGE.parent), "run: make bench-page"
    assert [name for _, name, _ in report.MARKED.findall(text)] == list(run.SUBJECTS)
    result = report.circumstances("make bench", ["cpu"]) | {"tables": {"Toys": [{"subject": "a", "seconds": 1.5}]}}
    page = "<!-- measured: starting -->\nold\n<!-- end -->"
    told = report.renewed(page, {"starting": result}, tmp_path)
    assert "**Toys**" in told
    assert "| a | 1.50 |" in told
    assert "old" not in told
    assert report.renewed(page, {}, tmp_path) == page.replace("old", "Not measured yet.")
