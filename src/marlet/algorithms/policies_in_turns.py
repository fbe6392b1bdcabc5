"""Policy gradients whose agents learn one after the other, each told what those before it have changed."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import optax

from marlet.algorithms.base import needs_one_team
from marlet.algorithms.policy_gradient import Learned, Lessons, PolicyGradient, ratio_of
from marlet.errors import MarletError
from marlet.options import changed
from marlet.parts.descent import numbers_of
from marlet.parts.heads import head_for
from marlet.parts.nets import Team, alone
from marlet.types import Key, Metrics, Spec


@dataclass(frozen=True)
class PolicyGradientInTurns(PolicyGradient):
    """Policy gradients of a team in turns: first the critic learns, then one actor after the other in a random order.

    Whoever comes later has its advantages multiplied by how much likelier those before it have made what they did, so
    that each step improves the team whatever the others' steps were (Kuba et al. 2022, arXiv:2109.11251, theorem 1).
    Truncation bootstraps from the final step; death does not; agents that are dead are not trained on.
    """

    def check(self, spec: Spec) -> None:
        super().check(spec)
        needs_one_team(self.name, spec, cure="Use ippo or mappo, whose agents keep their own aims.")
        if self.sharing != "own":
            raise MarletError(
                f"{self.name} lets agents learn one after the other, but sharing is '{self.sharing}': agents that "
                "use one network can only learn together. Set sharing to 'own'."
            )
        if self.critic_sees == "hidden":
            raise MarletError(
                f"{self.name} lets its critic learn before its actors, but critic_sees is 'hidden': a critic that shares "
                "its actor's layers can only learn with it. Set critic_sees to 'obs', 'state' or 'both'."
            )

    def _improved(self, learned: Learned, lessons: Lessons, axis: str | None, *, key: Key) -> tuple[Learned, Metrics]:
        critic_key, actor_key = jax.random.split(key)
        (critic,), (critic_optimiser,), critic_metrics = self._descend(
            lambda critics, lessons, key: self._critic_loss(
                lessons.judged_by(critics[0]), lessons, numbers_of(lessons.counts, learned.spec, axis)
            ),
            learned,
            (learned.critic,),
            (learned.critic_optimiser,),
            lessons,
            axis,
            key=critic_key,
        )
        actor, actor_optimiser, metrics = self._in_turns(learned, lessons, axis, key=actor_key)
        learned = replace(
            learned,
            actor=actor,
            critic=critic,
            actor_optimiser=actor_optimiser,
            critic_optimiser=critic_optimiser,
        )
        return learned, metrics | critic_metrics

    def _in_turns(
        self, learned: Learned, lessons: Lessons, axis: str | None, *, key: Key
    ) -> tuple[Team, optax.OptState, Metrics]:
        """Actors learn one after the other in a random order, each with advantages multiplied by how much likelier
        those before it have made the joint action (Kuba et al. 2022, arXiv:2109.11251, equation 11)."""
        head = head_for(learned.spec, self.head)
        order_key, learn_key = jax.random.split(key)
        agents = jnp.arange(len(learned.actor.uses))

        def turn(carry, agent_and_key):
            actor, optimiser, factor = carry
            agent, key = agent_and_key
            own = lessons.of(agent)
            own = replace(own, advantage=own.advantage * factor[..., None])
            (after,), (optimiser_after,), metrics = self._descend(
                lambda actors, lessons, key: self._actor_loss(
                    learned, lessons.chosen_by(actors[0]), lessons, key, numbers_of(lessons.acts, learned.spec, axis)
                ),
                learned,
                (alone(actor, agent),),
                (jax.tree.map(lambda leaf: jax.lax.dynamic_index_in_dim(leaf, agent), optimiser),),
                own,
                axis,
                key=key,
            )
            put = lambda leaf, row: jax.lax.dynamic_update_index_in_dim(leaf, row, agent, axis=0)  # noqa: E731
            actor = replace(actor, copies=jax.tree.map(put, actor.copies, after.copies))
            optimiser = jax.tree.map(put, optimiser, optimiser_after)
            likelier = head.log_prob(own.chosen_by(after), own.available, own.action) - own.log_prob
            factor = factor * ratio_of(jnp.where(own.acts, likelier, 0.0)[..., 0])
            return (actor, optimiser, factor), metrics

        start = (learned.actor, learned.actor_optimiser, jnp.ones(lessons.first.shape))
        turns = (jax.random.permutation(order_key, agents), jax.random.split(learn_key, len(agents)))
        (actor, optimiser, _), metrics = jax.lax.scan(turn, start, turns)
        return actor, optimiser, jax.tree.map(jnp.mean, metrics)


def happo(**options) -> PolicyGradientInTurns:
    """PPO whose agents learn one after the other, with networks of their own (Kuba et al. 2022, arXiv:2109.11251)."""
    return changed(PolicyGradientInTurns(name="happo", critic_sees="both", team_reward=True, sharing="own"), **options)
