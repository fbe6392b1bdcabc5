"""Reads what there is to choose from out of the sources' syntax trees, without importing any of them.

algorithm     a public function of `marlet.algorithms` that takes `**options` and returns an `Algorithm`
environment   a final subclass of `Env` in `marlet.envs`; `TwoStep` is called `two_step`
part          a final subclass of an abstract class in `marlet.parts`, such as the mixers
"""

import ast
import dataclasses
import gc
import importlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

ENV = ("marlet.envs.base", "Env")
ALGORITHM = ("marlet.algorithms.base", "Algorithm")


@dataclass(frozen=True)
class Option:
    """What may be set, as the source says it."""

    name: str
    type: str
    default: str
    help: str
    low: float | None = None
    high: float | None = None
    choices: tuple[Any, ...] = ()
    parts: tuple[str, ...] = ()
    """The parts this may be, by their names; empty where it is a plain value."""

    @property
    def shown_default(self) -> str:
        """The default as a user types it: `monotonic`, `64,64`, `0.0005`."""
        if self.parts:
            return snake(self.default.partition("(")[0])
        value = literal(self.default)
        return (
            ",".join(map(str, value))
            if isinstance(value, tuple)
            else str(value).lower()
            if isinstance(value, bool)
            else str(value)
        )

    @property
    def range(self) -> str:
        """What a number must lie in: `0 to 1`, `at least 1`; nothing where any will do."""
        low, high = ("" if end is None else f"{end:g}" for end in (self.low, self.high))
        return f"{low} to {high}" if low and high else f"at least {low}" if low else f"at most {high}" if high else ""


@dataclass(frozen=True)
class Entry:
    """An algorithm, environment or part that can be named."""

    name: str
    module: str
    attribute: str
    doc: str
    family_doc: str
    """Of the class that an algorithm's constructor returns; the same as `doc` for environments and parts."""
    options: dict[str, Option]

    @property
    def summary(self) -> str:
        """The first line of the docstring."""
        return self.doc.partition("\n")[0]

    def load(self) -> Any:
        """The constructor or class itself."""
        return getattr(importlib.import_module(self.module), self.attribute)


def literal(text: str) -> Any:
    """What a text says, if it is a number, a truth value, a list or the like; else the text itself."""
    words = {"true": True, "false": False, "none": None, "inf": math.inf, "-inf": -math.inf, "(,)": ()}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def snake(name: str) -> str:
    """`TwoStep` as it is typed: `two_step`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


# Reading


@dataclass(frozen=True)
class _Class:
    """A class as its source has it."""

    module: str
    node: ast.ClassDef

    @property
    def doc(self) -> str:
        return ast.get_docstring(self.node) or ""


@cache
def _modules() -> dict[str, ast.Module]:
    """The syntax trees of all modules in which something can be found."""
    root = Path(__file__).parent
    files = [path for folder in ("algorithms", "envs", "parts") for path in sorted((root / folder).glob("*.py"))]
    collecting = gc.isenabled()
    gc.disable()  # a tree is many small objects that stay: to look for rubbish among them takes as long as to parse
    try:
        return {f"marlet.{path.parent.name}.{path.stem}": ast.parse(path.read_text("utf-8")) for path in files}
    finally:
        if collecting:
            gc.enable()


@cache
def _classes() -> dict[tuple[str, str], _Class]:
    return {
        (module, node.name): _Class(module, node)
        for module, tree in _modules().items()
        for node in tree.body
        if isinstance(node, ast.ClassDef)
    }


@cache
def _imports(module: str) -> dict[str, tuple[str, str]]:
    """The module and name that each imported name stands for."""
    return {
        alias.asname or alias.name: (statement.module, alias.name)
        for statement in _modules()[module].body
        if isinstance(statement, ast.ImportFrom) and statement.module
        for alias in statement.names
    }


def _resolved(module: str, node: ast.expr | None) -> tuple[str, str]:
    """The module and name that a name in `module` stands for."""
    name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
    return _imports(module).get(name, (module, name))


def _line(found: _Class) -> Iterator[_Class]:
    """The class and what it derives from, itself first."""
    yield found
    for base in found.node.bases:
        above = _classes().get(_resolved(found.module, base))
        if above is not None:
            yield from _line(above)


@cache
def _final(root: tuple[str, str]) -> dict[str, _Class]:
    """The final classes below `root`, by their own names."""
    top = _classes().get(root)
    below = {key: found for key, found in _classes().items() if any(each is top for each in list(_line(found))[1:])}
    bases = {_resolved(found.module, base) for found in below.values() for base in found.node.bases}
    return {name: found for (module, name), found in below.items() if (module, name) not in bases}


@cache
def _abstract_parts() -> frozenset[tuple[str, str]]:
    """The abstract classes at the top of `marlet.parts`."""
    return frozenset(
        key
        for key, found in _classes().items()
        if found.module.startswith("marlet.parts.")
        and any(_resolved(found.module, base) == ("abc", "ABC") for base in found.node.bases)
    )


@cache
def final_classes() -> dict[str, _Class]:
    """Everything that a record may name."""
    return {
        name: found for root in (ENV, ALGORITHM, *sorted(_abstract_parts())) for name, found in _final(root).items()
    }


@cache
def envs() -> dict[str, Entry]:
    return _entries(_final(ENV))


@cache
def parts() -> dict[str, Entry]:
    return _entries({name: found for root in sorted(_abstract_parts()) for name, found in _final(root).items()})


def _entries(classes: dict[str, _Class]) -> dict[str, Entry]:
    return {
        snake(name): Entry(snake(name), found.module, name, found.doc, found.doc, options_of(found))
        for name, found in classes.items()
    }


@cache
def algorithms() -> dict[str, Entry]:
    found = {}
    for module, tree in _modules().items():
        if not module.startswith("marlet.algorithms."):
            continue
        for node in tree.body:
            if not isinstance(node, ast.FunctionDef) or node.name.startswith("_") or node.args.kwarg is None:
                continue
            family = _classes().get(_resolved(module, node.returns))
            if family is not None and any(each is _classes()[ALGORITHM] for each in _line(family)):
                options = options_of(family)
                for name, default in _defaults(module, node, family.node.name).items():
                    options[name] = dataclasses.replace(options[name], default=default)
                del options["name"]  # it is the constructor's to say
                doc = ast.get_docstring(node) or ""
                found[node.name] = Entry(node.name, module, node.name, doc, family.doc, options)
    return found


def _defaults(module: str, constructor: ast.FunctionDef, family: str) -> dict[str, str]:
    """What a constructor sets apart from its family's defaults: `Family(mixer=Sum(), **these)` in its source."""
    known = _constants(module) | _assigned(constructor.body)
    found = {}
    for call in ast.walk(constructor):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == family:
            for keyword in call.keywords:
                inside = {keyword.arg: keyword.value} if keyword.arg else _dictionary(keyword.value, known)
                found |= {name: ast.unparse(value) for name, value in inside.items()}
    return found


