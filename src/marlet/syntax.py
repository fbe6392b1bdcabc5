"""Reads the sources' syntax trees, each when something in it is first asked for: what stands where, under which name.

A class is known by its module and its own name; names that a module imports stand for those they were imported as.
"""

import ast
import gc
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FOLDERS = ("algorithms", "envs", "parts")
"""Where there is something to choose from."""


@dataclass(frozen=True)
class Class:
    """A class as its source has it."""

    module: str
    node: ast.ClassDef

    @property
    def doc(self) -> str:
        return ast.get_docstring(self.node) or ""


@cache
def modules_in(folder: str) -> list[str]:
    """The modules of `algorithms`, `envs` or `parts`."""
    return [f"marlet.{folder}.{path.stem}" for path in sorted((Path(__file__).parent / folder).glob("*.py"))]


def is_source(module: str) -> bool:
    """Whether something can be found in it."""
    return any(module in modules_in(folder) for folder in FOLDERS)


@cache
def tree_of(module: str) -> ast.Module:
    """The syntax tree of a module, read when something in it is first asked for."""
    _, folder, name = module.split(".")
    text = (Path(__file__).parent / folder / f"{name}.py").read_text("utf-8")
    collecting = gc.isenabled()
    gc.disable()  # a tree is many small objects that stay: to look for rubbish among them takes as long as to parse
    try:
        return ast.parse(text)
    finally:
        if collecting:
            gc.enable()


@cache
def classes_in(module: str) -> dict[str, Class]:
    """The classes of a module; none of one in which nothing can be found."""
    if not is_source(module):
        return {}
    return {node.name: Class(module, node) for node in tree_of(module).body if isinstance(node, ast.ClassDef)}


@cache
def _imports(module: str) -> dict[str, tuple[str, str]]:
    """The module and name that each imported name stands for."""
    return {
        alias.asname or alias.name: (statement.module, alias.name)
        for statement in tree_of(module).body
        if isinstance(statement, ast.ImportFrom) and statement.module
        for alias in statement.names
    }


def resolved(module: str, node: ast.expr | None) -> tuple[str, str]:
    """The module and name that a name in `module` stands for."""
    name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
    return _imports(module).get(name, (module, name))


def lineage(found: Class) -> Iterator[Class]:
    """The class and what it derives from, itself first."""
    yield found
    for base in found.node.bases:
        module, name = resolved(found.module, base)
        if name in classes_in(module):
            yield from lineage(classes_in(module)[name])


@cache
def final_below(root: tuple[str, str]) -> dict[str, Class]:
    """The final classes below `root` in its folder, by their own names."""
    top = classes_in(root[0]).get(root[1])
    below = {
        (module, name): found
        for module in modules_in(root[0].split(".")[1])
        for name, found in classes_in(module).items()
        if any(each is top for each in list(lineage(found))[1:])
    }
    bases = {resolved(found.module, base) for found in below.values() for base in found.node.bases}
    return {name: found for (module, name), found in below.items() if (module, name) not in bases}


def constants_of(module: str) -> dict[str, ast.expr]:
    """The expressions of a module's names, those it imports from its neighbours included."""
    body, found = tree_of(module).body, {}
    for statement in body:
        if isinstance(statement, ast.ImportFrom) and is_source(statement.module or ""):
            theirs = assigned(tree_of(statement.module or "").body)
            found |= {a.asname or a.name: theirs[a.name] for a in statement.names if a.name in theirs}
    return found | assigned(body)


def assigned(body: Sequence[ast.stmt]) -> dict[str, ast.expr]:
    """The expression that each plain name is set to."""
    return {
        target.id: statement.value
        for statement in body
        if isinstance(statement, ast.Assign)
        for target in statement.targets
        if isinstance(target, ast.Name)
    }


def dictionary(node: ast.expr, known: Mapping[str, ast.expr]) -> dict[str, ast.expr]:
    """What a dictionary holds, written out, named, or joined by `|`; nothing where it is made in another way."""
    if isinstance(node, ast.Name) and node.id in known:
        return dictionary(known[node.id], known)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return dictionary(node.left, known) | dictionary(node.right, known)
    if isinstance(node, ast.Dict):
        return {text_of(key): value for key, value in zip(node.keys, node.values, strict=True) if key is not None}
    return {}


def text_of(node: ast.expr | None) -> str:
    return str(ast.literal_eval(node)) if node is not None else ""
