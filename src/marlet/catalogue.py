"""Finds algorithms, environments and parts in the sources, so that adding one touches one file and no list.

Names, options and help are read from the syntax trees of `marlet.algorithms`, `marlet.envs` and `marlet.parts`:
nothing is imported to know them, so a misspelt name is answered in a moment. What is imported, on the way to an object,
is only ever a module found there; a name that comes from a file on disk is looked up and never imported.

    algorithm     a public function of `marlet.algorithms` that takes `**options` and returns an `Algorithm`
    environment   a final subclass of `Env` in `marlet.envs`; `TwoStep` is called `two_step`
    part          a final subclass of an abstract class in `marlet.parts`, such as the mixers
"""

import ast
import dataclasses
import importlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marlet.errors import MarletError, nearest
from marlet.options import changed, check_options, option

if TYPE_CHECKING:
    from marlet.algorithms.base import Algorithm
    from marlet.bridges.resolve import Factory
    from marlet.envs.base import Env
    from marlet.types import Spec

ENV = ("marlet.envs.base", "Env")
ALGORITHM = ("marlet.algorithms.base", "Algorithm")
TRUSTED = ("pettingzoo", "mpe2", "atari", "butterfly", "classic", "sisl")
"""Packages whose environments a run's record may name; anything else has to be named by the user again."""


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


# What there is


def algorithm_names() -> list[str]:
    """Every algorithm that can be named, in order of the alphabet."""
    return sorted(_algorithms())


def env_names() -> list[str]:
    """Every environment of Marlet's own."""
    return sorted(_envs())


def part_names() -> list[str]:
    """Every part that an option can be."""
    return sorted(_parts())


def algorithm_entry(name: str) -> Entry:
    """What is known of an algorithm.

    Raises:
        MarletError: for an unknown name, with the nearest real one.
    """
    return _found("algorithm", name, _algorithms())


def env_entry(name: str) -> Entry:
    """What is known of one of Marlet's own environments.

    Raises:
        MarletError: for an unknown name, with the nearest real one.
    """
    return _found("environment", name, _envs())


def part_entry(name: str) -> Entry:
    """What is known of a part.

    Raises:
        MarletError: for an unknown name, with the nearest real one.
    """
    return _found("part", name, _parts())


def algorithms_for(spec: "Spec") -> list[str]:
    """The algorithms whose defaults accept an environment of this spec."""
    return [name for name in algorithm_names() if _accepts(make_algorithm(name), spec)]


def is_foreign(env_name: str) -> bool:
    """Whether a name stands for an environment outside Marlet: `pettingzoo:...`, `my_package.my_module:make_env`."""
    return ":" in env_name


# From names and options to objects


def settings(entry: Entry, chosen: Mapping[str, Any]) -> dict[str, Option]:
    """All options by their dotted names, those of the chosen parts included: `learning_rate`, `mixer`, `mixer.size`."""
    found = {}
    for item in entry.options.values():
        found[item.name] = item
        if item.parts:
            part = part_entry(_part_name(chosen.get(item.name, item.shown_default)))
            inside = settings(part, _inside(item.name, chosen))
            found |= {f"{item.name}.{name}": inner for name, inner in inside.items()}
    return found


