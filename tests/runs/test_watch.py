"""Episodes before the eyes: pictures, text, and what cannot be shown, said beforehand."""

import os
import subprocess
import sys
import warnings
from dataclasses import dataclass
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from PIL import Image

from marlet.algorithms.sides import versus
from marlet.algorithms.tabular import tabular_iql
from marlet.algorithms.values import iql
from marlet.bridges.resolve import Factory, resolve
from marlet.envs.grid import Grid
from marlet.envs.matrix import Matrix
from marlet.envs.spread import Spread
from marlet.errors import EnvironmentFault, MarletError, StorageFault
from marlet.runs import watch
from marlet.runs.evaluate import Evaluation, _check_fit, evaluate
from marlet.runs.policy import Policy


def beginner(env):
    """A policy that has learned nothing."""
    algorithm = iql(hidden=(4,), capacity=1, envs=1, length=1)
    return Policy(algorithm, algorithm.init(env.spec, key=jax.random.key(0)), env.spec)


@pytest.fixture(scope="module")
def spread():
    return beginner(Spread())


def test_a_whole_episode_is_seen_from_its_opening_on(spread):
    episode = watch.play(spread, Spread(steps=4), seed=3)
    assert len(episode.frames) == 5
    assert episode.rewards.shape == (4, 3)
    assert not np.array_equal(episode.frames[0], episode.frames[-1])
    again = watch.play(spread, Spread(steps=4), seed=3)
    np.testing.assert_array_equal(again.rewards, episode.rewards)
    assert (watch.play(spread, Spread(steps=4), seed=4).rewards != episode.rewards).any()


def test_a_gif_has_every_frame_and_keeps_the_last(spread, tmp_path):
    episode = watch.play(spread, Spread(steps=4))
    distinct = watch.Episode([np.roll(frame, 7 * k, 0) for k, frame in enumerate(episode.frames)], episode.rewards)
    out = tmp_path / "episode.gif"
    watch.check_output(out)
    watch.save(distinct, out)
    with Image.open(out) as image:
        assert (image.n_frames, image.size) == (5, (360, 360))
        image.seek(4)
        assert image.info["duration"] == 1000


def test_text_is_told_with_what_was_earned(tmp_path):
    env = Matrix(game="climbing", rounds=2)
    policy = beginner(env)
    episode = watch.play(policy, env)
    opening, first, _ = watch.told(episode, policy.spec.names)
    assert opening.startswith("step 0\nround 0 of 2")
    assert first.startswith(f"step 1  agent_0 {episode.rewards[0, 0]:+.2f}  agent_1")
    assert watch.save(episode, tmp_path / "text.gif").stat().st_size > 0


def test_columns_of_painted_text_stay_columns():
    assert watch.painted("iiii\niiii").shape == watch.painted("MMMM\nMMMM").shape
    assert watch.painted("iiiii").shape[1] > watch.painted("MMMM").shape[1]


def test_a_film_has_every_frame_and_a_second_more_and_is_made_in_silence(spread, tmp_path, monkeypatch):
    """With a stand-in for imageio, which starts ffmpeg as it does: by a fork, of which JAX would warn."""
    written = {}

    def write(out, frames, **options):
        subprocess.run(["true"], check=True, preexec_fn=os.setpgrp)
        written.update(out=out, frames=frames, **options)

    imageio = SimpleNamespace(v2=SimpleNamespace(mimwrite=write))
    monkeypatch.setitem(sys.modules, "imageio", imageio)
    monkeypatch.setitem(sys.modules, "imageio.v2", imageio.v2)
    episode = watch.play(spread, Spread(steps=4))
    with pytest.warns(RuntimeWarning, match="fork"):  # negative control: JAX does warn
        write(None, [])
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        watch.save(episode, tmp_path / "episode.mp4")
    assert told == []
    assert written["out"] == tmp_path / "episode.mp4"
    assert (len(written["frames"]), written["fps"]) == (5 + 8, 8.0)
    np.testing.assert_array_equal(written["frames"][-1], episode.frames[-1])


