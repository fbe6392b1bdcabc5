"""Runs side by side: the numbers of the table, pictures that exist, and names that are only ever data."""

import csv
import io
import json

import numpy as np
import pytest
from PIL import Image

from marlet.errors import MarletError, StorageFault
from marlet.runs import pictures, report
from marlet.runs.directory import MetricsFile, Run
from marlet.runs.policy import best_seed

HOSTILE = [
    "$\\frac{$",
    "_hidden",
    "\x1b[2J\x1b]0;owned\x07red",
    "<script>alert(1)</script>",
    "=cmd|'/c calc'!A1",
    "a|b*c_d",
]


def a_run(folder, name="one", algorithm="qmix", env=None, returns=((-9, -8, -6), (-9, -7, -5)), seconds=10.0):
    """A run's directory with the greedy returns of each seed, evaluated every 100 steps."""
    path = folder / name
    path.mkdir()
    env = env or {"type": "Spread", "agents": 3}
    options = {"format": 1, "env": env, "algorithm": {"type": "QLearning", "name": algorithm}, "train": {}, "spec": {}}
    (path / "options.json").write_text(json.dumps(options))
    rows = [
        {"steps": 100.0 * point, "seed": float(seed), "seconds": seconds, "return": float(score), "loss": np.nan}
        for point in range(len(returns[0]))
        for seed, score in enumerate(np.array(returns)[:, point])
    ]
    MetricsFile(path / "metrics.csv").append(rows)
    return Run(path)


def test_the_table_says_what_the_runs_reached(tmp_path):
    runs = [a_run(tmp_path), a_run(tmp_path, "two", "vdn", returns=[(-9, -9, -8)])]
    first, second = report.table(runs)
    assert (first["run"], first["algorithm"], first["environment"], first["seeds"]) == ("one", "qmix", "Spread", 2)
    assert (first["return"], first["low"], first["high"]) == (-5.5, -6.0, -5.0)
    assert (first["steps"], first["seconds"], first["steps_per_second"]) == (200, 10.0, 40)
    assert second["return"] == -8.0
    assert np.isnan(second["low"])


def contest(folder, name="duel", seeds=((1.0, 9.0), (5.0, 2.0))):
    """A run of two teams, whose mean says nothing: the final returns of team 0 and of team 1, seed by seed."""
    run = a_run(folder, name, returns=[[0.0]] * len(seeds))
    (run.path / "metrics.csv").unlink()
    rows = [
        {
            "steps": steps,
            "seed": float(s),
            "seconds": 1.0,
            "return": np.mean(both),
            "return_0": both[0],
            "return_1": both[1],
        }
        for steps in (0.0, 100.0)
        for s, both in enumerate(seeds)
    ]
    MetricsFile(run.path / "metrics.csv").append(rows)
    return run


def test_teams_are_never_averaged(tmp_path):
    run = contest(tmp_path)
    assert [(row["team"], row["return"]) for row in report.table([run])] == [("0", 3.0), ("1", 5.5)]
    assert "team" not in report.table([a_run(tmp_path)])[0]
    other = contest(tmp_path, "other", ((7.0, 0.0), (6.0, 1.0)))
    assert report.improvements([run, other]) == [
        "qmix (other) beats qmix (duel) as team 0 with probability 1.00 [1.00, 1.00]",
        "qmix (other) beats qmix (duel) as team 1 with probability 0.00 [0.00, 0.00]",
    ]
    mixed = report.table([run, a_run(tmp_path, "alone")])
    assert [row["team"] for row in mixed] == ["0", "1", ""]
    one, two = (pixels(pictures.curves(runs, tmp_path / "out.png")) for runs in ([a_run(tmp_path, "single")], [run]))
    assert two.shape[1] > 1.4 * one.shape[1]  # a panel for each team


def test_the_best_learner_of_several_teams_is_the_first_teams(tmp_path):
    assert best_seed(contest(tmp_path)) == 1  # by the mean of both teams it would be seed 0
    assert best_seed(a_run(tmp_path)) == 1


def test_only_evaluations_that_all_seeds_reached_count(tmp_path):
    run = a_run(tmp_path)
    with open(run.path / "metrics.csv", "a") as file:
        file.write("300,0,11,99,\n")  # seed 1 was stopped before
    assert report.table([run])[0]["return"] == -5.5


def test_a_run_without_evaluations_is_refused(tmp_path):
    run = a_run(tmp_path)
    (run.path / "metrics.csv").write_text("steps,seed,seconds,return,loss\n")
    with pytest.raises(MarletError, match="no evaluations yet"):
        report.table([run])
    (run.path / "metrics.csv").unlink()
    with pytest.raises(MarletError, match="no evaluations yet"):
        report.table([run])
    with pytest.raises(MarletError, match="say which one by --seed"):
        best_seed(run)


