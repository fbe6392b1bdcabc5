"""How good a policy is: whole episodes, the mean return of each agent, and how sure that is."""

from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from marlet.bridges.resolve import Factory
from marlet.engine.evaluate import play_episodes
from marlet.engine.host import HostEnv
from marlet.envs.base import Env
from marlet.errors import MarletError
from marlet.runs.policy import Policy
from marlet.types import Spec, where

COPIES = 16
"""Copies of a host environment that play side by side."""
LONGEST = 1000
"""Steps after which an episode is cut off where the environment has no horizon."""


@dataclass(frozen=True)
class Evaluation:
    """Scores of whole episodes."""

    names: tuple[str, ...]
    returns: Float[np.ndarray, "episodes n"]
    """Reward summed over the episode, of each agent."""
    lengths: Int[np.ndarray, " episodes"]
    solved: Bool[np.ndarray, " episodes"]
    """Whether the world ended it, rather than the clock."""

    def rows(self) -> list[dict[str, Any]]:
        """A row for each agent and one for their mean: return and its 95 % interval (Student's t over episodes)."""
        columns = dict(zip(self.names, self.returns.T, strict=True)) | {"mean": self.returns.mean(-1)}
        rows = []
        for name, scores in columns.items():
            mean, half = float(scores.mean()), half_width(scores)
            rows.append({"agent": name, "return": mean, "low": mean - half, "high": mean + half})
        return rows


def half_width(scores: Float[np.ndarray, " episodes"], level: float = 0.95) -> float:
    """Half of the interval of a mean; not a number where there is one score only."""
    from scipy.stats import t

    if scores.size < 2:
        return float("nan")
    return float(t.ppf(0.5 + level / 2, scores.size - 1) * scores.std(ddof=1) / np.sqrt(scores.size))


def evaluate(policy: Policy, env: Env | Factory, *, episodes: int = 512, seed: int = 0) -> Evaluation:
    """Play whole greedy episodes of a policy in an environment, be it another than it was trained in.

    Raises:
        MarletError: if the environment's agents do not see or do what the policy was trained for.
    """
    if isinstance(env, Factory):
        return _evaluate_host(policy, env, episodes, seed)
    _check_fit(policy.spec, env.spec, type(env).__name__)
    play = eqx.filter_jit(lambda learned, key: play_episodes(env, policy.algorithm, learned, episodes, key=key))
    scores = jax.device_get(play(policy.learned, jax.random.key(seed)))
    return Evaluation(env.spec.names, scores.score, scores.length, scores.solved)


def _evaluate_host(policy: Policy, factory: Factory, episodes: int, seed: int) -> Evaluation:
    """Every copy plays equally many episodes: to count whichever end first would favour short ones."""
    copies = min(COPIES, episodes)
    each = -(-episodes // copies)
    algorithm, learned = policy.algorithm, policy.learned
    act = jax.jit(lambda memory, step, key: algorithm.act(learned, memory, step, key=key, greedy=True)[:2])
    forget = jax.jit(where)
    keys = jax.random.key(seed)
    with HostEnv(factory, copies) as env:
        _check_fit(policy.spec, env.spec, factory.name)
        now, memory = env.reset(seed), algorithm.blank(learned, copies)
        blank, n = memory, env.spec.num_agents
        score, length = np.zeros((copies, n)), np.zeros(copies, int)
        played = np.zeros(copies, int)
        returns, lengths, solved = [], [], []
        limit, step = (env.spec.horizon or LONGEST) * each, 0
        while played.min() < each and step < limit:
            memory, action = act(memory, now, jax.random.fold_in(keys, step))
            next, now = env.step(np.asarray(action))
            score, length, step = score + next.reward, length + 1, step + 1
            for b in np.flatnonzero(next.over & (played < each)):
                returns.append(score[b].copy())
                lengths.append(length[b])
                solved.append(not next.truncated[b])
            if next.over.any():
                played += next.over
                score[next.over], length[next.over] = 0, 0
                memory = forget(next.over, blank, memory)
    if not returns:
        raise MarletError(f"No episode of {factory.name} ended within {limit} steps.")
    return Evaluation(env.spec.names, np.stack(returns), np.array(lengths), np.array(solved))


def _check_fit(learned: Spec, played: Spec, name: str) -> None:
    for field in ("num_agents", "num_actions", "continuous", "obs_shape"):
        ours, theirs = getattr(learned, field), getattr(played, field)
        if ours != theirs:
            raise MarletError(
                f"This policy was trained with {field} {ours}, but {name} has {theirs}. "
                "Give that environment the options it was trained with, such as --env.agents."
            )
