"""COMA: one critic of the joint action tells each agent what its own choice has added."""

from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from marlet.algorithms.base import Algorithm, needs_choices, needs_one_team, needs_sequences
from marlet.equations.choices import chosen
from marlet.equations.distributions import choice_entropy, draw_choice, log_chances
from marlet.equations.returns import continues, lambda_returns
from marlet.equations.schedules import counted, linear
from marlet.options import changed, option
from marlet.parts.descent import as_single_steps, descend, mean_of, rested, standardised
from marlet.parts.nets import Team, soft_update, team_of, uses_of
from marlet.types import Key, Memory, Metrics, Rollout, Spec, Step


class Learned(eqx.Module):
    """All that training changes. The optimisers' states lead with the copies of their networks."""

    actor: Team
    critic: Team
    target: Team
    actor_optimiser: optax.OptState
    critic_optimiser: optax.OptState
    steps: Int[Array, ""]
    """Environment steps so far: schedules depend on it."""


class Verdicts(eqx.Module):
    """What the critic learns from: what it sees of each agent's part in a joint action, and what that was worth."""

    seen: Float[Array, "1 K n c"]
    action: Int[Array, "1 K n"]
    target: Float[Array, "1 K n"]
    counts: Bool[Array, "1 K n"]


class Lessons(eqx.Module):
    """What the actors learn from: a whole rollout."""

    obs: Float[Array, "T B n d"]
    available: Bool[Array, "T B n a"]
    action: Int[Array, "T B n"]
    advantage: Float[Array, "T B n"]
    acts: Bool[Array, "T B n"]
    first: Bool[Array, "T B"]
    memory: Float[Array, "1 B n m"]


