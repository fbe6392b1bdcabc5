"""From a run to actions: `policy = marlet.load(run)`, then `policy.act(observations)`."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from marlet.algorithms.base import Algorithm, Learned
from marlet.errors import MarletError
from marlet.runs import checkpoint
from marlet.runs.directory import Run, returns_in
from marlet.types import Key, Spec, Step


class Policy:
    """What was learned, ready to act in one copy of a world.

    A policy remembers: between the steps of an episode it keeps the agents' memories, and `reset` starts them afresh.
    """

    def __init__(self, algorithm: Algorithm, learned: Learned, spec: Spec, *, seed: int = 0, greedy: bool = True):
        self.algorithm, self.learned, self.spec, self.greedy = algorithm, learned, spec, greedy
        self._act = jax.jit(partial(_act, algorithm, spec, greedy))
        self.seed = seed
        self._key, self._count = jax.random.key(seed), 0
        self.reset()

    def reset(self) -> None:
        """Start an episode."""
        self._memory = self.algorithm.blank(self.learned, 1)

    def act(
        self,
        observations: Mapping[str, np.ndarray] | np.ndarray,
        *,
        available: Mapping[str, np.ndarray] | np.ndarray | None = None,
    ) -> dict[str, Any] | np.ndarray:
        """The actions of all agents, in the form the observations came in.

        Args:
            observations: one vector an agent, by the agents' names (as PettingZoo gives them; agents that are gone may
                be missing), or an array "n d".
            available: which actions are legal, in the same form ("n a"); all, when left out.

        Raises:
            MarletError: if an agent is unknown, an observation has another size than the policy was trained on or is not
                finite, or an agent may do nothing.
        """
        named = isinstance(observations, Mapping)
        names, n, a = self.spec.names, self.spec.num_agents, self.spec.num_actions
        obs = self._rows(observations, self.spec.obs_shape[0], np.float32)
        legal = np.ones((n, a), bool) if available is None else self._rows(available, a, bool)
        for i, name in enumerate(names):
            if not np.isfinite(obs[i]).all():
                raise MarletError(f"The observation of {name!r} is not finite: {obs[i].tolist()}.")
            if not legal[i].any():
                if all(name in given for given in (observations, available) if isinstance(given, Mapping)):
                    raise MarletError(f"No action is available to {name!r}. Leave out agents that are gone.")
                legal[i] = True  # it is gone
        self._count += 1
        key = jax.random.fold_in(self._key, self._count)
        self._memory, action = self._act(self.learned, self._memory, obs, legal, key)
        action = np.asarray(action)
        if not named:
            return action
        pairs = {name: action[i] for i, name in enumerate(self.spec.names) if name in observations}
        return pairs if self.spec.continuous else {name: int(choice) for name, choice in pairs.items()}

    def _rows(self, given: Mapping[str, np.ndarray] | np.ndarray, width: int, kind: type) -> np.ndarray:
        """One row an agent. Rows of agents of several kinds are padded with zeros up to `width`, as in training."""
        names = self.spec.names
        if not isinstance(given, Mapping):
            rows = np.array(given, kind)
            if rows.shape != (len(names), width):
                raise MarletError(
                    f"This policy was trained for {len(names)} agents with rows of {width}; it was given an array of "
                    f"shape {rows.shape}. Play it in the environment it was trained on."
                )
            return rows
        alike = len(set(self.spec.kinds)) == 1
        rows = np.zeros((len(names), width), kind)
        for name, row in given.items():
            row = np.asarray(row, kind).reshape(-1)
            if name not in names or len(row) > width or (alike and len(row) < width):
                raise MarletError(
                    f"This policy was trained for the agents {', '.join(names)} with rows of {width}; it was given "
                    f"{len(row)} numbers for {name!r}. Play it in the environment it was trained on."
                )
            rows[names.index(name), : len(row)] = row
        return rows


def _act(algorithm: Algorithm, spec: Spec, greedy: bool, learned: Learned, memory, obs, available, key: Key):
    n = spec.num_agents
    step = Step(
        obs=obs[None],
        state=jnp.zeros((1, spec.state_size)),
        available=available[None],
        reward=jnp.zeros((1, n)),
        alive=jnp.ones((1, n), bool),
        truncated=jnp.zeros(1, bool),
        cost=jnp.zeros((1, n)),
    )
    memory, action, _ = algorithm.act(learned, memory, step, key=key, greedy=greedy)
    return memory, action[0]


def from_run(run: Run, algorithm: Algorithm, *, seed: int | None = None, greedy: bool = True) -> Policy:
    """The policy of a run's newest checkpoint: of the seed given, or of the one whose last evaluation was best
    (by the return of team 0, where there are several teams).

    Raises:
        CheckpointFault: if no checkpoint is sound, or they were saved by another algorithm.
        MarletError: if the run has no such seed.
    """
    record: dict[str, Any] = run.options["spec"]
    spec = Spec(**{name: tuple(value) if isinstance(value, list) else value for name, value in record.items()})
    found, _ = checkpoint.newest(run.checkpoints)
    first, count = run.options["train"]["seed"], run.options["train"]["seeds"]
    seed = best_seed(run) if seed is None else seed
    if not first <= seed < first + count:
        theirs = f"the seeds {first} to {first + count - 1}" if count > 1 else f"only the seed {first}"
        raise MarletError(f"{run.path} has {theirs}, but {seed} was asked for.")
    one = jax.eval_shape(lambda key: algorithm.init(spec, key=key), jax.random.key(0))
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((count, *leaf.shape), leaf.dtype), one)
    arrays = {name.removeprefix(".learned"): leaf for name, leaf in found.arrays.items() if name.startswith(".learned")}
    learned = checkpoint.fit(arrays, shapes, where=found.path)
    one_learned = jax.tree.map(lambda leaf: jnp.asarray(leaf[seed - first]), learned)
    return Policy(algorithm, one_learned, spec, seed=seed, greedy=greedy)


def best_seed(run: Run) -> int:
    """The seed whose last evaluation had the highest return: that of the first team, number 0, where there are several.

    Raises:
        MarletError: if the run has no evaluations.
    """
    metrics = run.metrics()
    if not metrics or not metrics["steps"].size:
        raise MarletError(f"{run.path} has no evaluations that tell its best learner: say which one by --seed.")
    last = metrics["steps"] == metrics["steps"].max()
    return int(metrics["seed"][last][np.nanargmax(metrics[next(iter(returns_in(metrics).values()))][last])])
