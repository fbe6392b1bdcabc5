"""Environments are found by the names users type, and what is missing is named with its cure."""

import importlib.abc
import os
import subprocess
import sys

import pytest
from relay import Relay

from marlet.bridges.resolve import Factory, by_name, resolve
from marlet.catalogue import make_env
from marlet.errors import EnvironmentFault, MarletError


def test_a_pettingzoo_name_gives_its_parallel_env_with_options():
    pytest.importorskip("mpe2")
    factory = resolve("pettingzoo:mpe2.simple_spread_v3", N=2)
    assert factory == Factory("mpe2.simple_spread_v3", "parallel_env", {"N": 2})
    assert factory().possible_agents == ["agent_0", "agent_1"]


def test_a_function_or_class_of_ones_own():
    assert resolve("worlds:make_relay", deaths=[1, 1, 1])().deaths == (1, 1, 1)
    assert isinstance(resolve("worlds:Worlds.relay")(), Relay)
    assert isinstance(resolve("relay:Relay")(), Relay)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("simple_spread", {}, "does not name an environment"),
        (":make", {}, "does not name an environment"),
        ("worlds:make_rely", {}, "no 'make_rely'. Did you mean 'make_relay'?"),
        ("worlds:NOT_CALLABLE", {}, "is a int, but must be a function"),
        ("no_such_package:make", {}, "no module 'no_such_package'.*Install"),
        ("worlds.inside:make", {}, "worlds has no module 'inside'"),
        ("pettingzoo:mpe2.simple_sprad_v3", {}, "Did you mean 'simple_spread_v3'"),
        ("pettingzoo:pettingzoo.classic.nothing_v1", {}, "has no module 'nothing_v1'"),
        ("worlds:make_relay", {"f": print}, "must be numbers, text"),
    ],
)
def test_what_is_missing_is_named(name, options, message):
    pytest.importorskip("mpe2")
    with pytest.raises(MarletError, match=message):
        resolve(name, **options)


def test_an_option_that_is_not_one_is_named():
    with pytest.raises(MarletError, match=r"make_relay does not take.*'deths'"):
        resolve("worlds:make_relay", deths=3)()


class Hidden(importlib.abc.MetaPathFinder):
    """As if mpe2 were not installed."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "mpe2":
            raise ModuleNotFoundError("No module named 'mpe2'", name="mpe2")


def test_a_package_that_is_not_installed_comes_with_the_command(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "mpe2"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Hidden(), *sys.meta_path])
    with pytest.raises(MarletError, match=r'pip install "marlet\[envs\]"'):
        resolve("pettingzoo:mpe2.simple_spread_v3")


def test_a_module_that_needs_another_and_one_that_fails(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "needs_another.py").write_text("import not_there_at_all")
    (tmp_path / "fails.py").write_text("1 / 0")
    (tmp_path / "parses_words.py").write_text("raise SystemExit(2)")
    (tmp_path / "only_turns.py").write_text("def env(): ...")
    with pytest.raises(MarletError, match="needs the package 'not_there_at_all'"):
        resolve("needs_another:make")
    with pytest.raises(MarletError, match="fails failed while it was imported: ZeroDivisionError"):
        resolve("fails:make")
    with pytest.raises(MarletError, match="parses_words failed while it was imported: SystemExit: 2"):
        resolve("parses_words:make")
    with pytest.raises(MarletError, match="only a turn-based"):
        resolve("pettingzoo:only_turns")


def test_the_current_directory_is_searched(tmp_path):
    (tmp_path / "mine.py").write_text("def make(): return 'an environment'")
    code = "from marlet.bridges.resolve import resolve; print(resolve('mine:make')())"
    said = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=tmp_path, capture_output=True, text=True, env=os.environ, check=True
    )
    assert said.stdout.strip() == "an environment"


def test_only_what_can_be_imported_has_a_name():
    assert by_name(Relay) == Factory("relay", "Relay")
    assert by_name(lambda: Relay()) is None
    assert by_name(Relay().reset.__get__) is None


def test_a_function_that_raises_and_one_that_gives_something_else(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "unfit.py").write_text(
        "def raises():\n    raise RuntimeError('no licence')\n\ndef gives():\n    return 3\n\n"
        "def exits():\n    raise SystemExit(2)\n\ndef forgets():\n    pass\n"
    )
    with pytest.raises(
        EnvironmentFault, match=r"unfit:raises could not be built: RuntimeError: no licence\. Call it in Python"
    ):
        make_env("unfit:raises")
    with pytest.raises(MarletError, match=r"is a builtins.int, but must be a `pettingzoo.ParallelEnv`"):
        make_env("unfit:gives")
    with pytest.raises(EnvironmentFault, match=r"unfit:exits could not be built: SystemExit: 2\."):
        make_env("unfit:exits")
    with pytest.raises(MarletError, match=r"is a builtins\.NoneType, .* Does the function return it\?"):
        make_env("unfit:forgets")
