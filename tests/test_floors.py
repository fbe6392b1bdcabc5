"""A module imports only from floors below its own, so that the house can be read from the ground up."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "marlet"
FLOORS = [
    {"types", "keys", "errors", "options", "suited"},
    {"equations"},
    {"parts", "envs", "bridges"},
    {"algorithms"},
    {"engine"},
    {"runs"},
    {"syntax"},
    {"sources"},
    {"typed"},
    {"catalogue", "testing"},
    {"fitting"},
    {"door", "words"},
    {"manual"},
    {"cli", "__init__"},
    {"__main__"},
]


def floor_of(name: str) -> int:
    return next(k for k, names in enumerate(FLOORS) if name in names)


def imports(source: str) -> set[str]:
    """The parts of marlet that a module imports, by the first name after `marlet`, wherever the import stands."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "marlet":
            names = node.module.split(".")[1:2] or [alias.name for alias in node.names]
            found.update(names)
        elif isinstance(node, ast.Import):
            found.update(
                (*alias.name.split("."), "__init__")[1] for alias in node.names if alias.name.startswith("marlet")
            )
    return found


def breaches(name: str, source: str) -> list[str]:
    own = floor_of(name)
    return [
        other
        for other in imports(source)
        if floor_of(other) > own or (floor_of(other) == own and other != name and own > 2)
    ]


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_only_from_floors_below(path):
    relative = path.relative_to(SOURCE)
    assert breaches(relative.parts[0].removesuffix(".py"), path.read_text()) == []


def test_a_breach_is_seen():
    assert breaches("parts", "from marlet.engine.rollout import advance") == ["engine"]
    assert breaches("equations", "def f():\n    import marlet.runs.report") == ["runs"]