@dataclass(frozen=True)
class CounterfactualActors(Algorithm):
    """Actors that follow counterfactual advantages: what the joint action was worth, less what it would have been worth
    on average had this agent alone drawn anew from its policy (Foerster et al. 2018, arXiv:1705.08926, equation 4).

    The critic sees the state, the agent's own observation, who it is and the others' actions, and names a value for each
    action of its own. Its targets are lambda-returns of the team's mean reward with a target network. The next joint
    action in them is the one taken; where an episode was cut off, or the rollout ends, it is drawn from the policies at
    the step reached. After the death of all nothing follows. Actors learn nothing of their dead; the critic, whose value is
    the team's, learns from every agent's view as long as one lives.
    """

    envs: int = option(16, "environments stepped side by side", low=1)
    length: int = option(25, "steps of each environment between two rounds of learning", low=1)
    sharing: str = option("shared", "which agents use one actor", choices=("shared", "own", "kinds"))
    hidden: tuple[int, ...] = option((64, 64), "units of each hidden layer of the actors", low=1)
    critic_hidden: tuple[int, ...] = option((128, 128), "units of each hidden layer of the critic", low=1)
    memory: int = option(0, "units of the actors' recurrent memory; 0 for none", low=0)
    cell: str = option("gru", "of that memory: a GRU, or a minimal one that is linear in it", choices=("gru", "linear"))
    sees_index: bool = option(True, "whether agents that share a network are told which one they are")
    discount: float = option(0.95, "worth of a reward one step later", low=0.0, high=1.0)
    decay: float = option(0.9, "lambda: how far beyond one step the critic's targets look", low=0.0, high=1.0)
    reward_scale: float = option(
        1.0, "factor on rewards before they are learned from; what is reported keeps its units"
    )
    standardise: bool = option(True, "bring advantages to mean 0 and spread 1 before learning from them")
    learning_rate: float = option(2e-3, "step size of Adam at the beginning, of the actors", low=0.0)
    learning_rate_end: float = option(2e-4, "step size of Adam at the end, of the actors", low=0.0)
    critic_rate: float = option(1.0, "step size of the critic, as a multiple of the actors'", low=0.0)
    learning_rate_steps: int = option(
        5_000_000, "environment steps over which it falls; 0: it is the end's at once", low=0
    )
    max_gradient: float = option(
        1.0, "longest gradient of a network; longer ones are shortened to it (clipping by norm); 0: no limit", low=0.0
    )
    epochs: int = option(2, "passes of the critic over a rollout", low=1)
    minibatches: int = option(4, "parts of a rollout, each of which makes one gradient step of the critic", low=1)
    target_rate: float = option(0.05, "how far the target critic moves towards the critic", low=0.0, high=1.0)
    entropy: float = option(0.02, "weight of the policy's entropy at the beginning", low=0.0)
    entropy_end: float = option(0.01, "weight of the policy's entropy at the end", low=0.0)
    entropy_steps: int = option(1_000_000, "environment steps over which that weight falls", low=0)

    def check(self, spec: Spec) -> None:
        needs_choices("COMA", spec)
        needs_one_team("COMA", spec, cure="Use ippo or mappo, whose agents keep their own aims.")
        needs_sequences("COMA", self.minibatches, self.envs, self.envs * self.length)

    def init(self, spec: Spec, *, key: Key) -> Learned:
        actor_key, critic_key = jax.random.split(key)
        uses = uses_of(self.sharing, spec)
        n, a, d = spec.num_agents, spec.num_actions, spec.obs_shape[0]
        actor = team_of(
            uses,
            d,
            self.hidden,
            self.memory,
            a,
            key=actor_key,
            cell=self.cell,
            sees_index=self.sees_index and len(set(uses)) < n,
            last_scale=0.01,
        )
        critic = team_of(
            (0,) * n, spec.state_size + d + n * a, self.critic_hidden, 0, a, key=critic_key, sees_index=True
        )
        return Learned(
            actor=actor,
            critic=critic,
            target=jax.tree.map(jnp.copy, critic),
            actor_optimiser=rested(actor, self.max_gradient),
            critic_optimiser=rested(critic, self.max_gradient),
            steps=jnp.zeros((), jnp.int32),
        )

    def blank(self, learned: Learned, batch: int) -> Memory:
        return learned.actor.blank(batch)

    def act(
        self, learned: Learned, memory: Memory, step: Step, *, key: Key, greedy: bool = False
    ) -> tuple[Memory, Int[Array, "B n"], tuple[()]]:
        memory, logits = learned.actor.step(memory, step.obs)
        log_chance = log_chances(logits, step.available)
        if greedy:
            return memory, jnp.argmax(log_chance, axis=-1).astype(jnp.int32), ()
        return memory, draw_choice(log_chance, key=key), ()

    def update(self, learned: Learned, rollout: Rollout, *, key: Key) -> tuple[Learned, Metrics]:
        draw_key, critic_key, actor_key = jax.random.split(key, 3)
        t = rollout.transitions
        done = counted(learned.steps, rollout.steps)
        learning_rate = linear(done, self.learning_rate, self.learning_rate_end, self.learning_rate_steps)
        memories, logits = learned.actor.unroll(rollout.memory, t.now.obs, t.first)

        seen = seen_by_critic(t.now, t.action)
        verdicts = Verdicts(
            seen=seen,
            action=t.action,
            target=self._targets(learned, rollout, memories, key=draw_key),
            counts=jnp.broadcast_to(t.now.alive.any(-1, keepdims=True), t.now.alive.shape),
        )
        (critic,), (critic_optimiser,), critic_metrics = descend(
            _critic_loss,
            (learned.critic,),
            (learned.critic_optimiser,),
            as_single_steps(verdicts),
            max_gradient=self.max_gradient,
            learning_rate=self.critic_rate * learning_rate,
            epochs=self.epochs,
            minibatches=self.minibatches,
            key=critic_key,
        )

        advantage = counterfactual(values_of(critic, seen), log_chances(logits, t.now.available), t.action)
        scaled = standardised(advantage, t.now.alive, learned.actor.uses) if self.standardise else advantage
        lessons = Lessons(
            obs=t.now.obs,
            available=t.now.available,
            action=t.action,
            advantage=scaled,
            acts=t.now.alive,
            first=t.first,
            memory=rollout.memory[None],
        )
        weight = linear(done, self.entropy, self.entropy_end, self.entropy_steps)
        (actor,), (actor_optimiser,), actor_metrics = descend(
            lambda actors, lessons, key: _actor_loss(weight, actors[0], lessons),
            (learned.actor,),
            (learned.actor_optimiser,),
            lessons,
            max_gradient=self.max_gradient,
            learning_rate=learning_rate,
            key=actor_key,
        )
        learned = Learned(
            actor=actor,
            critic=critic,
            target=soft_update(learned.target, critic, self.target_rate),
            actor_optimiser=actor_optimiser,
            critic_optimiser=critic_optimiser,
            steps=done,
        )
        return learned, critic_metrics | actor_metrics | {"error": mean_of(jnp.abs(advantage), t.now.alive)}

    def _targets(
        self, learned: Learned, rollout: Rollout, memories: Float[Array, "T B n m"], *, key: Key
    ) -> Float[Array, "T B n"]:
        """Lambda-returns of the joint action, as each agent's head of the target critic sees it."""
        t = rollout.transitions
        _, next_logits = learned.actor.step(memories, t.next.obs)
        drawn = draw_choice(log_chances(next_logits, t.next.available), key=key)
        follows = continues(t.first)[..., None]
        next_action = jnp.where(follows, jnp.concatenate([t.action[1:], drawn[-1:]]), drawn)
        next_values = chosen(values_of(learned.target, seen_by_critic(t.next, next_action)), next_action)
        lives = t.next.alive.any(-1, keepdims=True)
        reward = jnp.broadcast_to(t.next.reward.mean(-1, keepdims=True), t.next.reward.shape)
        return lambda_returns(
            self.reward_scale * reward,
            jnp.where(lives, next_values, 0.0),
            jnp.broadcast_to(follows & lives, reward.shape),
            self.discount,
            self.decay,
        )


