"""The studies in examples/ count right, and show what their page says they show."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marlet.engine.train import Training
from marlet.envs.matrix import Matrix, opposed
from marlet.envs.soccer import Soccer
from marlet.parts.tables import entry

sys.path.append(str(Path(__file__).parents[2] / "examples"))

import entropy
import equilibrium
import soccer
import studies

STAND, FORWARD = 0, 4


@pytest.fixture(scope="module")
def game():
    return soccer.rules(Soccer())


@pytest.fixture(scope="module")
def worst(game):
    judge = jax.jit(lambda policy: soccer.worst_case(game, jnp.stack([policy] * 2), Soccer().steps))
    return lambda policy: np.asarray(judge(jnp.asarray(policy, jnp.float32)))


def always(move, game):
    return np.tile(np.eye(5)[move], (len(game.seen), 1))


@pytest.fixture(scope="module")
def steps():
    """A thousand games of ten random moves, never called off: as which position each player sees each, and what followed."""
    env = Soccer(draw=0.0)
    play = jax.jit(jax.vmap(lambda state, action, key: env.step(state, action, key=key)))
    state, now = jax.jit(jax.vmap(lambda key: env.reset(key=key)))(jax.random.split(jax.random.key(0), 1000))
    index, found = jax.jit(lambda step: entry(step.obs, env.spec.levels)), []
    for k in range(10):
        key, keys = jax.random.key(k), jax.random.split(jax.random.key(100 + k), 1000)
        action = jax.random.randint(key, (1000, 2), 0, 5)
        state, next = play(state, action, keys)
        found.append((index(now), action, index(next), next.reward[:, 0], next.alive[:, 0], now.alive[:, 0]))
        now = next
    return tuple(np.concatenate(column) for column in zip(*found, strict=True))


def test_the_rules_are_those_of_the_environment(game, steps):
    at, action, to, reward, goes_on = (column[steps[-1]] for column in steps[:-1])
    assert (game.seen[at[:, 0], 1] == at[:, 1]).all()
    cell = (at[:, 0], action[:, 0], action[:, 1])
    tables = (game.position, game.reward, game.goes_on / 0.9)
    said = np.stack([table[cell] for table in tables], -1)
    really = np.stack([to[:, 0], reward, goes_on], -1)
    hit = np.isclose(said, really[:, None]).all(-1)
    assert hit.any(1).all()
    matters = (~np.isclose(said[:, 0], said[:, 1])).any(-1)
    assert 0.4 < hit[matters, 0].mean() < 0.6
    assert set(game.openings) == set(steps[0][:1000, 0])


def test_who_only_stands_never_wins_and_loses_what_the_other_begins(game, worst):
    """Three moves to the far column and one through the goal, each but the last survived by .9; the ball of who stands
    cannot be taken away."""
    np.testing.assert_allclose(worst(always(STAND, game)), [0.0, 0.9**3 / 2], atol=1e-6)


def test_nothing_has_a_better_worst_case_than_the_equilibrium(game, worst):
    won, lost = worst(soccer.equilibrium(game, Soccer().steps))
    assert won - lost == pytest.approx(0.0, abs=1e-4)  # both sides have the same chances
    draws = np.random.default_rng(0)
    others = [always(STAND, game), always(FORWARD, game), np.full((len(game.seen), 5), 0.2)]
    others += [draws.dirichlet(np.ones(5), len(game.seen)) for _ in range(5)]
    assert all(np.subtract(*worst(policy)) < -0.1 for policy in others)


def test_a_table_is_written_between_its_marks_only(tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- measured: one -->\nold\n<!-- end -->\n<!-- measured: two -->\nkept\n<!-- end -->\n")
    studies.report("one", [{"learner": "x", "return": studies.told(np.ones(3))}], page)
    before, after = page.read_text().split("<!-- end -->", 1)
    assert before.startswith("a\n<!-- measured: one -->\n|")
    assert r"1.00 \[1.00, 1.00\]" in before
    assert "old" not in before
    assert after == "\n<!-- measured: two -->\nkept\n<!-- end -->\n"
    assert "1.00 [1.00, 1.00]" in capsys.readouterr().out


def test_the_average_of_selves_is_of_the_one_after_every_update(monkeypatch):
    monkeypatch.setattr(equilibrium, "EVERY", 1)
    env = Matrix(payoff=opposed(equilibrium.GAMES["uneven pennies"]))
    training, now = Training(env, equilibrium.players(3)), []
    mean = jax.jit(lambda learned: equilibrium.strategies(env, jax.tree.map(lambda leaf: leaf[0], learned)))
    training.start()
    before, none_kept = mean(training.snapshot().learned)
    np.testing.assert_allclose(before, none_kept, atol=1e-6)
    for updates in range(1, 4):
        training.advance(1)
        latest, average = mean(training.snapshot().learned)
        now.append(latest)
        np.testing.assert_allclose(average, np.mean(now, axis=0), atol=1e-6)
        assert updates == 1 or not np.allclose(average, latest, atol=1e-3)


@pytest.mark.parametrize("game", ["matching pennies", "rock, paper, scissors"])
def test_the_average_of_climbers_nears_equilibrium_from_far_off(game):
    """And what they play in the end is farther from it."""
    before, latest, average = np.median(equilibrium.climbed(equilibrium.GAMES[game], steps=1e5, seeds=3)[0], axis=0)
    assert before > 1.1
    assert average < 0.12
    assert average < latest


@pytest.mark.learn
@pytest.mark.parametrize("game", ["uneven pennies", "uneven rock, paper, scissors"])
def test_self_play_leaves_even_play_for_an_uneven_equilibrium(game):
    """Before learning all actions are as likely; what best replies win from that falls to less than a third."""
    before, _, average = np.median(equilibrium.played(equilibrium.GAMES[game], steps=1e6, seeds=5)[0], axis=0)
    assert average < before / 3


@pytest.mark.learn
def test_entropy_that_falls_to_none_keeps_all_seeds_from_settling_early(tmp_path):
    without, falling = (
        studies.at_the_end(entropy.trained(weight, str(tmp_path / weight))) for weight in ("0", "2, falling to 0")
    )
    assert (without <= 5).mean() >= 0.3
    assert (falling >= 6).all()


@pytest.mark.learn
def test_minimax_q_is_safer_than_q_learning_against_the_best_reply(game):
    worst = {
        name: np.subtract(*soccer.frozen(Soccer(), game, soccer.PLAYERS[name], steps=3e6, seeds=3)[-1].T)
        for name in ("minimax_q", "tabular_iql")
    }
    assert np.median(worst["minimax_q"]) > -0.2
    assert np.median(worst["minimax_q"]) > np.median(worst["tabular_iql"]) + 0.1
