"""Trains at the settings that JaxMARL ships for spread, which the files in settings/ hold in Marlet's option names.

python bench/settings.py                              says which there are
python bench/settings.py qmix --seeds 2               is `marlet train` with the options of settings/qmix.json
python bench/settings.py ippo --epochs 8              ... and others instead of them
"""

import json
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "settings"
STEPS = 2_000_000
"""Environment steps for which the schedules in the files are made."""


def names() -> list[str]:
    """Every settings file, without its ending."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def read(name: str) -> dict[str, Any]:
    """A settings file: `algorithm`, `env`, `options`, JaxMARL's own rate, where that is from, and what differs."""
    return json.loads((FOLDER / f"{name}.json").read_text())


def algorithm_of(name: str) -> Any:
    """The algorithm with the options of a settings file."""
    from marlet.catalogue import make_algorithm

    record = read(name)
    return make_algorithm(record["algorithm"], record["options"])


def words_of(options: dict[str, Any]) -> dict[str, list[str]]:
    """Options as they are typed after `marlet train`, by their names."""

    def typed(name: str, value: Any) -> list[str]:
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            return [f"--{flag}" if value else f"--no-{flag}"]
        return [f"--{flag}", ",".join(map(str, value)) if isinstance(value, list) else str(value)]

    return {name: typed(name, value) for name, value in options.items()}


def main(argv: list[str]) -> int:
    """Train as a settings file says; what is typed here counts before it."""
    from marlet import cli

    if not argv or argv[0] not in names():
        print(f"{__doc__}\nThere are: {', '.join(names())}", file=sys.stderr)
        return 0 if not argv else 2
    record, rest = read(argv[0]), argv[1:]
    _, given = cli.split(rest)
    options = {name: value for name, value in record["options"].items() if name not in given}
    if "steps" not in given:
        rest = ["--steps", str(STEPS), *rest]
    words = [word for typed in words_of(options).values() for word in typed]
    command = ["train", record["algorithm"], record["env"], *words, *rest]
    print("marlet", *command, file=sys.stderr)
    return cli.main(command)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