def seen_by_critic(step: Step, action: Int[Array, "*batch n"]) -> Float[Array, "*batch n c"]:
    """The state, the agent's own observation, and the actions of the others that are alive, one-hot; zeros stand in
    place of its own."""
    *batch, n, a = step.available.shape
    taken = jax.nn.one_hot(action, a) * step.alive[..., None]
    others = jnp.where(jnp.eye(n, dtype=bool)[:, :, None], 0.0, taken[..., None, :, :])
    state = jnp.broadcast_to(step.state[..., None, :], (*batch, n, step.state.shape[-1]))
    return jnp.concatenate([state, step.obs, others.reshape(*batch, n, n * a)], axis=-1)


def values_of(critic: Team, seen: Float[Array, "T B n c"]) -> Float[Array, "T B n a"]:
    """A value for each action of each agent, the others' being what they were."""
    return critic.step(critic.blank(seen.shape[1]), seen)[1]


def counterfactual(
    values: Float[Array, "*batch n a"], log_chance: Float[Array, "*batch n a"], action: Int[Array, "*batch n"]
) -> Float[Array, "*batch n"]:
    """The value of the action taken, less the mean over what the policy might have chosen (equation 4)."""
    return chosen(values, action) - (jnp.exp(log_chance) * values).sum(-1)


def _critic_loss(critics: tuple[Team], verdicts: Verdicts, key: Key) -> tuple[Float[Array, ""], Metrics]:
    (critic,) = critics
    value = chosen(values_of(critic, verdicts.seen), verdicts.action)
    loss = mean_of((value - verdicts.target) ** 2, verdicts.counts)
    return loss, {"loss": loss, "value": mean_of(value, verdicts.counts)}


def _actor_loss(weight: Float[Array, ""], actor: Team, lessons: Lessons) -> tuple[Float[Array, ""], Metrics]:
    """Less the gain, whose gradient is the advantage times that of the log-probability, and the entropy bonus."""
    _, logits = actor.unroll(lessons.memory[0], lessons.obs, lessons.first)
    log_chance = log_chances(logits, lessons.available)
    entropy = mean_of(choice_entropy(log_chance), lessons.acts)
    gain = mean_of(chosen(log_chance, lessons.action) * lessons.advantage, lessons.acts)
    return -gain - weight * entropy, {"entropy": entropy}


def coma(**options) -> CounterfactualActors:
    """Counterfactual multi-agent policy gradients: credit by what would have been (Foerster et al. 2018, arXiv:1705.08926)."""
    return changed(CounterfactualActors(name="coma"), **options)