def test_equal_names_are_told_apart_and_tasks_by_what_differs(tmp_path):
    runs = [
        a_run(tmp_path),
        a_run(tmp_path, "two"),
        a_run(tmp_path, "three", "vdn"),
        a_run(tmp_path, "four", env={"type": "Spread", "agents": 5}),
    ]
    assert report.tasks(runs) == ["Spread(agents=3)"] * 3 + ["Spread(agents=5)"]
    assert report.labels(runs) == ["qmix (one)", "qmix (two)", "vdn", "qmix"]


def test_improvements_are_told_of_runs_in_the_same_task(tmp_path):
    runs = [
        a_run(tmp_path),
        a_run(tmp_path, "two", "vdn", returns=[(0, 1, 2), (0, 1, 3)]),
        a_run(tmp_path, "three", env={"type": "Grid"}),
    ]
    assert report.improvements(runs) == ["vdn beats qmix with probability 1.00 [1.00, 1.00]"]
    alone = a_run(tmp_path, "alone", "vdn", returns=[(0, 2)])
    (told,) = report.improvements([runs[0], alone])
    assert told.startswith("One seed alone tells nothing")


def test_runs_of_different_length_are_told(tmp_path):
    long, short = a_run(tmp_path), a_run(tmp_path, "two", "vdn", returns=[(-9, -9)])
    assert report.lengths([long, long]) == []
    assert report.lengths([long, short]) == [
        "Note: the runs end after 100 to 200 steps, and each return is that of the run's own end."
    ]


def test_curves_are_drawn_with_their_bands(tmp_path):
    runs = [a_run(tmp_path), a_run(tmp_path, "two", "vdn", returns=[(-9, -9, -8)])]
    alone = pixels(pictures.curves(runs[1:], tmp_path / "alone.png"))
    both = pixels(pictures.curves(runs, tmp_path / "both.png"))
    blue, pale = (0, 114, 178), (204, 227, 240)
    assert (both == blue).all(-1).sum() > 200  # the line
    assert (abs(both.astype(int) - pale) < 3).all(-1).sum() > 1000  # the band
    # Negative control: one seed alone has a line and no band.
    assert (alone == blue).all(-1).sum() > 200
    assert not (abs(alone.astype(int) - pale) < 3).all(-1).sum() > 1000


def test_a_panel_for_each_task(tmp_path):
    runs = [a_run(tmp_path), a_run(tmp_path, "two", env={"type": "Grid"})]
    one, two = (
        pixels(pictures.curves(runs[:1], tmp_path / "one.png")),
        pixels(pictures.curves(runs, tmp_path / "two.png")),
    )
    assert two.shape[1] > 1.4 * one.shape[1]


@pytest.mark.parametrize("name", HOSTILE)
def test_names_are_data(tmp_path, name):
    runs = [a_run(tmp_path, algorithm=name, env={"type": name}), a_run(tmp_path, "two", name, {"type": name})]
    assert pixels(pictures.curves(runs, tmp_path / "curves.png")).std() > 0
    rows = report.table(runs)
    assert "\x1b" not in report.as_text(rows)
    assert "\x07" not in report.as_text(rows)
    markdown = report.as_markdown(rows)
    assert "<script" not in markdown.replace("\\<", "")
    assert all(line.replace("\\|", "").count("|") == len(rows[0]) + 1 for line in markdown.splitlines())
    for cells in list(csv.reader(io.StringIO(report.as_csv(rows))))[1:]:
        assert len(cells) == len(rows[0])
        assert not cells[1].startswith(("=", "+", "-", "@"))


def test_columns_line_up_and_numbers_stand_to_the_right():
    text = report.as_text([{"run": "a", "return": -1.0}, {"run": "longer", "return": float("nan")}])
    assert text.split("\n") == ["run     return", "a        -1.00", "longer       -"]


def test_learned_tables_over_time(tmp_path):
    run = a_run(tmp_path)
    assert pictures.write_tables_png(run) is None
    (run.path / "tables").mkdir()
    for point in range(4):
        table = np.zeros((2, 30, 5), np.float32)
        table[:, 7, 2] = point
        np.save(run.path / "tables" / f"{100 * point:012d}.npy", table)
    picture = pixels(pictures.write_tables_png(run))
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 20


def test_what_cannot_be_written_is_known_beforehand(tmp_path):
    pictures.ready(tmp_path / "new" / "folder")
    assert (tmp_path / "new" / "folder").is_dir()
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageFault, match="--out"):
        pictures.ready(tmp_path / "file" / "below")
    with pytest.raises(StorageFault, match="Cannot write"):
        pictures.curves([a_run(tmp_path)], tmp_path / "nowhere" / "curves.png")


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB"))
