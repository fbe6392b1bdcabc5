"""Every algorithm on every task that it fits, with its default options and as many steps: who learns quickly on what.

    python examples/everyone.py

Returns are greedy, per agent, medians over seeds with 95 % intervals. The defaults were chosen for longer runs than these, so
that the first here is the quickest and not always the best. Tables and networks have tasks of their own; `drones` is for
both. In contests one team learns, the other plays at random, and the return is that of the team that learns.
"""

import sys
from dataclasses import replace
from typing import cast

from studies import options, report, told, trained

from marlet.algorithms.sides import versus
from marlet.catalogue import accepts, algorithm_entry, algorithm_names, make_algorithm, make_env
from marlet.envs.base import Env
from marlet.parts.members import members_of

NETWORKS = ("spread", "speaker_listener", "drones", "spread --continuous", "reach")
ASIDE = ("reference", "swarm")
"""Two who must name each other's goal, and ten drones that see what is near."""
TABLES = ("matrix", "two_step", "grid", "drones")
CONTESTS = {"tag": 0, "world_comm": 0, "adversary": 1, "push": 1, "crypto": 1, "soccer": 0}
"""The team that learns: the hunters, those who know the goal, who heads for it while it is pushed off, those who share a key,
the first player."""
CONTESTANTS = ("random", "ippo", "mappo", "maddpg", "iql", "qmix", "tabular_iql")
EPISODES = 256


def environment(task: str) -> Env:
    """The environment of a task, with the switch that stands behind its name."""
    name, *switches = task.split(" --")
    return cast("Env", make_env(name, dict.fromkeys(switches, True)))


def returns(name: str, task: str, *, steps: float, seeds: int) -> str:
    """What an algorithm earns on a task after so many steps; a dash where it does not fit."""
    env = environment(task)
    rule, whose = make_algorithm(name, env=env), slice(None)
    if task in CONTESTS:
        sides, team = [make_algorithm("random")] * 2, CONTESTS[task]
        sides[team], whose = rule, members_of(env.spec)[team]
        rule = replace(versus(*sides), envs=rule.envs, length=rule.length)
    if not accepts(rule, env.spec):
        return "-"
    training, _ = trained(env, rule, steps=steps, seeds=seeds)
    earned = told(training.evaluate(EPISODES).score[..., whose].mean((1, 2)))
    print(name, task, earned, file=sys.stderr, flush=True)
    return earned


def main() -> None:
    reader = options(__doc__, steps=1e5, seeds=3)
    reader.add_argument("--tasks", nargs="+", help="these columns alone; tables that have none of them are left out")
    given = reader.parse_args()
    tabular = {name for name in algorithm_names() if ".tabular" in algorithm_entry(name).module}
    networks = [name for name in algorithm_names() if name not in tabular]
    for title, tasks, names in (
        ("networks", NETWORKS, networks),
        ("aside", ASIDE, networks),
        ("contests", CONTESTS, CONTESTANTS),
        ("tables", TABLES, [name for name in algorithm_names() if name in tabular or name in ("random", "idle")]),
    ):
        asked = [task for task in tasks if given.tasks is None or task in given.tasks]
        if not asked:
            continue
        rows = [
            {"algorithm": name} | {task: returns(name, task, steps=given.steps, seeds=given.seeds) for task in asked}
            for name in sorted(names, key=lambda name: (algorithm_entry(name).module, name))
        ]
        report(title, rows, given.page)


if __name__ == "__main__":
    main()
