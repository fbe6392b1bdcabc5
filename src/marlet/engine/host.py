"""Plays environments that live in Python: B copies on the host, stepped by worker processes, numpy in and out."""

import dataclasses
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int

from marlet.bridges.resolve import by_name
from marlet.bridges.worker import RESET, STEP, Group, board
from marlet.engine.crew import Crew
from marlet.errors import MarletError, NonFinite
from marlet.types import Spec, Step

FIELDS = tuple(field.name for field in dataclasses.fields(Step))
STEP_OF_ARRAYS = jax.tree.structure(Step(*FIELDS))
"""Puts a step together in a fifth of the time that calling `Step` takes."""
Snapshot = dict[str, np.ndarray]
STEP_TIMEOUT = 60.0
"""Seconds that one step or reset of one copy may take."""


class HostEnv:
    """B copies of a host environment that reset themselves, with each episode's final step kept.

    An episode's seed follows from the base seed, the copy and the episode's number, so a run can be repeated and a
    stopped one continued. Use as a context manager, or call `close`; workers also leave when this object or this
    process is gone.
    """

    def __init__(
        self,
        make: Callable[[], Any],
        copies: int,
        *,
        workers: int | None = None,
        timeout: float = STEP_TIMEOUT,
        own_state: bool = True,
    ):
        """Build `copies` environments with `make`, best a `Factory` from `marlet.bridges.resolve`.

        `workers=0` steps them in this process, for debugging; None takes one worker a core, or this process where
        `make` cannot be imported by name. `timeout` is in seconds, for one step or reset of one copy: a worker with
        several has as many times as long for all of them. With `own_state=False` the state is everyone's observations
        even where the environment has its own.

        Raises:
            MarletError: where `make` cannot be repeated by workers, or gives no `ParallelEnv` that can be read.
            EnvironmentFault: where an environment fails while it is built.
        """
        if copies < 1:
            raise MarletError(f"copies is {copies}, but at least one environment is needed.")
        factory = by_name(make)
        if workers is None:
            workers = min(copies, _cores()) if factory else 0
        workers = min(workers, copies)
        self.copies, self.timeout = copies, timeout
        self._now: Step | None = None
        # Of the last complete step, so that a snapshot can be taken even after a step that failed half-way.
        self._episode = np.zeros(copies, np.int64)
        self._history: list[np.ndarray] = []
        self._begun = np.zeros(copies, np.int64)
        """Where in the history each copy's episode begins."""
        if workers == 0:
            self._group = Group(make, range(copies), own_state)
            self._crew = None
            facts = self._group.facts
            self.board = board(facts, copies, 1)
            self._group.look(self.board)
        elif factory is None:
            raise MarletError(
                f"Workers import the environment by name, but {make} is defined inside a function or in the main "
                "script. Move it to the top of a module of its own, or use workers=0."
            )
        else:
            self._group = None
            self._crew = Crew(factory, copies, workers, own_state)
            facts = self._crew.facts
            self.board = self._crew.board
        self.spec = Spec(
            num_agents=len(facts.names),
            num_actions=facts.num_actions,
            obs_shape=(facts.obs_size,),
            state_size=facts.state_size,
            continuous=facts.continuous,
            kinds=facts.kinds,
            teams=facts.teams,
            names=facts.names,
            horizon=facts.horizon,
        )
        self._slots = np.ogrid[:copies, : self.spec.num_agents]
        """Where each agent of each copy is found in an array that leads with "B n"."""

    def reset(self, seed: int, episode: int = 0) -> Step:
        """Open one episode of every copy, the first one if nothing else is said. Every array leads with `B`.

        Raises:
            EnvironmentFault: where an environment breaks its contract, raises, hangs or dies.
        """
        return self._open(seed, np.full(self.copies, episode, np.int64))

    def step(self, action: Int[np.ndarray, "B n"] | Float[np.ndarray, "B n a"]) -> tuple[Step, Step]:
        """What the actions led to, before any reset; and what the agents see now, after resets.

        Raises:
            EnvironmentFault: where an environment breaks its contract, raises, hangs or dies.
            NonFinite: where an action is not a number.
            MarletError: where an action is not available to a live agent.
        """
        action = self._checked(action)
        self.board.action[:] = action
        self._tell(STEP)
        next = _copied(self.board.next)
        over = self.board.over
        self._history.append(action)
        if not over.any():
            self._now = next
            return next, next
        self._now = _replaced(next, self.board.opening, over)
        self._episode = self.board.episode.copy()
        self._begun[over] = len(self._history)
        oldest = int(self._begun.min())
        del self._history[:oldest]
        self._begun -= oldest
        return next, self._now

    def snapshot(self) -> Snapshot:
        """All that is needed to come back here: seeds, episode numbers, and each episode's actions so far.

        Its size grows with the length of the episodes that are on. Exact for environments that are deterministic
        given their seed.
        """
        if self._now is None:
            raise MarletError("There is nothing to take a snapshot of before the first reset.")
        lengths = len(self._history) - self._begun
        actions = np.zeros((int(lengths.max()), *self.board.action.shape), self.board.action.dtype)
        for b, begun in enumerate(self._begun):
            for t, action in enumerate(self._history[begun:]):
                actions[t, b] = action[b]
        return {
            "seed": self.board.seed.copy(),
            "episode": self._episode.copy(),
            "length": lengths,
            "action": actions,
            "obs": np.array(self._now.obs),
        }

    @property
    def saved_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of what `snapshot` returns; -1 where a length depends on how far episodes have come."""
        kept = {"seed": self.board.seed, "episode": self._episode, "length": self._begun}
        action, obs = self.board.action, self.board.next["obs"]
        return {name: jax.ShapeDtypeStruct(array.shape, array.dtype) for name, array in kept.items()} | {
            "action": jax.ShapeDtypeStruct((-1, *action.shape), action.dtype),
            "obs": jax.ShapeDtypeStruct(obs.shape, obs.dtype),
        }

    def restore(self, snapshot: Snapshot) -> Step:
        """Come back to where `snapshot` was taken: open the same episodes, and replay their actions.

        A copy that does not come back to the same observation is told of in a warning: its environment is not
        deterministic given its seed, and goes on from where the replay led.
        """
        lengths, actions = snapshot["length"], snapshot["action"]
        if lengths.shape != (self.copies,) or actions.shape[1:] != self.board.action.shape:
            raise MarletError(
                f"The snapshot is of {lengths.shape[0]} copies with actions of shape {actions.shape[2:]}, "
                f"but there are {self.copies} with {self.board.action.shape[1:]}."
            )
        now = self._open(int(snapshot["seed"][0]), snapshot["episode"])
        strayed = np.zeros(self.copies, bool)
        for t in range(len(actions)):
            busy = (t < lengths) & ~strayed
            self.board.busy[:] = busy
            self.board.action[:] = actions[t]
            self._tell(STEP)
            strayed |= busy & self.board.over
            now = _replaced(now, self.board.next, busy)
            now = _replaced(now, self.board.opening, busy & self.board.over)
        self.board.busy[:] = True
        self._now, self._episode = now, self.board.episode.copy()
        kept = np.where(strayed, 0, lengths)
        self._history = [action.copy() for action in np.zeros((int(kept.max()), *actions.shape[1:]), actions.dtype)]
        self._begun = len(self._history) - kept
        for b, length in enumerate(kept):
            for t in range(length):
                self._history[self._begun[b] + t][b] = actions[t, b]
        strayed |= (now.obs != snapshot["obs"]).any((1, 2))
        if strayed.any():
            warnings.warn(
                f"Environment copies {np.flatnonzero(strayed).tolist()} did not come back to where they were: they are "
                "not deterministic given their seed, so this run does not continue exactly.",
                stacklevel=2,
            )
        return now

    def render(self, copy: int = 0) -> Any:
        """The picture that one copy draws, if it was built to draw one (`render_mode="rgb_array"`).

        Raises:
            MarletError: where the copies live in workers.
        """
        if self._group is None:
            raise MarletError("Pictures are drawn in this process only: build the environment with workers=0.")
        return self._group.copies[copy].render()

    def close(self) -> None:
        """Close the environments and end the workers. May be called twice."""
        if self._crew is not None:
            self._crew.close()
        elif self._group is not None:
            self._group.close()
            self._group = None

    def __enter__(self) -> "HostEnv":
        return self

    def __exit__(self, *reason: object) -> None:
        self.close()

    def _open(self, seed: int, episodes: np.ndarray) -> Step:
        if seed < 0:
            raise MarletError(f"The seed is {seed}, but must be 0 or more.")
        self.board.seed[0] = seed
        self.board.episode[:] = episodes
        self.board.busy[:] = True
        self._tell(RESET)
        self._now = _copied(self.board.opening)
        self._episode = np.array(episodes)
        self._history = []
        self._begun = np.zeros(self.copies, np.int64)
        return self._now

    def _tell(self, command: bytes) -> None:
        if self._crew is not None:
            self._crew.tell(command, self.timeout * self._crew.share)
        elif self._group is None:
            raise MarletError("This environment has been closed.")
        elif command == STEP:
            self._group.step()
        else:
            self._group.reset()

    def _checked(self, action: Any) -> np.ndarray:
        now = self._now
        if now is None:
            raise MarletError("`reset` comes before the first `step`.")
        action = np.array(action, self.board.action.dtype)
        if action.shape != self.board.action.shape:
            raise MarletError(f"Actions have shape {action.shape}, but must have {self.board.action.shape}.")
        if self.spec.continuous:
            if not np.isfinite(action).all():
                b, i = np.argwhere(~np.isfinite(action).all(-1))[0]
                raise NonFinite(f"The action of agent {self.spec.names[i]!r} in copy {b} is {action[b, i].tolist()}.")
            return action
        choices = self.spec.num_actions
        if action.min() >= 0 and action.max() < choices and now.available[(*self._slots, action)].all():
            return action  # the dead have everything available
        inside = (action >= 0) & (action < choices)
        clipped = np.where(inside, action, 0)
        legal = inside & np.take_along_axis(np.asarray(now.available), clipped[..., None], -1)[..., 0]
        if not (legal | ~now.alive).all():
            b, i = np.argwhere(~legal & now.alive)[0]
            raise MarletError(
                f"Agent {self.spec.names[i]!r} in copy {b} chose action {action[b, i]}, but only "
                f"{np.flatnonzero(now.available[b, i]).tolist()} are available to it."
            )
        return action


def _copied(record: dict[str, Any]) -> Step:
    """A step of one's own."""
    return jax.tree.unflatten(STEP_OF_ARRAYS, [record[name].copy() for name in FIELDS])


def _replaced(step: Step, record: dict[str, Any], rows: Any) -> Step:
    """A copy of `step` with the chosen rows taken from `record`."""
    fresh = _copied(vars(step))
    for name in FIELDS:
        vars(fresh)[name][rows] = record[name][rows]
    return fresh


def _cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
