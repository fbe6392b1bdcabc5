"""What was measured, as tables: on the terminal, in results/latest.md, and in docs/speed.md.

    python bench/report.py      writes the tables of docs/speed.md anew from results/latest.json

A page marks a table by `<!-- measured: SUBJECT -->` and `<!-- end -->`; what stands between is replaced.
"""

import json
import os
import platform
import re
import sys
import time
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from measure import HERE, Row

PAGE = HERE.parent / "docs" / "speed.md"
LATEST = HERE / "results" / "latest.json"
MARKED = re.compile(r"(<!-- measured: ([a-z_]+) -->\n).*?(<!-- end -->)", re.DOTALL)
PACKAGES = ("marlet", "jax", "jaxlib", "numpy", "equinox", "optax", "jaxmarl", "mpe2", "lbforaging", "rware", "jumanji")
IMAGES = {"time_to_return": "images/time_to_return.png"}

Result = dict[str, Any]
"""One subject: what it was measured under, and `tables`: rows by title."""


def million(rate: float) -> str:
    """`5.61 M`, `23 400`."""
    return f"{rate / 1e6:.2f} M" if rate >= 1e6 else f"{rate:,.0f}".replace(",", " ")


def fixed(digits: int) -> Callable[[float], str]:
    """Numbers with so many digits after the point."""
    return lambda number: f"{number:,.{digits}f}".replace(",", " ")


def percent(share: float) -> str:
    """`34 %`."""
    return f"{100 * share:.0f} %"


COLUMNS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "subject": ("", str),
    "agents": ("agents", str),
    "environments": ("environments", million),
    "seeds": ("seeds", str),
    "runs": ("runs", str),
    "transitions": ("transitions", million),
    "steps_per_second": ("Marlet, steps/s", million),
    "peer_steps_per_second": ("steps/s", million),
    "agent_steps_per_second": ("agents' steps/s", million),
    "nanoseconds_per_agent_step": ("ns an agent's step", fixed(0)),
    "times_fewest": ("times the fewest agents'", fixed(2)),
    "stepping_nanoseconds_per_agent_step": ("of it stepping alone, ns", fixed(0)),
    "one_by_one": ("Marlet, ending one by one, steps/s", million),
    "lockstep": ("Marlet, in lockstep, steps/s", million),
    "jaxmarl": ("JaxMARL, steps/s", million),
    "ratio_one_by_one": ("times, one by one", fixed(1)),
    "ratio_lockstep": ("times, in lockstep", fixed(1)),
    "c": ("C on one core, steps/s", million),
    "share_of_c": ("share of C", fixed(2)),
    "share_per_core": ("share per busy core", fixed(2)),
    "jaxmarl_stated": ("JaxMARL as stated, steps/s", million),
    "ratio_stated": ("times", fixed(1)),
    "bare_steps_per_second": ("bare, steps/s", million),
    "lost": ("longer than bare", percent),
    "one_core": ("one device on one core, steps/s", million),
    "one_device": ("one device, steps/s", million),
    "device_per_core": ("one a core, steps/s", million),
    "ratio_devices": ("times one device", fixed(2)),
    "ratio_core": ("times one core", fixed(2)),
    "one_device_busy": ("busy cores, one device", fixed(2)),
    "device_per_core_busy": ("busy cores, one a core", fixed(2)),
    "gru": ("GRU, steps/s", million),
    "linear": ("linear, steps/s", million),
    "ratio_cells": ("times", fixed(2)),
    "gru_busy": ("busy cores, GRU", fixed(2)),
    "linear_busy": ("busy cores, linear", fixed(2)),
    "step_by_step_ms": ("step by step, ms", fixed(2)),
    "pair_by_pair_ms": ("associative scan, ms", fixed(2)),
    "ratio_ways": ("times as fast step by step", fixed(2)),
    "reached": ("seeds that came there", str),
    "goal_seconds": ("after s, median", fixed(1)),
    "goal_steps": ("after steps, median", million),
    "return": ("greedy return per agent", fixed(2)),
    "after_steps": ("after steps", million),
    "after_seconds": ("at the end, after s", fixed(0)),
    "gigaflops": ("GFLOP/s", fixed(1)),
    "product_gigaflops_one_device": ("matrix product, one device, GFLOP/s", fixed(1)),
    "product_gigaflops": ("matrix product, one a core, GFLOP/s", fixed(1)),
    "share_of_product": ("share", percent),
    "milliseconds": ("ms an iteration", fixed(2)),
    "share": ("share", percent),
    "seconds": ("s", fixed(2)),
    "steps": ("steps", million),
    "cold_seconds": ("cold, s", fixed(1)),
    "warm_seconds": ("warm, s", fixed(1)),
    "one_run_seconds": ("one run, s", fixed(1)),
    "one_program_seconds": ("all in one program, s", fixed(1)),
    "times_one_run": ("times one run", fixed(1)),
    "ratio_after_another": ("times as fast as one after another", fixed(1)),
    "needed_megabytes": ("one copy of all needs, MB", fixed(0)),
    "held_megabytes": ("arrays held, MB", fixed(0)),
    "held_ratio": ("times needed", fixed(2)),
    "grown_megabytes": ("process grew by, MB", fixed(0)),
    "grown_ratio": ("times needed", fixed(2)),
    "busy": ("busy cores", fixed(2)),
    "jaxmarl_busy": ("JaxMARL, busy cores", fixed(2)),
    "import_seconds": ("importing, s", fixed(1)),
    "compile_seconds": ("compiling, s", fixed(1)),
    "megabytes": ("peak memory, MB", fixed(0)),
}
"""Every column that a table can have, in this order: its head, and how its numbers are told. What a row holds beside
them, such as curves, is only in the JSON file."""


