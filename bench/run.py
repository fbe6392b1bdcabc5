"""Measures how fast Marlet is on this machine. `make bench` runs it, `make bench-peers` with other libraries beside it.

    python bench/run.py                                everything; about an hour and a half on two cores
    python bench/run.py --quick                        the least of everything, to see that it works
    python bench/run.py --only stepping,training       some subjects
    python bench/run.py --only stepping --sizes 1,16,256,4096,16384       how it grows with environments, as on a GPU

Each subject is a module of this folder: its `plan` names the rows of its tables, and each row is measured in a process
of its own, so that one's memory and compiled programs are not another's. A rate is the median of several timed runs
after a warm-up; importing, compiling and the peak of memory are told apart. Tables go to the terminal, to
results/latest.md and results/latest.json beside this file, where what was measured before of other subjects stays.
"""

import argparse
import importlib
import json
import os
import shlex
import sys
from pathlib import Path

import at_once
import cells
import defaults
import host_envs
import many_agents
import peers
import replay_memory
import starting
import stepping
import time_to_return
import training
import two_devices
import where_time_goes
from measure import HERE, Row, Wish, alone
from report import circumstances, page, section

SUBJECTS = {
    module.__name__: module
    for module in (
        starting,
        stepping,
        peers,
        training,
        defaults,
        cells,
        where_time_goes,
        time_to_return,
        at_once,
        two_devices,
        host_envs,
        many_agents,
        replay_memory,
    )
}


def devices() -> Row:
    """What JAX finds to compute on."""
    import jax

    return {"devices": [device.device_kind for device in jax.devices()]}


def measured_alone(name: str, arguments: str) -> None:
    """Print what one function of this folder returns: the other side of `measure.alone`."""
    module, _, function = name.rpartition(".")
    print(json.dumps(vars(importlib.import_module(module))[function](*json.loads(arguments))))


def main() -> int:
    """Measure what was asked for and write it down."""
    parser = argparse.ArgumentParser(description="How fast Marlet is on this machine.")
    parser.add_argument("--quick", action="store_true", help="the least of everything, to see that it works")
    parser.add_argument("--only", default=",".join(SUBJECTS), help="subjects, parted by commas: %(default)s")
    parser.add_argument("--sizes", default="64,512,4096", help="environments side by side, where that is varied")
    parser.add_argument("--out", type=Path, help="folder of latest.md and latest.json; bench/results, or its `quick`")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        measured_alone(*given.one)
        return 0
    wanted = given.only.split(",")
    if unknown := [name for name in wanted if name not in SUBJECTS]:
        parser.error(f"there is no subject '{unknown[0]}', only {', '.join(SUBJECTS)}")

    wish = Wish(given.quick, tuple(map(int, given.sizes.split(","))), len(os.sched_getaffinity(0)))
    out = given.out or HERE / "results" / ("quick" if given.quick else "")
    out.mkdir(parents=True, exist_ok=True)
    latest = out / "latest.json"
    command = shlex.join(["python", "bench/run.py", *sys.argv[1:]])
    found = alone(devices)["devices"]
    for name in wanted:
        result = circumstances(command, found) | {"tables": {}}
        for table in SUBJECTS[name].plan(wish):
            rows = []
            for function, arguments in table.calls:
                rows.append(alone(function, *arguments))
                told = {key: value for key, value in rows[-1].items() if key != "curve"}
                print(name, json.dumps(told), file=sys.stderr, flush=True)
            result["tables"][table.title] = table.finished(rows)
        if not result["tables"]:
            print(f"{name}: what it needs is not installed.", file=sys.stderr)
            continue
        # Subject by subject, so that a later one's failure loses nothing.
        results = json.loads(latest.read_text()) if latest.exists() else {}
        results = {key: (results | {name: result})[key] for key in SUBJECTS if key in results or key == name}
        latest.write_text(json.dumps(results, indent=1) + "\n")
        (out / "latest.md").write_text(page(results))
        print(f"{section(result)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
