"""Policy gradients whose agents learn at once: REINFORCE, advantage actor-critics and the PPO family, as one family."""

from dataclasses import dataclass, replace
from functools import partial

from jaxtyping import Array, Float

from marlet.algorithms.policy_gradient import Learned, Lessons, PolicyGradient
from marlet.options import changed
from marlet.parts.descent import numbers_of
from marlet.parts.nets import Team, two_headed
from marlet.types import Key, Metrics


@dataclass(frozen=True)
class PolicyGradientTogether(PolicyGradient):
    """Actors that follow the gradient of advantages, and critics that say what advantages are.

    The advantage is the lambda-return less the critic's value (Schulman et al. 2016, arXiv:1506.02438), the gain is
    clipped where several passes are made over one rollout (Schulman et al. 2017, arXiv:1707.06347). With one pass of
    one minibatch the ratio of the clipped gain is 1 and its gradient is the plain policy gradient: REINFORCE with a
    baseline (decay 1), or the advantage actor-critic. Truncation bootstraps from the final step; death does not; agents
    that are dead are not trained on.
    """

    def _improved(self, learned: Learned, lessons: Lessons, axis: str | None, *, key: Key) -> tuple[Learned, Metrics]:
        (actor, critic), (actor_optimiser, critic_optimiser), metrics = self._descend(
            partial(self._both_losses, learned, axis=axis),
            learned,
            (learned.actor, learned.critic),
            (learned.actor_optimiser, learned.critic_optimiser),
            lessons,
            axis,
            key=key,
        )
        learned = replace(
            learned,
            actor=actor,
            critic=critic,
            actor_optimiser=actor_optimiser,
            critic_optimiser=critic_optimiser,
        )
        return learned, metrics

    def _both_losses(
        self, learned: Learned, teams: tuple[Team, Team], lessons: Lessons, key: Key, axis: str | None = None
    ) -> tuple[Float[Array, ""], Metrics]:
        """Of actors and critics, whose gradients meet only in what they share."""
        actor, critic = teams
        if self.critic_sees == "hidden":
            both = lessons.chosen_by(two_headed(actor, critic))
            outputs, value = both[..., :-1], both[..., -1]
        else:
            outputs, value = lessons.chosen_by(actor), lessons.judged_by(critic)
        acting, judged = numbers_of((lessons.acts, lessons.counts), learned.spec, axis)
        actor_loss, actor_metrics = self._actor_loss(learned, outputs, lessons, key, acting)
        critic_loss, critic_metrics = self._critic_loss(value, lessons, judged)
        return actor_loss + critic_loss, actor_metrics | critic_metrics


ONE_PASS = {"epochs": 1, "minibatches": 1, "learning_rate": 3e-3, "learning_rate_end": 3e-4}


def mapg(**options) -> PolicyGradientTogether:
    """Multi-agent policy gradient: REINFORCE with reward-to-go and a baseline (Williams 1992, REINFORCE)."""
    return changed(
        PolicyGradientTogether(name="mapg", decay=1.0, discount=0.9, envs=64, length=10, **ONE_PASS), **options
    )


def ia2c(**options) -> PolicyGradientTogether:
    """Independent advantage actor-critic: actor and critic see one agent's observation (Mnih et al. 2016, arXiv:1602.01783)."""
    return changed(PolicyGradientTogether(name="ia2c", envs=16, length=5, **ONE_PASS), **options)


def maa2c(**options) -> PolicyGradientTogether:
    """Advantage actor-critic with a critic of the state (Papoudakis et al. 2021, arXiv:2006.07869)."""
    return changed(PolicyGradientTogether(name="maa2c", critic_sees="state", envs=16, length=5, **ONE_PASS), **options)


def ippo(**options) -> PolicyGradientTogether:
    """Independent PPO: clipped policy gradients, critics of own observations (de Witt et al. 2020, arXiv:2011.09533)."""
    return changed(PolicyGradientTogether(name="ippo"), **options)


def mappo(**options) -> PolicyGradientTogether:
    """Multi-agent PPO: the critic sees the state and the agent's observation (Yu et al. 2022, arXiv:2103.01955)."""
    return changed(PolicyGradientTogether(name="mappo", critic_sees="both"), **options)