def table(rows: list[Row]) -> str:
    """Rows as a Markdown table with all columns that any of them has."""
    names = [name for name in COLUMNS if any(name in row for row in rows)]
    told = lambda row, name: COLUMNS[name][1](row[name]) if row.get(name) is not None else ""  # noqa: E731
    lines = [[COLUMNS[name][0] for name in names], ["---" if name == "subject" else "---:" for name in names]]
    lines += [[told(row, name) for name in names] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def section(result: Result) -> str:
    """A subject's tables, and what they were measured under."""
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    parts = [part for title, rows in result["tables"].items() for part in (f"**{title}**", table(rows))]
    return "\n\n".join(
        [
            *parts,
            f"`{result['command']}` on {result['date']}: {result['processor']}, {result['cores']} cores, "
            f"load {result['load_before']} before; devices {', '.join(result['devices'])}; {versions}.",
        ]
    )


def page(results: Mapping[str, Result]) -> str:
    """All subjects one after the other."""
    return "\n\n".join(f"## {name}\n\n{section(result)}" for name, result in results.items()) + "\n"


def renewed(text: str, results: Mapping[str, Result], images: Path) -> str:
    """A page with its measured parts written anew; a picture stands below its table where there is one."""

    def write(found: re.Match[str]) -> str:
        name = found[2]
        told = section(results[name]) if name in results else "Not measured yet."
        if name in IMAGES and (images / IMAGES[name]).exists():
            told += f"\n\n![{name.replace('_', ' ')}]({IMAGES[name]})"
        return f"{found[1]}{told}\n{found[3]}"

    return MARKED.sub(write, text)


def processor() -> str:
    """What the machine computes with. Family and model tell apart processors of one name, some twice as fast as others."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    told = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    name, family = told.get("model name", platform.machine()), told.get("cpu family")
    return f"{name} (family {family}, model {told.get('model')})" if family else name


def circumstances(command: str, devices: list[str]) -> Result:
    """Date, machine and versions, and how busy the machine was."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "command": command,
        "date": time.strftime("%Y-%m-%d"),
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "load_before": round(os.getloadavg()[0], 2),
        "devices": devices,
        "versions": {"python": platform.python_version()} | found,
    }


def main() -> int:
    """Write docs/speed.md anew."""
    before = PAGE.read_text("utf-8")
    after = renewed(before, json.loads(LATEST.read_text()) if LATEST.exists() else {}, PAGE.parent)
    if after != before:
        PAGE.write_text(after, "utf-8")
        print(PAGE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
