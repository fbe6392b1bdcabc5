"""Measures how fast Marlet is on this machine: stepping, training, compiling, starting. `make bench` runs it.

    python bench/run.py             everything; about four minutes on two cores
    python bench/run.py --quick     fewer sizes and runs, to see that it works

Each subject is measured in a process of its own, so that one's memory and compiled programs are not another's. A rate is
the median of several timed runs after a warm-up; compiling is told apart. Where JaxMARL is installed (`make bench-peers`)
its `MPE_simple_spread_v3` is stepped in the same process as `spread`, the two taking turns, and the ratio is told.
The table goes to the terminal, to results/latest.md and to results/latest.json beside this file.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
RUNS, SECONDS = 7, 0.5
"""Timed runs of each subject, and how long one of them should take."""
SIZES = (64, 512, 4096)
"""Environments stepped side by side."""
LEARNERS = [(name, memory) for memory in (0, 64) for name in ("iql", "vdn", "qmix")]
"""Deep algorithms, feed-forward and with a recurrent memory of 64 units."""
PACKAGES = ("marlet", "jax", "jaxlib", "numpy", "equinox", "optax", "jaxmarl")

Row = dict[str, Any]


# What is measured, each in a process of its own


def stepping(env_name: str, size: int, quick: bool) -> Row:
    """Environment steps a second of random play: drawing actions, stepping, own resets; observations are kept."""
    import jax

    from marlet.catalogue import make_env

    go, world = played(make_env(env_name), size)
    rate, compiling = measured(lambda steps, key: go(world, jax.random.key(key), steps), size, quick)
    return {"subject": f"{env_name}, {size} environments", "steps_per_second": rate, "compile_seconds": compiling}


def beside_jaxmarl(size: int, quick: bool) -> Row:
    """The same for `spread` and JaxMARL's, taking turns; once with all episodes in step, once ending one by one."""
    import equinox as eqx
    import jax
    import jax.numpy as jnp

    from marlet.envs.spread import Spread

    env = Spread()
    go, world = played(env, size)
    apart = eqx.tree_at(lambda w: w.state.clock, world, jnp.arange(size, dtype=jnp.int32) % env.steps)
    theirs = peer(size)
    programs = {
        "in_step": lambda steps, key: go(world, jax.random.key(key), steps),
        "apart": lambda steps, key: go(apart, jax.random.key(key), steps),
        "jaxmarl": lambda steps, key: theirs(jax.random.key(key), steps),
    }
    rates = in_turns(programs, size, quick)
    return {
        "subject": f"spread, {size} environments",
        **rates,
        "ratio_in_step": rates["in_step"] / rates["jaxmarl"],
        "ratio_apart": rates["apart"] / rates["jaxmarl"],
    }


