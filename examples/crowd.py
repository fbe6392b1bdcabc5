"""How learners scale with the number of agents: a swarm of 5, 20 and 100 drones.

    python examples/crowd.py

The arena grows with the swarm, so that a drone sees about as much whatever their number. What grows is what a critic is told:
for `ippo` no more than which drone it judges; the state for `mappo`; the state and everyone's actions for
`maddpg`. All swarms learn from as many steps of drones, in updates of as many: with more drones there are fewer environments.
(`maddpg` needs two of them: with 100 drones it makes a fifth as many updates.) The run is short. It shows how learning
begins, and what a step costs.
"""

import numpy as np
from studies import draw, options, report, told, trained

import marlet

DRONES = (5, 20, 100)
EPISODES = 64


def learners(drones: int) -> dict[str, marlet.Algorithm]:
    """Those that are compared, with updates of as many steps of drones whatever their number."""
    envs, few = 200 // drones, max(2, 40 // drones)
    return {
        "random": marlet.random(envs=envs),
        "ippo": marlet.ippo(envs=envs),
        "mappo": marlet.mappo(envs=envs),
        "maddpg": marlet.maddpg(envs=few, batch=320 // drones // 2 * 2, capacity=10_000, warmup=1_000),
    }


def main() -> None:
    given = options(__doc__, steps=8e5, seeds=2).parse_args()
    rows, returns, rates = [], {}, {}
    for name in learners(1):
        scores, speeds = [], []
        for drones in DRONES:
            env, rule, steps = marlet.Swarm(agents=drones), learners(drones)[name], given.steps / drones
            training, rate = trained(env, rule, steps=steps, seeds=given.seeds)
            scores.append(training.evaluate(EPISODES).score.mean((1, 2)))
            speeds.append(np.full(given.seeds, rate * drones))
            row = {"learner": name, "drones": drones, "steps": f"{steps:,.0f}", "return": told(scores[-1])}
            rows.append(row | {"steps/s a core": f"{rate:,.0f}", "of drones": f"{rate * drones:,.0f}"})
        returns[name] = DRONES, np.array(scores)
        if name != "random":
            rates[name] = DRONES, np.array(speeds)
    report("crowd", rows, given.page)
    draw(
        given.picture, {("drones", "return"): returns, ("drones", "steps of drones a second and core"): rates}, log=True
    )


if __name__ == "__main__":
    main()
