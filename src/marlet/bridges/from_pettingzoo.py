"""Sees one copy of a PettingZoo `ParallelEnv` as Marlet's arrays: fixed slots, one row an agent, numpy only.

Nothing here imports JAX, so that a worker process starts in a fraction of a second and never touches an accelerator.

How PettingZoo's dictionaries become arrays:

- **Slots** come from `possible_agents` and never move. An agent that has died keeps its slot: `alive` is False, its
  observation and reward are zero and all its actions are open.
- **Different agents**: observations are flattened and padded with zeros to the widest. Discrete actions are padded to
  the most choices; those an agent does not have are never available. Continuous actions are padded to the longest
  vector and lie in [-1, 1], which is stretched to the environment's own bounds; without bounds they are passed on.
- **Images**: a `Box(0, 255, uint8)` is divided by 255; every other number is passed on as float32.
- **Masks** are read from `info[agent]["action_mask"]`, or from an observation that is a dictionary with that key.
- **The end.** The dictionaries of the last step count although `env.agents` is empty by then: its rewards are paid
  and its observations are what a truncated episode bootstraps from.
- **Truncation** is said of each agent by PettingZoo and of the episode by Marlet. When everyone who is still present
  is cut off at once, the episode is truncated and they stay alive, so that targets bootstrap. When one agent is cut
  off while others go on, that is its death: nothing more is earned, and nothing is bootstrapped.
- **The state** is `env.state()` where the environment has one, else everyone's observations side by side.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import spaces
from jaxtyping import Float, Int

from marlet.bridges.facts import Facts, Record, checked_parallel, horizon_of, kinds_of, teams_of
from marlet.bridges.spaces import Numbers, Odd, Rows, Vector, flag, number, reader_of, taker_of
from marlet.errors import EnvironmentFault, MarletError, nearest

LARGEST = float(np.finfo(np.float32).max)
"""Rewards are kept as float32."""
PLAIN = frozenset({float, int, np.float32, np.float64})
"""Types of rewards that need no closer look."""
TOLD = frozenset({"cost", "action_mask"})
"""What is read from an agent's info."""