def test_pictures_in_a_terminal_show_their_colours():
    frame = np.zeros((20, 20, 3), np.uint8)
    frame[10:] = (255, 0, 0)
    lines = watch.blocks(frame, columns=4).split("\n")
    assert len(lines) == 2
    assert "48;2;0;0;0m" in lines[0]
    assert "48;2;255;0;0m" in lines[1]


def test_frames_follow_each_other_in_a_terminal_and_no_colours_go_elsewhere(capsys, monkeypatch):
    episode = watch.Episode([np.zeros((20, 20, 3), np.uint8)] * 2, np.ones((1, 2)))
    watch.perform(episode, ("a", "b"), seconds=0)
    assert capsys.readouterr().out == "step 0\n\nstep 1  a +1.00  b +1.00\n\n"
    watch.perform(watch.Episode(["here", "there"], np.ones((1, 1))), ("a",), seconds=0)
    assert capsys.readouterr().out == "step 0\nhere\n\nstep 1  a +1.00\nthere\n\n"
    monkeypatch.setattr(watch.sys.stdout, "isatty", lambda: True, raising=False)
    watch.perform(episode, ("a", "b"), seconds=0)
    first, *frames = capsys.readouterr().out.split("\x1b[H\x1b[J")
    assert (first, len(frames)) == ("", 2)
    assert all("48;2;0;0;0m" in frame for frame in frames)


def test_a_picture_is_no_larger_than_the_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "24")
    assert len(watch.blocks(np.zeros((300, 300, 3), np.uint8)).split("\n")) == 21
    monkeypatch.setenv("COLUMNS", "30")
    assert len(watch.blocks(np.zeros((300, 300, 3), np.uint8)).split("\n")) == 15


def test_a_pettingzoo_environment_is_watched_and_played(spread):
    pytest.importorskip("mpe2")
    factory = resolve("pettingzoo:mpe2.simple_spread_v3", max_cycles=3)
    episode = watch.play(spread, factory)
    assert len(episode.frames) == len(episode.rewards) == 3
    assert episode.frames[0].ndim == 3
    found = evaluate(spread, factory, episodes=3)
    assert found.returns.shape == (3, 3)
    assert (found.lengths == 3).all()
    assert not found.solved.any()


def test_the_same_policy_scores_alike_here_and_in_pettingzoo(spread):
    pytest.importorskip("mpe2")
    ours = evaluate(spread, Spread(), episodes=128).rows()[-1]
    theirs = evaluate(spread, resolve("pettingzoo:mpe2.simple_spread_v3"), episodes=32).rows()[-1]
    assert ours["low"] < theirs["high"]
    assert theirs["low"] < ours["high"]


def test_intervals_are_students():
    found = Evaluation(("a", "b"), np.array([[1.0, 2], [3, 2], [5, 2]]), np.full(3, 4), np.full(3, True))
    first, second, mean = found.rows()
    assert (first["return"], mean["return"]) == (3.0, 2.5)
    assert first["high"] - 3 == pytest.approx(4.302653 * 2 / 3**0.5)  # t of two degrees of freedom
    assert second["low"] == second["high"] == 2.0
    assert np.isnan(Evaluation(("a",), np.ones((1, 1)), np.ones(1), np.ones(1, bool)).rows()[0]["low"])


def test_a_mean_is_of_one_team():
    of = lambda *teams: Evaluation(("a", "b", "c"), np.ones((2, 3)), np.ones(2), np.ones(2, bool), teams)  # noqa: E731
    told = lambda found: [row["agent"] for row in found.rows()]  # noqa: E731
    assert told(of(0, 0, 0)) == ["a", "b", "c", "mean"]
    assert told(of(0, 1, 1)) == ["a", "b", "c", "mean of team 1"]
    assert told(of(0, 1, 2)) == ["a", "b", "c"]


