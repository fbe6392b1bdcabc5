"""Two robots in a corridor are to meet: about the least that a PettingZoo environment needs."""

import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv


class Rooms(ParallelEnv):
    """Each robot moves left, not at all, or right, and both lose by their distance."""

    metadata = {"name": "rooms"}  # noqa: RUF012

    def __init__(self, size=5, max_cycles=20):
        self.size, self.max_cycles = size, max_cycles
        self.possible_agents = ["left", "right"]
        self.place_space = spaces.Box(0, 1, (2,), np.float32)
        self.move_space = spaces.Discrete(3)
        self.draws = np.random.default_rng()

    def observation_space(self, agent):
        return self.place_space

    def action_space(self, agent):
        return self.move_space

    def reset(self, seed=None, options=None):
        if seed is not None:
            self.draws = np.random.default_rng(seed)
        self.agents, self.time = list(self.possible_agents), 0
        self.place = self.draws.integers(self.size, size=2)
        return self.observed(), {agent: {} for agent in self.agents}

    def step(self, actions):
        moves = np.array([actions[agent] for agent in self.possible_agents]) - 1
        self.place = np.clip(self.place + moves, 0, self.size - 1)
        self.time += 1
        reward = -float(abs(self.place[0] - self.place[1]))
        cut = self.time >= self.max_cycles
        agents = self.agents
        said = (
            self.observed(),
            dict.fromkeys(agents, reward),
            dict.fromkeys(agents, False),
            dict.fromkeys(agents, cut),
            {agent: {} for agent in agents},
        )
        self.agents = [] if cut else agents
        return said

    def render(self):
        letters = {(True, False): "L", (False, True): "R", (True, True): "X"}
        return "".join(letters.get(tuple(self.place == k), ".") for k in range(self.size))

    def observed(self):
        place = (self.place / (self.size - 1)).astype(np.float32)
        return {"left": place, "right": place[::-1].copy()}


def make_env(size=5, render_mode=None):  # without `render_mode` it could not be watched
    return Rooms(size)
