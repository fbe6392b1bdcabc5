"""Lets any PettingZoo program play a Marlet environment."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces
from jaxtyping import Float
from pettingzoo import ParallelEnv

from marlet.envs.base import Env
from marlet.errors import MarletError, nearest


class ParallelMarlet(ParallelEnv[str, np.ndarray, Any]):
    """A Marlet environment as a `pettingzoo.ParallelEnv`; `reset` and `step` are compiled once.

    An agent that dies is terminated. When the clock cuts the episode off, the agents still alive are truncated and
    the dead stay as they were. `info[agent]["action_mask"]` says which actions are legal where actions are choices.
    Without a seed, `reset` goes on from the last one, so episodes differ; with one it starts over.
    """

    def __init__(self, env: Env, seed: int = 0):
        """Wrap `env`. `seed` is that of the first episode opened without a seed of its own."""
        spec = env.spec
        self.env, self.spec = env, spec
        self.render_mode = None
        self.metadata = {
            "name": type(env).__name__.lower(),
            "render_modes": ["rgb_array", "ansi"],
            "is_parallelizable": True,
            "teams": dict(zip(spec.names, spec.teams, strict=True)),
        }
        self.possible_agents = list(spec.names)
        self.agents: list[str] = []
        self.max_cycles = spec.horizon
        low, high = (0.0, 1.0) if spec.levels else (-np.inf, np.inf)
        self._obs_spaces = {name: spaces.Box(low, high, spec.obs_shape, np.float32) for name in spec.names}
        self._action_spaces = {
            name: spaces.Box(-1.0, 1.0, (spec.num_actions,), np.float32)
            if spec.continuous
            else spaces.Discrete(spec.num_actions)
            for name in spec.names
        }
        self.state_space = spaces.Box(-np.inf, np.inf, (spec.state_size,), np.float32)
        # The methods themselves, not lambdas: wrappers of one environment that live together share the programs.
        self._reset = jax.jit(env.reset)
        self._step = jax.jit(env.step)
        self._key = jax.random.key(seed)
        self._state: Any = None
        self._now: Any = None

    def observation_space(self, agent: str) -> spaces.Box:
        """Where the agent's observations lie; always the same object."""
        return self._obs_spaces[agent]

    def action_space(self, agent: str) -> spaces.Space:
        """`Discrete`, or a `Box` from -1 to 1; always the same object, so that its sampling can be seeded."""
        return self._action_spaces[agent]

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, dict[str, Any]]]:
        """Open an episode. `options` is taken for PettingZoo's sake and changes nothing."""
        if seed is not None:
            self._key = jax.random.key(seed)
        self._key, reset_key = jax.random.split(self._key)
        self._state, now = self._reset(key=reset_key)
        self._now = jax.device_get(now)
        self.agents = self._living()
        return self._observations(self.agents), self._infos(self.agents)

    def step(
        self, actions: dict[str, Any]
    ) -> tuple[dict[str, np.ndarray], dict[str, float], dict[str, bool], dict[str, bool], dict[str, dict[str, Any]]]:
        """Let the living act at once.

        Raises:
            MarletError: where the episode is over, an agent alive has no action or one that there is not, or an action is
                named for nobody. What the mask closes may be tried, as PettingZoo's own tests do; the environment says
                what comes of it.
        """
        before = self.agents
        if not before:
            raise MarletError("The episode is over, or none was opened yet: call `reset` before `step`.")
        self._key, step_key = jax.random.split(self._key)
        self._state, now = self._step(self._state, self._joint(actions), key=step_key)
        self._now = now = jax.device_get(now)
        alive = dict(zip(self.possible_agents, now.alive.tolist(), strict=True))
        reward = dict(zip(self.possible_agents, now.reward.tolist(), strict=True))
        cut = bool(now.truncated)
        self.agents = [] if cut else self._living()
        return (
            self._observations(before),
            {agent: reward[agent] for agent in before},
            {agent: not alive[agent] for agent in before},
            {agent: cut and alive[agent] for agent in before},
            self._infos(before),
        )

    def state(self) -> Float[np.ndarray, " s"]:
        """What training may see of the whole world."""
        if self._now is None:
            raise MarletError("There is no state before the first `reset`.")
        return self._now.state

    def render(self) -> np.ndarray | str:
        """A frame of colours, or text: whatever the environment draws."""
        if self._state is None:
            raise MarletError("There is nothing to draw before the first `reset`.")
        return self.env.render(jax.device_get(self._state))

    def close(self) -> None:
        """Nothing is held that would have to be released."""

    def _living(self) -> list[str]:
        return [name for name, alive in zip(self.possible_agents, self._now.alive, strict=True) if alive]

    def _observations(self, agents: list[str]) -> dict[str, np.ndarray]:
        return {agent: self._now.obs[self.possible_agents.index(agent)] for agent in agents}

    def _infos(self, agents: list[str]) -> dict[str, dict[str, Any]]:
        if self.spec.continuous:
            return {agent: {} for agent in agents}
        masks = self._now.available.astype(np.int8)
        return {agent: {"action_mask": masks[self.possible_agents.index(agent)]} for agent in agents}

    def _joint(self, actions: dict[str, Any]) -> jax.Array:
        """One row an agent; the dead get zeros, which do nothing."""
        spec = self.spec
        for agent in actions:
            if agent not in self._action_spaces:
                raise MarletError(f"There is no agent '{agent}'.{nearest(str(agent), self.possible_agents)}")
        for agent in self.agents:
            if agent not in actions:
                raise MarletError(f"Agent '{agent}' is alive, but was given no action.")
        shape = (spec.num_agents, spec.num_actions) if spec.continuous else (spec.num_agents,)
        joint = np.zeros(shape, np.float32 if spec.continuous else np.int32)
        for agent in self.agents:
            action, space = np.asarray(actions[agent]), self._action_spaces[agent]
            if spec.continuous:
                there = action.shape == space.shape and np.issubdtype(action.dtype, np.number)
                there = there and bool(np.isfinite(action).all())
            else:
                there = action.shape == () and action.dtype.kind in "iu" and 0 <= action < spec.num_actions
            if not there:
                raise MarletError(f"Agent '{agent}' was given the action {actions[agent]!r}, which is not in {space}.")
            joint[self.possible_agents.index(agent)] = action
        return jnp.asarray(joint)