class Copy:
    """One copy of a `ParallelEnv` that writes what it says into arrays. It never resets itself."""

    def __init__(self, make: Callable[[], Any], index: int = 0, own_state: bool = True):
        """Build the environment and learn its sizes.

        `index` names this copy in messages. With `own_state=False` the state is everyone's observations even
        where the environment has a `state()` of its own.

        Raises:
            MarletError: where `make` gives something else than a `ParallelEnv`, or its spaces cannot be read.
        """
        self.env = checked_parallel(make())
        self.index = index
        self.seed = 0
        self.clock = 0
        try:
            self.agents = list(self.env.possible_agents)
        except AttributeError:
            raise MarletError(
                f"{self.env} has no `possible_agents`: the list of all agents there may ever be is needed, "
                "because each keeps a fixed row of every array."
            ) from None
        if not self.agents:
            raise MarletError(f"{self.env} lists no agents in `possible_agents`.")
        self.ids = frozenset(self.agents)
        obs_spaces = [self.env.observation_space(agent) for agent in self.agents]
        action_spaces = [self.env.action_space(agent) for agent in self.agents]
        self.readers = [reader_of(space) for space in obs_spaces]
        self.takers = [taker_of(space) for space in action_spaces]
        self.mask_inside = [isinstance(space, spaces.Dict) and "action_mask" in space.spaces for space in obs_spaces]
        if len({type(taker) for taker in self.takers}) > 1:
            raise MarletError(
                f"{self.env} mixes discrete and continuous actions: "
                + ", ".join(f"{agent} has {space}" for agent, space in zip(self.agents, action_spaces, strict=True))
                + ". Wrap it so that all agents have the same sort."
            )
        names = tuple(str(agent) for agent in self.agents)
        obs_size = max(reader.size for reader in self.readers)
        self.state_reader = self._own_state() if own_state else None
        self.facts = Facts(
            names=names,
            num_actions=max(taker.size for taker in self.takers),
            obs_size=obs_size,
            state_size=self.state_reader.size if self.state_reader else len(names) * obs_size,
            continuous=isinstance(self.takers[0], Vector),
            kinds=kinds_of(names, obs_spaces, action_spaces),
            teams=teams_of(names, self.env.metadata.get("teams")),
            horizon=horizon_of(self.env),
        )
        self.own_actions = np.zeros((len(names), self.facts.num_actions), bool)
        for i, taker in enumerate(self.takers):
            self.own_actions[i, : taker.size] = True
        self.live: list[int] = []
        self.rows = Rows(tuple(self.readers))
        self.nobody = dict.fromkeys(self.agents, False)

    def _own_state(self) -> Numbers | None:
        """How `env.state()` is read, or None where the environment has none."""
        self.env.reset(seed=0)
        try:
            state = np.asarray(self.env.state())
        except (NotImplementedError, AttributeError):
            return None
        return Numbers(state.shape, 255.0 if state.dtype == np.uint8 else 1.0)

    def reset(self, seed: int, out: Record) -> None:
        """Open an episode and write its first step into `out`.

        Raises:
            EnvironmentFault: where the environment breaks its contract.
        """
        self.seed, self.clock = seed, 0
        given = self.env.reset(seed=seed)
        if not (isinstance(given, tuple) and len(given) == 2):
            raise self._fault("`reset` must return (observations, infos)")
        obs, infos = given
        self._refuse_strangers("env.agents", self.env.agents)
        present = set(self.env.agents)
        self.live = [i for i, agent in enumerate(self.agents) if agent in present]
        out["reward"][:] = 0
        out["cost"][:] = 0
        out["truncated"][...] = False
        out["alive"][:] = False
        out["alive"][self.live] = True
        if not self.live:
            raise self._fault("`env.agents` is empty after `reset`, so nobody can act")
        self._observe(obs, infos, self.live, self.live, out)

    def step(self, action: Int[np.ndarray, " n"] | Float[np.ndarray, "n a"], out: Record) -> bool:
        """Let the living act, write what follows into `out`, and say whether the episode is over.

        Raises:
            EnvironmentFault: where the environment breaks its contract.
        """
        self.clock += 1
        chosen = action if self.facts.continuous else action.tolist()
        given = self.env.step({self.agents[i]: self.takers[i].take(chosen[i]) for i in self.live})
        if not (isinstance(given, tuple) and len(given) == 5):
            raise self._fault("`step` must return (observations, rewards, terminations, truncations, infos)")
        if self._at_a_glance(*given, out=out):
            self._write_state(out)
            return False
        return self._closely(*given, out=out)

    def _at_a_glance(
        self, obs: Any, rewards: Any, terminations: Any, truncations: Any, infos: Any, *, out: Record
    ) -> bool:
        """Write a step in which nothing stands out: everyone lives on, and says finite numbers of plain types.

        Nearly all steps are of this sort, and a close look costs twice as much. False where anything is otherwise:
        `_closely` then reads it all again, and says what is wrong if anything is. Both write the same.
        """
        table, agents = out["obs"], self.agents
        try:
            if not (
                terminations == self.nobody == truncations
                and self.env.agents == agents
                and rewards.keys() == obs.keys() == self.ids
                and len(self.live) == len(agents)
                and not any(self.mask_inside)
                and not any(info and not TOLD.isdisjoint(info) for info in infos.values())
            ):
                return False
            earned = [rewards[agent] for agent in agents]
            for value in earned:
                if type(value) not in PLAIN or not -LARGEST <= value <= LARGEST:
                    return False
            self.rows.read([obs[agent] for agent in agents], table)
        except (AttributeError, TypeError, ValueError, Odd):  # not even dictionaries, or not of numbers
            return False
        if not np.isfinite(table).all():
            return False
        out["reward"][:] = earned
        out["available"][...] = self.own_actions
        out["alive"].fill(True)
        out["truncated"].fill(False)
        out["cost"].fill(0)
        return True

    def _closely(self, obs: Any, rewards: Any, terminations: Any, truncations: Any, infos: Any, *, out: Record) -> bool:
        """Write a step of any sort, and say whether the episode is over.

        Raises:
            EnvironmentFault: where the environment breaks its contract.
        """
        live = self.live
        self._refuse_strangers("rewards", rewards)
        self._refuse_strangers("terminations", terminations)
        self._refuse_strangers("truncations", truncations)
        self._refuse_strangers("env.agents", self.env.agents)

        out["reward"][:] = 0
        out["cost"][:] = 0
        remaining, cut = [], []
        for i in live:
            out["reward"][i] = self._finite(i, "reward", self._of(i, "reward", rewards))
            info = infos.get(self.agents[i])
            if info and "cost" in info:
                out["cost"][i] = self._finite(i, "cost", info["cost"])
            if not self._said(i, "termination", terminations):
                (cut if self._said(i, "truncation", truncations) else remaining).append(i)
        truncated = bool(cut) and not remaining
        alive = cut if truncated else remaining
        present = set(self.env.agents)
        for i in remaining:
            if self.agents[i] not in present:
                raise self._fault("left `env.agents` without having been terminated or truncated", i)
        for i, agent in enumerate(self.agents):
            if agent in present and i not in live:
                raise self._fault("came (back) to `env.agents` within an episode; agents may only leave", i)

        out["truncated"][...] = truncated
        out["alive"][:] = False
        out["alive"][alive] = True
        self._observe(obs, infos, live, alive, out)
        self.live = alive
        return truncated or not alive

    def render(self) -> Any:
        """The environment's own picture, if it was built to draw one."""
        return self.env.render()

    def close(self) -> None:
        """Let the environment release what it holds."""
        self.env.close()

    def _observe(self, obs: Any, infos: Any, seen: list[int], alive: list[int], out: Record) -> None:
        """Write observations of `seen`, the open actions of `alive`, and the state."""
        self._refuse_strangers("observations", obs)
        table, available = out["obs"], out["available"]
        table[:] = 0
        available[:] = True
        for i in seen:
            value = self._of(i, "observation", obs)
            reader = self.readers[i]
            try:
                reader.read(value, table[i, : reader.size])
            except Odd as odd:
                raise self._fault(f"the observation {odd}", i) from None
        if not np.isfinite(table).all():
            i = int(np.argmin(np.isfinite(table).all(-1)))
            raise self._fault(f"the observation is not finite: {table[i]}", i)
        for i in alive:
            info = infos.get(self.agents[i])
            mask = info.get("action_mask") if info else None
            if mask is None and self.mask_inside[i]:
                mask = self._of(i, "observation", obs).get("action_mask")
                if mask is None:
                    raise self._fault("the observation has no part 'action_mask', which its space declares", i)
            available[i] = self.own_actions[i] if mask is None else self._mask(i, mask)
        self._write_state(out)

    def _write_state(self, out: Record) -> None:
        if self.state_reader is None:
            out["state"][:] = out["obs"].reshape(-1)
            return
        try:
            self.state_reader.read(self.env.state(), out["state"])
        except Odd as odd:
            raise self._fault(
                f"`env.state()` {odd}; with `own_state=False` everyone's observations are taken instead"
            ) from None
        if not np.isfinite(out["state"]).all():
            raise self._fault(f"`env.state()` is not finite: {out['state']}")

    def _mask(self, i: int, mask: Any) -> np.ndarray:
        mask = np.asarray(mask)
        size = self.takers[i].size
        if mask.shape != (size,) or mask.dtype.kind not in "biuf":
            raise self._fault(
                f"the action mask has shape {mask.shape} and type {mask.dtype}, but must be {size} ones and zeros", i
            )
        row = np.zeros(self.facts.num_actions, bool)
        row[:size] = mask != 0
        if not row.any():
            raise self._fault("the action mask leaves nothing legal to a live agent", i)
        return row

    def _of(self, i: int, what: str, given: dict[Any, Any]) -> Any:
        if self.agents[i] not in given:
            raise self._fault(f"no {what} was given although the agent was alive", i)
        return given[self.agents[i]]

    def _finite(self, i: int, what: str, value: Any) -> float:
        try:
            value = number(value)
        except Odd as odd:
            raise self._fault(f"the {what} {odd}", i) from None
        if not abs(value) <= LARGEST:
            raise self._fault(f"the {what} is {value}, but must be finite as a float32", i)
        return value

    def _said(self, i: int, what: str, given: dict[Any, Any]) -> bool:
        try:
            return flag(self._of(i, what, given))
        except Odd as odd:
            raise self._fault(f"the {what} {odd}", i) from None

    def _refuse_strangers(self, where: str, given: Any) -> None:
        if self.ids.issuperset(given):
            return
        stranger = next(agent for agent in given if agent not in self.ids)
        raise self._fault(
            f"`{where}` names an agent {stranger!r} that is not in `possible_agents`."
            + nearest(str(stranger), [str(agent) for agent in self.agents])
        )

    def _fault(self, what: str, i: int | None = None) -> EnvironmentFault:
        who = "" if i is None else f", agent {str(self.agents[i])!r}"
        return EnvironmentFault(
            f"Environment copy {self.index}{who}, step {self.clock} (seed {self.seed}): {what.rstrip('.')}."
        )
