"""What is given to the functions of `marlet` by mistake is refused in a sentence, before anything is computed."""

import numpy as np
import pytest

import marlet
from marlet.errors import MarletError


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"algorithm": marlet.qmix}, r"The function qmix is not an algorithm.*such as marlet\.qmix\(\)"),
        ({"env": marlet.Spread}, r"The class Spread is not an environment.*such as marlet\.Spread\(\)"),
        ({"env": 3}, "3 is not an environment"),
        ({"algorithm": marlet.qmix(), "options": {"lr": 1}}, r"options are given beside a .* that is made.*its name"),
        ({"algorithm": "qmix", "options": {"learning_rat": 1}}, r"no option 'learning_rat'.*learning_rate"),
        ({"versus": marlet.ippo}, "The function ippo is not an algorithm"),
        ({"versus": [marlet.ippo]}, "The function ippo is not an algorithm"),
        ({"steps": 2.5}, r"steps is 2\.5, but must be a whole number"),
        ({"steps": float("nan")}, "steps is nan, but must be a whole number"),
        ({"steps": float("inf")}, "steps is inf, but must be a whole number"),
        ({"steps": 0}, "steps is 0, but must be at least 1"),
        ({"seeds": 2.5}, r"seeds is 2\.5, but must be a whole number"),
        ({"seeds": "4"}, "seeds is '4', but must be a whole number"),
        ({"seeds": True}, "seeds is True, but must be a whole number"),
        ({"seed": 1.5}, r"seed is 1\.5, but must be a whole number"),
        ({"seed": -1}, "seed is -1, but must be at least 0"),
        ({"seed": 2**31}, "seed is 2147483648, but must be a whole number from 0 to 2147483647"),
        ({"evaluations": 2.5}, r"evaluations is 2\.5, but must be a whole number"),
        ({"episodes": None}, "episodes is None, but must be a whole number"),
        ({"save_every": "30"}, "save_every is '30', but must be"),
    ],
)
def test_train_refuses_what_it_cannot_train(given, told, tmp_path):
    with pytest.raises(MarletError, match=told):
        marlet.train(
            **{"env": "two_step", "algorithm": "tabular_iql", "steps": 10, "out": tmp_path, "quiet": True} | given
        )
    assert not list(tmp_path.iterdir())


def test_numbers_of_numpy_and_whole_floats_are_numbers(tmp_path):
    counts = {"seeds": np.int64(2), "seed": np.uint8(3), "evaluations": 1.0, "episodes": np.float32(2)}
    run = marlet.train("two_step", "tabular_iql", steps=1e1, out=tmp_path, quiet=True, **counts)
    assert run.options["train"]["seeds"] == 2
    for episodes in (0, -1, 1.5):
        with pytest.raises(MarletError, match="episodes is"):
            marlet.evaluate(run.path, episodes=episodes)


def test_one_run_is_compared_by_its_path_and_none_not_at_all(tmp_path):
    run = marlet.train("two_step", "tabular_iql", steps=10, out=tmp_path, quiet=True)
    assert str(marlet.compare(str(run.path))) == str(marlet.compare([run.path]))
    with pytest.raises(MarletError, match="nothing to compare"):
        marlet.compare([])
    with pytest.raises(MarletError, match="seed is 'a', but must be a whole number"):
        marlet.load(run.path, seed="a")
    with pytest.raises(MarletError, match="A run cannot be named 3"):
        marlet.train("two_step", "tabular_iql", steps=10, out=tmp_path, quiet=True, name=3)


@pytest.mark.parametrize("episodes", [0, -1, 2.5])
def test_check_env_plays_at_least_one_episode(episodes):
    with pytest.raises(MarletError, match="episodes is"):
        marlet.check_env("two_step", episodes=episodes)
    with pytest.raises(MarletError, match="is not an environment"):
        marlet.check_env(marlet.TwoStep)
