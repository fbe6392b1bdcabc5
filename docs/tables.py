"""Writes the parts of README.md and docs/ that the sources already say: tables of what there is, and its options.

    make docs       or: python docs/tables.py

A page marks such a part by `<!-- generated: NAME -->` and `<!-- end -->`; what stands between is replaced. NAME is
`algorithms`, `environments`, `env NAME` (an environment's own description and options) or `family NAME` (what the family of
the algorithm NAME does, and its options), or `file PATH`. A test checks that every page is as it would be written anew.
"""

import inspect
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from marlet.catalogue import algorithm_entry, algorithm_names, env_entry, env_names, settings
from marlet.manual import suited_in
from marlet.sources import Option
from marlet.words import flag

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MARKED = re.compile(r"(<!-- generated: ([a-z_./ ]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def algorithms() -> str:
    """Every algorithm with its first sentence, family by family."""
    entries = sorted(map(algorithm_entry, algorithm_names()), key=lambda entry: (entry.module, entry.name))
    rows = [(f"`{entry.name}`", cell(entry.summary), module(entry.module)) for entry in entries]
    return table(("algorithm", "what it is", "source"), rows)


def environments() -> str:
    """Every environment with its first sentence."""
    rows = [(f"`{entry.name}`", cell(entry.summary), module(entry.module)) for entry in map(env_entry, env_names())]
    return table(("environment", "what it is", "source"), rows)


def env(name: str) -> str:
    """An environment as its source describes it, and the defaults that suit it."""
    entry = env_entry(name)
    told = f"```text\n{inspect.cleandoc(entry.doc)}\n```\n\n{options(settings(entry, {}), 'env.')}"
    rows = [(", ".join(f"`{each}`" for each in names), f"`{typed}`") for names, typed in suited_in(name)]
    return f"{told}\n\n{table(('algorithm', 'defaults that differ here'), rows)}" if rows else told


def family(name: str) -> str:
    """What the learners of one family do, and the options with the defaults of one of them."""
    entry = algorithm_entry(name)
    return f"{inspect.cleandoc(entry.family_doc)}\n\n{options(settings(entry, {}))}"


def options(known: Mapping[str, Option], prefix: str = "") -> str:
    """Options as they are typed, with default, range and meaning."""
    if not known:
        return "No options."
    rows = []
    for name, option in known.items():
        values = option.range or ", ".join(map(str, option.parts or option.choices))
        default = f"`{option.shown_default}`" if option.shown_default else ""
        rows.append((f"`{flag(prefix + name)}`", default, cell(option.help), values))
    return table(("option", "default", "meaning", "values"), rows)


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table."""
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, ("---",) * len(head), *rows])


def module(name: str) -> str:
    """The file of a module."""
    return f"`{name.replace('.', '/').removeprefix('marlet/')}.py`"


def cell(text: str) -> str:
    """Text that a table's cell shows as it is written."""
    return re.sub(r"([|<>*_])", r"\\\1", " ".join(text.split()))


def file(path: str) -> str:
    """A file as it is."""
    return f"```python\n{(ROOT / path).read_text('utf-8')}```"


PARTS = {"file": file, "algorithms": algorithms, "environments": environments, "env": env, "family": family}


def renewed(page: str) -> str:
    """The page with its generated parts written anew."""

    def write(found: re.Match[str]) -> str:
        what, *arguments = found[2].split()
        return f"{found[1]}{PARTS[what](*arguments)}\n{found[3]}"

    return MARKED.sub(write, page)


def main() -> int:
    """Write what has changed."""
    for path in PAGES:
        before = path.read_text("utf-8")
        after = renewed(before)
        if after != before:
            path.write_text(after, "utf-8")
            print(path.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
