# ruff: noqa: RUF012, class attributes are how PettingZoo says these
"""Host environments that workers import by name: a good one, and ones that raise, hang, die or cannot be built."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv


class Dice(ParallelEnv):
    """Two agents see random numbers; episodes have a random length from 2 to 6 and are cut off then.

    The reward of agent i is the die just thrown plus 10 times its action. At its last step agent 0's third action is
    closed. With `lasting` episodes end after that many steps.
    """

    metadata = {"name": "dice"}
    possible_agents = ["left", "right"]

    def __init__(self, lasting=0):
        self.lasting = lasting
        self.space = spaces.Box(-np.inf, np.inf, (3,), np.float32)
        self.actions = spaces.Discrete(3)
        self.rng = np.random.default_rng(0)

    def observation_space(self, agent):
        return self.space

    def action_space(self, agent):
        return self.actions

    def seen(self):
        obs = {agent: np.float32([self.t, i, self.die]) for i, agent in enumerate(self.possible_agents)}
        return obs, {agent: {} for agent in self.possible_agents}

    def reset(self, seed=None, options=None):
        self.rng = np.random.default_rng(seed)
        self.agents = self.possible_agents[:]
        self.length = self.lasting or int(self.rng.integers(2, 7))
        self.t, self.die = 0, self.rng.random()
        return self.seen()

    def step(self, actions):
        self.t += 1
        self.die = self.rng.random() + sum(actions.values())
        over = self.t == self.length
        if over:
            self.agents = []
        obs, infos = self.seen()
        every = self.possible_agents
        return (
            obs,
            {agent: self.die + 10 * actions[agent] for agent in every},
            dict.fromkeys(every, False),
            dict.fromkeys(every, over),
            infos,
        )


class Careless(Dice):
    """Forgets its seed."""

    def reset(self, seed=None, options=None):
        return super().reset(seed=int.from_bytes(os.urandom(4), "little"))


class Raises(Dice):
    def __init__(self, error="value", at=37):
        super().__init__(lasting=1000)
        self.error, self.at = error, at

    def step(self, actions):
        if self.t + 1 == self.at:
            if self.error == "exit":
                sys.exit(3)
            raise ValueError("the die fell off the table")
        return super().step(actions)


class Stumbles(Dice):
    """Raises when its second episode opens."""

    def reset(self, seed=None, options=None):
        if hasattr(self, "length") and self.t == self.length:
            raise ValueError("the dice are under the table")
        return super().reset(seed)


class Secretive(Dice):
    """Has a state of its own, of which nobody may hear during an episode."""

    def state(self):
        if self.t:
            raise RuntimeError("somebody asked for the state")
        return np.zeros(7, np.float32)


class Hangs(Dice):
    def step(self, actions):
        time.sleep(1e9)


class Sleepy(Dice):
    """Takes a quarter of a second for a step."""

    def step(self, actions):
        time.sleep(0.25)
        return super().step(actions)


class Served(Dice):
    """Starts a process of its own, as those do that play in a game's server; rewards say which."""

    def __init__(self):
        super().__init__()
        self.server = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])

    def step(self, actions):
        obs, _, *rest = super().step(actions)
        return obs, dict.fromkeys(self.possible_agents, self.server.pid), *rest


class Crashes(Dice):
    def step(self, actions):
        os.kill(os.getpid(), signal.SIGSEGV)


class Blurts(Dice):
    """Breaks its contract at the second step."""

    def step(self, actions):
        said = super().step(actions)
        if self.t == 2:
            said[0]["left"][2] = np.nan
        return said


class Unbuildable(Dice):
    def __init__(self):
        raise RuntimeError("no licence found")


class Spy(Dice):
    """Rewards say which process it lives in, whether JAX is there, and how many processes it was given to."""

    def step(self, actions):
        obs, _, terminations, truncations, infos = super().step(actions)
        return obs, {"left": "jax" in sys.modules, "right": os.getpid()}, terminations, truncations, infos


class Bounded(Dice):
    """Mask: the third action is never legal."""

    def seen(self):
        obs, _ = super().seen()
        return obs, {agent: {"action_mask": np.int8([1, 1, 0])} for agent in self.possible_agents}


class Pushed(Dice):
    """Continuous actions; the observation is the sum of all so far."""

    def __init__(self):
        super().__init__(lasting=5)
        self.actions = spaces.Box(-1, 1, (2,), np.float32)

    def step(self, actions):
        return super().step({agent: float(action.sum()) for agent, action in actions.items()})