def _constants(module: str) -> dict[str, ast.expr]:
    """The expressions of a module's names, those it imports from its neighbours included."""
    tree = _modules()[module]
    found = {}
    for statement in tree.body:
        if isinstance(statement, ast.ImportFrom) and statement.module in _modules():
            theirs = _assigned(_modules()[statement.module].body)
            found |= {a.asname or a.name: theirs[a.name] for a in statement.names if a.name in theirs}
    return found | _assigned(tree.body)


def _assigned(body: Sequence[ast.stmt]) -> dict[str, ast.expr]:
    """The expression that each plain name is set to."""
    return {
        target.id: statement.value
        for statement in body
        if isinstance(statement, ast.Assign)
        for target in statement.targets
        if isinstance(target, ast.Name)
    }


def _dictionary(node: ast.expr, known: Mapping[str, ast.expr]) -> dict[str, ast.expr]:
    """What a dictionary holds, written out, named, or joined by `|`; nothing where it is made in another way."""
    if isinstance(node, ast.Name) and node.id in known:
        return _dictionary(known[node.id], known)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return _dictionary(node.left, known) | _dictionary(node.right, known)
    if isinstance(node, ast.Dict):
        return {_text(key): value for key, value in zip(node.keys, node.values, strict=True) if key is not None}
    return {}


def options_of(found: _Class) -> dict[str, Option]:
    """The options of a class, those it inherits first."""
    return {name: told for holder in reversed(list(_line(found))) for name, told in _own_options(holder).items()}


@cache
def _own_options(found: _Class) -> dict[str, Option]:
    """The options that a class adds to those it inherits, or says anew."""
    options = {}
    for node in found.node.body:
        if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)):
            continue
        call = node.value
        if isinstance(call, ast.Call) and _resolved(found.module, call.func) == ("marlet.options", "option"):
            options[node.target.id] = _option(found.module, node.target.id, node, call)
    return options


def _option(module: str, name: str, node: ast.AnnAssign, call: ast.Call) -> Option:
    given = {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}
    limits = {name: literal(ast.unparse(given[name])) for name in ("low", "high") if name in given}
    family = _resolved(module, node.annotation)
    return Option(
        name=name,
        type=ast.unparse(node.annotation),
        default=ast.unparse(call.args[0]),
        help=_text(call.args[1]),
        choices=_choices(given["choices"], _constants(module)) if "choices" in given else (),
        parts=tuple(snake(part) for part in _final(family)) if family in _abstract_parts() else (),
        **limits,
    )


def _choices(node: ast.expr, known: Mapping[str, ast.expr]) -> tuple[Any, ...]:
    """The choices, written out or as `tuple(DICTIONARY)`."""
    if isinstance(node, ast.Call):
        return tuple(name for argument in node.args for name in _dictionary(argument, known))
    value = literal(ast.unparse(node))
    return value if isinstance(value, tuple) else ()


def _text(node: ast.expr | None) -> str:
    return str(ast.literal_eval(node)) if node is not None else ""
