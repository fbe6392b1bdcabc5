# ruff: noqa: RUF012, class attributes are how PettingZoo says these
"""A PettingZoo environment whose every number can be worked by hand, and ways to break it."""

import numpy as np
from gymnasium import spaces
from pettingzoo import AECEnv, ParallelEnv


class Relay(ParallelEnv):
    """Two scouts and a carrier.

    After t steps scout i sees (t, i) and the carrier (t, 10, 20, 30). Who lives earns t + 10 * row + 100 * action.
    Scout 0 dies at step 2; the clock stops the others at step 4. The carrier's actions are 1, 2, 3, and after t steps
    the one with index t % 3 is closed to it. Agents that are gone are gone from the dictionaries. With another
    `sight` nothing is ever closed to the carrier: it sees the same numbers without a mask as a "grid", or two numbers
    like the scouts as a "vector".
    """

    metadata = {"name": "relay"}
    possible_agents = ["scout_0", "scout_1", "carrier_0"]
    max_cycles = 4

    def __init__(self, deaths=(2, None, None), cuts=(4, 4, 4), sight="masked"):
        self.deaths, self.cuts, self.sight = deaths, cuts, sight
        self.received = []
        scout = spaces.Box(-np.inf, np.inf, (2,), np.float32)
        grid = spaces.Box(-np.inf, np.inf, (2, 2), np.float32)
        masked = spaces.Dict({"observation": grid, "action_mask": spaces.MultiBinary(3)})
        carrier = {"masked": masked, "grid": grid, "vector": scout}[sight]
        self._obs = dict(zip(self.possible_agents, [scout, scout, carrier], strict=True))
        self._act = dict(
            zip(
                self.possible_agents, [spaces.Discrete(2), spaces.Discrete(2), spaces.Discrete(3, start=1)], strict=True
            )
        )

    def observation_space(self, agent):
        return self._obs[agent]

    def action_space(self, agent):
        return self._act[agent]

    def see(self, agent):
        if agent == "carrier_0" and self.sight != "vector":
            mask = np.ones(3, np.int8)
            mask[self.t % 3] = 0
            seen = np.array([[self.t, 10], [20, 30]], np.float32)
            return {"observation": seen, "action_mask": mask} if self.sight == "masked" else seen
        return np.array([self.t, self.possible_agents.index(agent)], np.float32)

    def reset(self, seed=None, options=None):
        self.t, self.seed = 0, seed
        self.agents = self.possible_agents[:]
        return {agent: self.see(agent) for agent in self.agents}, {agent: {} for agent in self.agents}

    def step(self, actions):
        assert set(actions) == set(self.agents), "actions are of the living, and of no one else"
        self.received.append(actions)
        self.t += 1
        here = self.agents
        row = self.possible_agents.index
        rewards = {agent: self.t + 10 * row(agent) + 100 * actions[agent] for agent in here}
        terminations = {agent: self.t == self.deaths[row(agent)] for agent in here}
        truncations = {agent: self.t == self.cuts[row(agent)] for agent in here}
        self.agents = [agent for agent in here if not terminations[agent] and not truncations[agent]]
        return {agent: self.see(agent) for agent in here}, rewards, terminations, truncations, {a: {} for a in here}


class Tampered(Relay):
    """A relay that says something else at its second step: `change` edits what `step` returns, in place."""

    def __init__(self, change, sight="masked"):
        super().__init__(deaths=(None, None, None), sight=sight)
        self.change = change

    def step(self, actions):
        said = super().step(actions)
        if self.t == 2:
            self.change(self, *said)
        return said


class Pushers(ParallelEnv):
    """Continuous actions of two sizes and bounds, pictures, a state of its own, costs and teams."""

    metadata = {"name": "pushers", "teams": {"long": 0, "short": 1}}
    possible_agents = ["long", "short"]

    def __init__(self):
        image = spaces.Box(0, 255, (2, 2, 1), np.uint8)
        self._obs = {"long": image, "short": spaces.Discrete(3)}
        self._act = {
            "long": spaces.Box(np.float32([[0, -2], [0, -2]]), np.float32([[1, 2], [1, 2]])),
            "short": spaces.Box(-1, 1, (1,), np.float64),
        }

    def observation_space(self, agent):
        return self._obs[agent]

    def action_space(self, agent):
        return self._act[agent]

    def said(self):
        infos = {"long": {"cost": 2.5}, "short": {}}
        return {"long": np.array([[[0], [51]], [[102], [255]]], np.uint8), "short": 2}, infos

    def state(self):
        return np.array([7, 8, 9])

    def reset(self, seed=None, options=None):
        self.agents = self.possible_agents[:]
        return self.said()

    def step(self, actions):
        self.received = actions
        obs, infos = self.said()
        return (
            obs,
            {"long": np.float64(1), "short": 2},
            {"long": False, "short": np.bool_(False)},
            {"long": False, "short": 0},
            infos,
        )


class Turns(AECEnv):
    """Turn-based, so refused."""

    metadata = {"name": "turns"}
