"""The settings that JaxMARL ships for spread, in Marlet's option names: the files in settings/.

marlet train qmix spread --options bench/settings/qmix.json --steps 2e6     trains at them
"""

import json
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