def test_tables_are_refused_where_observations_are_counted_otherwise():
    small, large, paid = Grid(), Grid(size=8), Grid(shared=True)
    table, deep = tabular_iql(), iql(hidden=(4,), capacity=1, envs=1, length=1)
    of = lambda algorithm: Policy(algorithm, algorithm.init(small.spec, key=jax.random.key(0)), small.spec)  # noqa: E731
    with pytest.raises(MarletError, match=r"levels \(5, 5\), but Grid has \(8, 8\)"):
        evaluate(of(table), large, episodes=2)
    _check_fit(of(table), paid.spec, "Grid")  # who is paid with whom is nothing that a table looks at
    _check_fit(of(deep), large.spec, "Grid")  # numbers are numbers to a network
    with pytest.raises(MarletError, match=r"teams \(0, 1\), but Grid has \(0, 0\)"):
        evaluate(of(versus(table, table)), paid, episodes=2)


def test_what_does_not_fit_or_cannot_be_drawn_is_refused(spread, tmp_path, monkeypatch):
    with pytest.raises(MarletError, match="num_agents 3, but Spread has 4"):
        evaluate(spread, Spread(agents=4), episodes=2)
    with pytest.raises(MarletError, match=r"should end in \.gif or \.mp4"):
        watch.check_output(tmp_path / "episode.png")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MarletError, match=r"pip install 'marlet\[video\]'"):
        watch.check_output(tmp_path / "episode.mp4")
    with pytest.raises(StorageFault, match="Choose another --out"):
        watch.check_output(tmp_path / "nowhere" / "episode.gif")
    watch.check_output(tmp_path / "episode.gif")
    assert not (tmp_path / "episode.gif").exists()

    @dataclass(frozen=True)
    class Dark(Spread):
        def render(self, state):
            raise NotImplementedError

    (tmp_path / "unseen_rooms.py").write_text("def make_env(size=5):\n    raise SystemExit('was made')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MarletError, match=r"cannot be watched: let it take `render_mode`, and give .* a `render`"):
        watch.play(spread, Factory("unseen_rooms", "make_env", {"size": 3}))
    with pytest.raises(MarletError, match="Dark cannot be watched"):
        watch.play(spread, Dark(steps=1))


@pytest.mark.parametrize("drawn", [None, 17, np.zeros((4, 4)), RuntimeError("no paint")])
def test_what_draws_badly_is_told_in_one_sentence(spread, drawn):
    @dataclass(frozen=True)
    class Crooked(Spread):
        def render(self, state):
            if isinstance(drawn, Exception):
                raise drawn
            return drawn

    with pytest.raises(
        EnvironmentFault, match=r"^Crooked cannot be watched: its `render` (gives|failed with RuntimeError)"
    ):
        watch.play(spread, Crooked(steps=1))


@pytest.mark.filterwarnings("ignore:os.fork")
def test_a_film_is_read_back_frame_by_frame(tmp_path, caplog):
    """With imageio and its ffmpeg, where they are installed (`pip install 'marlet[video]'`)."""
    pytest.importorskip("imageio_ffmpeg")
    imageio = pytest.importorskip("imageio.v2")
    shades = (20, 120, 220)
    frames = [np.full((47, 61, 3), shade, np.uint8) for shade in shades]
    out = tmp_path / "episode.mp4"
    watch.check_output(out)
    assert watch.save(watch.Episode(frames, np.zeros((2, 1))), out) == out
    assert caplog.text == ""  # nothing had to be resized
    with imageio.get_reader(out) as film:
        assert film.get_meta_data()["fps"] == 8.0
        seen = [np.asarray(frame) for frame in film]
    assert len(seen) == 3 + 8  # the last one stays for a second
    assert {frame.shape for frame in seen} == {(48, 62, 3)}
    np.testing.assert_allclose([np.median(frame) for frame in seen], [*shades, *[220] * 8], atol=6)
