"""How good a policy is: whole episodes, the mean return of each agent, and how sure that is."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from marlet.algorithms.sides import Sides
from marlet.bridges.resolve import Factory
from marlet.engine.host import HostEnv
from marlet.engine.host_train import EVALUATION_COPIES, greedy, judged
from marlet.engine.train import judged_alone
from marlet.envs.base import Env
from marlet.errors import EnvironmentFault, MarletError
from marlet.runs.policy import Policy
from marlet.types import Spec

FRESH = 2**31
"""The seed of fresh episodes. It is no learner's: no run has trained on them, nor chosen its best learner by them."""


@dataclass(frozen=True)
class Evaluation:
    """Scores of whole episodes."""

    names: tuple[str, ...]
    returns: Float[np.ndarray, "episodes n"]
    """Reward summed over the episode, of each agent."""
    lengths: Int[np.ndarray, " episodes"]
    solved: Bool[np.ndarray, " episodes"]
    """Whether the world ended it, rather than the clock."""
    teams: tuple[int, ...] = ()
    """The team of each agent; all are of one, when left out."""
    seed: int = 0
    """Of the learner that played."""

    def rows(self) -> list[dict[str, Any]]:
        """A row for each agent and one for their mean: return and its 95 % interval (Student's t over episodes). Where there
        are several teams, one for the mean of each that has several agents, and none across teams."""
        columns = list(zip(self.names, self.returns.T, strict=True))
        teams = np.array(self.teams or (0,) * len(self.names))
        several = len(set(self.teams)) > 1
        for team in sorted(set(teams)):
            if not several or np.sum(teams == team) > 1:
                columns.append((f"mean of team {team}" if several else "mean", self.returns[:, teams == team].mean(-1)))
        rows = []
        for name, scores in columns:
            mean, half = float(scores.mean()), half_width(scores)
            rows.append({"agent": name, "return": mean, "low": mean - half, "high": mean + half})
        return rows


def half_width(scores: Float[np.ndarray, " episodes"], level: float = 0.95) -> float:
    """Half of the interval of a mean; not a number where there is one score only."""
    from scipy.stats import t

    if scores.size < 2:
        return float("nan")
    return float(t.ppf(0.5 + level / 2, scores.size - 1) * scores.std(ddof=1) / np.sqrt(scores.size))


def evaluate(policy: Policy, env: Env | Factory, *, episodes: int = 512, again: bool = False) -> Evaluation:
    """Play whole greedy episodes of a policy in an environment, be it another than it was trained in.

    The episodes are fresh ones; with `again` they are those by which the run itself judged its learner, if as many are
    asked for: one seed trained alone then gets its last number again.

    Raises:
        MarletError: if the environment's agents do not see or do what the policy was trained for.
        EnvironmentFault: if the environment breaks its contract.
    """
    seed = policy.seed if again else FRESH
    algorithm, learned = policy.algorithm, policy.learned
    if isinstance(env, Factory):
        with HostEnv(env, min(EVALUATION_COPIES, episodes)) as host:
            _check_fit(policy, host.spec, env.name)
            scores, spec = judged(greedy(algorithm), algorithm, learned, host, episodes, seed=seed), host.spec
    else:
        _check_fit(policy, env.spec, type(env).__name__)
        spec = env.spec
        scores = judged_alone(env, algorithm, learned, episodes, seed=seed)
        if not np.isfinite(scores.score).all():
            raise EnvironmentFault(
                f"{type(env).__name__} gave an observation or a reward that is not finite. Run `marlet check-env` on it."
            )
    told = (np.asarray(leaf) for leaf in (scores.score, scores.length, scores.solved))
    return Evaluation(spec.names, *told, teams=spec.teams, seed=policy.seed)


def _check_fit(policy: Policy, played: Spec, name: str) -> None:
    """Refuse agents that see, do or are other than those that learned; what a policy never looks at may differ."""
    fields = ["num_agents", "num_actions", "continuous", "obs_shape", "kinds"]
    if _counts_levels(policy):
        fields.append("levels")
    if isinstance(policy.algorithm, Sides):
        fields.append("teams")
    for field in fields:
        ours, theirs = getattr(policy.spec, field), getattr(played, field)
        if ours != theirs:
            raise MarletError(
                f"This policy was trained with {field} {ours}, but {name} has {theirs}. "
                "Name the environment it was trained in, or one that is alike, with the options it was trained with (--env.NAME)."
            )


def _counts_levels(policy: Policy) -> bool:
    """Whether it indexes tables by the levels of what is observed: it then refuses a world that names none."""
    try:
        policy.algorithm.check(replace(policy.spec, levels=()))
    except MarletError:
        return True
    return False
