"""What there is to choose from, by the sources' syntax trees, without importing any of them.

algorithm     a public function of `marlet.algorithms` that takes `**options` and returns an `Algorithm`
environment   a final subclass of `Env` in `marlet.envs`; `TwoStep` is called `two_step`
part          a final subclass of an abstract class in `marlet.parts`, such as the mixers
"""

import ast
import dataclasses
import importlib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property, partial
from typing import Any

from marlet.syntax import (
    Class,
    assigned,
    classes_in,
    constants_of,
    dictionary,
    final_below,
    lineage,
    modules_in,
    resolved,
    text_of,
    tree_of,
)

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
        return snake(self.default.partition("(")[0]) if self.parts else shown(literal(self.default))

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
    read: Callable[[], dict[str, Option]] = dataclasses.field(repr=False, compare=False)

    @cached_property
    def options(self) -> dict[str, Option]:
        """What may be set, read when it is first asked for: names are told without."""
        return self.read()

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


def shown(value: Any) -> str:
    """A value as a user types it: `64,64`, `0.0005`, `true`."""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def snake(name: str) -> str:
    """`TwoStep` as it is typed: `two_step`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


@cache
def _abstract_parts() -> frozenset[tuple[str, str]]:
    """The abstract classes at the top of `marlet.parts`."""
    return frozenset(
        (module, name)
        for module in modules_in("parts")
        for name, found in classes_in(module).items()
        if any(resolved(module, base) == ("abc", "ABC") for base in found.node.bases)
    )


@cache
def final_classes() -> dict[str, Class]:
    """Everything that a record may name."""
    return {
        name: found
        for root in (ENV, ALGORITHM, *sorted(_abstract_parts()))
        for name, found in final_below(root).items()
    }


@cache
def envs() -> dict[str, Entry]:
    return _entries(final_below(ENV))


@cache
def parts() -> dict[str, Entry]:
    return _entries({name: found for root in sorted(_abstract_parts()) for name, found in final_below(root).items()})


def _entries(classes: dict[str, Class]) -> dict[str, Entry]:
    return {
        snake(name): Entry(snake(name), found.module, name, found.doc, found.doc, partial(options_of, found))
        for name, found in classes.items()
    }


@cache
def algorithms() -> dict[str, Entry]:
    found = {}
    for module in modules_in("algorithms"):
        for node in tree_of(module).body:
            if not isinstance(node, ast.FunctionDef) or node.name.startswith("_") or node.args.kwarg is None:
                continue
            home, name = resolved(module, node.returns)
            family = classes_in(home).get(name)
            if family is not None and any((each.module, each.node.name) == ALGORITHM for each in lineage(family)):
                read = partial(_options_set, family, module, node)
                found[node.name] = Entry(node.name, module, node.name, ast.get_docstring(node) or "", family.doc, read)
    return found


def _options_set(family: Class, module: str, constructor: ast.FunctionDef) -> dict[str, Option]:
    """A family's options with the defaults that a constructor gives them; its name is the constructor's to say."""
    options = options_of(family)
    for name, default in _defaults(module, constructor, family.node.name).items():
        options[name] = dataclasses.replace(options[name], default=default)
    del options["name"]
    return options


def _defaults(module: str, constructor: ast.FunctionDef, family: str) -> dict[str, str]:
    """What a constructor sets apart from its family's defaults: `Family(mixer=Sum(), **these)` in its source."""
    known = constants_of(module) | assigned(constructor.body)
    found = {}
    for call in ast.walk(constructor):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == family:
            for keyword in call.keywords:
                inside = {keyword.arg: keyword.value} if keyword.arg else dictionary(keyword.value, known)
                found |= {name: ast.unparse(value) for name, value in inside.items()}
    return found


def options_of(found: Class) -> dict[str, Option]:
    """The options of a class, those it inherits first."""
    return {name: told for holder in reversed(list(lineage(found))) for name, told in _own_options(holder).items()}


@cache
def _own_options(found: Class) -> dict[str, Option]:
    """The options that a class adds to those it inherits, or says anew."""
    options = {}
    for node in found.node.body:
        if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)):
            continue
        call = node.value
        if isinstance(call, ast.Call) and resolved(found.module, call.func) == ("marlet.options", "option"):
            options[node.target.id] = _option(found.module, node.target.id, node, call)
    return options


def _option(module: str, name: str, node: ast.AnnAssign, call: ast.Call) -> Option:
    given = {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}
    limits = {name: literal(ast.unparse(given[name])) for name in ("low", "high") if name in given}
    family = resolved(module, node.annotation)
    return Option(
        name=name,
        type=ast.unparse(node.annotation),
        default=ast.unparse(call.args[0]),
        help=text_of(call.args[1]),
        choices=_choices(given["choices"], constants_of(module)) if "choices" in given else (),
        parts=tuple(snake(part) for part in final_below(family)) if family in _abstract_parts() else (),
        **limits,
    )


def _choices(node: ast.expr, known: Mapping[str, ast.expr]) -> tuple[Any, ...]:
    """The choices, written out or as `tuple(DICTIONARY)`."""
    if isinstance(node, ast.Call):
        return tuple(name for argument in node.args for name in dictionary(argument, known))
    value = literal(ast.unparse(node))
    return value if isinstance(value, tuple) else ()
