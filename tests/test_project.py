"""What the project says of itself is so: pages, commands, lock file, dependencies, and how fast it starts."""

import ast
import contextlib
import importlib.util
import re
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

import marlet
from marlet import cli

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
LOCK = ROOT / "requirements.lock"
FRAMEWORKS = {"torch", "tensorflow", "tensorflow-probability", "keras"}


def named(path):
    return str(path.relative_to(ROOT))


def module_at(path):
    """A script of the project, imported."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def blocks(page, language):
    """The pieces of code of one language on a page."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)


# Pages


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_generated_parts_are_as_they_would_be_written_anew(page):
    tables = module_at(ROOT / "docs" / "tables.py")
    text = page.read_text("utf-8")
    assert text == tables.renewed(text), "run: make docs"
    assert tables.renewed("<!-- generated: algorithms -->\nold\n<!-- end -->") != text


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text("utf-8")):
        if not target.startswith(("http", "#")):
            assert (page.parent / target.partition("#")[0]).exists(), target


class Understood(Exception):
    """A command was read and found right, as far as that can be told without computing."""


def commands():
    told = [line for page in PAGES for block in blocks(page, "sh") for line in block.splitlines()]
    told += [code for page in PAGES for code in re.findall(r"`((?:marlet|make) [^`\n]+)`", page.read_text("utf-8"))]
    lines = [re.sub(r"\s+#.*", "", line).strip() for line in told]
    return sorted(
        {line for line in lines if line and "NAME" not in line and "COMMAND" not in line and "TARGET" not in line}
    )


@pytest.mark.parametrize("line", [line for line in commands() if line.split()[0] in ("make", "marlet")])
def test_every_command_on_the_pages_is_understood(line, monkeypatch, capsys):
    program, *words = line.replace(" ...", "").split()
    if program == "make":
        assert re.search(rf"^{words[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
        return

    def stop():
        raise Understood

    monkeypatch.setattr(cli, "prepared", stop)
    if "vdn_five_step" in words:
        assert cli.main(words) == 2  # the page tells how to write it
        return
    with contextlib.suppress(Understood):
        assert cli.main(words) == 0, capsys.readouterr().err


def test_a_wrong_command_would_be_seen(monkeypatch):
    monkeypatch.setattr(cli, "prepared", lambda: pytest.fail("was not refused"))
    assert cli.main(["train", "qmix", "spread", "--lerning-rate", "1"]) == 2


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_python_on_the_pages_names_what_there_is(page):
    for block in blocks(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "marlet":
                assert hasattr(marlet, node.attr), node.attr
            if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "marlet":
                found = importlib.import_module(node.module)
                assert all(hasattr(found, alias.name) for alias in node.names), node.module


@pytest.mark.parametrize("name", ["line:Line", "rooms:make_env"])
def test_example_environments_keep_their_contract(name, monkeypatch):
    monkeypatch.chdir(ROOT / "examples")
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    assert marlet.check_env(name, episodes=2)


def test_the_example_of_a_learning_rule_plays_for_what_averages_best(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "averages", module := module_at(ROOT / "examples" / "averages.py"))
    game = marlet.Matrix(game="climbing")  # rows average -6.3, -5.7, 1.7; columns -6.3, -7.7, 3.7
    run = marlet.train(game, module.Averages(), steps=4000, evaluations=2, episodes=8, out=tmp_path, quiet=True)
    assert run.metrics()["return"][-1] == 5


# What is installed


def addresses(text):
    """What would tie the lock file to a place, or is no pinned package."""
    lines = [line for line in text.splitlines() if not re.fullmatch(r"[a-z0-9._-]+==[\w.+!-]+( ; .+)?", line)]
    return [line for line in lines if line] + re.findall(r"https?|://|index-url|find-links| @ ", text)


def test_the_lock_names_versions_and_no_addresses():
    assert addresses(LOCK.read_text()) == []
    assert addresses("jax @ file:///jax.whl") != []
    assert addresses("--find-links somewhere") != []


def requirement(text):
    return re.match(r"[\w-]+", text)[0].lower().replace("_", "-")


def test_the_lock_holds_all_that_is_asked_for_and_no_other_framework():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    asked = [*project["project"]["dependencies"], *project["dependency-groups"]["dev"]]
    extras = project["project"]["optional-dependencies"]
    asked += [*extras["envs"], *extras["track"]]
    held = {requirement(line) for line in LOCK.read_text().splitlines()}
    assert {requirement(each) for each in asked} <= held
    assert not held & FRAMEWORKS


def imported(source):
    """The packages a module imports, wherever the import stands."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


def test_what_is_imported_is_asked_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [each for group in ("track", "video") for each in project["optional-dependencies"][group]]
    asked = {requirement(each) for each in [*project["dependencies"], *extras]} | {"pil", "marlet", "jaxlib"}
    used = set().union(*(imported(path.read_text()) for path in (ROOT / "src").rglob("*.py")))
    assert {name.lower() for name in used - sys.stdlib_module_names} <= asked


# What the sources never do


def dangers(source):
    """Where data could become code."""
    found = list(imported(source) & {"pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib"})
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name = node.func.id if isinstance(node.func, ast.Name) else ""
            found += [name] if name in ("eval", "exec", "compile", "__import__") else []
            found += [k.arg for k in node.keywords if k.arg == "allow_pickle" and ast.unparse(k.value) != "False"]
    return found


@pytest.mark.parametrize("path", sorted((ROOT / "src").rglob("*.py")), ids=named)
def test_no_data_becomes_code(path):
    assert dangers(path.read_text("utf-8")) == []


@pytest.mark.parametrize(
    "source", ["import pickle", "from pickle import load", "eval('1')", "exec(x)", "np.load(f, allow_pickle=True)"]
)
def test_a_danger_would_be_seen(source):
    assert dangers(source)


# How fast it starts


def quickest(*argv, runs=5):
    """Seconds of the quickest of several fresh processes: what a busy machine adds is not counted."""
    taken = []
    for _ in range(runs):
        begun = time.perf_counter()
        subprocess.run([sys.executable, *argv], check=True, stdout=subprocess.DEVNULL)
        taken.append(time.perf_counter() - begun)
    return min(taken)


def test_importing_is_quick_and_leaves_jax_alone():
    code = "import marlet, sys; assert not {'jax', 'numpy', 'matplotlib'} & sys.modules.keys()"
    assert quickest("-c", code) < 1.5


def test_help_is_quick():
    assert quickest("-m", "marlet", "--help") < 0.5