def checked(entry: Entry, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options (dotted names; values or the text a user typed) as values of the right type, all within their ranges.

    Raises:
        MarletError: for an unknown option (with the nearest real one), a wrong type, or a value out of range.
    """
    known = settings(entry, options)
    for name in options:
        if name not in known:
            raise MarletError(f"{entry.name} has no option '{name}'.{nearest(name, known)}")
    values = {name: fitted(entry.name, known[name], name, value) for name, value in options.items()}
    fields = [
        (name.replace(".", "_"), object, limited(known[name], value))
        for name, value in values.items()
        if not known[name].parts
    ]
    check_options(dataclasses.make_dataclass(entry.name, fields)())
    return values


def limited(known: Option, value: Any) -> Any:
    """A dataclass field of this value with the option's range, for `check_options`."""
    return option(value, known.help, low=known.low, high=known.high, choices=known.choices)


def make_algorithm(name: str, options: Mapping[str, Any] | None = None) -> "Algorithm":
    """An algorithm by its name, with some options set.

    Raises:
        MarletError: for an unknown name or option, with the nearest real one; for a wrong type or range.
    """
    entry = algorithm_entry(name)
    return _made(entry.load()(), checked(entry, options or {}))


def make_env(name: str, options: Mapping[str, Any] | None = None) -> "Env | Factory":
    """An environment by its name: one of Marlet's own, or a factory of environments that live in Python.

    Raises:
        MarletError: for an unknown name or option, with the nearest real one; for a wrong type or range.
    """
    options = dict(options or {})
    if not is_foreign(name):
        entry = env_entry(name)
        # In one go, and not by changing the default: options may only make sense together.
        return entry.load()(**checked(entry, options))
    from marlet.bridges.resolve import resolve

    factory = resolve(name, **{key: _loose(value) for key, value in options.items()})
    if name.startswith("pettingzoo:"):
        return factory
    from marlet.envs.base import Env

    made = factory()
    if isinstance(made, Env):
        return made
    made.close()
    return factory


def fitted(owner: str, option: Option, name: str, value: Any) -> Any:
    """A value, or the text of one, as the type of `option`.

    Raises:
        MarletError: naming the option, the value and what was expected.
    """
    if option.parts and dataclasses.is_dataclass(value):
        return value
    if option.parts:
        return _found(name, _part_name(value), {part: part for part in option.parts})
    kind = option.type
    given = value
    if isinstance(value, str) and not kind.startswith("str"):
        value = literal(f"({value},)" if kind.startswith("tuple") and value[:1] not in ("(", "[") else value)
    try:
        return _as(kind, value)
    except (TypeError, ValueError):
        expected = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text"}
        wanted = expected.get(kind, "numbers parted by commas" if "int" in kind or "float" in kind else f"a {kind}")
        raise MarletError(f"{owner}: {name} is {given!r}, but must be {wanted} ({option.help}).") from None


# Records


def record_of(holder: Any) -> dict[str, Any]:
    """Plain JSON values from which `rebuild` makes the same object again."""
    from marlet.bridges.resolve import Factory
    from marlet.options import describe

    if not isinstance(holder, Factory):
        return describe(holder)
    public = holder.attribute == "parallel_env" and holder.module.partition(".")[0] in TRUSTED
    return {"type": f"pettingzoo:{holder.module}" if public else holder.name, "options": dict(holder.options)}


def rebuild(record: Mapping[str, Any]) -> Any:
    """The algorithm, environment or part that a record describes, only ever of classes found in Marlet's sources.

    An environment of PettingZoo's families is found again, too. Other code outside Marlet is not imported because a
    file says so.

    Raises:
        MarletError: for a type that is unknown or not trusted, or options that do not fit it.
    """
    kind = record.get("type")
    if not isinstance(kind, str):
        raise MarletError(f"A record needs the name of its type, but has {kind!r}.")
    if is_foreign(kind):
        library, _, module = kind.partition(":")
        if library != "pettingzoo" or module.partition(".")[0] not in TRUSTED:
            raise MarletError(
                f"This run was made on '{kind}', code from outside Marlet, which is not imported because a file says so. "
                f"If you trust it, name it yourself: --env {kind}"
            )
        return make_env(kind, record.get("options", {}))
    found = _final_classes()
    if kind not in found:
        raise MarletError(
            f"Marlet has no environment, algorithm or part '{kind}'.{nearest(kind, found)} An environment of your own is "
            "named again by --env PACKAGE.MODULE:FUNCTION."
        )
    known = _options(found[kind])
    values = {}
    for name, value in record.items():
        if name == "type":
            continue
        if name not in known:
            raise MarletError(f"{kind} has no option '{name}'.{nearest(name, known)}")
        if isinstance(value, Mapping):
            values[name] = rebuild(value)
        elif isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
            values[name] = tuple(rebuild(item) for item in value)
        else:
            values[name] = fitted(kind, known[name], name, value)
    return getattr(importlib.import_module(found[kind].module), kind)(**values)


def with_record(holder: Any, record: Mapping[str, Any]) -> Any:
    """An object of a class from outside Marlet, with the options that a record has of it.

    Raises:
        MarletError: for an option that its class no longer has, or one that is a part.
    """
    from marlet.options import describe

    own = describe(holder)
    values = {name: value for name, value in record.items() if name != "type" and own.get(name) != value}
    for name, value in values.items():
        if isinstance(value, Mapping):
            raise MarletError(f"{record['type']}: {name} is not what the run was begun with: {value}.")
    return changed(holder, **{name: _tuples(value) for name, value in values.items()})


# Values


def _made(holder: Any, values: Mapping[str, Any]) -> Any:
    """A copy of `holder` with values set by their dotted names."""
    own = {name: value for name, value in values.items() if "." not in name}
    for name in {name.partition(".")[0] for name in values}:
        part = own.get(name, getattr(holder, name))
        if isinstance(part, str) and dataclasses.is_dataclass(getattr(holder, name)):
            part = part_entry(part).load()()
        if inside := _inside(name, values):
            part = _made(part, inside)
        own[name] = part
    return changed(holder, **own)


def _inside(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """What is set of the part `name`."""
    return {key[len(name) + 1 :]: value for key, value in values.items() if key.startswith(name + ".")}


def _part_name(value: Any) -> str:
    return snake(value if isinstance(value, str) else type(value).__name__)


def _accepts(algorithm: "Algorithm", spec: "Spec") -> bool:
    try:
        algorithm.check(spec)
    except MarletError:
        return False
    return True


def _as(kind: str, value: Any) -> Any:
    """A value as the annotated type.

    Raises:
        ValueError: where it is not of that type.
    """
    if kind.endswith("| None"):
        return None if value is None else _as(kind.removesuffix("| None").strip(), value)
    if kind == "Any":
        return _tuples(value)
    if kind.startswith("tuple"):
        if not isinstance(value, tuple | list):
            raise ValueError(value)
        item, repeated, _ = kind.removeprefix("tuple[").rpartition(", ...]")
        if not repeated:
            items = _split(kind.removeprefix("tuple[").removesuffix("]"))
            return tuple(_as(each, part) for each, part in zip(items, value, strict=True))
        return tuple(_as(item, part) for part in value)
    if kind == "bool":
        if not isinstance(value, bool):
            raise ValueError(value)
        return value
    if kind == "str":
        if not isinstance(value, str):
            raise ValueError(value)
        return value
    if kind not in ("int", "float"):
        raise ValueError(kind)
    if isinstance(value, bool | str) or math.isnan(value) or (kind == "int" and value != int(value)):
        raise ValueError(value)
    return int(value) if kind == "int" else float(value)


def _split(items: str) -> list[str]:
    """The types of a tuple's parts: those commas that are in no bracket."""
    return [part.strip() for part in re.split(r",(?![^\[]*\])", items)]


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, tuple | list) else value


def literal(text: str) -> Any:
    """What a text says, if it is a number, a truth value, a list or the like; else the text itself."""
    words = {"true": True, "false": False, "none": None, "inf": math.inf, "-inf": -math.inf, "(,)": ()}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def _loose(value: Any) -> Any:
    """An option of a foreign environment, whose type nobody has told."""
    return literal(value) if isinstance(value, str) else value


def snake(name: str) -> str:
    """`TwoStep` as it is typed: `two_step`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


# Reading the sources


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
    return {f"marlet.{path.parent.name}.{path.stem}": ast.parse(path.read_text("utf-8")) for path in files}


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


def _abstract_parts() -> list[tuple[str, str]]:
    """The abstract classes at the top of `marlet.parts`."""
    return [
        key
        for key, found in _classes().items()
        if found.module.startswith("marlet.parts.")
        and any(_resolved(found.module, base) == ("abc", "ABC") for base in found.node.bases)
    ]


@cache
def _final_classes() -> dict[str, _Class]:
    """Everything that a record may name."""
    return {name: found for root in (ENV, ALGORITHM, *_abstract_parts()) for name, found in _final(root).items()}


@cache
def _envs() -> dict[str, Entry]:
    return _entries(_final(ENV))


@cache
def _parts() -> dict[str, Entry]:
    return _entries({name: found for root in _abstract_parts() for name, found in _final(root).items()})


def _entries(classes: dict[str, _Class]) -> dict[str, Entry]:
    return {
        snake(name): Entry(snake(name), found.module, name, found.doc, found.doc, _options(found))
        for name, found in classes.items()
    }


@cache
def _algorithms() -> dict[str, Entry]:
    found = {}
    for module, tree in _modules().items():
        if not module.startswith("marlet.algorithms."):
            continue
        for node in tree.body:
            if not isinstance(node, ast.FunctionDef) or node.name.startswith("_") or node.args.kwarg is None:
                continue
            family = _classes().get(_resolved(module, node.returns))
            if family is not None and any(each is _classes()[ALGORITHM] for each in _line(family)):
                options = _options(family)
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


def _options(found: _Class) -> dict[str, Option]:
    """The options of a class, those it inherits first."""
    options = {}
    for holder in reversed(list(_line(found))):
        for node in holder.node.body:
            if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)):
                continue
            call = node.value
            if isinstance(call, ast.Call) and _resolved(holder.module, call.func) == ("marlet.options", "option"):
                options[node.target.id] = _option(holder.module, node.target.id, node, call)
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


def _found(what: str, name: str, known: Mapping[str, Any]) -> Any:
    if name in known:
        return known[name]
    raise MarletError(f"There is no {what} '{name}'.{nearest(name, known)}")