def training(name: str, memory: int, seeds: int, quick: bool) -> Row:
    """Environment steps a second of whole training on `spread`: acting, stepping, storing and learning."""
    import jax

    from marlet.catalogue import make_algorithm
    from marlet.engine.devices import one_device_per_core
    from marlet.engine.train import Training
    from marlet.envs.spread import Spread

    one_device_per_core()
    program = Training(Spread(), make_algorithm(name, {"memory": memory}), seeds=seeds)
    begun = time.perf_counter()
    program.start()
    program.advance(1)
    compiling = time.perf_counter() - begun
    warmup = getattr(program.algorithm, "warmup", 0)  # learning begins after it, and is what is to be timed
    program.advance(-(-warmup // program.steps_per_iteration) + 1)

    count, took = 1, 0.0
    while took < (0.1 if quick else SECONDS):
        begun = time.perf_counter()
        program.advance(count)
        took = time.perf_counter() - begun
        count *= 2
    rates = []
    for _ in range(3 if quick else RUNS):
        begun = time.perf_counter()
        program.advance(count // 2)
        rates.append(count // 2 * program.steps_per_iteration * seeds / (time.perf_counter() - begun))
    jax.block_until_ready(program.progress)
    kind = f"recurrent, memory {memory}" if memory else "feed-forward"
    return {
        "subject": f"{name}, {kind}, {seeds} seed{'s' if seeds > 1 else ''}",
        "steps_per_second": statistics.median(rates),
        "compile_seconds": compiling,
        "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def starting(quick: bool) -> list[Row]:
    """Seconds until something answers: the median of several fresh processes."""
    command = [sys.executable, "-m", "marlet"]
    subjects = {
        "python alone": [sys.executable, "-c", "pass"],
        "import marlet": [sys.executable, "-c", "import marlet"],
        "import marlet, and all that trains": [sys.executable, "-c", "import marlet; marlet.train"],
        "marlet --help": [*command, "--help"],
        "marlet train qmix spread --help": [*command, "train", "qmix", "spread", "--help"],
    }
    rows = []
    for subject, argv in subjects.items():
        taken = []
        for _ in range(3 if quick else RUNS + 1):
            begun = time.perf_counter()
            subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
            taken.append(time.perf_counter() - begun)
        rows.append({"subject": subject, "seconds": statistics.median(taken[1:])})  # the first one fills caches
    return rows


# How it is measured


def played(env: Any, size: int) -> tuple[Callable, Any]:
    """A program `go(world, key, steps)` of random play in Marlet's own engine, and the world it begins with."""
    import equinox as eqx
    import jax

    from marlet.algorithms.base import Algorithm
    from marlet.engine.rollout import Tally, advance, opening

    @dataclass(frozen=True)
    class Random(Algorithm):
        """Any action, whether legal or not: all environments measured here allow every action."""

        def check(self, spec): ...

        def init(self, spec, *, key):
            return ()

        def blank(self, learned, batch):
            return ()

        def act(self, learned, memory, step, *, key, greedy=False):
            *shape, choices = step.available.shape
            return (), draw(key, shape, choices), ()

        def update(self, learned, rollout, *, key):
            return learned, {}

    random, n = Random(), env.spec.num_agents

    @eqx.filter_jit
    def go(world, key, steps: int):
        def body(carry, key):
            world, tally, _ = advance(env, random, (), *carry, key=key)
            return (world, tally), None

        return jax.lax.scan(body, (world, Tally.empty(n)), jax.random.split(key, steps))[0]

    return go, jax.jit(lambda key: opening(env, random, (), size, key=key))(jax.random.key(0))


def draw(key, shape, choices: int):
    """Actions all but equally likely (to 1 in 10 000), for 16 random bits each: `randint` takes four times as many, and
    would be most of what is measured. The same for both sides."""
    import jax
    import jax.numpy as jnp

    return (jax.random.bits(key, tuple(shape), jnp.uint16) % choices).astype(jnp.int32)


def peer(size: int) -> Callable:
    """The same program for JaxMARL's environment with its own automatic resets; as few random draws as it allows."""
    import equinox as eqx
    import jax
    import jax.numpy as jnp
    import jaxmarl  # pyright: ignore[reportMissingImports]

    env = jaxmarl.make("MPE_simple_spread_v3")
    n, choices = len(env.agents), env.action_space(env.agents[0]).n
    obs, state = jax.jit(jax.vmap(env.reset))(jax.random.split(jax.random.key(0), size))

    @eqx.filter_jit
    def go(key, steps: int):
        def body(carry, key):
            _, state, total = carry
            act_key, step_key = jax.random.split(key)
            drawn = draw(act_key, (n, size), choices)
            actions = dict(zip(env.agents, drawn, strict=True))
            obs, state, reward, _, _ = jax.vmap(env.step)(jax.random.split(step_key, size), state, actions)
            return (obs, state, total + sum(reward[agent] for agent in env.agents)), None

        return jax.lax.scan(body, (obs, state, jnp.zeros(size)), jax.random.split(key, steps))[0]

    return go


def timed(program: Callable, steps: int, key: int) -> float:
    """Seconds of one run."""
    import jax

    begun = time.perf_counter()
    jax.block_until_ready(program(steps, key))
    return time.perf_counter() - begun


def long_enough(program: Callable, quick: bool) -> tuple[int, float]:
    """How many steps make a run worth timing, and the seconds the first, compiling run took beyond a second one."""
    steps = 100
    first, again = timed(program, steps, 0), timed(program, steps, 1)
    wanted = 0.05 if quick else SECONDS
    steps = max(steps, int(steps * wanted / again / 100) * 100)
    timed(program, steps, 0)  # another number of steps is another program
    return steps, first - again


def measured(program: Callable, size: int, quick: bool) -> tuple[float, float]:
    """Environment steps a second (median), and the seconds of compiling."""
    steps, compiling = long_enough(program, quick)
    taken = [timed(program, steps, key) for key in range(3 if quick else RUNS)]
    return size * steps / statistics.median(taken), compiling


def in_turns(programs: dict[str, Callable], size: int, quick: bool) -> dict[str, float]:
    """Environment steps a second (median) of programs that take turns, so that a busy moment hits them alike."""
    steps = {name: long_enough(program, quick)[0] for name, program in programs.items()}
    taken = {name: [] for name in programs}
    for key in range(3 if quick else RUNS):
        for name, program in programs.items():
            taken[name].append(timed(program, steps[name], key))
    return {name: size * steps[name] / statistics.median(taken[name]) for name in programs}


# What is told


def alone(function: str, *arguments: Any) -> Any:
    """What a function of this file returns, run in a fresh process that keeps no compiled programs."""
    environment = os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    order = [sys.executable, __file__, "--one", function, json.dumps(arguments)]
    done = subprocess.run(order, check=True, stdout=subprocess.PIPE, env=environment, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def circumstances() -> Row:
    """Date, machine and versions, and how busy the machine was."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "date": time.strftime("%Y-%m-%d"),
        "processor": model or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "load_before": round(os.getloadavg()[0], 2),
        "versions": {"python": platform.python_version()} | found,
    }


def million(rate: float) -> str:
    """`5.61 M`, `23,400`."""
    return f"{rate / 1e6:.2f} M" if rate >= 1e6 else f"{rate:,.0f}"


COLUMNS: dict[str, tuple[str, Callable[[float], str]]] = {
    "subject": ("", str),
    "steps_per_second": ("steps/s", million),
    "in_step": ("marlet, steps/s", million),
    "apart": ("marlet, episodes ending one by one", million),
    "jaxmarl": ("jaxmarl, steps/s", million),
    "ratio_in_step": ("times as fast", lambda x: f"{x:.1f}"),
    "ratio_apart": ("times, one by one", lambda x: f"{x:.1f}"),
    "compile_seconds": ("compiling, s", lambda x: f"{x:.1f}"),
    "megabytes": ("peak memory, MB", lambda x: f"{x:,.0f}"),
    "seconds": ("s", lambda x: f"{x:.2f}"),
}


def as_markdown(sections: dict[str, list[Row]], told: Row) -> str:
    """All tables, and what they were measured under."""
    versions = ", ".join(f"{name} {number}" for name, number in told["versions"].items())
    text = [
        f"Measured on {told['date']}: {told['processor']}, {told['cores']} cores, load {told['load_before']} before; {versions}.",
        f"Medians of {RUNS} runs after a warm-up. A step is one step of one environment, all its agents at once.",
    ]
    for title, rows in sections.items():
        if rows:
            text += [f"### {title}", table(rows)]
    return "\n\n".join(text) + "\n"


def table(rows: list[Row]) -> str:
    """Rows as a Markdown table."""
    names = list(rows[0])
    lines = [[COLUMNS[name][0] for name in names], ["---", *["---:"] * (len(names) - 1)]]
    lines += [[COLUMNS[name][1](row[name]) for name in names] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Measure everything and write it down."""
    parser = argparse.ArgumentParser(description="How fast Marlet is on this machine.")
    parser.add_argument("--quick", action="store_true", help="fewer sizes and runs")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of latest.md and latest.json")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        function, arguments = given.one
        print(json.dumps({f.__name__: f for f in SUBJECTS}[function](*json.loads(arguments))))
        return

    from marlet.catalogue import env_names

    quick, told = given.quick, circumstances()
    sizes, learners = (SIZES[1:2], LEARNERS[2:3]) if quick else (SIZES, LEARNERS)
    sections: dict[str, list[Row]] = {"Starting": starting(quick)}
    plan = [("Training on spread", training, (*one, seeds, quick)) for one in learners for seeds in (1, told["cores"])]
    plan += [
        ("Stepping with random actions, one device", stepping, (name, size, quick))
        for name in env_names()
        for size in sizes
    ]
    if find_spec("jaxmarl"):
        plan += [("Stepping beside JaxMARL, one device", beside_jaxmarl, (size, quick)) for size in sizes]
    for title, function, arguments in plan:
        row = alone(function.__name__, *arguments)
        sections.setdefault(title, []).append(row)
        print("  ".join(COLUMNS[name][1](value) for name, value in row.items()), file=sys.stderr, flush=True)

    text = as_markdown(sections, told)
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "latest.md").write_text(text)
    (given.out / "latest.json").write_text(json.dumps(told | {"sections": sections}, indent=1) + "\n")
    print(text)


SUBJECTS = (stepping, beside_jaxmarl, training)

if __name__ == "__main__":
    main()
