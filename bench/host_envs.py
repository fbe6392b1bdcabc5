"""Environments that live in Python: what stepping them from Marlet costs beside stepping them bare (`host.py`)."""

import json
import subprocess
import sys
from importlib.util import find_spec

from measure import HERE, Row, Table, Wish

SCRIPT = HERE / "host.py"


def plan(wish: Wish) -> list[Table]:
    """The table to measure, where the environment is installed."""
    return [Table("Environments that live in Python", [(host, ())])] if SCRIPT.exists() and find_spec("mpe2") else []


def host() -> Row:
    """What host.py says on its last line."""
    done = subprocess.run([sys.executable, str(SCRIPT)], check=True, stdout=subprocess.PIPE, text=True)
    told = json.loads(done.stdout.splitlines()[-1])
    return {name: told[name] for name in ("subject", "steps_per_second", "bare_steps_per_second", "lost", "runs")}
